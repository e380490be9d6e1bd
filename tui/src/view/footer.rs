//! The lines at the bottom: the last message (or the filter being typed), and the keys that do something now.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::cut;
use super::{header, log};
use crate::state::keymap::Action;
use crate::state::{App, View};

/// The footer, at most `height` lines: the keys go last and are the first to be left out while a filter is typed.
pub fn lines(app: &App, width: u16, height: usize) -> Vec<Line<'static>> {
    let message = match (&app.filter().typing, &app.notice) {
        (Some(text), _) => Some(filter(app, text, width)),
        (None, Some(notice)) => Some(Line::styled(
            cut(&notice.text, usize::from(width)),
            if notice.failed {
                app.theme.alarm()
            } else {
                app.theme.good()
            },
        )),
        (None, None) if app.view == View::Log => filtered(app, width),
        (None, None) => filtered(app, width).or_else(|| log::last(app, width)),
    };
    if height > 1
        && let Some(lines) = filter_with_error(app, width)
    {
        return lines;
    }
    let mut lines = match height {
        0 => Vec::new(),
        1 if app.filter().typing.is_some() || app.notice.is_some() => message.into_iter().collect(),
        1 => vec![keys(app, width)],
        _ => vec![message.unwrap_or_default(), keys(app, width)],
    };
    lines.truncate(height);
    lines
}

/// A filter in force, where the tabs leave no room for it.
fn filtered(app: &App, width: u16) -> Option<Line<'static>> {
    let text = &app.filter().text;
    (!text.is_empty() && width < 110).then(|| {
        let text = format!("filter: {text} ({}); Esc clears it", header::rows(app));
        Line::styled(cut(&text, usize::from(width)), app.theme.warning())
    })
}

/// A filter and what is wrong with it, in two lines where one is too short for both. They matter more than the keys.
fn filter_with_error(app: &App, width: u16) -> Option<Vec<Line<'static>>> {
    let filter = app.filter();
    let (text, error) = (filter.typing.as_ref()?, filter.error.as_ref()?);
    let error = format!("✗ {error}");
    let width = usize::from(width);
    let needed = Span::raw(error.as_str()).width() + Span::raw(text.as_str()).width() + 4;
    (needed > width).then(|| {
        vec![
            Line::styled(cut(&error, width), app.theme.alarm()),
            typed(app, text, width.saturating_sub(2)),
        ]
    })
}

/// What is typed, its end in view, in so much room.
fn typed(app: &App, text: &str, room: usize) -> Line<'static> {
    let mut tail = text;
    while Span::raw(tail).width() > room {
        let mut chars = tail.chars();
        chars.next();
        tail = chars.as_str();
    }
    Line::from(vec![
        Span::styled("/", app.theme.key()),
        Span::raw(tail.to_owned()),
        Span::styled(" ", app.theme.selected()),
    ])
}

/// The filter line, its end in view.
fn filter(app: &App, text: &str, width: u16) -> Line<'static> {
    let theme = app.theme;
    let error = app.filter().error.as_deref().map(|e| format!("  ✗ {e}"));
    let error_width = error.as_deref().map_or(0, |e| Span::raw(e).width());
    let room = usize::from(width).saturating_sub(error_width + 2).max(8);
    let mut line = typed(app, text, room);
    match error {
        Some(error) => line.spans.push(Span::styled(error, theme.alarm())),
        None => line.spans.push(Span::styled(
            format!(
                "  {} · wait>1ms class:kvm guest:3 owner:vcpu* !word",
                header::rows(app)
            ),
            theme.dim(),
        )),
    }
    line
}

/// What the keys do that matter now; the most important first.
fn hints(app: &App) -> Vec<(Action, &'static str)> {
    let pause = match &app.replay {
        Some(replay) if replay.playing => "stop",
        Some(_) => "play",
        None if app.behind_ns().is_some() => "go on",
        None => "pause",
    };
    let mut hints = vec![(Action::Quit, "quit"), (Action::Help, "help")];
    if app.overlay.is_some() {
        return vec![
            (Action::Leave, "close"),
            (Action::Down, "scroll"),
            (Action::Quit, "quit"),
        ];
    }
    if app.detail_open {
        hints.extend([
            (Action::Leave, "back"),
            (Action::Down, "scroll"),
            (Action::Pause, pause),
            (Action::Copy, "copy"),
            (Action::Export, "export"),
        ]);
        return hints;
    }
    if app.replay.is_some() {
        hints.extend([
            (Action::Pause, pause),
            (Action::StepForward, "step"),
            (Action::SeekForward, "seek"),
            (Action::NextFinding, "finding"),
            (Action::Longer, "faster"),
        ]);
    }
    match app.view {
        View::Timeline => hints.extend([
            (Action::Left, "earlier"),
            (Action::ZoomIn, "zoom"),
            (Action::Open, "next span"),
        ]),
        View::Log => {}
        _ => hints.push((Action::Open, "detail")),
    }
    if !matches!(app.view, View::Log | View::Overview) {
        hints.extend([(Action::Sort, "sort"), (Action::Reverse, "reverse")]);
    }
    if app.view != View::Overview {
        hints.push((Action::Filter, "filter"));
    }
    if app.replay.is_none() {
        hints.push((Action::Pause, pause));
    }
    hints.extend([
        (Action::NextView, "view"),
        (Action::Copy, "copy"),
        (Action::Export, "export"),
        (Action::Expand, "expand"),
        (Action::Theme, "theme"),
    ]);
    hints
}

/// A key as it is printed on a keyboard.
fn printed(name: &str) -> String {
    match name {
        "enter" => "Enter".into(),
        "esc" => "Esc".into(),
        "tab" => "Tab".into(),
        "up" | "down" => "↑↓".into(),
        "left" | "right" => "←→".into(),
        other => other
            .strip_prefix("ctrl-")
            .map_or_else(|| other.to_owned(), |c| format!("^{c}")),
    }
}

fn keys(app: &App, width: u16) -> Line<'static> {
    let theme = app.theme;
    let keys: Vec<(String, &str)> = if app.filter().typing.is_some() {
        [
            ("Enter", "keep"),
            ("Esc", "undo"),
            ("^U", "clear"),
            ("^W", "word"),
        ]
        .map(|(key, what)| (key.to_owned(), what))
        .to_vec()
    } else {
        hints(app)
            .into_iter()
            .map(|(action, what)| (printed(&app.settings.keymap.first(action)), what))
            .filter(|(key, _)| !key.is_empty())
            .collect()
    };
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, what) in keys {
        let own = Span::raw(key.as_str()).width() + 1 + what.len();
        let gap = if spans.is_empty() { 0 } else { 2 };
        if used + gap + own > usize::from(width) {
            break;
        }
        used += gap + own;
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(Span::styled(key, theme.key()));
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
