//! The mdev's device, from v6.0 on: created, opened, used, closed, removed.

use std::sync::atomic::Ordering;

use crate::emulator::driver::{
    VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_RESET, VFIO_DEVICE_SET_IRQS, irq,
    matrix,
};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, MdevDevice, VfioDevice};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};
use crate::emulator::points::kvm::kvm_arch_crypto_clear_masks;
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;
use crate::emulator::vfio_core::vfio_unregister_group_dev;

use super::locks::{get_update_locks_for_kvm, get_update_locks_for_mdev};
use super::{vfio_ap_mdev_update_guest_apcb, vfio_ap_unlink_queue_fr_mdev};

/// `handle_pqap`: mdevs_lock alone, in the hook's rwsem read-held by KVM.
pub fn handle_pqap(machine: &'static Machine, vcpu: &'static KvmVcpu) -> i32 {
    irq::handle_pqap(vcpu, &machine.matrix_dev.mdevs_lock, |matrix_mdev| {
        irq::pqap_aqic(machine, matrix_mdev, vcpu)
    })
}

/// `vfio_ap_mdev_set_kvm` up to v7.2: 0, or `-EPERM` if another mdev has the guest; the hook then stays set.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    down_write(&kvm.crypto.pqap_hook_rwsem);
    kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
    up_write(&kvm.crypto.pqap_hook_rwsem);

    let locks = get_update_locks_for_kvm(machine, Some(kvm));
    if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
        locks.release(machine);
        return -libc::EPERM;
    }
    kvm_get_kvm(kvm);
    matrix_mdev.kvm.set(Some(kvm));
    vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    locks.release(machine);
    0
}

/// `vfio_ap_mdev_set_kvm` of v7.3: the hook is tested and set with all locks held. `-EPERM` if there is one.
fn vfio_ap_mdev_set_kvm_with_hook(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    let locks = get_update_locks_for_kvm(machine, Some(kvm));
    if kvm.crypto.pqap_hook.get().is_some() {
        locks.release(machine);
        return -libc::EPERM;
    }
    kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
    kvm_get_kvm(kvm);
    matrix_mdev.kvm.set(Some(kvm));
    vfio_ap_mdev_update_guest_apcb(matrix_mdev);
    locks.release(machine);
    0
}

/// `vfio_ap_mdev_unset_kvm`. Up to v7.2 the reference on the VM is dropped with `kvm->lock` held; later the hook is
/// cleared with all locks held.
fn vfio_ap_mdev_unset_kvm(machine: &Machine, matrix_mdev: &'static ApMatrixMdev) {
    let Some(kvm) = matrix_mdev
        .kvm
        .get()
        .filter(|kvm| kvm.crypto.crycbd.load(Ordering::Relaxed) != 0)
    else {
        return;
    };
    let hook_in_locks = machine.generation.has_2026_fixes;
    if !hook_in_locks {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(None);
        up_write(&kvm.crypto.pqap_hook_rwsem);
    }
    let locks = get_update_locks_for_kvm(machine, Some(kvm));
    if hook_in_locks {
        kvm.crypto.pqap_hook.set(None);
    }
    kvm_arch_crypto_clear_masks(kvm);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    if !hook_in_locks {
        kvm_put_kvm(kvm);
    }
    matrix_mdev.kvm.set(None);
    locks.release(machine);
    if hook_in_locks {
        kvm_put_kvm(kvm);
    }
}

/// `vfio_ap_mdev_open_device`: `-EINVAL` without a guest, `-EPERM` if another mdev has it.
pub fn vfio_ap_mdev_open_device(machine: &'static Machine, vdev: &'static VfioDevice) -> i32 {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    match vdev.vdev_kvm.get() {
        None => -libc::EINVAL,
        Some(kvm) if machine.generation.has_2026_fixes => {
            vfio_ap_mdev_set_kvm_with_hook(machine, matrix_mdev, kvm)
        }
        Some(kvm) => vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm),
    }
}

/// `vfio_ap_mdev_close_device`.
pub fn vfio_ap_mdev_close_device(machine: &'static Machine, vdev: &'static VfioDevice) {
    if let Some(matrix_mdev) = vdev.dev.driver_data.get() {
        vfio_ap_mdev_unset_kvm(machine, matrix_mdev);
    }
}

