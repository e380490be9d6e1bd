//! Who waits for whom: tasks, what each is blocked on, and who can end that.
//!
//! Made from live state alone, so it is a picture of one moment. That the same wait stood in the picture before is
//! somebody else's to say: every edge has the numbers of its wait and its hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use probe_ebpf::abi::{LockKind, Mode, NO_INSTANCE};

use super::scc;
use crate::frame;
use crate::model::query;

/// How a task keeps another one waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// It holds the lock, in a mode that excludes the waiter's.
    Holding,
    /// It executes the work item that the waiter flushes.
    Executing,
    /// It waits itself, as a writer and for longer: an rwsem lets no reader pass it.
    QueuedBefore,
}

/// A task that keeps another one waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocker {
    /// Its place in [`Waits::tasks`].
    pub task: usize,
    /// How.
    pub by: By,
    /// Place of the holding in the task's holds; of its innermost wait where it is queued.
    pub record: usize,
}

/// What a task is blocked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Those who keep it waiting; empty where nobody is known to.
    pub by: Vec<Blocker>,
    /// One of them is enough to let it go on (an open-coded lock: whoever clears the flag). Otherwise all must.
    pub any_frees: bool,
}

/// The graph of one moment.
#[derive(Debug, Clone)]
pub struct Waits<'a> {
    /// Tasks as the model has them.
    pub tasks: &'a [frame::TaskState],
    /// For each task, what it is blocked on; `None` if it does not wait.
    pub blocked: Vec<Option<Blocked>>,
    /// For each task, whether it waits and everything that could free it is stuck itself: in a cycle, or behind one, or
    /// behind a task that has ended.
    pub stuck: Vec<bool>,
    by_tid: HashMap<u32, usize>,
}

/// A set of tasks that wait for each other, directly or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knot {
    /// All its tasks, by place.
    pub members: Vec<usize>,
    /// The shortest cycle in it, each waiting for the next and the last for the first, from the smallest thread id on.
    pub cycle: Vec<usize>,
}

/// The wait that a task is blocked in: its innermost.
pub fn innermost(task: &frame::TaskState) -> Option<&frame::Waiting> {
    task.waits.last()
}

const fn class_of(series: u32) -> u32 {
    series >> 1
}

fn mode_of(series: u32) -> Mode {
    query::mode(series as u8)
}

fn kind_of(series: u32) -> LockKind {
    query::kind(series as u8)
}

/// Two modes of one lock exclude each other.
fn excludes(one: Mode, other: Mode) -> bool {
    one != Mode::Read || other != Mode::Read
}

/// Identity of a lock: its class, and its address (both modes of an rwsem are one lock) or, where that is not known, its
/// instance.
type Lock = (u32, u64, u32);

/// `None` where neither is known: two such records may be of two locks.
fn lock_of(series: u32, address: u64, instance: u32) -> Option<Lock> {
    match (address, instance) {
        (0, NO_INSTANCE) => None,
        (0, instance) => Some((class_of(series), 0, instance)),
        (address, _) => Some((class_of(series), address, 0)),
    }
}

impl<'a> Waits<'a> {
    /// Of live state. Cost is linear in tasks, holds and edges; a reader queued behind writers has one edge, to the
    /// writer that waits longest.
    pub fn of(tasks: &'a [frame::TaskState]) -> Self {
        let mut by_tid = HashMap::with_capacity(tasks.len());
        let mut holders: HashMap<Lock, Vec<(usize, usize)>> = HashMap::new();
        let mut writers: HashMap<Lock, (u64, usize)> = HashMap::new();
        for (place, task) in tasks.iter().enumerate() {
            by_tid.entry(task.tid).or_insert(place);
            for (record, hold) in task.holds.iter().enumerate() {
                if let Some(lock) = lock_of(hold.series, hold.lock, hold.instance) {
                    holders.entry(lock).or_default().push((place, record));
                }
            }
            if let Some(wait) = innermost(task)
                && mode_of(wait.series) == Mode::Write
                && let Some(lock) = lock_of(wait.series, wait.lock, wait.instance)
            {
                let first = writers.entry(lock).or_insert((wait.since_ns, place));
                *first = (*first).min((wait.since_ns, place));
            }
        }
        let blocked: Vec<Option<Blocked>> = tasks
            .iter()
            .enumerate()
            .map(|(place, task)| {
                let wait = innermost(task)?;
                let lock = lock_of(wait.series, wait.lock, wait.instance);
                Some(blockers(
                    tasks,
                    place,
                    wait,
                    lock.and_then(|lock| holders.get(&lock)),
                    lock.and_then(|lock| writers.get(&lock)),
                ))
            })
            .collect();
        let stuck = stuck(tasks, &blocked);
        Self {
            tasks,
            blocked,
            stuck,
            by_tid,
        }
    }

    /// Place of the task with this thread id.
    pub fn place(&self, tid: u32) -> Option<usize> {
        self.by_tid.get(&tid).copied()
    }

    /// Those who keep a task waiting; none if it does not wait.
    pub fn blockers(&self, task: usize) -> &[Blocker] {
        self.blocked
            .get(task)
            .and_then(Option::as_ref)
            .map_or(&[], |blocked| &blocked.by)
    }

