//! Wait queues: `prepare_to_wait_event`, `finish_wait`, `__wake_up`, and the loop `___wait_event` built from them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::task::{Blocked, TASK_RUNNING, TASK_UNINTERRUPTIBLE, current, set_current_state};
use super::trace::{self, Event};
use super::{LockCounters, RawSpinLock, TaskStruct, raw_spin_lock};
use crate::emulator::points::kernel as point;

/// `struct wait_queue_head`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct WaitQueueHead {
    list: RawSpinLock<Vec<Queued>>,
}

/// `struct wait_queue_entry`, on the stack of the task that waits.
#[derive(Debug)]
#[repr(C)]
pub struct WaitQueueEntry {
    task: &'static TaskStruct,
    queued: AtomicBool,
}

/// An entry on a queue. The entry is identified by its task: a task waits on a queue with one entry at a time.
#[derive(Debug)]
struct Queued {
    task: &'static TaskStruct,
}

impl WaitQueueHead {
    /// Address, as probes see it.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// `waitqueue_active`: somebody waits.
    pub fn is_active(&self) -> bool {
        !raw_spin_lock(&self.list).is_empty()
    }
}

impl WaitQueueEntry {
    /// `init_wait_entry`: an entry of the calling task.
    pub fn new() -> Self {
        Self {
            task: current(),
            queued: AtomicBool::new(false),
        }
    }
}

impl Default for WaitQueueEntry {
    fn default() -> Self {
        Self::new()
    }
}

/// Queues the entry, unless it is queued, and announces the sleep. Always 0 here: no caller waits interruptibly.
pub(crate) fn prepare_to_wait_event(
    head: &WaitQueueHead,
    entry: &WaitQueueEntry,
    state: u32,
) -> i64 {
    trace::note(Event::Prepare(head.address()));
    let mut list = raw_spin_lock(&head.list);
    if !list.iter().any(|q| std::ptr::eq(q.task, entry.task)) {
        list.push(Queued { task: entry.task });
    }
    entry.queued.store(true, Ordering::Relaxed);
    set_current_state(state);
    0
}

/// Makes the task runnable and takes the entry off the queue, if a wake-up has not done so already.
pub(crate) fn finish_wait(head: &WaitQueueHead, entry: &WaitQueueEntry) {
    trace::note(Event::Finish(head.address()));
    set_current_state(TASK_RUNNING);
    if entry.queued.swap(false, Ordering::Relaxed) {
        raw_spin_lock(&head.list).retain(|q| !std::ptr::eq(q.task, entry.task));
    }
}

/// Wakes `count` waiters, 0 meaning all, and takes them off the queue (`autoremove_wake_function`).
pub(crate) fn wake_up(head: &WaitQueueHead, count: i32) {
    trace::note(Event::Wake(head.address()));
    let mut list = raw_spin_lock(&head.list);
    let count = usize::try_from(count)
        .ok()
        .filter(|n| *n > 0)
        .map_or(list.len(), |n| n.min(list.len()));
    for queued in list.drain(..count) {
        queued.task.try_to_wake_up();
    }
}

/// `wait_event_cmd(head, condition, cmd1, cmd2)`: tests the condition, and while it is false, sleeps with `cmd1` run
/// before and `cmd2` after each sleep. `slept` counts the wait loops that did so. `flag` is the address of what the
/// condition looks at.
pub fn wait_event_cmd(
    head: &WaitQueueHead,
    flag: u64,
    condition: impl Fn() -> bool,
    cmd1: impl Fn(),
    cmd2: impl Fn(),
    slept: &LockCounters,
) {
    if condition() {
        return;
    }
    let entry = WaitQueueEntry::new();
    let _blocked = Blocked::on(flag);
    let mut counted = false;
    loop {
        point::prepare_to_wait_event(head, &entry, TASK_UNINTERRUPTIBLE);
        if condition() {
            break;
        }
        if !counted {
            counted = true;
            slept.contended();
        }
        cmd1();
        point::schedule();
        cmd2();
    }
    point::finish_wait(head, &entry);
}

/// `wake_up_all`.
pub fn wake_up_all(head: &WaitQueueHead) {
    point::__wake_up(head, super::task::TASK_NORMAL, 0, 0);
}
