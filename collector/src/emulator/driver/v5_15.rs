//! v5.15 to v5.18: locks instead of the open-coded one.
//!
//! Commit 1e753732bda6 gave KVM's hook pointer an rwsem, commit 86956e70761b removed `kvm_busy`: the driver takes
//! `kvm->lock` before `matrix_dev->lock`, and the functions that change the masks require it of their caller. The two
//! are released in the order they were taken. A failed `vfio_ap_mdev_set_kvm` leaves the hook set, as upstream did
//! until 2026.

use std::sync::atomic::Ordering;

use super::group::{vfio_register_notifier, vfio_unregister_notifier};
use super::{Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_RESET};
use super::{VFIO_GROUP_NOTIFY_SET_KVM, irq, matrix, reset, sysfs};
use crate::emulator::hardware::{AP_RESPONSE_Q_NOT_AVAIL, ApQueueStatus};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, NotifierBlock, VfioDevice};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};

/// The functions of this generation.
pub static GENERATION: Generation = Generation {
    name: "v5.15",
    about: "kvm->lock before the driver's mutex, an rwsem for the PQAP hook; no open-coded lock",
    has_kvm_busy: false,
    has_hook_rwsem: true,
    has_group_notifier: true,
    masks_take_kvm_lock: false,
    has_open_device: true,
    refuses_change,
    handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    open: vfio_ap_mdev_open_device,
    release: vfio_ap_mdev_close_device,
    ioctl: vfio_ap_mdev_ioctl,
    assign_adapter_store: sysfs::assign_adapter_store,
    unassign_adapter_store: sysfs::unassign_adapter_store,
    assign_domain_store: sysfs::assign_domain_store,
    unassign_domain_store: sysfs::unassign_domain_store,
    assign_control_domain_store: sysfs::assign_control_domain_store,
    unassign_control_domain_store: sysfs::unassign_control_domain_store,
    matrix_show: sysfs::matrix_show,
    control_domains_show: sysfs::control_domains_show,
};

fn refuses_change(matrix_mdev: &ApMatrixMdev) -> bool {
    matrix_mdev.kvm.get().is_some()
}

/// Called with the hook's rwsem read-held by KVM.
fn handle_pqap(machine: &'static Machine, vcpu: &'static KvmVcpu) -> i32 {
    if !vcpu.sie_block.has_aiv() {
        return -libc::EOPNOTSUPP;
    }
    mutex_lock(&machine.matrix_dev.lock);
    let hook = vcpu
        .kvm
        .get()
        .and_then(|kvm| kvm.crypto.pqap_hook.get())
        .and_then(|hook| hook.mdev.get());
    let status = match hook {
        None => ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL),
        Some(matrix_mdev) => irq::pqap_aqic(machine, matrix_mdev, vcpu),
    };
    irq::store_status(vcpu, status);
    mutex_unlock(&machine.matrix_dev.lock);
    0
}

/// 0, or `-EPERM` if another mdev has the guest; the hook then stays set.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        up_write(&kvm.crypto.pqap_hook_rwsem);

        mutex_lock(&kvm.lock);
        mutex_lock(&machine.matrix_dev.lock);
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            mutex_unlock(&kvm.lock);
            mutex_unlock(&machine.matrix_dev.lock);
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.kvm.set(Some(kvm));
        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
        mutex_unlock(&kvm.lock);
        mutex_unlock(&machine.matrix_dev.lock);
    }
    0
}

/// `kvm` is the mdev's pointer, which the caller read without a lock.
fn vfio_ap_mdev_unset_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: Option<&'static Kvm>,
) {
    if let Some(kvm) = kvm.filter(|kvm| kvm.crypto.crycbd.load(Ordering::Relaxed) != 0) {
        down_write(&kvm.crypto.pqap_hook_rwsem);
        kvm.crypto.pqap_hook.set(None);
        up_write(&kvm.crypto.pqap_hook_rwsem);

        mutex_lock(&kvm.lock);
        mutex_lock(&machine.matrix_dev.lock);
        kvm_arch_crypto_clear_masks(kvm);
        reset::vfio_ap_mdev_reset_queues(machine, matrix_mdev);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
        mutex_unlock(&kvm.lock);
        mutex_unlock(&machine.matrix_dev.lock);
    }
}

/// Runs without a lock of its own.
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
    match data {
        None => vfio_ap_mdev_unset_kvm(machine, matrix_mdev, matrix_mdev.kvm.get()),
        Some(kvm) => {
            if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
                return NOTIFY_DONE;
            }
        }
    }
    NOTIFY_OK
}

/// Registers the group notifier, which may announce the guest at once, and the iommu notifier, whose chain is not
/// among the traced locks.
fn vfio_ap_mdev_open_device(_machine: &'static Machine, vdev: &'static VfioDevice) -> i32 {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    vfio_register_notifier(&matrix_mdev.group, &matrix_mdev.group_notifier)
}

fn vfio_ap_mdev_close_device(machine: &'static Machine, vdev: &'static VfioDevice) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    vfio_unregister_notifier(&matrix_mdev.group, &matrix_mdev.group_notifier);
    vfio_ap_mdev_unset_kvm(machine, matrix_mdev, matrix_mdev.kvm.get());
}

fn vfio_ap_mdev_ioctl(
    machine: &'static Machine,
    vdev: &'static VfioDevice,
    cmd: u32,
    _arg: u64,
) -> i64 {
    mutex_lock(&machine.matrix_dev.lock);
    let ret = match (cmd, vdev.dev.driver_data.get()) {
        (VFIO_DEVICE_GET_INFO, _) => 0,
        (VFIO_DEVICE_RESET, None) => -libc::EINVAL,
        (VFIO_DEVICE_RESET, Some(matrix_mdev)) => {
            reset::vfio_ap_mdev_reset_queues(machine, matrix_mdev)
        }
        _ => -libc::EOPNOTSUPP,
    };
    mutex_unlock(&machine.matrix_dev.lock);
    ret.into()
}
