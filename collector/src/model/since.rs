//! From one state of a run to a later one, as one frame.
//!
//! Somebody who comes late, or was too slow, gets this frame instead of all those that were missed: statistics, live
//! state, order and losses are what they would be. Details are not: spans are only counted, of messages and stacks there
//! are as many as a model remembers.

use std::collections::BTreeMap;

use probe_ebpf::names::ENTRY_POINTS;

use super::fold::{MAX_OBJECTS, grow};
use super::histogram::{Coarse, Histogram};
use super::{CoarseSeries, Entry, Loss, Model, Overhead, Series};
use crate::frame;

impl Model {
    /// The frame that makes `earlier` this model. It describes the run, so that an empty model can be brought up too; one
    /// of another run counts as empty.
    pub fn since(&self, earlier: &Self) -> frame::Frame {
        let nothing = Self::default();
        let run = |model: &Self| {
            let meta = model.meta.as_ref();
            meta.map(|meta| (meta.start_ns, meta.start_unix_ns, meta.pid))
        };
        let earlier = if run(self) == run(earlier) {
            earlier
        } else {
            &nothing
        };
        let log_lines = grown(self.log_count, earlier.log_count);
        let stacks = grown(self.stack_count, earlier.stack_count);
        let log = newest(&self.log, log_lines);
        let newest_stacks = newest(&self.stacks, stacks);
        frame::Frame {
            number: self.last.number,
            at_ns: self.last.at_ns,
            at_unix_ns: self.last.at_unix_ns,
            meta: self.meta.clone(),
            series: self.series_since(earlier),
            entries: self.entries_since(earlier),
            edges: self
                .edges
                .iter()
                .filter(|(id, edge)| earlier.edges.get(id) != Some(edge))
                .map(|(_, edge)| edge.clone())
                .collect(),
            live: Some(frame::Live {
                tasks: self.live.clone(),
                unseen_readers: self.unseen_readers.clone(),
                clear_flags: self.clear_flags.clone(),
            }),
            base: None,
            packed: None,
            spans: None,
            loss: Some(loss(&self.loss, &earlier.loss)),
            overhead: Some(overhead(&self.overhead, &earlier.overhead)),
            end: self.end.clone(),
            uncarried: Some(frame::Uncarried {
                spans: grown(self.span_count, earlier.span_count),
                log_lines: log_lines.saturating_sub(log.len() as u64),
                stacks: stacks.saturating_sub(newest_stacks.len() as u64),
                calls_on: self.calls_since(earlier),
            }),
            log,
            stacks: newest_stacks,
        }
    }

    /// Counts what came before, and is only counted.
    pub(super) fn fold_uncarried(&mut self, uncarried: &frame::Uncarried) {
        grow(&mut self.span_count, uncarried.spans);
        grow(&mut self.log_count, uncarried.log_lines);
        grow(&mut self.stack_count, uncarried.stacks);
        for calls in &uncarried.calls_on {
            let room =
                self.calls_on.len() < MAX_OBJECTS || self.calls_on.contains_key(&calls.object);
            if !room || calls.entry as usize >= ENTRY_POINTS.len() {
                self.ignore(1);
                continue;
            }
            let by_entry = self.calls_on.entry(calls.object).or_default();
            let total = by_entry.entry(calls.entry as u8).or_default();
            grow(&mut total.spans, calls.spans);
            grow(&mut total.failed, calls.failed);
        }
    }

    fn series_since(&self, earlier: &Self) -> Vec<frame::SeriesDelta> {
        let nothing = Series::default();
        let none = CoarseSeries::default();
        self.series
            .iter()
            .map(|(id, now)| {
                let before = earlier.series.get(id).unwrap_or(&nothing);
                frame::SeriesDelta {
                    series: u32::from(*id),
                    acquisitions: grown(now.acquisitions, before.acquisitions),
                    contended: grown(now.contended, before.contended),
                    attempts_failed: grown(now.attempts_failed, before.attempts_failed),
                    unmatched_releases: grown(now.unmatched_releases, before.unmatched_releases),
                    releases: grown(now.releases, before.releases),
                    wait: histogram(&now.wait, &before.wait),
                    hold: histogram(&now.hold, &before.hold),
                    by_instance: now
                        .by_instance
                        .iter()
                        // What is described no more has no name for whoever comes late.
                        .filter(|(id, _)| self.instances.contains_key(id))
                        .filter_map(|(id, now)| {
                            let before = before.by_instance.get(id).unwrap_or(&none);
                            coarse(*id, now, before)
                        })
                        .collect(),
                    by_entry: now
                        .by_entry
                        .iter()
                        .filter_map(|(id, now)| {
                            let before = before.by_entry.get(id).unwrap_or(&none);
                            coarse(u32::from(*id), now, before)
                        })
                        .collect(),
                }
            })
            .collect()
    }

    fn entries_since(&self, earlier: &Self) -> Vec<frame::EntryDelta> {
        let nothing = Entry::default();
        self.entries
            .iter()
            .map(|(id, now)| {
                let before = earlier.entries.get(id).unwrap_or(&nothing);
                let (code, code_count) = counts(&now.returns, &before.returns).unzip();
                let pqap = counts(&now.pqap, &before.pqap);
                let (pqap, pqap_count) = pqap
                    .map(|((function, response), count)| {
                        (u32::from(function) << 8 | u32::from(response), count)
                    })
                    .unzip();
                frame::EntryDelta {
                    entry: u32::from(*id),
                    calls: grown(now.calls, before.calls),
                    unmatched_returns: grown(now.unmatched_returns, before.unmatched_returns),
                    latency: histogram(&now.latency, &before.latency),
                    code,
                    code_count,
                    pqap,
                    pqap_count,
                }
            })
            .collect()
    }

