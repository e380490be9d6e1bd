//! A model as OTLP metrics: cumulative since the start of the run, histograms as they were counted.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};

use super::attribute;
use crate::diagnose::{Report, rules};
use crate::export::openmetrics::BOUNDS_NS;
use crate::model::{self, Model, query};

/// The request for one export; `None` before the first frame.
pub fn request(model: &Model, report: &Report) -> Option<ExportMetricsServiceRequest> {
    let meta = model.meta.as_ref()?;
    let times = Times {
        start: meta.start_unix_ns,
        now: model.last.at_unix_ns,
    };
    Some(ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: super::resource(model),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: metrics(model, report, times),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    })
}

/// What says that this is apscope's.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "apscope".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

fn metrics(model: &Model, report: &Report, times: Times) -> Vec<Metric> {
    let mut metrics = locks(model, times);
    metrics.extend(entry_points(model, times));
    let loss = &model.loss;
    let alone = |value| vec![times.number(Vec::new(), value)];
    for (name, what, value) in [
        (
            "apscope.events.emitted",
            "Records that probes wrote.",
            loss.emitted(),
        ),
        (
            "apscope.events.received",
            "Records that arrived.",
            loss.received,
        ),
        (
            "apscope.events.dropped",
            "Records that found no room; statistics do not depend on them.",
            loss.dropped(),
        ),
        (
            "apscope.invocations.missed",
            "Probes that the kernel skipped: while not 0, statistics are at least.",
            loss.missed,
        ),
    ] {
        metrics.push(sum(name, what, alone(value)));
    }
    let exact = u64::from(crate::export::exact(model));
    metrics.push(gauge(
        "apscope.statistics.exact",
        "1: statistics are exact; 0: they are at least.",
        alone(exact),
    ));
    let findings = rules::all()
        .iter()
        .map(|rule| {
            let id = rule.doc().id;
            let standing = report
                .findings
                .iter()
                .filter(|one| one.id == id && one.active());
            let attributes = vec![attribute("apscope.finding.id", id.to_string())];
            times.number(attributes, standing.count() as u64)
        })
        .collect();
    metrics.push(gauge(
        "apscope.findings",
        "Findings of each kind that stand now.",
        findings,
    ));
    metrics
}

type Count = (&'static str, &'static str, fn(&model::Series) -> u64);

fn locks(model: &Model, times: Times) -> Vec<Metric> {
    const COUNTS: [Count; 4] = [
        ("apscope.lock.acquisitions", "Locks obtained.", |series| {
            series.acquisitions
        }),
        ("apscope.lock.contended", "Slow paths entered.", |series| {
            series.contended
        }),
        ("apscope.lock.releases", "Releases.", |series| {
            series.releases
        }),
        (
            "apscope.lock.attempts_failed",
            "Failed trylocks and interrupted waits.",
            |series| series.attempts_failed,
        ),
    ];
    let of = |series: u8| {
        vec![
            attribute("apscope.lock.class", query::class_name(series)),
            attribute("apscope.lock.mode", query::mode_name(series)),
            attribute("apscope.lock.kind", query::kind_name(query::kind(series))),
        ]
    };
    let mut metrics: Vec<Metric> = COUNTS
        .iter()
        .map(|(name, what, count)| {
            let points = model
                .series
                .iter()
                .map(|(id, series)| times.number(of(*id), count(series)));
            sum(name, what, points.collect())
        })
        .collect();
    let distributions = |each: fn(&model::Series) -> &model::histogram::Histogram| {
        model
            .series
            .iter()
            .map(|(id, series)| times.histogram(of(*id), each(series)))
            .collect()
    };
    metrics.push(histogram(
        "apscope.lock.wait",
        "From entering the slow path to the acquisition; 0 for one that did not wait.",
        distributions(|series| &series.wait),
    ));
    metrics.push(histogram(
        "apscope.lock.hold",
        "From the acquisition to the entry of the release.",
        distributions(|series| &series.hold),
    ));
    metrics
}

fn entry_points(model: &Model, times: Times) -> Vec<Metric> {
    let of = |entry: u8| vec![attribute("apscope.entry_point", query::entry_name(entry))];
    let entries = || model.entries.iter();
    let calls = entries().map(|(id, entry)| times.number(of(*id), entry.calls));
    let returns = entries().flat_map(|(id, entry)| {
        entry.returns.iter().map(move |(code, count)| {
            let mut attributes = of(*id);
            let name = model::return_name(*id, *code);
            attributes.push(attribute("apscope.return", name));
            times.number(attributes, *count)
        })
    });
    let latency = entries().map(|(id, entry)| times.histogram(of(*id), &entry.latency));
    vec![
        sum(
            "apscope.entry_point.calls",
            "Calls started.",
            calls.collect(),
        ),
        sum(
            "apscope.entry_point.returns",
            "Returns by what was returned.",
            returns.collect(),
        ),
        histogram(
            "apscope.entry_point.duration",
            "From call to return.",
            latency.collect(),
        ),
    ]
}

impl Times {
    fn number(self, attributes: Vec<KeyValue>, value: u64) -> NumberDataPoint {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        NumberDataPoint {
            attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsInt(value)),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(
        self,
        attributes: Vec<KeyValue>,
        of: &model::histogram::Histogram,
    ) -> HistogramDataPoint {
        let mut bucket_counts = vec![0_u64; BOUNDS_NS.len() + 1];
        for (lower, _, count) in of.buckets() {
            // A bucket of the model lies between two bounds, so its lower end says which.
            let cell = &mut bucket_counts[BOUNDS_NS.partition_point(|bound| *bound < lower)];
            *cell = cell.saturating_add(count);
        }
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: of.count,
            sum: Some(seconds(of.sum_ns)),
            bucket_counts,
            explicit_bounds: BOUNDS_NS.iter().map(|bound| seconds(*bound)).collect(),
            min: of.min().map(seconds),
            max: of.max().map(seconds),
            ..HistogramDataPoint::default()
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn named(name: &str, what: &str, unit: &str, data: metric::Data) -> Metric {
    Metric {
        name: name.into(),
        description: what.into(),
        unit: unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn sum(name: &str, what: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = metric::Data::Sum(Sum {
        data_points,
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        is_monotonic: true,
    });
    named(name, what, "1", data)
}

fn gauge(name: &str, what: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    named(name, what, "1", metric::Data::Gauge(Gauge { data_points }))
}

fn histogram(name: &str, what: &str, data_points: Vec<HistogramDataPoint>) -> Metric {
    let data = metric::Data::Histogram(Histogram {
        data_points,
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
    });
    named(name, what, "s", data)
}
