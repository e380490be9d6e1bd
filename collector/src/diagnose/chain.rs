//! Chains: from a task that does not go on to the root of it.

use probe_ebpf::abi::LockKind;
use probe_ebpf::names::{class_id, entry_id};

use super::finding::TaskRef;
use super::graph::waits::{By, innermost};
use super::look::{Look, Progress};
use super::words::{count, duration, lasting};
use crate::frame;
use crate::model::query;

/// Links of one chain at most, all branches together.
pub const MAX_LINKS: usize = 64;
/// Branches below one task at most.
const MAX_BRANCHES: usize = 8;

/// A task, what it waits for, and who keeps it waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// The task.
    pub task: TaskRef,
    /// Name and thread id, or the process it works for.
    pub who: String,
    /// How it keeps the one above waiting, and since when; `None` at the top.
    pub keeps: Option<Keeps>,
    /// What it waits for; `None` at a root.
    pub waits: Option<Waits>,
    /// Those who keep it waiting.
    pub below: Vec<Chain>,
    /// Blockers that there was no room for.
    pub omitted: usize,
    /// What there is where the chain ends.
    pub root: Option<Root>,
}

/// How a task keeps another one waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct Keeps {
    /// Holding, executing, or queued before.
    pub by: By,
    /// Mode held: `-`, `read` or `write`.
    pub mode: &'static str,
    /// For so long.
    pub for_ns: u64,
    /// Function that it was acquired in.
    pub entry: &'static str,
    /// How that is known.
    pub evidence: String,
    /// It was held already when it was first seen: for so long at least, and where it was acquired is not known.
    pub adopted: bool,
}

/// A wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Waits {
    /// Name of the lock.
    pub lock: String,
    /// Mode asked for: `-`, `read` or `write`.
    pub mode: &'static str,
    /// An open-coded lock.
    pub open_coded: bool,
    /// For so long.
    pub for_ns: u64,
    /// Function that it waits in.
    pub entry: &'static str,
    /// How that is known.
    pub evidence: String,
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Root {
    /// It waits for a task above: a cycle. The thread id of that task.
    Cycle(u32),
    /// It runs, or could.
    Running {
        /// Innermost traced function.
        entry: &'static str,
    },
    /// It sleeps in a function, and nobody has to wake it.
    Sleeping {
        /// Function of the kernel, or where that is not known, of the driver.
        in_function: String,
        /// Innermost traced function.
        entry: &'static str,
        /// Whether it gets on.
        progress: Progress,
    },
    /// It asks a queue again and again whether its reset is complete.
    PollingHardware {
        /// Name of the work item, which has the queue's.
        work: String,
    },
    /// It has ended.
    Exited,
    /// Nobody holds the lock at this moment, but others have been given it since the last reading.
    Passing {
        /// How often since then.
        acquisitions: u64,
    },
    /// A work item that is flushed, and that nobody executes.
    NotRunning,
    /// Nobody is known to hold what it waits for, or it is not known what the holder does.
    Unknown {
        /// Why not.
        why: String,
    },
    /// It is above in another branch already.
    SeenAbove,
}

impl Root {
    /// How far it is from going on by itself: the largest never does.
    const fn rank(&self) -> u8 {
        match self {
            Self::SeenAbove => 0,
            Self::Running { .. } => 1,
            Self::Passing { .. } => 2,
            Self::Sleeping {
                progress: Progress::Moves,
                ..
            } => 3,
            Self::NotRunning => 4,
            Self::Sleeping {
                progress: Progress::NotSeen,
                ..
            } => 5,
            Self::Unknown { .. } => 6,
            Self::Sleeping {
                progress: Progress::Stands(_),
                ..
            } => 7,
            Self::PollingHardware { .. } => 8,
            Self::Exited => 9,
            Self::Cycle(_) => 10,
        }
    }

