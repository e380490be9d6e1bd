//! Rows of the entry point table.

use std::cmp::Reverse;

use probe_ebpf::names;

use super::{Names, OnBehalfOf, entry_name, listed_entries, per_second, sparkline};
use crate::frame::{self, ActedOn};
use crate::model::histogram::{Coarse, Histogram};
use crate::model::{Model, return_name};

/// A distribution in one line; all `None` while there are no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Number of values.
    pub count: u64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// Largest value; for a coarse histogram, the upper bound of its bucket.
    pub max_ns: Option<u64>,
}

impl From<&Histogram> for Summary {
    fn from(histogram: &Histogram) -> Self {
        Self {
            count: histogram.count,
            p50_ns: histogram.quantile(0.5),
            p99_ns: histogram.quantile(0.99),
            max_ns: histogram.max(),
        }
    }
}

impl Summary {
    /// Of a coarse histogram whose values cannot be above `max_ns`, the largest value of all it is a part of.
    pub fn of_coarse(histogram: &Coarse, max_ns: u64) -> Self {
        let clip = |q| histogram.quantile(q).map(|ns: u64| ns.min(max_ns));
        Self {
            count: histogram.count,
            p50_ns: clip(0.5),
            p99_ns: clip(0.99),
            max_ns: clip(1.0),
        }
    }
}

/// An entry point in one line.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryRow {
    /// Entry point id.
    pub entry: u8,
    /// Its name.
    pub name: &'static str,
    /// Calls started since the start.
    pub calls: u64,
    /// Calls a second, over the last second.
    pub per_second: f64,
    /// Calls that have not returned.
    pub in_flight: u64,
    /// Calls that tasks are in, those from before measuring began among them.
    pub inside: usize,
    /// Latencies.
    pub latency: Summary,
    /// Returns by spelling (`ok`, `-EBUSY`, ...), most frequent first.
    pub returns: Vec<(String, u64)>,
    /// PQAP responses: function name, response code, count; most frequent first.
    pub pqap: Vec<(String, u8, u64)>,
    /// Calls in each of the last ticks, oldest first.
    pub spark: Vec<u64>,
    /// The call that has been inside longest.
    pub longest: Option<Inside>,
}

/// A task that is inside an entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// Entry point id.
    pub entry: u8,
    /// Inside for so long, up to the last frame.
    pub for_ns: u64,
    /// On whose behalf the call, or one around it, is made.
    pub on_behalf_of: Option<OnBehalfOf>,
    /// What it acts on.
    pub on: Names,
}

impl Inside {
    /// Name and thread id; of a task that works for another process, that process's.
    pub fn who(&self) -> String {
        super::live::who(self.on_behalf_of.as_ref(), &self.comm, self.tid)
    }
}

/// All calls in progress, the longest first.
pub fn inside(model: &Model) -> Vec<Inside> {
    let mut inside: Vec<Inside> = model
        .live
        .iter()
        .flat_map(|task| task.inside.iter().map(move |call| (task, call)))
        .map(|(task, call)| inside_of(model, task, call))
        .collect();
    inside.sort_by_key(|i| (Reverse(i.for_ns), i.tid));
    inside
}

fn inside_of(model: &Model, task: &frame::TaskState, call: &frame::Inside) -> Inside {
    Inside {
        tid: task.tid,
        comm: task.comm.clone(),
        entry: call.entry as u8,
        for_ns: model.last.at_ns.saturating_sub(call.since_ns),
        on_behalf_of: super::live::on_behalf_of_at(task, call.since_ns),
        on: Names::of(model, ActedOn::from_frame(call.mdev, call.guest)),
    }
}

/// Calls of an entry point that tasks are in: how many, and which has been inside longest.
type Calls<'a> = (usize, Option<(&'a frame::TaskState, &'a frame::Inside)>);

/// The same of each entry point, by its id.
fn calls(model: &Model) -> Vec<Calls<'_>> {
    let mut calls: Vec<Calls<'_>> = vec![(0, None); 1 << u8::BITS];
    let key = |task: &frame::TaskState, call: &frame::Inside| {
        let for_ns = model.last.at_ns.saturating_sub(call.since_ns);
        (for_ns, Reverse(task.tid))
    };
    for task in &model.live {
        for call in &task.inside {
            let (count, longest) = &mut calls[usize::from(call.entry as u8)];
            *count += 1;
            if longest.is_none_or(|known| key(known.0, known.1) < key(task, call)) {
                *longest = Some((task, call));
            }
        }
    }
    calls
}

/// Name of a PQAP function code: `AQIC` for 3, the number for one without a name.
pub fn pqap_function(code: u8) -> String {
    names::PQAP_FUNCTIONS
        .get(usize::from(code))
        .map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

/// One row for each entry point of the run, in the order of the table of names.
pub fn entry_rows(model: &Model) -> Vec<EntryRow> {
    let calls = calls(model);
    listed_entries(model)
        .into_iter()
        .filter_map(|id| Some((id, model.entries.get(&id)?)))
        .map(|(id, entry)| {
            let mut returns: Vec<_> = entry
                .returns
                .iter()
                .map(|(&code, &count)| (return_name(id, code).into_owned(), count))
                .collect();
            returns.sort_by_key(|r| Reverse(r.1));
            let mut pqap: Vec<_> = entry
                .pqap
                .iter()
                .map(|(&(function, response), &n)| (pqap_function(function), response, n))
                .collect();
            pqap.sort_by_key(|p| Reverse(p.2));
            EntryRow {
                entry: id,
                name: entry_name(id),
                calls: entry.calls,
                per_second: per_second(model, &entry.rates),
                in_flight: entry.in_flight(),
                inside: calls[usize::from(id)].0,
                latency: Summary::from(&entry.latency),
                returns,
                pqap,
                spark: sparkline(&entry.rates),
                longest: calls[usize::from(id)]
                    .1
                    .map(|(task, call)| inside_of(model, task, call)),
            }
        })
        .collect()
}
