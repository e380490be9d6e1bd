//! The tasks of a text as a frame, as a source gives it: who holds what, who waits for what.
//!
//! Takes a parsed text and, if a person named it, the generation; gives a frame, and notes on what is assumed. Times are
//! made up: the text is of one moment, [`AT_NS`], and how long a task is blocked is as the hung-task detector says.

mod instances;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use probe_ebpf::abi::{NO_INSTANCE, series};
use probe_ebpf::names::class_id::VCPU_MUTEX;
use probe_ebpf::names::entry_id::{KVM_VCPU_IOCTL, NONE};

use super::generation::{self, NOT_USED, RELEASED};
use super::table::{Activity, imply};
use super::text::{MAX_TASKS, Parsed, Saved, Task};
use crate::attach::generation::Generation;
use crate::frame;
use instances::{Group, Instances};
use settle::{Absent, Actor, Fact, Settling};

/// The moment of the text, in nanoseconds: 13 days after the kernel's start, so that nothing was blocked before it.
pub const AT_NS: u64 = 1 << 50;

/// Entry points of one task, the innermost.
const MAX_INSIDE: usize = 16;

/// Notes on what was settled.
const MAX_NOTES: usize = 64;

/// Makes a frame of a text. `generation` is a name as in [`Generation::name`]; an unknown one is said in the notes and not
/// used.
#[must_use]
pub fn frame(parsed: &Parsed, generation: Option<&str>) -> (frame::Frame, Vec<String>) {
    let mut notes = parsed.notes.clone();
    let given = generation.and_then(|name| {
        let found = Generation::ALL.into_iter().find(|g| g.name() == name);
        if found.is_none() {
            notes.push(format!("no generation is named {name}: not used"));
        }
        found
    });
    let candidates = generation::candidates(parsed, given);
    notes.extend(
        candidates
            .evidence
            .iter()
            .filter(|line| line.ends_with(NOT_USED) && !line.starts_with(RELEASED))
            .map(|line| {
                format!("{line}; if the text is of two kernels, their tasks are not each other's: give each a file of its own")
            }),
    );
    let actors: Vec<Actor<'_>> = parsed
        .tasks
        .iter()
        .map(|task| Actor::new(task, imply(task, candidates.generations)))
        .collect();
    let mut settling = Settling::new(actors);
    settling.run();
    let Settling {
        actors,
        absent,
        notes: settled,
        ..
    } = settling;
    let more = settled.len().saturating_sub(MAX_NOTES);
    notes.extend(settled.into_iter().take(MAX_NOTES));
    if more > 0 {
        notes.push(format!("and {more} more of that kind"));
    }
    say_what_is_assumed(&actors, &mut notes);
    let mut live = frame::Live::default();
    let mut stacks = Vec::new();
    let mut elsewhere = Vec::new();
    let mut instances = Instances::default();
    for actor in &actors {
        if !is_relevant(actor) {
            // Where it is instead; who runs is not stuck anywhere.
            if actor.task.state != Some('R') && elsewhere.len() < MAX_ELSEWHERE {
                elsewhere.extend(stack(actor.task, &frame::TaskState::default()));
            }
            continue;
        }
        let state = state(actor, &mut instances);
        stacks.extend(stack(actor.task, &state));
        live.tasks.push(state);
    }
    // A model takes so many.
    let room = MAX_TASKS.saturating_sub(live.tasks.len());
    live.tasks.extend(
        absent
            .into_iter()
            .take(room)
            .map(|(tid, owner)| absent_state(tid, &owner, &mut instances)),
    );
    let series: BTreeSet<u32> = live
        .tasks
        .iter()
        .flat_map(|task| {
            let holds = task.holds.iter().map(|holding| holding.series);
            holds.chain(task.waits.iter().map(|waiting| waiting.series))
        })
        .collect();
    let entries: BTreeSet<u32> = live
        .tasks
        .iter()
        .flat_map(|task| task.inside.iter().map(|inside| inside.entry))
        .collect();
    let longest = parsed.tasks.iter().filter_map(|t| t.blocked_for_s).max();
    let (instances, guests) = instances.finish();
    let meta = frame::Meta {
        source: "stacks".into(),
        probe: "none".into(),
        generation: candidates.generations.to_string(),
        kernel_release: parsed.kernel_release.clone().unwrap_or_default(),
        reason: format!("a text with stacks of {} tasks", parsed.tasks.len()),
        start_ns: since(longest),
        instances,
        series: series.into_iter().collect(),
        entries: entries.into_iter().collect(),
        guests,
        version: env!("CARGO_PKG_VERSION").into(),
        evidence: candidates.evidence,
        blind_spots: vec![
            "tasks that are not in the text".into(),
            "which instance of a lock it is: told apart by process and by task".into(),
        ],
        ..frame::Meta::default()
    };
    let frame = frame::Frame {
        at_ns: AT_NS,
        meta: Some(meta),
        live: Some(live),
        // Those that matter last: of too many, the first are forgotten.
        stacks: elsewhere.into_iter().chain(stacks).collect(),
        log: parsed.messages.iter().map(|text| said(text)).collect(),
        ..frame::Frame::default()
    };
    (frame, notes)
}