    /// One word for JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cycle(_) => "cycle",
            Self::Running { .. } => "running",
            Self::Sleeping { .. } => "sleeping",
            Self::PollingHardware { .. } => "polling hardware",
            Self::Passing { .. } => "passed on",
            Self::Exited => "exited",
            Self::NotRunning => "queued, not running",
            Self::Unknown { .. } => "unknown",
            Self::SeenAbove => "seen above",
        }
    }

    /// The end of a sentence about the task.
    pub fn text(&self) -> String {
        match self {
            Self::Cycle(tid) => format!("which closes the cycle to task {tid}"),
            // Outside of traced functions, or in one that it called before measuring began.
            Self::Running { entry: "-" } => "which runs, in no call that was seen to begin".into(),
            Self::Sleeping {
                in_function,
                entry: "-",
                ..
            } if in_function == "-" => "which sleeps, in no call that was seen to begin".into(),
            Self::Sleeping {
                in_function,
                entry: "-",
                ..
            } => {
                format!("which sleeps in {in_function}, in no call that was seen to begin")
            }
            Self::Running { entry } => format!("which runs in {entry}"),
            Self::Sleeping {
                in_function, entry, ..
            } if in_function == entry => {
                format!("which sleeps in {entry}")
            }
            Self::Sleeping {
                in_function, entry, ..
            } => {
                format!("which sleeps in {in_function}, called in {entry}")
            }
            Self::PollingHardware { work } => {
                format!("which polls the hardware for the end of a reset ({work})")
            }
            Self::Passing { acquisitions } => format!(
                "nobody holds it at this moment; {} since the reading before",
                count(
                    usize::try_from(*acquisitions).unwrap_or(usize::MAX),
                    "acquisition"
                )
            ),
            Self::Exited => "which has ended".into(),
            Self::NotRunning => "the work is queued and not running".into(),
            Self::Unknown { why } => format!("and that is all that is known: {why}"),
            Self::SeenAbove => "as above".into(),
        }
    }
}

impl Chain {
    /// Of a task, by its place among the live tasks. `None` for a place that does not exist.
    pub fn of(look: &Look<'_>, task: usize) -> Option<Self> {
        let mut links = 0;
        link(
            look,
            task,
            None,
            &mut Vec::new(),
            &mut vec![false; look.waits.tasks.len()],
            &mut links,
        )
    }

    /// The roots of all branches, the first branch's first.
    pub fn roots(&self) -> Vec<(&TaskRef, &Root)> {
        let mut roots = Vec::new();
        let mut stack = vec![self];
        while let Some(chain) = stack.pop() {
            if let Some(root) = &chain.root {
                roots.push((&chain.task, root));
            }
            stack.extend(chain.below.iter().rev());
        }
        roots
    }

    /// The root that decides: whoever waits for several tasks goes on when the slowest of them lets it, and whoever
    /// waits for an open-coded lock with several holders when the first does. `None` if all that is shown of it was
    /// above in another branch.
    pub fn root(&self) -> Option<(&TaskRef, &Root)> {
        let own = self.root.as_ref().filter(|root| **root != Root::SeenAbove);
        if let Some(root) = own {
            return Some((&self.task, root));
        }
        let below = self.below.iter().filter_map(Self::root);
        // Of equals the first, which holds longest.
        let rank = |(_, root): &(&TaskRef, &Root)| root.rank();
        if self.waits.as_ref().is_some_and(|waits| waits.open_coded) {
            below.min_by_key(rank)
        } else {
            below.rev().max_by_key(rank)
        }
    }

    /// The same so many nanoseconds later, where nobody in it has moved. What was not known stays so.
    #[must_use]
    pub fn later(&self, ns: u64) -> Self {
        let later = |for_ns: &mut u64| {
            if *for_ns > 0 {
                *for_ns = for_ns.saturating_add(ns);
            }
        };
        let mut chain = self.clone();
        let mut links = vec![&mut chain];
        while let Some(link) = links.pop() {
            if let Some(keeps) = &mut link.keeps {
                later(&mut keeps.for_ns);
            }
            if let Some(waits) = &mut link.waits {
                later(&mut waits.for_ns);
            }
            links.extend(&mut link.below);
        }
        chain
    }

    /// Thread ids of all its tasks.
    pub fn tids(&self) -> Vec<u32> {
        let mut tids = Vec::new();
        let mut stack = vec![self];
        while let Some(chain) = stack.pop() {
            tids.push(chain.task.tid);
            stack.extend(&chain.below);
        }
        tids
    }

