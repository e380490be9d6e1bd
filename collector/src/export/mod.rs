//! Exports: a run in the formats that other tools read.
//!
//! Pure, as the model is: frames and what is known of a run in, bytes out. Formats that have every span
//! ([`csv`], [`perfetto`], [`parquet`]) see each frame after it was folded into the model, the others only what is known in
//! the end. None of them knows whether frames come from a running source or from a recording. docs/exports.md describes
//! the formats, and which tools read them.

pub mod csv;
pub mod dot;
pub mod folded;
pub mod hlog;
pub mod json;
pub mod openmetrics;
#[cfg(target_endian = "little")]
pub mod parquet;
pub mod perfetto;
pub mod spans;

use crate::model::histogram::Histogram;
use crate::model::{Model, query};

/// The mark of everything that was measured of the emulated driver.
pub const EMULATED: &str = "EMULATED";

/// Where the frames came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A running source.
    Live,
    /// A recording.
    Recording,
}

/// What was measured, as every export marks it: `EMULATED`, `kernel`, or `stacks` (a text that somebody saved); empty
/// before the first frame.
pub fn driver(model: &Model) -> &'static str {
    match &model.meta {
        None => "",
        Some(_) if query::emulated(model) => EMULATED,
        Some(meta) if meta.source == "stacks" => "stacks",
        Some(_) => "kernel",
    }
}

/// Nothing was skipped and every map had room: counts are exact, otherwise "at least".
pub fn exact(model: &Model) -> bool {
    model.loss.exact() && model.ignored == 0 && !query::counts_nothing(model)
}

/// Hands every full-resolution histogram of a run to `each`: what it is of (`wait`, `hold` or `latency`), the name of the
/// lock class or entry point, and the mode, which an entry point does not have.
pub fn each_histogram<'a>(
    model: &'a Model,
    mut each: impl FnMut(&'static str, &'static str, &'static str, &'a Histogram),
) {
    for id in query::listed_series(model) {
        if let Some(series) = model.series.get(&id) {
            let (class, mode) = (query::class_name(id), query::mode_name(id));
            each("wait", class, mode, &series.wait);
            each("hold", class, mode, &series.hold);
        }
    }
    for id in query::listed_entries(model) {
        if let Some(entry) = model.entries.get(&id) {
            each("latency", query::entry_name(id), "", &entry.latency);
        }
    }
}
