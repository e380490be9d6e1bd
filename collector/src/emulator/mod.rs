//! The emulated driver: a faithful user-space model of `vfio_ap` with KVM around it, run as its own process.
//!
//! Real threads contend on real locks ([`primitives`]) in the kernel's sequences ([`driver`], [`kvm`]), through probe
//! points with the kernel's names ([`points`]). It counts its own operations ([`truth`]). [`command`] runs it alone,
//! [`control`] under a collector, which speaks [`protocol`]. It knows nothing of frames, models or eBPF; the only thing
//! it calls outside is the in-process hooks.

mod actors;
mod ap_bus;
mod blocked;
pub mod command;
mod control;
mod driver;
mod hardware;
#[cfg(any(test, feature = "fuzzing"))]
mod invariants;
mod kernel_log;
mod kvm;
mod layout;
mod machine;
mod mdev;
pub(crate) mod mount;
mod objects;
pub mod points;
mod points_table;
mod primitives;
pub mod protocol;
mod rng;
mod run;
mod scenario;
mod truth;
mod vfio_core;

#[cfg(test)]
mod sequences;

/// For the fuzz targets.
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub use mount::fuzzing;

use std::fmt;

use crate::options::{EmulatorOptions, MAX_GUESTS, MAX_VCPU_THREADS, MAX_VCPUS};

/// Why the emulator cannot run, in the words of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// Why.
    pub cause: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "error: {}\ncause: {}\ntry: {}",
            self.what, self.cause, self.hint
        )
    }
}

impl std::error::Error for Problem {}

impl Problem {
    fn new(what: impl Into<String>, cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: cause.into(),
            hint: hint.into(),
        }
    }
}

/// Names of the driver generations, oldest first.
pub fn generations() -> Vec<&'static str> {
    driver::GENERATIONS.iter().map(|g| g.name).collect()
}

/// Names of the scenarios.
pub fn scenarios() -> Vec<&'static str> {
    scenario::SCENARIOS.iter().map(|s| s.name).collect()
}

/// How a scenario ends on a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All actors stop when they are told to.
    Ends,
    /// Some cannot, by design.
    Hangs,
    /// It is refused: the generation does not have what it is about.
    Refused,
}

/// How a scenario ends on a generation; `None` if there is no such scenario.
pub fn outcome(generation: &str, scenario: &str) -> Option<Outcome> {
    let scenario = scenario::scenario(scenario)?;
    Some(if !scenario.is_for(generation) {
        Outcome::Refused
    } else if scenario.hangs_on.contains(&generation) {
        Outcome::Hangs
    } else {
        Outcome::Ends
    })
}

/// A name and what it stands for.
pub type Described = (&'static str, &'static str);

/// The driver generations with what distinguishes each, oldest first, and the scenarios with what each is for.
pub fn catalogue() -> (Vec<Described>, Vec<Described>) {
    (
        driver::GENERATIONS
            .iter()
            .map(|g| (g.name, g.about))
            .collect(),
        scenario::SCENARIOS
            .iter()
            .map(|s| (s.name, s.about))
            .collect(),
    )
}

/// Largest `--rate`.
pub const MAX_RATE: f64 = 1000.0;

/// Checks options before anything is started.
pub fn check(options: &EmulatorOptions) -> Result<(), Problem> {
    if driver::generation(&options.generation).is_none() {
        return Err(Problem::new(
            format!("unknown generation '{}'", options.generation),
            "the emulated driver has no such generation",
            format!("one of {}", generations().join(", ")),
        ));
    }
    let Some(scenario) = scenario::scenario(&options.scenario) else {
        return Err(Problem::new(
            format!("unknown scenario '{}'", options.scenario),
            "the emulated driver has no such scenario",
            format!("one of {}", scenarios().join(", ")),
        ));
    };
    if !scenario.is_for(&options.generation) {
        return Err(Problem::new(
            format!(
                "scenario '{}' is not for generation '{}'",
                scenario.name, options.generation
            ),
            "the scenario is about kvm_busy, an open-coded lock: the generation does not have it, or would deadlock with it here",
            format!("--generation with one of {}", scenario.only.join(", ")),
        ));
    }
    for (name, value, max) in [
        ("guests", options.guests, MAX_GUESTS),
        ("vcpus", options.vcpus, MAX_VCPUS),
    ] {
        if value == 0 || value > max {
            return Err(Problem::new(
                format!("--{name} {value} is out of range"),
                format!("there can be 1 to {max}"),
                format!("--{name} {}", if value == 0 { 1 } else { max }),
            ));
        }
    }
    // Both are within their limits, so the product fits.
    let threads = options.guests * options.vcpus;
    if threads > MAX_VCPU_THREADS {
        return Err(Problem::new(
            format!(
                "{} guests with {} vCPUs each are {threads} vCPU threads",
                options.guests, options.vcpus
            ),
            format!("there can be {MAX_VCPU_THREADS}"),
            format!("--vcpus {}", MAX_VCPU_THREADS / options.guests),
        ));
    }
    if !(options.rate > 0.0 && options.rate <= MAX_RATE) {
        return Err(Problem::new(
            format!("--rate {} is out of range", options.rate),
            format!("it must be above 0 and at most {MAX_RATE}"),
            "--rate 1",
        ));
    }
    if let Some(folder) = &options.mount {
        mount::place::check(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_the_limit_is_named() {
        let with = |change: fn(&mut EmulatorOptions)| {
            let mut options = EmulatorOptions::default();
            change(&mut options);
            check(&options).map_err(|p| p.to_string())
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(
            with(|o| {
                o.guests = 1000;
                o.vcpus = 4;
            }),
            Ok(())
        );
        for (change, expected) in [
            (
                (|o| o.generation = "v4.2".into()) as fn(&mut EmulatorOptions),
                "v5.13, v5.15",
            ),
            (|o| o.scenario = "x".into(), "steady, boot-storm"),
            (
                |o| {
                    o.generation = "v6.6".into();
                    o.scenario = "set-unset".into();
                },
                "one of v5.13, v5.15-rc",
            ),
            (|o| o.guests = 0, "1 to 1000"),
            (|o| o.guests = 100_000, "1 to 1000"),
            (|o| o.vcpus = 0, "1 to 64"),
            (|o| o.vcpus = u32::MAX, "1 to 64"),
            (
                |o| {
                    o.guests = 1000;
                    o.vcpus = 5;
                },
                "there can be 4000",
            ),
            (|o| o.rate = 0.0, "at most 1000"),
            (|o| o.rate = -1.0, "at most 1000"),
            (|o| o.rate = f64::NAN, "at most 1000"),
            (|o| o.rate = 1001.0, "at most 1000"),
        ] {
            let message = with(change).unwrap_err();
            assert!(message.contains(expected), "{message}");
            assert_eq!(message.lines().count(), 3, "{message}");
        }
    }
}
