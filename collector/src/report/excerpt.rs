//! What the tasks of a finding did before it was found.

use std::collections::VecDeque;

use probe_ebpf::abi::{SPAN_ENTRY, SPAN_LOCK, Span};

use crate::diagnose::Finding;
use crate::frame::TaskState;
use crate::model::{Model, query};

/// Tasks shown.
const LANES: usize = 8;
/// Bars of one task shown, the newest.
const BARS: usize = 240;
/// Shown at least.
const LEAST_NS: u64 = 20_000_000;
/// Shown where a finding does not say since when.
const USUAL_NS: u64 = 200_000_000;

/// A part of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Start, CLOCK_MONOTONIC of the traced machine.
    pub from_ns: u64,
    /// End: when the finding was found.
    pub to_ns: u64,
    /// Tasks.
    pub lanes: Vec<Lane>,
}

/// What one task did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Name and thread id.
    pub name: String,
    /// Calls, waits and holds.
    pub bars: Vec<Bar>,
}

/// Something that a task did for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// What.
    pub kind: Kind,
    /// Start, not before that of the excerpt.
    pub from_ns: u64,
    /// End, not after that of the excerpt.
    pub to_ns: u64,
    /// It goes on after the excerpt.
    pub open: bool,
    /// Name of the lock, or of the entry point.
    pub name: String,
}

/// What a task can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is in an entry point.
    Call,
    /// It waits for a lock.
    Wait,
    /// It holds a lock.
    Hold,
}

impl Excerpt {
    /// Of a finding that was found just now.
    pub(super) fn of(model: &Model, finding: &Finding, recent: &VecDeque<Span>) -> Self {
        let to_ns = model.last.at_ns;
        let lasted = match to_ns.saturating_sub(finding.since_ns) {
            0 => USUAL_NS,
            lasted => lasted.saturating_add((lasted / 4).max(LEAST_NS)),
        };
        let start_ns = model.meta.as_ref().map_or(0, |meta| meta.start_ns);
        let from_ns = to_ns.saturating_sub(lasted).max(start_ns);
        let tasks = finding.seen.tasks.iter().take(LANES);
        let lanes = tasks
            .map(|task| {
                let name = if task.comm.is_empty() {
                    format!("task {}", task.tid)
                } else {
                    format!("{} ({})", task.comm, task.tid)
                };
                let own = recent.iter().filter(|span| span.tid == task.tid);
                let mut bars: Vec<Bar> = own.flat_map(|span| completed(model, span)).collect();
                let live = model.live.iter().filter(|live| live.tid == task.tid);
                bars.extend(live.flat_map(|live| going_on(model, live)));
                bars.retain_mut(|bar| clip(bar, from_ns, to_ns));
                let skip = bars.len().saturating_sub(BARS);
                bars.drain(..skip);
                Lane { name, bars }
            })
            .filter(|lane| !lane.bars.is_empty())
            .collect();
        Self {
            from_ns,
            to_ns,
            lanes,
        }
    }
}

/// Cuts a bar to the excerpt; false if it is outside.
fn clip(bar: &mut Bar, from_ns: u64, to_ns: u64) -> bool {
    if bar.open {
        bar.to_ns = to_ns;
    }
    let inside = bar.to_ns > from_ns && bar.from_ns < to_ns;
    bar.from_ns = bar.from_ns.max(from_ns);
    bar.to_ns = bar.to_ns.min(to_ns);
    inside
}

fn completed(model: &Model, span: &Span) -> Vec<Bar> {
    let end_ns = span.start_ns.saturating_add(span.duration_ns);
    let bar = |kind, from_ns, to_ns, name: &str| Bar {
        kind,
        from_ns,
        to_ns,
        open: false,
        name: name.to_owned(),
    };
    match span.kind {
        SPAN_ENTRY => {
            let name = query::entry_name(span.what);
            vec![bar(Kind::Call, span.start_ns, end_ns, name)]
        }
        SPAN_LOCK => {
            let name = query::lock_name(model, span.what, span.instance);
            let mut bars = Vec::new();
            if span.extra > 0 {
                let since = span.start_ns.saturating_sub(span.extra);
                bars.push(bar(Kind::Wait, since, span.start_ns, name));
            }
            bars.push(bar(Kind::Hold, span.start_ns, end_ns, name));
            bars
        }
        _ => Vec::new(),
    }
}

fn going_on<'a>(model: &'a Model, task: &'a TaskState) -> impl Iterator<Item = Bar> + 'a {
    let bar = |kind, from_ns, name: &str| Bar {
        kind,
        from_ns,
        to_ns: from_ns,
        open: true,
        name: name.to_owned(),
    };
    let calls = task.inside.iter().map(move |call| {
        let name = query::entry_name(call.entry as u8);
        bar(Kind::Call, call.since_ns, name)
    });
    let waits = task.waits.iter().map(move |wait| {
        let name = query::lock_name(model, wait.series as u8, wait.instance);
        bar(Kind::Wait, wait.since_ns, name)
    });
    let holds = task.holds.iter().map(move |hold| {
        let name = query::lock_name(model, hold.series as u8, hold.instance);
        bar(Kind::Hold, hold.since_ns, name)
    });
    calls.chain(waits).chain(holds)
}
