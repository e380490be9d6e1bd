//! The loop of a kernel that is measured: ticks, early wake-ups of the ring, commands; once a second the governor, and a
//! look whether the driver is still there.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::Ebpf;
use probe_ebpf::abi::{InstanceInfo, LockKind, Mode, gate, series};
use probe_ebpf::names::{CLASSES, class_id};
use tokio::sync::mpsc;

use super::adopted::Adopted;
use super::attaching::{Attachment, Pending};
use super::driver::Module;
use super::fixed::Given;
use super::governor::{Drop as Dropped, Governor};
use super::messages::Messages;
use super::objects::Names;
use super::verify::{Asked, Places, Verifier, Watched};
use super::words::Kernel;
use crate::attach::generation::{Detected, Edge, Observed};
use crate::attach::offsets::Offsets;
use crate::frame::{End, Frame, Meta, TaskState};
use crate::source::SourceError;
use crate::source::confine;
use crate::source::ebpf::{EbpfRing, ProbeError, object, sys};
use crate::source::log_lines::LogLines;
use crate::source::matrix;
use crate::source::memory::View;
use crate::source::reader::{self, Reader};
use crate::source::run::{Command, Losses, readable, ticker, wake_of};
use crate::source::snapshot::{Scene, Snapshot};
use crate::source::tasks::Tasks;

/// The programs fall silent after ten seconds; what was held then is not known.
const SILENCE_NS: u64 = 10_000_000_000;
/// How long detaching may take before it is left to the end of the process.
const DETACH_DEADLINE: Duration = Duration::from_secs(30);

/// Readings of the kernel's memory before anything is attached. A finding needs two, and three where stacks are read; who
/// has taken the fourth has had the time to say that what the third found is enough.
const READINGS_BEFORE: u32 = 4;
/// How long it is waited for that all of them have their stacks, and that all are taken: whoever reads has a slow machine, or
/// does not read any more.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Time between them, at most.
const BETWEEN_READINGS: Duration = Duration::from_millis(100);

/// How long the last frame waits for the misses to be read once more.
const LAST_READING: Duration = Duration::from_secs(1);

/// Whether whoever reads frames has taken all that were sent.
fn all_taken<T>(frames: &mpsc::Sender<T>) -> bool {
    frames.capacity() == frames.max_capacity()
}

/// Instances that a task holds or waits for.
fn instances_of(task: &TaskState) -> impl Iterator<Item = u32> {
    let holds = task.holds.iter().map(|holding| holding.instance);
    holds.chain(task.waits.iter().map(|waiting| waiting.instance))
}

/// A kernel that is being measured.
pub(in crate::source) struct KernelSource {
    pub(super) names: Names,
    pub(super) offsets: Offsets,
    pub(super) memory: Kernel,
    pub(super) info: View<InstanceInfo>,
    /// Locks that come and go.
    pub(super) adopted: Adopted,
    /// Ids of those that are gone, the oldest first.
    pub(super) ended: VecDeque<u32>,
    /// Instances that live tasks hold or wait for, as last read.
    pub(super) used: HashSet<u32>,
    /// Locks that a person named.
    pub(super) given: Vec<Given>,
    pub(super) watched: Vec<Watched>,
    pub(super) places: Option<Places>,
    /// Address of the driver's `struct ap_matrix_dev`.
    pub(super) matrix_dev: Option<u64>,
    /// Slots whose object was not found in the last look, below level 1.
    pub(super) missing: Vec<u32>,
    /// mdevs whose removal was seen to begin: the driver's list has them until it is nearly over.
    pub(super) leaving: HashSet<u64>,
    /// It was said that there are too many locks.
    pub(super) full: bool,
    /// Address of KVM's list of guests.
    pub(super) vm_list: Option<u64>,
    pub(super) verifier: Verifier,
    pub(super) snapshot: Snapshot,
    pub(super) tasks: Tasks,
    /// Threads whose record nobody needs any more.
    pub(super) forgotten: Vec<u32>,
    pub(super) governor: Governor,
    pub(super) attached: Attachment,
    /// What is still to be attached.
    pub(super) pending: Option<Box<Pending>>,
    pub(super) level: u8,
    /// Waits and holds at least this long have their stack taken, in nanoseconds; 0: none.
    pub(super) stacks_over: u64,
    pub(super) detaches_at: Option<Instant>,
    /// The driver's module, where it is measured.
    pub(super) module: Option<Module>,
    /// The kernel's log, where the driver is measured and the log may be read.
    pub(super) messages: Option<Messages>,
    /// Addresses of its locks.
    pub(super) driver_locks: Vec<u64>,
    /// Addresses at which its entry points are probed.
    pub(super) driver_entries: Vec<u64>,
    /// Which generation it may be, and what was seen of the lock order.
    pub(super) generation: Detected,
    pub(super) edges: Vec<Edge>,
    pub(super) edges_complete: bool,
    pub(super) hook_write_locked: u64,
    pub(super) next_second: u64,
    pub(super) last_frame_ns: u64,
    pub(super) ring: EbpfRing,
    pub(super) log: LogLines,
    pub(super) meta: Meta,
    pub(super) meta_changed: bool,
    /// When to look next at what is assigned to mdevs.
    pub(super) next_matrices_ns: u64,
    pub(super) reader: Reader,
    /// Programs go after everything else. None where a thread has them that does not come back.
    pub(super) ebpf: Option<Ebpf>,
}

