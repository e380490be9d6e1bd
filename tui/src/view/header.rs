//! The lines at the top: what is watched, how, and how far the figures can be trusted.
//!
//! The difficulty is width: at 80 columns not everything fits. Every line is a list of items, the most important
//! first; items that do not fit are left out whole, never cut in the middle. EMULATED or KERNEL, TIMING NOT HARDWARE,
//! PAUSED and drops come first in their lines and so are always there.

use apscope_collector::frame::Meta;
use apscope_collector::model::query;
use apscope_collector::source::Link;
use std::ops::Range;
use std::time::Duration;

use apscope_collector::diagnose::Severity;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::cut;
use crate::format;
use crate::state::{App, Ending, View, findings};

type Item = Vec<Span<'static>>;

fn item(text: impl Into<String>, style: Style) -> Item {
    vec![Span::styled(text.into(), style)]
}

/// As many items as fit, left-aligned, and `right` at the right margin.
fn row(
    items: Vec<Item>,
    right: Item,
    separator: &'static str,
    width: u16,
    dim: Style,
) -> Line<'static> {
    let width = usize::from(width);
    let right_width: usize = right.iter().map(Span::width).sum();
    let room = width.saturating_sub(right_width + usize::from(right_width > 0));
    let mut spans: Item = Vec::new();
    let mut used = 0;
    for one in items {
        let own: usize = one.iter().map(Span::width).sum();
        let gap = if spans.is_empty() {
            0
        } else {
            Span::raw(separator).width()
        };
        if used + gap + own > room {
            continue;
        }
        if gap > 0 {
            spans.push(Span::styled(separator, dim));
        }
        used += gap + own;
        spans.extend(one);
    }
    if right_width > 0 && right_width <= width {
        spans.push(Span::raw(" ".repeat(width - right_width - used)));
        spans.extend(right);
    }
    Line::from(spans)
}

/// Where the tab of a view is: line, columns.
pub type Tab = (u16, Range<u16>, View);

/// The header, at most `height` lines, and where its tabs are.
pub fn lines(app: &App, width: u16, height: usize) -> (Vec<Line<'static>>, Vec<Tab>) {
    let (tabs, places) = tabs(app, width);
    let mut lines = vec![identity(app, width)];
    // The tabs tell less than the figures.
    if height > 1 {
        lines.push(figures(app, width));
    }
    if height > 3 {
        lines.push(reason(app, width));
    }
    let mut targets = Vec::new();
    if height > 2 {
        let line = lines.len() as u16;
        targets = places
            .into_iter()
            .map(|(columns, view)| (line, columns, view))
            .collect();
        lines.push(tabs);
    }
    (lines, targets)
}

/// Across the screen: the source has died, or for somebody who is here for the first time, what this is.
pub fn banner(app: &App) -> Option<(String, Style)> {
    let theme = app.theme;
    match &app.ending {
        // What to do comes first: a long detail is cut at the margin.
        Some(Ending::Died(detail)) if detail.trim().is_empty() => {
            Some((" SOURCE DIED (q quits) ".into(), theme.banner()))
        }
        Some(Ending::Died(detail)) => Some((
            format!(" SOURCE DIED (q quits): {} ", detail.trim()),
            theme.banner(),
        )),
        Some(Ending::Detached(detail)) => Some((
            format!(" DETACHED (q quits): {} ", detail.trim()),
            theme.banner(),
        )),
        Some(Ending::InOrder) => None,
        Some(Ending::Over) => Some((
            format!(
                " ENDED over there {} ago, waiting for another (q quits) ",
                seconds(app.away.unwrap_or_default())
            ),
            theme.banner(),
        )),
        None => match &app.link {
            Link::Down(reason) => Some((
                format!(
                    " LINK DOWN for {}, trying again: {} ",
                    seconds(app.away.unwrap_or_default()),
                    without_number(reason)
                ),
                theme.banner(),
            )),
            Link::Up => welcome(app).map(|text| (text.into(), theme.paused())),
        },
    }
}

/// Whole seconds, minutes and hours: what is counted on the screen needs no more.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
    }
}

/// `Connection refused` of `Connection refused (os error 111)`: the words say it.
fn without_number(reason: &str) -> &str {
    reason.split(" (os error ").next().unwrap_or(reason).trim()
}

