//! Who is stuck: the tasks that wait for a lock, and who holds it, read from the lock's own words and from the task
//! structures, never from a probe.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Machine;
use super::primitives::task::{self, TaskStruct};
use super::protocol::BlockedTask;

/// The waits of a machine's tasks at one moment.
#[derive(Debug, Default)]
pub struct Waits {
    /// By task address.
    by_task: BTreeMap<u64, Wait>,
    names: BTreeMap<u64, String>,
    /// Addresses of tasks whose threads have ended.
    exited: BTreeSet<u64>,
}

/// A task that waits.
#[derive(Debug)]
struct Wait {
    task: &'static TaskStruct,
    /// Which of the task's waits it is.
    number: u64,
    /// When it began, CLOCK_MONOTONIC.
    since_ns: u64,
    /// Name of the lock.
    lock: String,
    /// Addresses of the tasks that hold it.
    holders: Vec<u64>,
}

impl Waits {
    /// Looks at all tasks that wait for a lock of this machine.
    pub fn of(machine: &'static Machine) -> Self {
        let locks: BTreeMap<u64, _> = machine
            .listed()
            .into_iter()
            .map(|lock| (lock.object.address(), lock))
            .collect();
        let tasks = task::all();
        let names = tasks
            .iter()
            .map(|task| (task.address(), task.name().to_owned()))
            .collect();
        let exited = tasks
            .iter()
            .filter(|task| task.has_exited())
            .map(|task| task.address())
            .collect();
        let by_task = tasks
            .into_iter()
            .filter_map(|task| {
                let number = task.wait_number();
                let since_ns = task.blocked_since_ns();
                let lock = locks.get(&task.blocker())?;
                let mut holders = lock.object.holders();
                holders.retain(|holder| *holder != 0);
                let wait = Wait {
                    task,
                    number,
                    since_ns,
                    lock: lock.name.clone(),
                    holders,
                };
                Some((task.address(), wait))
            })
            .collect();
        Self {
            by_task,
            names,
            exited,
        }
    }

    /// Tasks that can never go on, by address and number of the wait: they wait for a lock that is held by such a task,
    /// or by one whose thread has ended. Empty unless there is a cycle, or a lock whose owner has left.
    ///
    /// One look proves nothing, as tasks are looked at one after the other. The same waits in two looks do: who has
    /// been in one wait all the time has released nothing meanwhile.
    pub fn deadlocked(&self) -> BTreeSet<(u64, u64)> {
        let mut stuck: BTreeSet<u64> = self.by_task.keys().copied().collect();
        loop {
            let before = stuck.len();
            stuck = stuck
                .iter()
                .copied()
                .filter(|task| {
                    // One holder that never lets go is enough; a lock that nobody holds is about to be taken.
                    let holders = &self.by_task[task].holders;
                    holders
                        .iter()
                        .any(|holder| stuck.contains(holder) || self.exited.contains(holder))
                })
                .collect();
            if stuck.len() == before {
                let waits = stuck.iter();
                return waits
                    .map(|task| (*task, self.by_task[task].number))
                    .collect();
            }
        }
    }

    /// For the ground truth.
    pub fn tasks(&self) -> Vec<BlockedTask> {
        self.by_task
            .values()
            .map(|wait| BlockedTask {
                thread: wait.task.name().to_owned(),
                lock: wait.lock.clone(),
                holders: wait
                    .holders
                    .iter()
                    .map(|holder| self.names.get(holder).cloned().unwrap_or_default())
                    .collect(),
                since_ns: wait.since_ns,
            })
            .collect()
    }
}
