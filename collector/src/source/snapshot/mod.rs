//! What the kernel's own memory says of locks, without a probe: who waits in their queues, which work items are executed,
//! and what the stacks of tasks that sleep imply.
//!
//! A guest that hangs has taken its locks before anybody looked. [`Snapshot::look`] takes live state as probes have made it
//! (none, where nothing is attached) with the owners that lock words name, and adds to it, with `lock word` and `stack` for
//! evidence. `queues.rs` has waiters, `works.rs` work items, `stacks.rs` stacks, `evidence.rs` puts the latter on record;
//! `lists.rs` walks what may change meanwhile. Takes no lock, opens nothing whose read takes one of the driver's, and judges
//! nothing.

pub mod emulated;
mod evidence;
#[cfg(test)]
pub mod fake;
pub mod lists;
mod queues;
pub mod stacks;
mod works;

use std::collections::{HashMap, HashSet};

use probe_ebpf::abi::{Adopted, LockKind, Mode, series};
use probe_ebpf::names::class_id;

use super::kernel::verify::{Places, Watched};
use super::kernel::words::Memory;
use crate::attach::generation::Generations;
use crate::attach::offsets::{Field, Offsets};
use crate::frame;
use queues::{Queue, Shapes};
use stacks::Stacks;

/// Queues that are read in a tick, besides those that had waiters in the last; the others take turns.
const A_TICK: usize = 512;
/// Time between two searches for workers, in nanoseconds.
const LOOK_FOR_WORKERS_NS: u64 = 1_000_000_000;
/// Processes of guests whose threads are looked at.
const MOST_PROCESSES: usize = 256;

/// Adds to live state what no probe has seen.
pub struct Snapshot {
    shapes: Shapes,
    works: Option<works::Shapes>,
    stacks: Option<Stacks>,
    polls: Option<Polls>,
    next: usize,
    queues: HashMap<u64, Queue>,
    /// When workers were looked for last, and those that were found.
    looked_ns: u64,
    polling: Vec<works::Polling>,
    /// By thread id: after how many switches a stack was seen, and whether it was given.
    given: HashMap<u32, (u64, bool)>,
}

/// What is needed to find the workers that wait for a queue's reset.
#[derive(Debug, Clone, Copy)]
pub struct Polls {
    /// Address of the first process's `task_struct`.
    pub init_task: u64,
    /// Address of the function `apq_reset_check`.
    pub function: u64,
    /// Address of the function of the barriers that a flush waits behind.
    pub barrier: Option<u64>,
    /// Offset of the work item in a queue.
    pub work: u32,
}

/// What a look has found besides live state.
#[derive(Debug, Default)]
pub struct Found {
    /// Work items that have no instance yet.
    pub works: Vec<Adopted>,
    /// Stacks that were not given before.
    pub stacks: Vec<frame::Stack>,
    /// Something to say.
    pub note: Option<String>,
}

/// What a look needs to know of the run.
pub struct Scene<'a, M> {
    /// The kernel's memory.
    pub memory: &'a M,
    /// Where members of a task are.
    pub places: &'a Places,
    /// Locks that are known.
    pub watched: &'a [Watched],
    /// Generations that the driver may be of.
    pub generations: Generations,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub now_ns: u64,
    /// All locks are looked at, and not those alone whose turn it is.
    pub all: bool,
}

impl Snapshot {
    /// Of a kernel. `symbol`: addresses of variables and functions, by module and name. Stacks are read where `/proc` has the
    /// ids that memory has.
    pub fn new(
        offsets: &Offsets,
        symbol: impl Fn(Option<&str>, &str) -> Option<u64>,
        stacks: bool,
    ) -> Self {
        let polls = || {
            Some(Polls {
                init_task: symbol(None, "init_task")?,
                function: symbol(Some("vfio_ap"), "apq_reset_check")?,
                barrier: symbol(None, "wq_barrier_func"),
                work: offsets.get(Field::QueueResetWork)?,
            })
        };
        Self {
            shapes: Shapes::new(offsets),
            works: works::Shapes::new(offsets),
            stacks: stacks.then(Stacks::start).flatten(),
            polls: polls(),
            next: 0,
            queues: HashMap::new(),
            looked_ns: 0,
            polling: Vec::new(),
            given: HashMap::new(),
        }
    }

