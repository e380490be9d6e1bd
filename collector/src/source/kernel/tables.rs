//! What the programs are told of a kernel: offsets, and how each entry point's arguments are to be read.

use probe_ebpf::abi::{
    Config, ENTRY_RETURNS_INT, ENTRY_RETURNS_VOID, EntryInfo, MAX_ENTRY_POINTS, NO_OFFSET, Resolve,
};
use probe_ebpf::names::{class_id, entry_id};

use super::{jobs, objects};
use crate::attach::generation::{Generation, Generations};
use crate::attach::offsets::{Field, Offsets};
use crate::attach::plan::Plan;
use crate::attach::points::{Filter, KVM_S390_PV_COMMAND, PQAP, Role};
use crate::attach::symbols::Symbols;
use crate::attach::{self, Writer};
use crate::source::budget::Sizes;

/// Until the driver became a vfio_device driver in v5.15-rc1, the mdev core had the driver's data.
const MDEV_OPS: Generations = Generations::of(&[
    Generation::V5_10,
    Generation::V5_11,
    Generation::V5_13,
    Generation::Rfc2021_06,
    Generation::Rfc2021_07,
]);

/// Whether all candidates are of the time before vfio_device; `None` where that is not known.
fn mdev_ops(plan: &Plan) -> Option<bool> {
    let candidates = plan.generation.candidates;
    if candidates.is_empty() || candidates.meets(MDEV_OPS) && candidates.meets(MDEV_OPS.not()) {
        return None;
    }
    Some(candidates.meets(MDEV_OPS))
}

/// Whether the driver has the open-coded lock, with everything that is needed to watch it.
pub fn has_flag(offsets: &Offsets) -> bool {
    offsets.get(Field::MdevKvmBusy).is_some() && offsets.get(Field::MdevWaitForKvm).is_some()
}

/// Offset of the mdev in what an attribute's `struct device` has, and in what the mdev core's object has.
fn driver_data(plan: &Plan, offsets: &Offsets) -> (Option<u32>, Option<u32>) {
    let device = offsets.get(Field::DeviceDriverData);
    let dev = offsets.get(Field::MdevDeviceDev);
    match mdev_ops(plan) {
        Some(false) => (
            device,
            device.and_then(|device| dev.unwrap_or(0).checked_add(device)),
        ),
        Some(true) => {
            let data = offsets.get(Field::MdevDeviceDriverData);
            (data.and_then(|data| data.checked_sub(dev?)), data)
        }
        None => (None, None),
    }
}

/// The programs' configuration.
pub fn config(plan: &Plan, offsets: &Offsets, symbols: Option<&Symbols>, sizes: &Sizes) -> Config {
    let at = |field| offsets.get(field).unwrap_or(NO_OFFSET);
    let (attribute, mdev) = driver_data(plan, offsets);
    let work = symbols
        .and_then(|symbols| symbols.exact(Some("vfio_ap"), "apq_reset_check"))
        .map_or(0, |found| found.symbol.address);
    let reset_work = offsets.get(Field::QueueResetWork);
    let queue = match (
        offsets.get(Field::ApQueueQid),
        offsets.get(Field::ApQueueApDev),
    ) {
        (Some(qid), Some(device)) => qid.checked_sub(device),
        _ => None,
    };
    Config {
        shard_mask: sizes.shards - 1,
        ring_wake_bytes: sizes.ring_bytes / 2,
        mdev_flag: at(Field::MdevKvmBusy),
        mdev_notifier: at(Field::MdevGroupNotifier),
        mdev_hook: at(Field::MdevPqapHook),
        device_driver_data: attribute.unwrap_or(NO_OFFSET),
        mdev_device_driver_data: mdev.unwrap_or(NO_OFFSET),
        vcpu_kvm: at(Field::KvmVcpuKvm),
        vcpu_run: at(Field::KvmVcpuRun),
        kvm_hook: at(Field::KvmPqapHook),
        run_gprs: at(Field::KvmRunGprs),
        ap_device_qid: queue.unwrap_or(NO_OFFSET),
        has_flag: u32::from(has_flag(offsets)),
        adopts: 1,
        tentative: u32::from(jobs::is_tentative(plan)),
        contention_events: u32::from(
            jobs::attaches(plan, "b_contention_begin")
                || jobs::attaches(plan, "r_contention_begin"),
        ),
        file_private_data: at(Field::FilePrivateData),
        vcpu_mutex: at(Field::KvmVcpuMutex),
        vcpu_id: at(Field::KvmVcpuId),
        vcpu_sie_block: at(Field::KvmVcpuSieBlock),
        sie_ipa: at(Field::SieBlockIpa),
        kvm_lock: at(Field::KvmLock),
        kvm_rwsem: at(Field::KvmPqapHookRwsem),
        mdev_kvm: at(Field::MdevKvm),
        vdev_kvm: at(Field::VfioDeviceKvm),
        mdev_wait_queue: at(Field::MdevWaitForKvm),
        kvm_device_private: at(Field::KvmDevicePrivate),
        kvm_vfio_lock: at(Field::KvmVfioLock),
        work_func: at(Field::WorkFunc),
        mutex_owner: at(Field::MutexOwner),
        kvm_device_kvm: at(Field::KvmDeviceKvm),
        // The vfio_device is where the mdev is.
        vdev_dev_set: match offsets.get(Field::MdevVdev) {
            Some(0) => at(Field::VfioDeviceDevSet),
            _ => NO_OFFSET,
        },
        dev_set_lock: at(Field::DevSetLock),
        vdev_group: match offsets.get(Field::MdevVdev) {
            Some(0) => at(Field::VfioDeviceGroup),
            _ => NO_OFFSET,
        },
        group_lock: objects::group_lock(offsets).map_or(NO_OFFSET, |(offset, _)| offset),
        group_is_rwsem: u32::from(
            objects::group_lock(offsets).is_some_and(|(_, class)| class == class_id::GROUP_RWSEM),
        ),
        queue_mdev: at(Field::QueueMatrixMdev),
        // `struct ap_device` begins with its `struct device`.
        ap_device_queue: at(Field::DeviceDriverData),
        queue_reset_work: reset_work.unwrap_or(0),
        // `response_code` is the second byte of `struct ap_queue_status` (arch/s390/include/asm/ap.h, v6.6 to v7.3).
        queue_reset_rc: match (reset_work, offsets.get(Field::QueueResetStatus)) {
            (Some(_), Some(status)) => status + 1,
            _ => NO_OFFSET,
        },
        reset_work_func: if reset_work.is_some() && offsets.get(Field::WorkFunc).is_some() {
            work
        } else {
            0
        },
        ..Config::EMPTY
    }
}

