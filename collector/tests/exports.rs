//! Exports, read by other readers than their writers: every number is the model's, and an export of a recording is that of
//! the run.
// Parquet, which is among all exports, is there on these machines alone.
#![cfg(target_endian = "little")]

mod export_files;
mod model_frames;
mod support;
#[path = "exports/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::io::Write;

use apscope_collector::diagnose::Case;
use apscope_collector::export::{Origin, each_histogram};
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
