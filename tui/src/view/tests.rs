//! Every view at several sizes, against stored pictures; and styles, robustness, cost.

use std::time::{Duration, Instant};

use apscope_collector::frame::{End, Frame, LogLine, Loss, ProgramLoss};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use crate::fixture;
use crate::state::App;
use crate::theme::Theme;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

fn app(theme: Theme) -> App {
    let mut app = App::new(theme, Duration::from_millis(100));
    for number in 0..30 {
        app.apply(&fixture::frame(number, 8));
    }
    app
}

fn press(app: &mut App, keys: &[KeyCode]) {
    for key in keys {
        app.key(KeyEvent::new(*key, KeyModifiers::NONE));
    }
}

fn text(app: &mut App, keys: &str) {
    for c in keys.chars() {
        press(app, &[KeyCode::Char(c)]);
    }
}

fn drawn(app: &mut App, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| super::draw(frame, app)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    buffer
        .content
        .chunks(width.max(1))
        .map(|row| {
            let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}

/// One stored picture for each size.
fn pictures(name: &str, prepare: impl Fn(&mut App)) {
    for (width, height) in SIZES {
        let mut app = app(Theme::COLOUR);
        prepare(&mut app);
        let picture = lines(&drawn(&mut app, width, height));
        assert!(picture.contains("EMULATED"), "{name} at {width}x{height}");
        insta::assert_snapshot!(format!("{name}-{width}x{height}"), picture);
    }
}

#[test]
fn locks() {
    pictures("locks", |_| {});
}

#[test]
fn lock_detail() {
    pictures("lock-detail", |app| {
        text(app, "/kvm_busy");
        press(app, &[KeyCode::Enter, KeyCode::Enter]);
        assert!(app.detail_open);
    });
}

#[test]
fn entries() {
    pictures("entries", |app| text(app, "2"));
}

#[test]
fn entry_detail() {
    pictures("entry-detail", |app| {
        text(app, "2/name:handle_pqap");
        press(app, &[KeyCode::Enter, KeyCode::Enter]);
        assert!(app.detail_open);
    });
}

#[test]
fn help() {
    pictures("help", |app| text(app, "?"));
}

#[test]
fn log() {
    pictures("log", |app| text(app, "l"));
}
