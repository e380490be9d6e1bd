//! The locks table.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::Paragraph;

use super::table::{self, Rows, Spec, spec};
use crate::format;
use crate::state::App;
use crate::state::rows::{LockColumn, LockRow, half_seconds};

/// Columns from left to right. Ranks say what goes first when there is little room.
const COLUMNS: [Spec<LockColumn>; 14] = [
    spec(Some(LockColumn::Name), "", "lock", (16, 16), 0),
    spec(None, "", "kind", (11, 11), 1),
    spec(Some(LockColumn::Rate), "", "acq/s", (5, 5), 2),
    spec(Some(LockColumn::Contended), "", "cont%", (5, 5), 8),
    spec(Some(LockColumn::WaitP50), "wait", "p50", (6, 6), 11),
    spec(Some(LockColumn::WaitP99), "wait", "p99", (6, 6), 4),
    spec(Some(LockColumn::WaitMax), "wait", "max", (6, 6), 9),
    spec(Some(LockColumn::HoldP50), "hold", "p50", (6, 6), 12),
    spec(Some(LockColumn::HoldP99), "hold", "p99", (6, 6), 5),
    spec(Some(LockColumn::HoldMax), "hold", "max", (6, 6), 10),
    spec(Some(LockColumn::Queue), "", "queue", (5, 5), 6),
    spec(Some(LockColumn::Now), "", "now", (6, 6), 3),
    spec(None, "", "holder", (9, 24), 7),
    spec(None, "", "activity", (8, 120), 13).drawn(),
];

/// Draws the table.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    app.page = table::room(area);
    app.locks.scroll_to(app.page);
    let targets = table::targets(area, app.locks.offset, app.lock_rows().len());
    app.targets.extend(targets);
    let rows = app.lock_rows();
    if rows.is_empty() {
        frame.render_widget(Paragraph::new(super::empty(app)), area);
        return;
    }
    let longest = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(0);
    let columns = table::columns(&COLUMNS, longest, &app.locks);
    let theme = app.theme;
    table::draw(
        frame,
        area,
        theme,
        &columns,
        Rows {
            first: app.locks.offset,
            count: rows.len(),
            selected: app.locks.selected.map(|_| app.locks.index()),
        },
        |row, column, width| cell(&rows[row], column, width, app),
    );
}

fn cell(row: &LockRow, column: usize, width: usize, app: &App) -> table::Cell {
    let theme = app.theme;
    match column {
        0 if row.facts.open_coded => (row.name.clone(), theme.open_coded()),
        0 => (row.name.clone(), Style::new()),
        1 if row.facts.open_coded => (row.kind.into(), theme.open_coded()),
        1 => (row.kind.into(), theme.dim()),
        2 => (format::rate(row.facts.per_second), Style::new()),
        3 => (
            format::percent(row.facts.contended, row.facts.acquisitions),
            Style::new(),
        ),
        4 => (format::optional(row.facts.wait.p50_ns), theme.wait()),
        5 => (format::optional(row.facts.wait.p99_ns), theme.wait()),
        6 => (format::optional(row.facts.wait.max_ns), theme.wait()),
        7 => (format::optional(row.facts.hold.p50_ns), hold(row, app)),
        8 => (format::optional(row.facts.hold.p99_ns), hold(row, app)),
        9 => (format::optional(row.facts.hold.max_ns), hold(row, app)),
        10 if row.facts.queue == 0 => ("0".into(), theme.dim()),
        10 => (row.facts.queue.to_string(), theme.warning()),
        11 if row.facts.queue == 0 => ("-".into(), theme.dim()),
        11 => (format::optional(row.facts.longest_wait_ns), theme.warning()),
        12 => (row.holder.clone(), Style::new()),
        _ => (
            format::sparkline(
                half_seconds(&app.shown().model.ticks, &row.facts.spark).into_iter(),
                width,
            ),
            theme.good(),
        ),
    }
}

/// Holds that are long by design do not catch the eye.
fn hold(row: &LockRow, app: &App) -> Style {
    if row.facts.long_hold_is_normal {
        app.theme.dim()
    } else {
        app.theme.hold()
    }
}
