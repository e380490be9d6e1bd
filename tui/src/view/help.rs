//! The help of the current view: keys, columns, filter.

use ratatui::text::{Line, Span};

use crate::state::{App, View};

const MOVING: &[(&str, &str)] = &[
    ("q, ctrl-c", "quit"),
    ("↑ ↓ j k", "move; in a detail or the log: scroll"),
    ("g G", "first, last"),
    ("ctrl-d ctrl-u", "half a page down, up"),
    ("Enter, Esc", "open the detail, go back"),
    ("Tab 1 2", "locks, entry points"),
    ("space", "pause: the picture stands, data are still folded"),
    ("+ -", "longer, shorter time between frames"),
    ("l, w", "messages; accesses to sysfs: who, what, result"),
];

const TABLE: &[(&str, &str)] = &[
    ("s, r", "sort by the next column, reverse"),
    ("/", "filter: a word, class: kind: name: holder:"),
    ("", "wait>1ms hold.max>=20ms wait.p50<5us"),
    ("", "!term turns a term round"),
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
    ("queue", "tasks waiting now"),
    ("holder", "who has held it longest, +n others"),
];

const ENTRIES: &[(&str, &str)] = &[
    ("calls/s", "calls started a second"),
    ("inside", "calls that have not returned"),
    ("took", "call to return"),
    ("returns", "by errno or notifier code"),
    ("latency>20ms", "as a filter: the 99th percentile"),
];

/// The lines of the help.
pub fn lines(app: &App) -> Vec<Line<'static>> {
    let theme = app.theme;
    let columns = match app.view {
        View::Locks => LOCKS,
        View::Entries => ENTRIES,
    };
    [("Keys", MOVING), ("Table", TABLE), ("Columns", columns)]
        .into_iter()
        .flat_map(|(title, pairs)| {
            std::iter::once(Line::styled(title, theme.header())).chain(pairs.iter().map(
                move |(key, what)| {
                    Line::from(vec![
                        Span::styled(format!(" {key:<14}"), theme.key()),
                        Span::raw(*what),
                    ])
                },
            ))
        })
        .collect()
}
