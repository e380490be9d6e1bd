//! The cases: what is called, in which state, and what must come back.
//!
//! Guest 0 has adapters 0 and 1 and domains 0 and 1; adapter 2 and domain 2 are the driver's and unassigned, adapter 4 is
//! the host's, adapter 16 is guest 1's.

use std::sync::atomic::Ordering;

use super::Bench;
use crate::emulator::ap_bus::{self, Mask};
use crate::emulator::driver::attributes;
use crate::emulator::driver::sysfs::Page;
use crate::emulator::driver::{
    NOTIFY_DONE, NOTIFY_OK, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_RESET,
    VFIO_DEVICE_SET_IRQS, VFIO_IOMMU_NOTIFY_DMA_UNMAP, VfioCore,
};
use crate::emulator::hardware::{Script, mkqid};
use crate::emulator::kvm::pv::{KVM_PV_DISABLE, KVM_PV_ENABLE, kvm_arch_vm_ioctl_pv_command};
use crate::emulator::kvm::run::KVM_RUN;
use crate::emulator::kvm::sie::GuestStep;
use crate::emulator::kvm::vfio::{
    KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL,
};
use crate::emulator::machine::{self, Guest, Machine};
use crate::emulator::mdev;
use crate::emulator::objects::{ApMatrix, Bitmap, CRYCB_FORMAT2, KvmDeviceAttr, Link};
use crate::emulator::points::kernel::{apmask_store, mutex_lock, mutex_unlock};
use crate::emulator::points::vfio_ap::DmaUnmap;
use crate::emulator::points::{Writer, kvm as kvm_points, vfio_ap};
use crate::emulator::primitives::waitqueue::wake_up_all;
use crate::emulator::vfio_core::{self, device_close, device_open};

const EBUSY: i64 = -(libc::EBUSY as i64);
const ADD: u64 = KVM_DEV_VFIO_GROUP_ADD;
const DEL: u64 = KVM_DEV_VFIO_GROUP_DEL;

/// All cases that the generation has.
pub fn all(bench: &mut Bench) {
    let generation = bench.machine.generation;
    attributes_without_guest(bench);
    unbound(bench);
    bind(bench, "kvm_vfio_set_attr add");
    attributes_with_guest(bench);
    pqap(bench);
    device(bench);
    queues(bench);
    if generation.has_hot_plug {
        bus(bench);
    }
    refused(bench);
    unbind(bench);
    if generation.has_group_notifier {
        without_crypto(bench);
    }
    created_and_removed(bench);
    protected(bench);
    if generation.has_kvm_busy {
        busy(bench);
    }
    slow(bench);
}

fn set_group(guest: &Guest, attr: u64) -> i32 {
    kvm_points::kvm_vfio_set_attr(
        guest.kvm_vfio,
        &KvmDeviceAttr {
            group: KVM_DEV_VFIO_GROUP,
            attr,
            target: Link::to(&guest.mdev_device.group),
        },
    )
}

fn aqic(apqn: u16, enable: bool) -> GuestStep {
    let ir = u64::from(enable) << (63 - 16);
    GuestStep::Pqap([(3 << 24) | u64::from(apqn), ir | 3, 0x10_0000])
}

/// KVM_RUN of one PQAP(AQIC); the response code.
fn run_pqap(guest: &Guest, apqn: u16, enable: bool) -> u64 {
    let vcpu = guest.kvm.vcpus()[0];
    vcpu.sie_block.load([aqic(apqn, enable)]);
    assert_eq!(kvm_points::kvm_vcpu_ioctl(vcpu, KVM_RUN, 0), 0);
    (vcpu.gpr(1) >> 16) & 0xff
}

/// Writes an attribute of the guest's mdev.
fn write(machine: &Machine, guest: &Guest, name: &str, text: &str) -> i64 {
    let attribute = attributes::of(machine.generation)
        .into_iter()
        .find(|a| a.name == name)
        .unwrap();
    attribute.store.unwrap()(
        guest.mdev_device,
        &Page::new(text),
        text.len(),
        &Writer::SELF,
    )
}

