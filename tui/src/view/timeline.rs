//! The timeline: a lane for each task. A cell shows what says most of its part of time: waiting before holding before
//! running in a traced function.

use apscope_collector::model::query;
use probe_ebpf::abi::NO_INSTANCE;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::{cut, pad};
use super::words;
use crate::format;
use crate::state::timeline::{Bar, Doing, LaneRow};
use crate::state::{App, Target};
use crate::theme::Theme;

/// Draws lanes, axis and the picked span.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let count = app.rows().lanes.len();
    let [head, lanes_area, picked] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(if app.expanded || area.height < 10 {
            0
        } else {
            5
        }),
    ])
    .areas(area);
    let room = usize::from(lanes_area.height);
    app.page = room;
    app.lanes.scroll_to(room);
    let theme = app.theme;
    let now = app.shown().model.last.at_ns;
    let (from, to) = app.window.range(now);
    let names = app
        .rows()
        .lanes
        .iter()
        .map(|row| row.who.chars().count())
        .max()
        .unwrap_or(8)
        .clamp(8, (usize::from(area.width) / 3).max(8));
    let cells = usize::from(area.width).saturating_sub(names + 2);
    frame.render_widget(Paragraph::new(axis(app, names, cells)), head);
    if count == 0 {
        let text = if !app.filter().active.is_empty() {
            "no task matches the filter: Esc clears it".to_owned()
        } else if let Some(text) = forgotten(app, to) {
            text
        } else {
            "nothing was traced in this part of time".to_owned()
        };
        frame.render_widget(Paragraph::new(Line::styled(text, theme.dim())), lanes_area);
        return;
    }
    let first = app.lanes.offset;
    for row in first..count.min(first + room) {
        let y = lanes_area.y + (row - first) as u16;
        app.targets.push((
            Rect {
                y,
                height: 1,
                ..lanes_area
            },
            Target::Row(row),
        ));
    }
    let cursor = cells.saturating_sub(1) * app.window.cursor.min(1000) as usize / 1000;
    let lanes = app.rows().lanes.iter().enumerate().skip(first).take(room);
    for (y, (place, row)) in (lanes_area.y..).zip(lanes) {
        let style = if place == app.lanes.index() {
            theme.selected()
        } else {
            Style::new()
        };
        // Into the cells: a lane has as many styles as cells, and text would be taken apart again.
        let buffer = frame.buffer_mut();
        let name = pad(&row.who, names, false);
        buffer.set_stringn(lanes_area.x, y, name, usize::from(area.width), style);
        let doings = lane(row, from, to, cells);
        let begin = lanes_area.x + names as u16 + 2;
        for (at, (x, doing)) in (begin..).zip(doings).enumerate() {
            let (text, style) = match doing {
                None if at == cursor => ("│", theme.dim()),
                None => continue,
                Some(doing) => sign(doing, theme),
            };
            let style = if at == cursor && doing.is_some() {
                theme.selected()
            } else {
                style
            };
            if let Some(cell) = buffer.cell_mut((x, y)) {
                cell.set_symbol(text).set_style(style);
            }
        }
    }
    if picked.height > 0
        && let Some(row) = app.rows().lanes.get(app.lanes.index())
    {
        frame.render_widget(
            Paragraph::new(chosen(app, row, cells, usize::from(area.width))),
            picked,
        );
    }
}

/// When it is, and what the signs mean.
fn axis(app: &App, names: usize, cells: usize) -> Line<'static> {
    let theme = app.theme;
    let now = app.shown().model.last.at_ns;
    let (from, to) = app.window.range(now);
    let ago = |at: u64| match now.saturating_sub(at) {
        0 => "now".to_owned(),
        ns => format!("-{}", format::duration(ns)),
    };
    let left = ago(from);
    let right = ago(to);
    let shown = format::duration(to - from);
    let cursor = ago(app.window.cursor_ns(now));
    let kept = app.shown().history.kept_from_ns();
    // Where a lane may be empty because its spans have been forgotten.
    let middles = match kept.filter(|kept| from < *kept) {
        // That spans are missing is said as long as anything is.
        Some(kept) => {
            let since = format!("spans since {}", ago(kept));
            vec![
                format!("{shown} shown, {since}, cursor {cursor}"),
                format!("{since}, cursor {cursor}"),
                since,
            ]
        }
        None => vec![
            format!("{shown} shown, cursor {cursor}"),
            format!("cursor {cursor}"),
        ],
    };
    let gap = |middle: &str| {
        let used = left.len() + right.len() + Span::raw(middle).width();
        cells.saturating_sub(used)
    };
    let text = match middles.iter().find(|middle| gap(middle) >= 2) {
        Some(middle) => {
            let gap = gap(middle);
            format!(
                "{left}{}{middle}{}{right}",
                " ".repeat(gap / 2),
                " ".repeat(gap - gap / 2)
            )
        }
        None => cut(&format!("{left} … {right}"), cells),
    };
    Line::from(vec![
        Span::styled(pad("task", names, false), theme.header()),
        Span::raw("  "),
        Span::styled(text, theme.dim()),
    ])
}

