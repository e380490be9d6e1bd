//! The emulated machine: driver, hardware and guests, and the truth about them.
//!
//! Threads belong to one machine ([`enter`]); code that the kernel reaches through global variables reaches them
//! through [`current`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::{CLASSES, class_id, mode_name};

use super::ap_bus::ApBus;
use super::driver::{self, Generation, VfioCore};
use super::hardware::{Hardware, Script};
use super::kernel_log::KernelLog;
use super::objects::{
    ApDevice, ApMatrixDev, ApMatrixMdev, Bitmap, Driver, Kvm, KvmDevice, MdevDevice, Presence,
};
use super::primitives::workqueue::WorkQueue;
use super::primitives::{self, LockCounters, WorkStruct};
use super::protocol::{LockObject, SubjectObject, TruthInstance, TruthLock};
use super::truth::{self, EntryTruth};
use super::{layout, mdev};

/// One guest with its mdev.
#[derive(Debug)]
pub struct Guest {
    /// Number, from 0.
    pub number: u32,
    /// Its VM.
    pub kvm: &'static Kvm,
    /// Its mdev; made anew in the same place if it was removed and created again.
    pub mdev: &'static ApMatrixMdev,
    /// The mdev's device.
    pub mdev_device: &'static MdevDevice,
    /// Its kvm-vfio device.
    pub kvm_vfio: &'static KvmDevice,
    /// User space's file descriptor of the device: open or not. Readers are calls on it in progress, which a close
    /// waits for, as the kernel's reference on the file does.
    pub device_fd: RwLock<bool>,
    /// User space's own rule in most scenarios: no conversion while the device is bound or released.
    pub conversion_gate: Mutex<()>,
    /// User space's own rule on a generation where a vCPU in PQAP and the release alone can deadlock: no vCPU runs while
    /// the device is released. Readers are vCPUs.
    pub vcpu_gate: RwLock<()>,
}

/// Faults that a scenario has put into the driver.
#[derive(Debug, Default)]
pub struct Faults {
    /// Address of the mdev whose next wake-up that would wake somebody is left out; 0: none.
    lose_wakeup_of: AtomicU64,
    /// That has happened.
    wakeup_lost: AtomicBool,
}

impl Faults {
    /// Leaves out one wake-up of those that wait for this mdev's `kvm_busy`: the first that would wake somebody.
    pub fn lose_wakeup(&self, mdev: &ApMatrixMdev) {
        self.lose_wakeup_of
            .store(std::ptr::from_ref(mdev) as u64, Ordering::SeqCst);
    }

    /// Asked by the driver before it wakes: this is the wake-up to leave out.
    pub fn loses_wakeup(&self, mdev: &ApMatrixMdev) -> bool {
        let lost = self.lose_wakeup_of.load(Ordering::SeqCst) == std::ptr::from_ref(mdev) as u64
            && mdev.wait_for_kvm.is_active();
        if lost {
            self.lose_wakeup_of.store(0, Ordering::SeqCst);
            self.wakeup_lost.store(true, Ordering::SeqCst);
        }
        lost
    }

    /// It was left out.
    pub fn wakeup_is_lost(&self) -> bool {
        self.wakeup_lost.load(Ordering::SeqCst)
    }
}

/// Everything.
#[derive(Debug)]
pub struct Machine {
    /// Driver generation.
    pub generation: &'static Generation,
    /// The driver's global object.
    pub matrix_dev: &'static ApMatrixDev,
    /// The AP queues.
    pub hardware: Hardware,
    /// The bus that they are on.
    pub ap_bus: ApBus,
    /// `system_long_wq`.
    pub system_long_wq: WorkQueue,
    /// Places for mdevs: first those of the guests, then the spare ones.
    pub slots: Vec<&'static MdevDevice>,
    slots_lock: Mutex<()>,
    /// Guests.
    pub guests: Vec<Guest>,
    /// Counts of entry points.
    pub entries: EntryTruth,
    /// What the scenario has broken.
    pub faults: Faults,
    /// The kernel's log.
    pub log: KernelLog,
}

thread_local! {
    static CURRENT: Cell<Option<&'static Machine>> = const { Cell::new(None) };
}

/// Makes the calling thread a thread of this machine.
pub fn enter(machine: &'static Machine) {
    CURRENT.set(Some(machine));
}

/// The calling thread's machine.
///
/// # Panics
///
/// If the thread belongs to none. Threads of the emulator call [`enter`] first.
pub fn current() -> &'static Machine {
    // Points are called only by threads that have entered a machine: actors, and tests.
    CURRENT.get().expect("the thread has entered a machine")
}