/// A message of the driver.
fn said(text: &str) -> frame::LogLine {
    frame::LogLine {
        at_ns: AT_NS,
        level: frame::LogLine::DRIVER.into(),
        text: text.into(),
    }
}

fn is_relevant(actor: &Actor<'_>) -> bool {
    let nowhere = matches!(
        actor.implied.activity,
        Activity::Elsewhere | Activity::Running
    );
    !nowhere || !actor.implied.inside.is_empty() || !actor.holds.is_empty() || actor.wait.is_some()
}

fn say_what_is_assumed(actors: &[Actor<'_>], notes: &mut Vec<String>) {
    let relevant = || actors.iter().filter(|actor| is_relevant(actor));
    let own = |group: fn(&Group) -> bool| {
        relevant().any(|actor| actor.implied.own_guest && group(&actor.group))
    };
    if own(|group| matches!(group, Group::ChildrenOf(_))) {
        notes.push(
            "the text has no thread group ids: threads of one parent are taken to be of one guest"
                .into(),
        );
    }
    if own(|group| *group == Group::Unknown) {
        notes.push(
            "the text does not say which process threads belong to: all are taken to be of one guest"
                .into(),
        );
    }
    for actor in relevant().filter(|actor| actor.implied.caller_hidden) {
        notes.push(format!(
            "{} ({}): a return probe hides a caller, which is taken to be the driver's",
            actor.task.comm, actor.task.tid
        ));
    }
    if relevant().next().is_none() {
        notes.push("no task of the text is in vfio_ap, or in kvm where it calls it".into());
    } else if relevant().all(|actor| actor.task.blocked_for_s.is_none()) {
        notes.push("the text does not say how long: times are 0".into());
    }
}

fn since(blocked_for_s: Option<u64>) -> u64 {
    let ns = blocked_for_s.unwrap_or(0).saturating_mul(1_000_000_000);
    // 0 is "never" in a frame.
    AT_NS.saturating_sub(ns).max(1)
}

fn state(actor: &Actor<'_>, instances: &mut Instances) -> frame::TaskState {
    let task = actor.task;
    let since_ns = since(task.blocked_for_s);
    // A model takes so many.
    let inside = &actor.implied.inside;
    let inside = &inside[inside.len().saturating_sub(MAX_INSIDE)..];
    let innermost = inside.last().copied().unwrap_or(NONE);
    let entry = |fact: &Fact| {
        // The one lock that an outer function takes and an entry point is known of.
        if fact.key.class() == VCPU_MUTEX && inside.contains(&KVM_VCPU_IOCTL) {
            u32::from(KVM_VCPU_IOCTL)
        } else {
            u32::from(innermost)
        }
    };
    let holds = actor.holds.iter().zip(1..);
    let holds: Vec<frame::Holding> = holds
        .map(|(fact, serial)| holding(fact, serial, since_ns, entry(fact), instances, actor.group))
        .collect();
    let group = actor.group;
    let waits = actor.wait.iter().map(|fact| {
        let (instance, lock) = instances.get(fact.key, fact.mode, group);
        frame::Waiting {
            series: u32::from(series(fact.key.class(), fact.mode)),
            instance,
            lock,
            since_ns,
            serial: 1,
            entry: u32::from(innermost),
            rounds: 0,
            evidence: match actor.or.as_slice() {
                [] if fact.evidence.contains("assumed") && task.saved == Saved::Same => {
                    format!("{}, the same in two saves", fact.evidence)
                }
                [] => fact.evidence.into(),
                or => {
                    let evidence = fact.evidence.trim_end_matches(", assumed");
                    format!("{evidence}, assumed: or {}", or.join(", or "))
                }
            },
        }
    });
    let waits: Vec<frame::Waiting> = waits.collect();
    frame::TaskState {
        tid: task.tid,
        pid: task.tgid.unwrap_or(0),
        comm: task.comm.clone(),
        holds,
        waits,
        inside: inside
            .iter()
            .map(|entry| frame::Inside {
                entry: u32::from(*entry),
                since_ns,
                ..frame::Inside::default()
            })
            .collect(),
        state: task.state.map(String::from).unwrap_or_default(),
        asleep_in: match &actor.implied.activity {
            Activity::SleepingIn(function) => function.clone(),
            Activity::PollingHardware => "msleep".into(),
            Activity::Waiting | Activity::Running | Activity::Elsewhere => String::new(),
        },
        ..frame::TaskState::default()
    }
}

fn holding(
    fact: &Fact,
    serial: u64,
    since_ns: u64,
    entry: u32,
    instances: &mut Instances,
    group: Group,
) -> frame::Holding {
    let (instance, lock) = instances.get(fact.key, fact.mode, group);
    frame::Holding {
        series: u32::from(series(fact.key.class(), fact.mode)),
        instance,
        lock,
        since_ns,
        serial,
        entry,
        adopted: true,
        evidence: fact.evidence.into(),
        ..frame::Holding::default()
    }
}

/// An owner of which there is the kernel's word alone. Since when it owns the lock is not known.
fn absent_state(tid: u32, owner: &Absent<'_>, instances: &mut Instances) -> frame::TaskState {
    let holds = owner.holds.iter().zip(1..);
    frame::TaskState {
        tid,
        comm: owner.comm.into(),
        holds: holds
            .map(|(fact, serial)| {
                let entry = u32::from(NONE);
                holding(fact, serial, AT_NS, entry, instances, Group::Unknown)
            })
            .collect(),
        ..frame::TaskState::default()
    }
}

/// Stacks of tasks that are elsewhere, at most.
const MAX_ELSEWHERE: usize = 64;
/// Series of a stack that is of no lock.
const NO_SERIES: u32 = u8::MAX as u32;

/// The stack of a wait, or of what is held; of a task that does neither it says where it is instead.
fn stack(task: &Task, state: &frame::TaskState) -> Option<frame::Stack> {
    let (series, instance, entry, since_ns, hold) = match (state.waits.first(), state.holds.last())
    {
        (Some(w), _) => (w.series, w.instance, w.entry, w.since_ns, false),
        (None, Some(h)) => (h.series, h.instance, h.entry, h.since_ns, true),
        (None, None) => (NO_SERIES, NO_INSTANCE, 0, AT_NS, false),
    };
    (!task.frames.is_empty()).then(|| frame::Stack {
        tid: task.tid,
        comm: task.comm.clone(),
        series,
        instance: match instance {
            NO_INSTANCE => 0,
            id => id.saturating_add(1),
        },
        entry,
        hold,
        ended: false,
        since_ns,
        duration_ns: AT_NS.saturating_sub(since_ns),
        frames: task.frames.iter().map(ToString::to_string).collect(),
    })
}
