//! The lanes of the timeline, kept from picture to picture.
//!
//! There may be tens of thousands of bars, and nearly all of them were there a frame ago: as long as the same run goes on
//! and the window with it, only new spans are put into lanes, and those that are gone are taken out. Anything else, a
//! seek, a window that was moved, begins anew. Both ways give the same lanes.

use std::collections::HashMap;

use apscope_collector::diagnose::look::guest_of;
use apscope_collector::model::{Span, query};
use probe_ebpf::abi::{NO_INSTANCE, SPAN_ENTRY, SPAN_LOCK};

use super::Snapshot;
use super::spread::Spread;
use super::table::TableState;
use super::timeline::{Bar, Doing, LaneColumn, LaneRow};
use super::window::Window;
use crate::filter::Filter;

/// Lanes by task, and which of them are shown.
#[derive(Debug, Default)]
pub struct Lanes {
    all: Vec<LaneRow>,
    /// By thread id.
    places: HashMap<u32, usize, Spread>,
    /// Places of those that match, in order.
    order: Vec<usize>,
    /// What they were made of.
    made_of: Option<MadeOf>,
}

/// What lanes were made of.
#[derive(Debug, Clone, Copy)]
struct MadeOf {
    /// The history.
    history: u64,
    /// Spans up to this one.
    spans: u64,
    /// Spans that ended after this moment, and maybe more.
    from_ns: u64,
}

