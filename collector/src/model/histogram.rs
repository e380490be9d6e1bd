//! Histograms of the model: exact counts in H2 buckets, and coarse ones.

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
    pub fn quantile(&self, _q: f64) -> Option<u64> {
        unimplemented!()
    }

    /// Adds a frame's increments.
    pub fn add(&mut self, _delta: &frame::Hist) {
        unimplemented!()
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
