//! Checks on a matrix: are the queues bound to the driver, and does another mdev have them. Run with the driver's lock
//! held.

use crate::emulator::hardware::mkqid;
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm};

/// `vfio_ap_verify_queue_reserved` for an adapter, a domain, or a queue: 0, or `-EADDRNOTAVAIL` if the driver has none.
fn vfio_ap_verify_queue_reserved(machine: &Machine, apid: Option<u16>, apqi: Option<u16>) -> i32 {
    let reserved = match (apid, apqi) {
        (Some(apid), Some(apqi)) => machine.queues.contains_key(&mkqid(apid, apqi)),
        (Some(apid), None) => machine
            .queues
            .range(mkqid(apid, 0)..=mkqid(apid, 0xff))
            .next()
            .is_some(),
        (None, Some(apqi)) => machine.queues.keys().any(|apqn| apqn & 0xff == apqi),
        (None, None) => false,
    };
    if reserved { 0 } else { -libc::EADDRNOTAVAIL }
}

/// `vfio_ap_mdev_verify_queues_reserved_for_apid`.
pub(super) fn verify_queues_reserved_for_apid(
    machine: &Machine,
    matrix_mdev: &ApMatrixMdev,
    apid: u16,
) -> i32 {
    if matrix_mdev.matrix.aqm.is_empty() {
        return vfio_ap_verify_queue_reserved(machine, Some(apid), None);
    }
    matrix_mdev
        .matrix
        .aqm
        .iter()
        .map(|apqi| vfio_ap_verify_queue_reserved(machine, Some(apid), Some(apqi)))
        .find(|ret| *ret != 0)
        .unwrap_or(0)
}

/// `vfio_ap_mdev_verify_queues_reserved_for_apqi`.
pub(super) fn verify_queues_reserved_for_apqi(
    machine: &Machine,
    matrix_mdev: &ApMatrixMdev,
    apqi: u16,
) -> i32 {
    if matrix_mdev.matrix.apm.is_empty() {
        return vfio_ap_verify_queue_reserved(machine, None, Some(apqi));
    }
    matrix_mdev
        .matrix
        .apm
        .iter()
        .map(|apid| vfio_ap_verify_queue_reserved(machine, Some(apid), Some(apqi)))
        .find(|ret| *ret != 0)
        .unwrap_or(0)
}

/// The mdevs, of which each scan makes its own copy of the pointers: no Rust lock is held while code runs.
fn mdevs(machine: &Machine) -> Vec<&'static ApMatrixMdev> {
    machine
        .matrix_dev
        .mdev_list
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

/// `vfio_ap_mdev_verify_no_sharing`: 0, or `-EADDRINUSE` if another mdev has one of the queues.
pub(super) fn vfio_ap_mdev_verify_no_sharing(machine: &Machine, matrix_mdev: &ApMatrixMdev) -> i32 {
    let shared = mdevs(machine).into_iter().any(|lstdev| {
        !std::ptr::eq(lstdev, matrix_mdev)
            && lstdev.matrix.apm.intersects(&matrix_mdev.matrix.apm)
            && lstdev.matrix.aqm.intersects(&matrix_mdev.matrix.aqm)
    });
    if shared { -libc::EADDRINUSE } else { 0 }
}

/// Another mdev is in use by this guest already.
pub(super) fn kvm_is_taken(
    machine: &Machine,
    matrix_mdev: &ApMatrixMdev,
    kvm: &'static Kvm,
) -> bool {
    mdevs(machine)
        .into_iter()
        .any(|m| !std::ptr::eq(m, matrix_mdev) && m.kvm.is(Some(kvm)))
}
