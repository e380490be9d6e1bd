//! `struct rw_semaphore`.
//!
//! The count word is the kernel's: bit 0 a writer owns it, bit 1 somebody queues, bit 2 hand-off to the first writer,
//! readers from bit 8. A reader's fast path fails as soon as somebody queues, so writers are not starved; when a
//! reader reaches the head of the queue, all queued readers are let in with it. The owner word has the writer, or the
//! last reader with bit 0 set, which is a hint and is not cleared when readers leave.

use std::collections::VecDeque;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::task::{
    Blocked, TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct, current, schedule, set_current_state,
};
use super::trace::{self, Event};
use super::{LockCounters, RawSpinLock, raw_spin_lock};
use crate::emulator::points::kernel as point;

/// A writer owns it.
pub const RWSEM_WRITER_LOCKED: u64 = 1;
/// Somebody is on the wait list.
pub const RWSEM_FLAG_WAITERS: u64 = 2;
/// Only the first waiter, a writer, may take it.
pub const RWSEM_FLAG_HANDOFF: u64 = 4;
/// One reader.
pub const RWSEM_READER_BIAS: u64 = 1 << 8;
/// The owner word names a reader.
pub const RWSEM_READER_OWNED: u64 = 1;

const READER_MASK: u64 = !(RWSEM_READER_BIAS - 1);
const LOCK_MASK: u64 = READER_MASK | RWSEM_WRITER_LOCKED;
const READ_FAILED_MASK: u64 = RWSEM_WRITER_LOCKED | RWSEM_FLAG_WAITERS | RWSEM_FLAG_HANDOFF;
/// A first writer that has waited this long asks for the hand-off.
const WAIT_TIMEOUT: Duration = Duration::from_millis(4);

#[derive(Debug)]
struct Waiter {
    task: &'static TaskStruct,
    write: bool,
}

/// A read-write semaphore. Count and owner are its first fields, as in the kernel.
#[derive(Debug, Default)]
#[repr(C)]
pub struct RwSemaphore {
    count: AtomicU64,
    owner: AtomicU64,
    wait_list: RawSpinLock<VecDeque<Waiter>>,
    truth_read: LockCounters,
    truth_write: LockCounters,
    /// Who holds it for reading: the kernel does not know, whoever explains a hang must.
    readers: RawSpinLock<Vec<&'static TaskStruct>>,
}

/// `lock_acquired`'s mode of a reader.
const READ: u64 = 1;
/// `lock_acquired`'s mode of a writer.
const WRITE: u64 = 2;

