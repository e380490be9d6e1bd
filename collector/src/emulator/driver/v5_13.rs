//! v5.13 and v5.14: the open-coded lock.
//!
//! Commit 0cc00c8d4050 made the lockdep report of v5.11 go away: `matrix_dev->lock` is dropped around the update of the
//! guest's masks, which takes `kvm->lock`, and `kvm_busy` with the wait queue `wait_for_kvm` keeps others out
//! meanwhile. Lockdep sees neither the flag nor the waiting. `vfio_ap_mdev_set_kvm` does not test the flag. The stores
//! take the lock before they test. Otherwise as [`v5_11`].

use std::sync::atomic::Ordering;

use super::group::vfio_unregister_notifier;
use super::sysfs::locked;
use super::{
    Generation, NOTIFY_DONE, NOTIFY_OK, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_RESET,
    VFIO_GROUP_NOTIFY_SET_KVM, irq, matrix, v5_11,
};
use crate::emulator::kvm::{kvm_get_kvm, kvm_put_kvm};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, MdevDevice, NotifierBlock};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};
use crate::emulator::points::kvm::{kvm_arch_crypto_clear_masks, kvm_arch_crypto_set_masks};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_reset_queues;
use crate::emulator::primitives::waitqueue::{wait_event_cmd, wake_up_all};

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.13",
    about: "one mutex, dropped around the mask update; kvm_busy and a wait queue instead of lock nesting",
    has_kvm_busy: true,
    refuses_change,
    handle_pqap,
    group_notifier: vfio_ap_mdev_group_notifier,
    release: vfio_ap_mdev_release,
    ioctl: vfio_ap_mdev_ioctl,
    remove: vfio_ap_mdev_remove,
    assign_adapter_store: locked::assign_adapter_store,
    unassign_adapter_store: locked::unassign_adapter_store,
    assign_domain_store: locked::assign_domain_store,
    unassign_domain_store: locked::unassign_domain_store,
    assign_control_domain_store: locked::assign_control_domain_store,
    unassign_control_domain_store: locked::unassign_control_domain_store,
    ..v5_11::GENERATION
};

/// Stores do not wait while the kvm pointer is in flux: they fail.
fn refuses_change(matrix_mdev: &ApMatrixMdev) -> bool {
    matrix_mdev.kvm_busy() || matrix_mdev.kvm.get().is_some()
}

/// Waits, with the driver's lock held, until the kvm pointer is not in flux.
pub(super) fn wait_until_kvm_is_not_busy(machine: &Machine, matrix_mdev: &ApMatrixMdev) {
    wait_event_cmd(
        &matrix_mdev.wait_for_kvm,
        matrix_mdev.kvm_busy_address(),
        || !matrix_mdev.kvm_busy(),
        || mutex_unlock(&machine.matrix_dev.lock),
        || mutex_lock(&machine.matrix_dev.lock),
        matrix_mdev.truth_busy(),
    );
}

/// `wake_up_all(&matrix_mdev->wait_for_kvm)`, unless the scenario loses this one.
pub(super) fn wake_up_waiters(machine: &Machine, matrix_mdev: &ApMatrixMdev) {
    if !machine.faults.loses_wakeup(matrix_mdev) {
        wake_up_all(&matrix_mdev.wait_for_kvm);
    }
}

fn handle_pqap(machine: &'static Machine, vcpu: &'static KvmVcpu) -> i32 {
    irq::handle_pqap(vcpu, &machine.matrix_dev.lock, |matrix_mdev| {
        wait_until_kvm_is_not_busy(machine, matrix_mdev);
        irq::pqap_aqic(machine, matrix_mdev, vcpu)
    })
}

