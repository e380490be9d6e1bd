//! The recordings of the tests, and stored pictures of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apscope_tui::screenshot;
use apscope_tui::snapshot;
use apscope_tui::state::App;
use apscope_tui::state::config::Settings;

/// Columns and lines of the stored pictures.
pub const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];
/// Steady, contended, deadlocked; and how far each is gone through: before it was told to stop.
pub const RUNS: [(&str, Duration); 3] = [
    ("steady-v5.13", Duration::from_millis(2_500)),
    ("slow-reset-v6.0", Duration::from_millis(2_500)),
    ("se-start-v5.13", Duration::MAX),
];

/// Where the recordings are.
pub fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings")
}

/// One of them.
pub fn file(name: &str) -> PathBuf {
    recordings().join(format!("{name}.apscope"))
}

/// A recording at a moment, counted from its start.
pub fn at(name: &str, at: Duration) -> App {
    screenshot::at(&file(name), at, "", Settings::default())
        .unwrap_or_else(|failure| panic!("{name}: {failure:?}"))
}

/// The picture as text.
pub fn drawn(app: &mut App, (width, height): (u16, u16)) -> String {
    snapshot::text(&snapshot::buffer(app, width, height))
}

/// A picture of each size, in one text; no line is wider than there is room for.
pub fn at_all_sizes(mut make: impl FnMut() -> App) -> String {
    let mut all = String::new();
    for size in SIZES {
        let picture = drawn(&mut make(), size);
        for line in picture.lines() {
            assert!(line.chars().count() <= usize::from(size.0), "{line}");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(all, "{}x{}\n{picture}", size.0, size.1);
    }
    all
}
