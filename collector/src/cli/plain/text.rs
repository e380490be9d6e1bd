//! The text of the summary. A pure function of a model.

use std::fmt::Write;

use crate::diagnose::{self, Report};
use crate::export::json::{Origin, rfc3339};
use crate::frame::Meta;
use crate::model::Model;
use crate::model::query::{self, EntryRow, LockRow};
use crate::page::Page;

/// Holders, waiters and messages shown, each.
const MOST: usize = 10;
/// Frames of a stack shown.
const FRAMES: usize = 12;

/// The summary of a model: ASCII, at most 79 columns, with a final line feed.
pub fn render(model: &Model, report: &Report, origin: Origin) -> String {
    let mut page = Page::default();
    for line in diagnose::text::head(report) {
        page.wrapped(0, &line);
    }
    header(&mut page, model, origin);
    locks(&mut page, model);
    entries(&mut page, model);
    live(&mut page, model);
    stacks(&mut page, model);
    log(&mut page, model);
    page.text()
}

fn header(page: &mut Page, model: &Model, origin: Origin) {
    let Some(meta) = &model.meta else {
        page.line("apscope: no frame has arrived");
        return;
    };
    let mut title = "apscope: ".to_owned();
    if query::emulated(model) {
        let _ = write!(
            title,
            "EMULATED driver {}, scenario {}, seed {}, {} guests x {} vCPUs",
            meta.generation, meta.scenario, meta.seed, meta.guests, meta.vcpus
        );
    } else if query::is_kernel(meta) {
        title.push_str(&kernel(meta));
    } else {
        let _ = write!(title, "{} driver {}", meta.source, meta.generation);
    }
    if origin == Origin::Recording {
        title.push_str(" (recording)");
    }
    page.wrapped(0, &title);
    if query::is_kernel(meta) {
        let shows = query::level_shows(meta.level);
        page.wrapped(0, &format!("level: {} - {shows}", meta.level));
    }
    page.wrapped(0, &format!("probe: {} - {}", meta.probe, meta.reason));
    page.wrapped(
        0,
        &format!(
            "time: {} for {}",
            rfc3339(meta.start_unix_ns),
            duration(query::elapsed_ns(model))
        ),
    );
    page.wrapped(0, &format!("statistics: {}", exactness(model)));
    page.wrapped(
        0,
        &format!(
            "spans: {} emitted, {} received, {} dropped",
            model.loss.emitted(),
            model.loss.received,
            model.loss.dropped()
        ),
    );
    if query::is_kernel(meta) {
        page.wrapped(0, &not_seen(meta));
    }
    if let Some(end) = &model.end {
        let detail = if end.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", end.detail)
        };
        page.wrapped(0, &format!("ended: {}{detail}", end.how));
    }
}

/// `KERNEL 6.18.0 s390x, vfio_ap v6.6 or v7.3, 3 guests`.
fn kernel(meta: &Meta) -> String {
    let mut text = format!("KERNEL {} {}", meta.kernel_release, meta.arch);
    let candidates = query::candidates(meta);
    if candidates.is_empty() {
        text.push_str(", without the driver vfio_ap");
    } else {
        let _ = write!(text, ", vfio_ap {candidates}");
    }
    if !meta.timing.is_empty() {
        let _ = write!(text, ", TIMING NOT HARDWARE: {}", meta.timing);
    }
    if meta.guests > 0 {
        let _ = write!(text, ", {}", count(meta.guests as usize, "guest"));
    }
    text
}

/// How much is not measured, and who lists it.
fn not_seen(meta: &Meta) -> String {
    let hint = if meta.losses.is_empty() && meta.blind_spots.is_empty() {
        ""
    } else {
        "; `apscope doctor` lists them"
    };
    format!(
        "not measured: {}, {}{hint}",
        count(meta.losses.len(), "loss"),
        count(meta.blind_spots.len(), "blind spot"),
    )
}