fn lane(row: &LaneRow, from: u64, to: u64, cells: usize) -> Vec<Option<Doing>> {
    let mut best: Vec<Option<Doing>> = vec![None; cells];
    let length = (to - from).max(1);
    // Which cell a moment falls into. A window is 600 s at most, and its product with a width is far below 2^64.
    let cell = |at: u64| {
        let offset = at.clamp(from, to) - from;
        let place = offset.saturating_mul(cells as u64) / length;
        (place as usize).min(cells.saturating_sub(1))
    };
    if cells > 0 {
        for bar in row.bars() {
            for slot in &mut best[cell(bar.from_ns)..=cell(bar.to_ns)] {
                *slot = (*slot).max(Some(bar.doing));
            }
        }
    }
    best
}

const fn sign(doing: Doing, theme: Theme) -> (&'static str, Style) {
    match doing {
        Doing::Running => ("·", theme.dim()),
        Doing::Inside => ("─", theme.inside()),
        Doing::Holding => ("█", theme.hold()),
        Doing::Waiting => ("░", theme.wait()),
    }
}

/// That spans of a moment have been forgotten, if they have.
fn forgotten(app: &App, at_ns: u64) -> Option<String> {
    let shown = app.shown();
    let kept = shown.history.kept_from_ns()?;
    let ago = format::duration(shown.model.last.at_ns.saturating_sub(kept));
    (at_ns < kept).then(|| format!("spans of then are kept no more (since -{ago})"))
}

/// The span under the cursor, and what else the task is at there.
fn chosen(app: &App, row: &LaneRow, cells: usize, width: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    let now = app.shown().model.last.at_ns;
    let (from, to) = app.window.range(now);
    let at = app.window.cursor_ns(now);
    let half = (to - from) / (2 * cells.max(1) as u64) + 1;
    let mut lines =
        vec![Line::from(
            [
                Doing::Waiting,
                Doing::Holding,
                Doing::Inside,
                Doing::Running,
            ]
            .into_iter()
            .flat_map(|doing| {
                let (text, style) = sign(doing, theme);
                let what = match doing {
                    Doing::Waiting => " waits   ",
                    Doing::Holding => " holds   ",
                    Doing::Inside => " in a function   ",
                    Doing::Running => " in KVM_RUN   ",
                };
                [
                    Span::styled(text.repeat(2), style),
                    Span::styled(what, theme.dim()),
                ]
            })
            // Narrow screens have the help.
            .chain((width >= 100).then(|| {
                Span::styled("←→ cursor  z Z zoom  Enter next span  Esc now", theme.dim())
            }))
            .collect::<Vec<_>>(),
        )];
    let (low, high) = (at.saturating_sub(half), at.saturating_add(half));
    let mut here: Vec<&Bar> = row
        .bars()
        .filter(|bar| bar.from_ns <= high && bar.to_ns >= low)
        .collect();
    here.sort_by_key(|bar| {
        (
            std::cmp::Reverse(bar.doing),
            std::cmp::Reverse(bar.to_ns - bar.from_ns),
            bar.from_ns,
        )
    });
    let Some(first) = here.first() else {
        let text = match forgotten(app, at) {
            Some(text) => format!("{}: {text}", row.who),
            None => format!("{}: nothing traced under the cursor", row.who),
        };
        lines.push(Line::styled(cut(&text, width), theme.dim()));
        return lines;
    };
    lines.extend(words::labelled(
        &format!("{} ", row.who),
        &sentence(app, first),
        width,
        theme.title(),
        Style::new(),
    ));
    for bar in here.iter().skip(1).take(2) {
        lines.push(Line::styled(
            cut(&format!("  and {}", sentence(app, bar)), width),
            theme.dim(),
        ));
    }
    lines.truncate(5);
    lines
}

fn sentence(app: &App, bar: &Bar) -> String {
    let model = &app.shown().model;
    let length = format::duration(bar.to_ns.saturating_sub(bar.from_ns));
    let lock = || {
        if bar.instance == NO_INSTANCE {
            query::series_name(bar.what)
        } else {
            query::lock_name(model, bar.what, bar.instance).to_owned()
        }
    };
    let place = match query::entry_name(bar.inside) {
        "-" => String::new(),
        name => format!(" in {name}"),
    };
    let until = if bar.open { " so far" } else { "" };
    match bar.doing {
        Doing::Waiting => format!("waits {length}{until} for {}{place}", lock()),
        Doing::Holding => format!("holds {} for {length}{until}{place}", lock()),
        Doing::Running => format!("runs, and holds {} for {length}{until}", lock()),
        Doing::Inside => format!("is in {} for {length}{until}", query::entry_name(bar.what)),
    }
}
