//! Folding a frame into the model.

use std::collections::VecDeque;
use std::collections::btree_map::Entry as Slot;

use probe_ebpf::abi::{LockKind, MAX_ERRNO, PQAP_FUNCTIONS};
use probe_ebpf::names::{CLASSES, ENTRY_POINTS};

use super::{
    CoarseSeries, EdgeId, Entry, HISTORY, LOG_LINES, Model, STACKS, Series, Tick, histogram, live,
};
use crate::frame;

/// Instances remembered.
pub const MAX_INSTANCES: usize = 16_384;
/// Mdevs and guests remembered.
pub const MAX_OBJECTS: usize = 16_384;
/// Order edges remembered.
pub const MAX_EDGES: usize = 16_384;
/// Live tasks remembered.
pub const MAX_TASKS: usize = 16_384;
/// Pairs of program and CPU, and programs, remembered.
const MAX_PROGRAMS: usize = 8_192;
/// Attach points remembered.
const MAX_ATTACH_POINTS: usize = 4_096;
/// Instance ids in an edge's sampled pairs remembered.
const MAX_PAIR_IDS: usize = 16;
/// Bytes of a name or message remembered.
const MAX_TEXT: usize = 1_024;
/// Statements of a description remembered, of each kind.
const MAX_STATEMENTS: usize = 256;

/// Whether a series id stands for a class that exists, in a mode that it has.
pub(super) fn series_exists(series: u32) -> bool {
    CLASSES
        .get((series >> 1) as usize)
        .is_some_and(|class| series & 1 == 0 || class.kind == LockKind::Rwsem)
}

impl Model {
    /// Folds one frame into the state.
    ///
    /// Increments add up, live state is replaced, a `meta` replaces the description; a `meta` of another run (another
    /// start) begins anew.
    pub fn apply(&mut self, frame: &frame::Frame) {
        if let Some(meta) = &frame.meta {
            self.describe(meta);
        }
        if let Some(base) = &frame.base {
            self.fold_base(base, frame);
        } else {
            self.miss(frame);
            self.tick(frame);
        }
        for delta in &frame.series {
            self.fold_series(delta);
        }
        for delta in &frame.entries {
            self.fold_entry(delta);
        }
        for edge in &frame.edges {
            self.fold_edge(edge);
        }
        self.fold_live(frame.live.as_ref());
        if let Some(spans) = &frame.spans {
            self.fold_spans(spans, frame.at_ns);
            self.fold_writes(spans, frame.at_ns);
        }
        if let Some(loss) = &frame.loss {
            self.fold_loss(loss);
        }
        // The collector's cost in a tick that does not mention it is not known to be that of the tick before.
        self.overhead.collector_cpu_last_ns = 0;
        if let Some(overhead) = &frame.overhead {
            self.fold_overhead(overhead);
        }
        grow(&mut self.stack_count, frame.stacks.len() as u64);
        grow(&mut self.log_count, frame.log.len() as u64);
        if let Some(uncarried) = &frame.uncarried {
            self.fold_uncarried(uncarried);
        }
        for stack in &frame.stacks {
            let stack = frame::Stack {
                comm: clipped(&stack.comm),
                frames: clipped_list(&stack.frames),
                ..stack.clone()
            };
            push_bounded(&mut self.stacks, stack, STACKS);
        }
        for line in &frame.log {
            push_bounded(&mut self.log, clipped_line(line), LOG_LINES);
        }
        if let Some(end) = &frame.end {
            self.end = Some(frame::End {
                how: clipped(&end.how),
                detail: clipped(&end.detail),
            });
        }
    }

