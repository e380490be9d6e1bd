//! Spans of frames as rows with names, for the exports that have each of them.
//!
//! Spans are detail: where the ring had no room, some are missing, and [`crate::model::Loss`] says how many. Nothing that
//! is called a statistic is made of them.

use probe_ebpf::abi::{HELD_CONTENDED, SPAN_ENTRY, SPAN_LOCK, Span};

use crate::frame::Frame;
use crate::model::{Model, query, returns};

/// A completed lock cycle, or a completed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRow<'a> {
    /// The record itself.
    pub raw: Span,
    /// Name of the lock's instance, of its class where the instance is not known; of a call, the entry point.
    pub name: &'a str,
    /// Name of the task; empty where it is not known.
    pub comm: &'a str,
    /// Pid and name of the process on whose behalf the task acted.
    pub on_behalf_of: Option<(u32, &'a str)>,
    /// UUID of the mdev that a call acted on.
    pub mdev: Option<&'a str>,
    /// Name of the guest that a call acted on.
    pub guest: Option<&'a str>,
    /// Start of the hold or of the call, nanoseconds since 1970.
    pub start_unix_ns: u64,
}

impl SpanRow<'_> {
    /// A lock cycle; otherwise a call.
    pub const fn is_lock(&self) -> bool {
        self.raw.kind == SPAN_LOCK
    }

    /// How long the acquisition waited; `None` for a call.
    pub fn wait_ns(&self) -> Option<u64> {
        self.is_lock().then_some(self.raw.extra)
    }

    /// The slow path was entered; `None` for a call.
    pub fn contended(&self) -> Option<bool> {
        self.is_lock()
            .then_some(self.raw.flags & HELD_CONTENDED != 0 || self.raw.extra > 0)
    }

    /// Class of the lock; `None` for a call.
    pub fn class(&self) -> Option<&'static str> {
        self.is_lock().then(|| query::class_name(self.raw.what))
    }

    /// Mode of the lock; `None` for a call.
    pub fn mode(&self) -> Option<&'static str> {
        self.is_lock().then(|| query::mode_name(self.raw.what))
    }

    /// Entry point that the lock was acquired in, or that is around the call; `-` for none.
    pub fn inside(&self) -> &'static str {
        query::entry_name(self.raw.inside)
    }

    /// What a call returned, as it is spelled in `returns`; `None` for a lock.
    pub fn returned(&self) -> Option<String> {
        (!self.is_lock()).then(|| returns(self.raw.what, self.raw.result))
    }
}

/// The spans of a frame that was folded into the model. What makes no sense is left out.
pub fn rows<'a>(model: &'a Model, frame: &'a Frame) -> impl Iterator<Item = SpanRow<'a>> {
    let ahead = frame.at_unix_ns.wrapping_sub(frame.at_ns);
    frame.spans.iter().flat_map(move |spans| {
        let all = spans.decode(frame.at_ns).zip(spans.acted_on());
        all.enumerate()
            .filter(|(_, (raw, _))| [SPAN_LOCK, SPAN_ENTRY].contains(&raw.kind))
            .map(move |(at, (raw, on))| {
                let object = |id: Option<u32>| Some(model.objects.get(&id?)?.name.as_str());
                let task = spans.task.get(at).map(|task| *task as usize);
                let comm = task.and_then(|task| spans.comms.get(task));
                SpanRow {
                    name: if raw.kind == SPAN_LOCK {
                        query::lock_name(model, raw.what, raw.instance)
                    } else {
                        query::entry_name(raw.what)
                    },
                    comm: comm.map_or("", String::as_str),
                    on_behalf_of: spans.on_behalf_of(at),
                    mdev: object(on.mdev),
                    guest: object(on.guest),
                    start_unix_ns: raw.start_ns.wrapping_add(ahead),
                    raw,
                }
            })
    })
}
