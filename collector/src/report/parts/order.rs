//! The order of locks.

use maud::{Markup, html};

use super::{Cell, Known, table};
use crate::diagnose::graph::order::incomplete;
use crate::export::json::Order;
use crate::report::draw::order::order;

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let rows: Vec<_> = known.document.order.iter().map(row).collect();
    html! {
        section #order {
            h2 { "Order of locks" }
            @if let Some(picture) = order(known.model) {
                p {
                    "An arrow goes from a lock that is held to one that is taken meanwhile. "
                    span.sample.unseen { "Dashed" } ": lockdep cannot see it. "
                    span.sample.annotated { "Dotted" } ": a flag was tested and found clear. "
                    span.sample.circle { "Red" } ": a step of a circle, in which tasks can wait for each other for ever."
                }
                @if incomplete(known.model) { p { "It is incomplete: there was no room for some of it." } }
                div.wide { (picture) }
                (table(
                    &["held", "taken meanwhile", "count", "held in", "taken in", "lockdep", "first task"],
                    &rows,
                ))
            } @else {
                p { "No lock was taken while another one was held." }
            }
        }
    }
}

fn row(edge: &Order) -> Vec<Cell> {
    let named = |class: &str, mode: &str| match mode {
        "-" => class.to_owned(),
        mode => format!("{class} ({mode})"),
    };
    let lockdep = match (edge.lockdep_visible, edge.annotated) {
        (true, _) => "sees it",
        (false, false) => "cannot see it",
        (false, true) => "cannot see it; annotated",
    };
    vec![
        Cell::code(named(&edge.held, &edge.held_mode)),
        Cell::code(named(&edge.acquired, &edge.acquired_mode)),
        Cell::Count(edge.count),
        Cell::code(&edge.held_in),
        Cell::code(&edge.acquired_in),
        Cell::text(lockdep),
        Cell::text(format!(
            "{} ({})",
            edge.first_task.comm, edge.first_task.tid
        )),
    ]
}
