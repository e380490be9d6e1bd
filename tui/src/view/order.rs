//! The lock-order graph: a line for each class, a lane for each class that is taken while another one is held.
//!
//! `◀` on a lane says which lock is taken, `●` which are held at that time; a line with `○` is an edge that lockdep
//! cannot see, drawn dashed. What closes a cycle is red, and has a `!` behind it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::table::{self, Rows, Spec, cut, pad, spec};
use super::words;
use crate::format;
use crate::state::App;
use crate::state::detail::EdgeDetail;
use crate::state::order::{EdgeColumn, EdgeRow, Graph, class_name};
use crate::theme::Theme;

const COLUMNS: [Spec<EdgeColumn>; 6] = [
    spec(Some(EdgeColumn::Held), "", "held", (23, 23), 0),
    spec(
        Some(EdgeColumn::Acquired),
        "",
        "taken meanwhile",
        (23, 23),
        0,
    )
    .to_the_left(),
    spec(Some(EdgeColumn::Count), "", "count", (8, 8), 1),
    spec(Some(EdgeColumn::Cycle), "", "cycle", (6, 6), 1),
    spec(None, "", "lockdep", (8, 8), 2),
    spec(None, "", "functions", (20, 70), 3),
];

/// Draws graph and edges.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let count = app.rows().edges.len();
    if app.rows().graph.nodes.is_empty() {
        let text = if app.shown().model.meta.is_none() {
            "no data yet"
        } else {
            "no lock has been taken while another one was held, as far as is seen"
        };
        frame.render_widget(Paragraph::new(Line::styled(text, app.theme.dim())), area);
        return;
    }
    let selected = app.edges.selected;
    let mut above = graph(
        &app.rows().graph,
        selected,
        app.theme,
        usize::from(area.width),
    );
    above.extend(cycles(
        &app.rows().graph,
        app.theme,
        usize::from(area.width),
    ));
    let list = if app.expanded {
        area.height
    } else {
        let rest = area.height.saturating_sub(above.len() as u16);
        rest.max(area.height.min(5)).min(area.height)
    };
    let graph_height = (above.len() as u16).min(area.height - list);
    let [graph_area, list_area] =
        Layout::vertical([Constraint::Length(graph_height), Constraint::Fill(1)]).areas(area);
    let room = usize::from(graph_area.height);
    if above.len() > room {
        above.truncate(room.saturating_sub(1));
        above.push(Line::styled(
            "… a higher terminal shows the rest",
            app.theme.dim(),
        ));
    }
    frame.render_widget(Paragraph::new(above), graph_area);
    app.page = table::room(list_area);
    app.edges.scroll_to(app.page);
    let first = app.edges.offset;
    app.targets.extend(table::targets(list_area, first, count));
    let rows = &app.rows().edges;
    if rows.is_empty() {
        frame.render_widget(Paragraph::new(super::empty(app)), list_area);
        return;
    }
    let columns = table::columns(&COLUMNS, 23, &app.edges);
    table::draw(
        frame,
        list_area,
        app.theme,
        &columns,
        Rows {
            first,
            count,
            selected: Some(app.edges.index()),
        },
        |row, column, _| cell(&rows[row], column, app.theme),
    );
}

fn cell(row: &EdgeRow, column: usize, theme: Theme) -> table::Cell {
    match column {
        0 => (row.held.into(), Style::new()),
        1 => (row.acquired.into(), Style::new()),
        2 => (format::count(row.joint.count), Style::new()),
        3 if row.joint.in_cycle => ("!".into(), theme.alarm()),
        3 => ("-".into(), theme.dim()),
        4 if row.joint.lockdep_visible => ("sees it".into(), theme.dim()),
        4 => ("blind".into(), theme.open_coded()),
        _ => {
            let (held, acquired) = row.functions;
            let text = if held == acquired {
                held.to_owned()
            } else {
                format!("{held} → {acquired}")
            };
            (text, theme.dim())
        }
    }
}

