//! Checks on a matrix and changes of it, up to v5.19: are the queues bound to the driver, and does another mdev have
//! them. Run with the driver's lock held.

use crate::emulator::hardware::mkqid;
use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Bitmap, Kvm};

/// `vfio_ap_verify_queue_reserved` for an adapter, a domain, or a queue: 0, or `-EADDRNOTAVAIL` if the driver has none.
fn vfio_ap_verify_queue_reserved(machine: &Machine, apid: Option<u16>, apqi: Option<u16>) -> i32 {
    let bus = &machine.ap_bus;
    let reserved = match (apid, apqi) {
        (Some(apid), Some(apqi)) => bus.bound(mkqid(apid, apqi)).is_some(),
        (apid, apqi) => bus.bound_queues().any(|queue| {
            apid.is_none_or(|apid| queue.apqn >> 8 == apid)
                && apqi.is_none_or(|apqi| queue.apqn & 0xff == apqi)
        }),
    };
    if reserved { 0 } else { -libc::EADDRNOTAVAIL }
}

/// `vfio_ap_mdev_verify_queues_reserved_for_apid`.
fn verify_queues_reserved_for_apid(
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
fn verify_queues_reserved_for_apqi(
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

/// `vfio_ap_mdev_verify_no_sharing`: 0, or `-EADDRINUSE` if an mdev other than `matrix_mdev` has one of the queues.
pub(super) fn vfio_ap_mdev_verify_no_sharing(
    machine: &Machine,
    matrix_mdev: Option<&ApMatrixMdev>,
    apm: &Bitmap,
    aqm: &Bitmap,
) -> i32 {
    let shared = machine.matrix_dev.mdevs().into_iter().any(|lstdev| {
        !matrix_mdev.is_some_and(|mdev| std::ptr::eq(mdev, lstdev))
            && lstdev.matrix.apm.intersects(apm)
            && lstdev.matrix.aqm.intersects(aqm)
    });
    if shared { -libc::EADDRINUSE } else { 0 }
}

/// Another mdev is in use by this guest already.
pub(super) fn kvm_is_taken(
    machine: &Machine,
    matrix_mdev: &ApMatrixMdev,
    kvm: &'static Kvm,
) -> bool {
    machine
        .matrix_dev
        .mdevs()
        .into_iter()
        .any(|m| !std::ptr::eq(m, matrix_mdev) && m.kvm.is(Some(kvm)))
}

/// A change of the matrix: the mdev and the number written. 0 or an error.
pub(super) type Change = fn(&'static Machine, &'static ApMatrixMdev, u16) -> i32;

/// Sets a bit unless another mdev has one of the queues.
fn assign(machine: &Machine, matrix_mdev: &ApMatrixMdev, map: &Bitmap, number: u16) -> i32 {
    map.set(number);
    let matrix = &matrix_mdev.matrix;
    let ret = vfio_ap_mdev_verify_no_sharing(machine, Some(matrix_mdev), &matrix.apm, &matrix.aqm);
    if ret != 0 {
        map.clear(number);
    }
    ret
}

/// Of `assign_adapter_store`.
pub(super) fn assign_adapter(
    machine: &'static Machine,
    m: &'static ApMatrixMdev,
    apid: u16,
) -> i32 {
    match verify_queues_reserved_for_apid(machine, m, apid) {
        0 => assign(machine, m, &m.matrix.apm, apid),
        ret => ret,
    }
}

/// Of `unassign_adapter_store`.
pub(super) fn unassign_adapter(_: &'static Machine, m: &'static ApMatrixMdev, apid: u16) -> i32 {
    m.matrix.apm.clear(apid);
    0
}

/// Of `assign_domain_store`.
pub(super) fn assign_domain(machine: &'static Machine, m: &'static ApMatrixMdev, apqi: u16) -> i32 {
    match verify_queues_reserved_for_apqi(machine, m, apqi) {
        0 => assign(machine, m, &m.matrix.aqm, apqi),
        ret => ret,
    }
}

/// Of `unassign_domain_store`.
pub(super) fn unassign_domain(_: &'static Machine, m: &'static ApMatrixMdev, apqi: u16) -> i32 {
    m.matrix.aqm.clear(apqi);
    0
}

/// Of `assign_control_domain_store`.
pub(super) fn assign_control_domain(_: &'static Machine, m: &'static ApMatrixMdev, id: u16) -> i32 {
    m.matrix.adm.set(id);
    0
}

/// Of `unassign_control_domain_store`.
pub(super) fn unassign_control_domain(
    _: &'static Machine,
    m: &'static ApMatrixMdev,
    id: u16,
) -> i32 {
    m.matrix.adm.clear(id);
    0
}
