//! The list of all metrics: what each is called, what it means, and where its values come from.

use std::collections::BTreeMap;

use super::samples::series;
use super::text::Kind;
use super::{Run, Samples};
use crate::diagnose::{rules, verdict};
use crate::model::{CoarseSeries, Series, query, return_name};

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, without what the kind adds: a counter's samples end in `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// `seconds` or `bytes`; empty for a count. The name ends with it.
    pub unit: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its labels, besides `driver`.
    pub labels: &'static [&'static str],
    pub(super) fill: fn(&Run<'_>, &mut Samples<'_>),
}

const LOCK: &[&str] = &["class", "mode", "kind"];
const INSTANCE: &[&str] = &["class", "mode", "kind", "instance"];
const IN_ENTRY: &[&str] = &["class", "mode", "kind", "entry_point"];
const ENTRY: &[&str] = &["entry_point"];

type Fill = fn(&Run<'_>, &mut Samples<'_>);

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    Metric {
        name,
        kind,
        unit,
        help,
        labels,
        fill,
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    metric(name, Kind::Counter, "", labels, help, fill)
}

const fn seconds_counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    metric(name, Kind::Counter, "seconds", labels, help, fill)
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    metric(name, Kind::Gauge, "", labels, help, fill)
}

const fn seconds_gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    metric(name, Kind::Gauge, "seconds", labels, help, fill)
}

const fn bytes_gauge(name: &'static str, help: &'static str, fill: Fill) -> Metric {
    metric(name, Kind::Gauge, "bytes", &[], help, fill)
}

const fn durations(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    fill: Fill,
) -> Metric {
    metric(name, Kind::Histogram, "seconds", labels, help, fill)
}

