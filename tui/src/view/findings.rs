//! The findings: the list above, all that is known of the selected one below it; opened, that alone.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use apscope_collector::diagnose::{Finding, upstream};

use super::overview::{self, sign};
use super::table::{self, Rows, Spec, cut, spec};
use super::words::{self, labelled};
use crate::format;
use crate::state::App;
use crate::state::findings::{FindingColumn, FindingRow};

const COLUMNS: [Spec<FindingColumn>; 4] = [
    spec(Some(FindingColumn::Id), "", "id", (7, 7), 0),
    spec(Some(FindingColumn::Severity), "", "severity", (10, 10), 1).to_the_left(),
    spec(Some(FindingColumn::Since), "", "stood", (8, 8), 2),
    spec(None, "", "finding", (20, 400), 3),
];

/// Draws list and explanation.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let count = app.rows().findings.len();
    if count == 0 {
        app.page = usize::from(area.height);
        let mut lines = vec![match overview::hidden(app) {
            Some(hidden) => Line::styled(hidden, app.theme.warning()),
            None => Line::styled("nothing has been found", app.theme.good()),
        }];
        let verdict = app.shown().report.verdict.to_string();
        lines.extend(
            words::wrapped(&verdict, usize::from(area.width).max(1))
                .into_iter()
                .map(Line::raw),
        );
        frame.render_widget(Paragraph::new(lines), area);
        return;
    }
    let wanted = (count as u16 + 2).min((area.height / 3).max(4));
    let list = if app.expanded {
        area.height
    } else {
        wanted.min(area.height)
    };
    let [list_area, page] =
        Layout::vertical([Constraint::Length(list), Constraint::Fill(1)]).areas(area);
    app.page = table::room(list_area);
    app.findings.scroll_to(app.page);
    let first = app.findings.offset;
    app.targets.extend(table::targets(list_area, first, count));
    let theme = app.theme;
    let rows = &app.rows().findings;
    let columns = table::columns(&COLUMNS, 7, &app.findings);
    table::draw(
        frame,
        list_area,
        theme,
        &columns,
        Rows {
            first,
            count,
            selected: Some(app.findings.index()),
        },
        |row, column, _| cell(&rows[row], column, app),
    );
    if page.height > 2
        && let Some(row) = rows.get(app.findings.index())
    {
        let [rule, page] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(page);
        let text = format!("── {} ", row.finding.id);
        let rest = usize::from(rule.width).saturating_sub(text.chars().count());
        let line = Line::styled(format!("{text}{}", "─".repeat(rest)), theme.dim());
        frame.render_widget(Paragraph::new(line), rule);
        let mut lines = lines(app, row, usize::from(page.width));
        let room = usize::from(page.height);
        if lines.len() > room {
            lines.truncate(room.saturating_sub(1));
            lines.push(Line::styled("… Enter shows all of it", theme.dim()));
        }
        frame.render_widget(Paragraph::new(lines), page);
    }
}

fn cell(row: &FindingRow, column: usize, app: &App) -> table::Cell {
    let theme = app.theme;
    let style = match row.over_ns {
        Some(_) => theme.dim(),
        None => theme.severity(row.finding.seen.severity),
    };
    match column {
        0 => (row.finding.id.to_string(), style),
        1 => (
            format!(
                "{} {}",
                sign(row.finding.seen.severity),
                row.finding.seen.severity.name()
            ),
            style,
        ),
        2 => (format::duration(row.for_ns), Style::new()),
        _ => (
            format!("{}{}", row.past(), row.finding.seen.summary),
            if row.over_ns.is_some() {
                theme.dim()
            } else {
                Style::new()
            },
        ),
    }
}

/// Everything about a finding.
pub fn lines(app: &App, row: &FindingRow, width: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    let seen = &row.finding.seen;
    let mut lines = labelled(
        &format!("{} {} ", sign(seen.severity), row.finding.id),
        &seen.summary,
        width,
        theme.severity(seen.severity),
        theme.header(),
    );
    let when = match row.over_ns {
        None => format!("stands since {}", format::duration(row.for_ns)),
        Some(ago) => format!(
            "stood for {}, over since {}",
            format::duration(row.for_ns),
            format::duration(ago)
        ),
    };
    let times = match row.finding.times {
        0 | 1 => String::new(),
        n => format!(", {n} times"),
    };
    lines.push(Line::styled(
        format!("  {}, {when}{times}", seen.severity.name()),
        theme.dim(),
    ));
    if let Some(chain) = &seen.chain {
        lines.push(Line::styled("who waits for whom", theme.header()));
        for mut line in words::chain(
            &chain.later(row.told_ago_ns),
            width.saturating_sub(2),
            theme,
            true,
        ) {
            line.spans.insert(0, Span::raw("  "));
            lines.push(line);
        }
    }
    let help = |lines: &mut Vec<Line<'static>>| {
        for (n, text) in seen.help.iter().enumerate() {
            let label = if n == 0 { "can help  " } else { "          " };
            lines.extend(labelled(label, text, width, theme.key(), Style::new()));
        }
    };
    help(&mut lines);
    if !seen.meaning.is_empty() {
        lines.extend(labelled(
            "means     ",
            &seen.meaning,
            width,
            theme.key(),
            Style::new(),
        ));
    }
    for (n, text) in seen.details.iter().enumerate() {
        let label = if n == 0 { "evidence  " } else { "          " };
        lines.extend(labelled(label, text, width, theme.key(), Style::new()));
    }
    if !seen.tasks.is_empty() {
        let tasks: Vec<String> = seen
            .tasks
            .iter()
            .map(|task| match task.role.as_str() {
                "" => format!("{} ({})", task.comm, task.tid),
                role => format!("{} ({}), {role}", task.comm, task.tid),
            })
            .collect();
        lines.extend(labelled(
            "tasks     ",
            &tasks.join("; "),
            width,
            theme.key(),
            Style::new(),
        ));
    }
    if !seen.locks.is_empty() {
        lines.extend(labelled(
            "locks     ",
            &seen.locks.join(", "),
            width,
            theme.key(),
            Style::new(),
        ));
    }
    lines.extend(upstream_lines(app, &row.finding, width));
    lines.push(Line::styled(
        cut(&format!("more: apscope explain {}", row.finding.id), width),
        theme.dim(),
    ));
    lines
}

fn upstream_lines(app: &App, finding: &Finding, width: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    let mut lines = Vec::new();
    for (n, history) in finding.upstream.iter().enumerate() {
        let label = if n == 0 { "upstream  " } else { "          " };
        lines.extend(labelled(
            label,
            &history.text(),
            width,
            theme.key(),
            Style::new(),
        ));
    }
    if finding.upstream.is_empty() && !upstream::affected(finding.id.0).is_empty() {
        lines.extend(labelled(
            "upstream  ",
            "not known of this generation in this form: worth a report",
            width,
            theme.key(),
            Style::new(),
        ));
    }
    lines
}
