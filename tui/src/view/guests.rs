//! Guests: a table, and below it what is known of the selected guest's matrix.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::{self, Rows, Spec, cut, pad, spec};
use super::words;
use super::writes::printable;
use crate::format;
use crate::state::App;
use crate::state::guests::{GuestColumn, GuestRow, State};
use crate::state::matrix::{self, GuestMatrix, Queue, QueueState};
use crate::theme::Theme;

const COLUMNS: [Spec<GuestColumn>; 7] = [
    spec(Some(GuestColumn::Name), "", "guest", (8, 8), 0),
    spec(None, "", "state", (17, 17), 1),
    spec(None, "", "in KVM_RUN", (12, 12), 4),
    spec(Some(GuestColumn::Waiting), "", "waiting", (7, 7), 3),
    spec(Some(GuestColumn::Wait), "", "longest", (7, 7), 2),
    spec(None, "", "for", (23, 30), 5),
    spec(None, "", "blocked by", (28, 60), 3),
];

/// Draws table and matrix.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let count = app.rows().guests.len();
    if count == 0 {
        frame.render_widget(Paragraph::new(super::empty(app)), area);
        return;
    }
    // The list has what the matrix of the selected guest leaves, and half of the area at least.
    let chosen = app.rows().guests.get(app.guests.index());
    let beside = chosen.map_or_else(Vec::new, |row| {
        let mut lines = vec![Line::default()];
        let known = matrix::of(app.shown(), row.guest);
        lines.extend(matrix_lines(
            row,
            &known,
            app.theme,
            usize::from(area.width),
        ));
        lines
    });
    let left = area.height.saturating_sub(beside.len() as u16);
    let wanted = (count as u16 + 2).min(left.max(area.height / 2).max(4));
    let list = if app.expanded {
        area.height
    } else {
        wanted.min(area.height)
    };
    let [list_area, below] =
        Layout::vertical([Constraint::Length(list), Constraint::Fill(1)]).areas(area);
    app.page = table::room(list_area);
    app.guests.scroll_to(app.page);
    let first = app.guests.offset;
    app.targets.extend(table::targets(list_area, first, count));
    let rows = &app.rows().guests;
    let longest = rows
        .iter()
        .map(|row| row.name.chars().count())
        .max()
        .unwrap_or(5)
        .max(5);
    let columns = table::columns(&COLUMNS, longest, &app.guests);
    table::draw(
        frame,
        list_area,
        app.theme,
        &columns,
        Rows {
            first,
            count,
            selected: Some(app.guests.index()),
        },
        |row, column, _| cell(&rows[row], column, app.theme),
    );
    if below.height > 2 {
        let mut lines = beside;
        let room = usize::from(below.height);
        if lines.len() > room {
            lines.truncate(room.saturating_sub(1));
            lines.push(Line::styled("… Enter shows all of it", app.theme.dim()));
        }
        frame.render_widget(Paragraph::new(lines), below);
    }
}

fn cell(row: &GuestRow, column: usize, theme: Theme) -> table::Cell {
    match column {
        0 => (row.name.clone(), Style::new()),
        1 => {
            let text = match &row.finding {
                Some(finding) => format!("{} {finding}", row.state.name()),
                None => row.state.name().to_owned(),
            };
            (text, state_style(row.state, theme))
        }
        2 => (
            format!("{} of {} vCPUs", row.running, row.vcpus),
            Style::new(),
        ),
        3 if row.waiting == 0 => ("0".into(), theme.dim()),
        3 => (row.waiting.to_string(), theme.warning()),
        4 => (format::optional(row.wait_ns), theme.wait()),
        5 => (row.wait_lock.clone(), Style::new()),
        _ => (row.blocked_by.clone(), Style::new()),
    }
}

const fn state_style(state: State, theme: Theme) -> Style {
    match state {
        State::Idle => theme.dim(),
        State::Running => theme.good(),
        State::Binding | State::Converting => theme.warning(),
        State::Stuck => theme.alarm(),
    }
}

/// Everything about a guest.
pub fn lines(
    row: &GuestRow,
    known: &GuestMatrix,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![
        Line::from(vec![
            Span::styled(row.name.clone(), theme.title()),
            Span::raw("  "),
            Span::styled(row.state.name(), state_style(row.state, theme)),
            Span::styled(
                row.finding
                    .as_ref()
                    .map_or_else(String::new, |id| format!("  {id}: 7 shows why")),
                theme.warning(),
            ),
        ]),
        Line::raw(cut(
            &format!(
                "{} vCPUs, {} in KVM_RUN, {} in PQAP; {} tasks wait",
                row.vcpus, row.running, row.in_pqap, row.waiting
            ),
            width,
        )),
    ];
    if let Some(ns) = row.wait_ns {
        let text = format!(
            "{} for {}, blocked by {}",
            format::duration(ns),
            row.wait_lock,
            row.blocked_by
        );
        lines.extend(words::labelled(
            "longest wait  ",
            &text,
            width,
            theme.header(),
            Style::new(),
        ));
    }
    lines.push(Line::default());
    lines.extend(matrix_lines(row, known, theme, width));
    lines
}

