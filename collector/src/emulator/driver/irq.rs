//! PQAP(AQIC) for a guest: turning a queue's interruptions on and off. Runs with the driver's lock held.

use std::sync::atomic::Ordering;

use crate::emulator::hardware::{
    AP_RESPONSE_BUSY, AP_RESPONSE_INVALID_ADDRESS, AP_RESPONSE_NORMAL,
    AP_RESPONSE_OTHERWISE_CHANGED, AP_RESPONSE_Q_NOT_AVAIL, AP_RESPONSE_RESET_IN_PROGRESS,
    ApQueueStatus,
};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, KvmVcpu, VFIO_AP_ISC_INVALID, VfioApQueue};
use crate::emulator::points::kernel::{msleep, mutex_lock, mutex_unlock};
use crate::emulator::primitives::Mutex;

/// `vfio_ap_get_queue`: the queue, if it is in the mdev's matrix and bound to the driver; it then belongs to the mdev.
/// From v6.0 on `vfio_ap_mdev_get_queue`: the queue, if it is linked to the mdev.
pub(super) fn vfio_ap_get_queue(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    apqn: u16,
) -> Option<&'static VfioApQueue> {
    if machine.generation.has_hot_plug {
        return super::hotplug::vfio_ap_mdev_get_queue(matrix_mdev, apqn);
    }
    if !matrix_mdev.matrix.has_queue(apqn) {
        return None;
    }
    let queue = machine.ap_bus.bound(apqn)?;
    queue.matrix_mdev.set(Some(matrix_mdev));
    Some(queue)
}

/// PQAP(AQIC). Where the status that comes back is not a status, it reads as success.
fn ap_aqic(machine: &Machine, apqn: u16, enable: bool) -> ApQueueStatus {
    let status = machine.hardware.ap_aqic(apqn, enable);
    if machine.generation.aqic_status_is_input {
        return ApQueueStatus {
            response_code: AP_RESPONSE_NORMAL,
            ..status
        };
    }
    status
}

/// `vfio_ap_wait_for_irqclear`: polls until the queue shows that it interrupts no more.
fn vfio_ap_wait_for_irqclear(machine: &Machine, apqn: u16) {
    for _ in 0..5 {
        let status = machine.hardware.ap_tapq(apqn);
        match status.response_code {
            AP_RESPONSE_NORMAL | AP_RESPONSE_RESET_IN_PROGRESS if !status.irq_enabled => return,
            AP_RESPONSE_NORMAL | AP_RESPONSE_RESET_IN_PROGRESS | AP_RESPONSE_BUSY => msleep(20),
            _ => return,
        }
    }
}

/// `vfio_ap_free_aqic_resources`: unpins the indicator's page and drops the interruption subclass.
pub(super) fn vfio_ap_free_aqic_resources(queue: &VfioApQueue) {
    let isc = queue.saved_isc.swap(VFIO_AP_ISC_INVALID, Ordering::Relaxed);
    if isc != VFIO_AP_ISC_INVALID
        && let Some(kvm) = queue.matrix_mdev.get().and_then(|mdev| mdev.kvm.get())
    {
        kvm_s390_gisc_unregister(kvm, isc);
    }
    queue.saved_pfn.store(0, Ordering::Relaxed);
}

/// `vfio_ap_irq_disable`. Up to v5.19 the queue belongs to no mdev afterwards.
pub(super) fn vfio_ap_irq_disable(machine: &Machine, queue: &VfioApQueue) -> ApQueueStatus {
    let mut retries = 5;
    let status = loop {
        let status = ap_aqic(machine, queue.apqn, false);
        match status.response_code {
            AP_RESPONSE_OTHERWISE_CHANGED | AP_RESPONSE_NORMAL => {
                vfio_ap_wait_for_irqclear(machine, queue.apqn);
                break status;
            }
            AP_RESPONSE_RESET_IN_PROGRESS | AP_RESPONSE_BUSY => msleep(20),
            _ => break status,
        }
        if retries == 0 {
            break status;
        }
        retries -= 1;
    };
    vfio_ap_free_aqic_resources(queue);
    if !machine.generation.has_hot_plug {
        queue.matrix_mdev.set(None);
    }
    status
}

