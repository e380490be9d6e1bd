//! The loop: frames from a source and keys from a terminal into the state, the state onto the screen.
//!
//! Everything happens on one thread and waits in one place. Data are drawn at most ten times a second, keys at once;
//! where nothing has changed nothing is drawn.

use std::io;
use std::time::Duration;

use apscope_collector::cli::Failure;
use apscope_collector::options::RunOptions;
use apscope_collector::source::Session;
use apscope_collector::source::leave::detach_in_background;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::state::keys::Effect;
use crate::state::{App, Ending};
use crate::terminal::Guard;
use crate::theme::Theme;
use crate::view;

/// Time between two pictures of data.
const DATA_SPACING: Duration = Duration::from_millis(100);
/// Time between two pictures when keys are held down.
const KEY_SPACING: Duration = Duration::from_millis(16);
/// Fails with the terminal's own reason.
fn terminal_failure(error: &io::Error) -> Failure {
    Failure::new(
        "the dashboard cannot use this terminal",
        error.to_string(),
        "another terminal, or `--plain` for a text summary",
    )
}

/// Runs the dashboard on a source until the user leaves, the time is over, or a signal comes.
///
/// # Errors
///
/// The source cannot start (nothing has been drawn then), the terminal fails, or the source died.
pub fn run(options: &RunOptions, duration: Option<Duration>, theme: Theme) -> Result<(), Failure> {
    // Before the terminal is taken: errors, and the time this takes, belong to the ordinary screen.
    let result = watch(Session::start(options)?, options.interval, duration, theme);
    // The prompt comes back now, and not when the kernel has detached the last probe.
    detach_in_background();
    result
}

/// Runs the dashboard on a session that has been started.
///
/// # Errors
///
/// The terminal fails, or the source died.
pub fn watch(
    mut session: Session,
    interval: Duration,
    duration: Option<Duration>,
    theme: Theme,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| terminal_failure(&error))?;
    let mut app = App::new(theme, interval);
    let result = runtime.block_on(async {
        let mut guard = Guard::take()?;
        drive(&mut app, &mut session, &mut guard, duration).await
    });
    // Not told to stop: an emulator that others watch too goes on, and our own one ends with the connection.
    drop(session);
    result.map_err(|error: io::Error| terminal_failure(&error))?;
    match app.ending {
        Some(Ending::Died(detail)) => Err(Failure::new(
            "the source ended unexpectedly",
            detail,
            "again; `apscope record` keeps what is measured up to such a moment",
        )),
        _ => Ok(()),
    }
}

async fn drive(
    app: &mut App,
    session: &mut Session,
    guard: &mut Guard,
    duration: Option<Duration>,
) -> io::Result<()> {
    let mut events = EventStream::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // A duration that no clock can reach is no limit.
    let deadline = duration.and_then(|d| Instant::now().checked_add(d));
    let mut stopping = false;
    let mut open = true;
    // When the next picture is due, if one is.
    let mut due = Some(Instant::now());
    let mut drawn = Instant::now();
    loop {
        tokio::select! {
            frame = session.frames.recv(), if open => {
                if let Some(frame) = frame {
                    app.apply(&frame);
                } else {
                    open = false;
                    app.closed();
                    if app.ending == Some(Ending::InOrder) {
                        return Ok(());
                    }
                }
                // While paused, the header still says how far behind the picture is.
                due.get_or_insert(drawn + DATA_SPACING);
            }
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => {
                    match app.key(key) {
                        Effect::None => {}
                        Effect::Quit => return Ok(()),
                        Effect::Interval(interval) => session.set_interval(interval),
                    }
                    due = Some(drawn + KEY_SPACING);
                }
                Some(Ok(Event::Resize(..))) => due = Some(drawn + KEY_SPACING),
                Some(Ok(_)) => {}
                // The terminal has gone.
                Some(Err(_)) | None => return Ok(()),
            },
            () = sleep_until(due.unwrap_or(drawn)), if due.is_some() => {
                guard.screen.draw(|frame| view::draw(frame, app))?;
                drawn = Instant::now();
                due = None;
            }
            () = sleep_until(deadline.unwrap_or(drawn)), if deadline.is_some() && !stopping => {
                if matches!(app.ending, Some(Ending::Detached(_))) {
                    return Ok(());
                }
                stopping = true;
                session.stop();
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}
