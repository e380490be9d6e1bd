//! What actors do: the roles from which scenarios are made.
//!
//! What an actor does next depends on its random numbers alone, never on time or on the outcome of what it did.

use std::sync::PoisonError;
use std::time::Duration;

use crate::emulator::actors::Actor;
use crate::emulator::driver::attributes::{self, Attribute};
use crate::emulator::driver::sysfs::Page;
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
use crate::emulator::objects::{KvmDeviceAttr, KvmVcpu, Link};
use crate::emulator::points::Writer;
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

/// A vCPU thread of user space: KVM_RUN, and what the guest wants of user space in between.
pub fn run_vcpu(actor: &mut Actor, guest: &'static Guest, vcpu: &'static KvmVcpu) {
    while !actor.is_stopping() {
        let program = guest_program(&mut actor.rng, guest.number);
        actor.note(|| format!("{program:?}"));
        vcpu.sie_block.load(program);
        while !vcpu.sie_block.is_idle() {
            actor.begin("kvm_vcpu_ioctl(KVM_RUN)");
            kvm_vcpu_ioctl(vcpu, KVM_RUN, 0);
        }
        actor.pause_ms(3, 9);
    }
}

/// Adds the device's group to the VM, or removes it.
pub fn set_group(guest: &'static Guest, attr: u64) {
    kvm_vfio_set_attr(
        guest.kvm_vfio,
        &KvmDeviceAttr {
            group: KVM_DEV_VFIO_GROUP,
            attr,
            target: Link::to(&guest.mdev_device.group),
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

/// Plugs the device into the running guest and takes it out again. The order of the two halves of each varies, as it
/// does between versions of QEMU: the guest is announced by the notifier chain or by the replay at registration, and
/// withdrawn by the notifier with NULL or by the release.
pub fn start_and_stop(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    while !actor.is_stopping() {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("guest start");
        {
            let _gate = gate(guest);
            plug(machine, guest, replay);
        }
        actor.pause_ms(100, 400);
        if actor.is_stopping() {
            // The device stays plugged.
            return;
        }
        actor.begin("guest stop");
        {
            let _gate = gate(guest);
            // A generation that leaks its lock when a guest is withdrawn twice is not made to do that here.
            unplug(
                machine,
                guest,
                release_first || machine.generation.leaks_lock,
            );
        }
        actor.pause_ms(20, 100);
    }
}

pub fn gate(guest: &Guest) -> std::sync::MutexGuard<'_, ()> {
    guest
        .conversion_gate
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// What the administrator does next: mostly sound changes inside the guest's cell that leave what it started with; now
/// and then a number too large, one that is none, a queue that is not bound, one of the neighbour's.
fn next_access(rng: &mut Rng, guest: u32) -> (&'static str, String) {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    let kind = rng.below(8);
    let base = if kind < 2 { adapter } else { domain };
    let text = match rng.below(20) {
        0 => "256".to_string(),
        1 => "queue".to_string(),
        2 => "99999999999999999999".to_string(),
        // The first of the neighbouring cell; the other coordinate decides whose it is.
        3 if kind < 2 => format!("{:#04x}", (adapter + layout::CELL_ADAPTERS) % 256),
        3 => (domain + layout::CELL_DOMAINS).min(255).to_string(),
        // Not bound to the driver.
        4 if kind < 2 => (adapter + layout::BOUND_ADAPTERS).to_string(),
        4 => (domain + layout::BOUND_DOMAINS).to_string(),
        5..12 => format!("{:#04x}\n", base + 2),
        _ => format!("{}\n", base + 2),
    };
    let name = [
        "assign_adapter",
        "unassign_adapter",
        "assign_domain",
        "unassign_domain",
        "assign_control_domain",
        "unassign_control_domain",
        "matrix",
        "control_domains",
    ][kind as usize];
    (name, text)
}

/// The administrator of a guest's mdev.
pub fn administer(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    let attributes = attributes::of(machine.generation);
    while !actor.is_stopping() {
        let (name, text) = next_access(&mut actor.rng, guest.number);
        actor.note(|| format!("{name} {text:?}"));
        actor.begin("sysfs access");
        if let Some(attribute) = attributes.iter().find(|a| a.name == name) {
            access(guest, attribute, &text);
        }
        actor.pause_ms(15, 60);
    }
}

/// Writes an attribute, or reads one that cannot be written.
pub fn access(guest: &'static Guest, attribute: &Attribute, text: &str) -> i64 {
    match (attribute.store, attribute.show) {
        (Some(store), _) => store(
            guest.mdev_device,
            &Page::new(text),
            text.len(),
            &Writer::SELF,
        ),
        (None, Some(show)) => show(guest.mdev_device, &mut Page::new(""), &Writer::SELF),
        (None, None) => 0,
    }
}

/// ioctls on the device, while it is open.
pub fn reset(actor: &mut Actor, guest: &'static Guest) {
    while !actor.is_stopping() {
        actor.pause_ms(200, 900);
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
        let fd = guest
            .device_fd
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if *fd {
            driver::vfio_ap_mdev_ioctl(guest.mdev_device, cmd, 0);
        }
        drop(fd);
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