/// Columns of a lane.
const LANE: usize = 3;

fn graph(
    graph: &Graph,
    selected: Option<(u8, u8)>,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let longest = graph
        .nodes
        .iter()
        .map(|node| class_name(node.class).chars().count())
        .max()
        .unwrap_or(0);
    let label = longest + 3;
    let fits = (width.saturating_sub(label + 1) / LANE).min(graph.lanes.len());
    let lanes = &graph.lanes[..fits];
    let mut drawn: Vec<Line<'static>> = graph
        .nodes
        .iter()
        .enumerate()
        .map(|(place, node)| {
            let mark = |lane: usize| mark(graph, lane, place, selected, theme);
            let last = lanes.iter().rposition(|&lane| mark(lane).is_some());
            let touched = selected
                .is_some_and(|(held, acquired)| node.class == held || node.class == acquired);
            let name = pad(class_name(node.class), longest, false);
            let mut spans = vec![
                Span::styled(format!("{} ", node.layer), theme.dim()),
                Span::styled(name, if touched { theme.title() } else { Style::new() }),
                Span::raw(" "),
            ];
            for (at, &lane) in lanes.iter().enumerate() {
                let along = last.is_some_and(|last| at <= last);
                if let Some((sign, cycle, hidden, style)) = mark(lane) {
                    let stub = if hidden { "╌" } else { "─" };
                    spans.push(Span::styled(if along { stub } else { " " }, style));
                    spans.push(Span::styled(sign, style));
                    let after = match (cycle, last.is_some_and(|last| at < last)) {
                        (true, _) => "!",
                        (false, true) => "─",
                        (false, false) => " ",
                    };
                    spans.push(Span::styled(after, if cycle { style } else { theme.dim() }));
                } else {
                    let vertical = passes(graph, lane, place);
                    let text = match (along, vertical) {
                        (true, Some(_)) => "─┼─",
                        (true, None) => "───",
                        (false, Some(true)) => " ╎ ",
                        (false, Some(false)) => " │ ",
                        (false, None) => "   ",
                    };
                    let style = if lane_selected(graph, lane, selected) {
                        theme.title()
                    } else {
                        theme.dim()
                    };
                    spans.push(Span::styled(text, style));
                }
            }
            Line::from(spans)
        })
        .collect();
    if fits < graph.lanes.len() {
        drawn.push(Line::styled(
            format!(
                "{} more lanes: a wider terminal shows them",
                graph.lanes.len() - fits
            ),
            theme.dim(),
        ));
    }
    drawn.push(Line::styled(
        cut(
            "a lane is one lock: ◀ taken, ● held meanwhile, ○ and lockdep is blind, ! cycle",
            width,
        ),
        theme.dim(),
    ));
    drawn
}

