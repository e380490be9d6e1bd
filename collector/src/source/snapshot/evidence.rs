//! What a stack implies, put on record where the locks' own words do not contradict it.
//!
//! A stack knows classes of locks, not instances, and several readings may be left of it. The words decide: an awaited lock
//! must have the task in its queue, a lock that is held alone must name it as its owner. Readers are in no word; they are
//! taken from the stack, for the rwsem of the task's own guest, while its count says that there are readers.

use std::collections::HashMap;

use probe_ebpf::abi::{LockKind, Mode, series};
use probe_ebpf::names::{CLASSES, class_id, entry_id};

use super::Scene;
use super::queues::{Queue, Shapes};
use super::stacks::Slept;
use crate::diagnose::stacks::table::{Candidate, Implied, Lock, imply};
use crate::frame;
use crate::source::kernel::verify::Watched;
use crate::source::kernel::words::Memory;

/// Frames of a stack that are given.
const FRAMES: usize = 32;

/// Adds to what something is known from.
pub fn name(evidence: &mut String, by: &str) {
    if evidence.split(',').any(|known| known == by) {
        return;
    }
    if !evidence.is_empty() {
        evidence.push(',');
    }
    evidence.push_str(by);
}

/// A probe has seen something of this task, so that its record is whole.
pub fn is_probed(task: &frame::TaskState) -> bool {
    let probe = |evidence: &str| evidence.split(',').any(|by| by == "probe");
    task.holds.iter().any(|hold| probe(&hold.evidence))
        || task.waits.iter().any(|wait| probe(&wait.evidence))
        || !task.inside.is_empty()
}

/// Puts on record what a stack implies. Whether the task is of interest: it is in or behind a function of the driver.
pub fn add(
    scene: &Scene<'_, impl Memory>,
    shapes: &Shapes,
    queues: &HashMap<u64, Queue>,
    slept: &Slept,
    live: &mut frame::Live,
) -> bool {
    let implied = imply(&slept.task, scene.generations);
    let tid = slept.task.tid;
    let place = live.tasks.iter().position(|task| task.tid == tid);
    if implied.inside.is_empty() && implied.rule.is_empty() {
        return place.is_some();
    }
    let place = place.unwrap_or_else(|| {
        live.tasks.push(frame::TaskState {
            tid,
            pid: slept.pid,
            comm: slept.task.comm.clone(),
            ..frame::TaskState::default()
        });
        live.tasks.len() - 1
    });
    let Some(task) = live.tasks.get_mut(place) else {
        return false;
    };
    // Without types of tasks, their names are not read from memory.
    if task.comm.is_empty() {
        task.comm.clone_from(&slept.task.comm);
    }
    if is_probed(task) {
        return true;
    }
    // Since it ran last: since its wait began, or since its stack was first seen as it is.
    let waits = task.waits.last().map(|wait| wait.since_ns);
    let since_ns = waits.unwrap_or(scene.now_ns).min(slept.since_ns);
    task.inside = implied
        .inside
        .iter()
        .map(|&entry| frame::Inside {
            entry: u32::from(entry),
            since_ns,
            ..frame::Inside::default()
        })
        .collect();
    let guest = guest(scene.watched, task);
    let innermost = implied.inside.last().copied().unwrap_or(entry_id::NONE);
    let entry = u32::from(innermost);
    let held = wait(scene, shapes, &implied, guest, entry, since_ns, task);
    for lock in held {
        hold(scene, queues, lock, guest, entry, since_ns, task);
    }
    true
}

/// Settles which of the awaited locks it is; returns what is held then.
fn wait(
    scene: &Scene<'_, impl Memory>,
    shapes: &Shapes,
    implied: &Implied,
    guest: u32,
    entry: u32,
    since_ns: u64,
    task: &mut frame::TaskState,
) -> Vec<Lock> {
    let Some(candidates) = &implied.waits else {
        return implied.holds.clone();
    };
    let of_class = |wait: &frame::Waiting, class: u8| wait.series >> 1 == u32::from(class);
    if let Some(wait) = task.waits.last_mut() {
        wait.entry = entry;
        let chosen = candidates.iter().find(|c| of_class(wait, c.lock.0));
        return match chosen {
            Some(chosen) => {
                name(&mut wait.evidence, "stack");
                chosen.holds.clone()
            }
            // The stack is of another moment than the queue.
            None => Vec::new(),
        };
    }
    // No queue has it. Where the queue can be read, the task was on its way into it or out of it.
    if let Some(only) = only_one(candidates, &task.holds) {
        let (class, mode) = only.lock;
        let kind = CLASSES.get(usize::from(class)).map(|class| class.kind);
        if kind.is_some_and(|kind| kind != LockKind::Work && !shapes.knows(kind))
            && let Some(lock) = own(scene.watched, class, guest)
        {
            task.waits.push(frame::Waiting {
                entry,
                ..lock.waiting(mode, since_ns, lock.address ^ since_ns, "stack")
            });
            return only.holds.clone();
        }
    }
    // A queue that can be read does not have it.
    Vec::new()
}

