//! The timeline: for each task, when it was inside a traced function, when it held and when it waited.
//!
//! Made of the last spans and of what goes on. It shows what the ring carried: where spans were dropped, there is a gap.

use std::collections::HashMap;

use apscope_collector::diagnose::look::{guest_labels, guest_of};
use apscope_collector::frame::TaskState;
use apscope_collector::model::query;
use probe_ebpf::abi::{SPAN_ENTRY, SPAN_LOCK};

use super::Snapshot;
use super::table::{Column, TableState};
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

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

/// Shortest and longest part of time that is shown.
const LIMITS_NS: (u64, u64) = (10_000, 600_000_000_000);
/// Bars of one task that are kept.
const BARS: usize = 4_096;

/// The part of time on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its length.
    pub length_ns: u64,
    /// Its end; `None`: the last frame.
    pub end_ns: Option<u64>,
    /// Place of the cursor, in thousandths of the window.
    pub cursor: u32,
    /// The moment that the cursor was put on, exactly; `None` once it has been moved by hand.
    pub picked_ns: Option<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            length_ns: 2_000_000_000,
            end_ns: None,
            cursor: 1000,
            picked_ns: None,
        }
    }
}

impl Window {
    /// Begin and end, where the last frame ended at `now_ns`.
    #[must_use]
    pub fn range(self, now_ns: u64) -> (u64, u64) {
        let end = self.end_ns.unwrap_or(now_ns);
        (end.saturating_sub(self.length_ns), end)
    }

    /// The moment under the cursor.
    #[must_use]
    pub fn cursor_ns(self, now_ns: u64) -> u64 {
        let (from, to) = self.range(now_ns);
        if let Some(picked) = self.picked_ns {
            return picked.clamp(from, to);
        }
        from + ((to - from) / 1000).saturating_mul(u64::from(self.cursor.min(1000)))
    }

    /// Moves the cursor a fortieth; at the edge the window moves.
    pub fn pan(&mut self, later: bool, now_ns: u64) {
        const STEP: u32 = 25;
        self.picked_ns = None;
        if later && self.cursor < 1000 {
            self.cursor = (self.cursor + STEP).min(1000);
        } else if !later && self.cursor > 0 {
            self.cursor = self.cursor.saturating_sub(STEP);
        } else {
            let step = self.length_ns / 4;
            let end = self.end_ns.unwrap_or(now_ns);
            let end = if later {
                end.saturating_add(step)
            } else {
                end.saturating_sub(step)
            };
            self.end_ns = (end < now_ns).then_some(end);
        }
    }

    /// Half or twice the time, about the cursor.
    pub fn zoom(&mut self, closer: bool, now_ns: u64) {
        let at = self.cursor_ns(now_ns);
        self.picked_ns = None;
        let length = if closer {
            self.length_ns / 2
        } else {
            self.length_ns.saturating_mul(2)
        };
        self.length_ns = length.clamp(LIMITS_NS.0, LIMITS_NS.1);
        if self.end_ns.is_none() && self.cursor == 1000 {
            return;
        }
        let after = (self.length_ns / 1000).saturating_mul(u64::from(1000 - self.cursor.min(1000)));
        let end = at.saturating_add(after);
        self.end_ns = (end < now_ns).then_some(end);
    }

    /// It shows another part of time than the last one, or the cursor has been moved.
    #[must_use]
    pub const fn elsewhere(self) -> bool {
        self.end_ns.is_some() || self.cursor != 1000
    }

    /// Goes on with the last frame again, as long as it is.
    pub fn follow(&mut self) {
        *self = Self {
            length_ns: self.length_ns,
            ..Self::default()
        };
    }

