//! HdrHistogram logs, V2: one histogram for each lock class and mode, of waits and of holds, and for each entry point.
//!
//! Values are nanoseconds, with three significant digits. Each bucket of ours is recorded as its largest value, not above
//! the largest that was measured, which is how our own percentiles are defined: so a reader's percentiles are the same,
//! within its precision. The log has one interval, the whole run.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::{driver, each_histogram, exact};
use crate::model::histogram::Histogram;
use crate::model::{Model, query};

/// Significant digits of the log's histograms.
const DIGITS: u8 = 3;
/// The largest value in the text of a line is in milliseconds, as other writers of such logs have it.
const MAX_VALUE_DIVISOR: f64 = 1_000_000.0;

/// A histogram of a run, and the tag of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged<'a> {
    /// `wait/CLASS/MODE`, `hold/CLASS/MODE` or `latency/ENTRY_POINT`; blanks are underscores.
    pub tag: String,
    /// The histogram, in nanoseconds.
    pub histogram: &'a Histogram,
}

/// All histograms that have values.
pub fn tagged(model: &Model) -> Vec<Tagged<'_>> {
    let mut all = Vec::new();
    each_histogram(model, |what, name, mode, histogram| {
        let mode = if mode.is_empty() {
            ""
        } else {
            &format!("/{mode}")
        };
        let tag = format!("{what}/{name}{mode}").replace(' ', "_");
        all.push(Tagged { tag, histogram });
    });
    all.retain(|tagged| tagged.histogram.count > 0);
    all
}

/// Writes the log.
///
/// # Errors
///
/// Those of `out`.
pub fn write(model: &Model, mut out: impl Write) -> io::Result<()> {
    let start_unix_ns = model.meta.as_ref().map_or(0, |meta| meta.start_unix_ns);
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(start_unix_ns);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!(
            "[Histogram log format version 1.3] {}",
            about(model)
        ))
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut out, &mut serializer)?;
    let length = Duration::from_nanos(query::elapsed_ns(model));
    for Tagged { tag, histogram } in tagged(model) {
        let copy = copied(histogram)?;
        let Some(tag) = Tag::new(&tag) else { continue };
        log.write_histogram(&copy, Duration::ZERO, length, Some(tag))
            .map_err(io::Error::other)?;
    }
    out.flush()
}

fn about(model: &Model) -> String {
    let generation = model.meta.as_ref().map_or("", |meta| &meta.generation);
    let counts = if exact(model) {
        "counts are exact"
    } else {
        "counts are at least"
    };
    let driver = driver(model);
    let timing = model.meta.as_ref().map_or("", |meta| &meta.timing);
    let timing = if timing.is_empty() {
        ""
    } else {
        &format!(", {timing}")
    };
    format!("apscope, {driver} {generation}, nanoseconds, {counts}{timing}").replace('\n', " ")
}

/// The same histogram, in HdrHistogram's buckets.
pub(super) fn copied(histogram: &Histogram) -> io::Result<hdrhistogram::Histogram<u64>> {
    let highest = histogram.max_ns.max(2);
    let mut copy =
        hdrhistogram::Histogram::new_with_bounds(1, highest, DIGITS).map_err(io::Error::other)?;
    // The format has counts of 63 bits; more come from senseless frames alone.
    let mut room = i64::MAX as u64;
    for (_, upper, count) in histogram.buckets() {
        let value = upper.min(histogram.max_ns);
        let count = count.min(room);
        room -= count;
        copy.record_n(value, count).map_err(io::Error::other)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Serializer;

    use super::*;

    #[test]
    fn more_than_the_format_can_count_is_as_much_as_it_can() {
        let mut histogram = Histogram {
            count: u64::MAX,
            max_ns: 5,
            ..Histogram::default()
        };
        histogram.counts[..3].fill(u64::MAX);
        let copy = copied(&histogram).unwrap();
        assert_eq!(copy.len(), i64::MAX as u64);
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&copy, &mut bytes)
            .unwrap();
    }
}
