//! The lock sequences of each generation, driven call by call on one thread and compared with the written record in
//! `sequences/*.txt`.
//!
//! A line there is `case: operations`. `L`/`U` lock and unlock a mutex, `R`/`UR` and `W`/`UW` an rwsem, `Z` is msleep.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::driver::sysfs::Page;
use super::driver::{self, NOTIFY_DONE, NOTIFY_OK, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_RESET};
use super::hardware::{Script, mkqid};
use super::kvm::pv::{KVM_PV_DISABLE, KVM_PV_ENABLE, kvm_arch_vm_ioctl_pv_command};
use super::kvm::run::KVM_RUN;
use super::kvm::sie::GuestStep;
use super::kvm::vfio::{KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL};
use super::machine::{self, Guest, Machine};
use super::objects::{CRYCB_FORMAT2, KvmDeviceAttr, Link};
use super::points::kernel::{mutex_lock, mutex_unlock};
use super::points::{kvm as kvm_points, vfio_ap};
use super::primitives::trace::{Event, record};
use super::primitives::waitqueue::wake_up_all;

const EBUSY: i64 = -(libc::EBUSY as i64);

/// Cases by name, from a file.
fn written(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(": ")
                .unwrap_or((line.trim_end_matches(':'), ""))
        })
        .collect()
}

/// Runs cases on a machine and compares.
struct Bench {
    machine: &'static Machine,
    names: BTreeMap<u64, String>,
    written: BTreeMap<&'static str, &'static str>,
    failed: Vec<String>,
}

impl Bench {
    fn new(generation: &str, text: &'static str, script: Script) -> Self {
        let generation = driver::generation(generation).unwrap();
        let machine = Machine::with_script(generation, 2, 2, script);
        machine::enter(machine);
        let mut names: BTreeMap<u64, String> = machine
            .lock_objects()
            .into_iter()
            .map(|lock| (lock.address, lock.name.replace("[guest-0]", "")))
            .collect();
        for lock in machine.lock_objects() {
            if let Some(queue) = lock.wait_queue {
                names.insert(queue, "wait_for_kvm".into());
            }
        }
        Self {
            machine,
            names,
            written: written(text),
            failed: Vec::new(),
        }
    }

    fn guest(&self) -> &'static Guest {
        &self.machine.guests[0]
    }

    fn spell(&self, event: Event) -> String {
        let name = |address| self.names.get(&address).map_or("?", String::as_str);
        match event {
            Event::Lock(how, lock) => format!("{how}({})", name(lock)),
            Event::Unlock('U', lock) => format!("U({})", name(lock)),
            Event::Unlock(how, lock) => format!("U{}({})", how.to_ascii_uppercase(), name(lock)),
            Event::Msleep(ms) => format!("Z({ms})"),
            Event::Flag(value, flag) => format!("{}={}", name(flag), u8::from(value)),
            Event::Wake(queue) => format!("wake({})", name(queue)),
            Event::Prepare(queue) => format!("prepare({})", name(queue)),
            Event::Finish(queue) => format!("finish({})", name(queue)),
        }
    }

    /// Runs one case.
    fn case<R: PartialEq + std::fmt::Debug>(
        &mut self,
        case: &'static str,
        expected: &R,
        f: impl FnOnce(&Guest) -> R,
    ) {
        let guest = self.guest();
        let mut result = None;
        let events = record(|| result = Some(f(guest)));
        let done: Vec<String> = events.into_iter().map(|e| self.spell(e)).collect();
        let done = done.join(" ");
        if result.as_ref() != Some(expected) {
            self.failed
                .push(format!("{case}: returned {result:?}, not {expected:?}"));
        }
        match self.written.remove(case) {
            None => self
                .failed
                .push(format!("{case}: not written\n  done    {done}")),
            Some(written) if written != done => self
                .failed
                .push(format!("{case}:\n  written {written}\n  done    {done}")),
            Some(_) => {}
        }
    }

    fn finish(mut self) {
        for case in self.written.keys() {
            self.failed.push(format!("{case}: written, but not driven"));
        }
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n"));
    }
}

fn set_group(guest: &Guest, attr: u64) -> i32 {
    kvm_points::kvm_vfio_set_attr(
        guest.kvm_vfio,
        &KvmDeviceAttr {
            group: KVM_DEV_VFIO_GROUP,
            attr,
            target: Link::to(&guest.mdev.group),
        },
    )
}

fn open(machine: &Machine, guest: &Guest) -> i32 {
    if machine.generation.has_open_device {
        vfio_ap::vfio_ap_mdev_open_device(guest.mdev_device)
    } else {
        vfio_ap::vfio_ap_mdev_open(guest.mdev_device)
    }
}

fn close(machine: &Machine, guest: &Guest) {
    if machine.generation.has_open_device {
        vfio_ap::vfio_ap_mdev_close_device(guest.mdev_device);
    } else {
        vfio_ap::vfio_ap_mdev_release(guest.mdev_device);
    }
}