/// Reads one; the text.
fn read(machine: &Machine, guest: &Guest, name: &str) -> String {
    let attribute = attributes::of(machine.generation)
        .into_iter()
        .find(|a| a.name == name)
        .unwrap();
    let mut page = Page::new("");
    let length = attribute.show.unwrap()(guest.mdev_device, &mut page, &Writer::SELF);
    String::from_utf8(page.bytes(usize::try_from(length).unwrap()).to_vec()).unwrap()
}

const STORES: [&str; 6] = [
    "assign_adapter",
    "unassign_adapter",
    "assign_domain",
    "unassign_domain",
    "assign_control_domain",
    "unassign_control_domain",
];

/// The masks of guest 0 with or without adapter 2, as `ap_config` takes them.
fn config(with_adapter_2: bool) -> String {
    if with_adapter_2 {
        config_of(&[0, 1, 2])
    } else {
        config_of(&[0, 1])
    }
}

/// Masks of these adapters, and of the domains of guest 0.
fn config_of(adapters: &[u16]) -> String {
    let (apm, aqm) = (Bitmap::default(), Bitmap::default());
    for adapter in adapters {
        apm.set(*adapter);
    }
    for domain in 0..2 {
        aqm.set(domain);
    }
    format!("{},{},{}\n", apm.hex(), aqm.hex(), aqm.hex())
}

fn attributes_without_guest(bench: &mut Bench) {
    let machine = bench.machine;
    let generation = machine.generation;
    for name in STORES {
        bench.case(&format!("{name}_store"), &1, |g| {
            write(machine, g, name, "2")
        });
    }
    for (case, text, expected) in [
        ("already assigned", "0", 1),
        ("no number", "adapter", -libc::EINVAL),
        ("too large", "256", -libc::ENODEV),
        ("not reserved", "4", -libc::EADDRNOTAVAIL),
        ("in use", "16", -libc::EADDRINUSE),
    ] {
        bench.case(
            &format!("assign_adapter_store, {case}"),
            &i64::from(expected),
            |g| write(machine, g, "assign_adapter", text),
        );
    }
    // Others, whose sequence is not written down apart.
    let guest = bench.guest();
    for name in STORES {
        for (text, errno) in [
            ("0x10000000000000000", libc::ERANGE),
            ("256", libc::ENODEV),
            ("-1", libc::EINVAL),
        ] {
            let ret = write(machine, guest, name, text);
            assert_eq!(ret, -i64::from(errno), "{name} {text}");
        }
    }
    // Two mdevs may have the same adapter while they share no domain.
    let other = &machine.guests[1];
    for (name, text, expected) in [
        ("unassign_domain", "0", 1),
        ("unassign_domain", "1", 1),
        ("assign_adapter", "0", 1),
        ("assign_domain", "0", -i64::from(libc::EADDRINUSE)),
        ("unassign_adapter", "0", 1),
        ("assign_domain", "0", 1),
        ("assign_domain", "1", 1),
    ] {
        let ret = write(machine, other, name, text);
        assert_eq!(ret, expected, "{name} {text}");
    }
    assert!(!guest.mdev.matrix.apm.test(16), "undone after the conflict");
    let matrix = "00.0000\n00.0001\n01.0000\n01.0001\n";
    bench.case("matrix_show", &matrix.to_owned(), |g| {
        read(machine, g, "matrix")
    });
    bench.case("control_domains_show", &"0000\n0001\n".to_owned(), |g| {
        read(machine, g, "control_domains")
    });
    if generation.has_hot_plug {
        bench.case("guest_matrix_show", &matrix.to_owned(), |g| {
            read(machine, g, "guest_matrix")
        });
    }
    if generation.has_status {
        let device = machine.ap_bus.devices[&0];
        let mut page = Page::new("");
        bench.case("status_show", &9, |_| {
            vfio_ap::status_show(device, 0, &mut page, 0, 0, &Writer::SELF.comm)
        });
        assert_eq!(page.text(4096), b"assigned\n");
    }
    if generation.has_ap_config {
        let mut store = |case: &str, text: &str, expected: i64| {
            bench.case(case, &expected, |g| write(machine, g, "ap_config", text));
        };
        let length = config(true).len() as i64;
        store("ap_config_store", &config(true), length);
        store("ap_config_store, removing", &config(false), length);
        let einval = -i64::from(libc::EINVAL);
        store("ap_config_store, malformed", "0x01,0x02\n", einval);
        // Others, whose sequence is not written down apart.
        for (adapters, errno) in [([0, 4], libc::EADDRNOTAVAIL), ([0, 16], libc::EADDRINUSE)] {
            let ret = write(machine, bench.guest(), "ap_config", &config_of(&adapters));
            assert_eq!(ret, -i64::from(errno), "ap_config {adapters:?}");
        }
        bench.case("ap_config_show", &config(false), |g| {
            read(machine, g, "ap_config")
        });
    }
    assert_eq!(read(machine, bench.guest(), "matrix"), matrix);
}

