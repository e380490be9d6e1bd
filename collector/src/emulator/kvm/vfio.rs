//! The kvm-vfio pseudo device (`virt/kvm/vfio.c`): user space adds the groups of a VM's devices, and the groups' drivers
//! learn of the VM.

use std::sync::PoisonError;

use crate::emulator::driver::group::vfio_group_set_kvm;
use crate::emulator::objects::{KvmDevice, KvmDeviceAttr, VfioGroup};
use crate::emulator::points::kernel::{mutex_lock, mutex_unlock};

/// `KVM_DEV_VFIO_GROUP`.
pub const KVM_DEV_VFIO_GROUP: u32 = 1;
/// `KVM_DEV_VFIO_GROUP_ADD`.
pub const KVM_DEV_VFIO_GROUP_ADD: u64 = 1;
/// `KVM_DEV_VFIO_GROUP_DEL`.
pub const KVM_DEV_VFIO_GROUP_DEL: u64 = 2;

/// `KVM_SET_DEVICE_ATTR` on the device: `-ENXIO` for an unknown attribute.
pub fn kvm_vfio_set_attr(dev: &'static KvmDevice, attr: &KvmDeviceAttr) -> i32 {
    match (attr.group, attr.attr, attr.target.get()) {
        (KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, Some(group)) => group_add(dev, group),
        (KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_DEL, Some(group)) => group_del(dev, group),
        _ => -libc::ENXIO,
    }
}

fn is_listed(dev: &KvmDevice, group: &VfioGroup) -> bool {
    dev.group_list
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .any(|other| std::ptr::eq(*other, group))
}

/// The chain is called after `kv->lock` is dropped. `-EEXIST` for a group that is there.
fn group_add(dev: &'static KvmDevice, group: &'static VfioGroup) -> i32 {
    mutex_lock(&dev.lock);
    if is_listed(dev, group) {
        mutex_unlock(&dev.lock);
        return -libc::EEXIST;
    }
    dev.group_list
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .push(group);
    mutex_unlock(&dev.lock);
    vfio_group_set_kvm(group, dev.kvm.get());
    kvm_vfio_update_coherency(dev);
    0
}

/// The chain is called with `kv->lock` held. `-ENOENT` for a group that is not there.
fn group_del(dev: &'static KvmDevice, group: &'static VfioGroup) -> i32 {
    let mut ret = -libc::ENOENT;
    mutex_lock(&dev.lock);
    if is_listed(dev, group) {
        dev.group_list
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !std::ptr::eq(*other, group));
        vfio_group_set_kvm(group, None);
        ret = 0;
    }
    mutex_unlock(&dev.lock);
    kvm_vfio_update_coherency(dev);
    ret
}

/// Looks through the groups for one whose DMA is not coherent; on s390 there is none.
fn kvm_vfio_update_coherency(dev: &'static KvmDevice) {
    mutex_lock(&dev.lock);
    mutex_unlock(&dev.lock);
}
