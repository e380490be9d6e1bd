//! Threads that use the driver: starting them, pacing them, stopping each at the end of its operation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::blocked::Waits;
use super::machine::{self, Machine};
use super::primitives::{futex, task};
use super::rng::Rng;

/// Stack of an actor: its frames are small, and there may be thousands.
const STACK_BYTES: usize = 128 << 10;
/// When no actor has stopped for so long after being told to, those that are left are stuck, whatever they wait for.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked for a deadlock meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest name that the kernel keeps of a thread.
const COMM_LEN: usize = 15;

/// The order to stop, on which sleeping actors wake.
#[derive(Debug, Default)]
pub struct Stop(AtomicU32);

/// Keeps actors from running before all of them have been started: those that run would leave little of the processors
/// to whoever starts the rest.
#[derive(Debug, Default)]
struct StartingLine(AtomicU32);

impl StartingLine {
    fn open(&self) {
        self.0.store(1, Ordering::SeqCst);
        futex::wake(&self.0, i32::MAX);
    }

    fn wait(&self) {
        while self.0.load(Ordering::SeqCst) == 0 {
            futex::wait(&self.0, 0, None);
        }
    }
}

impl Stop {
    /// Tells all.
    pub fn tell(&self) {
        self.0.store(1, Ordering::SeqCst);
        futex::wake(&self.0, i32::MAX);
    }

    /// It was told.
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    /// Sleeps; returns early when told to stop.
    pub fn sleep(&self, length: Duration) {
        let until = Instant::now() + length;
        while !self.is_told() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            futex::wait(&self.0, 0, Some(left));
        }
    }
}

/// What all actors of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The machine.
    pub machine: &'static Machine,
    /// The order to stop.
    pub stop: Stop,
    /// Seed of the run.
    pub seed: u64,
    /// Factor on every pause: longer with more guests, shorter with a higher rate.
    pub pace: f64,
    /// Holds measured by the scenario `known-holds`, in nanoseconds.
    pub known_holds_ns: Mutex<Vec<u64>>,
    /// Whether operations are recorded, by actor; for tests.
    pub record: bool,
}

/// State of one actor that others look at.
#[derive(Debug)]
struct Status {
    name: String,
    operation: Mutex<&'static str>,
    log: Mutex<Vec<String>>,
    done: AtomicBool,
}

