//! The scenario `hotplug`: queues come and go under running guests. The hardware's configuration changes and the bus is
//! scanned, the host's masks are written, matrices of running guests are changed, guest memory is unmapped, and the
//! queues' status is read.

use crate::emulator::actors::{Actor, ActorSpec};
use crate::emulator::ap_bus::ap_scan_bus;
use crate::emulator::driver::sysfs::Page;
use crate::emulator::hardware::mkqid;
use crate::emulator::layout;
use crate::emulator::machine::{Guest, Machine};
use crate::emulator::objects::Driver;
use crate::emulator::points::Writer;
use crate::emulator::points::kernel::{apmask_store, aqmask_store};
use crate::emulator::points::vfio_ap::status_show;
use crate::emulator::rng::Rng;
use crate::emulator::vfio_core::dma_unmap;

use super::administrator::administer;
use super::cast::Cast;
use super::{roles, steady};

/// A domain that no guest's queues have, unless there are more than 992.
const UNUSED_DOMAIN: u16 = 250;

/// The actors: for each guest its vCPUs, `notify`, `sysfs`, `vfio` and `dma`; `scan`, `apmask`, `aqmask` and `status`
/// once.
pub fn actors(machine: &'static Machine) -> Vec<ActorSpec> {
    let mut cast = Cast::default();
    for guest in &machine.guests {
        steady::vcpus(&mut cast, machine, guest);
        cast.add("notify", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            roles::start_and_stop(actor, machine, guest, (150, 500), (20, 60));
        });
        cast.add("sysfs", guest.number, move |actor| {
            actor.pause_ms(0, 20);
            administer(actor, machine, guest, 5, 25);
        });
        cast.add("vfio", guest.number, move |actor| {
            roles::reset(actor, guest, 200, 600);
        });
        cast.add("dma", guest.number, move |actor| {
            unmap_dma(actor, machine, guest);
        });
    }
    cast.add_global("scan", 0, move |actor| scan_bus(actor, machine));
    cast.add_global("apmask", 0, move |actor| write_apmask(actor, machine));
    cast.add_global("aqmask", 0, write_aqmask);
    cast.add_global("status", 0, move |actor| read_status(actor, machine));
    cast.specs()
}

fn any_guest(rng: &mut Rng, machine: &'static Machine) -> &'static Guest {
    &machine.guests[rng.below(machine.guests.len() as u64) as usize]
}

/// The operator configures an adapter off or on, or a control domain, and the bus finds out.
fn scan_bus(actor: &mut Actor, machine: &'static Machine) {
    while !actor.is_stopping() {
        let guest = any_guest(&mut actor.rng, machine).number;
        let adapter = layout::first_adapter(guest) + actor.rng.below(4) as u16;
        let domain = layout::first_domain(guest) + actor.rng.below(3) as u16;
        let of_adapter = actor.rng.percent(80);
        let on = actor.rng.percent(60);
        actor.note(|| format!("adapter {adapter} ({of_adapter}) or domain {domain}: {on}"));
        actor.begin("ap_scan_bus");
        let configured = &machine.ap_bus.configured;
        let (map, bit) = if of_adapter {
            (&configured.apm, adapter)
        } else {
            (&configured.adm, domain)
        };
        if on {
            map.set(bit);
        } else {
            map.clear(bit);
        }
        ap_scan_bus(machine);
        actor.pause_ms(5, 30);
    }
}

/// What an administrator writes to `apmask`: an adapter for the host's own drivers, or back; now and then something that
/// is no mask. From v6.0 on the first is refused if a guest may have a queue of the adapter.
fn write_apmask(actor: &mut Actor, machine: &'static Machine) {
    while !actor.is_stopping() {
        let guest = any_guest(&mut actor.rng, machine).number;
        let adapter = layout::first_adapter(guest) + [0, 2, 3][actor.rng.below(3) as usize];
        let text = match actor.rng.below(10) {
            0 => format!("+{adapter},\n"),
            1..5 => format!("+{adapter}\n"),
            _ => format!("-{adapter:#x}\n"),
        };
        actor.note(|| format!("apmask {text:?}"));
        actor.begin("apmask_store");
        let page = Page::new(&text);
        apmask_store(0, &page, text.len(), 0, 0, &Writer::SELF.comm);
        actor.pause_ms(10, 50);
    }
}

/// The same for `aqmask`, with a domain that no queue of a guest has.
fn write_aqmask(actor: &mut Actor) {
    while !actor.is_stopping() {
        let text = match actor.rng.below(10) {
            0 => "-300\n".to_string(),
            1..6 => format!("+{UNUSED_DOMAIN}\n"),
            _ => format!("-{UNUSED_DOMAIN}\n"),
        };
        actor.note(|| format!("aqmask {text:?}"));
        actor.begin("aqmask_store");
        let page = Page::new(&text);
        aqmask_store(0, &page, text.len(), 0, 0, &Writer::SELF.comm);
        actor.pause_ms(20, 80);
    }
}

/// The guest's memory changes: pages that its indicators may be in are unmapped.
fn unmap_dma(actor: &mut Actor, machine: &'static Machine, guest: &'static Guest) {
    let first = mkqid(
        layout::first_adapter(guest.number),
        layout::first_domain(guest.number),
    );
    while !actor.is_stopping() {
        actor.pause_ms(20, 100);
        let iova = 0x10_0000 + (u64::from(first) << 12);
        let pages = actor.rng.between(1, 512);
        actor.note(|| format!("unmap {pages} pages from {iova:#x}"));
        actor.begin("VFIO_IOMMU_UNMAP_DMA");
        roles::while_open(guest, || {
            dma_unmap(machine, guest.mdev_device, iova, pages << 12);
        });
    }
}

/// Reads the `status` of queues that are bound to the driver, where there is such an attribute.
fn read_status(actor: &mut Actor, machine: &'static Machine) {
    while !actor.is_stopping() {
        let guest = any_guest(&mut actor.rng, machine).number;
        let apqn = mkqid(
            layout::first_adapter(guest) + actor.rng.below(4) as u16,
            layout::first_domain(guest) + actor.rng.below(3) as u16,
        );
        actor.note(|| format!("status of {apqn:#06x}"));
        actor.begin("status_show");
        if machine.generation.has_status
            && let Some(device) = machine.ap_bus.devices.get(&apqn)
            && device.driver() == Driver::VfioAp
        {
            status_show(device, 0, &mut Page::new(""), 0, 0, &Writer::SELF.comm);
        }
        actor.pause_ms(5, 20);
    }
}
