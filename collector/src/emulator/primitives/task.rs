//! `struct task_struct` and the scheduler's two verbs: `schedule` and `try_to_wake_up`.
//!
//! Each thread has one task structure, made at first use. Its address is what the lock words hold. It stays until
//! the process ends, as a waker may still hold the pointer when the thread is gone (the kernel counts references).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{RawSpinLock, WorkStruct, futex, raw_spin_lock};
use crate::emulator::protocol::TaskLayout;

/// Runnable.
pub const TASK_RUNNING: u32 = 0;
/// Sleeping, woken only by what it waits for.
pub const TASK_UNINTERRUPTIBLE: u32 = 2;
/// Also woken by a fatal signal.
pub const TASK_WAKEKILL: u32 = 0x100;
/// Sleeping, woken by what it waits for or by a fatal signal.
pub const TASK_KILLABLE: u32 = TASK_WAKEKILL | TASK_UNINTERRUPTIBLE;
/// Both kinds of normal sleep, the mode of `wake_up_all`.
pub const TASK_NORMAL: u32 = 3;

/// A task. The alignment keeps the low bits of its address free for the flags in the lock words.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct TaskStruct {
    /// `TASK_*`; also the futex the thread sleeps on.
    state: AtomicU32,
    sigkill_pending: AtomicBool,
    /// Set by the waker of an rwsem reader, with the lock already granted.
    granted: AtomicBool,
    /// Address of what the task queues for: a lock, a flag, a work item; 0 if it does not wait (the kernel's
    /// `task->blocker`, which flags and work items do not have).
    blocker: AtomicU64,
    /// When it began to, CLOCK_MONOTONIC in nanoseconds.
    since: AtomicU64,
    /// How often it has begun to wait: tells one wait for the same thing from the next.
    waits: AtomicU64,
    /// It waits to read (the kernel's `rwsem_waiter.type`).
    reads: AtomicBool,
    /// Its thread does nothing any more.
    exited: AtomicBool,
    /// Thread id and process id.
    tid: u32,
    tgid: u32,
    /// Thread name, as far as the kernel keeps it.
    comm: [u8; 16],
    /// Entry points that it is in, outermost first, and how many: what the kernel has on the task's stack.
    depth: AtomicU32,
    inside: [AtomicU32; DEEPEST],
    /// Address of the task that was made before it; 0 for none.
    next: u64,
    /// Thread name.
    name: String,
}

/// Nested entry points that are kept.
const DEEPEST: usize = 16;

/// Address of the task that was made last: the head of the list of all.
static NEWEST: AtomicU64 = AtomicU64::new(0);

/// Where a task's members are, for who reads this process's memory.
pub fn layout() -> TaskLayout {
    let at = |offset: usize| offset as u32;
    TaskLayout {
        newest: std::ptr::from_ref(&NEWEST) as u64,
        size: size_of::<TaskStruct>() as u32,
        next: at(std::mem::offset_of!(TaskStruct, next)),
        tid: at(std::mem::offset_of!(TaskStruct, tid)),
        tgid: at(std::mem::offset_of!(TaskStruct, tgid)),
        comm: at(std::mem::offset_of!(TaskStruct, comm)),
        blocker: at(std::mem::offset_of!(TaskStruct, blocker)),
        since: at(std::mem::offset_of!(TaskStruct, since)),
        reads: at(std::mem::offset_of!(TaskStruct, reads)),
        depth: at(std::mem::offset_of!(TaskStruct, depth)),
        inside: at(std::mem::offset_of!(TaskStruct, inside)),
        deepest: DEEPEST as u32,
        worker: at(WorkStruct::WORKER),
    }
}