/// The lock itself.
#[derive(Debug, Clone, Copy)]
pub enum Object {
    /// A mutex.
    Mutex(&'static primitives::Mutex),
    /// An rwsem.
    Rwsem(&'static primitives::RwSemaphore),
    /// The open-coded lock of an mdev.
    Flag(&'static ApMatrixMdev),
    /// A work item.
    Work(&'static WorkStruct),
}

impl Object {
    /// Address, as probes see it.
    pub fn address(self) -> u64 {
        match self {
            Self::Mutex(lock) => lock.address(),
            Self::Rwsem(sem) => sem.address(),
            Self::Flag(mdev) => mdev.kvm_busy_address(),
            Self::Work(work) => work.address(),
        }
    }

    /// Addresses of the tasks that hold it, from the words of the lock itself.
    pub fn holders(self) -> Vec<u64> {
        match self {
            Self::Mutex(lock) => vec![lock.owner()],
            Self::Rwsem(sem) => sem.holders(),
            Self::Flag(mdev) => mdev.busy_holders(),
            Self::Work(work) => vec![work.worker()],
        }
    }
}

/// A lock of the machine, with its name and what it counted.
#[derive(Debug)]
pub struct Listed {
    class: u8,
    guest: Option<u32>,
    /// Instance name.
    pub name: String,
    guards_flag: bool,
    wait_queue: Option<u64>,
    counters: Vec<(Mode, &'static LockCounters)>,
    /// The lock.
    pub object: Object,
}

/// What a machine is built of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Driver generation.
    pub generation: &'static Generation,
    /// Guests.
    pub guests: u32,
    /// vCPUs of each.
    pub vcpus: u32,
    /// Mdevs that can be created besides those of the guests.
    pub spare_mdevs: u32,
    /// What each queue does.
    pub script: fn(u16) -> Script,
}

impl Machine {
    /// Builds a machine. It stays until the process ends.
    pub fn build(plan: &Plan) -> &'static Self {
        let generation = plan.generation;
        let matrix_dev: &'static ApMatrixDev = Box::leak(Box::default());
        let mut hardware = Hardware::default();
        let mut devices = BTreeMap::new();
        for guest in 0..plan.guests {
            for apqn in layout::queues(guest, plan.guests) {
                hardware.insert(apqn, (plan.script)(apqn));
                let device = ApDevice::create(apqn, |_, work| {
                    crate::emulator::points::vfio_ap::apq_reset_check(work);
                });
                devices.insert(apqn, device);
            }
        }
        let guests: Vec<Guest> = (0..plan.guests)
            .map(|number| Guest::create(number, plan.vcpus))
            .collect();
        let spare = (0..plan.spare_mdevs).map(|_| MdevDevice::create(None, String::new()));
        let slots = guests.iter().map(|g| g.mdev_device).chain(spare).collect();
        let machine: &'static Self = Box::leak(Box::new(Self {
            generation,
            matrix_dev,
            hardware,
            ap_bus: ApBus::new(devices),
            system_long_wq: WorkQueue::default(),
            slots,
            slots_lock: Mutex::new(()),
            guests,
            entries: EntryTruth::default(),
            faults: Faults::default(),
            log: KernelLog::default(),
        }));
        machine.populate();
        machine
    }

    /// What was there before anybody looks: queues bound, mdevs created and assigned. Nothing of it is counted.
    fn populate(&'static self) {
        let bus = &self.ap_bus;
        for matrix in [&bus.configured, &bus.found, &self.matrix_dev.info] {
            for apqn in self.hardware.queues() {
                matrix.apm.set(apqn >> 8);
                matrix.aqm.set(apqn & 0xff);
                matrix.adm.set(apqn & 0xff);
            }
        }
        for apid in (0..Bitmap::BITS).filter(|apid| layout::is_hosts(*apid)) {
            bus.perms.apm.set(apid);
        }
        bus.perms.aqm.copy_from(&Bitmap::full());
        for device in bus.devices.values() {
            if bus.perms.has_queue(device.apqn()) {
                device.set_driver(Driver::Default);
            } else {
                device.set_driver(Driver::VfioAp);
                device.drvdata.set(Some(&device.storage));
            }
        }
        self.matrix_dev.available_instances.store(
            mdev::MAX_INSTANCES as i32 - self.guests.len() as i32,
            Ordering::Relaxed,
        );
        for guest in &self.guests {
            guest.mdev_device.dev.driver_data.set(Some(guest.mdev));
            guest
                .mdev_device
                .change_presence(Presence::Absent, Presence::Coming);
            guest
                .mdev_device
                .change_presence(Presence::Coming, Presence::Present);
            self.matrix_dev.list_add(guest.mdev);
            layout::assign_initial(guest.number, &guest.mdev.matrix);
            if self.generation.has_hot_plug {
                driver::hotplug::plug_initial(self, guest.mdev);
            }
        }
    }

