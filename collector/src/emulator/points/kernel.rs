//! The kernel's own points: locks, wait queues, sleeps.

use probe_ebpf::abi::Mode;

use super::{Comm, points};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::primitives::{
    Mutex, RwSemaphore, WaitQueueEntry, WaitQueueHead, WorkStruct, msleep as sleep, mutex, rwsem,
    task, waitqueue, workqueue,
};
use crate::inprocess::hooks;

points! {
    "kernel";
    /// Takes a mutex.
    mutex_lock(lock: &Mutex) = at::mutex_lock;
    /// Takes a mutex: 0, or `-EINTR` after a fatal signal.
    mutex_lock_killable(lock: &Mutex) -> i32 = at::mutex_lock_killable;
    /// Takes a mutex if it is free: 1, else 0.
    mutex_trylock(lock: &Mutex) -> i32 = at::mutex_trylock;
    /// Releases a mutex.
    mutex_unlock(lock: &Mutex) = at::mutex_unlock;
    /// A mutex's fast path has failed.
    __mutex_lock_slowpath(lock: &Mutex, state: u32) -> i32 = at::__mutex_lock_slowpath;
    /// Takes an rwsem for reading.
    down_read(sem: &RwSemaphore) = at::down_read;
    /// Takes an rwsem for writing.
    down_write(sem: &RwSemaphore) = at::down_write;
    /// Releases an rwsem taken for reading.
    up_read(sem: &RwSemaphore) = at::up_read;
    /// Releases an rwsem taken for writing.
    up_write(sem: &RwSemaphore) = at::up_write;
    /// A reader's fast path has failed.
    rwsem_down_read_slowpath(sem: &RwSemaphore) = at::rwsem_down_read_slowpath;
    /// A writer's fast path has failed.
    rwsem_down_write_slowpath(sem: &RwSemaphore) = at::rwsem_down_write_slowpath;
    /// A lock was obtained; `mode` is the number of a `probe_ebpf::abi::Mode`.
    lock_acquired(lock: u64, mode: u64) = at::lock_acquired;
    /// A trylock failed, or a wait was interrupted.
    lock_attempt_failed(lock: u64, mode: u64) = at::lock_attempt_failed;
    /// A wait loop goes round.
    prepare_to_wait_event(head: &WaitQueueHead, entry: &WaitQueueEntry, state: u32) -> i64 = at::prepare_to_wait_event;
    /// A wait loop has ended.
    finish_wait(head: &WaitQueueHead, entry: &WaitQueueEntry) = at::finish_wait;
    /// Waiters are woken.
    __wake_up(head: &WaitQueueHead, mode: u32, count: i32, key: u64) = at::__wake_up;
    /// Sleeps for a number of milliseconds.
    msleep(ms: u32) = at::msleep;
    /// Gives up the processor.
    schedule() = at::schedule;
    /// A worker starts to execute a work item (the tracepoint's name).
    workqueue_execute_start(work: &WorkStruct) = at::workqueue_execute_start;
    /// It has executed it.
    workqueue_execute_end(work: &WorkStruct) = at::workqueue_execute_end;
    /// Waits for a work item: 1, or 0 if it was idle.
    flush_work(work: &WorkStruct) -> i32 = at::flush_work;
    /// Write to the AP bus's `apmask`.
    apmask_store(bus: u64, buf: &Page, count: usize, unused: u64, pid: u64, comm: &Comm) -> i64 = at::apmask_store;
    /// Write to the AP bus's `aqmask`.
    aqmask_store(bus: u64, buf: &Page, count: usize, unused: u64, pid: u64, comm: &Comm) -> i64 = at::aqmask_store;
}

/// What the points jump to.
mod at {
    use super::{
        Comm, Mode, Mutex, Page, RwSemaphore, WaitQueueEntry, WaitQueueHead, WorkStruct, hooks,
        mutex, rwsem, sleep, task, waitqueue, workqueue,
    };
    use crate::emulator::ap_bus::{self, Mask};
    use crate::emulator::driver::dispatch::{call, word};
    use probe_ebpf::names::entry_id;

    pub(super) extern "C" fn mutex_lock(lock: &Mutex) {
        mutex::mutex_lock(lock);
    }

