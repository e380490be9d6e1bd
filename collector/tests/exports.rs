//! Exports, read by other readers than their writers: every number is the model's, and an export of a recording is that of
//! the run.
// Parquet, which is among all exports, is there on these machines alone.
#![cfg(target_endian = "little")]

mod export_files;
mod model_frames;
mod support;

use std::collections::BTreeMap;
use std::io::Write;

use apscope_collector::diagnose::Case;
use apscope_collector::export::{Origin, each_histogram, perfetto};
use apscope_collector::frame::Frame;
use apscope_collector::model::Model;
use apscope_collector::model::histogram::Histogram;
use apscope_collector::recording::Reader;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use export_files::{Files, exports, replayed};
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use model_frames::{Wild, add_writers, kernel_run, run};
use proptest::prelude::*;
use prost::Message;
use support::Place;

/// The sane run, with spans of calls among those of locks.
fn frames() -> Vec<Frame> {
    let mut frames = run(20);
    add_writers(frames.last_mut().unwrap());
    frames
}

/// Two seconds of the emulated driver, in process, as they were recorded.
fn recorded(arguments: &str) -> Vec<Frame> {
    let place = Place::new();
    place.run(&format!(
        "record -q --source emulator --probe in-process --guests 3 --vcpus 2 {arguments} -o run.apscope"
    ));
    let reader = Reader::open(&place.path("run.apscope")).unwrap();
    reader.map(Result::unwrap).collect()
}

/// A deadlock, recorded until it stood.
fn stuck() -> Vec<Frame> {
    let frames = recorded("--generation v5.13 --scenario se-start --seed 7 --duration 3s");
    let waits = |frame: &Frame| {
        frame
            .live
            .iter()
            .flat_map(|live| &live.tasks)
            .any(|task| !task.waits.is_empty())
    };
    assert!(frames.last().is_some_and(waits), "it is not stuck");
    frames
}

fn text(files: &Files, name: &str) -> String {
    String::from_utf8(files[name].clone()).unwrap()
}

fn table(files: &Files, name: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(&files[&format!("{name}.csv")][..]);
    reader.deserialize().map(Result::unwrap).collect()
}

fn key(parts: [&str; 3]) -> String {
    let key = parts.join("/").replace(' ', "_");
    key.trim_end_matches('/').to_owned()
}

/// The rows of a table of buckets add up to the counts of the model's histograms.
fn assert_counts(model: &Model, rows: impl Iterator<Item = (String, u64)>) {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (key, count) in rows {
        *counts.entry(key).or_default() += count;
    }
    let expected: BTreeMap<_, _> = histograms(model)
        .into_iter()
        .map(|(k, h)| (k, h.count))
        .collect();
    assert_eq!(counts, expected);
}

fn histograms(model: &Model) -> BTreeMap<String, Histogram> {
    let mut all = BTreeMap::new();
    each_histogram(model, |what, name, mode, histogram| {
        if histogram.count > 0 {
            all.insert(key([what, name, mode]), histogram.clone());
        }
    });
    assert!(!all.is_empty());
    all
}

#[test]
fn an_export_of_a_recording_is_that_of_the_run() {
    for frames in [
        frames(),
        kernel_run(5, 1),
        recorded("--scenario steady --duration 1s"),
        recorded("--scenario se-start --seed 7 --duration 1s"),
    ] {
        let (_, live) = exports(&frames, Origin::Live);
        let (_, replay) = exports(&replayed(&frames), Origin::Recording);
        assert_eq!(live.len(), 30);
        for (name, bytes) in &live {
            let known = |bytes: &[u8]| {
                // Where it comes from is the one difference.
                let kind = [
                    "\"kind\": \"recording\"",
                    "source,recording",
                    "<dd>recording</dd>",
                ];
                let mut text = String::from_utf8_lossy(bytes).into_owned();
                for (from, source) in kind
                    .iter()
                    .flat_map(|from| [(from, "emulator"), (from, "kernel")])
                {
                    text = text.replace(&from.replace("recording", source), from);
                }
                text
            };
            assert!(
                known(bytes) == known(&replay[name]),
                "{name} is another one from the recording"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn senseless_frames_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4_000), sane_first: bool) {
        let mut frames = if sane_first { run(2) } else { Vec::new() };
        let mut wild = Wild::new(&bytes);
        frames.extend((0..3).map(|_| wild.frame()));
        let (_, files) = exports(&frames, Origin::Recording);
        prop_assert_eq!(files.len(), 30);
        let metrics = text(&files, "out.openmetrics");
        let mut seen = std::collections::BTreeSet::new();
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            let series = line.rsplit_once(' ').unwrap().0;
            prop_assert!(seen.insert(series), "{} twice", series);
        }
    }
}

