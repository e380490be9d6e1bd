//! AP012: a guest that does not go on.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use probe_ebpf::names::{class_id, entry_id};

use super::{Doc, Rule, killable};
use crate::diagnose::chain::{Chain, Root};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::{self, count, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(12),
    title: "stuck guest",
    text: "\
A vCPU is in PQAP, or a guest is being started, stopped or converted, and has not come back for longer than the threshold.
Guests with the same root are one finding, with the chain from the task that has been gone for longest to that root.

**How it is known.** The call has begun and not returned. The chain follows live state: what the task waits for, who holds
that, what that one waits for, to somebody who runs, sleeps, polls hardware, has ended, or closes a circle.

**What can help.** What helps at the root: see the finding about it (AP001 a circle, AP003 a lost wake-up, AP004 a leaked
lock, AP007 a queue), or wait if the root runs or sleeps with an end.
",
};

/// Calls in which a guest waits for the driver.
pub(super) const CALLS: [u8; 9] = [
    entry_id::HANDLE_PQAP,
    entry_id::KVM_HANDLE_PQAP,
    entry_id::GROUP_NOTIFIER,
    entry_id::OPEN,
    entry_id::RELEASE,
    entry_id::OPEN_DEVICE,
    entry_id::CLOSE_DEVICE,
    entry_id::KVM_VFIO_SET_ATTR,
    entry_id::KVM_S390_HANDLE_PV,
];

/// Roots with a finding of their own; those whose guests have been stuck for longest.
const MAX_ROOTS: usize = 64;
/// Chains made in one tick. Those of others that are stuck too come in the next ticks.
const CHAINS_PER_TICK: usize = 4;
/// Durations in the texts are brought up to date so often, everything else at once.
const REFRESH_NS: u64 = 1_000_000_000;

/// What was told of a root.
#[derive(Clone)]
struct Told {
    at_ns: u64,
    /// The first task, its call, its wait, how many tasks there are, and how many guests.
    what: (u32, u64, Option<u64>, usize, usize),
}

#[derive(Default, Clone)]
pub(super) struct StuckGuest {
    told: BTreeMap<String, Told>,
}

impl Rule for StuckGuest {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let keeping: HashSet<usize> = look
            .waits
            .blocked
            .iter()
            .flatten()
            .flat_map(|blocked| &blocked.by)
            .map(|blocker| blocker.task)
            .collect();
        let mut stuck: Vec<Stuck<'_>> = Vec::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let call = task.inside.iter().find(|inside| {
                // To convert a large guest takes long in itself: that is no matter of locks.
                let converts = inside.entry == u32::from(entry_id::KVM_S390_HANDLE_PV);
                CALLS.contains(&(inside.entry as u8))
                    && (!converts || !task.waits.is_empty() || keeping.contains(&place))
                    && look.lasts(inside.since_ns, look.thresholds.stuck)
            });
            if let Some(call) = call {
                stuck.push(Stuck {
                    place,
                    guest: look.guest(task),
                    call,
                });
            }
        }
        stuck.sort_by_key(|s| (s.call.since_ns, look.waits.tasks[s.place].tid));
        // The root of each guest's longest call; guests with one root are one finding, in the order of their calls.
        let mut ends: Vec<Option<End>> = vec![None; look.waits.tasks.len()];
        let mut of_guest: HashMap<Option<u32>, usize> = HashMap::new();
        let mut roots: Vec<(String, Vec<Stuck<'_>>)> = Vec::new();
        for task in stuck {
            let place = *of_guest.entry(task.guest).or_insert_with(|| {
                let key = key(look, &task, &mut ends);
                let known = roots.iter().position(|(known, _)| *known == key);
                known.unwrap_or_else(|| {
                    roots.push((key, Vec::new()));
                    roots.len() - 1
                })
            });
            if let Some((_, tasks)) = roots.get_mut(place) {
                tasks.push(task);
            }
        }
        let more = roots.len().saturating_sub(MAX_ROOTS);
        roots.truncate(MAX_ROOTS);
        self.told
            .retain(|key, _| roots.iter().any(|(known, _)| known == key));
        // Who was told of longest ago, or never, comes first.
        let told_at = |key: &String| self.told.get(key).map_or(0, |told| told.at_ns);
        roots.sort_by_key(|(key, _)| told_at(key));
        let mut chains = 0;
        for (key, tasks) in roots {
            let what = what(look, &tasks);
            let current = self
                .told
                .get(&key)
                .is_some_and(|told| told.what == what && look.ago(told.at_ns) < REFRESH_NS);
            if current || chains >= CHAINS_PER_TICK {
                seen.push(Sighting::still(key));
                continue;
            }
            chains += 1;
            let at_ns = look.now();
            self.told.insert(key.clone(), Told { at_ns, what });
            let mut sighting = sighting(look, key, &tasks);
            if let Some(sighting) = &mut sighting
                && more > 0
            {
                sighting
                    .details
                    .push(format!("{more} more causes besides those reported"));
            }
            seen.extend(sighting);
        }
    }
}

