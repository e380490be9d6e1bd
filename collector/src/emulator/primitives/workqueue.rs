//! Work items: `queue_work`, `flush_work`, and the workers that execute them.
//!
//! As on the kernel's `system_long_wq`, a work item that sleeps does not keep others waiting: a worker is started when
//! none is idle. An item that is queued while it is queued already is not queued again; queued while it runs, it runs
//! once more afterwards. A flush waits for the execution that was the last one queued when it was called.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, PoisonError};

use super::task::{Blocked, TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct, current};
use super::task::{schedule, set_current_state};
use super::trace::{self, Event};
use super::{LockCounters, RawSpinLock, raw_spin_lock};
use crate::emulator::machine::{self, Machine};
use crate::emulator::points::kernel as point;

/// `WQ_DFL_ACTIVE`: work items executed at once; more wait for a worker.
pub const MAX_WORKERS: usize = 256;
/// Stack of a worker.
const STACK_BYTES: usize = 128 << 10;

/// `work_func_t`.
pub type WorkFunction = fn(&'static Machine, &'static WorkStruct);

#[derive(Debug, Default)]
struct State {
    /// Executions asked for, and those that have ended.
    queued: u64,
    ended: u64,
    running: bool,
    flushers: Vec<&'static TaskStruct>,
}

/// `struct work_struct`. It counts as a lock: the worker that executes it holds it, `flush_work` waits for it.
#[derive(Debug)]
#[repr(C)]
pub struct WorkStruct {
    function: WorkFunction,
    data: u64,
    worker: AtomicU64,
    state: RawSpinLock<State>,
    truth: LockCounters,
}

impl WorkStruct {
    /// Offset of the task that executes it, for who reads this process's memory.
    pub(super) const WORKER: usize = std::mem::offset_of!(Self, worker);

    /// `INIT_WORK`. The kernel's function finds its object by `container_of`, here by `data`.
    pub fn new(function: WorkFunction, data: u64) -> Self {
        Self {
            function,
            data,
            worker: AtomicU64::new(0),
            state: RawSpinLock::default(),
            truth: LockCounters::default(),
        }
    }

    /// Address, as probes see it.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// What it was made with.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Address of the task that executes it; 0 for none.
    pub fn worker(&self) -> u64 {
        self.worker.load(Ordering::SeqCst)
    }

    /// What was counted: executions as acquisitions and releases, flushes that waited as contended.
    pub fn truth(&self) -> &LockCounters {
        &self.truth
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<&'static WorkStruct>,
    idle: usize,
    workers: usize,
}

/// `system_long_wq` of a machine.
#[derive(Debug, Default)]
pub struct WorkQueue {
    queue: RawSpinLock<Queue>,
    more: Condvar,
}

impl WorkQueue {
    /// `queue_work`: false if the item is waiting for a worker already.
    pub fn queue_work(&'static self, machine: &'static Machine, work: &'static WorkStruct) -> bool {
        let mut state = raw_spin_lock(&work.state);
        if state.queued - state.ended > u64::from(state.running) {
            return false;
        }
        state.queued += 1;
        drop(state);
        let mut queue = raw_spin_lock(&self.queue);
        queue.items.push_back(work);
        if queue.idle < queue.items.len() && queue.workers < MAX_WORKERS {
            let name = format!("kworker/u:{}", queue.workers);
            let started = std::thread::Builder::new()
                .name(name)
                .stack_size(STACK_BYTES)
                .spawn(move || self.worker_thread(machine));
            // Without another thread the ones that there are must do; the kernel has a rescuer for that.
            if started.is_ok() {
                queue.workers += 1;
            }
        }
        drop(queue);
        self.more.notify_one();
        true
    }

    fn worker_thread(&self, machine: &'static Machine) {
        machine::enter(machine);
        let mut queue = raw_spin_lock(&self.queue);
        loop {
            let Some(work) = queue.items.pop_front() else {
                queue.idle += 1;
                queue = self
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
                continue;
            };
            drop(queue);
            let again = process_one_work(machine, work);
            queue = raw_spin_lock(&self.queue);
            if again {
                queue.items.push_back(work);
            }
        }
    }
}

/// Executes an item, unless another worker does at this moment: then true, for later.
fn process_one_work(machine: &'static Machine, work: &'static WorkStruct) -> bool {
    let mut state = raw_spin_lock(&work.state);
    if state.running {
        drop(state);
        std::thread::yield_now();
        return true;
    }
    state.running = true;
    drop(state);
    work.worker.store(current().address(), Ordering::SeqCst);
    work.truth.acquired();
    point::workqueue_execute_start(work);
    (work.function)(machine, work);
    work.truth.released();
    point::workqueue_execute_end(work);
    work.worker.store(0, Ordering::SeqCst);
    let mut state = raw_spin_lock(&work.state);
    state.running = false;
    state.ended += 1;
    for task in std::mem::take(&mut state.flushers) {
        task.try_to_wake_up();
    }
    false
}

/// `flush_work`: waits until the item is idle, as it was queued at the call. 1 if it had to wait.
pub(crate) fn flush_work(work: &WorkStruct) -> i32 {
    trace::note(Event::Flush(work.address()));
    let me = current();
    let mut state = raw_spin_lock(&work.state);
    let until = state.queued;
    if state.ended >= until {
        return 0;
    }
    work.truth.contended();
    let _blocked = Blocked::on(work.address());
    while state.ended < until {
        if !state.flushers.iter().any(|task| std::ptr::eq(*task, me)) {
            state.flushers.push(me);
        }
        set_current_state(TASK_UNINTERRUPTIBLE);
        drop(state);
        schedule();
        state = raw_spin_lock(&work.state);
    }
    set_current_state(TASK_RUNNING);
    1
}
