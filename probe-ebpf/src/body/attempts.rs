//! Lock functions that are seen when they are called, and not when they return: kernels without fexit.
//!
//! A return probe on `mutex_lock` is no way out: every blocked task keeps one of the kernel's return instances, and
//! they run out exactly in a pile-up. So what is known at the call is written down as *pending*, and settled at the
//! task's next event, when the function has returned:
//!
//! * With `contention_begin` and `contention_end`, a pending acquisition is one that took the fast path, unless
//!   `contention_begin` comes first; then those events are exact.
//! * Without them (before Linux 5.19), the lock word at the call tells whether the lock was taken. The acquisition after
//!   a wait is dated at the release before it, which is when the lock was handed on.
//!
//! Functions that may return without the lock are settled by the owner word; the trylocks of an rwsem, whose word does not
//! name its readers, by what they return. They never sleep, so a return probe on them keeps nothing.

use super::holds::{find_held, free_held, push_held};
use super::locks::{place, taken, wish};
use super::stats::{Place, count_contended, count_failed, count_uncontended, count_wait};
use super::{
    Env, Note, begin, current_entry, end, failure, flags, innermost_wait, pop_wait, record_order,
    renew, waits,
};
use crate::abi::{
    HELD_CONTENDED, HELD_IS_GUARD, HELD_TENTATIVE, Held, Info, LockInfo, LockKind, MAX_HELD, Mode,
    NO_OFFSET, PENDING_HOLD, PENDING_MAY_FAIL, PENDING_TRY, PENDING_WAIT, Program, Task,
    TaskExtremes,
};

/// How a lock function may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It returns with the lock: `mutex_lock`, `down_read`, `down_write`.
    Sure,
    /// It may be interrupted while it waits: `mutex_lock_killable` and its kin.
    MayFail,
    /// It does not wait: `mutex_trylock`. There is no order edge towards it.
    Try,
}

/// Bits of `owner` that are no part of the task's address (`MUTEX_FLAGS`, kernel/locking/mutex.c).
const OWNER_FLAGS: u64 = 7;
/// `RWSEM_WRITER_LOCKED`, `RWSEM_FLAG_WAITERS` and `RWSEM_FLAG_HANDOFF` (kernel/locking/rwsem.c, since 5.3).
const RWSEM_NOT_FOR_READERS: u64 = 7;

/// A lock function was called.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn attempt<E: Env>(env: &E, address: u64, mode: Mode, how: Attempt) {
    let Some(info) = taken(env, address, mode) else {
        return;
    };
    if env.level() < 2 {
        return;
    }
    let Some((task, extremes)) = env.task() else {
        count_uncontended(env, place(&info, mode, 0));
        failure(env, Program::Attempt, Note::NoTaskSlot, env.id());
        return;
    };
    settle(env, task, extremes);
    let now = env.now();
    let entry = current_entry(task);
    let (mut facts, target) = wish(&info, address, mode, entry);
    facts.flags |= HELD_TENTATIVE;
    let may_fail = match how {
        Attempt::Sure => 0,
        Attempt::MayFail => PENDING_MAY_FAIL,
        Attempt::Try => PENDING_MAY_FAIL | PENDING_TRY,
    };
    let waits_for_it = env.config().contention_events == 0
        && how != Attempt::Try
        && is_taken(env, &info, address, mode);
    begin(task);
    if how != Attempt::Try {
        record_order(env, Program::Attempt, task, target, now);
    }
    if waits_for_it {
        waits::push(env, Program::Attempt, task, address, now, facts);
        task.pending.set(PENDING_WAIT | may_fail);
    } else {
        push_held(env, Program::Attempt, task, address, now, 0, facts);
        task.pending
            .set(PENDING_HOLD | may_fail | (task.latest.get() << 8));
    }
    end(task);
    if waits_for_it {
        count_contended(env, place(&info, mode, entry));
    }
}

/// A trylock returned, with or without the lock.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn tried<E: Env>(env: &E, obtained: bool) {
    // Returns are those of all locks' trylocks, and do not say whose.
    let Some((task, extremes)) = env.present_task() else {
        return;
    };
    let pending = task.pending.get();
    if pending & PENDING_TRY == 0 || env.level() < 2 {
        return;
    }
    let Some(held) = task.held.get((pending >> 8) as usize & (MAX_HELD - 1)) else {
        return;
    };
    if obtained {
        settle_hold(env, task, extremes, held, false);
    } else {
        give_up(env, task, held);
    }
}

/// The task has an event: an acquisition that was pending is settled.
#[inline(always)]
pub(super) fn settle<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes) {
    renew(env, task);
    if env.config().tentative == 0 {
        return;
    }
    if task.pending.get() != 0 {
        settle_pending(env, task, extremes);
    }
}

/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
fn settle_pending<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes) {
    let pending = task.pending.get();
    let may_fail = pending & PENDING_MAY_FAIL != 0;
    if pending & PENDING_HOLD != 0 {
        if let Some(held) = task.held.get((pending >> 8) as usize & (MAX_HELD - 1)) {
            settle_hold(env, task, extremes, held, may_fail);
        }
    } else {
        settle_wait(env, task, extremes, may_fail);
    }
}

