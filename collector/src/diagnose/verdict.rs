//! The one line above all findings.

use std::collections::BTreeMap;
use std::fmt;

use probe_ebpf::names::ENTRY_POINTS;

use super::chain::Root;
use super::finding::{Finding, Severity};
use super::graph::waits::innermost;
use super::look::{Look, Progress};
use super::words::{count, duration, list};
use crate::frame;
use crate::model::query;

/// What is the matter, in the words of somebody who has one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The word that it begins with.
    pub kind: Kind,
    /// The rest of the line.
    pub text: String,
}

/// The five words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Tasks wait for each other, or for somebody who is gone: nothing but an intervention ends it.
    Deadlock,
    /// Everybody waits behind a queue that does not answer.
    Hardware,
    /// It takes long, and goes on.
    Slow,
    /// Nothing is stuck in the driver or behind it.
    NotHere,
    /// The data do not show it.
    #[default]
    CannotTell,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Deadlock,
        Self::Hardware,
        Self::Slow,
        Self::NotHere,
        Self::CannotTell,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadlock => "DEADLOCK",
            Self::Hardware => "WAITING ON HARDWARE",
            Self::Slow => "SLOW, PROGRESSING",
            Self::NotHere => "NOT vfio_ap",
            Self::CannotTell => "CANNOT TELL",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joint = if self.kind == Kind::CannotTell {
            " because "
        } else {
            ": "
        };
        match self.text.as_str() {
            "" => f.write_str(self.kind.name()),
            text => write!(f, "{}{joint}{text}", self.kind.name()),
        }
    }
}

/// The first finding of an id.
fn first<'a>(standing: &[&'a Finding], id: u8) -> Option<&'a Finding> {
    standing.iter().find(|finding| finding.id.0 == id).copied()
}

/// The verdict over the findings that stand.
///
/// `others` is the number of tasks in saved stacks that wait in or behind the driver, and that no finding is about.
pub(super) fn verdict(look: &Look<'_>, standing: &[&Finding], others: usize) -> Verdict {
    let first = |id| first(standing, id);
    let says = |kind, finding: &Finding| Verdict {
        kind,
        text: format!("{} ({})", finding.seen.summary, finding.id),
    };
    // What never ends by itself, the clearest cause first.
    for id in [1, 4, 3] {
        if let Some(finding) = first(id)
            && finding.seen.severity == Severity::Critical
        {
            return says(Kind::Deadlock, finding);
        }
    }
    // What the kernel's log of a saved text says is all that there is.
    if let Some(finding) = first(7)
        && (finding.seen.severity == Severity::Critical || look.from_stacks())
    {
        return says(Kind::Hardware, finding);
    }
    // Of several, the worst.
    let stuck = standing.iter().filter(|finding| finding.id.0 == 12);
    if let Some(finding) = stuck.max_by_key(|finding| finding.seen.severity) {
        return of_stuck(look, finding, says);
    }
    if let Some(finding) = first(13) {
        return Verdict {
            kind: Kind::Slow,
            text: format!(
                "{}; it ends when the device is given back ({})",
                finding.seen.summary, finding.id
            ),
        };
    }
    if let Some(finding) = [9, 6, 8, 7].into_iter().find_map(first) {
        return says(Kind::Slow, finding);
    }
    nothing(look, standing, others)
}