impl Lanes {
    /// Lanes that are shown.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// None is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The lane at a place on the screen.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&LaneRow> {
        self.all.get(*self.order.get(place)?)
    }

    /// Those that are shown, in order.
    pub fn iter(&self) -> impl Iterator<Item = &LaneRow> {
        self.order.iter().filter_map(|place| self.all.get(*place))
    }

    /// Brings them up to date.
    pub fn update(
        &mut self,
        shown: &Snapshot,
        window: Window,
        filter: &Filter,
        table: &TableState<LaneColumn, u32>,
    ) {
        let (from, to) = window.range(shown.model.last.at_ns);
        self.take_spans(shown, from);
        for row in &mut self.all {
            row.window = (from, to);
            row.open.clear();
            row.who.clear();
            row.guest.clear();
        }
        self.going_on(shown);
        self.order.clear();
        for (place, row) in self.all.iter_mut().enumerate() {
            row.window = (from, to);
            if !row.add_up() {
                continue;
            }
            if row.who.is_empty() {
                shown.history.write_who(&mut row.who, row.tid);
            }
            if filter.matches(row) {
                self.order.push(place);
            }
        }
        let all = &self.all;
        self.order.sort_unstable_by(|a, b| {
            let (a, b) = (&all[*a], &all[*b]);
            let order = match table.sort {
                LaneColumn::Waiting => {
                    (a.waiting_ns, a.holding_ns).cmp(&(b.waiting_ns, b.holding_ns))
                }
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
    }

    /// Bars of spans: of the new ones alone, where the others are there.
    fn take_spans(&mut self, shown: &Snapshot, from: u64) {
        let history = &shown.history;
        let (kept, all) = history.numbers();
        let goes_on = self.made_of.filter(|made_of| {
            made_of.history == history.id()
                && (kept..=all).contains(&made_of.spans)
                && made_of.from_ns <= from
        });
        let first = if let Some(made_of) = goes_on {
            self.drop_old(kept as u32, from);
            made_of.spans
        } else {
            self.all.clear();
            self.places.clear();
            history.first_after(from)
        };
        self.made_of = Some(MadeOf {
            history: history.id(),
            spans: all,
            // What is dropped now is not there any more.
            from_ns: from,
        });
        for (span, number) in history.spans_from(first).zip(first..) {
            self.add(span, number as u32);
        }
    }

    /// Takes out bars of spans that are kept no more, or ended before; and lanes without any.
    fn drop_old(&mut self, kept: u32, from: u64) {
        let mut empty = false;
        for row in &mut self.all {
            while let Some(bar) = row.spans.front()
                // Numbers may have begun anew in between: at most as many are kept as half of them.
                && (bar.to_ns <= from || bar.span.wrapping_sub(kept) > u32::MAX / 2)
            {
                row.spans.pop_front();
            }
            empty |= row.spans.is_empty();
        }
        if empty {
            self.all
                .retain(|row| !row.spans.is_empty() || !row.open.is_empty());
            self.places.clear();
            let tids = self.all.iter().map(|row| row.tid);
            self.places.extend(tids.zip(0..));
        }
    }

    /// The lane of a task.
    fn lane(&mut self, tid: u32) -> &mut LaneRow {
        let place = *self.places.entry(tid).or_insert_with(|| {
            self.all.push(LaneRow {
                tid,
                ..LaneRow::default()
            });
            self.all.len() - 1
        });
        &mut self.all[place]
    }

    fn add(&mut self, span: &Span, number: u32) {
        let span = &span.raw;
        let end = span.start_ns.saturating_add(span.duration_ns);
        let bar = |from_ns, to_ns, doing| Bar {
            from_ns,
            to_ns,
            instance: span.instance,
            span: number,
            doing,
            what: span.what,
            inside: span.inside,
            open: false,
        };
        match span.kind {
            SPAN_LOCK => {
                let own = &mut self.lane(span.tid).spans;
                if span.extra > 0 {
                    let asked = span.start_ns.saturating_sub(span.extra);
                    own.push_back(bar(asked, span.start_ns, Doing::Waiting));
                }
                own.push_back(bar(span.start_ns, end, holding(span.what)));
            }
            SPAN_ENTRY => {
                let own = &mut self.lane(span.tid).spans;
                own.push_back(bar(span.start_ns, end, Doing::Inside));
            }
            _ => {}
        }
    }

    /// Bars of what has not ended, and what is known of the tasks.
    fn going_on(&mut self, shown: &Snapshot) {
        let now = shown.model.last.at_ns;
        for task in &shown.model.live {
            let nothing = task.holds.is_empty() && task.waits.is_empty() && task.inside.is_empty();
            if nothing && !self.places.contains_key(&task.tid) {
                continue;
            }
            let row = self.lane(task.tid);
            let mut add = |since_ns: u64, doing, what: u32, instance, inside: u32| {
                row.open.push(Bar {
                    from_ns: since_ns.min(now),
                    to_ns: now,
                    instance,
                    span: 0,
                    doing,
                    what: what as u8,
                    inside: inside as u8,
                    open: true,
                });
            };
            for hold in &task.holds {
                let doing = holding(hold.series as u8);
                add(hold.since_ns, doing, hold.series, hold.instance, hold.entry);
            }
            for wait in &task.waits {
                let of = (wait.series, wait.instance, wait.entry);
                add(wait.since_ns, Doing::Waiting, of.0, of.1, of.2);
            }
            for call in &task.inside {
                add(call.since_ns, Doing::Inside, call.entry, NO_INSTANCE, 0);
            }
            row.who = query::task_name(task);
            if let Some(guest) = guest_of(&shown.model, task) {
                row.guest = shown.history.guest_name(guest);
            }
        }
    }
}

/// What a hold of a series is.
fn holding(series: u8) -> Doing {
    if query::long_hold_is_normal(series) {
        Doing::Running
    } else {
        Doing::Holding
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use apscope_collector::frame::{Frame, Holding, Live, Spans, TaskState};
    use probe_ebpf::abi;

    use super::*;
    use crate::state::App;
    use crate::state::history::SPANS;
    use crate::theme::Theme;

    const TICK_NS: u64 = 100_000_000;

    /// Numbers that look like chance, the same every time.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % limit
        }
    }

    /// Spans of some tasks in a tick, by their ends and not quite in order; some began long before.
    fn frame(number: u64, count: u64, chance: &mut Chance) -> Frame {
        let at_ns = 50_000_000_000 + number * TICK_NS;
        let spans: Vec<abi::Span> = (0..count)
            .map(|_| {
                let length = 1 << chance.below(33);
                let end = at_ns - chance.below(3 * TICK_NS);
                abi::Span {
                    start_ns: end - length,
                    duration_ns: length,
                    extra: chance.below(3) * chance.below(10_000_000),
                    // From time to time others.
                    tid: (number / 20 * 40 + chance.below(50)) as u32,
                    instance: abi::NO_INSTANCE,
                    result: 0,
                    kind: chance.below(2) as u8,
                    what: chance.below(20) as u8,
                    inside: 0,
                    flags: 0,
                }
            })
            .collect();
        let task = |tid| TaskState {
            tid,
            comm: format!("now-{tid}"),
            holds: vec![Holding {
                since_ns: at_ns - chance.below(5_000_000_000),
                ..Holding::default()
            }],
            ..TaskState::default()
        };
        let live = [7, number as u32 % 9, 900 + number as u32].map(task);
        Frame {
            number,
            at_ns,
            live: Some(Live {
                tasks: live.into(),
                ..Live::default()
            }),
            spans: Some(Spans::encode(at_ns, &spans, |tid| format!("task-{tid}"))),
            ..Frame::default()
        }
    }

    /// All that is shown of lanes.
    fn shown(lanes: &Lanes) -> Vec<(u32, String, u64, u64, Vec<Bar>)> {
        let rows = lanes.iter().map(|row| {
            let bars = row.bars().copied().collect();
            let (tid, who) = (row.tid, row.who.clone());
            (tid, who, row.waiting_ns, row.holding_ns, bars)
        });
        rows.collect()
    }

    #[test]
    fn lanes_that_were_kept_are_those_that_are_made_anew() {
        let mut chance = Chance(7);
        let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
        let mut kept = Lanes::default();
        let (filter, table) = (Filter::default(), TableState::new(LaneColumn::Waiting));
        let mut window = Window::default();
        let mut before = None;
        let mut most = 0;
        for number in 0..120 {
            // Few at first: the window is what ends them. Then more than are kept.
            let count = if number < 40 { 200 } else { 2_500 };
            app.apply(&frame(number, count, &mut chance));
            let now = app.shown().model.last.at_ns;
            match number {
                30 | 90 => window.zoom(false, now),
                35 | 95 => window.zoom(true, now),
                50..60 => window.pan(false, now),
                70 => window.follow(),
                100 => before = Some(app.known()),
                110 => app.go_to(before.as_ref().unwrap()),
                // Not every frame is drawn.
                80..85 => continue,
                _ => {}
            }
            let mut anew = Lanes::default();
            anew.update(app.shown(), window, &filter, &table);
            kept.update(app.shown(), window, &filter, &table);
            assert!(!kept.is_empty() && kept.len() <= kept.all.len());
            assert!(shown(&kept) == shown(&anew), "frame {number}");
            let bars = kept.all.iter().map(|row| row.spans.len()).sum::<usize>();
            most = most.max(bars);
        }
        assert!(most > SPANS && most <= 2 * SPANS, "{most}");
        // Another run has spans of the same numbers.
        app.restart();
        for number in 0..50 {
            app.apply(&frame(number, 2_000, &mut chance));
        }
        let mut anew = Lanes::default();
        anew.update(app.shown(), window, &filter, &table);
        kept.update(app.shown(), window, &filter, &table);
        assert!(shown(&kept) == shown(&anew));
    }
}
