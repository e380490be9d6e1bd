//! AP001: a deadlock, now.

use std::collections::BTreeSet;

use probe_ebpf::abi::LockKind;
use probe_ebpf::names::class_id;

use super::{Doc, REBOOT, Rule, killable};
use crate::diagnose::chain::Chain;
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::{By, Knot, innermost};
use crate::diagnose::look::Look;
use crate::diagnose::words::{count, list};
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(1),
    title: "deadlock now",
    text: "\
Tasks wait for each other in a circle, so that none of them goes on. Open-coded locks (a flag and a wait queue), both
sides of an rwsem and readers that queue behind a waiting writer are links of the circle like any mutex.

**How it is known.** From live state, which is read and not replayed: who holds and who waits. The same waits and the
same holds (each has a number) stood in at least two readings, and no task of the circle has run in between, where its
context switches are known. Each link says how it is known: probe, lock word, or stack.

**What can help.** The finding says for each wait whether killing its process ends it. In this driver and in KVM only
`kvm_vcpu_ioctl` takes its lock (`vcpu->mutex`) killably; all else is uninterruptible, and then only a reboot helps, after
a dump. Waiting never helps.
",
};

#[derive(Default, Clone)]
pub(super) struct Deadlock {
    /// Circles found: thread ids and numbers of the waits, in order, and the key.
    known: Vec<Known>,
}

#[derive(Clone)]
struct Known {
    waits: Vec<(u32, u64)>,
    key: String,
    /// When it was told, and of how many tasks in the knot and behind it.
    told_ns: u64,
    told: (usize, usize),
}

/// Locks of a circle in its sentence.
const MAX_NAMED: usize = 8;
/// Tasks of a circle that are listed.
const MAX_TASKS: usize = 64;

/// Durations in the texts are brought up to date so often, everything else at once.
const REFRESH_NS: u64 = 1_000_000_000;

impl Rule for Deadlock {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        // A wait that is over does not come back: its number is given once.
        self.known.retain(|known| {
            known.waits.iter().all(|(tid, serial)| {
                let task = look.waits.place(*tid).map(|place| &look.waits.tasks[place]);
                task.and_then(innermost)
                    .is_some_and(|wait| wait.serial == *serial)
            })
        });
        for knot in look.waits.knots() {
            if let Some(sighting) = self.knot(look, &knot) {
                seen.push(sighting);
            }
        }
    }
}

impl Deadlock {
    fn knot(&mut self, look: &Look<'_>, knot: &Knot) -> Option<Sighting> {
        let members: BTreeSet<usize> = knot.members.iter().copied().collect();
        // Others may have joined the knot: the circle that was shown first stays.
        let known = self.known.iter().enumerate().find_map(|(number, known)| {
            let places: Option<Vec<usize>> = known
                .waits
                .iter()
                .map(|(tid, _)| look.waits.place(*tid).filter(|task| members.contains(task)))
                .collect();
            // A reader may have released the lock for another one, which is not in the circle.
            let places = places.filter(|places| closed(look, places))?;
            Some((number, places))
        });
        let (number, cycle) = if let Some(known) = known {
            known
        } else {
            if !stands(look, &knot.cycle) {
                return None;
            }
            let waits = knot.cycle.iter().map(|&task| wait_key(look, task));
            self.known.push(Known {
                waits: waits.collect(),
                key: key(look, &knot.cycle),
                told_ns: 0,
                told: (0, 0),
            });
            (self.known.len() - 1, knot.cycle.clone())
        };
        let known = &mut self.known[number];
        let behind = look.waits.behind(&knot.members);
        let told = (members.len(), behind.len());
        if known.told == told && !look.last && look.ago(known.told_ns) < REFRESH_NS {
            return Some(Sighting::still(known.key.clone()));
        }
        (known.told, known.told_ns) = (told, look.now());
        Some(sighting(look, &cycle, knot, &behind, known.key.clone()))
    }
}

