//! What goes on at the end of a trace, as the spans that it would make if all of it ended then: a deadlock is nothing else.

use std::collections::BTreeMap;

use probe_ebpf::abi::{NO_INSTANCE, SPAN_ENTRY, SPAN_LOCK, Span};

use crate::export::spans::SpanRow;
use crate::frame::{Inside, TaskState};
use crate::model::{Model, query};

/// Start of the last slice on each track, by which something that has ended meanwhile is known.
#[derive(Debug, Default)]
pub(super) struct Latest(BTreeMap<u64, u64>);

impl Latest {
    pub(super) fn add(&mut self, track: u64, start_ns: u64) {
        let latest = self.0.entry(track).or_default();
        *latest = start_ns.max(*latest);
    }

    /// A slice that began then, or later, is there.
    pub(super) fn has(&self, track: u64, start_ns: u64) -> bool {
        self.0.get(&track).is_some_and(|latest| *latest >= start_ns)
    }
}

/// What of a task goes on.
#[derive(Debug)]
pub(super) enum Standing<'a> {
    Call(SpanRow<'a>),
    Hold(SpanRow<'a>),
    /// Its wait is that of the row; it has no hold.
    Wait(SpanRow<'a>),
}

/// All of it, of all tasks: calls first, the outer before the inner.
pub(super) fn standing(model: &Model) -> impl Iterator<Item = Standing<'_>> {
    model.live.iter().flat_map(move |task| {
        let around = std::iter::once(0).chain(task.inside.iter().map(|inside| inside.entry as u8));
        let calls = task.inside.iter().zip(around);
        let calls =
            calls.map(move |(inside, around)| Standing::Call(call(model, task, inside, around)));
        let holds = task.holds.iter().map(move |hold| {
            let raw = Span {
                start_ns: hold.since_ns,
                extra: hold.wait_ns,
                instance: hold.instance,
                what: hold.series as u8,
                inside: hold.entry as u8,
                ..span(model, task, SPAN_LOCK, hold.since_ns)
            };
            Standing::Hold(row(model, task, raw))
        });
        let waits = task.waits.iter().map(move |wait| {
            let at_ns = model.last.at_ns.max(wait.since_ns);
            let raw = Span {
                start_ns: at_ns,
                extra: at_ns - wait.since_ns,
                instance: wait.instance,
                what: wait.series as u8,
                inside: wait.entry as u8,
                ..span(model, task, SPAN_LOCK, at_ns)
            };
            Standing::Wait(row(model, task, raw))
        });
        calls.chain(holds).chain(waits)
    })
}

fn span(model: &Model, task: &TaskState, kind: u8, start_ns: u64) -> Span {
    Span {
        start_ns,
        duration_ns: model.last.at_ns.saturating_sub(start_ns),
        extra: 0,
        tid: task.tid,
        instance: NO_INSTANCE,
        result: 0,
        kind,
        what: 0,
        inside: 0,
        flags: 0,
    }
}

fn call<'a>(model: &'a Model, task: &'a TaskState, inside: &'a Inside, around: u8) -> SpanRow<'a> {
    let object = |id: u32| Some(model.objects.get(&id.checked_sub(1)?)?.name.as_str());
    let raw = Span {
        extra: inside.arg,
        what: inside.entry as u8,
        inside: around,
        ..span(model, task, SPAN_ENTRY, inside.since_ns)
    };
    let pid = inside.on_behalf_of_pid;
    SpanRow {
        name: query::entry_name(raw.what),
        on_behalf_of: (pid != 0).then_some((pid, inside.on_behalf_of_comm.as_str())),
        mdev: object(inside.mdev),
        guest: object(inside.guest),
        ..row(model, task, raw)
    }
}

fn row<'a>(model: &'a Model, task: &'a TaskState, raw: Span) -> SpanRow<'a> {
    let ahead = model.last.at_unix_ns.wrapping_sub(model.last.at_ns);
    SpanRow {
        raw,
        name: query::lock_name(model, raw.what, raw.instance),
        comm: &task.comm,
        on_behalf_of: None,
        mdev: None,
        guest: None,
        start_unix_ns: raw.start_ns.wrapping_add(ahead),
    }
}
