//! Where everything lies in the shared memory.

use std::sync::Arc;

use probe_ebpf::abi::{
    Coarse, Counters, Edge, EntryStats, MAX_CPUS, MAX_ENTRY_POINTS, MAX_SERIES, PQAP_FUNCTIONS,
    PQAP_RESPONSES, PROGRAMS, SeriesStats, Task, TaskExtremes, Word,
};

use crate::source::budget::Sizes;
use crate::source::memory::{Mapping, Memory, Shared, View};

/// Words at the start of the ring: head and tail, each in a cache line of its own.
pub const RING_CONTROL_WORDS: usize = 32;

/// Offsets in bytes, in the order of the fields; each a multiple of 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    tasks: usize,
    extremes: usize,
    series: usize,
    entries: usize,
    instances: usize,
    by_entry: usize,
    pqap: usize,
    edges: usize,
    counters: usize,
    ring_control: usize,
    ring: usize,
    /// Length of the whole.
    pub length: usize,
}

/// The shared memory as arrays.
pub struct Views {
    /// Statistics and live state.
    pub memory: Memory,
    /// Head and tail of the ring.
    pub ring_control: View<Word>,
    /// The ring's records.
    pub ring: View<Word>,
}

/// Reserves space for `len` elements of `T` and returns its offset.
fn place<T>(end: &mut usize, len: usize) -> usize {
    let start = *end;
    *end = (start + len * size_of::<T>()).next_multiple_of(4096);
    start
}

impl Layout {
    /// The layout for these sizes.
    pub fn new(sizes: &Sizes) -> Self {
        let mut end = 0;
        let shards = sizes.shards as usize;
        Self {
            tasks: place::<Task>(&mut end, sizes.tasks as usize),
            extremes: place::<TaskExtremes>(&mut end, sizes.tasks as usize),
            series: place::<SeriesStats>(&mut end, shards * MAX_SERIES),
            entries: place::<EntryStats>(&mut end, shards * MAX_ENTRY_POINTS),
            instances: place::<Coarse>(&mut end, sizes.instances as usize),
            by_entry: place::<Coarse>(&mut end, MAX_SERIES * MAX_ENTRY_POINTS),
            pqap: place::<Word>(&mut end, 2 * PQAP_FUNCTIONS * PQAP_RESPONSES),
            edges: place::<Edge>(&mut end, sizes.edges as usize),
            counters: place::<Counters>(&mut end, MAX_CPUS * PROGRAMS),
            ring_control: place::<Word>(&mut end, RING_CONTROL_WORDS),
            ring: place::<u8>(&mut end, sizes.ring_bytes as usize),
            length: end,
        }
    }

    /// The arrays of a mapping with this layout; `None` if the mapping is too small.
    pub fn views(&self, mapping: &Arc<Mapping>, sizes: &Sizes) -> Option<Views> {
        fn view<T: Shared>(mapping: &Arc<Mapping>, offset: usize, len: usize) -> Option<View<T>> {
            View::new(mapping, offset, len)
        }
        let shards = sizes.shards as usize;
        Some(Views {
            memory: Memory {
                tasks: view(mapping, self.tasks, sizes.tasks as usize)?,
                extremes: view(mapping, self.extremes, sizes.tasks as usize)?,
                series: view(mapping, self.series, shards * MAX_SERIES)?,
                entries: view(mapping, self.entries, shards * MAX_ENTRY_POINTS)?,
                instances: view(mapping, self.instances, sizes.instances as usize)?,
                by_entry: view(mapping, self.by_entry, MAX_SERIES * MAX_ENTRY_POINTS)?,
                pqap: view(mapping, self.pqap, 2 * PQAP_FUNCTIONS * PQAP_RESPONSES)?,
                edges: view(mapping, self.edges, sizes.edges as usize)?,
                counters: view(mapping, self.counters, MAX_CPUS * PROGRAMS)?,
            },
            ring_control: view(mapping, self.ring_control, RING_CONTROL_WORDS)?,
            ring: view(
                mapping,
                self.ring,
                sizes.ring_bytes as usize / size_of::<Word>(),
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_follow_each_other_and_fit() {
        let sizes = Sizes::new(2, 100, 50, 50, 4096).expect("fits the budget");
        let layout = Layout::new(&sizes);
        assert!(
            layout.tasks < layout.extremes
                && layout.extremes < layout.series
                && layout.ring < layout.length
        );
        assert!(layout.length - layout.ring >= 4096);
        assert!(
            [layout.series, layout.counters, layout.ring]
                .iter()
                .all(|offset| offset % 4096 == 0)
        );
    }
}
