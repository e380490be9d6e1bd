//! The emulated machine: driver, hardware and guests, and the truth about them.
//!
//! Threads belong to one machine ([`enter`]); code that the kernel reaches through global variables reaches them
//! through [`current`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Mutex, RwLock};

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::{CLASSES, class_id, mode_name};

use super::driver::Generation;
use super::hardware::{Hardware, Script};
use super::layout;
use super::objects::{ApMatrixDev, ApMatrixMdev, Kvm, KvmDevice, Link, MdevDevice};
use super::primitives::{self, LockCounters};
use super::protocol::{LockObject, TruthInstance, TruthLock};
use super::truth::{self, EntryTruth};

/// `struct vfio_ap_queue`: a queue that is bound to the driver. Guarded by the driver's lock.
#[derive(Debug)]
pub struct VfioApQueue {
    /// The mdev that uses it.
    pub matrix_mdev: Link<ApMatrixMdev>,
    /// Guest page of the notification indicator byte, pinned; 0 if none.
    pub saved_pfn: AtomicU64,
    /// Number.
    pub apqn: u16,
    /// Guest interruption subclass, or [`VFIO_AP_ISC_INVALID`].
    pub saved_isc: AtomicU8,
}

/// No interruption subclass is registered.
pub const VFIO_AP_ISC_INVALID: u8 = 0xff;

/// One guest with its mdev.
#[derive(Debug)]
pub struct Guest {
    /// Number, from 0.
    pub number: u32,
    /// Its VM.
    pub kvm: &'static Kvm,
    /// Its mdev.
    pub mdev: &'static ApMatrixMdev,
    /// The mdev's device.
    pub mdev_device: &'static MdevDevice,
    /// Its kvm-vfio device.
    pub kvm_vfio: &'static KvmDevice,
    /// User space's file descriptor of the device: open or not. Readers are calls on it in progress, which a close
    /// waits for, as the kernel's reference on the file does.
    pub device_fd: RwLock<bool>,
    /// User space's own rule in scenario `steady`: no conversion while the device is bound or released.
    pub conversion_gate: Mutex<()>,
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
    /// Queues bound to the driver, by APQN.
    pub queues: BTreeMap<u16, VfioApQueue>,
    /// Guests.
    pub guests: Vec<Guest>,
    /// Counts of entry points.
    pub entries: EntryTruth,
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

/// A lock of the machine, with its name and what it counted.
struct Listed {
    class: u8,
    address: u64,
    guest: Option<u32>,
    name: String,
    guards_flag: bool,
    wait_queue: Option<u64>,
    counters: Vec<(Mode, &'static LockCounters)>,
}

impl Machine {
    /// Builds a machine. It stays until the process ends.
    pub fn build(generation: &'static Generation, guests: u32, vcpus: u32) -> &'static Self {
        Self::with_script(generation, guests, vcpus, layout::STEADY_SCRIPT)
    }

    /// The same, with queues that follow `script`.
    pub fn with_script(
        generation: &'static Generation,
        guests: u32,
        vcpus: u32,
        script: Script,
    ) -> &'static Self {
        let matrix_dev: &'static ApMatrixDev = Box::leak(Box::default());
        let mut hardware = Hardware::default();
        let mut queues = BTreeMap::new();
        let guests: Vec<Guest> = (0..guests)
            .map(|number| {
                let guest = Guest::create(number, vcpus);
                for apqn in layout::bound_queues(number) {
                    hardware.insert(apqn, script);
                    queues.insert(apqn, VfioApQueue::new(apqn));
                }
                layout::assign_initial(number, &guest.mdev.matrix);
                guest
            })
            .collect();
        // The machine is new: nobody else has the list.
        if let Ok(mut list) = matrix_dev.mdev_list.write() {
            list.extend(guests.iter().map(|g| g.mdev));
        }
        Box::leak(Box::new(Self {
            generation,
            matrix_dev,
            hardware,
            queues,
            guests,
            entries: EntryTruth::default(),
        }))
    }

