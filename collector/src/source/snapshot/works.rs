//! Which work item a worker executes, and who waits for that.
//!
//! Takes memory, where members are, and a function; gives the workers that execute it, and the tasks that flush them:
//! `__flush_work` queues a `struct wq_barrier` behind the work item, on the worker's own list (`insert_wq_barrier`,
//! kernel/workqueue.c, v5.10 to v7.2), and sleeps until the worker comes to it. Does not know what the work item is for.

use super::{Polls, lists};
use crate::attach::offsets::{Field, Offsets};
use crate::source::kernel::words::Memory;

/// Barriers behind a work item that are read.
const MOST_FLUSHERS: usize = 256;
/// Processes that are walked to find a worker.
const MOST_PROCESSES: usize = 65_536;

/// Where members are.
#[derive(Debug, Clone, Copy)]
pub struct Shapes {
    worker: u32,
    data: u32,
    current_work: u32,
    current_func: u32,
    scheduled: u32,
    worker_task: u32,
    entry: u32,
    barrier_task: u32,
    work_func: u32,
    tasks: u32,
}

/// What a worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executing {
    /// Address of the worker's `task_struct`.
    pub task: u64,
    /// Address of the `work_struct`.
    pub work: u64,
    /// Addresses of the `task_struct`s of those who wait for its end.
    pub flushers: Vec<u64>,
}

/// A worker that was found at a work item.
#[derive(Debug, Clone, Copy)]
pub struct Polling {
    task: u64,
    work: u64,
    /// When it was found first, CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
}

impl Polling {
    /// Still the same worker at the same work item.
    pub const fn is(&self, now: &Executing) -> bool {
        self.task == now.task && self.work == now.work
    }
}

impl Executing {
    /// To be remembered.
    pub const fn polling(&self, since_ns: u64) -> Polling {
        Polling {
            task: self.task,
            work: self.work,
            since_ns,
        }
    }
}

impl Shapes {
    /// Of a kernel; none before v5.17, whose drivers have no such work items.
    pub fn new(offsets: &Offsets) -> Option<Self> {
        let at = |field| offsets.get(field);
        Some(Self {
            worker: at(Field::TaskWorker)?,
            data: at(Field::KthreadData)?,
            current_work: at(Field::WorkerCurrentWork)?,
            current_func: at(Field::WorkerCurrentFunc)?,
            scheduled: at(Field::WorkerScheduled)?,
            worker_task: at(Field::WorkerTask)?,
            entry: at(Field::WorkEntry)?,
            barrier_task: at(Field::BarrierTask)?,
            work_func: at(Field::WorkFunc)?,
            tasks: at(Field::TaskTasks)?,
        })
    }

    /// Workers that poll, with what they execute, from the list of all processes and threads of the kernel.
    pub fn executing(&self, memory: &impl Memory, polls: &Polls) -> Vec<Executing> {
        let link = u64::from(self.tasks);
        let head = polls.init_task.wrapping_add(link);
        let tasks = lists::headed(memory, head, MOST_PROCESSES)
            .links
            .into_iter();
        let tasks = tasks.map(|at| at.wrapping_sub(link));
        latest(tasks.filter_map(|task| self.read(memory, task, polls)))
    }

    /// Those of them that were found before.
    pub fn again(&self, memory: &impl Memory, known: &[Polling], polls: &Polls) -> Vec<Executing> {
        let known = known.iter();
        latest(known.filter_map(|known| self.read(memory, known.task, polls)))
    }

    /// What the worker with this `task_struct` executes; `None` where it is no worker, or is at something else.
    fn read(&self, memory: &impl Memory, task: u64, polls: &Polls) -> Option<Executing> {
        let at = |object: u64, offset: u32| object.wrapping_add(u64::from(offset));
        let pointer = |object, offset| memory.u64(at(object, offset)).filter(|p| *p != 0);
        let kthread = pointer(task, self.worker)?;
        let worker = pointer(kthread, self.data)?;
        // Threads of the kernel that are no workers have other data.
        if pointer(worker, self.worker_task)? != task {
            return None;
        }
        if pointer(worker, self.current_func)? != polls.function {
            return None;
        }
        let work = pointer(worker, self.current_work)?;
        let scheduled = lists::headed(memory, at(worker, self.scheduled), MOST_FLUSHERS);
        let flushers = scheduled.links.iter().filter_map(|link| {
            // `work` is the first member of `struct wq_barrier`.
            let barrier = link.wrapping_sub(u64::from(self.entry));
            // The same work item, queued again, may be there too, and with a rescuer others.
            let function = pointer(barrier, self.work_func)?;
            (Some(function) == polls.barrier).then_some(())?;
            pointer(barrier, self.barrier_task)
        });
        let flushers = flushers.collect();
        // It may have come to its end meanwhile.
        (memory.u64(at(worker, self.current_work)) == Some(work)).then_some(Executing {
            task,
            work,
            flushers,
        })
    }
}

