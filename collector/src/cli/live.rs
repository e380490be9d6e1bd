//! Following a running source: frames one after the other, until its time is over, a signal comes, or it ends.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::{Failure, Globals};
use crate::emulator::protocol::Truth;
use crate::frame::{End, Frame, LogLine};
use crate::source::{END_LINK_DOWN, Link, Session, link_changed};

/// How a run ended.
#[derive(Debug, Default)]
pub struct Finished {
    /// What its last frame says.
    pub end: Option<End>,
    /// The emulator's ground truth, where it was stopped in order.
    pub truth: Option<Truth>,
    /// Frames received.
    pub frames: u64,
}

impl Finished {
    /// Adds what is known when all frames have come; the source's failure, where it could not go on.
    pub fn completed(self, session: &Session) -> Result<Self, Failure> {
        let ended = session.ended();
        match ended.failed {
            Some(error) => Err(error.into()),
            None => Ok(Self {
                truth: ended.truth,
                ..self
            }),
        }
    }

    /// The failure of a source that ended without being asked; what was received until then is whole.
    pub fn check(&self) -> Result<(), Failure> {
        let (what, cause) = match &self.end {
            Some(end) if end.how == "source died" => {
                ("the emulated driver ended unexpectedly", end.detail.clone())
            }
            Some(end) if end.how == END_LINK_DOWN => {
                ("the link was down at the end", end.detail.clone())
            }
            Some(_) => return Ok(()),
            None => (
                "the source stopped without a last frame",
                format!("it ended after {} frames", self.frames),
            ),
        };
        let cause = if cause.is_empty() {
            "its process is gone".to_owned()
        } else {
            cause
        };
        Err(Failure::new(
            what,
            cause,
            "again; the output holds everything up to the last frame",
        ))
    }
}

/// Hands every frame of a session to `each`, until `duration` is over, SIGINT, SIGTERM or SIGHUP comes, or the source
/// ends. The source is stopped in order, and frames until its last one are handed over too. A failure of `each` stops
/// the source and is returned. A second signal gives up at once.
pub fn follow(
    globals: &Globals,
    warnings: Warnings,
    session: Session,
    duration: Option<Duration>,
    mut each: impl FnMut(&Arc<Frame>) -> Result<(), Failure>,
) -> Result<Finished, Failure> {
    follow_events(globals, warnings, session, duration, |event| match event {
        Event::Frame(frame) => each(frame),
        Event::Pause => Ok(()),
    })
}

/// What happens while a source is followed.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A frame has come.
    Frame(&'a Arc<Frame>),
    /// None has come for [`PAUSE`].
    Pause,
}

/// How long nothing has come when that is told.
pub const PAUSE: Duration = Duration::from_millis(250);

/// The same, with pauses.
pub fn follow_events(
    globals: &Globals,
    warnings: Warnings,
    session: Session,
    duration: Option<Duration>,
    each: impl FnMut(Event<'_>) -> Result<(), Failure>,
) -> Result<Finished, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(follow_frames(globals, warnings, session, duration, each)),
        Err(error) => Err(cannot_follow(&error)),
    }
}

async fn follow_frames(
    globals: &Globals,
    warnings: Warnings,
    mut session: Session,
    duration: Option<Duration>,
    mut each: impl FnMut(Event<'_>) -> Result<(), Failure>,
) -> Result<Finished, Failure> {
    let mut signals = Signals::new().map_err(|error| cannot_follow(&error))?;
    // A duration that no clock can reach is no limit. It begins when everything is attached.
    let limit = || duration.and_then(|d| Instant::now().checked_add(d));
    let mut begun = false;
    let mut deadline = None;
    let mut stopping = false;
    let mut failed = Ok(());
    let mut finished = Finished::default();
    loop {
        tokio::select! {
            frame = session.frames.recv() => {
                let Some(frame) = frame else { break };
                finished.frames += 1;
                if !begun && let Some(meta) = &frame.meta && !meta.attaching {
                    begun = true;
                    deadline = limit();
                }
                if let Some(end) = &frame.end {
                    finished.end = Some(end.clone());
                }
                if failed.is_ok() {
                    tell(globals, warnings, &frame);
                    failed = each(Event::Frame(&frame));
                    if failed.is_err() && !stopping {
                        stopping = true;
                        session.stop();
                    }
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                deadline = None;
                if !stopping {
                    stopping = true;
                    session.stop();
                }
            }
            () = tokio::time::sleep(PAUSE), if failed.is_ok() => {
                failed = each(Event::Pause);
                if failed.is_err() && !stopping {
                    stopping = true;
                    session.stop();
                }
            }
            link = link_changed(&mut session.link) => match link {
                Link::Down(reason) if warnings == Warnings::Told && !globals.quiet => {
                    note(&format!("warning: the link is down, and tried again: {reason}"));
                }
                _ => {}
            },
            _ = signals.next() => {
                if stopping {
                    return failed.and(Err(given_up()));
                }
                stopping = true;
                session.stop();
            }
        }
    }
    failed?;
    finished.completed(&session)
}

/// The failure of a run that was given up: a second signal came while the source was being stopped.
pub fn given_up() -> Failure {
    Failure::new(
        "stopped before the last frame",
        "a second signal came while the source was being stopped",
        "wait until the source has stopped",
    )
}

fn cannot_follow(error: &io::Error) -> Failure {
    Failure::new(
        "the source cannot be followed",
        error.to_string(),
        "check the limits of open files (ulimit -n)",
    )
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The end: SIGINT, SIGTERM.
    Stop,
    /// SIGHUP: the end where there is a terminal, the configuration read again by a daemon.
    Hangup,
}

/// The signals that end a run in order.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Hangup,
        }
    }
}

/// Where errors and warnings of a running source go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warnings {
    /// To the standard error, when they come.
    Told,
    /// Into what the command itself prints, and nowhere else.
    Printed,
}

/// Prints a frame's messages to the standard error, as far as they are asked for.
pub fn tell(globals: &Globals, warnings: Warnings, frame: &Frame) {
    for line in &frame.log {
        let wanted = match line.level.as_str() {
            "error" => warnings == Warnings::Told,
            "warn" | LogLine::NOTE => warnings == Warnings::Told && !globals.quiet,
            "info" => globals.verbose >= 1,
            _ => globals.verbose >= 2,
        };
        if wanted {
            note(&format!("{}: {}", line.level, line.text));
        }
    }
}

/// Prints a line to the standard error; a closed one is no reason to stop.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
