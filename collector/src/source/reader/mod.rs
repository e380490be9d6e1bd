//! From memory to frames: what has been added since the last tick, who holds and waits now, and the spans.
//!
//! All arrays only grow, so an increment is the difference to what was read before. Reading happens while the probes
//! write: an increment that is not complete yet arrives with the next frame. The last frame of a run is read when
//! nothing writes any more.

mod clock;
mod live;
mod subjects;
mod totals;
mod writers;

use std::collections::{BTreeMap, HashMap};

use probe_ebpf::abi::{
    self, Call, Counters, EDGE_ANNOTATED, EDGE_ASCENDING, EDGE_DESCENDING, EdgeKey, EntryStats,
    MAX_ENTRY_POINTS, MAX_SERIES, NO_INSTANCE, PQAP_FUNCTIONS, PQAP_RESPONSES, PROGRAM_NAMES,
    PROGRAMS, SPAN_LOCK, SPAN_STACK, Word,
};
use probe_ebpf::h2;
use probe_ebpf::names::entry_id;

use super::instances::Instances;
use super::memory::Memory;
use super::stacks::Stacks;
use crate::frame;

pub use clock::{boottime_ns, monotonic_ns, unix_ns};
use live::text;
pub use subjects::{Kind, Subject, Subjects};
use totals::{
    MinMax, SeriesTotals, accumulate, add_series, as_instance, coarse, counts_acquisitions, delta,
    hist, increments, series_delta, undo_steps, untouched,
};

use writers::Writers;

/// An instance slot that belongs to no series yet.
const NO_SERIES: u8 = u8::MAX;
/// Names of threads remembered.
const MAX_COMMS: usize = 65_536;

/// Where spans come from.
pub trait SpanRing {
    /// Takes every record that is waiting; returns how many bytes they took. What is no call acts on nothing.
    fn drain(&mut self, sink: &mut dyn FnMut(&Call)) -> u64;
    /// Size in bytes.
    fn size(&self) -> u64;
    /// A descriptor that becomes readable when the ring fills, if it has one.
    fn wake_fd(&self) -> Option<std::os::fd::OwnedFd> {
        None
    }
}

/// What a program has cost since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Runs; 0 unless the kernel counts them (`kernel.bpf_stats_enabled`).
    pub runs: u64,
    /// Run time.
    pub run_time_ns: u64,
    /// Invocations that the kernel skipped.
    pub missed: u64,
}

struct EntryTotals {
    calls: u64,
    unmatched: u64,
    latency_sum: u64,
    latency: Vec<u64>,
    returns: Vec<u64>,
}

/// Reads a [`Memory`] once a tick.
pub struct Reader {
    memory: Memory,
    shards: usize,
    series: Vec<SeriesTotals>,
    entries: Vec<EntryTotals>,
    instances: HashMap<usize, SeriesTotals>,
    instance_series: Vec<u8>,
    /// Ids of instances whose slot was another's before; others' are their slots.
    ids: HashMap<u32, u32>,
    /// Sampled pairs of edges, by edge and place, with the ids that their slots had then.
    pairs: HashMap<(usize, usize), [u32; 2]>,
    /// The instance of a series that has only one: its statistics are the series'.
    only_instance: Vec<Option<u32>>,
    by_entry: HashMap<usize, SeriesTotals>,
    pqap: Vec<u64>,
    edges: Vec<u64>,
    counters: Vec<[u64; 7]>,
    runs: BTreeMap<&'static str, ProgramRuns>,
    /// Task slots that have ever been in use are below this.
    tasks_used: usize,
    comms: HashMap<u32, String>,
    /// Slots of tasks become free again, and thread ids other threads'.
    tasks_end: bool,
    /// Holds are not seen: what is on record is from before.
    ignores_holds: bool,
    writers: Writers,
    /// What calls act on.
    pub subjects: Subjects,
    stacks: Option<Stacks>,
    number: u64,
    last_cpu_ns: u64,
}