    /// Queues of mutexes and rwsems can be read: a task that waits for one is seen, also where nothing is attached.
    pub const fn sees_waits(&self) -> bool {
        self.shapes.knows(LockKind::Mutex) && self.shapes.knows(LockKind::Rwsem)
    }

    /// Whether the last look has had an answer of who reads stacks, if anybody does.
    pub fn has_stacks(&self) -> bool {
        self.stacks.as_ref().is_none_or(Stacks::is_fresh)
    }

    /// Locks that somebody waits for, as of the last look.
    pub fn waited_for(&self) -> HashSet<u64> {
        let queues = self.queues.iter();
        queues
            .filter(|(_, queue)| !queue.waiters.is_empty())
            .map(|(address, _)| *address)
            .collect()
    }

    /// Adds to live state.
    pub fn look(&mut self, scene: &Scene<'_, impl Memory>, live: &mut frame::Live) -> Found {
        self.read_queues(scene, live);
        for lock in scene.watched {
            let Some(queue) = self.queues.get(&lock.address) else {
                continue;
            };
            for waiter in &queue.waiters {
                show_waiter(scene, lock, waiter.task, waiter.mode, live);
            }
            if let Some(first) = queue.waiters.first() {
                held_since(scene, lock, first.task, live);
            }
            if queue.whole {
                owners_wait_no_more(lock, live);
            }
        }
        let mut found = Found::default();
        self.read_works(scene, live, &mut found);
        self.read_stacks(scene, live, &mut found);
        live.unseen_readers = unseen_readers(scene.watched, &self.queues, live);
        live.clear_flags = clear_flags(scene.watched, &self.queues);
        found
    }

    fn read_queues(&mut self, scene: &Scene<'_, impl Memory>, live: &frame::Live) {
        let waits = live.tasks.iter().flat_map(|task| &task.waits);
        let awaited: HashSet<u64> = waits.map(|wait| wait.lock).collect();
        let count = scene.watched.len();
        let turn: HashSet<u64> = (0..count.min(A_TICK))
            .map(|n| scene.watched[(self.next + n) % count].address)
            .collect();
        if count != 0 {
            self.next = (self.next + A_TICK.min(count)) % count;
        }
        let mut queues = HashMap::with_capacity(self.queues.len());
        for lock in scene.watched {
            let before = self.queues.remove(&lock.address);
            let busy = lock.kind == LockKind::Flag
                || awaited.contains(&lock.address)
                || before
                    .as_ref()
                    .is_some_and(|queue| !queue.waiters.is_empty());
            let queue = if busy || scene.all || turn.contains(&lock.address) {
                let mut queue = self.shapes.read(scene.memory, lock.kind, lock.address);
                // Of a queue that was changed meanwhile, those count that were in it before.
                if let Some(queue) = queue.as_mut().filter(|queue| !queue.whole) {
                    let before = before.map_or_else(Vec::new, |before| before.waiters);
                    queue.waiters.retain(|waiter| before.contains(waiter));
                }
                queue
            } else {
                before
            };
            queues.extend(queue.map(|queue| (lock.address, queue)));
        }
        self.queues = queues;
    }

    /// Workers that poll a queue, and those who wait for them: looked for once a second, and each time while there are any.
    fn read_works(
        &mut self,
        scene: &Scene<'_, impl Memory>,
        live: &mut frame::Live,
        found: &mut Found,
    ) {
        let (Some(works), Some(polls)) = (&self.works, self.polls) else {
            return;
        };
        let search = scene.now_ns.saturating_sub(self.looked_ns) >= LOOK_FOR_WORKERS_NS;
        let executing = if search {
            self.looked_ns = scene.now_ns;
            works.executing(scene.memory, &polls)
        } else {
            works.again(scene.memory, &self.polling, &polls)
        };
        self.polling = executing
            .iter()
            .map(|one| {
                let known = self.polling.iter().find(|known| known.is(one));
                let since_ns = known.map_or(scene.now_ns, |known| known.since_ns);
                one.polling(since_ns)
            })
            .collect();
        for (one, polling) in executing.iter().zip(&self.polling) {
            let since_ns = polling.since_ns;
            found
                .works
                .extend(show_work(scene, polls.work, one, since_ns, live));
        }
    }

