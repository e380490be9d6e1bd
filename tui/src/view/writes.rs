//! Accesses to sysfs that a file system thread made for another process: who, which attribute, what, and what came of
//! it.

use apscope_collector::model::Write;
use apscope_collector::model::query;
use ratatui::text::{Line, Span};

use super::table::pad;
use crate::format;
use crate::state::App;

/// Width from which on the time that a call took has room.
const WIDE: usize = 90;
/// Width from which on it is said too what the call acted on.
const WIDEST: usize = 110;

/// Control characters would be dropped when drawn; a blank keeps words apart.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn line(app: &App, write: &Write, width: usize) -> Line<'static> {
    let theme = app.theme;
    let start = app.shown().model.meta.as_ref().map_or(0, |m| m.start_ns);
    let refused = write.returns.starts_with('-');
    let who = format!("{} ({})", printable(&write.comm), write.pid);
    let name = query::entry_name(write.entry);
    let (attribute, text) = match (&write.text, name.strip_suffix("_show")) {
        (Some(text), _) => (name.trim_end_matches("_store"), printable(text)),
        (None, Some(attribute)) => (attribute, "(read)".to_owned()),
        (None, None) => (name, String::new()),
    };
    let wide = width >= WIDE;
    let mut spans = vec![
        Span::styled(
            format!("{:>7} ", format::elapsed(write.at_ns.saturating_sub(start))),
            theme.dim(),
        ),
        Span::raw(pad(&who, if wide { 26 } else { 20 }, false)),
        Span::raw(format!(
            " {} {} ",
            pad(attribute, 23, false),
            pad(&text, 8, false)
        )),
    ];
    if wide {
        spans.push(Span::styled(
            format!("{:>7} ", format::duration(write.latency_ns)),
            theme.hold(),
        ));
    }
    if width >= WIDEST {
        let on = query::Names::of(&app.shown().model, write.on);
        let on = printable(on.short());
        spans.push(Span::raw(format!("{} ", pad(&on, 16, false))));
    }
    spans.push(Span::styled(
        write.returns.clone(),
        if refused {
            theme.warning()
        } else {
            theme.good()
        },
    ));
    Line::from(spans)
}

/// The last of them, the oldest first.
pub fn lines(app: &App, width: usize) -> Vec<Line<'static>> {
    let writes = &app.shown().model.writes;
    if writes.is_empty() {
        let text = if query::of_kernel(&app.shown().model) {
            "no attribute has been written so far"
        } else {
            "no process has used the emulated sysfs so far"
        };
        return vec![Line::styled(text, app.theme.dim())];
    }
    writes.iter().map(|write| line(app, write, width)).collect()
}
