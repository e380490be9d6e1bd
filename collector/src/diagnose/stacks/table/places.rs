//! Where in a function a stack may be, and what is held there.
//!
//! Takes the steps of one function and what stands between it and the top of the stack. Does not know of other functions.

use probe_ebpf::abi::Mode;
use probe_ebpf::names::class_id::RESET_WORK;

use super::reading::Named;
use super::sleep::Mechanism;
use super::steps::{Act, Lock, Sequence, Step};

/// Locks held in a place.
#[derive(Debug, Default, Clone)]
pub(super) struct Held {
    pub(super) sure: Vec<Lock>,
    pub(super) maybe: Vec<Lock>,
}

impl Held {
    pub(super) fn hold(&mut self, lock: Lock) {
        self.maybe.retain(|held| *held != lock);
        if !self.sure.contains(&lock) {
            self.sure.push(lock);
        }
    }

    pub(super) fn may_hold(&mut self, lock: Lock) {
        if !self.sure.contains(&lock) && !self.maybe.contains(&lock) {
            self.maybe.push(lock);
        }
    }

    pub(super) fn release(&mut self, class: u8) {
        self.sure.retain(|(held, _)| *held != class);
        self.maybe.retain(|(held, _)| *held != class);
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.maybe.iter().for_each(|lock| self.may_hold(*lock));
        other.sure.iter().for_each(|lock| self.hold(*lock));
    }

    /// Goes on after a step.
    pub(super) fn pass(&mut self, act: Act) {
        match act {
            Act::Lock(lock) | Act::Held(lock) => self.hold(lock),
            Act::LockIf(lock) | Act::HeldIf(lock) => self.may_hold(lock),
            Act::Unlock(class) => self.release(class),
            Act::WaitFlag(..) | Act::Flush | Act::Stay | Act::Poll | Act::Call(_) => {}
        }
    }
}

/// What a function holds where it calls `next`, another function of the table; nothing if it is not known to.
pub(super) fn held_at_call(rule: &Sequence, next: &str) -> Held {
    let mut held = Held::default();
    for step in rule.steps {
        match step.act {
            Act::Call(functions) if functions.contains(&next) => return held,
            act => held.pass(act),
        }
    }
    Held::default()
}

/// A place in a function where the stack may be.
pub(super) struct Place {
    pub(super) waits: Option<Lock>,
    pub(super) polls: bool,
    pub(super) held: Held,
}

pub(super) fn places(rule: &Sequence, between: &[&Named<'_>], mechanism: Mechanism) -> Vec<Place> {
    let is_marker = |name: &str| rule.steps.iter().any(|step| step.within.contains(&name));
    let marker = between
        .iter()
        .map(|frame| frame.name)
        .find(|name| is_marker(name));
    // Between the function and the primitive may stand what a compiler did not inline, and nothing else: an unknown
    // function in another module waits for a lock of its own.
    let direct = between.iter().all(|frame| {
        let driver = match frame.module {
            Some(module) => module == "vfio_ap",
            None => frame.name.starts_with("vfio_ap_"),
        };
        driver || is_marker(frame.name)
    });
    let mut held = Held::default();
    let mut places = Vec::new();
    for step in rule.steps {
        if fits(step, marker) {
            let mut before = held.clone();
            let place = match step.act {
                Act::Lock(lock) | Act::LockIf(lock) if direct && asks(mechanism, lock) => {
                    Some((Some(lock), false))
                }
                Act::WaitFlag(class, guard) if direct && waits_for_event(mechanism) => {
                    before.release(guard);
                    Some((Some((class, Mode::Exclusive)), false))
                }
                Act::Flush if mechanism == Mechanism::Flush => {
                    Some((Some((RESET_WORK, Mode::Exclusive)), false))
                }
                Act::Poll => Some((None, true)),
                // In a reset whose work item is waited for, everything else is with the same locks held.
                Act::Flush | Act::Stay if marker.is_some() => Some((None, false)),
                // Inlined: it sleeps in the function itself. Elsewhere it may be anywhere, and so is a task that runs.
                Act::Stay if mechanism != Mechanism::Running => {
                    (direct || step.within.is_empty()).then_some((None, false))
                }
                _ => None,
            };
            if let Some((waits, polls)) = place {
                places.push(Place {
                    waits,
                    polls,
                    held: before,
                });
            }
        }
        held.pass(step.act);
    }
    places
}

fn fits(step: &Step, marker: Option<&str>) -> bool {
    match marker {
        None => !step.must,
        Some(name) => step.within.contains(&name),
    }
}

fn asks(mechanism: Mechanism, (_, mode): Lock) -> bool {
    match mechanism {
        Mechanism::Elided => true,
        Mechanism::Mutex => mode == Mode::Exclusive,
        Mechanism::RwsemRead => mode == Mode::Read,
        Mechanism::RwsemWrite => mode == Mode::Write,
        _ => false,
    }
}

fn waits_for_event(mechanism: Mechanism) -> bool {
    matches!(mechanism, Mechanism::WaitEvent | Mechanism::Elided)
}
