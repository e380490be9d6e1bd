//! Time of the dashboard's pictures on a recording, for `cargo xtask bench dashboard`: one line of JSON for each view.
//!
//! Each frame of the recording is folded and drawn once, into a terminal of 200 by 60 whose output goes nowhere; what is
//! timed is folding with diagnosis, and rows, drawing and the escape sequences of what has changed. `busy_ns` is the CPU
//! time of all of it, reading the recording included. A second argument names the only view to draw.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use apscope_collector::recording::Reader;
use apscope_tui::state::{App, View};
use apscope_tui::theme::Theme;
use apscope_tui::view;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

/// Counts what is written.
#[derive(Default)]
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .unwrap_or(0)
}

/// Time that the one thread of this process has been on a CPU.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = PathBuf::from(std::env::args().nth(1).ok_or("a recording")?);
    let only = std::env::args().nth(2);
    let named = |view: &View| only.as_ref().is_none_or(|name| *name == view.name());
    for view in View::ALL.into_iter().filter(named) {
        let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
        app.show(view);
        let options = TerminalOptions {
            viewport: Viewport::Fixed(Rect::new(0, 0, 200, 60)),
        };
        let mut terminal = Terminal::with_options(CrosstermBackend::new(Sink::default()), options)?;
        let (mut draws, mut folds) = (Vec::new(), Vec::new());
        let mut first = None;
        let mut warm = 0;
        let began = on_cpu();
        for frame in Reader::open(&file)? {
            let frame = frame?;
            first.get_or_insert(frame.at_ns);
            let start = Instant::now();
            app.apply(&frame);
            folds.push(start.elapsed());
            let start = Instant::now();
            terminal.draw(|frame| view::draw(frame, &mut app))?;
            draws.push(start.elapsed());
            if draws.len() == 20 {
                warm = resident();
            }
        }
        let recorded = app
            .live()
            .model
            .last
            .at_ns
            .saturating_sub(first.unwrap_or(0));
        let busy = on_cpu().saturating_sub(began);
        let total = draws.len();
        draws.sort_unstable();
        folds.sort_unstable();
        let at = |all: &[Duration], q: f64| {
            let rank = ((q * all.len() as f64).ceil() as usize).saturating_sub(1);
            all.get(rank).map_or(0, Duration::as_nanos)
        };
        println!(
            "{{\"view\":\"{}\",\"pictures\":{total},\"draw_p50_ns\":{},\"draw_p99_ns\":{},\"fold_p50_ns\":{},\
             \"busy_ns\":{},\"recorded_ns\":{recorded},\"resident_kib\":[{warm},{}]}}",
            view.name(),
            at(&draws, 0.5),
            at(&draws, 0.99),
            at(&folds, 0.5),
            busy.as_nanos(),
            resident()
        );
    }
    Ok(())
}
