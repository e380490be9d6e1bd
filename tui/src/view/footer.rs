//! The lines at the bottom: the last message (or the filter being typed), and the keys that do something now.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::cut;
use super::{header, log};
use crate::state::App;

/// The footer, at most `height` lines: the keys go last and are the first to be left out while a filter is typed.
pub fn lines(app: &App, width: u16, height: usize) -> Vec<Line<'static>> {
    let message = match &app.filter().typing {
        Some(text) => Some(filter(app, text, width)),
        None => log::last(app, width),
    };
    let mut lines = match height {
        0 => Vec::new(),
        1 if app.filter().typing.is_some() => message.into_iter().collect(),
        1 => vec![keys(app, width)],
        _ => vec![message.unwrap_or_default(), keys(app, width)],
    };
    lines.truncate(height);
    lines
}

/// The filter line, its end in view.
fn filter(app: &App, text: &str, width: u16) -> Line<'static> {
    let theme = app.theme;
    let error = app.filter().error.as_deref().map(|e| format!("  ✗ {e}"));
    let error_width = error.as_deref().map_or(0, |e| Span::raw(e).width());
    let room = usize::from(width).saturating_sub(error_width + 2).max(8);
    let mut tail = text;
    while Span::raw(tail).width() > room {
        let mut chars = tail.chars();
        chars.next();
        tail = chars.as_str();
    }
    let mut spans = vec![
        Span::styled("/", theme.key()),
        Span::raw(tail.to_owned()),
        Span::styled(" ", theme.selected()),
    ];
    match error {
        Some(error) => spans.push(Span::styled(error, theme.alarm())),
        None => spans.push(Span::styled(
            format!(
                "  {} · wait>1ms kind:mutex name:kvm !word",
                header::rows(app)
            ),
            theme.dim(),
        )),
    }
    Line::from(spans)
}

fn keys(app: &App, width: u16) -> Line<'static> {
    let theme = app.theme;
    let pause = if app.behind_ns().is_some() {
        "go on"
    } else {
        "pause"
    };
    let keys: Vec<(&str, &str)> = if app.filter().typing.is_some() {
        vec![
            ("Enter", "keep"),
            ("Esc", "undo"),
            ("^U", "clear"),
            ("^W", "word"),
        ]
    } else if app.overlay.is_some() {
        vec![("Esc", "close"), ("↑↓", "scroll"), ("q", "quit")]
    } else if app.detail_open {
        vec![
            ("q", "quit"),
            ("?", "help"),
            ("Esc", "back"),
            ("↑↓", "scroll"),
            ("space", pause),
            ("l", "log"),
        ]
    } else {
        vec![
            ("q", "quit"),
            ("?", "help"),
            ("Enter", "detail"),
            ("s", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("space", pause),
            ("Tab", "view"),
            ("l", "log"),
            ("+-", "interval"),
        ]
    };
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, what) in keys {
        let own = Span::raw(key).width() + 1 + what.len();
        let gap = if spans.is_empty() { 0 } else { 2 };
        if used + gap + own > usize::from(width) {
            break;
        }
        used += gap + own;
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(key.to_owned(), theme.key()));
        spans.push(Span::styled(format!(" {what}"), theme.dim()));
    }
    if spans.is_empty() {
        spans.push(Span::styled(
            cut("q quit", usize::from(width)),
            Style::new(),
        ));
    }
    Line::from(spans)
}