/// `vfio_ap_mdev_ioctl`: mdevs_lock for the whole ioctl, a reset included. Interrupts came with v6.5; setting them
/// gives the driver the eventfd on which it asks for the device back.
pub fn vfio_ap_mdev_ioctl(
    machine: &'static Machine,
    vdev: &'static VfioDevice,
    cmd: u32,
    _: u64,
) -> i64 {
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    let has_irqs = machine.generation.has_ap_config;
    let ret = match (cmd, vdev.dev.driver_data.get()) {
        (VFIO_DEVICE_GET_INFO, _) => 0,
        (VFIO_DEVICE_GET_IRQ_INFO, _) if has_irqs => 0,
        (VFIO_DEVICE_SET_IRQS | VFIO_DEVICE_RESET, None) => -libc::EINVAL,
        (VFIO_DEVICE_SET_IRQS, Some(matrix_mdev)) if has_irqs => {
            for trigger in [&matrix_mdev.req_trigger, &matrix_mdev.cfg_chg_trigger] {
                trigger.is_set.store(true, Ordering::Relaxed);
            }
            0
        }
        (VFIO_DEVICE_RESET, Some(matrix_mdev)) => vfio_ap_mdev_reset_queues(matrix_mdev),
        _ => -libc::EOPNOTSUPP,
    };
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    ret.into()
}

/// `vfio_ap_mdev_request` of 6.12: asks user space for the device, in mdevs_lock.
pub fn vfio_ap_mdev_request(machine: &'static Machine, vdev: &'static VfioDevice, _: u32) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    matrix_mdev.req_trigger.signal();
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
}

/// The same from 6.15 on: takes the queues from the guest first, with the mdev's update locks.
pub fn vfio_ap_mdev_request_clearing(machine: &'static Machine, vdev: &'static VfioDevice, _: u32) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    let locks = get_update_locks_for_mdev(machine, Some(matrix_mdev));
    if let Some(kvm) = matrix_mdev.kvm.get() {
        kvm_arch_crypto_clear_masks(kvm);
        matrix_mdev.cfg_chg_trigger.signal();
    }
    matrix_mdev.req_trigger.signal();
    locks.release(machine);
}

/// `vfio_ap_mdev_dma_unmap` of v6.0: unpins, without a lock.
pub fn vfio_ap_mdev_dma_unmap_unlocked(
    _: &'static Machine,
    _: &'static VfioDevice,
    _: u64,
    _: u64,
) {
}

/// `vfio_ap_mdev_dma_unmap` of 6.12: turns interruptions off whose indicator is in the range, in mdevs_lock.
pub fn vfio_ap_mdev_dma_unmap(
    machine: &'static Machine,
    vdev: &'static VfioDevice,
    iova: u64,
    length: u64,
) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    let pages = iova >> 12..iova.saturating_add(length).div_ceil(4096);
    for queue in matrix_mdev.queues() {
        let pfn = queue.saved_pfn.load(Ordering::Relaxed);
        if pfn != 0 && pages.contains(&pfn) {
            irq::vfio_ap_irq_disable(machine, queue);
        }
    }
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
}

/// `vfio_ap_mdev_probe`. What is assigned is found later; from v7.3 on guests_lock guards the list.
pub fn vfio_ap_mdev_probe(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    mdev.storage.reset();
    mdev.dev.driver_data.set(Some(mdev.storage));
    let lock = if machine.generation.has_2026_fixes {
        &machine.matrix_dev.guests_lock
    } else {
        &machine.matrix_dev.mdevs_lock
    };
    mutex_lock(lock);
    machine.matrix_dev.list_add(mdev.storage);
    mutex_unlock(lock);
    0
}

/// `vfio_ap_mdev_remove`: waits for the last descriptor without a lock.
pub fn vfio_ap_mdev_remove(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    vfio_unregister_group_dev(machine, mdev);
    mutex_lock(&machine.matrix_dev.guests_lock);
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    for queue in matrix_mdev.queues() {
        vfio_ap_unlink_queue_fr_mdev(queue);
    }
    machine.matrix_dev.list_del(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.mdevs_lock);
    mutex_unlock(&machine.matrix_dev.guests_lock);
    mdev.dev.driver_data.set(None);
    0
}
