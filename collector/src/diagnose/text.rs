//! A diagnosis as text that can be pasted into a report: ASCII, 79 columns, the cause in the first lines.

use std::collections::BTreeSet;

use super::chain::{Chain, Root};
use super::finding::{Finding, Id};
use super::upstream;
use super::words::duration;
use super::{Report, Severity};
use crate::export::json::rfc3339;
use crate::frame::LogLine;
use crate::model::Model;
use crate::model::query::{self, LockRow};
use crate::page::Page;

/// Notes on what is assumed of stacks shown.
const ASSUMED: usize = 12;
/// Lines of a chain shown.
const CHAIN_LINES: usize = 24;

/// All of a diagnosis: verdict, what was measured, findings, and the histograms of the locks they are about.
pub fn render(report: &Report, model: &Model) -> String {
    let mut page = Page::default();
    page.wrapped(0, &format!("verdict: {}", report.verdict));
    environment(&mut page, model);
    summary(&mut page, report);
    for finding in &report.findings {
        page.line("");
        add(&mut page, finding, explained(report, finding), model);
    }
    others(&mut page, report);
    histograms(&mut page, report, model);
    assumptions(&mut page, model);
    page.text()
}

/// Of saved stacks, who waits in or behind the driver, and is in no finding.
fn others(page: &mut Page, report: &Report) {
    if report.others.is_empty() {
        return;
    }
    page.line("");
    page.line("in or behind the driver too:");
    let lines = report.others.iter().flat_map(Chain::lines);
    for line in lines.take(CHAIN_LINES) {
        let text = line.trim_start();
        page.wrapped(2 + line.len() - text.len(), text);
    }
}

/// What had to be assumed to read saved stacks.
fn assumptions(page: &mut Page, model: &Model) {
    let stacks = model
        .meta
        .as_ref()
        .is_some_and(|meta| meta.source == "stacks");
    let mut assumed = model
        .log
        .iter()
        .filter(|line| line.level != LogLine::DRIVER)
        .peekable();
    if !stacks || assumed.peek().is_none() {
        return;
    }
    page.line("");
    for line in assumed.take(ASSUMED) {
        page.wrapped(0, &format!("assumed: {}", line.text));
    }
}

/// The verdict, and a line for each finding that stands: what a summary of something else begins with.
pub fn head(report: &Report) -> Vec<String> {
    let mut lines = vec![format!("verdict: {}", report.verdict)];
    lines.extend(
        report
            .findings
            .iter()
            .filter(|finding| finding.active())
            .map(line),
    );
    lines
}

/// A finding in one line.
pub fn line(finding: &Finding) -> String {
    format!(
        "{} {}: {}",
        finding.id,
        finding.seen.severity.name(),
        finding.seen.summary
    )
}

fn environment(page: &mut Page, model: &Model) {
    let Some(meta) = &model.meta else { return };
    let emulated = if query::emulated(model) {
        "EMULATED "
    } else {
        ""
    };
    let generation = match query::candidates(meta) {
        known if known.is_empty() && query::is_kernel(meta) => {
            "none; locks that were named".to_owned()
        }
        known if known.is_empty() => "of a generation that is not known".to_owned(),
        known => known,
    };
    let mut what = format!("{emulated}driver {generation}");
    if query::emulated(model) {
        what = format!(
            "{what}, scenario {}, seed {}, {} guests x {} vCPUs",
            meta.scenario, meta.seed, meta.guests, meta.vcpus
        );
    }
    if query::is_kernel(meta) {
        what = format!("{what}, level {}", meta.level);
    }
    let machine: Vec<&str> = [meta.kernel_release.as_str(), meta.arch.as_str()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    if !machine.is_empty() {
        what = format!("{what}, on Linux {}", machine.join(" "));
    }
    if !meta.timing.is_empty() {
        what = format!("{what}, TIMING NOT HARDWARE: {}", meta.timing);
    }
    page.wrapped(
        0,
        &match meta.source.as_str() {
            "stacks" => format!("measured: {what}, from saved stacks"),
            source => format!("measured: {what}, from {source} ({})", meta.probe),
        },
    );
    if meta.start_unix_ns != 0 {
        page.wrapped(
            0,
            &format!(
                "time: {} for {}; {}",
                rfc3339(meta.start_unix_ns),
                duration(query::elapsed_ns(model)),
                if query::is_kernel(meta) && meta.level == 0 {
                    "nothing is counted"
                } else if model.loss.exact() {
                    "counts are exact"
                } else {
                    "counts are \"at least\""
                }
            ),
        );
    }
    if let Some(from) = &model.detail_from {
        let missing = match model.loss.missing_frames {
            0 => String::new(),
            n => format!("; {n} frames are missing, and in no count"),
        };
        page.wrapped(
            0,
            &format!(
                "detail: spans, stacks and messages are whole from {} on{missing}",
                rfc3339(from.at_unix_ns)
            ),
        );
    }
    for loss in meta.losses.iter().take(4) {
        page.wrapped(0, &format!("not measured: {loss}"));
    }
}

fn summary(page: &mut Page, report: &Report) {
    let of = |severity: Severity, active: bool| {
        report
            .findings
            .iter()
            .filter(|f| f.seen.severity == severity && f.active() == active)
            .count()
    };
    let mut parts = Vec::new();
    for severity in [Severity::Critical, Severity::Warning, Severity::Info] {
        let n = of(severity, true);
        if n > 0 {
            parts.push(format!("{n} {}", severity.name()));
        }
    }
    let past = report.findings.iter().filter(|f| !f.active()).count();
    if past > 0 {
        parts.push(format!("{past} over"));
    }
    if report.omitted > 0 {
        parts.push(format!("{} without room", report.omitted));
    }
    let text = if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    };
    page.wrapped(0, &format!("findings: {text}"));
}