fn unbound(bench: &mut Bench) {
    let machine = bench.machine;
    let guest = bench.guest();
    bench.case("handle_pqap without a hook", &0, |g| run_pqap(g, 0, true));
    assert_eq!(
        guest.kvm.vcpus()[0].gpr(1) >> 48,
        1,
        "status in the high word"
    );
    if !machine.generation.has_group_notifier {
        bench.case("open without a guest", &-libc::EINVAL, |g| {
            device_open(machine, g.mdev_device)
        });
    }
    bench.case("kvm_vfio_set_attr add, device closed", &0, |g| {
        set_group(g, ADD)
    });
    bench.case("kvm_vfio_set_attr add again", &-libc::EEXIST, |g| {
        set_group(g, ADD)
    });
    bench.case("open with a guest", &0, |g| {
        device_open(machine, g.mdev_device)
    });
    assert_eq!(device_open(machine, guest.mdev_device), -libc::EBUSY);
    assert_bound(guest, true);
    bench.case("release with a guest", &(), |g| {
        device_close(machine, g.mdev_device);
    });
    assert_bound(guest, false);
    bench.case("kvm_vfio_set_attr del, device closed", &0, |g| {
        set_group(g, DEL)
    });
    bench.case("kvm_vfio_set_attr del again", &-libc::ENOENT, |g| {
        set_group(g, DEL)
    });
    assert_eq!(guest.kvm.users_count.load(Ordering::Relaxed), 1);
}

fn assert_bound(guest: &Guest, bound: bool) {
    let kvm = bound.then_some(guest.kvm);
    assert!(guest.mdev.kvm.is(kvm));
    let crypto = &guest.kvm.crypto;
    assert_eq!(crypto.apm.test(1) && crypto.aqm.test(1), bound);
    assert_eq!(crypto.pqap_hook.get().is_some(), bound);
}

/// Binds the guest; the group is added as a case where that is what binds it.
fn bind(bench: &mut Bench, case: &str) {
    let machine = bench.machine;
    if machine.generation.has_group_notifier {
        bench.case("open", &0, |g| device_open(machine, g.mdev_device));
        bench.case(case, &0, |g| set_group(g, ADD));
    } else {
        assert_eq!(set_group(bench.guest(), ADD), 0);
        assert_eq!(device_open(machine, bench.guest().mdev_device), 0);
    }
    assert_bound(bench.guest(), true);
    assert_eq!(bench.guest().kvm.users_count.load(Ordering::Relaxed), 2);
}

fn attributes_with_guest(bench: &mut Bench) {
    let machine = bench.machine;
    let hot_plug = machine.generation.has_hot_plug;
    let masks = &bench.guest().kvm.crypto;
    for name in STORES {
        let expected = if hot_plug { 1 } else { EBUSY };
        bench.case(&format!("{name}_store, guest running"), &expected, |g| {
            write(machine, g, name, "2")
        });
        let plugged = masks.apm.test(2) || masks.aqm.test(2) || masks.adm.test(2);
        assert_eq!(plugged, hot_plug && name.starts_with("assign"), "{name}");
    }
    if machine.generation.has_ap_config {
        let length = config(true).len() as i64;
        bench.case("ap_config_store, guest running", &length, |g| {
            write(machine, g, "ap_config", &config(true))
        });
        assert!(masks.apm.test(2));
        bench.case("ap_config_store, removing, guest running", &length, |g| {
            write(machine, g, "ap_config", &config(false))
        });
        assert!(!masks.apm.test(2));
    }
}