/// An actor, as its own thread sees it.
#[derive(Debug)]
pub struct Actor {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Its random numbers.
    pub rng: Rng,
    status: Arc<Status>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Actor {
    /// It shall stop.
    pub fn is_stopping(&self) -> bool {
        self.shared.stop.is_told()
    }

    /// Names the operation that follows.
    pub fn begin(&self, operation: &'static str) {
        *locked(&self.status.operation) = operation;
    }

    /// Notes a decision, for the tests that compare sequences.
    pub fn note(&self, decision: impl FnOnce() -> String) {
        if self.shared.record {
            locked(&self.status.log).push(decision());
        }
    }

    /// Pauses for a random time between `low` and `high` milliseconds, times the run's pace.
    pub fn pause_ms(&mut self, low: u64, high: u64) {
        let us = self.rng.between(low * 1000, high * 1000);
        self.begin("pause");
        self.shared
            .stop
            .sleep(Duration::from_micros(us).mul_f64(self.shared.pace));
    }
}

/// An actor to be started.
pub struct ActorSpec {
    /// Thread name.
    pub name: String,
    /// What it does, until told to stop.
    pub run: Box<dyn FnOnce(&mut Actor) + Send>,
}

/// `role/guest-N`, or `role/g-N` where that would not fit into a thread's name.
pub fn thread_name(role: &str, guest: u32) -> String {
    let name = format!("{role}/guest-{guest}");
    if name.len() <= COMM_LEN {
        name
    } else {
        format!("{role}/g-{guest}")
    }
}

/// The actors of a run, started.
#[derive(Debug)]
pub struct Actors {
    shared: Arc<Shared>,
    threads: Vec<(Arc<Status>, JoinHandle<()>)>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All actors have stopped.
    Finished,
    /// Some could not: `thread: operation`.
    Stuck(Vec<String>),
}

impl Actors {
    /// Starts them. On an error, those already started are told to stop.
    pub fn start(shared: Arc<Shared>, specs: Vec<ActorSpec>) -> std::io::Result<Self> {
        let line = Arc::new(StartingLine::default());
        let mut actors = Self {
            shared,
            threads: Vec::with_capacity(specs.len()),
        };
        for spec in specs {
            let status = Arc::new(Status {
                name: spec.name.clone(),
                operation: Mutex::new("start"),
                log: Mutex::default(),
                done: AtomicBool::new(false),
            });
            let mut actor = Actor {
                rng: Rng::for_actor(actors.shared.seed, &spec.name),
                shared: Arc::clone(&actors.shared),
                status: Arc::clone(&status),
            };
            let at = Arc::clone(&line);
            let started = std::thread::Builder::new()
                .name(spec.name)
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    machine::enter(actor.shared.machine);
                    at.wait();
                    (spec.run)(&mut actor);
                    task::current().exit();
                    actor.status.done.store(true, Ordering::SeqCst);
                });
            match started {
                Ok(thread) => actors.threads.push((status, thread)),
                Err(error) => {
                    actors.shared.stop.tell();
                    line.open();
                    return Err(error);
                }
            }
        }
        line.open();
        Ok(actors)
    }

    /// Tells all to stop and waits until they have, or until none has stopped for [`STUCK_AFTER`].
    pub fn stop(&mut self) -> Ended {
        self.shared.stop.tell();
        let mut last_progress = Instant::now();
        let mut left = usize::MAX;
        let mut deadlocked = BTreeSet::new();
        let mut looked = Instant::now();
        loop {
            let now = self
                .threads
                .iter()
                .filter(|(status, thread)| {
                    !status.done.load(Ordering::SeqCst) && !thread.is_finished()
                })
                .count();
            if now == 0 {
                return Ended::Finished;
            }
            if now < left {
                left = now;
                last_progress = Instant::now();
            } else if last_progress.elapsed() >= STUCK_AFTER {
                return Ended::Stuck(self.in_flight());
            } else if looked.elapsed() >= LOOK_EVERY {
                // In the same waits for each other twice in a row: for ever. Those that will stop are waited for.
                let now = Waits::of(self.shared.machine).deadlocked();
                if !now.is_empty() && now == deadlocked && last_progress.elapsed() >= LOOK_EVERY * 3
                {
                    return Ended::Stuck(self.in_flight());
                }
                deadlocked = now;
                looked = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn in_flight(&self) -> Vec<String> {
        self.threads
            .iter()
            .filter(|(status, _)| !status.done.load(Ordering::SeqCst))
            .map(|(status, _)| format!("{}: {}", status.name, locked(&status.operation)))
            .collect()
    }

    /// Holds measured by the scenario `known-holds`, ascending.
    pub fn known_holds_ns(&self) -> Vec<u64> {
        let mut holds = locked(&self.shared.known_holds_ns).clone();
        holds.sort_unstable();
        holds
    }

    /// What each actor decided, by name, where it was recorded.
    #[cfg(test)]
    pub fn decisions(&self) -> std::collections::BTreeMap<String, Vec<String>> {
        self.threads
            .iter()
            .map(|(status, _)| (status.name.clone(), locked(&status.log).clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_names_fit() {
        assert_eq!(thread_name("vcpu2", 3), "vcpu2/guest-3");
        assert_eq!(thread_name("vcpu63", 999), "vcpu63/g-999");
        assert_eq!(thread_name("notify", 99), "notify/guest-99");
        assert_eq!(thread_name("notify", 100), "notify/g-100");
        for role in ["vcpu0", "vcpu63", "notify", "sysfs", "vfio", "pv"] {
            assert!(thread_name(role, 999).len() <= COMM_LEN);
        }
    }

    #[test]
    fn an_actor_that_cannot_stop_is_named() {
        let machine = machine::tests::machine("v5.13", 1, 1);
        let shared = Arc::new(Shared {
            machine,
            stop: Stop::default(),
            seed: 1,
            pace: 1.0,
            known_holds_ns: Mutex::default(),
            record: false,
        });
        let spec = |name: &str, run: fn(&mut Actor)| ActorSpec {
            name: name.into(),
            run: Box::new(run),
        };
        let mut actors = Actors::start(
            shared,
            vec![
                spec("good/0", |actor| actor.pause_ms(100_000, 100_000)),
                spec("bad/0", |actor| {
                    actor.begin("waits for ever");
                    let lock = &machine::current().matrix_dev.lock;
                    super::super::points::kernel::mutex_lock(lock);
                    super::super::points::kernel::mutex_lock(lock);
                }),
            ],
        )
        .unwrap();
        assert_eq!(
            actors.stop(),
            Ended::Stuck(vec!["bad/0: waits for ever".into()])
        );
    }
}
