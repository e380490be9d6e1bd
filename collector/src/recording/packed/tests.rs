use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::frame::{
    CoarseDelta, Hist, Holding, Inside, Instance, Live, Matrix, Meta, Object, SeriesDelta, Spans,
    TaskState, Waiting,
};

fn there_and_back(frame: &Frame) -> Frame {
    let bytes = pack(frame).encode_to_vec();
    let mut back = Frame::decode(&bytes[..]).unwrap();
    unpack(&mut back).unwrap();
    back
}

/// Numbers of every size, with many that are equal.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..4,
        Just(u64::MAX),
        any::<u64>(),
        1_000_000_u64..1_001_000
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..4, Just(u32::MAX), any::<u32>()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("probe".to_owned()),
        Just("kvm->lock[guest-3]".to_owned()),
        Just("12".to_owned()),
        "[a-c#0-3-]{0,6}",
        Just("x".repeat(300)),
    ]
}

prop_compose! {
    fn instance()(id in small(), name in text(), address in number(), series in 0_u32..3, guest in 0_u32..5) -> Instance {
        Instance { id, name, address, series, guest }
    }
}

prop_compose! {
    fn object()(id in small(), kind in text(), name in text(), address in number(), guest in 0_u32..5,
        lists in proptest::option::of(proptest::collection::vec(small(), 0..4))) -> Object {
        let assigned = lists.clone().map(|numbers| Matrix { adapters: numbers.clone(), domains: numbers, control_domains: vec![7] });
        let in_guest = lists.map(|_| Matrix::default());
        Object { id, kind, name, address, guest, assigned, in_guest }
    }
}

prop_compose! {
    fn task()(tid in small(), pid in small(), calls in proptest::collection::vec((0_u32..3, number(), number(), small()), 0..4),
        locks in proptest::collection::vec((small(), number(), number(), number(), text()), 0..4)) -> TaskState {
        let inside = calls.iter().map(|(entry, since_ns, arg, mdev)| Inside {
            entry: *entry, since_ns: *since_ns, object: *arg, arg: *arg, mdev: *mdev, guest: *mdev, ..Inside::default()
        });
        let holds = locks.iter().map(|(series, lock, since_ns, serial, evidence)| Holding {
            series: *series, lock: *lock, since_ns: *since_ns, serial: *serial, entry: 1, evidence: evidence.clone(),
            ..Holding::default()
        });
        let waits = locks.iter().map(|(series, lock, since_ns, serial, evidence)| Waiting {
            series: *series, lock: *lock, since_ns: *since_ns, serial: *serial, entry: 2, evidence: evidence.clone(),
            ..Waiting::default()
        });
        TaskState { tid, pid, inside: inside.collect(), holds: holds.collect(), waits: waits.collect(), ..TaskState::default() }
    }
}

fn hist() -> impl Strategy<Value = Option<Hist>> {
    let any = (
        proptest::collection::vec(small(), 0..3),
        proptest::collection::vec(number(), 0..3),
        number(),
        prop_oneof![9 => Just(0_u64), 1 => any::<u64>()],
    );
    prop_oneof![
        Just(None),
        Just(Some(Hist::default())),
        number().prop_map(|count| Some(Hist::from_buckets([(0, count)], 0, 0, 0))),
        number().prop_map(|ns| Some(Hist::from_buckets(
            [(ns.ilog2_or_0() as usize, 1)],
            ns,
            0,
            0
        ))),
        any.prop_map(|(step, count, sum_ns, max_ns_total)| {
            Some(Hist {
                step,
                count,
                sum_ns,
                max_ns_total,
                min_ns_total: 0,
            })
        }),
    ]
}

trait Ilog2 {
    fn ilog2_or_0(self) -> u32;
}

impl Ilog2 for u64 {
    fn ilog2_or_0(self) -> u32 {
        self.checked_ilog2().unwrap_or(0)
    }
}

prop_compose! {
    fn row()(id in small(), counts in proptest::array::uniform6(number()), wait in hist(), hold in hist()) -> CoarseDelta {
        let [acquisitions, contended, attempts_failed, unmatched_releases, releases, wakes] = counts;
        CoarseDelta { id, acquisitions, contended, attempts_failed, unmatched_releases, releases, wait, hold, wakes }
    }
}

prop_compose! {
    fn series()(series in small(), by_instance in proptest::collection::vec(row(), 0..4), by_entry in proptest::collection::vec(row(), 0..2))
        -> SeriesDelta {
        SeriesDelta { series, by_instance, by_entry, ..SeriesDelta::default() }
    }
}

prop_compose! {
    fn spans()(rows in proptest::collection::vec((number(), number(), number(), 0_u32..3, 0_u32..3, small()), 0..8), cut in 0_usize..20)
        -> Spans {
        let mut spans = Spans { tids: vec![7, 8, 9], ..Spans::default() };
        for (step, duration, extra, task, kind, of) in rows {
            spans.start_step_ns.push(step as i64);
            spans.duration_ns.push(duration);
            spans.extra.push(extra);
            spans.task.push(task);
            spans.instance.push(of);
            spans.result.push(0);
            spans.packed.push(kind << 24 | 0x1_0203);
            if kind == 1 {
                spans.mdevs.push(of);
                spans.guests.push(of / 2);
            }
        }
        // Columns that do not fit together.
        match cut {
            0 => drop(spans.extra.pop()),
            1 => spans.tids.truncate(1),
            2 => spans.mdevs.clear(),
            3 => drop(spans.guests.pop()),
            4 => spans.packed.push(1),
            _ => {}
        }
        spans
    }
}