fn pqap(bench: &mut Bench) {
    // The status that v5.10 gives the guest is the upper half of what the guest gave it.
    let again = if bench.machine.generation.aqic_status_is_input {
        0
    } else {
        7
    };
    let apqn = mkqid(0, 1);
    bench.case("handle_pqap enable", &0, |g| run_pqap(g, apqn, true));
    bench.case("handle_pqap enable again", &again, |g| {
        run_pqap(g, apqn, true)
    });
    bench.case("handle_pqap disable", &0, |g| run_pqap(g, apqn, false));
    bench.case("handle_pqap unassigned", &1, |g| {
        run_pqap(g, mkqid(9, 3), true)
    });
    let vcpu = bench.guest().kvm.vcpus()[0];
    vcpu.sie_block.set_eca(false, true);
    bench.case("handle_pqap without AIV", &-libc::EOPNOTSUPP, |_| {
        vfio_ap::handle_pqap(vcpu)
    });
    vcpu.sie_block.set_eca(true, false);
    bench.case("kvm handle_pqap without APIE", &-libc::EOPNOTSUPP, |_| {
        kvm_points::handle_pqap(vcpu)
    });
    vcpu.sie_block.set_eca(true, true);
    vcpu.set_gpr(0, 0);
    bench.case("kvm handle_pqap TAPQ", &-libc::EOPNOTSUPP, |_| {
        kvm_points::handle_pqap(vcpu)
    });
}

fn device(bench: &mut Bench) {
    let machine = bench.machine;
    let generation = machine.generation;
    let mut ioctl = |case: &str, cmd: u32, expected: i32| {
        bench.case(case, &i64::from(expected), |g| {
            vfio_ap::vfio_ap_mdev_ioctl(g.mdev_device, cmd, 0)
        });
    };
    ioctl("ioctl RESET", VFIO_DEVICE_RESET, 0);
    ioctl("ioctl GET_INFO", VFIO_DEVICE_GET_INFO, 0);
    ioctl("ioctl unknown", 0, -libc::EOPNOTSUPP);
    if generation.has_ap_config {
        ioctl("ioctl GET_IRQ_INFO", VFIO_DEVICE_GET_IRQ_INFO, 0);
        ioctl("ioctl SET_IRQS", VFIO_DEVICE_SET_IRQS, 0);
        bench.case("request", &(), |g| {
            vfio_ap::vfio_ap_mdev_request(g.mdev_device, 0);
        });
        let signals = &bench.guest().mdev.req_trigger.signals;
        assert_eq!(signals.load(Ordering::Relaxed), 1);
    }
    if generation.has_hot_plug {
        bench.case("dma_unmap", &(), |g| {
            vfio_core::dma_unmap(machine, g.mdev_device, 0x4000_0000, 0x1000);
        });
    } else {
        bench.case("iommu notifier", &NOTIFY_OK, |g| {
            let unmap = DmaUnmap {
                iova: 0x4000_0000,
                size: 0x1000,
            };
            vfio_ap::vfio_ap_mdev_iommu_notifier(
                &g.mdev.iommu_notifier,
                VFIO_IOMMU_NOTIFY_DMA_UNMAP,
                &unmap,
            )
        });
    }
}

