//! The same workload on several generations of the driver, side by side.
//!
//! Pure: a run that is over becomes a [`Column`], columns become a table ([`text`]) or JSON. How runs are made is the
//! command's matter.

pub mod text;

use probe_ebpf::names::{ENTRY_POINTS, entry_id};
use serde::Serialize;

use crate::diagnose::graph::order;
use crate::diagnose::{Case, Report, Severity};
use crate::model::histogram::Histogram;
use crate::model::{Model, query, return_name};

/// One generation's run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// Generation, for example `v5.13`.
    pub generation: String,
    /// Why there was no run; everything else is empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Length of the run.
    pub duration_ns: u64,
    /// `ebpf` or `in-process`.
    pub probe: String,
    /// How it ended: `finished`, `stuck`, ...
    pub ended: String,
    /// Statistics are exact.
    pub exact: bool,
    /// What was done, by kind of operation.
    pub operations: Vec<Operations>,
    /// Locks that were acquired, by class, write before read.
    pub locks: Vec<Lock>,
    /// Writes to the matrix that failed with EBUSY.
    pub refused_busy: u64,
    /// Writes to the matrix.
    pub writes: u64,
    /// Cycles in the lock order.
    pub cycles: Vec<Cycle>,
    /// Deadlocks that happened, a sentence each.
    pub deadlocks: Vec<String>,
    /// Kinds of findings made, for example `AP002`.
    pub findings: Vec<String>,
    /// The verdict when the run was told to stop.
    pub verdict: String,
}

/// Calls of a kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operations {
    /// What.
    pub what: &'static str,
    /// Calls that have returned.
    pub completed: u64,
    /// Of these, in a second.
    pub per_second: f64,
}

/// Waits and holds of one lock class in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// Class.
    pub class: &'static str,
    /// `-`, `read` or `write`.
    pub mode: &'static str,
    /// An open-coded lock.
    pub open_coded: bool,
    /// Acquisitions.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// Waits.
    pub wait: Summary,
    /// Holds.
    pub hold: Summary,
}

/// A histogram in three numbers; absent while there are no values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    /// Largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ns: Option<u64>,
}

impl Summary {
    fn of(histogram: &Histogram) -> Self {
        Self {
            p50_ns: histogram.quantile(0.5),
            p99_ns: histogram.quantile(0.99),
            max_ns: histogram.max(),
        }
    }
}

/// A cycle in the lock order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cycle {
    /// Classes in order.
    pub classes: Vec<&'static str>,
    /// lockdep sees all of it.
    pub lockdep_visible: bool,
    /// A lock that is held at every step, so that it cannot close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarded_by: Option<&'static str>,
}

/// Kinds of operations: what, and the entry points whose returns count.
const OPERATIONS: [(&str, &[u8]); 5] = [
    ("PQAP", &[entry_id::KVM_HANDLE_PQAP]),
    (
        "opens, closes",
        &[
            entry_id::OPEN,
            entry_id::RELEASE,
            entry_id::OPEN_DEVICE,
            entry_id::CLOSE_DEVICE,
        ],
    ),
    ("resets", &[entry_id::IOCTL]),
    ("conversions", &[entry_id::KVM_S390_HANDLE_PV]),
    (
        "bus events",
        &[entry_id::ON_CFG_CHANGED, entry_id::ON_SCAN_COMPLETE],
    ),
];

impl Column {
    /// A generation that does not have the scenario.
    pub fn refused(generation: &str, why: String) -> Self {
        Self {
            generation: generation.to_owned(),
            refused: Some(why),
            duration_ns: 0,
            probe: String::new(),
            ended: String::new(),
            exact: true,
            operations: Vec::new(),
            locks: Vec::new(),
            refused_busy: 0,
            writes: 0,
            cycles: Vec::new(),
            deadlocks: Vec::new(),
            findings: Vec::new(),
            verdict: String::new(),
        }
    }

    /// A run that is over. `report` is the diagnosis from before it was stopped.
    pub fn of(generation: &str, case: &Case, report: &Report) -> Self {
        let model = &case.model;
        let duration_ns = query::elapsed_ns(model);
        let seconds = duration_ns as f64 / 1e9;
        let mut operations: Vec<Operations> = OPERATIONS
            .into_iter()
            .map(|(what, entries)| (what, completed(model, entries)))
            .map(|(what, completed)| Operations {
                what,
                completed,
                per_second: if seconds > 0.0 {
                    completed as f64 / seconds
                } else {
                    0.0
                },
            })
            .collect();
        let stores: Vec<u8> = (1..ENTRY_POINTS.len() as u8)
            .filter(|&entry| query::entry_name(entry).ends_with("_store"))
            .collect();
        let writes = completed(model, &stores);
        operations.push(Operations {
            what: "writes",
            completed: writes,
            per_second: if seconds > 0.0 {
                writes as f64 / seconds
            } else {
                0.0
            },
        });
        let mut findings: Vec<String> = report.findings.iter().map(|f| f.id.to_string()).collect();
        findings.sort();
        findings.dedup();
        Self {
            generation: generation.to_owned(),
            refused: None,
            duration_ns,
            probe: model
                .meta
                .as_ref()
                .map_or_else(String::new, |meta| meta.probe.clone()),
            ended: model
                .end
                .as_ref()
                .map_or_else(String::new, |end| end.how.clone()),
            exact: model.loss.exact(),
            operations,
            locks: query::listed_series(model)
                .into_iter()
                .filter_map(|id| Some((id, model.series.get(&id)?)))
                .filter(|(_, series)| series.acquisitions > 0 || series.contended > 0)
                .map(|(id, series)| Lock {
                    class: query::class_name(id),
                    mode: query::mode_name(id),
                    open_coded: query::open_coded(id),
                    acquisitions: series.acquisitions,
                    contended: series.contended,
                    wait: Summary::of(&series.wait),
                    hold: Summary::of(&series.hold),
                })
                .collect(),
            refused_busy: busy(model, &stores),
            writes,
            cycles: cycles(model),
            deadlocks: report
                .findings
                .iter()
                .filter(|f| {
                    matches!(f.id.0, 1 | 3 | 4 | 7) && f.seen.severity == Severity::Critical
                })
                .map(|f| f.seen.summary.clone())
                .collect(),
            findings,
            verdict: report.verdict.to_string(),
        }
    }
}

fn cycles(model: &Model) -> Vec<Cycle> {
    let cycles = order::cycles(model);
    let guards = order::guards(model, &cycles);
    cycles
        .iter()
        .zip(guards)
        .map(|(cycle, guard)| Cycle {
            classes: cycle
                .classes()
                .into_iter()
                .map(|class| query::class_name(class << 1))
                .collect(),
            lockdep_visible: cycle.lockdep_visible(),
            guarded_by: guard.map(|class| query::class_name(class << 1)),
        })
        .collect()
}

fn completed(model: &Model, entries: &[u8]) -> u64 {
    entries
        .iter()
        .filter_map(|entry| model.entries.get(entry))
        .flat_map(|entry| entry.returns.values())
        .fold(0, |sum, n| sum.saturating_add(*n))
}

fn busy(model: &Model, entries: &[u8]) -> u64 {
    entries
        .iter()
        .filter_map(|&id| Some((id, model.entries.get(&id)?)))
        .flat_map(|(id, entry)| entry.returns.iter().map(move |(code, n)| (id, *code, *n)))
        .filter(|&(id, code, _)| return_name(id, code) == "-EBUSY")
        .fold(0, |sum, (_, _, n)| sum.saturating_add(n))
}
