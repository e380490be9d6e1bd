//! The driver's points. They run the functions of the machine's generation.
//!
//! Points that sysfs reaches have two arguments more than the kernel's functions, as arguments 5 and 6 (`count` is an
//! unused argument 4 where the kernel's function has three): the process on whose behalf a file system thread makes the
//! call, as pid (0: the caller itself) and name.

use super::points;
use crate::emulator::driver::sysfs::Page;
use crate::emulator::objects::{Device, Kvm, KvmVcpu, MdevDevice, NotifierBlock, VfioDevice};

/// A process's name, NUL-padded.
pub type Comm = [u8; 16];

points! {
    "vfio_ap";
    /// The driver's PQAP handler, called by KVM through the hook.
    handle_pqap(vcpu: &'static KvmVcpu) -> i32 = at::handle_pqap;
    /// The group's guest was set or unset.
    vfio_ap_mdev_group_notifier(nb: &'static NotifierBlock, action: u64, data: Option<&'static Kvm>) -> i32 = at::vfio_ap_mdev_group_notifier;
    /// The device is opened (v5.13).
    vfio_ap_mdev_open(mdev: &'static MdevDevice) -> i32 = at::vfio_ap_mdev_open;
    /// The device is closed (v5.13).
    vfio_ap_mdev_release(mdev: &'static MdevDevice) = at::vfio_ap_mdev_release;
    /// The device is opened (v5.15).
    vfio_ap_mdev_open_device(vdev: &'static VfioDevice) -> i32 = at::vfio_ap_mdev_open_device;
    /// The device is closed (v5.15).
    vfio_ap_mdev_close_device(vdev: &'static VfioDevice) = at::vfio_ap_mdev_close_device;
    /// An ioctl on the device.
    vfio_ap_mdev_ioctl(mdev: &'static MdevDevice, cmd: u32, arg: u64) -> i64 = at::vfio_ap_mdev_ioctl;
    /// Write to `assign_adapter`.
    assign_adapter_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::assign_adapter_store;
    /// Write to `unassign_adapter`.
    unassign_adapter_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::unassign_adapter_store;
    /// Write to `assign_domain`.
    assign_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::assign_domain_store;
    /// Write to `unassign_domain`.
    unassign_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::unassign_domain_store;
    /// Write to `assign_control_domain`.
    assign_control_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::assign_control_domain_store;
    /// Write to `unassign_control_domain`.
    unassign_control_domain_store(dev: &'static Device, attr: u64, buf: &Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::unassign_control_domain_store;
    /// Read of `matrix`.
    matrix_show(dev: &'static Device, attr: u64, buf: &mut Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::matrix_show;
    /// Read of `control_domains`.
    control_domains_show(dev: &'static Device, attr: u64, buf: &mut Page, count: usize, pid: u64, comm: Option<&Comm>) -> i64 = at::control_domains_show;
}

/// What the points jump to.
mod at {
    use super::{Comm, Device, Kvm, KvmVcpu, MdevDevice, NotifierBlock, Page, VfioDevice};
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
        let args = [word(nb), action, data.map_or(0, word), 0];
        call(entry_id::GROUP_NOTIFIER, args, |m| {
            (m.generation.group_notifier)(m, nb, action, data)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_open(mdev: &'static MdevDevice) -> i32 {
        call(entry_id::OPEN, [word(mdev), 0, 0, 0], |m| {
            (m.generation.open)(m, mdev)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_release(mdev: &'static MdevDevice) {
        call(entry_id::RELEASE, [word(mdev), 0, 0, 0], |m| {
            (m.generation.release)(m, mdev);
        });
    }

    pub(super) extern "C" fn vfio_ap_mdev_open_device(vdev: &'static VfioDevice) -> i32 {
        call(entry_id::OPEN_DEVICE, [word(vdev), 0, 0, 0], |m| {
            (m.generation.open)(m, vdev)
        })
    }

    pub(super) extern "C" fn vfio_ap_mdev_close_device(vdev: &'static VfioDevice) {
        call(entry_id::CLOSE_DEVICE, [word(vdev), 0, 0, 0], |m| {
            (m.generation.release)(m, vdev);
        });
    }

    pub(super) extern "C" fn vfio_ap_mdev_ioctl(
        mdev: &'static MdevDevice,
        cmd: u32,
        arg: u64,
    ) -> i64 {
        call(entry_id::IOCTL, [word(mdev), cmd.into(), arg, 0], |m| {
            (m.generation.ioctl)(m, mdev, cmd, arg)
        })
    }

    macro_rules! stores {
        ($($name:ident $id:ident;)*) => {$(
            pub(super) extern "C" fn $name(
                dev: &'static Device,
                attr: u64,
                buf: &Page,
                count: usize,
                pid: u64,
                comm: Option<&Comm>,
            ) -> i64 {
                let args = [word(dev), attr, word(buf), count as u64, pid, comm.map_or(0, word)];
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
    }

    macro_rules! shows {
        ($($name:ident $id:ident;)*) => {$(
            pub(super) extern "C" fn $name(
                dev: &'static Device,
                attr: u64,
                buf: &mut Page,
                _count: usize,
                pid: u64,
                comm: Option<&Comm>,
            ) -> i64 {
                let args = [word(dev), attr, word(buf), 0, pid, comm.map_or(0, word)];
                call(entry_id::$id, args, |m| (m.generation.$name)(m, dev, buf))
            }
        )*};
    }

    shows! {
        matrix_show MATRIX_SHOW;
        control_domains_show CONTROL_DOMAINS_SHOW;
    }
}
