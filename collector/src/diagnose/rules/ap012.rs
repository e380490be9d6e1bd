//! AP012: a guest that does not go on.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use probe_ebpf::names::{class_id, entry_id};

use super::{Doc, Rule, killable};
use crate::diagnose::chain::{Chain, Root};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::{Look, Progress};
use crate::diagnose::verdict;
use crate::diagnose::words::{self, count, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(12),
    title: "stuck guest or administrator",
    text: "\
A vCPU is in PQAP, a guest is being started, stopped or converted, somebody reads or writes an attribute of an mdev or the
masks of the AP bus, or a queue or an mdev comes or goes, and the call has not come back for longer than the threshold.
Guests and others with the same root are one finding, with the chain from the task that has been gone for longest to that
root.

**How it is known.** The call has begun and not returned. The chain follows live state: what the task waits for, who holds
that, what that one waits for, to somebody who runs, sleeps, polls hardware, has ended, or closes a circle. A root that
sleeps gets on if its context switches go on. If it has not run for longer than the threshold, or the hung-task detector
says so of it, the finding is critical: it never ends by itself unless that sleep does, which is not the driver's. A hold
that never ends is found so; those that do are AP006. A removal that waits for an open descriptor is AP013.

**What can help.** What helps at the root: see the finding about it (AP001 a circle, AP003 a lost wake-up, AP004 a leaked
lock, AP007 a queue), wait if the root runs or sleeps with an end, or look for what it sleeps in.
",
};

/// Calls in which a guest waits for the driver.
const OF_GUESTS: [u8; 12] = [
    entry_id::HANDLE_PQAP,
    entry_id::KVM_HANDLE_PQAP,
    entry_id::GROUP_NOTIFIER,
    entry_id::OPEN,
    entry_id::RELEASE,
    entry_id::OPEN_DEVICE,
    entry_id::CLOSE_DEVICE,
    entry_id::KVM_VFIO_SET_ATTR,
    entry_id::KVM_S390_HANDLE_PV,
    entry_id::IOCTL,
    entry_id::DMA_UNMAP,
    entry_id::IOMMU_NOTIFIER,
];

/// Calls in which an administrator or the AP bus waits for it.
const OF_OTHERS: [u8; 25] = [
    entry_id::ASSIGN_ADAPTER,
    entry_id::UNASSIGN_ADAPTER,
    entry_id::ASSIGN_DOMAIN,
    entry_id::UNASSIGN_DOMAIN,
    entry_id::ASSIGN_CONTROL_DOMAIN,
    entry_id::UNASSIGN_CONTROL_DOMAIN,
    entry_id::AP_CONFIG_STORE,
    entry_id::MATRIX_SHOW,
    entry_id::CONTROL_DOMAINS_SHOW,
    entry_id::GUEST_MATRIX_SHOW,
    entry_id::AP_CONFIG_SHOW,
    entry_id::STATUS_SHOW,
    entry_id::QUEUE_DEV_PROBE,
    entry_id::QUEUE_DEV_REMOVE,
    entry_id::PROBE_QUEUE,
    entry_id::REMOVE_QUEUE,
    entry_id::CREATE,
    entry_id::PROBE,
    entry_id::REMOVE,
    entry_id::REQUEST,
    entry_id::RESOURCE_IN_USE,
    entry_id::ON_CFG_CHANGED,
    entry_id::ON_SCAN_COMPLETE,
    entry_id::APMASK_STORE,
    entry_id::AQMASK_STORE,
];

