//! `struct mutex`.
//!
//! The owner word is the kernel's: the owner's task pointer, `WAITERS` (somebody queues), `HANDOFF` (the first waiter
//! asks that the lock be given to it), `PICKUP` (it was given). The fast path is one compare-and-swap of 0 for the
//! task; what fails it is contended and takes the slow path, without optimistic spinning. Waiters queue first come
//! first served; the lock may be taken past a waiter that has been woken but has not run yet, once: then that waiter
//! asks for the hand-off.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use super::task::{self, Blocked, TASK_RUNNING, TaskStruct, current, schedule, set_current_state};
use super::trace::{self, Event};
use super::{LockCounters, RawSpinLock, raw_spin_lock};
use crate::emulator::points::kernel as point;

/// Somebody is on the wait list.
pub const MUTEX_FLAG_WAITERS: u64 = 1;
/// The next unlock gives the lock to the first waiter.
pub const MUTEX_FLAG_HANDOFF: u64 = 2;
/// The lock was given to the task in the word, which has not picked it up yet.
pub const MUTEX_FLAG_PICKUP: u64 = 4;
/// All flags; the rest of the word is the task pointer.
pub const MUTEX_FLAGS: u64 = 7;

/// A mutex. The owner word is its first field, as in the kernel.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Mutex {
    owner: AtomicU64,
    wait_list: RawSpinLock<VecDeque<&'static TaskStruct>>,
    truth: LockCounters,
}

/// `-EINTR` of the killable slow path.
const EINTR: i32 = -libc::EINTR;

