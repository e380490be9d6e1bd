//! Who holds, and who waits.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::lock_name;
use crate::frame;
use crate::model::Model;

/// The process on whose behalf a task works: it accesses an attribute in sysfs, which a file system thread does for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBehalfOf {
    /// Process id.
    pub pid: u32,
    /// Process name; empty where it is not known.
    pub comm: String,
}

impl OnBehalfOf {
    /// Of one call.
    pub(super) fn of(call: &frame::Inside) -> Option<Self> {
        (call.on_behalf_of_pid != 0).then(|| Self {
            pid: call.on_behalf_of_pid,
            comm: call.on_behalf_of_comm.clone(),
        })
    }
}

/// On whose behalf a task works now: that of its innermost call that has a writer.
pub fn on_behalf_of(task: &frame::TaskState) -> Option<OnBehalfOf> {
    task.inside.iter().rev().find_map(OnBehalfOf::of)
}

/// On whose behalf a task did what it did at `since_ns`, by the calls that it was in then and still is in.
pub(super) fn on_behalf_of_at(task: &frame::TaskState, since_ns: u64) -> Option<OnBehalfOf> {
    let calls = task.inside.iter().rev();
    calls
        .filter(|call| call.since_ns <= since_ns)
        .find_map(OnBehalfOf::of)
}

/// Name of a task, as [`Holder::who`] has it, by what it does now.
pub fn task_name(task: &frame::TaskState) -> String {
    who(on_behalf_of(task).as_ref(), &task.comm, task.tid)
}

/// Who acts, for a reader: `echo (1234)` for a process on whose behalf the task works, else the task's own name and
/// thread id.
pub(super) fn who(on_behalf_of: Option<&OnBehalfOf>, comm: &str, tid: u32) -> String {
    match on_behalf_of {
        Some(writer) => format!("{} ({})", writer.comm, writer.pid),
        None if comm.is_empty() => format!("task {tid}"),
        None => format!("{comm} ({tid})"),
    }
}

/// A task that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Thread id.
    pub tid: u32,
    /// Thread group id.
    pub pid: u32,
    /// Thread name.
    pub comm: String,
    /// Series held.
    pub series: u8,
    /// Instance id, or `NO_INSTANCE`.
    pub instance: u32,
    /// Name of the lock: of the instance where known, else of the class.
    pub lock: String,
    /// Address of the lock.
    pub address: u64,
    /// Entry point it was taken in.
    pub entry: u8,
    /// Held for so long, up to the last frame.
    pub for_ns: u64,
    /// How long the acquisition waited.
    pub wait_ns: u64,
    /// Number of this holding within the task: the same number is the same holding.
    pub serial: u64,
    /// An open-coded lock that somebody else had already set.
    pub second_holder: bool,
    /// The acquisition was not seen.
    pub adopted: bool,
    /// How it is known: `probe`, ...
    pub evidence: String,
    /// On whose behalf the task works.
    pub on_behalf_of: Option<OnBehalfOf>,
}

impl Holder {
    /// Name and thread id, for example `vcpu0/guest-3 (1234)`; of a task that works for another process, that process's.
    pub fn who(&self) -> String {
        who(self.on_behalf_of.as_ref(), &self.comm, self.tid)
    }
}

/// A task that waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// Thread id.
    pub tid: u32,
    /// Thread group id.
    pub pid: u32,
    /// Thread name.
    pub comm: String,
    /// Series waited for.
    pub series: u8,
    /// Instance id, or `NO_INSTANCE`.
    pub instance: u32,
    /// Name of the lock: of the instance where known, else of the class.
    pub lock: String,
    /// Address of the lock.
    pub address: u64,
    /// Entry point it waits in.
    pub entry: u8,
    /// Waiting for so long, up to the last frame.
    pub for_ns: u64,
    /// Number of this wait within the task: the same number is the same wait.
    pub serial: u64,
    /// Times the wait loop went round (open-coded locks).
    pub rounds: u64,
    /// This is what the task is blocked on: its innermost wait.
    pub innermost: bool,
    /// Thread id of the task that has held the lock longest, where one is known.
    pub owner_tid: Option<u32>,
    /// How it is known: `probe`, ...
    pub evidence: String,
    /// On whose behalf the task works.
    pub on_behalf_of: Option<OnBehalfOf>,
}

impl Waiter {
    /// Name and thread id, for example `vcpu0/guest-3 (1234)`; of a task that works for another process, that process's.
    pub fn who(&self) -> String {
        who(self.on_behalf_of.as_ref(), &self.comm, self.tid)
    }
}

/// All holders, the longest first.
pub fn holders(model: &Model) -> Vec<Holder> {
    let mut holders: Vec<Holder> = model
        .live
        .iter()
        .flat_map(|task| task.holds.iter().map(move |hold| (task, hold)))
        .map(|(task, hold)| holder(model, task, hold))
        .collect();
    holders.sort_by_key(|h| (Reverse(h.for_ns), h.tid, h.serial));
    holders
}

