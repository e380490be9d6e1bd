//! AP006: locks held by somebody who sleeps.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use probe_ebpf::abi::LockKind;
use probe_ebpf::names::{ENTRY_POINTS, class_id};

use super::{Doc, Rule, taken_in};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::{Look, RecordKey};
use crate::diagnose::words::{duration, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(6),
    title: "sleeping under lock",
    text: "\
Locks were held for long, and for most of that time their holder slept: in msleep between two polls of a queue, in
flush_work until a worker had polled it, or while pages were pinned. Everybody else waited for a clock.

**How it is known.** Each reading says for every hold above the threshold whether its holder ran, waited for another
traced lock, or slept. A hold counts when it is over: whoever is in a call with one that never ends is AP012. The share is that of
readings, not of time. A lock that is not the driver's own (`kvm->lock`, the AP bus's mutex) counts only in readings in which
its holder was in a function of the driver: what KVM sleeps for by itself is not the driver's. Holds of `vcpu->mutex`, of
VFIO's own locks around a whole open or close, which are long by design, and of work items are left out.

**What can help.** It goes on by itself. Fewer queues per guest make resets shorter; starting or stopping guests and
changing matrices one after the other, and not at once, keeps the queue short.
",
};

/// Time that is looked back over.
const WINDOW_NS: u64 = 10_000_000_000;
/// Readings of sleeping holders that make a finding.
const READINGS: u64 = 3;
/// Holds followed, and kinds of holds remembered.
const MAX_FOLLOWED: usize = 4096;
/// Locks named of one place.
const MAX_LOCKS: usize = 16;

/// Locks of VFIO and of one guest's device, which are around a whole open or close by design.
const OUTER: [u8; 5] = [
    class_id::KV_LOCK,
    class_id::GROUP_NOTIFIER_RWSEM,
    class_id::DEV_SET_LOCK,
    class_id::GROUP_LOCK,
    class_id::GROUP_RWSEM,
];

/// The driver's own locks: whoever sleeps with one of them keeps the driver waiting, wherever it sleeps.
const OWN: [u8; 4] = [
    class_id::MATRIX_DEV_LOCK,
    class_id::MDEVS_LOCK,
    class_id::GUESTS_LOCK,
    class_id::KVM_BUSY,
];

/// A function of the driver.
fn is_drivers(entry: u8) -> bool {
    ENTRY_POINTS
        .get(usize::from(entry))
        .is_some_and(|point| point.module == "vfio_ap")
}

/// A hold that is followed until it is over.
#[derive(Clone)]
struct Followed {
    place: Place,
    lock: (u8, u32),
    task: TaskRef,
    since_ns: u64,
    seen_ns: u64,
    sleeping: u64,
    readings: u64,
    elsewhere: u64,
}

/// Where a hold was slept in: the function that it was acquired in, and whether that is not known because it began before
/// measuring; the function that sleeps.
type Place = (u8, bool, String);

/// The holds of one place that were over in one tick.
#[derive(Clone)]
struct Over {
    at_ns: u64,
    holds: u64,
    locks: BTreeSet<(u8, u32)>,
    longest: TaskRef,
    held_ns: u64,
    sleeping: u64,
    readings: u64,
    elsewhere: u64,
}

#[derive(Default, Clone)]
pub(super) struct SleepingUnderLock {
    followed: HashMap<RecordKey, Followed>,
    over: BTreeMap<Place, VecDeque<Over>>,
}

impl Rule for SleepingUnderLock {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let now = look.now();
        for task in look.waits.tasks {
            self.follow(look, task);
        }
        let ended: Vec<RecordKey> = self
            .followed
            .iter()
            .filter(|(_, hold)| hold.seen_ns != now)
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            let Some(hold) = self.followed.remove(&key) else {
                continue;
            };
            if self.over.len() >= MAX_FOLLOWED && !self.over.contains_key(&hold.place) {
                continue;
            }
            let of = self.over.entry(hold.place).or_default();
            let held_ns = hold.seen_ns.saturating_sub(hold.since_ns);
            match of.back_mut().filter(|over| over.at_ns == now) {
                Some(over) => {
                    over.holds += 1;
                    over.sleeping += hold.sleeping;
                    over.readings += hold.readings;
                    over.elsewhere += hold.elsewhere;
                    if over.locks.len() < MAX_LOCKS {
                        over.locks.insert(hold.lock);
                    }
                    if held_ns > over.held_ns {
                        (over.held_ns, over.longest) = (held_ns, hold.task);
                    }
                }
                None => of.push_back(Over {
                    at_ns: now,
                    holds: 1,
                    locks: BTreeSet::from([hold.lock]),
                    longest: hold.task,
                    held_ns,
                    sleeping: hold.sleeping,
                    readings: hold.readings,
                    elsewhere: hold.elsewhere,
                }),
            }
        }
        self.over.retain(|_, of| {
            while of
                .front()
                .is_some_and(|hold| now.saturating_sub(hold.at_ns) > WINDOW_NS)
            {
                of.pop_front();
            }
            !of.is_empty()
        });
        seen.extend(
            self.over
                .iter()
                .filter_map(|(place, of)| sighting(look, place, of)),
        );
    }
}