/// A call that somebody waits in for the driver.
pub(super) fn is_watched(entry: u8) -> bool {
    OF_GUESTS.contains(&entry) || OF_OTHERS.contains(&entry)
}

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
        // A conversion may wait for KVM alone, in saved stacks too.
        let concerned = look.from_stacks().then(|| look.concerned());
        let mut stuck: Vec<Stuck<'_>> = Vec::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let keeps = keeping.contains(&place);
            // Who runs in one look is stuck only if others wait for it.
            if look.from_stacks() && task.state == "R" && !keeps {
                continue;
            }
            let call = task.inside.iter().find(|inside| {
                let entry = inside.entry as u8;
                let about = match entry {
                    // To convert a large guest takes long in itself: that is no matter of locks.
                    entry_id::KVM_S390_HANDLE_PV => {
                        (!task.waits.is_empty() || keeps)
                            && concerned.as_ref().is_none_or(|all| all.contains(&place))
                    }
                    // For an open descriptor: AP013.
                    entry_id::REMOVE => !task.waits.is_empty() || !task.holds.is_empty(),
                    other => is_watched(other),
                };
                about && look.lasts(inside.since_ns, look.thresholds.stuck)
            });
            if let Some(call) = call {
                stuck.push(Stuck {
                    place,
                    guest: look.guest(task),
                    of_guest: OF_GUESTS.contains(&(call.entry as u8)),
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
            let mut find = || {
                let key = key(look, &task, &mut ends);
                let known = roots.iter().position(|(known, _)| *known == key);
                known.unwrap_or_else(|| {
                    roots.push((key, Vec::new()));
                    roots.len() - 1
                })
            };
            let place = if task.of_guest {
                *of_guest.entry(task.guest).or_insert_with(find)
            } else {
                find()
            };
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
            let current = !look.last
                && self
                    .told
                    .get(&key)
                    .is_some_and(|told| told.what == what && look.ago(told.at_ns) < REFRESH_NS);
            if current || chains >= CHAINS_PER_TICK && !look.last {
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
    leading(tasks).map_or((0, 0, None, 0, 0), |first| {
        let task = &look.waits.tasks[first.place];
        (
            task.tid,
            first.call.since_ns,
            innermost(task).map(|wait| wait.serial),
            tasks.len(),
            guests(tasks).len(),
        )
    })
}

/// A task in a call that has not come back.
struct Stuck<'a> {
    place: usize,
    guest: Option<u32>,
    /// The call is a guest's, and not an administrator's or the bus's.
    of_guest: bool,
    call: &'a frame::Inside,
}

/// The task that a finding is told of: of guests before others, who has been gone for longest.
fn leading<'a, 'b>(tasks: &'b [Stuck<'a>]) -> Option<&'b Stuck<'a>> {
    let mut of_guests = tasks.iter().filter(|task| task.of_guest);
    of_guests.next().or_else(|| tasks.first())
}

/// Whose calls they are.
fn guests(tasks: &[Stuck<'_>]) -> BTreeSet<Option<u32>> {
    let of_guests = tasks.iter().filter(|task| task.of_guest);
    of_guests.map(|task| task.guest).collect()
}

/// Where the way over who has held for longest ends.
#[derive(Clone, Copy)]
enum End {
    /// In a circle; its smallest thread id.
    Circle(u32),
    /// At a queue that is polled, at a task that has ended, or at one that sleeps and does not get on: its thread id.
    Root(u32),
    /// At somebody who goes on by himself, or at a lock that others are given meanwhile.
    GoesOn,
    /// Nobody is known to be there: series and instance of the lock.
    Nobody(u32, u32),
}

/// What tells one root from another. A circle is one root wherever it is entered, and so are a queue that is polled and a
/// task that has ended or sleeps for good. Those who go on by themselves, one after the other, are one root together:
/// which of them it is changes from reading to reading. Where nobody is known to be at the end, it is each guest's own,
/// and for others the lock's. `ends` remembers what was found on the way, so that all keys together cost one look at each
/// task.
fn key(look: &Look<'_>, stuck: &Stuck<'_>, ends: &mut [Option<End>]) -> String {
    let task = &look.waits.tasks[stuck.place];
    let waits = innermost(task).is_some();
    match end(look, stuck.place, ends) {
        End::Circle(least) => format!("circle {least}"),
        End::Root(tid) => format!("root {tid}"),
        End::GoesOn if waits || !stuck.of_guest => "goes on".to_owned(),
        End::Nobody(series, instance) if !stuck.of_guest => format!("lock {series} {instance}"),
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
            let sleeps =
                matches!(task.state.as_str(), "S" | "D") && look.progress(task) != Progress::Moves;
            // One look does not tell who goes on.
            let once = look.from_stacks();
            break if task.exited || sleeps || once || task.holds.iter().any(polls) {
                End::Root(task.tid)
            } else {
                End::GoesOn
            };
        };
        match look.waits.blockers(at).first() {
            Some(blocker) => at = blocker.task,
            None if look.acquired_since(wait) > 0 => break End::GoesOn,
            None => break End::Nobody(wait.series, wait.instance),
        }
    };
    for place in path {
        ends[place] = Some(end);
    }
    end
}

fn sighting(look: &Look<'_>, key: String, tasks: &[Stuck<'_>]) -> Option<Sighting> {
    let first = leading(tasks)?;
    let task = &look.waits.tasks[first.place];
    let behind = look.waits.behind(&[first.place]);
    // A root is shown from those who wait for it.
    let top = match innermost(task) {
        None => behind.first().copied().unwrap_or(first.place),
        Some(_) => first.place,
    };
    let chain = Chain::of(look, top)?;
    let guests = guests(tasks);
    let root = chain.root().map(|(at, root)| (at.clone(), root.clone()));
    let mut sighting = Sighting::new(key, severity(root.as_ref()), summary(look, first, &guests));
    sighting.since_ns = first.call.since_ns;
    if tasks.len() > 1 {
        sighting
            .details
            .push(format!("{} in such calls", count(tasks.len(), "task")));
    }
    if let Some((at, root)) = &root {
        let who = name_of(at);
        sighting.details.push(match root {
            Root::Cycle(_) => "the root: a circle: see AP001".to_owned(),
            other => format!("the root: {who}, {}", other.text()),
        });
        sighting.symptom = root.text();
        if let Root::Sleeping {
            in_function,
            progress,
            ..
        } = root
        {
            if let Progress::Stands(ns) = progress {
                sighting.details.push(format!(
                    "{who} has not run for at least {}",
                    words::duration(*ns)
                ));
            }
            if in_function != "msleep" && in_function != "flush_work" {
                sighting.symptom.push_str(" pinning");
            }
        }
        sighting.details.extend(keeps(look, at, root));
    }
    for held in look.besides(task) {
        let who = query::task_name(task);
        sighting.details.push(format!("{who} also {held}"));
    }
    sighting.tasks = look.task_refs(tasks.iter().map(|stuck| &stuck.place));
    let awaited = innermost(&look.waits.tasks[top]);
    sighting.locks = awaited
        .map(|wait| look.lock_name(wait.series, wait.instance))
        .into_iter()
        .collect();
    sighting.chain = Some(chain);
    sighting.meaning = format!(
        "{} not get on until the root does",
        match (guests.len(), tasks.len()) {
            (0, 1) => "the call does",
            (0, _) => "these calls do",
            (1, _) => "the guest does",
            _ => "these guests do",
        }
    );
    sighting.help = help(look, task, root.as_ref());
    Some(sighting)
}

