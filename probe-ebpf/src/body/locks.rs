//! Acquire and release of mutexes and rwsems.

use super::holds::{find_held, finish_hold, push_held};
use super::order::Acquired;
use super::stats::{
    Place, count_contended, count_failed, count_uncontended, count_unmatched, count_wait,
};
use super::{
    Env, Note, attempts, begin, current_entry, end, failure, flags, innermost_wait, instance_of,
    pop_wait, record_order, take_stack, waits,
};
use crate::abi::{
    self, HELD_CONTENDED, HELD_IS_GUARD, HELD_IS_ONLY_INSTANCE, Info, LOCK_GUARDS_FLAG,
    LOCK_IS_ONLY_INSTANCE, LOCK_IS_WAIT_QUEUE, LockInfo, LockKind, Mode, NO_INSTANCE, Program,
    Task,
};

/// A lock was obtained: runs when the acquisition is complete.
#[inline(always)]
pub fn acquired<E: Env>(env: &E, address: u64, mode: Mode) {
    take::<E, true>(env, address, mode);
}

/// A lock was obtained. `MAY_WAIT`: it could have waited for it, so that there is an order edge from each lock held; a
/// trylock and the end of writing make none, as in lockdep (`__lock_acquire` with `trylock`, `lock_downgrade`, v6.12).
#[inline(always)]
fn take<E: Env, const MAY_WAIT: bool>(env: &E, address: u64, mode: Mode) {
    // What is adopted may be forgotten, and another lock may lie there then; and a thread id may be another thread's.
    let last = if env.config().adopts == 0 {
        env.last_task()
    } else {
        None
    };
    let Some(info) = known(env, address, last.map(|(task, _)| task)) else {
        return;
    };
    let info = info.taken(mode);
    let mut place = place(&info, mode, 0);
    let Some((task, extremes)) = last.or_else(|| env.task()) else {
        count_uncontended(env, place);
        failure(env, Program::Acquired, Note::NoTaskSlot, env.id());
        return;
    };
    let entry = current_entry(task);
    place.entry = entry;
    let now = env.now();
    let (mut facts, target) = wish(&info, address, mode, entry);
    begin(task);
    let mut wait = 0;
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == address
    {
        wait = now.saturating_sub(waiting.since.get());
        facts.flags |= HELD_CONTENDED;
        pop_wait(task);
        count_wait(env, extremes, place, wait);
    } else {
        count_uncontended(env, place);
        if MAY_WAIT {
            record_order(env, Program::Acquired, task, target, now);
        }
    }
    if info.flags & LOCK_GUARDS_FLAG != 0 {
        flags::annotate(env, task, now);
    }
    push_held(env, Program::Acquired, task, address, now, wait, facts);
    end(task);
    if wait != 0 {
        let since = now - wait;
        take_stack(env, Program::Acquired, task, facts, since, wait, false);
    }
}

/// As [`acquired`], where `contention_end` has already said so for acquisitions that had to wait (fexit in a kernel).
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn acquired_unless_held<E: Env>(env: &E, address: u64, mode: Mode) {
    if traced(env, address).is_none() || env.level() < 2 {
        return;
    }
    if let Some((task, _)) = env.present_task()
        && attempts::holds(task, address)
    {
        return;
    }
    acquired(env, address, mode);
}

/// As [`acquired_unless_held`], of a lock that was not waited for: a trylock, the reader that a writer becomes.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn acquired_without_waiting<E: Env>(env: &E, address: u64, mode: Mode) {
    if traced(env, address).is_none() || env.level() < 2 {
        return;
    }
    if let Some((task, _)) = env.present_task()
        && attempts::holds(task, address)
    {
        return;
    }
    take::<E, false>(env, address, mode);
}

/// `downgrade_write`: a writer becomes a reader. One hold ends, the next begins without a wait.
#[inline(always)]
pub fn downgraded<E: Env>(env: &E, address: u64) {
    if traced(env, address).is_none() {
        return;
    }
    release_mode(env, address, Mode::Write);
    if env.level() >= 2 {
        acquired_without_waiting(env, address, Mode::Read);
    }
}

/// The slow path was entered: the fast path has failed.
#[inline(always)]
pub fn contended<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = taken(env, address, mode) else {
        return;
    };
    let task = env.task();
    let entry = task.map_or(0, |(task, _)| current_entry(task));
    count_contended(env, place(&info, mode, entry));
    let Some((task, _)) = task else {
        failure(env, Program::Contended, Note::NoTaskSlot, env.id());
        return;
    };
    let now = env.now();
    let (facts, target) = wish(&info, address, mode, entry);
    begin(task);
    record_order(env, Program::Contended, task, target, now);
    // What the lock is to others matters when it is held.
    let facts = Info { flags: 0, ..facts };
    waits::push(env, Program::Contended, task, address, now, facts);
    end(task);
}

