//! The scenarios around the open-coded lock: `lost-wakeup`, in which one wake-up of those that wait for it is left out,
//! `set-unset`, in which two threads hold it at once, and `starved-vcpu`, in which a vCPU never finds it clear.

use std::time::Duration;

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::hardware::mkqid;
use crate::emulator::kvm::sie::GuestStep;
use crate::emulator::kvm::vfio::{KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL};
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::KvmVcpu;

use super::cast::Cast;
use super::meeting::Meeting;
use super::{roles, steady, storms};

/// Guest 0 is bound and released until one of its vCPUs sleeps for ever: the wake-up that it waits for is left out. Then
/// nobody touches it any more. The others are those of `steady`.
pub fn lost_wakeup(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    let Some((first, rest)) = machine.guests.split_first() else {
        return Vec::new();
    };
    machine.faults.lose_wakeup(first.mdev);
    for vcpu in first.kvm.vcpus() {
        cast.add(&format!("vcpu{}", vcpu.vcpu_id), 0, move |actor| {
            if vcpu.vcpu_id == 0 {
                storms::storm_vcpu(actor, machine, first, vcpu);
            } else {
                computing_vcpu(actor, machine, first, vcpu, true);
            }
        });
    }
    cast.add("notify", 0, move |actor| {
        bind_until_lost(actor, machine, first);
    });
    for guest in rest {
        steady::guest_actors(&mut cast, machine, guest);
    }
    cast.specs()
}

/// The last start or stop is the one whose wake-up is lost.
fn bind_until_lost(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    let goes_on = |actor: &Actor| !actor.is_stopping() && !machine.faults.wakeup_is_lost();
    while goes_on(actor) {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("guest start");
        roles::plug(machine, guest, replay);
        actor.pause_ms(2, 10);
        if !goes_on(actor) {
            return;
        }
        actor.begin("guest stop");
        roles::unplug_carefully(machine, guest, release_first);
        actor.pause_ms(2, 10);
    }
}

/// A vCPU that mostly computes, so that it has to be kicked when the guest's masks change.
fn computing_vcpu(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
    with_aqic: bool,
) {
    let apqn = mkqid(
        layout::first_adapter(guest.number),
        layout::first_domain(guest.number),
    );
    while !actor.is_stopping() {
        let compute = Duration::from_micros(actor.rng.between(1000, 4000));
        let enable = actor.rng.percent(50);
        actor.note(|| format!("compute {compute:?}, AQIC {enable}"));
        let registers = if with_aqic {
            roles::aqic(apqn, enable, 0, 0x10_0000)
        } else {
            // TAPQ, which is user space's.
            [u64::from(apqn), 0, 0]
        };
        vcpu.sie_block
            .load([GuestStep::Compute(compute), GuestStep::Pqap(registers)]);
        roles::run_until_idle(actor, machine, guest, vcpu);
    }
}

/// Two neighbouring guests at a time have each other's groups, too: `group` of each adds both to its own VM and removes
/// them, without a word to the other. The devices are open all the time. The vCPUs only compute and leave AQIC alone.
pub fn set_unset(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        for vcpu in guest.kvm.vcpus() {
            cast.add(
                &format!("vcpu{}", vcpu.vcpu_id),
                guest.number,
                move |actor| {
                    computing_vcpu(actor, machine, guest, vcpu, false);
                },
            );
        }
    }
    for pair in machine.guests.chunks(2) {
        // A last one without a neighbour has its own alone.
        for guest in pair {
            cast.add("group", guest.number, move |actor| {
                roles::open(machine, guest);
                while !actor.is_stopping() {
                    let order = actor.rng.below(2) as usize;
                    actor.note(|| format!("both groups, {order} first"));
                    for attr in [KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL] {
                        actor.begin("kvm_vfio_set_attr");
                        for n in 0..pair.len() {
                            let device = pair[(n + order) % pair.len()].mdev_device;
                            roles::set_group_of(guest, device, attr);
                        }
                        actor.pause_ms(0, 3);
                    }
                }
                actor.begin("device closed");
                roles::close(machine, guest);
            });
        }
    }
    cast.specs()
}

/// Guest 0 runs and executes PQAP. Each other guest's VM is given guest 0's group, and loses it again, back to back: user
/// space that mixes up its groups. `vfio_ap_mdev_set_kvm` sets `kvm_busy` without a test, so that there is always somebody
/// who sets it before a vCPU of guest 0 has got the driver's lock again: it is woken, finds it set, and goes back to sleep.
pub fn starved_vcpu(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    let Some((first, rest)) = machine.guests.split_first() else {
        return Vec::new();
    };
    let bound = Meeting::of(first.kvm.vcpus().len() + rest.len() + 1);
    for vcpu in first.kvm.vcpus() {
        let bound = bound.clone();
        cast.add(&format!("vcpu{}", vcpu.vcpu_id), 0, move |actor| {
            actor.begin("waits for the device");
            if bound.wait(&actor.shared.stop) {
                pqap_without_queue(actor, machine, first, vcpu);
            }
        });
    }
    let when_bound = bound.clone();
    cast.add("notify", 0, move |actor| {
        actor.begin("guest start");
        roles::plug(machine, first, true);
        if when_bound.wait(&actor.shared.stop) {
            actor.begin("guest runs");
            while !actor.is_stopping() {
                actor.pause_ms(50, 50);
            }
        }
        actor.begin("guest stop");
        roles::unplug_carefully(machine, first, true);
    });
    for guest in rest {
        for vcpu in guest.kvm.vcpus() {
            let role = format!("vcpu{}", vcpu.vcpu_id);
            cast.add(&role, guest.number, move |actor| {
                computing_vcpu(actor, machine, guest, vcpu, false);
            });
        }
        let bound = bound.clone();
        cast.add("group", guest.number, move |actor| {
            actor.begin("waits for the device");
            if bound.wait(&actor.shared.stop) {
                take_group(actor, guest, first);
            }
        });
    }
    cast.specs()
}

/// AQIC on a queue that the guest does not have: it waits for the flag like any other, and changes nothing.
fn pqap_without_queue(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
) {
    let apqn = mkqid(
        layout::first_adapter(guest.number) + layout::BOUND_ADAPTERS,
        layout::first_domain(guest.number),
    );
    while !actor.is_stopping() {
        let enable = actor.rng.percent(50);
        actor.note(|| format!("AQIC {enable}"));
        let registers = roles::aqic(apqn, enable, 0, 0x10_0000);
        vcpu.sie_block.load([GuestStep::Pqap(registers)]);
        roles::run_until_idle(actor, machine, guest, vcpu);
    }
}

/// Gives the VM of a guest the group of another one, and takes it away.
fn take_group(actor: &mut Actor, guest: &'static Guest, of: &'static Guest) {
    while !actor.is_stopping() {
        actor.note(|| "group".into());
        for attr in [KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL] {
            actor.begin("kvm_vfio_set_attr");
            roles::set_group_of(guest, of.mdev_device, attr);
        }
    }
}
