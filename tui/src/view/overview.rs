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

use super::busiest::{busiest, busiest_width, measured, slowest, slowest_width};
use super::header::seconds;
use super::table::cut;
use super::words;
use crate::format;
use crate::state::findings::FindingRow;
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
        let hangs = app.rows().findings.first().is_some_and(|row| {
            row.finding.active() && row.finding.seen.severity == Severity::Critical
        });
        let least = if area.height >= 16 && !hangs { 6 } else { 4 };
        let most = usize::from(area.height - least);
        let wanted = found_lines(app, usize::from(area.width), most).0.len() as u16;
        let below = (area.height.saturating_sub(wanted)).clamp(least, measured_rows.max(least));
        let [top, bottom] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(below)]).areas(area);
        found(frame, app, top, usize::from(top.height));
        let [_, bottom] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(bottom);
        // Names come first on both sides; who holds a lock gets all that is left.
        let width = usize::from(bottom.width);
        let beside = width.saturating_sub(busiest_width(app) + 2);
        let entries = slowest_width(app).min(beside.max(width / 2)) as u16;
        let [left, _, right] = Layout::horizontal([
            Constraint::Fill(1),
            Constraint::Length(2),
            Constraint::Length(entries),
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
    // Nothing comes: what was so then need not be so now.
    let head = match app.away {
        Some(away) => format!("{head}as of {} ago ", seconds(away)),
        None => head,
    };
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
    let hidden = hidden(app).map(|text| Line::styled(text, theme.warning()));
    let room = room.saturating_sub(usize::from(hidden.is_some()));
    let Some(first) = findings.first().filter(|row| row.finding.active()) else {
        lines.push(if shown.model.meta.is_none() {
            Line::styled("no data yet", theme.dim())
        } else if let Some(hidden) = hidden {
            hidden
        } else if findings.is_empty() {
            Line::styled("no findings", theme.good())
        } else {
            Line::styled("nothing found now, and a moment ago:", theme.good())
        });
        others(app, 0, width, room, &mut lines, &mut places);
        return (lines, places);
    };
    // What the other findings need at least.
    let below = findings.len().min(4) - 1;
    let help_room = if room < 10 { 1 } else { 2 };
    places.push((0, lines.len()));
    lines.push(line(app, 0, first, width, true));
    let left = room.saturating_sub(lines.len() + below + help_room);
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
    // Whole sentences, where that takes no line from what can help.
    let chain = chain_lines(
        app,
        first,
        width,
        (left + help_room).saturating_sub(help.len()),
    );
    take(&mut lines, chain, left, theme);
    let left = room.saturating_sub(lines.len() + below).min(HELP);
    take(&mut lines, help, left, theme);
    others(app, 1, width, room, &mut lines, &mut places);
    lines.extend(hidden);
    (lines, places)
}

/// That findings are there which the filter does not show: an empty list would be taken for good news.
pub fn hidden(app: &App) -> Option<String> {
    let hidden = match (app.filter().active.is_empty(), app.rows().hidden_findings) {
        (true, _) | (_, 0) => return None,
        (_, 1) => "1 finding".to_owned(),
        (_, n) => format!("{n} findings"),
    };
    Some(format!("{hidden} hidden by the filter: Esc"))
}

/// The findings from one on in a line each, as far as there is room, with their chains where these fit whole.
fn others(
    app: &App,
    from: usize,
    width: usize,
    room: usize,
    lines: &mut Vec<Line<'static>>,
    places: &mut Vec<(usize, usize)>,
) {
    let theme = app.theme;
    let findings = &app.rows().findings;
    for (n, row) in findings.iter().enumerate().skip(from) {
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
        let Some(first) = findings.first().filter(|_| n > 0 && row.finding.active()) else {
            continue;
        };
        let left = room.saturating_sub(lines.len() + remaining);
        let chain = chain_lines(app, row, width, left);
        // Only whole: a part of a chain would end in the wrong place.
        if chain.len() <= left && !same_root(first, row) {
            lines.extend(chain);
        }
    }
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
        "who waits for whom:".to_owned()
    } else {
        format!("{}{}", row.past(), row.finding.seen.summary)
    };
    let style = if row.over_ns.is_some() {
        theme.dim()
    } else {
        theme.severity(row.finding.seen.severity)
    };
    let style = if app.touched && place == app.findings.index() {
        theme.selected()
    } else {
        style
    };
    Line::from(vec![
        Span::styled(head, style),
        Span::raw(cut(&summary, room)),
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
///
/// Such a sentence is cut where there is no room for all of them.
fn chain_lines(app: &App, row: &FindingRow, width: usize, room: usize) -> Vec<Line<'static>> {
    let indented = |mut line: Line<'static>| {
        line.spans.insert(0, Span::raw("  "));
        line
    };
    let width = width.saturating_sub(2);
    if let Some(chain) = &row.finding.seen.chain {
        return words::chain(&chain.later(row.told_ago_ns), width, app.theme, false)
            .into_iter()
            .map(indented)
            .collect();
    }
    let details = &row.finding.seen.details;
    let dim = app.theme.dim();
    let whole: Vec<Line> = details
        .iter()
        .flat_map(|detail| {
            // What goes on stands below its begin.
            let text = detail.trim_start();
            let indent = &detail[..detail.len() - text.len()];
            words::labelled(indent, text, width, dim, dim)
        })
        .collect();
    let shown = if whole.len() <= room {
        whole
    } else {
        let cut = |detail: &String| Line::styled(cut(detail, width), dim);
        details.iter().map(cut).collect()
    };
    shown.into_iter().map(indented).collect()
}