    /// Sets of tasks that wait for each other and that nobody else can free; none without a cycle.
    pub fn knots(&self) -> Vec<Knot> {
        // Nodes in the order of thread ids, so that nothing depends on the order of records.
        let mut order: Vec<usize> = (0..self.tasks.len()).filter(|&t| self.stuck[t]).collect();
        order.sort_by_key(|&task| (self.tasks[task].tid, task));
        let node_of: BTreeMap<usize, usize> =
            order.iter().enumerate().map(|(n, &t)| (t, n)).collect();
        let successors: Vec<Vec<usize>> = order
            .iter()
            .map(|&task| {
                let next: BTreeSet<usize> = self
                    .blockers(task)
                    .iter()
                    .filter_map(|blocker| node_of.get(&blocker.task).copied())
                    .collect();
                next.into_iter().collect()
            })
            .collect();
        scc::components(&successors)
            .into_iter()
            .filter_map(|component| {
                let cycle = scc::shortest_cycle(&successors, &component)?;
                Some(Knot {
                    members: component.iter().map(|&node| order[node]).collect(),
                    cycle: cycle.iter().map(|&node| order[node]).collect(),
                })
            })
            .collect()
    }

    /// Tasks that wait, directly or not, for one of these; without them. By how long they have waited, longest first.
    pub fn behind(&self, roots: &[usize]) -> Vec<usize> {
        let mut reverse: HashMap<usize, Vec<usize>> = HashMap::new();
        for (task, blocked) in self.blocked.iter().enumerate() {
            for blocker in blocked.iter().flat_map(|b| &b.by) {
                reverse.entry(blocker.task).or_default().push(task);
            }
        }
        let mut seen: BTreeSet<usize> = roots.iter().copied().collect();
        let mut found = Vec::new();
        let mut queue: Vec<usize> = roots.to_vec();
        while let Some(task) = queue.pop() {
            for &waiter in reverse.get(&task).map_or(&[][..], Vec::as_slice) {
                if seen.insert(waiter) {
                    found.push(waiter);
                    queue.push(waiter);
                }
            }
        }
        found.sort_by_key(|&task| {
            let since = innermost(&self.tasks[task]).map_or(u64::MAX, |wait| wait.since_ns);
            (since, self.tasks[task].tid)
        });
        found
    }
}

fn blockers(
    tasks: &[frame::TaskState],
    waiter: usize,
    wait: &frame::Waiting,
    holders: Option<&Vec<(usize, usize)>>,
    first_writer: Option<&(u64, usize)>,
) -> Blocked {
    let mode = mode_of(wait.series);
    let kind = kind_of(wait.series);
    let by = if kind == LockKind::Work {
        By::Executing
    } else {
        By::Holding
    };
    let mut found: Vec<Blocker> = holders
        .into_iter()
        .flatten()
        .filter(|&&(task, record)| {
            let hold = &tasks[task].holds[record];
            excludes(mode, mode_of(hold.series))
        })
        .map(|&(task, record)| Blocker { task, by, record })
        .collect();
    // Whoever waits for a flag that it has set itself waits for the others who have set it; if there are none, for itself.
    if kind == LockKind::Flag && found.iter().any(|blocker| blocker.task != waiter) {
        found.retain(|blocker| blocker.task != waiter);
    }
    if mode == Mode::Read
        && let Some(&(since, task)) = first_writer
        && task != waiter
        && (since, task) < (wait.since_ns, waiter)
    {
        found.push(Blocker {
            task,
            by: By::QueuedBefore,
            record: tasks[task].waits.len().saturating_sub(1),
        });
    }
    // The longest holding first: it is the one to name.
    found.sort_by_key(|blocker| {
        let task = &tasks[blocker.task];
        let since = match blocker.by {
            By::QueuedBefore => u64::MAX,
            By::Holding | By::Executing => task.holds[blocker.record].since_ns,
        };
        (since, task.tid)
    });
    Blocked {
        by: found,
        any_frees: kind == LockKind::Flag,
    }
}

/// The largest set of waiting tasks each of which only stuck tasks, or tasks that have ended, could free.
fn stuck(tasks: &[frame::TaskState], blocked: &[Option<Blocked>]) -> Vec<bool> {
    let mut stuck: Vec<bool> = blocked
        .iter()
        .map(|b| b.as_ref().is_some_and(|b| !b.by.is_empty()))
        .collect();
    // How many of a task's blockers are not stuck, and who is blocked by whom, so that each edge is looked at once.
    let mut free: Vec<usize> = vec![0; tasks.len()];
    let mut reverse: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let never = |task: usize| tasks[task].exited;
    for (task, b) in blocked.iter().enumerate() {
        for blocker in b.iter().flat_map(|b| &b.by) {
            reverse[blocker.task].push(task);
            if !stuck[blocker.task] && !never(blocker.task) {
                free[task] += 1;
            }
        }
    }
    let released = |task: usize, free: &[usize]| {
        blocked[task].as_ref().is_none_or(|b| {
            if b.any_frees {
                free[task] > 0
            } else {
                free[task] == b.by.len()
            }
        })
    };
    let mut queue: Vec<usize> = (0..tasks.len())
        .filter(|&task| stuck[task] && released(task, &free))
        .collect();
    for &task in &queue {
        stuck[task] = false;
    }
    while let Some(task) = queue.pop() {
        if never(task) {
            continue;
        }
        for &waiter in &reverse[task] {
            free[waiter] += 1;
            if stuck[waiter] && released(waiter, &free) {
                stuck[waiter] = false;
                queue.push(waiter);
            }
        }
    }
    stuck
}
