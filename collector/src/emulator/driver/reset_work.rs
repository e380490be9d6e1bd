//! Queue reset from v6.6 on: a work item per queue verifies, without an upper limit of time, that the reset has
//! completed. Who resets waits for the work items with all its locks held.

use std::sync::atomic::Ordering;

use crate::emulator::hardware::{
    AP_RESPONSE_ASSOC_FAILED, AP_RESPONSE_ASSOC_SECRET_NOT_UNIQUE, AP_RESPONSE_BUSY,
    AP_RESPONSE_CHECKSTOPPED, AP_RESPONSE_DECONFIGURED, AP_RESPONSE_NORMAL,
    AP_RESPONSE_Q_NOT_AVAIL, AP_RESPONSE_RESET_IN_PROGRESS, AP_RESPONSE_STATE_CHANGE_IN_PROGRESS,
};
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, VfioApQueue};
use crate::emulator::points::kernel::{flush_work, msleep};
use crate::emulator::primitives::WorkStruct;

use super::irq::vfio_ap_free_aqic_resources;

/// `AP_RESET_INTERVAL`.
const AP_RESET_INTERVAL_MS: u32 = 20;

/// `vfio_ap_mdev_reset_queue`: starts a reset; the work item waits for its end.
pub(super) fn vfio_ap_mdev_reset_queue(machine: &'static Machine, queue: &'static VfioApQueue) {
    let status = machine.hardware.ap_zapq(queue.apqn);
    queue
        .reset_rc
        .store(status.response_code, Ordering::Relaxed);
    match status.response_code {
        AP_RESPONSE_NORMAL
        | AP_RESPONSE_RESET_IN_PROGRESS
        | AP_RESPONSE_BUSY
        | AP_RESPONSE_STATE_CHANGE_IN_PROGRESS => {
            machine
                .system_long_wq
                .queue_work(machine, &queue.reset_work);
        }
        // Response code 01 is the kernel's WARN, and nothing is freed, until v7.x.
        AP_RESPONSE_DECONFIGURED | AP_RESPONSE_CHECKSTOPPED => vfio_ap_free_aqic_resources(queue),
        AP_RESPONSE_Q_NOT_AVAIL if machine.generation.has_2026_fixes => {
            vfio_ap_free_aqic_resources(queue);
        }
        _ => {}
    }
}

/// `apq_reset_check`, the work function: polls every 20 ms until the queue is reset. Takes no lock.
pub fn apq_reset_check(machine: &'static Machine, work: &'static WorkStruct) {
    let Some(device) = machine.ap_bus.devices.get(&(work.data() as u16)) else {
        return;
    };
    let queue = &device.storage;
    let mut elapsed_ms = 0_u32;
    loop {
        msleep(AP_RESET_INTERVAL_MS);
        elapsed_ms = elapsed_ms.saturating_add(AP_RESET_INTERVAL_MS);
        let status = machine.hardware.ap_tapq(queue.apqn);
        match status.response_code {
            AP_RESPONSE_RESET_IN_PROGRESS | AP_RESPONSE_BUSY => {
                // `WAIT_MSG`; the kernel counts an interval for each poll, and reads no clock.
                machine.log.notice_ratelimited(|| {
                    format!(
                        "Waited {elapsed_ms}ms for reset of queue {:02x}.{:04x} ({}, {}, {})",
                        queue.apqn >> 8,
                        queue.apqn & 0xff,
                        status.response_code,
                        u8::from(status.queue_empty),
                        u8::from(status.irq_enabled)
                    )
                });
                continue;
            }
            AP_RESPONSE_NORMAL | AP_RESPONSE_DECONFIGURED | AP_RESPONSE_CHECKSTOPPED => {
                let begun_with = queue.reset_rc.load(Ordering::Relaxed);
                if !matches!(
                    begun_with,
                    AP_RESPONSE_RESET_IN_PROGRESS
                        | AP_RESPONSE_BUSY
                        | AP_RESPONSE_STATE_CHANGE_IN_PROGRESS
                ) {
                    break;
                }
            }
            AP_RESPONSE_ASSOC_SECRET_NOT_UNIQUE | AP_RESPONSE_ASSOC_FAILED => {}
            AP_RESPONSE_Q_NOT_AVAIL if machine.generation.has_2026_fixes => break,
            // The kernel's WARN.
            _ => return,
        }
        // The reset was not begun, or has to be begun again.
        let status = machine.hardware.ap_zapq(queue.apqn);
        queue
            .reset_rc
            .store(status.response_code, Ordering::Relaxed);
    }
    vfio_ap_free_aqic_resources(queue);
}

/// `vfio_ap_mdev_reset_qlist`: resets queues, all at once, and waits for all of them. `-EIO` if one has failed.
pub(super) fn vfio_ap_mdev_reset_qlist(
    machine: &'static Machine,
    queues: &[&'static VfioApQueue],
) -> i32 {
    for queue in queues {
        vfio_ap_mdev_reset_queue(machine, queue);
    }
    let mut rc = 0;
    for queue in queues {
        flush_work(&queue.reset_work);
        if queue.reset_rc.load(Ordering::Relaxed) != 0 {
            rc = -libc::EIO;
        }
    }
    rc
}

/// `vfio_ap_mdev_reset_queues`: the same for all queues linked to the mdev.
pub(super) fn vfio_ap_mdev_reset_queues(
    machine: &'static Machine,
    matrix_mdev: &'static ApMatrixMdev,
) -> i32 {
    vfio_ap_mdev_reset_qlist(machine, &matrix_mdev.queues())
}
