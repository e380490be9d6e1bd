//! The model: sane frames are counted exactly, senseless ones do no harm.

mod model_frames;

use apscope_collector::cli::plain;
use apscope_collector::diagnose::{self, Case, Diagnosis};
use apscope_collector::export::json::{Document, Origin};
use apscope_collector::frame::{Edge, Frame, Hist, Instance};
use apscope_collector::model::histogram::{Coarse, Histogram};
use apscope_collector::model::{HISTORY, LOG_LINES, Model, SPANS, WRITES, query};
use model_frames::{
    HOOK_READ, HOOK_WRITE, KVM_BUSY, KVM_LOCK, VCPU_MUTEX, Wild, add_writers, coarse, frame, hist,
    meta, run,
};
use probe_ebpf::h2;
use probe_ebpf::names::{ENTRY_POINTS, entry_id};
use proptest::prelude::*;

fn fold(frames: &[Frame]) -> Model {
    let mut model = Model::default();
    for frame in frames {
        model.apply(frame);
    }
    model
}

/// The value of rank ⌈q·n⌉.
fn true_quantile(values: &[u64], q: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = ((q * sorted.len() as f64).ceil() as usize).max(1);
    sorted[rank - 1]
}

/// Durations over all magnitudes below the overflow bucket.
fn durations() -> impl Strategy<Value = Vec<u64>> {
    let value = (0_u32..48, any::<u64>()).prop_map(|(power, bits)| bits & ((1 << power) - 1));
    proptest::collection::vec(value, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn quantiles_are_never_low_and_at_most_one_part_in_32_high(values in durations(), q in 0.0..=1.0_f64) {
        let mut histogram = Histogram::default();
        // In two increments, as frames bring them.
        let (first, second) = values.split_at(values.len() / 2);
        histogram.add(&hist(first));
        let mut rest = hist(second);
        rest.min_ns_total = values.iter().copied().min().unwrap_or(0);
        rest.max_ns_total = values.iter().copied().max().unwrap_or(0);
        histogram.add(&rest);
        let truth = true_quantile(&values, q);
        let found = histogram.quantile(q).unwrap();
        prop_assert!(found >= truth, "{found} < {truth}");
        prop_assert!(found as f64 <= truth as f64 * (1.0 + 1.0 / 32.0), "{found} > {truth}");
        prop_assert_eq!(histogram.count, values.len() as u64);
        prop_assert_eq!(histogram.sum_ns, values.iter().sum::<u64>());
        prop_assert_eq!(histogram.min(), values.iter().copied().min());
        prop_assert_eq!(histogram.max(), values.iter().copied().max());
        prop_assert_eq!(histogram.quantile(1.0), values.iter().copied().max());
        prop_assert_eq!(histogram.octaves().iter().sum::<u64>(), values.len() as u64);
        prop_assert_eq!(histogram.buckets().map(|b| b.2).sum::<u64>(), values.len() as u64);
    }

    #[test]
    fn coarse_quantiles_are_never_low_and_at_most_twice_as_high(values in durations(), q in 0.0..=1.0_f64) {
        let mut histogram = Coarse::default();
        histogram.add(&coarse(&values));
        let truth = true_quantile(&values, q);
        let found = histogram.quantile(q).unwrap();
        prop_assert!(found >= truth);
        prop_assert!(found <= 1 || found < 2 * truth, "{found} {truth}");
    }

    #[test]
    fn senseless_frames_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4_000), sane_first: bool) {
        let mut case = Case::default();
        if sane_first {
            case.apply(&frame(0, 10));
        }
        let mut wild = Wild::new(&bytes);
        while wild.more() {
            case.apply(&wild.frame());
        }
        let model = &case.model;
        for rates in model.series.values().map(|s| &s.rates) {
            prop_assert_eq!(rates.len(), model.ticks.len());
        }
        for rates in model.entries.values().map(|e| &e.rates) {
            prop_assert_eq!(rates.len(), model.ticks.len());
        }
        // Everything that is asked of a model.
        for row in query::lock_rows(model) {
            prop_assert!(query::lock_detail(model, row.series).is_some());
        }
        query::entry_rows(model);
        query::order_edges(model);
        let report = case.report();
        let text = plain::render(model, &report, Origin::Live);
        prop_assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 79), "{text}");
        let text = diagnose::text::render(&report, model);
        prop_assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 79), "{text}");
        let document = Document::of(model, Origin::Recording, &report);
        prop_assert!(document.write(&mut Vec::new()).is_ok());
    }
}