fn queues(bench: &mut Bench) {
    let machine = bench.machine;
    let hot_plug = machine.generation.has_hot_plug;
    let masks = &bench.guest().kvm.crypto;
    // What the request took away comes back with the first update.
    for (apqn, state) in [(mkqid(1, 1), "guest running"), (mkqid(2, 2), "unassigned")] {
        let device = machine.ap_bus.devices[&apqn];
        bench.case(&format!("queue remove, {state}"), &(), |_| {
            ap_bus::unbind_from_vfio_ap(machine, device);
        });
        assert!(machine.ap_bus.bound(apqn).is_none());
        if apqn == mkqid(1, 1) {
            assert_eq!(masks.apm.test(1), !hot_plug);
        }
        bench.case(&format!("queue probe, {state}"), &(), |_| {
            ap_bus::bind_to_vfio_ap(machine, device);
        });
        assert!(machine.ap_bus.bound(apqn).is_some());
        assert!(masks.apm.test(1));
    }
    let same = ap_bus::mask_text(machine, Mask::Adapters);
    bench.case("apmask_store", &(same.len() as i64), |_| {
        apmask_store(0, &Page::new(&same), same.len(), 0, 0, &Writer::SELF.comm)
    });
}

fn copy(matrix: &ApMatrix) -> ApMatrix {
    let copy = ApMatrix::default();
    copy.copy_from(matrix);
    copy
}

fn bus(bench: &mut Bench) {
    let machine = bench.machine;
    let masks = &bench.guest().kvm.crypto;
    bench.case("in_use", &0, |_| {
        vfio_ap::vfio_ap_mdev_resource_in_use(&Bitmap::only(9), &Bitmap::only(9))
    });
    bench.case("in_use, conflict", &-libc::EADDRINUSE, |_| {
        vfio_ap::vfio_ap_mdev_resource_in_use(&Bitmap::only(0), &Bitmap::only(0))
    });
    bench.case("apmask_store, in use", &EBUSY, |_| {
        apmask_store(0, &Page::new("+0"), 2, 0, 0, &Writer::SELF.comm)
    });
    let all = copy(&machine.ap_bus.found);
    let without = |adapter| {
        let matrix = copy(&all);
        matrix.apm.clear(adapter);
        matrix
    };
    bench.case("cfg_changed", &(), |_| {
        vfio_ap::vfio_ap_on_cfg_changed(&without(3), &all);
    });
    vfio_ap::vfio_ap_on_cfg_changed(&all, &without(3));
    vfio_ap::vfio_ap_on_scan_complete(&all, &without(3));
    bench.case("cfg_changed, removed from the guest", &(), |_| {
        vfio_ap::vfio_ap_on_cfg_changed(&without(1), &all);
    });
    assert!(!masks.apm.test(1) && masks.apm.test(0));
    bench.case("cfg_changed, added", &(), |_| {
        vfio_ap::vfio_ap_on_cfg_changed(&all, &without(1));
    });
    assert!(!masks.apm.test(1));
    bench.case("scan_complete", &(), |_| {
        vfio_ap::vfio_ap_on_scan_complete(&all, &without(1));
    });
    assert!(masks.apm.test(1));
    bench.case("scan_complete, nothing pending", &(), |_| {
        vfio_ap::vfio_ap_on_scan_complete(&all, &all);
    });
}

/// A second mdev that is told of the same guest.
fn refused(bench: &mut Bench) {
    let machine = bench.machine;
    let other = &machine.guests[1];
    if machine.generation.has_group_notifier {
        bench.case("group notifier, guest taken", &NOTIFY_DONE, |g| {
            vfio_ap::vfio_ap_mdev_group_notifier(&other.mdev.group_notifier, 1, Some(g.kvm))
        });
        bench.case("group notifier, other event", &NOTIFY_OK, |g| {
            vfio_ap::vfio_ap_mdev_group_notifier(&g.mdev.group_notifier, 2, None)
        });
    } else {
        let group = &other.mdev_device.group;
        group.kvm.set(Some(bench.guest().kvm));
        bench.case("open, guest taken", &-libc::EPERM, |_| {
            device_open(machine, other.mdev_device)
        });
        group.kvm.set(None);
    }
    // Where the failure leaves the hook at the other mdev, or the rwsem in a bad state, that is repaired.
    let crypto = &bench.guest().kvm.crypto;
    let hook_is_left = crypto.pqap_hook.is(Some(&other.mdev.pqap_hook));
    let expected = machine.generation.has_hook_rwsem
        && !machine.generation.masks_take_kvm_lock
        && !machine.generation.has_2026_fixes;
    assert_eq!(hook_is_left, expected, "stale hook");
    crypto.pqap_hook.set(Some(&bench.guest().mdev.pqap_hook));
    let damaged = crypto.pqap_hook_rwsem.count_word() != 0;
    assert_eq!(damaged, machine.generation.name == "rfc-2021-07");
    crypto.pqap_hook_rwsem.repair();
}

