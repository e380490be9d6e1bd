//! docs/metrics.md, from the list of metrics.

use std::fmt::Write;

use super::{BOUNDS_NS, DAEMON_METRICS, METRICS};

const INTRODUCTION: &str = "\
# Metrics

Every metric that `apscope export --format openmetrics` and `--format prometheus` write, and that is served for
Prometheus. A test keeps this page equal to the code.

The two formats hold the same numbers. OpenMetrics has units, the time at which counting began (`_created`), and `# EOF`
at the end, so that a text that was cut is known for one. The older text format of Prometheus is what
`promtool check metrics` and the text files of node_exporter take.

* Each sample has the label `driver`: `kernel`, `EMULATED` for the emulated driver, `stacks` for a text that somebody
  saved. Rules for real machines select `driver=\"kernel\"`. The daemon's own metrics, at the end, do not have it.
* Spellings of classes, modes and entry points are those of [names.md](names.md).
* Counters and histograms are exact while `apscope_statistics_exact` is 1; otherwise read them as \"at least\". At level 0
  of a kernel nothing is counted.
* Seconds have every digit of the nanoseconds that were counted.
* A histogram of waits has a bucket `le=\"0.0\"`: what did not wait.

## Labels, and how many series there are

Labels are lock classes, modes, entry points, programs, codes and kinds of findings, all from fixed tables; never tasks,
guests or mdevs. So the number of series depends on the generation of the driver, not on how many guests a machine has.
Metrics by instance (`apscope_lock_instance_...`) are there only with `--instances N`: the first N instances of each class
have series of their own, in the order in which they were seen, the others are together in `instance=\"others\"`. So a class
has at most N + 1.

";

/// The page.
pub fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    let _ = writeln!(
        text,
        "A histogram has {} buckets, and `_count` and `_sum`; OpenMetrics adds `_created`. The buckets' upper bounds, in
nanoseconds, are 0, and 2^k - 1 from {} to {}: bounds of the programs' own buckets, so no count is estimated.

## All metrics

The names are those of the samples; in the headers of OpenMetrics, `_total` and `_info` are missing.

| metric | kind | labels | is |
|---|---|---|---|",
        BOUNDS_NS.len() + 1,
        BOUNDS_NS[1],
        BOUNDS_NS[BOUNDS_NS.len() - 1],
    );
    for metric in &METRICS {
        let suffix = metric.kind.suffix();
        let labels: Vec<_> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            text,
            "| `{}{suffix}` | {} | {} | {} |",
            metric.name,
            metric.kind.name(),
            labels.join(", "),
            metric.help,
        );
    }
    text.push_str(
        "
## Metrics of the daemon

`/metrics` of `apscope serve` has these besides; they are of the daemon, not of a driver, and have no labels.

| metric | kind | is |
|---|---|---|
",
    );
    for metric in &DAEMON_METRICS {
        let (suffix, kind) = (metric.kind.suffix(), metric.kind.name());
        let _ = writeln!(
            text,
            "| `{}{suffix}` | {kind} | {} |",
            metric.name, metric.help
        );
    }
    text
}
