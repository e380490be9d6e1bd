//! `apscope screenshot`: pictures of the dashboard on a real run, for the documentation.

use std::path::PathBuf;
use std::time::Duration;

use apscope_collector::cli::{self, Failure, Globals};
use apscope_collector::source::Session;
use clap::{Args, ValueEnum};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use tokio::time::{Instant, sleep_until};

use crate::snapshot;
use crate::state::{App, Ending};
use crate::theme::Theme;
use crate::view;

/// What to draw.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScreenshotArgs {
    /// What the picture shows
    #[arg(long, value_enum, default_value_t = Scene::Locks)]
    view: Scene,
    /// Columns
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=500))]
    width: u16,
    /// Lines
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=200))]
    height: u16,
    /// How long to measure before the picture is taken
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration)]
    after: Duration,
    /// The SVG file to write
    #[arg(short, long)]
    output: PathBuf,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scene {
    /// The locks table
    Locks,
    /// The detail of the open-coded lock, or of the lock with the longest waits where there is none
    LockDetail,
    /// The entry points table
    Entries,
}

/// Runs a session for a while, and writes the picture.
pub fn run(args: &ScreenshotArgs, globals: &Globals) -> Result<(), Failure> {
    let options = cli::run_options(globals)?;
    let mut session = Session::start(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("the picture cannot be made", error.to_string(), "again"))?;
    let mut app = App::new(Theme::COLOUR, options.interval);
    let end = Instant::now() + args.after;
    runtime.block_on(async {
        loop {
            tokio::select! {
                frame = session.frames.recv() => {
                    let Some(frame) = frame else {
                        app.closed();
                        break;
                    };
                    app.apply(&frame);
                }
                () = sleep_until(end) => break,
            }
        }
    });
    drop(session);
    if let Some(Ending::Died(detail)) = &app.ending {
        return Err(Failure::new(
            "the source ended before the picture was taken",
            detail.clone(),
            "again",
        ));
    }
    let picture = snapshot::svg(&draw(&mut app, args.view, args.width, args.height));
    std::fs::write(&args.output, picture).map_err(|error| {
        Failure::new(
            format!("{} cannot be written", args.output.display()),
            error.to_string(),
            "another path",
        )
    })
}

/// The dashboard's cells, with a scene opened the way a person opens it: by keys.
fn draw(app: &mut App, scene: Scene, width: u16, height: u16) -> Buffer {
    let mut press = |code| {
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
    };
    match scene {
        Scene::Locks => {}
        Scene::Entries => press(KeyCode::Char('2')),
        Scene::LockDetail => {
            press(KeyCode::Char('g'));
            let open_coded = app.lock_rows().iter().position(|row| row.facts.open_coded);
            for _ in 0..open_coded.unwrap_or(0) {
                app.key(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
            }
            app.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
        }
    }
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, app));
    terminal.backend().buffer().clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_scene_says_emulated() {
        for (scene, part) in [
            (Scene::Locks, "queue"),
            (Scene::LockDetail, "lockdep does not see it"),
            (Scene::Entries, "handle_pqap"),
        ] {
            let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
            for number in 0..10 {
                app.apply(&fixture::frame(number, 8));
            }
            let svg = snapshot::svg(&draw(&mut app, scene, 120, 40));
            assert!(svg.contains("EMULATED"), "{scene:?}");
            assert!(svg.contains(part), "{scene:?}: {svg}");
        }
    }
}
