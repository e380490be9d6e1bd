//! One run: a machine, its description for the collector, its actors, and the truth at the end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::actors::{Actors, Ended, STUCK_AFTER, Shared, Stop};
use super::blocked::Waits;
use super::machine::{Machine, Plan};
use super::mount::{self, Mounted};
use super::primitives::workqueue::MAX_WORKERS;
use super::protocol::{self, Hello, Truth};
use super::scenario::{self, Scenario};
use super::{Problem, check, driver, objects, points_table};
use crate::options::EmulatorOptions;

/// vCPU threads up to which actors keep the scenario's own pace; with more, all of them slow down in proportion, so
/// that the load on the driver's one lock stays what it is.
const FULL_PACE_VCPUS: f64 = 16.0;

/// Mdevs that can be created through a mounted sysfs, besides those of the guests.
const MOUNT_SPARE_MDEVS: u32 = 16;

/// A run. It can be asked for its end by several threads.
#[derive(Debug)]
pub struct Run {
    options: EmulatorOptions,
    scenario: &'static Scenario,
    machine: &'static Machine,
    shared: Arc<Shared>,
    state: Mutex<State>,
    mounted: Mutex<Option<Mounted>>,
    /// Collectors that are connected.
    collectors: AtomicU32,
}

/// A collector that is connected.
#[derive(Debug)]
pub struct Connected<'a>(&'a Run);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.collectors.fetch_sub(1, Ordering::SeqCst);
    }
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
        let guests = options.guests.clamp(scenario.guests.0, scenario.guests.1);
        let machine = Machine::build(&Plan {
            generation,
            guests,
            vcpus: options.vcpus,
            spare_mdevs: if options.mount.is_some() {
                scenario.spare_mdevs.max(MOUNT_SPARE_MDEVS)
            } else {
                scenario.spare_mdevs
            },
            script: scenario.script,
        });
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
            mounted: Mutex::default(),
            collectors: AtomicU32::new(0),
        })
    }

    /// The description for the collector.
    pub fn hello(&self) -> Result<Hello, Problem> {
        let (executable, mut points) = points_table::read()?;
        // Every generation's functions are in the binary; only those of this one are ever called.
        let present = self.machine.generation.entry_points();
        points.retain(|point| {
            crate::attach::entry_point(&point.module, &point.symbol)
                .is_none_or(|id| present.contains(&id))
        });
        Ok(Hello {
            version: protocol::VERSION,
            pid: std::process::id(),
            executable,
            generation: self.options.generation.clone(),
            scenario: self.options.scenario.clone(),
            seed: self.options.seed,
            guests: self.options.guests,
            vcpus: self.options.vcpus,
            extra_threads: self.extra_threads(),
            points,
            locks: self.machine.lock_objects(),
            subjects: self.machine.subjects(),
            offsets: objects::offsets(self.machine.generation.has_hot_plug),
            tasks: super::primitives::task::layout(),
            collectors: self.collectors.load(Ordering::SeqCst),
        })
    }

    /// A collector has connected: it counts until what is returned is dropped.
    pub fn collector(&self) -> Connected<'_> {
        self.collectors.fetch_add(1, Ordering::SeqCst);
        Connected(self)
    }

    /// What the driver has printed since this was asked for last.
    pub fn messages(&self) -> Vec<protocol::Message> {
        self.machine.log.take()
    }

    /// Workers, and calls of the emulated sysfs.
    fn extra_threads(&self) -> u32 {
        let workers = if self.machine.generation.has_reset_work {
            MAX_WORKERS
        } else {
            0
        };
        let calls = if self.options.mount.is_some() {
            mount::MOST_CALLS
        } else {
            0
        };
        (workers + calls) as u32
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mounted(&self) -> std::sync::MutexGuard<'_, Option<Mounted>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the actors, unless they were started before.
    pub fn go(&self) -> Result<(), Problem> {
        let mut state = self.state();
        if matches!(*state, State::Built) {
            // Not before: what is written before the probes are attached would be counted by the emulator alone.
            if let Some(folder) = &self.options.mount {
                *self.mounted() = Some(Mounted::on(folder, self.machine)?);
            }
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
                let mounted = self.mounted().take();
                if let Some(mounted) = &mounted {
                    mounted.unmount();
                }
                let ended = actors.stop();
                // What the actors held is free now.
                let calls = mounted.map_or_else(Vec::new, |mounted| mounted.finish(STUCK_AFTER));
                let ended = with_calls(ended, calls);
                self.truth(ended, actors.known_holds_ns())
            }
        };
        *state = State::Ended(Box::new(truth.clone()));
        truth
    }

    fn truth(&self, ended: Ended, known_holds_ns: Vec<u64>) -> Truth {
        let (ended, in_flight, blocked) = match ended {
            Ended::Finished => ("finished", Vec::new(), Vec::new()),
            Ended::Stuck(in_flight) => ("stuck", in_flight, Waits::of(self.machine).tasks()),
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
            blocked,
            known_holds_ns,
            flag_holders_max: self.machine.flag_holders_max(),
        }
    }

    /// Tasks that can never go on, with the numbers of their waits.
    #[cfg(test)]
    pub fn deadlocked(&self) -> std::collections::BTreeSet<(u64, u64)> {
        Waits::of(self.machine).deadlocked()
    }

    /// What was counted so far, while it runs.
    #[cfg(test)]
    pub fn truth_now(&self) -> Truth {
        self.truth(Ended::Finished, Vec::new())
    }

    /// The scenario's fault has happened.
    #[cfg(test)]
    pub fn wakeup_is_lost(&self) -> bool {
        self.machine.faults.wakeup_is_lost()
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

/// A run with calls of the emulated sysfs that do not end is stuck, too.
fn with_calls(ended: Ended, calls: Vec<String>) -> Ended {
    if calls.is_empty() {
        return ended;
    }
    let mut in_flight = match ended {
        Ended::Finished => Vec::new(),
        Ended::Stuck(in_flight) => in_flight,
    };
    in_flight.extend(calls.into_iter().map(|call| format!("sysfs-call: {call}")));
    Ended::Stuck(in_flight)
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

    fn lock<'a>(truth: &'a Truth, class: &str, mode: &str) -> &'a protocol::TruthLock {
        let mut locks = truth.locks.iter();
        locks
            .find(|l| l.class == class && l.mode == mode)
            .unwrap_or_else(|| panic!("no {class} {mode}"))
    }

    #[test]
    fn steady_is_never_stuck() {
        for generation in crate::emulator::generations() {
            let flags = ["v5.13", "v5.15-rc"].contains(&generation);
            let mut slept = 0;
            for seed in 1..=3 {
                let run = Run::build(&options(generation, seed)).unwrap();
                run.go().unwrap();
                run.go().unwrap();
                std::thread::sleep(Duration::from_secs(1));
                let truth = run.stop();
                assert_consistent(&truth);
                assert_eq!(run.stop(), truth, "the truth does not change after the end");
                let drivers = if truth.locks.iter().any(|l| l.class == "matrix_dev->lock") {
                    "matrix_dev->lock"
                } else {
                    "matrix_dev->mdevs_lock"
                };
                assert!(lock(&truth, drivers, "-").contended > 0, "{generation}");
                let of_flags = truth.locks.iter().filter(|l| l.class == "kvm_busy");
                let of_flags: Vec<_> = of_flags.collect();
                assert_eq!(of_flags.len(), usize::from(flags), "{generation}");
                slept += of_flags.iter().map(|l| l.contended).sum::<u64>();
                assert!(truth.flag_holders_max <= 1, "{generation}");
            }
            // Where the rwsem is there too, user space keeps most of those apart that would wait.
            assert!(
                slept > 0 || generation != "v5.13",
                "{generation}: {slept} waits for kvm_busy"
            );
        }
    }

    #[test]
    fn the_truth_lists_locks_in_the_order_of_the_names() {
        for (generation, expected, entry_points) in [
            (
                "v5.13",
                "matrix_dev->lock -, kvm->lock -, vcpu->mutex -, kvm_busy -, ap_perms_mutex -, \
                 kv->lock -, group notifier rwsem write, group notifier rwsem read",
                27,
            ),
            (
                "v5.15",
                "matrix_dev->lock -, kvm->lock -, vcpu->mutex -, pqap_hook_rwsem write, \
                 pqap_hook_rwsem read, ap_perms_mutex -, kv->lock -, group notifier rwsem write, \
                 group notifier rwsem read, dev_set->lock -",
                27,
            ),
            (
                "v7.3",
                "matrix_dev->guests_lock -, matrix_dev->mdevs_lock -, kvm->lock -, vcpu->mutex -, \
                 pqap_hook_rwsem write, pqap_hook_rwsem read, ap_attr_mutex -, reset_work -, \
                 kv->lock -, dev_set->lock -, group_lock -",
                35,
            ),
        ] {
            let run = Run::build(&EmulatorOptions {
                scenario: "none".into(),
                ..options(generation, 1)
            })
            .unwrap();
            run.go().unwrap();
            let truth = run.stop();
            let names: Vec<String> = truth
                .locks
                .iter()
                .map(|l| format!("{} {}", l.class, l.mode))
                .collect();
            assert_eq!(names.join(", "), expected);
            assert!(truth.locks.iter().all(|l| l.acquisitions == 0));
            let hello = run.hello().unwrap();
            let guards: Vec<_> = hello.locks.iter().filter(|l| l.guards_flag).collect();
            assert_eq!(guards.len(), usize::from(generation == "v5.13"));
            assert!(
                hello
                    .locks
                    .iter()
                    .any(|l| l.name == "vcpu->mutex[guest-7/vcpu1]")
            );
            let entries: Vec<&str> = truth.entry_points.iter().map(|e| e.name.as_str()).collect();
            let opens = entries.iter().filter(|e| e.contains("_open")).count();
            assert_eq!((entries.len(), opens), (entry_points, 1), "{entries:?}");
        }
    }

    #[test]
    fn a_thousand_guests_start_and_stop() {
        let run = Run::build(&EmulatorOptions {
            guests: 1000,
            vcpus: 4,
            ..options("v5.13", 1)
        })
        .unwrap();
        assert_eq!(
            run.hello().unwrap().locks.len(),
            2 + 1000 * (1 + 4 + 1 + 1 + 1)
        );
        run.go().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let truth = run.stop();
        assert_consistent(&truth);
        assert!(lock(&truth, "vcpu->mutex", "-").acquisitions > 100);
    }

    #[test]
    fn known_holds_are_measured() {
        let run = Run::build(&EmulatorOptions {
            scenario: "known-holds".into(),
            ..options("v5.13", 1)
        })
        .unwrap();
        run.go().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let truth = run.stop();
        assert_consistent(&truth);
        let holds = &truth.known_holds_ns;
        assert!(
            holds.len() >= 3 && holds.len().is_multiple_of(3),
            "{holds:?}"
        );
        assert_eq!(
            holds.len() as u64,
            lock(&truth, "matrix_dev->lock", "-").acquisitions
        );
        assert!(holds.is_sorted());
        assert!(holds[0] >= 1_000_000 && holds[holds.len() - 1] >= 20_000_000);
    }

    #[test]
    fn the_benchmark_only_takes_one_lock() {
        let run = Run::build(&EmulatorOptions {
            scenario: "lock-cycle".into(),
            ..options("v5.15", 1)
        })
        .unwrap();
        run.go().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let truth = run.stop();
        assert_consistent(&truth);
        assert!(lock(&truth, "matrix_dev->lock", "-").acquisitions > 1000);
        assert_eq!(lock(&truth, "matrix_dev->lock", "-").contended, 0);
        assert_eq!(lock(&truth, "kvm->lock", "-").acquisitions, 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_operations() {
        let decisions = |generation: &str, seed| {
            let run = Run::build_recording(&EmulatorOptions {
                guests: 2,
                ..options(generation, seed)
            })
            .unwrap();
            run.go().unwrap();
            std::thread::sleep(Duration::from_secs(2));
            run.shared.stop.tell();
            let decisions = run.decisions();
            run.stop();
            decisions
        };
        let first = decisions("v5.13", 7);
        // What happens must not matter, so another generation does as well.
        for (other, same) in [
            (decisions("v5.13", 7), true),
            (decisions("v5.15", 7), true),
            (decisions("v5.13", 8), false),
        ] {
            assert_eq!(
                first.keys().collect::<Vec<_>>(),
                other.keys().collect::<Vec<_>>()
            );
            for (actor, a) in &first {
                let b = &other[actor];
                let n = a.len().min(b.len());
                assert!(n > 0, "{actor} did nothing");
                if same {
                    assert_eq!(a[..n], b[..n], "{actor}");
                } else if actor.starts_with("vcpu") {
                    assert_ne!(a[..n], b[..n], "{actor}");
                }
            }
        }
    }
}
