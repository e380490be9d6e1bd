//! v5.10 (and v4.20 to v5.10.y): one mutex, tests without it.
//!
//! The stores test for a guest, parse and compare before they take `matrix_dev->lock`. The group notifier sets the
//! masks after the lock was dropped, and withdraws a guest by clearing the pointer without any lock. Release clears the
//! masks, which takes `kvm->lock`, with `matrix_dev->lock` held: with a conversion to a protected guest and a vCPU in
//! PQAP, that is a deadlock. The status of AQIC that the guest gets is not one (5.10.223 returns the wrong half of the
//! register).

use std::sync::atomic::Ordering;

use super::group::{vfio_register_notifier, vfio_unregister_notifier};
use super::{
    Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_RESET,
    VFIO_GROUP_NOTIFY_SET_KVM, VFIO_IOMMU_NOTIFY_DMA_UNMAP, VfioCore,
};
use super::{absent, irq, matrix, queue_dev, reset, sysfs};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::{DmaUnmap, vfio_ap_mdev_reset_queues};

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.10",
    about: "one mutex, tested around; release clears the masks (kvm->lock) with it held",
    has_kvm_busy: false,
    has_hook_rwsem: false,
    has_group_notifier: true,
    masks_take_kvm_lock: true,
    has_open_device: false,
    has_hot_plug: false,
    has_reset_work: false,
    has_status: false,
    has_ap_config: false,
    has_ap_attr_mutex: false,
    has_2026_fixes: false,
    pv_takes_kvm_lock: false,
    aqic_status_is_input: true,
    leaks_lock: false,
    vfio_core: VfioCore::Unlocked,
    refuses_change: guest_uses_it,
    handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    iommu_notifier: vfio_ap_mdev_iommu_notifier,
    dma_unmap: absent::dma_unmap,
    open: vfio_ap_mdev_open,
    release: vfio_ap_mdev_release,
    ioctl: vfio_ap_mdev_ioctl,
    request: absent::request,
    create: vfio_ap_mdev_create,
    remove: vfio_ap_mdev_remove,
    queue_probe: queue_dev::vfio_ap_queue_dev_probe,
    queue_remove: queue_dev::vfio_ap_queue_dev_remove,
    reset_queues: reset::vfio_ap_mdev_reset_queues,
    in_use: absent::in_use,
    cfg_changed: absent::cfg_changed,
    scan_complete: absent::scan_complete,
    assign_adapter_store: sysfs::testing_unlocked::assign_adapter_store,
    unassign_adapter_store: sysfs::testing_unlocked::unassign_adapter_store,
    assign_domain_store: sysfs::testing_unlocked::assign_domain_store,
    unassign_domain_store: sysfs::testing_unlocked::unassign_domain_store,
    assign_control_domain_store: sysfs::testing_unlocked::assign_control_domain_store,
    unassign_control_domain_store: sysfs::testing_unlocked::unassign_control_domain_store,
    ap_config_store: absent::store,
    matrix_show: sysfs::matrix_show,
    control_domains_show: sysfs::control_domains_show,
    guest_matrix_show: absent::show,
    ap_config_show: absent::show,
    status_show: absent::status_show,
};

/// If the mdev is in use by a guest, its matrix must not change.
pub(super) fn guest_uses_it(matrix_mdev: &ApMatrixMdev) -> bool {
    matrix_mdev.kvm.get().is_some()
}

/// Takes the driver's lock, asks nobody else.
pub(super) fn handle_pqap(machine: &'static Machine, vcpu: &'static KvmVcpu) -> i32 {
    irq::handle_pqap(vcpu, &machine.matrix_dev.lock, |matrix_mdev| {
        irq::pqap_aqic(machine, matrix_mdev, vcpu)
    })
}

/// 0, or `-EPERM` if another mdev has the guest.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    mutex_lock(&machine.matrix_dev.lock);
    if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
        mutex_unlock(&machine.matrix_dev.lock);
        return -libc::EPERM;
    }
    matrix_mdev.kvm.set(Some(kvm));
    kvm_get_kvm(kvm);
    kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
    mutex_unlock(&machine.matrix_dev.lock);
    0
}