    fn describe(&mut self, meta: &frame::Meta) {
        // A recording repeats it in each flush.
        if self.meta.as_ref() == Some(meta) {
            return;
        }
        let other_run = self.meta.as_ref().is_some_and(|known| {
            (known.start_ns, known.start_unix_ns, known.pid)
                != (meta.start_ns, meta.start_unix_ns, meta.pid)
        });
        if other_run {
            *self = Self::default();
        }
        let mut ignored = 0_u64;
        let listed = |ids: &[u32], exists: fn(u32) -> bool, ignored: &mut u64| {
            let mut known: Vec<u32> = Vec::new();
            for &id in ids {
                if exists(id) && !known.contains(&id) {
                    known.push(id);
                } else {
                    *ignored = ignored.saturating_add(1);
                }
            }
            known
        };
        let series = listed(&meta.series, series_exists, &mut ignored);
        let entries = listed(
            &meta.entries,
            |id| (id as usize) < ENTRY_POINTS.len(),
            &mut ignored,
        );
        for &id in &series {
            self.series_mut(id as u8);
        }
        for &id in &entries {
            self.entry_mut(id as u8);
        }
        self.instances.clear();
        for instance in &meta.instances {
            if series_exists(instance.series) && self.instances.len() < MAX_INSTANCES {
                let name = clipped(&instance.name);
                self.instances
                    .insert(instance.id, frame::Instance { name, ..*instance });
            } else {
                ignored = ignored.saturating_add(1);
            }
        }
        self.objects.clear();
        for object in &meta.objects {
            if self.objects.len() < MAX_OBJECTS {
                let (kind, name) = (clipped(&object.kind), clipped(&object.name));
                let object = frame::Object {
                    id: object.id,
                    kind,
                    name,
                    address: object.address,
                    guest: object.guest,
                    assigned: object.assigned.as_ref().map(matrix),
                    in_guest: object.in_guest.as_ref().map(matrix),
                };
                self.objects.insert(object.id, object);
            } else {
                ignored = ignored.saturating_add(1);
            }
        }
        // Counts of what is described no more are shown by nobody.
        let objects = &self.objects;
        self.calls_on.retain(|id, _| objects.contains_key(id));
        let attach = meta
            .attach
            .iter()
            .take(MAX_ATTACH_POINTS)
            .map(|point| frame::AttachPoint {
                symbol: clipped(&point.symbol),
                mechanism: clipped(&point.mechanism),
                reason: clipped(&point.reason),
            })
            .collect();
        self.meta = Some(frame::Meta {
            source: clipped(&meta.source),
            probe: clipped(&meta.probe),
            generation: clipped(&meta.generation),
            scenario: clipped(&meta.scenario),
            seed: meta.seed,
            pid: meta.pid,
            kernel_release: clipped(&meta.kernel_release),
            arch: clipped(&meta.arch),
            reason: clipped(&meta.reason),
            start_ns: meta.start_ns,
            start_unix_ns: meta.start_unix_ns,
            instances: self.instances.values().cloned().collect(),
            attach,
            series,
            entries,
            guests: meta.guests,
            vcpus: meta.vcpus,
            version: clipped(&meta.version),
            contended_by: clipped(&meta.contended_by),
            level: meta.level,
            evidence: clipped_list(&meta.evidence),
            losses: clipped_list(&meta.losses),
            blind_spots: clipped_list(&meta.blind_spots),
            reads_queues: meta.reads_queues,
            attaching: meta.attaching,
            timing: clipped(&meta.timing),
            measured_from_ns: meta.measured_from_ns,
            objects: self.objects.values().cloned().collect(),
        });
        self.ignore(ignored);
    }

    /// Starts the frame's place in every history.
    fn tick(&mut self, frame: &frame::Frame) {
        let before = if self.last == Tick::default() {
            self.meta.as_ref().map_or(frame.at_ns, |meta| meta.start_ns)
        } else {
            self.last.at_ns
        };
        // Nothing was counted before everything was attached.
        let measured_from = self.meta.as_ref().map_or(0, |meta| meta.measured_from_ns);
        let before = before.max(measured_from.min(frame.at_ns));
        self.last = Tick {
            number: frame.number,
            at_ns: frame.at_ns,
            at_unix_ns: frame.at_unix_ns,
            length_ns: frame.at_ns.saturating_sub(before),
        };
        push_bounded(&mut self.ticks, self.last, HISTORY);
        for series in self.series.values_mut() {
            push_bounded(&mut series.rates, 0, HISTORY);
            push_bounded(&mut series.contended_rates, 0, HISTORY);
        }
        for entry in self.entries.values_mut() {
            push_bounded(&mut entry.rates, 0, HISTORY);
        }
    }

    fn series_mut(&mut self, id: u8) -> &mut Series {
        let ticks = self.ticks.len();
        self.series.entry(id).or_insert_with(|| Series {
            rates: VecDeque::from(vec![0; ticks]),
            contended_rates: VecDeque::from(vec![0; ticks]),
            ..Series::default()
        })
    }

    fn entry_mut(&mut self, id: u8) -> &mut Entry {
        let ticks = self.ticks.len();
        self.entries.entry(id).or_insert_with(|| Entry {
            rates: VecDeque::from(vec![0; ticks]),
            ..Entry::default()
        })
    }

