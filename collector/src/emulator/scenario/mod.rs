//! Scenarios: which actors there are and what each does.
//!
//! What an actor does next depends on its random numbers alone, never on time, on the generation, or on the outcome of
//! what it did. What actors do at the same time is arranged between them in user space ([`meeting`], and gates of
//! the guests), never by a look at a lock.

mod administrator;
mod cast;
mod flags;
mod hotplug;
mod locks;
mod mdevs;
mod meeting;
mod resets;
mod retries;
mod roles;
mod second;
mod secure;
mod steady;
mod storms;

#[cfg(test)]
mod tests;

use super::actors::ActorSpec;
use super::hardware::Script;
use super::layout;
use super::machine::Machine;
use crate::options::MAX_GUESTS;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Name.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Generations that it is for; empty: all.
    pub only: &'static [&'static str],
    /// Generations on which it ends stuck, by design.
    pub hangs_on: &'static [&'static str],
    /// Fewest and most guests, whatever was asked for.
    pub guests: (u32, u32),
    /// Mdevs that can be created besides those of the guests.
    pub spare_mdevs: u32,
    /// What each queue does.
    pub script: fn(u16) -> Script,
    /// Its actors.
    pub actors: fn(&'static Machine) -> Vec<ActorSpec>,
}

impl Scenario {
    /// It can be run on this generation.
    pub fn is_for(&self, generation: &str) -> bool {
        self.only.is_empty() || self.only.contains(&generation)
    }
}

/// Generations that have the open-coded lock.
const WITH_FLAG: [&str; 2] = ["v5.13", "v5.15-rc"];

/// A scenario without anything particular.
const PLAIN: Scenario = Scenario {
    name: "none",
    about: "no actors",
    only: &[],
    hangs_on: &[],
    guests: (1, MAX_GUESTS),
    spare_mdevs: 0,
    script: |_| layout::STEADY_SCRIPT,
    actors: |_| Vec::new(),
};

/// All scenarios.
pub static SCENARIOS: [Scenario; 18] = [
    Scenario {
        name: "steady",
        about: "guests that run, come and go, with an administrator each; never stuck",
        actors: steady::actors,
        ..PLAIN
    },
    Scenario {
        name: "boot-storm",
        about: "all guests start at the same moment, run PQAP at once, and stop at the same moment",
        actors: storms::boot,
        ..PLAIN
    },
    Scenario {
        name: "hotplug",
        about: "queues come and go under running guests: bus scans, apmask, matrix changes, unmapped memory",
        actors: hotplug::actors,
        ..PLAIN
    },
    Scenario {
        name: "pqap-storm",
        about: "vCPUs execute PQAP back to back; throughput",
        script: |_| layout::STORM_SCRIPT,
        actors: storms::pqap,
        ..PLAIN
    },
    Scenario {
        name: "se-start",
        about: "guest 0 is converted to a protected guest while its device is released: the deadlocks",
        hangs_on: &[
            "v5.10",
            "v5.11",
            "v5.13",
            "v5.15-rc",
            "rfc-2021-06",
            "rfc-2021-07",
        ],
        script: |_| layout::SE_SCRIPT,
        actors: secure::start,
        ..PLAIN
    },
    Scenario {
        name: "se-serial",
        about: "the same operations one after the other: the order is recorded, nothing can hang",
        actors: secure::serial,
        ..PLAIN
    },
    Scenario {
        name: "slow-reset",
        about: "queues that take long to reset, with everybody queued behind them",
        script: resets::slow,
        actors: resets::actors,
        ..PLAIN
    },
    Scenario {
        name: "stuck-reset",
        about: "one queue that never completes a reset",
        hangs_on: &["v6.6", "v7.3"],
        script: resets::stuck,
        actors: resets::actors,
        ..PLAIN
    },
    Scenario {
        name: "lost-wakeup",
        about: "fault: one wake-up of those that wait for kvm_busy is left out",
        only: &WITH_FLAG,
        hangs_on: &WITH_FLAG,
        script: |_| layout::STORM_SCRIPT,
        actors: flags::lost_wakeup,
        ..PLAIN
    },
    Scenario {
        name: "remove-in-use",
        about: "mdevs are removed while guests have them open",
        actors: mdevs::remove_in_use,
        ..PLAIN
    },
    Scenario {
        name: "churn",
        about: "mdevs come and go all the time",
        spare_mdevs: mdevs::SPARE,
        actors: mdevs::churn,
        ..PLAIN
    },
    Scenario {
        name: "set-unset",
        about: "two threads set and unset the same mdev at once: kvm_busy with two holders",
        only: &WITH_FLAG,
        guests: (2, MAX_GUESTS),
        actors: flags::set_unset,
        ..PLAIN
    },
    Scenario {
        name: "starved-vcpu",
        about: "vCPUs of guest 0 wait for kvm_busy, which others set again each time before they run",
        only: &["v5.13"],
        guests: (5, 5),
        actors: flags::starved_vcpu,
        ..PLAIN
    },
    Scenario {
        name: "write-retry",
        about: "a tool writes to the matrix of running guests again and again",
        actors: retries::actors,
        ..PLAIN
    },
    Scenario {
        name: "two-mdevs",
        about: "guest 0 is given a second mdev again and again, which is refused",
        hangs_on: &["rfc-2021-06", "rfc-2021-07"],
        spare_mdevs: 1,
        actors: second::actors,
        ..PLAIN
    },
    Scenario {
        name: "lock-cycle",
        about: "benchmark: one thread takes and releases matrix_dev->lock back to back",
        guests: (1, 1),
        actors: locks::lock_cycle,
        ..PLAIN
    },
    Scenario {
        name: "known-holds",
        about: "test: one thread holds matrix_dev->lock for 1, 5 and 20 ms in turn",
        guests: (1, 1),
        actors: locks::known_holds,
        ..PLAIN
    },
    PLAIN,
];

/// The scenario with this name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|s| s.name == name)
}