impl Reader {
    /// A reader of memory with this many shards.
    pub fn new(memory: Memory, shards: u32, instances: &Instances) -> Self {
        let slots = instances.all.iter().map(|i| i.id as usize + 1).max();
        let mut instance_series = vec![NO_SERIES; slots.unwrap_or(0)];
        for instance in &instances.all {
            instance_series[instance.id as usize] = instance.series as u8;
        }
        let only_instance = (0..MAX_SERIES)
            .map(|series| {
                let slot = instance_series
                    .iter()
                    .position(|s| usize::from(*s) == series)?;
                instances.only.get(series >> 1)?.then_some(slot as u32)
            })
            .collect();
        let counters = vec![[0; 7]; memory.counters.len()];
        let edges = vec![0; memory.edges.len()];
        let pqap = vec![0; memory.pqap.len()];
        Self {
            memory,
            shards: shards as usize,
            series: vec![SeriesTotals::new(h2::BUCKETS); MAX_SERIES],
            entries: (0..MAX_ENTRY_POINTS)
                .map(|_| EntryTotals {
                    calls: 0,
                    unmatched: 0,
                    latency_sum: 0,
                    latency: vec![0; h2::BUCKETS],
                    returns: vec![0; abi::RETURN_CODES],
                })
                .collect(),
            instances: HashMap::new(),
            instance_series,
            ids: HashMap::new(),
            pairs: HashMap::new(),
            only_instance,
            by_entry: HashMap::new(),
            pqap,
            edges,
            counters,
            runs: BTreeMap::new(),
            tasks_used: 0,
            comms: HashMap::new(),
            tasks_end: false,
            ignores_holds: false,
            writers: Writers::default(),
            subjects: Subjects::default(),
            stacks: None,
            number: 0,
            last_cpu_ns: 0,
        }
    }

    /// The next frame is the one after those of another reader.
    pub fn go_on_after(&mut self, other: &Self) {
        self.number = other.number;
    }

    /// Stacks of long waits and holds are read and named.
    pub fn read_stacks(&mut self, stacks: Stacks) {
        self.stacks = Some(stacks);
    }

    /// Stacks that were not named, since this was last asked.
    pub fn unnamed_stacks(&mut self) -> u64 {
        self.stacks.as_mut().map_or(0, Stacks::take_unnamed)
    }

    /// Slots of tasks that are in use and hold nothing, with their thread ids.
    pub fn idle_tasks(&self) -> Vec<(u32, u32)> {
        let tasks = self.memory.tasks.iter().zip(0..).take(self.tasks_used);
        tasks
            .filter(|(task, _)| task.id.get() != 0 && task.held_len.get() == 0)
            .map(|(task, slot)| (slot, task.id.get() as u32))
            .collect()
    }

    /// The slot of a thread's record.
    pub fn slot_of(&self, tid: u32) -> Option<u32> {
        let mut tasks = self.memory.tasks.iter().zip(0..).take(self.tasks_used);
        tasks
            .find(|(task, _)| task.id.get() != 0 && task.id.get() as u32 == tid)
            .map(|(_, slot)| slot)
    }

    /// Stacks of waits that go on after this many nanoseconds.
    pub fn stacks_of_waits(
        &mut self,
        live: &frame::Live,
        now_ns: u64,
        over: u64,
    ) -> Vec<frame::Stack> {
        self.stacks
            .as_mut()
            .map(|stacks| stacks.of_waits(live, now_ns, over))
            .unwrap_or_default()
    }

    /// Tasks end while they are measured (a kernel).
    pub fn tasks_end(&mut self) {
        self.tasks_end = true;
    }

    /// Holds are not seen from now on.
    pub fn ignore_holds(&mut self) {
        self.ignores_holds = true;
    }

    /// An instance that was adopted: its slot belongs to this series from now on, and has this id in frames.
    pub fn add_instance(&mut self, slot: u32, id: u32, series: u8) {
        if id == slot {
            self.ids.remove(&slot);
        } else {
            self.ids.insert(slot, id);
        }
        let slot = slot as usize;
        if self.instance_series.len() <= slot {
            self.instance_series.resize(slot + 1, NO_SERIES);
        }
        self.instance_series[slot] = series;
    }