fn unbind(bench: &mut Bench) {
    let machine = bench.machine;
    if machine.generation.has_group_notifier {
        bench.case("kvm_vfio_set_attr del", &0, |g| set_group(g, DEL));
        assert!(bench.guest().mdev.kvm.get().is_none());
        bench.case("release", &(), |g| device_close(machine, g.mdev_device));
        unlock_leaked(machine);
    } else {
        device_close(machine, bench.guest().mdev_device);
        assert_eq!(set_group(bench.guest(), DEL), 0);
    }
    // v5.10 drops no reference when the notifier withdraws the guest.
    let left = 1 + i32::from(machine.generation.name == "v5.10");
    let users = &bench.guest().kvm.users_count;
    assert_eq!(users.swap(1, Ordering::Relaxed), left);
}

/// Releases the driver's lock where a draft has left it held.
fn unlock_leaked(machine: &Machine) {
    let leaked = machine.matrix_dev.lock.is_locked();
    assert_eq!(leaked, machine.generation.leaks_lock);
    if leaked {
        mutex_unlock(&machine.matrix_dev.lock);
    }
}

/// The notifier with a guest whose crypto control block is gone, and with none.
fn without_crypto(bench: &mut Bench) {
    let machine = bench.machine;
    let guest = bench.guest();
    let notify = |kvm| vfio_ap::vfio_ap_mdev_group_notifier(&guest.mdev.group_notifier, 1, kvm);
    let crycbd = |value| guest.kvm.crypto.crycbd.store(value, Ordering::Relaxed);
    assert_eq!(notify(Some(guest.kvm)), NOTIFY_OK);
    crycbd(0);
    bench.case("group notifier NULL, crypto off", &NOTIFY_OK, |_| {
        notify(None)
    });
    if machine.matrix_dev.lock.is_locked() {
        mutex_unlock(&machine.matrix_dev.lock);
    }
    crycbd(CRYCB_FORMAT2);
    if guest.mdev.kvm.get().is_some() {
        notify(None);
    }
    crycbd(0);
    // Up to v5.12 the guest is kept, and the event not handled.
    let keeps = matches!(machine.generation.name, "v5.10" | "v5.11");
    let expected = if keeps { NOTIFY_DONE } else { NOTIFY_OK };
    bench.case("group notifier, guest without AP", &expected, |_| {
        notify(Some(guest.kvm))
    });
    assert_eq!(guest.mdev.kvm.get().is_some(), keeps);
    crycbd(CRYCB_FORMAT2);
    if keeps {
        notify(None);
    }
    bench.case("group notifier NULL, no guest", &NOTIFY_OK, |_| {
        notify(None)
    });
    unlock_leaked(machine);
}

fn created_and_removed(bench: &mut Bench) {
    let machine = bench.machine;
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    bench.case("mdev create", &0, |_| {
        mdev::create(machine, uuid, &Writer::SELF)
    });
    assert_eq!(mdev::create(machine, uuid, &Writer::SELF), -libc::EEXIST);
    let devices = mdev::devices(machine);
    let created = devices.into_iter().find(|d| d.uuid() == uuid).unwrap();
    assert_eq!(machine.matrix_dev.mdevs().len(), 3);
    bench.case("mdev remove", &0, |_| {
        mdev::remove(machine, created, &Writer::SELF)
    });
    assert_eq!(machine.matrix_dev.mdevs().len(), 2);
    assert_eq!(mdev::remove(machine, created, &Writer::SELF), -libc::ENODEV);
    if matches!(machine.generation.name, "v5.10" | "v5.11") {
        let guest = bench.guest();
        guest.mdev.kvm.set(Some(guest.kvm));
        bench.case("mdev remove, guest running", &-libc::EBUSY, |g| {
            vfio_ap::vfio_ap_mdev_remove(g.mdev_device, 0, 0, 0, 0, &Writer::SELF.comm)
        });
        guest.mdev.kvm.set(None);
    }
}