    /// Stacks of those who have no probe's record, and of those who sleep in guests' processes or anywhere.
    fn read_stacks(
        &mut self,
        scene: &Scene<'_, impl Memory>,
        live: &mut frame::Live,
        found: &mut Found,
    ) {
        let Some(stacks) = &mut self.stacks else {
            return;
        };
        let wanted = live
            .tasks
            .iter()
            .filter(|task| !evidence::is_probed(task))
            .map(|task| (task.tid, task.pid));
        let mut processes: Vec<u32> = scene.watched.iter().map(|lock| lock.tgid).collect();
        processes.sort_unstable();
        processes.dedup();
        processes.retain(|&pid| pid != 0);
        processes.truncate(MOST_PROCESSES);
        let (slept, note) = stacks.look(wanted.collect(), processes);
        found.note = note;
        let mut tids: Vec<u32> = slept.keys().copied().collect();
        tids.sort_unstable();
        for tid in tids {
            let slept = &slept[&tid];
            let known = evidence::add(scene, &self.shapes, &self.queues, slept, live);
            // Given once, in the second look that finds it as it was.
            let before = self.given.get(&tid).copied();
            let given = match before {
                Some((switches, given)) if switches == slept.switches => {
                    if known && !given {
                        found.stacks.extend(evidence::stack(slept, live));
                    }
                    given || known
                }
                _ => false,
            };
            self.given.insert(tid, (slept.switches, given));
        }
        self.given.retain(|tid, _| slept.contains_key(tid));
    }
}

/// A work item that is executed, and those who wait for it. Returns it if it has no instance yet.
fn show_work(
    scene: &Scene<'_, impl Memory>,
    offset: u32,
    executing: &works::Executing,
    since_ns: u64,
    live: &mut frame::Live,
) -> Option<Adopted> {
    let Some(lock) = scene
        .watched
        .iter()
        .find(|lock| lock.class == class_id::RESET_WORK && lock.address == executing.work)
    else {
        return Some(Adopted {
            address: executing.work,
            class: class_id::RESET_WORK,
            kind: LockKind::Work as u8,
            object: executing.work.wrapping_sub(u64::from(offset)),
            number: 0,
            wait_queue: 0,
        });
    };
    for &flusher in &executing.flushers {
        show_waiter(scene, lock, flusher, Mode::Exclusive, live);
    }
    show_worker(scene, lock, executing.task, since_ns, live);
    None
}

/// Who executes a work item.
fn show_worker(
    scene: &Scene<'_, impl Memory>,
    lock: &Watched,
    worker: u64,
    seen_ns: u64,
    live: &mut frame::Live,
) {
    // It has lasted at least as long as somebody has waited for its end.
    let mut since_ns = seen_ns;
    for waits in live.tasks.iter().map(|task| &task.waits) {
        let of_work = waits.iter().filter(|wait| wait.lock == lock.address);
        since_ns = of_work.map(|wait| wait.since_ns).fold(since_ns, u64::min);
    }
    let Some(tid) = scene.places.tid(scene.memory, worker) else {
        return;
    };
    // Whoever else was at it when the records were read has come to its end.
    let others = live.tasks.iter_mut().filter(|task| task.tid != tid);
    others.for_each(|task| task.holds.retain(|hold| hold.lock != lock.address));
    let task = scene.places.record(scene.memory, worker, tid, live);
    match task.holds.iter_mut().find(|hold| hold.lock == lock.address) {
        Some(hold) => evidence::name(&mut hold.evidence, "lock word"),
        None => task.holds.push(lock.holding(
            Mode::Exclusive,
            since_ns,
            // The same worker at the same work item.
            lock.address ^ worker,
            "lock word",
        )),
    }
}

