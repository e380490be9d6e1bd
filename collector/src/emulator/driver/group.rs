//! The VFIO group's notifier chain, through which generations up to v5.18 learn of the guest.
//!
//! `drivers/vfio/vfio.c` and `kernel/notifier.c`: registration takes the chain's rwsem for writing, a call of the chain
//! takes it for reading; who registers late is told at once.

use std::sync::PoisonError;

use crate::emulator::objects::{Kvm, NotifierBlock, VfioGroup};
use crate::emulator::points::kernel::{down_read, down_write, up_read, up_write};
use crate::emulator::points::vfio_ap::vfio_ap_mdev_group_notifier;

use super::VFIO_GROUP_NOTIFY_SET_KVM;

fn chain(group: &VfioGroup) -> Vec<&'static NotifierBlock> {
    group
        .head
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// `blocking_notifier_call_chain`: an empty chain is not locked.
fn blocking_notifier_call_chain(group: &'static VfioGroup, data: Option<&'static Kvm>) {
    if chain(group).is_empty() {
        return;
    }
    down_read(&group.rwsem);
    for nb in chain(group) {
        vfio_ap_mdev_group_notifier(nb, VFIO_GROUP_NOTIFY_SET_KVM, data);
    }
    up_read(&group.rwsem);
}

/// `vfio_register_notifier` for `VFIO_GROUP_NOTIFY`: a guest that is already set is announced at once. `-EEXIST` if the
/// block is registered.
pub(super) fn vfio_register_notifier(group: &'static VfioGroup, nb: &'static NotifierBlock) -> i32 {
    down_write(&group.rwsem);
    let mut head = group.head.write().unwrap_or_else(PoisonError::into_inner);
    let registered = head.iter().any(|other| std::ptr::eq(*other, nb));
    if !registered {
        head.push(nb);
    }
    drop(head);
    up_write(&group.rwsem);
    if registered {
        return -libc::EEXIST;
    }
    if let Some(kvm) = group.kvm.get() {
        blocking_notifier_call_chain(group, Some(kvm));
    }
    0
}

/// `vfio_unregister_notifier`.
pub(super) fn vfio_unregister_notifier(group: &'static VfioGroup, nb: &'static NotifierBlock) {
    down_write(&group.rwsem);
    group
        .head
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|other| !std::ptr::eq(*other, nb));
    up_write(&group.rwsem);
}

/// `vfio_group_set_kvm`: notes the guest and tells the chain.
pub fn vfio_group_set_kvm(group: &'static VfioGroup, kvm: Option<&'static Kvm>) {
    group.kvm.set(kvm);
    blocking_notifier_call_chain(group, kvm);
}