/// `vfio_ap_irq_enable`.
fn vfio_ap_irq_enable(
    machine: &Machine,
    queue: &VfioApQueue,
    kvm: &Kvm,
    isc: u8,
    nib: u64,
) -> ApQueueStatus {
    let Some(pfn) = vfio_pin_pages(nib) else {
        return ApQueueStatus::response(AP_RESPONSE_INVALID_ADDRESS);
    };
    kvm_s390_gisc_register(kvm, isc);
    let status = ap_aqic(machine, queue.apqn, true);
    match status.response_code {
        AP_RESPONSE_NORMAL => {
            // What an older configuration held.
            vfio_ap_free_aqic_resources(queue);
            queue.saved_pfn.store(pfn, Ordering::Relaxed);
            queue.saved_isc.store(isc, Ordering::Relaxed);
        }
        AP_RESPONSE_OTHERWISE_CHANGED => kvm_s390_gisc_unregister(kvm, isc),
        _ => {
            vfio_ap_irq_disable(machine, queue);
        }
    }
    status
}

/// Pins the guest page of the indicator byte. Page 0 is not the guest's to give.
fn vfio_pin_pages(nib: u64) -> Option<u64> {
    Some(nib >> 12).filter(|pfn| *pfn != 0)
}

fn kvm_s390_gisc_register(kvm: &Kvm, isc: u8) {
    kvm.gisc_ref[usize::from(isc & 7)].fetch_add(1, Ordering::Relaxed);
}

fn kvm_s390_gisc_unregister(kvm: &Kvm, isc: u8) {
    // The count is only changed with the driver's lock held, and every unregistration follows a registration.
    kvm.gisc_ref[usize::from(isc & 7)].fetch_sub(1, Ordering::Relaxed);
}

/// The tail of `handle_pqap`: looks the queue up, and turns its interruptions on or off as GR1 says. The status word
/// for the guest.
pub(super) fn pqap_aqic(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
    vcpu: &KvmVcpu,
) -> u32 {
    let unavailable = ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL).word();
    // Without a guest that uses the mdev there is nothing to do.
    let Some(kvm) = matrix_mdev.kvm.get() else {
        return unavailable;
    };
    let apqn = vcpu.gpr(0) as u16;
    let Some(queue) = vfio_ap_get_queue(machine, matrix_mdev, apqn) else {
        return unavailable;
    };
    let control = vcpu.gpr(1);
    let status = if (control >> (63 - 16)) & 1 == 1 {
        vfio_ap_irq_enable(machine, queue, kvm, (control & 7) as u8, vcpu.gpr(2))
    } else {
        vfio_ap_irq_disable(machine, queue)
    };
    // The address that could not be pinned is the driver's own answer, not the instruction's.
    if machine.generation.aqic_status_is_input
        && status.response_code != AP_RESPONSE_INVALID_ADDRESS
    {
        return (control >> 32) as u32;
    }
    status.word()
}

/// The mdev whose hook the vCPU's guest has.
pub(super) fn hooked_mdev(vcpu: &KvmVcpu) -> Option<&'static ApMatrixMdev> {
    vcpu.kvm.get()?.crypto.pqap_hook.get()?.mdev.get()
}

/// Stores a status where the guest finds it: in the low word of GR1.
pub(super) fn store_status(vcpu: &KvmVcpu, word: u32) {
    vcpu.set_gpr(1, word.into());
}

/// The frame of `handle_pqap` in every generation but the drafts: `lock` around looking for the mdev, and what it does
/// then.
pub(super) fn handle_pqap(
    vcpu: &'static KvmVcpu,
    lock: &Mutex,
    answer: impl FnOnce(&'static ApMatrixMdev) -> u32,
) -> i32 {
    // Without the interpretation facility user space handles it.
    if !vcpu.sie_block.has_aiv() {
        return -libc::EOPNOTSUPP;
    }
    mutex_lock(lock);
    let status = hooked_mdev(vcpu).map_or_else(
        || ApQueueStatus::response(AP_RESPONSE_Q_NOT_AVAIL).word(),
        answer,
    );
    store_status(vcpu, status);
    mutex_unlock(lock);
    0
}
