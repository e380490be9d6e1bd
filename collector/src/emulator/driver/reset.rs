//! Queue reset. Runs with the driver's lock held.

use crate::emulator::hardware::{
    AP_RESPONSE_CHECKSTOPPED, AP_RESPONSE_DECONFIGURED, AP_RESPONSE_NORMAL,
    AP_RESPONSE_Q_NOT_AVAIL, AP_RESPONSE_RESET_IN_PROGRESS, mkqid,
};
use crate::emulator::machine::{Machine, VfioApQueue};
use crate::emulator::objects::ApMatrixMdev;
use crate::emulator::points::kernel::msleep;

use super::irq::vfio_ap_free_aqic_resources;

/// `vfio_ap_mdev_reset_queue`: zeroizes a queue and waits, for at most two polls, until it shows.
fn vfio_ap_mdev_reset_queue(machine: &Machine, queue: &VfioApQueue, mut retry: u32) -> i32 {
    let (mut status, ret) = loop {
        let status = machine.hardware.ap_zapq(queue.apqn);
        match status.response_code {
            AP_RESPONSE_NORMAL => break (status, 0),
            AP_RESPONSE_RESET_IN_PROGRESS if retry > 0 => {
                retry -= 1;
                msleep(20);
            }
            AP_RESPONSE_RESET_IN_PROGRESS => break (status, -libc::EBUSY),
            AP_RESPONSE_Q_NOT_AVAIL | AP_RESPONSE_DECONFIGURED | AP_RESPONSE_CHECKSTOPPED => {
                vfio_ap_free_aqic_resources(queue);
                return -libc::EBUSY;
            }
            _ => return -libc::EIO,
        }
    };
    for _ in 0..2 {
        if status.queue_empty && !status.irq_enabled {
            break;
        }
        msleep(20);
        status = machine.hardware.ap_tapq(queue.apqn);
    }
    vfio_ap_free_aqic_resources(queue);
    ret
}

/// `vfio_ap_mdev_reset_queues`: resets every queue of the mdev, the failed ones notwithstanding; the last error.
pub(super) fn vfio_ap_mdev_reset_queues(machine: &Machine, matrix_mdev: &ApMatrixMdev) -> i32 {
    let mut rc = 0;
    for adapter in matrix_mdev.matrix.apm.iter() {
        for domain in matrix_mdev.matrix.aqm.iter() {
            if let Some(queue) = machine.queues.get(&mkqid(adapter, domain)) {
                let ret = vfio_ap_mdev_reset_queue(machine, queue, 1);
                if ret != 0 {
                    rc = ret;
                }
            }
        }
    }
    rc
}
