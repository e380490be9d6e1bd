//! What is not seen on a machine, said once each.

use super::{Loss, Plan};
use crate::attach::generation::{Generation, Generations};
use crate::attach::offsets::{Field, OffsetSource, Offsets};

impl Plan {
    pub(super) fn find_losses(&self, offsets: &Offsets) -> Vec<Loss> {
        let points = self.points.iter().filter_map(|planned| {
            Some(Loss {
                names: vec![planned.point.name.to_owned()],
                lost: planned.lost.clone()?,
                reason: planned.reason.clone(),
                used_instead: planned.used_instead.clone(),
            })
        });
        let variables = self
            .variables
            .iter()
            .filter(|variable| variable.address.is_none())
            // Two names of one lock: only one of them is there.
            .filter(|variable| {
                variable.found.is_some()
                    || !self
                        .generation
                        .candidates
                        .meets(variable.variable.generations.not())
                        && !self.variables.iter().any(|other| {
                            other.found.is_some() && other.variable.lost.starts_with("the AP bus")
                        })
            })
            .map(|variable| Loss {
                names: vec![variable.variable.name.to_owned()],
                lost: variable.variable.lost.to_owned(),
                reason: variable.reason.clone(),
                used_instead: None,
            });
        let candidates = self.generation.candidates;
        let members = NEEDED
            .iter()
            .filter(|(_, generations, _)| generations.meets(candidates))
            .filter_map(|(field, _, lost)| match offsets.source(*field) {
                OffsetSource::Missing { why } => Some(Loss {
                    names: vec![field.name()],
                    lost: (*lost).to_owned(),
                    reason: why.clone(),
                    used_instead: None,
                }),
                _ => None,
            });
        merge(points.chain(variables).chain(members))
    }
}

/// Says the same loss of several once.
fn merge(all: impl Iterator<Item = Loss>) -> Vec<Loss> {
    let mut merged: Vec<Loss> = Vec::new();
    for loss in all {
        let same = merged.iter_mut().find(|known| {
            known.lost == loss.lost
                && known.reason == loss.reason
                && known.used_instead == loss.used_instead
        });
        match same {
            Some(known) => {
                for name in loss.names {
                    if !known.names.contains(&name) {
                        known.names.push(name);
                    }
                }
            }
            None => merged.push(loss),
        }
    }
    merged
}

/// Members without which something is lost, with the generations that have them.
const NEEDED: &[(Field, Generations, &str)] = &{
    use Field as F;
    const ALL: Generations = Generations::ALL;
    const UNTIL_V5_19: Generations = Generations::range(Generation::V5_10, Generation::V5_19);
    const SINCE_V6_0: Generations = Generations::range(Generation::V6_0, Generation::V7_3);
    const RWSEM: Generations = Generations::range(Generation::V5_15Rc, Generation::V7_3);
    const FLAG: Generations = Generations::of(&[Generation::V5_13, Generation::V5_15Rc]);
    // The lock of a group that openings and closings are under: `group_rwsem`, then `group_lock`.
    const GROUP: Generations = Generations::range(Generation::V5_19, Generation::V7_3);
    const WORK: Generations = Generations::of(&[Generation::V6_6, Generation::V7_3]);
    [
        (F::FilePrivateData, ALL, "which vCPU an ioctl is for"),
        (F::KvmVcpuKvm, ALL, "which guest a vCPU belongs to"),
        (F::KvmVcpuId, ALL, "numbers of vCPUs"),
        (F::KvmVcpuMutex, ALL, "vcpu->mutex"),
        (
            F::KvmVcpuRun,
            ALL,
            "registers of PQAP: function code, queue and response code",
        ),
        (
            F::KvmRunGprs,
            ALL,
            "registers of PQAP: function code, queue and response code",
        ),
        (
            F::KvmVcpuSieBlock,
            ALL,
            "which intercepted instructions are PQAP, where handle_pqap is inlined in kvm",
        ),
        (
            F::SieBlockIpa,
            ALL,
            "which intercepted instructions are PQAP, where handle_pqap is inlined in kvm",
        ),
        (F::KvmLock, ALL, "kvm->lock"),
        (F::KvmPqapHookRwsem, RWSEM, "pqap_hook_rwsem"),
        (F::MatrixDevLock, UNTIL_V5_19, "matrix_dev->lock"),
        (F::MatrixDevMdevsLock, SINCE_V6_0, "matrix_dev->mdevs_lock"),
        (
            F::MatrixDevGuestsLock,
            SINCE_V6_0,
            "matrix_dev->guests_lock",
        ),
        (F::MatrixDevMdevList, ALL, "the list of mdevs at level 0"),
        (F::MdevMatrix, ALL, "the matrix of an mdev"),
        (F::MdevKvm, ALL, "which guest has an mdev"),
        (F::MdevKvmBusy, FLAG, "the open-coded lock kvm_busy"),
        (F::MdevWaitForKvm, FLAG, "waits for kvm_busy"),
        (F::QueueApqn, ALL, "which queue is reset"),
        (F::QueueResetWork, WORK, "work items that verify resets"),
        (
            F::DeviceDriverData,
            ALL,
            "which mdev an attribute belongs to",
        ),
        (F::MdevDeviceUuid, ALL, "UUIDs of mdevs"),
        (
            F::MutexOwner,
            ALL,
            "owners of mutexes, read from their words",
        ),
        (
            F::RwsemCount,
            RWSEM,
            "state of rwsems, read from their words",
        ),
        (
            F::RwsemOwner,
            RWSEM,
            "writers of rwsems, read from their words",
        ),
        (F::TaskPid, ALL, "owners of locks, by thread"),
        (F::TaskTgid, ALL, "owners of locks, by process"),
        (F::TaskComm, ALL, "names of owners"),
        (F::VfioDeviceGroup, GROUP, "the lock of a vfio group"),
        (F::VfioGroupLock, GROUP, "the lock of a vfio group"),
        (F::KvmVfioLock, ALL, "kv->lock"),
        (F::KvmDevicePrivate, ALL, "kv->lock"),
    ]
};