fn wait_key(look: &Look<'_>, task: usize) -> (u32, u64) {
    let task = &look.waits.tasks[task];
    (task.tid, innermost(task).map_or(0, |wait| wait.serial))
}

/// Each of these tasks waits for the next one, and the last for the first.
fn closed(look: &Look<'_>, cycle: &[usize]) -> bool {
    cycle.iter().enumerate().all(|(place, &task)| {
        let next = cycle[(place + 1) % cycle.len()];
        let mut blockers = look.waits.blockers(task).iter();
        blockers.any(|blocker| blocker.task == next)
    })
}

/// The waits of the circle, and the holds that they wait for, were there in the reading before. What is read from
/// stacks is one reading, taken of tasks that had not run for long.
fn stands(look: &Look<'_>, cycle: &[usize]) -> bool {
    let readings = if look.from_stacks() { 1 } else { 2 };
    cycle.iter().enumerate().all(|(place, &task)| {
        let next = cycle[(place + 1) % cycle.len()];
        look.waits_still(&look.waits.tasks[task], readings)
            && look.waits.blockers(task).iter().any(|blocker| {
                let other = &look.waits.tasks[blocker.task];
                blocker.task == next
                    && (blocker.by == By::QueuedBefore
                        || other
                            .holds
                            .get(blocker.record)
                            .and_then(|hold| look.standing.hold(other.tid, hold))
                            .is_some_and(|stood| stood.readings >= readings))
            })
    })
}

/// Classes in order, and what tells this circle from another one.
fn key(look: &Look<'_>, cycle: &[usize]) -> String {
    let waits: Vec<String> = cycle
        .iter()
        .map(|&task| {
            let (tid, serial) = wait_key(look, task);
            format!("{tid}.{serial}")
        })
        .collect();
    format!("{} #{}", classes(look, cycle).join(" > "), waits.join(","))
}

fn classes<'a>(look: &Look<'a>, cycle: &[usize]) -> Vec<&'a str> {
    cycle
        .iter()
        .filter_map(|&task| innermost(&look.waits.tasks[task]))
        .map(|wait| query::class_name(wait.series as u8))
        .collect()
}

