//! Distributions over time: how many values of which length came when.

use std::collections::BTreeMap;

use probe_ebpf::h2;

use crate::frame::{Frame, Hist};

/// Columns of a map at most.
pub const COLUMNS: u64 = 96;
/// Length of a column in the beginning; it doubles whenever the columns do not suffice.
const FIRST_COLUMN_NS: u64 = 100_000_000;

/// What a map is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// Waits for this series.
    Wait(u32),
    /// Holds of this series.
    Hold(u32),
    /// Latencies of this entry point.
    Latency(u32),
}

/// Counts by column and power of two.
pub type Map = BTreeMap<(u64, u32), u64>;

/// The maps of a run.
#[derive(Debug)]
pub struct Heat {
    column_ns: u64,
    maps: BTreeMap<Of, Map>,
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            column_ns: FIRST_COLUMN_NS,
            maps: BTreeMap::new(),
        }
    }
}

impl Heat {
    /// Length of a column.
    pub const fn column_ns(&self) -> u64 {
        self.column_ns
    }

    /// A map, where there are values.
    pub fn of(&self, of: Of) -> Option<&Map> {
        self.maps.get(&of)
    }

    pub(super) fn frame(&mut self, start_ns: u64, frame: &Frame) {
        let at = frame.at_ns.saturating_sub(start_ns);
        while at / self.column_ns >= COLUMNS {
            self.halve();
        }
        let column = at / self.column_ns;
        for series in &frame.series {
            self.add(Of::Wait(series.series), column, series.wait.as_ref());
            self.add(Of::Hold(series.series), column, series.hold.as_ref());
        }
        for entry in &frame.entries {
            self.add(Of::Latency(entry.entry), column, entry.latency.as_ref());
        }
    }

    fn add(&mut self, of: Of, column: u64, hist: Option<&Hist>) {
        let ids = match of {
            Of::Wait(id) | Of::Hold(id) | Of::Latency(id) => id,
        };
        // What does not exist is in no map, so that there are never many.
        if ids > u32::from(u8::MAX) {
            return;
        }
        for (bucket, count) in hist.into_iter().flat_map(Hist::buckets) {
            // What did not wait is told in words.
            let none = matches!(of, Of::Wait(_)) && bucket == 0;
            if bucket < h2::BUCKETS && count > 0 && !none {
                let power = h2::ilog2(h2::lower_bound(bucket));
                let map = self.maps.entry(of).or_default();
                let cell = map.entry((column, power)).or_default();
                *cell = cell.saturating_add(count);
            }
        }
    }

    /// Two columns become one.
    fn halve(&mut self) {
        self.column_ns = self.column_ns.saturating_mul(2);
        for map in self.maps.values_mut() {
            let before = std::mem::take(map);
            for ((column, power), count) in before {
                let cell = map.entry((column / 2, power)).or_default();
                *cell = cell.saturating_add(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::SeriesDelta;

    #[test]
    fn columns_double_and_no_value_is_lost() {
        let mut heat = Heat::default();
        for second in 0..1_000_u64 {
            let frame = Frame {
                at_ns: second * 1_000_000_000,
                series: vec![SeriesDelta {
                    hold: Some(Hist::from_buckets([(10, 2), (200, 1)], 0, 0, 0)),
                    wait: Some(Hist::from_buckets([(0, 7)], 0, 0, 0)),
                    ..SeriesDelta::default()
                }],
                ..Frame::default()
            };
            heat.frame(0, &frame);
        }
        let map = heat.of(Of::Hold(0)).unwrap();
        assert_eq!(map.values().sum::<u64>(), 3_000);
        assert!(map.keys().all(|(column, _)| *column < COLUMNS));
        assert!(heat.of(Of::Wait(0)).is_none(), "nobody waited");
        assert_eq!(heat.column_ns(), 12_800_000_000);
    }
}