impl KernelSource {
    /// Sends frames until stopped, until the time to detach, until the driver is unloaded, or until nobody takes them.
    pub(in crate::source) async fn run(
        &mut self,
        interval: Duration,
        mut commands: mpsc::UnboundedReceiver<Command>,
        frames: &mpsc::Sender<Arc<Frame>>,
    ) -> Result<(), SourceError> {
        let mut wake = wake_of(&self.ring);
        let mut interval = interval;
        let mut ticks = ticker(interval.min(BETWEEN_READINGS));
        let mut losses = Losses::default();
        let mut readings: u32 = 0;
        let mut read_before = None;
        let begun = Instant::now();
        loop {
            tokio::select! {
                // Who has seen enough by now wants nothing to be attached.
                biased;
                command = commands.recv() => match command {
                    Some(Command::Interval(other)) => {
                        interval = other;
                        ticks = ticker(if readings > READINGS_BEFORE {
                            interval
                        } else {
                            interval.min(BETWEEN_READINGS)
                        });
                        continue;
                    }
                    Some(Command::Stop) => {
                        self.finish(frames, "finished", String::new()).await;
                        return Ok(());
                    }
                    // The session was dropped.
                    None => {
                        self.finish(frames, "interrupted", String::new()).await;
                        return Ok(());
                    }
                },
                _ = ticks.tick() => {}
                () = readable(wake.as_ref()) => {}
            }
            // What is stuck was stuck before anything was attached, and is known by now.
            if readings == READINGS_BEFORE {
                let since: &mut Instant = read_before.get_or_insert_with(Instant::now);
                if !all_taken(frames) && since.elapsed() < TAKEN_WITHIN {
                    if let Some((how, detail)) = self.each_second() {
                        self.finish(frames, how, detail).await;
                        return Ok(());
                    }
                    continue;
                }
                self.try_out()?;
                if self.weigh()?
                    && frames
                        .send(Arc::new(self.frame(&mut losses)))
                        .await
                        .is_err()
                {
                    return Ok(());
                }
                self.attach()?;
                // Another plan may have brought another ring.
                wake = wake_of(&self.ring);
                self.last_frame_ns = reader::monotonic_ns();
                ticks = ticker(interval);
            }
            if let Some((how, detail)) = self.each_second() {
                self.finish(frames, how, detail).await;
                return Ok(());
            }
            let frame = self.frame(&mut losses);
            if frames.send(Arc::new(frame)).await.is_err() {
                return Ok(());
            }
            // Before anything is attached, one without its stacks is not whole.
            let whole = self.places.is_none() || self.snapshot.has_stacks();
            if whole || readings >= READINGS_BEFORE || begun.elapsed() >= TAKEN_WITHIN {
                readings = readings.saturating_add(1);
            }
        }
    }