/// `1 loss`, `2 losses`.
fn count(n: usize, what: &str) -> String {
    let plural = match (n, what.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{n} {what}{plural}")
}

/// Whether the counts are exact; if not, why they are "at least".
fn exactness(model: &Model) -> String {
    if query::counts_nothing(model) {
        return "nothing is counted".into();
    }
    let loss = &model.loss;
    let reasons: Vec<String> = [
        (loss.missed, "invocations skipped by the kernel"),
        (loss.no_task_slot, "invocations without a task slot"),
        (loss.overflowed, "records that did not fit"),
        (loss.unreadable, "objects that could not be read"),
        (model.ignored, "parts of frames that make no sense"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    let mut text = if reasons.is_empty() {
        "exact".to_owned()
    } else {
        format!("at least ({})", reasons.join(", "))
    };
    if loss.no_edge_slot > 0 {
        let _ = write!(text, "; {} lock-order edges lost", loss.no_edge_slot);
    }
    text
}

fn locks(page: &mut Page, model: &Model) {
    let rows = query::lock_rows(model);
    page.line("");
    page.line(&format!(
        "{:<24}{:>8}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "LOCK", "acq/s", "cont%", "wait99", "waitmax", "hold50", "hold99", "holdmax"
    ));
    for row in &rows {
        page.line(&lock_line(row));
    }
    if query::contended_only(model) {
        page.line("acquisitions are contended ones only; --level 2 sees every one");
    }
    if rows.iter().any(|row| row.open_coded) {
        page.line("* open-coded: a flag and a wait queue, which lockdep cannot see");
    }
}

fn lock_line(row: &LockRow) -> String {
    let name = match row.mode {
        "read" => format!("{} R", row.class),
        "write" => format!("{} W", row.class),
        _ if row.open_coded => format!("{} *", row.class),
        _ => row.class.to_owned(),
    };
    format!(
        "{:<24}{:>8}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}",
        cut(&name, 23),
        rate(row.per_second, row.acquisitions),
        // Tasks that only test an open-coded lock wait for it too, and are no share of those that take it.
        row.contended_percent
            .filter(|percent| *percent <= 100.0)
            .map_or_else(|| "-".into(), |percent| format!("{percent:.1}")),
        optional(row.wait.p99_ns),
        optional(row.wait.max_ns),
        optional(row.hold.p50_ns),
        optional(row.hold.p99_ns),
        optional(row.hold.max_ns),
    )
}

fn entries(page: &mut Page, model: &Model) {
    page.line("");
    page.line(&format!(
        "{:<32}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "ENTRY POINT", "calls", "calls/s", "lat50", "lat99", "inside"
    ));
    for row in query::entry_rows(model) {
        entry(page, &row);
    }
}

fn entry(page: &mut Page, row: &EntryRow) {
    page.line(&format!(
        "{:<32}{:>9}{:>9}{:>9}{:>9}{:>9}",
        cut(row.name, 31),
        row.calls,
        rate(row.per_second, row.calls),
        optional(row.latency.p50_ns),
        optional(row.latency.p99_ns),
        row.in_flight,
    ));
    if row.returns.iter().any(|(name, _)| name != "ok") {
        let returns: Vec<String> = row
            .returns
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        page.wrapped(2, &returns.join(", "));
    }
    if !row.pqap.is_empty() {
        let pqap: Vec<String> = row
            .pqap
            .iter()
            .map(|(function, response, count)| format!("{function}/{response:02x} {count}"))
            .collect();
        page.wrapped(2, &format!("PQAP: {}", pqap.join(", ")));
    }
}

fn live(page: &mut Page, model: &Model) {
    let mut holders = query::holders(model);
    holders.retain(|h| !query::long_hold_is_normal(h.series));
    page.line("");
    page.line(&format!("HOLDERS {}", holders.len()));
    for h in holders.iter().take(MOST) {
        let mut line = person(&h.lock, &h.who(), h.for_ns, h.entry);
        if h.second_holder {
            line.push_str(", second holder");
        }
        if h.adopted {
            line.push_str(", adopted");
        }
        line.push_str(&evidence(&h.evidence));
        page.wrapped(2, &line);
    }
    more(page, holders.len());
    let waiters = query::waiters(model);
    page.line("");
    page.line(&format!("WAITERS {}", waiters.len()));
    for w in waiters.iter().take(MOST) {
        let mut line = person(&w.lock, &w.who(), w.for_ns, w.entry);
        if let Some(owner) = w.owner_tid {
            let _ = write!(line, ", held by {owner}");
        }
        line.push_str(&evidence(&w.evidence));
        page.wrapped(2, &line);
    }
    more(page, waiters.len());
}

fn person(lock: &str, who: &str, for_ns: u64, entry: u8) -> String {
    let place = match query::entry_name(entry) {
        "-" => String::new(),
        name => format!(" in {name}"),
    };
    // Nobody knows since when, or it is shorter than can be told.
    let time = match for_ns {
        0 => String::new(),
        ns => format!(" for {}", duration(ns)),
    };
    format!("{lock}: {who}{time}{place}")
}

/// How it is known, where that is not a probe alone.
fn evidence(evidence: &str) -> String {
    match evidence {
        "" | "probe" => String::new(),
        other => format!(", by {}", other.replace(',', " and ")),
    }
}

/// The latest stack of each lock, where stacks were taken.
fn stacks(page: &mut Page, model: &Model) {
    if model.stacks.is_empty() {
        return;
    }
    page.line("");
    page.line(&format!(
        "STACKS {}, the latest of each lock",
        model.stacks.len()
    ));
    for series in query::listed_series(model) {
        let Some(stack) = query::latest_stack(model, series) else {
            continue;
        };
        let lock = query::lock_name(model, series, stack.instance.wrapping_sub(1));
        let what = match (stack.hold, stack.ended) {
            (true, _) => "held",
            (false, true) => "waited",
            (false, false) => "waits",
        };
        let who = format!("{} ({})", stack.comm, stack.tid);
        let entry = u8::try_from(stack.entry).unwrap_or(0);
        let title = person(lock, &format!("{who} {what}"), stack.duration_ns, entry);
        page.wrapped(2, &title);
        for frame in stack.frames.iter().take(FRAMES) {
            page.line(&format!("    {frame}"));
        }
        if stack.frames.len() > FRAMES {
            page.line(&format!("    and {} more", stack.frames.len() - FRAMES));
        }
    }
}

fn more(page: &mut Page, count: usize) {
    if count > MOST {
        page.line(&format!("  and {} more", count - MOST));
    }
}

/// The newest errors and warnings. Why there is no eBPF stands in the header already.
fn log(page: &mut Page, model: &Model) {
    let reason = model.meta.as_ref().map_or("", |meta| &meta.reason);
    let bad: Vec<_> = model
        .log
        .iter()
        .filter(|line| matches!(line.level.as_str(), "error" | "warn"))
        .filter(|line| !reason.contains(&line.text))
        .collect();
    if bad.is_empty() {
        return;
    }
    page.line("");
    page.line("MESSAGES");
    let earlier = bad.len().saturating_sub(MOST);
    if earlier > 0 {
        page.line(&format!("  {earlier} earlier"));
    }
    for line in &bad[earlier..] {
        page.wrapped(2, &format!("{}: {}", line.level, line.text));
    }
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

fn optional(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), duration)
}

/// A rate in at most 7 columns; `-` where nothing was ever counted.
fn rate(per_second: f64, total: u64) -> String {
    if total == 0 {
        return "-".to_owned();
    }
    match per_second {
        r if r < 99.95 => format!("{r:.1}"),
        r if r < 999_999.5 => format!("{r:.0}"),
        r => format!("{:.1}M", r / 1e6),
    }
}

/// A duration in at most 6 columns, three significant digits: `85ns`, `1.23us`, `45.6ms`, `789s`.
pub fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        // Rounding must not make 1000 of a unit.
        1_000..999_500 => (ns as f64 / 1e3, "us"),
        999_500..999_500_000 => (ns as f64 / 1e6, "ms"),
        999_500_000..9_999_500_000_000 => (ns as f64 / 1e9, "s"),
        _ => return format!("{}h", ns / 3_600_000_000_000),
    };
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (1_000, "1.00us"),
            (9_994, "9.99us"),
            (9_995, "10.0us"),
            (999_499, "999us"),
            (999_500, "1.00ms"),
            (45_600_000, "45.6ms"),
            (999_500_000, "1.00s"),
            (9_999_000_000_000, "9999s"),
            (u64::MAX, "5124095h"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        let mut page = Page::default();
        page.wrapped(2, &"seven77 ".repeat(12));
        let text = page.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), 2 + 9 * 8 - 1);
        assert_eq!(lines[1], "    seven77 seven77 seven77");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut page = Page::default();
        page.line("a\x1b[2Jb\u{9b}c\u{e9}");
        assert_eq!(page.text(), "a?[2Jb?c?\n");
    }
}