/// The record of a task, made if there is none.
fn task_mut<'l>(
    scene: &Scene<'_, impl Memory>,
    task: u64,
    live: &'l mut frame::Live,
) -> Option<&'l mut frame::TaskState> {
    let tid = scene.places.tid(scene.memory, task)?;
    Some(scene.places.record(scene.memory, task, tid, live))
}

/// Puts a wait on record, unless it is there.
fn show_waiter(
    scene: &Scene<'_, impl Memory>,
    lock: &Watched,
    task: u64,
    mode: Mode,
    live: &mut frame::Live,
) {
    let since_ns = scene.places.blocked_since(scene.memory, task, scene.now_ns);
    let Some(state) = task_mut(scene, task, live) else {
        return;
    };
    if let Some(wait) = state
        .waits
        .iter_mut()
        .find(|wait| wait.lock == lock.address)
    {
        evidence::name(&mut wait.evidence, "lock word");
        return;
    }
    // A task that goes on waiting for the same lock has not run meanwhile.
    let last_run = scene.places.last_run(scene.memory, task);
    let serial = lock.address ^ last_run.unwrap_or(since_ns);
    let wait = lock.waiting(mode, since_ns, serial, "lock word");
    state.waits.push(wait);
}

/// An owner that is known from the lock's word has held it for as long as the first in the queue has not run: a release
/// wakes that one (`__mutex_unlock_slowpath`, `rwsem_mark_wake`, kernel/locking, v5.10 to v7.2).
fn held_since(scene: &Scene<'_, impl Memory>, lock: &Watched, first: u64, live: &mut frame::Live) {
    let since_ns = scene
        .places
        .blocked_since(scene.memory, first, scene.now_ns);
    let key = scene.places.last_run(scene.memory, first);
    let holds = live.tasks.iter_mut().flat_map(|task| &mut task.holds);
    for hold in holds.filter(|hold| hold.lock == lock.address && hold.evidence == "lock word") {
        if since_ns < hold.since_ns {
            hold.since_ns = since_ns;
            hold.serial = lock.address ^ key.unwrap_or(since_ns);
        }
    }
}

/// A task that was on record as waiting for a lock, owns it by the lock's word, and is not in its queue any more, has waited.
fn owners_wait_no_more(lock: &Watched, live: &mut frame::Live) {
    for task in &mut live.tasks {
        let mut holds = task.holds.iter();
        if holds.any(|hold| hold.lock == lock.address && hold.evidence == "lock word") {
            task.waits
                .retain(|wait| wait.lock != lock.address || wait.evidence != "probe");
        }
    }
}

/// Rwsems that more readers hold than are on record.
fn unseen_readers(
    watched: &[Watched],
    queues: &HashMap<u64, Queue>,
    live: &frame::Live,
) -> Vec<frame::UnseenReaders> {
    let rwsems = watched.iter().filter(|lock| lock.kind == LockKind::Rwsem);
    rwsems
        .filter_map(|lock| {
            let readers = queues.get(&lock.address)?.readers;
            let holds = live.tasks.iter().flat_map(|task| &task.holds);
            let read = u32::from(series(lock.class, Mode::Read));
            let seen = holds.filter(|hold| hold.lock == lock.address && hold.series == read);
            let unseen = readers.saturating_sub(seen.count() as u64);
            (unseen != 0).then_some(frame::UnseenReaders {
                instance: lock.slot + 1,
                lock: lock.address,
                readers: unseen,
            })
        })
        .collect()
}

/// Open-coded locks that nobody has set. With a waiter, that is a wait nobody ends.
fn clear_flags(watched: &[Watched], queues: &HashMap<u64, Queue>) -> Vec<u32> {
    let flags = watched.iter().filter(|lock| lock.kind == LockKind::Flag);
    flags
        .filter(|lock| queues.get(&lock.address).is_some_and(|queue| !queue.set))
        .map(|lock| lock.slot)
        .collect()
}

#[cfg(test)]
mod tests;