fn what(look: &Look<'_>, tasks: &[Stuck<'_>]) -> (u32, u64, Option<u64>, usize, usize) {
    tasks.first().map_or((0, 0, None, 0, 0), |first| {
        let task = &look.waits.tasks[first.place];
        let guests: BTreeSet<Option<u32>> = tasks.iter().map(|task| task.guest).collect();
        (
            task.tid,
            first.call.since_ns,
            innermost(task).map(|wait| wait.serial),
            tasks.len(),
            guests.len(),
        )
    })
}

/// A task in a call that has not come back.
struct Stuck<'a> {
    place: usize,
    guest: Option<u32>,
    call: &'a frame::Inside,
}

/// Where the way over who has held for longest ends.
#[derive(Clone, Copy)]
enum End {
    /// In a circle; its smallest thread id.
    Circle(u32),
    /// At a queue that is polled, or at a task that has ended: its thread id.
    Root(u32),
    /// At somebody who goes on by himself, or at a lock that others are given meanwhile.
    GoesOn,
    /// Nobody is known to be there.
    Nobody,
}

/// What tells one root from another. A circle is one root wherever it is entered, and so are a queue that is polled and a
/// task that has ended. Those who go on by themselves, one after the other, are one root together: which of them it is
/// changes from reading to reading. Where nobody is known to be at the end, it is each guest's own. `ends` remembers what
/// was found on the way, so that all keys together cost one look at each task.
fn key(look: &Look<'_>, stuck: &Stuck<'_>, ends: &mut [Option<End>]) -> String {
    let waits = innermost(&look.waits.tasks[stuck.place]).is_some();
    match end(look, stuck.place, ends) {
        End::Circle(least) => format!("circle {least}"),
        End::Root(tid) if waits => format!("root {tid}"),
        End::GoesOn if waits => "goes on".to_owned(),
        _ => format!("guest {:?}", stuck.guest),
    }
}

fn end(look: &Look<'_>, from: usize, ends: &mut [Option<End>]) -> End {
    let mut path: Vec<usize> = Vec::new();
    let mut on_path: HashSet<usize> = HashSet::new();
    let mut at = from;
    let end = loop {
        if let Some(known) = ends[at] {
            break known;
        }
        if !on_path.insert(at) {
            let circle = path.iter().skip_while(|place| **place != at);
            let least = circle.map(|place| look.waits.tasks[*place].tid).min();
            break End::Circle(least.unwrap_or(0));
        }
        path.push(at);
        let task = &look.waits.tasks[at];
        let Some(wait) = innermost(task) else {
            let polls = |hold: &frame::Holding| hold.series >> 1 == u32::from(class_id::RESET_WORK);
            break if task.exited || task.holds.iter().any(polls) {
                End::Root(task.tid)
            } else {
                End::GoesOn
            };
        };
        match look.waits.blockers(at).first() {
            Some(blocker) => at = blocker.task,
            None if look.acquired_since(wait) > 0 => break End::GoesOn,
            None => break End::Nobody,
        }
    };
    for place in path {
        ends[place] = Some(end);
    }
    end
}