    /// The locks that this generation has, in display order.
    fn listed(&self) -> Vec<Listed> {
        let mutex = |class, name: String, guest, lock: &'static primitives::Mutex| Listed {
            class,
            address: lock.address(),
            guest,
            name,
            guards_flag: false,
            wait_queue: None,
            counters: vec![(Mode::Exclusive, lock.truth())],
        };
        let rwsem = |class, guest: u32, sem: &'static primitives::RwSemaphore| Listed {
            class,
            address: sem.address(),
            guest: Some(guest),
            name: format!("{}[guest-{guest}]", CLASSES[usize::from(class)].name),
            guards_flag: false,
            wait_queue: None,
            counters: vec![
                (Mode::Write, sem.truth_write()),
                (Mode::Read, sem.truth_read()),
            ],
        };
        let mut list = Vec::new();
        for class in 0..CLASSES.len() as u8 {
            let name = CLASSES[usize::from(class)].name;
            match class {
                class_id::MATRIX_DEV_LOCK => {
                    let mut lock = mutex(class, name.into(), None, &self.matrix_dev.lock);
                    lock.guards_flag = self.generation.has_kvm_busy;
                    list.push(lock);
                }
                class_id::KVM_LOCK => list.extend(self.guests.iter().map(|g| {
                    let name = format!("{name}[guest-{}]", g.number);
                    mutex(class, name, Some(g.number), &g.kvm.lock)
                })),
                class_id::VCPU_MUTEX => list.extend(self.guests.iter().flat_map(|g| {
                    g.kvm.vcpus().iter().map(|v| {
                        let name = format!("{name}[guest-{}/vcpu{}]", g.number, v.vcpu_id);
                        mutex(class, name, Some(g.number), &v.mutex)
                    })
                })),
                class_id::PQAP_HOOK_RWSEM if self.generation.has_hook_rwsem => {
                    list.extend(
                        self.guests
                            .iter()
                            .map(|g| rwsem(class, g.number, &g.kvm.crypto.pqap_hook_rwsem)),
                    );
                }
                class_id::KVM_BUSY if self.generation.has_kvm_busy => {
                    list.extend(self.guests.iter().map(|g| Listed {
                        class,
                        address: g.mdev.kvm_busy_address(),
                        guest: Some(g.number),
                        name: format!("{name}[guest-{}]", g.number),
                        guards_flag: false,
                        wait_queue: Some(g.mdev.wait_for_kvm.address()),
                        counters: vec![(Mode::Exclusive, g.mdev.truth_busy())],
                    }));
                }
                class_id::KV_LOCK => list.extend(self.guests.iter().map(|g| {
                    let name = format!("{name}[guest-{}]", g.number);
                    mutex(class, name, Some(g.number), &g.kvm_vfio.lock)
                })),
                class_id::GROUP_NOTIFIER_RWSEM if self.generation.has_group_notifier => list
                    .extend(
                        self.guests
                            .iter()
                            .map(|g| rwsem(class, g.number, &g.mdev.group.rwsem)),
                    ),
                _ => {}
            }
        }
        list
    }

    /// The locks, as the collector is told of them.
    pub fn lock_objects(&self) -> Vec<LockObject> {
        self.listed()
            .into_iter()
            .map(|lock| LockObject {
                address: lock.address,
                class: lock.class,
                name: lock.name,
                guest: lock.guest,
                guards_flag: lock.guards_flag,
                wait_queue: lock.wait_queue,
            })
            .collect()
    }

    /// What the locks counted, by class and mode.
    pub fn lock_truth(&self) -> Vec<TruthLock> {
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

impl VfioApQueue {
    fn new(apqn: u16) -> Self {
        Self {
            matrix_mdev: Link::default(),
            saved_pfn: AtomicU64::new(0),
            apqn,
            saved_isc: AtomicU8::new(VFIO_AP_ISC_INVALID),
        }
    }
}

impl Guest {
    fn create(number: u32, vcpus: u32) -> Self {
        let kvm = Kvm::create(number, vcpus);
        let mdev = ApMatrixMdev::create(number);
        let mdev_device: &'static MdevDevice = Box::leak(Box::default());
        mdev_device.dev.driver_data.set(Some(mdev));
        Self {
            number,
            kvm,
            mdev,
            mdev_device,
            kvm_vfio: KvmDevice::create(kvm),
            device_fd: RwLock::new(false),
            conversion_gate: Mutex::new(()),
        }
    }
}
