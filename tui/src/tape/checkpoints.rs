//! What was known at some moments of a recording, so that another moment of it is reached without folding all that was
//! before.
//!
//! Two kinds are kept: some that are spread over the whole, at twice the distance whenever there are too many, and the
//! latest of those made on the way, which make steps back short. So their number is bounded, however long a recording is.

use std::collections::VecDeque;

/// Of those that are spread over the whole, kept at most.
const SPREAD: usize = 16;
/// Frames between two of them at first.
const FIRST_SPACING: u64 = 10;
/// Of those made on the way, kept at most.
const NEAR: usize = 4;
/// Frames between two of these.
const NEAR_SPACING: u64 = 16;

/// What was known behind some frame.
#[derive(Debug)]
pub struct Checkpoint<T> {
    /// Frames folded until then.
    pub frames: u64,
    /// End of the last of them, on the recording's clock in nanoseconds.
    pub at_ns: u64,
    /// What was known.
    pub known: T,
}

/// The checkpoints of a recording.
#[derive(Debug)]
pub struct Checkpoints<T> {
    spread: Vec<Checkpoint<T>>,
    near: VecDeque<Checkpoint<T>>,
    spacing: u64,
}

impl<T> Default for Checkpoints<T> {
    fn default() -> Self {
        Self {
            spread: Vec::new(),
            near: VecDeque::new(),
            spacing: FIRST_SPACING,
        }
    }
}

impl<T> Checkpoints<T> {
    /// While the whole is gone through for the first time: keeps this moment if it is due.
    pub fn pass(&mut self, frames: u64, at_ns: u64, known: impl FnOnce() -> T) {
        if !frames.is_multiple_of(self.spacing) {
            return;
        }
        self.spread.push(Checkpoint {
            frames,
            at_ns,
            known: known(),
        });
        if self.spread.len() > SPREAD {
            self.spacing *= 2;
            let spacing = self.spacing;
            self.spread
                .retain(|checkpoint| checkpoint.frames.is_multiple_of(spacing));
        }
    }

    /// On the way to a moment that is so many frames ahead: keeps this one if it is due, for steps back from there.
    pub fn approach(&mut self, frames: u64, ahead: u64, at_ns: u64, known: impl FnOnce() -> T) {
        let near = ahead <= NEAR as u64 * NEAR_SPACING;
        if !near || !frames.is_multiple_of(NEAR_SPACING) || self.all().any(|c| c.frames == frames) {
            return;
        }
        if self.near.len() == NEAR {
            self.near.pop_front();
        }
        self.near.push_back(Checkpoint {
            frames,
            at_ns,
            known: known(),
        });
    }

    /// The last one that is not behind this moment.
    pub fn before(&self, at_ns: u64) -> Option<&Checkpoint<T>> {
        self.all()
            .filter(|checkpoint| checkpoint.at_ns <= at_ns)
            .max_by_key(|checkpoint| checkpoint.frames)
    }

    fn all(&self) -> impl Iterator<Item = &Checkpoint<T>> {
        self.spread.iter().chain(&self.near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_few_and_nowhere_far_apart() {
        let mut all = Checkpoints::default();
        let frames = 100_000;
        for n in 1..=frames {
            all.pass(n, n * 10, || n);
            assert!(all.spread.len() <= SPREAD, "{n}");
        }
        for at in (0..=frames).step_by(997) {
            let found = all.before(at * 10).map_or(0, |c| c.known);
            assert!(found <= at && at - found < frames / 8, "{at}: {found}");
        }
    }

    #[test]
    fn a_step_back_begins_near() {
        let mut all = Checkpoints::default();
        for n in 1..=100_000 {
            all.pass(n, n, || n);
        }
        for n in 60_000..=60_500_u64 {
            all.approach(n, 60_500 - n, n, || n);
            assert!(all.near.len() <= NEAR, "{n}");
        }
        for back in [60_500, 60_490, 60_460_u64] {
            let found = all.before(back).unwrap();
            assert!(back - found.frames < NEAR_SPACING, "{back}: {found:?}");
        }
        // The same again is not kept twice.
        let before = all.near.len();
        let last = all.before(60_500).unwrap().frames;
        all.approach(last, 0, last, || 0);
        assert_eq!(all.near.len(), before);
        assert_eq!(all.before(60_500).unwrap().known, last);
    }
}
