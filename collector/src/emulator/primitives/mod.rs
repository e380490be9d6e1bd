//! The kernel's sleeping primitives, in user space: mutex, rwsem, wait queue, work items, msleep.
//!
//! They follow the kernel's semantics and word encodings (`kernel/locking/mutex.c`, `kernel/locking/rwsem.c`,
//! `kernel/sched/wait.c`, `kernel/workqueue.c`) and park threads on futexes. They call each other, and are called, only through the probe
//! points of [`super::points::kernel`], so that every operation passes a point. Each lock counts its own operations:
//! that is the ground truth. They know nothing of the driver.

pub mod futex;
pub mod msleep;
pub mod mutex;
pub mod rwsem;
pub mod task;
pub mod trace;
pub mod waitqueue;
pub mod workqueue;

#[cfg(test)]
mod stress;

use std::sync::atomic::{AtomicU64, Ordering};

pub use mutex::Mutex;
pub use rwsem::RwSemaphore;
pub use task::{TaskStruct, monotonic_ns};
pub use waitqueue::{WaitQueueEntry, WaitQueueHead};
pub use workqueue::WorkStruct;

/// Ground truth of one lock in one mode, counted by the lock's own code.
#[derive(Debug, Default)]
pub struct LockCounters {
    acquisitions: AtomicU64,
    contended: AtomicU64,
    releases: AtomicU64,
    attempts_failed: AtomicU64,
}

/// Values of [`LockCounters`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// Releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
}

impl LockCounters {
    /// The lock was obtained.
    pub fn acquired(&self) {
        self.acquisitions.fetch_add(1, Ordering::Relaxed);
    }

    /// The slow path was entered.
    pub fn contended(&self) {
        self.contended.fetch_add(1, Ordering::Relaxed);
    }

    /// The lock is being released.
    pub fn released(&self) {
        self.releases.fetch_add(1, Ordering::Relaxed);
    }

    /// A trylock failed, or a wait was interrupted.
    pub fn failed(&self) {
        self.attempts_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts; consistent with each other only while nobody uses the lock.
    pub fn read(&self) -> LockCounts {
        LockCounts {
            acquisitions: self.acquisitions.load(Ordering::Relaxed),
            contended: self.contended.load(Ordering::Relaxed),
            releases: self.releases.load(Ordering::Relaxed),
            attempts_failed: self.attempts_failed.load(Ordering::Relaxed),
        }
    }
}

/// A short-held lock of the primitives themselves, where the kernel has a raw spinlock.
pub(crate) type RawSpinLock<T> = std::sync::Mutex<T>;

/// Takes a [`RawSpinLock`]. Nothing that runs under one can panic, so poisoning means nothing.
pub(crate) fn raw_spin_lock<T>(lock: &RawSpinLock<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
