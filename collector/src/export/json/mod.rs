//! The JSON document, schema 1: documented in docs/json.md, with a JSON Schema in docs/json.schema.json.
//!
//! A pure function of a model: [`Document::of`] takes what is known, serde writes it. Times are nanoseconds unless the
//! name says otherwise; a member that is absent does not apply.

mod findings;
mod live;
mod locks;
mod objects;
mod run;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnose::Report;
use crate::model::histogram::{Coarse, Histogram};
use crate::model::query;
use crate::model::{EdgeId, Entry, Model, return_name};

pub use super::Origin;
pub use findings::{Finding, Keeps, Link, Root, Waits};
pub use live::{Holder, Live, OnBehalfOf, Stack, Waiter, Write};
pub use locks::{Instance, Lock, PerEntry};
pub use objects::{CallsOfSpans, Matrix, Object};
pub use run::{AttachPoint, Events, Interval, Overhead, Program, ProgramEvents, Source, rfc3339};

/// Number of this schema.
pub const SCHEMA: u32 = 1;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where it comes from.
    pub source: Source,
    /// What time it covers.
    pub interval: Interval,
    /// Lock series, by class, write before read.
    pub locks: Vec<Lock>,
    /// Entry points.
    pub entry_points: Vec<EntryPoint>,
    /// Lock-order edges.
    pub order: Vec<Order>,
    /// Who holds and who waits at the end of the interval.
    pub live: Live,
    /// The last calls that were made on behalf of another process, oldest first.
    pub writes: Vec<Write>,
    /// Mdevs and guests, with the calls on them as far as their spans arrived.
    pub objects: Vec<Object>,
    /// Stacks of long waits and holds, oldest first, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<Stack>,
    /// Nothing was skipped and every map had room: counts are exact, otherwise "at least".
    pub exact: bool,
    /// Invocations the kernel skipped.
    pub missed: u64,
    /// Spans, and the names of writers.
    pub events: Events,
    /// What measuring cost.
    pub overhead: Overhead,
    /// Attach points.
    pub attach: Vec<AttachPoint>,
    /// What is the matter, in one line.
    pub verdict: String,
    /// Findings: those that stand first, then the worst.
    pub findings: Vec<Finding>,
}

/// A histogram. The members from `min_ns` to `p999_ns` are absent while there are no values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(
    missing_docs,
    reason = "the member names are the documentation, and docs/json.md"
)]
pub struct Hist {
    pub count: u64,
    pub sum_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_ns: Option<u64>,
    /// Largest value of the bucket, and its count; only non-empty ones.
    pub buckets: Vec<(u64, u64)>,
}

impl Hist {
    fn of(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count,
            sum_ns: histogram.sum_ns,
            min_ns: histogram.min(),
            max_ns: histogram.max(),
            p50_ns: histogram.quantile(0.5),
            p90_ns: histogram.quantile(0.9),
            p99_ns: histogram.quantile(0.99),
            p999_ns: histogram.quantile(0.999),
            buckets: histogram
                .buckets()
                .map(|(_, upper, n)| (upper, n))
                .collect(),
        }
    }

    /// Of powers of two: percentiles are clipped to the largest value of `whole`, the histogram it is a part of.
    /// Smallest and largest value of the part are not known.
    fn of_coarse(coarse: &Coarse, whole: &Histogram) -> Self {
        let quantile = |q| coarse.quantile(q).map(|ns: u64| ns.min(whole.max_ns));
        Self {
            count: coarse.count,
            sum_ns: coarse.sum_ns,
            min_ns: None,
            max_ns: None,
            p50_ns: quantile(0.5),
            p90_ns: quantile(0.9),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            buckets: coarse.buckets().map(|(_, upper, n)| (upper, n)).collect(),
        }
    }
}

/// An entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryPoint {
    /// Its name, as in docs/names.md.
    pub name: String,
    /// Calls started: the sum of `returns`, and `in_flight`.
    pub calls: u64,
    /// Calls that have not returned.
    pub in_flight: u64,
    /// Returns whose call was not seen; in no histogram.
    pub unmatched_returns: u64,
    /// Latencies of the calls that have returned.
    pub latency: Hist,
    /// Returns by spelling: `ok`, `-EBUSY`, `NOTIFY_OK`, ...
    pub returns: BTreeMap<String, u64>,
    /// Function name → response code in two hexadecimal digits → count; for functions that handle PQAP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pqap: Option<BTreeMap<String, BTreeMap<String, u64>>>,
}

