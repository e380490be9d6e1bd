//! The model: frames folded into state. Pure: no clock, no I/O, no async.
//!
//! [`Model::apply`] folds a frame in; [`query`] answers what views and exports ask; [`return_name`] spells return
//! codes. Frames may come from a damaged file or a foreign host: whatever they say, memory stays bounded and nothing
//! panics; what makes no sense is left out and counted in [`Model::ignored`].

mod base;
mod errno;
mod fold;
pub mod histogram;
mod live;
pub mod query;
mod since;
mod spans;
mod writes;

pub use errno::{errno_name, return_name};
pub use writes::{WRITES, Write, returns};

use std::collections::{BTreeMap, VecDeque};

use histogram::{Coarse, Histogram};

use crate::frame;

/// Frames whose rates are remembered, for sparklines.
pub const HISTORY: usize = 600;
/// Log lines remembered.
pub const LOG_LINES: usize = 1000;
/// Most recent spans remembered.
pub const SPANS: usize = 4096;
/// Latest stacks remembered.
pub const STACKS: usize = 256;

/// Everything known about a run.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Description of the run; `None` before the first frame.
    pub meta: Option<frame::Meta>,
    /// Number and times of the last frame.
    pub last: Tick,
    /// Lock series (class and mode) by series id, as far as the generation has them.
    pub series: BTreeMap<u8, Series>,
    /// Entry points by id.
    pub entries: BTreeMap<u8, Entry>,
    /// Lock-order edges.
    pub edges: BTreeMap<EdgeId, frame::Edge>,
    /// Tasks that hold, wait or are inside an entry point, as of the last frame.
    pub live: Vec<frame::TaskState>,
    /// Rwsems with readers that nothing is known of, as of the last frame.
    pub unseen_readers: Vec<frame::UnseenReaders>,
    /// Instances of open-coded locks whose flag was read and is not set, as of the last frame.
    pub clear_flags: Vec<u32>,
    /// Instances by id.
    pub instances: BTreeMap<u32, frame::Instance>,
    /// What calls act on, by id: mdevs and guests.
    pub objects: BTreeMap<u32, frame::Object>,
    /// Calls whose span arrived, by the id of an object that they acted on, and by entry point. Calls whose span was lost
    /// are not among them.
    pub calls_on: BTreeMap<u32, BTreeMap<u8, CallsOn>>,
    /// What was lost, since the start.
    pub loss: Loss,
    /// Costs, since the start.
    pub overhead: Overhead,
    /// From when on there is every frame, where some of the run are missing: spans, stacks, messages and rates are whole
    /// from then on, and those from before are as many as there were frames. It is the end of the first frame behind the last
    /// hole, or of the totals there. Counts are of the whole run unless [`Loss::missing_frames`] says otherwise.
    pub detail_from: Option<Tick>,
    /// The programs' and the collector's messages, oldest first.
    pub log: VecDeque<frame::LogLine>,
    /// Messages since the start.
    pub log_count: u64,
    /// The latest stacks of long waits and holds, oldest first.
    pub stacks: VecDeque<frame::Stack>,
    /// Stacks since the start.
    pub stack_count: u64,
    /// Most recent spans, oldest first.
    pub spans: VecDeque<Span>,
    /// Spans received since the start.
    pub span_count: u64,
    /// The last calls that were made on behalf of another process, and have returned; oldest first.
    pub writes: VecDeque<Write>,
    /// Time and length of each of the last frames, oldest first: the time axis of every `rates`.
    pub ticks: VecDeque<Tick>,
    /// Set by the last frame of a run.
    pub end: Option<frame::End>,
    /// Parts of frames left out: ids that do not exist, buckets out of range, more than the limits allow.
    pub ignored: u64,
}

/// A frame's place in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tick {
    /// Number of the frame.
    pub number: u64,
    /// End of the tick, CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub at_ns: u64,
    /// The same, since 1970 UTC.
    pub at_unix_ns: u64,
    /// Length of the tick.
    pub length_ns: u64,
}

/// Counts and histograms of one lock series since the start.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered; for a flag, wait loops that slept; for a work item, flushes that had to wait.
    pub contended: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: u64,
    /// All releases.
    pub releases: u64,
    /// Waits; uncontended acquisitions count as waits of 0 (not for flags and work items).
    pub wait: Histogram,
    /// Holds.
    pub hold: Histogram,
    /// By instance id.
    pub by_instance: BTreeMap<u32, CoarseSeries>,
    /// By entry point id.
    pub by_entry: BTreeMap<u8, CoarseSeries>,
    /// Acquisitions in each of the last frames, oldest first; same length as [`Model::ticks`].
    pub rates: VecDeque<u64>,
    /// Contended in each of the last frames.
    pub contended_rates: VecDeque<u64>,
}

