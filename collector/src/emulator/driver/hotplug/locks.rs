//! The update locks: guests_lock → kvm->lock → mdevs_lock, from v7.3 on with the hook's rwsem before the last.

use crate::emulator::machine::Machine;
use crate::emulator::objects::{ApMatrixMdev, Kvm, VfioApQueue};
use crate::emulator::points::kernel::{down_write, mutex_lock, mutex_unlock, up_write};

/// Update locks that are held, to be released in reverse by [`UpdateLocks::release`].
#[derive(Debug)]
#[must_use]
pub struct UpdateLocks {
    kvm: Option<&'static Kvm>,
    hook: bool,
}

/// `get_update_locks_for_kvm`.
pub fn get_update_locks_for_kvm(machine: &Machine, kvm: Option<&'static Kvm>) -> UpdateLocks {
    let hook = machine.generation.has_2026_fixes && kvm.is_some();
    mutex_lock(&machine.matrix_dev.guests_lock);
    if let Some(kvm) = kvm {
        mutex_lock(&kvm.lock);
        if hook {
            down_write(&kvm.crypto.pqap_hook_rwsem);
        }
    }
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    UpdateLocks { kvm, hook }
}

/// `get_update_locks_for_mdev`: reads the mdev's guest with guests_lock held.
pub fn get_update_locks_for_mdev(
    machine: &Machine,
    matrix_mdev: Option<&ApMatrixMdev>,
) -> UpdateLocks {
    mutex_lock(&machine.matrix_dev.guests_lock);
    lock_rest(machine, matrix_mdev)
}

/// `get_update_locks_by_apqn`: the locks for the mdev to which the queue is assigned, and that mdev.
pub fn get_update_locks_by_apqn(
    machine: &Machine,
    apqn: u16,
) -> (UpdateLocks, Option<&'static ApMatrixMdev>) {
    mutex_lock(&machine.matrix_dev.guests_lock);
    let matrix_mdev = machine
        .matrix_dev
        .mdevs()
        .into_iter()
        .find(|mdev| mdev.matrix.has_queue(apqn));
    (lock_rest(machine, matrix_mdev), matrix_mdev)
}

/// `get_update_locks_for_queue`: the locks for the mdev to which the queue is linked, and that mdev.
pub fn get_update_locks_for_queue(
    machine: &Machine,
    queue: &VfioApQueue,
) -> (UpdateLocks, Option<&'static ApMatrixMdev>) {
    mutex_lock(&machine.matrix_dev.guests_lock);
    let matrix_mdev = queue.matrix_mdev.get();
    (lock_rest(machine, matrix_mdev), matrix_mdev)
}

/// With guests_lock held: kvm->lock of the mdev's guest, if there is one, and mdevs_lock.
fn lock_rest(machine: &Machine, matrix_mdev: Option<&ApMatrixMdev>) -> UpdateLocks {
    let kvm = matrix_mdev.and_then(|mdev| mdev.kvm.get());
    if let Some(kvm) = kvm {
        mutex_lock(&kvm.lock);
    }
    mutex_lock(&machine.matrix_dev.mdevs_lock);
    UpdateLocks { kvm, hook: false }
}

impl UpdateLocks {
    /// `release_update_locks_for_kvm` or `_mdev`.
    pub fn release(self, machine: &Machine) {
        mutex_unlock(&machine.matrix_dev.mdevs_lock);
        if let Some(kvm) = self.kvm {
            if self.hook {
                up_write(&kvm.crypto.pqap_hook_rwsem);
            }
            mutex_unlock(&kvm.lock);
        }
        mutex_unlock(&machine.matrix_dev.guests_lock);
    }
}
