//! The detail of a lock or an entry point: text in blocks, scrolled as one.
//!
//! On wide terminals the blocks stand in two columns, distributions to the left and lists to the right; on narrow
//! ones the two distributions stand side by side above the lists.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::histogram;
use super::table::{cut, pad};
use super::{findings, guests, heat, order};
use crate::format;
use crate::state::App;
use crate::state::detail::{Detail, EntryDetail, LockDetail, Party, Share, Trace};
use crate::state::history::History;
use crate::theme::Theme;

/// From this width on, two columns.
const WIDE: u16 = 140;

/// Draws the open detail.
pub fn draw(frame: &mut Frame, app: &mut App, area: Rect) {
    let theme = app.theme;
    let Some(detail) = app.detail() else {
        return;
    };
    let wide = area.width >= WIDE;
    let column = if wide {
        usize::from(area.width - 3) / 2
    } else {
        usize::from(area.width)
    };
    let whole = usize::from(area.width);
    let text = match detail {
        Detail::Finding(row) => Some(findings::lines(app, row, whole)),
        Detail::Edge(edge) => Some(order::lines(edge, theme, whole)),
        Detail::Guest(guest) => Some(guests::lines(&guest.0, &guest.1, theme, whole)),
        Detail::Lock(_) | Detail::Entry(_) => None,
    };
    if let Some(lines) = text {
        super::lines_at(frame, app, area, lines);
        return;
    }
    let (title, mut left, right) = match detail {
        Detail::Finding(_) | Detail::Edge(_) | Detail::Guest(_) => return,
        Detail::Lock(lock) => (
            lock_title(lock, theme, area.width),
            distributions(lock, &app.shown().history, theme, column, wide),
            lock_lists(lock, theme, column),
        ),
        Detail::Entry(entry) => (
            entry_title(entry, theme, area.width),
            histogram::lines("time", &entry.latency, theme.hold(), theme, column),
            entry_lists(entry, theme, column),
        ),
    };
    let [title_area, body] =
        Layout::vertical([Constraint::Length(title.len() as u16), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(title), title_area);
    if wide {
        let [left_area, _, right_area] = Layout::horizontal([
            Constraint::Length(column as u16),
            Constraint::Length(3),
            Constraint::Fill(1),
        ])
        .areas(body);
        let longest = left.len().max(right.len());
        left.resize(longest, Line::default());
        let mut right = right;
        right.resize(longest, Line::default());
        super::lines_at(frame, app, left_area, left);
        super::lines_at(frame, app, right_area, right);
    } else {
        // Who holds and who waits comes first: it is what a detail is opened for.
        let mut lines = right;
        let at = lines
            .iter()
            .position(|line| line.width() == 0)
            .map_or(lines.len(), |at| at + 1);
        left.push(Line::default());
        lines.splice(at..at, left);
        super::lines_at(frame, app, body, lines);
    }
}

fn lock_title(lock: &LockDetail, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let mut name = vec![
        Span::styled(lock.class, theme.title()),
        Span::raw("  "),
        Span::styled(
            lock.kind,
            if lock.open_coded {
                theme.open_coded()
            } else {
                Style::new()
            },
        ),
    ];
    if lock.open_coded {
        name.push(Span::styled(
            "*  a flag and a wait queue: lockdep does not see it",
            theme.dim(),
        ));
    }
    let mut facts = if lock.contended_only {
        format!(
            "{} contended acquisitions; others, and holds, are not seen at this level  ",
            format::grouped(lock.acquisitions),
        )
    } else {
        format!(
            "{} acquisitions  {} contended ({}%)  {} releases  ",
            format::grouped(lock.acquisitions),
            format::grouped(lock.contended),
            format::percent(lock.contended, lock.acquisitions),
            format::grouped(lock.releases),
        )
    };
    for (n, what) in [
        (lock.attempts_failed, " attempts failed  "),
        (lock.unmatched_releases, " releases unmatched  "),
    ] {
        if n > 0 {
            facts.push_str(&format::count(n));
            facts.push_str(what);
        }
    }
    vec![Line::from(name), Line::raw(cut(&facts, usize::from(width)))]
}

/// Histograms, and how they came about over time.
fn distributions(
    lock: &LockDetail,
    history: &History,
    theme: Theme,
    width: usize,
    wide: bool,
) -> Vec<Line<'static>> {
    let mut lines = histograms(lock, theme, width);
    let map = |title, hold, style, width| {
        heat::lines(title, history, lock.series, hold, style, theme, width)
    };
    lines.push(Line::default());
    if wide || width < 76 {
        lines.extend(map("wait", false, theme.wait(), width));
        lines.push(Line::default());
        lines.extend(map("hold", true, theme.hold(), width));
    } else {
        let half = (width - 2) / 2;
        lines.extend(beside(
            map("wait", false, theme.wait(), half),
            map("hold", true, theme.hold(), half),
            half + 2,
        ));
    }
    lines
}