fn vfio_ap_mdev_group_notifier(
    machine: &'static Machine,
    nb: &'static NotifierBlock,
    action: u64,
    data: Option<&'static Kvm>,
) -> i32 {
    if action != VFIO_GROUP_NOTIFY_SET_KVM {
        return NOTIFY_OK;
    }
    let Some(matrix_mdev) = nb.mdev.get() else {
        return NOTIFY_DONE;
    };
    let Some(kvm) = data else {
        // No lock, and the reference on the VM stays.
        matrix_mdev.kvm.set(None);
        return NOTIFY_OK;
    };
    if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
        return NOTIFY_DONE;
    }
    // If there is no CRYCB pointer, then we cannot copy the masks.
    if kvm.crypto.crycbd.load(Ordering::Relaxed) == 0 {
        return NOTIFY_DONE;
    }
    let matrix = &matrix_mdev.matrix;
    kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
    NOTIFY_OK
}

/// Unpins the page, without a lock.
pub(super) fn vfio_ap_mdev_iommu_notifier(
    _: &'static Machine,
    _: &'static NotifierBlock,
    action: u64,
    _: &DmaUnmap,
) -> i32 {
    if action == VFIO_IOMMU_NOTIFY_DMA_UNMAP {
        NOTIFY_OK
    } else {
        NOTIFY_DONE
    }
}

/// Registers the group notifier, which may announce the guest at once, and the iommu notifier, whose chain is not
/// among the traced locks.
pub(super) fn vfio_ap_mdev_open(_: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    vfio_register_notifier(&mdev.group, &matrix_mdev.group_notifier)
}

fn vfio_ap_mdev_release(machine: &'static Machine, mdev: &'static MdevDevice) {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.lock);
    if let Some(kvm) = matrix_mdev.kvm.get() {
        kvm_arch_crypto_clear_masks(kvm);
        kvm.crypto.pqap_hook.set(None);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
    }
    mutex_unlock(&machine.matrix_dev.lock);
    vfio_unregister_notifier(&mdev.group, &matrix_mdev.group_notifier);
}

/// The whole ioctl under the lock.
pub(super) fn vfio_ap_mdev_ioctl(
    machine: &'static Machine,
    mdev: &'static MdevDevice,
    cmd: u32,
    _: u64,
) -> i64 {
    mutex_lock(&machine.matrix_dev.lock);
    let ret = match (cmd, mdev.dev.driver_data.get()) {
        (VFIO_DEVICE_GET_INFO, _) => 0,
        (VFIO_DEVICE_RESET, None) => -libc::EINVAL,
        (VFIO_DEVICE_RESET, Some(matrix_mdev)) => vfio_ap_mdev_reset_queues(matrix_mdev),
        _ => -libc::EOPNOTSUPP,
    };
    mutex_unlock(&machine.matrix_dev.lock);
    ret.into()
}

/// `-EPERM` when there are no instances left.
pub(super) fn vfio_ap_mdev_create(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let available = &machine.matrix_dev.available_instances;
    let taken = available.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
        (n > 0).then(|| n - 1)
    });
    if taken.is_err() {
        return -libc::EPERM;
    }
    mdev.storage.reset();
    mdev.dev.driver_data.set(Some(mdev.storage));
    mutex_lock(&machine.matrix_dev.lock);
    machine.matrix_dev.list_add(mdev.storage);
    mutex_unlock(&machine.matrix_dev.lock);
    0
}

/// Tests for a guest without the lock.
fn vfio_ap_mdev_remove(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    if matrix_mdev.kvm.get().is_some() {
        return -libc::EBUSY;
    }
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    machine.matrix_dev.list_del(matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    mdev.dev.driver_data.set(None);
    machine
        .matrix_dev
        .available_instances
        .fetch_add(1, Ordering::Relaxed);
    0
}
