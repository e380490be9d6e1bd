//! The tables: what they are called, their columns, and their rows.

use super::super::json::{self, Document, Hist};
use super::Origin;
use crate::diagnose::Report;
use crate::model::Model;

/// A table.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Name of its file, without `.csv`.
    pub name: &'static str,
    /// What a row is.
    pub about: &'static str,
    /// Columns, besides `driver`.
    pub columns: &'static [&'static str],
    pub(super) rows: fn(&Known<'_>) -> Vec<Row>,
}

type Row = Vec<String>;

/// What rows are made of.
pub(super) struct Known<'a> {
    pub(super) model: &'a Model,
    document: Document,
}

impl<'a> Known<'a> {
    pub(super) fn new(model: &'a Model, report: &Report, origin: Origin) -> Self {
        let document = Document::of(model, origin, report);
        Self { model, document }
    }
}

macro_rules! row {
    ($($field:expr),* $(,)?) => { vec![$($field.to_string()),*] };
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// All tables but that of spans.
#[rustfmt::skip]
pub const TABLES: [Table; 19] = [
    Table { name: "run", about: "a fact about the run",
        columns: &["name", "value"], rows: run },
    Table { name: "locks", about: "a lock class in one mode",
        columns: &["class", "mode", "kind", "open_coded", "instances", "acquisitions", "contended", "releases",
            "attempts_failed", "unmatched_releases",
            "wait_count", "wait_sum_ns", "wait_min_ns", "wait_max_ns", "wait_p50_ns", "wait_p90_ns", "wait_p99_ns",
            "wait_p999_ns",
            "hold_count", "hold_sum_ns", "hold_min_ns", "hold_max_ns", "hold_p50_ns", "hold_p90_ns", "hold_p99_ns",
            "hold_p999_ns"],
        rows: locks },
    Table { name: "lock_instances", about: "an instance of a lock class, in one mode",
        columns: &["class", "mode", "name", "address", "acquisitions", "contended", "releases", "attempts_failed",
            "unmatched_releases", "wakes", "wait_count", "wait_sum_ns", "hold_count", "hold_sum_ns"],
        rows: instances },
    Table { name: "lock_entry_points", about: "a lock class in one mode, as it was acquired in one entry point",
        columns: &["class", "mode", "entry_point", "acquisitions", "contended", "wait_count", "wait_sum_ns",
            "hold_count", "hold_sum_ns"],
        rows: per_entry },
    Table { name: "entry_points", about: "a traced function",
        columns: &["entry_point", "calls", "in_flight", "unmatched_returns", "count", "sum_ns", "min_ns", "max_ns",
            "p50_ns", "p90_ns", "p99_ns", "p999_ns"],
        rows: entry_points },
    Table { name: "returns", about: "what a traced function returned, and how often",
        columns: &["entry_point", "returned", "count"], rows: returns },
    Table { name: "pqap", about: "a response to a PQAP instruction, and how often",
        columns: &["entry_point", "function", "response", "count"], rows: pqap },
    Table { name: "histograms", about: "a bucket of a histogram that has values: of `wait` and `hold` of a lock class in \
            one mode, of `latency` of an entry point",
        columns: &["what", "name", "mode", "lower_ns", "upper_ns", "count"], rows: histograms },
    Table { name: "order", about: "an edge of the order of locks",
        columns: &["held", "held_mode", "acquired", "acquired_mode", "held_in", "acquired_in", "count",
            "lockdep_visible", "annotated", "direction", "first_tid", "first_comm"],
        rows: order },
    Table { name: "holders", about: "a task that holds a lock at the end",
        columns: &["lock", "mode", "tid", "comm", "for_ns", "entry_point", "evidence", "adopted", "second_holder"],
        rows: holders },
    Table { name: "waiters", about: "a task that waits for a lock at the end",
        columns: &["lock", "mode", "tid", "comm", "for_ns", "entry_point", "evidence", "owner_tid"],
        rows: waiters },
    Table { name: "writes", about: "an access to sysfs, of the last ones",
        columns: &["at_ns", "entry_point", "text", "pid", "comm", "returned", "latency_ns", "mdev", "guest"],
        rows: writes },
    Table { name: "objects", about: "calls of one entry point on an mdev or a guest, as far as their spans arrived",
        columns: &["kind", "name", "entry_point", "spans", "failed"], rows: objects },
    Table { name: "matrices", about: "an adapter, a usage domain or a control domain that is `assigned` to an mdev, or that its \
            guest was given (`in_guest`)",
        columns: &["mdev", "matrix", "what", "number"], rows: matrices },
    Table { name: "stacks", about: "a stack of a long wait or hold, of the last ones; functions are separated by semicolons, \
            innermost first",
        columns: &["tid", "comm", "lock", "mode", "what", "ended", "entry_point", "start_ns", "duration_ns", "functions"],
        rows: stacks },
    Table { name: "events", about: "records of one program on one CPU",
        columns: &["program", "cpu", "emitted", "dropped"], rows: events },
    Table { name: "programs", about: "the cost of a program",
        columns: &["program", "runs", "run_time_ns", "missed"], rows: programs },
    Table { name: "attach", about: "a function that is probed, or could not be",
        columns: &["symbol", "mechanism", "reason"], rows: attach },
    Table { name: "findings", about: "a finding",
        columns: &["id", "severity", "active", "since_ns", "summary", "meaning", "tasks", "locks"], rows: findings },
];

fn run(known: &Known<'_>) -> Vec<Row> {
    let Document {
        source, interval, ..
    } = &known.document;
    vec![
        row!["source", source.kind],
        row!["emulated", source.emulated],
        row!["probe", source.probe],
        row!["generation", source.generation],
        row!["scenario", source.scenario],
        row!["seed", optional(source.seed)],
        row!["kernel_release", source.kernel_release],
        row!["arch", source.arch],
        row!["timing", source.timing],
        row!["level", source.level],
        row!["ended", optional(source.ended.clone())],
        row!["version", source.version],
        row!["start", interval.start],
        row!["end", interval.end],
        row!["duration_ns", interval.duration_ns],
        row!["detail_start", optional(interval.detail_start.clone())],
        row!["missing_frames", optional(interval.missing_frames)],
        row!["exact", known.document.exact],
        row!["missed", known.document.missed],
        row!["events_received", known.document.events.received],
        row!["verdict", known.document.verdict],
    ]
}

/// Count, sum, extremes and percentiles.
fn distribution(hist: &Hist) -> Row {
    row![
        hist.count,
        hist.sum_ns,
        optional(hist.min_ns),
        optional(hist.max_ns),
        optional(hist.p50_ns),
        optional(hist.p90_ns),
        optional(hist.p99_ns),
        optional(hist.p999_ns),
    ]
}

fn locks(known: &Known<'_>) -> Vec<Row> {
    let one = |lock: &json::Lock| {
        let mut row = row![
            lock.class,
            lock.mode,
            lock.kind,
            lock.open_coded,
            lock.instances,
            lock.acquisitions,
            lock.contended,
            lock.releases,
            lock.attempts_failed,
            lock.unmatched_releases,
        ];
        row.extend(distribution(&lock.wait));
        row.extend(distribution(&lock.hold));
        row
    };
    known.document.locks.iter().map(one).collect()
}

fn instances(known: &Known<'_>) -> Vec<Row> {
    let locks = known.document.locks.iter();
    let all = locks.flat_map(|lock| lock.by_instance.iter().map(move |one| (lock, one)));
    all.map(|(lock, one)| {
        row![
            lock.class,
            lock.mode,
            one.name,
            one.address,
            one.acquisitions,
            one.contended,
            one.releases,
            one.attempts_failed,
            one.unmatched_releases,
            optional(one.wakes),
            one.wait.count,
            one.wait.sum_ns,
            one.hold.count,
            one.hold.sum_ns,
        ]
    })
    .collect()
}

fn per_entry(known: &Known<'_>) -> Vec<Row> {
    let locks = known.document.locks.iter();
    let all = locks.flat_map(|lock| lock.by_entry_point.iter().map(move |one| (lock, one)));
    all.map(|(lock, one)| {
        row![
            lock.class,
            lock.mode,
            one.name,
            one.acquisitions,
            one.contended,
            one.wait.count,
            one.wait.sum_ns,
            one.hold.count,
            one.hold.sum_ns,
        ]
    })
    .collect()
}

fn entry_points(known: &Known<'_>) -> Vec<Row> {
    let one = |entry: &json::EntryPoint| {
        let mut row = row![
            entry.name,
            entry.calls,
            entry.in_flight,
            entry.unmatched_returns,
        ];
        row.extend(distribution(&entry.latency));
        row
    };
    known.document.entry_points.iter().map(one).collect()
}

fn returns(known: &Known<'_>) -> Vec<Row> {
    let entries = known.document.entry_points.iter();
    let all = entries.flat_map(|entry| entry.returns.iter().map(move |r| (entry, r)));
    all.map(|(entry, (returned, count))| row![entry.name, returned, count])
        .collect()
}

fn pqap(known: &Known<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in &known.document.entry_points {
        for (function, responses) in entry.pqap.iter().flatten() {
            for (response, count) in responses {
                rows.push(row![entry.name, function, response, count]);
            }
        }
    }
    rows
}

fn histograms(known: &Known<'_>) -> Vec<Row> {
    let model = known.model;
    let mut rows = Vec::new();
    super::super::each_histogram(model, |what, name, mode, histogram| {
        for (lower, upper, count) in histogram.buckets() {
            rows.push(row![what, name, mode, lower, upper, count]);
        }
    });
    rows
}

fn order(known: &Known<'_>) -> Vec<Row> {
    let one = |edge: &json::Order| {
        row![
            edge.held,
            edge.held_mode,
            edge.acquired,
            edge.acquired_mode,
            edge.held_in,
            edge.acquired_in,
            edge.count,
            edge.lockdep_visible,
            edge.annotated,
            optional(edge.direction),
            edge.first_task.tid,
            edge.first_task.comm,
        ]
    };
    known.document.order.iter().map(one).collect()
}

fn holders(known: &Known<'_>) -> Vec<Row> {
    let one = |h: &json::Holder| {
        row![
            h.lock,
            h.mode,
            h.tid,
            h.comm,
            h.for_ns,
            h.entry_point,
            h.evidence,
            h.adopted,
            h.second_holder,
        ]
    };
    known.document.live.holders.iter().map(one).collect()
}

fn waiters(known: &Known<'_>) -> Vec<Row> {
    let one = |w: &json::Waiter| {
        row![
            w.lock,
            w.mode,
            w.tid,
            w.comm,
            w.for_ns,
            w.entry_point,
            w.evidence,
            optional(w.owner_tid),
        ]
    };
    known.document.live.waiters.iter().map(one).collect()
}

fn writes(known: &Known<'_>) -> Vec<Row> {
    let one = |w: &json::Write| {
        row![
            w.at_ns,
            w.entry_point,
            optional(w.text.clone()),
            w.pid,
            w.comm,
            w.returns,
            w.latency_ns,
            optional(w.mdev.clone()),
            optional(w.guest.clone()),
        ]
    };
    known.document.writes.iter().map(one).collect()
}

fn objects(known: &Known<'_>) -> Vec<Row> {
    let objects = known.document.objects.iter();
    let all = objects.flat_map(|object| object.calls_of_spans.iter().map(move |c| (object, c)));
    all.map(|(object, calls)| {
        row![
            object.kind,
            object.name,
            calls.entry_point,
            calls.spans,
            calls.failed,
        ]
    })
    .collect()
}

fn matrices(known: &Known<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    for object in &known.document.objects {
        for (name, matrix) in [
            ("assigned", &object.assigned),
            ("in_guest", &object.in_guest),
        ] {
            let Some(matrix) = matrix else { continue };
            for (what, numbers) in [
                ("adapter", &matrix.adapters),
                ("domain", &matrix.domains),
                ("control domain", &matrix.control_domains),
            ] {
                rows.extend(numbers.iter().map(|n| row![object.name, name, what, n]));
            }
        }
    }
    rows
}

fn stacks(known: &Known<'_>) -> Vec<Row> {
    let one = |s: &json::Stack| {
        row![
            s.tid,
            s.comm,
            s.lock,
            s.mode,
            s.what,
            s.ended,
            optional(s.entry_point.clone()),
            s.start_ns,
            s.duration_ns,
            s.frames.join(";"),
        ]
    };
    known.document.stacks.iter().map(one).collect()
}

fn events(known: &Known<'_>) -> Vec<Row> {
    let programs = known.document.events.by_program.iter();
    programs
        .map(|p| row![p.name, p.cpu, p.emitted, p.dropped])
        .collect()
}

fn programs(known: &Known<'_>) -> Vec<Row> {
    let programs = known.document.overhead.programs.iter();
    programs
        .map(|p| row![p.name, optional(p.runs), optional(p.run_time_ns), p.missed])
        .collect()
}

fn attach(known: &Known<'_>) -> Vec<Row> {
    let points = known.document.attach.iter();
    points
        .map(|p| row![p.symbol, p.mechanism, p.reason])
        .collect()
}

fn findings(known: &Known<'_>) -> Vec<Row> {
    let one = |f: &json::Finding| {
        let tasks: Vec<_> = f
            .tasks
            .iter()
            .map(|t| format!("{} ({})", t.comm, t.tid))
            .collect();
        let severity = format!("{:?}", f.severity).to_lowercase();
        row![
            f.id,
            severity,
            f.active,
            f.since_ns,
            f.summary,
            f.meaning,
            tasks.join("; "),
            f.locks.join("; "),
        ]
    };
    known.document.findings.iter().map(one).collect()
}
