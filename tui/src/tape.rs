//! A recording as a source of frames for the dashboard: forwards frame by frame, backwards from the start again.
//!
//! A frame holds increments, so what was before a moment must be folded to show it. Nothing but the frame that comes
//! next is kept in memory.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use apscope_collector::cli::{Failure, open_recording};
use apscope_collector::diagnose::{Case, Diagnosis, Thresholds};
use apscope_collector::frame::Frame;
use apscope_collector::model::Model;
use apscope_collector::recording::Reader;

use crate::state::App;
use crate::state::replay::Replay;

/// Time that frames are folded for before the next picture: a seek over hours stays answerable.
const SLICE: Duration = Duration::from_millis(40);

/// An open recording.
pub struct Tape {
    path: PathBuf,
    reader: Reader<Box<dyn BufRead>>,
    clock: Clock,
    next: Option<(Frame, u64)>,
    /// The moment that is shown, by [`Clock`]; `None` before the first frame.
    shown: Option<u64>,
    ended: bool,
}

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
        let mut case = Case {
            model: Model::default(),
            diagnosis: Diagnosis::new(thresholds.clone()),
        };
        let mut clock = Clock::default();
        let mut ends = Vec::new();
        let mut damaged = None;
        for frame in open_recording(path)? {
            match frame {
                Ok(frame) => {
                    ends.push(clock.time(&frame));
                    case.apply(&frame);
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
        let mut replay = Replay::new(name.into_owned(), ends, &case.report(), clock.offset_ns);
        replay.damaged = damaged;
        let tape = Self {
            path: path.to_owned(),
            reader: open_recording(path)?,
            clock: Clock::default(),
            next: None,
            shown: None,
            ended: false,
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
        if self.shown.is_some_and(|shown| shown > target) {
            self.reader = open_recording(&self.path)?;
            self.clock = Clock::default();
            self.next = None;
            self.shown = None;
            self.ended = false;
            app.restart();
        }
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
}
