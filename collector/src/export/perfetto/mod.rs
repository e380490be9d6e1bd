//! Perfetto traces: tracks for each task, with slices for calls, waits and holds; arrows from a release to the waiter that
//! it let in; counters for the queue of each lock and for lost records. What goes on at the end has slices until then.
//!
//! A trace is written as frames come. Slices of one track never overlap, whatever a task does: calls stand on the task's
//! own track, calls inside of others on one for each function around them, waits on another, and the holds of each lock
//! on one of their own. The category of a slice says what it is: `call`, `wait`, `hold`, `release`.

pub mod proto;
mod releases;
mod standing;
mod tracks;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use probe_ebpf::abi::Span;
use prost::Message;

use super::driver;
use super::spans::{SpanRow, rows};
use crate::frame::Frame;
use crate::model::{Model, query};
use proto::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, COUNTER, Clock, ClockSnapshot, DebugAnnotation, INSTANT,
    SLICE_BEGIN, SLICE_END, STATE_CLEARED, TracePacket, TracePacketDefaults, TrackDescriptor,
    TrackEvent,
};
use releases::{Lock, Release, Releases};
use standing::{Latest, Standing, standing};
use tracks::{Place, Tracks};

/// The one sequence of packets.
const SEQUENCE: u32 = 1;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Slices of calls.
    pub calls: u64,
    /// Slices of waits.
    pub waits: u64,
    /// Slices of holds.
    pub holds: u64,
    /// Arrows from a release to a waiter.
    pub arrows: u64,
}

/// A trace that is being written.
#[derive(Debug)]
pub struct Trace<W: Write> {
    out: W,
    begun: bool,
    tracks: Tracks,
    releases: Releases,
    /// Classes of locks whose instances are told apart.
    classes: BTreeSet<u8>,
    latest: Latest,
    counts: Counts,
    packet: Vec<u8>,
}

impl<W: Write> Trace<W> {
    /// A trace without packets.
    pub fn new(out: W) -> Self {
        Self {
            out,
            begun: false,
            tracks: Tracks::default(),
            releases: Releases::default(),
            classes: BTreeSet::new(),
            latest: Latest::default(),
            counts: Counts::default(),
            packet: Vec::new(),
        }
    }