fn sighting(look: &Look<'_>, key: String, tasks: &[Stuck<'_>]) -> Option<Sighting> {
    let first = tasks.first()?;
    let chain = Chain::of(look, first.place)?;
    let task = &look.waits.tasks[first.place];
    let guests: BTreeSet<Option<u32>> = tasks.iter().map(|task| task.guest).collect();
    // Those that are not known last.
    let (known, not): (Vec<Option<u32>>, Vec<Option<u32>>) =
        guests.iter().partition(|guest| guest.is_some());
    let names: Vec<String> = known
        .iter()
        .chain(&not)
        .map(|guest| {
            guest.map_or_else(
                || "a guest that is not known".to_owned(),
                |guest| look.guest_label(guest),
            )
        })
        .collect();
    let root = chain.root().map(|(at, root)| (at.clone(), root.clone()));
    let ends = matches!(
        root,
        Some((
            _,
            Root::Running { .. } | Root::Sleeping { .. } | Root::Passing { .. }
        ))
    );
    let shown = names.len().min(8);
    let who = if names.len() > shown {
        let more = names.len() - shown;
        format!("{} and {more} more", names[..shown].join(", "))
    } else {
        list(&names)
    };
    let mut sighting = Sighting::new(
        key,
        if ends {
            Severity::Warning
        } else {
            Severity::Critical
        },
        format!(
            "{who} {} stuck: {} has been in {}{}",
            if names.len() == 1 { "is" } else { "are" },
            query::task_name(task),
            query::entry_name(first.call.entry as u8),
            words::lasting(" for ", look.ago(first.call.since_ns))
        ),
    );
    sighting.since_ns = first.call.since_ns;
    sighting.symptom = match &root {
        Some((_, root)) => root.text(),
        None => String::new(),
    };
    if tasks.len() > 1 {
        sighting
            .details
            .push(format!("{} in such calls", count(tasks.len(), "task")));
    }
    if let Some((at, root)) = &root {
        let root = match root {
            Root::Cycle(_) => "a circle: see AP001".to_owned(),
            other if at.comm.is_empty() => format!("task {}, {}", at.tid, other.text()),
            other => format!("{} ({}), {}", at.comm, at.tid, other.text()),
        };
        sighting.details.push(format!("the root: {root}"));
    }
    for held in look.besides(task) {
        let who = query::task_name(task);
        sighting.details.push(format!("{who} also {held}"));
    }
    sighting.tasks = look.task_refs(tasks.iter().map(|stuck| &stuck.place));
    sighting.locks = innermost(task)
        .map(|wait| look.lock_name(wait.series, wait.instance))
        .into_iter()
        .collect();
    sighting.chain = Some(chain);
    sighting.meaning = format!(
        "{} not get on until the root does",
        if names.len() == 1 {
            "the guest does"
        } else {
            "these guests do"
        }
    );
    sighting.help = match &root {
        Some((_, Root::Running { .. } | Root::Sleeping { .. })) => {
            vec!["wait: the root goes on".into()]
        }
        Some((_, Root::Passing { .. })) => {
            vec!["wait: the lock moves, and others are given it in between".into()]
        }
        Some((_, Root::PollingHardware { .. })) => vec!["what helps the queue: see AP007".into()],
        Some((_, Root::Cycle(_))) => vec!["see AP001".into()],
        Some((_, Root::Exited)) => vec!["see AP003 and AP004".into()],
        _ if waits_for_clear_flag(look, task) => vec!["see AP003".into()],
        _ if look.from_stacks() => {
            vec!["save the stacks of all tasks (sysrq-t), or take a dump: the holder's is not among these".into()]
        }
        _ => vec!["measure at a higher level, or read the lock's owner from a dump".into()],
    };
    if innermost(task).is_some_and(killable) {
        sighting
            .help
            .push("this wait is killable: killing QEMU ends it".into());
    }
    Some(sighting)
}

/// A wake-up was lost: that is a finding of its own.
fn waits_for_clear_flag(look: &Look<'_>, task: &frame::TaskState) -> bool {
    innermost(task).is_some_and(|wait| {
        query::open_coded(wait.series as u8) && look.flag_is_clear(wait.instance)
    })
}
