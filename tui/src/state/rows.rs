//! The rows of the two tables: selected by the filter, sorted.
//!
//! The facts come from the model's queries; here they are put into the order and the words of the screen.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, VecDeque};

use apscope_collector::diagnose::look::{guest_labels, guest_of};
use apscope_collector::model::query::{self, Summary};
use apscope_collector::model::{Model, Tick};
use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::{ENTRY_POINTS, entry_id};

use super::table::{Column, TableState};
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

pub use super::detail::{Detail, EntryDetail, LockDetail};

/// Columns of the locks table that can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum LockColumn {
    Name,
    Rate,
    Contended,
    WaitP50,
    WaitP99,
    WaitMax,
    HoldP50,
    HoldP99,
    HoldMax,
    Queue,
    Now,
}

impl Column for LockColumn {
    const ALL: &'static [Self] = &[
        Self::Name,
        Self::Rate,
        Self::Contended,
        Self::WaitP50,
        Self::WaitP99,
        Self::WaitMax,
        Self::HoldP50,
        Self::HoldP99,
        Self::HoldMax,
        Self::Queue,
        Self::Now,
    ];

    fn descending(self) -> bool {
        self != Self::Name
    }
}

/// Columns of the entry points table that can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum EntryColumn {
    Name,
    Rate,
    Calls,
    InFlight,
    Now,
    P50,
    P99,
    Max,
}

impl Column for EntryColumn {
    const ALL: &'static [Self] = &[
        Self::Name,
        Self::Rate,
        Self::Calls,
        Self::InFlight,
        Self::Now,
        Self::P50,
        Self::P99,
        Self::Max,
    ];

    fn descending(self) -> bool {
        self != Self::Name
    }
}

/// A row of the locks table: one lock class in one mode.
#[derive(Debug, Clone, PartialEq)]
pub struct LockRow {
    /// The facts.
    pub facts: query::LockRow,
    /// The class, with a `*` where it is an open-coded lock.
    pub name: String,
    /// `mutex`, `rwsem read`, `open-coded`, ...
    pub kind: &'static str,
    /// Who has held it longest, and how many more hold an instance of it.
    pub holder: String,
    /// What the filter looks at.
    parties: Parties,
}

/// Who holds and who waits for any instance, and whose guests that concerns. Empty where there is no filter.
#[derive(Debug, Clone, Default, PartialEq)]
struct Parties {
    holders: Vec<String>,
    waiters: Vec<String>,
    guests: BTreeSet<String>,
}

/// A row of the entry points table.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryRow {
    /// The facts.
    pub facts: query::EntryRow,
    /// Kernel module.
    pub module: &'static str,
}

impl EntryRow {
    /// The longest call that has not returned has been inside for so long.
    #[must_use]
    pub fn inside_ns(&self) -> Option<u64> {
        self.facts.longest.as_ref().map(|call| call.for_ns)
    }

    /// Calls that have not returned; with those that began before measuring did, as far as their tasks are on record.
    #[must_use]
    pub fn inside(&self) -> u64 {
        self.facts.in_flight.max(self.facts.inside as u64)
    }

    /// A vCPU that runs is inside for as long as it runs: that says nothing of how slow it is.
    #[must_use]
    pub const fn long_is_normal(&self) -> bool {
        self.facts.entry == entry_id::KVM_VCPU_IOCTL
    }

    /// The 99th percentile, or a call that goes on, where that is longer already: a call that hangs is in no percentile.
    #[must_use]
    pub fn slowest_ns(&self) -> Option<u64> {
        self.at_least(self.facts.latency.p99_ns)
    }

    /// What was measured, or what goes on, where that is longer.
    fn at_least(&self, measured_ns: Option<u64>) -> Option<u64> {
        let now = self.inside_ns().filter(|_| !self.long_is_normal());
        measured_ns.max(now)
    }
}

impl Row for LockRow {
    fn text(&self, field: TextField) -> Option<&str> {
        Some(match field {
            TextField::Class => self.facts.class,
            // The screen says `open-coded`, exports say `flag`: both find it.
            TextField::Kind if self.facts.open_coded => "open-coded flag",
            TextField::Kind => self.kind,
            TextField::Name => &self.name,
            TextField::Holder => &self.holder,
            // It has several: see `any`.
            TextField::Task | TextField::Guest | TextField::Mdev => return None,
        })
    }

    fn any(&self, field: TextField, passes: &dyn Fn(&str) -> bool) -> bool {
        let Parties {
            holders,
            waiters,
            guests,
        } = &self.parties;
        match field {
            TextField::Holder => holders.iter().any(|who| passes(who)),
            TextField::Task => holders.iter().chain(waiters).any(|who| passes(who)),
            TextField::Guest => guests.iter().any(|guest| passes(guest)),
            _ => self.text(field).is_some_and(passes),
        }
    }