#[test]
fn an_empty_histogram_has_no_quantiles() {
    let mut histogram = Histogram::default();
    assert_eq!(histogram.quantile(0.5), None);
    assert_eq!(histogram.max(), None);
    assert_eq!(histogram.mean_ns(), None);
    assert_eq!(Coarse::default().quantile(1.0), None);
    // Totals without a value say nothing.
    histogram.add(&Hist {
        min_ns_total: 3,
        max_ns_total: 9,
        ..Hist::default()
    });
    assert_eq!((histogram.min(), histogram.max()), (None, None));
}

#[test]
fn the_overflow_bucket_ends_at_the_maximum() {
    let mut histogram = Histogram::default();
    histogram.add(&hist(&[1 << 50, 5]));
    assert_eq!(histogram.quantile(0.5), Some(5));
    assert_eq!(histogram.quantile(1.0), Some(1 << 50));
    let last = histogram.buckets().last();
    assert_eq!(last, Some((1 << 48, 1 << 50, 1)));
}

#[test]
fn extremes_that_lag_behind_the_buckets_are_corrected() {
    let mut histogram = Histogram::default();
    let mut lagging = hist(&[100, 1_000_000]);
    lagging.min_ns_total = 5_000;
    lagging.max_ns_total = 5_000;
    histogram.add(&lagging);
    let bucket = h2::bucket(1_000_000);
    assert_eq!(histogram.max(), Some(h2::lower_bound(bucket)));
    assert_eq!(histogram.min(), Some(h2::upper_bound(h2::bucket(100))));
}

#[test]
fn buckets_out_of_range_are_refused_and_said() {
    let mut histogram = Histogram::default();
    let senseless = Hist {
        step: vec![5, u32::MAX],
        count: vec![2, 3],
        ..Hist::default()
    };
    assert_eq!(histogram.add(&senseless), 3);
    assert_eq!(histogram.count, 2);
    assert_eq!(Coarse::default().add(&hist(&[1 << 40])), 1);
}

#[test]
fn increments_add_up() {
    let model = fold(&run(20));
    let lock = &model.series[&(KVM_LOCK as u8)];
    assert_eq!(lock.acquisitions, 60);
    assert_eq!(lock.contended, 20);
    assert_eq!(lock.releases, 40);
    assert_eq!(lock.wait.count, 60);
    assert_eq!(lock.hold.count, 40);
    assert_eq!(lock.wait.max(), Some(319));
    assert_eq!(lock.wait.min(), Some(0));
    assert_eq!(lock.by_instance[&1].wait.count, 60);
    assert_eq!(lock.by_entry[&entry_id::GROUP_NOTIFIER].hold.count, 40);
    let entry = &model.entries[&entry_id::ASSIGN_ADAPTER];
    assert_eq!((entry.calls, entry.in_flight()), (60, 20));
    assert_eq!(entry.returns[&16], 20);
    let pqap = &model.entries[&entry_id::HANDLE_PQAP].pqap;
    assert_eq!((pqap[&(3, 0)], pqap[&(3, 1)]), (80, 20));
    assert_eq!(model.loss.received, 40);
    assert_eq!(
        model.loss.emitted(),
        model.loss.received + model.loss.dropped()
    );
    assert_eq!(model.overhead.ring_bytes_max, 147);
    assert_eq!(model.overhead.collector_cpu_ns, 800_000);
    assert_eq!(model.span_count, 40);
    assert_eq!(model.spans.len(), 40);
    // Edges are cumulative, not increments.
    assert!(model.edges.values().all(|edge| edge.count_total == 20));
    assert_eq!(
        model.end.as_ref().map(|end| end.how.as_str()),
        Some("finished")
    );
    assert_eq!(model.ignored, 0);
    // Listed, though nothing ever happened to it.
    assert_eq!(model.series[&(HOOK_READ as u8)].acquisitions, 0);
}

