//! The help of the current view, the guided look, and the popup of the export.

use ratatui::text::{Line, Span};

use crate::state::keymap::{Action, TABLE};
use crate::state::{App, View};

const FILTER: &[(&str, &str)] = &[
    (
        "word",
        "rows with it in a name; lock*7 with anything between",
    ),
    (
        "class: owner:",
        "class:kvm kind:mutex name:pqap owner:vcpu*",
    ),
    ("task: guest:", "task:qemu guest:3 mdev:62177883*"),
    ("wait>1ms", "hold.max>=20ms wait.p50<5us latency>1s"),
    ("!term", "turns a term round"),
];

const OVERVIEW: &[(&str, &str)] = &[
    ("first line", "the verdict, in five possible words"),
    ("└ held by", "who holds what the line above waits for"),
    ("↺", "the chain comes back: nobody in it goes on by itself"),
    ("can help", "what can be done, and what it risks"),
    (
        "*",
        "open-coded: a flag and a wait queue; to lockdep no lock",
    ),
    ("R, W", "an rwsem taken for reading, for writing"),
    ("wait99", "99 % of all waits were shorter"),
    (
        "p99 3.40s+",
        "a call that goes on has taken that long already",
    ),
    (
        "queue, in",
        "tasks that wait now; calls that have not returned",
    ),
];

const LOCKS: &[(&str, &str)] = &[
    (
        "*",
        "open-coded: a flag and a wait queue; to lockdep no lock",
    ),
    ("acq/s", "acquisitions a second"),
    ("cont%", "share of acquisitions that took the slow path"),
    ("wait", "slow path to acquisition; uncontended counts as 0"),
    ("hold", "acquisition to release; dim where long is normal"),
    (
        "queue, now",
        "tasks waiting; the longest of these waits so far",
    ),
    ("holder", "who has held it longest, +n others"),
];

const ENTRIES: &[(&str, &str)] = &[
    ("calls/s", "calls started a second"),
    (
        "inside, now",
        "calls that have not returned; the longest so far",
    ),
    ("took", "call to return"),
    ("returns", "by errno or notifier code"),
    ("latency>20ms", "as a filter: the 99th percentile"),
];

const GUESTS: &[(&str, &str)] = &[
    (
        "state",
        "by the functions that its tasks are in, and findings",
    ),
    ("blocked by", "the root of the longest wait"),
    (
        "■ ○ ×01",
        "queue: used; has a reset work item; PQAP answered 01",
    ),
    ("↻ ↻!", "is being reset; for longer than a second"),
];

const ORDER: &[(&str, &str)] = &[
    ("number", "layer: below everything held when it is taken"),
    ("◀ ●", "on a lane: the lock taken; locks held at that time"),
    ("○ ╌", "the same, and lockdep is blind to it"),
    ("!", "a step of a cycle: a deadlock is possible"),
    ("Enter", "functions, first task and instances of an edge"),
];

const TIMELINE: &[(&str, &str)] = &[
    ("░ █ ─ ·", "waits; holds; in a traced function; in KVM_RUN"),
    ("← →", "move the cursor; at the edge, the time shown"),
    ("z Z", "half, twice the time"),
    ("Enter", "where the next span of the task begins"),
    ("Esc End", "back to now"),
];

const FINDINGS: &[(&str, &str)] = &[
    ("● ▲ ·", "critical, warning, info"),
    ("stood", "for so long; what is over stands below"),
    ("n times", "it was over, and came back"),
    ("evidence", "how each hold and wait is known"),
    ("upstream", "the commits about it"),
    ("y", "copies all of it"),
];

const LOG: &[(&str, &str)] = &[
    (
        "lock",
        "one acquisition: wait before, hold, in which function",
    ),
    ("call", "one call: time, what it returned"),
    ("G", "the end, and stay there"),
];

