//! One run: a machine, its description for the collector, its actors, and the truth at the end.

use std::sync::{Arc, Mutex, PoisonError};

use super::actors::{Actors, Ended, Shared, Stop};
use super::machine::Machine;
use super::protocol::{self, Hello, Truth};
use super::scenario::{self, Scenario};
use super::{Problem, check, driver, objects, points_table};
use crate::options::EmulatorOptions;

/// vCPU threads up to which actors keep the scenario's own pace; with more, all of them slow down in proportion, so
/// that the load on the driver's one lock stays what it is.
const FULL_PACE_VCPUS: f64 = 16.0;

/// A run. It can be asked for its end by several threads.
#[derive(Debug)]
pub struct Run {
    options: EmulatorOptions,
    scenario: &'static Scenario,
    machine: &'static Machine,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Built,
    Running(Actors),
    Ended(Box<Truth>),
}

impl Run {
    /// Builds the machine; nothing runs yet.
    pub fn build(options: &EmulatorOptions) -> Result<Self, Problem> {
        check(options)?;
        Self::build_checked(options, false)
    }

    /// The same, recording what each actor decides.
    #[cfg(test)]
    pub fn build_recording(options: &EmulatorOptions) -> Result<Self, Problem> {
        check(options)?;
        Self::build_checked(options, true)
    }

    fn build_checked(options: &EmulatorOptions, record: bool) -> Result<Self, Problem> {
        let unknown =
            |what: &str| Problem::new(format!("unknown {what}"), "it is not listed", "--help");
        let generation =
            driver::generation(&options.generation).ok_or_else(|| unknown("generation"))?;
        let scenario = scenario::scenario(&options.scenario).ok_or_else(|| unknown("scenario"))?;
        let guests = if scenario.single_guest {
            1
        } else {
            options.guests
        };
        let machine = Machine::build(generation, guests, options.vcpus);
        let vcpus = f64::from(guests * options.vcpus);
        Ok(Self {
            options: EmulatorOptions {
                guests,
                ..options.clone()
            },
            scenario,
            machine,
            shared: Arc::new(Shared {
                machine,
                stop: Stop::default(),
                seed: options.seed,
                pace: (vcpus / FULL_PACE_VCPUS).max(1.0) / options.rate,
                known_holds_ns: Mutex::default(),
                record,
            }),
            state: Mutex::new(State::Built),
        })
    }

    /// The description for the collector.
    pub fn hello(&self) -> Result<Hello, Problem> {
        let (executable, points) = points_table::read()?;
        Ok(Hello {
            version: protocol::VERSION,
            pid: std::process::id(),
            executable,
            generation: self.options.generation.clone(),
            scenario: self.options.scenario.clone(),
            seed: self.options.seed,
            guests: self.options.guests,
            vcpus: self.options.vcpus,
            points,
            locks: self.machine.lock_objects(),
            offsets: objects::offsets(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the actors, unless they were started before.
    pub fn go(&self) -> Result<(), Problem> {
        let mut state = self.state();
        if matches!(*state, State::Built) {
            let specs = (self.scenario.actors)(self.machine);
            let count = specs.len();
            let actors = Actors::start(Arc::clone(&self.shared), specs).map_err(|error| {
                Problem::new(
                    format!("{count} threads could not be started"),
                    error.to_string(),
                    "fewer --guests or --vcpus, or a higher limit on processes (ulimit -u)",
                )
            })?;
            *state = State::Running(actors);
        }
        Ok(())
    }

    /// Stops the actors and returns the truth; the same again when called again.
    pub fn stop(&self) -> Truth {
        let mut state = self.state();
        let truth = match &mut *state {
            State::Ended(truth) => return (**truth).clone(),
            State::Built => self.truth(Ended::Finished, Vec::new()),
            State::Running(actors) => {
                let ended = actors.stop();
                self.truth(ended, actors.known_holds_ns())
            }
        };
        *state = State::Ended(Box::new(truth.clone()));
        truth
    }

    fn truth(&self, ended: Ended, known_holds_ns: Vec<u64>) -> Truth {
        let (ended, in_flight) = match ended {
            Ended::Finished => ("finished", Vec::new()),
            Ended::Stuck(in_flight) => ("stuck", in_flight),
        };
        Truth {
            schema: 1,
            generation: self.options.generation.clone(),
            scenario: self.options.scenario.clone(),
            seed: self.options.seed,
            ended: ended.into(),
            locks: self.machine.lock_truth(),
            entry_points: self
                .machine
                .entries
                .read(&self.machine.generation.entry_points()),
            in_flight,
            known_holds_ns,
        }
    }

    /// What each actor decided, by thread name, while running and recording.
    #[cfg(test)]
    pub fn decisions(&self) -> std::collections::BTreeMap<String, Vec<String>> {
        match &*self.state() {
            State::Running(actors) => actors.decisions(),
            State::Built | State::Ended(_) => std::collections::BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options(generation: &str, seed: u64) -> EmulatorOptions {
        EmulatorOptions {
            generation: generation.into(),
            seed,
            ..EmulatorOptions::default()
        }
    }

    /// At rest every acquisition was released, every call has returned.
    fn assert_consistent(truth: &Truth) {
        assert_eq!(truth.ended, "finished", "{:?}", truth.in_flight);
        for lock in &truth.locks {
            let name = format!("{} {}", lock.class, lock.mode);
            assert_eq!(lock.acquisitions, lock.releases, "{name}");
            if lock.class != "kvm_busy" {
                assert!(
                    lock.contended <= lock.acquisitions + lock.attempts_failed,
                    "{name}"
                );
            }
            let sum: u64 = lock.by_instance.iter().map(|i| i.acquisitions).sum();
            assert_eq!(sum, lock.acquisitions, "{name}");
        }
        for entry in &truth.entry_points {
            let returned: u64 = entry.returns.values().sum();
            assert_eq!(entry.calls, returned, "{}", entry.name);
        }
    }

    #[test]
    fn steady_is_never_stuck_and_uses_everything() {
        for generation in crate::emulator::generations() {
            for seed in 1..=3 {
                let run = Run::build(&options(generation, seed)).unwrap();
                run.go().unwrap();
                std::thread::sleep(Duration::from_secs(2));
                let truth = run.stop();
                if std::env::var_os("SHOW").is_some() {
                    for l in &truth.locks {
                        println!(
                            "{generation} {} {} acq {} cont {}",
                            l.class, l.mode, l.acquisitions, l.contended
                        );
                    }
                    for e in &truth.entry_points {
                        println!("{} {} {:?} {:?}", e.name, e.calls, e.returns, e.pqap);
                    }
                }
                assert_consistent(&truth);
                assert_eq!(run.stop(), truth, "the truth does not change after the end");
            }
        }
    }
}
