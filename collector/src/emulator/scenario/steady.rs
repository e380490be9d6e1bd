//! The scenario `steady`: every guest runs, is bound and released, has an administrator, a RESET now and then, and is
//! converted to a protected guest and back.
//!
//! Conversion never overlaps with binding or release of the same guest: user space keeps them apart with a gate of its
//! own, so no generation can hang. What an actor does next depends on its random numbers alone, never on time or on
//! the outcome of what it did.

use std::sync::PoisonError;
use std::time::Duration;

use crate::emulator::actors::{Actor, ActorSpec, thread_name};
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
use crate::emulator::points::kvm::{kvm_vcpu_ioctl, kvm_vfio_set_attr};
use crate::emulator::points::vfio_ap as driver;
use crate::emulator::rng::Rng;

/// The actors: for each guest its vCPUs, `notify`, `sysfs`, `vfio` and `pv`.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut specs = Vec::new();
    for guest in &machine.guests {
        let mut add = |role: &str, run: Box<dyn FnOnce(&mut Actor) + Send>| {
            specs.push(ActorSpec {
                name: thread_name(role, guest.number),
                run: Box::new(move |actor| {
                    // Not all at once.
                    actor.pause_ms(0, 20);
                    run(actor);
                }),
            });
        };
        for vcpu in guest.kvm.vcpus() {
            let role = format!("vcpu{}", vcpu.vcpu_id);
            add(&role, Box::new(move |actor| run_vcpu(actor, guest, vcpu)));
        }
        add(
            "notify",
            Box::new(move |actor| start_and_stop(actor, machine, guest)),
        );
        add("sysfs", Box::new(move |actor| administer(actor, guest)));
        add("vfio", Box::new(move |actor| reset(actor, guest)));
        add("pv", Box::new(move |actor| convert(actor, guest)));
    }
    specs
}

/// PQAP(AQIC) on a queue: GR0 to GR2.
fn aqic(apqn: u16, enable: bool, isc: u64, nib: u64) -> [u64; 3] {
    let ir = u64::from(enable) << (63 - 16);
    [(3 << 24) | u64::from(apqn), ir | isc, nib]
}

