//! Adopting locks: a kernel's objects come and go, so their locks are learned from the arguments of entry points, before
//! the function takes them, and forgotten when the object ends.

use super::Env;
use crate::abi::{Adopted, EntryInfo, Inside, LockKind, NO_OFFSET, Resolve};
use crate::names::{class_id, entry_id};

/// The address of a member; 0 where the object or the offset is not known.
#[inline(always)]
const fn member(object: u64, offset: u32) -> u64 {
    if object == 0 || offset == NO_OFFSET {
        0
    } else {
        object + offset as u64
    }
}

/// The pointer in a member; 0 where it cannot be read.
#[inline(always)]
pub(super) fn pointer<E: Env>(env: &E, object: u64, offset: u32) -> u64 {
    match member(object, offset) {
        0 => 0,
        address => env.read_u64(address).unwrap_or(0),
    }
}

/// Adopts the locks that a call's arguments, and what it acts on, lead to.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub(super) fn from_call<E: Env>(env: &E, info: EntryInfo, args: &[u64; 6], inside: &Inside) {
    let config = env.config();
    let resolve = info.resolve;
    let guest = inside.guest.get();
    kvm(env, guest);
    if resolve == Resolve::VcpuFile as u8
        || resolve == Resolve::Vcpu as u8
        || resolve == Resolve::VcpuB2 as u8
    {
        let vcpu = if resolve == Resolve::VcpuFile as u8 {
            pointer(env, args[0], config.file_private_data)
        } else {
            args[0]
        };
        let number = match member(vcpu, config.vcpu_id) {
            0 => 0,
            address => env.read_u32(address).unwrap_or(0),
        };
        lock(
            env,
            member(vcpu, config.vcpu_mutex),
            class_id::VCPU_MUTEX,
            guest,
            number,
        );
    } else if resolve == Resolve::KvmDevice as u8 {
        let vfio = pointer(env, args[0], config.kvm_device_private);
        lock(
            env,
            member(vfio, config.kvm_vfio_lock),
            class_id::KV_LOCK,
            if guest == 0 { vfio } else { guest },
            0,
        );
    } else {
        flag(env, inside.mdev.get());
    }
}

/// A queue's work item, told by its function: work items of all kinds come by. True if it is (now) known.
#[inline(always)]
pub(super) fn reset_work<E: Env>(env: &E, work: u64) -> bool {
    let config = env.config();
    if config.adopts == 0 || config.reset_work_func == 0 {
        return false;
    }
    if pointer(env, work, config.work_func) != config.reset_work_func {
        return false;
    }
    env.adopt(Adopted {
        address: work,
        class: class_id::RESET_WORK,
        kind: LockKind::Work as u8,
        object: work.wrapping_sub(u64::from(config.queue_reset_work)),
        number: 0,
        wait_queue: 0,
    })
}

/// A guest ends: its locks are forgotten.
#[inline(always)]
pub fn kvm_gone<E: Env>(env: &E, kvm: u64) {
    let config = env.config();
    forget(env, member(kvm, config.kvm_lock));
    forget(env, member(kvm, config.kvm_rwsem));
}

/// A vCPU ends: its mutex is forgotten.
#[inline(always)]
pub fn vcpu_gone<E: Env>(env: &E, vcpu: u64) {
    forget(env, member(vcpu, env.config().vcpu_mutex));
}

/// A call has returned this value: what it has ended is forgotten. A removal that is refused (until Linux 5.15 that of
/// an mdev in use) ends nothing.
#[inline(always)]
pub(super) fn from_return<E: Env>(env: &E, entry: u8, object: u64, refused: bool) {
    let config = env.config();
    if object == 0 || refused {
        return;
    }
    if entry == entry_id::REMOVE && config.has_flag != 0 {
        forget(env, member(object, config.mdev_flag));
        forget(env, member(object, config.mdev_wait_queue));
    }
    if entry == entry_id::QUEUE_DEV_REMOVE || entry == entry_id::REMOVE_QUEUE {
        forget(env, object + u64::from(config.queue_reset_work));
    }
}

/// `device->dev_set->lock` and `group->group_lock` of a vfio device, which a matrix mdev begins with: they come when the
/// mdev has been made, or is opened, and go when its removal begins. Not when it is closed, which a removal does too: what is
/// adopted then would never be forgotten.
///
/// A function of its own: the eBPF programs that call it share its code.
#[inline(never)]
pub(super) fn vfio<E: Env>(env: &E, device: u64, comes: u64) {
    let config = env.config();
    let set = member(
        pointer(env, device, config.vdev_dev_set),
        config.dev_set_lock,
    );
    let group = member(pointer(env, device, config.vdev_group), config.group_lock);
    if comes == 0 {
        forget(env, set);
        forget(env, group);
        return;
    }
    lock(env, set, class_id::DEV_SET_LOCK, device, 0);
    if config.group_is_rwsem != 0 {
        rwsem(env, group, class_id::GROUP_RWSEM, device);
    } else {
        lock(env, group, class_id::GROUP_LOCK, device, 0);
    }
}

#[inline(always)]
fn forget<E: Env>(env: &E, address: u64) {
    if address != 0 {
        env.forget(address);
    }
}

#[inline(always)]
fn kvm<E: Env>(env: &E, kvm: u64) {
    let config = env.config();
    lock(
        env,
        member(kvm, config.kvm_lock),
        class_id::KVM_LOCK,
        kvm,
        0,
    );
    let address = member(kvm, config.kvm_rwsem);
    rwsem(env, address, class_id::PQAP_HOOK_RWSEM, kvm);
}

#[inline(always)]
fn flag<E: Env>(env: &E, mdev: u64) {
    let config = env.config();
    if config.has_flag != 0 && mdev != 0 {
        env.adopt(Adopted {
            address: member(mdev, config.mdev_flag),
            class: class_id::KVM_BUSY,
            kind: LockKind::Flag as u8,
            object: mdev,
            number: 0,
            wait_queue: member(mdev, config.mdev_wait_queue),
        });
    }
}

#[inline(always)]
fn lock<E: Env>(env: &E, address: u64, class: u8, object: u64, number: u32) {
    if address != 0 {
        env.adopt(Adopted {
            address,
            class,
            kind: LockKind::Mutex as u8,
            object,
            number,
            wait_queue: 0,
        });
    }
}

#[inline(always)]
fn rwsem<E: Env>(env: &E, address: u64, class: u8, object: u64) {
    if address != 0 {
        env.adopt(Adopted {
            address,
            class,
            kind: LockKind::Rwsem as u8,
            object,
            number: 0,
            wait_queue: 0,
        });
    }
}
