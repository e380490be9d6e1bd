//! Locks that were left locked: who has them, and which edges of the lock order are there only because of that.

use super::super::finding::Id;
use super::super::look::Look;
use crate::frame;
use crate::model::{EdgeId, Model, query};
use probe_ebpf::abi::LockKind;

/// A lock that its holder has left locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leak {
    tid: u32,
    /// Class of the lock, and the instance.
    class: u8,
    instance: u32,
    /// Call that it was taken in.
    entry: u8,
    /// When it was taken.
    since_ns: u64,
    /// Key of the finding about it (AP004).
    key: String,
}

/// Whether a task has left a mutex or rwsem locked. Open-coded locks are AP003.
pub(super) fn is_leaked(look: &Look<'_>, task: &frame::TaskState, hold: &frame::Holding) -> bool {
    let lock_like = matches!(
        query::kind(hold.series as u8),
        LockKind::Mutex | LockKind::Rwsem
    );
    lock_like && !hold.adopted && (task.exited || look.left_entry(task, hold))
}

/// Key of the finding about a leak.
pub(super) fn key(name: &str, tid: u32, hold: &frame::Holding) -> String {
    format!("{name} {tid}.{}", hold.serial)
}

/// The leaks of this moment, by everything that was seen.
pub(super) fn leaks(look: &Look<'_>) -> Vec<Leak> {
    if !look.model.loss.exact() {
        return Vec::new();
    }
    let holds = look
        .waits
        .tasks
        .iter()
        .flat_map(|task| task.holds.iter().map(move |hold| (task, hold)));
    holds
        .filter(|(task, hold)| is_leaked(look, task, hold))
        .map(|(task, hold)| Leak {
            tid: task.tid,
            class: (hold.series >> 1) as u8,
            instance: hold.instance,
            entry: hold.entry as u8,
            since_ns: hold.since_ns,
            key: key(&look.lock_name(hold.series, hold.instance), task.tid, hold),
        })
        .collect()
}

impl Leak {
    /// The finding about it.
    pub(super) fn finding(&self) -> (Id, String) {
        (Id(4), self.key.clone())
    }

    /// This edge was only ever made with the lock that was left locked: nobody was seen to take the two in this order before,
    /// and since then nobody else can.
    pub(super) fn made(&self, model: &Model, id: EdgeId) -> bool {
        id.held >> 1 == self.class
            && id.held_in == self.entry
            && model.edges.get(&id).is_some_and(|edge| {
                edge.first_tid == self.tid
                    && edge.first_ns >= self.since_ns
                    && !edge.pairs.is_empty()
                    && edge.pairs.chunks(2).all(|pair| pair[0] == self.instance)
            })
    }
}
