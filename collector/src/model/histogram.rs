//! Histograms of the model: exact counts in H2 buckets, and coarse ones.
//!
//! A percentile is the upper bound of the bucket holding rank ⌈q·n⌉, clipped to the largest value: never below the
//! true value, and at most 1/32 above it (a coarse one: at most twice).

use probe_ebpf::h2;

use crate::frame;

/// A full-resolution histogram of nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Count of each [`h2::bucket`].
    pub counts: Vec<u64>,
    /// Number of values.
    pub count: u64,
    /// Sum of all values.
    pub sum_ns: u64,
    /// Smallest value; meaningless while `count` is 0.
    pub min_ns: u64,
    /// Largest value; meaningless while `count` is 0.
    pub max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; h2::BUCKETS],
            count: 0,
            sum_ns: 0,
            min_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    /// Upper bound of the bucket holding rank ⌈q·n⌉, clipped to the maximum; `None` while empty. `q` in 0..=1.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let bucket = bucket_of_rank(&self.counts, self.count, q)?;
        Some(h2::upper_bound(bucket).min(self.max_ns))
    }

    /// Arithmetic mean; `None` while empty.
    pub fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.count)
    }

    /// The largest value; `None` while empty.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }

    /// The smallest value; `None` while empty.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min_ns)
    }

    /// Non-empty buckets: (smallest value, largest value, count). The overflow bucket ends at the maximum.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, &count)| {
                let upper = if bucket == h2::OVERFLOW {
                    self.max_ns
                } else {
                    h2::upper_bound(bucket)
                };
                (h2::lower_bound(bucket), upper, count)
            })
    }

    /// Counts by power of two, for drawing: bucket `n` counts values `v` with `ilog2(v) == n`, and 0 counts 0 and 1.
    /// H2 buckets never straddle a power of two, so nothing is estimated.
    pub fn octaves(&self) -> [u64; h2::COARSE_BUCKETS] {
        let mut octaves = [0_u64; h2::COARSE_BUCKETS];
        for (bucket, &count) in self.counts.iter().enumerate() {
            let octave = &mut octaves[h2::ilog2(h2::lower_bound(bucket)) as usize];
            *octave = octave.saturating_add(count);
        }
        octaves
    }

    /// Adds a frame's increments. Buckets that do not exist are left out and their number of values returned.
    pub fn add(&mut self, delta: &frame::Hist) -> u64 {
        let before = self.count;
        let mut refused = 0_u64;
        let mut lowest = usize::MAX;
        let mut highest = 0;
        for (bucket, count) in delta.buckets() {
            let Some(cell) = self.counts.get_mut(bucket) else {
                refused = refused.saturating_add(count);
                continue;
            };
            if count == 0 {
                continue;
            }
            *cell = cell.saturating_add(count);
            self.count = self.count.saturating_add(count);
            lowest = lowest.min(bucket);
            highest = highest.max(bucket);
        }
        self.sum_ns = self.sum_ns.saturating_add(delta.sum_ns);
        if self.count == before {
            return refused;
        }
        // Buckets and extremes are read one after the other while both change: the extremes may be a value behind
        // the buckets, never outside the bucket that proves them.
        let min = delta.min_ns_total.min(h2::upper_bound(lowest));
        let max = delta.max_ns_total.max(h2::lower_bound(highest));
        if before == 0 {
            (self.min_ns, self.max_ns) = (min, max);
        } else {
            (self.min_ns, self.max_ns) = (self.min_ns.min(min), self.max_ns.max(max));
        }
        refused
    }
}

/// A coarse histogram: 64 buckets by ilog2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coarse {
    /// Count of each power of two; bucket 0 holds 0 and 1.
    pub counts: [u64; h2::COARSE_BUCKETS],
    /// Number of values.
    pub count: u64,
    /// Sum of all values.
    pub sum_ns: u64,
}

impl Default for Coarse {
    fn default() -> Self {
        Self {
            counts: [0; h2::COARSE_BUCKETS],
            count: 0,
            sum_ns: 0,
        }
    }
}

impl Coarse {
    /// Upper bound of the bucket holding rank ⌈q·n⌉; `None` while empty. `q` in 0..=1.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        bucket_of_rank(&self.counts, self.count, q).map(coarse_upper_bound)
    }

    /// Arithmetic mean; `None` while empty.
    pub fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.count)
    }

    /// Non-empty buckets: (smallest value, largest value, count).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, &count)| {
                let lower = if bucket == 0 { 0 } else { 1 << bucket };
                (lower, coarse_upper_bound(bucket), count)
            })
    }

    /// Adds a frame's increments. Buckets that do not exist are left out and their number of values returned.
    pub fn add(&mut self, delta: &frame::Hist) -> u64 {
        let mut refused = 0_u64;
        for (bucket, count) in delta.buckets() {
            if let Some(cell) = self.counts.get_mut(bucket) {
                *cell = cell.saturating_add(count);
                self.count = self.count.saturating_add(count);
            } else {
                refused = refused.saturating_add(count);
            }
        }
        self.sum_ns = self.sum_ns.saturating_add(delta.sum_ns);
        refused
    }
}

/// Largest value that falls into a coarse bucket.
const fn coarse_upper_bound(bucket: usize) -> u64 {
    if bucket >= 63 {
        u64::MAX
    } else {
        (1 << (bucket + 1)) - 1
    }
}

/// Buckets that are passed at a time.
const LUMP: usize = 64;

/// Bucket of rank ⌈q·n⌉, at least rank 1; `None` where there are no values.
fn bucket_of_rank(counts: &[u64], n: u64, q: f64) -> Option<usize> {
    if n == 0 {
        return None;
    }
    // NaN becomes rank 1.
    let rank = ((q.clamp(0.0, 1.0) * n as f64).ceil() as u64).clamp(1, n);
    let mut seen = 0_u64;
    let mut first = 0;
    // Most buckets are passed a lump at a time. Where the number of values is not the largest there is, no sum of theirs
    // is larger.
    if n < u64::MAX {
        for lump in counts.chunks(LUMP) {
            let values = lump.iter().copied().fold(0, u64::wrapping_add);
            if seen.saturating_add(values) >= rank {
                break;
            }
            seen = seen.saturating_add(values);
            first += lump.len();
        }
    }
    for (bucket, &count) in counts.iter().enumerate().skip(first) {
        seen = seen.saturating_add(count);
        if count > 0 && seen >= rank {
            return Some(bucket);
        }
    }
    // There are fewer values in the buckets than were counted.
    counts.iter().rposition(|&count| count > 0)
}
