//! What actors do: the roles from which scenarios are made.
//!
//! What an actor does next depends on its random numbers alone, never on time or on the outcome of what it did.

use std::sync::PoisonError;
use std::time::Duration;

use crate::emulator::actors::Actor;
use crate::emulator::driver::{VFIO_DEVICE_GET_INFO, VFIO_DEVICE_RESET};
use crate::emulator::hardware::mkqid;
use crate::emulator::kvm::pv::{KVM_PV_DISABLE, KVM_PV_ENABLE, kvm_arch_vm_ioctl_pv_command};
use crate::emulator::kvm::run::KVM_RUN;
use crate::emulator::kvm::sie::GuestStep;
use crate::emulator::kvm::vfio::{
    KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL,
};
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::{KvmDeviceAttr, KvmVcpu, Link, MdevDevice};
use crate::emulator::points::kvm::{kvm_vcpu_ioctl, kvm_vfio_set_attr};
use crate::emulator::points::vfio_ap as driver;
use crate::emulator::rng::Rng;
use crate::emulator::vfio_core;

/// PQAP(AQIC) on a queue: GR0 to GR2.
pub fn aqic(apqn: u16, enable: bool, isc: u64, nib: u64) -> [u64; 3] {
    let ir = u64::from(enable) << (63 - 16);
    [(3 << 24) | u64::from(apqn), ir | isc, nib]
}

/// What a guest does in one run: mostly AQIC on its queues, now and then on one it does not have, with an indicator
/// address that cannot be pinned, or another function.
pub fn guest_program(rng: &mut Rng, guest: u32) -> Vec<GuestStep> {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    let mut steps = Vec::new();
    for _ in 0..rng.between(1, 5) {
        let us = rng.between(200, 1800);
        steps.push(GuestStep::Compute(Duration::from_micros(us)));
        let apqn = mkqid(adapter + rng.below(2) as u16, domain + rng.below(2) as u16);
        let isc = rng.below(8);
        let nib = 0x10_0000 + (u64::from(apqn) << 12);
        let registers = match rng.below(100) {
            0..55 => aqic(apqn, true, isc, nib),
            55..88 => aqic(apqn, false, isc, 0),
            // A queue of the cell that is not assigned.
            88..94 => aqic(mkqid(adapter + 9, domain + 3), rng.percent(50), isc, nib),
            94..97 => aqic(apqn, true, isc, 0),
            // TAPQ and QCI, which a host without interpretation of them intercepts.
            97..99 => [u64::from(apqn), 0, 0],
            _ => [4 << 24, 0, 0],
        };
        steps.push(GuestStep::Pqap(registers));
    }
    steps
}

/// A vCPU that waits for `kvm_busy` in the hook's rwsem and a release that wants the rwsem for writing deadlock, the two
/// alone. On such a generation user space does not let them meet, except where that is the scenario.
fn keeps_vcpus_from_release(machine: &Machine) -> bool {
    machine.generation.has_kvm_busy && machine.generation.has_hook_rwsem
}

/// Runs the vCPU until the guest has nothing left to do.
pub fn run_until_idle(
    actor: &Actor,
    machine: &Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
) {
    let gated = keeps_vcpus_from_release(machine);
    while !vcpu.sie_block.is_idle() {
        actor.begin("kvm_vcpu_ioctl(KVM_RUN)");
        let _gate = gated.then(|| {
            let gate = &guest.vcpu_gate;
            gate.read().unwrap_or_else(PoisonError::into_inner)
        });
        kvm_vcpu_ioctl(vcpu, KVM_RUN, 0);
    }
}

/// A vCPU thread of user space: KVM_RUN, and what the guest wants of user space in between, which takes it between `low`
/// and `high` milliseconds.
pub fn run_vcpu(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
    low: u64,
    high: u64,
) {
    while !actor.is_stopping() {
        let program = guest_program(&mut actor.rng, guest.number);
        actor.note(|| format!("{program:?}"));
        vcpu.sie_block.load(program);
        run_until_idle(actor, machine, guest, vcpu);
        actor.pause_ms(low, high);
    }
}

/// Adds the guest's device's group to the VM, or removes it.
pub fn set_group(guest: &'static Guest, attr: u64) {
    set_group_of(guest, guest.mdev_device, attr);
}

/// Adds a device's group to the guest's VM, or removes it.
pub fn set_group_of(guest: &'static Guest, device: &'static MdevDevice, attr: u64) {
    kvm_vfio_set_attr(
        guest.kvm_vfio,
        &KvmDeviceAttr {
            group: KVM_DEV_VFIO_GROUP,
            attr,
            target: Link::to(&device.group),
        },
    );
}

