//! The kvm-vfio pseudo device (`virt/kvm/vfio.c`): user space adds the groups of a VM's devices, and the groups' drivers
//! learn of the VM.

use std::sync::PoisonError;

use crate::emulator::driver::VfioCore;
use crate::emulator::driver::group::vfio_group_set_kvm;
use crate::emulator::machine::Machine;
use crate::emulator::objects::{Kvm, KvmDevice, KvmDeviceAttr, VfioGroup};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};

/// `KVM_DEV_VFIO_GROUP`.
pub const KVM_DEV_VFIO_GROUP: u32 = 1;
/// `KVM_DEV_VFIO_GROUP_ADD`.
pub const KVM_DEV_VFIO_GROUP_ADD: u64 = 1;
/// `KVM_DEV_VFIO_GROUP_DEL`.
pub const KVM_DEV_VFIO_GROUP_DEL: u64 = 2;

/// `KVM_SET_DEVICE_ATTR` on the device: `-ENXIO` for an unknown attribute.
pub fn kvm_vfio_set_attr(machine: &Machine, dev: &'static KvmDevice, attr: &KvmDeviceAttr) -> i32 {
    match (attr.group, attr.attr, attr.target.get()) {
        (KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, Some(group)) => group_add(machine, dev, group),
        (KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_DEL, Some(group)) => group_del(machine, dev, group),
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

/// Up to v5.19 `kv->lock` is dropped before the group is told of the guest, later it is held. `-EEXIST` for a group
/// that is there.
fn group_add(machine: &Machine, dev: &'static KvmDevice, group: &'static VfioGroup) -> i32 {
    mutex_lock(&dev.lock);
    if is_listed(dev, group) {
        mutex_unlock(&dev.lock);
        return -libc::EEXIST;
    }
    dev.group_list
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .push(group);
    if machine.generation.has_hot_plug {
        set_kvm(machine, group, dev.kvm.get());
        mutex_unlock(&dev.lock);
        return 0;
    }
    mutex_unlock(&dev.lock);
    set_kvm(machine, group, dev.kvm.get());
    kvm_vfio_update_coherency(dev);
    0
}

/// The group is told with `kv->lock` held. `-ENOENT` for a group that is not there.
fn group_del(machine: &Machine, dev: &'static KvmDevice, group: &'static VfioGroup) -> i32 {
    let mut ret = -libc::ENOENT;
    mutex_lock(&dev.lock);
    if is_listed(dev, group) {
        dev.group_list
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !std::ptr::eq(*other, group));
        set_kvm(machine, group, None);
        ret = 0;
    }
    mutex_unlock(&dev.lock);
    if !machine.generation.has_hot_plug {
        kvm_vfio_update_coherency(dev);
    }
    ret
}

/// Tells the group of the guest: up to v5.18 its notifier chain, later VFIO core, which keeps it for the next open. In
/// v6.6 and later it is guarded by a spinlock.
fn set_kvm(machine: &Machine, group: &'static VfioGroup, kvm: Option<&'static Kvm>) {
    match machine.generation.vfio_core {
        VfioCore::Unlocked | VfioCore::DevSet => vfio_group_set_kvm(group, kvm),
        VfioCore::DevSetGroupRwsem => {
            down_write(&group.group_rwsem);
            group.kvm.set(kvm);
            up_write(&group.group_rwsem);
        }
        VfioCore::DevSetGroupLock => {
            mutex_lock(&group.group_lock);
            group.kvm.set(kvm);
            mutex_unlock(&group.group_lock);
        }
        VfioCore::GroupLockDevSet => group.kvm.set(kvm),
    }
}

/// Looks through the groups for one whose DMA is not coherent; on s390 there is none. From v6.0 on part of the above.
fn kvm_vfio_update_coherency(dev: &'static KvmDevice) {
    mutex_lock(&dev.lock);
    mutex_unlock(&dev.lock);
}
