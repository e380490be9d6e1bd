//! The scenarios `boot-storm`, in which all guests start and stop at the same moment, and `pqap-storm`, in which vCPUs
//! execute PQAP back to back.

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::hardware::mkqid;
use crate::emulator::kvm::sie::GuestStep;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::KvmVcpu;
use crate::emulator::rng::Rng;

use super::administrator::administer;
use super::cast::Cast;
use super::meeting::Meeting;
use super::roles;

/// PQAPs of one KVM_RUN of the storm, unless user space is wanted for one of them.
const STORM_STEPS: usize = 64;

/// Boot storm: for each guest its vCPUs and `notify`, which all meet before every start, `notify` before every stop too.
pub fn boot(machine: &'static Machine) -> Vec<ActorSpec> {
    let guests = machine.guests.len();
    let vcpus: usize = machine.guests.iter().map(|g| g.kvm.vcpus().len()).sum();
    let (start, stop) = (Meeting::of(guests + vcpus), Meeting::of(guests));
    let mut cast = Cast::default();
    for guest in &machine.guests {
        for vcpu in guest.kvm.vcpus() {
            let start = start.clone();
            cast.add(
                &format!("vcpu{}", vcpu.vcpu_id),
                guest.number,
                move |actor| {
                    boot_vcpu(actor, machine, guest, vcpu, &start);
                },
            );
        }
        let (start, stop) = (start.clone(), stop.clone());
        cast.add("notify", guest.number, move |actor| {
            boot_guest(actor, machine, guest, &start, &stop);
        });
    }
    cast.specs()
}

fn boot_vcpu(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
    start: &Meeting,
) {
    loop {
        let programs: Vec<_> = (0..actor.rng.between(3, 8))
            .map(|_| roles::guest_program(&mut actor.rng, guest.number))
            .collect();
        actor.note(|| format!("{programs:?}"));
        actor.begin("waits for the others");
        if !start.wait(&actor.shared.stop) {
            return;
        }
        for program in programs {
            vcpu.sie_block.load(program);
            roles::run_until_idle(actor, machine, guest, vcpu);
            if actor.is_stopping() {
                return;
            }
        }
    }
}

fn boot_guest(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    start: &Meeting,
    stop: &Meeting,
) {
    loop {
        let replay = actor.rng.percent(50);
        let release_first = actor.rng.percent(50);
        actor.note(|| format!("start replay={replay} stop release_first={release_first}"));
        actor.begin("waits for the others");
        if !start.wait(&actor.shared.stop) {
            return;
        }
        actor.begin("guest start");
        roles::plug(machine, guest, replay);
        actor.pause_ms(20, 60);
        actor.begin("waits for the others");
        if !stop.wait(&actor.shared.stop) {
            return;
        }
        actor.begin("guest stop");
        roles::unplug_carefully(machine, guest, release_first);
        actor.pause_ms(5, 20);
    }
}

/// What a guest does in one run of the storm: AQIC, and one other function at the end, for which KVM_RUN returns.
pub fn storm_program(rng: &mut Rng, guest: u32) -> Vec<GuestStep> {
    let (adapter, domain) = (layout::first_adapter(guest), layout::first_domain(guest));
    let mut steps = Vec::with_capacity(STORM_STEPS);
    for _ in 0..STORM_STEPS {
        let apqn = mkqid(adapter + rng.below(2) as u16, domain + rng.below(2) as u16);
        let nib = 0x10_0000 + (u64::from(apqn) << 12);
        let registers = match rng.below(100) {
            0..45 => roles::aqic(apqn, true, rng.below(8), nib),
            45..90 => roles::aqic(apqn, false, 0, 0),
            // TAPQ and QCI.
            90..95 => [u64::from(apqn), 0, 0],
            _ => [4 << 24, 0, 0],
        };
        steps.push(GuestStep::Pqap(registers));
    }
    steps
}

/// Runs vCPU programs of the storm back to back.
pub fn storm_vcpu(
    actor: &mut Actor,
    machine: &'static Machine,
    guest: &'static Guest,
    vcpu: &'static KvmVcpu,
) {
    while !actor.is_stopping() {
        let program = storm_program(&mut actor.rng, guest.number);
        actor.note(|| format!("{program:?}"));
        vcpu.sie_block.load(program);
        roles::run_until_idle(actor, machine, guest, vcpu);
    }
}

/// PQAP storm: the vCPUs of each guest, once it has its device, and everything else rarely.
pub fn pqap(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        let bound = Meeting::of(guest.kvm.vcpus().len() + 1);
        for vcpu in guest.kvm.vcpus() {
            let bound = bound.clone();
            cast.add(
                &format!("vcpu{}", vcpu.vcpu_id),
                guest.number,
                move |actor| {
                    actor.begin("waits for the device");
                    if bound.wait(&actor.shared.stop) {
                        storm_vcpu(actor, machine, guest, vcpu);
                    }
                },
            );
        }
        cast.add("notify", guest.number, move |actor| {
            actor.begin("guest start");
            roles::plug(machine, guest, false);
            if bound.wait(&actor.shared.stop) {
                actor.pause_ms(1000, 3000);
            }
            actor.begin("guest stop");
            roles::unplug_carefully(machine, guest, true);
            roles::start_and_stop(actor, machine, guest, (1000, 3000), (5, 20));
        });
        cast.add("sysfs", guest.number, move |actor| {
            actor.pause_ms(0, 200);
            administer(actor, machine, guest, 200, 900);
        });
        cast.add("vfio", guest.number, move |actor| {
            roles::reset(actor, guest, 900, 2700);
        });
    }
    cast.specs()
}