/// The same for one instance, or one entry point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoarseSeries {
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered; for a flag, wait loops that slept.
    pub contended: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: u64,
    /// All releases.
    pub releases: u64,
    /// Wake-ups of the wait queue (flags).
    pub wakes: u64,
    /// Waits.
    pub wait: Coarse,
    /// Holds.
    pub hold: Coarse,
}

/// Counts and latencies of one entry point since the start.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Calls started.
    pub calls: u64,
    /// Returns whose call was not seen.
    pub unmatched_returns: u64,
    /// Latencies.
    pub latency: Histogram,
    /// Returns by code: 0 ok (or NOTIFY_DONE), n = -errno (or NOTIFY_*), 535 other.
    pub returns: BTreeMap<u32, u64>,
    /// PQAP responses by (function code, response code).
    pub pqap: BTreeMap<(u8, u8), u64>,
    /// Calls in each of the last frames, oldest first; same length as [`Model::ticks`].
    pub rates: VecDeque<u64>,
}

impl Entry {
    /// Calls that have not returned.
    pub fn in_flight(&self) -> u64 {
        self.calls
            .saturating_sub(sum(self.returns.values().copied()))
    }
}

/// Key of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeId {
    /// Series held.
    pub held: u8,
    /// Series acquired.
    pub acquired: u8,
    /// Entry point in which the held lock was acquired.
    pub held_in: u8,
    /// Entry point in which the acquired lock was acquired.
    pub acquired_in: u8,
    /// From an annotation: the flag was tested and found clear.
    pub annotated: bool,
    /// Two instances of one class: 1 ascending, 2 descending; otherwise 0.
    pub direction: u8,
}

/// What was lost since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// Records received: spans, and the names of writers.
    pub received: u64,
    /// (program, CPU) → (emitted, dropped).
    pub programs: BTreeMap<(String, u32), (u64, u64)>,
    /// Invocations the kernel skipped; while not 0, statistics are "at least".
    pub missed: u64,
    /// Invocations without a task slot.
    pub no_task_slot: u64,
    /// Edges without a slot.
    pub no_edge_slot: u64,
    /// Held locks, waits or nested calls that did not fit.
    pub overflowed: u64,
    /// Object memory that could not be read.
    pub unreadable: u64,
    /// Releases without an acquisition.
    pub unmatched: u64,
    /// Frames of the run whose increments are in no count, because a file does not have them.
    pub missing_frames: u64,
}

impl Loss {
    /// Records that were to be written.
    pub fn emitted(&self) -> u64 {
        sum(self.programs.values().map(|p| p.0))
    }

    /// Records that found no room.
    pub fn dropped(&self) -> u64 {
        sum(self.programs.values().map(|p| p.1))
    }

    /// Statistics are exact: nothing was skipped, every map had room, and no frame is missing.
    pub fn exact(&self) -> bool {
        self.missed == 0
            && self.no_task_slot == 0
            && self.overflowed == 0
            && self.unreadable == 0
            && self.missing_frames == 0
    }
}

/// Cost of one program since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgramCost {
    /// Runs; 0 unless the kernel counts them.
    pub runs: u64,
    /// Run time in nanoseconds; 0 unless the kernel measures it.
    pub run_time_ns: u64,
    /// Invocations that the kernel skipped.
    pub missed: u64,
}

/// Costs since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overhead {
    /// By program.
    pub programs: BTreeMap<String, ProgramCost>,
    /// CPU time of the collector.
    pub collector_cpu_ns: u64,
    /// CPU time of the collector in the last tick.
    pub collector_cpu_last_ns: u64,
    /// Most bytes ever waiting in the ring.
    pub ring_bytes_max: u64,
    /// Size of the ring.
    pub ring_bytes_size: u64,
}

impl Overhead {
    /// Whether the kernel counts runs of programs (`kernel.bpf_stats_enabled`): where it does not, all are 0.
    pub fn counts_runs(&self) -> bool {
        self.programs.values().any(|program| program.runs > 0)
    }
}

/// A completed lock cycle or call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The ABI's record.
    pub raw: probe_ebpf::abi::Span,
    /// What a call acted on: ids of [`Model::objects`].
    pub on: frame::ActedOn,
}

/// Calls of an entry point on one object, as far as their spans arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallsOn {
    /// Calls that have returned.
    pub spans: u64,
    /// Of these, those that returned an errno.
    pub failed: u64,
}

/// Sum that stops at the largest number instead of wrapping.
fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}
