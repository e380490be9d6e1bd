//! What has been counted since the start of a run: the sum of its frames, to stand before those whose predecessors are
//! elsewhere.

use std::collections::BTreeMap;

use crate::frame::{
    Base, CoarseDelta, Edge, EntryDelta, Frame, Hist, Live, Loss, Meta, Overhead, ProgramCost,
    ProgramLoss, SeriesDelta,
};

/// The sum of the frames of one run; another run begins anew.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    meta: Option<Meta>,
    last: Option<Last>,
    series: BTreeMap<u32, Series>,
    entries: BTreeMap<u32, Entry>,
    edges: BTreeMap<[u32; 6], Edge>,
    loss: Loss,
    /// Emitted and dropped, by program and CPU.
    lost: BTreeMap<(String, u32), (u64, u64)>,
    overhead: Overhead,
    /// By program.
    costs: BTreeMap<String, ProgramCost>,
}

/// The frame that the totals reach to.
#[derive(Debug, Clone)]
struct Last {
    number: u64,
    at_ns: u64,
    at_unix_ns: u64,
    live: Option<Live>,
}

#[derive(Debug, Clone, Default)]
struct Series {
    whole: Coarse,
    by_instance: BTreeMap<u32, Coarse>,
    by_entry: BTreeMap<u32, Coarse>,
}

/// The counts of a [`CoarseDelta`], which has all that a [`SeriesDelta`] has.
#[derive(Debug, Clone, Default)]
struct Coarse {
    counts: CoarseDelta,
    wait: Sum,
    hold: Sum,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    calls: u64,
    unmatched_returns: u64,
    latency: Sum,
    codes: BTreeMap<u32, u64>,
    pqap: BTreeMap<u32, u64>,
}

/// A histogram.
#[derive(Debug, Clone, Default)]
struct Sum {
    counts: BTreeMap<usize, u64>,
    total_ns: u64,
    /// Smallest and largest, while there are values.
    extremes: Option<(u64, u64)>,
}

impl Totals {
    /// Adds a frame. One that has totals itself takes their place.
    pub fn fold(&mut self, frame: &Frame) {
        if let Some(meta) = &frame.meta {
            let other = self
                .meta
                .as_ref()
                .is_some_and(|known| run(known) != run(meta));
            if other {
                *self = Self::default();
            }
            self.meta = Some(meta.clone());
        }
        if let Some(base) = &frame.base {
            let meta = self.meta.take();
            *self = Self {
                meta,
                ..Self::default()
            };
            self.add(&base.series, &base.entries, &base.edges);
            self.cost(base.loss.as_ref(), base.overhead.as_ref());
        }
        self.add(&frame.series, &frame.entries, &frame.edges);
        self.cost(frame.loss.as_ref(), frame.overhead.as_ref());
        self.last = Some(Last {
            number: frame.number,
            at_ns: frame.at_ns,
            at_unix_ns: frame.at_unix_ns,
            live: frame.live.clone(),
        });
    }

    /// The frame that says it; `None` before the first one, and where nothing describes the run.
    pub fn frame(&self) -> Option<Frame> {
        let (last, meta) = (self.last.as_ref()?, self.meta.as_ref()?);
        let mut loss = self.loss.clone();
        let programs = self
            .lost
            .iter()
            .map(|((name, cpu), (emitted, dropped))| ProgramLoss {
                name: name.clone(),
                cpu: *cpu,
                emitted: *emitted,
                dropped: *dropped,
            });
        loss.programs = programs.collect();
        let mut overhead = self.overhead.clone();
        overhead.programs = self.costs.values().cloned().collect();
        Some(Frame {
            number: last.number,
            at_ns: last.at_ns,
            at_unix_ns: last.at_unix_ns,
            meta: Some(meta.clone()),
            live: last.live.clone(),
            base: Some(Base {
                series: self.series.iter().map(|(id, s)| s.delta(*id)).collect(),
                entries: self.entries.iter().map(|(id, e)| e.delta(*id)).collect(),
                edges: self.edges.values().cloned().collect(),
                loss: Some(loss),
                overhead: Some(overhead),
            }),
            ..Frame::default()
        })
    }

    fn add(&mut self, series: &[SeriesDelta], entries: &[EntryDelta], edges: &[Edge]) {
        for delta in series {
            let of = self.series.entry(delta.series).or_default();
            grow(&mut of.whole.counts.acquisitions, delta.acquisitions);
            grow(&mut of.whole.counts.contended, delta.contended);
            grow(&mut of.whole.counts.attempts_failed, delta.attempts_failed);
            grow(
                &mut of.whole.counts.unmatched_releases,
                delta.unmatched_releases,
            );
            grow(&mut of.whole.counts.releases, delta.releases);
            of.whole.wait.add(delta.wait.as_ref());
            of.whole.hold.add(delta.hold.as_ref());
            for by in &delta.by_instance {
                of.by_instance.entry(by.id).or_default().add(by);
            }
            for by in &delta.by_entry {
                of.by_entry.entry(by.id).or_default().add(by);
            }
        }
        for delta in entries {
            let of = self.entries.entry(delta.entry).or_default();
            grow(&mut of.calls, delta.calls);
            grow(&mut of.unmatched_returns, delta.unmatched_returns);
            of.latency.add(delta.latency.as_ref());
            for (code, count) in delta.code.iter().zip(&delta.code_count) {
                grow(of.codes.entry(*code).or_default(), *count);
            }
            for (pqap, count) in delta.pqap.iter().zip(&delta.pqap_count) {
                grow(of.pqap.entry(*pqap).or_default(), *count);
            }
        }
        for edge in edges {
            let key = [
                edge.held,
                edge.acquired,
                edge.held_in,
                edge.acquired_in,
                u32::from(edge.annotated),
                edge.direction,
            ];
            self.edges.insert(key, edge.clone());
        }
    }