    /// Puts the cursor on a moment, and moves the window where it is not in it. It stays there while time goes on.
    pub fn look_at(&mut self, at_ns: u64, now_ns: u64) {
        let (from, to) = self.range(now_ns);
        if !(from..=to).contains(&at_ns) {
            let end = at_ns.saturating_add(self.length_ns / 2);
            self.end_ns = (end < now_ns).then_some(end);
        }
        if at_ns < now_ns {
            self.end_ns.get_or_insert(now_ns);
            self.picked_ns = Some(at_ns);
        } else {
            self.picked_ns = None;
        }
        let (from, to) = self.range(now_ns);
        let share = u128::from(at_ns.saturating_sub(from)) * 1000 / u128::from((to - from).max(1));
        self.cursor = share.min(1000) as u32;
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
    /// At what.
    pub doing: Doing,
    /// Series, or entry point.
    pub what: u8,
    /// Instance of the lock, or no instance.
    pub instance: u32,
    /// Entry point around it.
    pub inside: u8,
    /// It goes on.
    pub open: bool,
}

/// A task in the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRow {
    /// Thread id.
    pub tid: u32,
    /// Its name and number.
    pub who: String,
    /// Its guest, where it is known.
    pub guest: String,
    /// Its bars in the window, in no order.
    pub bars: Vec<Bar>,
    /// Of the window it waited so long.
    pub waiting_ns: u64,
    /// Of the window it held so long, locks added up.
    pub holding_ns: u64,
}

