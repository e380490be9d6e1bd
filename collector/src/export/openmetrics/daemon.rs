//! Metrics of the daemon itself, which `/metrics` has besides those of the run: they say nothing of a driver, so they have no
//! label `driver`.

use super::text::Kind;

/// A metric of the daemon. It has one sample, without labels.
#[derive(Debug, Clone, Copy)]
pub struct DaemonMetric {
    /// Its name, without what the kind adds.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it means.
    pub help: &'static str,
}

/// All of them, in the order in which they are written.
pub const DAEMON_METRICS: [DaemonMetric; 4] = [
    DaemonMetric {
        name: "apscope_serve_clients",
        kind: Kind::Gauge,
        help: "Clients that get frames now.",
    },
    DaemonMetric {
        name: "apscope_serve_connections",
        kind: Kind::Counter,
        help: "Connections to the socket.",
    },
    DaemonMetric {
        name: "apscope_serve_refused",
        kind: Kind::Counter,
        help: "Connections that were refused: not permitted, or too many.",
    },
    DaemonMetric {
        name: "apscope_serve_left_out_frames",
        kind: Kind::Counter,
        help: "Frames left out for clients that were too slow.",
    },
];