fn aqic(apqn: u16, enable: bool) -> GuestStep {
    let ir = u64::from(enable) << (63 - 16);
    GuestStep::Pqap([(3 << 24) | u64::from(apqn), ir | 3, 0x10_0000])
}

/// KVM_RUN of one PQAP(AQIC); the response code.
fn pqap(guest: &Guest, apqn: u16, enable: bool) -> u64 {
    let vcpu = guest.kvm.vcpus()[0];
    vcpu.sie_block.load([aqic(apqn, enable)]);
    assert_eq!(kvm_points::kvm_vcpu_ioctl(vcpu, KVM_RUN, 0), 0);
    (vcpu.gpr(1) >> 16) & 0xff
}

type Store = extern "C" fn(
    &'static super::objects::Device,
    u64,
    &Page,
    usize,
    u64,
    Option<&vfio_ap::Comm>,
) -> i64;

const STORES: [(&str, Store, &str); 6] = [
    ("assign_adapter_store", vfio_ap::assign_adapter_store, "2"),
    (
        "unassign_adapter_store",
        vfio_ap::unassign_adapter_store,
        "2",
    ),
    ("assign_domain_store", vfio_ap::assign_domain_store, "2"),
    ("unassign_domain_store", vfio_ap::unassign_domain_store, "2"),
    (
        "assign_control_domain_store",
        vfio_ap::assign_control_domain_store,
        "2",
    ),
    (
        "unassign_control_domain_store",
        vfio_ap::unassign_control_domain_store,
        "2",
    ),
];

fn write(guest: &Guest, store: Store, text: &str) -> i64 {
    store(
        &guest.mdev_device.dev,
        0,
        &Page::new(text),
        text.len(),
        0,
        None,
    )
}

/// Everything that all generations have, with the device unbound, bound, and unbound again.
fn drive(bench: &mut Bench) {
    let machine = bench.machine;
    for (name, store, text) in STORES {
        bench.case(name, &1, |g| write(g, store, text));
    }
    // Errors, the sequence of which is that of success.
    let guest = bench.guest();
    for (store, text, errno) in [
        (STORES[0].1, "adapter", libc::EINVAL),
        (STORES[0].1, "256", libc::ENODEV),
        (STORES[0].1, "0x10000000000000000", libc::ERANGE),
        (STORES[0].1, "9", libc::EADDRNOTAVAIL),
        (STORES[2].1, "3", libc::EADDRNOTAVAIL),
        (STORES[0].1, "16", libc::EADDRINUSE),
        (STORES[4].1, "256", libc::ENODEV),
    ] {
        assert_eq!(write(guest, store, text), -i64::from(errno), "{text}");
    }
    assert!(!guest.mdev.matrix.apm.test(16), "undone after the conflict");
    bench.case("matrix_show", &32, |g| {
        vfio_ap::matrix_show(&g.mdev_device.dev, 0, &mut Page::new(""), 0, 0, None)
    });
    bench.case("control_domains_show", &10, |g| {
        vfio_ap::control_domains_show(&g.mdev_device.dev, 0, &mut Page::new(""), 0, 0, None)
    });

    bench.case("handle_pqap without a hook", &0, |g| pqap(g, 0, true));
    assert_eq!(
        guest.kvm.vcpus()[0].gpr(1) >> 48,
        1,
        "status in the high word"
    );
    bench.case("kvm_vfio_set_attr add, device closed", &0, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_ADD)
    });
    bench.case("kvm_vfio_set_attr add again", &-libc::EEXIST, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_ADD)
    });
    bench.case("open with a guest", &0, |g| open(machine, g));
    assert!(guest.mdev.kvm.is(Some(guest.kvm)));
    assert!(guest.kvm.crypto.apm.test(1) && guest.kvm.crypto.aqm.test(1));
    bench.case("release with a guest", &(), |g| close(machine, g));
    assert!(guest.mdev.kvm.get().is_none() && guest.kvm.crypto.apm.is_empty());
    bench.case("kvm_vfio_set_attr del, device closed", &0, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_DEL)
    });
    bench.case("kvm_vfio_set_attr del again", &-libc::ENOENT, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_DEL)
    });

    bench.case("open", &0, |g| open(machine, g));
    bench.case("kvm_vfio_set_attr add", &0, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_ADD)
    });
    assert_eq!(guest.kvm.users_count.load(Ordering::Relaxed), 2);
    for (name, store, text) in STORES {
        let case: &'static str = format!("{name}, guest running").leak();
        bench.case(case, &EBUSY, |g| write(g, store, text));
    }
    bench.case("handle_pqap enable", &0, |g| pqap(g, mkqid(0, 1), true));
    bench.case("handle_pqap enable again", &7, |g| {
        pqap(g, mkqid(0, 1), true)
    });
    bench.case("handle_pqap disable", &0, |g| pqap(g, mkqid(0, 1), false));
    bench.case("handle_pqap unassigned", &1, |g| pqap(g, mkqid(9, 3), true));
    let vcpu = guest.kvm.vcpus()[0];
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
    for (case, cmd, expected) in [
        ("ioctl RESET", VFIO_DEVICE_RESET, 0),
        ("ioctl GET_INFO", VFIO_DEVICE_GET_INFO, 0),
        ("ioctl unknown", 0, -i64::from(libc::EOPNOTSUPP)),
    ] {
        bench.case(case, &expected, |g| {
            vfio_ap::vfio_ap_mdev_ioctl(g.mdev_device, cmd, 0)
        });
    }
    // A second mdev that is told of the same guest.
    let other = &machine.guests[1];
    bench.case("group notifier, guest taken", &NOTIFY_DONE, |g| {
        vfio_ap::vfio_ap_mdev_group_notifier(&other.mdev.group_notifier, 1, Some(g.kvm))
    });
    bench.case("group notifier, other event", &NOTIFY_OK, |g| {
        vfio_ap::vfio_ap_mdev_group_notifier(&g.mdev.group_notifier, 2, None)
    });
    // Where the failure leaves the hook at the other mdev, restore it.
    guest.kvm.crypto.pqap_hook.set(Some(&guest.mdev.pqap_hook));
    bench.case("kvm_vfio_set_attr del", &0, |g| {
        set_group(g, KVM_DEV_VFIO_GROUP_DEL)
    });
    bench.case("release", &(), |g| close(machine, g));
    assert_eq!(guest.kvm.users_count.load(Ordering::Relaxed), 1);

    guest.kvm.crypto.crycbd.store(0, Ordering::Relaxed);
    bench.case("group notifier, guest without AP", &NOTIFY_OK, |g| {
        vfio_ap::vfio_ap_mdev_group_notifier(&g.mdev.group_notifier, 1, Some(g.kvm))
    });
    guest
        .kvm
        .crypto
        .crycbd
        .store(CRYCB_FORMAT2, Ordering::Relaxed);
    bench.case("PV enable", &0, |g| {
        kvm_arch_vm_ioctl_pv_command(g.kvm, KVM_PV_ENABLE)
    });
    bench.case("PV enable again", &-libc::EINVAL, |g| {
        kvm_arch_vm_ioctl_pv_command(g.kvm, KVM_PV_ENABLE)
    });
    bench.case("PQAP of a protected guest", &0, |g| {
        let vcpu = g.kvm.vcpus()[0];
        vcpu.sie_block.load([aqic(0, true)]);
        kvm_points::kvm_vcpu_ioctl(vcpu, KVM_RUN, 0)
    });
    bench.case("PV disable", &0, |g| {
        kvm_arch_vm_ioctl_pv_command(g.kvm, KVM_PV_DISABLE)
    });
}

