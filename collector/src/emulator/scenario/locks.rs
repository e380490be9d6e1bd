//! Scenarios around one lock: the benchmark `lock-cycle` and the test `known-holds`.

use std::time::{Duration, Instant};

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::machine::Machine;
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};
use crate::emulator::primitives::Mutex;

/// Hold times of `known-holds`, in milliseconds.
const HOLDS_MS: [u64; 3] = [1, 5, 20];

/// The driver's one lock, under the name that the generation has for it.
fn drivers_lock(machine: &'static Machine) -> &'static Mutex {
    if machine.generation.has_hot_plug {
        &machine.matrix_dev.mdevs_lock
    } else {
        &machine.matrix_dev.lock
    }
}

/// One thread, `bench/0`.
pub fn lock_cycle(machine: &'static Machine) -> Vec<ActorSpec> {
    let run = move |actor: &mut Actor| {
        actor.begin("lock cycle");
        let lock = drivers_lock(machine);
        while !actor.is_stopping() {
            for _ in 0..64 {
                mutex_lock(lock);
                mutex_unlock(lock);
            }
        }
    };
    vec![ActorSpec {
        name: "bench/0".into(),
        run: Box::new(run),
    }]
}

/// One thread, `holder/0`, which measures its own holds. It always completes a round, so that there are equally many of
/// each length.
pub fn known_holds(machine: &'static Machine) -> Vec<ActorSpec> {
    let run = move |actor: &mut Actor| {
        let lock = drivers_lock(machine);
        while !actor.is_stopping() {
            actor.begin("known holds");
            for ms in HOLDS_MS {
                mutex_lock(lock);
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(ms));
                let held = start.elapsed();
                mutex_unlock(lock);
                actor
                    .shared
                    .known_holds_ns
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX));
            }
            actor.pause_ms(1, 1);
        }
    };
    vec![ActorSpec {
        name: "holder/0".into(),
        run: Box::new(run),
    }]
}
