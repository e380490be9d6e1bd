//! The scenarios `se-start` and `se-serial`: a guest is converted to a protected one while its vCPUs run PQAP and its
//! device is bound or released; and the same operations one after the other.
//!
//! What happens at the same time is arranged in user space: actors meet, then each does its part after a pause of its
//! own. None looks at a lock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::hardware::mkqid;
use crate::emulator::kvm::pv::{KVM_PV_DISABLE, KVM_PV_ENABLE, kvm_arch_vm_ioctl_pv_command};
use crate::emulator::kvm::run::KVM_RUN;
use crate::emulator::kvm::sie::GuestStep;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::KvmVcpu;
use crate::emulator::points::kvm::kvm_vcpu_ioctl;
use crate::emulator::rng::Rng;

use super::cast::Cast;
use super::meeting::Meeting;
use super::{roles, steady};

/// PQAPs of the KVM_RUN in which a guest is converted.
const STEPS: usize = 40;
/// vCPUs that turn interruptions off, for which the driver polls with its lock held. More would only prolong a round.
const POLLING_VCPUS: u32 = 2;

/// A long run: AQIC again and again, with some computing, so that it takes tens of milliseconds.
fn long_program(rng: &mut Rng, guest: u32, vcpu: u32) -> Vec<GuestStep> {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        if rng.percent(20) {
            let us = rng.between(300, 900);
            steps.push(GuestStep::Compute(Duration::from_micros(us)));
        }
        let apqn = mkqid(adapter + rng.below(2) as u16, domain + rng.below(2) as u16);
        let nib = 0x10_0000 + (u64::from(apqn) << 12);
        let enable = rng.percent(60) || vcpu >= POLLING_VCPUS;
        steps.push(GuestStep::Pqap(roles::aqic(
            apqn,
            enable,
            rng.below(8),
            nib,
        )));
    }
    steps
}

/// Guest 0 is converted and released at the same time, again and again. The others are those of `steady`.
pub fn start(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    let Some((first, rest)) = machine.guests.split_first() else {
        return Vec::new();
    };
    // Before the device is plugged in, and once it is.
    let parties = first.kvm.vcpus().len() + 2;
    let (plug, go) = (Meeting::of(parties), Meeting::of(parties));
    for vcpu in first.kvm.vcpus() {
        let (plug, go) = (plug.clone(), go.clone());
        cast.add(&format!("vcpu{}", vcpu.vcpu_id), 0, move |actor| {
            overlapping_vcpu(actor, vcpu, &plug, &go);
        });
    }
    let meetings = (plug.clone(), go.clone());
    cast.add("notify", 0, move |actor| {
        overlapping_release(actor, machine, first, &meetings.0, &meetings.1);
    });
    cast.add("pv", 0, move |actor| {
        overlapping_conversion(actor, machine, first, &plug, &go);
    });
    for guest in rest {
        steady::guest_actors(&mut cast, machine, guest);
    }
    cast.specs()
}

fn overlapping_vcpu(actor: &mut Actor, vcpu: &'static KvmVcpu, plug: &Meeting, go: &Meeting) {
    while plug.wait(&actor.shared.stop) {
        let program = long_program(&mut actor.rng, 0, vcpu.vcpu_id);
        actor.note(|| format!("{program:?}"));
        vcpu.sie_block.load(program);
        actor.begin("waits for the device");
        if !go.wait(&actor.shared.stop) {
            return;
        }
        while !vcpu.sie_block.is_idle() {
            actor.begin("kvm_vcpu_ioctl(KVM_RUN)");
            kvm_vcpu_ioctl(vcpu, KVM_RUN, 0);
        }
        actor.begin("waits for the others");
    }
}

/// Both orders of release and withdrawal, by turns; the seed says which is first.
fn overlapping_release(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    plug: &Meeting,
    go: &Meeting,
) {
    let mut release_first = actor.rng.percent(50);
    while plug.wait(&actor.shared.stop) {
        let replay = actor.rng.percent(50);
        let us = actor.rng.between(2000, 6000);
        actor.note(|| format!("replay={replay} release_first={release_first} after {us} us"));
        actor.begin("guest start");
        roles::plug(machine, guest, replay);
        actor.begin("waits for the others");
        if !go.wait(&actor.shared.stop) {
            return;
        }
        std::thread::sleep(Duration::from_micros(us));
        actor.begin(if release_first {
            "guest stop, release first"
        } else {
            "guest stop, withdrawal first"
        });
        roles::unplug(machine, guest, release_first);
        release_first = !release_first;
        actor.begin("waits for the others");
    }
}

/// The conversion begins 0.5 to 1 ms after the vCPUs do, so that they run and it waits for them.
fn overlapping_conversion(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    plug: &Meeting,
    go: &Meeting,
) {
    while plug.wait(&actor.shared.stop) {
        let us = actor.rng.between(500, 1000);
        actor.note(|| format!("convert after {us} us"));
        if !go.wait(&actor.shared.stop) {
            return;
        }
        std::thread::sleep(Duration::from_micros(us));
        actor.begin("KVM_S390_PV_COMMAND");
        kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, KVM_PV_ENABLE);
        kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, KVM_PV_DISABLE);
        actor.begin("waits for the others");
    }
}

/// The gates of `se-serial`, one for each guest: whoever does something with the guest has it.
type Turn = Mutex<()>;

/// The same operations for every guest, one at a time.
pub fn serial(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        let turn: &'static Turn = Box::leak(Box::default());
        for vcpu in guest.kvm.vcpus() {
            cast.add(
                &format!("vcpu{}", vcpu.vcpu_id),
                guest.number,
                move |actor| {
                    while !actor.is_stopping() {
                        let program = roles::guest_program(&mut actor.rng, guest.number);
                        actor.note(|| format!("{program:?}"));
                        vcpu.sie_block.load(program);
                        in_turn(turn, || roles::run_until_idle(actor, machine, guest, vcpu));
                        actor.pause_ms(3, 9);
                    }
                },
            );
        }
        cast.add("notify", guest.number, move |actor| {
            serial_release(actor, machine, guest, turn);
        });
        cast.add("pv", guest.number, move |actor| {
            while !actor.is_stopping() {
                actor.pause_ms(20, 80);
                actor.note(|| "convert".into());
                actor.begin("KVM_S390_PV_COMMAND");
                for command in [KVM_PV_ENABLE, KVM_PV_DISABLE] {
                    in_turn(turn, || {
                        kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, command)
                    });
                }
            }
        });
    }
    cast.specs()
}

fn in_turn<R>(turn: &Turn, f: impl FnOnce() -> R) -> R {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    f()
}

fn serial_release(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    turn: &'static Turn,
) {
    while !actor.is_stopping() {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("guest start");
        in_turn(turn, || roles::plug(machine, guest, replay));
        actor.pause_ms(10, 60);
        actor.begin("guest stop");
        in_turn(turn, || {
            roles::unplug_carefully(machine, guest, release_first);
        });
        actor.pause_ms(5, 20);
    }
}
