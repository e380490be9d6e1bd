//! Who waits for a lock, from the lock's own queue.
//!
//! Takes memory, where members are, and a lock; gives the tasks that are queued. Both shapes of a queue are known: a list
//! with its head in the lock, and, since v7.2, a pointer to the first of a ring of waiters. Does not know of threads: a
//! task is the address of its `task_struct`.

use probe_ebpf::abi::{LockKind, Mode};

use super::lists::{self, Walk};
use crate::attach::offsets::{Field, Offsets};
use crate::source::kernel::words::Memory;

/// Waiters of a lock that are read: a guest has at most 248 vCPUs on s390, and every one may wait.
const MOST: usize = 1024;
/// `MUTEX_FLAG_WAITERS` (kernel/locking/mutex.h), `RWSEM_FLAG_WAITERS` (kernel/locking/rwsem.c).
const MUTEX_WAITERS: u64 = 1;
const RWSEM_WAITERS: u64 = 2;
/// `RWSEM_READER_SHIFT` (kernel/locking/rwsem.c); the topmost bit is `RWSEM_FLAG_READFAIL`.
const READER_SHIFT: u32 = 8;
const READ_FAIL: u64 = 1 << 63;
/// `RWSEM_WAITING_FOR_WRITE` (kernel/locking/rwsem.c): the first of `enum rwsem_waiter_type`.
const FOR_WRITE: u32 = 0;

/// Where a queue and what is in it are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Of the list, or of the pointer to the first waiter, in the lock.
    queue: u32,
    /// There is only a pointer.
    headless: bool,
    /// Of the link in a waiter.
    link: u32,
    /// Of the task in a waiter.
    task: u32,
}

/// Shapes of the queues of this kernel; none where its types are not known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shapes {
    mutex: Option<(u32, Shape)>,
    rwsem: Option<(u32, Shape, u32)>,
    /// The wait queue of an open-coded lock: its distance from the flag.
    flag: Option<(i64, Shape)>,
}

/// A task in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Address of its `task_struct`.
    pub task: u64,
    /// What it waits for.
    pub mode: Mode,
}

/// The state of a lock, apart from its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// In the order of the queue.
    pub waiters: Vec<Waiter>,
    /// Nothing was changed while it was read.
    pub whole: bool,
    /// Of an rwsem: readers that hold it.
    pub readers: u64,
    /// Of an open-coded lock: somebody has set it.
    pub set: bool,
}

impl Shapes {
    /// Of a kernel.
    pub fn new(offsets: &Offsets) -> Self {
        let at = |field| offsets.get(field);
        let shape = |queue, link, task| {
            Some(Shape {
                queue: at(queue)?,
                headless: offsets.is_called(queue, "first_waiter"),
                link: at(link)?,
                task: at(task)?,
            })
        };
        let flag = || {
            let distance =
                i64::from(at(Field::MdevWaitForKvm)?) - i64::from(at(Field::MdevKvmBusy)?);
            let shape = shape(
                Field::WaitQueueHead,
                Field::WaitEntryLink,
                Field::WaitEntryTask,
            )?;
            Some((distance, shape))
        };
        Self {
            mutex: at(Field::MutexOwner).zip(shape(
                Field::MutexWaiters,
                Field::MutexWaiterList,
                Field::MutexWaiterTask,
            )),
            rwsem: (|| {
                let shape = shape(
                    Field::RwsemWaiters,
                    Field::RwsemWaiterList,
                    Field::RwsemWaiterTask,
                )?;
                Some((at(Field::RwsemCount)?, shape, at(Field::RwsemWaiterType)?))
            })(),
            flag: flag(),
        }
    }

    /// As in v5.10 to v7.1, for words of tests.
    #[cfg(test)]
    pub const fn for_tests() -> Self {
        let shape = Shape {
            queue: 16,
            headless: false,
            link: 0,
            task: 16,
        };
        Self {
            mutex: Some((0, shape)),
            rwsem: Some((0, shape, 24)),
            flag: None,
        }
    }

    /// Of the emulated kernel, where every task says what it waits for: no queue is read, and all are known.
    pub const fn emulated() -> Self {
        const NONE: Shape = Shape {
            queue: 0,
            headless: false,
            link: 0,
            task: 0,
        };
        Self {
            mutex: Some((0, NONE)),
            rwsem: Some((0, NONE, 0)),
            flag: Some((0, NONE)),
        }
    }

    /// Queues of locks of this kind can be read.
    pub const fn knows(&self, kind: LockKind) -> bool {
        match kind {
            LockKind::Mutex => self.mutex.is_some(),
            LockKind::Rwsem => self.rwsem.is_some(),
            LockKind::Flag => self.flag.is_some(),
            LockKind::Work => false,
        }
    }

