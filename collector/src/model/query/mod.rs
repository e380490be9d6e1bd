//! What views and exports ask of the model: rows of the lock and entry point tables, who holds and who waits, the
//! lock-order graph as it is reported.
//!
//! Everything is computed from one model at one moment; nothing here changes it. Durations "so far" are measured up
//! to the last frame.

mod kernel;
mod live;
mod locks;
mod objects;
mod order;
mod rows;

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::{self, CLASSES, ENTRY_POINTS};

pub use kernel::{
    candidates, contended_only, counts_nothing, is_kernel, latest_stack, level_shows, of_kernel,
};
pub use live::{Holder, OnBehalfOf, Owners, Waiter, holders, on_behalf_of, task_name, waiters};
pub use locks::{InstanceRow, LockDetail, LockRow, PerEntry, lock_detail, lock_rows};
pub use objects::{Names, ObjectRow, object_rows};
pub use order::{OrderEdge, lockdep_visible, order_edges};
pub use rows::{EntryRow, Inside, Summary, entry_rows, inside, pqap_function};

use super::{HISTORY, Model};

/// Name of the series' class, for example `kvm->lock`; `?` for an id that does not exist.
pub fn class_name(series: u8) -> &'static str {
    CLASSES
        .get(usize::from(series >> 1))
        .map_or("?", |c| c.name)
}

/// Kind of the series' class.
pub fn kind(series: u8) -> LockKind {
    CLASSES
        .get(usize::from(series >> 1))
        .map_or(LockKind::Mutex, |c| c.kind)
}

/// `mutex`, `rwsem`, `flag` or `work`.
pub const fn kind_name(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Mutex => "mutex",
        LockKind::Rwsem => "rwsem",
        LockKind::Flag => "flag",
        LockKind::Work => "work",
    }
}

/// An open-coded lock: a flag and a wait queue, invisible to lockdep.
pub fn open_coded(series: u8) -> bool {
    kind(series) == LockKind::Flag
}

/// A hold that lasts is normal for this class: leave it out of hold rankings.
pub fn long_hold_is_normal(series: u8) -> bool {
    CLASSES
        .get(usize::from(series >> 1))
        .is_some_and(|c| c.long_hold_is_normal)
}

/// Mode of a series.
pub fn mode(series: u8) -> Mode {
    match (kind(series), series & 1) {
        (LockKind::Rwsem, 0) => Mode::Write,
        (LockKind::Rwsem, _) => Mode::Read,
        _ => Mode::Exclusive,
    }
}

/// `-`, `read` or `write`.
pub fn mode_name(series: u8) -> &'static str {
    names::mode_name(mode(series))
}

/// Class and mode, for example `pqap_hook_rwsem (read)`; without the mode where there is only one.
pub fn series_name(series: u8) -> String {
    match mode(series) {
        Mode::Exclusive => class_name(series).to_owned(),
        mode => format!("{} ({})", class_name(series), names::mode_name(mode)),
    }
}

/// Name of an entry point; `-` outside every traced function, `?` for an id that does not exist.
pub fn entry_name(entry: u8) -> &'static str {
    ENTRY_POINTS.get(usize::from(entry)).map_or("?", |e| e.name)
}

/// Name of a lock: of its instance where that is known, else of its class.
pub fn lock_name(model: &Model, series: u8, instance: u32) -> &str {
    model
        .instances
        .get(&instance)
        .map_or(class_name(series), |instance| &instance.name)
}

/// `contended` in percent of `acquisitions`; `None` while there are no acquisitions. Above 100 for an open-coded lock
/// that makes more tasks wait than acquire it: its waiters only test it.
pub fn contended_percent(contended: u64, acquisitions: u64) -> Option<f64> {
    (acquisitions > 0).then(|| contended as f64 * 100.0 / acquisitions as f64)
}

/// Per-second rate over the newest ticks that make up a second (or all, while there are fewer). `counts` is one of the
/// model's `rates`.
pub fn per_second(model: &Model, counts: &std::collections::VecDeque<u64>) -> f64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let mut length_ns = 0_u64;
    let mut count = 0_u64;
    for (tick, n) in model.ticks.iter().rev().zip(counts.iter().rev()) {
        if length_ns >= SECOND_NS {
            break;
        }
        length_ns = length_ns.saturating_add(tick.length_ns);
        count = count.saturating_add(*n);
    }
    if length_ns == 0 {
        return 0.0;
    }
    count as f64 * SECOND_NS as f64 / length_ns as f64
}

/// Time that was measured, up to the last frame: since the start of the run, or since everything was attached to a kernel.
pub fn elapsed_ns(model: &Model) -> u64 {
    model.meta.as_ref().map_or(0, |meta| {
        let from = meta.start_ns.max(meta.measured_from_ns);
        model.last.at_ns.saturating_sub(from)
    })
}

/// The driver is the emulated one: whatever shows this model says EMULATED.
pub fn emulated(model: &Model) -> bool {
    model.meta.as_ref().is_some_and(|m| m.source == "emulator")
}

/// Series ids of the run in display order: by class, write before read.
pub fn listed_series(model: &Model) -> Vec<u8> {
    let mut series: Vec<u8> = model
        .meta
        .iter()
        .flat_map(|meta| meta.series.iter().map(|&id| id as u8))
        .collect();
    series.sort_unstable();
    series
}

/// Entry point ids of the run in display order, that of the table of names.
pub fn listed_entries(model: &Model) -> Vec<u8> {
    let mut entries: Vec<u8> = model
        .meta
        .iter()
        .flat_map(|meta| meta.entries.iter().map(|&id| id as u8))
        .filter(|&id| id != names::entry_id::NONE)
        .collect();
    entries.sort_unstable();
    entries
}

/// The newest `HISTORY` counts of a `rates`, oldest first.
fn sparkline(counts: &std::collections::VecDeque<u64>) -> Vec<u64> {
    let skip = counts.len().saturating_sub(HISTORY);
    counts.iter().skip(skip).copied().collect()
}
