//! What a stack implies: which locks a task holds and which it waits for, by the functions on it.
//!
//! Takes a task and the generations that the driver may be of; gives held and awaited locks with the rule that says so.
//! Compilers inline: what stands between two functions of the table may be missing. Knows classes of locks, not
//! instances, and looks at one task alone.

mod hidden;
mod places;
mod reading;
mod sequences;
mod sleep;
mod steps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod written;

use probe_ebpf::names::{ENTRY_POINTS, entry_id};

use super::text::Task;
use crate::attach::generation::{Generation, Generations};
use places::{Held, held_at_call, places};
use reading::{Named, Reading};
pub use sleep::Mechanism;
pub use steps::Lock;
use steps::{Act, Owner, Sequence};

/// What a stack implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Implied {
    /// Held for certain, in every case that the stack allows, outermost first.
    pub holds: Vec<Lock>,
    /// Held in some of these cases.
    pub may_hold: Vec<Lock>,
    /// What it waits for; several, in the order of the source, where the stack does not tell.
    pub waits: Option<Vec<Candidate>>,
    /// Entry points on the stack, outermost first.
    pub inside: Vec<u8>,
    /// What it does.
    pub activity: Activity,
    /// Held or used besides, by name: what has no lock class.
    pub also: Vec<&'static str>,
    /// The rule that was applied to the innermost function of the table, with the release it was read in; empty if none
    /// was.
    pub rule: &'static str,
    /// The stack leaves no other reading: one awaited lock at most, in all generations.
    pub certain: bool,
    /// The guest that it is about is that of the task's own process.
    pub own_guest: bool,
    /// A return probe hides a function of the table, which is taken to be there.
    pub caller_hidden: bool,
}

/// A lock that may be the awaited one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The lock, and how it is asked for.
    pub lock: Lock,
    /// What is held if it is this one.
    pub holds: Vec<Lock>,
    /// What may be held if it is this one.
    pub may_hold: Vec<Lock>,
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// It waits for a lock of the table.
    Waiting,
    /// It sleeps in this function, for something else.
    SleepingIn(String),
    /// It polls hardware.
    PollingHardware,
    /// It runs.
    Running,
    /// No function of the table is on its stack.
    Elsewhere,
}

/// Named, and without a class.
const ALSO: &[(&[&str], &str)] = &[
    (
        &[
            "kernfs_fop_write_iter",
            "kernfs_fop_write",
            "sysfs_kf_seq_show",
        ],
        "the attribute's active reference (kernfs), which its removal waits for",
    ),
    (
        &["kvm_arch_vcpu_ioctl_run"],
        "kvm->srcu for reading, while an intercept is handled",
    ),
    (
        &["ap_scan_bus", "ap_scan_bus_wq_callback"],
        "the AP bus's scan, which no other scan overtakes",
    ),
];

/// What a task's stack implies, if the driver is of one of these generations.
#[must_use]
pub fn imply(task: &Task, generations: Generations) -> Implied {
    let reading = Reading::new(task);
    let mut merged: Option<Implied> = None;
    for generation in generations.iter() {
        let one = imply_one(&reading, generation);
        merged = Some(match merged {
            None => one,
            Some(before) => merge(before, one),
        });
    }
    let mut implied = merged.unwrap_or_else(|| elsewhere(&reading));
    implied.inside = inside(&reading);
    implied.also = ALSO
        .iter()
        .filter(|(functions, _)| {
            let mut frames = reading.frames.iter();
            frames.any(|frame| functions.contains(&frame.name))
        })
        .map(|(_, what)| *what)
        .collect();
    implied.certain &= !reading.doubtful && !implied.caller_hidden;
    implied
}

fn elsewhere(reading: &Reading<'_>) -> Implied {
    Implied {
        holds: Vec::new(),
        may_hold: Vec::new(),
        waits: None,
        inside: Vec::new(),
        activity: match reading.mechanism {
            Mechanism::Running => Activity::Running,
            _ => Activity::Elsewhere,
        },
        also: Vec::new(),
        rule: "",
        certain: true,
        own_guest: false,
        caller_hidden: false,
    }
}

fn inside(reading: &Reading<'_>) -> Vec<u8> {
    let id = |frame: &Named<'_>| {
        let entry = ENTRY_POINTS.iter().position(|entry| {
            let owner = match entry.module {
                "vfio_ap" => Owner::Driver,
                "kvm" => Owner::Kvm,
                _ => Owner::Others,
            };
            entry.name == frame.name && frame.is_of(owner)
        })?;
        u8::try_from(entry).ok().filter(|id| *id != entry_id::NONE)
    };
    reading.frames.iter().rev().filter_map(id).collect()
}

/// A function of the table on a stack.
struct Found {
    /// Index of its frame.
    at: usize,
    /// Its rules in this generation.
    sequences: Vec<&'static Sequence>,
}

/// The functions of the table on a stack, and whether one of them is inferred.
fn find(reading: &Reading<'_>, generation: Generation) -> (Vec<Found>, bool) {
    let rules = || sequences::TABLE.iter().flat_map(|part| part.iter());
    let mut found: Vec<Found> = Vec::new();
    for (at, frame) in reading.frames.iter().enumerate() {
        let sequences: Vec<&Sequence> = rules()
            .filter(|rule| {
                rule.generations.has(generation)
                    && rule.functions.contains(&frame.name)
                    && frame.is_of(rule.owner)
            })
            .collect();
        if !sequences.is_empty() {
            found.push(Found { at, sequences });
        }
    }
    let behind = hidden::behind_a_return_probe(reading, generation);
    let is_hidden = behind.is_some();
    found.extend(behind);
    found.sort_by_key(|one| one.at);
    let alone = |one: &Found| one.sequences.iter().all(|rule| rule.only_with_others);
    if found.iter().all(alone) {
        found.clear();
    }
    (found, is_hidden)
}