prop_compose! {
    fn frame()(at_ns in number(),
        instances in proptest::option::of(proptest::collection::vec(instance(), 0..6)),
        objects in proptest::collection::vec(object(), 0..4),
        tasks in proptest::option::of(proptest::collection::vec(task(), 0..4)),
        series in proptest::collection::vec(series(), 0..3), spans in proptest::option::of(spans()), base: bool) -> Frame {
        let mut frame = Frame { at_ns, spans, series, ..Frame::default() };
        frame.meta = instances.map(|instances| Meta { instances, objects, ..Meta::default() });
        frame.live = tasks.map(|tasks| Live { tasks, ..Live::default() });
        if base {
            let series = std::mem::take(&mut frame.series);
            frame.base = Some(crate::frame::Base { series, ..Default::default() });
        }
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_comes_back(frame in frame()) {
        prop_assert_eq!(there_and_back(&frame), frame);
    }

    #[test]
    fn senseless_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), frame in frame(), at: prop::sample::Index) {
        let mut packed = pack(&frame).encode_to_vec();
        if let Some(place) = (!packed.is_empty()).then(|| at.index(packed.len())) {
            packed.splice(place..place, bytes.iter().take(3).copied());
        }
        for bytes in [&bytes, &packed] {
            if let Ok(mut frame) = Frame::decode(&bytes[..]) {
                let _ = unpack(&mut frame);
            }
        }
    }
}

#[test]
fn locks_of_many_guests_are_nearly_nothing() {
    let instances = (0..1_000_u32).map(|n| Instance {
        id: n,
        name: format!("kvm->lock[guest-{n}]"),
        address: 0x5000_0000_1000 + u64::from(n) * 0x8b0,
        series: 6,
        guest: n + 1,
    });
    let meta = Meta {
        instances: instances.collect(),
        ..Meta::default()
    };
    let frame = Frame {
        meta: Some(meta),
        ..Frame::default()
    };
    let packed = pack(&frame);
    assert!(packed.encoded_len() < 2_100, "{}", packed.encoded_len());
    assert_eq!(there_and_back(&frame), frame);
}

/// Who has very many calls and locks costs as many steps, not their square: this takes minutes otherwise.
#[test]
fn a_task_with_very_many_calls_is_read_at_once() {
    let calls = (0..400_000).map(|entry| Inside {
        entry,
        ..Inside::default()
    });
    let holds = (0..400_000).map(|_| Holding {
        entry: 500_000,
        ..Holding::default()
    });
    let mut frame = Frame {
        packed: Some(Packed {
            live: Some(Live {
                tasks: vec![TaskState {
                    inside: calls.collect(),
                    holds: holds.collect(),
                    ..TaskState::default()
                }],
                ..Live::default()
            }),
            ..Packed::default()
        }),
        ..Frame::default()
    };
    unpack(&mut frame).unwrap();
    let tasks = frame.live.unwrap().tasks;
    assert_eq!(tasks[0].inside.len(), 400_000);
    assert_eq!(tasks[0].holds[399_999].evidence, "probe");
}

/// A recording of version 2, and what a reader that was written after docs/recording.md in another language has made of
/// it: the same frames, as version 1 has them.
#[test]
fn the_bytes_of_version_2_stay_what_they_are() {
    let frames = |bytes: &'static [u8]| -> Vec<Frame> {
        let reader = crate::recording::Reader::new(bytes).unwrap();
        reader.collect::<Result<_, _>>().unwrap()
    };
    let packed = include_bytes!("fixtures/v2.apscope");
    let plain = include_bytes!("fixtures/v1.apscope");
    assert_eq!((packed[16], plain[16]), (2, 1));
    let (packed, plain) = (frames(packed), frames(plain));
    assert!(packed.len() > 5);
    assert_eq!(packed, plain);
    let tasks = packed.iter().filter_map(|frame| frame.live.as_ref());
    assert!(
        tasks
            .flat_map(|live| &live.tasks)
            .any(|task| !task.holds.is_empty())
    );
    assert!(packed.iter().any(|frame| frame.spans.is_some()));

    // Packed anew, every part that can be is.
    for frame in &plain {
        let again = pack(frame).packed.unwrap_or_default();
        assert_eq!(again.spans.is_some(), frame.spans.is_some());
        assert_eq!(again.live.is_some(), frame.live.is_some());
        let meta = frame.meta.clone().unwrap_or_default();
        assert_eq!(again.instances.len(), meta.instances.len());
        assert_eq!(again.objects.len(), meta.objects.len());
        let counts = frame.series.iter().any(|s| !s.by_instance.is_empty());
        assert_eq!(again.by_instance.is_some(), counts);
    }
}