    /// Lines of text, indented by depth; ASCII.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut stack = vec![(self, 0)];
        while let Some((chain, depth)) = stack.pop() {
            lines.extend(chain.own_lines(depth));
            stack.extend(chain.below.iter().rev().map(|below| (below, depth + 1)));
        }
        lines
    }

    fn own_lines(&self, depth: usize) -> Vec<String> {
        let indent = "  ".repeat(depth);
        let role = if self.task.role.is_empty() {
            String::new()
        } else {
            format!(", {}", self.task.role)
        };
        let mut head = match &self.keeps {
            None => format!("{indent}{}{role}", self.who),
            Some(keeps) => {
                let how = match keeps.by {
                    By::Holding if keeps.mode == "-" => "held".to_owned(),
                    By::Holding => format!("held ({})", keeps.mode),
                    By::Executing => "executed".to_owned(),
                    By::QueuedBefore => "queued before".to_owned(),
                };
                let least = if keeps.adopted { " at least" } else { "" };
                format!(
                    "{indent}{how}{} by {}{role} [{}]",
                    lasting(&format!("{least} "), keeps.for_ns),
                    self.who,
                    keeps.evidence
                )
            }
        };
        if let (Some(root), None) = (&self.root, &self.waits) {
            head = format!("{head}, {}", root.text());
        }
        let mut lines = vec![head];
        if let Some(waits) = &self.waits {
            let mode = if waits.mode == "-" {
                String::new()
            } else {
                format!(" ({})", waits.mode)
            };
            let hidden = if waits.open_coded {
                ", an open-coded lock,"
            } else {
                ""
            };
            let place = match waits.entry {
                "-" => String::new(),
                entry => format!(" in {entry}"),
            };
            let mut line = format!(
                "{indent}  waits{} for {}{mode}{hidden}{place} [{}]",
                lasting(" ", waits.for_ns),
                waits.lock,
                waits.evidence
            );
            if let Some(root) = &self.root {
                line = format!("{line}, {}", root.text());
            }
            lines.push(line);
        }
        if self.omitted > 0 {
            lines.push(format!(
                "{indent}  ... and {} more",
                count(self.omitted, "task")
            ));
        }
        lines
    }
}

fn link(
    look: &Look<'_>,
    place: usize,
    keeps: Option<Keeps>,
    path: &mut Vec<usize>,
    seen: &mut Vec<bool>,
    links: &mut usize,
) -> Option<Chain> {
    let task = look.waits.tasks.get(place)?;
    *links += 1;
    let wait = innermost(task);
    let mut chain = Chain {
        task: look.task_ref(task),
        who: query::task_name(task),
        keeps,
        waits: wait.map(|wait| Waits {
            lock: look.lock_name(wait.series, wait.instance),
            mode: query::mode_name(wait.series as u8),
            open_coded: query::open_coded(wait.series as u8),
            for_ns: look.ago(wait.since_ns),
            entry: query::entry_name(wait.entry as u8),
            evidence: wait.evidence.clone(),
        }),
        below: Vec::new(),
        omitted: 0,
        root: None,
    };
    let Some(wait) = wait else {
        chain.root = Some(root(look, task));
        return Some(chain);
    };
    if path.contains(&place) {
        chain.waits = None;
        chain.root = Some(Root::Cycle(task.tid));
        return Some(chain);
    }
    if seen[place] {
        chain.root = Some(Root::SeenAbove);
        return Some(chain);
    }
    seen[place] = true;
    let blockers = look.waits.blockers(place);
    if blockers.is_empty() {
        chain.root = Some(nobody(look, wait));
        return Some(chain);
    }
    path.push(place);
    for blocker in blockers {
        if chain.below.len() >= MAX_BRANCHES || *links >= MAX_LINKS {
            chain.omitted += 1;
            continue;
        }
        let other = &look.waits.tasks[blocker.task];
        let keeps = match blocker.by {
            By::QueuedBefore => other.waits.get(blocker.record).map(|w| Keeps {
                by: blocker.by,
                mode: query::mode_name(w.series as u8),
                for_ns: look.ago(w.since_ns),
                entry: query::entry_name(w.entry as u8),
                evidence: w.evidence.clone(),
                adopted: false,
            }),
            By::Holding | By::Executing => other.holds.get(blocker.record).map(|h| Keeps {
                by: blocker.by,
                mode: query::mode_name(h.series as u8),
                for_ns: look.ago(h.since_ns),
                entry: query::entry_name(h.entry as u8),
                evidence: h.evidence.clone(),
                // Times of stacks are what the text says.
                adopted: h.adopted && !look.from_stacks(),
            }),
        };
        chain
            .below
            .extend(link(look, blocker.task, keeps, path, seen, links));
    }
    path.pop();
    Some(chain)
}