/// The calling task is in an entry point until this is dropped.
#[derive(Debug)]
pub struct Entered(&'static TaskStruct);

/// The calling task enters an entry point.
pub fn enter(entry: u8) -> Entered {
    let task = current();
    let depth = task.depth.load(Ordering::Relaxed);
    if let Some(place) = task.inside.get(depth as usize) {
        place.store(entry.into(), Ordering::Relaxed);
    }
    task.depth.store(depth + 1, Ordering::Release);
    Entered(task)
}

impl Drop for Entered {
    fn drop(&mut self) {
        let depth = self.0.depth.load(Ordering::Relaxed);
        self.0
            .depth
            .store(depth.saturating_sub(1), Ordering::Release);
    }
}

/// All tasks of the process, for whoever looks for stuck ones.
static TASKS: RawSpinLock<Vec<&'static TaskStruct>> = RawSpinLock::new(Vec::new());

/// Every task that there ever was.
pub fn all() -> Vec<&'static TaskStruct> {
    raw_spin_lock(&TASKS).clone()
}

thread_local! {
    static CURRENT: Cell<Option<&'static TaskStruct>> = const { Cell::new(None) };
}

/// The calling thread's task.
pub fn current() -> &'static TaskStruct {
    CURRENT.with(|cell| {
        cell.get().unwrap_or_else(|| {
            let name = std::thread::current().name().unwrap_or("?").to_owned();
            let mut comm = [0; 16];
            // The kernel keeps 15 bytes and a NUL (TASK_COMM_LEN).
            for (byte, of_name) in comm[..15].iter_mut().zip(name.bytes()) {
                *byte = of_name;
            }
            let mut tasks = raw_spin_lock(&TASKS);
            let task: &'static TaskStruct = Box::leak(Box::new(TaskStruct {
                state: AtomicU32::new(TASK_RUNNING),
                sigkill_pending: AtomicBool::new(false),
                granted: AtomicBool::new(false),
                blocker: AtomicU64::new(0),
                since: AtomicU64::new(0),
                waits: AtomicU64::new(0),
                reads: AtomicBool::new(false),
                exited: AtomicBool::new(false),
                // SAFETY: no precondition.
                tid: unsafe { libc::gettid() }.cast_unsigned(),
                tgid: std::process::id(),
                comm,
                depth: AtomicU32::new(0),
                inside: [const { AtomicU32::new(0) }; DEEPEST],
                next: tasks.last().map_or(0, |task| task.address()),
                name,
            }));
            tasks.push(task);
            NEWEST.store(task.address(), Ordering::Release);
            drop(tasks);
            cell.set(Some(task));
            task
        })
    })
}

/// Marks the calling task as waiting, until it is dropped.
#[derive(Debug)]
pub struct Blocked {
    outer: u64,
    outer_since: u64,
    outer_reads: bool,
}

impl Blocked {
    /// Waiting for what is at this address. Only slow paths come here, so the clock is not read for a lock that is free.
    pub fn on(address: u64) -> Self {
        Self::asking(address, false)
    }

    /// As [`Blocked::on`], for an rwsem that it wants to read.
    pub fn reading(address: u64) -> Self {
        Self::asking(address, true)
    }

    fn asking(address: u64, reads: bool) -> Self {
        let task = current();
        task.waits.fetch_add(1, Ordering::SeqCst);
        let outer_reads = task.reads.swap(reads, Ordering::SeqCst);
        // In this order, so that who sees the new wait sees when it began.
        let outer_since = task.since.swap(monotonic_ns(), Ordering::SeqCst);
        Self {
            outer: task.blocker.swap(address, Ordering::SeqCst),
            outer_since,
            outer_reads,
        }
    }
}

impl Drop for Blocked {
    /// Back to the outer wait: a flag's waiter queues for the guard inside its wait loop.
    fn drop(&mut self) {
        let task = current();
        task.blocker.store(self.outer, Ordering::SeqCst);
        task.since.store(self.outer_since, Ordering::SeqCst);
        task.reads.store(self.outer_reads, Ordering::SeqCst);
    }
}

impl TaskStruct {
    /// Thread name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address of what it waits for; 0 for nothing.
    pub fn blocker(&self) -> u64 {
        self.blocker.load(Ordering::SeqCst)
    }

