//! The locks a task holds: finding, adding, ending.

use super::stats::{Place, count_hold};
use super::{Env, Note, begin, emit, end, failure, serial, take_stack, unknown};
use crate::abi::{Held, Info, MAX_HELD, Program, SPAN_LOCK, Span, Task, TaskExtremes};

/// The place in `held` that has this address, 0 for a free one; [`MAX_HELD`] if there is none.
#[inline(always)]
fn place_of(task: &Task, address: u64) -> usize {
    let mut place = MAX_HELD;
    for (n, held) in task.held.iter().enumerate().rev() {
        if held.lock.get() == address {
            place = n;
        }
    }
    unknown(task, place)
}

/// The holding of this lock, if the task has one.
#[inline(always)]
pub(super) fn find_held(task: &Task, address: u64) -> Option<&Held> {
    let latest = task.latest.get() as usize & (MAX_HELD - 1);
    let latest = task.held.get(latest)?;
    if latest.lock.get() == address {
        return Some(latest);
    }
    task.held.get(place_of(task, address))
}

/// The task holds a lock from now on.
#[inline(always)]
pub(super) fn push_held<E: Env>(
    env: &E,
    program: Program,
    task: &Task,
    address: u64,
    now: u64,
    wait: u64,
    info: Info,
) {
    // Most tasks release in reverse order, so the place after the latest, or the latest itself, is free.
    let held_len = task.held_len.get();
    let mut place = held_len as usize & (MAX_HELD - 1);
    if task.held.get(place).is_none_or(|held| held.lock.get() != 0) {
        place = place_of(task, 0);
    }
    let Some(held) = task.held.get(place) else {
        task.lost_holds.set(task.lost_holds.get() + 1);
        failure(env, program, Note::Overflow, address);
        return;
    };
    held.since.set(now);
    held.wait.set(wait);
    held.serial.set(serial(task));
    held.info.set(info.pack());
    held.lock.set(address);
    task.held_len.set(held_len + 1);
    task.latest.set(place as u64);
}

/// Frees a place in `held`. What is left is most often in the place before.
#[inline(always)]
pub(super) fn free_held(task: &Task, held: &Held) {
    held.lock.set(0);
    let held_len = task.held_len.get() - 1;
    task.held_len.set(held_len);
    task.latest
        .set(held_len.wrapping_sub(1) & (MAX_HELD as u64 - 1));
}

/// Ends a hold: statistics, span, and the record.
#[inline(always)]
pub(super) fn finish_hold<E: Env>(
    env: &E,
    task: &Task,
    extremes: &TaskExtremes,
    held: &Held,
    now: u64,
) {
    let since = held.since.get();
    let wait = held.wait.get();
    let info = Info::unpack(held.info.get());
    begin(task);
    free_held(task, held);
    end(task);
    let duration = now.saturating_sub(since);
    count_hold(env, extremes, Place::of(info), duration);
    take_stack(env, Program::Release, task, info, since, duration, true);
    let span = Span {
        start_ns: since,
        duration_ns: duration,
        extra: wait,
        tid: task.id.get() as u32,
        instance: info.instance,
        result: 0,
        kind: SPAN_LOCK,
        what: info.series,
        inside: info.entry,
        flags: info.flags,
    };
    emit(env, Program::Release, &span);
}
