//! Real threads on the primitives: exclusion, fairness, word encodings, no lost wake-ups, and counts that agree.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::mutex::{MUTEX_FLAG_WAITERS, MUTEX_FLAGS};
use super::rwsem::{
    RWSEM_FLAG_WAITERS, RWSEM_READER_BIAS, RWSEM_READER_OWNED, RWSEM_WRITER_LOCKED,
};
use super::task::current;
use super::waitqueue::{wait_event_cmd, wake_up_all};
use super::{LockCounters, LockCounts, Mutex, RwSemaphore, TaskStruct, WaitQueueHead};
use crate::emulator::points::kernel::{
    down_read, down_write, mutex_lock, mutex_lock_killable, mutex_trylock, mutex_unlock, up_read,
    up_write,
};

fn forever<T: Default>() -> &'static T {
    Box::leak(Box::default())
}

/// Waits until `condition` holds.
fn until(condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing happens");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Starts a thread and waits until it has entered the slow path of a lock with these counters.
fn queued<T: Send + 'static>(
    counters: &LockCounters,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let before = counters.read().contended;
    let thread = std::thread::spawn(f);
    until(|| counters.read().contended > before);
    // The slow path is entered before the waiter is on the list.
    std::thread::sleep(Duration::from_millis(5));
    thread
}

