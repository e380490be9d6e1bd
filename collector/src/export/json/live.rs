//! The members of the document that say who: `live`, `writes` and `stacks`.

use probe_ebpf::names::CLASSES;
use serde::Serialize;

use crate::model::{Model, query};

/// Who holds and who waits, the longest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Holdings.
    pub holders: Vec<Holder>,
    /// Waits.
    pub waiters: Vec<Waiter>,
}

/// A holding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Name of the instance, or of the class where the instance is not known.
    pub lock: String,
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// `-`, `read` or `write`.
    pub mode: String,
    /// Held for so long.
    pub for_ns: u64,
    /// Entry point it was taken in.
    pub entry_point: String,
    /// How it is known.
    pub evidence: String,
    /// Its acquisition was not seen.
    pub adopted: bool,
    /// An open-coded lock that somebody else had already set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_holder: bool,
    /// The process for which the task works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<OnBehalfOf>,
}

/// A wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiter {
    /// Name of the instance, or of the class where the instance is not known.
    pub lock: String,
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// `-`, `read` or `write`.
    pub mode: String,
    /// Waiting for so long.
    pub for_ns: u64,
    /// Entry point it waits in.
    pub entry_point: String,
    /// How it is known.
    pub evidence: String,
    /// Times the wait loop went round (open-coded locks).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
    /// The task that has held the lock longest, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_tid: Option<u32>,
    /// The process for which the task works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<OnBehalfOf>,
}

impl Live {
    pub(super) fn of(model: &Model) -> Self {
        let holders = query::holders(model)
            .into_iter()
            .map(|h| Holder {
                mode: query::mode_name(h.series).to_owned(),
                entry_point: query::entry_name(h.entry).to_owned(),
                lock: h.lock,
                tid: h.tid,
                comm: h.comm,
                for_ns: h.for_ns,
                evidence: h.evidence,
                adopted: h.adopted,
                second_holder: h.second_holder,
                on_behalf_of: h.on_behalf_of.map(OnBehalfOf::of),
            })
            .collect();
        let waiters = query::waiters(model)
            .into_iter()
            .map(|w| Waiter {
                mode: query::mode_name(w.series).to_owned(),
                entry_point: query::entry_name(w.entry).to_owned(),
                rounds: query::open_coded(w.series).then_some(w.rounds),
                lock: w.lock,
                tid: w.tid,
                comm: w.comm,
                for_ns: w.for_ns,
                evidence: w.evidence,
                owner_tid: w.owner_tid,
                on_behalf_of: w.on_behalf_of.map(OnBehalfOf::of),
            })
            .collect();
        Self { holders, waiters }
    }
}

/// A process that accesses an attribute in sysfs, which a file system thread does for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnBehalfOf {
    /// Process id.
    pub pid: u32,
    /// Process name; empty where it is not known.
    pub comm: String,
}

impl OnBehalfOf {
    fn of(writer: query::OnBehalfOf) -> Self {
        let query::OnBehalfOf { pid, comm } = writer;
        Self { pid, comm }
    }
}

/// Where a task was when a long wait or hold had ended, or where it is while a wait goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// Name of the lock's instance, or of the class where the instance is not known.
    pub lock: String,
    /// `-`, `read` or `write`.
    pub mode: String,
    /// `wait` or `hold`.
    pub what: &'static str,
    /// It had ended when the stack was taken.
    pub ended: bool,
    /// Entry point, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<String>,
    /// Start, on the traced machine's monotonic clock.
    pub start_ns: u64,
    /// Length.
    pub duration_ns: u64,
    /// Innermost first.
    pub frames: Vec<String>,
}

impl Stack {
    pub(super) fn all(model: &Model) -> Vec<Self> {
        let stacks = model.stacks.iter();
        stacks
            // Saved stacks of tasks that wait for no lock are of no series.
            .filter(|stack| {
                usize::try_from(stack.series >> 1).is_ok_and(|class| class < CLASSES.len())
            })
            .map(|stack| Self {
                tid: stack.tid,
                comm: stack.comm.clone(),
                lock: query::lock_name(model, stack.series as u8, stack.instance.wrapping_sub(1))
                    .to_owned(),
                mode: query::mode_name(stack.series as u8).to_owned(),
                what: if stack.hold { "hold" } else { "wait" },
                ended: stack.ended,
                entry_point: (stack.entry != 0)
                    .then(|| query::entry_name(stack.entry as u8).to_owned()),
                start_ns: stack.since_ns,
                duration_ns: stack.duration_ns,
                frames: stack.frames.clone(),
            })
            .collect()
    }
}

/// A call that was made on behalf of another process, and has returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Write {
    /// When it was called, from the start of the interval.
    pub at_ns: u64,
    /// Entry point.
    pub entry_point: String,
    /// First bytes of the text written; absent where the function takes no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Process id of the writer.
    pub pid: u32,
    /// Its name; empty where it is not known.
    pub comm: String,
    /// What it returned, spelled as in the `returns` of the entry point.
    pub returns: String,
    /// From call to return.
    pub latency_ns: u64,
    /// UUID of the mdev that it acted on, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdev: Option<String>,
    /// Name of the guest that had the mdev, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

impl Write {
    pub(super) fn all(model: &Model) -> Vec<Self> {
        let start_ns = model.meta.as_ref().map_or(0, |meta| meta.start_ns);
        model
            .writes
            .iter()
            .map(|write| (write, query::Names::of(model, write.on)))
            .map(|(write, query::Names { mdev, guest })| Self {
                at_ns: write.at_ns.saturating_sub(start_ns),
                entry_point: query::entry_name(write.entry).to_owned(),
                text: write.text.clone(),
                pid: write.pid,
                comm: write.comm.clone(),
                returns: write.returns.clone(),
                latency_ns: write.latency_ns,
                mdev,
                guest,
            })
            .collect()
    }
}
