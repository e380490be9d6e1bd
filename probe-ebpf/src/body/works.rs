//! Work items: a worker holds the item while it executes it, and a flush waits for that.
//!
//! The end of an execution is [`super::locks::release`].

use super::holds::push_held;
use super::locks::{place, traced};
use super::order::Acquired;
use super::stats::{Place, count_acquisition, count_contended, count_wait};
use super::{
    Env, Note, adopt, attempts, begin, current_entry, end, failure, innermost_wait, pop_wait,
    record_order, waits,
};
use crate::abi::{
    self, HELD_IS_ONLY_INSTANCE, Info, LOCK_IS_ONLY_INSTANCE, LockInfo, LockKind, Mode, Program,
};

/// `workqueue_execute_start`: a worker starts to execute a work item.
#[inline(always)]
pub fn work_start<E: Env>(env: &E, work: u64) {
    let Some(info) = traced_work(env, work) else {
        return;
    };
    let task = env.task();
    let entry = task.map_or(0, |(task, _)| current_entry(task));
    count_acquisition(env, place(&info, Mode::Exclusive, entry));
    let Some((task, _)) = task else {
        failure(env, Program::WorkStart, Note::NoTaskSlot, env.id());
        return;
    };
    let packed = packed(&info, entry);
    let now = env.now();
    begin(task);
    push_held(env, Program::WorkStart, task, work, now, 0, packed);
    end(task);
}

/// `flush_work` was called. Whether it has to wait or not, what is held now must never be needed by the work item:
/// lockdep sees each flush as an acquisition too (`lock_map_acquire` in `__flush_work` and `start_flush_work`).
#[inline(always)]
pub fn flush_enter<E: Env>(env: &E, work: u64) {
    let Some(info) = traced_work(env, work) else {
        return;
    };
    let Some((task, extremes)) = env.task() else {
        failure(env, Program::FlushEnter, Note::NoTaskSlot, env.id());
        return;
    };
    attempts::settle(env, task, extremes);
    let entry = current_entry(task);
    let now = env.now();
    begin(task);
    let target = Acquired {
        address: work,
        series: abi::series(info.class, Mode::Exclusive),
        instance: info.instance,
        entry,
        kind: info.kind,
        annotated: false,
    };
    record_order(env, Program::FlushEnter, task, target, now);
    let packed = packed(&info, entry);
    waits::push(env, Program::FlushEnter, task, work, now, packed);
    end(task);
}

/// `flush_work` returns; `waited`: the work item was pending or running. The innermost wait says for which.
#[inline(always)]
pub fn flush_return<E: Env>(env: &E, waited: bool) {
    let Some((task, extremes)) = env.present_task() else {
        return;
    };
    let Some(waiting) = innermost_wait(task) else {
        return;
    };
    let info = Info::unpack(waiting.info.get());
    if info.kind != LockKind::Work as u8 {
        return;
    }
    let since = waiting.since.get();
    begin(task);
    pop_wait(task);
    end(task);
    if waited {
        let place = Place::of(info);
        count_contended(env, place);
        count_wait(env, extremes, place, env.now().saturating_sub(since));
    }
}

/// What is known about the address of a work item.
#[inline(always)]
fn traced_work<E: Env>(env: &E, work: u64) -> Option<LockInfo> {
    if env.config().adopts != 0 && !adopt::reset_work(env, work) {
        return None;
    }
    traced(env, work).filter(|info| info.kind == LockKind::Work as u8)
}

/// Facts of a holding or a wait. Whether the work item is the only one of its class is among them, since the return of
/// a flush is told no address.
#[inline(always)]
const fn packed(info: &LockInfo, entry: u8) -> Info {
    Info {
        instance: info.instance,
        series: abi::series(info.class, Mode::Exclusive),
        entry,
        kind: info.kind,
        flags: if info.flags & LOCK_IS_ONLY_INSTANCE != 0 {
            HELD_IS_ONLY_INSTANCE
        } else {
            0
        },
    }
}
