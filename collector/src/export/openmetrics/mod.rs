//! Metrics as text: OpenMetrics 1.0, and the older text format of Prometheus.
//!
//! A pure function of what is known of a run: [`write`] takes the model and what the diagnosis says, and writes one
//! exposition, whole. It is the same whether a file is written or `/metrics` is answered. docs/metrics.md lists every
//! metric, from [`METRICS`].
//!
//! Names, units and label names never change while a run lasts, and how many series there can be is known beforehand:
//! labels are lock classes, modes, entry points, programs, codes and kinds of findings, all from fixed tables; never
//! tasks, guests or mdevs. Instances of locks have series only where [`Options::instances`] asks for them, and then at
//! most so many.

mod daemon;
mod metrics;
mod page;
mod samples;
mod text;

use std::io::{self, Write};

use crate::diagnose::Report;
use crate::model::Model;

pub use daemon::{DAEMON_METRICS, DaemonMetric};
pub use metrics::{METRICS, Metric};
pub use page::page;
pub use samples::Samples;
pub use text::{BOUNDS_NS, Kind};

/// Content type of [`Dialect::OpenMetrics`], for HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of [`Dialect::Prometheus`], for HTTP.
pub const CONTENT_TYPE_PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How the text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// OpenMetrics 1.0: units, `_created`, `# EOF` at the end.
    #[default]
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus, which `promtool check metrics` and the text files of node_exporter take.
    Prometheus,
}

impl Dialect {
    /// What to answer a client with, from its `Accept` header; the older format for one that says nothing.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The content type, for HTTP.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => CONTENT_TYPE,
            Self::Prometheus => CONTENT_TYPE_PROMETHEUS,
        }
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How.
    pub dialect: Dialect,
    /// Instances of each lock class that have series of their own: the first so many, in the order in which they were
    /// seen. The others are together in `instance="others"`. 0: no series by instance at all.
    pub instances: usize,
}

/// Writes all metrics of a run. Before the first frame there is no run, and nothing but the end is written.
///
/// # Errors
///
/// Those of `out`.
pub fn write(
    model: &Model,
    report: &Report,
    options: Options,
    mut out: impl Write,
) -> io::Result<()> {
    let run = Run {
        model,
        report,
        options,
    };
    let mut text = String::new();
    if model.meta.is_some() {
        for metric in &METRICS {
            let mut samples = Samples::new(metric, &run, &mut text);
            (metric.fill)(&run, &mut samples);
        }
    }
    if options.dialect == Dialect::OpenMetrics {
        text.push_str("# EOF\n");
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What the metrics are made of.
#[derive(Debug)]
pub struct Run<'a> {
    model: &'a Model,
    report: &'a Report,
    options: Options,
}