/// Entered with the driver's lock held, dropped around the mask update. 0, or `-EPERM` if another mdev has the guest.
fn vfio_ap_mdev_set_kvm(
    machine: &Machine,
    matrix_mdev: &'static ApMatrixMdev,
    kvm: &'static Kvm,
) -> i32 {
    if kvm.crypto.crycbd.load(Ordering::Relaxed) != 0 {
        if matrix::kvm_is_taken(machine, matrix_mdev, kvm) {
            return -libc::EPERM;
        }
        kvm_get_kvm(kvm);
        matrix_mdev.set_kvm_busy();
        mutex_unlock(&machine.matrix_dev.lock);
        let matrix = &matrix_mdev.matrix;
        kvm_arch_crypto_set_masks(kvm, &matrix.apm, &matrix.aqm, &matrix.adm);
        mutex_lock(&machine.matrix_dev.lock);
        kvm.crypto.pqap_hook.set(Some(&matrix_mdev.pqap_hook));
        matrix_mdev.kvm.set(Some(kvm));
        matrix_mdev.clear_kvm_busy();
        wake_up_waiters(machine, matrix_mdev);
    }
    0
}

/// Entered with the driver's lock held, dropped around the mask update.
fn vfio_ap_mdev_unset_kvm(machine: &Machine, matrix_mdev: &'static ApMatrixMdev) {
    wait_until_kvm_is_not_busy(machine, matrix_mdev);
    if let Some(kvm) = matrix_mdev.kvm.get() {
        matrix_mdev.set_kvm_busy();
        mutex_unlock(&machine.matrix_dev.lock);
        kvm_arch_crypto_clear_masks(kvm);
        mutex_lock(&machine.matrix_dev.lock);
        vfio_ap_mdev_reset_queues(matrix_mdev);
        kvm.crypto.pqap_hook.set(None);
        kvm_put_kvm(kvm);
        matrix_mdev.kvm.set(None);
        matrix_mdev.clear_kvm_busy();
        wake_up_waiters(machine, matrix_mdev);
    }
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
    let mut notify_rc = NOTIFY_OK;
    mutex_lock(&machine.matrix_dev.lock);
    match data {
        None => vfio_ap_mdev_unset_kvm(machine, matrix_mdev),
        Some(kvm) => {
            if vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm) != 0 {
                notify_rc = NOTIFY_DONE;
            }
        }
    }
    mutex_unlock(&machine.matrix_dev.lock);
    notify_rc
}

fn vfio_ap_mdev_release(machine: &'static Machine, mdev: &'static MdevDevice) {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return;
    };
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_unset_kvm(machine, matrix_mdev);
    mutex_unlock(&machine.matrix_dev.lock);
    vfio_unregister_notifier(&mdev.group, &matrix_mdev.group_notifier);
}

fn vfio_ap_mdev_ioctl(
    machine: &'static Machine,
    mdev: &'static MdevDevice,
    cmd: u32,
    _: u64,
) -> i64 {
    mutex_lock(&machine.matrix_dev.lock);
    let ret = match (cmd, mdev.dev.driver_data.get()) {
        (VFIO_DEVICE_GET_INFO, _) => 0,
        (VFIO_DEVICE_RESET, None) => -libc::EINVAL,
        (VFIO_DEVICE_RESET, Some(matrix_mdev)) => {
            wait_until_kvm_is_not_busy(machine, matrix_mdev);
            vfio_ap_mdev_reset_queues(matrix_mdev)
        }
        _ => -libc::EOPNOTSUPP,
    };
    mutex_unlock(&machine.matrix_dev.lock);
    ret.into()
}

/// Everything under the lock, and without a test for a guest (commit 8c0795d2a0f5, in v5.13 as released).
pub(super) fn vfio_ap_mdev_remove(machine: &'static Machine, mdev: &'static MdevDevice) -> i32 {
    let Some(matrix_mdev) = mdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    mutex_lock(&machine.matrix_dev.lock);
    vfio_ap_mdev_reset_queues(matrix_mdev);
    machine.matrix_dev.list_del(matrix_mdev);
    mdev.dev.driver_data.set(None);
    machine
        .matrix_dev
        .available_instances
        .fetch_add(1, Ordering::Relaxed);
    mutex_unlock(&machine.matrix_dev.lock);
    0
}