    pub(super) fn fold_series(&mut self, delta: &frame::SeriesDelta) {
        if !series_exists(delta.series) {
            return self.ignore(1);
        }
        let instances = std::mem::take(&mut self.instances);
        let mut ignored = 0_u64;
        let series = self.series_mut(delta.series as u8);
        grow(&mut series.acquisitions, delta.acquisitions);
        grow(&mut series.contended, delta.contended);
        grow(&mut series.attempts_failed, delta.attempts_failed);
        grow(&mut series.unmatched_releases, delta.unmatched_releases);
        grow(&mut series.releases, delta.releases);
        if let Some(newest) = series.rates.back_mut() {
            grow(newest, delta.acquisitions);
        }
        if let Some(newest) = series.contended_rates.back_mut() {
            grow(newest, delta.contended);
        }
        grow(&mut ignored, add(&mut series.wait, delta.wait.as_ref()));
        grow(&mut ignored, add(&mut series.hold, delta.hold.as_ref()));
        for by in &delta.by_instance {
            let own = instances
                .get(&by.id)
                .is_some_and(|i| i.series == delta.series);
            if own {
                let coarse = series.by_instance.entry(by.id).or_default();
                grow(&mut ignored, fold_coarse(coarse, by));
            } else {
                grow(&mut ignored, 1);
            }
        }
        for by in &delta.by_entry {
            if (by.id as usize) < ENTRY_POINTS.len() {
                let coarse = series.by_entry.entry(by.id as u8).or_default();
                grow(&mut ignored, fold_coarse(coarse, by));
            } else {
                grow(&mut ignored, 1);
            }
        }
        self.instances = instances;
        self.ignore(ignored);
    }

    pub(super) fn fold_entry(&mut self, delta: &frame::EntryDelta) {
        if delta.entry as usize >= ENTRY_POINTS.len() {
            return self.ignore(1);
        }
        let mut ignored = 0_u64;
        let entry = self.entry_mut(delta.entry as u8);
        grow(&mut entry.calls, delta.calls);
        grow(&mut entry.unmatched_returns, delta.unmatched_returns);
        if let Some(newest) = entry.rates.back_mut() {
            grow(newest, delta.calls);
        }
        if let Some(latency) = &delta.latency {
            grow(&mut ignored, entry.latency.add(latency));
        }
        for (&code, &count) in delta.code.iter().zip(&delta.code_count) {
            // What is no errno was counted as "other", whatever its number here.
            let code = code.min(MAX_ERRNO as u32 + 1);
            grow(entry.returns.entry(code).or_default(), count);
        }
        for (&pqap, &count) in delta.pqap.iter().zip(&delta.pqap_count) {
            if (pqap >> 8) as usize >= PQAP_FUNCTIONS {
                grow(&mut ignored, 1);
                continue;
            }
            let key = ((pqap >> 8) as u8, pqap as u8);
            grow(entry.pqap.entry(key).or_default(), count);
        }
        self.ignore(ignored);
    }

    pub(super) fn fold_edge(&mut self, edge: &frame::Edge) {
        let entries = [edge.held_in, edge.acquired_in];
        let known = series_exists(edge.held)
            && series_exists(edge.acquired)
            && entries.iter().all(|&e| (e as usize) < ENTRY_POINTS.len())
            && edge.direction <= 2;
        let id = EdgeId {
            held: edge.held as u8,
            acquired: edge.acquired as u8,
            held_in: edge.held_in as u8,
            acquired_in: edge.acquired_in as u8,
            annotated: edge.annotated,
            direction: edge.direction as u8,
        };
        let room = self.edges.len() < MAX_EDGES || self.edges.contains_key(&id);
        if !known || !room {
            return self.ignore(1);
        }
        let edge = frame::Edge {
            first_comm: clipped(&edge.first_comm),
            pairs: edge.pairs.iter().copied().take(MAX_PAIR_IDS).collect(),
            ..*edge
        };
        self.edges.insert(id, edge);
    }

    fn fold_live(&mut self, live: Option<&frame::Live>) {
        self.unseen_readers.clear();
        self.clear_flags.clear();
        let Some(live) = live else {
            return self.live.clear();
        };
        let unseen = live.unseen_readers.iter().take(MAX_TASKS);
        self.unseen_readers.extend(unseen.copied());
        let clear = live.clear_flags.iter().take(MAX_TASKS);
        self.clear_flags.extend(clear);
        let mut ignored = live.tasks.len().saturating_sub(MAX_TASKS) as u64;
        let tasks = live.tasks.iter().take(MAX_TASKS);
        live::refill(&mut self.live, tasks, |known, task| {
            grow(&mut ignored, live::replace(known, task));
        });
        self.ignore(ignored);
    }

