//! Sums over shards, and what has been added to them since the last tick.

use probe_ebpf::abi::{Coarse, Extremes, LockKind, SeriesStats, Word};
use probe_ebpf::h2;
use probe_ebpf::names::CLASSES;

use crate::frame;

/// Sums of a series over all shards.
#[derive(Clone)]
pub(super) struct SeriesTotals {
    pub(super) header: [u64; 7],
    pub(super) wait: Vec<u64>,
    pub(super) hold: Vec<u64>,
}

impl SeriesTotals {
    pub(super) fn new(buckets: usize) -> Self {
        Self {
            header: [0; 7],
            wait: vec![0; buckets],
            hold: vec![0; buckets],
        }
    }
}

/// Increments of `now` over `before`, as sparse columns; updates `before`.
pub(super) fn increments(now: &[u64], before: &mut [u64]) -> (Vec<u32>, Vec<u64>, u64) {
    let (mut steps, mut counts, mut last, mut total) = (Vec::new(), Vec::new(), 0, 0);
    for (bucket, (now, before)) in now.iter().zip(before.iter_mut()).enumerate() {
        if now > before {
            let added = now - *before;
            steps.push((bucket - last) as u32);
            counts.push(added);
            last = bucket;
            total += added;
            *before = *now;
        }
    }
    (steps, counts, total)
}

pub(super) fn hist(
    now: &[u64],
    before: &mut [u64],
    sum: u64,
    min: u64,
    max: u64,
) -> (frame::Hist, u64) {
    let (step, count, total) = increments(now, before);
    (
        frame::Hist {
            step,
            count,
            sum_ns: sum,
            min_ns_total: min,
            max_ns_total: max,
        },
        total,
    )
}

/// Adds words to sums.
pub(super) fn accumulate(sums: &mut [u64], words: &[Word]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum += word.get();
    }
}

/// Acquisitions have a counter of their own: not each has a wait.
pub(super) fn counts_acquisitions(series: u8) -> bool {
    CLASSES
        .get((series >> 1) as usize)
        .is_some_and(|class| matches!(class.kind, LockKind::Flag | LockKind::Work))
}

/// Smallest and largest of many tasks' extremes.
#[derive(Clone, Copy, Default)]
pub(super) struct MinMax {
    pub(super) inverse_min: u64,
    pub(super) max: u64,
}

impl MinMax {
    pub(super) fn take(&mut self, extremes: &Extremes) {
        self.inverse_min = self.inverse_min.max(extremes.inverse_min.get());
        self.max = self.max.max(extremes.max.get());
    }

    pub(super) fn min(self) -> u64 {
        if self.inverse_min == 0 {
            0
        } else {
            u64::MAX - self.inverse_min
        }
    }
}

pub(super) fn undo_steps(steps: &[u32]) -> Vec<u32> {
    let mut sum = 0;
    steps
        .iter()
        .map(|step| {
            sum += step;
            sum
        })
        .collect()
}

pub(super) fn add_series(sums: &mut SeriesTotals, stats: &SeriesStats) {
    let SeriesStats {
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        wait_sum,
        hold_sum,
        wait,
        hold,
    } = stats;
    accumulate(&mut sums.hold, hold);
    accumulate(&mut sums.wait, wait);
    let header = [
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        wait_sum,
        hold_sum,
    ];
    for (sum, word) in sums.header.iter_mut().zip(header) {
        *sum += word.get();
    }
}

pub(super) fn untouched(stats: &Coarse) -> bool {
    stats.wait[0].get() == 0
        && stats.acquisitions.get() == 0
        && stats.contended.get() == 0
        && stats.wait_sum.get() == 0
        && stats.attempts_failed.get() == 0
        && stats.unmatched_releases.get() == 0
}

pub(super) fn coarse(
    id: u32,
    counted: bool,
    stats: &Coarse,
    before: &mut SeriesTotals,
) -> Option<frame::CoarseDelta> {
    let Coarse {
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        wait_sum,
        hold_sum,
        wakes,
        value: _,
        wait,
        hold,
    } = stats;
    let mut now = SeriesTotals::new(h2::COARSE_BUCKETS);
    accumulate(&mut now.hold, hold);
    accumulate(&mut now.wait, wait);
    let header = [
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        wait_sum,
        hold_sum,
        wakes,
    ];
    now.header = header.map(Word::get);
    delta(
        id,
        counted,
        &now,
        before,
        MinMax::default(),
        MinMax::default(),
    )
}

/// What has been added to a series, an instance or an entry point since the last tick. `counted`: acquisitions have a
/// counter of their own.
pub(super) fn delta(
    id: u32,
    counted: bool,
    now: &SeriesTotals,
    before: &mut SeriesTotals,
    wait: MinMax,
    hold: MinMax,
) -> Option<frame::CoarseDelta> {
    let mut added = [0; 7];
    for (added, (now, before)) in added.iter_mut().zip(now.header.iter().zip(&before.header)) {
        *added = now.saturating_sub(*before);
    }
    before.header = now.header;
    let [
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        wait_sum,
        hold_sum,
        wakes,
    ] = added;
    let (wait, waits) = hist(&now.wait, &mut before.wait, wait_sum, wait.min(), wait.max);
    let (hold, holds) = hist(&now.hold, &mut before.hold, hold_sum, hold.min(), hold.max);
    if added == [0; 7] && waits == 0 && holds == 0 {
        return None;
    }
    Some(frame::CoarseDelta {
        id,
        acquisitions: if counted { acquisitions } else { waits },
        contended,
        attempts_failed,
        unmatched_releases,
        releases: holds + unmatched_releases,
        wait: Some(wait),
        hold: Some(hold),
        wakes,
    })
}

pub(super) fn series_delta(delta: frame::CoarseDelta) -> frame::SeriesDelta {
    let frame::CoarseDelta {
        id,
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        releases,
        wait,
        hold,
        wakes: _,
    } = delta;
    frame::SeriesDelta {
        series: id,
        acquisitions,
        contended,
        attempts_failed,
        unmatched_releases,
        releases,
        wait,
        hold,
        by_instance: Vec::new(),
        by_entry: Vec::new(),
    }
}

/// What has been added to the only instance of a series.
pub(super) fn as_instance(slot: u32, delta: &frame::SeriesDelta) -> frame::CoarseDelta {
    frame::CoarseDelta {
        id: slot,
        acquisitions: delta.acquisitions,
        contended: delta.contended,
        attempts_failed: delta.attempts_failed,
        unmatched_releases: delta.unmatched_releases,
        releases: delta.releases,
        wait: delta.wait.as_ref().map(coarsened),
        hold: delta.hold.as_ref().map(coarsened),
        wakes: 0,
    }
}

/// A full-resolution histogram in coarse buckets: no bucket of the one crosses a bound of the other.
fn coarsened(hist: &frame::Hist) -> frame::Hist {
    let mut counts = [0; h2::COARSE_BUCKETS];
    for (bucket, count) in hist.buckets() {
        counts[h2::ilog2(h2::lower_bound(bucket)) as usize] += count;
    }
    frame::Hist::from_buckets(counts.into_iter().enumerate(), hist.sum_ns, 0, 0)
}