/// How each entry point's arguments are read here. What needs an offset that is not known is not read.
pub fn entry_info(plan: &Plan, offsets: &Offsets) -> [EntryInfo; MAX_ENTRY_POINTS] {
    let mut all = attach::entry_info(has_flag(offsets), Writer::CurrentTask);
    let (attribute, mdev) = driver_data(plan, offsets);
    let known = |fields: &[Field]| fields.iter().all(|field| offsets.get(*field).is_some());
    let registers = known(&[Field::KvmVcpuRun, Field::KvmRunGprs]);
    for (id, info) in all.iter_mut().enumerate() {
        let id = id as u8;
        let resolve = match id {
            entry_id::OPEN_DEVICE
            | entry_id::CLOSE_DEVICE
            | entry_id::IOCTL
            | entry_id::REQUEST
            | entry_id::DMA_UNMAP
                if mdev_ops(plan) == Some(false) =>
            {
                // The vfio_device is the first member of the mdev.
                if offsets.get(Field::MdevVdev).is_none_or(|vdev| vdev == 0) {
                    Resolve::VfioDevice
                } else {
                    Resolve::None
                }
            }
            entry_id::KVM_VCPU_IOCTL if known(&[Field::FilePrivateData]) => Resolve::VcpuFile,
            // The first argument of the one is the vCPU's file in a kernel; that of the other is the mdev in some
            // kernels, and its table of queues in others.
            entry_id::KVM_VCPU_IOCTL | entry_id::RESET_QUEUES => Resolve::None,
            // Calls that a point shares with others must be told apart.
            _ if filter_of(plan, id) == Some(Filter::Instruction(PQAP)) => Resolve::VcpuB2,
            _ if filter_of(plan, id) == Some(Filter::VmIoctl(KVM_S390_PV_COMMAND)) => {
                Resolve::KvmFilePv
            }
            _ => match resolve_of(info.resolve) {
                Some(Resolve::Device | Resolve::Show) if attribute.is_none() => Resolve::None,
                Some(Resolve::MdevDevice | Resolve::NewMdev) if mdev.is_none() => Resolve::None,
                Some(Resolve::Notifier) if !known(&[Field::MdevGroupNotifier]) => Resolve::None,
                Some(Resolve::Vcpu) if !registers => Resolve::None,
                Some(Resolve::ApDevice) if !known(&[Field::ApQueueQid, Field::ApQueueApDev]) => {
                    Resolve::None
                }
                _ => continue,
            },
        };
        info.resolve = resolve as u8;
    }
    // An int until v5.14, where it may refuse; void since it is a mdev_driver's (vfio_ap_ops.c, v5.15 to v7.3).
    if mdev_ops(plan) == Some(false)
        && let Some(remove) = all.get_mut(usize::from(entry_id::REMOVE))
    {
        remove.flags = remove.flags & !ENTRY_RETURNS_INT | ENTRY_RETURNS_VOID;
    }
    all
}

/// Which calls of the function that was found for an entry point are its calls.
fn filter_of(plan: &Plan, id: u8) -> Option<Filter> {
    let planned = plan
        .attached()
        .find(|planned| planned.point.role == Role::Entry(id))?;
    Some(planned.target.as_ref()?.filter)
}

fn resolve_of(number: u8) -> Option<Resolve> {
    [
        Resolve::Device,
        Resolve::Show,
        Resolve::MdevDevice,
        Resolve::NewMdev,
        Resolve::Notifier,
        Resolve::Vcpu,
        Resolve::ApDevice,
    ]
    .into_iter()
    .find(|resolve| *resolve as u8 == number)
}