    /// The lock in this slot is gone, and another may be there before [`Reader::add_instance`] says so: what is counted
    /// there from now on waits for that, and spans are of no instance.
    pub fn forget_instance(&mut self, slot: u32) {
        self.ids.insert(slot, NO_INSTANCE);
        if let Some(series) = self.instance_series.get_mut(slot as usize) {
            *series = NO_SERIES;
        }
    }

    /// One tick's frame. `now_ns` and `now_unix_ns` are its end; `runs` what the programs have cost so far.
    pub fn frame(
        &mut self,
        ring: &mut dyn SpanRing,
        now_ns: u64,
        now_unix_ns: u64,
        runs: &BTreeMap<&'static str, ProgramRuns>,
    ) -> frame::Frame {
        self.count_tasks();
        let (spans, received, ring_bytes) = self.spans(ring, now_ns);
        let (waits, holds, latencies) = self.extremes();
        let mut frame = frame::Frame {
            number: self.number,
            at_ns: now_ns,
            at_unix_ns: now_unix_ns,
            series: self.read_series(&waits, &holds),
            entries: self.read_entries(&latencies),
            edges: self.read_edges(),
            live: Some(self.live()),
            ..frame::Frame::default()
        };
        frame.loss = Some(self.loss(received, runs));
        frame.overhead = Some(self.overhead(ring_bytes, ring.size(), runs));
        self.runs.clone_from(runs);
        if !spans.task.is_empty() {
            frame.spans = Some(spans);
        }
        if let Some(mut stacks) = self.stacks.take() {
            frame.stacks = stacks.named(|tid| self.comm(tid));
            self.stacks = Some(stacks);
        }
        self.number += 1;
        frame
    }

    /// Extends the range of task slots in use: slots are given out from the lowest on.
    fn count_tasks(&mut self) {
        if self.tasks_end {
            let mut tasks = self.memory.tasks.iter();
            let last = tasks.rposition(|task| task.id.get() != 0);
            self.tasks_used = self.tasks_used.max(last.map_or(0, |last| last + 1));
            return;
        }
        while self
            .memory
            .tasks
            .get(self.tasks_used)
            .is_some_and(|task| task.id.get() != 0)
        {
            self.tasks_used += 1;
        }
    }

    fn extremes(&self) -> (Vec<MinMax>, Vec<MinMax>, Vec<MinMax>) {
        let mut waits = vec![MinMax::default(); MAX_SERIES];
        let mut holds = vec![MinMax::default(); MAX_SERIES];
        let mut latencies = vec![MinMax::default(); MAX_ENTRY_POINTS];
        for extremes in self.memory.extremes.iter().take(self.tasks_used) {
            waits
                .iter_mut()
                .zip(&extremes.wait)
                .for_each(|(m, e)| m.take(e));
            holds
                .iter_mut()
                .zip(&extremes.hold)
                .for_each(|(m, e)| m.take(e));
            latencies
                .iter_mut()
                .zip(&extremes.latency)
                .for_each(|(m, e)| m.take(e));
        }
        (waits, holds, latencies)
    }

