//! Scenarios: which actors there are and what each does.

mod locks;
mod roles;
mod steady;

use super::actors::ActorSpec;
use super::hardware::Script;
use super::layout;
use super::machine::Machine;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// It needs one guest, whatever was asked for.
    pub single_guest: bool,
    /// Mdevs that can be created besides those of the guests.
    pub spare_mdevs: u32,
    /// What each queue does.
    pub script: fn(u16) -> Script,
    /// Its actors.
    pub actors: fn(&'static Machine) -> Vec<ActorSpec>,
}

/// All scenarios.
pub static SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "steady",
        about: "guests that run, come and go, with an administrator each; never stuck",
        single_guest: false,
        spare_mdevs: 0,
        script: |_| layout::STEADY_SCRIPT,
        actors: steady::actors,
    },
    Scenario {
        name: "lock-cycle",
        about: "benchmark: one thread takes and releases matrix_dev->lock back to back",
        single_guest: true,
        spare_mdevs: 0,
        script: |_| layout::STEADY_SCRIPT,
        actors: locks::lock_cycle,
    },
    Scenario {
        name: "known-holds",
        about: "test: one thread holds matrix_dev->lock for 1, 5 and 20 ms in turn",
        single_guest: true,
        spare_mdevs: 0,
        script: |_| layout::STEADY_SCRIPT,
        actors: locks::known_holds,
    },
    Scenario {
        name: "none",
        about: "no actors",
        single_guest: false,
        spare_mdevs: 0,
        script: |_| layout::STEADY_SCRIPT,
        actors: |_| Vec::new(),
    },
];

/// The scenario with this name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|s| s.name == name)
}