/// `guest-0 and guest-1 are stuck: CPU 0/KVM (11) has been in handle_pqap for 2.00 s`
fn summary(look: &Look<'_>, first: &Stuck<'_>, guests: &BTreeSet<Option<u32>>) -> String {
    let task = query::task_name(&look.waits.tasks[first.place]);
    let call = format!(
        "has been in {}{}",
        query::entry_name(first.call.entry as u8),
        words::lasting(" for ", look.ago(first.call.since_ns))
    );
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
    let shown = names.len().min(8);
    let who = if names.len() > shown {
        let more = names.len() - shown;
        format!("{} and {more} more", names[..shown].join(", "))
    } else {
        list(&names)
    };
    match names.len() {
        0 => format!("{task} is stuck: it {call}"),
        1 => format!("{who} is stuck: {task} {call}"),
        _ => format!("{who} are stuck: {task} {call}"),
    }
}

/// Name and thread id, as of a task.
fn name_of(at: &TaskRef) -> String {
    if at.comm.is_empty() {
        format!("task {}", at.tid)
    } else {
        format!("{} ({})", at.comm, at.tid)
    }
}

fn severity(root: Option<&(TaskRef, Root)>) -> Severity {
    match root {
        Some((_, Root::Running { .. } | Root::Passing { .. })) => Severity::Warning,
        Some((_, Root::Sleeping { progress, .. })) if !matches!(progress, Progress::Stands(_)) => {
            Severity::Warning
        }
        _ => Severity::Critical,
    }
}