    fn cost(&mut self, loss: Option<&Loss>, overhead: Option<&Overhead>) {
        if let Some(loss) = loss {
            let of = &mut self.loss;
            grow(&mut of.received, loss.received);
            grow(&mut of.missed, loss.missed);
            grow(&mut of.no_task_slot, loss.no_task_slot);
            grow(&mut of.no_edge_slot, loss.no_edge_slot);
            grow(&mut of.overflowed, loss.overflowed);
            grow(&mut of.unreadable, loss.unreadable);
            grow(&mut of.unmatched, loss.unmatched);
            grow(&mut of.disagreements, loss.disagreements);
            for program in &loss.programs {
                let key = (program.name.clone(), program.cpu);
                let of = self.lost.entry(key).or_default();
                grow(&mut of.0, program.emitted);
                grow(&mut of.1, program.dropped);
            }
        }
        if let Some(overhead) = overhead {
            let of = &mut self.overhead;
            grow(&mut of.collector_cpu_ns, overhead.collector_cpu_ns);
            of.ring_bytes_max = of.ring_bytes_max.max(overhead.ring_bytes_max);
            of.ring_bytes_size = overhead.ring_bytes_size;
            for program in &overhead.programs {
                let name = program.name.clone();
                let of = self.costs.entry(name.clone());
                let of = of.or_insert_with(|| ProgramCost {
                    name,
                    ..ProgramCost::default()
                });
                grow(&mut of.runs, program.runs);
                grow(&mut of.run_time_ns, program.run_time_ns);
                grow(&mut of.missed, program.missed);
            }
        }
    }
}

/// What tells a run from another one: its start, by both clocks, and the traced process.
pub(super) fn run(meta: &Meta) -> (u64, u64, u32) {
    (meta.start_ns, meta.start_unix_ns, meta.pid)
}

/// Adds without wrapping: frames may come from a damaged file.
fn grow(total: &mut u64, by: u64) {
    *total = total.saturating_add(by);
}

impl Series {
    fn delta(&self, series: u32) -> SeriesDelta {
        let counts = &self.whole.counts;
        let all = |of: &BTreeMap<u32, Coarse>| of.iter().map(|(id, c)| c.delta(*id)).collect();
        SeriesDelta {
            series,
            acquisitions: counts.acquisitions,
            contended: counts.contended,
            attempts_failed: counts.attempts_failed,
            unmatched_releases: counts.unmatched_releases,
            releases: counts.releases,
            wait: self.whole.wait.hist(),
            hold: self.whole.hold.hist(),
            by_instance: all(&self.by_instance),
            by_entry: all(&self.by_entry),
        }
    }
}

impl Coarse {
    fn add(&mut self, delta: &CoarseDelta) {
        let of = &mut self.counts;
        grow(&mut of.acquisitions, delta.acquisitions);
        grow(&mut of.contended, delta.contended);
        grow(&mut of.attempts_failed, delta.attempts_failed);
        grow(&mut of.unmatched_releases, delta.unmatched_releases);
        grow(&mut of.releases, delta.releases);
        grow(&mut of.wakes, delta.wakes);
        self.wait.add(delta.wait.as_ref());
        self.hold.add(delta.hold.as_ref());
    }

    fn delta(&self, id: u32) -> CoarseDelta {
        CoarseDelta {
            id,
            wait: self.wait.hist(),
            hold: self.hold.hist(),
            ..self.counts.clone()
        }
    }
}

impl Entry {
    fn delta(&self, entry: u32) -> EntryDelta {
        EntryDelta {
            entry,
            calls: self.calls,
            unmatched_returns: self.unmatched_returns,
            latency: self.latency.hist(),
            code: self.codes.keys().copied().collect(),
            code_count: self.codes.values().copied().collect(),
            pqap: self.pqap.keys().copied().collect(),
            pqap_count: self.pqap.values().copied().collect(),
        }
    }
}

impl Sum {
    fn add(&mut self, delta: Option<&Hist>) {
        let Some(delta) = delta else { return };
        for (bucket, count) in delta.buckets() {
            grow(self.counts.entry(bucket).or_default(), count);
        }
        grow(&mut self.total_ns, delta.sum_ns);
        if !delta.is_empty() {
            let (min, max) = (delta.min_ns_total, delta.max_ns_total);
            self.extremes = Some(match self.extremes {
                Some(known) => (known.0.min(min), known.1.max(max)),
                None => (min, max),
            });
        }
    }

    fn hist(&self) -> Option<Hist> {
        let (min, max) = self.extremes.unwrap_or_default();
        let counts = self.counts.iter().map(|(bucket, count)| (*bucket, *count));
        (!self.counts.is_empty() || self.total_ns > 0)
            .then(|| Hist::from_buckets(counts, self.total_ns, min, max))
    }
}
