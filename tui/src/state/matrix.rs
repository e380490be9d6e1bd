//! What is known of a guest's matrix: queues and mdevs.
//!
//! What is assigned and what a guest was given is in the description of its mdev, where the driver's memory can be read.
//! Everywhere, frames carry what was seen to happen: the queue that a vCPU named in a PQAP and how it was answered, and the
//! work items that reset a queue.

use std::collections::BTreeMap;

use apscope_collector::frame::{Matrix, Object};
use apscope_collector::model::Model;
use probe_ebpf::names::class_id;

use super::Snapshot;

/// What is known of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueState {
    /// It is assigned to an mdev of the guest, or a work item for it exists; nobody has been seen to use it.
    Known,
    /// The guest was given it; where that cannot be read, a PQAP was answered as one for a queue that it has.
    InGuest,
    /// A PQAP was answered 01 (not available), 03 (deconfigured) or 04 (checkstopped).
    Refused(u8),
    /// It is being reset.
    Resetting,
    /// It has been in a reset for longer than a finding takes.
    Stuck,
}

/// A queue of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Adapter.
    pub adapter: u8,
    /// Domain.
    pub domain: u8,
    /// What is known of it.
    pub state: QueueState,
    /// PQAPs of the guest that named it.
    pub uses: u64,
}

/// An mdev of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    /// UUID.
    pub name: String,
    /// Control domains that are assigned to it.
    pub control_domains: Vec<u32>,
}

/// What is known of a guest's matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestMatrix {
    /// Queues, by adapter and domain.
    pub queues: Vec<Queue>,
    /// Its mdevs, as far as the driver's memory says what is assigned to them.
    pub mdevs: Vec<Mdev>,
}

/// In a reset for longer, a queue is stuck.
const RESET_NS: u64 = 1_000_000_000;

/// The matrix of a guest, by its number.
#[must_use]
pub fn of(shown: &Snapshot, guest: u32) -> GuestMatrix {
    let mdevs = assigned(&shown.model, guest).map(|object| Mdev {
        name: object.name.clone(),
        control_domains: object
            .assigned
            .as_ref()
            .map_or_else(Vec::new, |all| all.control_domains.clone()),
    });
    GuestMatrix {
        queues: queues(shown, guest),
        mdevs: mdevs.collect(),
    }
}

fn queues(shown: &Snapshot, guest: u32) -> Vec<Queue> {
    let model = &shown.model;
    let mut known: BTreeMap<u16, Queue> = BTreeMap::new();
    let queue = |apqn: u16, state, uses| Queue {
        adapter: (apqn >> 8) as u8,
        domain: apqn as u8,
        state,
        uses,
    };
    let mut is_assigned = false;
    for object in assigned(model, guest) {
        is_assigned = true;
        for (matrix, state) in [
            (&object.assigned, QueueState::Known),
            (&object.in_guest, QueueState::InGuest),
        ] {
            for apqn in matrix.iter().flat_map(apqns) {
                known.insert(apqn, queue(apqn, state, 0));
            }
        }
    }
    let work = u32::from(class_id::RESET_WORK);
    let number = guest.saturating_add(1);
    let works = model.instances.values();
    for instance in works.filter(|known| known.guest == number && known.series >> 1 == work) {
        if let Some(apqn) = apqn_of(&instance.name) {
            known
                .entry(apqn)
                .or_insert_with(|| queue(apqn, QueueState::Known, 0));
        }
    }
    let used = shown.history.queues();
    for (&(_, apqn), used) in used.range((guest, 0)..=(guest, u16::MAX)) {
        // AP_RESPONSE_* of arch/s390/include/asm/ap.h (v5.10 to v7.2).
        let state = match used.response {
            response @ (1 | 3 | 4) => QueueState::Refused(response),
            2 => QueueState::Resetting,
            _ => QueueState::InGuest,
        };
        // An answer of before says nothing of a queue that was taken away since.
        let state = match known.get(&apqn).map(|queue| queue.state) {
            Some(now) if state == QueueState::InGuest && is_assigned => now,
            None if state == QueueState::InGuest && is_assigned => continue,
            _ => state,
        };
        known.insert(apqn, queue(apqn, state, used.count));
    }
    let holds = model.live.iter().flat_map(|task| &task.holds);
    for hold in holds.filter(|hold| hold.series >> 1 == work) {
        let Some(instance) = model.instances.get(&hold.instance) else {
            continue;
        };
        let Some(apqn) = apqn_of(&instance.name) else {
            continue;
        };
        if (instance.guest == 0 || instance.guest == number)
            && let Some(queue) = known.get_mut(&apqn)
        {
            let stuck = model.last.at_ns.saturating_sub(hold.since_ns) >= RESET_NS;
            queue.state = if stuck {
                QueueState::Stuck
            } else {
                QueueState::Resetting
            };
        }
    }
    known.into_values().collect()
}

/// Mdevs whose matrix is known, and that a guest has or had last.
fn assigned(model: &Model, guest: u32) -> impl Iterator<Item = &Object> {
    let objects = model.objects.values();
    objects.filter(move |object| {
        object.guest.checked_sub(1) == Some(guest) && object.assigned.is_some()
    })
}

/// The queues of a matrix: each adapter with each usage domain.
fn apqns(matrix: &Matrix) -> impl Iterator<Item = u16> {
    matrix.adapters.iter().flat_map(|&adapter| {
        let domains = matrix.domains.iter();
        domains.map(move |&domain| ((adapter & 0xff) << 8 | domain & 0xff) as u16)
    })
}

/// `05.0004` in the name of a lock instance: adapter and domain, in hexadecimal as the kernel prints them.
fn apqn_of(name: &str) -> Option<u16> {
    let (_, queue) = name.strip_suffix(']')?.split_once('[')?;
    let (adapter, domain) = queue.split_once('.')?;
    let adapter = u8::from_str_radix(adapter, 16).ok()?;
    let domain = u8::try_from(u16::from_str_radix(domain, 16).ok()?).ok()?;
    Some(u16::from(adapter) << 8 | u16::from(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_named_as_the_kernel_does() {
        assert_eq!(apqn_of("reset_work[05.0004]"), Some(0x0504));
        assert_eq!(apqn_of("reset_work[ff.00fe]"), Some(0xfffe));
        for name in [
            "reset_work",
            "reset_work[05]",
            "reset_work[5g.0000]",
            "reset_work[05.0100]",
        ] {
            assert_eq!(apqn_of(name), None, "{name}");
        }
    }
}