    fn time(&self, field: TimeField, at: Percentile) -> Option<u64> {
        match field {
            TimeField::Wait => waited(self, value(&self.facts.wait, at), at),
            TimeField::Hold => value(&self.facts.hold, at),
            TimeField::Latency => None,
        }
    }
}

impl Row for EntryRow {
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Class => Some(self.module),
            TextField::Name => Some(self.facts.name),
            TextField::Kind
            | TextField::Holder
            | TextField::Task
            | TextField::Guest
            | TextField::Mdev => None,
        }
    }

    fn time(&self, field: TimeField, at: Percentile) -> Option<u64> {
        match field {
            TimeField::Latency if at == Percentile::P50 => value(&self.facts.latency, at),
            TimeField::Latency => self.at_least(value(&self.facts.latency, at)),
            TimeField::Wait | TimeField::Hold => None,
        }
    }
}

/// What was measured, or the longest wait that goes on, where that is longer: a wait that hangs is in no percentile. The
/// median is that of waits that are over.
fn waited(row: &LockRow, measured_ns: Option<u64>, at: Percentile) -> Option<u64> {
    match at {
        Percentile::P50 => measured_ns,
        Percentile::P99 | Percentile::Max => measured_ns.max(row.facts.longest_wait_ns),
    }
}

fn value(summary: &Summary, at: Percentile) -> Option<u64> {
    match at {
        Percentile::P50 => summary.p50_ns,
        Percentile::P99 => summary.p99_ns,
        Percentile::Max => summary.max_ns,
    }
}

/// Kind and mode in one word.
#[must_use]
pub fn kind_name(series: u8) -> &'static str {
    match (query::kind(series), query::mode(series)) {
        (LockKind::Mutex, _) => "mutex",
        (LockKind::Rwsem, Mode::Read) => "rwsem read",
        (LockKind::Rwsem, _) => "rwsem write",
        (LockKind::Flag, _) => "open-coded",
        (LockKind::Work, _) => "work",
    }
}

fn lock_row(facts: query::LockRow) -> LockRow {
    // A thread that works for another process is not the one to look for.
    let name = |holder: &query::Holder| match holder.on_behalf_of {
        Some(_) => holder.who(),
        None => holder.comm.clone(),
    };
    let holder = match (&facts.holder, facts.holders) {
        (None, _) => "-".to_owned(),
        (Some(holder), 0 | 1) => name(holder),
        (Some(holder), n) => format!("{} +{}", name(holder), n - 1),
    };
    LockRow {
        name: if facts.open_coded {
            format!("{}*", facts.class)
        } else {
            facts.class.to_owned()
        },
        kind: kind_name(facts.series),
        holder,
        parties: Parties::default(),
        facts,
    }
}

/// Who holds and who waits, by series, and the guests of instances and of these.
fn parties(model: &Model) -> HashMap<u8, Parties> {
    let labels = guest_labels(model);
    let label = |guest: u32| {
        let known = labels.get(&guest).cloned();
        known.unwrap_or_else(|| format!("guest-{guest}"))
    };
    let mut parties: HashMap<u8, Parties> = HashMap::new();
    for instance in model.instances.values() {
        if let Some(guest) = instance.guest.checked_sub(1) {
            let of = parties.entry(instance.series as u8).or_default();
            of.guests.insert(label(guest));
        }
    }
    let guests: HashMap<u32, String> = model
        .live
        .iter()
        .filter_map(|task| Some((task.tid, label(guest_of(model, task)?))))
        .collect();
    for holder in query::holders(model) {
        let of = parties.entry(holder.series).or_default();
        of.guests.extend(guests.get(&holder.tid).cloned());
        of.holders.push(holder.who());
    }
    for waiter in query::waiters(model) {
        let of = parties.entry(waiter.series).or_default();
        of.guests.extend(guests.get(&waiter.tid).cloned());
        of.waiters.push(waiter.who());
    }
    parties
}

/// Counts of ticks summed up by half seconds, so that a line of them reaches back far enough to be read. Oldest first.
#[must_use]
pub fn half_seconds(ticks: &VecDeque<Tick>, counts: &[u64]) -> Vec<u64> {
    const BIN_NS: u64 = 500_000_000;
    let skip = ticks.len().saturating_sub(counts.len());
    let mut sums: Vec<u64> = Vec::new();
    let mut current = None;
    for (tick, n) in ticks.iter().skip(skip).zip(counts) {
        // The tick's middle: its end may lie a hair beyond a bin's edge. Bins are fixed in time, so that they do
        // not change once they are past.
        let bin = tick.at_ns.saturating_sub(tick.length_ns / 2) / BIN_NS;
        match sums.last_mut() {
            Some(sum) if current == Some(bin) => *sum = sum.saturating_add(*n),
            _ => sums.push(*n),
        }
        current = Some(bin);
    }
    sums
}