    pub(super) fn fold_loss(&mut self, delta: &frame::Loss) {
        let mut ignored = 0_u64;
        let loss = &mut self.loss;
        grow(&mut loss.received, delta.received);
        grow(&mut loss.missed, delta.missed);
        grow(&mut loss.no_task_slot, delta.no_task_slot);
        grow(&mut loss.no_edge_slot, delta.no_edge_slot);
        grow(&mut loss.overflowed, delta.overflowed);
        grow(&mut loss.unreadable, delta.unreadable);
        grow(&mut loss.unmatched, delta.unmatched);
        for program in &delta.programs {
            let full = loss.programs.len() >= MAX_PROGRAMS;
            let slot = match loss.programs.entry((clipped(&program.name), program.cpu)) {
                Slot::Vacant(_) if full => {
                    grow(&mut ignored, 1);
                    continue;
                }
                slot => slot.or_default(),
            };
            grow(&mut slot.0, program.emitted);
            grow(&mut slot.1, program.dropped);
        }
        self.ignore(ignored);
    }

    pub(super) fn fold_overhead(&mut self, delta: &frame::Overhead) {
        let mut ignored = 0_u64;
        let overhead = &mut self.overhead;
        grow(&mut overhead.collector_cpu_ns, delta.collector_cpu_ns);
        overhead.collector_cpu_last_ns = delta.collector_cpu_ns;
        overhead.ring_bytes_max = overhead.ring_bytes_max.max(delta.ring_bytes_max);
        overhead.ring_bytes_size = delta.ring_bytes_size;
        for program in &delta.programs {
            let full = overhead.programs.len() >= MAX_PROGRAMS;
            let slot = match overhead.programs.entry(clipped(&program.name)) {
                Slot::Vacant(_) if full => {
                    grow(&mut ignored, 1);
                    continue;
                }
                slot => slot.or_default(),
            };
            grow(&mut slot.runs, program.runs);
            grow(&mut slot.run_time_ns, program.run_time_ns);
            grow(&mut slot.missed, program.missed);
        }
        self.ignore(ignored);
    }

    pub(super) fn ignore(&mut self, parts: u64) {
        grow(&mut self.ignored, parts);
    }
}

/// Adds without wrapping.
pub(super) fn grow(total: &mut u64, by: u64) {
    *total = total.saturating_add(by);
}

fn add(histogram: &mut histogram::Histogram, delta: Option<&frame::Hist>) -> u64 {
    delta.map_or(0, |delta| histogram.add(delta))
}

/// Returns the number of values left out.
fn fold_coarse(coarse: &mut CoarseSeries, delta: &frame::CoarseDelta) -> u64 {
    grow(&mut coarse.acquisitions, delta.acquisitions);
    grow(&mut coarse.contended, delta.contended);
    grow(&mut coarse.attempts_failed, delta.attempts_failed);
    grow(&mut coarse.unmatched_releases, delta.unmatched_releases);
    grow(&mut coarse.releases, delta.releases);
    grow(&mut coarse.wakes, delta.wakes);
    let wait = delta.wait.as_ref().map_or(0, |d| coarse.wait.add(d));
    let hold = delta.hold.as_ref().map_or(0, |d| coarse.hold.add(d));
    wait.saturating_add(hold)
}

pub(super) fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, limit: usize) {
    if queue.len() >= limit {
        queue.pop_front();
    }
    queue.push_back(value);
}

fn clipped_list(texts: &[String]) -> Vec<String> {
    let known = texts.iter().take(MAX_STATEMENTS);
    known.map(|text| clipped(text)).collect()
}

/// A matrix, as far as there can be one: numbers up to 255, each once.
fn matrix(of: &frame::Matrix) -> frame::Matrix {
    let numbers = |all: &[u32]| {
        let mut numbers: Vec<u32> = all.iter().copied().filter(|n| *n <= 255).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    frame::Matrix {
        adapters: numbers(&of.adapters),
        domains: numbers(&of.domains),
        control_domains: numbers(&of.control_domains),
    }
}

/// The text, or as much of it as is remembered.
pub(super) fn clipped(text: &str) -> String {
    clip(text).to_owned()
}

/// The same, of the text itself.
pub(super) fn clip(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn clipped_line(line: &frame::LogLine) -> frame::LogLine {
    frame::LogLine {
        at_ns: line.at_ns,
        level: clipped(&line.level),
        text: clipped(&line.text),
    }
}
