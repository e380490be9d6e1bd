//! Counters and histograms of locks: each value is added by class and mode, by instance, and by entry point.

use super::{Env, add_coarse, add_full, extreme, opaque};
use crate::abi::{Coarse, HELD_IS_ONLY_INSTANCE, Info, NO_INSTANCE, SeriesStats, TaskExtremes};

/// What a value is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Series.
    pub series: u8,
    /// Instance slot, or [`crate::abi::NO_INSTANCE`] where statistics are by class only.
    pub instance: u32,
    /// Entry point the task is in; 0 outside all.
    pub entry: u8,
}

impl Place {
    /// What a holding's or a wait's values are counted under.
    #[inline(always)]
    pub const fn of(info: Info) -> Self {
        Self {
            series: info.series,
            instance: if info.flags & HELD_IS_ONLY_INSTANCE != 0 {
                NO_INSTANCE
            } else {
                info.instance
            },
            entry: info.entry,
        }
    }
}

/// Adds the same to all statistics of a place.
#[inline(always)]
fn add<E: Env>(env: &E, place: Place, full: impl Fn(&SeriesStats), coarse: impl Fn(&Coarse)) {
    if let Some(stats) = env.series(place.series) {
        full(stats);
    }
    if let Some(stats) = env.instance(place.instance) {
        coarse(stats);
    }
    if place.entry != 0
        && let Some(stats) = env.by_entry(place.series, place.entry)
    {
        coarse(stats);
    }
}

/// Counts that a task became a holder of a flag, or that an execution of a work item started.
#[inline(always)]
pub(super) fn count_acquisition<E: Env>(env: &E, place: Place) {
    add(
        env,
        place,
        |stats| stats.acquisitions.add(1),
        |stats| stats.acquisitions.add(1),
    );
}

/// Counts an uncontended acquisition: a wait of 0.
#[inline(always)]
pub(super) fn count_uncontended<E: Env>(env: &E, place: Place) {
    add(
        env,
        place,
        |stats| stats.wait[0].add(1),
        |stats| stats.wait[0].add(1),
    );
}

/// Counts a slow path, a wait loop that slept, or a flush that had to wait.
#[inline(always)]
pub(super) fn count_contended<E: Env>(env: &E, place: Place) {
    add(
        env,
        place,
        |stats| stats.contended.add(1),
        |stats| stats.contended.add(1),
    );
}

/// Counts an attempt that ended without the lock.
#[inline(always)]
pub(super) fn count_failed<E: Env>(env: &E, place: Place) {
    add(
        env,
        place,
        |stats| stats.attempts_failed.add(1),
        |stats| stats.attempts_failed.add(1),
    );
}

/// Counts a release whose acquisition was not seen.
#[inline(always)]
pub(super) fn count_unmatched<E: Env>(env: &E, place: Place) {
    add(
        env,
        place,
        |stats| stats.unmatched_releases.add(1),
        |stats| stats.unmatched_releases.add(1),
    );
}

/// Counts a wait that took the slow path.
#[inline(always)]
pub(super) fn count_wait<E: Env>(env: &E, extremes: &TaskExtremes, place: Place, wait: u64) {
    add(
        env,
        place,
        |stats| {
            add_full(&stats.wait, wait);
            stats.wait_sum.add(wait);
        },
        |stats| {
            add_coarse(&stats.wait, wait);
            stats.wait_sum.add(wait);
        },
    );
    if let Some(extremes) = extremes.wait.get(opaque(place.series as usize)) {
        extreme(extremes, wait);
    }
}

/// Counts a hold.
#[inline(always)]
pub(super) fn count_hold<E: Env>(env: &E, extremes: &TaskExtremes, place: Place, hold: u64) {
    add(
        env,
        place,
        |stats| {
            add_full(&stats.hold, hold);
            stats.hold_sum.add(hold);
        },
        |stats| {
            add_coarse(&stats.hold, hold);
            stats.hold_sum.add(hold);
        },
    );
    if let Some(extremes) = extremes.hold.get(opaque(place.series as usize)) {
        extreme(extremes, hold);
    }
}
