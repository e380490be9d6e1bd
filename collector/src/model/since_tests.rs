use probe_ebpf::abi::{self, SPAN_ENTRY};
use proptest::prelude::*;

use super::*;
use crate::frame::{CoarseDelta, EntryDelta, Frame, Hist, LogLine, Meta, SeriesDelta, Spans};

/// Series 0 and its instances, of a class that exists; entry point 0.
const INSTANCES: u32 = 3;

fn hist() -> impl Strategy<Value = Hist> {
    proptest::collection::btree_map(0_usize..1_000, 1_u64..100, 0..5).prop_map(|buckets| {
        let lowest = buckets.keys().next().copied().unwrap_or(0);
        let highest = buckets.keys().last().copied().unwrap_or(0);
        let sum_ns = buckets.values().sum();
        let min = probe_ebpf::h2::lower_bound(lowest);
        let max = probe_ebpf::h2::upper_bound(highest);
        Hist::from_buckets(buckets, sum_ns, min, max)
    })
}

fn coarse_delta() -> impl Strategy<Value = CoarseDelta> {
    let hist = proptest::collection::btree_map(0_usize..64, 1_u64..9, 1..4)
        .prop_map(|buckets| Hist::from_buckets(buckets, 7, 0, 0));
    (0..INSTANCES, 1_u64..9, hist).prop_map(|(id, acquisitions, wait)| CoarseDelta {
        id,
        acquisitions,
        wakes: acquisitions / 2,
        wait: Some(wait),
        ..CoarseDelta::default()
    })
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let parts = (
        hist(),
        hist(),
        proptest::collection::vec(coarse_delta(), 0..3),
        0_u64..50,
        0_usize..4,
    );
    proptest::collection::vec(parts, 1..12).prop_map(|all| {
        let frames = all.into_iter().enumerate();
        let frame = |(number, (wait, latency, by_instance, count, spans))| {
            frame(number as u64, (wait, latency), by_instance, count, spans)
        };
        frames.map(frame).collect()
    })
}

fn frame(
    number: u64,
    (wait, latency): (Hist, Hist),
    by_instance: Vec<CoarseDelta>,
    count: u64,
    spans: usize,
) -> Frame {
    let call = abi::Span {
        kind: SPAN_ENTRY,
        start_ns: number,
        duration_ns: 1,
        extra: 0,
        tid: 1,
        instance: abi::NO_INSTANCE,
        result: 0,
        what: 0,
        inside: 0,
        flags: 0,
    };
    let about = frame::About {
        on: frame::ActedOn {
            guest: Some(1),
            mdev: None,
        },
        ..frame::About::default()
    };
    let calls = vec![call; spans];
    Frame {
        number,
        at_ns: 1_000 + number,
        meta: (number == 0).then(meta),
        series: vec![SeriesDelta {
            series: 0,
            acquisitions: count,
            wait: Some(wait),
            by_instance,
            ..SeriesDelta::default()
        }],
        entries: vec![EntryDelta {
            entry: 0,
            calls: count,
            latency: Some(latency),
            code: vec![0, 16],
            code_count: vec![count / 2, count / 3],
            ..EntryDelta::default()
        }],
        edges: vec![frame::Edge {
            count_total: number + 1,
            ..frame::Edge::default()
        }],
        spans: Some(Spans::encode_for(
            1_000 + number,
            calls.iter().map(|span| (span, about)),
            |_| "task".into(),
        )),
        loss: Some(frame::Loss {
            received: spans as u64,
            programs: vec![frame::ProgramLoss {
                name: "p".into(),
                cpu: 0,
                emitted: spans as u64 + 1,
                dropped: 1,
            }],
            ..frame::Loss::default()
        }),
        log: vec![LogLine {
            at_ns: number,
            level: "info".into(),
            text: format!("message {number}"),
        }],
        ..Frame::default()
    }
}

fn meta() -> Meta {
    Meta {
        start_ns: 1,
        start_unix_ns: 2,
        pid: 3,
        series: vec![0],
        entries: vec![0],
        instances: (0..INSTANCES)
            .map(|id| frame::Instance {
                id,
                name: format!("lock {id}"),
                ..frame::Instance::default()
            })
            .collect(),
        objects: vec![frame::Object {
            id: 1,
            kind: "guest".into(),
            ..frame::Object::default()
        }],
        ..Meta::default()
    }
}

fn fold<'a>(model: &mut Model, frames: impl IntoIterator<Item = &'a Frame>) {
    for frame in frames {
        model.apply(frame);
    }
}

/// Everything that a model says of the run since its start.
fn totals(model: &Model) -> Frame {
    model.since(&Model::default())
}

proptest! {
    #[test]
    fn one_frame_leads_from_any_state_to_a_later_one(frames in frames(), part: prop::sample::Index) {
        let split = part.index(frames.len() + 1);
        let mut whole = Model::default();
        fold(&mut whole, &frames);
        let mut late = Model::default();
        fold(&mut late, &frames[..split]);
        late.apply(&whole.since(&late));
        prop_assert_eq!(totals(&late), totals(&whole));
        prop_assert_eq!(late.ignored, 0);
        // It goes on as if nothing had happened.
        let next = frame(99, (Hist::default(), Hist::default()), Vec::new(), 5, 2);
        fold(&mut whole, [&next]);
        fold(&mut late, [&next]);
        prop_assert_eq!(totals(&late), totals(&whole));
    }
}

#[test]
fn nothing_is_between_a_state_and_itself() {
    let mut model = Model::default();
    let wait = Hist::from_buckets([(3, 2)], 6, 3, 3);
    model.apply(&frame(0, (wait, Hist::default()), Vec::new(), 4, 3));
    let nothing = model.since(&model);
    assert_eq!(nothing.series[0].acquisitions, 0);
    assert_eq!(nothing.series[0].wait, None);
    assert!(nothing.edges.is_empty() && nothing.log.is_empty());
    assert_eq!(nothing.uncarried.unwrap().spans, 0);
}

#[test]
fn another_run_begins_from_nothing() {
    let first = frame(0, (Hist::default(), Hist::default()), Vec::new(), 4, 0);
    let mut one = Model::default();
    one.apply(&first);
    let mut again = first;
    again.meta.as_mut().unwrap().start_ns = 77;
    let mut other = Model::default();
    other.apply(&again);
    let frame = other.since(&one);
    assert_eq!(frame.series[0].acquisitions, 4);
    one.apply(&frame);
    assert_eq!(totals(&one), totals(&other));
}
