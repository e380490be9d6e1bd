//! Metrics as text: that the text is what the formats want, that its numbers are the model's, and that docs/metrics.md
//! lists every metric. With APSCOPE_UPDATE_DOCS=1 in the environment the test writes that page.

mod model_frames;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use apscope_collector::diagnose::{Case, Report};
use apscope_collector::export::openmetrics::{self, Dialect, Kind, METRICS, Options};
use apscope_collector::frame::Frame;
use apscope_collector::model::{Model, query};
use model_frames::{add_writers, kernel_run, run};

fn fold(frames: &[Frame]) -> Case {
    let mut case = Case::default();
    for frame in frames {
        case.apply(frame);
    }
    case
}

fn text(case: &Case, options: Options) -> String {
    let mut text = Vec::new();
    openmetrics::write(&case.model, &case.report(), options, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn sane() -> Case {
    let mut frames = run(20);
    add_writers(frames.last_mut().unwrap());
    fold(&frames)
}

/// A sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, String);

/// Samples of a text, each of which must stand in a block that begins with its family's TYPE.
fn samples(text: &str) -> Vec<Sample> {
    let mut family = String::new();
    let mut found = Vec::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            declared.split(' ').next().unwrap().clone_into(&mut family);
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.strip_suffix('}').unwrap().split_once('{').unwrap();
        assert!(name.starts_with(&family), "{line} stands below {family}");
        assert!(keys.insert(series.to_owned()), "{series} twice");
        let labels = labels
            .split("\",")
            .map(|label| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            })
            .collect();
        found.push((name.to_owned(), labels, value.to_owned()));
    }
    found
}

fn value<'a>(samples: &'a [Sample], name: &str, labels: &[(&str, &str)]) -> &'a str {
    let mut fitting = samples.iter().filter(|(own, have, _)| {
        let fits = |(name, value): &(&str, &str)| have.get(*name).is_some_and(|v| v == value);
        own == name && labels.iter().all(fits)
    });
    let found = &fitting
        .next()
        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
        .2;
    assert!(fitting.next().is_none(), "several {name} {labels:?}");
    found
}

fn ns(seconds: &str) -> u64 {
    let (whole, rest) = seconds.split_once('.').unwrap();
    whole.parse::<u64>().unwrap() * 1_000_000_000 + format!("{rest:0<9}").parse::<u64>().unwrap()
}

