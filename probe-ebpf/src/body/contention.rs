//! The kernel's own events of contention: `contention_begin` and `contention_end` (include/trace/events/lock.h, since
//! Linux 5.19).

use super::attempts::{convert, drop_holds, guard, settle};
use super::holds::push_held;
use super::locks::{place, taken, traced, wish};
use super::stats::{Place, count_contended, count_failed, count_wait};
use super::{
    Env, Note, begin, current_entry, end, failure, innermost_wait, pop_wait, record_order, renew,
    take_stack, waits,
};
use crate::abi::{HELD_CONTENDED, Info, Mode, Program};

/// `LCB_F_*` (include/trace/events/lock.h).
const SPIN: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 4;
const PERCPU: u64 = 16;
const MUTEX: u64 = 32;

/// The mode of a sleeping lock that these flags stand for; `None` for spin locks, semaphores and per-CPU rwsems. Costs no
/// map access, because spin locks are most of what there is.
#[inline(always)]
#[must_use]
pub const fn mode_of(flags: u64) -> Option<Mode> {
    if flags & MUTEX != 0 {
        return Some(Mode::Exclusive);
    }
    if flags & (SPIN | PERCPU) != 0 {
        return None;
    }
    if flags & READ != 0 {
        return Some(Mode::Read);
    }
    if flags & WRITE != 0 {
        return Some(Mode::Write);
    }
    None
}

/// `contention_begin(lock, flags)`: the fast path has failed. A mutex says so again when it stops spinning and goes to
/// sleep; the wait began at the first.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn begins<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = taken(env, address, mode) else {
        return;
    };
    let Some((task, extremes)) = env.task() else {
        count_contended(env, place(&info, mode, 0));
        failure(env, Program::ContentionBegin, Note::NoTaskSlot, env.id());
        return;
    };
    renew(env, task);
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == address
    {
        return;
    }
    let ordered = convert(env, task, address);
    if !ordered {
        settle(env, task, extremes);
    }
    if env.level() < 2 {
        drop_holds(task);
    }
    let entry = current_entry(task);
    let (facts, target) = wish(&info, address, mode, entry);
    count_contended(env, Place::of(facts));
    let now = env.now();
    begin(task);
    if !ordered {
        record_order(env, Program::ContentionBegin, task, target, now);
    }
    waits::push(env, Program::ContentionBegin, task, address, now, facts);
    end(task);
    if let Some(waiting) = env.waiting() {
        waiting.add(1);
    }
}

/// `contention_end(lock, ret)`: the lock was obtained, or (`ret` is not 0) the wait was interrupted.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub fn ends<E: Env>(env: &E, address: u64, ret: i32) {
    if traced(env, address).is_none() {
        return;
    }
    // A task without a record began to wait before anything was attached, or found no slot then, which was counted.
    let Some((task, extremes)) = env.present_task() else {
        return;
    };
    renew(env, task);
    let Some(waiting) = innermost_wait(task) else {
        return;
    };
    if waiting.lock.get() != address {
        return;
    }
    let now = env.now();
    let since = waiting.since.get();
    let mut info = Info::unpack(waiting.info.get());
    begin(task);
    pop_wait(task);
    end(task);
    if let Some(waiting) = env.waiting() {
        // Minus one: there is no other atomic operation in every kernel.
        waiting.add(u64::MAX);
    }
    if ret != 0 {
        count_failed(env, Place::of(info));
        return;
    }
    let wait = now.saturating_sub(since);
    count_wait(env, extremes, Place::of(info), wait);
    take_stack(env, Program::ContentionEnd, task, info, since, wait, false);
    if env.level() < 2 {
        return;
    }
    info.flags |= HELD_CONTENDED;
    begin(task);
    push_held(env, Program::ContentionEnd, task, address, now, wait, info);
    end(task);
    guard(env, task, info);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sleeping_locks_have_a_mode() {
        assert_eq!(mode_of(MUTEX), Some(Mode::Exclusive));
        assert_eq!(mode_of(MUTEX | SPIN), Some(Mode::Exclusive));
        assert_eq!(mode_of(READ), Some(Mode::Read));
        assert_eq!(mode_of(WRITE), Some(Mode::Write));
        assert_eq!(mode_of(SPIN), None);
        assert_eq!(mode_of(SPIN | READ), None);
        assert_eq!(mode_of(PERCPU | WRITE), None);
        assert_eq!(mode_of(0), None);
    }
}
