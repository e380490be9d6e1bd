//! Where in a recording the dashboard is, how fast it goes on, and where findings are.
//!
//! Pure: it is told how much time has passed, and says up to which moment frames are to be folded. How one gets there is
//! for [`crate::tape`], which has the file.

use std::time::Duration;

use apscope_collector::diagnose::{Report, Severity};

/// Speeds that `+` and `-` go through.
pub const SPEEDS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0];

/// Where a finding stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// From here, CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub from_ns: u64,
    /// To here.
    pub to_ns: u64,
    /// How bad it was.
    pub severity: Severity,
    /// `AP001`.
    pub id: String,
}

/// A recording that is gone through.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Name of the file.
    pub name: String,
    /// Ends of its frames, in order.
    frames: Vec<u64>,
    /// What is found in it, by begin.
    pub marks: Vec<Mark>,
    at_ns: u64,
    /// It goes on by itself.
    pub playing: bool,
    speed: usize,
    /// The file ends early: what is wrong with it.
    pub damaged: Option<String>,
}

impl Replay {
    /// A recording whose frames ended at these moments, and what is found in all of it. The report's clock is behind that
    /// of the frames by `offset_ns`.
    #[must_use]
    pub fn new(name: String, frames: Vec<u64>, report: &Report, offset_ns: u64) -> Self {
        let end = frames.last().copied().unwrap_or(0);
        let mut marks: Vec<Mark> = report
            .findings
            .iter()
            .map(|finding| Mark {
                from_ns: finding.found_ns.saturating_add(offset_ns),
                to_ns: finding
                    .until_ns
                    .map_or(end, |until| until.saturating_add(offset_ns)),
                severity: finding.seen.severity,
                id: finding.id.to_string(),
            })
            .collect();
        marks.sort_by_key(|mark| mark.from_ns);
        Self {
            name,
            at_ns: frames.first().copied().unwrap_or(0),
            frames,
            marks,
            playing: true,
            speed: 3,
            damaged: None,
        }
    }

    /// Begin and end.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        let first = self.frames.first().copied().unwrap_or(0);
        (first, self.frames.last().copied().unwrap_or(first))
    }

    /// Frames that end later are not to be shown.
    #[must_use]
    pub fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// Times faster than it was.
    #[must_use]
    pub fn speed(&self) -> f64 {
        SPEEDS[self.speed]
    }

    /// Frames that end until a moment.
    #[must_use]
    pub fn frames_until(&self, at_ns: u64) -> u64 {
        self.frames.partition_point(|at| *at <= at_ns) as u64
    }

    /// Time since its begin.
    #[must_use]
    pub fn elapsed_ns(&self) -> u64 {
        self.at_ns.saturating_sub(self.range().0)
    }

    /// The next speed up or down.
    pub fn faster(&mut self, faster: bool) {
        self.speed = if faster {
            (self.speed + 1).min(SPEEDS.len() - 1)
        } else {
            self.speed.saturating_sub(1)
        };
    }

    /// Sets the nearest of [`SPEEDS`].
    pub fn set_speed(&mut self, speed: f64) {
        let distance = |known: f64| (known.ln() - speed.max(1e-9).ln()).abs();
        let nearest =
            (0..SPEEDS.len()).min_by(|a, b| distance(SPEEDS[*a]).total_cmp(&distance(SPEEDS[*b])));
        self.speed = nearest.unwrap_or(self.speed);
    }

    /// Plays or stops; at the end it plays from the begin.
    pub fn toggle(&mut self) {
        if !self.playing && self.at_ns >= self.range().1 {
            self.at_ns = self.range().0;
        }
        self.playing = !self.playing;
    }

    /// So much time has passed for the person who looks at it.
    pub fn pass(&mut self, time: Duration) {
        if self.playing {
            let ns = time.as_nanos() as f64 * self.speed();
            self.at_ns = self.at_ns.saturating_add(ns as u64);
            let end = self.range().1;
            if self.at_ns >= end {
                self.at_ns = end;
                self.playing = false;
            }
        }
    }

    /// One frame on or back, and stop there.
    pub fn step(&mut self, forward: bool) {
        self.playing = false;
        let next = if forward {
            self.frames.get(self.frames_until(self.at_ns) as usize)
        } else {
            // Between two frames the one before is shown: back means before that.
            let shown = self.frames_until(self.at_ns) as usize;
            self.frames.get(shown.saturating_sub(2))
        };
        self.at_ns = next.copied().unwrap_or(self.at_ns);
    }

    /// Goes to a moment.
    pub fn seek(&mut self, at_ns: u64) {
        let (first, last) = self.range();
        self.at_ns = at_ns.clamp(first, last);
    }

    /// Goes on, or back, by a share of the whole.
    pub fn seek_by(&mut self, share: f64) {
        let (first, last) = self.range();
        let step = ((last - first) as f64 * share.abs()) as u64;
        self.seek(if share < 0.0 {
            self.at_ns.saturating_sub(step)
        } else {
            self.at_ns.saturating_add(step)
        });
    }

    /// Goes to a share of the whole.
    pub fn seek_share(&mut self, share: f64) {
        let (first, last) = self.range();
        self.seek(first.saturating_add(((last - first) as f64 * share.clamp(0.0, 1.0)) as u64));
    }

    /// Goes to where the next finding begins, and stops there; false where there is none.
    pub fn next_mark(&mut self) -> bool {
        let next = self.marks.iter().find(|mark| mark.from_ns > self.at_ns);
        let Some(at) = next.map(|mark| mark.from_ns) else {
            return false;
        };
        self.playing = false;
        self.seek(at);
        true
    }
}

