//! What was measured, how, and what that cost and missed.

use maud::{Markup, html};

use super::{Cell, Known, grouped, table};
use crate::diagnose::words::duration;

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let source = &known.document.source;
    let attach: Vec<_> = known
        .document
        .attach
        .iter()
        .map(|point| {
            vec![
                Cell::code(&point.symbol),
                Cell::text(&point.mechanism),
                Cell::text(&point.reason),
            ]
        })
        .collect();
    let programs: Vec<_> = known
        .document
        .overhead
        .programs
        .iter()
        // Where the kernel does not count them, there is nothing to say.
        .filter_map(|program| Some((program, program.runs.filter(|runs| *runs > 0)?)))
        .map(|(program, runs)| {
            vec![
                Cell::code(&program.name),
                Cell::Count(runs),
                Cell::Time(program.run_time_ns),
            ]
        })
        .collect();
    html! {
        section #environment {
            h2 { "Environment" }
            dl {
                @for (name, value) in facts(known) {
                    @if !value.is_empty() { dt { (name) } dd { (value) } }
                }
            }
            (list("What the generation is known from", &source.evidence))
            (list("What is not measured", &source.losses))
            (list("What no probe sees", &source.blind_spots))
            @if !programs.is_empty() {
                h3 { "Programs" }
                (table(&["program", "runs", "time"], &programs))
            }
            @if !attach.is_empty() {
                h3 { "Probed functions" }
                (table(&["function", "mechanism", "why"], &attach))
            }
        }
    }
}

fn facts(known: &Known<'_>) -> Vec<(&'static str, String)> {
    let document = known.document;
    let source = &document.source;
    let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    vec![
        ("source", source.kind.clone()),
        ("why", source.reason.clone()),
        ("probes", source.probe.clone()),
        ("generation", source.generation.clone()),
        ("level", source.level.to_string()),
        ("scenario", source.scenario.clone()),
        ("seed", number(source.seed)),
        ("guests", number(source.guests.map(u64::from))),
        ("vCPUs of each", number(source.vcpus.map(u64::from))),
        (
            "kernel",
            format!("{} {}", source.kernel_release, source.arch)
                .trim()
                .to_owned(),
        ),
        ("times", source.timing.clone()),
        ("start", document.interval.start.clone()),
        ("end", document.interval.end.clone()),
        ("ended", source.ended.clone().unwrap_or_default()),
        (
            "records",
            format!(
                "{} emitted, {} received, {} dropped",
                grouped(document.events.emitted),
                grouped(document.events.received),
                grouped(document.events.dropped)
            ),
        ),
        ("calls of probes missed", grouped(document.missed)),
        (
            "CPU time of the collector",
            duration(document.overhead.collector_cpu_ns).replace("us", "µs"),
        ),
        ("measured by", format!("apscope {}", source.version)),
    ]
}

fn list(title: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            h3 { (title) }
            ul { @for line in lines { li { (line) } } }
        }
    }
}