    /// Guards the choice of a slot: `mdev_list_lock`.
    pub fn slots_lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.slots_lock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The locks that this generation has, in display order.
    pub fn listed(&'static self) -> Vec<Listed> {
        let mutex = |class, name: String, guest, lock: &'static primitives::Mutex| Listed {
            class,
            guest,
            name,
            guards_flag: false,
            wait_queue: None,
            counters: vec![(Mode::Exclusive, lock.truth())],
            object: Object::Mutex(lock),
        };
        let rwsem = |class, name: String, guest, sem: &'static primitives::RwSemaphore| Listed {
            class,
            guest,
            name,
            guards_flag: false,
            wait_queue: None,
            counters: vec![
                (Mode::Write, sem.truth_write()),
                (Mode::Read, sem.truth_read()),
            ],
            object: Object::Rwsem(sem),
        };
        let generation = self.generation;
        let mut list = Vec::new();
        for class in 0..CLASSES.len() as u8 {
            let name = CLASSES[usize::from(class)].name;
            let global = |lock| mutex(class, name.into(), None, lock);
            // One for each guest, or for each place of an mdev.
            let guests = self.guests.iter();
            let slots = self.slots.iter().enumerate().map(|(n, slot)| {
                let number = slot.guest;
                let whose = number.map_or_else(
                    || format!("mdev-{}", n - self.guests.len()),
                    |guest| format!("guest-{guest}"),
                );
                (*slot, number, format!("{name}[{whose}]"))
            });
            match class {
                class_id::MATRIX_DEV_LOCK if !generation.has_hot_plug => {
                    let mut lock = global(&self.matrix_dev.lock);
                    lock.guards_flag = generation.has_kvm_busy;
                    list.push(lock);
                }
                class_id::GUESTS_LOCK if generation.has_hot_plug => {
                    list.push(global(&self.matrix_dev.guests_lock));
                }
                class_id::MDEVS_LOCK if generation.has_hot_plug => {
                    list.push(global(&self.matrix_dev.mdevs_lock));
                }
                class_id::AP_PERMS_MUTEX if !generation.has_ap_attr_mutex => {
                    list.push(global(&self.ap_bus.mutex));
                }
                class_id::AP_ATTR_MUTEX if generation.has_ap_attr_mutex => {
                    list.push(global(&self.ap_bus.mutex));
                }
                class_id::KVM_LOCK => list.extend(guests.map(|g| {
                    let name = format!("{name}[guest-{}]", g.number);
                    mutex(class, name, Some(g.number), &g.kvm.lock)
                })),
                class_id::VCPU_MUTEX => list.extend(guests.flat_map(|g| {
                    g.kvm.vcpus().iter().map(|v| {
                        let name = format!("{name}[guest-{}/vcpu{}]", g.number, v.vcpu_id);
                        mutex(class, name, Some(g.number), &v.mutex)
                    })
                })),
                class_id::KV_LOCK => list.extend(guests.map(|g| {
                    let name = format!("{name}[guest-{}]", g.number);
                    mutex(class, name, Some(g.number), &g.kvm_vfio.lock)
                })),
                class_id::PQAP_HOOK_RWSEM if generation.has_hook_rwsem => {
                    list.extend(guests.map(|g| {
                        let name = format!("{name}[guest-{}]", g.number);
                        rwsem(class, name, Some(g.number), &g.kvm.crypto.pqap_hook_rwsem)
                    }));
                }
                class_id::KVM_BUSY if generation.has_kvm_busy => {
                    list.extend(slots.map(|(slot, guest, name)| Listed {
                        class,
                        guest,
                        name,
                        guards_flag: false,
                        wait_queue: Some(slot.storage.wait_for_kvm.address()),
                        counters: vec![(Mode::Exclusive, slot.storage.truth_busy())],
                        object: Object::Flag(slot.storage),
                    }));
                }
                class_id::GROUP_NOTIFIER_RWSEM if generation.has_group_notifier => {
                    list.extend(
                        slots.map(|(s, guest, name)| rwsem(class, name, guest, &s.group.rwsem)),
                    );
                }
                class_id::DEV_SET_LOCK if generation.vfio_core != VfioCore::Unlocked => {
                    list.extend(
                        slots.map(|(s, guest, name)| mutex(class, name, guest, &s.dev_set_lock)),
                    );
                }
                class_id::GROUP_RWSEM if generation.vfio_core == VfioCore::DevSetGroupRwsem => {
                    list.extend(
                        slots.map(|(s, guest, name)| {
                            rwsem(class, name, guest, &s.group.group_rwsem)
                        }),
                    );
                }
                class_id::GROUP_LOCK
                    if matches!(
                        generation.vfio_core,
                        VfioCore::DevSetGroupLock | VfioCore::GroupLockDevSet
                    ) =>
                {
                    list.extend(
                        slots
                            .map(|(s, guest, name)| mutex(class, name, guest, &s.group.group_lock)),
                    );
                }
                class_id::RESET_WORK if generation.has_reset_work => {
                    list.extend(
                        // The host's too: the bus may give them to the driver.
                        self.ap_bus.devices.values().map(|device| {
                            let apqn = device.apqn();
                            Listed {
                                class,
                                guest: None,
                                name: format!("{name}[{:02x}.{:04x}]", apqn >> 8, apqn & 0xff),
                                guards_flag: false,
                                wait_queue: None,
                                counters: vec![(
                                    Mode::Exclusive,
                                    device.storage.reset_work.truth(),
                                )],
                                object: Object::Work(&device.storage.reset_work),
                            }
                        }),
                    );
                }
                _ => {}
            }
        }
        list
    }

    /// The locks, as the collector is told of them.
    pub fn lock_objects(&'static self) -> Vec<LockObject> {
        self.listed()
            .into_iter()
            .map(|lock| LockObject {
                address: lock.object.address(),
                class: lock.class,
                name: lock.name,
                guest: lock.guest,
                guards_flag: lock.guards_flag,
                wait_queue: lock.wait_queue,
            })
            .collect()
    }

    /// What calls act on, as the collector is told of it.
    pub fn subjects(&'static self) -> Vec<SubjectObject> {
        let mdevs = self.slots.iter().enumerate().map(|(n, slot)| {
            let name = slot.guest.map_or_else(
                || format!("mdev-{}", n - self.guests.len()),
                mdev::guest_uuid,
            );
            SubjectObject {
                address: std::ptr::from_ref(slot.storage) as u64,
                is_guest: false,
                name,
                guest: slot.guest,
                uuid_at: slot.guest.is_none().then(|| slot.uuid_address()),
            }
        });
        let guests = self.guests.iter().map(|guest| SubjectObject {
            address: std::ptr::from_ref(guest.kvm) as u64,
            is_guest: true,
            name: format!("guest-{}", guest.number),
            guest: Some(guest.number),
            uuid_at: None,
        });
        mdevs.chain(guests).collect()
    }

    /// Most tasks that held the flag of one mdev at the same time; 0 where there is no flag.
    pub fn flag_holders_max(&self) -> u32 {
        let slots = self.slots.iter();
        slots
            .map(|slot| slot.storage.busy_holders_max())
            .max()
            .unwrap_or(0)
    }

    /// What the locks counted, by class and mode.
    pub fn lock_truth(&'static self) -> Vec<TruthLock> {
        let listed = self.listed();
        let mut all = Vec::new();
        for (class, about) in CLASSES.iter().enumerate() {
            let of_class = |lock: &&Listed| usize::from(lock.class) == class;
            if !listed.iter().any(|lock| of_class(&lock)) {
                continue;
            }
            let modes: &[Mode] = if about.kind == LockKind::Rwsem {
                &[Mode::Write, Mode::Read]
            } else {
                &[Mode::Exclusive]
            };
            for mode in modes {
                let instances = listed.iter().filter(of_class).flat_map(|lock| {
                    let counters = lock.counters.iter().filter(|(m, _)| m == mode);
                    counters.map(|(_, c)| instance(&lock.name, c))
                });
                all.push(truth::lock(
                    about.name,
                    mode_name(*mode),
                    instances.collect(),
                ));
            }
        }
        all
    }
}