/// What a guest does in one run: mostly AQIC on its queues, now and then on one it does not have, with an indicator
/// address that cannot be pinned, or another function.
fn guest_program(rng: &mut Rng, guest: u32) -> Vec<GuestStep> {
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
fn run_vcpu(actor: &mut Actor, guest: &'static Guest, vcpu: &'static KvmVcpu) {
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
fn set_group(guest: &'static Guest, attr: u64) {
    kvm_vfio_set_attr(
        guest.kvm_vfio,
        &KvmDeviceAttr {
            group: KVM_DEV_VFIO_GROUP,
            attr,
            target: Link::to(&guest.mdev.group),
        },
    );
}

fn open(machine: &Machine, guest: &'static Guest) {
    if machine.generation.has_open_device {
        driver::vfio_ap_mdev_open_device(guest.mdev_device);
    } else {
        driver::vfio_ap_mdev_open(guest.mdev_device);
    }
    set_fd(guest, true);
}

/// A close takes effect when the calls in progress have returned.
fn close(machine: &Machine, guest: &'static Guest) {
    set_fd(guest, false);
    if machine.generation.has_open_device {
        driver::vfio_ap_mdev_close_device(guest.mdev_device);
    } else {
        driver::vfio_ap_mdev_release(guest.mdev_device);
    }
}

fn set_fd(guest: &Guest, open: bool) {
    *guest
        .device_fd
        .write()
        .unwrap_or_else(PoisonError::into_inner) = open;
}

/// Plugs the device into the running guest and takes it out again. The order of the two halves of each varies, as it
/// does between versions of QEMU: the guest is announced by the notifier chain or by the replay at registration, and
/// withdrawn by the notifier with NULL or by the release.
fn start_and_stop(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    while !actor.is_stopping() {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("guest start");
        {
            let _gate = gate(guest);
            if replay {
                set_group(guest, KVM_DEV_VFIO_GROUP_ADD);
                open(machine, guest);
            } else {
                open(machine, guest);
                set_group(guest, KVM_DEV_VFIO_GROUP_ADD);
            }
        }
        actor.pause_ms(100, 400);
        if actor.is_stopping() {
            // The device stays plugged.
            return;
        }
        actor.begin("guest stop");
        {
            let _gate = gate(guest);
            if release_first {
                close(machine, guest);
                set_group(guest, KVM_DEV_VFIO_GROUP_DEL);
            } else {
                set_group(guest, KVM_DEV_VFIO_GROUP_DEL);
                close(machine, guest);
            }
        }
        actor.pause_ms(20, 100);
    }
}

fn gate(guest: &Guest) -> std::sync::MutexGuard<'_, ()> {
    guest
        .conversion_gate
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// One access of the administrator to the mdev's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Access {
    AssignAdapter(String),
    UnassignAdapter(String),
    AssignDomain(String),
    UnassignDomain(String),
    AssignControlDomain(String),
    UnassignControlDomain(String),
    Matrix,
    ControlDomains,
}

/// What the administrator does next: mostly sound changes inside the guest's cell that leave what it started with; now
/// and then a number too large, one that is none, a queue that is not bound, one of the neighbour's.
fn next_access(rng: &mut Rng, guest: u32) -> Access {
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
    match kind {
        0 => Access::AssignAdapter(text),
        1 => Access::UnassignAdapter(text),
        2 => Access::AssignDomain(text),
        3 => Access::UnassignDomain(text),
        4 => Access::AssignControlDomain(text),
        5 => Access::UnassignControlDomain(text),
        6 => Access::Matrix,
        _ => Access::ControlDomains,
    }
}

fn administer(actor: &mut Actor, guest: &'static Guest) {
    let dev = &guest.mdev_device.dev;
    while !actor.is_stopping() {
        let access = next_access(&mut actor.rng, guest.number);
        actor.note(|| format!("{access:?}"));
        let write =
            |store: extern "C" fn(&'static _, u64, &Page, usize, u64, Option<&_>) -> i64,
             text: &str| { store(dev, 0, &Page::new(text), text.len(), 0, None) };
        actor.begin("sysfs access");
        match &access {
            Access::AssignAdapter(text) => write(driver::assign_adapter_store, text),
            Access::UnassignAdapter(text) => write(driver::unassign_adapter_store, text),
            Access::AssignDomain(text) => write(driver::assign_domain_store, text),
            Access::UnassignDomain(text) => write(driver::unassign_domain_store, text),
            Access::AssignControlDomain(text) => write(driver::assign_control_domain_store, text),
            Access::UnassignControlDomain(text) => {
                write(driver::unassign_control_domain_store, text)
            }
            Access::Matrix => driver::matrix_show(dev, 0, &mut Page::new(""), 0, 0, None),
            Access::ControlDomains => {
                driver::control_domains_show(dev, 0, &mut Page::new(""), 0, 0, None)
            }
        };
        actor.pause_ms(15, 60);
    }
}

/// ioctls on the device, while it is open.
fn reset(actor: &mut Actor, guest: &'static Guest) {
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
fn convert(actor: &mut Actor, guest: &'static Guest) {
    while !actor.is_stopping() {
        actor.pause_ms(300, 1200);
        if actor.is_stopping() {
            return;
        }
        let length = actor.rng.between(1, 5);
        actor.note(|| format!("convert for {length} ms"));
        actor.begin("KVM_S390_PV_COMMAND");
        let _gate = gate(guest);
        kvm_arch_vm_ioctl_pv_command(guest.kvm, KVM_PV_ENABLE);
        std::thread::sleep(Duration::from_millis(length));
        kvm_arch_vm_ioctl_pv_command(guest.kvm, KVM_PV_DISABLE);
    }
}