impl SleepingUnderLock {
    fn follow(&mut self, look: &Look<'_>, task: &frame::TaskState) {
        let Some(asleep) = asleep(task) else {
            // A hold is not over because its holder's state was not read.
            for hold in &task.holds {
                let key = (task.tid, hold.series, hold.serial);
                if let Some(followed) = self.followed.get_mut(&key) {
                    followed.seen_ns = look.now();
                }
            }
            return;
        };
        let in_driver = task.inside.iter().any(|call| is_drivers(call.entry as u8));
        let least = look.nanos(look.thresholds.slept_hold);
        for hold in &task.holds {
            let series = hold.series as u8;
            if OUTER.contains(&(series >> 1))
                || query::kind(series) == LockKind::Work
                || query::long_hold_is_normal(series)
                || look.ago(hold.since_ns) < least
            {
                continue;
            }
            let key = (task.tid, hold.series, hold.serial);
            if self.followed.len() >= MAX_FOLLOWED && !self.followed.contains_key(&key) {
                continue;
            }
            let followed = self.followed.entry(key).or_insert_with(|| Followed {
                place: (hold.entry as u8, hold.adopted, String::new()),
                lock: (series, hold.instance),
                task: TaskRef {
                    tid: task.tid,
                    comm: task.comm.clone(),
                    role: String::new(),
                },
                since_ns: hold.since_ns,
                seen_ns: 0,
                sleeping: 0,
                readings: 0,
                elsewhere: 0,
            });
            followed.seen_ns = look.now();
            // Somebody who waits for a traced lock may wait for the driver.
            if !in_driver && !OWN.contains(&(series >> 1)) && matches!(asleep, Asleep::In(_)) {
                followed.elsewhere += 1;
                continue;
            }
            followed.readings += 1;
            if followed.readings == 2 {
                followed.task.role = look.role(task);
            }
            if let Asleep::In(function) = &asleep {
                followed.sleeping += 1;
                followed.place.2.clone_from(function);
            }
        }
    }
}

enum Asleep {
    /// It sleeps in this function.
    In(String),
    /// It runs, or waits for a traced lock.
    No,
}

/// Whether a task sleeps where no traced lock is waited for; `None` if that is not known.
fn asleep(task: &frame::TaskState) -> Option<Asleep> {
    if let Some(wait) = innermost(task) {
        return Some(if query::kind(wait.series as u8) == LockKind::Work {
            Asleep::In("flush_work".into())
        } else {
            Asleep::No
        });
    }
    match task.state.as_str() {
        "" => None,
        "S" | "D" if task.asleep_in.is_empty() => {
            Some(Asleep::In("a function that is not known".into()))
        }
        "S" | "D" => Some(Asleep::In(task.asleep_in.clone())),
        _ => Some(Asleep::No),
    }
}

fn sighting(look: &Look<'_>, place: &Place, of: &VecDeque<Over>) -> Option<Sighting> {
    let sum = |count: fn(&Over) -> u64| of.iter().map(count).fold(0, u64::saturating_add);
    let (sleeping, readings) = (sum(|hold| hold.sleeping), sum(|hold| hold.readings));
    if sleeping < READINGS || sleeping * 2 < readings {
        return None;
    }
    let entry = query::entry_name(place.0);
    let taken = if place.1 {
        "before measuring began".into()
    } else {
        taken_in(place.0)
    };
    let longest = of.iter().max_by_key(|over| over.held_ns)?;
    let locks: BTreeSet<(u8, u32)> = of.iter().flat_map(|over| &over.locks).copied().collect();
    // Both modes of an rwsem have one name.
    let locks: BTreeSet<String> = locks
        .into_iter()
        .take(MAX_LOCKS)
        .map(|(series, instance)| look.lock_name(u32::from(series), instance))
        .collect();
    let locks: Vec<String> = locks.into_iter().collect();
    let shown = locks.len().min(4);
    let mut sighting = Sighting::new(
        format!("{entry} {}", place.2),
        Severity::Warning,
        format!(
            "locks taken {taken} are held while their holder sleeps in {}, {} at most",
            place.2,
            duration(longest.held_ns)
        ),
    );
    sighting.details.push(format!(
        "asleep in {sleeping} of {readings} readings of {} such holds in the last 10 s",
        sum(|over| over.holds)
    ));
    let elsewhere = sum(|hold| hold.elsewhere);
    if elsewhere > 0 {
        sighting.details.push(format!(
            "{elsewhere} readings more, in which the holder slept outside of the driver's functions, are not counted"
        ));
    }
    let mut named = locks[..shown].to_vec();
    if locks.len() > shown {
        named.push(format!("{} more", locks.len() - shown));
    }
    sighting.details.push(format!("of {}", list(&named)));
    sighting.tasks = vec![longest.longest.clone()];
    sighting.symptom = match place.2.as_str() {
        "msleep" | "flush_work" => sighting.key.clone(),
        _ => format!("{} pinning", sighting.key),
    };
    sighting.locks = locks;
    sighting.meaning = "everybody who wants these locks waits for a timer".into();
    sighting.help = vec!["it goes on by itself; resets of fewer queues at once are shorter".into()];
    Some(sighting)
}