/// The one candidate that there is, or that the words of mutexes leave: a task does not wait for a mutex that it has, and
/// has those that the place of its wait says.
fn only_one<'c>(candidates: &'c [Candidate], holds: &[frame::Holding]) -> Option<&'c Candidate> {
    if let [only] = candidates {
        return Some(only);
    }
    let has = |(class, _): &Lock| {
        holds
            .iter()
            .any(|hold| hold.series >> 1 == u32::from(*class))
    };
    let is_mutex = |(class, _): &Lock| {
        let known = CLASSES.get(usize::from(*class));
        known.is_some_and(|class| class.kind == LockKind::Mutex)
    };
    let mut left = candidates.iter().filter(|candidate| {
        let mut mutexes = candidate.holds.iter().filter(|lock| is_mutex(lock));
        !(is_mutex(&candidate.lock) && has(&candidate.lock)) && mutexes.all(has)
    });
    let only = left.next()?;
    left.next().is_none().then_some(only)
}

/// The process of the guest that a task works for: that of the locks on its record, else its own.
fn guest(watched: &[Watched], task: &frame::TaskState) -> u32 {
    let holds = task.holds.iter().map(|hold| hold.lock);
    let waits = task.waits.iter().map(|wait| wait.lock);
    holds
        .chain(waits)
        .filter_map(|address| watched.iter().find(|lock| lock.address == address))
        .map(|lock| lock.tgid)
        .find(|tgid| *tgid != 0)
        .unwrap_or(task.pid)
}

/// The one lock of a class that it can be: there is no other, or no other of this guest's process.
fn own(watched: &[Watched], class: u8, tgid: u32) -> Option<&Watched> {
    let mut all = watched.iter().filter(|lock| lock.class == class);
    let first = all.next()?;
    if all.next().is_none() {
        return Some(first);
    }
    let mut of_process = watched
        .iter()
        .filter(|lock| lock.class == class && lock.tgid == tgid && tgid != 0);
    let only = of_process.next()?;
    of_process.next().is_none().then_some(only)
}

fn hold(
    scene: &Scene<'_, impl Memory>,
    queues: &HashMap<u64, Queue>,
    (class, mode): Lock,
    guest: u32,
    entry: u32,
    since_ns: u64,
    task: &mut frame::TaskState,
) {
    let wanted = u32::from(series(class, mode));
    // The one lock of the table that an outer function takes.
    let entry = if class == class_id::VCPU_MUTEX
        && task
            .inside
            .iter()
            .any(|i| i.entry == u32::from(entry_id::KVM_VCPU_IOCTL))
    {
        u32::from(entry_id::KVM_VCPU_IOCTL)
    } else {
        entry
    };
    let mut recorded = false;
    for hold in task.holds.iter_mut().filter(|hold| hold.series == wanted) {
        name(&mut hold.evidence, "stack");
        hold.entry = entry;
        recorded = true;
    }
    if recorded {
        return;
    }
    let flag = || {
        own(scene.watched, class, guest)
            .filter(|lock| queues.get(&lock.address).is_some_and(|queue| queue.set))
    };
    let known = CLASSES.get(usize::from(class)).map(|class| class.kind);
    let (lock, evidence) = match (known, mode) {
        (Some(LockKind::Rwsem), Mode::Read) => {
            let lock = own(scene.watched, class, guest).filter(|lock| {
                // Where the count is not readable, the stack is all there is.
                queues
                    .get(&lock.address)
                    .is_none_or(|queue| queue.readers != 0)
            });
            (lock, "stack")
        }
        (Some(LockKind::Flag), _) => (flag(), "lock word,stack"),
        // Its word would name the task.
        _ => return,
    };
    let Some(lock) = lock else { return };
    task.holds.push(frame::Holding {
        entry,
        ..lock.holding(mode, since_ns, lock.address ^ since_ns, evidence)
    });
}

/// The stack, for people.
pub fn stack(slept: &Slept, live: &frame::Live) -> Option<frame::Stack> {
    let task = live.tasks.iter().find(|task| task.tid == slept.task.tid)?;
    let wait = task.waits.last();
    let record = wait.map(|wait| (wait.series, wait.instance, wait.since_ns));
    let held = || {
        let hold = task.holds.last()?;
        Some((hold.series, hold.instance, hold.since_ns))
    };
    let (series, instance, since_ns) = record.or_else(held)?;
    // A vCPU that is in KVM_RUN is nothing to show.
    let usual = CLASSES
        .get((series >> 1) as usize)
        .is_some_and(|class| class.long_hold_is_normal);
    if wait.is_none() && usual {
        return None;
    }
    let frames = slept.task.frames.iter().take(FRAMES);
    Some(frame::Stack {
        tid: task.tid,
        comm: task.comm.clone(),
        series,
        instance: instance + 1,
        entry: task
            .inside
            .last()
            .map_or(u32::from(entry_id::NONE), |i| i.entry),
        hold: wait.is_none(),
        ended: false,
        since_ns,
        duration_ns: 0,
        frames: frames.map(ToString::to_string).collect(),
    })
}