/// The finding that shows the root of this one's chain already.
fn explained(report: &Report, finding: &Finding) -> Option<Id> {
    let root = finding.seen.chain.as_ref()?.root()?.1.clone();
    let by = match root {
        Root::Cycle(_) => Id(1),
        Root::PollingHardware { .. } => Id(7),
        // The worker that polls is not among the stacks.
        Root::Unknown { .. } if last_wait(finding.seen.chain.as_ref()?) == Some("reset_work") => {
            Id(7)
        }
        _ => return None,
    };
    let shown = |f: &Finding| f.id == by && f.active() == finding.active();
    (finding.id > by && report.findings.iter().any(shown)).then_some(by)
}

/// Class of the lock at the end of the first branch of a chain.
fn last_wait(chain: &Chain) -> Option<&str> {
    let mut at = chain;
    while let Some(below) = at.below.first() {
        at = below;
    }
    at.waits.as_ref()?.lock.split('[').next()
}

/// One finding in full.
pub fn one(finding: &Finding, model: &Model) -> String {
    let mut page = Page::default();
    add(&mut page, finding, None, model);
    page.text()
}

fn add(page: &mut Page, finding: &Finding, explained: Option<Id>, model: &Model) {
    let seen = &finding.seen;
    page.wrapped(0, &line(finding));
    let at = model.last.at_ns;
    match finding.until_ns {
        None if at == finding.since_ns => {}
        None => page.wrapped(
            2,
            &format!(
                "since: {} before the end",
                duration(at.saturating_sub(finding.since_ns))
            ),
        ),
        Some(until) => page.wrapped(
            2,
            &format!(
                "over: it stood for {}, until {} before the end",
                duration(until.saturating_sub(finding.since_ns)),
                duration(at.saturating_sub(until))
            ),
        ),
    }
    let told = finding
        .until_ns
        .unwrap_or(at)
        .saturating_sub(finding.told_ns);
    if let Some(id) = explained {
        page.wrapped(
            2,
            &format!("who waits for whom: it leads to what {id} shows"),
        );
    } else if let Some(chain) = &seen.chain {
        page.line("  who waits for whom:");
        let lines = if seen.lasting {
            chain.lines()
        } else {
            chain.later(told).lines()
        };
        for line in lines.iter().take(CHAIN_LINES) {
            let text = line.trim_start();
            page.wrapped(4 + line.len() - text.len(), text);
        }
        if lines.len() > CHAIN_LINES {
            page.line(&format!("    ... {} more lines", lines.len() - CHAIN_LINES));
        }
    }
    // What the chain says has been brought up to date; the texts below have not. A fact about the past does not age, unless
    // it says how long ago something was.
    let ages = !seen.lasting || seen.details.iter().any(|detail| detail.ends_with(" ago"));
    if finding.active() && ages && told > 0 && !seen.details.is_empty() {
        page.wrapped(2, &format!("as of: {} before the end", duration(told)));
    }
    for detail in &seen.details {
        let text = detail.trim_start();
        page.wrapped(2 + detail.len() - text.len(), text);
    }
    if !seen.meaning.is_empty() {
        page.wrapped(2, &format!("means: {}", seen.meaning));
    }
    for consequence in &finding.consequences {
        page.wrapped(2, &format!("because of it: {consequence}"));
    }
    for help in &seen.help {
        page.wrapped(2, &format!("can help: {help}"));
    }
    for history in &finding.upstream {
        page.wrapped(2, &format!("upstream: {}", history.text()));
    }
    if finding.upstream.is_empty() {
        let generation = model
            .meta
            .as_ref()
            .map_or("", |meta| meta.generation.as_str());
        let these: Vec<&str> = generation.split('|').filter(|g| !g.is_empty()).collect();
        if let Some(text) = upstream::unknown(finding.id.0, &these) {
            page.wrapped(2, &format!("upstream: {text}"));
        }
    }
    page.wrapped(2, &format!("more: apscope explain {}", finding.id));
}

/// Waits and holds of the classes that findings are about.
fn histograms(page: &mut Page, report: &Report, model: &Model) {
    let names: BTreeSet<&str> = report
        .findings
        .iter()
        .flat_map(|finding| &finding.seen.locks)
        .map(|lock| lock.split('[').next().unwrap_or(lock))
        .collect();
    let rows: Vec<LockRow> = query::lock_rows(model)
        .into_iter()
        .filter(|row| names.contains(row.class) && row.acquisitions > 0)
        .collect();
    if rows.is_empty() {
        return;
    }
    page.line("");
    page.line("locks of these findings: wait and hold, p50 / p99 / max");
    for row in rows {
        let three = |h: &crate::model::histogram::Histogram| {
            let at = |q| h.quantile(q).map_or_else(|| "-".to_owned(), duration);
            format!(
                "{} / {} / {}",
                at(0.5),
                at(0.99),
                h.max().map_or_else(|| "-".to_owned(), duration)
            )
        };
        let Some(series) = model.series.get(&row.series) else {
            continue;
        };
        page.wrapped(
            2,
            &format!(
                "{}: {} acquisitions, {} contended; wait {}; hold {}",
                query::series_name(row.series),
                row.acquisitions,
                row.contended,
                three(&series.wait),
                three(&series.hold)
            ),
        );
    }
}
