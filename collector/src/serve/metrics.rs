//! The text of `/metrics`: what the exports write of the run, and a few lines about the daemon itself.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::grpc::Counts;
use super::hub::Hub;
use crate::export::openmetrics::{DAEMON_METRICS, Dialect, Options, write};

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
    let values = [
        &counts.watching,
        &counts.connected,
        &counts.refused,
        &counts.left_out,
    ];
    for (metric, value) in DAEMON_METRICS.iter().zip(values) {
        let value = value.load(Ordering::Relaxed);
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        let suffix = metric.kind.suffix();
        // OpenMetrics has the suffix at the sample alone, the older format in the name.
        let family = if open { "" } else { suffix };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# HELP {name}{family} {help}\n# TYPE {name}{family} {kind}\n{name}{suffix} {value}\n"
        );
    }
}
