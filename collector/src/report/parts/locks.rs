//! Locks: a table of all, and each that was used in pictures.

use maud::{Markup, html};

use super::{Cell, Known, figure, grouped, legend, table};
use crate::export::json::Lock;
use crate::model::histogram::Histogram;
use crate::model::{Series, query};
use crate::report::draw::{distribution::distribution, heat::heat};
use crate::report::heat::Of;

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let locks = &known.document.locks;
    let used: Vec<(u8, &Series)> = query::listed_series(known.model)
        .into_iter()
        .filter_map(|id| Some((id, known.model.series.get(&id)?)))
        .filter(|(_, series)| series.acquisitions > 0 || series.wait.count > 0)
        .collect();
    let unused = locks.len() - used.len().min(locks.len());
    let rows: Vec<_> = locks.iter().filter(|lock| is_used(lock)).map(row).collect();
    html! {
        section #locks {
            h2 { "Locks" }
            @if query::contended_only(known.model) {
                p { "At this level, only acquisitions that had to wait are seen, and holds are not measured." }
            }
            (table(
                &["lock", "mode", "kind", "acquired", "contended", "share", "wait p50", "wait p99", "wait max", "hold p50",
                    "hold p99", "hold max"],
                &rows,
            ))
            @if unused > 0 { p.facts { "Not used: " (unused) " more." } }
            @if !used.is_empty() { (legend()) }
            @for (id, series) in used { (pictures(known, id, series)) }
        }
    }
}

fn is_used(lock: &Lock) -> bool {
    lock.acquisitions > 0 || lock.wait.count > 0
}

fn row(lock: &Lock) -> Vec<Cell> {
    let kind = if lock.open_coded {
        format!("{}, open-coded", lock.kind)
    } else {
        lock.kind.clone()
    };
    vec![
        Cell::code(&lock.class),
        Cell::text(&lock.mode),
        Cell::text(kind),
        Cell::Count(lock.acquisitions),
        Cell::Count(lock.contended),
        Cell::Share(lock.contended, lock.acquisitions),
        Cell::Time(lock.wait.p50_ns),
        Cell::Time(lock.wait.p99_ns),
        Cell::Time(lock.wait.max_ns),
        Cell::Time(lock.hold.p50_ns),
        Cell::Time(lock.hold.p99_ns),
        Cell::Time(lock.hold.max_ns),
    ]
}

fn pictures(known: &Known<'_>, id: u8, series: &Series) -> Markup {
    let waits = series.wait.count - series.wait.counts.first().copied().unwrap_or(0);
    let what = |histogram: &Histogram, of, class| {
        let map = known.collected.heat.of(of);
        let elapsed = query::elapsed_ns(known.model);
        let column_ns = known.collected.heat.column_ns();
        (
            distribution(histogram, class),
            map.and_then(|map| heat(map, column_ns, elapsed, class)),
        )
    };
    let (wait, wait_heat) = what(&series.wait, Of::Wait(u32::from(id)), "wait");
    let (hold, hold_heat) = what(&series.hold, Of::Hold(u32::from(id)), "hold");
    let lasts = query::long_hold_is_normal(id);
    html! {
        section.one {
            h3 { code { (query::series_name(id)) } }
            @if query::open_coded(id) {
                p { "An open-coded lock: a flag and a wait queue, which lockdep cannot see." }
            }
            @if lasts { p { "A hold that lasts is normal for this lock; waiting for it is not." } }
            div.figures {
                (figure(wait, &html! {
                    b { "Waits" } " " (grouped(waits)) " of " (grouped(series.wait.count))
                    @if waits < series.wait.count { "; the others did not wait" }
                }))
                (figure(hold, &html! { b { "Holds" } " " (grouped(series.hold.count)) }))
                (figure(wait_heat, &html! { b { "Waits over time" } }))
                (figure(hold_heat, &html! { b { "Holds over time" } }))
            }
        }
    }
}