/// A stuck guest whose cause is no finding of its own.
fn of_stuck(
    look: &Look<'_>,
    finding: &Finding,
    says: impl Fn(Kind, &Finding) -> Verdict,
) -> Verdict {
    let chain = finding.seen.chain.as_ref();
    let root = chain.and_then(super::chain::Chain::root);
    // With the locks that keep everybody else.
    let under = root
        .and_then(|(at, _)| look.waits.place(at.tid))
        .map(|place| look.kept(&look.waits.tasks[place]))
        .filter(|held| !held.is_empty())
        .map_or_else(String::new, |held| format!(" with {} held", list(&held)));
    match root.map(|r| r.1) {
        Some(Root::Sleeping {
            in_function,
            progress: Progress::Stands(_) | Progress::NotSeen,
            ..
        }) => Verdict {
            kind: Kind::CannotTell,
            text: if is_drivers(in_function) {
                format!(
                    "{}, and whether the root, which sleeps in {in_function}{under}, gets on is not seen ({})",
                    finding.seen.summary, finding.id
                )
            } else {
                format!(
                    "{}, and the root sleeps in {in_function}{under}: what wakes it is not vfio_ap's ({})",
                    finding.seen.summary, finding.id
                )
            },
        },
        Some(Root::Running { entry }) if look.from_stacks() => Verdict {
            kind: Kind::CannotTell,
            text: format!(
                "{}, and whether the root, which runs in {entry}{under}, gets on is not in one text ({})",
                finding.seen.summary, finding.id
            ),
        },
        Some(Root::PollingHardware { .. }) => says(Kind::Hardware, finding),
        Some(Root::Unknown { why }) => Verdict {
            kind: Kind::CannotTell,
            text: format!("{}, {why} ({})", finding.seen.summary, finding.id),
        },
        // A circle in one reading alone.
        Some(Root::Cycle(_)) => Verdict {
            kind: Kind::CannotTell,
            text: format!(
                "{}, in a circle that has not stood for long ({})",
                finding.seen.summary, finding.id
            ),
        },
        Some(Root::Exited) => says(Kind::Deadlock, finding),
        Some(Root::NotRunning | Root::SeenAbove) | None => Verdict {
            kind: Kind::CannotTell,
            text: format!(
                "{}, and the root is not known ({})",
                finding.seen.summary, finding.id
            ),
        },
        Some(Root::Running { .. } | Root::Sleeping { .. } | Root::Passing { .. }) => {
            says(Kind::Slow, finding)
        }
    }
}

/// Nothing stands that keeps anybody waiting.
fn nothing(look: &Look<'_>, standing: &[&Finding], others: usize) -> Verdict {
    let Some(meta) = &look.model.meta else {
        return Verdict {
            kind: Kind::CannotTell,
            text: "nothing has been read yet".into(),
        };
    };
    if look.model.ticks.len() < 2 && !look.from_stacks() {
        return Verdict {
            kind: Kind::CannotTell,
            text: "measuring has only begun".into(),
        };
    }
    if query::is_kernel(meta) && meta.level == 0 && !meta.reads_queues {
        return Verdict {
            kind: Kind::CannotTell,
            text: "nothing is attached (level 0): only owners in lock words are seen, and no waits"
                .into(),
        };
    }
    if look.model.loss.missing_frames > 0 {
        return Verdict {
            kind: Kind::CannotTell,
            text: "a part of the run is not in the file: a finding may have been there".into(),
        };
    }
    if !look.model.loss.exact() {
        return Verdict {
            kind: Kind::CannotTell,
            text: "probes missed invocations or had no room: a waiter may not be on record".into(),
        };
    }
    let longest = look
        .waits
        .tasks
        .iter()
        .filter_map(|task| Some(look.ago(innermost(task)?.since_ns)))
        .max();
    if let Some(verdict) = unexplained(look) {
        return verdict;
    }
    let elsewhere = first(standing, 0);
    if look.from_stacks() && elsewhere.is_none() {
        return Verdict {
            kind: Kind::CannotTell,
            text: match others {
                0 => "the stacks do not lead to a cause".into(),
                n => format!(
                    "the stacks do not lead to a cause; {} in or behind the driver",
                    count(n, "task")
                ),
            },
        };
    }
    if let Some(name) = look.asked.and_then(|guest| look.unknown_guest(guest)) {
        return Verdict {
            kind: Kind::CannotTell,
            text: format!("{name} is not known: none of its locks has been seen"),
        };
    }
    if !look.waits_seen() {
        return Verdict {
            kind: Kind::CannotTell,
            text: "this kernel shows waits for mutexes and rwsems at level 2 alone".into(),
        };
    }
    if query::is_kernel(meta)
        && !meta.reads_queues
        && let Some(lock) = held_from_before(look)
    {
        return Verdict {
            kind: Kind::CannotTell,
            text: format!(
                "{lock} is held since before measuring began, and who waits since then is not seen; see diagnose --from"
            ),
        };
    }
    let without_driver = query::is_kernel(meta) && meta.generation.is_empty();
    let waits = longest.map_or_else(
        || "no task waits in or behind the driver".to_owned(),
        |ns| {
            format!(
                "no task is stuck in or behind the driver; the longest wait is {}",
                duration(ns)
            )
        },
    );
    let waits = match elsewhere {
        Some(finding) => format!("{} ({})", finding.seen.summary, finding.id),
        None if without_driver => of_named_locks(look),
        None if query::is_kernel(meta) && !meta.reads_queues => {
            format!("{waits}, of those that began since measuring did")
        }
        None => waits,
    };
    // The driver has done what it must not, and whoever misbehaves since may do so because of it.
    let mut misdeeds = [5, 11, 14].into_iter();
    if let Some(finding) = misdeeds.find_map(|id| first(standing, id)) {
        return Verdict {
            kind: Kind::CannotTell,
            text: format!(
                "{waits}, and a guest may misbehave all the same: {} ({})",
                finding.seen.summary, finding.id
            ),
        };
    }
    let others: Vec<String> = standing
        .iter()
        .filter(|finding| finding.seen.severity >= Severity::Warning)
        .map(|finding| match finding.id.0 {
            2 => format!("a deadlock is possible ({})", finding.id),
            _ => format!("{} ({})", finding.seen.summary, finding.id),
        })
        .take(2)
        .collect();
    let text = if others.is_empty() {
        waits
    } else {
        format!("{waits}; but {}", others.join("; "))
    };
    Verdict {
        kind: Kind::NotHere,
        text,
    }
}