#[test]
fn memory_is_bounded() {
    let mut model = Model::default();
    for number in 0..3_000 {
        let mut frame = frame(number, u64::MAX);
        frame.log = vec![frame.log[0].clone(); 3];
        model.apply(&frame);
    }
    assert_eq!(model.ticks.len(), HISTORY);
    assert_eq!(model.series[&(KVM_LOCK as u8)].rates.len(), HISTORY);
    assert_eq!(model.log.len(), LOG_LINES);
    assert_eq!(model.spans.len(), SPANS);
    assert_eq!(model.span_count, 6_000);
    // Instances, names and edges without end.
    let mut meta = meta();
    meta.reason = "\u{e9}".repeat(100_000);
    meta.instances = (0..100_000)
        .map(|id| Instance {
            id,
            series: KVM_LOCK,
            ..Instance::default()
        })
        .collect();
    model.apply(&Frame {
        meta: Some(meta),
        ..Frame::default()
    });
    assert!(model.instances.len() < 20_000);
    assert_eq!(model.ignored, 100_000 - model.instances.len() as u64);
    assert!(model.meta.unwrap().reason.len() <= 1_024);
}

#[test]
fn another_run_begins_anew() {
    let mut model = fold(&run(3));
    let again = frame(0, 3);
    model.apply(&again);
    // The same run described again goes on.
    assert_eq!(model.series[&(KVM_LOCK as u8)].acquisitions, 12);
    let mut other = frame(0, 3);
    other.meta.as_mut().unwrap().start_ns += 1;
    model.apply(&other);
    assert_eq!(model.series[&(KVM_LOCK as u8)].acquisitions, 3);
    assert_eq!(model.ticks.len(), 1);
}

#[test]
fn ids_that_do_not_exist_are_ignored_and_counted() {
    let mut model = fold(&run(1));
    let mut wrong = frame(1, 9);
    wrong.series[0].series = 27 * 2;
    wrong.series[1].series = KVM_BUSY + 1; // A flag has no read side.
    wrong.entries[0].entry = ENTRY_POINTS.len() as u32;
    wrong.edges[0].acquired = 99;
    model.apply(&wrong);
    assert_eq!(model.ignored, 4);
    assert_eq!(model.series[&(KVM_LOCK as u8)].acquisitions, 3);
    // An instance of another class.
    let mut wrong = frame(2, 9);
    wrong.series[0].by_instance[0].id = 2;
    model.apply(&wrong);
    assert_eq!(model.ignored, 5);
    assert!(!Document::of(&model, Origin::Live, &Diagnosis::default().report()).exact);
}

