//! What no probe sees: of the driver, by its generation, and of locks that a person named, by the level.

use super::{Machine, Named};
use crate::attach::generation::{Generation, Generations};

/// Those of a machine.
pub(super) fn of(candidates: Generations, machine: &Machine<'_>) -> Vec<BlindSpot> {
    let of_driver = BLIND_SPOTS.iter();
    let of_driver = of_driver.filter(|spot| spot.generations.meets(candidates));
    let named = machine.named != Named::default();
    let of_named = OF_NAMED
        .iter()
        .filter(|(levels, _)| named && levels.contains(&machine.level))
        .map(|(_, spot)| spot);
    of_driver.chain(of_named).copied().collect()
}

/// What no probe sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlindSpot {
    /// A name for machines.
    pub id: &'static str,
    /// The statement.
    pub text: &'static str,
    /// Generations that it is true of.
    pub generations: Generations,
}

/// What is invisible on every machine, or with some generations.
pub const BLIND_SPOTS: &[BlindSpot] = &[
    BlindSpot {
        id: "sie",
        text: "NQAP, DQAP and PQAP functions that the machine interprets never leave SIE: no probe sees a guest use its queues",
        generations: Generations::ALL,
    },
    BlindSpot {
        id: "aqic-only",
        text: "of the PQAP functions that do leave SIE, KVM hands only AQIC (function code 3) to the driver; it answers all others itself",
        generations: Generations::ALL,
    },
    BlindSpot {
        id: "aqic-status",
        text: "the status of AQIC is unusable: ap_aqic() returns the wrong half of its register (seen with 5.10.223), so response codes of AQIC are not counted as such",
        generations: Generations::of(&[Generation::V5_10]),
    },
    BlindSpot {
        id: "completions",
        text: "waits for completions, and for wait queues that are not probed, are no lock waits: a task in them shows as sleeping in its entry point",
        generations: Generations::ALL,
    },
    BlindSpot {
        id: "clear-flag",
        text: "a test that finds kvm_busy clear leaves no trace: order edges from it are annotated, not observed",
        generations: Generations::of(&[Generation::V5_13, Generation::V5_15Rc]),
    },
    BlindSpot {
        id: "reset-work",
        text: "a queue's hardware is polled inside a work item: why a reset takes long is not visible, only that it does",
        generations: Generations::of(&[Generation::V6_6, Generation::V7_3]),
    },
];

/// What is invisible of locks that a person named, at some levels.
const OF_NAMED: &[(&[u8], BlindSpot)] = &{
    const fn spot(id: &'static str, text: &'static str) -> BlindSpot {
        BlindSpot {
            id,
            text,
            generations: Generations::ALL,
        }
    }
    [
        (
            &[0, 1, 2],
            spot(
                "other-kinds",
                "spin locks, semaphores and per-CPU rwsems: of what --lock names, mutexes and rwsems are measured",
            ),
        ),
        (
            &[1, 2],
            spot(
                "spun-through",
                "waits for an rwsem that end while the task still spins: contention_begin comes when it goes to sleep",
            ),
        ),
        (
            &[1],
            spot(
                "fast-path",
                "acquisitions that find a lock free, and how long it is held: level 1 sees contended waits alone",
            ),
        ),
        (
            &[0],
            spot(
                "waits",
                "how often and how long tasks wait: level 0 sees who waits at each reading, and counts nothing",
            ),
        ),
    ]
};