/// The locks that match, sorted.
#[must_use]
pub fn locks(model: &Model, filter: &Filter, table: &TableState<LockColumn>) -> Vec<LockRow> {
    // Only a filter asks for them.
    let mut parties = if filter.is_empty() {
        HashMap::new()
    } else {
        parties(model)
    };
    let mut rows: Vec<LockRow> = query::lock_rows(model)
        .into_iter()
        .map(lock_row)
        .map(|mut row| {
            row.parties = parties.remove(&row.facts.series).unwrap_or_default();
            row
        })
        .filter(|row| filter.matches(row))
        .collect();
    sort(&mut rows, table.descending, |a, b| match table.sort {
        LockColumn::Name => a.facts.class.cmp(b.facts.class),
        LockColumn::Rate => a.facts.per_second.total_cmp(&b.facts.per_second),
        LockColumn::Contended => share(a).total_cmp(&share(b)),
        LockColumn::WaitP50 => a.facts.wait.p50_ns.cmp(&b.facts.wait.p50_ns),
        LockColumn::WaitP99 => {
            let p99 = |row: &LockRow| waited(row, row.facts.wait.p99_ns, Percentile::P99);
            p99(a).cmp(&p99(b))
        }
        LockColumn::WaitMax => {
            let max = |row: &LockRow| waited(row, row.facts.wait.max_ns, Percentile::Max);
            max(a).cmp(&max(b))
        }
        LockColumn::HoldP50 => ranked(a, a.facts.hold.p50_ns).cmp(&ranked(b, b.facts.hold.p50_ns)),
        LockColumn::HoldP99 => ranked(a, a.facts.hold.p99_ns).cmp(&ranked(b, b.facts.hold.p99_ns)),
        LockColumn::HoldMax => ranked(a, a.facts.hold.max_ns).cmp(&ranked(b, b.facts.hold.max_ns)),
        LockColumn::Queue => a.facts.queue.cmp(&b.facts.queue),
        LockColumn::Now => a.facts.longest_wait_ns.cmp(&b.facts.longest_wait_ns),
    });
    rows
}

/// Locks that are held long by design stay out of rankings by hold: they come last.
fn ranked(row: &LockRow, hold_ns: Option<u64>) -> Option<u64> {
    hold_ns.filter(|_| !row.facts.long_hold_is_normal)
}

fn share(row: &LockRow) -> f64 {
    row.facts.contended_percent.unwrap_or(-1.0)
}

/// The entry points that match, sorted.
#[must_use]
pub fn entries(model: &Model, filter: &Filter, table: &TableState<EntryColumn>) -> Vec<EntryRow> {
    let mut rows: Vec<EntryRow> = query::entry_rows(model)
        .into_iter()
        .map(|facts| EntryRow {
            module: ENTRY_POINTS
                .get(usize::from(facts.entry))
                .map_or("?", |e| e.module),
            facts,
        })
        .filter(|row| filter.matches(row))
        .collect();
    sort(&mut rows, table.descending, |a, b| match table.sort {
        EntryColumn::Name => a.facts.name.cmp(b.facts.name),
        EntryColumn::Rate => a.facts.per_second.total_cmp(&b.facts.per_second),
        EntryColumn::Calls => a.facts.calls.cmp(&b.facts.calls),
        EntryColumn::InFlight => a.inside().cmp(&b.inside()),
        EntryColumn::P50 => a.facts.latency.p50_ns.cmp(&b.facts.latency.p50_ns),
        EntryColumn::Now => a.inside_ns().cmp(&b.inside_ns()),
        EntryColumn::P99 => a.slowest_ns().cmp(&b.slowest_ns()),
        EntryColumn::Max => {
            let max = |row: &EntryRow| row.at_least(row.facts.latency.max_ns);
            max(a).cmp(&max(b))
        }
    });
    rows
}

/// Rows that are equal stay in display order, whichever the direction.
fn sort<T>(rows: &mut [T], descending: bool, compare: impl Fn(&T, &T) -> Ordering) {
    rows.sort_by(|a, b| {
        if descending {
            compare(b, a)
        } else {
            compare(a, b)
        }
    });
}

/// Locks with the longest queues first, then those with the longest waits: the 99th percentile of all.
pub fn busiest_first(rows: &mut [LockRow]) {
    rows.sort_by_key(|row| {
        let facts = &row.facts;
        std::cmp::Reverse((facts.queue, facts.wait.p99_ns, facts.acquisitions))
    });
}