fn histograms(lock: &LockDetail, theme: Theme, width: usize) -> Vec<Line<'static>> {
    if width < 76 {
        let mut lines = histogram::lines("wait", &lock.wait, theme.wait(), theme, width);
        lines.push(Line::default());
        lines.extend(histogram::lines(
            "hold",
            &lock.hold,
            theme.hold(),
            theme,
            width,
        ));
        return lines;
    }
    let half = (width - 2) / 2;
    beside(
        histogram::lines("wait", &lock.wait, theme.wait(), theme, half),
        histogram::lines("hold", &lock.hold, theme.hold(), theme, half),
        half + 2,
    )
}

/// Two blocks side by side, the second from column `at` on.
fn beside(left: Vec<Line<'static>>, right: Vec<Line<'static>>, at: usize) -> Vec<Line<'static>> {
    let count = left.len().max(right.len());
    let mut right = right.into_iter();
    let mut left = left.into_iter();
    (0..count)
        .map(|_| {
            let mut line = left.next().unwrap_or_default();
            let gap = at.saturating_sub(line.width());
            if let Some(second) = right.next() {
                line.spans.push(Span::raw(" ".repeat(gap)));
                line.spans.extend(second.spans.into_iter().map(|span| {
                    // A style set on the whole line must stay with its half.
                    let style = second.style.patch(span.style);
                    span.style(style)
                }));
            }
            line
        })
        .collect()
}

fn lock_lists(lock: &LockDetail, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    parties(&mut lines, "held by", &lock.holders, theme, width, FIRST);
    parties(&mut lines, "waiting", &lock.waiters, theme, width, FIRST);
    queues(&mut lines, lock, theme, width);
    lines.push(Line::default());
    shares(&mut lines, "by entry point", &lock.by_entry, theme, width);
    lines.push(Line::default());
    let title = if lock.by_instance.len() < lock.instances {
        format!("{} of {} instances", lock.by_instance.len(), lock.instances)
    } else {
        "by instance".into()
    };
    shares(&mut lines, &title, &lock.by_instance, theme, width);
    if let Some(stack) = &lock.stack {
        lines.push(Line::default());
        trace(&mut lines, stack, theme, width);
    }
    for (title, all) in [("held by", &lock.holders), ("waiting", &lock.waiters)] {
        if all.len() > FIRST {
            lines.push(Line::default());
            parties(&mut lines, title, all, theme, width, usize::MAX);
        }
    }
    lines
}

/// Each queue drawn as a chain: who holds, then who waits, the longest first.
fn queues(lines: &mut Vec<Line<'static>>, lock: &LockDetail, theme: Theme, width: usize) {
    let mut instances: Vec<&str> = lock.waiters.iter().map(|w| w.instance.as_str()).collect();
    instances.sort_unstable();
    instances.dedup();
    for instance in instances.into_iter().take(FIRST) {
        let names = |all: &[Party]| -> Vec<String> {
            let of = all.iter().filter(|party| party.instance == instance);
            of.map(|party| party.who.clone()).collect()
        };
        let holders = match names(&lock.holders) {
            none if none.is_empty() => "nobody known".to_owned(),
            some => some.join(" + "),
        };
        let mut text = if instance.is_empty() {
            holders
        } else {
            format!("{instance}: {holders}")
        };
        for waiter in names(&lock.waiters) {
            text.push_str(" ◀─ ");
            text.push_str(&waiter);
        }
        lines.push(Line::from(vec![
            Span::styled(pad("queue", 9, false), theme.header()),
            Span::styled(cut(&text, width.saturating_sub(9)), theme.wait()),
        ]));
    }
}

