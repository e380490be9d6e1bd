//! The entry points table.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Paragraph;

use super::table::{self, Rows, Spec, spec};
use crate::format;
use crate::state::App;
use crate::state::rows::{EntryColumn, EntryRow, half_seconds};

/// Columns from left to right. Ranks say what goes first when there is little room.
const COLUMNS: [Spec<EntryColumn>; 11] = [
    spec(Some(EntryColumn::Name), "", "entry point", (16, 16), 0),
    spec(None, "", "module", (7, 7), 10),
    spec(Some(EntryColumn::Rate), "", "calls/s", (7, 7), 1),
    spec(Some(EntryColumn::Calls), "", "total", (6, 6), 8),
    spec(Some(EntryColumn::InFlight), "", "inside", (6, 6), 3),
    spec(Some(EntryColumn::Now), "", "now", (6, 6), 4),
    spec(Some(EntryColumn::P50), "took", "p50", (6, 6), 6),
    spec(Some(EntryColumn::P99), "took", "p99", (6, 6), 2),
    spec(Some(EntryColumn::Max), "took", "max", (6, 6), 7),
    spec(None, "", "returns", (14, 60), 5),
    spec(None, "", "activity", (8, 120), 9).drawn(),
];

/// Draws the table.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    app.page = table::room(area);
    app.entries.scroll_to(app.page);
    let targets = table::targets(area, app.entries.offset, app.entry_rows().len());
    app.targets.extend(targets);
    let rows = app.entry_rows();
    if rows.is_empty() {
        frame.render_widget(Paragraph::new(super::empty(app)), area);
        return;
    }
    let longest = rows
        .iter()
        .map(|row| row.facts.name.chars().count())
        .max()
        .unwrap_or(0);
    let columns = table::columns(&COLUMNS, longest, &app.entries);
    let theme = app.theme;
    table::draw(
        frame,
        area,
        theme,
        &columns,
        Rows {
            first: app.entries.offset,
            count: rows.len(),
            selected: app.entries.selected.map(|_| app.entries.index()),
        },
        |row, column, width| cell(&rows[row], column, width, app),
    );
}

fn cell(row: &EntryRow, column: usize, width: usize, app: &App) -> table::Cell {
    let theme = app.theme;
    match column {
        0 => (row.facts.name.into(), Style::new()),
        1 => (row.module.into(), theme.dim()),
        2 => (format::rate(row.facts.per_second), Style::new()),
        3 => (format::count(row.facts.calls), Style::new()),
        4 if row.inside() == 0 => ("0".into(), theme.dim()),
        4 => (format::count(row.inside()), theme.warning()),
        5 => {
            let style = if row.inside_ns().is_none() || row.long_is_normal() {
                theme.dim()
            } else {
                theme.warning()
            };
            (format::optional(row.inside_ns()), style)
        }
        6 => (format::optional(row.facts.latency.p50_ns), theme.hold()),
        7 => (format::optional(row.facts.latency.p99_ns), theme.hold()),
        8 => (format::optional(row.facts.latency.max_ns), theme.hold()),
        9 => (returns(row), Style::new()),
        _ => (
            format::sparkline(
                half_seconds(&app.shown().model.ticks, &row.facts.spark).into_iter(),
                width,
            ),
            theme.good(),
        ),
    }
}

/// `ok 1.2k -EBUSY 3`.
fn returns(row: &EntryRow) -> String {
    row.facts
        .returns
        .iter()
        .map(|(code, n)| format!("{code} {}", format::count(*n)))
        .collect::<Vec<_>>()
        .join(" ")
}
