//! Who is stuck: the tasks that wait for a lock, and who holds it, read from the lock's own words and from the task
//! structures, never from a probe.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::Machine;
use super::primitives::task::{self, TaskStruct};
use super::protocol::BlockedTask;

/// The waits of a machine's tasks at one moment.
#[derive(Debug, Default)]
pub struct Waits {
    /// By task address: task, name of the lock, addresses of its holders.
    waits: BTreeMap<u64, (&'static TaskStruct, String, Vec<u64>)>,
    names: BTreeMap<u64, String>,
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
        let waits = tasks
            .into_iter()
            .filter_map(|task| {
                let lock = locks.get(&task.blocker())?;
                let mut holders = lock.object.holders();
                holders.retain(|holder| *holder != 0);
                Some((task.address(), (task, lock.name.clone(), holders)))
            })
            .collect();
        Self { waits, names }
    }

    /// Tasks (by address) that can never go on: they wait for a lock of which every holder is such a task, or waits for
    /// itself. Empty unless the waits form a cycle.
    pub fn deadlocked(&self) -> BTreeSet<u64> {
        let mut stuck: BTreeSet<u64> = self.waits.keys().copied().collect();
        loop {
            let before = stuck.len();
            stuck = stuck
                .iter()
                .copied()
                .filter(|task| {
                    let (_, _, holders) = &self.waits[task];
                    // One holder that never lets go is enough; a lock that nobody holds is about to be taken.
                    holders.iter().any(|holder| stuck.contains(holder))
                })
                .collect();
            if stuck.len() == before {
                return stuck;
            }
        }
    }

    /// For the ground truth.
    pub fn tasks(&self) -> Vec<BlockedTask> {
        self.waits
            .values()
            .map(|(task, lock, holders)| BlockedTask {
                thread: task.name().to_owned(),
                lock: lock.clone(),
                holders: holders
                    .iter()
                    .map(|holder| self.names.get(holder).cloned().unwrap_or_default())
                    .collect(),
            })
            .collect()
    }
}