/// Without the driver, locks that a person named are all that is measured: who waits for them.
fn of_named_locks(look: &Look<'_>) -> String {
    let mut waiters: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for task in look.waits.tasks {
        if let Some(wait) = innermost(task) {
            let name = look.lock_name(wait.series, wait.instance);
            let (count, longest) = waiters.entry(name).or_default();
            *count += 1;
            *longest = (*longest).max(look.ago(wait.since_ns));
        }
    }
    let most = waiters.iter().max_by_key(|(_, waiters)| **waiters);
    let now = match most {
        None => "no task waits for the locks that were named".to_owned(),
        Some((name, (waiting, longest))) => {
            let others = match waiters.len() {
                1 => String::new(),
                n => format!(", and {} more have waiters", n - 1),
            };
            format!(
                "of the locks that were named, {name} has {}, the longest for {}{others}",
                count(*waiting, "waiter"),
                duration(*longest)
            )
        }
    };
    format!("no vfio_ap driver is measured here; {now}")
}

/// A function of the driver, or the timer that it polls by.
pub(super) fn is_drivers(function: &str) -> bool {
    let point = ENTRY_POINTS.iter().find(|point| point.name == function);
    function == "msleep"
        || function.starts_with("vfio_ap_")
        || point.is_some_and(|point| point.module == "vfio_ap")
}

/// Somebody waits for long in or behind the driver, and that is no finding: nobody is exonerated.
fn unexplained(look: &Look<'_>) -> Option<Verdict> {
    let stuck_ns = look.nanos(look.thresholds.stuck);
    let tasks = look.waits.tasks.iter();
    let long = |task: &frame::TaskState| {
        innermost(task).is_some_and(|wait| look.ago(wait.since_ns) >= stuck_ns)
    };
    // What is asked for each tick is cheap.
    if look.from_stacks() || !tasks.clone().any(long) {
        return None;
    }
    let places = look.concerned().into_iter();
    let (wait, task) = places
        .filter_map(|place| {
            let task = &look.waits.tasks[place];
            Some((innermost(task)?, task))
        })
        .min_by_key(|(wait, _)| wait.since_ns)?;
    let for_ns = look.ago(wait.since_ns);
    (for_ns >= stuck_ns).then(|| Verdict {
        kind: Kind::CannotTell,
        text: format!(
            "{} waits for {} for {}, and no finding says why",
            query::task_name(task),
            look.lock_name(wait.series, wait.instance),
            duration(for_ns)
        ),
    })
}

/// A lock of the driver whose owner's acquisition was not seen, and which it has held for long.
fn held_from_before(look: &Look<'_>) -> Option<String> {
    let stuck = look.thresholds.stuck;
    let holds = look.waits.tasks.iter().flat_map(|task| &task.holds);
    holds
        .filter(|hold| hold.adopted && !query::long_hold_is_normal(hold.series as u8))
        .find(|hold| look.lasts(hold.since_ns, stuck))
        .map(|hold| look.lock_name(hold.series, hold.instance))
}