impl LaneRow {
    /// Begin of the next bar after a moment; of the first, where there is none.
    #[must_use]
    pub fn next_after(&self, at_ns: u64) -> Option<u64> {
        let begins = || self.bars.iter().map(|bar| bar.from_ns);
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

/// The tasks that match, in order.
#[must_use]
pub fn rows(
    shown: &Snapshot,
    window: Window,
    filter: &Filter,
    table: &TableState<LaneColumn, u32>,
) -> Vec<LaneRow> {
    let now = shown.model.last.at_ns;
    let (from, to) = window.range(now);
    let mut bars = finished(shown, from, to);
    going_on(shown, from, to, &mut bars);
    let labels = guest_labels(&shown.model);
    let guests: HashMap<u32, u32> = shown
        .model
        .live
        .iter()
        .filter_map(|task| Some((task.tid, guest_of(&shown.model, task)?)))
        .collect();
    let live: HashMap<u32, &TaskState> = shown
        .model
        .live
        .iter()
        .map(|task| (task.tid, task))
        .collect();
    let mut rows: Vec<LaneRow> = bars
        .into_iter()
        .map(|(tid, bars)| {
            let total = |wanted| {
                let of = bars.iter().filter(|bar| bar.doing == wanted);
                of.map(|bar| bar.to_ns.min(to) - bar.from_ns.max(from))
                    .fold(0, u64::saturating_add)
            };
            let task = live.get(&tid).copied();
            LaneRow {
                tid,
                who: task.map_or_else(|| shown.history.who(tid), query::task_name),
                guest: guests
                    .get(&tid)
                    .map(|guest| {
                        labels
                            .get(guest)
                            .cloned()
                            .unwrap_or_else(|| format!("guest-{guest}"))
                    })
                    .unwrap_or_default(),
                waiting_ns: total(Doing::Waiting),
                holding_ns: total(Doing::Holding),
                bars,
            }
        })
        .filter(|row| filter.matches(row))
        .collect();
    rows.sort_by(|a, b| {
        let order = match table.sort {
            LaneColumn::Waiting => (a.waiting_ns, a.holding_ns).cmp(&(b.waiting_ns, b.holding_ns)),
            LaneColumn::Holding => a.holding_ns.cmp(&b.holding_ns),
            LaneColumn::Name => a.who.cmp(&b.who),
        };
        let order = if table.descending {
            order.reverse()
        } else {
            order
        };
        order.then(a.tid.cmp(&b.tid))
    });
    rows
}

/// Spans come by their ends, up to this: a ring is read processor by processor, and now and then late.
const DISORDER_NS: u64 = 2_000_000_000;

/// Bars of spans in a part of time, by task.
fn finished(shown: &Snapshot, from: u64, to: u64) -> HashMap<u32, Vec<Bar>> {
    let mut bars: HashMap<u32, Vec<Bar>> = HashMap::new();
    let mut add = |tid, bar: Bar| {
        if bar.from_ns < to && bar.to_ns > from {
            let own = bars.entry(tid).or_default();
            if own.len() < BARS {
                own.push(bar);
            }
        }
    };
    // The latest first: where a task has too many, the oldest are left out.
    for span in shown.history.spans().iter().rev().map(|span| &span.raw) {
        let end = span.start_ns.saturating_add(span.duration_ns);
        if end.saturating_add(DISORDER_NS) < from {
            break;
        }
        let bar = |from_ns, to_ns, doing| Bar {
            from_ns,
            to_ns,
            doing,
            what: span.what,
            instance: span.instance,
            inside: span.inside,
            open: false,
        };
        match span.kind {
            SPAN_LOCK => {
                add(span.tid, bar(span.start_ns, end, holding(span.what)));
                if span.extra > 0 {
                    let asked = span.start_ns.saturating_sub(span.extra);
                    add(span.tid, bar(asked, span.start_ns, Doing::Waiting));
                }
            }
            SPAN_ENTRY => add(span.tid, bar(span.start_ns, end, Doing::Inside)),
            _ => {}
        }
    }
    bars
}

/// What a hold of a series is.
fn holding(series: u8) -> Doing {
    if query::long_hold_is_normal(series) {
        Doing::Running
    } else {
        Doing::Holding
    }
}

/// Bars of what has not ended.
fn going_on(shown: &Snapshot, from: u64, to: u64, bars: &mut HashMap<u32, Vec<Bar>>) {
    let now = shown.model.last.at_ns;
    for task in &shown.model.live {
        let mut add = |since_ns: u64, doing, what: u32, instance, inside: u32| {
            if since_ns < to && now > from {
                bars.entry(task.tid).or_default().push(Bar {
                    from_ns: since_ns.min(now),
                    to_ns: now,
                    doing,
                    what: what as u8,
                    instance,
                    inside: inside as u8,
                    open: true,
                });
            }
        };
        for hold in &task.holds {
            add(
                hold.since_ns,
                holding(hold.series as u8),
                hold.series,
                hold.instance,
                hold.entry,
            );
        }
        for wait in &task.waits {
            add(
                wait.since_ns,
                Doing::Waiting,
                wait.series,
                wait.instance,
                wait.entry,
            );
        }
        for call in &task.inside {
            add(
                call.since_ns,
                Doing::Inside,
                call.entry,
                probe_ebpf::abi::NO_INSTANCE,
                0,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_follows_until_it_is_moved() {
        let mut window = Window::default();
        let now = 100_000_000_000;
        assert_eq!(window.range(now), (98_000_000_000, now));
        assert_eq!(window.range(now + 5), (98_000_000_005, now + 5));
        window.pan(true, now);
        assert_eq!(window.end_ns, None, "there is nothing later");
        for _ in 0..41 {
            window.pan(false, now);
        }
        assert_eq!((window.cursor, window.end_ns), (0, Some(99_500_000_000)));
        window.look_at(now, now);
        assert_eq!((window.cursor, window.end_ns), (1000, None));
    }

    #[test]
    fn the_next_bar_is_gone_to_by_its_begin_and_back_to_now() {
        let now = 100_000_000_000;
        let bar = |from_ns, to_ns| Bar {
            from_ns,
            to_ns,
            doing: Doing::Waiting,
            what: 0,
            instance: 0,
            inside: 0,
            open: to_ns == now,
        };
        let row = LaneRow {
            tid: 1,
            who: "vcpu0".into(),
            guest: String::new(),
            bars: vec![
                bar(92_000_000_001, now),
                bar(91_999_999_999, 92_000_000_000),
            ],
            waiting_ns: 0,
            holding_ns: 0,
        };
        let mut window = Window::default();
        // Nothing begins after now: the first of all, though it is not in the window; then each once.
        for begin in [91_999_999_999, 92_000_000_001, 91_999_999_999] {
            window.look_at(row.next_after(window.cursor_ns(now)).unwrap(), now);
            assert_eq!(window.cursor_ns(now), begin);
            assert!(window.elsewhere());
        }
        assert_eq!(window.cursor_ns(now + 7_000_000_000), 91_999_999_999);
        window.follow();
        assert_eq!(window, Window::default());
        // A moment in the window holds it there too.
        window.look_at(now - 1, now);
        assert_eq!(window.cursor_ns(now + 1_000_000_000), now - 1);
    }

    proptest! {
        #[test]
        fn whatever_is_done_to_a_window_it_is_one(steps in proptest::collection::vec(0_u8..6, 0..80), now: u64) {
            let mut window = Window::default();
            for step in steps {
                match step {
                    0 => window.pan(false, now),
                    1 => window.pan(true, now),
                    2 => window.zoom(true, now),
                    3 => window.zoom(false, now),
                    _ => window.look_at(now / u64::from(step), now),
                }
                let (from, to) = window.range(now);
                prop_assert!(from <= to && to <= now);
                prop_assert!(window.cursor <= 1000);
                prop_assert!((from..=to).contains(&window.cursor_ns(now)));
            }
        }
    }
}
