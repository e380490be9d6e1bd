//! The loop: frames from a source or a recording, keys and the mouse from a terminal into the state, the state onto the
//! screen.
//!
//! Everything happens on one thread and waits in one place. At the default interval each frame is drawn when it comes,
//! at shorter ones a dozen pictures a second; keys are drawn at once. Where nothing has changed nothing is drawn.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apscope_collector::cli::Failure;
use apscope_collector::frame::Frame;
use apscope_collector::options::RunOptions;
use apscope_collector::source::{Link, Session, SourceError, link_changed};
use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{Event, EventStream};
use crossterm::execute;
use futures_util::StreamExt;
use ratatui::layout::Size;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::snapshot;
use crate::state::config::Settings;
use crate::state::export::{self, Format};
use crate::state::keys::Effect;
use crate::state::{App, Ending};
use crate::tape::Tape;
use crate::terminal::Guard;
use crate::view;

/// Time between two pictures of data at least. Shorter than the default interval, so that its frames never wait for it:
/// frames and pictures of the same rate would drift apart by up to a whole interval.
const DATA_SPACING: Duration = Duration::from_millis(80);
/// Time between two pictures when keys are held down.
const KEY_SPACING: Duration = Duration::from_millis(16);
/// Time between two looks at how far a recording has come.
const REPLAY_SPACING: Duration = Duration::from_millis(50);

/// Fails with the terminal's own reason.
fn terminal_failure(error: &io::Error) -> Failure {
    Failure::new(
        "the dashboard cannot use this terminal",
        error.to_string(),
        "another terminal, or `--plain` for a text summary",
    )
}

/// When the dashboard ends by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// After this time.
    pub duration: Option<Duration>,
    /// After this time by a panic: what becomes of the terminal then is tested.
    pub panic_after: Option<Duration>,
}

/// Where frames come from.
enum Feed {
    Live(Session, Box<RunOptions>),
    Tape(Box<Tape>),
}

/// Time between two attempts to find another run elsewhere, once one has ended.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits for another run elsewhere, on a thread of its own: connecting blocks. Gives up when nobody listens any more.
fn wait_for_another(options: RunOptions) -> mpsc::Receiver<Session> {
    let (sender, receiver) = mpsc::channel(1);
    let wait = move || {
        while !sender.is_closed() {
            std::thread::sleep(AGAIN);
            if let Ok(session) = Session::start(&options) {
                // Whoever waited has left.
                let _ = sender.blocking_send(session);
                return;
            }
        }
    };
    // Without a thread nothing is waited for, and the last picture stays.
    let _ = std::thread::Builder::new().name("again".into()).spawn(wait);
    receiver
}

/// The session that is waited for, once there is one.
async fn another(waiting: &mut Option<mpsc::Receiver<Session>>) -> Session {
    if let Some(receiver) = waiting
        && let Some(session) = receiver.recv().await
    {
        return session;
    }
    std::future::pending().await
}

/// Runs the dashboard on a source until the user leaves, the time is over, or a signal comes.
///
/// # Errors
///
/// The source cannot start (nothing has been drawn then), the terminal fails, or the source died.
pub fn run(options: &RunOptions, limits: Limits, settings: Settings) -> Result<(), Failure> {
    // Before the terminal is taken: errors, and the time this takes, belong to the ordinary screen.
    let session = Session::start(options)?;
    let app = App::with(settings, options.interval);
    watch(app, Feed::Live(session, Box::new(options.clone())), limits)
}

/// Runs the dashboard on a recording.
///
/// # Errors
///
/// The terminal fails, or the file goes while it is shown.
pub fn replay(tape: Tape, app: App, limits: Limits) -> Result<(), Failure> {
    watch(app, Feed::Tape(Box::new(tape)), limits)
}

