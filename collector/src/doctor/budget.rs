//! The memory that the eBPF maps would take.

use serde::Serialize;

use super::{Problem, Severity};
use crate::machine::{Capability, Facts};
use crate::options::RunOptions;
use crate::source::budget::{BUDGET_BYTES, Sizes};

/// Memory of all maps: for the emulated guests that the options name, or for a kernel, whose guests are not known before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// CPUs that the machine can have.
    pub possible_cpus: u32,
    /// Emulated guests; absent for a kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests: Option<u32>,
    /// Tasks that can be on record at once.
    pub tasks: u32,
    /// Traced addresses: locks, and wait queues of flags.
    pub locks: u32,
    /// Shards of the statistics; fewer than CPUs where the budget asks for it.
    pub shards: u32,
    /// Maps without the span ring, in bytes.
    pub map_bytes: u64,
    /// The span ring, in bytes.
    pub ring_bytes: u32,
    /// Most that maps without the ring may take, in bytes.
    pub limit_bytes: u64,
}

impl Budget {
    /// What the maps of a run take. An emulated guest has kvm->lock, kv->lock, pqap_hook_rwsem (two instances), kvm_busy,
    /// a vcpu->mutex for each vCPU, and some eight threads beside those of its vCPUs.
    pub(super) fn of(facts: &Facts, options: &RunOptions, kernel: bool) -> Self {
        let cpus = facts.kernel.possible_cpus;
        let sizes = if kernel {
            Sizes::for_kernel(cpus, &options.kernel, options.ring_bytes)
        } else {
            let (guests, vcpus) = (options.emulator.guests, options.emulator.vcpus);
            let tasks = guests * (vcpus + 8) + 64;
            let instances = guests * (vcpus + 5) + 8;
            Sizes::new(cpus, tasks, instances, instances * 2, options.ring_bytes)
        };
        let (shards, tasks, locks, map_bytes) = match sizes {
            Ok(sizes) => (sizes.shards, sizes.tasks, sizes.locks, sizes.bytes()),
            Err(over) => (0, 0, 0, over.needed),
        };
        Self {
            possible_cpus: cpus,
            guests: (!kernel).then_some(options.emulator.guests),
            tasks,
            locks,
            shards,
            map_bytes: map_bytes as u64,
            ring_bytes: options.ring_bytes,
            limit_bytes: BUDGET_BYTES as u64,
        }
    }

    /// What is wrong with it.
    pub(super) fn problem(&self, facts: &Facts) -> Option<Problem> {
        if self.shards == 0 {
            return Some(Problem {
                severity: Severity::Prevents,
                what: format!(
                    "the maps would take {} bytes, more than the budget of {}",
                    self.map_bytes, self.limit_bytes
                ),
                lost: "everything: nothing is loaded above the budget".into(),
                remedy: match self.guests {
                    Some(_) => "fewer --guests or --vcpus",
                    None => "fewer --lock",
                }
                .into(),
            });
        }
        // Since 5.11 maps count against the memory cgroup (bpf_map_charge_init() until then: RLIMIT_MEMLOCK). Who may raise
        // limits does: when a map is refused, aya removes this one and tries again.
        let needed = self.map_bytes + u64::from(self.ring_bytes);
        let limit = facts.privileges.memlock_bytes?;
        let is_fixed = !facts.privileges.has(Capability::SysResource);
        (!facts.kernel.at_least(5, 11) && is_fixed && limit < needed).then(|| Problem {
            severity: Severity::Prevents,
            what: format!(
                "locked memory is limited to {limit} bytes, the maps take {needed} of it on Linux before 5.11"
            ),
            lost: "everything that eBPF measures: the maps cannot be made".into(),
            remedy: "ulimit -l unlimited, or LimitMEMLOCK=infinity in a unit".into(),
        })
    }
}