/// Binds the guest, outside any case.
fn bind(bench: &Bench) {
    assert_eq!(open(bench.machine, bench.guest()), 0);
    assert_eq!(set_group(bench.guest(), KVM_DEV_VFIO_GROUP_ADD), 0);
}

/// Cases on queues that need polls.
fn drive_slow(generation: &str, text: &'static str) {
    let script = Script {
        slow_disable_period: 1,
        slow_disable_tests: 2,
        slow_reset_period: 1,
        slow_reset_tests: 1,
        reset_in_progress_period: 1,
        fixed_response: None,
    };
    let mut bench = Bench::new(generation, text, script);
    // One queue.
    let guest = bench.guest();
    guest.mdev.matrix.apm.clear(1);
    guest.mdev.matrix.aqm.clear(1);
    bind(&bench);
    assert_eq!(pqap(guest, 0, true), 0);
    bench.case("handle_pqap disable, slow", &0, |g| pqap(g, 0, false));
    bench.case("ioctl RESET, slow", &0, |g| {
        vfio_ap::vfio_ap_mdev_ioctl(g.mdev_device, VFIO_DEVICE_RESET, 0)
    });
    bench.finish();
}

/// Cases that find the flag set. Another thread clears it once the case sleeps.
fn drive_busy(bench: &mut Bench) {
    bind(bench);
    let machine = bench.machine;
    let guest = bench.guest();
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
    bench.case("handle_pqap, busy", &0, |g| pqap(g, 0, true));
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
        write(g, STORES[0].1, "2")
    });
    guest.mdev.clear_kvm_busy();
}

#[test]
fn v5_13() {
    let text = include_str!("sequences/v5.13.txt");
    let mut bench = Bench::new("v5.13", text, Script::IMMEDIATE);
    drive(&mut bench);
    drive_busy(&mut bench);
    bench.finish();
    drive_slow("v5.13", include_str!("sequences/v5.13-slow.txt"));
}

#[test]
fn v5_15() {
    let text = include_str!("sequences/v5.15.txt");
    let mut bench = Bench::new("v5.15", text, Script::IMMEDIATE);
    drive(&mut bench);
    bench.finish();
    drive_slow("v5.15", include_str!("sequences/v5.15-slow.txt"));
}
