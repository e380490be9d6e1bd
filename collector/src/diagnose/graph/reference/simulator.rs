//! Tasks and locks that behave as the kernel's: every step is legal, none is foreseen.

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::class_id;
use std::collections::BTreeSet;

use crate::frame;
use crate::model::query;

/// Tasks of a history.
pub const TASKS: usize = 6;

/// Locks of a history: class, and number among the locks of the class.
pub const LOCKS: [(u8, u32); 9] = [
    (class_id::MATRIX_DEV_LOCK, 0),
    (class_id::KVM_LOCK, 0),
    (class_id::KVM_LOCK, 1),
    (class_id::VCPU_MUTEX, 0),
    (class_id::PQAP_HOOK_RWSEM, 0),
    (class_id::PQAP_HOOK_RWSEM, 1),
    (class_id::KVM_BUSY, 0),
    (class_id::KVM_BUSY, 1),
    (class_id::RESET_WORK, 0),
];

/// What a task is asked to do; it does nothing where that is not legal.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Which task.
    pub task: usize,
    /// Which lock; for a release, which of its holds.
    pub lock: usize,
    /// What.
    pub act: Act,
}

/// What a task can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Take a mutex, an rwsem for writing; set a flag without a test; execute a work item.
    Take,
    /// Take an rwsem for reading; wait until a flag is clear; flush a work item. Like `Take` for a mutex.
    Share,
    /// Give back one of its holds, in any order.
    Release,
    /// End, with everything still held.
    Exit,
}

struct Hold {
    lock: usize,
    mode: Mode,
    serial: u64,
    since_ns: u64,
}

struct Wait {
    lock: usize,
    mode: Mode,
    serial: u64,
    since_ns: u64,
}

#[derive(Default)]
struct Task {
    holds: Vec<Hold>,
    wait: Option<Wait>,
    exited: bool,
}

/// A history so far.
pub struct Simulator {
    tasks: Vec<Task>,
    now_ns: u64,
    serial: u64,
    /// Order edges: held (series), acquired (series), direction.
    pub edges: BTreeSet<(u8, u8, u8)>,
}

fn kind(lock: usize) -> LockKind {
    query::kind(LOCKS[lock].0 << 1)
}

fn series(lock: usize, mode: Mode) -> u8 {
    LOCKS[lock].0 << 1 | u8::from(mode == Mode::Read)
}

/// The mode of an ordinary or of a sharing acquisition.
fn mode(lock: usize, share: bool) -> Mode {
    match (kind(lock), share) {
        (LockKind::Rwsem, true) => Mode::Read,
        (LockKind::Rwsem, false) => Mode::Write,
        _ => Mode::Exclusive,
    }
}

impl Simulator {
    pub fn new() -> Self {
        Self {
            tasks: (0..TASKS).map(|_| Task::default()).collect(),
            now_ns: 1_000,
            serial: 0,
            edges: BTreeSet::new(),
        }
    }

    pub fn of(steps: &[Step]) -> Self {
        let mut simulator = Self::new();
        for step in steps {
            simulator.step(*step);
        }
        simulator
    }

    pub fn step(&mut self, step: Step) {
        self.now_ns += 10;
        let task = &self.tasks[step.task];
        if task.exited || task.wait.is_some() {
            return;
        }
        match step.act {
            Act::Take => self.acquire(step.task, step.lock, false),
            Act::Share => self.acquire(step.task, step.lock, true),
            Act::Release if task.holds.is_empty() => {}
            Act::Release => {
                let place = step.lock % task.holds.len();
                self.release(step.task, place);
            }
            Act::Exit => self.tasks[step.task].exited = true,
        }
    }

    fn acquire(&mut self, task: usize, lock: usize, share: bool) {
        // What the task holds itself is asked for again only where that is a deadlock with itself, and not a mistake
        // of another kind: it executes one work item once, and sets a flag once.
        let own = self.tasks[task].holds.iter().any(|hold| hold.lock == lock);
        let mode = mode(lock, share);
        match kind(lock) {
            LockKind::Mutex | LockKind::Rwsem => {
                if self.may_take(lock, mode) {
                    self.hold(task, lock, mode);
                } else {
                    self.wait(task, lock, mode);
                }
            }
            LockKind::Flag | LockKind::Work if share => {
                if self.holders(lock).next().is_some() {
                    self.wait(task, lock, mode);
                }
            }
            LockKind::Flag if own => {}
            LockKind::Flag => self.hold(task, lock, mode),
            LockKind::Work => {
                if self.holders(lock).next().is_none() {
                    self.hold(task, lock, mode);
                }
            }
        }
    }