fn holder(model: &Model, task: &frame::TaskState, hold: &frame::Holding) -> Holder {
    Holder {
        tid: task.tid,
        pid: task.pid,
        comm: task.comm.clone(),
        series: hold.series as u8,
        instance: hold.instance,
        lock: lock_name(model, hold.series as u8, hold.instance).to_owned(),
        address: hold.lock,
        entry: hold.entry as u8,
        for_ns: model.last.at_ns.saturating_sub(hold.since_ns),
        wait_ns: hold.wait_ns,
        serial: hold.serial,
        second_holder: hold.second_holder,
        adopted: hold.adopted,
        evidence: hold.evidence.clone(),
        on_behalf_of: on_behalf_of_at(task, hold.since_ns),
    }
}

/// Who has a series now.
#[derive(Debug, Clone, Default)]
pub(super) struct Now {
    /// Who has held an instance longest.
    pub holder: Option<Holder>,
    /// Tasks that hold one.
    pub holders: usize,
    /// Tasks that wait for one.
    pub queue: usize,
    /// The longest of these waits.
    pub longest_wait_ns: Option<u64>,
}

/// Who has each series now, by its id. The same as of [`holders`] and [`waiters`], without all that these say of each.
pub(super) fn by_series(model: &Model) -> Vec<Now> {
    let mut all = vec![Now::default(); 1 << u8::BITS];
    let mut longest: Vec<Option<(&frame::TaskState, &frame::Holding)>> = vec![None; all.len()];
    let for_ns = |since_ns| model.last.at_ns.saturating_sub(since_ns);
    let key = |(task, hold): (&frame::TaskState, &frame::Holding)| {
        (for_ns(hold.since_ns), Reverse((task.tid, hold.serial)))
    };
    for task in &model.live {
        for hold in &task.holds {
            let series = usize::from(hold.series as u8);
            all[series].holders += 1;
            if longest[series].is_none_or(|known| key(known) < key((task, hold))) {
                longest[series] = Some((task, hold));
            }
        }
        for wait in &task.waits {
            let now = &mut all[usize::from(wait.series as u8)];
            now.queue += 1;
            now.longest_wait_ns = now.longest_wait_ns.max(Some(for_ns(wait.since_ns)));
        }
    }
    for (now, longest) in all.iter_mut().zip(longest) {
        now.holder = longest.map(|(task, hold)| holder(model, task, hold));
    }
    all
}

/// All waiters, the longest first.
pub fn waiters(model: &Model) -> Vec<Waiter> {
    let owners = Owners::of(model);
    let mut waiters: Vec<Waiter> = model
        .live
        .iter()
        .flat_map(|task| {
            let innermost = task.waits.len().saturating_sub(1);
            task.waits
                .iter()
                .enumerate()
                .map(move |(depth, wait)| (task, wait, depth == innermost))
        })
        .map(|(task, wait, innermost)| Waiter {
            tid: task.tid,
            pid: task.pid,
            comm: task.comm.clone(),
            series: wait.series as u8,
            instance: wait.instance,
            lock: lock_name(model, wait.series as u8, wait.instance).to_owned(),
            address: wait.lock,
            entry: wait.entry as u8,
            for_ns: model.last.at_ns.saturating_sub(wait.since_ns),
            serial: wait.serial,
            rounds: wait.rounds,
            innermost,
            owner_tid: owners.owner(task.tid, wait),
            evidence: wait.evidence.clone(),
            on_behalf_of: on_behalf_of_at(task, wait.since_ns),
        })
        .collect();
    waiters.sort_by_key(|w| (Reverse(w.for_ns), w.tid, w.serial));
    waiters
}

/// Who has held each lock longest that somebody waits for. Both modes of an rwsem have the same address.
#[derive(Debug, Default)]
pub struct Owners {
    /// By address and class: since when and by whom, the longest first, of two tasks.
    of: HashMap<(u64, u32), Vec<(u64, u32)>>,
}

impl Owners {
    /// At the last frame.
    pub fn of(model: &Model) -> Self {
        let waits = model.live.iter().flat_map(|task| &task.waits);
        let mut of: HashMap<_, Vec<(u64, u32)>> = waits
            .map(|wait| ((wait.lock, wait.series >> 1), Vec::new()))
            .collect();
        if of.is_empty() {
            return Self::default();
        }
        for task in &model.live {
            for hold in &task.holds {
                let Some(held) = of.get_mut(&(hold.lock, hold.series >> 1)) else {
                    continue;
                };
                match held.iter_mut().find(|(_, tid)| *tid == task.tid) {
                    Some(own) => own.0 = own.0.min(hold.since_ns),
                    None => held.push((hold.since_ns, task.tid)),
                }
                held.sort_by_key(|(since_ns, _)| *since_ns);
                held.truncate(2);
            }
        }
        Self { of }
    }

    /// The task, other than the waiter, that has held the lock longest.
    pub fn owner(&self, waiter: u32, wait: &frame::Waiting) -> Option<u32> {
        let held = self.of.get(&(wait.lock, wait.series >> 1))?;
        let mut tids = held.iter().map(|(_, tid)| *tid);
        tids.find(|tid| *tid != waiter)
    }
}