    /// What was written so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Adds a frame that was folded into the model.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn frame(&mut self, model: &Model, frame: &Frame) -> io::Result<()> {
        if !self.begun && model.meta.is_some() {
            self.begun = true;
            self.begin(model)?;
        }
        if frame.meta.is_some() {
            let all = model.instances.values();
            self.classes = all.map(|instance| (instance.series >> 1) as u8).collect();
        }
        for row in rows(model, frame) {
            if row.is_lock() {
                self.waited(model, &row, GoesOn::No)?;
                self.held(model, &row, GoesOn::No)?;
            } else {
                self.call(model, &row, GoesOn::No)?;
            }
        }
        self.counters(model, frame)
    }

    /// Writes what goes on at the end, and what is left.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(mut self, model: &Model) -> io::Result<W> {
        for standing in standing(model) {
            match standing {
                Standing::Call(row) => self.call(model, &row, GoesOn::Yes)?,
                Standing::Hold(row) => {
                    self.waited(model, &row, GoesOn::No)?;
                    self.held(model, &row, GoesOn::Yes)?;
                }
                Standing::Wait(row) => self.waited(model, &row, GoesOn::Yes)?,
            }
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Clocks, and what the trace is of.
    fn begin(&mut self, model: &Model) -> io::Result<()> {
        let Some(meta) = &model.meta else {
            return Ok(());
        };
        let clock = |id, ns| Clock {
            clock_id: Some(id),
            timestamp: Some(ns),
        };
        let clocks = vec![
            clock(CLOCK_MONOTONIC, meta.start_ns),
            clock(CLOCK_REALTIME, meta.start_unix_ns),
        ];
        self.packet(TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks,
                primary_trace_clock: Some(CLOCK_MONOTONIC),
            }),
            sequence_flags: Some(STATE_CLEARED),
            trace_packet_defaults: Some(TracePacketDefaults {
                timestamp_clock_id: Some(CLOCK_MONOTONIC),
            }),
            ..TracePacket::default()
        })?;
        let about = [
            driver(model),
            &meta.generation,
            &meta.kernel_release,
            &meta.timing,
        ];
        let descriptor = self.tracks.run(about.join(" ").trim_end().to_owned());
        self.describe(descriptor)
    }

    fn call(&mut self, model: &Model, row: &SpanRow<'_>, goes_on: GoesOn) -> io::Result<()> {
        let place = match row.raw.inside {
            0 => Place::Task,
            around => Place::CallsInside(around),
        };
        let track = self.track(model, row, place)?;
        let start_ns = row.raw.start_ns;
        if goes_on == GoesOn::Yes && self.latest.has(track, start_ns) {
            return Ok(());
        }
        let mut about = match goes_on {
            GoesOn::No => vec![text("returned", row.returned().unwrap_or_default())],
            GoesOn::Yes => vec![text(GOES_ON, "at the end")],
        };
        about.extend(row.mdev.map(|mdev| text("mdev", mdev)));
        about.extend(row.guest.map(|guest| text("guest", guest)));
        if let Some((pid, comm)) = row.on_behalf_of {
            about.push(text("on_behalf_of", format!("{comm} ({pid})")));
        }
        self.counts.calls += 1;
        let event = TrackEvent {
            name: Some(row.name.to_owned()),
            categories: vec!["call".to_owned()],
            debug_annotations: about,
            ..TrackEvent::default()
        };
        self.slice(track, start_ns, row.raw.duration_ns, event)
    }

    /// The wait before an acquisition, or for one.
    fn waited(&mut self, model: &Model, row: &SpanRow<'_>, goes_on: GoesOn) -> io::Result<()> {
        let raw = row.raw;
        let wait_ns = raw.extra;
        if wait_ns == 0 {
            return Ok(());
        }
        let place = if query::open_coded(raw.what) {
            Place::FlagWaits
        } else {
            Place::Waits
        };
        let track = self.track(model, row, place)?;
        let since_ns = raw.start_ns.saturating_sub(wait_ns);
        if goes_on == GoesOn::Yes && self.latest.has(track, since_ns) {
            return Ok(());
        }
        self.counts.waits += 1;
        let event = lock_event(row, "wait", goes_on);
        self.slice(track, since_ns, wait_ns, event)
    }

    fn held(&mut self, model: &Model, row: &SpanRow<'_>, goes_on: GoesOn) -> io::Result<()> {
        let raw = row.raw;
        let track = self.track(model, row, Place::Holds(raw.what, raw.instance))?;
        if goes_on == GoesOn::Yes && self.latest.has(track, raw.start_ns) {
            return Ok(());
        }
        let mut event = lock_event(row, "hold", goes_on);
        event
            .debug_annotations
            .extend(row.mode().map(|mode| text("mode", mode)));
        if let Some(lock) = self.identity(model, &raw) {
            if let Some(release) = self.releases.that_let_in(lock, &raw) {
                self.counts.arrows += 1;
                let flow = self.counts.arrows;
                event.terminating_flow_ids = vec![flow];
                let released = TrackEvent {
                    r#type: Some(INSTANT),
                    track_uuid: Some(release.track),
                    name: Some("release".to_owned()),
                    categories: vec!["release".to_owned()],
                    flow_ids: vec![flow],
                    ..TrackEvent::default()
                };
                self.event(release.at_ns, released)?;
            }
            if goes_on == GoesOn::No {
                let release = Release {
                    at_ns: raw.start_ns.saturating_add(raw.duration_ns),
                    tid: raw.tid,
                    track,
                };
                self.releases.add(lock, release);
            }
        }
        self.counts.holds += 1;
        self.slice(track, raw.start_ns, raw.duration_ns, event)
    }

    /// Which lock a span is of: by its address, both modes of an rwsem being one; by its class where there is only one of
    /// it; `None` where it is not known which.
    fn identity(&self, model: &Model, raw: &Span) -> Option<Lock> {
        let class = raw.what >> 1;
        match model.instances.get(&raw.instance) {
            Some(instance) => Some((class, instance.address)),
            None => (!self.classes.contains(&class)).then_some((class, 0)),
        }
    }

    /// Tasks that wait for each lock class, and records lost so far.
    fn counters(&mut self, model: &Model, frame: &Frame) -> io::Result<()> {
        let mut queues: BTreeMap<u8, i64> = query::listed_series(model)
            .into_iter()
            .map(|id| (id, 0))
            .collect();
        for wait in model.live.iter().flat_map(|task| &task.waits) {
            if let Some(queue) = u8::try_from(wait.series)
                .ok()
                .and_then(|id| queues.get_mut(&id))
            {
                *queue += 1;
            }
        }
        let mut values: Vec<(String, i64)> = queues
            .into_iter()
            .map(|(id, queue)| (format!("queue of {}", query::series_name(id)), queue))
            .collect();
        let dropped = i64::try_from(model.loss.dropped()).unwrap_or(i64::MAX);
        values.push(("records dropped".to_owned(), dropped));
        for (name, value) in values {
            let (track, new) = self.tracks.counter(&name);
            if let Some(descriptor) = new {
                self.describe(descriptor)?;
            }
            let event = TrackEvent {
                r#type: Some(COUNTER),
                track_uuid: Some(track),
                counter_value: Some(value),
                ..TrackEvent::default()
            };
            self.event(frame.at_ns, event)?;
        }
        Ok(())
    }

    /// The track for something that a task does, described first where it is new.
    fn track(&mut self, model: &Model, row: &SpanRow<'_>, place: Place) -> io::Result<u64> {
        let (track, new) = self.tracks.of_task(model, row, place);
        for descriptor in new {
            self.describe(descriptor)?;
        }
        Ok(track)
    }

    fn slice(
        &mut self,
        track: u64,
        at_ns: u64,
        length_ns: u64,
        event: TrackEvent,
    ) -> io::Result<()> {
        self.latest.add(track, at_ns);
        let begin = TrackEvent {
            r#type: Some(SLICE_BEGIN),
            track_uuid: Some(track),
            ..event
        };
        self.event(at_ns, begin)?;
        let end = TrackEvent {
            r#type: Some(SLICE_END),
            track_uuid: Some(track),
            ..TrackEvent::default()
        };
        self.event(at_ns.saturating_add(length_ns), end)
    }

    fn event(&mut self, at_ns: u64, event: TrackEvent) -> io::Result<()> {
        self.packet(TracePacket {
            timestamp: Some(at_ns),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    fn describe(&mut self, descriptor: TrackDescriptor) -> io::Result<()> {
        self.packet(TracePacket {
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        })
    }

    /// A trace is a message whose only field, of number 1, is its packets.
    fn packet(&mut self, mut packet: TracePacket) -> io::Result<()> {
        packet.trusted_packet_sequence_id = Some(SEQUENCE);
        self.packet.clear();
        prost::encoding::message::encode(1, &packet, &mut self.packet);
        debug_assert!(packet.encoded_len() < self.packet.len());
        self.out.write_all(&self.packet)
    }
}

/// Whether something has ended, or goes on when the trace ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    No,
    Yes,
}

/// The annotation of what goes on.
const GOES_ON: &str = "goes_on";

/// A wait for a lock, or a hold.
fn lock_event(row: &SpanRow<'_>, category: &str, goes_on: GoesOn) -> TrackEvent {
    let mut about = vec![text("entry_point", row.inside())];
    if goes_on == GoesOn::Yes {
        about.push(text(GOES_ON, "at the end"));
    }
    TrackEvent {
        name: Some(row.name.to_owned()),
        categories: vec![category.to_owned()],
        debug_annotations: about,
        ..TrackEvent::default()
    }
}

fn text(name: &str, value: impl Into<String>) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        string_value: Some(value.into()),
        ..DebugAnnotation::default()
    }
}
