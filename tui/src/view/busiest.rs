//! What the first screen says besides findings: the busiest locks, the slowest entry points, what measuring costs.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::{cut, pad};
use crate::format;
use crate::state::App;
use crate::state::rows::{EntryRow, LockRow};

/// Columns of the names of locks.
fn lock_names(app: &App) -> usize {
    let rows = app.rows().locks.iter();
    let names = rows.map(|row| with_mode(row).chars().count());
    names.max().unwrap_or(0).max(13)
}

/// Columns that [`busiest`] needs at least.
pub fn busiest_width(app: &App) -> usize {
    lock_names(app) + 14
}

/// The locks with the longest queues, then those with the longest waits.
pub fn busiest(app: &App, area: Rect) -> Vec<Line<'static>> {
    let theme = app.theme;
    let width = usize::from(area.width);
    let rows = &app.rows().locks;
    let name = lock_names(app).min(width.saturating_sub(14)).max(4);
    // What goes on says more than what was.
    let with_past = width >= name + 14 + 8;
    let with_holder = with_past && width >= name + 14 + 8 + 12;
    let mut title = format!(
        "{}{:>6}{:>8}",
        pad("busiest locks", name, false),
        "queue",
        "now"
    );
    if with_past {
        title.push_str("  wait99");
    }
    if with_holder {
        title.push_str("  held by");
    }
    let mut lines = vec![Line::styled(cut(&title, width), theme.header())];
    if rows.is_empty() {
        lines.push(Line::styled("nothing measured yet", theme.dim()));
    }
    for row in rows.iter().take(usize::from(area.height).saturating_sub(1)) {
        let style = if row.facts.open_coded {
            theme.open_coded()
        } else {
            Style::new()
        };
        let queue = if row.facts.queue > 0 {
            theme.warning()
        } else {
            theme.dim()
        };
        let now = row.facts.longest_wait_ns;
        let mut spans = vec![
            Span::styled(pad(&with_mode(row), name, false), style),
            Span::styled(format!("{:>6}", row.facts.queue), queue),
            Span::styled(format!("{:>8}", format::optional(now)), queue),
        ];
        if with_past {
            let past = format::optional(row.facts.wait.p99_ns);
            spans.push(Span::styled(format!("{past:>8}"), theme.wait()));
        }
        if with_holder {
            let room = width.saturating_sub(name + 14 + 8 + 2);
            spans.push(Span::raw(format!("  {}", cut(&row.holder, room))));
        }
        lines.push(Line::from(spans));
    }
    lines
}

/// The two modes of an rwsem have a row each.
fn with_mode(row: &LockRow) -> String {
    match row.kind {
        "rwsem read" => format!("{} R", row.name),
        "rwsem write" => format!("{} W", row.name),
        _ => row.name.clone(),
    }
}

/// Entry points that have been called.
fn called(app: &App) -> impl Iterator<Item = &EntryRow> {
    let rows = app.rows().entries.iter();
    rows.filter(|row| row.facts.calls > 0 || row.facts.longest.is_some())
}

/// Columns of their names.
fn names(app: &App) -> usize {
    let names = called(app).map(|row| row.facts.name.len());
    names.max().unwrap_or(8).max(20)
}

/// Columns that [`slowest`] needs.
pub fn slowest_width(app: &App) -> usize {
    names(app) + 14
}

/// The entry points that take longest, or have been inside longest.
pub fn slowest(app: &App, area: Rect) -> Vec<Line<'static>> {
    let theme = app.theme;
    let width = usize::from(area.width);
    let rows: Vec<&EntryRow> = called(app).collect();
    let name = names(app).min(width.saturating_sub(14)).max(4);
    let mut lines = vec![Line::styled(
        cut(
            &format!(
                "{}{:>8}{:>6}",
                pad("slowest entry points", name, false),
                "p99",
                "in"
            ),
            width,
        ),
        theme.header(),
    )];
    if rows.is_empty() {
        lines.push(Line::styled("no calls so far", theme.dim()));
    }
    for row in rows
        .into_iter()
        .take(usize::from(area.height).saturating_sub(1))
    {
        let in_flight = if row.inside() > 0 {
            theme.warning()
        } else {
            theme.dim()
        };
        // A call that hangs is in no percentile.
        let slowest = row.slowest_ns();
        let (goes_on, style) = if slowest > row.facts.latency.p99_ns {
            ("+", theme.warning())
        } else {
            ("", theme.hold())
        };
        lines.push(Line::from(vec![
            Span::raw(pad(row.facts.name, name, false)),
            Span::styled(
                format!("{:>8}", format!("{}{goes_on}", format::optional(slowest))),
                style,
            ),
            Span::styled(format!("{:>6}", row.inside()), in_flight),
        ]));
    }
    lines
}

/// What measuring costs, and what of it was lost.
pub fn measured(app: &App, width: u16) -> Vec<Line<'static>> {
    let theme = app.theme;
    let shown = app.shown();
    let loss = &shown.model.loss;
    let overhead = &shown.model.overhead;
    let pair = |label: &str, text: String| {
        Line::from(vec![
            Span::styled(pad(label, 14, false), theme.dim()),
            Span::raw(cut(&text, usize::from(width).saturating_sub(14))),
        ])
    };
    let runs: u64 = overhead
        .programs
        .values()
        .map(|program| program.runs)
        .fold(0, u64::saturating_add);
    let time: u64 = overhead
        .programs
        .values()
        .map(|program| program.run_time_ns)
        .fold(0, u64::saturating_add);
    let mut lines = vec![
        Line::default(),
        Line::styled("measuring", theme.header()),
        pair(
            "spans",
            format!(
                "{} emitted, {} received, {} dropped",
                format::grouped(loss.emitted()),
                format::grouped(loss.received),
                format::grouped(loss.dropped())
            ),
        ),
        pair(
            "statistics",
            if loss.exact() {
                "exact".to_owned()
            } else {
                format!(
                    "at least: {} invocations missed",
                    format::count(loss.missed)
                )
            },
        ),
    ];
    if let Some(cpu) = shown.pulse.cpu_percent() {
        lines.push(pair("own CPU", format!("{cpu:.1}% of one core")));
    }
    if overhead.ring_bytes_size > 0 {
        lines.push(pair(
            "ring",
            format!(
                "at most {}% full",
                format::percent(overhead.ring_bytes_max, overhead.ring_bytes_size)
            ),
        ));
    }
    if let Some(each) = time.checked_div(runs) {
        let each = if time > 0 {
            format!(", {} each", format::duration(each))
        } else {
            String::new()
        };
        lines.push(pair(
            "programs",
            format!("{} runs{each}", format::grouped(runs)),
        ));
    }
    lines
}