#[test]
fn the_numbers_are_the_models() {
    let case = sane();
    let Case { model, .. } = &case;
    let all = samples(&text(&case, Options::default()));
    let mut compared = 0;
    for id in query::listed_series(model) {
        let series = &model.series[&id];
        let labels = [
            ("class", query::class_name(id)),
            ("mode", query::mode_name(id)),
        ];
        let number = |name: &str| value(&all, name, &labels).parse::<u64>().unwrap();
        assert_eq!(
            number("apscope_lock_acquisitions_total"),
            series.acquisitions
        );
        assert_eq!(number("apscope_lock_contended_total"), series.contended);
        assert_eq!(number("apscope_lock_releases_total"), series.releases);
        for (what, histogram) in [("wait", &series.wait), ("hold", &series.hold)] {
            let name = |suffix| format!("apscope_lock_{what}_seconds_{suffix}");
            assert_eq!(number(&name("count")), histogram.count);
            assert_eq!(ns(value(&all, &name("sum"), &labels)), histogram.sum_ns);
            let bucket = |le: &str| {
                let labels = [labels[0], labels[1], ("le", le)];
                value(&all, &name("bucket"), &labels)
                    .parse::<u64>()
                    .unwrap()
            };
            assert_eq!(bucket("+Inf"), histogram.count);
            for bound in openmetrics::BOUNDS_NS {
                let below = histogram.buckets().filter(|(_, upper, _)| *upper <= bound);
                let le = if bound == 0 {
                    "0.0".to_owned()
                } else {
                    seconds(bound)
                };
                assert_eq!(
                    bucket(&le),
                    below.map(|b| b.2).sum::<u64>(),
                    "{labels:?} {le}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
    for id in query::listed_entries(model) {
        let labels = [("entry_point", query::entry_name(id))];
        let calls = value(&all, "apscope_entry_calls_total", &labels);
        assert_eq!(calls.parse::<u64>().unwrap(), model.entries[&id].calls);
    }
    let sums = |name: &str| -> u64 {
        let own = all.iter().filter(|sample| sample.0 == name);
        own.map(|sample| sample.2.parse::<u64>().unwrap()).sum()
    };
    assert_eq!(sums("apscope_events_emitted_total"), model.loss.emitted());
    assert_eq!(sums("apscope_events_dropped_total"), model.loss.dropped());
    assert_eq!(sums("apscope_verdict"), 1);
    let returned: u64 = model
        .entries
        .values()
        .flat_map(|e| e.returns.values())
        .sum();
    assert_eq!(sums("apscope_entry_returns_total"), returned);
}

fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').to_owned()
}

#[test]
fn each_sample_says_what_was_measured() {
    for (case, driver) in [(sane(), "EMULATED"), (fold(&kernel_run(3, 1)), "kernel")] {
        for dialect in [Dialect::OpenMetrics, Dialect::Prometheus] {
            let options = Options {
                dialect,
                instances: 2,
            };
            for (name, labels, _) in samples(&text(&case, options)) {
                assert_eq!(labels["driver"], driver, "{name}");
            }
        }
    }
}

#[test]
fn each_format_has_what_belongs_to_it() {
    let case = sane();
    let open = text(&case, Options::default());
    assert!(open.ends_with("\n# EOF\n"));
    assert!(open.contains("# UNIT apscope_lock_wait_seconds seconds\n"));
    assert!(open.contains("# TYPE apscope_lock_acquisitions counter\n"));
    assert!(open.contains("apscope_lock_wait_seconds_created{"));
    assert!(open.contains("# HELP apscope_entry_calls EMULATED: "));
    let old = text(
        &case,
        Options {
            dialect: Dialect::Prometheus,
            ..Options::default()
        },
    );
    assert!(old.contains("# TYPE apscope_lock_acquisitions_total counter\n"));
    for absent in ["# EOF", "# UNIT", "_created"] {
        assert!(!old.contains(absent), "{absent}");
    }
    let numbers = |text: &str| -> Vec<_> {
        let all = samples(text).into_iter();
        all.filter(|sample| !sample.0.ends_with("_created"))
            .collect()
    };
    assert_eq!(numbers(&open), numbers(&old));
    assert_eq!(
        text(&Case::default(), Options::default()),
        "# EOF\n",
        "there is no run yet"
    );
}

#[test]
fn instances_are_as_many_as_were_asked_for_and_the_others_together() {
    let case = sane();
    let of = |instances| {
        let options = Options {
            instances,
            ..Options::default()
        };
        let all = samples(&text(&case, options)).into_iter();
        let name = "apscope_lock_instance_acquisitions_total";
        all.filter(|s| s.0 == name && s.1["class"] == "kvm->lock")
            .map(|s| (s.1["instance"].clone(), s.2.parse::<u64>().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0), []);
    let [all, one] = [of(8), of(1)];
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kvm->lock[guest-0]", "kvm->lock[guest-1]"]);
    assert_eq!(one, [all[0].clone(), ("others".to_owned(), all[1].1)]);
}

#[test]
fn names_and_labels_are_what_the_formats_allow() {
    let mut names = BTreeSet::new();
    for metric in &METRICS {
        assert!(names.insert(metric.name), "{} twice", metric.name);
        assert!(metric.name.starts_with("apscope_"));
        assert!(metric.unit.is_empty() || metric.name.ends_with(metric.unit));
        for reserved in ["_total", "_count", "_sum", "_bucket", "_created", "_info"] {
            assert!(!metric.name.ends_with(reserved), "{}", metric.name);
        }
        let word = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(word(metric.name) && metric.labels.iter().all(|label| word(label)));
        assert!(!metric.help.contains(['\n', '"', '\\']), "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        assert!(metric.kind != Kind::Histogram || metric.unit == "seconds");
    }
}

#[test]
fn senseless_labels_do_no_harm() {
    let mut frames = run(3);
    let meta = frames[0].meta.as_mut().unwrap();
    meta.generation = "v\"6\\\n# EOF".into();
    let text = text(&fold(&frames), Options::default());
    assert!(text.contains(r#"generation="v\"6\\\n# EOF""#));
    assert_eq!(text.matches("\n# EOF\n").count(), 1);
}

#[test]
fn no_report_no_metrics_of_a_model_without_frames() {
    let report: Report = Case::default().report();
    let mut text = Vec::new();
    let options = Options {
        dialect: Dialect::Prometheus,
        ..Options::default()
    };
    openmetrics::write(&Model::default(), &report, options, &mut text).unwrap();
    assert!(text.is_empty());
}

#[test]
fn the_page_lists_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let expected = openmetrics::page();
    if std::env::var_os("APSCOPE_UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "run with APSCOPE_UPDATE_DOCS=1");
}