    /// What is looked at once a second. Returns how the run ends, if it does.
    fn each_second(&mut self) -> Option<(&'static str, String)> {
        let now = reader::monotonic_ns();
        if now < self.next_second {
            return None;
        }
        self.next_second = now + 1_000_000_000;
        if let Some(end) = self.driver_gone() {
            return Some(end);
        }
        if self.detaches_at.is_some_and(|at| Instant::now() >= at) {
            let detail = "the time to be attached (--for) is over".to_owned();
            return Some(("detached", detail));
        }
        self.free_tasks();
        self.find_objects();
        if let (Some(places), Ok(sched)) = (
            &mut self.places,
            std::fs::read_to_string("/proc/thread-self/sched"),
        ) {
            places.set_clock(&sched, reader::monotonic_ns());
        }
        let unnamed = self.reader.unnamed_stacks();
        if unnamed != 0 {
            let text = format!("{unnamed} stacks were too many to be named");
            self.log.push("warn", &text);
        }
        let runs = self.runs();
        if let Some((what, share)) =
            self.governor
                .look(&runs, now, self.level, self.stacks_over != 0)
        {
            self.drop(what, share);
        }
        None
    }

    /// The driver's module may have been unloaded, and even be loaded again: what is attached was the old one's. Returns
    /// how the run ends; where a person named locks, it goes on with those.
    fn driver_gone(&mut self) -> Option<(&'static str, String)> {
        let what = self.module.as_ref()?.gone()?;
        self.module = None;
        if self.given.is_empty() {
            let detail = format!("the module vfio_ap was {what}; everything up to then was kept");
            self.log.push("warn", &detail);
            return Some(("driver unloaded", detail));
        }
        // Its memory is somebody else's now. Where the module is loaded again, tracefs brings its probes back
        // (trace_kprobe_module_callback, kernel/trace/trace_kprobe.c, v5.10 to v7.2).
        let entries = std::mem::take(&mut self.driver_entries);
        self.on_maps(|ebpf| object::forget_entries(ebpf, &entries));
        for address in std::mem::take(&mut self.driver_locks) {
            self.watched.retain(|watched| watched.address != address);
            self.on_maps(|ebpf| object::forget_lock(ebpf, address));
        }
        let text = format!(
            "the module vfio_ap was {what}: it is measured no more, the locks that were named are"
        );
        self.log.push("warn", &text);
        None
    }

    /// Does something to the maps. What fails is logged; false then. Nothing, where there are none.
    pub(super) fn on_maps(
        &mut self,
        act: impl FnOnce(&mut Ebpf) -> Result<(), ProbeError>,
    ) -> bool {
        let done = self.ebpf.as_mut().map_or(Ok(()), act);
        if let Err(e) = &done {
            self.log.push("error", &e.to_string());
        }
        done.is_ok()
    }

    fn set_gate(&mut self, word: u32, value: u64) {
        self.on_maps(|ebpf| object::set_gate(ebpf, word, value));
    }

    /// Gives back the records of threads that had an event after their end (a process that ends closes its files then),
    /// and of those that ended long ago with a lock that nobody wants.
    fn free_tasks(&mut self) {
        for tid in std::mem::take(&mut self.forgotten) {
            let Some(slot) = self.reader.slot_of(tid) else {
                continue;
            };
            if !self.on_maps(|ebpf| object::free_ended_task(ebpf, slot, tid)) {
                return;
            }
        }
        for (slot, tid) in self.reader.idle_tasks() {
            if Path::new("/proc").join(tid.to_string()).exists() {
                continue;
            }
            if !self.on_maps(|ebpf| object::free_task(ebpf, slot, tid)) {
                return;
            }
        }
    }

    /// Concludes from the lock order that was seen which generation it is.
    fn narrow(&mut self) {
        if self.generation.candidates.len() < 2 || self.edges.is_empty() {
            return;
        }
        let before = self.generation.candidates;
        self.generation.narrow(&Observed {
            edges: &self.edges,
            complete: self.level == 2 && self.edges_complete,
            hook_write_locked: self.hook_write_locked,
        });
        if self.generation.candidates == before {
            return;
        }
        self.meta.generation = self.generation.candidates.names().join("|");
        self.meta.evidence = super::facts(&self.generation);
        self.meta_changed = true;
        let text = format!(
            "the lock order that was seen leaves {} of {}",
            self.meta.generation,
            before.names().join("|")
        );
        self.log.push("info", &text);
    }