fn parties(
    lines: &mut Vec<Line<'static>>,
    title: &'static str,
    parties: &[Party],
    theme: Theme,
    width: usize,
    most: usize,
) {
    if parties.is_empty() {
        lines.push(Line::from(vec![
            Span::styled(pad(title, 9, false), theme.header()),
            Span::styled("nobody", theme.dim()),
        ]));
    }
    for (n, party) in parties.iter().take(most).enumerate() {
        let title = if n == 0 { title } else { "" };
        // Who and since when are never cut; the instance goes first where there is little room.
        let mut who = format!("{}  {}", party.who, format::duration(party.for_ns));
        for part in [party.entry, &party.instance] {
            if !part.is_empty() {
                who.push_str("  ");
                who.push_str(part);
            }
        }
        let mut spans = vec![
            Span::styled(pad(title, 9, false), theme.header()),
            Span::raw(cut(&who, width.saturating_sub(9))),
        ];
        if !party.remark.is_empty() {
            let used: usize = spans.iter().map(Span::width).sum();
            let room = width.saturating_sub(used + 2);
            if room > 3 {
                spans.push(Span::styled(
                    format!("  {}", cut(&party.remark, room)),
                    theme.warning(),
                ));
            }
        }
        lines.push(Line::from(spans));
    }
    if parties.len() > most {
        lines.push(Line::styled(
            format!("{:9}+{} more, see below", "", parties.len() - most),
            theme.dim(),
        ));
    }
}

/// Holders, and waiters, that stand above the distributions; the whole list is below.
const FIRST: usize = 4;

fn shares(
    lines: &mut Vec<Line<'static>>,
    title: &str,
    shares: &[Share],
    theme: Theme,
    width: usize,
) {
    let name = width.saturating_sub(4 * 10).clamp(8, 44);
    lines.push(Line::styled(
        cut(
            &format!(
                "{}{:>10}{:>8}{:>10}{:>10}",
                pad(title, name, false),
                "acquired",
                "cont%",
                "wait p99",
                "hold p99"
            ),
            width,
        ),
        theme.header(),
    ));
    if shares.is_empty() {
        lines.push(Line::styled("none yet", theme.dim()));
    }
    for share in shares {
        lines.push(Line::from(vec![
            Span::raw(pad(&share.name, name, false)),
            Span::raw(format!(
                "{:>10}{:>8}",
                format::count(share.acquisitions),
                format::percent(share.contended, share.acquisitions),
            )),
            Span::styled(
                format!("{:>10}", format::optional(share.wait_p99_ns)),
                theme.wait(),
            ),
            Span::styled(
                format!("{:>10}", format::optional(share.hold_p99_ns)),
                theme.hold(),
            ),
        ]));
    }
}

/// Where the latest long wait or hold was.
fn trace(lines: &mut Vec<Line<'static>>, stack: &Trace, theme: Theme, width: usize) {
    let title = format!(
        "{} {} {}  {}",
        stack.who,
        stack.what,
        format::duration(stack.for_ns),
        stack.instance
    );
    lines.push(Line::from(vec![
        Span::styled("latest stack  ", theme.header()),
        Span::raw(cut(&title, width.saturating_sub(14))),
    ]));
    for frame in &stack.frames {
        lines.push(Line::raw(cut(&format!("  {frame}"), width)));
    }
}

fn entry_title(entry: &EntryDetail, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let mut facts = format!(
        "{} calls  {} inside",
        format::grouped(entry.calls),
        format::grouped(entry.in_flight)
    );
    if entry.unmatched_returns > 0 {
        facts.push_str("  ");
        facts.push_str(&format::count(entry.unmatched_returns));
        facts.push_str(" returns unmatched");
    }
    vec![
        Line::from(vec![
            Span::styled(entry.name, theme.title()),
            Span::raw("  "),
            Span::styled(entry.module, theme.dim()),
        ]),
        Line::raw(cut(&facts, usize::from(width))),
    ]
}

fn entry_lists(entry: &EntryDetail, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    parties(&mut lines, "inside", &entry.inside, theme, width, FIRST);
    lines.push(Line::default());
    lines.push(Line::styled("returns", theme.header()));
    let total: u64 = entry.returns.iter().map(|r| r.1).sum();
    for (code, n) in &entry.returns {
        lines.push(Line::raw(format!(
            "{} {:>10} {:>6}%",
            pad(code, 20, false),
            format::grouped(*n),
            format::percent(*n, total)
        )));
    }
    if !entry.pqap.is_empty() {
        lines.push(Line::default());
        lines.push(Line::styled("PQAP responses", theme.header()));
        for (function, response, n) in &entry.pqap {
            lines.push(Line::raw(format!(
                "{} {response:02X} {:>10}",
                pad(function, 17, false),
                format::grouped(*n)
            )));
        }
    }
    if entry.inside.len() > FIRST {
        lines.push(Line::default());
        parties(
            &mut lines,
            "inside",
            &entry.inside,
            theme,
            width,
            usize::MAX,
        );
    }
    lines
}