/// Opens the device; false if that failed.
pub fn open(machine: &Machine, guest: &'static Guest) -> bool {
    let opened = vfio_core::device_open(machine, guest.mdev_device) == 0;
    if opened {
        set_fd(guest, true);
    }
    opened
}

/// Closes the device, if it is open. A close takes effect when the calls in progress have returned.
pub fn close(machine: &Machine, guest: &'static Guest) {
    if set_fd(guest, false) {
        vfio_core::device_close(machine, guest.mdev_device);
    }
}

/// Notes whether user space has a descriptor; what was noted before.
fn set_fd(guest: &Guest, open: bool) -> bool {
    let mut fd = guest
        .device_fd
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *fd, open)
}

/// Guest start. With `replay` the group is added to the VM before the device is opened, so that a generation with a
/// notifier chain announces the guest at registration. A generation without one needs the guest before the device.
pub fn plug(machine: &Machine, guest: &'static Guest, replay: bool) {
    if replay || !machine.generation.has_group_notifier {
        set_group(guest, KVM_DEV_VFIO_GROUP_ADD);
        open(machine, guest);
    } else {
        open(machine, guest);
        set_group(guest, KVM_DEV_VFIO_GROUP_ADD);
    }
}

/// Guest stop, by the release or by the notifier with NULL.
pub fn unplug(machine: &Machine, guest: &'static Guest, release_first: bool) {
    if release_first {
        close(machine, guest);
        set_group(guest, KVM_DEV_VFIO_GROUP_DEL);
    } else {
        set_group(guest, KVM_DEV_VFIO_GROUP_DEL);
        close(machine, guest);
    }
}

/// Guest stop that user space takes care of: a generation that leaks its lock when a guest is withdrawn twice is not made
/// to do that, and one where a vCPU in PQAP would deadlock with it has its vCPUs stopped first.
pub fn unplug_carefully(machine: &Machine, guest: &'static Guest, release_first: bool) {
    let _gate = keeps_vcpus_from_release(machine).then(|| {
        let gate = &guest.vcpu_gate;
        gate.write().unwrap_or_else(PoisonError::into_inner)
    });
    unplug(
        machine,
        guest,
        release_first || machine.generation.leaks_lock,
    );
}

/// Plugs the device into the running guest and takes it out again, with pauses `on` and `off` in milliseconds. The order
/// of the two halves of each varies, as it does between versions of QEMU: the guest is announced by the notifier chain or
/// by the replay at registration, and withdrawn by the notifier with NULL or by the release.
pub fn start_and_stop(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    on: (u64, u64),
    off: (u64, u64),
) {
    while !actor.is_stopping() {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("guest start");
        {
            let _gate = gate(guest);
            plug(machine, guest, replay);
        }
        actor.pause_ms(on.0, on.1);
        actor.begin("guest stop");
        {
            let _gate = gate(guest);
            unplug_carefully(machine, guest, release_first);
        }
        actor.pause_ms(off.0, off.1);
    }
}

/// User space's gate between conversion, binding and release of a guest.
pub fn gate(guest: &Guest) -> std::sync::MutexGuard<'_, ()> {
    guest
        .conversion_gate
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Calls `f` while user space has the device open: a close waits for it.
pub fn while_open(guest: &'static Guest, f: impl FnOnce()) {
    let fd = guest
        .device_fd
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    if *fd {
        f();
    }
}

/// ioctls on the device, while it is open, after pauses between `low` and `high` milliseconds.
pub fn reset(actor: &mut Actor, guest: &'static Guest, low: u64, high: u64) {
    while !actor.is_stopping() {
        actor.pause_ms(low, high);
        if actor.is_stopping() {
            return;
        }
        let cmd = match actor.rng.below(10) {
            0 => VFIO_DEVICE_GET_INFO,
            // VFIO_DEVICE_GET_REGION_INFO, which this device does not have.
            1 => VFIO_DEVICE_GET_INFO + 1,
            _ => VFIO_DEVICE_RESET,
        };
        actor.note(|| format!("ioctl {cmd:#x}"));
        actor.begin("vfio_ap_mdev_ioctl");
        while_open(guest, || {
            driver::vfio_ap_mdev_ioctl(guest.mdev_device, cmd, 0);
        });
    }
}

/// Conversion to a protected guest and back, kept apart from binding and release.
pub fn convert(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    while !actor.is_stopping() {
        actor.pause_ms(300, 1200);
        if actor.is_stopping() {
            return;
        }
        let length = actor.rng.between(1, 5);
        actor.note(|| format!("convert for {length} ms"));
        actor.begin("KVM_S390_PV_COMMAND");
        let _gate = gate(guest);
        kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, KVM_PV_ENABLE);
        std::thread::sleep(Duration::from_millis(length));
        kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, KVM_PV_DISABLE);
    }
}