    /// The queue of a lock; `None` where it cannot be read.
    pub fn read(&self, memory: &impl Memory, kind: LockKind, lock: u64) -> Option<Queue> {
        let at = |offset: u32| lock.wrapping_add(u64::from(offset));
        match kind {
            LockKind::Mutex => {
                let (owner, shape) = self.mutex?;
                let queued = memory.u64(at(owner))? & MUTEX_WAITERS != 0;
                let (waiters, whole) =
                    waiters(memory, lock, &shape, queued, |_| Some(Mode::Exclusive));
                Some(Queue {
                    waiters,
                    whole,
                    ..Queue::default()
                })
            }
            LockKind::Rwsem => {
                let (count, shape, kind) = self.rwsem?;
                let count = memory.u64(at(count))?;
                let mode = |waiter: u64| {
                    let kind = memory.u32(waiter.wrapping_add(u64::from(kind)))?;
                    Some(if kind == FOR_WRITE {
                        Mode::Write
                    } else {
                        Mode::Read
                    })
                };
                let queued = count & RWSEM_WAITERS != 0;
                let (waiters, whole) = waiters(memory, lock, &shape, queued, mode);
                Some(Queue {
                    waiters,
                    whole,
                    readers: readers(count),
                    set: false,
                })
            }
            LockKind::Flag => {
                let (distance, shape) = self.flag?;
                let mut flag = [0];
                if !memory.read(lock, &mut flag) {
                    return None;
                }
                let queue = lock.wrapping_add_signed(distance);
                let (waiters, whole) =
                    waiters(memory, queue, &shape, true, |_| Some(Mode::Exclusive));
                Some(Queue {
                    waiters,
                    whole,
                    readers: 0,
                    set: flag[0] != 0,
                })
            }
            LockKind::Work => None,
        }
    }
}

/// Readers that hold an rwsem, by its count.
pub const fn readers(count: u64) -> u64 {
    (count & !READ_FAIL) >> READER_SHIFT
}

/// Tasks in a queue, and whether all were read. `queued`: the lock's word says that there are any.
fn waiters(
    memory: &impl Memory,
    lock: u64,
    shape: &Shape,
    queued: bool,
    mode: impl Fn(u64) -> Option<Mode>,
) -> (Vec<Waiter>, bool) {
    if !queued {
        return (Vec::new(), true);
    }
    let link = u64::from(shape.link);
    let Walk { links, mut whole } = links(memory, lock, shape);
    let mut waiters = Vec::with_capacity(links.len());
    for &at in &links {
        let waiter = at.wrapping_sub(link);
        let task = memory.u64(waiter.wrapping_add(u64::from(shape.task)));
        match (task, mode(waiter)) {
            (Some(task), Some(mode)) if task != 0 => waiters.push(Waiter { task, mode }),
            // The waiter has left while it was looked at.
            _ => whole = false,
        }
    }
    // A waiter lies on the stack of its task, and what is there when it has left is anything. A queue that is still the
    // same had them all the time.
    whole &= self::links(memory, lock, shape).links == links;
    (waiters, whole)
}

