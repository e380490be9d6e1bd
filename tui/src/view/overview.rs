//! The first screen: what is the matter, who waits for whom, what can help; then the busiest locks and the slowest
//! entry points.
//!
//! The difficulty is that all of it must be there at 80 by 24 without a key. Lines go by importance: the verdict, the
//! chain of the worst finding, what can help, the other findings in a line each, then as much of the rest as fits.

use apscope_collector::diagnose::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::{cut, pad};
use super::words;
use crate::format;
use crate::state::findings::FindingRow;
use crate::state::rows::LockRow;
use crate::state::{App, Target};

/// From this width on, what is found stands to the left and what is measured to the right.
const WIDE: u16 = 150;

/// Lines of what can help, at most.
const HELP: usize = 8;

/// Draws the overview.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    if app.expanded || area.height < 9 {
        found(frame, app, area, usize::from(area.height));
    } else if area.width >= WIDE {
        let [left, _, right] = Layout::horizontal([
            Constraint::Percentage(58),
            Constraint::Length(2),
            Constraint::Fill(1),
        ])
        .areas(area);
        found(frame, app, left, usize::from(left.height));
        let locks = app.rows().locks.len() as u16 + 1;
        let [locks_area, _, entries_area, measuring] = Layout::vertical([
            Constraint::Length(locks.min(right.height / 2)),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(8),
        ])
        .areas(right);
        frame.render_widget(Paragraph::new(busiest(app, locks_area)), locks_area);
        frame.render_widget(Paragraph::new(slowest(app, entries_area)), entries_area);
        frame.render_widget(Paragraph::new(measured(app, measuring.width)), measuring);
    } else {
        // With nothing found there is room for what is measured.
        let measured_rows = app.rows().locks.len().max(app.rows().entries.len()) as u16 + 2;
        let hangs = app
            .rows()
            .findings
            .first()
            .is_some_and(|row| row.finding.seen.severity == Severity::Critical);
        let least = if area.height >= 16 && !hangs { 6 } else { 4 };
        let most = usize::from(area.height - least);
        let wanted = found_lines(app, usize::from(area.width), most).0.len() as u16;
        let below = (area.height.saturating_sub(wanted)).clamp(least, measured_rows.max(least));
        let [top, bottom] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(below)]).areas(area);
        found(frame, app, top, usize::from(top.height));
        let [_, bottom] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(bottom);
        let [left, _, right] = Layout::horizontal([
            Constraint::Percentage(50),
            Constraint::Length(2),
            Constraint::Fill(1),
        ])
        .areas(bottom);
        frame.render_widget(Paragraph::new(busiest(app, left)), left);
        frame.render_widget(Paragraph::new(slowest(app, right)), right);
    }
}

