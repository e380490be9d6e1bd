//! Exports: a run in the formats that other tools read.

pub mod json;
pub mod openmetrics;

use crate::model::{Model, query};

/// The mark of everything that was measured of the emulated driver.
pub const EMULATED: &str = "EMULATED";

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