    fn read_series(&mut self, waits: &[MinMax], holds: &[MinMax]) -> Vec<frame::SeriesDelta> {
        let mut deltas = BTreeMap::new();
        for series in 0..MAX_SERIES {
            if !self.instance_series.contains(&(series as u8)) {
                continue;
            }
            let mut now = SeriesTotals::new(h2::BUCKETS);
            for shard in 0..self.shards {
                let Some(stats) = self.memory.series.get(shard * MAX_SERIES + series) else {
                    continue;
                };
                add_series(&mut now, stats);
            }
            // An uncontended acquisition waited 0, which is what the first bucket means.
            let wait = MinMax {
                inverse_min: if now.wait[0] > 0 {
                    u64::MAX
                } else {
                    waits[series].inverse_min
                },
                ..waits[series]
            };
            if let Some(delta) = delta(
                series as u32,
                counts_acquisitions(series as u8),
                &now,
                &mut self.series[series],
                wait,
                holds[series],
            ) {
                let mut delta = series_delta(delta);
                if let Some(slot) = self.only_instance[series] {
                    delta.by_instance.push(as_instance(slot, &delta));
                }
                deltas.insert(series as u32, delta);
            }
        }
        for slot in 0..self.instance_series.len() {
            let series = self.instance_series[slot];
            if series == NO_SERIES {
                continue;
            }
            if self
                .only_instance
                .get(series as usize)
                .is_some_and(Option::is_some)
            {
                continue;
            }
            let Some(stats) = self.memory.instances.get(slot) else {
                continue;
            };
            let before = self
                .instances
                .entry(slot)
                .or_insert_with(|| SeriesTotals::new(h2::COARSE_BUCKETS));
            let id = id_of(&self.ids, slot as u32);
            if let Some(delta) = coarse(id, counts_acquisitions(series), stats, before) {
                entry_of(&mut deltas, u32::from(series))
                    .by_instance
                    .push(delta);
            }
        }
        for (index, stats) in self.memory.by_entry.iter().enumerate() {
            let (series, entry) = (index / MAX_ENTRY_POINTS, index % MAX_ENTRY_POINTS);
            if !self.by_entry.contains_key(&index) && untouched(stats) {
                continue;
            }
            let before = self
                .by_entry
                .entry(index)
                .or_insert_with(|| SeriesTotals::new(h2::COARSE_BUCKETS));
            if let Some(delta) = coarse(
                entry as u32,
                counts_acquisitions(series as u8),
                stats,
                before,
            ) {
                entry_of(&mut deltas, series as u32).by_entry.push(delta);
            }
        }
        deltas.into_values().collect()
    }

    fn read_entries(&mut self, latencies: &[MinMax]) -> Vec<frame::EntryDelta> {
        let mut deltas = Vec::new();
        for (entry, extremes) in latencies.iter().enumerate().skip(1) {
            let (mut calls, mut unmatched, mut sum) = (0, 0, 0);
            let mut latency = vec![0; h2::BUCKETS];
            let mut returns = vec![0; abi::RETURN_CODES];
            let before = &mut self.entries[entry];
            for shard in 0..self.shards {
                let Some(stats) = self.memory.entries.get(shard * MAX_ENTRY_POINTS + entry) else {
                    continue;
                };
                let EntryStats {
                    calls: c,
                    latency_sum,
                    unmatched_returns,
                    latency: l,
                    returns: r,
                } = stats;
                // Returns before calls: a return that is seen has its call seen too.
                accumulate(&mut returns, r);
                accumulate(&mut latency, l);
                sum += latency_sum.get();
                unmatched += unmatched_returns.get();
                calls += c.get();
            }
            let (hist, finished) = hist(
                &latency,
                &mut before.latency,
                sum - before.latency_sum,
                extremes.min(),
                extremes.max,
            );
            let (steps, code_count, returned) = increments(&returns, &mut before.returns);
            let (new_calls, new_unmatched) = (calls - before.calls, unmatched - before.unmatched);
            (before.calls, before.unmatched, before.latency_sum) = (calls, unmatched, sum);
            let (pqap, pqap_count) = self.read_pqap(entry as u8);
            if new_calls == 0
                && finished == 0
                && returned == 0
                && new_unmatched == 0
                && pqap.is_empty()
            {
                continue;
            }
            deltas.push(frame::EntryDelta {
                entry: entry as u32,
                calls: new_calls,
                unmatched_returns: new_unmatched,
                latency: Some(hist),
                code: undo_steps(&steps),
                code_count,
                pqap,
                pqap_count,
            });
        }
        deltas
    }

