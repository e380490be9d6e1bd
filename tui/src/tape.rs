//! A recording as a source of frames for the dashboard: forwards frame by frame, and to any moment from the nearest
//! checkpoint before it.
//!
//! A frame holds increments, so what was before a moment must be folded to show it. In memory are the frame that comes
//! next, and what was known at some moments.

mod checkpoints;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apscope_collector::cli::{Failure, open_recording};
use apscope_collector::diagnose::Thresholds;
use apscope_collector::frame::Frame;
use apscope_collector::recording::{Input, Place, Reader};

use self::checkpoints::Checkpoints;
use crate::state::config::Settings;
use crate::state::replay::Replay;
use crate::state::{App, Known};

/// Time that frames are folded for before the next picture: a seek over hours stays answerable.
const SLICE: Duration = Duration::from_millis(40);

/// An open recording.
pub struct Tape {
    path: PathBuf,
    reader: Reader<Box<dyn Input>>,
    clock: Clock,
    next: Option<(Frame, u64)>,
    /// The moment that is shown, by [`Clock`]; `None` before the first frame.
    shown: Option<u64>,
    ended: bool,
    /// Frames folded, up to the moment that is shown.
    frames: u64,
    checkpoints: Checkpoints<Moment>,
}

/// What there was behind a frame.
struct Moment {
    place: Place,
    clock: Clock,
    known: Known,
}

/// Frames that are folded rather than jumped over.
const FEW: u64 = 10;

/// One time for a whole file: a run that was recorded behind another one may be of another machine, with a clock of its
/// own, and begins where the one before ended.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    offset_ns: u64,
    last_ns: Option<u64>,
}

impl Clock {
    fn time(&mut self, frame: &Frame) -> u64 {
        let mut at = frame.at_ns.saturating_add(self.offset_ns);
        if let Some(last) = self.last_ns
            && at < last
        {
            self.offset_ns = self.offset_ns.saturating_add(last - at);
            at = last;
        }
        self.last_ns = Some(at);
        at
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        format!("{} cannot be read as a recording", path.display()),
        error.to_string(),
        "a file that `record -o FILE` has written",
    )
}

impl Tape {
    /// Opens a file and goes through it once: for its length, and for where findings are.
    ///
    /// # Errors
    ///
    /// It is no recording, or holds no frame. Of a file that is damaged, what can be read is shown.
    pub fn open(path: &Path, thresholds: &Thresholds) -> Result<(Self, Replay), Failure> {
        let settings = Settings {
            thresholds: thresholds.clone(),
            ..Settings::default()
        };
        let mut scout = App::with(settings, Duration::ZERO);
        let mut checkpoints = Checkpoints::default();
        let mut clock = Clock::default();
        let mut ends = Vec::new();
        let mut damaged = None;
        let mut reader = open_recording(path)?;
        while let Some(frame) = reader.next() {
            match frame {
                Ok(frame) => {
                    let at = clock.time(&frame);
                    ends.push(at);
                    scout.apply(&frame);
                    checkpoints.pass(ends.len() as u64, at, || Moment {
                        place: reader.place(),
                        clock,
                        known: scout.known(),
                    });
                }
                Err(error) => damaged = damaged.or(Some(error.to_string())),
            }
        }
        if ends.is_empty() {
            let why = damaged.unwrap_or_else(|| "it holds no frames".into());
            return Err(unreadable(path, &why));
        }
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy();
        let mut replay = Replay::new(name.into_owned(), ends, &scout.report(), clock.offset_ns);
        replay.damaged = damaged;
        let tape = Self {
            path: path.to_owned(),
            reader: open_recording(path)?,
            clock: Clock::default(),
            next: None,
            shown: None,
            ended: false,
            frames: 0,
            checkpoints,
        };
        Ok((tape, replay))
    }