    pub(super) extern "C" fn mutex_lock_killable(lock: &Mutex) -> i32 {
        mutex::mutex_lock_killable(lock)
    }

    pub(super) extern "C" fn mutex_trylock(lock: &Mutex) -> i32 {
        mutex::mutex_trylock(lock)
    }

    pub(super) extern "C" fn mutex_unlock(lock: &Mutex) {
        hooks::lock_release(lock.address(), Mode::Exclusive);
        mutex::mutex_unlock(lock);
    }

    pub(super) extern "C" fn __mutex_lock_slowpath(lock: &Mutex, state: u32) -> i32 {
        hooks::lock_contended(lock.address(), Mode::Exclusive);
        mutex::mutex_lock_slowpath(lock, state)
    }

    pub(super) extern "C" fn down_read(sem: &RwSemaphore) {
        rwsem::down_read(sem);
    }

    pub(super) extern "C" fn down_write(sem: &RwSemaphore) {
        rwsem::down_write(sem);
    }

    pub(super) extern "C" fn up_read(sem: &RwSemaphore) {
        hooks::lock_release(sem.address(), Mode::Read);
        rwsem::up_read(sem);
    }

    pub(super) extern "C" fn up_write(sem: &RwSemaphore) {
        hooks::lock_release(sem.address(), Mode::Write);
        rwsem::up_write(sem);
    }

    pub(super) extern "C" fn rwsem_down_read_slowpath(sem: &RwSemaphore) {
        hooks::lock_contended(sem.address(), Mode::Read);
        rwsem::rwsem_down_read_slowpath(sem);
    }

    pub(super) extern "C" fn rwsem_down_write_slowpath(sem: &RwSemaphore) {
        hooks::lock_contended(sem.address(), Mode::Write);
        rwsem::rwsem_down_write_slowpath(sem);
    }

    pub(super) extern "C" fn lock_acquired(lock: u64, mode: u64) {
        hooks::lock_acquired(lock, Mode::from_u8(mode as u8));
    }

    pub(super) extern "C" fn lock_attempt_failed(lock: u64, mode: u64) {
        hooks::lock_failed(lock, Mode::from_u8(mode as u8));
    }

    pub(super) extern "C" fn prepare_to_wait_event(
        head: &WaitQueueHead,
        entry: &WaitQueueEntry,
        state: u32,
    ) -> i64 {
        hooks::wait_prepare(head.address());
        waitqueue::prepare_to_wait_event(head, entry, state)
    }

    pub(super) extern "C" fn finish_wait(head: &WaitQueueHead, entry: &WaitQueueEntry) {
        hooks::wait_finish(head.address());
        waitqueue::finish_wait(head, entry);
    }

    pub(super) extern "C" fn __wake_up(head: &WaitQueueHead, _mode: u32, count: i32, _key: u64) {
        hooks::wait_wake(head.address());
        waitqueue::wake_up(head, count);
    }

    pub(super) extern "C" fn msleep(ms: u32) {
        sleep::msleep(ms);
    }

    pub(super) extern "C" fn schedule() {
        task::schedule();
    }

    pub(super) extern "C" fn workqueue_execute_start(work: &WorkStruct) {
        hooks::work_start(work.address());
    }

    pub(super) extern "C" fn workqueue_execute_end(work: &WorkStruct) {
        hooks::work_end(work.address());
    }

    pub(super) extern "C" fn flush_work(work: &WorkStruct) -> i32 {
        hooks::flush_enter(work.address());
        let waited = workqueue::flush_work(work);
        hooks::flush_return(work.address(), waited != 0);
        waited
    }

    pub(super) extern "C" fn apmask_store(
        bus: u64,
        buf: &Page,
        count: usize,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i64 {
        let args = [bus, word(buf), count as u64, 0, pid, word(comm)];
        call(entry_id::APMASK_STORE, args, |m| {
            ap_bus::mask_store(m, Mask::Adapters, buf.bytes(count))
        })
    }

    pub(super) extern "C" fn aqmask_store(
        bus: u64,
        buf: &Page,
        count: usize,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i64 {
        let args = [bus, word(buf), count as u64, 0, pid, word(comm)];
        call(entry_id::AQMASK_STORE, args, |m| {
            ap_bus::mask_store(m, Mask::Domains, buf.bytes(count))
        })
    }
}