/// Addresses of the links in the waiters of a queue.
fn links(memory: &impl Memory, lock: u64, shape: &Shape) -> Walk {
    let queue = lock.wrapping_add(u64::from(shape.queue));
    if !shape.headless {
        return lists::headed(memory, queue, MOST);
    }
    match memory.u64(queue) {
        None => Walk::nothing(),
        Some(0) => Walk::empty(),
        Some(first) => lists::ring(memory, first.wrapping_add(u64::from(shape.link)), MOST),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::fake::Words;
    use super::*;

    const LOCK: u64 = 0x1000;
    const SHAPE: Shape = Shape {
        queue: 16,
        headless: false,
        link: 0,
        task: 16,
    };

    fn shapes(headless: bool) -> Shapes {
        let shape = Shape { headless, ..SHAPE };
        Shapes {
            mutex: Some((0, shape)),
            rwsem: Some((0, shape, 24)),
            flag: Some((8, Shape { queue: 8, ..SHAPE })),
        }
    }

    /// Waiters in a list whose head is at this address, or in a ring.
    fn queue(words: &mut Words, head: Option<u64>, waiters: &[(u64, u64)]) {
        let mut links: Vec<u64> = waiters.iter().map(|(at, _)| *at).collect();
        links.extend(head);
        for (n, at) in links.iter().enumerate() {
            words.put(*at, links[(n + 1) % links.len()]);
            words.put(at + 8, links[(n + links.len() - 1) % links.len()]);
        }
        for (at, task) in waiters {
            words.put(at + 16, *task);
        }
    }

    #[test]
    fn waiters_of_a_mutex_in_both_shapes() {
        let waiters = [(0x8000, 0xa0), (0x9000, 0xb0)];
        let expected = waiters.map(|(_, task)| Waiter {
            task,
            mode: Mode::Exclusive,
        });
        let mut words = Words::default();
        words.put(LOCK, 0x7000 | MUTEX_WAITERS);
        queue(&mut words, Some(LOCK + 16), &waiters);
        let read = shapes(false).read(&words, LockKind::Mutex, LOCK).unwrap();
        assert_eq!((read.waiters.as_slice(), read.whole), (&expected[..], true));
        let mut words = Words::default();
        words.put(LOCK, 0x7000 | MUTEX_WAITERS);
        words.put(LOCK + 16, 0x8000);
        queue(&mut words, None, &waiters);
        let read = shapes(true).read(&words, LockKind::Mutex, LOCK).unwrap();
        assert_eq!((read.waiters.as_slice(), read.whole), (&expected[..], true));
        // The word says that nobody waits: what is in the list is not looked at.
        words.put(LOCK, 0x7000);
        let read = shapes(true).read(&words, LockKind::Mutex, LOCK).unwrap();
        assert!(read.waiters.is_empty() && read.whole);
    }

    #[test]
    fn an_rwsem_has_readers_and_waiters_of_two_kinds() {
        let mut words = Words::default();
        words.put(LOCK, 3 << READER_SHIFT | RWSEM_WAITERS | READ_FAIL);
        queue(
            &mut words,
            Some(LOCK + 16),
            &[(0x8000, 0xa0), (0x9000, 0xb0)],
        );
        words.put_u32(0x8000 + 24, 0);
        words.put_u32(0x9000 + 24, 1);
        let read = shapes(false).read(&words, LockKind::Rwsem, LOCK).unwrap();
        let modes: Vec<Mode> = read.waiters.iter().map(|w| w.mode).collect();
        assert_eq!(modes, [Mode::Write, Mode::Read]);
        assert_eq!((read.readers, read.whole), (3, true));
    }

    #[test]
    fn a_flag_has_its_wait_queue_beside_it() {
        let mut words = Words::default();
        words.put(LOCK, u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]));
        queue(&mut words, Some(LOCK + 16), &[(0x8000, 0xa0)]);
        let read = shapes(false).read(&words, LockKind::Flag, LOCK).unwrap();
        assert!(read.set && read.whole);
        assert_eq!(read.waiters[0].task, 0xa0);
    }

    #[test]
    fn a_waiter_that_left_makes_it_incomplete() {
        let mut words = Words::default();
        words.put(LOCK, 0x7000 | MUTEX_WAITERS);
        queue(&mut words, Some(LOCK + 16), &[(0x8000, 0xa0), (0x9000, 0)]);
        let read = shapes(false).read(&words, LockKind::Mutex, LOCK).unwrap();
        assert_eq!((read.waiters.len(), read.whole), (1, false));
        assert_eq!(shapes(false).read(&words, LockKind::Mutex, 0x4000), None);
        assert!(!Shapes::default().knows(LockKind::Mutex));
    }

    /// Memory that becomes another at the moment at which a word of it is read.
    struct Changing {
        at: u64,
        then: Words,
        now: RefCell<Words>,
    }

    impl Memory for Changing {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let known = self.now.borrow().read(address, into);
            if address == self.at {
                self.now.replace(self.then.clone());
                return self.then.read(address, into);
            }
            known
        }
    }

    #[test]
    fn who_leaves_between_the_queue_and_its_task_makes_it_incomplete() {
        for headless in [false, true] {
            let head = (!headless).then_some(LOCK + 16);
            let of = |waiters: &[(u64, u64)]| {
                let mut words = Words::default();
                words.put(LOCK, 0x7000 | MUTEX_WAITERS);
                if headless {
                    words.put(LOCK + 16, waiters[0].0);
                }
                queue(&mut words, head, waiters);
                words
            };
            // The first has left, and its stack has something else where its task was.
            let mut then = of(&[(0x9000, 0xb0)]);
            then.put(0x8000, 1);
            then.put(0x8008, 2);
            then.put(0x8010, 0xdead);
            let memory = Changing {
                at: 0x8000 + 16,
                then,
                now: RefCell::new(of(&[(0x8000, 0xa0), (0x9000, 0xb0)])),
            };
            let read = shapes(headless)
                .read(&memory, LockKind::Mutex, LOCK)
                .unwrap();
            assert!(read.waiters.iter().any(|waiter| waiter.task == 0xdead));
            assert!(!read.whole);
            let again = shapes(headless)
                .read(&memory, LockKind::Mutex, LOCK)
                .unwrap();
            assert_eq!((again.waiters.len(), again.whole), (1, true));
        }
    }
}
