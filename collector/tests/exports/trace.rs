//! Traces for Perfetto: what must be true of each, slices of what has ended and of what goes on, and arrows.

use std::collections::BTreeMap;

use apscope_collector::diagnose::Case;
use apscope_collector::export::{Origin, perfetto};
use prost::Message;

use super::export_files::{Files, exports};
use super::{frames, recorded, stuck, table};

/// The packets of a trace, with what must be true of every trace.
fn trace(files: &Files) -> Vec<perfetto::proto::TracePacket> {
    let trace = perfetto::proto::Trace::decode(&files["out.perfetto"][..]).unwrap();
    let mut described = std::collections::BTreeSet::new();
    let mut flows: BTreeMap<u64, [u32; 2]> = BTreeMap::new();
    for packet in &trace.packet {
        if let Some(track) = &packet.track_descriptor {
            assert!(described.insert(track.uuid()), "{track:?} twice");
            assert!(
                track
                    .parent_uuid
                    .is_none_or(|parent| described.contains(&parent))
            );
        }
        let Some(event) = &packet.track_event else {
            continue;
        };
        assert!(described.contains(&event.track_uuid()), "{event:?}");
        for flow in &event.flow_ids {
            flows.entry(*flow).or_default()[0] += 1;
        }
        for flow in &event.terminating_flow_ids {
            flows.entry(*flow).or_default()[1] += 1;
        }
    }
    assert!(flows.values().all(|ends| *ends == [1, 1]), "{flows:?}");
    trace.packet
}

/// Slices of one track follow each other, whatever the task does.
fn no_slices_overlap(packets: &[perfetto::proto::TracePacket]) {
    let mut slices: BTreeMap<u64, Vec<(u64, i32)>> = BTreeMap::new();
    for packet in packets {
        if let Some(event) = &packet.track_event
            && [perfetto::proto::SLICE_BEGIN, perfetto::proto::SLICE_END].contains(&event.r#type())
        {
            let of = slices.entry(event.track_uuid()).or_default();
            of.push((packet.timestamp(), event.r#type()));
        }
    }
    for (track, mut events) in slices {
        // A reader sorts by time, and keeps the order of what is at one time.
        events.sort_by_key(|event| event.0);
        for pair in events.chunks(2) {
            let kinds: Vec<_> = pair.iter().map(|event| event.1).collect();
            let expected = [perfetto::proto::SLICE_BEGIN, perfetto::proto::SLICE_END];
            assert_eq!(kinds, expected, "slices of track {track} overlap");
        }
    }
}

fn in_category(packets: &[perfetto::proto::TracePacket], category: &str) -> usize {
    let events = packets
        .iter()
        .filter_map(|packet| packet.track_event.as_ref());
    events
        .filter(|event| event.categories == [category] && !goes_on(event))
        .count()
}

fn goes_on(event: &perfetto::proto::TrackEvent) -> bool {
    let mut about = event.debug_annotations.iter();
    about.any(|about| about.name() == "goes_on")
}

#[test]
fn a_trace_has_what_goes_on_at_the_end() {
    let (Case { model, .. }, files) = exports(&stuck(), Origin::Live);
    let packets = trace(&files);
    no_slices_overlap(&packets);
    let mut found: BTreeMap<&str, Vec<(String, u64)>> = BTreeMap::new();
    let mut open = BTreeMap::new();
    for packet in &packets {
        let Some(event) = &packet.track_event else {
            continue;
        };
        if goes_on(event) {
            open.insert(event.track_uuid(), (event, packet.timestamp()));
        } else if event.r#type() == perfetto::proto::SLICE_END
            && let Some((begin, since_ns)) = open.remove(&event.track_uuid())
        {
            assert_eq!(packet.timestamp(), model.last.at_ns);
            let of = found.entry(&begin.categories[0]).or_default();
            of.push((begin.name().to_owned(), since_ns));
        }
    }
    assert!(open.is_empty());
    let mut expected: BTreeMap<&str, Vec<(String, u64)>> = BTreeMap::new();
    let lock = |series: u32, instance| {
        let name = apscope_collector::model::query::lock_name(&model, series as u8, instance);
        name.to_owned()
    };
    for task in &model.live {
        for inside in &task.inside {
            let name = apscope_collector::model::query::entry_name(inside.entry as u8);
            let of = expected.entry("call").or_default();
            of.push((name.to_owned(), inside.since_ns));
        }
        for hold in &task.holds {
            let of = expected.entry("hold").or_default();
            of.push((lock(hold.series, hold.instance), hold.since_ns));
        }
        for wait in &task.waits {
            let of = expected.entry("wait").or_default();
            of.push((lock(wait.series, wait.instance), wait.since_ns));
        }
    }
    for of in found.values_mut().chain(expected.values_mut()) {
        of.sort();
    }
    assert_eq!(expected.len(), 3, "{expected:?}");
    assert_eq!(found, expected);
}

#[test]
fn a_trace_has_a_slice_for_each_span() {
    for frames in [frames(), recorded("--scenario hotplug --duration 1s")] {
        let (_, files) = exports(&frames, Origin::Live);
        let packets = trace(&files);
        let spans = table(&files, "spans");
        let count = |kind: &str| spans.iter().filter(|span| span["kind"] == kind).count();
        assert_eq!(in_category(&packets, "call"), count("call"));
        assert_eq!(in_category(&packets, "hold"), count("lock"));
        let waited = spans
            .iter()
            .filter(|span| !["", "0"].contains(&&span["wait_ns"][..]));
        assert_eq!(in_category(&packets, "wait"), waited.count());
    }
}

#[test]
fn arrows_go_from_a_release_to_who_waited() {
    let frames = recorded("--scenario steady --duration 2s");
    let (_, files) = exports(&frames, Origin::Live);
    let packets = trace(&files);
    no_slices_overlap(&packets);
    // Releases of each lock: when, and by whom.
    let mut releases: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    let spans = table(&files, "spans");
    let locks = || spans.iter().filter(|span| span["kind"] == "lock");
    let number =
        |span: &BTreeMap<String, String>, column: &str| span[column].parse::<u64>().unwrap();
    for span in locks() {
        let at = number(span, "start_ns") + number(span, "duration_ns");
        let of = releases.entry(span["name"].clone()).or_default();
        of.push((at, span["tid"].clone()));
    }
    for of in releases.values_mut() {
        of.sort();
    }
    let let_in = locks().filter(|span| {
        let (until, wait) = (number(span, "start_ns"), number(span, "wait_ns"));
        let of = &releases[&span["name"]];
        let first = of.partition_point(|release| release.0 < until - wait);
        let meanwhile = of[first..].iter().take_while(|release| release.0 <= until);
        wait > 0
            && meanwhile
                .into_iter()
                .any(|release| release.1 != span["tid"])
    });
    let (expected, found) = (let_in.count(), in_category(&packets, "release"));
    assert!(expected > 20, "{expected}");
    assert_eq!(found, expected);
}
