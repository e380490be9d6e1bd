//! Mdevs and guests: what they have, and the calls on them.

use maud::{Markup, html};

use super::{Cell, Known, table};
use crate::export::json::{Matrix, Object};

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let rows: Vec<_> = known.document.objects.iter().map(row).collect();
    html! {
        section #objects {
            h2 { "Mdevs and guests" }
            @if rows.is_empty() {
                p { "None was seen." }
            } @else {
                p.facts { "Adapters and domains are hexadecimal, as in sysfs. Calls are those whose span arrived." }
                (table(&["kind", "name", "assigned", "in the guest", "calls", "failed"], &rows))
            }
        }
    }
}

fn row(object: &Object) -> Vec<Cell> {
    let calls = object.calls_of_spans.iter();
    vec![
        Cell::text(&object.kind),
        Cell::code(&object.name),
        Cell::text(object.assigned.as_ref().map_or_else(String::new, matrix)),
        Cell::text(object.in_guest.as_ref().map_or_else(String::new, matrix)),
        Cell::Count(calls.clone().map(|calls| calls.spans).sum()),
        Cell::Count(calls.map(|calls| calls.failed).sum()),
    ]
}

fn matrix(matrix: &Matrix) -> String {
    let list = |numbers: &[u32]| {
        let numbers: Vec<_> = numbers.iter().map(|n| format!("{n:02x}")).collect();
        numbers.join(" ")
    };
    let parts = [
        ("adapters", &matrix.adapters),
        ("domains", &matrix.domains),
        ("control domains", &matrix.control_domains),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(_, numbers)| !numbers.is_empty())
        .map(|(name, numbers)| format!("{name} {}", list(numbers)))
        .collect();
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    parts.join("; ")
}