#[cfg(test)]
mod tests {
    use apscope_collector::diagnose::Diagnosis;
    use proptest::prelude::*;

    use super::*;

    fn replay() -> Replay {
        Replay::new(
            "x".into(),
            (1..=10).map(|n| n * 100).collect(),
            &Diagnosis::default().report(),
            0,
        )
    }

    #[test]
    fn it_plays_to_the_end_and_then_again() {
        let mut replay = replay();
        assert_eq!(replay.at_ns(), 100);
        replay.pass(Duration::from_nanos(50));
        assert_eq!(replay.at_ns(), 150);
        replay.faster(true);
        replay.pass(Duration::from_nanos(50));
        assert_eq!(replay.at_ns(), 250);
        replay.pass(Duration::from_secs(1));
        assert_eq!((replay.at_ns(), replay.playing), (1000, false));
        replay.toggle();
        assert_eq!((replay.at_ns(), replay.playing), (100, true));
    }

    #[test]
    fn steps_go_from_frame_to_frame() {
        let mut replay = replay();
        replay.seek(450);
        replay.step(true);
        assert_eq!((replay.at_ns(), replay.playing), (500, false));
        replay.step(false);
        assert_eq!(replay.at_ns(), 400);
        replay.seek(0);
        replay.step(false);
        assert_eq!(replay.at_ns(), 100);
    }

    #[test]
    fn n_goes_to_findings() {
        let mut replay = replay();
        assert!(!replay.next_mark());
        for from_ns in [300, 700] {
            replay.marks.push(Mark {
                from_ns,
                to_ns: 900,
                severity: Severity::Critical,
                id: "AP001".into(),
            });
        }
        assert!(replay.next_mark());
        assert_eq!(replay.at_ns(), 300);
        assert!(replay.next_mark() && !replay.next_mark());
        assert_eq!((replay.at_ns(), replay.playing), (700, false));
    }

    proptest! {
        #[test]
        fn it_stays_within_the_recording(steps in proptest::collection::vec((0_u8..8, -2.0_f64..2.0), 0..60), frames in proptest::collection::vec(any::<u32>(), 0..9)) {
            let mut ends: Vec<u64> = frames.into_iter().map(u64::from).collect();
            ends.sort_unstable();
            let mut replay = Replay::new(String::new(), ends, &Diagnosis::default().report(), 0);
            for (step, share) in steps {
                match step {
                    0 => replay.toggle(),
                    1 => replay.faster(share > 0.0),
                    2 => replay.step(share > 0.0),
                    3 => replay.seek_by(share),
                    4 => replay.seek_share(share),
                    5 => replay.set_speed(share * 100.0),
                    _ => replay.pass(Duration::from_secs_f64(share.abs())),
                }
                let (first, last) = replay.range();
                prop_assert!((first..=last).contains(&replay.at_ns()));
            }
        }
    }
}