    fn holders(&self, lock: usize) -> impl Iterator<Item = &Hold> {
        let holds = self.tasks.iter().flat_map(|task| &task.holds);
        holds.filter(move |hold| hold.lock == lock)
    }

    fn queue(&self, lock: usize) -> Vec<usize> {
        let mut queue: Vec<usize> = (0..self.tasks.len())
            .filter(|&task| {
                self.tasks[task]
                    .wait
                    .as_ref()
                    .is_some_and(|w| w.lock == lock)
            })
            .collect();
        queue.sort_by_key(|&task| self.tasks[task].wait.as_ref().map(|w| w.since_ns));
        queue
    }

    /// Free for this mode, and nobody is queued who would be passed.
    fn may_take(&self, lock: usize, mode: Mode) -> bool {
        self.queue(lock).is_empty() && self.compatible(lock, mode)
    }

    fn compatible(&self, lock: usize, mode: Mode) -> bool {
        self.holders(lock)
            .all(|hold| hold.mode == Mode::Read && mode == Mode::Read)
    }

    fn hold(&mut self, task: usize, lock: usize, mode: Mode) {
        self.serial += 1;
        let acquired = series(lock, mode);
        for hold in &self.tasks[task].holds {
            let (class, number) = LOCKS[hold.lock];
            let direction = match (class == LOCKS[lock].0, number.cmp(&LOCKS[lock].1)) {
                (true, std::cmp::Ordering::Less) => 1,
                (true, std::cmp::Ordering::Greater) => 2,
                _ => 0,
            };
            self.edges
                .insert((series(hold.lock, hold.mode), acquired, direction));
        }
        self.tasks[task].holds.push(Hold {
            lock,
            mode,
            serial: self.serial,
            since_ns: self.now_ns,
        });
    }

    fn wait(&mut self, task: usize, lock: usize, mode: Mode) {
        self.serial += 1;
        self.tasks[task].wait = Some(Wait {
            lock,
            mode,
            serial: self.serial,
            since_ns: self.now_ns,
        });
    }

    fn release(&mut self, task: usize, place: usize) {
        let lock = self.tasks[task].holds.remove(place).lock;
        match kind(lock) {
            // Whoever clears the flag, or finishes the work, wakes everybody.
            LockKind::Flag | LockKind::Work => {
                for waiter in self.queue(lock) {
                    self.tasks[waiter].wait = None;
                }
            }
            LockKind::Mutex | LockKind::Rwsem => {
                for waiter in self.queue(lock) {
                    let mode = self.tasks[waiter].wait.as_ref().map(|wait| wait.mode);
                    let Some(mode) = mode.filter(|&mode| self.compatible(lock, mode)) else {
                        break;
                    };
                    self.tasks[waiter].wait = None;
                    self.hold(waiter, lock, mode);
                }
            }
        }
    }

    /// Everybody who can gives back everything, until nobody can any more. Who still waits then is stuck.
    pub fn stuck(mut self) -> Vec<bool> {
        while let Some(task) = self
            .tasks
            .iter()
            .position(|task| task.wait.is_none() && !task.exited && !task.holds.is_empty())
        {
            self.now_ns += 10;
            self.release(task, 0);
        }
        self.tasks.iter().map(|task| task.wait.is_some()).collect()
    }

    /// Live state as a source would read it.
    pub fn states(&self) -> Vec<frame::TaskState> {
        let of = |(number, task): (usize, &Task)| frame::TaskState {
            tid: 100 + number as u32,
            pid: 100,
            comm: format!("task {number}"),
            exited: task.exited,
            holds: task
                .holds
                .iter()
                .map(|hold| frame::Holding {
                    series: u32::from(series(hold.lock, hold.mode)),
                    instance: hold.lock as u32,
                    lock: 0x1000 + hold.lock as u64,
                    since_ns: hold.since_ns,
                    serial: hold.serial,
                    ..frame::Holding::default()
                })
                .collect(),
            waits: task
                .wait
                .iter()
                .map(|wait| frame::Waiting {
                    series: u32::from(series(wait.lock, wait.mode)),
                    instance: wait.lock as u32,
                    lock: 0x1000 + wait.lock as u64,
                    since_ns: wait.since_ns,
                    serial: wait.serial,
                    ..frame::Waiting::default()
                })
                .collect(),
            ..frame::TaskState::default()
        };
        self.tasks.iter().enumerate().map(of).collect()
    }
}