    fn read_pqap(&mut self, entry: u8) -> (Vec<u32>, Vec<u64>) {
        if entry != entry_id::HANDLE_PQAP && entry != entry_id::KVM_HANDLE_PQAP {
            return (Vec::new(), Vec::new());
        }
        let first = abi::pqap_index(entry, 0, 0) as usize;
        let range = first..first + PQAP_FUNCTIONS * PQAP_RESPONSES;
        let now: Vec<u64> = self
            .memory
            .pqap
            .get(range.clone())
            .unwrap_or_default()
            .iter()
            .map(Word::get)
            .collect();
        let Some(before) = self.pqap.get_mut(range) else {
            return (Vec::new(), Vec::new());
        };
        let (steps, counts, _) = increments(&now, before);
        (undo_steps(&steps), counts)
    }

    fn read_edges(&mut self) -> Vec<frame::Edge> {
        let mut edges = Vec::new();
        for (number, (edge, before)) in (self.memory.edges.iter().zip(&mut self.edges)).enumerate()
        {
            let (key, count) = (edge.key.get(), edge.count.get());
            if key == 0 || count == *before {
                continue;
            }
            *before = count;
            let key = EdgeKey::unpack(key);
            let (known, ids) = (&mut self.pairs, &self.ids);
            let pairs = edge.pairs.iter().map(Word::get).enumerate();
            let pairs = pairs.filter(|(_, pair)| *pair != 0).map(|(place, pair)| {
                // Its slots may be other locks' by now: the first one that was there stays.
                *known.entry((number, place)).or_insert_with(|| {
                    [((pair - 1) >> 32) as u32, (pair - 1) as u32].map(|slot| id_of(ids, slot))
                })
            });
            edges.push(frame::Edge {
                held: u32::from(key.held),
                acquired: u32::from(key.acquired),
                held_in: u32::from(key.held_in),
                acquired_in: u32::from(key.acquired_in),
                annotated: key.flags & EDGE_ANNOTATED != 0,
                direction: match key.flags & (EDGE_ASCENDING | EDGE_DESCENDING) {
                    EDGE_ASCENDING => 1,
                    EDGE_DESCENDING => 2,
                    _ => 0,
                },
                count_total: count,
                first_tid: edge.first_tid.get() as u32,
                first_comm: text(&edge.first_comm),
                first_ns: edge.first_ns.get(),
                last_ns: edge.last_ns.get(),
                pairs: pairs.flatten().collect(),
            });
        }
        edges
    }

    fn live(&mut self) -> frame::Live {
        let mut tasks = Vec::new();
        for task in self.memory.tasks.iter().take(self.tasks_used) {
            if task.id.get() == 0 {
                continue;
            }
            let Some((mut state, acts_on)) = live::task_state(task) else {
                continue;
            };
            for (inside, (mdev, guest)) in state.inside.iter_mut().zip(acts_on) {
                let on = self.subjects.during(mdev, guest, inside.since_ns);
                [inside.mdev, inside.guest] = on.to_frame();
            }
            if self.ignores_holds {
                state.holds.clear();
            }
            for holding in &mut state.holds {
                holding.instance = id_of(&self.ids, holding.instance);
            }
            for waiting in &mut state.waits {
                waiting.instance = id_of(&self.ids, waiting.instance);
            }
            if !state.holds.is_empty() || !state.waits.is_empty() || !state.inside.is_empty() {
                tasks.push(state);
            }
        }
        frame::Live {
            tasks,
            ..frame::Live::default()
        }
    }

    fn comm(&mut self, tid: u32) -> String {
        if !self.tasks_end
            && let Some(comm) = self.comms.get(&tid)
        {
            return comm.clone();
        }
        let task = self
            .memory
            .tasks
            .iter()
            .take(self.tasks_used)
            .find(|task| task.id.get() as u32 == tid);
        let comm = match task {
            Some(task) => text(&task.comm),
            // A thread that has ended meanwhile.
            None => self.comms.get(&tid).cloned().unwrap_or_default(),
        };
        if self.comms.len() >= MAX_COMMS {
            self.comms.clear();
        }
        self.comms.insert(tid, comm.clone());
        comm
    }