/// An attempt ended without the lock: a failed trylock, or an interrupted wait.
#[inline(always)]
pub fn failed<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = taken(env, address, mode) else {
        return;
    };
    let task = env.task();
    let entry = task.map_or(0, |(task, _)| current_entry(task));
    count_failed(env, place(&info, mode, entry));
    let Some((task, _)) = task else {
        failure(env, Program::Failed, Note::NoTaskSlot, env.id());
        return;
    };
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == address
    {
        begin(task);
        pop_wait(task);
        end(task);
    }
}

/// A lock is about to be released: runs at the entry of the release. The mode is asked for only if the acquisition was
/// not seen.
#[inline(always)]
pub fn release<E: Env>(env: &E, address: u64, mode: impl Fn() -> Mode) {
    // A lock that the task holds is a traced one: most releases need no look at the table of locks.
    let Some((task, extremes)) = env.present_task() else {
        unmatched(env, mode(), address);
        return;
    };
    attempts::settle(env, task, extremes);
    let Some(held) = find_held(task, address) else {
        unmatched(env, mode(), address);
        return;
    };
    let now = env.now();
    let info = Info::unpack(held.info.get());
    // An rwsem is released in the mode in which it was acquired; anything else leaves its word as if it were still held.
    if info.kind == LockKind::Rwsem as u8 {
        let mode = mode();
        if abi::series(info.series >> 1, mode) != info.series {
            unmatched(env, mode, address);
            return;
        }
    }
    if info.flags & HELD_IS_GUARD != 0 {
        flags::sample(env, task, extremes, now);
    }
    attempts::note_release(env, &info, now);
    finish_hold(env, task, extremes, held, now);
}

/// As [`release`], for programs that know the mode.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn release_mode<E: Env>(env: &E, address: u64, mode: Mode) {
    release(env, address, || mode);
}

/// As [`release_mode`], for programs that see the releases of all locks: most are of locks that nobody traces, and cost one
/// look at the table of locks.
#[inline(always)]
pub fn release_traced<E: Env>(env: &E, address: u64, mode: Mode) {
    if traced(env, address).is_some() {
        release_mode(env, address, mode);
    }
}

/// As [`failed`], for programs that share it.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn failed_shared<E: Env>(env: &E, address: u64, mode: Mode) {
    failed(env, address, mode);
}

/// What is known about the address of a lock; wait queues are not locks.
#[inline(always)]
pub(super) fn traced<E: Env>(env: &E, address: u64) -> Option<LockInfo> {
    let info = env.lock(address)?;
    (info.flags & LOCK_IS_WAIT_QUEUE == 0).then_some(info)
}

/// What is recorded of a wish for a lock in this mode, in this entry point: the facts of a holding or waiting, and the far
/// end of its order edges.
#[inline(always)]
pub(super) fn wish(info: &LockInfo, address: u64, mode: Mode, entry: u8) -> (Info, Acquired) {
    let mut flags = 0;
    if info.flags & LOCK_IS_ONLY_INSTANCE != 0 {
        flags |= HELD_IS_ONLY_INSTANCE;
    }
    if info.flags & LOCK_GUARDS_FLAG != 0 {
        flags |= HELD_IS_GUARD;
    }
    let facts = Info {
        instance: instance_of(info, mode),
        series: abi::series(info.class, mode),
        entry,
        kind: info.kind,
        flags,
    };
    let target = Acquired {
        address,
        series: facts.series,
        instance: facts.instance,
        entry,
        kind: info.kind,
        annotated: false,
    };
    (facts, target)
}

/// As [`traced`], for a function that takes or releases the lock in this mode.
#[inline(always)]
pub(super) fn taken<E: Env>(env: &E, address: u64, mode: Mode) -> Option<LockInfo> {
    traced(env, address).map(|info| info.taken(mode))
}

/// What a lock's values are counted under: the only instance of a class has no statistics of its own.
#[inline(always)]
pub(super) fn place(info: &LockInfo, mode: Mode, entry: u8) -> Place {
    Place {
        series: abi::series(info.class, mode),
        instance: if info.flags & LOCK_IS_ONLY_INSTANCE != 0 {
            NO_INSTANCE
        } else {
            instance_of(info, mode)
        },
        entry,
    }
}

/// As [`traced`], from the current task's own memory where there is a record.
#[inline(always)]
fn known<E: Env>(env: &E, address: u64, task: Option<&Task>) -> Option<LockInfo> {
    let place = task.and_then(|task| task.known.get(abi::known_place(address)));
    if let Some(place) = place
        && place.address.get() == address
    {
        return Some(LockInfo::unpack(place.info.get()));
    }
    let info = traced(env, address)?;
    if let Some(place) = place {
        place.info.set(info.pack());
        place.address.set(address);
    }
    Some(info)
}

/// A release by a task that is not known to hold the lock.
#[inline(always)]
pub(super) fn unmatched<E: Env>(env: &E, mode: Mode, address: u64) {
    let Some(info) = taken(env, address, mode) else {
        return;
    };
    if env.level() < 2 {
        return;
    }
    count_unmatched(env, place(&info, mode, 0));
    failure(env, Program::Release, Note::UnexpectedRelease, address);
}
