//! Entry points: a table of all, and the latencies of those that were called.

use maud::{Markup, html};

use super::{Cell, Known, figure, grouped, legend, table};
use crate::export::json::EntryPoint;
use crate::model::query;
use crate::report::draw::{distribution::distribution, heat::heat};
use crate::report::heat::Of;

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let entries = &known.document.entry_points;
    let rows: Vec<_> = entries.iter().filter(|e| e.calls > 0).map(row).collect();
    let called: Vec<_> = query::listed_entries(known.model)
        .into_iter()
        .filter_map(|id| Some((id, known.model.entries.get(&id)?)))
        .filter(|(_, entry)| entry.latency.count > 0)
        .collect();
    let elapsed = query::elapsed_ns(known.model);
    let column_ns = known.collected.heat.column_ns();
    html! {
        section #entries {
            h2 { "Entry points" }
            (table(&["function", "calls", "in flight", "p50", "p99", "max", "returned"], &rows))
            @if rows.len() < entries.len() {
                p.facts { "Not called: " (entries.len() - rows.len()) " more." }
            }
            @if !called.is_empty() { (legend()) }
            div.figures {
                @for (id, entry) in called {
                    (figure(distribution(&entry.latency, "call"), &html! {
                        code { (query::entry_name(id)) } " " (grouped(entry.latency.count)) " calls"
                    }))
                    (figure(
                        known.collected.heat.of(Of::Latency(u32::from(id)))
                            .and_then(|map| heat(map, column_ns, elapsed, "call")),
                        &html! { code { (query::entry_name(id)) } " over time" },
                    ))
                }
            }
        }
    }
}

fn row(entry: &EntryPoint) -> Vec<Cell> {
    let mut returns: Vec<_> = entry.returns.iter().collect();
    returns.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let returned: Vec<_> = returns
        .into_iter()
        .map(|(returned, count)| format!("{returned} {}", grouped(*count)))
        .collect();
    vec![
        Cell::code(&entry.name),
        Cell::Count(entry.calls),
        Cell::Count(entry.in_flight),
        Cell::Time(entry.latency.p50_ns),
        Cell::Time(entry.latency.p99_ns),
        Cell::Time(entry.latency.max_ns),
        Cell::text(returned.join(", ")),
    ]
}
