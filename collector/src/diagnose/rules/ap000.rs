//! AP000: the stuck guest is not stuck here.

use super::ap012::is_watched;
use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::diagnose::words::count;
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(0),
    title: "not here",
    text: "\
No task that was asked about is in vfio_ap, waits for one of its locks, or waits for somebody who does. The driver is
exonerated as carefully as the other findings accuse it: the tasks are named, with what they do instead.

**How it is known.** From stacks: a text with stacks of blocked tasks was read, none of them has a function of the
driver, of the AP bus or of KVM's PQAP handling in it, none holds or waits for another lock than `vcpu->mutex` and
`kvm->lock`, and who waits for one of these waits for a task of the text. Live: `--guest` names a
guest that is measured, and none of its tasks is in or behind the driver for longer than half of the threshold.

**What can help.** Look where the tasks are: the function above the scheduler's in each stack says for what they wait
(storage, memory, the network, another driver). Tasks that are in no stack at all run: look at the guest itself.
",
};

/// Stacks of one function more than these are counted only.
const SHOWN: usize = 8;

#[derive(Default, Clone)]
pub(super) struct NotHere;

impl Rule for NotHere {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        if look.from_stacks() {
            seen.extend(from_stacks(look));
        } else if let Some(guest) = look.asked {
            seen.extend(of_guest(look, guest));
        }
    }
}

fn from_stacks(look: &Look<'_>) -> Option<Sighting> {
    if look.model.stacks.is_empty() || !look.concerned().is_empty() {
        return None;
    }
    let tasks = look.model.stacks.len();
    let mut sighting = Sighting::new(
        "stacks",
        Severity::Info,
        match tasks {
            1 => "the one task that is stuck in the text is not in or behind vfio_ap".to_owned(),
            n => format!("none of {} is in or behind vfio_ap", count(n, "task")),
        },
    );
    for stack in look.model.stacks.iter().take(SHOWN) {
        let at: Vec<&str> = stack
            .frames
            .iter()
            .map(String::as_str)
            .filter(|frame| !scheduler(frame))
            .take(4)
            .collect();
        sighting.details.push(format!(
            "{} ({}): {}",
            stack.comm,
            stack.tid,
            at.join(" <- ")
        ));
    }
    if tasks > SHOWN {
        sighting.details.push(format!("and {} more", tasks - SHOWN));
    }
    sighting.meaning = "what keeps the guest is not this driver".into();
    sighting.help = vec!["the function that each task sleeps in says where to look next".into()];
    Some(sighting)
}

/// A frame that every sleeping task has.
fn scheduler(frame: &str) -> bool {
    let name = frame.split(['+', ' ']).next().unwrap_or_default();
    matches!(
        name,
        "__schedule"
            | "schedule"
            | "schedule_timeout"
            | "schedule_preempt_disabled"
            | "io_schedule"
    )
}

fn of_guest(look: &Look<'_>, guest: u32) -> Option<Sighting> {
    // What is not seen exonerates nobody.
    let blind = query::counts_nothing(look.model) || !look.waits_seen() || !look.model.loss.exact();
    if blind || look.unknown_guest(guest).is_some() {
        return None;
    }
    let stuck_ns = look.nanos(look.thresholds.stuck);
    let tasks: Vec<&frame::TaskState> = look
        .waits
        .tasks
        .iter()
        .filter(|task| look.guest(task) == Some(guest))
        .collect();
    // Half of the threshold: nobody is exonerated a moment before AP012 accuses. A task whose guest is not known may be
    // of this one.
    let long = |since_ns: u64| look.ago(since_ns) >= stuck_ns / 2;
    let waits_long = look
        .waits
        .tasks
        .iter()
        .filter(|task| look.guest(task).is_none_or(|of| of == guest))
        .any(|task| {
            let calls = |inside: &&frame::Inside| is_watched(inside.entry as u8);
            task.waits.iter().any(|wait| long(wait.since_ns))
                || task
                    .inside
                    .iter()
                    .filter(calls)
                    .any(|inside| long(inside.since_ns))
        });
    // The first moments show nothing yet.
    let measured = look
        .model
        .meta
        .as_ref()
        .map_or(0, |meta| look.ago(meta.start_ns));
    if waits_long || measured < stuck_ns {
        return None;
    }
    let name = look.guest_label(guest);
    let mut sighting = Sighting::new(
        format!("guest {guest}"),
        Severity::Info,
        format!("no task of {name} is stuck in or behind vfio_ap"),
    );
    for task in tasks.iter().take(SHOWN) {
        let inside = task.inside.last().map_or("no traced function", |inside| {
            crate::model::query::entry_name(inside.entry as u8)
        });
        let state = match task.state.as_str() {
            "" => String::new(),
            state => format!(", state {state}"),
        };
        sighting
            .details
            .push(format!("{} ({}): in {inside}{state}", task.comm, task.tid));
    }
    if tasks.is_empty() {
        sighting
            .details
            .push("none of its tasks is in a traced function at all".into());
    }
    sighting.meaning = "what keeps the guest is not this driver".into();
    sighting.help = vec!["look at the guest itself, its storage and its memory".into()];
    Some(sighting)
}