/// The matrix: a line for each adapter, a column for each domain.
fn matrix_lines(
    row: &GuestRow,
    known: &GuestMatrix,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let title = format!("matrix of {}", row.name);
    let (long, short) = if known.mdevs.is_empty() {
        (
            "as seen in PQAPs and resets, in hexadecimal",
            "hex, as seen in PQAPs and resets",
        )
    } else {
        (
            "as the driver has it, with answers as seen in PQAPs, in hexadecimal",
            "hex, as the driver has it, answers of PQAPs",
        )
    };
    let room = width.saturating_sub(Span::raw(title.as_str()).width() + 2);
    let source = if long.len() <= room { long } else { short };
    let mut lines = vec![Line::from(vec![
        Span::styled(title, theme.header()),
        Span::styled(format!("  {}", cut(source, room)), theme.dim()),
    ])];
    for mdev in &known.mdevs {
        let control = match mdev.control_domains.as_slice() {
            [] => "no control domain".to_owned(),
            some => {
                let list: Vec<String> = some.iter().map(|domain| format!("{domain:04x}")).collect();
                format!("control domains {}", list.join(" "))
            }
        };
        lines.push(Line::raw(cut(
            &format!("  mdev {}, {control}", printable(&mdev.name)),
            width,
        )));
    }
    if known.queues.is_empty() {
        let text = if known.mdevs.is_empty() {
            "no queue has been used or reset so far; what is assigned cannot be read"
        } else {
            "no queue is assigned"
        };
        lines.push(Line::styled(text, theme.dim()));
        return lines;
    }
    let mut domains: Vec<u8> = known.queues.iter().map(|queue| queue.domain).collect();
    domains.sort_unstable();
    domains.dedup();
    let mut adapters: Vec<u8> = known.queues.iter().map(|queue| queue.adapter).collect();
    adapters.sort_unstable();
    adapters.dedup();
    let label = 12;
    let fits = (width.saturating_sub(label) / 5).max(1);
    let mut head = vec![Span::styled(pad("adapter", label, false), theme.dim())];
    for domain in domains.iter().take(fits) {
        head.push(Span::styled(format!("{domain:04x} "), theme.dim()));
    }
    if domains.len() > fits {
        head.push(Span::styled(
            format!("+{}", domains.len() - fits),
            theme.dim(),
        ));
    }
    lines.push(Line::from(head));
    for adapter in adapters {
        let mut spans = vec![Span::styled(
            pad(&format!("  {adapter:02x}"), label, false),
            theme.dim(),
        )];
        for domain in domains.iter().take(fits) {
            let queue = known
                .queues
                .iter()
                .find(|q| (q.adapter, q.domain) == (adapter, *domain));
            let (text, style) = sign(queue, theme);
            spans.push(Span::styled(format!(" {} ", pad(&text, 3, false)), style));
        }
        lines.push(Line::from(spans));
    }
    let mut legend = Vec::new();
    for (state, text) in [
        (QueueState::InGuest, "in guest"),
        (QueueState::Known, "assigned"),
        (QueueState::Refused(1), "answer"),
        (QueueState::Resetting, "resetting"),
        (QueueState::Stuck, "stuck"),
    ] {
        let queue = Queue {
            adapter: 0,
            domain: 0,
            state,
            uses: 0,
        };
        let (sign, style) = sign(Some(&queue), theme);
        legend.push(Span::styled(sign, style));
        legend.push(Span::styled(format!(" {text}  "), theme.dim()));
    }
    let nothing = if known.mdevs.is_empty() {
        "· not seen"
    } else {
        "· not assigned"
    };
    legend.push(Span::styled(nothing, theme.dim()));
    lines.push(Line::from(legend));
    lines
}

fn sign(queue: Option<&Queue>, theme: Theme) -> (String, Style) {
    match queue.map(|queue| queue.state) {
        None => ("·".into(), theme.dim()),
        Some(QueueState::Known) => ("○".into(), Style::new()),
        Some(QueueState::InGuest) => ("■".into(), theme.good()),
        Some(QueueState::Refused(response)) => (format!("×{response:02X}"), theme.warning()),
        Some(QueueState::Resetting) => ("↻".into(), theme.warning()),
        Some(QueueState::Stuck) => ("↻!".into(), theme.alarm()),
    }
}