#[test]
fn a_mutex_excludes_and_counts() {
    let lock: &'static Mutex = forever();
    let value = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let value = Arc::clone(&value);
            std::thread::spawn(move || {
                for n in 0..3000 {
                    mutex_lock(lock);
                    // Not atomic as a whole: two threads inside would lose an increment.
                    let seen = value.load(Ordering::Relaxed);
                    if n % 1000 == 0 {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    value.store(seen + 1, Ordering::Relaxed);
                    mutex_unlock(lock);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(value.load(Ordering::Relaxed), 18_000);
    let truth = lock.truth().read();
    assert_eq!(truth.acquisitions, 18_000);
    assert_eq!(truth.releases, 18_000);
    assert_eq!(truth.attempts_failed, 0);
    assert!(truth.contended > 0 && truth.contended <= 18_000);
    assert_eq!(lock.owner_word(), 0);
}

#[test]
fn the_owner_word_is_the_kernels() {
    let lock: &'static Mutex = forever();
    mutex_lock(lock);
    assert_eq!(lock.owner_word(), current().address());
    let waiter = queued(lock.truth(), || {
        mutex_lock(lock);
        let word = lock.owner_word();
        mutex_unlock(lock);
        (word, current().address())
    });
    assert_eq!(lock.owner_word(), current().address() | MUTEX_FLAG_WAITERS);
    mutex_unlock(lock);
    let (word, task) = waiter.join().unwrap();
    assert_eq!(word & !MUTEX_FLAGS, task);
    assert_eq!(lock.owner_word(), 0);
}

#[test]
fn waiters_get_a_mutex_in_the_order_they_came() {
    let lock: &'static Mutex = forever();
    let order: &'static StdMutex<Vec<u32>> = forever();
    mutex_lock(lock);
    let threads: Vec<_> = (0..5)
        .map(|n| {
            queued(lock.truth(), move || {
                mutex_lock(lock);
                order.lock().unwrap().push(n);
                mutex_unlock(lock);
            })
        })
        .collect();
    mutex_unlock(lock);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_mutex_is_handed_to_a_waiter_that_was_passed_over() {
    let lock: &'static Mutex = forever();
    let stop: &'static AtomicBool = forever();
    let cycles: &'static AtomicU64 = forever();
    // Releases and takes again at once: without the hand-off the waiter would hardly ever get it.
    let hog = std::thread::spawn(|| {
        while !stop.load(Ordering::Relaxed) {
            mutex_lock(lock);
            std::thread::sleep(Duration::from_millis(2));
            cycles.fetch_add(1, Ordering::Relaxed);
            mutex_unlock(lock);
        }
    });
    until(|| cycles.load(Ordering::Relaxed) > 0);
    for _ in 0..10 {
        let before = cycles.load(Ordering::Relaxed);
        mutex_lock(lock);
        let passed = cycles.load(Ordering::Relaxed) - before;
        mutex_unlock(lock);
        assert!(passed < 50, "passed over {passed} times");
        std::thread::sleep(Duration::from_millis(1));
    }
    stop.store(true, Ordering::Relaxed);
    hog.join().unwrap();
    let truth = lock.truth().read();
    assert_eq!(truth.acquisitions, truth.releases);
}

#[test]
fn a_fatal_signal_ends_a_killable_wait_only() {
    let lock: &'static Mutex = forever();
    let tasks: &'static StdMutex<Vec<&'static TaskStruct>> = forever();
    mutex_lock(lock);
    let killable = queued(lock.truth(), || {
        tasks.lock().unwrap().push(current());
        mutex_lock_killable(lock)
    });
    let firm = queued(lock.truth(), || {
        tasks.lock().unwrap().push(current());
        mutex_lock(lock);
        mutex_unlock(lock);
    });
    for task in tasks.lock().unwrap().iter() {
        task.send_sigkill();
    }
    assert_eq!(killable.join().unwrap(), -libc::EINTR);
    assert!(!firm.is_finished());
    assert_eq!(mutex_trylock(lock), 0);
    mutex_unlock(lock);
    firm.join().unwrap();
    assert_eq!(mutex_trylock(lock), 1);
    mutex_unlock(lock);
    let expected = LockCounts {
        acquisitions: 3,
        contended: 2,
        releases: 3,
        attempts_failed: 2,
    };
    assert_eq!(lock.truth().read(), expected);
    assert_eq!(lock.owner_word(), 0);
}

#[test]
fn an_rwsem_excludes_and_counts() {
    let sem: &'static RwSemaphore = forever();
    let value: &'static AtomicU64 = forever();
    let writing: &'static AtomicBool = forever();
    let writers = (0..2).map(|_| {
        std::thread::spawn(|| {
            for n in 0..2000 {
                down_write(sem);
                assert!(!writing.swap(true, Ordering::Relaxed));
                let seen = value.load(Ordering::Relaxed);
                if n % 500 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
                value.store(seen + 1, Ordering::Relaxed);
                writing.store(false, Ordering::Relaxed);
                up_write(sem);
            }
        })
    });
    let readers = (0..4).map(|_| {
        std::thread::spawn(|| {
            for n in 0..2000 {
                down_read(sem);
                assert!(!writing.load(Ordering::Relaxed));
                if n % 500 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
                up_read(sem);
            }
        })
    });
    let threads: Vec<_> = writers.chain(readers).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(value.load(Ordering::Relaxed), 4000);
    let (read, write) = (sem.truth_read().read(), sem.truth_write().read());
    assert_eq!((read.acquisitions, read.releases), (8000, 8000));
    assert_eq!((write.acquisitions, write.releases), (4000, 4000));
    assert!(read.contended + write.contended > 0);
    assert_eq!(sem.count_word(), 0);
}

#[test]
fn the_count_word_is_the_kernels() {
    let sem: &'static RwSemaphore = forever();
    down_read(sem);
    assert_eq!(sem.count_word(), RWSEM_READER_BIAS);
    assert_eq!(sem.owner_word(), current().address() | RWSEM_READER_OWNED);
    std::thread::spawn(|| {
        down_read(sem);
        assert_eq!(sem.count_word(), 2 * RWSEM_READER_BIAS);
        up_read(sem);
    })
    .join()
    .unwrap();
    up_read(sem);
    down_write(sem);
    assert_eq!(sem.count_word(), RWSEM_WRITER_LOCKED);
    assert_eq!(sem.owner_word(), current().address());
    let reader = queued(sem.truth_read(), || {
        down_read(sem);
        up_read(sem);
    });
    assert_eq!(sem.count_word(), RWSEM_WRITER_LOCKED | RWSEM_FLAG_WAITERS);
    up_write(sem);
    reader.join().unwrap();
    assert_eq!(sem.count_word(), 0);
}

#[test]
fn readers_do_not_pass_a_waiting_writer() {
    let sem: &'static RwSemaphore = forever();
    let order: &'static StdMutex<Vec<&'static str>> = forever();
    down_read(sem);
    let writer = queued(sem.truth_write(), || {
        down_write(sem);
        order.lock().unwrap().push("writer");
        up_write(sem);
    });
    let readers: Vec<_> = (0..3)
        .map(|_| {
            queued(sem.truth_read(), || {
                down_read(sem);
                order.lock().unwrap().push("reader");
                up_read(sem);
            })
        })
        .collect();
    up_read(sem);
    writer.join().unwrap();
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(
        *order.lock().unwrap(),
        ["writer", "reader", "reader", "reader"]
    );
}

#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 3000;
    let lock: &'static Mutex = forever();
    let queue: &'static WaitQueueHead = forever();
    let turn: &'static AtomicU64 = forever();
    let slept: &'static LockCounters = forever();
    // Two threads take turns, each waiting for the other's flag under the guard.
    let players: Vec<_> = (0..2)
        .map(|me| {
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    mutex_lock(lock);
                    wait_event_cmd(
                        queue,
                        std::ptr::from_ref(turn) as u64,
                        || turn.load(Ordering::Relaxed) % 2 == me,
                        || mutex_unlock(lock),
                        || mutex_lock(lock),
                        slept,
                    );
                    turn.fetch_add(1, Ordering::Relaxed);
                    wake_up_all(queue);
                    mutex_unlock(lock);
                }
            })
        })
        .collect();
    for player in players {
        player.join().unwrap();
    }
    assert_eq!(turn.load(Ordering::Relaxed), 2 * ROUNDS);
    assert!(slept.read().contended > 0);
    let truth = lock.truth().read();
    assert_eq!(truth.acquisitions, truth.releases);
    assert_eq!(lock.owner_word(), 0);
}
