//! The rows of the findings: those that stand first, the worst first.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use apscope_collector::diagnose::chain::Chain;
use apscope_collector::diagnose::look::{guest_labels, guest_of};
use apscope_collector::diagnose::{Finding, Id, Report, Severity};
use apscope_collector::model::Model;

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
    /// Its texts are so old: what it says of a wait has gone on for as long since.
    pub told_ago_ns: u64,
    /// What the filter looks at.
    seen: Seen,
}

/// How long a finding that is over stays among those that stand; and one that comes and goes.
const RECENT_NS: u64 = 10_000_000_000;
const RECURRING_NS: u64 = 60_000_000_000;

/// Everything that a filter may name of a finding, wherever it is said. Empty where there is no filter.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    tasks: Vec<String>,
    locks: Vec<String>,
    guests: BTreeSet<String>,
}

impl FindingRow {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> FindingKey {
        (self.finding.id, self.finding.seen.key.clone())
    }

    /// It stands, or it did until a moment ago: what comes and goes is as worth knowing.
    #[must_use]
    pub fn recent(&self) -> bool {
        let limit = if self.finding.times > 1 {
            RECURRING_NS
        } else {
            RECENT_NS
        };
        self.over_ns.is_none_or(|ago| ago <= limit)
    }

    /// `over since 4.80s, 3 times: `; empty while it stands for the first time.
    #[must_use]
    pub fn past(&self) -> String {
        let times = match self.finding.times {
            0 | 1 => String::new(),
            n => format!("{n} times"),
        };
        match (self.over_ns, times.as_str()) {
            (None, "") => String::new(),
            (None, _) => format!("{times}: "),
            (Some(ns), "") => format!("over since {}: ", crate::format::duration(ns)),
            (Some(ns), _) => format!("over since {}, {times}: ", crate::format::duration(ns)),
        }
    }
}

impl Row for FindingRow {
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Name => Some(&self.finding.seen.summary),
            TextField::Kind => Some(self.finding.seen.severity.name()),
            // It has several: see `any`.
            TextField::Class
            | TextField::Holder
            | TextField::Task
            | TextField::Guest
            | TextField::Mdev => None,
        }
    }

    fn any(&self, field: TextField, passes: &dyn Fn(&str) -> bool) -> bool {
        match field {
            TextField::Class => self.seen.locks.iter().any(|lock| passes(lock)),
            TextField::Holder | TextField::Task => self.seen.tasks.iter().any(|task| passes(task)),
            TextField::Guest => self.seen.guests.iter().any(|guest| passes(guest)),
            _ => self.text(field).is_some_and(passes),
        }
    }

    fn time(&self, field: TimeField, _: Percentile) -> Option<u64> {
        (field == TimeField::Wait).then_some(self.for_ns)
    }
}

/// Whose guest tasks and locks are.
struct Guests {
    of_tasks: HashMap<u32, String>,
    names: BTreeSet<String>,
}

impl Guests {
    fn of(model: &Model) -> Self {
        let labels = guest_labels(model);
        let label = |guest: u32| {
            let known = labels.get(&guest).cloned();
            known.unwrap_or_else(|| format!("guest-{guest}"))
        };
        let live = model.live.iter();
        Self {
            of_tasks: live
                .filter_map(|task| Some((task.tid, label(guest_of(model, task)?))))
                .collect(),
            names: labels.into_values().collect(),
        }
    }

    /// `guest-3` of `vcpu->mutex[guest-3/vcpu1]`, and of `vCPU of guest-3`. Also of tasks and locks that are gone.
    fn named_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        let words = text.split(['[', ']', '/', ' ', '(', ')', ',']);
        let inner = text
            .split_once('[')
            .and_then(|(_, rest)| rest.strip_suffix(']'));
        let of = text.split_once(" of ").map(|(_, rest)| rest);
        words
            .chain(inner)
            .chain(of)
            .find(|word| self.names.contains(*word))
    }
}

impl Seen {
    fn of(finding: &Finding, guests: &Guests) -> Self {
        let mut seen = Self::default();
        let mut role = |tid: &u32, role: &str| {
            let named = guests.named_in(role).map(str::to_owned);
            seen.guests
                .extend(named.or_else(|| guests.of_tasks.get(tid).cloned()));
        };
        for task in &finding.seen.tasks {
            role(&task.tid, &task.role);
            seen.tasks.push(format!("{} {}", task.comm, task.role));
        }
        let mut links: Vec<&Chain> = finding.seen.chain.iter().collect();
        while let Some(link) = links.pop() {
            role(&link.task.tid, &link.task.role);
            seen.tasks.push(format!("{} {}", link.who, link.task.role));
            seen.locks
                .extend(link.waits.iter().map(|waits| waits.lock.clone()));
            links.extend(&link.below);
        }
        seen.locks.extend(finding.seen.locks.iter().cloned());
        let named = seen.locks.iter().filter_map(|lock| guests.named_in(lock));
        seen.guests.extend(named.map(str::to_owned));
        seen
    }
}

/// The findings that match, in order.
#[must_use]
pub fn rows(
    report: &Report,
    model: &Model,
    filter: &Filter,
    table: &TableState<FindingColumn, FindingKey>,
) -> Vec<FindingRow> {
    let now_ns = model.last.at_ns;
    // Only a filter asks for them.
    let guests = (!filter.is_empty()).then(|| Guests::of(model));
    let mut rows: Vec<FindingRow> = report
        .findings
        .iter()
        .map(|finding| FindingRow {
            for_ns: finding
                .until_ns
                .unwrap_or(now_ns)
                .saturating_sub(finding.since_ns),
            over_ns: finding.until_ns.map(|until| now_ns.saturating_sub(until)),
            // A fact about the past does not go on.
            told_ago_ns: if finding.seen.lasting {
                0
            } else {
                let last = finding.until_ns.unwrap_or(now_ns);
                last.saturating_sub(finding.told_ns)
            },
            seen: guests
                .as_ref()
                .map(|guests| Seen::of(finding, guests))
                .unwrap_or_default(),
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

#[cfg(test)]
mod tests {
    use apscope_collector::diagnose::{Diagnosis, Sighting};

    use super::*;

    /// A finding that was over so long ago, for so many times.
    fn over(ago_ns: u64, times: u64) -> FindingRow {
        let mut model = Model::default();
        model.last.at_ns = 100_000_000_000;
        let mut report = Diagnosis::default().report();
        report.findings.push(Finding {
            id: Id(8),
            seen: Sighting::new("a", Severity::Warning, "comes and goes"),
            since_ns: 1,
            found_ns: 1,
            times,
            told_ns: 1,
            consequences: Vec::new(),
            until_ns: Some(model.last.at_ns - ago_ns),
            upstream: Vec::new(),
        });
        let table = TableState::new(FindingColumn::Severity);
        rows(&report, &model, &Filter::default(), &table).remove(0)
    }

    #[test]
    fn what_was_over_a_moment_ago_or_comes_back_is_recent() {
        let row = over(4_800_000_000, 3);
        assert_eq!(row.past(), "over since 4.80s, 3 times: ");
        assert!(row.recent());
        assert!(over(9_000_000_000, 1).recent());
        assert!(!over(11_000_000_000, 1).recent());
        assert!(over(50_000_000_000, 2).recent());
        assert!(!over(61_000_000_000, 9).recent());
        assert_eq!(over(1, 1).past(), "over since 1ns: ");
    }
}