    /// When that wait began, CLOCK_MONOTONIC in nanoseconds.
    pub fn blocked_since_ns(&self) -> u64 {
        self.since.load(Ordering::SeqCst)
    }

    /// Number of the wait that it is in, or was in last.
    pub fn wait_number(&self) -> u64 {
        self.waits.load(Ordering::SeqCst)
    }

    /// The thread ends: what its task holds now, it holds for ever.
    pub fn exit(&self) {
        self.exited.store(true, Ordering::SeqCst);
    }

    /// Its thread has ended.
    pub fn has_exited(&self) -> bool {
        self.exited.load(Ordering::SeqCst)
    }

    /// The task's address, as in the owner words.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// A fatal signal: a killable sleep ends, and killable locks fail from now on. No scenario kills yet.
    #[cfg(test)]
    pub fn send_sigkill(&self) {
        self.sigkill_pending.store(true, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) & TASK_WAKEKILL != 0 {
            self.try_to_wake_up();
        }
    }

    /// Sleeping in `state` would end at once because of a signal.
    pub fn signal_pending_state(&self, state: u32) -> bool {
        state & TASK_WAKEKILL != 0 && self.sigkill_pending.load(Ordering::SeqCst)
    }

    /// Makes the task runnable.
    pub fn try_to_wake_up(&self) {
        if self.state.swap(TASK_RUNNING, Ordering::SeqCst) != TASK_RUNNING {
            futex::wake(&self.state, 1);
        }
    }

    /// Hands an rwsem to a queued reader and wakes it.
    pub(super) fn grant(&self) {
        self.granted.store(true, Ordering::SeqCst);
        self.try_to_wake_up();
    }

    /// The rwsem was handed over.
    pub(super) fn is_granted(&self) -> bool {
        self.granted.load(Ordering::SeqCst)
    }

    /// Before queueing as a reader.
    pub(super) fn clear_granted(&self) {
        self.granted.store(false, Ordering::SeqCst);
    }
}

/// CLOCK_MONOTONIC, which is the clock of probes, too.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call, and Linux always has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Announces a sleep, ordered before the test of its condition.
pub fn set_current_state(state: u32) {
    current().state.swap(state, Ordering::SeqCst);
}

/// Sleeps until the state is `TASK_RUNNING` again.
pub fn schedule() {
    let task = current();
    loop {
        let state = task.state.load(Ordering::SeqCst);
        if state == TASK_RUNNING {
            return;
        }
        if task.signal_pending_state(state) {
            task.state.store(TASK_RUNNING, Ordering::SeqCst);
            return;
        }
        futex::wait(&task.state, state, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_address_leaves_the_low_bits_free() {
        for _ in 0..8 {
            let address = std::thread::spawn(|| current().address()).join().unwrap();
            assert_ne!(address, 0);
            assert_eq!(address & 63, 0);
        }
        assert_eq!(current().address(), current().address());
    }

    /// A flag's waiter queues for the guard, too, and goes on to wait for the flag.
    #[test]
    fn each_wait_has_its_own_beginning() {
        let task = current();
        let before = monotonic_ns();
        let flag = Blocked::on(64);
        let first = task.blocked_since_ns();
        assert!((before..=monotonic_ns()).contains(&first));
        std::thread::sleep(std::time::Duration::from_millis(2));
        let guard = Blocked::on(128);
        assert!(task.blocked_since_ns() >= first + 2_000_000);
        drop(guard);
        assert_eq!((task.blocker(), task.blocked_since_ns()), (64, first));
        drop(flag);
        assert_eq!(task.blocker(), 0);
    }

    #[test]
    fn a_wake_before_the_sleep_is_not_lost() {
        set_current_state(TASK_UNINTERRUPTIBLE);
        let me = current();
        std::thread::spawn(move || me.try_to_wake_up())
            .join()
            .unwrap();
        schedule();
    }
}