    /// Remembers the lock order of a frame.
    fn observe(&mut self, frame: &Frame) {
        let mode = |series: u32| {
            let class = (series >> 1) as u8;
            let rwsem = CLASSES
                .get(usize::from(class))
                .is_some_and(|class| class.kind == LockKind::Rwsem);
            let mode = match (rwsem, series & 1) {
                (false, _) => Mode::Exclusive,
                (true, 0) => Mode::Write,
                (true, _) => Mode::Read,
            };
            (class, mode)
        };
        for edge in &frame.edges {
            let edge = Edge {
                held: mode(edge.held),
                acquired: mode(edge.acquired),
                acquired_in: edge.acquired_in as u8,
            };
            if !self.edges.contains(&edge) {
                self.edges.push(edge);
            }
        }
        let hook = u32::from(series(class_id::PQAP_HOOK_RWSEM, Mode::Write));
        self.hook_write_locked += frame
            .series
            .iter()
            .filter(|delta| delta.series == hook)
            .map(|delta| delta.acquisitions)
            .sum::<u64>();
        let lost = frame.loss.as_ref().is_some_and(|loss| {
            loss.no_edge_slot != 0 || loss.missed != 0 || loss.no_task_slot != 0
        });
        self.edges_complete &= !lost;
    }

    /// Drops something that costs too much, and says so.
    fn drop(&mut self, what: Dropped, share: f64) {
        let dropped = match what {
            Dropped::Stacks => {
                self.set_gate(gate::STACKS_OVER, 0);
                self.stacks_over = 0;
                "stacks are taken no more"
            }
            Dropped::Spans => {
                self.set_gate(gate::NO_SPANS, 1);
                "spans are written no more, and count as dropped"
            }
            Dropped::Nothing => "there is nothing left to drop; --level 0 attaches nothing",
            Dropped::Level2 => {
                self.set_gate(gate::LEVEL, 1);
                self.level = 1;
                self.reader.ignore_holds();
                self.meta.level = 1;
                self.meta_changed = true;
                let attached = Arc::clone(&self.attached.points);
                // Detaching may wait for what is stuck.
                let spawned = std::thread::Builder::new()
                    .name("detach".into())
                    .spawn(move || {
                        if let Ok(mut attached) = attached.lock()
                            && let Some(attached) = attached.as_mut()
                        {
                            attached.drop_level_2();
                        }
                    });
                if let Err(e) = spawned {
                    self.log
                        .push("error", &format!("no thread to detach with: {e}"));
                }
                "from level 2 to level 1: from now on holds are not seen, and waits are contended ones only"
            }
        };
        let text = format!(
            "the programs cost {:.2} % of the CPUs' time, more than --max-overhead: {dropped}",
            share * 100.0
        );
        self.log.push("warn", &text);
    }