    fn calls_since(&self, earlier: &Self) -> Vec<frame::CallsOn> {
        let mut calls = Vec::new();
        for (object, by_entry) in &self.calls_on {
            let before = earlier.calls_on.get(object);
            for (entry, now) in by_entry {
                let before = before
                    .and_then(|by_entry| by_entry.get(entry))
                    .copied()
                    .unwrap_or_default();
                let spans = grown(now.spans, before.spans);
                if spans > 0 {
                    calls.push(frame::CallsOn {
                        object: *object,
                        entry: u32::from(*entry),
                        spans,
                        failed: grown(now.failed, before.failed),
                    });
                }
            }
        }
        calls
    }
}

/// Counters only grow; one that has not says nothing.
fn grown(now: u64, before: u64) -> u64 {
    now.saturating_sub(before)
}

/// The last `count` of a queue, as far as it still has them.
fn newest<T: Clone>(queue: &std::collections::VecDeque<T>, count: u64) -> Vec<T> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let skipped = queue.len().saturating_sub(count);
    queue.iter().skip(skipped).cloned().collect()
}

/// What has grown in a map of counts.
fn counts<'a, K: Ord + Copy>(
    now: &'a BTreeMap<K, u64>,
    before: &'a BTreeMap<K, u64>,
) -> impl Iterator<Item = (K, u64)> + 'a {
    now.iter().filter_map(|(key, count)| {
        let count = grown(*count, before.get(key).copied().unwrap_or(0));
        (count > 0).then_some((*key, count))
    })
}

fn buckets<'a>(now: &'a [u64], before: &'a [u64]) -> impl Iterator<Item = (usize, u64)> + 'a {
    now.iter()
        .zip(before)
        .map(|(now, before)| grown(*now, *before))
        .enumerate()
}

/// `None` where nothing was counted.
fn histogram(now: &Histogram, before: &Histogram) -> Option<frame::Hist> {
    (now.count != before.count).then(|| {
        frame::Hist::from_buckets(
            buckets(&now.counts, &before.counts),
            grown(now.sum_ns, before.sum_ns),
            now.min_ns,
            now.max_ns,
        )
    })
}

fn coarse_histogram(now: &Coarse, before: &Coarse) -> Option<frame::Hist> {
    (now.count != before.count).then(|| {
        let sum_ns = grown(now.sum_ns, before.sum_ns);
        frame::Hist::from_buckets(buckets(&now.counts, &before.counts), sum_ns, 0, 0)
    })
}

/// `None` where nothing was counted.
fn coarse(id: u32, now: &CoarseSeries, before: &CoarseSeries) -> Option<frame::CoarseDelta> {
    (now != before).then(|| frame::CoarseDelta {
        id,
        acquisitions: grown(now.acquisitions, before.acquisitions),
        contended: grown(now.contended, before.contended),
        attempts_failed: grown(now.attempts_failed, before.attempts_failed),
        unmatched_releases: grown(now.unmatched_releases, before.unmatched_releases),
        releases: grown(now.releases, before.releases),
        wait: coarse_histogram(&now.wait, &before.wait),
        hold: coarse_histogram(&now.hold, &before.hold),
        wakes: grown(now.wakes, before.wakes),
    })
}

fn loss(now: &Loss, before: &Loss) -> frame::Loss {
    frame::Loss {
        received: grown(now.received, before.received),
        programs: now
            .programs
            .iter()
            .map(|((name, cpu), (emitted, dropped))| {
                let known = before.programs.get(&(name.clone(), *cpu));
                let known = known.copied().unwrap_or_default();
                frame::ProgramLoss {
                    name: name.clone(),
                    cpu: *cpu,
                    emitted: grown(*emitted, known.0),
                    dropped: grown(*dropped, known.1),
                }
            })
            .collect(),
        missed: grown(now.missed, before.missed),
        no_task_slot: grown(now.no_task_slot, before.no_task_slot),
        no_edge_slot: grown(now.no_edge_slot, before.no_edge_slot),
        overflowed: grown(now.overflowed, before.overflowed),
        unreadable: grown(now.unreadable, before.unreadable),
        unmatched: grown(now.unmatched, before.unmatched),
        // No model remembers it.
        disagreements: 0,
    }
}

fn overhead(now: &Overhead, before: &Overhead) -> frame::Overhead {
    frame::Overhead {
        programs: now
            .programs
            .iter()
            .map(|(name, cost)| {
                let known = before.programs.get(name).copied().unwrap_or_default();
                frame::ProgramCost {
                    name: name.clone(),
                    runs: grown(cost.runs, known.runs),
                    run_time_ns: grown(cost.run_time_ns, known.run_time_ns),
                    missed: grown(cost.missed, known.missed),
                }
            })
            .collect(),
        collector_cpu_ns: grown(now.collector_cpu_ns, before.collector_cpu_ns),
        ring_bytes_max: now.ring_bytes_max,
        ring_bytes_size: now.ring_bytes_size,
    }
}

#[cfg(test)]
#[path = "since_tests.rs"]
mod tests;
