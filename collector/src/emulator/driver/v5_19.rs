//! v5.19: no group notifier. VFIO core tells the driver of the guest when the device is opened (`vdev->kvm`), and a
//! device without one cannot be opened. Queues have a `status` attribute (v5.17). Otherwise as [`v5_15`].

use super::{Generation, VfioCore, absent, queue_dev, v5_15};
use crate::emulator::machine::Machine;
use crate::emulator::objects::VfioDevice;

/// The functions of this generation.
pub const GENERATION: Generation = Generation {
    name: "v5.19",
    about: "as v5.15 without the group notifier: the guest is known when the device is opened",
    has_group_notifier: false,
    has_status: true,
    vfio_core: VfioCore::DevSetGroupRwsem,
    group_notifier: absent::group_notifier,
    open: vfio_ap_mdev_open_device,
    release: vfio_ap_mdev_close_device,
    queue_probe: queue_dev::vfio_ap_queue_dev_probe_locked,
    status_show: queue_dev::status_show,
    ..v5_15::GENERATION
};

/// `-EINVAL` without a guest. The iommu notifier that it registers is not among the traced locks.
fn vfio_ap_mdev_open_device(machine: &'static Machine, vdev: &'static VfioDevice) -> i32 {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return -libc::ENODEV;
    };
    match vdev.vdev_kvm.get() {
        None => -libc::EINVAL,
        Some(kvm) => v5_15::vfio_ap_mdev_set_kvm(machine, matrix_mdev, kvm),
    }
}

fn vfio_ap_mdev_close_device(machine: &'static Machine, vdev: &'static VfioDevice) {
    let Some(matrix_mdev) = vdev.dev.driver_data.get() else {
        return;
    };
    v5_15::vfio_ap_mdev_unset_kvm(machine, matrix_mdev, matrix_mdev.kvm.get());
}