fn sighting(
    look: &Look<'_>,
    cycle: &[usize],
    knot: &Knot,
    behind: &[usize],
    key: String,
) -> Sighting {
    let tasks = cycle.iter().map(|&task| &look.waits.tasks[task]);
    let waits: Vec<_> = tasks.clone().filter_map(innermost).collect();
    let locks: Vec<String> = waits
        .iter()
        .map(|wait| look.lock_name(wait.series, wait.instance))
        .collect();
    let who = match cycle.len() {
        1 => "a task waits for itself".to_owned(),
        n => format!("{} wait for each other", count(n, "task")),
    };
    let mut named = locks.clone();
    if named.len() > MAX_NAMED {
        named.truncate(MAX_NAMED);
        named.push(count(locks.len() - MAX_NAMED, "more lock"));
    }
    let mut sighting = Sighting::new(key, Severity::Critical, format!("{who}: {}", list(&named)));
    sighting.since_ns = waits.iter().map(|wait| wait.since_ns).max().unwrap_or(0);
    let first = tasks.clone().take(MAX_TASKS);
    sighting.tasks = first.map(|task| look.task_ref(task)).collect();
    sighting.chain = cycle.first().and_then(|&task| Chain::of(look, task));
    let hidden: BTreeSet<&String> = waits
        .iter()
        .zip(&locks)
        .filter(|(wait, _)| query::open_coded(wait.series as u8))
        .map(|(_, lock)| lock)
        .collect();
    if !hidden.is_empty() {
        let hidden: Vec<String> = hidden.into_iter().cloned().collect();
        sighting.details.push(format!(
            "{} is an open-coded lock (a flag and a wait queue): lockdep cannot see this circle",
            list(&hidden)
        ));
        let driver = [class_id::MATRIX_DEV_LOCK, class_id::MDEVS_LOCK];
        let held = look.waits.tasks.iter().any(|task| {
            task.holds.iter().any(|hold| {
                let stood = look.standing.hold(task.tid, hold);
                driver.contains(&((hold.series >> 1) as u8))
                    && stood.is_some_and(|stood| stood.readings > 1 || look.from_stacks())
            })
        });
        if !held {
            sighting.details.push(
                "nobody stands on the driver's own lock: other mdevs and their guests keep working"
                    .into(),
            );
        }
    }
    let inner = knot.members.len().saturating_sub(cycle.len());
    if inner > 0 {
        sighting
            .details
            .push(format!("{} more in the same knot", count(inner, "task")));
    }
    if !behind.is_empty() {
        sighting.details.push(match behind.len() {
            1 => "1 further task waits behind it".to_owned(),
            n => format!("{n} further tasks wait behind it"),
        });
    }
    for task in tasks.take(MAX_TASKS) {
        for held in look.besides(task) {
            let who = query::task_name(task);
            sighting.details.push(format!("{who} also {held}"));
        }
    }
    let assumed = waits
        .iter()
        .filter(|wait| wait.evidence.contains("assumed"));
    let twice = assumed
        .clone()
        .filter(|wait| wait.evidence.contains("the same in two saves"))
        .count();
    let assumed = assumed.count() - twice;
    if twice > 0 {
        sighting.details.push(format!(
            "{} of the circle: the stack allows another lock too, this one fits the others, and a second save of the stacks is the same: nobody has moved",
            count(twice, "assumed wait")
        ));
    }
    sighting.locks = locks;
    sighting.meaning = meaning(look, knot, behind);
    sighting.help = help(look, cycle);
    if assumed > 0 {
        sighting.details.push(format!(
            "{} of the circle: the stack allows another lock too, and this one fits the others",
            count(assumed, "assumed wait")
        ));
        sighting.help.insert(
            0,
            "save the stacks again after ten seconds: if they are the same, it is certain".into(),
        );
    }
    sighting
}

fn meaning(look: &Look<'_>, knot: &Knot, behind: &[usize]) -> String {
    let guests = |places: &[usize]| -> Vec<String> {
        let of: BTreeSet<u32> = places
            .iter()
            .filter_map(|&task| look.guest(&look.waits.tasks[task]))
            .collect();
        of.into_iter()
            .map(|guest| look.guest_label(guest))
            .collect()
    };
    let own = guests(&knot.members);
    let others: Vec<String> = guests(behind)
        .into_iter()
        .filter(|guest| !own.contains(guest))
        .collect();
    let own = if own.is_empty() {
        "the guest".to_owned()
    } else {
        list(&own)
    };
    let mut text =
        format!("{own} cannot be stopped, and its vCPUs in the circle do not run any more");
    if !others.is_empty() {
        text = format!(
            "{text}; {} blocked too",
            if others.len() == 1 {
                format!("{} is", list(&others))
            } else {
                format!("{} are", list(&others))
            }
        );
    }
    text
}

fn help(look: &Look<'_>, cycle: &[usize]) -> Vec<String> {
    let mut help = Vec::new();
    for &task in cycle {
        let task = &look.waits.tasks[task];
        let Some(wait) = innermost(task) else {
            continue;
        };
        if killable(wait) {
            help.push(format!(
                "killing process {} ends the wait of {} (mutex_lock_killable), and with it the circle; the guest is lost",
                task.pid,
                query::task_name(task)
            ));
        }
    }
    if help.is_empty() {
        help.push(
            "killing QEMU does not help: every wait of the circle is uninterruptible; nor does waiting".into(),
        );
        help.push(REBOOT.into());
    }
    if cycle.iter().any(|&task| {
        innermost(&look.waits.tasks[task])
            .is_some_and(|wait| query::kind(wait.series as u8) == LockKind::Work)
    }) {
        help.push("a work item is part of it: its worker is one of the tasks".into());
    }
    help
}
