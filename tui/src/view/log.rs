//! The programs' and the collector's messages.

use apscope_collector::frame::LogLine;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::cut;
use super::writes::printable;
use crate::format;
use crate::state::App;

fn style(app: &App, level: &str) -> Style {
    match level {
        "error" => app.theme.alarm(),
        "warn" => app.theme.warning(),
        _ => app.theme.dim(),
    }
}

fn line(app: &App, entry: &LogLine) -> Line<'static> {
    let start = app.shown().model.meta.as_ref().map_or(0, |m| m.start_ns);
    Line::from(vec![
        Span::styled(
            format!("{:>7} ", format::elapsed(entry.at_ns.saturating_sub(start))),
            app.theme.dim(),
        ),
        Span::styled(format!("{:<5} ", entry.level), style(app, &entry.level)),
        Span::raw(printable(&entry.text)),
    ])
}

/// All messages, the oldest first.
pub fn lines(app: &App) -> Vec<Line<'static>> {
    let log = &app.shown().model.log;
    if log.is_empty() {
        return vec![Line::styled("no messages so far", app.theme.dim())];
    }
    log.iter().map(|entry| line(app, entry)).collect()
}

/// The newest message, on one line.
pub fn last(app: &App, width: u16) -> Option<Line<'static>> {
    let entry = app.shown().model.log.back()?;
    let mut line = line(app, entry);
    let used: usize = line.spans.iter().take(2).map(Span::width).sum();
    if let Some(text) = line.spans.last_mut() {
        text.content = cut(&text.content, usize::from(width).saturating_sub(used)).into();
    }
    Some(line)
}