fn protected(bench: &mut Bench) {
    let machine = bench.machine;
    let pv = |guest: &Guest, cmd| kvm_arch_vm_ioctl_pv_command(machine, guest.kvm, cmd);
    bench.case("PV enable", &0, |g| pv(g, KVM_PV_ENABLE));
    bench.case("PV enable again", &-libc::EINVAL, |g| pv(g, KVM_PV_ENABLE));
    bench.case("PQAP of a protected guest", &0, |g| {
        let vcpu = g.kvm.vcpus()[0];
        vcpu.sie_block.load([aqic(0, true)]);
        kvm_points::kvm_vcpu_ioctl(vcpu, KVM_RUN, 0)
    });
    bench.case("PV disable", &0, |g| pv(g, KVM_PV_DISABLE));
}

/// Cases that find the flag set. Another thread clears it once the case sleeps.
fn busy(bench: &mut Bench) {
    let machine = bench.machine;
    let guest = bench.guest();
    assert_eq!(device_open(machine, guest.mdev_device), 0);
    assert_eq!(set_group(guest, ADD), 0);
    let busy = |sleeps: u64| {
        let mdev = guest.mdev;
        mdev.set_kvm_busy();
        std::thread::spawn(move || {
            machine::enter(machine);
            while mdev.truth_busy().read().contended < sleeps {
                std::thread::yield_now();
            }
            mutex_lock(&machine.matrix_dev.lock);
            mdev.clear_kvm_busy();
            wake_up_all(&mdev.wait_for_kvm);
            mutex_unlock(&machine.matrix_dev.lock);
        })
    };
    let before = guest.mdev.truth_busy().read().contended;
    let clearer = busy(before + 1);
    bench.case("handle_pqap, busy", &0, |g| run_pqap(g, 0, true));
    clearer.join().unwrap();
    let clearer = busy(before + 2);
    bench.case("ioctl RESET, busy", &0, |g| {
        vfio_ap::vfio_ap_mdev_ioctl(g.mdev_device, VFIO_DEVICE_RESET, 0)
    });
    clearer.join().unwrap();
    let clearer = busy(before + 3);
    bench.case("group notifier NULL, busy", &NOTIFY_OK, |g| {
        vfio_ap::vfio_ap_mdev_group_notifier(&g.mdev.group_notifier, 1, None)
    });
    clearer.join().unwrap();
    guest.mdev.set_kvm_busy();
    bench.case("assign_adapter_store, busy", &EBUSY, |g| {
        write(machine, g, "assign_adapter", "2")
    });
    guest.mdev.clear_kvm_busy();
}

/// Cases on one queue that needs polls.
fn slow(bench: &mut Bench) {
    bench.change_machine(|_| Script {
        slow_disable_period: 1,
        slow_disable_tests: 2,
        slow_reset_period: 1,
        slow_reset_tests: 1,
        reset_in_progress_period: 1,
        ..Script::IMMEDIATE
    });
    let machine = bench.machine;
    let guest = bench.guest();
    assert_eq!(write(machine, guest, "unassign_adapter", "1"), 1);
    assert_eq!(write(machine, guest, "unassign_domain", "1"), 1);
    assert_eq!(set_group(guest, ADD), 0);
    assert_eq!(device_open(machine, guest.mdev_device), 0);
    assert_eq!(run_pqap(guest, 0, true), 0);
    bench.case("handle_pqap disable, slow", &0, |g| run_pqap(g, 0, false));
    bench.case("ioctl RESET, slow", &0, |g| {
        vfio_ap::vfio_ap_mdev_ioctl(g.mdev_device, VFIO_DEVICE_RESET, 0)
    });
    if machine.generation.vfio_core != VfioCore::Unlocked {
        device_close(machine, guest.mdev_device);
    }
}
