//! The driver's points. They run the functions of the machine's generation.
//!
//! What the sysfs reaches has the writer's pid and name as arguments 5 and 6.

use super::{Comm, points};
use crate::emulator::driver::sysfs::Page;
use crate::emulator::objects::{
    ApDevice, ApMatrix, ApMatrixMdev, Bitmap, Device, Kvm, KvmVcpu, MdevDevice, NotifierBlock,
    VfioDevice,
};
use crate::emulator::primitives::WorkStruct;

points! {
    "vfio_ap";
    /// The driver's PQAP handler, called by KVM through the hook.
    handle_pqap(vcpu: &'static KvmVcpu) -> i32 = at::handle_pqap;
    /// The group's guest was set or unset.
    vfio_ap_mdev_group_notifier(nb: &'static NotifierBlock, action: u64, data: Option<&'static Kvm>) -> i32 = at::vfio_ap_mdev_group_notifier;
    /// Guest memory was unmapped (up to v5.19).
    vfio_ap_mdev_iommu_notifier(nb: &'static NotifierBlock, action: u64, unmap: &DmaUnmap) -> i32 = at::vfio_ap_mdev_iommu_notifier;
    /// Guest memory was unmapped (from v6.0 on).
    vfio_ap_mdev_dma_unmap(vdev: &'static VfioDevice, iova: u64, length: u64) = at::vfio_ap_mdev_dma_unmap;
    /// The device is opened (up to v5.14).
    vfio_ap_mdev_open(mdev: &'static MdevDevice) -> i32 = at::vfio_ap_mdev_open;
    /// The device is closed (up to v5.14).
    vfio_ap_mdev_release(mdev: &'static MdevDevice) = at::vfio_ap_mdev_release;
    /// The device is opened (from v5.15 on).
    vfio_ap_mdev_open_device(vdev: &'static VfioDevice) -> i32 = at::vfio_ap_mdev_open_device;
    /// The device is closed (from v5.15 on).
    vfio_ap_mdev_close_device(vdev: &'static VfioDevice) = at::vfio_ap_mdev_close_device;
    /// An ioctl on the device.
    vfio_ap_mdev_ioctl(mdev: &'static MdevDevice, cmd: u32, arg: u64) -> i64 = at::vfio_ap_mdev_ioctl;
    /// User space is asked to close the device (from v6.6 on).
    vfio_ap_mdev_request(vdev: &'static VfioDevice, count: u32) = at::vfio_ap_mdev_request;
    /// An mdev is created (up to v5.14).
    vfio_ap_mdev_create(kobj: u64, mdev: &'static MdevDevice, unused: u64, unused2: u64, pid: u64, comm: &Comm) -> i32 = at::vfio_ap_mdev_create;
    /// An mdev is created (from v5.15 on).
    vfio_ap_mdev_probe(mdev: &'static MdevDevice, unused: u64, unused2: u64, unused3: u64, pid: u64, comm: &Comm) -> i32 = at::vfio_ap_mdev_probe;
    /// An mdev is removed.
    vfio_ap_mdev_remove(mdev: &'static MdevDevice, unused: u64, unused2: u64, unused3: u64, pid: u64, comm: &Comm) -> i32 = at::vfio_ap_mdev_remove;
    /// A queue is bound to the driver (up to v5.19).
    vfio_ap_queue_dev_probe(apdev: &'static ApDevice) -> i32 = at::vfio_ap_queue_dev_probe;
    /// A queue is unbound from the driver (up to v5.19).
    vfio_ap_queue_dev_remove(apdev: &'static ApDevice) = at::vfio_ap_queue_dev_remove;
    /// A queue is bound to the driver (from v6.0 on).
    vfio_ap_mdev_probe_queue(apdev: &'static ApDevice) -> i32 = at::vfio_ap_mdev_probe_queue;
    /// A queue is unbound from the driver (from v6.0 on).
    vfio_ap_mdev_remove_queue(apdev: &'static ApDevice) = at::vfio_ap_mdev_remove_queue;
    /// The AP bus asks whether queues are in use (from v6.0 on).
    vfio_ap_mdev_resource_in_use(apm: &Bitmap, aqm: &Bitmap) -> i32 = at::vfio_ap_mdev_resource_in_use;
    /// The host's AP configuration changed (from v6.0 on).
    vfio_ap_on_cfg_changed(cur: &ApMatrix, prev: &ApMatrix) = at::vfio_ap_on_cfg_changed;
    /// The AP bus was scanned (from v6.0 on).
    vfio_ap_on_scan_complete(cur: &ApMatrix, prev: &ApMatrix) = at::vfio_ap_on_scan_complete;
    /// Resets the queues of an mdev.
    vfio_ap_mdev_reset_queues(mdev: &'static ApMatrixMdev) -> i32 = at::vfio_ap_mdev_reset_queues;
    /// Verifies that a queue's reset has completed (from v6.6 on).
    apq_reset_check(work: &'static WorkStruct) = at::apq_reset_check;
    /// Write to `assign_adapter`.
    assign_adapter_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::assign_adapter_store;
    /// Write to `unassign_adapter`.
    unassign_adapter_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::unassign_adapter_store;
    /// Write to `assign_domain`.
    assign_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::assign_domain_store;
    /// Write to `unassign_domain`.
    unassign_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::unassign_domain_store;
    /// Write to `assign_control_domain`.
    assign_control_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::assign_control_domain_store;
    /// Write to `unassign_control_domain`.
    unassign_control_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::unassign_control_domain_store;
    /// Write to `ap_config` (from v6.6 on).
    ap_config_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: &Comm) -> i64 = at::ap_config_store;
    /// Read of `matrix`.
    matrix_show(dev: &'static Device, attr: u64, buf: &mut Page, unused: u64, pid: u64, comm: &Comm) -> i64 = at::matrix_show;
    /// Read of `control_domains`.
    control_domains_show(dev: &'static Device, attr: u64, buf: &mut Page, unused: u64, pid: u64, comm: &Comm) -> i64 = at::control_domains_show;
    /// Read of `guest_matrix` (from v6.0 on).
    guest_matrix_show(dev: &'static Device, attr: u64, buf: &mut Page, unused: u64, pid: u64, comm: &Comm) -> i64 = at::guest_matrix_show;
    /// Read of `ap_config` (from v6.6 on).
    ap_config_show(dev: &'static Device, attr: u64, buf: &mut Page, unused: u64, pid: u64, comm: &Comm) -> i64 = at::ap_config_show;
    /// Read of a queue's `status` (from v5.19 on).
    status_show(dev: &'static ApDevice, attr: u64, buf: &mut Page, unused: u64, pid: u64, comm: &Comm) -> i64 = at::status_show;
}

/// `struct vfio_iommu_type1_dma_unmap`.
#[derive(Debug)]
#[repr(C)]
pub struct DmaUnmap {
    /// Start, a guest address.
    pub iova: u64,
    /// Length in bytes.
    pub size: u64,
}

/// What the points jump to.
mod at {
    use super::{
        ApDevice, ApMatrix, ApMatrixMdev, Bitmap, Comm, Device, DmaUnmap, Kvm, KvmVcpu, MdevDevice,
        NotifierBlock, Page, VfioDevice, WorkStruct,
    };
    use crate::emulator::driver::dispatch::{call, call_pqap, word};
    use probe_ebpf::names::entry_id;

    pub(super) extern "C" fn handle_pqap(vcpu: &'static KvmVcpu) -> i32 {
        call_pqap(entry_id::HANDLE_PQAP, vcpu, |m| {
            (m.generation.handle_pqap)(m, vcpu)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_group_notifier(
        nb: &'static NotifierBlock,
        action: u64,
        data: Option<&'static Kvm>,
    ) -> i32 {
        let args = [word(nb), action, data.map_or(0, word), 0, 0, 0];
        call(entry_id::GROUP_NOTIFIER, args, |m| {
            (m.generation.group_notifier)(m, nb, action, data)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_iommu_notifier(
        nb: &'static NotifierBlock,
        action: u64,
        unmap: &DmaUnmap,
    ) -> i32 {
        let args = [word(nb), action, word(unmap), 0, 0, 0];
        call(entry_id::IOMMU_NOTIFIER, args, |m| {
            (m.generation.iommu_notifier)(m, nb, action, unmap)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_dma_unmap(
        vdev: &'static VfioDevice,
        iova: u64,
        length: u64,
    ) {
        let args = [word(vdev), iova, length, 0, 0, 0];
        call(entry_id::DMA_UNMAP, args, |m| {
            (m.generation.dma_unmap)(m, vdev, iova, length);
        });
    }

    macro_rules! device_functions {
        ($($name:ident $id:ident $field:ident $(-> $ret:ty)?;)*) => {$(
            pub(super) extern "C" fn $name(mdev: &'static MdevDevice) $(-> $ret)? {
                call(entry_id::$id, [word(mdev), 0, 0, 0, 0, 0], |m| {
                    (m.generation.$field)(m, mdev)
                })
            }
        )*};
    }

    device_functions! {
        vfio_ap_mdev_open OPEN open -> i32;
        vfio_ap_mdev_release RELEASE release;
        vfio_ap_mdev_open_device OPEN_DEVICE open -> i32;
        vfio_ap_mdev_close_device CLOSE_DEVICE release;
    }

    pub(super) extern "C" fn vfio_ap_mdev_ioctl(
        mdev: &'static MdevDevice,
        cmd: u32,
        arg: u64,
    ) -> i64 {
        let args = [word(mdev), cmd.into(), arg, 0, 0, 0];
        call(entry_id::IOCTL, args, |m| {
            (m.generation.ioctl)(m, mdev, cmd, arg)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_request(vdev: &'static VfioDevice, count: u32) {
        let args = [word(vdev), count.into(), 0, 0, 0, 0];
        call(entry_id::REQUEST, args, |m| {
            (m.generation.request)(m, vdev, count);
        });
    }

    pub(super) extern "C" fn vfio_ap_mdev_create(
        kobj: u64,
        mdev: &'static MdevDevice,
        _: u64,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i32 {
        let args = [kobj, word(mdev), 0, 0, pid, word(comm)];
        call(entry_id::CREATE, args, |m| (m.generation.create)(m, mdev))
    }

    pub(super) extern "C" fn vfio_ap_mdev_probe(
        mdev: &'static MdevDevice,
        _: u64,
        _: u64,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i32 {
        let args = [word(mdev), 0, 0, 0, pid, word(comm)];
        call(entry_id::PROBE, args, |m| (m.generation.create)(m, mdev))
    }

    pub(super) extern "C" fn vfio_ap_mdev_remove(
        mdev: &'static MdevDevice,
        _: u64,
        _: u64,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i32 {
        let args = [word(mdev), 0, 0, 0, pid, word(comm)];
        call(entry_id::REMOVE, args, |m| (m.generation.remove)(m, mdev))
    }

    macro_rules! queue_functions {
        ($($name:ident $id:ident $field:ident $(-> $ret:ty)?;)*) => {$(
            pub(super) extern "C" fn $name(apdev: &'static ApDevice) $(-> $ret)? {
                call(entry_id::$id, [word(apdev), 0, 0, 0, 0, 0], |m| {
                    (m.generation.$field)(m, apdev)
                })
            }
        )*};
    }

    queue_functions! {
        vfio_ap_queue_dev_probe QUEUE_DEV_PROBE queue_probe -> i32;
        vfio_ap_queue_dev_remove QUEUE_DEV_REMOVE queue_remove;
        vfio_ap_mdev_probe_queue PROBE_QUEUE queue_probe -> i32;
        vfio_ap_mdev_remove_queue REMOVE_QUEUE queue_remove;
    }

    pub(super) extern "C" fn vfio_ap_mdev_resource_in_use(apm: &Bitmap, aqm: &Bitmap) -> i32 {
        let args = [word(apm), word(aqm), 0, 0, 0, 0];
        call(entry_id::RESOURCE_IN_USE, args, |m| {
            (m.generation.in_use)(m, apm, aqm)
        })
    }

    pub(super) extern "C" fn vfio_ap_on_cfg_changed(cur: &ApMatrix, prev: &ApMatrix) {
        let args = [word(cur), word(prev), 0, 0, 0, 0];
        call(entry_id::ON_CFG_CHANGED, args, |m| {
            (m.generation.cfg_changed)(m, cur, prev);
        });
    }

    pub(super) extern "C" fn vfio_ap_on_scan_complete(cur: &ApMatrix, prev: &ApMatrix) {
        let args = [word(cur), word(prev), 0, 0, 0, 0];
        call(entry_id::ON_SCAN_COMPLETE, args, |m| {
            (m.generation.scan_complete)(m);
        });
    }

    pub(super) extern "C" fn vfio_ap_mdev_reset_queues(mdev: &'static ApMatrixMdev) -> i32 {
        call(entry_id::RESET_QUEUES, [word(mdev), 0, 0, 0, 0, 0], |m| {
            (m.generation.reset_queues)(m, mdev)
        })
    }

    pub(super) extern "C" fn apq_reset_check(work: &'static WorkStruct) {
        call(
            entry_id::APQ_RESET_CHECK,
            [word(work), 0, 0, 0, 0, 0],
            |m| {
                crate::emulator::driver::reset_work::apq_reset_check(m, work);
            },
        );
    }

    macro_rules! stores {
        ($($name:ident $id:ident;)*) => {$(
            pub(super) extern "C" fn $name(
                dev: &'static Device,
                attr: u64,
                buf: &Page,
                count: usize,
                pid: u64,
                comm: &Comm,
            ) -> i64 {
                let args = [word(dev), attr, word(buf), count as u64, pid, word(comm)];
                call(entry_id::$id, args, |m| (m.generation.$name)(m, dev, buf, count))
            }
        )*};
    }

    stores! {
        assign_adapter_store ASSIGN_ADAPTER;
        unassign_adapter_store UNASSIGN_ADAPTER;
        assign_domain_store ASSIGN_DOMAIN;
        unassign_domain_store UNASSIGN_DOMAIN;
        assign_control_domain_store ASSIGN_CONTROL_DOMAIN;
        unassign_control_domain_store UNASSIGN_CONTROL_DOMAIN;
        ap_config_store AP_CONFIG_STORE;
    }

    macro_rules! shows {
        ($($name:ident $id:ident;)*) => {$(
            pub(super) extern "C" fn $name(
                dev: &'static Device,
                attr: u64,
                buf: &mut Page,
                _: u64,
                pid: u64,
                comm: &Comm,
            ) -> i64 {
                let args = [word(dev), attr, word(buf), 0, pid, word(comm)];
                call(entry_id::$id, args, |m| (m.generation.$name)(m, dev, buf))
            }
        )*};
    }

    shows! {
        matrix_show MATRIX_SHOW;
        control_domains_show CONTROL_DOMAINS_SHOW;
        guest_matrix_show GUEST_MATRIX_SHOW;
        ap_config_show AP_CONFIG_SHOW;
    }

    pub(super) extern "C" fn status_show(
        dev: &'static ApDevice,
        attr: u64,
        buf: &mut Page,
        _: u64,
        pid: u64,
        comm: &Comm,
    ) -> i64 {
        let args = [word(dev), attr, word(buf), 0, pid, word(comm)];
        call(entry_id::STATUS_SHOW, args, |m| {
            (m.generation.status_show)(m, dev, buf)
        })
    }
}
