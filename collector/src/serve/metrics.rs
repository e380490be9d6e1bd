//! The text of `/metrics`: what the exports write of the run, and a few lines about the daemon itself.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::grpc::Counts;
use super::hub::Hub;
use crate::export::openmetrics::{Dialect, Options, write};

/// How a metric of the daemon is counted.
enum Kind {
    Gauge,
    Counter,
}

/// Content type and text, as the client accepts it.
pub fn render(
    hub: &Hub,
    counts: &Counts,
    accept: &str,
    instances: usize,
) -> (&'static str, String) {
    let dialect = Dialect::accepted(accept);
    let mut text = Vec::new();
    let options = Options { dialect, instances };
    let (model, report) = hub.now();
    // Writing to memory cannot fail.
    let _ = write(&model, &report, options, &mut text);
    drop(model);
    let mut text = String::from_utf8(text).unwrap_or_default();
    let open = dialect == Dialect::OpenMetrics;
    let end = "# EOF\n";
    if open && text.ends_with(end) {
        text.truncate(text.len() - end.len());
    }
    own(counts, open, &mut text);
    if open {
        text.push_str(end);
    }
    (dialect.content_type(), text)
}

fn own(counts: &Counts, open: bool, text: &mut String) {
    let metrics: [(&str, Kind, &str, &AtomicU64); 4] = [
        (
            "apscope_serve_clients",
            Kind::Gauge,
            "Clients that get frames now.",
            &counts.watching,
        ),
        (
            "apscope_serve_connections",
            Kind::Counter,
            "Connections to the socket.",
            &counts.connected,
        ),
        (
            "apscope_serve_refused",
            Kind::Counter,
            "Connections that were refused: not permitted, or too many.",
            &counts.refused,
        ),
        (
            "apscope_serve_left_out_frames",
            Kind::Counter,
            "Frames left out for clients that were too slow.",
            &counts.left_out,
        ),
    ];
    for (name, kind, help, value) in metrics {
        let value = value.load(Ordering::Relaxed);
        let (kind, suffix) = match kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        // OpenMetrics has the suffix at the sample alone, the older format in the name.
        let family = if open { "" } else { suffix };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# HELP {name}{family} {help}\n# TYPE {name}{family} {kind}\n{name}{suffix} {value}\n"
        );
    }
}