impl Mutex {
    /// Address, as probes see it.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// The owner word.
    pub fn owner_word(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Address of the task that the owner word names; 0 if it is free.
    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::SeqCst) & !MUTEX_FLAGS
    }

    /// Runs `f` with the mutex, if it is free, without counting that as taking it.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn peek<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        if !self.trylock_fast() {
            return None;
        }
        let result = f();
        let me = current().address();
        let freed = self
            .owner
            .compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
        if freed.is_err() {
            unlock_slowpath(self);
        }
        Some(result)
    }

    /// Somebody holds it.
    pub fn is_locked(&self) -> bool {
        self.owner_word() & !MUTEX_FLAGS != 0
    }

    /// What this mutex counted.
    pub fn truth(&self) -> &LockCounters {
        &self.truth
    }

    /// Free and no flags set: take it.
    fn trylock_fast(&self) -> bool {
        self.owner
            .compare_exchange(0, current().address(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the lock if it is free, or was given to this task; with `handoff`, asks for it otherwise.
    fn trylock_common(&self, handoff: bool) -> bool {
        let me = current().address();
        let mut owner = self.owner.load(Ordering::Relaxed);
        loop {
            let mut flags = owner & MUTEX_FLAGS;
            let task = owner & !MUTEX_FLAGS;
            let taken = if task == 0 {
                true
            } else if flags & MUTEX_FLAG_PICKUP != 0 && task == me {
                flags &= !MUTEX_FLAG_PICKUP;
                true
            } else if handoff && flags & MUTEX_FLAG_HANDOFF == 0 {
                flags |= MUTEX_FLAG_HANDOFF;
                false
            } else {
                return false;
            };
            let new = if taken { me | flags } else { task | flags };
            match self
                .owner
                .compare_exchange_weak(owner, new, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return taken,
                Err(seen) => owner = seen,
            }
        }
    }

    fn acquired(&self) {
        self.truth.acquired();
        trace::note(Event::Lock('L', self.address()));
        point::lock_acquired(self.address(), 0);
    }
}

/// `mutex_lock`.
pub(crate) fn mutex_lock(lock: &Mutex) {
    if !lock.trylock_fast() {
        point::__mutex_lock_slowpath(lock, task::TASK_UNINTERRUPTIBLE);
    }
    lock.acquired();
}

/// `mutex_lock_killable`: 0, or `-EINTR` after a fatal signal.
pub(crate) fn mutex_lock_killable(lock: &Mutex) -> i32 {
    if !lock.trylock_fast() && point::__mutex_lock_slowpath(lock, task::TASK_KILLABLE) != 0 {
        lock.truth.failed();
        point::lock_attempt_failed(lock.address(), 0);
        return EINTR;
    }
    lock.acquired();
    0
}

/// `mutex_trylock`: 1 if the lock was obtained.
pub(crate) fn mutex_trylock(lock: &Mutex) -> i32 {
    if lock.trylock_common(false) {
        lock.acquired();
        1
    } else {
        lock.truth.failed();
        point::lock_attempt_failed(lock.address(), 0);
        0
    }
}

/// The slow path: queue, sleep, and take the lock when its turn comes. 0, or `-EINTR`.
pub(crate) fn mutex_lock_slowpath(lock: &Mutex, state: u32) -> i32 {
    lock.truth.contended();
    let _blocked = Blocked::on(lock.address());
    let me = current();
    let mut list = raw_spin_lock(&lock.wait_list);
    // The lock may have come free between the fast path and here.
    if lock.trylock_common(false) {
        return 0;
    }
    list.push_back(me);
    if list.len() == 1 {
        lock.owner.fetch_or(MUTEX_FLAG_WAITERS, Ordering::Relaxed);
    }
    set_current_state(state);
    let mut first = false;
    let result = loop {
        // With the list locked, an unlock either saw our WAITERS and will wake us, or this trylock succeeds.
        if lock.trylock_common(false) {
            break 0;
        }
        if me.signal_pending_state(state) {
            break EINTR;
        }
        drop(list);
        schedule();
        let list_now = raw_spin_lock(&lock.wait_list);
        first = first || list_now.front().is_some_and(|t| std::ptr::eq(*t, me));
        drop(list_now);
        set_current_state(state);
        let taken = lock.trylock_common(first);
        list = raw_spin_lock(&lock.wait_list);
        if taken {
            break 0;
        }
    };
    set_current_state(TASK_RUNNING);
    let was_first = list.front().is_some_and(|t| std::ptr::eq(*t, me));
    list.retain(|t| !std::ptr::eq(*t, me));
    if list.is_empty() {
        lock.owner.fetch_and(
            !(MUTEX_FLAG_WAITERS | MUTEX_FLAG_HANDOFF),
            Ordering::Relaxed,
        );
    } else if result != 0 && was_first && !lock.is_locked() {
        // A wake-up meant for us must reach the next waiter.
        if let Some(next) = list.front() {
            next.try_to_wake_up();
        }
    }
    result
}

/// `mutex_unlock`.
pub(crate) fn mutex_unlock(lock: &Mutex) {
    lock.truth.released();
    trace::note(Event::Unlock('U', lock.address()));
    let me = current().address();
    if lock
        .owner
        .compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed)
        .is_ok()
    {
        return;
    }
    unlock_slowpath(lock);
}

/// Somebody queues: free the lock and wake the first, or give it to the first if it asked for that.
fn unlock_slowpath(lock: &Mutex) {
    let mut owner = lock.owner.load(Ordering::Relaxed);
    loop {
        if owner & MUTEX_FLAG_HANDOFF != 0 {
            break;
        }
        match lock.owner.compare_exchange_weak(
            owner,
            owner & MUTEX_FLAGS,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => {
                if owner & MUTEX_FLAG_WAITERS == 0 {
                    return;
                }
                break;
            }
            Err(seen) => owner = seen,
        }
    }
    let list = raw_spin_lock(&lock.wait_list);
    let next = list.front().copied();
    if owner & MUTEX_FLAG_HANDOFF != 0 {
        hand_over(lock, next);
    }
    drop(list);
    if let Some(next) = next {
        next.try_to_wake_up();
    }
}

/// Makes `next` the owner, to be picked up.
fn hand_over(lock: &Mutex, next: Option<&'static TaskStruct>) {
    let mut owner = lock.owner.load(Ordering::Relaxed);
    loop {
        let mut new = owner & MUTEX_FLAG_WAITERS;
        if let Some(task) = next {
            new |= task.address() | MUTEX_FLAG_PICKUP;
        }
        match lock
            .owner
            .compare_exchange_weak(owner, new, Ordering::Release, Ordering::Relaxed)
        {
            Ok(_) => return,
            Err(seen) => owner = seen,
        }
    }
}
