//! What must be true of a machine after every operation. Test builds check it each time an entry point returns to user
//! space ([`after_operation`]); fuzz targets ask for all of it ([`Machine::check_invariants`]).
//!
//! Faults that a generation is known for are not excused silently: each exception names the generation.

use std::cell::Cell;

use super::machine::{Machine, Object};
use super::objects::{ApMatrixMdev, MdevDevice};
use super::primitives::task;

thread_local! {
    /// Entry points that the thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Operations that the thread has done.
    static OPERATIONS: Cell<usize> = const { Cell::new(0) };
}

/// With more mdevs than this, only one operation of as many is followed by a check.
const MANY: usize = 100;

/// The thread is inside an entry point until this is dropped.
#[derive(Debug)]
pub struct Inside(&'static Machine);

/// An entry point is entered.
pub fn enter(machine: &'static Machine) -> Inside {
    DEPTH.set(DEPTH.get() + 1);
    Inside(machine)
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 && !std::thread::panicking() {
            after_operation(self.0);
        }
    }
}

/// The outermost entry point has returned. What only the driver's lock makes visible whole is checked if the lock is
/// free; it is not taken like a lock, so nothing is counted.
///
/// # Panics
///
/// If something is not true that must be.
fn after_operation(machine: &'static Machine) {
    // Looking at very many mdevs after every operation would leave time for nothing else.
    OPERATIONS.set(OPERATIONS.get().wrapping_add(1));
    if machine.slots.len() > MANY && !OPERATIONS.get().is_multiple_of(MANY) {
        return;
    }
    let lock = if machine.generation.has_hot_plug {
        &machine.matrix_dev.mdevs_lock
    } else {
        &machine.matrix_dev.lock
    };
    if let Some(Err(broken)) = lock.peek(|| guarded(machine)) {
        // A test that fails here names what is broken.
        panic!("{}: {broken}", machine.generation.name);
    }
}

impl Machine {
    /// Everything, while no thread uses the machine.
    ///
    /// # Errors
    ///
    /// What is not true.
    pub fn check_invariants(&'static self) -> Result<(), String> {
        guarded(self)?;
        for lock in self.listed() {
            let held = match lock.object {
                // A draft is known to leave it held.
                Object::Mutex(mutex) => {
                    mutex.is_locked()
                        && !(self.generation.leaks_lock && lock.name == "matrix_dev->lock")
                }
                // A draft is known to ruin it.
                Object::Rwsem(sem) => {
                    sem.count_word() != 0 && self.generation.name != "rfc-2021-07"
                }
                Object::Flag(mdev) => mdev.kvm_busy(),
                Object::Work(work) => work.worker() != 0,
            };
            if held {
                return Err(format!("{} is held by nobody", lock.name));
            }
        }
        let me = task::current();
        if me.blocker() != 0 {
            return Err(format!("{} waits and runs", me.name()));
        }
        Ok(())
    }
}

/// What the driver's lock guards.
fn guarded(machine: &'static Machine) -> Result<(), String> {
    let mdevs = machine.matrix_dev.mdevs();
    for (n, mdev) in mdevs.iter().enumerate() {
        for other in &mdevs[n + 1..] {
            let (a, b) = (&mdev.matrix, &other.matrix);
            if a.apm.intersects(&b.apm) && a.aqm.intersects(&b.aqm) {
                return Err(format!(
                    "{} and {} have a queue in common",
                    name(mdev),
                    name(other)
                ));
            }
        }
        if machine.generation.has_hot_plug {
            plugged(machine, mdev)?;
        }
        guests_masks(machine, mdev)?;
    }
    Ok(())
}

fn name(mdev: &ApMatrixMdev) -> String {
    mdev.device.get().map(MdevDevice::uuid).unwrap_or_default()
}

/// What a guest can have is assigned, in the host's configuration, bound to the driver and linked to the mdev.
fn plugged(machine: &Machine, mdev: &'static ApMatrixMdev) -> Result<(), String> {
    let (shadow, matrix) = (&mdev.shadow_apcb, &mdev.matrix);
    let info = &machine.matrix_dev.info;
    for (what, shadow, matrix, info) in [
        ("adapter", &shadow.apm, &matrix.apm, &info.apm),
        ("domain", &shadow.aqm, &matrix.aqm, &info.aqm),
        ("control domain", &shadow.adm, &matrix.adm, &info.adm),
    ] {
        for bit in shadow.iter() {
            if !matrix.test(bit) || !info.test(bit) {
                return Err(format!(
                    "{}: {what} {bit} is plugged, assigned {}, in the host {}",
                    name(mdev),
                    matrix.test(bit),
                    info.test(bit)
                ));
            }
        }
    }
    for queue in mdev.queues() {
        if !queue.matrix_mdev.is(Some(mdev)) {
            return Err(format!("{:04x} is linked, and does not know", queue.apqn));
        }
        if !matrix.has_queue(queue.apqn) || machine.ap_bus.bound(queue.apqn).is_none() {
            return Err(format!("{:04x} is linked and not the mdev's", queue.apqn));
        }
    }
    Ok(())
}

/// A bound guest has what its mdev gives it, and no more. The masks change in the driver's lock from v5.15 on.
fn guests_masks(machine: &Machine, mdev: &ApMatrixMdev) -> Result<(), String> {
    let Some(kvm) = mdev.kvm.get() else {
        return Ok(());
    };
    if machine.generation.masks_take_kvm_lock {
        return Ok(());
    }
    let allowed = if machine.generation.has_hot_plug {
        &mdev.shadow_apcb
    } else {
        &mdev.matrix
    };
    for (masks, allowed) in [
        (&kvm.crypto.apm, &allowed.apm),
        (&kvm.crypto.aqm, &allowed.aqm),
        (&kvm.crypto.adm, &allowed.adm),
    ] {
        if let Some(bit) = masks.iter().find(|bit| !allowed.test(*bit)) {
            return Err(format!("{}: the guest has {bit}, the mdev not", name(mdev)));
        }
    }
    Ok(())
}