impl RwSemaphore {
    /// Address, as probes see it.
    pub fn address(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// The count word.
    pub fn count_word(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The owner word.
    pub fn owner_word(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// What readers counted.
    pub fn truth_read(&self) -> &LockCounters {
        &self.truth_read
    }

    /// What writers counted.
    pub fn truth_write(&self) -> &LockCounters {
        &self.truth_write
    }

    /// Addresses of the tasks that hold it, in either mode.
    pub fn holders(&self) -> Vec<u64> {
        let mut holders: Vec<u64> = raw_spin_lock(&self.readers)
            .iter()
            .map(|task| task.address())
            .collect();
        if self.count_word() & RWSEM_WRITER_LOCKED != 0 {
            holders.push(self.owner_word() & !7);
        }
        holders
    }

    /// Makes it free again after a release in the wrong mode.
    #[cfg(test)]
    pub fn repair(&self) {
        self.count.store(0, Ordering::SeqCst);
        self.owner.store(0, Ordering::SeqCst);
        raw_spin_lock(&self.readers).clear();
    }

    fn set_reader_owned(&self) {
        self.owner
            .store(current().address() | RWSEM_READER_OWNED, Ordering::Relaxed);
    }
}

/// `down_read`.
pub(crate) fn down_read(sem: &RwSemaphore) {
    let count = sem.count.fetch_add(RWSEM_READER_BIAS, Ordering::Acquire);
    if count & READ_FAILED_MASK != 0 {
        point::rwsem_down_read_slowpath(sem);
    } else {
        sem.set_reader_owned();
    }
    raw_spin_lock(&sem.readers).push(current());
    sem.truth_read.acquired();
    trace::note(Event::Lock('R', sem.address()));
    point::lock_acquired(sem.address(), READ);
}

/// The reader's slow path, entered with the bias of the failed fast path still in the count.
pub(crate) fn rwsem_down_read_slowpath(sem: &RwSemaphore) {
    sem.truth_read.contended();
    let _blocked = Blocked::reading(sem.address());
    let me = current();
    let mut list = raw_spin_lock(&sem.wait_list);
    let count = sem.count.load(Ordering::Acquire);
    if list.is_empty() && count & (RWSEM_WRITER_LOCKED | RWSEM_FLAG_HANDOFF) == 0 {
        // The writer left between the fast path and here: the bias that is in the count is the lock.
        drop(list);
        sem.set_reader_owned();
        return;
    }
    me.clear_granted();
    list.push_back(Waiter {
        task: me,
        write: false,
    });
    if list.len() == 1 {
        sem.count.fetch_or(RWSEM_FLAG_WAITERS, Ordering::SeqCst);
    }
    let count = sem
        .count
        .fetch_sub(RWSEM_READER_BIAS, Ordering::SeqCst)
        .wrapping_sub(RWSEM_READER_BIAS);
    if count & LOCK_MASK == 0 {
        // Nobody holds it any more, or a writer was turned away by our bias: whoever is first may go.
        mark_wake(sem, &mut list);
    }
    drop(list);
    loop {
        set_current_state(TASK_UNINTERRUPTIBLE);
        if me.is_granted() {
            break;
        }
        schedule();
    }
    set_current_state(TASK_RUNNING);
    sem.set_reader_owned();
}

/// `down_write`.
pub(crate) fn down_write(sem: &RwSemaphore) {
    if sem
        .count
        .compare_exchange(0, RWSEM_WRITER_LOCKED, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        point::rwsem_down_write_slowpath(sem);
    }
    sem.owner.store(current().address(), Ordering::Relaxed);
    sem.truth_write.acquired();
    trace::note(Event::Lock('W', sem.address()));
    point::lock_acquired(sem.address(), WRITE);
}

/// The writer's slow path.
pub(crate) fn rwsem_down_write_slowpath(sem: &RwSemaphore) {
    sem.truth_write.contended();
    let _blocked = Blocked::on(sem.address());
    let me = current();
    let since = Instant::now();
    let mut list = raw_spin_lock(&sem.wait_list);
    list.push_back(Waiter {
        task: me,
        write: true,
    });
    if list.len() == 1 {
        sem.count.fetch_or(RWSEM_FLAG_WAITERS, Ordering::SeqCst);
    }
    loop {
        set_current_state(TASK_UNINTERRUPTIBLE);
        if try_write_lock(sem, &mut list, since) {
            break;
        }
        drop(list);
        schedule();
        list = raw_spin_lock(&sem.wait_list);
    }
    drop(list);
    set_current_state(TASK_RUNNING);
}

/// Takes the lock for the calling writer, which is on the list, and takes it off; `false` if it must wait.
fn try_write_lock(
    sem: &RwSemaphore,
    list: &mut MutexGuard<'_, VecDeque<Waiter>>,
    since: Instant,
) -> bool {
    let me = current();
    let first = list.front().is_some_and(|w| std::ptr::eq(w.task, me));
    let mut count = sem.count.load(Ordering::Relaxed);
    loop {
        let mut new = count;
        let taken = if count & LOCK_MASK != 0 {
            if !first || count & RWSEM_FLAG_HANDOFF != 0 || since.elapsed() < WAIT_TIMEOUT {
                return false;
            }
            new |= RWSEM_FLAG_HANDOFF;
            false
        } else {
            // Free, but others came before.
            if !first {
                return false;
            }
            new |= RWSEM_WRITER_LOCKED;
            new &= !RWSEM_FLAG_HANDOFF;
            if list.len() == 1 {
                new &= !RWSEM_FLAG_WAITERS;
            }
            true
        };
        match sem
            .count
            .compare_exchange_weak(count, new, Ordering::SeqCst, Ordering::Relaxed)
        {
            Ok(_) if taken => {
                list.pop_front();
                return true;
            }
            Ok(_) => return false,
            Err(seen) => count = seen,
        }
    }
}

/// Wakes the first waiter if it is a writer; lets in all queued readers if it is a reader and no writer owns it.
fn mark_wake(sem: &RwSemaphore, list: &mut MutexGuard<'_, VecDeque<Waiter>>) {
    let Some(first) = list.front() else {
        return;
    };
    if first.write {
        first.task.try_to_wake_up();
        return;
    }
    let readers = list.iter().filter(|w| !w.write).count() as u64;
    let bias = readers * RWSEM_READER_BIAS;
    let before = sem.count.fetch_add(bias, Ordering::SeqCst);
    if before & RWSEM_WRITER_LOCKED != 0 {
        // A writer was faster; its release comes here again. If it has released meanwhile, nobody else will.
        let after = sem.count.fetch_sub(bias, Ordering::SeqCst) - bias;
        if after & LOCK_MASK == 0 {
            mark_wake(sem, list);
        }
        return;
    }
    let mut woken = Vec::with_capacity(readers as usize);
    list.retain(|w| {
        if !w.write {
            woken.push(w.task);
        }
        w.write
    });
    let clear = if list.is_empty() {
        RWSEM_FLAG_WAITERS | RWSEM_FLAG_HANDOFF
    } else {
        RWSEM_FLAG_HANDOFF
    };
    sem.count.fetch_and(!clear, Ordering::SeqCst);
    for task in woken {
        task.grant();
    }
}

/// `up_read`.
pub(crate) fn up_read(sem: &RwSemaphore) {
    sem.truth_read.released();
    trace::note(Event::Unlock('r', sem.address()));
    let mut readers = raw_spin_lock(&sem.readers);
    let place = readers.iter().position(|r| std::ptr::eq(*r, current()));
    if let Some(place) = place {
        readers.swap_remove(place);
    }
    drop(readers);
    // Releasing a writer's lock this way wraps, and ruins the count for good, as in the kernel.
    let count = sem
        .count
        .fetch_sub(RWSEM_READER_BIAS, Ordering::SeqCst)
        .wrapping_sub(RWSEM_READER_BIAS);
    if count & (LOCK_MASK | RWSEM_FLAG_WAITERS) == RWSEM_FLAG_WAITERS {
        mark_wake(sem, &mut raw_spin_lock(&sem.wait_list));
    }
}

/// `up_write`.
pub(crate) fn up_write(sem: &RwSemaphore) {
    sem.truth_write.released();
    trace::note(Event::Unlock('w', sem.address()));
    sem.owner.store(0, Ordering::Relaxed);
    let count = sem.count.fetch_sub(RWSEM_WRITER_LOCKED, Ordering::SeqCst) - RWSEM_WRITER_LOCKED;
    if count & RWSEM_FLAG_WAITERS != 0 {
        mark_wake(sem, &mut raw_spin_lock(&sem.wait_list));
    }
}
