//! The frames of a bundle: taken for a while, kept as a recording, and diagnosed.
//!
//! The source has a thread of its own, so that one which does not answer costs the bundle its frames and nothing else.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::bundle::job::Done;
use crate::bundle::redact::Names;
use crate::diagnose::{Case, text};
use crate::export::json::{Document, Origin};
use crate::frame::Frame;
use crate::options::RunOptions;
use crate::recording::{Flush, Packer, Reader, header};
use crate::source::{Session, Stopper};

/// Bytes of compressed frames that are taken.
const MAX_FRAMES: u64 = 64 << 20;

/// Frames, and what they say.
pub(super) struct Taken {
    packer: Option<Packer>,
    flushes: Vec<Flush>,
    pub case: Case,
    frames: u64,
    /// Why there are none, or no more of them.
    pub failed: Option<String>,
    pub took: Duration,
    /// How long it might have taken.
    pub limit: Duration,
}

/// What frames say, and how long it took to see that.
pub(super) struct Concluded {
    pub verdict: String,
    pub text: Done<Vec<u8>>,
    pub json: Done<Vec<u8>>,
}

/// What the thread with the source says first.
type Begun = Result<Stopper, String>;

/// Takes frames for a while. The source has a thread of its own, which is left alone when the time is over.
pub(super) fn take(options: &RunOptions, duration: Duration, until: Instant) -> Taken {
    let begun = Instant::now();
    let (frames, received) = channel();
    let (stoppers, stopper) = channel();
    let options = options.clone();
    let thread = std::thread::Builder::new()
        .name("bundle".into())
        .spawn(move || follow(&options, &stoppers, &frames));
    let mut taken = Taken {
        packer: Packer::new().ok(),
        flushes: Vec::new(),
        case: Case::default(),
        frames: 0,
        failed: None,
        took: Duration::ZERO,
        limit: until.saturating_duration_since(begun),
    };
    if let Err(error) = thread {
        taken.fail(format!("there is no thread for it: {error}"));
        return taken;
    }
    let mut end = until;
    let mut attached = false;
    // Until the time is over, or the source is.
    while let Ok(frame) = received.recv_timeout(end.saturating_duration_since(Instant::now())) {
        let attaching = frame.meta.as_ref().is_some_and(|meta| meta.attaching);
        if !attached && frame.meta.is_some() && !attaching {
            attached = true;
            // A duration that no clock can reach is no limit.
            let limit = Instant::now().checked_add(duration);
            end = limit.map_or(until, |limit| limit.min(until));
        }
        taken.add(&frame);
        if frame.end.is_some() || taken.is_full() {
            break;
        }
    }
    match stopper.try_recv() {
        Ok(Ok(stopper)) => stopper.stop(),
        Ok(Err(why)) => taken.fail(why),
        Err(_) if taken.frames == 0 => taken.fail("nothing could be attached in time".into()),
        Err(_) => {}
    }
    taken.pack();
    taken.took = begun.elapsed();
    taken
}

fn follow(options: &RunOptions, stoppers: &Sender<Begun>, frames: &Sender<Arc<Frame>>) {
    let mut session = match Session::start(options) {
        Ok(session) => session,
        Err(error) => {
            // Who asked may have given up.
            let _ = stoppers.send(Err(format!("{}: {}", error.what, error.cause)));
            return;
        }
    };
    let _ = stoppers.send(Ok(session.stopper()));
    while let Some(frame) = session.frames.blocking_recv() {
        if frames.send(frame).is_err() {
            break;
        }
    }
    if let Some(error) = session.ended().failed {
        let _ = stoppers.send(Err(format!("{}: {}", error.what, error.cause)));
    }
}

impl Taken {
    pub fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
    }

    fn is_full(&self) -> bool {
        let bytes: u64 = self.flushes.iter().map(|f| f.bytes.len() as u64).sum();
        bytes > MAX_FRAMES
    }

    fn add(&mut self, frame: &Frame) {
        self.case.apply(frame);
        self.frames += 1;
        let Some(packer) = &mut self.packer else {
            return self.fail("there is no memory for it".into());
        };
        match packer.push(frame) {
            Ok(flush) => self.flushes.extend(flush),
            Err(error) => self.fail(error.to_string()),
        }
        if self.is_full() {
            self.fail(format!("more than {MAX_FRAMES} bytes: ended there"));
        }
    }

    fn pack(&mut self) {
        if let Some(packer) = &mut self.packer {
            match packer.take() {
                Ok(flush) => self.flushes.extend(flush),
                Err(error) => self.fail(error.to_string()),
            }
        }
    }

    /// Tasks that hold, wait or are in a call: process and thread.
    pub fn tasks(&self) -> Vec<(u32, u32)> {
        let live = self.case.model.live.iter();
        live.map(|task| (if task.pid == 0 { task.tid } else { task.pid }, task.tid))
            .collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = header().to_vec();
        for flush in &self.flushes {
            bytes.extend(&flush.bytes);
        }
        bytes
    }

    pub fn recording(&self) -> Result<Vec<u8>, String> {
        self.check().map(|()| self.bytes())
    }

    fn check(&self) -> Result<(), String> {
        if self.frames > 0 {
            return Ok(());
        }
        let why = self.failed.clone();
        Err(why.unwrap_or_else(|| "no frame has come".into()))
    }

    /// The diagnosis of what was taken.
    pub fn conclude(&self, limit: Duration) -> Concluded {
        let begun = Instant::now();
        let report = self.case.report();
        let whole = self.check();
        let found = begun.elapsed();
        let timed = |make: &dyn Fn() -> Result<Vec<u8>, String>| {
            let begun = Instant::now();
            let result = whole.clone().and_then(|()| make());
            Done {
                result,
                // Neither file is there without the report.
                took: found + begun.elapsed(),
                limit,
            }
        };
        Concluded {
            verdict: report.verdict.to_string(),
            text: timed(&|| Ok(text::render(&report, &self.case.model).into_bytes())),
            json: timed(&|| {
                let mut json = Vec::new();
                Document::of(&self.case.model, Origin::Live, &report)
                    .write(&mut json)
                    .map_err(|error| error.to_string())?;
                Ok(json)
            }),
        }
    }

    /// Hides the names in all frames, and looks at what they say anew.
    pub fn redact(&mut self, names: &mut Names) -> Result<(), String> {
        let file = self.bytes();
        // Whatever goes wrong, nothing that has names is left.
        self.flushes.clear();
        self.case = Case::default();
        let frames = std::mem::take(&mut self.frames);
        let read = || Reader::new(Cursor::new(file.as_slice())).map_err(|error| error.to_string());
        for frame in read()? {
            names.learn(&frame.map_err(|error| error.to_string())?);
        }
        self.packer = Packer::new().ok();
        for frame in read()? {
            let mut frame = frame.map_err(|error| error.to_string())?;
            names.hide(&mut frame);
            self.add(&frame);
        }
        self.pack();
        self.failed = self.failed.take().map(|why| names.text(&why));
        if self.frames == frames {
            Ok(())
        } else {
            Err(format!(
                "{} of {frames} frames could be read again",
                self.frames
            ))
        }
    }
}