/// The lines of the help.
pub fn lines(app: &App) -> Vec<Line<'static>> {
    let theme = app.theme;
    let signs = match app.view {
        View::Overview => OVERVIEW,
        View::Locks => LOCKS,
        View::Entries => ENTRIES,
        View::Guests => GUESTS,
        View::Order => ORDER,
        View::Timeline => TIMELINE,
        View::Findings => FINDINGS,
        View::Log => LOG,
    };
    let mut lines = vec![Line::styled(
        format!("{}: what is shown", app.view.title()),
        theme.header(),
    )];
    let pair = |key: &str, what: &str| {
        Line::from(vec![
            Span::styled(format!(" {key:<14}"), theme.key()),
            Span::raw(what.to_owned()),
        ])
    };
    lines.extend(signs.iter().map(|(key, what)| pair(key, what)));
    if app.view != View::Overview {
        lines.push(Line::styled("Filter", theme.header()));
        lines.extend(FILTER.iter().map(|(key, what)| pair(key, what)));
    }
    lines.push(Line::styled("Keys", theme.header()));
    for (action, _, _, what) in TABLE {
        let of_recordings = matches!(
            action,
            Action::StepBack
                | Action::StepForward
                | Action::SeekBack
                | Action::SeekForward
                | Action::NextFinding
        );
        let of_timeline = matches!(action, Action::ZoomIn | Action::ZoomOut);
        if of_recordings && app.replay.is_none() || of_timeline && app.view != View::Timeline {
            continue;
        }
        let keys = app.settings.keymap.names(*action).join(" ");
        if !keys.is_empty() {
            lines.push(pair(&keys, what));
        }
    }
    lines
}

const GUIDE: &[(&str, &str)] = &[
    (
        "1 Overview",
        "The first line is the verdict. Below it stands who waits for whom: read \"held by\" as \"because this one has it\". A chain that comes back (↺) is a deadlock. \"can help\" says what can be done, and what it risks; apscope does nothing itself.",
    ),
    (
        "7 Findings",
        "Everything found, also what is over. Enter shows the evidence and what upstream did, y copies it for a report.",
    ),
    (
        "2 Locks",
        "s sorts. A lock with a * is a flag and a wait queue: it blocks like a lock, and lockdep does not know of it. Enter: histograms, the same over time, and who queues.",
    ),
    (
        "5 Order",
        "Which lock is taken while which is held. A ! is a step of a cycle: even if nothing hangs now, it can. ○ marks what lockdep is blind to.",
    ),
    (
        "6 Timeline",
        "What each task did in the last seconds. ← → move the cursor, z zooms.",
    ),
    (
        "4 Guests",
        "What each guest is at, who blocks it, the queues it was seen to use.",
    ),
    (
        "3 Entries",
        "The driver's functions: how long they take, what they return.",
    ),
    ("8 Log", "Every span, every message."),
    (
        "any list",
        "/ filters, space holds the picture, x writes the view to a file, ? has all keys and signs.",
    ),
    (
        "try",
        "apscope --scenario se-start: a deadlock. --scenario stuck-reset --generation v6.6: hardware that does not answer. --scenario slow-reset: slow, and it goes on.",
    ),
];

/// The guided look, in lines of this width.
pub fn guide(app: &App, width: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    GUIDE
        .iter()
        .flat_map(|(key, text)| {
            let label = format!("{key:<12}");
            super::words::labelled(
                &label,
                text,
                width,
                theme.key(),
                ratatui::style::Style::new(),
            )
        })
        .collect()
}

/// Which form.
pub fn export(app: &App) -> Vec<Line<'static>> {
    [
        ("t", "text: the picture as it stands"),
        ("s", "SVG: the same with its colours"),
        ("j", "JSON: the rows, with every value"),
        ("", "into a file in the current directory"),
    ]
    .into_iter()
    .map(|(key, what)| {
        Line::from(vec![
            Span::styled(format!(" {key:<3}"), app.theme.key()),
            Span::raw(what),
        ])
    })
    .collect()
}