/// What a task that waits for no traced lock is at.
fn root(look: &Look<'_>, task: &frame::TaskState) -> Root {
    if task.exited {
        return Root::Exited;
    }
    let entry = query::entry_name(task.inside.last().map_or(entry_id::NONE, |i| i.entry as u8));
    let work = task
        .holds
        .iter()
        .find(|hold| hold.series >> 1 == u32::from(class_id::RESET_WORK));
    if let Some(work) = work {
        return Root::PollingHardware {
            work: look.lock_name(work.series, work.instance),
        };
    }
    if let Some(why) = unwatched(look, task) {
        return Root::Unknown { why };
    }
    match task.state.as_str() {
        "" if task.inside.is_empty() => Root::Unknown {
            why: format!(
                "{} is in no traced function and waits for no traced lock",
                query::task_name(task)
            ),
        },
        "D" if !look.waits_seen() => Root::Unknown {
            why: format!(
                "it sleeps in {entry}, and this kernel shows waits for mutexes and rwsems at level 2 alone"
            ),
        },
        // Not every text has the state letter of a task.
        "" if !look.from_stacks() || task.asleep_in.is_empty() => Root::Running { entry },
        "R" => Root::Running { entry },
        _ => Root::Sleeping {
            in_function: match task.asleep_in.as_str() {
                "" => entry.to_owned(),
                function => function.to_owned(),
            },
            entry,
            progress: look.progress(task),
        },
    }
}

/// Why nothing is known of what a holder does: its stack is not in the text, or its call began before measuring.
fn unwatched(look: &Look<'_>, task: &frame::TaskState) -> Option<String> {
    if !task.inside.is_empty() || !task.state.is_empty() {
        return None;
    }
    if look.from_stacks() {
        let has_stack = look.model.stacks.iter().any(|stack| stack.tid == task.tid);
        let who = query::task_name(task);
        return (!has_stack).then(|| format!("the stack of {who} is not in the text"));
    }
    let adopted: Vec<&frame::Holding> = task.holds.iter().filter(|hold| hold.adopted).collect();
    let since = adopted.iter().map(|hold| hold.since_ns).min()?;
    Some(format!(
        "it had the lock when it was first seen, {} ago, and what it does is not known",
        duration(look.ago(since))
    ))
}

/// Why nobody is known to hold what is waited for.
fn nobody(look: &Look<'_>, wait: &frame::Waiting) -> Root {
    let series = wait.series as u8;
    match query::kind(series) {
        LockKind::Work if look.from_stacks() => Root::Unknown {
            why: "the worker is not among the stacks; one that polls runs now and then, and is not reported as hung".into(),
        },
        LockKind::Work => Root::NotRunning,
        LockKind::Flag if look.flag_is_clear(wait.instance) => Root::Unknown {
            why: "the flag is clear and nobody has set it".into(),
        },
        LockKind::Flag if look.holders_unseen().is_some() => Root::Unknown {
            why: "below level 2 nobody is seen to set a flag".into(),
        },
        LockKind::Flag => Root::Unknown {
            why: "the flag was set before measuring began: its holder was never seen".into(),
        },
        LockKind::Mutex | LockKind::Rwsem if look.acquired_since(wait) > 0 => Root::Passing {
            acquisitions: look.acquired_since(wait),
        },
        LockKind::Rwsem if look.unseen_readers(wait.lock) > 0 => Root::Unknown {
            why: format!(
                "by its count it has {}, of whom nothing is known",
                count(
                    usize::try_from(look.unseen_readers(wait.lock)).unwrap_or(usize::MAX),
                    "reader"
                )
            ),
        },
        LockKind::Mutex | LockKind::Rwsem => Root::Unknown {
            why: look.holders_unseen().unwrap_or_else(|| {
                "nobody holds it at this moment, or it was taken before measuring began".into()
            }),
        },
    }
}