fn imply_one(reading: &Reading<'_>, generation: Generation) -> Implied {
    let (found, caller_hidden) = find(reading, generation);
    let mut implied = elsewhere(reading);
    implied.caller_hidden = caller_hidden;
    let Some((innermost, outer)) = found.split_first() else {
        return implied;
    };
    let mut context = Held::default();
    for (index, one) in outer.iter().enumerate().rev() {
        // Index 0 of `outer` is the second function from the top.
        let next = if index == 0 {
            innermost
        } else {
            &outer[index - 1]
        };
        let next = reading.frames[next.at].name;
        for rule in &one.sequences {
            context.add(&held_at_call(rule, next));
        }
    }
    let between: Vec<&Named<'_>> = reading.frames[..innermost.at].iter().collect();
    let mut waits = Vec::new();
    let mut stays = Vec::new();
    for rule in &innermost.sequences {
        let all = places(rule, &between, reading.mechanism);
        for place in all {
            let mut holds = context.clone();
            holds.add(&place.held);
            match place.waits {
                Some(lock) => waits.push((rule, lock, holds)),
                None => stays.push((rule, place.polls, holds)),
            }
        }
    }
    implied.own_guest = innermost.sequences.iter().any(|rule| rule.own_guest);
    implied.rule = innermost.sequences[0].rule;
    if let Some((rule, ..)) = waits.first() {
        implied.rule = rule.rule;
        implied.certain = waits.len() == 1 && waits.iter().all(|(rule, ..)| rule.sure);
        implied.activity = Activity::Waiting;
        let candidates: Vec<Candidate> = waits
            .into_iter()
            .map(|(_, lock, held)| Candidate {
                lock,
                holds: held.sure,
                may_hold: held.maybe,
            })
            .collect();
        set_holds(&mut implied, &candidates);
        implied.waits = Some(distinct(candidates));
        return implied;
    }
    implied.activity = match reading.mechanism {
        Mechanism::Running => Activity::Running,
        _ => Activity::SleepingIn(reading.asleep_in()),
    };
    if let Some((rule, polls, held)) = stays.pop() {
        implied.rule = rule.rule;
        if polls && reading.mechanism == Mechanism::Msleep {
            implied.activity = Activity::PollingHardware;
        }
        (implied.holds, implied.may_hold) = (held.sure, held.maybe);
    } else {
        // It is in a function of the table, at a place that the table does not have.
        for rule in &innermost.sequences {
            for step in rule.steps {
                let Act::Held(lock) = step.act else { break };
                context.hold(lock);
            }
            // It may be behind any of the driver's steps.
            let of_driver = rule.owner == Owner::Driver && reading.mechanism != Mechanism::Running;
            for step in rule.steps.iter().filter(|_| of_driver) {
                if let Act::Lock(lock) | Act::LockIf(lock) | Act::HeldIf(lock) = step.act {
                    context.may_hold(lock);
                }
            }
        }
        implied.certain = false;
        (implied.holds, implied.may_hold) = (context.sure, context.maybe);
    }
    implied
}

/// Same lock with the same locks held: one candidate.
fn distinct(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if !all.contains(&candidate) {
            all.push(candidate);
        }
    }
    all
}

/// Held is what is held in all cases; what is held in some may be.
fn set_holds(implied: &mut Implied, candidates: &[Candidate]) {
    let Some((first, others)) = candidates.split_first() else {
        return;
    };
    let in_all = |lock: &Lock| others.iter().all(|c| c.holds.contains(lock));
    implied.holds = first.holds.iter().copied().filter(in_all).collect();
    implied.may_hold.clear();
    for lock in candidates
        .iter()
        .flat_map(|c| c.holds.iter().chain(&c.may_hold))
    {
        if !implied.holds.contains(lock) && !implied.may_hold.contains(lock) {
            implied.may_hold.push(*lock);
        }
    }
}

/// Of two generations.
fn merge(mut a: Implied, b: Implied) -> Implied {
    let same = a.holds == b.holds && a.may_hold == b.may_hold && a.waits == b.waits;
    a.own_guest |= b.own_guest;
    a.caller_hidden |= b.caller_hidden;
    if a.rule.is_empty() {
        a.rule = b.rule;
    }
    a.certain &= b.certain && same;
    if same {
        return a;
    }
    let mut may: Vec<Lock> = a.may_hold.clone();
    for lock in a.holds.iter().chain(&b.holds).chain(&b.may_hold) {
        let in_both = a.holds.contains(lock) && b.holds.contains(lock);
        if !in_both && !may.contains(lock) {
            may.push(*lock);
        }
    }
    a.holds.retain(|lock| b.holds.contains(lock));
    a.may_hold = may;
    match (&mut a.waits, b.waits) {
        (Some(all), Some(more)) => {
            all.extend(more);
            a.waits = Some(distinct(std::mem::take(all)));
        }
        (all @ None, Some(more)) => {
            *all = Some(more);
            a.activity = Activity::Waiting;
        }
        (_, None) => {}
    }
    a
}
