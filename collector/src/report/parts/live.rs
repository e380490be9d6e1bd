//! Who waits and who holds at the end.

use maud::{Markup, html};

use super::{Cell, Known, table};

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let live = &known.document.live;
    let waiters: Vec<Vec<Cell>> = live
        .waiters
        .iter()
        .map(|w| {
            vec![
                Cell::code(&w.lock),
                Cell::text(&w.mode),
                Cell::text(format!("{} ({})", w.comm, w.tid)),
                Cell::Time(Some(w.for_ns)),
                Cell::code(&w.entry_point),
                Cell::text(w.owner_tid.map_or_else(String::new, |tid| tid.to_string())),
                Cell::text(&w.evidence),
            ]
        })
        .collect();
    let holders: Vec<Vec<Cell>> = live
        .holders
        .iter()
        .map(|h| {
            vec![
                Cell::code(&h.lock),
                Cell::text(&h.mode),
                Cell::text(format!("{} ({})", h.comm, h.tid)),
                Cell::Time(Some(h.for_ns)),
                Cell::code(&h.entry_point),
                Cell::text(&h.evidence),
            ]
        })
        .collect();
    html! {
        section #live {
            h2 { "Who waits and who holds, at the end" }
            p.facts { "As of " (known.document.interval.end) "; “for” is how long it had lasted then." }
            @if waiters.is_empty() && holders.is_empty() { p { "Nobody." } }
            @if !waiters.is_empty() {
                h3 { "Waits" }
                (table(&["lock", "mode", "task", "for", "in", "held by", "known from"], &waiters))
            }
            @if !holders.is_empty() {
                h3 { "Holds" }
                (table(&["lock", "mode", "task", "for", "taken in", "known from"], &holders))
            }
        }
    }
}
