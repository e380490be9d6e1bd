//! The page: what stands where.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::parts::{self, Known};
use crate::diagnose::words::duration;
use crate::export::{EMULATED, driver};
use crate::model::query;

const STYLE: &str = include_str!("style.css");
const SORT: &str = include_str!("sort.js");
/// The page loads nothing, from nowhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// All of it.
pub(super) fn page(known: &Known<'_>) -> Markup {
    let source = &known.document.source;
    let title = format!("apscope: {}", known.document.verdict);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.name {
                        b { "apscope" }
                        " " (driver(known.model)) " " (source.generation)
                        @if !source.scenario.is_empty() { ", scenario " (source.scenario) }
                    }
                    @if driver(known.model) == EMULATED {
                        p.emulated { b { "EMULATED" } " This is the emulated driver, not a real machine." }
                    }
                    (verdict(known))
                    (as_of(known))
                    p.facts {
                        "Measured from " (known.document.interval.start) " for " (duration(known.document.interval.duration_ns)) "; "
                        @if query::counts_nothing(known.model) { "nothing is counted" }
                        @else if known.document.exact { "counts are exact" }
                        @else { "counts are “at least”" }
                        @if known.document.events.dropped > 0 {
                            "; " (known.document.events.dropped) " of " (known.document.events.emitted)
                            " records of detail were lost, no statistic is made of them"
                        }
                        @if let Some(missing) = known.document.interval.missing_frames {
                            "; " (missing) " frames are missing, and in no count"
                        }
                        @if let Some(start) = &known.document.interval.detail_start {
                            "; pictures over time and excerpts are whole from " (start) " on"
                        }
                    }
                    @if !source.timing.is_empty() { p.emulated { "Times: " (source.timing) } }
                    nav {
                        a href="#findings" { "Findings" }
                        a href="#live" { "Who waits" }
                        a href="#locks" { "Locks" }
                        a href="#entries" { "Entry points" }
                        a href="#order" { "Order" }
                        a href="#objects" { "Mdevs and guests" }
                        a href="#environment" { "Environment" }
                    }
                }
                main {
                    (parts::findings::section(known))
                    (parts::live::section(known))
                    (parts::locks::section(known))
                    (parts::entries::section(known))
                    (parts::order::section(known))
                    (parts::objects::section(known))
                    (parts::environment::section(known))
                }
                footer {
                    p { "Written by apscope " (env!("CARGO_PKG_VERSION")) ". This page loads nothing and sends nothing." }
                }
                script { (PreEscaped(SORT)) }
            }
        }
    }
}

/// The moment that the page speaks of. A text with stacks has no time of day.
fn as_of(known: &Known<'_>) -> Markup {
    let interval = &known.document.interval;
    html! {
        @if known.model.last.at_unix_ns > 0 {
            p.asof { "As of " time datetime=(interval.end) { (interval.end) } ", the last frame" }
        }
    }
}

fn verdict(known: &Known<'_>) -> Markup {
    use crate::diagnose::verdict::Kind;
    let class = match known.report.verdict.kind {
        Kind::Deadlock => "verdict critical",
        Kind::Hardware | Kind::Slow => "verdict warning",
        Kind::NotHere => "verdict fine",
        Kind::CannotTell => "verdict",
    };
    let kind = known.report.verdict.kind.name();
    let rest = known.document.verdict.strip_prefix(kind).unwrap_or("");
    html! {
        h1 class=(class) { b { (kind) } (rest) }
    }
}
