//! What the model does not keep: the last spans with the names of their tasks, and how waits and holds were distributed
//! over time, and the queues that guests have used.
//!
//! Bounded: by a number of spans, of tasks and of bins. Takes frames, knows nothing of the screen.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apscope_collector::diagnose::look::{guest_labels, guest_of};
use apscope_collector::frame::{Frame, Hist, Spans};
use apscope_collector::model::{Model, Span};
use probe_ebpf::abi::{self, PQAP_RESPONDED, SPAN_ENTRY, SPAN_LOCK};
use probe_ebpf::h2;
use probe_ebpf::names::{class_id, entry_id};

use super::spread::Spread;

/// Spans kept.
pub const SPANS: usize = 32_768;
/// Names of tasks kept.
const NAMES: usize = 8_192;
/// Length of a bin of the heat maps.
pub const BIN_NS: u64 = 500_000_000;
/// Bins kept: two minutes.
pub const BINS: usize = 240;
/// Queues of guests kept.
const QUEUES: usize = 16_384;
/// Powers of two in a bin.
pub const OCTAVES: usize = h2::COARSE_BUCKETS;

/// Counts by power of two of nanoseconds; values of 0 are left out.
pub type Octaves = Box<[u32; OCTAVES]>;

/// Waits and holds of one series in one bin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Waits that were not 0.
    pub wait: Octaves,
    /// Holds.
    pub hold: Octaves,
}

impl Default for Cell {
    fn default() -> Self {
        let empty = || Box::new([0; OCTAVES]);
        Self {
            wait: empty(),
            hold: empty(),
        }
    }
}

/// Waits and holds of half a second.
#[derive(Debug, Clone, Default)]
pub struct Bin {
    /// Its place in time: it begins at so many times [`BIN_NS`].
    pub number: u64,
    /// By series.
    pub series: BTreeMap<u8, Cell>,
}

/// How a guest's PQAPs for a queue were answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// PQAPs with a response.
    pub count: u64,
    /// The last response code.
    pub response: u8,
}

/// The spans of one frame.
#[derive(Debug, Clone, Copy)]
struct Batch {
    /// Number of the first one, counted from the start.
    first: u64,
    /// None of them, and none before, ended later.
    latest_ns: u64,
}

/// The last spans and bins.
#[derive(Debug, Clone)]
pub struct History {
    id: u64,
    /// Guests of vCPU threads: whoever has held one of its `vcpu->mutex`.
    guests: HashMap<u32, u32, Spread>,
    /// What guests are called, by number.
    labels: HashMap<u32, String>,
    queues: BTreeMap<(u32, u16), Used>,
    spans: VecDeque<Span>,
    /// Spans that were here and have gone.
    gone: u64,
    batches: VecDeque<Batch>,
    names: HashMap<u32, String, Spread>,
    /// Shared by the clones of a history: only the last one changes.
    bins: VecDeque<Arc<Bin>>,
}

impl Default for History {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            guests: HashMap::default(),
            labels: HashMap::new(),
            queues: BTreeMap::new(),
            spans: VecDeque::new(),
            gone: 0,
            batches: VecDeque::new(),
            names: HashMap::default(),
            bins: VecDeque::new(),
        }
    }
}

impl History {
    /// Remembers what is in a frame. `anew`: it belongs to another run than the frames before.
    pub fn sample(&mut self, frame: &Frame, model: &Model, anew: bool) {
        if anew {
            *self = Self::default();
        }
        if frame.meta.is_some() {
            self.labels = guest_labels(model);
        }
        self.learn_guests(frame, model);
        if let Some(spans) = &frame.spans {
            if self.names.len() + spans.tids.len() > NAMES {
                // Those that are still about come again with the next frame that has them.
                self.names.clear();
            }
            for (tid, comm) in spans.tids.iter().zip(&spans.comms).take(NAMES) {
                self.name(*tid, comm);
            }
            self.take(spans, frame.at_ns, model);
        }
        for task in frame.live.iter().flat_map(|live| &live.tasks).take(NAMES) {
            self.name(task.tid, &task.comm);
        }
        self.bin(frame);
    }

    fn learn_guests(&mut self, frame: &Frame, model: &Model) {
        let vcpu = class_id::VCPU_MUTEX;
        if self.guests.len() > NAMES {
            self.guests.clear();
        }
        for task in frame.live.iter().flat_map(|live| &live.tasks).take(NAMES) {
            let runs = task
                .holds
                .iter()
                .any(|hold| hold.series >> 1 == u32::from(vcpu));
            if runs && let Some(guest) = guest_of(model, task) {
                self.guests.insert(task.tid, guest);
            }
        }
    }