#[test]
fn everything_says_what_was_measured() {
    let (_, files) = exports(&frames(), Origin::Live);
    for (name, bytes) in &files {
        let text = String::from_utf8_lossy(bytes);
        if name.strip_suffix(".csv").is_some() && text.lines().count() < 2 {
            continue;
        }
        assert!(
            text.contains("EMULATED") || text.contains("\"emulated\": true"),
            "{name}"
        );
    }
    for (name, bytes) in exports(&kernel_run(5, 1), Origin::Live).1 {
        assert!(
            !String::from_utf8_lossy(&bytes).contains("EMULATED"),
            "{name}"
        );
    }
}

#[test]
fn tables_have_the_numbers_of_the_model() {
    let (Case { model, .. }, files) = exports(&frames(), Origin::Live);
    let spans = table(&files, "spans");
    assert_eq!(spans.len() as u64, model.span_count);
    let last = spans.last().unwrap();
    assert_eq!(
        (&last["kind"][..], &last["on_behalf_of_comm"][..]),
        ("call", "mdevctl")
    );
    let locks = table(&files, "locks");
    assert_eq!(locks.len(), model.meta.as_ref().unwrap().series.len());
    let sum = |rows: &[BTreeMap<String, String>], column: &str| -> u64 {
        rows.iter()
            .map(|row| row[column].parse::<u64>().unwrap())
            .sum()
    };
    let series = || model.series.values();
    assert_eq!(
        sum(&locks, "acquisitions"),
        series().map(|s| s.acquisitions).sum::<u64>()
    );
    assert_eq!(
        sum(&locks, "wait_sum_ns"),
        series().map(|s| s.wait.sum_ns).sum::<u64>()
    );
    let rows = table(&files, "histograms").into_iter().map(|row| {
        let parts = [&row["what"], &row["name"], &row["mode"]];
        (
            key(parts.map(String::as_str)),
            row["count"].parse().unwrap(),
        )
    });
    assert_counts(&model, rows);
}

#[test]
fn a_histogram_log_has_the_same_counts_and_percentiles() {
    let (Case { model, .. }, files) = exports(&recorded("--duration 1s"), Origin::Live);
    let expected = histograms(&model);
    let mut found = 0;
    for entry in IntervalLogIterator::new(&files["out.hlog"]) {
        let LogEntry::Interval(interval) = entry.unwrap() else {
            continue;
        };
        let tag = interval.tag().unwrap().as_str();
        let ours = expected.get(tag).unwrap_or_else(|| panic!("{tag}"));
        let bytes = BASE64.decode(interval.encoded_histogram()).unwrap();
        let theirs: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(theirs.len(), ours.count, "{tag}");
        for q in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let (a, b) = (theirs.value_at_quantile(q), ours.quantile(q).unwrap());
            assert!(
                a.abs_diff(b) as f64 <= b as f64 / 1000.0 + 1.0,
                "{tag} {q}: {a} {b}"
            );
        }
        found += 1;
    }
    assert_eq!(found, expected.len());
}

#[test]
fn folded_stacks_add_up_to_what_was_waited_and_held() {
    for frames in [
        frames(),
        kernel_run(5, 2),
        recorded("--duration 1s --stacks-over 1ms"),
    ] {
        let (Case { model, .. }, files) = exports(&frames, Origin::Live);
        let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in text(&files, "out.folded").lines() {
            let (stack, ns) = line.rsplit_once(' ').unwrap();
            let parts: Vec<_> = stack.split(';').collect();
            assert!(parts.len() >= 4, "{line}");
            if parts[1].ends_with(" that goes on") {
                continue;
            }
            let key = (parts[1].to_owned(), parts[parts.len() - 1].to_owned());
            *sums.entry(key).or_default() += ns.parse::<u64>().unwrap();
        }
        for (&id, series) in &model.series {
            for (what, histogram) in [("wait", &series.wait), ("hold", &series.hold)] {
                let name = apscope_collector::model::query::series_name(id);
                let sum = sums.remove(&(what.to_owned(), name.clone())).unwrap_or(0);
                assert_eq!(sum, histogram.sum_ns, "{what} {name}");
            }
        }
        assert!(sums.is_empty(), "{sums:?}");
    }
}

