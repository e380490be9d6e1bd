//! The log: completed spans and the programs' and the collector's messages.

use apscope_collector::frame::LogLine;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::{cut, pad};
use super::writes::printable;
use crate::format;
use crate::state::App;
use crate::state::stream::{self, Kind, MOST, StreamRow};

fn style(app: &App, level: &str) -> Style {
    match level {
        "error" => app.theme.alarm(),
        "warn" => app.theme.warning(),
        _ => app.theme.dim(),
    }
}

/// Draws the log; at its end it follows what comes.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(area.width);
    let count = app.rows().stream.len();
    let more = if count >= MOST {
        format!(", the last {MOST}")
    } else {
        String::new()
    };
    let title = format!(
        "{:>9} {} {} {:>7} {:>7}  what",
        "ended",
        pad("task", 22, false),
        pad("span", 5, false),
        "wait",
        "took",
    );
    frame.render_widget(
        Paragraph::new(Line::styled(
            cut(&format!("{title}{more}"), width),
            app.theme.header(),
        )),
        head,
    );
    let room = usize::from(body.height);
    (app.page, app.lines) = (room, count);
    let last = count.saturating_sub(room);
    let first = app.scroll.min(last);
    if count == 0 {
        let text = if app.filter().active.is_empty() {
            "no span has been completed so far"
        } else {
            "no line matches the filter: Esc clears it, / changes it"
        };
        frame.render_widget(Paragraph::new(Line::styled(text, app.theme.dim())), body);
        return;
    }
    let shown = app.rows().stream.iter().skip(first).take(room);
    let lines: Vec<Line> = shown
        .filter_map(|line| stream::row(app.shown(), *line))
        .map(|row| span_line(app, &row, width))
        .collect();
    frame.render_widget(Paragraph::new(lines), body);
}

fn span_line(app: &App, row: &StreamRow, width: usize) -> Line<'static> {
    let theme = app.theme;
    let start = app.shown().model.meta.as_ref().map_or(0, |m| m.start_ns);
    let at = row.at_ns.saturating_sub(start);
    let mut spans = vec![Span::styled(
        format!(
            "{:>9} ",
            format!("{}.{:03}", format::elapsed(at), at / 1_000_000 % 1000)
        ),
        theme.dim(),
    )];
    let who = |text: &str| Span::raw(pad(&printable(text), 23, false));
    match &row.kind {
        Kind::Lock {
            wait_ns,
            hold_ns,
            inside,
            open_coded,
        } => {
            spans.push(who(&row.who));
            spans.push(Span::styled("lock  ", theme.dim()));
            let wait_style = if *wait_ns > 0 {
                theme.wait()
            } else {
                theme.dim()
            };
            spans.push(Span::styled(
                format!("{:>7} ", format::duration(*wait_ns)),
                wait_style,
            ));
            spans.push(Span::styled(
                format!("{:>7}  ", format::duration(*hold_ns)),
                theme.hold(),
            ));
            let style = if *open_coded {
                theme.open_coded()
            } else {
                Style::new()
            };
            spans.push(Span::styled(row.what.clone(), style));
            if *inside != "-" {
                spans.push(Span::styled(format!(" in {inside}"), theme.dim()));
            }
        }
        Kind::Call {
            latency_ns,
            returns,
        } => {
            spans.push(who(&row.who));
            spans.push(Span::styled("call  ", theme.dim()));
            spans.push(Span::raw(format!("{:>7} ", "")));
            spans.push(Span::styled(
                format!("{:>7}  ", format::duration(*latency_ns)),
                theme.hold(),
            ));
            spans.push(Span::raw(format!("{} ", row.what)));
            let bad = returns.starts_with('-');
            spans.push(Span::styled(
                returns.clone(),
                if bad { theme.warning() } else { theme.dim() },
            ));
            if let Some(object) = on(row) {
                spans.push(Span::styled(format!(" on {object}"), theme.dim()));
            }
        }
        Kind::Message => {
            spans.push(Span::styled(
                format!("{:<6}", row.who),
                style(app, &row.who),
            ));
            spans.push(Span::raw(printable(&row.what)));
        }
    }
    fitted(spans, width)
}

/// What a call acted on: the mdev, and the guest that has it.
fn on(row: &StreamRow) -> Option<String> {
    match (row.mdev.as_str(), row.guest.as_str()) {
        ("", "") => None,
        (mdev, "") => Some(mdev.to_owned()),
        ("", guest) => Some(guest.to_owned()),
        (mdev, guest) => Some(format!("{mdev} ({guest})")),
    }
}

/// As much of a line as fits, its end marked where something is missing.
fn fitted(spans: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let mut used = 0;
    let mut out = Vec::new();
    for span in spans {
        let own = span.width();
        if used + own > width {
            out.push(Span::styled(cut(&span.content, width - used), span.style));
            break;
        }
        used += own;
        out.push(span);
    }
    Line::from(out)
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
