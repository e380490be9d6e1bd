//! Wait queues of open-coded locks: sleeping on the queue is waiting for the flag.

use super::order::Acquired;
use super::stats::{Place, count_wait};
use super::{
    Env, Note, attempts, begin, current_entry, end, failure, innermost_wait, pop_wait,
    record_order, serial,
};
use crate::abi::{
    self, Info, LOCK_IS_WAIT_QUEUE, LockInfo, LockKind, MAX_WAITS, Mode, Program, Task, WAIT_SLEPT,
};

/// `prepare_to_wait_event`: a wait loop starts, or goes round.
#[inline(always)]
pub fn prepare<E: Env>(env: &E, queue: u64) {
    let Some(info) = traced(env, queue) else {
        return;
    };
    let Some((task, extremes)) = env.task() else {
        failure(env, Program::WaitPrepare, Note::NoTaskSlot, env.id());
        return;
    };
    attempts::settle(env, task, extremes);
    let flag = info.target;
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == flag
    {
        begin(task);
        waiting.rounds.set(waiting.rounds.get() + 1);
        end(task);
        return;
    }
    let now = env.now();
    let series = abi::series(info.class, Mode::Exclusive);
    let entry = current_entry(task);
    let kind = LockKind::Flag as u8;
    begin(task);
    let target = Acquired {
        address: flag,
        series,
        instance: info.instance,
        entry,
        kind,
        annotated: false,
    };
    record_order(env, Program::WaitPrepare, task, target, now);
    let packed = Info {
        instance: info.instance,
        series,
        entry,
        kind,
        flags: 0,
    };
    push(env, Program::WaitPrepare, task, flag, now, packed);
    end(task);
}

/// `finish_wait`: the wait loop ends.
#[inline(always)]
pub fn finish<E: Env>(env: &E, queue: u64) {
    let Some(info) = traced(env, queue) else {
        return;
    };
    let Some((task, extremes)) = env.task() else {
        failure(env, Program::WaitFinish, Note::NoTaskSlot, env.id());
        return;
    };
    attempts::settle(env, task, extremes);
    let Some(waiting) = innermost_wait(task) else {
        return;
    };
    if waiting.lock.get() != info.target {
        return;
    }
    let since = waiting.since.get();
    let packed = Info::unpack(waiting.info.get());
    begin(task);
    pop_wait(task);
    end(task);
    if packed.flags & WAIT_SLEPT != 0 {
        let wait = env.now().saturating_sub(since);
        count_wait(env, extremes, Place::of(packed), wait);
    }
}

/// `__wake_up`: the waiters of a queue are woken.
#[inline(always)]
pub fn wake<E: Env>(env: &E, queue: u64) {
    let Some(info) = traced(env, queue) else {
        return;
    };
    if let Some(stats) = env.instance(info.instance) {
        stats.wakes.add(1);
    }
}

#[inline(always)]
fn traced<E: Env>(env: &E, queue: u64) -> Option<LockInfo> {
    let info = env.lock(queue)?;
    (info.flags & LOCK_IS_WAIT_QUEUE != 0).then_some(info)
}

/// Starts a wait.
#[inline(always)]
pub(super) fn push<E: Env>(
    env: &E,
    program: Program,
    task: &Task,
    lock: u64,
    now: u64,
    info: Info,
) {
    let n = task.waits_len.get();
    if n >= MAX_WAITS as u64 {
        failure(env, program, Note::Overflow, lock);
        return;
    }
    if let Some(waiting) = task.waits.get(n as usize & (MAX_WAITS - 1)) {
        waiting.lock.set(lock);
        waiting.since.set(now);
        waiting.rounds.set(1);
        waiting.serial.set(serial(task));
        waiting.info.set(info.pack());
        task.waits_len.set(n + 1);
    }
}