fn watch(mut app: App, mut feed: Feed, limits: Limits) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| terminal_failure(&error))?;
    let result = runtime.block_on(async {
        let mut guard =
            Guard::take(app.settings.mouse).map_err(|error| terminal_failure(&error))?;
        drive(&mut app, &mut feed, &mut guard, limits).await
    });
    // Not told to stop: an emulator that others watch too goes on, and our own one ends with the connection.
    let failure = failure(&feed);
    drop(feed);
    result?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    match app.ending {
        Some(Ending::Died(detail)) if app.replay.is_none() => Err(Failure::new(
            "the source ended unexpectedly",
            detail,
            "again; `apscope record` keeps what is measured up to such a moment",
        )),
        _ => Ok(()),
    }
}

/// Why a kernel could not be measured, after its memory had been read.
fn failure(feed: &Feed) -> Option<SourceError> {
    match feed {
        Feed::Live(session, _) => session.ended().failed,
        Feed::Tape(_) => None,
    }
}

/// The next frame of a source; never of a recording, whose frames are taken when they are due.
async fn next(feed: &mut Feed) -> Option<Arc<Frame>> {
    match feed {
        Feed::Live(session, _) => session.frames.recv().await,
        Feed::Tape(_) => std::future::pending().await,
    }
}

async fn drive(
    app: &mut App,
    feed: &mut Feed,
    guard: &mut Guard,
    limits: Limits,
) -> Result<(), Failure> {
    let failed = |error: io::Error| terminal_failure(&error);
    let mut events = EventStream::new();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let start = Instant::now();
    // A duration that no clock can reach is no limit.
    let deadline = limits.duration.and_then(|d| start.checked_add(d));
    let panic_at = limits.panic_after.and_then(|d| start.checked_add(d));
    let mut stopping = false;
    let mut open = true;
    let mut link = match &feed {
        Feed::Live(session, _) => session.link.clone(),
        Feed::Tape(_) => None,
    };
    // Another run elsewhere, once the one that was shown has ended; and whether its first frame is awaited.
    let mut waiting = None;
    let mut anew = false;
    // Since when nothing comes from elsewhere.
    let mut away = None;
    // When the next picture is due, if one is.
    let mut due = Some(start);
    let mut drawn = start;
    // When a recording was looked at last.
    let mut replayed = start;
    loop {
        tokio::select! {
            frame = next(feed), if open => {
                if let Some(frame) = frame {
                    if std::mem::take(&mut anew) {
                        // The picture of the run before stays until there is one of this.
                        app.restart();
                        (app.away, away) = (None, None);
                    }
                    app.apply(&frame);
                } else {
                    open = false;
                    if let Some(error) = failure(feed) {
                        app.ending = Some(Ending::Died(error.to_string()));
                    }
                    app.closed();
                    if stopping || link.is_none() && app.ending == Some(Ending::InOrder) {
                        return Ok(());
                    }
                    if link.is_some() && !matches!(app.ending, Some(Ending::Died(_))) {
                        // Somebody else has ended it: the last picture is not theirs to take away, and they may begin
                        // another.
                        app.ending = Some(Ending::Over);
                        (app.away, away) = (Some(Duration::ZERO), Some(Instant::now()));
                        if let Feed::Live(_, options) = &*feed {
                            waiting = Some(wait_for_another((**options).clone()));
                        }
                    }
                }
                // While paused, the header still says how far behind the picture is.
                due.get_or_insert(drawn + DATA_SPACING);
            }
            changed = link_changed(&mut link) => {
                (app.away, away) = match (&changed, away) {
                    (Link::Up, _) => (None, None),
                    (Link::Down(_), Some(since)) => (app.away, Some(since)),
                    (Link::Down(_), None) => (Some(Duration::ZERO), Some(Instant::now())),
                };
                app.link = changed;
                due.get_or_insert(drawn + DATA_SPACING);
            }
            session = another(&mut waiting) => {
                waiting = None;
                if let Feed::Live(before, _) = feed {
                    link.clone_from(&session.link);
                    *before = session;
                    (open, anew) = (true, true);
                }
            }
            () = sleep_until(away.unwrap_or(start) + app.away.unwrap_or_default() + AGAIN), if away.is_some() => {
                // It is counted in whole seconds.
                app.away = away.map(|since| Duration::from_secs(since.elapsed().as_secs()));
                due.get_or_insert(drawn + DATA_SPACING);
            }
            () = sleep_until(replayed + REPLAY_SPACING), if app.replay.is_some() => {
                let now = Instant::now();
                if let (Some(replay), Feed::Tape(tape)) = (&mut app.replay, &mut *feed) {
                    let before = replay.at_ns();
                    replay.pass(now - replayed);
                    let moved = replay.at_ns() != before;
                    let there = tape.follow(app)?;
                    // It may have been told where to be before there was a picture.
                    if moved || !there || app.is_stale() {
                        due.get_or_insert(drawn + DATA_SPACING);
                    }
                }
                replayed = now;
            }
            event = events.next() => {
                let effect = match event {
                    Some(Ok(Event::Key(key))) => app.key(key),
                    Some(Ok(Event::Mouse(mouse))) => app.mouse(mouse),
                    Some(Ok(_)) => Effect::None,
                    // The terminal has gone.
                    Some(Err(_)) | None => return Ok(()),
                };
                match effect {
                    Effect::None => {}
                    Effect::Quit => return Ok(()),
                    Effect::Interval(interval) => {
                        match feed {
                            Feed::Live(session, _) if session.link.is_some() => {
                                app.fail("others read there too: the interval is what `serve` was told");
                            }
                            Feed::Live(session, _) => session.set_interval(interval),
                            Feed::Tape(_) => {}
                        }
                    }
                    Effect::Export(format) => {
                        let size = guard.screen.size().map_err(failed)?;
                        export_to_file(app, format, size);
                    }
                    Effect::Copy(text) => {
                        execute!(io::stdout(), CopyToClipboard::to_clipboard_from(text)).map_err(failed)?;
                    }
                }
                if let Feed::Tape(tape) = feed {
                    // A seek is to be seen at once.
                    tape.follow(app)?;
                }
                due = Some(drawn + KEY_SPACING);
            }
            () = sleep_until(due.unwrap_or(drawn)), if due.is_some() => {
                guard.screen.draw(|frame| view::draw(frame, app)).map_err(failed)?;
                drawn = Instant::now();
                due = None;
            }
            () = sleep_until(deadline.unwrap_or(drawn)), if deadline.is_some() && !stopping => {
                match feed {
                    Feed::Live(session, _)
                        if !matches!(app.ending, Some(Ending::Detached(_) | Ending::Over)) =>
                    {
                        stopping = true;
                        session.stop();
                    }
                    _ => return Ok(()),
                }
            }
            () = sleep_until(panic_at.unwrap_or(drawn)), if panic_at.is_some() => {
                panic!("asked for by --panic-after");
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

/// Writes the current view to a new file in the current directory, and says so at the bottom of the screen.
fn export_to_file(app: &mut App, format: Format, size: Size) {
    let name = |n: u32| {
        let number = if n == 0 {
            String::new()
        } else {
            format!("-{n}")
        };
        PathBuf::from(format!(
            "apscope-{}{number}.{}",
            app.view.name(),
            format.extension()
        ))
    };
    // Never over another file.
    let Some(path) = (0..1000).map(name).find(|path| !path.exists()) else {
        app.fail("there are a thousand such files here already");
        return;
    };
    let text = match format {
        Format::Text => snapshot::text(&snapshot::buffer(app, size.width, size.height)),
        Format::Svg => snapshot::svg(&snapshot::buffer(app, size.width, size.height)),
        Format::Json => format!("{:#}\n", export::json(app)),
    };
    match std::fs::write(&path, text) {
        Ok(()) => app.say(format!("written to {}", path.display())),
        Err(error) => app.fail(format!("{} cannot be written: {error}", path.display())),
    }
}
