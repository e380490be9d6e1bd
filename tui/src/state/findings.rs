//! The rows of the findings: those that stand first, the worst first.

use std::cmp::Ordering;

use apscope_collector::diagnose::{Finding, Id, Report, Severity};

use super::table::{Column, TableState};
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

/// Columns that findings can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum FindingColumn {
    Severity,
    Id,
    Since,
}

impl Column for FindingColumn {
    const ALL: &'static [Self] = &[Self::Severity, Self::Id, Self::Since];

    fn descending(self) -> bool {
        self != Self::Id
    }
}

/// What makes a finding the same finding from frame to frame.
pub type FindingKey = (Id, String);

/// A finding, with how long it has stood.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingRow {
    /// The finding.
    pub finding: Finding,
    /// So long it has stood, or stood, in nanoseconds.
    pub for_ns: u64,
    /// It ended so long ago; `None` while it stands.
    pub over_ns: Option<u64>,
    /// What the filter looks at.
    tasks: String,
}

impl FindingRow {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> FindingKey {
        (self.finding.id, self.finding.seen.key.clone())
    }
}

impl Row for FindingRow {
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Name => Some(&self.finding.seen.summary),
            TextField::Kind => Some(self.finding.seen.severity.name()),
            TextField::Class => self.finding.seen.locks.first().map(String::as_str),
            TextField::Holder | TextField::Task => Some(&self.tasks),
            TextField::Guest | TextField::Mdev => None,
        }
    }

    fn time(&self, field: TimeField, _: Percentile) -> Option<u64> {
        (field == TimeField::Wait).then_some(self.for_ns)
    }
}

/// The findings that match, in order.
#[must_use]
pub fn rows(
    report: &Report,
    now_ns: u64,
    filter: &Filter,
    table: &TableState<FindingColumn, FindingKey>,
) -> Vec<FindingRow> {
    let mut rows: Vec<FindingRow> = report
        .findings
        .iter()
        .map(|finding| FindingRow {
            for_ns: finding
                .until_ns
                .unwrap_or(now_ns)
                .saturating_sub(finding.since_ns),
            over_ns: finding.until_ns.map(|until| now_ns.saturating_sub(until)),
            tasks: finding
                .seen
                .tasks
                .iter()
                .flat_map(|task| [task.comm.as_str(), " ", task.role.as_str(), " "])
                .collect(),
            finding: finding.clone(),
        })
        .filter(|row| filter.matches(row))
        .collect();
    // Stable: of equals the report's order stays. What is over comes last in any order.
    rows.sort_by(|a, b| {
        let order: Ordering = match table.sort {
            FindingColumn::Severity => a.finding.seen.severity.cmp(&b.finding.seen.severity),
            FindingColumn::Id => a.finding.id.cmp(&b.finding.id),
            FindingColumn::Since => a.for_ns.cmp(&b.for_ns),
        };
        let order = if table.descending {
            order.reverse()
        } else {
            order
        };
        (!a.finding.active()).cmp(&!b.finding.active()).then(order)
    });
    rows
}

/// How many findings stand that are at least so severe.
#[must_use]
pub fn standing(report: &Report, least: Severity) -> usize {
    report
        .findings
        .iter()
        .filter(|finding| finding.active() && finding.seen.severity >= least)
        .count()
}