#[test]
fn the_graph_has_every_edge() {
    let (Case { model, .. }, files) = exports(&frames(), Origin::Live);
    let text = text(&files, "out.dot");
    assert!(text.starts_with("digraph apscope {\n") && text.ends_with("}\n"));
    assert_eq!(text.matches('{').count(), text.matches('}').count());
    let edges = text
        .lines()
        .filter(|line| line.trim_start().starts_with('s') && line.contains("->"));
    let arrows = apscope_collector::export::dot::arrows(&model);
    assert_eq!(
        edges.filter(|line| line.contains("style=")).count(),
        arrows.len()
    );
    assert!(
        text.contains("s8 -> s12 [label=\"20\", style=dotted"),
        "{text}"
    );
    assert!(text.contains("waits 400 ns in handle_pqap"), "{text}");
}

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
fn folded_stacks_have_what_goes_on_apart_from_the_sums() {
    let (Case { model, .. }, files) = exports(&stuck(), Origin::Live);
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for task in &model.live {
        let holds = task.holds.iter().map(|h| ("hold", h.series, h.since_ns));
        let waits = task.waits.iter().map(|w| ("wait", w.series, w.since_ns));
        for (what, series, since_ns) in holds.chain(waits) {
            let name = apscope_collector::model::query::series_name(series as u8);
            let key = (format!("{what} that goes on"), name);
            *expected.entry(key).or_default() += model.last.at_ns - since_ns;
        }
    }
    let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in text(&files, "out.folded").lines() {
        let (stack, ns) = line.rsplit_once(' ').unwrap();
        let parts: Vec<_> = stack.split(';').collect();
        if parts[1].ends_with("goes on") {
            let key = (parts[1].to_owned(), parts[parts.len() - 1].to_owned());
            *found.entry(key).or_default() += ns.parse::<u64>().unwrap();
        }
    }
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

#[test]
fn parquet_files_have_every_span_and_every_bucket() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let (Case { model, .. }, files) = exports(&recorded("--duration 1s"), Origin::Live);
    let open = |name: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&files[name]).unwrap();
        SerializedFileReader::new(file).unwrap()
    };
    let spans = open("spans.parquet");
    assert_eq!(
        spans.metadata().file_metadata().num_rows() as u64,
        model.span_count
    );
    let rows = table(&files, "spans");
    for (row, line) in spans.get_row_iter(None).unwrap().zip(&rows) {
        let row = row.unwrap();
        assert_eq!(row.get_string(3).unwrap(), &line["name"]);
        assert_eq!(row.get_long(11).unwrap().to_string(), line["duration_ns"]);
    }
    let file = open("histograms.parquet");
    let rows = file.get_row_iter(None).unwrap().map(|row| {
        let row = row.unwrap();
        let parts = [6, 7, 8].map(|at| row.get_string(at).unwrap().as_str());
        (key(parts), row.get_long(11).unwrap() as u64)
    });
    assert_counts(&model, rows);
}

#[test]
fn stacks_of_the_emulated_driver_lead_through_its_functions() {
    let Some(_permit) = support::bpf::permitted() else {
        return;
    };
    let place = Place::new();
    place.run(
        "record -q --source emulator --probe ebpf --guests 3 --vcpus 2 --duration 2s --stacks-over 100us -o run.apscope",
    );
    let reader = Reader::open(&place.path("run.apscope")).unwrap();
    let stacks: Vec<_> = reader.flat_map(|frame| frame.unwrap().stacks).collect();
    assert!(!stacks.is_empty());
    let in_driver = |stack: &&apscope_collector::frame::Stack| {
        let mut frames = stack.frames.iter();
        stack.frames.len() > 2 && frames.any(|frame| frame.contains("emulator::driver"))
    };
    let found = stacks.iter().filter(in_driver).count();
    assert!(found > 0, "{:?}", stacks.first());
}