/// All metrics, in the order in which they are written.
#[rustfmt::skip]
pub const METRICS: [Metric; 45] = [
    metric("apscope_source", Kind::Info, "",
        &["source", "probe", "generation", "scenario", "level", "kernel_release", "arch", "timing", "version"],
        "What is measured, and how. timing: why times are not those of hardware, where they are not.", source),
    seconds_gauge("apscope_run_start_time_seconds", &[],
        "When counting began, since 1970.",
        |run, out| out.seconds(&[], run.model.meta.as_ref().map_or(0, |meta| meta.start_unix_ns))),
    seconds_gauge("apscope_last_reading_time_seconds", &[],
        "When the programs' memory was read last, since 1970.",
        |run, out| out.seconds(&[], run.model.last.at_unix_ns)),
    gauge("apscope_statistics_exact", &[],
        "1: nothing was skipped and every map had room, counts are exact. 0: read them as at least.",
        |run, out| out.value(&[], u8::from(crate::export::exact(run.model)))),
    gauge("apscope_verdict", &["verdict"],
        "1 for the verdict over the findings that stand, 0 for the others.", verdicts),
    gauge("apscope_findings", &["id"],
        "Findings of each kind that stand now. apscope explain tells what a kind means.", findings),

    counter("apscope_lock_acquisitions", LOCK,
        "Locks obtained; of an open-coded lock, transitions to set. At level 1 of a kernel, only those that had to wait.",
        |run, out| of_locks(run, out, |series| series.acquisitions)),
    counter("apscope_lock_contended", LOCK,
        "Slow paths entered, the fast path having failed; of an open-coded lock, wait loops that slept.",
        |run, out| of_locks(run, out, |series| series.contended)),
    counter("apscope_lock_releases", LOCK, "Releases.",
        |run, out| of_locks(run, out, |series| series.releases)),
    counter("apscope_lock_attempts_failed", LOCK,
        "Failed trylocks and interrupted waits; they are no acquisitions.",
        |run, out| of_locks(run, out, |series| series.attempts_failed)),
    counter("apscope_lock_unmatched_releases", LOCK,
        "Releases whose acquisition was not seen; they have no hold.",
        |run, out| of_locks(run, out, |series| series.unmatched_releases)),
    durations("apscope_lock_wait_seconds", LOCK,
        "From entering the slow path to the acquisition. An acquisition that did not wait is a wait of 0; of flags and work items, only waits that slept are here.",
        |run, out| histograms(run, out, |series| &series.wait)),
    durations("apscope_lock_hold_seconds", LOCK,
        "From the acquisition to the entry of the release.",
        |run, out| histograms(run, out, |series| &series.hold)),
    gauge("apscope_lock_instances", LOCK, "Instances that are known.", instances),
    gauge("apscope_lock_holders", LOCK, "Tasks that hold an instance now.",
        |run, out| live(run, out, |live, out, labels| out.value(labels, live.holders))),
    gauge("apscope_lock_waiters", LOCK, "Tasks that wait for an instance now.",
        |run, out| live(run, out, |live, out, labels| out.value(labels, live.waiters))),
    seconds_gauge("apscope_lock_longest_hold_seconds", LOCK,
        "For how long the lock has been held by the task that holds it longest now; 0 if nobody does.",
        |run, out| live(run, out, |live, out, labels| out.seconds(labels, live.longest_hold_ns))),
    seconds_gauge("apscope_lock_longest_wait_seconds", LOCK,
        "For how long the lock has been waited for by the task that waits longest now; 0 if nobody does.",
        |run, out| live(run, out, |live, out, labels| out.seconds(labels, live.longest_wait_ns))),

    counter("apscope_lock_entry_acquisitions", IN_ENTRY,
        "Locks obtained, by the function in which they were.",
        |run, out| by_entry(run, out, |coarse, out, labels| out.value(labels, coarse.acquisitions))),
    counter("apscope_lock_entry_contended", IN_ENTRY,
        "Slow paths entered, by the function in which they were.",
        |run, out| by_entry(run, out, |coarse, out, labels| out.value(labels, coarse.contended))),
    seconds_counter("apscope_lock_entry_wait_seconds", IN_ENTRY,
        "Time waited, by the function in which it was.",
        |run, out| by_entry(run, out, |coarse, out, labels| out.seconds(labels, coarse.wait.sum_ns))),
    seconds_counter("apscope_lock_entry_hold_seconds", IN_ENTRY,
        "Time held, by the function in which the lock was acquired.",
        |run, out| by_entry(run, out, |coarse, out, labels| out.seconds(labels, coarse.hold.sum_ns))),

    counter("apscope_lock_instance_acquisitions", INSTANCE,
        "Locks obtained, by instance; only where series by instance are asked for.",
        |run, out| by_instance(run, out, |coarse, out, labels| out.value(labels, coarse.acquisitions))),
    counter("apscope_lock_instance_contended", INSTANCE,
        "Slow paths entered, by instance; only where series by instance are asked for.",
        |run, out| by_instance(run, out, |coarse, out, labels| out.value(labels, coarse.contended))),
    seconds_counter("apscope_lock_instance_wait_seconds", INSTANCE,
        "Time waited, by instance; only where series by instance are asked for.",
        |run, out| by_instance(run, out, |coarse, out, labels| out.seconds(labels, coarse.wait.sum_ns))),
    seconds_counter("apscope_lock_instance_hold_seconds", INSTANCE,
        "Time held, by instance; only where series by instance are asked for.",
        |run, out| by_instance(run, out, |coarse, out, labels| out.seconds(labels, coarse.hold.sum_ns))),

    counter("apscope_entry_calls", ENTRY, "Calls started.",
        |run, out| of_entries(run, |_, name, entry| out.value(&[name], entry.calls))),
    gauge("apscope_entry_in_flight", ENTRY, "Calls that have not returned.",
        |run, out| of_entries(run, |_, name, entry| out.value(&[name], entry.in_flight()))),
    durations("apscope_entry_latency_seconds", ENTRY, "From call to return.",
        |run, out| of_entries(run, |_, name, entry| out.histogram(&[name], &entry.latency))),
    counter("apscope_entry_returns", &["entry_point", "result"],
        "Returns, by what was returned: ok, an errno, or a notifier's code.", returns),
    counter("apscope_entry_unmatched_returns", ENTRY,
        "Returns whose call was not seen; in no latency.",
        |run, out| of_entries(run, |_, name, entry| out.value(&[name], entry.unmatched_returns))),
    counter("apscope_pqap_responses", &["entry_point", "function", "response"],
        "PQAP instructions that were handled, by function and response code (hexadecimal).", pqap),

    counter("apscope_lock_order",
        &["held", "held_mode", "acquired", "acquired_mode", "lockdep_visible"],
        "Acquisitions of one class while another one was held. lockdep cannot see an open-coded lock.", order),

    counter("apscope_events_emitted", &["program"],
        "Records that the programs were to write to the ring. They are detail: no other metric is made of them.",
        |run, out| programs(run, out, |(emitted, _)| emitted)),
    counter("apscope_events_dropped", &["program"], "Records that found no room in the ring.",
        |run, out| programs(run, out, |(_, dropped)| dropped)),
    counter("apscope_events_received", &[], "Records that arrived.",
        |run, out| out.value(&[], run.model.loss.received)),
    counter("apscope_losses", &["cause"],
        "What the statistics miss, by cause; while all are 0, they are exact. edge: the lock-order graph is incomplete.",
        losses),

    counter("apscope_program_runs", &["program"],
        "Times that a program ran; only where the kernel counts them (kernel.bpf_stats_enabled).",
        |run, out| for (name, cost) in counted_programs(run) {
            out.value(&[name], cost.runs);
        }),
    seconds_counter("apscope_program_run_seconds", &["program"],
        "Time that a program ran; only where the kernel measures it (kernel.bpf_stats_enabled).",
        |run, out| for (name, cost) in counted_programs(run) {
            out.seconds(&[name], cost.run_time_ns);
        }),
    counter("apscope_program_missed", &["program"],
        "Invocations of a program that the kernel skipped. While there are any, statistics are at least what they say.",
        |run, out| for (name, cost) in &run.model.overhead.programs {
            out.value(&[name], cost.missed);
        }),
    seconds_counter("apscope_collector_cpu_seconds", &[], "CPU time of the collector.",
        |run, out| out.seconds(&[], run.model.overhead.collector_cpu_ns)),
    bytes_gauge("apscope_ring_used_max_bytes", "Most bytes that ever waited in the ring.",
        |run, out| out.value(&[], run.model.overhead.ring_bytes_max)),
    bytes_gauge("apscope_ring_size_bytes", "Size of the ring.",
        |run, out| out.value(&[], run.model.overhead.ring_bytes_size)),
    gauge("apscope_attach_points", &["mechanism"],
        "Functions that are probed, by mechanism; none: those that could not be.", attach),
    counter("apscope_ignored_parts", &[], "Parts of readings that made no sense, and were left out.",
        |run, out| out.value(&[], run.model.ignored)),
];