impl EntryPoint {
    fn of(id: u8, entry: &Entry) -> Self {
        let mut returns = BTreeMap::new();
        for (&code, &count) in entry.returns.iter().filter(|(_, count)| **count > 0) {
            *returns
                .entry(return_name(id, code).into_owned())
                .or_default() += count;
        }
        let table = probe_ebpf::names::ENTRY_POINTS.get(usize::from(id));
        let pqap = table.is_some_and(|e| e.pqap).then(|| {
            let mut functions: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
            for (&(function, response), &count) in &entry.pqap {
                functions
                    .entry(query::pqap_function(function))
                    .or_default()
                    .insert(format!("{response:02x}"), count);
            }
            functions
        });
        Self {
            name: query::entry_name(id).to_owned(),
            calls: entry.calls,
            in_flight: entry.in_flight(),
            unmatched_returns: entry.unmatched_returns,
            latency: Hist::of(&entry.latency),
            returns,
            pqap,
        }
    }
}

/// A lock-order edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Class held.
    pub held: String,
    /// Mode it was held in.
    pub held_mode: String,
    /// Class acquired.
    pub acquired: String,
    /// Mode it was acquired in.
    pub acquired_mode: String,
    /// Times seen.
    pub count: u64,
    /// Neither side is an open-coded lock.
    pub lockdep_visible: bool,
    /// From an entry point that tests a flag and found it clear.
    pub annotated: bool,
    /// Between instances of one class: `ascending` or `descending`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    /// Entry point in which the held lock was acquired.
    pub held_in: String,
    /// Entry point in which the acquired lock was acquired.
    pub acquired_in: String,
    /// The task that was first.
    pub first_task: Task,
    /// Sampled pairs of instances, held and acquired.
    pub pairs: Vec<(String, String)>,
}

impl Order {
    fn of(model: &Model, edge: &query::OrderEdge<'_>) -> Self {
        let EdgeId {
            held,
            acquired,
            held_in,
            acquired_in,
            annotated,
            direction,
        } = edge.id;
        Self {
            held: query::class_name(held).to_owned(),
            held_mode: query::mode_name(held).to_owned(),
            acquired: query::class_name(acquired).to_owned(),
            acquired_mode: query::mode_name(acquired).to_owned(),
            count: edge.edge.count_total,
            lockdep_visible: edge.lockdep_visible,
            annotated,
            direction: match direction {
                1 => Some("ascending"),
                2 => Some("descending"),
                _ => None,
            },
            held_in: query::entry_name(held_in).to_owned(),
            acquired_in: query::entry_name(acquired_in).to_owned(),
            first_task: Task {
                tid: edge.edge.first_tid,
                comm: edge.edge.first_comm.clone(),
            },
            pairs: edge
                .edge
                .pairs
                .chunks_exact(2)
                .map(|pair| {
                    let name = |series, id| query::lock_name(model, series, id).to_owned();
                    (name(held, pair[0]), name(acquired, pair[1]))
                })
                .collect(),
        }
    }
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
}

impl Document {
    /// The document of a model, and of the diagnosis of the run that it was made from.
    pub fn of(model: &Model, origin: Origin, report: &Report) -> Self {
        Self {
            schema: SCHEMA,
            source: Source::of(model, origin),
            interval: Interval::of(model),
            locks: query::listed_series(model)
                .into_iter()
                .filter_map(|id| Some(Lock::of(model, id, model.series.get(&id)?)))
                .collect(),
            entry_points: query::listed_entries(model)
                .into_iter()
                .filter_map(|id| Some(EntryPoint::of(id, model.entries.get(&id)?)))
                .collect(),
            order: query::order_edges(model)
                .iter()
                .map(|edge| Order::of(model, edge))
                .collect(),
            live: Live::of(model),
            writes: Write::all(model),
            objects: Object::all(model),
            stacks: Stack::all(model),
            exact: super::exact(model),
            missed: model.loss.missed,
            events: Events::of(&model.loss),
            overhead: Overhead::of(&model.overhead),
            attach: AttachPoint::all(model),
            verdict: report.verdict.to_string(),
            findings: Finding::all(report, model.last.at_ns),
        }
    }

    /// Writes the document, indented, with a final line feed.
    pub fn write(&self, mut out: impl std::io::Write) -> std::io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}