#[test]
fn rows_say_who_holds_and_who_waits() {
    let model = fold(&run(20));
    let rows = query::lock_rows(&model);
    let names: Vec<_> = rows.iter().map(|row| (row.class, row.mode)).collect();
    assert_eq!(
        names,
        [
            ("kvm->lock", "-"),
            ("vcpu->mutex", "-"),
            ("pqap_hook_rwsem", "write"),
            ("pqap_hook_rwsem", "read"),
            ("kvm_busy", "-"),
        ]
    );
    let kvm_lock = &rows[0];
    // Three in each tick of 100 ms.
    assert!((kvm_lock.per_second - 30.0).abs() < 1e-9);
    assert_eq!(kvm_lock.contended_percent, Some(100.0 / 3.0));
    assert_eq!(
        kvm_lock.holder.as_ref().map(query::Holder::who),
        Some("sysfs/guest-0 (102)".into())
    );
    assert_eq!(kvm_lock.spark, [3; 20]);
    assert!(rows[1].long_hold_is_normal);
    let busy = &rows[4];
    assert!(busy.open_coded && busy.kind == "flag");
    assert_eq!(busy.queue, 1);
    // Its waiters only test it.
    assert_eq!(busy.contended_percent, Some(200.0));

    let detail = query::lock_detail(&model, KVM_BUSY as u8).unwrap();
    assert_eq!(detail.holders.len(), 1);
    assert_eq!(detail.holders[0].for_ns, 500);
    assert_eq!(detail.waiters[0].for_ns, 400);
    assert_eq!(detail.waiters[0].owner_tid, Some(102));
    assert_eq!(detail.waiters[0].lock, "kvm_busy[mdev-0]");
    assert_eq!(detail.instances[0].guest, Some(0));
    assert_eq!(detail.instances[0].queue, 1);
    assert_eq!(detail.hold.count, 20);
    assert!(query::lock_detail(&model, 200).is_none());

    let detail = query::lock_detail(&model, KVM_LOCK as u8).unwrap();
    // The busiest first, those that were never taken too.
    assert_eq!(detail.instances[0].name, "kvm->lock[guest-1]");
    assert_eq!(detail.instances[1].acquisitions, 0);
    // Coarse, but never above what the class has seen.
    assert_eq!(detail.instances[0].hold.p99_ns, Some(20_000));
    assert_eq!(detail.by_entry[0].name, "vfio_ap_mdev_group_notifier");

    let entries = query::entry_rows(&model);
    assert_eq!(entries[0].name, "handle_pqap");
    assert_eq!(entries[0].pqap[0], ("AQIC".into(), 0, 80));
    assert_eq!(entries[0].longest.as_ref().map(|i| i.for_ns), Some(8_000));
    assert_eq!(entries[1].returns, [("NOTIFY_OK".to_owned(), 20)]);
    assert_eq!(entries[2].returns.len(), 2);
}

#[test]
fn the_last_writes_are_kept_and_tasks_say_for_whom_they_work() {
    let mut model = fold(&run(1));
    for number in 1..=80 {
        let mut frame = frame(number, u64::MAX);
        add_writers(&mut frame);
        model.apply(&frame);
    }
    assert_eq!(model.writes.len(), WRITES);
    let newest = &model.writes[WRITES - 1];
    assert_eq!(
        (newest.entry, newest.pid, newest.comm.as_str()),
        (entry_id::REMOVE, 77, "mdevctl")
    );
    assert_eq!(model.ignored, 0);
    // Every call counts, also those that are remembered no more; a description without an object drops its counts.
    let calls = |model: &Model, id, entry| {
        let calls = model.calls_on.get(&id).and_then(|calls| calls.get(&entry));
        calls.map(|calls| (calls.spans, calls.failed))
    };
    assert_eq!(calls(&model, 0, entry_id::ASSIGN_ADAPTER), Some((80, 80)));
    assert_eq!(calls(&model, 1, entry_id::ASSIGN_ADAPTER), Some((80, 80)));
    assert_eq!(calls(&model, 2, entry_id::REMOVE), Some((80, 0)));
    let mut fewer = meta();
    fewer.objects.pop();
    model.apply(&Frame {
        meta: Some(fewer),
        live: frame(1, u64::MAX).live,
        ..Frame::default()
    });
    assert_eq!(calls(&model, 2, entry_id::REMOVE), None);
    assert_eq!(calls(&model, 0, entry_id::ASSIGN_ADAPTER), Some((80, 80)));
    let mut last = frame(81, u64::MAX);
    add_writers(&mut last);
    model.apply(&last);
    let task = model.live.iter().find(|task| task.tid == 103).unwrap();
    let writer = query::on_behalf_of(task).unwrap();
    assert_eq!((writer.pid, writer.comm.as_str()), (1234, "echo"));
    let holders = query::holders(&model);
    let mut who: Vec<_> = holders.iter().filter(|h| h.tid == 103).collect();
    who.sort_by_key(|h| h.for_ns);
    assert_eq!(
        (who[0].who(), who[1].who()),
        ("echo (1234)".into(), "sysfs (103)".into())
    );
    let inside = query::inside(&model);
    let nested: Vec<_> = inside.iter().filter(|i| i.tid == 103).collect();
    assert!(
        nested.len() == 2 && nested.iter().all(|call| call.who() == "echo (1234)"),
        "a call inside a write is part of it"
    );
}