fn source(run: &Run<'_>, out: &mut Samples<'_>) {
    let Some(meta) = &run.model.meta else { return };
    let level = meta.level.to_string();
    let labels = [
        meta.source.as_str(),
        &meta.probe,
        &meta.generation,
        &meta.scenario,
        &level,
        &meta.kernel_release,
        &meta.arch,
        &meta.timing,
        &meta.version,
    ];
    out.value(&labels, 1);
}

fn verdicts(run: &Run<'_>, out: &mut Samples<'_>) {
    for kind in verdict::Kind::ALL {
        let is = run.report.verdict.kind == kind;
        out.value(&[kind.name()], u8::from(is));
    }
}

fn findings(run: &Run<'_>, out: &mut Samples<'_>) {
    for doc in rules::docs() {
        let standing = run
            .report
            .findings
            .iter()
            .filter(|finding| finding.active());
        let count = standing.filter(|finding| finding.id == doc.id).count();
        out.value(&[&doc.id.to_string()], count);
    }
}

fn of_locks(run: &Run<'_>, out: &mut Samples<'_>, count: fn(&Series) -> u64) {
    for (id, labels) in series(run) {
        if let Some(series) = run.model.series.get(&id) {
            out.value(&labels, count(series));
        }
    }
}

fn histograms(
    run: &Run<'_>,
    out: &mut Samples<'_>,
    which: fn(&Series) -> &crate::model::histogram::Histogram,
) {
    for (id, labels) in series(run) {
        if let Some(series) = run.model.series.get(&id) {
            out.histogram(&labels, which(series));
        }
    }
}

