//! How large every map is made, computed before anything is loaded.
//!
//! The statistics at full resolution are kept in shards: one a CPU as long as the budget allows, fewer on machines
//! with very many CPUs. Sharding only spares cache traffic; every shard is updated with atomic adds.

use std::mem::size_of;

use probe_ebpf::abi::{
    Coarse, Counters, Edge, EntryStats, InstanceInfo, MAX_CPUS, MAX_ENTRY_POINTS, MAX_SERIES,
    PQAP_FUNCTIONS, PQAP_RESPONSES, PROGRAMS, SLOTS_PER_ADOPTED, SLOTS_PER_GIVEN, SeriesStats,
    Task, TaskExtremes, Word,
};

use crate::options::KernelOptions;

/// Most memory that the maps may take, in bytes; the span ring is chosen by the user and comes on top.
pub const BUDGET_BYTES: usize = 64 << 20;

/// Tasks of a kernel that can be on record at once.
const KERNEL_TASKS: u32 = 4096;
/// Locks of a kernel that can be adopted while measuring: a guest has two, and one for each vCPU.
const KERNEL_ADOPTED: u32 = 4096;
/// Stacks kept, where stacks are asked for.
pub const STACKS: u32 = 4096;

/// Order edges kept.
const EDGES: u32 = 1024;

/// Sizes of all maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Shards of the full-resolution statistics: a power of two.
    pub shards: u32,
    /// Task slots.
    pub tasks: u32,
    /// Instance slots.
    pub instances: u32,
    /// Edge slots.
    pub edges: u32,
    /// Traced addresses.
    pub locks: u32,
    /// Span ring, in bytes: a power of two.
    pub ring_bytes: u32,
    /// Instance slots, the last ones, for locks that are adopted while measuring.
    pub adopted: u32,
    /// Stacks kept.
    pub stacks: u32,
}

/// The run needs more memory than the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("maps would take {needed} bytes, more than the budget of {BUDGET_BYTES}")]
pub struct OverBudget {
    /// Bytes needed with a single shard.
    pub needed: usize,
}

impl Sizes {
    /// Sizes for a machine with `cpus` possible CPUs, `tasks` traced tasks, `instances` lock instances (an rwsem
    /// counts twice) and `locks` traced addresses.
    ///
    /// # Errors
    ///
    /// If even a single shard does not fit into [`BUDGET_BYTES`].
    pub fn new(
        cpus: u32,
        tasks: u32,
        instances: u32,
        locks: u32,
        ring_bytes: u32,
    ) -> Result<Self, OverBudget> {
        let mut sizes = Self {
            shards: cpus.clamp(1, MAX_CPUS as u32).next_power_of_two(),
            tasks: tasks.max(64),
            instances: instances.max(1),
            edges: EDGES,
            locks: locks.max(1),
            ring_bytes,
            adopted: 0,
            stacks: 1,
        };
        while sizes.bytes() > BUDGET_BYTES {
            if sizes.shards == 1 {
                return Err(OverBudget {
                    needed: sizes.bytes(),
                });
            }
            sizes.shards /= 2;
        }
        Ok(sizes)
    }

    /// Sizes for the kernel of a machine with `cpus` possible CPUs. What it will have to record is not known before, so
    /// they do not depend on its guests.
    ///
    /// # Errors
    ///
    /// As [`Sizes::new`].
    pub fn for_kernel(
        cpus: u32,
        options: &KernelOptions,
        ring_bytes: u32,
    ) -> Result<Self, OverBudget> {
        // The fixed locks are few: the driver's, the bus's and those that were named.
        let given = u32::try_from(options.locks.len()).unwrap_or(u32::MAX);
        let fixed_slots = given
            .saturating_mul(SLOTS_PER_GIVEN)
            .saturating_add(8 * SLOTS_PER_ADOPTED);
        let adopted = KERNEL_ADOPTED * SLOTS_PER_ADOPTED;
        let mut sizes = Self::new(
            cpus,
            KERNEL_TASKS,
            fixed_slots.saturating_add(adopted),
            // A flag has its wait queue beside it.
            fixed_slots.saturating_add(KERNEL_ADOPTED * 2),
            ring_bytes,
        )?;
        sizes.adopted = adopted;
        if options.stacks_over.is_some() {
            sizes.stacks = STACKS;
        }
        Ok(sizes)
    }

    /// Memory of all maps without the span ring, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // A hash entry costs about this much beside its key and value (struct htab_elem and its bucket).
        const HASH_ENTRY: usize = 80;
        // 127 frames (PERF_MAX_STACK_DEPTH) and a header.
        const STACK_BYTES: usize = 127 * 8 + 32;
        self.shards as usize
            * (MAX_SERIES * size_of::<SeriesStats>() + MAX_ENTRY_POINTS * size_of::<EntryStats>())
            + self.tasks as usize * (size_of::<Task>() + size_of::<TaskExtremes>() + HASH_ENTRY)
            + self.instances as usize * (size_of::<Coarse>() + size_of::<InstanceInfo>())
            + self.stacks as usize * STACK_BYTES
            + MAX_SERIES * MAX_ENTRY_POINTS * size_of::<Coarse>()
            + 2 * PQAP_FUNCTIONS * PQAP_RESPONSES * size_of::<Word>()
            + self.edges as usize * (size_of::<Edge>() + HASH_ENTRY)
            + MAX_CPUS * PROGRAMS * size_of::<Counters>()
            + self.locks as usize * HASH_ENTRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest has kvm->lock, pqap_hook_rwsem (two), kvm_busy, and a vcpu->mutex each; and some six threads.
    fn for_guests(cpus: u32, guests: u32) -> Result<Sizes, OverBudget> {
        Sizes::new(cpus, guests * 8, guests * 8 + 1, guests * 8 + 1, 8 << 20)
    }

    #[test]
    fn a_large_machine_fits_the_budget() {
        let sizes = for_guests(400, 1000).expect("fits");
        assert!(sizes.bytes() <= BUDGET_BYTES);
        assert!(sizes.shards >= 8, "{sizes:?}");
    }

    #[test]
    fn a_small_machine_has_a_shard_per_cpu() {
        assert_eq!(for_guests(2, 8).expect("fits").shards, 2);
        assert_eq!(for_guests(3, 8).expect("fits").shards, 4);
    }

    #[test]
    fn a_kernel_fits_the_budget_on_any_machine() {
        let options = KernelOptions::default();
        for cpus in [1, 2, 64, 400] {
            let sizes = Sizes::for_kernel(cpus, &options, 8 << 20).expect("fits");
            assert!(sizes.bytes() <= BUDGET_BYTES, "{cpus}: {}", sizes.bytes());
            assert_eq!((sizes.tasks, sizes.stacks), (4096, 1));
        }
    }

    #[test]
    fn too_much_is_refused_with_the_figure() {
        let error = for_guests(400, 100_000).expect_err("does not fit");
        assert!(error.needed > BUDGET_BYTES);
        assert!(error.to_string().contains(&error.needed.to_string()));
    }
}