    /// What the programs have cost, and what was missed: inside a program, and of kprobes.
    fn runs(&self) -> BTreeMap<&'static str, reader::ProgramRuns> {
        let programs = &self.attached.programs;
        let ebpf = self.ebpf.as_ref();
        let mut runs = ebpf.map_or_else(BTreeMap::new, |ebpf| sys::runs_of(ebpf, programs));
        for (program, missed) in self.attached.misses.now() {
            runs.entry(program).or_default().missed += missed;
        }
        runs
    }

    fn frame(&mut self, losses: &mut Losses) -> Frame {
        confine::follow();
        if let Some(logger) = &mut self.attached.logger {
            logger.flush();
        }
        let runs = self.runs();
        self.adopt();
        let (now, unix) = (reader::monotonic_ns(), reader::unix_ns());
        let mut frame = self.reader.frame(&mut self.ring, now, unix, &runs);
        self.name_subjects();
        // Once for all that are new.
        if now >= self.next_matrices_ns {
            self.next_matrices_ns = now.saturating_add(matrix::INTERVAL_NS);
            self.read_matrices();
        }
        let mut disagreements = 0;
        if let (Some(places), Some(live)) = (&self.places, &mut frame.live) {
            // Before anything is attached, there are few readings: each is of everything.
            let all = self.meta.attaching;
            let waited_for = self.snapshot.waited_for();
            let asked = Asked {
                ended: &|tid| self.tasks.has_ended(tid),
                waited_for: &waited_for,
                all,
            };
            disagreements =
                self.verifier
                    .check(&self.memory, places, &self.watched, &asked, live, now);
            let scene = Scene {
                memory: &self.memory,
                places,
                watched: &self.watched,
                generations: self.generation.candidates,
                now_ns: now,
                all,
            };
            let found = self.snapshot.look(&scene, live);
            frame.stacks.extend(found.stacks);
            if let Some(note) = found.note {
                self.log.push("warn", &note);
            }
            for work in found.works {
                self.on_maps(|ebpf| object::adopt(ebpf, &work, 0, now).map(|_| ()));
            }
        }
        if let Some(live) = &mut frame.live {
            self.tasks.fill(live, now);
            self.forgotten = self.tasks.forgotten(live, now);
        }
        if let Some(live) = &frame.live
            && self.stacks_over != 0
        {
            let waits = self.reader.stacks_of_waits(live, now, self.stacks_over);
            frame.stacks.extend(waits);
        }
        let silence = now.saturating_sub(self.last_frame_ns);
        if silence > SILENCE_NS {
            let text = format!(
                "nothing was read for {} s, and the programs fell silent meanwhile: statistics have a gap",
                silence / 1_000_000_000
            );
            self.log.push("warn", &text);
        }
        self.last_frame_ns = now;
        if let Some(loss) = &mut frame.loss {
            loss.disagreements = disagreements;
            // A gap has lost an unknown number of invocations: one at least.
            loss.missed += u64::from(silence > SILENCE_NS);
            losses.tell(&self.log, loss, now);
        }
        if let Some(messages) = &mut self.messages {
            for (at_ns, text) in messages.read() {
                self.log.push_driver(at_ns, &text);
            }
        }
        self.observe(&frame);
        self.narrow();
        self.settle_given(&frame);
        if let Some(live) = &frame.live {
            self.used = live.tasks.iter().flat_map(instances_of).collect();
        }
        if std::mem::take(&mut self.meta_changed) {
            frame.meta = Some(self.meta.clone());
        }
        frame.log = self.log.take();
        frame
    }

    /// Reads everything once more and sends it as the last frame.
    async fn finish(&mut self, frames: &mpsc::Sender<Arc<Frame>>, how: &str, detail: String) {
        // The programs do nothing from now on, so that the last frame's counts belong together.
        drop(self.attached.heartbeat.take());
        self.set_gate(gate::UNTIL, 0);
        // What was missed in the last moments counts too. Programs that were running end meanwhile.
        self.attached.misses.read_again(LAST_READING);
        let mut frame = self.frame(&mut Losses::default());
        frame.end = Some(End {
            how: how.into(),
            detail,
        });
        // A receiver that has gone away does not want it.
        let _ = frames.send(Arc::new(frame)).await;
    }

    /// Detaches. What does not detach in time is left to the end of the process.
    pub(in crate::source) fn end(self) {
        let Self {
            attached,
            ring,
            ebpf,
            ..
        } = self;
        let Attachment {
            heartbeat, points, ..
        } = attached;
        drop(heartbeat);
        let (done, detached) = std::sync::mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("detach".into())
            .spawn(move || {
                if let Ok(mut points) = points.lock() {
                    drop(points.take());
                }
                drop(ring);
                drop(ebpf);
                // Nobody may be waiting any more.
                let _ = done.send(());
            });
        if spawned.is_ok() {
            // A time-out leaves the thread to the end of the process, which closes everything.
            let _ = detached.recv_timeout(DETACH_DEADLINE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_when_none_is_left() {
        let (sender, mut receiver) = mpsc::channel(3);
        assert!(all_taken(&sender));
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        assert_eq!(receiver.try_recv(), Ok(1));
        assert!(!all_taken(&sender));
        assert_eq!(receiver.try_recv(), Ok(2));
        assert!(all_taken(&sender));
    }
}