    /// Folds frames up to the replay's moment, as many as there is time for; true when it is there.
    ///
    /// # Errors
    ///
    /// The file is there no more.
    pub fn follow(&mut self, app: &mut App) -> Result<bool, Failure> {
        self.until(app, Some(Instant::now() + SLICE))
    }

    /// Folds all frames up to the replay's moment.
    ///
    /// # Errors
    ///
    /// The file is there no more.
    pub fn arrive(&mut self, app: &mut App) -> Result<(), Failure> {
        self.until(app, None).map(|_| ())
    }

    fn until(&mut self, app: &mut App, limit: Option<Instant>) -> Result<bool, Failure> {
        let Some(replay) = &app.replay else {
            return Ok(true);
        };
        let target = replay.at_ns();
        let wanted = replay.frames_until(target);
        self.jump(app, target)?;
        loop {
            if self.next.is_none() && !self.ended {
                // Damage was told when it was opened.
                self.next = self.reader.by_ref().flatten().next().map(|frame| {
                    let at = self.clock.time(&frame);
                    (frame, at)
                });
                self.ended = self.next.is_none();
            }
            match self.next.take() {
                Some((frame, at)) if at <= target => {
                    app.apply(&frame);
                    self.shown = Some(at);
                    self.frames += 1;
                    let ahead = wanted.saturating_sub(self.frames);
                    self.checkpoints
                        .approach(self.frames, ahead, at, || Moment {
                            place: self.reader.place(),
                            clock: self.clock,
                            known: app.known(),
                        });
                }
                later => {
                    self.next = later;
                    return Ok(true);
                }
            }
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                return Ok(false);
            }
        }
    }

    /// Goes to the last checkpoint before a moment, or to the begin, where what is shown is behind it or far before it.
    fn jump(&mut self, app: &mut App, target: u64) -> Result<(), Failure> {
        let back = self.shown.is_some_and(|shown| shown > target);
        match self.checkpoints.before(target) {
            Some(checkpoint) if back || checkpoint.frames > self.frames + FEW => {
                let Moment {
                    place,
                    clock,
                    known,
                } = &checkpoint.known;
                let gone = |error: io::Error| unreadable(&self.path, &error);
                self.reader.go_to(place).map_err(gone)?;
                self.clock = *clock;
                self.shown = Some(checkpoint.at_ns);
                self.frames = checkpoint.frames;
                app.go_to(known);
            }
            None if back => {
                self.reader = open_recording(&self.path)?;
                self.clock = Clock::default();
                self.shown = None;
                self.frames = 0;
                app.restart();
            }
            _ => return Ok(()),
        }
        self.next = None;
        self.ended = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a recording of the tests, and goes to shares of it.
    fn go(tape: &mut Tape, app: &mut App, share: f64) {
        if let Some(replay) = &mut app.replay {
            replay.seek_share(share);
        }
        assert!(tape.arrive(app).is_ok());
    }

    #[test]
    fn a_seek_folds_few_frames() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/stuck-reset-v6.6.apscope");
        let settings = Settings::default();
        let (mut tape, replay) = Tape::open(&path, &settings.thresholds)
            .map_err(drop)
            .unwrap();
        let mut app = App::with(settings, Duration::from_millis(100));
        app.replay = Some(replay);
        for share in [1.0, 0.9, 0.5, 0.95, 0.3, 1.0, 0.6] {
            if let Some(replay) = &mut app.replay {
                replay.seek_share(share);
            }
            let replay = app.replay.clone().unwrap();
            let wanted = replay.frames_until(replay.at_ns());
            tape.jump(&mut app, replay.at_ns()).map_err(drop).unwrap();
            assert!(wanted - tape.frames <= FEW + 16, "{share}: {wanted}");
            go(&mut tape, &mut app, share);
            assert_eq!(tape.frames, wanted);
            assert_eq!(tape.shown, Some(app.live().model.last.at_ns));
        }
        // Before everything that is kept: from the begin.
        go(&mut tape, &mut app, 0.0);
        assert_eq!(tape.frames, 1);
    }
}