    /// The spans that are waiting in the ring, the number of records they came in, and their bytes.
    fn spans(&mut self, ring: &mut dyn SpanRing, now_ns: u64) -> (frame::Spans, u64, u64) {
        let (mut spans, mut received) = (Vec::new(), 0);
        let writers = &mut self.writers;
        let subjects = &mut self.subjects;
        let stacks = &mut self.stacks;
        let ids = &self.ids;
        let bytes = ring.drain(&mut |record| {
            received += 1;
            let on = subjects.of(record);
            let mut record = record.span;
            if matches!(record.kind, SPAN_LOCK | SPAN_STACK) {
                record.instance = id_of(ids, record.instance);
            }
            let record = &record;
            if stacks.as_mut().is_some_and(|stacks| stacks.take(record)) {
                return;
            }
            if let Some((span, writer)) = writers.translate(record) {
                spans.push((span, frame::About { writer, on }));
            }
        });
        // A task that finished its first span in this tick may have a slot that was not counted yet.
        self.count_tasks();
        let spans = spans.iter().map(|(span, about)| (span, *about));
        let columns = frame::Spans::encode_for(now_ns, spans, |tid| self.comm(tid));
        (columns, received, bytes)
    }

    fn loss(&mut self, received: u64, runs: &BTreeMap<&'static str, ProgramRuns>) -> frame::Loss {
        let mut loss = frame::Loss {
            received,
            ..frame::Loss::default()
        };
        for (index, (counters, before)) in self
            .memory
            .counters
            .iter()
            .zip(&mut self.counters)
            .enumerate()
        {
            let Counters {
                emitted,
                dropped,
                no_task_slot,
                no_edge_slot,
                overflowed,
                unreadable,
                unmatched,
                reserved: _,
            } = counters;
            // Dropped before emitted: every drop that is seen has its emission seen too.
            let words = [
                dropped,
                emitted,
                no_task_slot,
                no_edge_slot,
                overflowed,
                unreadable,
                unmatched,
            ];
            let now = words.map(Word::get);
            if now == *before {
                continue;
            }
            let added: Vec<u64> = now.iter().zip(before.iter()).map(|(n, b)| n - b).collect();
            *before = now;
            if added[0] != 0 || added[1] != 0 {
                loss.programs.push(frame::ProgramLoss {
                    name: PROGRAM_NAMES[index % PROGRAMS].into(),
                    cpu: (index / PROGRAMS) as u32,
                    emitted: added[1],
                    dropped: added[0],
                });
            }
            loss.no_task_slot += added[2];
            loss.no_edge_slot += added[3];
            loss.overflowed += added[4];
            loss.unreadable += added[5];
            loss.unmatched += added[6];
        }
        for (name, runs) in runs {
            let before = self.runs.get(name).copied().unwrap_or_default();
            loss.missed += runs.missed.saturating_sub(before.missed);
        }
        loss
    }

    fn overhead(
        &mut self,
        bytes: u64,
        size: u64,
        runs: &BTreeMap<&'static str, ProgramRuns>,
    ) -> frame::Overhead {
        let cpu_ns = clock::process_cpu_ns();
        let collector_cpu_ns = cpu_ns.saturating_sub(self.last_cpu_ns);
        self.last_cpu_ns = cpu_ns;
        let programs = runs.iter().map(|(name, runs)| {
            let before = self.runs.get(name).copied().unwrap_or_default();
            frame::ProgramCost {
                name: (*name).into(),
                runs: runs.runs.saturating_sub(before.runs),
                run_time_ns: runs.run_time_ns.saturating_sub(before.run_time_ns),
                missed: runs.missed.saturating_sub(before.missed),
            }
        });
        frame::Overhead {
            programs: programs.collect(),
            collector_cpu_ns,
            ring_bytes_max: bytes,
            ring_bytes_size: size,
        }
    }
}

/// Id of the instance that has this slot.
fn id_of(ids: &HashMap<u32, u32>, slot: u32) -> u32 {
    ids.get(&slot).copied().unwrap_or(slot)
}

fn entry_of(
    deltas: &mut BTreeMap<u32, frame::SeriesDelta>,
    series: u32,
) -> &mut frame::SeriesDelta {
    deltas.entry(series).or_insert_with(|| frame::SeriesDelta {
        series,
        ..frame::SeriesDelta::default()
    })
}
