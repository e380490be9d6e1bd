//! The rows of the log: completed spans and messages, by time.

use apscope_collector::model::{Span, query, return_name};
use probe_ebpf::abi::{PQAP_RESPONDED, SPAN_ENTRY, SPAN_LOCK};
use probe_ebpf::names::entry_id;

use super::Snapshot;
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

/// Rows shown at most.
pub const MOST: usize = 1_000;

/// Where a line of the log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A span of the history, by its place.
    Span(usize),
    /// A message of the model, by its place.
    Message(usize),
}

/// A line of the log that matches. What it says is made of it when it is shown ([`row`]): few of them are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLine {
    at_ns: u64,
    source: Source,
}

/// What a line of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    /// When it ended, or was said; CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub at_ns: u64,
    /// What it is.
    pub kind: Kind,
    /// Task, or level of the message.
    pub who: String,
    /// Lock instance, entry point, or the message.
    pub what: String,
    /// Guest of the lock, or that a call acted on; empty where there is none.
    pub guest: String,
    /// UUID of the mdev that a call acted on; empty where there is none.
    pub mdev: String,
    /// Guest that the task works for, for the filter.
    task_guest: String,
    /// Class of the lock, or module of the entry point.
    class: &'static str,
}

/// Kinds of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A lock was held.
    Lock {
        /// Waited for so long before.
        wait_ns: u64,
        /// Held so long.
        hold_ns: u64,
        /// In this entry point.
        inside: &'static str,
        /// A flag with a wait queue.
        open_coded: bool,
    },
    /// A call returned.
    Call {
        /// After so long.
        latency_ns: u64,
        /// What it returned.
        returns: String,
    },
    /// A message.
    Message,
}

impl Row for StreamRow {
    fn text(&self, field: TextField) -> Option<&str> {
        Some(match field {
            TextField::Name => &self.what,
            TextField::Task | TextField::Holder => &self.who,
            TextField::Guest => &self.guest,
            TextField::Mdev => &self.mdev,
            TextField::Class => self.class,
            TextField::Kind => match self.kind {
                Kind::Lock {
                    open_coded: true, ..
                } => "open-coded lock",
                Kind::Lock { .. } => "lock",
                Kind::Call { .. } => "call",
                Kind::Message => "message",
            },
        })
    }

    fn any(&self, field: TextField, passes: &dyn Fn(&str) -> bool) -> bool {
        // A lock of the driver has no guest, and those who wait for it have.
        let task = field == TextField::Guest && passes(&self.task_guest);
        task || self.text(field).is_some_and(passes)
    }

    fn time(&self, field: TimeField, _: Percentile) -> Option<u64> {
        match (&self.kind, field) {
            (Kind::Lock { wait_ns, .. }, TimeField::Wait) => Some(*wait_ns),
            (Kind::Lock { hold_ns, .. }, TimeField::Hold) => Some(*hold_ns),
            (Kind::Call { latency_ns, .. }, TimeField::Latency) => Some(*latency_ns),
            _ => None,
        }
    }
}

/// The last lines that match, oldest first.
#[must_use]
pub fn lines(shown: &Snapshot, filter: &Filter) -> Vec<StreamLine> {
    let matches = |line: &StreamLine| {
        filter.is_empty() || row(shown, *line).is_some_and(|row| filter.matches(&row))
    };
    let spans = shown.history.spans().iter().enumerate().rev();
    let mut lines: Vec<StreamLine> = spans
        .filter(|(_, span)| matches!(span.raw.kind, SPAN_LOCK | SPAN_ENTRY))
        .map(|(place, span)| StreamLine {
            at_ns: span.raw.start_ns.saturating_add(span.raw.duration_ns),
            source: Source::Span(place),
        })
        .filter(matches)
        .take(MOST)
        .collect();
    // As they came: of equal times the first one stays first.
    lines.reverse();
    let messages = shown.model.log.iter().enumerate();
    lines.extend(
        messages
            .map(|(place, line)| StreamLine {
                at_ns: line.at_ns,
                source: Source::Message(place),
            })
            .filter(matches),
    );
    lines.sort_by_key(|line| line.at_ns);
    let skip = lines.len().saturating_sub(MOST);
    lines.drain(..skip);
    lines
}

/// What a line says; `None` where the snapshot is another one and does not have it.
#[must_use]
pub fn row(shown: &Snapshot, line: StreamLine) -> Option<StreamRow> {
    match line.source {
        Source::Span(place) => span_row(shown, shown.history.spans().get(place)?),
        Source::Message(place) => {
            let message = shown.model.log.get(place)?;
            Some(StreamRow {
                at_ns: message.at_ns,
                kind: Kind::Message,
                who: message.level.clone(),
                what: message.text.clone(),
                guest: String::new(),
                mdev: String::new(),
                task_guest: String::new(),
                class: "",
            })
        }
    }
}

fn span_row(shown: &Snapshot, span: &Span) -> Option<StreamRow> {
    let (on, span) = (span.on, &span.raw);
    let at_ns = span.start_ns.saturating_add(span.duration_ns);
    let who = shown.history.who(span.tid);
    let task_guest = shown
        .history
        .guest(span.tid)
        .map_or_else(String::new, |guest| format!("guest-{guest}"));
    match span.kind {
        SPAN_LOCK => {
            let instance = shown.model.instances.get(&span.instance);
            let guest = instance
                .and_then(|known| known.guest.checked_sub(1))
                .map_or_else(String::new, |guest| format!("guest-{guest}"));
            Some(StreamRow {
                at_ns,
                kind: Kind::Lock {
                    wait_ns: span.extra,
                    hold_ns: span.duration_ns,
                    inside: query::entry_name(span.inside),
                    open_coded: query::open_coded(span.what),
                },
                who,
                what: instance
                    .map_or_else(|| query::series_name(span.what), |known| known.name.clone()),
                guest,
                mdev: String::new(),
                task_guest,
                class: query::class_name(span.what),
            })
        }
        SPAN_ENTRY => {
            let on = query::Names::of(&shown.model, on);
            Some(StreamRow {
                at_ns,
                kind: Kind::Call {
                    latency_ns: span.duration_ns,
                    returns: returns(span),
                },
                who,
                what: query::entry_name(span.what).to_owned(),
                guest: on.guest.unwrap_or_default(),
                mdev: on.mdev.unwrap_or_default(),
                task_guest,
                class: "",
            })
        }
        _ => None,
    }
}

/// What a call returned: an errno, or for a PQAP how it was answered.
fn returns(span: &probe_ebpf::abi::Span) -> String {
    let pqap = matches!(span.what, entry_id::HANDLE_PQAP | entry_id::KVM_HANDLE_PQAP);
    if pqap && span.extra & PQAP_RESPONDED != 0 {
        let gr0 = span.extra as u32;
        return format!(
            "{} {:02x}.{:04x} answered {:02X}",
            query::pqap_function((gr0 >> 24) as u8),
            gr0 >> 8 & 0xff,
            gr0 & 0xff,
            (span.extra >> 32) as u8
        );
    }
    match span.result {
        code @ -4095..0 => return_name(span.what, code.unsigned_abs()).into_owned(),
        code => return_name(
            span.what,
            if code > 0 && notifier(span.what) {
                code as u32
            } else {
                0
            },
        )
        .into_owned(),
    }
}

/// It returns NOTIFY_* and no errno.
fn notifier(entry: u8) -> bool {
    matches!(entry, entry_id::GROUP_NOTIFIER | entry_id::IOMMU_NOTIFIER)
}