    /// Spans of a frame, which ended at this moment.
    fn take(&mut self, spans: &Spans, at_ns: u64, model: &Model) {
        let skip = spans.len().saturating_sub(SPANS);
        let count = spans.len() - skip;
        if count == 0 {
            return;
        }
        let leave = (self.spans.len() + count).saturating_sub(SPANS);
        self.spans.drain(..leave);
        self.gone = self.gone.saturating_add(leave as u64);
        let mut latest_ns = self.batches.back().map_or(0, |batch| batch.latest_ns);
        let first = self.gone.saturating_add(self.spans.len() as u64);
        let all = spans.decode(at_ns).zip(spans.acted_on());
        for (raw, on) in all.skip(skip) {
            let end = raw.start_ns.saturating_add(raw.duration_ns);
            latest_ns = latest_ns.max(end);
            self.spans.push_back(Span { raw, on });
        }
        let kept = std::mem::take(&mut self.spans);
        let new = kept.range(kept.len() - count..).map(|span| &span.raw);
        // A call ends before the vCPU lets go of its mutex.
        new.clone().for_each(|span| self.learn_guest(span, model));
        new.for_each(|span| self.use_of(span));
        self.spans = kept;
        self.batches.push_back(Batch { first, latest_ns });
        // The first one is that of the first span.
        let follows =
            |batches: &VecDeque<Batch>| batches.get(1).map_or(u64::MAX, |next| next.first);
        while follows(&self.batches) <= self.gone {
            self.batches.pop_front();
        }
    }

    /// Who has held a vCPU's mutex is that vCPU.
    fn learn_guest(&mut self, span: &abi::Span, model: &Model) {
        if span.kind != SPAN_LOCK || span.what >> 1 != class_id::VCPU_MUTEX {
            return;
        }
        let of = model.instances.get(&span.instance);
        if let Some(guest) = of.and_then(|known| known.guest.checked_sub(1))
            && (self.guests.len() < 2 * NAMES || self.guests.contains_key(&span.tid))
        {
            self.guests.insert(span.tid, guest);
        }
    }

    /// A PQAP of a guest that names a queue, and was answered.
    fn use_of(&mut self, span: &abi::Span) {
        // KVM's own handler around it would count the same instruction twice.
        if span.kind != SPAN_ENTRY
            || span.what != entry_id::HANDLE_PQAP
            || span.extra & PQAP_RESPONDED == 0
        {
            return;
        }
        let Some(&guest) = self.guests.get(&span.tid) else {
            return;
        };
        let key = (guest, span.extra as u16);
        if self.queues.len() >= QUEUES && !self.queues.contains_key(&key) {
            return;
        }
        let used = self.queues.entry(key).or_insert(Used {
            count: 0,
            response: 0,
        });
        used.count = used.count.saturating_add(1);
        used.response = (span.extra >> 32) as u8;
    }

    /// The guest of a vCPU's thread.
    #[must_use]
    pub fn guest(&self, tid: u32) -> Option<u32> {
        self.guests.get(&tid).copied()
    }

    /// What a guest is called.
    #[must_use]
    pub fn guest_name(&self, guest: u32) -> String {
        let label = self.labels.get(&guest);
        label.map_or_else(|| format!("guest-{guest}"), Clone::clone)
    }

    /// Queues by guest and APQN, as far as guests have used them.
    #[must_use]
    pub fn queues(&self) -> &BTreeMap<(u32, u16), Used> {
        &self.queues
    }

    fn name(&mut self, tid: u32, comm: &str) {
        if self.names.get(&tid).is_none_or(|known| known != comm) {
            self.names.insert(tid, comm.chars().take(64).collect());
        }
    }

    fn bin(&mut self, frame: &Frame) {
        // The tick's middle is not known here; its end may lie a hair beyond a bin's edge.
        let number = frame.at_ns.saturating_sub(1) / BIN_NS;
        if self.bins.back().is_none_or(|bin| bin.number < number) {
            if self.bins.len() == BINS {
                self.bins.pop_front();
            }
            self.bins.push_back(Arc::new(Bin {
                number,
                ..Bin::default()
            }));
        }
        let Some(bin) = self.bins.back_mut().map(Arc::make_mut) else {
            return;
        };
        for delta in &frame.series {
            let Ok(series) = u8::try_from(delta.series) else {
                continue;
            };
            let has = |hist: &Option<Hist>| hist.as_ref().is_some_and(|h| !h.step.is_empty());
            if !has(&delta.wait) && !has(&delta.hold) {
                continue;
            }
            let cell = bin.series.entry(series).or_default();
            add(&mut cell.wait, delta.wait.as_ref());
            add(&mut cell.hold, delta.hold.as_ref());
        }
    }

    /// Spans that ended before are no longer kept; `None` while all of them are.
    #[must_use]
    pub fn kept_from_ns(&self) -> Option<u64> {
        let first = &self.spans.front()?.raw;
        let end = first.start_ns.saturating_add(first.duration_ns);
        (self.spans.len() == SPANS).then_some(end)
    }

