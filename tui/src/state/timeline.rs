//! The timeline: for each task, when it was inside a traced function, when it held and when it waited.
//!
//! Made of the last spans and of what goes on, by [`super::lanes`]. It shows what the ring carried: where spans were
//! dropped, there is a gap.

use std::collections::VecDeque;

use super::table::Column;
use crate::filter::{Percentile, Row, TextField, TimeField};

/// Columns that lanes can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum LaneColumn {
    Waiting,
    Holding,
    Name,
}

impl Column for LaneColumn {
    const ALL: &'static [Self] = &[Self::Waiting, Self::Holding, Self::Name];

    fn descending(self) -> bool {
        self != Self::Name
    }
}

/// What a task was at. Ordered: what says more is larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// Holding a lock that is held for long by design: a vCPU in KVM_RUN holds its mutex.
    Running,
    /// Inside an entry point.
    Inside,
    /// Holding a lock.
    Holding,
    /// Waiting for one.
    Waiting,
}

/// A part of a task's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// From here.
    pub from_ns: u64,
    /// To here; the last frame, where it goes on.
    pub to_ns: u64,
    /// Instance of the lock, or no instance.
    pub instance: u32,
    /// Of a span: its number, counted from the start, as far as it fits.
    pub span: u32,
    /// At what.
    pub doing: Doing,
    /// Series, or entry point.
    pub what: u8,
    /// Entry point around it.
    pub inside: u8,
    /// It goes on.
    pub open: bool,
}

/// A task in the timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneRow {
    /// Thread id.
    pub tid: u32,
    /// Its name and number.
    pub who: String,
    /// Its guest, where it is known.
    pub guest: String,
    /// Of the window it waited so long.
    pub waiting_ns: u64,
    /// Of the window it held so long, locks added up.
    pub holding_ns: u64,
    /// The part of time that is shown.
    pub window: (u64, u64),
    /// Bars of its spans, as they came; some may be outside of the window.
    pub(super) spans: VecDeque<Bar>,
    /// Bars of what goes on.
    pub(super) open: Vec<Bar>,
}

impl LaneRow {
    /// Its bars in the window, in no order.
    pub fn bars(&self) -> impl Iterator<Item = &Bar> {
        let (from, to) = self.window;
        let all = self.spans.iter().chain(&self.open);
        all.filter(move |bar| bar.from_ns < to && bar.to_ns > from)
    }

    /// Adds up what is in the window; whether anything is.
    pub(super) fn add_up(&mut self) -> bool {
        let (from, to) = self.window;
        let mut any = false;
        let (mut waiting, mut holding) = (0_u64, 0_u64);
        for bar in self.bars() {
            any = true;
            let within = bar.to_ns.min(to) - bar.from_ns.max(from);
            match bar.doing {
                Doing::Waiting => waiting = waiting.saturating_add(within),
                Doing::Holding => holding = holding.saturating_add(within),
                Doing::Running | Doing::Inside => {}
            }
        }
        (self.waiting_ns, self.holding_ns) = (waiting, holding);
        any
    }

    /// Begin of the next bar after a moment; of the first, where there is none.
    #[must_use]
    pub fn next_after(&self, at_ns: u64) -> Option<u64> {
        let begins = || self.bars().map(|bar| bar.from_ns);
        begins()
            .filter(|begin| *begin > at_ns)
            .min()
            .or_else(|| begins().min())
    }
}

impl Row for LaneRow {
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Name | TextField::Task | TextField::Holder => Some(&self.who),
            TextField::Guest => Some(&self.guest),
            TextField::Class | TextField::Kind | TextField::Mdev => None,
        }
    }

    fn time(&self, field: TimeField, _: Percentile) -> Option<u64> {
        match field {
            TimeField::Wait => Some(self.waiting_ns),
            TimeField::Hold => Some(self.holding_ns),
            TimeField::Latency => None,
        }
    }
}
