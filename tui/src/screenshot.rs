//! `apscope screenshot`: pictures of the dashboard at a moment of a recording, for the documentation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use apscope_collector::cli::Failure;
use clap::Args;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::snapshot;
use crate::state::App;
use crate::state::config::Settings;
use crate::tape::Tape;
use crate::theme::Theme;

/// What to draw.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ScreenshotArgs {
    /// Folder of the recordings
    #[arg(long)]
    recordings: PathBuf,
    /// Folder for the pictures
    #[arg(short, long)]
    output: PathBuf,
    /// Only the picture with this name
    #[arg(long)]
    only: Option<String>,
    /// Columns, instead of the picture's own
    #[arg(long)]
    width: Option<u16>,
    /// Lines, instead of the picture's own
    #[arg(long)]
    height: Option<u16>,
}

/// A picture of the documentation.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// Name of its file.
    pub name: &'static str,
    /// Name of the recording.
    pub recording: &'static str,
    /// Milliseconds after its start.
    pub at_ms: u64,
    /// Keys pressed then; `⏎` is Enter.
    pub keys: &'static str,
    /// Columns and lines.
    pub size: (u16, u16),
    /// Styles.
    pub theme: Theme,
}

const fn picture(
    name: &'static str,
    recording: &'static str,
    at_ms: u64,
    keys: &'static str,
) -> Picture {
    Picture {
        name,
        recording,
        at_ms,
        keys,
        size: (120, 34),
        theme: Theme::COLOUR,
    }
}

/// The pictures of the documentation.
pub const PICTURES: &[Picture] = &[
    Picture {
        size: (100, 28),
        ..picture("overview", "se-start-v5.13", u64::MAX, "1")
    },
    Picture {
        size: (100, 28),
        ..picture("genuine-deadlock", "lab-5.10-deadlock", u64::MAX, "1")
    },
    picture("overview-steady", "steady-v5.13", 2_500, "1"),
    picture("overview-hardware", "stuck-reset-v6.6", u64::MAX, "1"),
    picture("locks", "steady-v5.13", 2_500, "2"),
    Picture {
        size: (120, 44),
        ..picture("lock-detail", "steady-v5.13", 2_500, "2/open-coded⏎⏎")
    },
    picture("entries", "steady-v5.13", 2_500, "3"),
    picture("guests", "stuck-reset-v6.6", u64::MAX, "4G"),
    picture("order", "se-start-v5.13", u64::MAX, "5"),
    picture("timeline", "se-start-v5.13", 1_900, "6"),
    Picture {
        size: (120, 44),
        ..picture("findings", "se-start-v5.13", u64::MAX, "7")
    },
    picture("log", "steady-v5.13", 2_500, "8"),
    Picture {
        theme: Theme::LIGHT,
        ..picture("overview-light", "se-start-v5.13", u64::MAX, "1")
    },
];

/// A recording as it is at a moment, and keys pressed then.
///
/// # Errors
///
/// The recording cannot be read.
pub fn at(recording: &Path, at: Duration, keys: &str, settings: Settings) -> Result<App, Failure> {
    let (mut tape, mut replay) = Tape::open(recording, &settings.thresholds)?;
    replay.playing = false;
    let offset = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    replay.seek(replay.range().0.saturating_add(offset));
    let mut app = App::with(settings, Duration::from_millis(100));
    app.replay = Some(replay);
    tape.arrive(&mut app)?;
    app.refresh();
    press(&mut app, keys);
    Ok(app)
}

/// Presses keys, one after the other; `⏎` is Enter.
pub fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = if c == '⏎' {
            KeyCode::Enter
        } else {
            KeyCode::Char(c)
        };
        app.key(KeyEvent::new(code, KeyModifiers::NONE));
        app.refresh();
    }
}

/// A picture as SVG.
///
/// # Errors
///
/// Its recording cannot be read.
pub fn draw(picture: &Picture, recordings: &Path) -> Result<String, Failure> {
    let file = recordings.join(format!("{}.apscope", picture.recording));
    let settings = Settings {
        theme: picture.theme,
        ..Settings::default()
    };
    let mut app = at(
        &file,
        Duration::from_millis(picture.at_ms),
        picture.keys,
        settings,
    )?;
    let (width, height) = picture.size;
    Ok(snapshot::svg_on(
        &snapshot::buffer(&mut app, width, height),
        picture.theme == Theme::LIGHT,
    ))
}

/// Draws the pictures.
pub fn run(args: &ScreenshotArgs) -> Result<(), Failure> {
    for picture in PICTURES {
        if args.only.as_ref().is_some_and(|only| only != picture.name) {
            continue;
        }
        let size = (
            args.width.unwrap_or(picture.size.0),
            args.height.unwrap_or(picture.size.1),
        );
        let svg = draw(&Picture { size, ..*picture }, &args.recordings)?;
        let path = args.output.join(format!("{}.svg", picture.name));
        std::fs::write(&path, svg).map_err(|error| {
            Failure::new(
                format!("{} cannot be written", path.display()),
                error.to_string(),
                "another folder",
            )
        })?;
    }
    Ok(())
}
