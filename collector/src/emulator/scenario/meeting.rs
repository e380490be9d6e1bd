//! Where actors wait for each other: user space that does things at the same time. It knows nothing of locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::emulator::actors::Stop;
use crate::emulator::primitives::futex;

/// How often it is looked whether the run stops, by those that wait.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A meeting of a number of actors, again and again.
#[derive(Debug)]
pub struct Meeting {
    parties: u32,
    arrived: AtomicU32,
    round: AtomicU32,
}

impl Meeting {
    /// Of so many actors.
    pub fn of(parties: usize) -> Arc<Self> {
        Arc::new(Self {
            parties: u32::try_from(parties).unwrap_or(u32::MAX),
            arrived: AtomicU32::new(0),
            round: AtomicU32::new(0),
        })
    }

    /// Waits until all have come. False when the run stops meanwhile: then not all do come.
    #[must_use]
    pub fn wait(&self, stop: &Stop) -> bool {
        let round = self.round.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.parties {
            self.arrived.store(0, Ordering::SeqCst);
            self.round.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.round, i32::MAX);
            return true;
        }
        while self.round.load(Ordering::SeqCst) == round {
            if stop.is_told() {
                return false;
            }
            futex::wait(&self.round, round, Some(LOOK_EVERY));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_come_or_the_run_stops() {
        let meeting = Meeting::of(3);
        let stop = Arc::new(Stop::default());
        let rounds = Arc::new(AtomicU32::new(0));
        let party = |times: u32| {
            let (meeting, stop, rounds) =
                (Arc::clone(&meeting), Arc::clone(&stop), Arc::clone(&rounds));
            std::thread::spawn(move || {
                for n in 0..times {
                    if !meeting.wait(&stop) {
                        return false;
                    }
                    // Nobody is more than one round ahead of another.
                    let seen = rounds.fetch_max(n + 1, Ordering::SeqCst);
                    assert!(seen.abs_diff(n) <= 1, "{seen} {n}");
                }
                true
            })
        };
        let parties = [party(100), party(100), party(101)];
        while rounds.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        stop.tell();
        let all_came: Vec<bool> = parties.into_iter().map(|p| p.join().unwrap()).collect();
        assert_eq!(all_came, [true, true, false]);
    }
}
