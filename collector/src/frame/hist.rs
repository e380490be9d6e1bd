//! Histogram increments: from counters to a frame's parallel arrays and back.

use super::Hist;

impl Hist {
    /// The message for these (bucket, count) pairs, in ascending order of bucket; counts of 0 are left out.
    pub fn from_buckets(
        buckets: impl IntoIterator<Item = (usize, u64)>,
        sum_ns: u64,
        min_ns_total: u64,
        max_ns_total: u64,
    ) -> Self {
        let mut hist = Self {
            sum_ns,
            min_ns_total,
            max_ns_total,
            ..Self::default()
        };
        let mut before = 0;
        for (bucket, count) in buckets {
            if count > 0 {
                hist.step.push((bucket - before) as u32);
                hist.count.push(count);
                before = bucket;
            }
        }
        hist
    }

    /// (bucket, count) pairs. Numbers of buckets are whatever the message says. A step without a count, or a count
    /// without a step, is left out.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.step
            .iter()
            .zip(&self.count)
            .scan(0_usize, |bucket, (&step, &count)| {
                *bucket = bucket.saturating_add(step as usize);
                Some((*bucket, count))
            })
    }

    /// Nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.count.iter().all(|&count| count == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_undone() {
        let pairs = [(0, 3), (1, 0), (7, 1), (1408, 9)];
        let hist = Hist::from_buckets(pairs, 1, 2, 3);
        assert_eq!(hist.step, [0, 7, 1401]);
        let back: Vec<_> = hist.buckets().collect();
        assert_eq!(back, [(0, 3), (7, 1), (1408, 9)]);
    }

    #[test]
    fn arrays_of_different_length_end_with_the_shorter() {
        let hist = Hist {
            step: vec![1, 2, 3],
            count: vec![5],
            ..Hist::default()
        };
        assert_eq!(hist.buckets().collect::<Vec<_>>(), [(1, 5)]);
    }
}