#[test]
fn writers_that_make_no_sense_are_ignored_and_counted() {
    let mut model = fold(&run(1));
    let mut frame = frame(1, u64::MAX);
    add_writers(&mut frame);
    let spans = frame.spans.as_mut().unwrap();
    // A lock's span, and an entry point that does not exist.
    spans.packed[0] = 0;
    spans.packed[1] |= 0xff << 16;
    model.apply(&frame);
    assert!(model.writes.is_empty());
    assert_eq!(model.ignored, 2);
}

#[test]
fn lockdep_sees_no_edge_of_an_open_coded_lock() {
    let model = fold(&run(2));
    let edges = query::order_edges(&model);
    let seen: Vec<_> = edges
        .iter()
        .map(|e| (u32::from(e.id.acquired), e.lockdep_visible))
        .collect();
    assert_eq!(seen, [(KVM_LOCK, true), (KVM_BUSY, false)]);
    assert!(!query::lockdep_visible(KVM_BUSY as u8, KVM_LOCK as u8));
    assert!(query::lockdep_visible(VCPU_MUTEX as u8, HOOK_WRITE as u8));
}

#[test]
fn one_class_makes_a_self_edge_only_when_its_order_inverts() {
    let mut model = fold(&run(1));
    let before = query::order_edges(&model).len();
    let edge = |direction| Frame {
        edges: vec![Edge {
            held: KVM_LOCK,
            acquired: KVM_LOCK,
            direction,
            count_total: 1,
            ..Edge::default()
        }],
        ..Frame::default()
    };
    model.apply(&edge(1));
    assert_eq!(query::order_edges(&model).len(), before);
    model.apply(&edge(2));
    assert_eq!(query::order_edges(&model).len(), before + 2);
}

#[test]
fn a_kernels_run_begins_when_everything_is_attached() {
    let mut frames: Vec<Frame> = (0..4).map(|number| frame(number, 1)).collect();
    let start = meta().start_ns;
    let mut described = meta();
    described.source = "kernel".into();
    described.attaching = true;
    frames[0].meta = Some(described.clone());
    for frame in &mut frames[1..] {
        frame.meta = None;
    }
    let (before, after) = (frames[1].at_ns, frames[2].at_ns);
    described.attaching = false;
    described.measured_from_ns = before + (after - before) / 4;
    frames[2].meta = Some(described.clone());
    let model = fold(&frames[..2]);
    assert_eq!(query::elapsed_ns(&model), before - start);
    let model = fold(&frames[..3]);
    let measured = after - described.measured_from_ns;
    assert_eq!(query::elapsed_ns(&model), measured);
    assert_eq!(model.last.length_ns, measured);
    let model = fold(&frames);
    assert_eq!(model.last.length_ns, frames[3].at_ns - after);
}

#[test]
fn missed_invocations_are_told_by_program_and_runs_only_where_they_are_counted() {
    let programs = |change: fn(&mut apscope_collector::frame::ProgramCost)| {
        let mut frame = frame(0, 1);
        for program in frame.overhead.iter_mut().flat_map(|o| &mut o.programs) {
            change(program);
        }
        let model = fold(&[frame]);
        let report = Diagnosis::default().report();
        let document = Document::of(&model, Origin::Live, &report);
        serde_json::to_value(document).unwrap()["overhead"]["programs"].clone()
    };
    let counted = programs(|_| ());
    assert_eq!(counted[0]["runs"], 3);
    assert_eq!(counted[0]["missed"], 2);
    let not_counted = programs(|program| (program.runs, program.run_time_ns) = (0, 0));
    assert_eq!(not_counted[0].get("runs"), None);
    assert_eq!(not_counted[0].get("run_time_ns"), None);
    assert_eq!(not_counted[0]["missed"], 2);
}