/// Until the first key is pressed, on the emulated driver.
fn welcome(app: &App) -> Option<&'static str> {
    let meta = app.shown().model.meta.as_ref()?;
    let first = !app.touched && app.replay.is_none() && app.overlay.is_none() && is_emulated(meta);
    first.then_some(
        " An emulated driver. Others: --scenario, --generation. F1: guided look, ?: keys ",
    )
}

fn identity(app: &App, width: u16) -> Line<'static> {
    let theme = app.theme;
    let shown = app.shown();
    let mut items = vec![item("apscope", theme.title())];
    let mut right = Item::new();
    if let Some(meta) = &shown.model.meta {
        if is_emulated(meta) {
            items.push(item(" EMULATED ", theme.emulated()));
        } else if query::is_kernel(meta) {
            items.push(item(" KERNEL ", theme.kernel()));
            if !meta.timing.is_empty() {
                items.push(item(" TIMING NOT HARDWARE ", theme.emulated()));
            }
        } else {
            items.push(item(meta.source.clone(), theme.title()));
        }
        items.push(item(what(meta), theme.header()));
        if query::is_kernel(meta) {
            items.push(level(meta, app));
        }
        items.push(item(mechanism(meta), Style::new()));
        if meta.guests > 0 {
            items.push(item(guests(meta), Style::new()));
        }
        right = item(
            format::elapsed(query::elapsed_ns(&shown.model)),
            Style::new(),
        );
    } else {
        items.push(item("waiting for the first frame", theme.dim()));
    }
    if let Some(replay) = &app.replay {
        let how = if replay.playing { "PLAYING" } else { "STOPPED" };
        right.insert(
            0,
            Span::styled(format!(" {how} {}× ", replay.speed()), theme.paused()),
        );
        right.insert(1, Span::raw(" "));
    }
    if let Some(behind) = app.behind_ns() {
        right.insert(
            0,
            Span::styled(
                format!(" PAUSED {} behind ", format::duration(behind)),
                theme.paused(),
            ),
        );
        right.insert(1, Span::raw(" "));
    }
    row(items, right, " ", width, theme.dim())
}

/// The data come from the emulated driver, directly or out of a recording.
pub fn is_emulated(meta: &Meta) -> bool {
    // Only the emulated driver has scenarios, so a recording of it is recognised too.
    meta.source == "emulator" || !meta.scenario.is_empty()
}

/// Generation and scenario; of a kernel all candidates, or that it has no driver.
fn what(meta: &Meta) -> String {
    match (query::is_kernel(meta), meta.generation.is_empty()) {
        (true, true) => format!("Linux {}", meta.kernel_release),
        (true, false) => query::candidates(meta),
        (false, _) => format!("{} {}", meta.generation, meta.scenario)
            .trim()
            .to_owned(),
    }
}

/// The level, and that it is not everything.
fn level(meta: &Meta, app: &App) -> Item {
    match meta.level {
        0 => item("level 0: nothing attached", app.theme.warning()),
        1 => item("level 1: contended only", app.theme.warning()),
        level => item(format!("level {level}"), Style::new()),
    }
}

/// `8 guests × 2 vCPUs`; a kernel's guests differ in their vCPUs.
fn guests(meta: &Meta) -> String {
    match (meta.guests, meta.vcpus) {
        (1, 0) => "1 guest".to_owned(),
        (guests, 0) => format!("{guests} guests"),
        (guests, vcpus) => format!("{guests} guests × {vcpus} vCPUs"),
    }
}

/// How it is measured: `eBPF (uprobe-nop5)`.
fn mechanism(meta: &Meta) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for point in &meta.attach {
        if point.mechanism != "none" && !kinds.contains(&point.mechanism.as_str()) {
            kinds.push(&point.mechanism);
        }
    }
    let probe = match meta.probe.as_str() {
        "ebpf" => "eBPF",
        "in-process" => "in process",
        other => other,
    };
    match (meta.probe.as_str(), kinds.as_slice()) {
        ("in-process", _) | (_, []) => probe.to_owned(),
        (_, kinds) => format!("{probe} {}", kinds.join("+")),
    }
}