/// What was read, in that order, with one worker for each work item. The kernel lets no two execute the same one at a time
/// (`find_worker_executing_work`, kernel/workqueue.c, v5.10 to v7.2): if it was found at two, the first had come to its end
/// before the second was read.
fn latest(read: impl Iterator<Item = Executing>) -> Vec<Executing> {
    let mut executing: Vec<Executing> = Vec::new();
    for one in read {
        executing.retain(|before| before.work != one.work);
        executing.push(one);
    }
    executing
}

#[cfg(test)]
mod tests {
    use super::super::fake::Words;
    use super::*;

    const SHAPES: Shapes = Shapes {
        worker: 0,
        data: 8,
        current_work: 16,
        current_func: 48,
        scheduled: 24,
        worker_task: 40,
        entry: 8,
        barrier_task: 64,
        work_func: 24,
        tasks: 16,
    };
    const POLLS: Polls = Polls {
        init_task: INIT,
        function: FUNCTION,
        barrier: Some(0x9900),
        work: 0,
    };
    const INIT: u64 = 0x800;
    const TASK: u64 = 0x1000;
    const OTHER: u64 = 0x1100;
    const WORKER: u64 = 0x3000;
    const OTHER_WORKER: u64 = 0x3100;
    const FUNCTION: u64 = 0x9000;

    fn link(words: &mut Words, one: u64, other: u64) {
        for (at, to) in [
            (one, other),
            (one + 8, other),
            (other, one),
            (other + 8, one),
        ] {
            words.put(at, to);
        }
    }

    fn words() -> Words {
        let mut words = Words::default();
        link(&mut words, INIT + 16, TASK + 16);
        words.put(INIT, 0);
        words.put(TASK, 0x2000);
        words.put(0x2008, WORKER);
        words.put(WORKER + 16, 0x5000);
        words.put(WORKER + 40, TASK);
        words.put(WORKER + 48, FUNCTION);
        // One barrier, at 0x6000.
        link(&mut words, WORKER + 24, 0x6008);
        words.put(0x6018, 0x9900);
        words.put(0x6040, 0x7000);
        words
    }

    #[test]
    fn a_worker_has_its_work_and_those_who_flush_it() {
        let executing = SHAPES.executing(&words(), &POLLS);
        assert_eq!(
            executing,
            [Executing {
                task: TASK,
                work: 0x5000,
                flushers: vec![0x7000]
            }]
        );
        let other = Polls {
            function: FUNCTION + 8,
            ..POLLS
        };
        assert!(SHAPES.executing(&words(), &other).is_empty());
        // The same work item queued again is nobody who waits.
        let mut words = words();
        words.put(0x6018, FUNCTION);
        assert!(SHAPES.executing(&words, &POLLS)[0].flushers.is_empty());
    }

    #[test]
    fn another_thread_of_the_kernel_is_no_worker() {
        let mut words = words();
        words.put(WORKER + 40, TASK + 8);
        assert!(SHAPES.executing(&words, &POLLS).is_empty());
        words.put(TASK, 0);
        assert!(SHAPES.executing(&words, &POLLS).is_empty());
    }

    /// Queued again when its first worker was at its end, it went to the second, which is read later.
    #[test]
    fn a_work_item_has_one_worker() {
        let mut words = words();
        link(&mut words, TASK + 16, OTHER + 16);
        words.put(OTHER + 16, INIT + 16);
        words.put(INIT + 24, OTHER + 16);
        words.put(TASK + 24, INIT + 16);
        words.put(OTHER, 0x2100);
        words.put(0x2108, OTHER_WORKER);
        words.put(OTHER_WORKER + 16, 0x5000);
        words.put(OTHER_WORKER + 40, OTHER);
        words.put(OTHER_WORKER + 48, FUNCTION);
        let expected = [Executing {
            task: OTHER,
            work: 0x5000,
            flushers: Vec::new(),
        }];
        assert_eq!(SHAPES.executing(&words, &POLLS), expected);
        let known = [TASK, OTHER].map(|task| Polling {
            task,
            work: 0x5000,
            since_ns: 1,
        });
        assert_eq!(SHAPES.again(&words, &known, &POLLS), expected);
        // Another work item has its own.
        words.put(OTHER_WORKER + 16, 0x5100);
        assert_eq!(SHAPES.executing(&words, &POLLS).len(), 2);
    }

    #[test]
    fn an_idle_worker_executes_nothing() {
        let mut words = words();
        words.put(WORKER + 16, 0);
        assert!(SHAPES.executing(&words, &POLLS).is_empty());
    }
}
