//! The samples of one metric, in both dialects.

use std::fmt::{Display, Write};

use super::text::{BOUNDS_NS, Kind, cumulative, push_escaped, push_labels, seconds};
use super::{Dialect, Metric, Run};
use crate::model::histogram::Histogram;
use crate::model::query;

/// Takes the values of one metric, and writes them as the format wants it.
pub struct Samples<'a> {
    metric: &'a Metric,
    dialect: Dialect,
    /// `EMULATED`, `kernel` or `stacks`: on every sample.
    driver: &'static str,
    /// Seconds since 1970 when counting began.
    created: String,
    begun: bool,
    text: &'a mut String,
}

impl<'a> Samples<'a> {
    pub(super) fn new(metric: &'a Metric, run: &Run<'_>, text: &'a mut String) -> Self {
        let start_unix_ns = run.model.meta.as_ref().map_or(0, |meta| meta.start_unix_ns);
        Self {
            metric,
            dialect: run.options.dialect,
            driver: crate::export::driver(run.model),
            created: seconds(start_unix_ns),
            begun: false,
            text,
        }
    }

    /// A count, or a number.
    pub fn value(&mut self, labels: &[&str], value: impl Display) {
        self.begin();
        self.sample(self.suffix(), labels, None, value);
        if self.metric.kind == Kind::Counter {
            self.created(labels);
        }
    }

    /// A duration.
    pub fn seconds(&mut self, labels: &[&str], ns: u64) {
        self.value(labels, seconds(ns));
    }

    /// A distribution of durations.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        self.begin();
        for (bound, count) in BOUNDS_NS.iter().zip(cumulative(histogram)) {
            self.sample("_bucket", labels, Some(&seconds(*bound)), count);
        }
        self.sample("_bucket", labels, Some("+Inf"), histogram.count);
        self.sample("_count", labels, None, histogram.count);
        self.sample("_sum", labels, None, seconds(histogram.sum_ns));
        self.created(labels);
    }

    /// What follows the metric's name in a sample.
    fn suffix(&self) -> &'static str {
        match self.metric.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    /// The lines above the first sample. A metric without samples is not mentioned.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Metric {
            name,
            kind,
            unit,
            help,
            ..
        } = self.metric;
        // In the older format, the name is that of the samples, and there is no kind for texts.
        let (name, kind) = match (self.dialect, kind) {
            (Dialect::OpenMetrics, kind) => ((*name).to_owned(), kind.name()),
            (Dialect::Prometheus, Kind::Info) => (format!("{name}_info"), "gauge"),
            (Dialect::Prometheus, kind) => (format!("{name}{}", self.suffix()), kind.name()),
        };
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if self.dialect == Dialect::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = write!(self.text, "# HELP {name} ");
        if self.driver == crate::export::EMULATED {
            self.text.push_str("EMULATED: ");
        }
        push_escaped(self.text, help);
        self.text.push('\n');
    }

    fn created(&mut self, labels: &[&str]) {
        if self.dialect == Dialect::OpenMetrics {
            let created = std::mem::take(&mut self.created);
            self.sample("_created", labels, None, &created);
            self.created = created;
        }
    }

    fn sample(&mut self, suffix: &str, values: &[&str], le: Option<&str>, value: impl Display) {
        debug_assert_eq!(
            values.len(),
            self.metric.labels.len(),
            "{}",
            self.metric.name
        );
        self.text.push_str(self.metric.name);
        self.text.push_str(suffix);
        self.text.push('{');
        let names = self.metric.labels.iter().copied();
        let mut labels = vec![("driver", self.driver)];
        labels.extend(names.zip(values.iter().copied()));
        labels.extend(le.map(|bound| ("le", bound)));
        push_labels(self.text, &labels);
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// The lock series of a run, with its class, mode and kind: the labels of every lock metric.
pub(super) fn series(run: &Run<'_>) -> Vec<(u8, [&'static str; 3])> {
    let listed = query::listed_series(run.model).into_iter();
    listed
        .map(|id| {
            let kind = query::kind_name(query::kind(id));
            (id, [query::class_name(id), query::mode_name(id), kind])
        })
        .collect()
}