#[inline(always)]
fn settle_hold<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes, held: &Held, may_fail: bool) {
    let mut info = Info::unpack(held.info.get());
    let address = held.lock.get();
    if may_fail && !is_owner(env, info.kind, address) {
        give_up(env, task, held);
        return;
    }
    info.flags &= !HELD_TENTATIVE;
    let since = held.since.get();
    // Somebody was faster than this task, between its look at the lock word and its attempt.
    let release = last_release(env, &info);
    let late = env.config().contention_events == 0 && release > since;
    begin(task);
    task.pending.set(0);
    if late {
        info.flags |= HELD_CONTENDED;
        held.since.set(release);
        held.wait.set(release - since);
    }
    held.info.set(info.pack());
    end(task);
    if late {
        count_contended(env, Place::of(info));
        count_wait(env, extremes, Place::of(info), release - since);
    } else {
        count_uncontended(env, Place::of(info));
    }
    guard(env, task, info);
}

/// A pending acquisition has failed.
#[inline(always)]
fn give_up<E: Env>(env: &E, task: &Task, held: &Held) {
    let info = Info::unpack(held.info.get());
    begin(task);
    task.pending.set(0);
    free_held(task, held);
    end(task);
    count_failed(env, Place::of(info));
}

#[inline(always)]
fn settle_wait<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes, may_fail: bool) {
    let Some(waiting) = innermost_wait(task) else {
        task.pending.set(0);
        return;
    };
    let mut info = Info::unpack(waiting.info.get());
    let address = waiting.lock.get();
    let since = waiting.since.get();
    if may_fail && !is_owner(env, info.kind, address) {
        begin(task);
        task.pending.set(0);
        pop_wait(task);
        end(task);
        count_failed(env, Place::of(info));
        return;
    }
    let release = last_release(env, &info);
    let acquired = if release > since { release } else { since };
    info.flags = (info.flags & !HELD_TENTATIVE) | HELD_CONTENDED;
    begin(task);
    task.pending.set(0);
    pop_wait(task);
    push_held(
        env,
        Program::Attempt,
        task,
        address,
        acquired,
        acquired - since,
        info,
    );
    end(task);
    count_wait(env, extremes, Place::of(info), acquired - since);
    guard(env, task, info);
}

/// `contention_begin` for a pending acquisition: it did not take the fast path. True if there was one for this lock;
/// then its order edges have been recorded.
#[inline(always)]
pub(super) fn convert<E: Env>(env: &E, task: &Task, address: u64) -> bool {
    if env.config().tentative == 0 {
        return false;
    }
    let pending = task.pending.get();
    if pending & PENDING_HOLD == 0 {
        return false;
    }
    match task.held.get((pending >> 8) as usize & (MAX_HELD - 1)) {
        Some(held) if held.lock.get() == address => {
            begin(task);
            task.pending.set(0);
            free_held(task, held);
            end(task);
            true
        }
        _ => false,
    }
}

/// Notes when a lock was released, for those that wait for it.
#[inline(always)]
pub(super) fn note_release<E: Env>(env: &E, info: &Info, now: u64) {
    if env.config().tentative != 0
        && env.config().contention_events == 0
        && let Some(stats) = env.instance(info.instance)
    {
        stats.value.set(now);
    }
}

/// Forgets what the task was seen to hold: releases are not seen below level 2.
#[inline(always)]
pub(super) fn drop_holds(task: &Task) {
    if task.held_len.get() == 0 && task.pending.get() == 0 {
        return;
    }
    begin(task);
    for held in &task.held {
        held.lock.set(0);
    }
    task.held_len.set(0);
    task.pending.set(0);
    end(task);
}

/// A lock that guards a flag was obtained.
#[inline(always)]
pub(super) fn guard<E: Env>(env: &E, task: &Task, info: Info) {
    if info.flags & HELD_IS_GUARD != 0 {
        begin(task);
        flags::annotate(env, task, env.now());
        end(task);
    }
}

#[inline(always)]
fn last_release<E: Env>(env: &E, info: &Info) -> u64 {
    env.instance(info.instance)
        .map_or(0, |stats| stats.value.get())
}

/// The lock word says that somebody has the lock.
#[inline(always)]
fn is_taken<E: Env>(env: &E, info: &LockInfo, address: u64, mode: Mode) -> bool {
    let offset = if info.kind == LockKind::Mutex as u8 {
        mutex_owner(env)
    } else {
        0
    };
    let word = env.read_u64(address + offset).unwrap_or(0);
    if info.kind == LockKind::Rwsem as u8 && matches!(mode, Mode::Read) {
        word & RWSEM_NOT_FOR_READERS != 0
    } else {
        word != 0
    }
}

/// The mutex's owner word names the current task. An rwsem says who its writer is, but not who its readers are: there
/// the function is believed to have succeeded.
#[inline(always)]
fn is_owner<E: Env>(env: &E, kind: u8, address: u64) -> bool {
    if kind != LockKind::Mutex as u8 {
        return true;
    }
    env.read_u64(address + mutex_owner(env))
        .is_none_or(|owner| owner & !OWNER_FLAGS == env.current())
}

/// Offset of a mutex's owner word: where it is not known, that of the first member, which it is in every release that
/// probes lock functions at their entry (include/linux/mutex_types.h). An rwsem's `count` is its first member too.
#[inline(always)]
fn mutex_owner<E: Env>(env: &E) -> u64 {
    match env.config().mutex_owner {
        NO_OFFSET => 0,
        offset => u64::from(offset),
    }
}

/// The task holds this lock.
#[inline(always)]
pub(super) fn holds(task: &Task, address: u64) -> bool {
    find_held(task, address).is_some()
}
