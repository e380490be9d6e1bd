//! The line of a recording: where it is, and where findings stand.

use apscope_collector::diagnose::Severity;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::cut;
use crate::format;
use crate::state::{App, Target};

/// Draws it, one line high.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let Some(replay) = &app.replay else { return };
    let theme = app.theme;
    let (first, last) = replay.range();
    let tenths = |ns: u64| format!("{}.{}", format::elapsed(ns), ns / 100_000_000 % 10);
    let left = format!("{} ", tenths(replay.elapsed_ns()));
    let right = format!(" {}", tenths(last - first));
    let width = usize::from(area.width).saturating_sub(left.len() + right.len());
    if width < 4 {
        let text = cut(&left, usize::from(area.width));
        frame.render_widget(Paragraph::new(Line::raw(text)), area);
        return;
    }
    let length = u128::from((last - first).max(1));
    let cell = |at: u64| {
        let offset = u128::from(at.clamp(first, last) - first);
        (offset * (width as u128 - 1) / length) as usize
    };
    let mut cells = vec![("─", theme.dim()); width];
    for mark in &replay.marks {
        // The begin has the sign, the rest a thicker line: colour alone would not tell.
        let style = theme.severity(mark.severity);
        for slot in &mut cells[cell(mark.from_ns)..=cell(mark.to_ns)] {
            if slot.0 == "─" || mark.severity == Severity::Critical {
                *slot = ("━", style);
            }
        }
    }
    for mark in &replay.marks {
        cells[cell(mark.from_ns)] = (
            super::overview::sign(mark.severity),
            theme.severity(mark.severity),
        );
    }
    cells[cell(replay.at_ns())] = ("┃", theme.title());
    let mut spans = vec![Span::styled(left.clone(), theme.header())];
    spans.extend(
        cells
            .into_iter()
            .map(|(sign, style)| Span::styled(sign, style)),
    );
    spans.push(Span::styled(right, theme.dim()));
    let target = Rect {
        x: area.x + left.len() as u16,
        width: width as u16,
        ..area
    };
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
    app.targets.push((target, Target::Scrubber));
}
