//! Findings, those that stand first, then the worst.

use maud::{Markup, html};

use super::Known;
use crate::diagnose::Severity;
use crate::diagnose::words::duration;
use crate::export::json::{Finding, Link};
use crate::report::draw::timeline::timeline;
use crate::report::excerpt::Excerpt;

pub(in crate::report) fn section(known: &Known<'_>) -> Markup {
    let shown: Vec<(&Finding, Option<&Excerpt>)> = known
        .report
        .findings
        .iter()
        .zip(&known.document.findings)
        .map(|(finding, shown)| {
            let key = (finding.id, finding.seen.key.clone());
            (shown, known.collected.excerpts.get(&key))
        })
        .collect();
    html! {
        section #findings {
            h2 { "Findings" }
            @if shown.is_empty() { p { "Nothing was found." } }
            @for (finding, excerpt) in shown { (one(known, finding, excerpt)) }
            @if known.report.omitted > 0 {
                p { (known.report.omitted) " more findings had no room." }
            }
        }
    }
}

fn one(known: &Known<'_>, finding: &Finding, excerpt: Option<&Excerpt>) -> Markup {
    let (class, severity) = match finding.severity {
        Severity::Critical => ("finding critical", "critical"),
        Severity::Warning => ("finding warning", "warning"),
        Severity::Info => ("finding info", "info"),
    };
    let start_ns = known.model.meta.as_ref().map_or(0, |meta| meta.start_ns);
    html! {
        article class=(class) {
            h3 {
                span.badge { (finding.id) " " (severity) }
                " " (finding.summary)
            }
            p.facts {
                "began " (duration(finding.began_at_ns.saturating_sub(start_ns))) " after the start, found "
                (duration(finding.found_at_ns.saturating_sub(start_ns))) " after it"
                @if let Some(ended) = finding.ended_at_ns {
                    ", seen last " (duration(ended.saturating_sub(start_ns))) " after it"
                } @else { "; it stands" }
            }
            @if !finding.meaning.is_empty() { p { (finding.meaning) } }
            @if !finding.chain.is_empty() {
                h4 { "Who waits for whom" }
                ol.chain { @for link in &finding.chain { (step(link)) } }
            }
            (list("What it is known from", &finding.details))
            (list("What follows from it", &finding.consequences))
            @if let Some(excerpt) = excerpt {
                @if let Some(picture) = timeline(excerpt) {
                    h4 { "Before it was found" }
                    p.key {
                        span.swatch.call {} " in a function " span.swatch.wait {} " waits " span.swatch.hold {} " holds"
                    }
                    div.wide { (picture) }
                }
            }
            (list("What can help, and what it risks", &finding.help))
            @if !finding.upstream.is_empty() {
                h4 { "What upstream did" }
                ul {
                    @for history in &finding.upstream {
                        li {
                            @if !history.commit.is_empty() { code { (history.commit) } " " }
                            "(" (history.release) ") " (history.title) ": " (history.effect)
                        }
                    }
                }
            }
        }
    }
}

fn list(title: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            h4 { (title) }
            ul { @for line in lines { li { (line) } } }
        }
    }
}

fn step(link: &Link) -> Markup {
    html! {
        li style=(format!("--depth:{}", link.depth.min(12))) {
            b { (link.comm) " (" (link.tid) ")" }
            @if !link.role.is_empty() { ", " (link.role) }
            @if let Some(keeps) = &link.keeps {
                span.keeps {
                    " " (keeps.by) " it"
                    @if keeps.for_ns > 0 { " for " (duration(keeps.for_ns)) }
                    ", from " code { (keeps.entry_point) } " [" (keeps.evidence) "]"
                }
            }
            @if let Some(waits) = &link.waits {
                br;
                "waits"
                @if waits.for_ns > 0 { " " (duration(waits.for_ns)) }
                " for " code { (waits.lock) } " in " code { (waits.entry_point) } " [" (waits.evidence) "]"
            }
            @if let Some(root) = &link.root {
                br;
                em { (root.text) }
            }
        }
    }
}
