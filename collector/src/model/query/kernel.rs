//! What views say of a kernel that is measured: what it is, how much of it is seen, and where long waits were.

use super::Model;
use crate::frame::{Meta, Stack};

/// The real kernel was measured: views and exports say KERNEL.
pub fn of_kernel(model: &Model) -> bool {
    model.meta.as_ref().is_some_and(is_kernel)
}

/// As [`of_kernel`], of the description of a run.
pub fn is_kernel(meta: &Meta) -> bool {
    meta.source == "kernel"
}

/// Candidates of the driver's generation as one reads them, `v6.6 or v7.3`; empty where no driver is measured.
pub fn candidates(meta: &Meta) -> String {
    meta.generation.replace('|', " or ")
}

/// What a level shows of locks, in words.
pub const fn level_shows(level: u32) -> &'static str {
    match level {
        0 => "nothing is attached: owners of known locks are read, nothing is counted",
        1 => "acquisitions are contended ones only, and holds are not measured",
        _ => "every acquisition and release",
    }
}

/// Acquisitions are only those that had to wait: a kernel at level 1.
pub fn contended_only(model: &Model) -> bool {
    let meta = model.meta.as_ref();
    meta.is_some_and(|meta| is_kernel(meta) && meta.level == 1)
}

/// Nothing is counted at all, so that no count means anything: a kernel at level 0.
pub fn counts_nothing(model: &Model) -> bool {
    let meta = model.meta.as_ref();
    meta.is_some_and(|meta| is_kernel(meta) && meta.level == 0)
}

/// The latest stack of a long wait or hold of a lock class in one mode.
pub fn latest_stack(model: &Model, series: u8) -> Option<&Stack> {
    let mut newest_first = model.stacks.iter().rev();
    newest_first.find(|stack| stack.series == u32::from(series))
}