fn instance(name: &str, counters: &LockCounters) -> TruthInstance {
    let counts = counters.read();
    TruthInstance {
        name: name.into(),
        acquisitions: counts.acquisitions,
        contended: counts.contended,
        releases: counts.releases,
        attempts_failed: counts.attempts_failed,
    }
}

impl Guest {
    fn create(number: u32, vcpus: u32) -> Self {
        let kvm = Kvm::create(number, vcpus);
        let mdev_device = MdevDevice::create(Some(number), mdev::guest_uuid(number));
        Self {
            number,
            kvm,
            mdev: mdev_device.storage,
            mdev_device,
            kvm_vfio: KvmDevice::create(kvm),
            device_fd: RwLock::new(false),
            conversion_gate: Mutex::new(()),
            vcpu_gate: RwLock::new(()),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine whose queues do everything at once.
    pub fn machine(generation: &str, guests: u32, vcpus: u32) -> &'static Machine {
        machine_with(generation, guests, vcpus, |_| Script::IMMEDIATE)
    }

    /// The same, with other queues.
    pub fn machine_with(
        generation: &str,
        guests: u32,
        vcpus: u32,
        script: fn(u16) -> Script,
    ) -> &'static Machine {
        Machine::build(&Plan {
            generation: driver::generation(generation).unwrap(),
            guests,
            vcpus,
            spare_mdevs: 2,
            script,
        })
    }
}