    /// Number of the first span that ends after a moment, or of one before it, counted from the start of the run.
    #[must_use]
    pub fn first_after(&self, at_ns: u64) -> u64 {
        let before = self
            .batches
            .partition_point(|batch| batch.latest_ns <= at_ns);
        let first = self.batches.get(before).map(|batch| batch.first);
        let (kept, all) = self.numbers();
        first.map_or(all, |first| first.max(kept))
    }

    /// Numbers of the first span that is kept, and of the next that will come.
    #[must_use]
    pub fn numbers(&self) -> (u64, u64) {
        (self.gone, self.gone.saturating_add(self.spans.len() as u64))
    }

    /// The spans from one with a number on.
    pub fn spans_from(&self, number: u64) -> impl Iterator<Item = &Span> {
        let skip = number.saturating_sub(self.gone) as usize;
        self.spans.range(skip.min(self.spans.len())..)
    }

    /// What tells it from others: clones have the same, and what one of them has under a number others do not have
    /// otherwise.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The spans, in the order in which they came: by their ends, roughly.
    #[must_use]
    pub fn spans(&self) -> &VecDeque<Span> {
        &self.spans
    }

    /// Name of a task, where it is known.
    #[must_use]
    pub fn comm(&self, tid: u32) -> Option<&str> {
        self.names.get(&tid).map(String::as_str)
    }

    /// Name and number of a task.
    #[must_use]
    pub fn who(&self, tid: u32) -> String {
        let mut who = String::new();
        self.write_who(&mut who, tid);
        who
    }

    /// The same, behind what is there.
    pub fn write_who(&self, text: &mut String, tid: u32) {
        if let Some(comm) = self.comm(tid) {
            text.push_str(comm);
            text.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "({tid})");
    }

    /// The bins, oldest first. Bins in which nothing happened may be missing.
    #[must_use]
    pub fn bins(&self) -> &VecDeque<Arc<Bin>> {
        &self.bins
    }
}

fn add(octaves: &mut Octaves, hist: Option<&Hist>) {
    for (bucket, count) in hist.iter().flat_map(|hist| hist.buckets()) {
        if bucket == 0 || bucket >= h2::BUCKETS {
            continue;
        }
        let octave = h2::ilog2(h2::lower_bound(bucket)) as usize;
        if let Some(cell) = octaves.get_mut(octave) {
            *cell = cell.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use apscope_collector::frame::SeriesDelta;

    use super::*;

    fn span(tid: u32, start_ns: u64) -> abi::Span {
        abi::Span {
            start_ns,
            duration_ns: 10,
            extra: 0,
            tid,
            instance: abi::NO_INSTANCE,
            result: 0,
            kind: abi::SPAN_LOCK,
            what: 0,
            inside: 0,
            flags: 0,
        }
    }

    #[test]
    fn spans_and_names_are_the_last_ones() {
        let mut history = History::default();
        for number in 0..3_u64 {
            let own: Vec<_> = (0..SPANS as u64 / 2)
                .map(|n| span(7, number * SPANS as u64 + n))
                .collect();
            let frame = Frame {
                at_ns: 1,
                spans: Some(Spans::encode(1, &own, |_| format!("name {number}"))),
                ..Frame::default()
            };
            history.sample(&frame, &Model::default(), false);
        }
        assert_eq!(history.spans().len(), SPANS);
        assert_eq!(
            history.spans()[0].raw.start_ns,
            SPANS as u64,
            "the first half has gone"
        );
        assert_eq!(history.who(7), "name 2 (7)");
        assert_eq!(history.who(8), "(8)");
        history.sample(&Frame::default(), &Model::default(), true);
        assert!(history.spans().is_empty());
    }

    #[test]
    fn bins_count_by_power_of_two_and_leave_zeros_out() {
        let mut history = History::default();
        let frame = |at_ns, count| Frame {
            at_ns,
            series: vec![SeriesDelta {
                series: 4,
                wait: Some(Hist::from_buckets(
                    [(0, 9), (h2::bucket(5_000), count)],
                    1,
                    0,
                    5_000,
                )),
                ..SeriesDelta::default()
            }],
            ..Frame::default()
        };
        history.sample(&frame(BIN_NS, 2), &Model::default(), false);
        history.sample(&frame(BIN_NS + 1, 3), &Model::default(), false);
        history.sample(&frame(2 * BIN_NS, 4), &Model::default(), false);
        let octave = 12;
        let counts: Vec<u32> = history
            .bins()
            .iter()
            .map(|bin| bin.series[&4].wait[octave])
            .collect();
        assert_eq!(counts, [2, 7]);
        let all: u32 = history
            .bins()
            .iter()
            .flat_map(|bin| bin.series[&4].wait.iter())
            .sum();
        assert_eq!(all, 9);
    }
}