fn instances(run: &Run<'_>, out: &mut Samples<'_>) {
    for (id, labels) in series(run) {
        let all = run.model.instances.values();
        let own = all.filter(|instance| instance.series == u32::from(id));
        out.value(&labels, own.count());
    }
}

/// Who holds and who waits for a lock series now.
#[derive(Default)]
struct LiveSeries {
    holders: u64,
    waiters: u64,
    longest_hold_ns: u64,
    longest_wait_ns: u64,
}

fn live(run: &Run<'_>, out: &mut Samples<'_>, one: fn(&LiveSeries, &mut Samples<'_>, &[&str; 3])) {
    let now = run.model.last.at_ns;
    let mut all: BTreeMap<u32, LiveSeries> = BTreeMap::new();
    for task in &run.model.live {
        for hold in &task.holds {
            let of = all.entry(hold.series).or_default();
            of.holders += 1;
            of.longest_hold_ns = of.longest_hold_ns.max(now.saturating_sub(hold.since_ns));
        }
        for wait in &task.waits {
            let of = all.entry(wait.series).or_default();
            of.waiters += 1;
            of.longest_wait_ns = of.longest_wait_ns.max(now.saturating_sub(wait.since_ns));
        }
    }
    let nobody = LiveSeries::default();
    for (id, labels) in series(run) {
        one(all.get(&u32::from(id)).unwrap_or(&nobody), out, &labels);
    }
}

fn by_entry(
    run: &Run<'_>,
    out: &mut Samples<'_>,
    one: fn(&CoarseSeries, &mut Samples<'_>, &[&str; 4]),
) {
    for (id, [class, mode, kind]) in series(run) {
        for (entry, coarse) in run.model.series.get(&id).iter().flat_map(|s| &s.by_entry) {
            one(coarse, out, &[class, mode, kind, query::entry_name(*entry)]);
        }
    }
}

fn by_instance(
    run: &Run<'_>,
    out: &mut Samples<'_>,
    one: fn(&CoarseSeries, &mut Samples<'_>, &[&str; 4]),
) {
    if run.options.instances == 0 {
        return;
    }
    for (id, [class, mode, kind]) in series(run) {
        // One that has gone and come again has two ids and one name, which is one series.
        let mut named: BTreeMap<&str, CoarseSeries> = BTreeMap::new();
        let mut others: Option<CoarseSeries> = None;
        let stats = run.model.series.get(&id);
        let all = run.model.instances.values();
        for instance in all.filter(|instance| instance.series == u32::from(id)) {
            let name = instance.name.as_str();
            let sum = if named.contains_key(name) || named.len() < run.options.instances {
                named.entry(name).or_default()
            } else {
                others.get_or_insert_default()
            };
            if let Some(one) = stats.and_then(|series| series.by_instance.get(&instance.id)) {
                add(sum, one);
            }
        }
        for (name, sum) in &named {
            one(sum, out, &[class, mode, kind, name]);
        }
        if let Some(others) = &others {
            one(others, out, &[class, mode, kind, "others"]);
        }
    }
}

/// Adds what the metrics by instance show.
fn add(sum: &mut CoarseSeries, one: &CoarseSeries) {
    sum.acquisitions = sum.acquisitions.saturating_add(one.acquisitions);
    sum.contended = sum.contended.saturating_add(one.contended);
    sum.wait.sum_ns = sum.wait.sum_ns.saturating_add(one.wait.sum_ns);
    sum.hold.sum_ns = sum.hold.sum_ns.saturating_add(one.hold.sum_ns);
}

fn of_entries(run: &Run<'_>, mut one: impl FnMut(u8, &'static str, &crate::model::Entry)) {
    for id in query::listed_entries(run.model) {
        if let Some(entry) = run.model.entries.get(&id) {
            one(id, query::entry_name(id), entry);
        }
    }
}

fn returns(run: &Run<'_>, out: &mut Samples<'_>) {
    of_entries(run, |id, name, entry| {
        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        // So that an alert on refused writes has a denominator from the start.
        by_name.insert(return_name(id, 0).into_owned(), 0);
        for (&code, &count) in entry.returns.iter().filter(|(_, count)| **count > 0) {
            let sum = by_name
                .entry(return_name(id, code).into_owned())
                .or_default();
            *sum = sum.saturating_add(count);
        }
        for (result, count) in by_name {
            out.value(&[name, &result], count);
        }
    });
}

fn pqap(run: &Run<'_>, out: &mut Samples<'_>) {
    of_entries(run, |_, name, entry| {
        for (&(function, response), count) in &entry.pqap {
            let function = query::pqap_function(function);
            out.value(&[name, &function, &format!("{response:02x}")], count);
        }
    });
}

fn order(run: &Run<'_>, out: &mut Samples<'_>) {
    let mut edges: BTreeMap<(u8, u8), (u64, bool)> = BTreeMap::new();
    for edge in query::order_edges(run.model) {
        let visible = edge.lockdep_visible;
        let of = edges.entry((edge.id.held, edge.id.acquired));
        let (count, _) = of.or_insert((0, visible));
        *count = count.saturating_add(edge.edge.count_total);
    }
    for ((held, acquired), (count, visible)) in edges {
        let labels = [
            query::class_name(held),
            query::mode_name(held),
            query::class_name(acquired),
            query::mode_name(acquired),
            if visible { "true" } else { "false" },
        ];
        out.value(&labels, count);
    }
}

/// Programs and their cost; none where the kernel counts no runs.
fn counted_programs<'a>(
    run: &Run<'a>,
) -> impl Iterator<Item = (&'a String, &'a crate::model::ProgramCost)> {
    let overhead = &run.model.overhead;
    let counted = overhead.counts_runs();
    overhead.programs.iter().filter(move |_| counted)
}

fn programs(run: &Run<'_>, out: &mut Samples<'_>, which: fn((u64, u64)) -> u64) {
    let mut programs: BTreeMap<&str, u64> = BTreeMap::new();
    for ((name, _), counts) in &run.model.loss.programs {
        let sum = programs.entry(name).or_default();
        *sum = sum.saturating_add(which(*counts));
    }
    for (name, count) in programs {
        out.value(&[name], count);
    }
}

fn losses(run: &Run<'_>, out: &mut Samples<'_>) {
    let loss = &run.model.loss;
    for (cause, count) in [
        ("missed", loss.missed),
        ("task", loss.no_task_slot),
        ("edge", loss.no_edge_slot),
        ("depth", loss.overflowed),
        ("unreadable", loss.unreadable),
    ] {
        out.value(&[cause], count);
    }
}

fn attach(run: &Run<'_>, out: &mut Samples<'_>) {
    let mut mechanisms: BTreeMap<&str, u64> = BTreeMap::from([("none", 0)]);
    for point in run.model.meta.iter().flat_map(|meta| &meta.attach) {
        *mechanisms.entry(&point.mechanism).or_default() += 1;
    }
    for (mechanism, count) in mechanisms {
        out.value(&[mechanism], count);
    }
}