fn found(frame: &mut Frame, app: &mut App, area: Rect, room: usize) {
    app.page = room;
    let (lines, places) = found_lines(app, usize::from(area.width), room);
    for (row, line) in places {
        if line < room {
            let target = Rect {
                y: area.y + line as u16,
                height: 1,
                ..area
            };
            app.targets.push((target, Target::Row(row)));
        }
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// Lines of what is found, at most about `room`; and at which line each finding stands.
fn found_lines(app: &App, width: usize, room: usize) -> (Vec<Line<'static>>, Vec<(usize, usize)>) {
    let theme = app.theme;
    let shown = app.shown();
    let verdict = &shown.report.verdict;
    let head = format!(" {} ", verdict.kind.name());
    let joint = if verdict.kind == apscope_collector::diagnose::verdict::Kind::CannotTell
        && !verdict.text.is_empty()
    {
        " because "
    } else {
        " "
    };
    let mut lines = verdict_lines(app, &head, &format!("{joint}{}", verdict.text), width);
    let mut places = Vec::new();
    let findings = &app.rows().findings;
    let Some(first) = findings.first() else {
        lines.push(if shown.model.meta.is_some() {
            Line::styled("no findings", theme.good())
        } else {
            Line::styled("no data yet", theme.dim())
        });
        return (lines, places);
    };
    // What the other findings need at least.
    let others = findings.len().min(4) - 1;
    let help_room = if room < 10 { 1 } else { 2 };
    places.push((0, lines.len()));
    lines.push(line(app, 0, first, width, true));
    let chain = chain_lines(app, first, width);
    let left = room.saturating_sub(lines.len() + others + help_room);
    take(&mut lines, chain, left, theme);
    let help: Vec<Line> = first
        .finding
        .seen
        .help
        .iter()
        .enumerate()
        .flat_map(|(n, text)| {
            let label = if n == 0 { "can help: " } else { "        · " };
            words::labelled(label, text, width, theme.key(), Style::new())
        })
        .collect();
    let left = room.saturating_sub(lines.len() + others).min(HELP);
    take(&mut lines, help, left, theme);
    for (n, row) in findings.iter().enumerate().skip(1) {
        let remaining = findings.len() - n - 1;
        if lines.len() >= room {
            break;
        }
        if lines.len() + 1 == room && remaining > 0 {
            lines.push(Line::styled(
                format!("and {} more: 7 shows all", remaining + 1),
                theme.dim(),
            ));
            break;
        }
        places.push((n, lines.len()));
        lines.push(line(app, n, row, width, false));
        let chain = chain_lines(app, row, width);
        // Only whole: a part of a chain would end in the wrong place.
        if lines.len() + chain.len() + remaining <= room && !same_root(first, row) {
            lines.extend(chain);
        }
    }
    (lines, places)
}

/// As many lines as there is room for; the last one says that there are more.
fn take(
    lines: &mut Vec<Line<'static>>,
    more: Vec<Line<'static>>,
    room: usize,
    theme: crate::theme::Theme,
) {
    let count = more.len();
    if count <= room {
        lines.extend(more);
    } else if room > 0 {
        lines.extend(more.into_iter().take(room - 1));
        lines.push(Line::styled(
            format!("  … {} more lines: Enter", count + 1 - room),
            theme.dim(),
        ));
    }
}

/// The chain of one leads to where that of the other does: once is enough.
fn same_root(a: &FindingRow, b: &FindingRow) -> bool {
    let root = |row: &FindingRow| {
        let chain = row.finding.seen.chain.as_ref()?;
        chain.root().map(|(task, root)| (task.tid, root.name()))
    };
    let cycle = |row: &FindingRow| root(row).is_some_and(|(_, name)| name == "cycle");
    root(a).is_some() && (root(a) == root(b) || cycle(a) && cycle(b))
}

fn verdict_lines(app: &App, head: &str, text: &str, width: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    let kind = app.shown().report.verdict.kind;
    let indent = Span::raw(head).width();
    // The first line stands behind the word, the others begin at the margin.
    let mut wrapped = words::wrapped(text, width.saturating_sub(indent + 1).max(8));
    let rest = if wrapped.len() > 1 {
        wrapped.split_off(1).join(" ")
    } else {
        String::new()
    };
    let first = wrapped.pop().unwrap_or_default();
    let mut lines = vec![Line::from(vec![
        Span::styled(head.to_owned(), theme.verdict(kind)),
        Span::raw(" "),
        Span::styled(first, theme.header()),
    ])];
    lines.extend(
        words::wrapped(&rest, width)
            .into_iter()
            .map(|line| Line::styled(line, theme.header())),
    );
    lines
}

/// A finding in one line.
fn line(app: &App, place: usize, row: &FindingRow, width: usize, first: bool) -> Line<'static> {
    let theme = app.theme;
    let sign = sign(row.finding.seen.severity);
    let head = format!(
        "{sign} {} {} {} ",
        row.finding.id,
        row.finding.seen.severity.name(),
        format::duration(row.for_ns)
    );
    let room = width.saturating_sub(Span::raw(head.as_str()).width());
    // The verdict has said it.
    let said = row.finding.seen.chain.is_some()
        && first
        && app
            .shown()
            .report
            .verdict
            .text
            .starts_with(&row.finding.seen.summary);
    let summary = if said {
        "who waits for whom:"
    } else {
        &row.finding.seen.summary
    };
    let style = if app.touched && place == app.findings.index() {
        theme.selected()
    } else {
        theme.severity(row.finding.seen.severity)
    };
    Line::from(vec![
        Span::styled(head, style),
        Span::raw(cut(summary, room)),
    ])
}

/// A sign for each severity: colour is not all that tells them apart.
pub const fn sign(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "●",
        Severity::Warning => "▲",
        Severity::Info => "·",
    }
}

/// Who waits for whom; of a finding without a chain, what it is known from.
fn chain_lines(app: &App, row: &FindingRow, width: usize) -> Vec<Line<'static>> {
    let indented = |mut line: Line<'static>| {
        line.spans.insert(0, Span::raw("  "));
        line
    };
    let width = width.saturating_sub(2);
    match &row.finding.seen.chain {
        Some(chain) => words::chain(chain, width, app.theme, false)
            .into_iter()
            .map(indented)
            .collect(),
        None => row
            .finding
            .seen
            .details
            .iter()
            .map(|detail| indented(Line::styled(cut(detail, width), app.theme.dim())))
            .collect(),
    }
}

fn busiest(app: &App, area: Rect) -> Vec<Line<'static>> {
    let theme = app.theme;
    let width = usize::from(area.width);
    let rows = &app.rows().locks;
    let names = rows.iter().map(|row| with_mode(row).chars().count());
    let longest = names.max().unwrap_or(0).max(13);
    let name = longest.min(width.saturating_sub(14)).max(4);
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

fn slowest(app: &App, area: Rect) -> Vec<Line<'static>> {
    let theme = app.theme;
    let width = usize::from(area.width);
    let rows: Vec<_> = app
        .rows()
        .entries
        .iter()
        .filter(|row| row.facts.calls > 0)
        .collect();
    let longest = rows
        .iter()
        .map(|row| row.facts.name.len())
        .max()
        .unwrap_or(8)
        .max(20);
    let name = longest.min(width.saturating_sub(14)).max(4);
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
    for row in rows
        .into_iter()
        .take(usize::from(area.height).saturating_sub(1))
    {
        let in_flight = if row.facts.in_flight > 0 {
            theme.warning()
        } else {
            theme.dim()
        };
        lines.push(Line::from(vec![
            Span::raw(pad(row.facts.name, name, false)),
            Span::styled(
                format!("{:>8}", format::optional(row.facts.latency.p99_ns)),
                theme.hold(),
            ),
            Span::styled(format!("{:>6}", row.facts.in_flight), in_flight),
        ]));
    }
    lines
}

/// What measuring costs, and what of it was lost.
fn measured(app: &App, width: u16) -> Vec<Line<'static>> {
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