type Mark = (&'static str, bool, bool, Style);

/// What a class is to a lane: taken in it, held in it, or nothing.
fn mark(
    graph: &Graph,
    lane: usize,
    place: usize,
    selected: Option<(u8, u8)>,
    theme: Theme,
) -> Option<Mark> {
    let taken = graph.nodes[lane].class;
    let class = graph.nodes[place].class;
    let style = |cycle: bool, hidden: bool, chosen: bool| match (chosen, cycle, hidden) {
        (true, ..) => theme.selected(),
        (_, true, _) => theme.alarm(),
        (_, _, true) => theme.open_coded(),
        _ => Style::new(),
    };
    if place == lane {
        let mut into = graph.joints.iter().filter(|joint| joint.acquired == taken);
        let cycle = into.clone().any(|joint| joint.in_cycle);
        let hidden = into.all(|joint| !joint.lockdep_visible);
        let chosen = selected.is_some_and(|(_, acquired)| acquired == taken);
        return Some(("◀", cycle, hidden, style(cycle, hidden, chosen)));
    }
    let joint = graph.joint(class, taken)?;
    let hidden = !joint.lockdep_visible;
    let sign = if hidden { "○" } else { "●" };
    let chosen = selected == Some((class, taken));
    Some((
        sign,
        joint.in_cycle,
        hidden,
        style(joint.in_cycle, hidden, chosen),
    ))
}

/// The lane goes through this line: `Some(true)` if lockdep sees none of its edges.
fn passes(graph: &Graph, lane: usize, place: usize) -> Option<bool> {
    let taken = graph.nodes[lane].class;
    let into: Vec<_> = graph
        .joints
        .iter()
        .filter(|joint| joint.acquired == taken)
        .collect();
    let ends = into
        .iter()
        .filter_map(|joint| graph.nodes.iter().position(|node| node.class == joint.held));
    let (mut low, mut high) = (lane, lane);
    for end in ends {
        low = low.min(end);
        high = high.max(end);
    }
    (low < place && place < high).then(|| into.iter().all(|joint| !joint.lockdep_visible))
}

fn lane_selected(graph: &Graph, lane: usize, selected: Option<(u8, u8)>) -> bool {
    selected.is_some_and(|(_, acquired)| graph.nodes[lane].class == acquired)
}

fn cycles(graph: &Graph, theme: Theme, width: usize) -> Vec<Line<'static>> {
    if graph.cycles.is_empty() {
        return vec![Line::styled("no cycle", theme.good())];
    }
    let mut lines = Vec::new();
    for cycle in graph.cycles.iter().take(3) {
        let mut names: Vec<&str> = cycle.classes().into_iter().map(class_name).collect();
        names.extend(names.first().copied());
        let seen = if cycle.lockdep_visible() {
            "lockdep can see it"
        } else {
            "lockdep is blind to it"
        };
        lines.extend(words::labelled(
            "! cycle ",
            &format!("{} ({seen})", names.join(" → ")),
            width,
            theme.alarm(),
            Style::new(),
        ));
    }
    if graph.cycles.len() > 3 {
        lines.push(Line::styled(
            format!("and {} more cycles", graph.cycles.len() - 3),
            theme.dim(),
        ));
    }
    lines
}

/// Everything about the edges between two classes.
pub fn lines(edge: &EdgeDetail, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let (held, acquired) = (class_name(edge.joint.held), class_name(edge.joint.acquired));
    let mut lines = vec![
        Line::from(vec![
            Span::styled(acquired, theme.title()),
            Span::raw(" taken while "),
            Span::styled(held, theme.title()),
            Span::raw(" is held"),
        ]),
        Line::raw(cut(
            &format!(
                "{} times; {}",
                format::grouped(edge.joint.count),
                if edge.joint.lockdep_visible {
                    "lockdep sees it"
                } else {
                    "lockdep is blind to it: an open-coded lock is a flag and a wait queue"
                }
            ),
            width,
        )),
    ];
    for cycle in &edge.cycles {
        let mut names = cycle.clone();
        names.extend(cycle.first().copied());
        lines.extend(words::labelled(
            "! in the cycle ",
            &names.join(" → "),
            width,
            theme.alarm(),
            Style::new(),
        ));
    }
    for line in &edge.edges {
        lines.push(Line::default());
        lines.extend(words::labelled(
            &format!("{:>8}× ", format::count(line.count)),
            &format!(
                "{} in {}, then {} in {}",
                line.series.0, line.functions.0, line.series.1, line.functions.1
            ),
            width,
            theme.header(),
            Style::new(),
        ));
        lines.push(Line::styled(
            cut(
                &format!(
                    "          first by {} {} ago, last {} ago",
                    line.first,
                    format::duration(line.first_ago_ns),
                    format::duration(line.last_ago_ns)
                ),
                width,
            ),
            theme.dim(),
        ));
        if line.annotated {
            lines.push(Line::styled(
                cut("          annotated: the flag was tested and found clear, which leaves no trace", width),
                theme.dim(),
            ));
        }
        for (held, acquired) in &line.pairs {
            lines.push(Line::styled(
                cut(&format!("          {held} → {acquired}"), width),
                theme.dim(),
            ));
        }
    }
    lines
}