/// What the root holds, and who is behind it.
fn keeps(look: &Look<'_>, at: &TaskRef, root: &Root) -> Vec<String> {
    let Some(place) = look.waits.place(at.tid) else {
        return Vec::new();
    };
    if !matches!(
        root,
        Root::Running { .. } | Root::Sleeping { .. } | Root::Exited
    ) {
        return Vec::new();
    }
    let who = name_of(at);
    let mut lines = Vec::new();
    let held = look.kept(&look.waits.tasks[place]);
    if !held.is_empty() {
        lines.push(format!("{who} holds {}", list(&held)));
    }
    let behind = look.waits.behind(&[place]);
    if !behind.is_empty() {
        let mut names = look.task_names(&behind);
        if behind.len() > names.len() {
            names.push(format!("{} more", behind.len() - names.len()));
        }
        lines.push(format!(
            "{} behind it: {}",
            count(behind.len(), "task"),
            list(&names)
        ));
    }
    // vfio_iommu_type1 calls back into the driver with locks of its own held (v6.0 to 7.3), and a pin asks for these.
    let unmaps = |&waiter: &usize| {
        let mut calls = look.waits.tasks[waiter].inside.iter();
        calls.any(|call| call.entry == u32::from(entry_id::DMA_UNMAP))
    };
    let in_type1 = matches!(root, Root::Sleeping { in_function, .. } if in_function.contains("vfio_iommu_type1_"));
    if in_type1 && behind.iter().any(unmaps) {
        lines.push(
            "an unmapping of memory waits behind it, with locks of vfio_iommu_type1 that are not measured: the two may wait for each other (possible by the code; no such report is known)".into(),
        );
    }
    lines
}

fn help(look: &Look<'_>, task: &frame::TaskState, root: Option<&(TaskRef, Root)>) -> Vec<String> {
    let mut help = match root {
        Some((_, Root::Running { .. })) if look.from_stacks() => vec![
            "save the stacks again: if the root is in the same call, and its CPU is busy all the time, it is in a loop"
                .into(),
        ],
        Some((_, Root::Running { .. })) => {
            vec!["wait, unless the root's CPU is busy in the same call all the time: then it is in a loop".into()]
        }
        Some((
            _,
            Root::Sleeping {
                progress: Progress::Moves,
                ..
            },
        )) => vec!["wait: the root goes on".into()],
        Some((
            _,
            Root::Sleeping {
                progress,
                in_function,
                ..
            },
        )) => {
            let mut help = Vec::new();
            let ours = verdict::is_drivers(in_function);
            if !ours {
                help.push(format!(
                    "look for what {in_function} waits for (storage, memory, another driver): nothing else wakes the root"
                ));
            }
            if ours || *progress == Progress::NotSeen {
                help.push("save the stacks again after ten seconds: if the root's is the same, it does not get on".into());
            }
            help
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
        help.push("this wait is killable: killing QEMU ends it".into());
    }
    help
}

/// A wake-up was lost: that is a finding of its own.
fn waits_for_clear_flag(look: &Look<'_>, task: &frame::TaskState) -> bool {
    innermost(task).is_some_and(|wait| {
        query::open_coded(wait.series as u8) && look.flag_is_clear(wait.instance)
    })
}