fn figures(app: &App, width: u16) -> Line<'static> {
    let theme = app.theme;
    let shown = app.shown();
    let loss = &shown.model.loss;
    let mut items = Vec::new();
    let dropped = loss.dropped();
    items.push(if dropped > 0 {
        item(
            format!("DROPPED {}", format::grouped(dropped)),
            theme.alarm(),
        )
    } else {
        item("dropped 0", theme.good())
    });
    items.push(match shown.pulse.events_per_second() {
        Some(rate) => item(format!("{} events/s", format::rate(rate)), Style::new()),
        None => item("- events/s", theme.dim()),
    });
    items.push(if loss.exact() {
        item("exact", theme.good())
    } else {
        item("AT LEAST", theme.warning())
    });
    items.push(item(
        format!("missed {}", format::count(loss.missed)),
        if loss.missed > 0 {
            theme.warning()
        } else {
            Style::new()
        },
    ));
    if let Some(missing) = shown.model.meta.as_ref().and_then(missing) {
        items.push(item(missing, theme.warning()));
    }
    if let Some(cpu) = shown.pulse.cpu_percent() {
        items.push(item(format!("own CPU {cpu:.1}%"), Style::new()));
    }
    let overhead = &shown.model.overhead;
    if overhead.ring_bytes_size > 0 {
        items.push(item(
            format!(
                "ring peak {}%",
                format::percent(overhead.ring_bytes_max, overhead.ring_bytes_size)
            ),
            Style::new(),
        ));
    }
    items.push(item(
        format!("every {}", format::duration(app.interval.as_nanos() as u64)),
        theme.dim(),
    ));
    if !loss.exact() {
        for (n, what) in [
            (loss.no_task_slot, "without a task slot"),
            (loss.overflowed, "overflowed"),
            (loss.unreadable, "unreadable"),
        ] {
            if n > 0 {
                items.push(item(
                    format!("{} {what}", format::count(n)),
                    theme.warning(),
                ));
            }
        }
    }
    row(items, Item::new(), " · ", width, theme.dim())
}

/// What is not measured. Points of other generations and levels are not attached in a kernel either, and no loss.
fn missing(meta: &Meta) -> Option<String> {
    if query::is_kernel(meta) {
        return match meta.losses.len() {
            0 => None,
            1 => Some("1 loss (apscope doctor)".to_owned()),
            n => Some(format!("{n} losses (apscope doctor)")),
        };
    }
    let missing = meta.attach.iter().filter(|a| a.mechanism == "none").count();
    (missing > 0).then(|| format!("{missing} probes missing"))
}

/// Why this source and this probe were chosen.
fn reason_text(app: &App) -> &str {
    app.shown()
        .model
        .meta
        .as_ref()
        .map_or("", |meta| &meta.reason)
}

fn reason(app: &App, width: u16) -> Line<'static> {
    Line::styled(cut(reason_text(app), usize::from(width)), app.theme.dim())
}

/// The views, with how many findings stand, and the filter; where each view is.
fn tabs(app: &App, width: u16) -> (Line<'static>, Vec<(Range<u16>, View)>) {
    let theme = app.theme;
    let report = &app.shown().report;
    let standing = findings::standing(report, Severity::Info);
    let worst = if findings::standing(report, Severity::Critical) > 0 {
        theme.alarm()
    } else {
        theme.warning()
    };
    let mut spans = Vec::new();
    let mut places = Vec::new();
    let mut used = 0_u16;
    // Where the names do not fit there are the numbers alone.
    let names: usize = View::ALL.iter().map(|view| view.title().len() + 3).sum();
    let short = names + 3 > usize::from(width);
    for view in View::ALL {
        let chosen = view == app.view;
        let text = match (short, chosen) {
            (true, false) => format!("{}", view.number()),
            _ => format!("{} {}", view.number(), view.title()),
        };
        let count = (view == View::Findings && standing > 0).then(|| format!("({standing})"));
        let own = (text.len() + count.as_ref().map_or(0, String::len)) as u16;
        if used + own > width {
            break;
        }
        spans.push(Span::styled(
            text,
            if chosen {
                theme.selected()
            } else {
                theme.dim()
            },
        ));
        if let Some(count) = count {
            spans.push(Span::styled(count, worst));
        }
        places.push((used..used + own, view));
        spans.push(Span::raw(" "));
        used += own + 1;
    }
    let filter = app.filter();
    if filter.typing.is_none() && !filter.text.is_empty() {
        let room = usize::from(width.saturating_sub(used));
        let text = format!("filter: {} ({})", filter.text, rows(app));
        if room > 12 {
            spans.push(Span::styled(cut(&text, room), theme.warning()));
        }
    }
    (Line::from(spans), places)
}

/// `1 row`, `7 rows`.
pub fn rows(app: &App) -> String {
    match app.row_count() {
        1 => "1 row".into(),
        n => format!("{n} rows"),
    }
}
