//! VFIO around the driver (`drivers/vfio`): a descriptor of the device is opened and closed, and the device is taken
//! away from whoever still has one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::driver::VfioCore;
use super::machine::Machine;
use super::objects::{MdevDevice, Presence};
use super::points::kernel::{down_read, mutex_lock, mutex_unlock, up_read};
use super::points::vfio_ap as driver;
use super::primitives::futex;

/// How long `vfio_unregister_group_dev` waits before it asks again.
const ROUND: Duration = Duration::from_secs(10);

/// Runs `f` with the locks that VFIO core holds while it opens or closes a device.
fn with_locks<R>(machine: &Machine, device: &'static MdevDevice, f: impl FnOnce() -> R) -> R {
    let dev_set = &device.dev_set_lock;
    let group = &device.group;
    let result;
    match machine.generation.vfio_core {
        VfioCore::Unlocked => result = f(),
        VfioCore::DevSet => {
            mutex_lock(dev_set);
            result = f();
            mutex_unlock(dev_set);
        }
        VfioCore::DevSetGroupRwsem => {
            mutex_lock(dev_set);
            down_read(&group.group_rwsem);
            result = f();
            up_read(&group.group_rwsem);
            mutex_unlock(dev_set);
        }
        VfioCore::DevSetGroupLock => {
            mutex_lock(dev_set);
            mutex_lock(&group.group_lock);
            result = f();
            mutex_unlock(&group.group_lock);
            mutex_unlock(dev_set);
        }
        VfioCore::GroupLockDevSet => {
            mutex_lock(&group.group_lock);
            mutex_lock(dev_set);
            result = f();
            mutex_unlock(dev_set);
            mutex_unlock(&group.group_lock);
        }
    }
    result
}

/// Opens the device: 0, `-ENODEV` if it is gone, `-EBUSY` if it is open, or what the driver says.
pub fn device_open(machine: &Machine, device: &'static MdevDevice) -> i32 {
    if device.presence() != Presence::Present {
        return -libc::ENODEV;
    }
    if device
        .open_count
        .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return -libc::EBUSY;
    }
    let ret = with_locks(machine, device, || {
        if !machine.generation.has_open_device {
            return driver::vfio_ap_mdev_open(device);
        }
        if !machine.generation.has_group_notifier {
            device.vdev_kvm.set(device.group.kvm.get());
        }
        driver::vfio_ap_mdev_open_device(device)
    });
    if ret != 0 {
        device.vdev_kvm.set(None);
        put(device);
    }
    ret
}

/// Closes the device.
pub fn device_close(machine: &Machine, device: &'static MdevDevice) {
    with_locks(machine, device, || {
        if machine.generation.has_open_device {
            driver::vfio_ap_mdev_close_device(device);
        } else {
            driver::vfio_ap_mdev_release(device);
        }
        device.vdev_kvm.set(None);
    });
    put(device);
}

/// The last descriptor is gone.
fn put(device: &MdevDevice) {
    device.open_count.store(0, Ordering::SeqCst);
    futex::wake(&device.open_count, i32::MAX);
}

/// `vfio_unregister_group_dev`, and `vfio_del_group_dev` before v5.15: waits until nobody has the device open. From v6.6
/// on user space is asked for it, in every round of ten seconds.
pub fn vfio_unregister_group_dev(machine: &Machine, device: &'static MdevDevice) {
    let mut count = 0;
    loop {
        let open = device.open_count.load(Ordering::SeqCst);
        if open == 0 {
            return;
        }
        if machine.generation.has_ap_config {
            driver::vfio_ap_mdev_request(device, count);
            count += 1;
        }
        futex::wait(&device.open_count, open, Some(ROUND));
    }
}

/// Guest memory is unmapped (`VFIO_IOMMU_UNMAP_DMA`): the driver is told.
pub fn dma_unmap(machine: &Machine, device: &'static MdevDevice, iova: u64, length: u64) {
    if machine.generation.has_hot_plug {
        driver::vfio_ap_mdev_dma_unmap(device, iova, length);
    } else if let Some(matrix_mdev) = device.dev.driver_data.get() {
        let unmap = driver::DmaUnmap { iova, size: length };
        driver::vfio_ap_mdev_iommu_notifier(
            &matrix_mdev.iommu_notifier,
            super::driver::VFIO_IOMMU_NOTIFY_DMA_UNMAP,
            &unmap,
        );
    }
}
