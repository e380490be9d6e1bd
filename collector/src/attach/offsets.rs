//! Where members of the kernel's structs are, each with where that is known from.
//!
//! Takes types (BTF) and build ids; gives for each [`Field`] an offset in bytes, or says why there is none: *absent*
//! when the struct is known and has no such member (another generation of the driver), *missing* when nothing is known.
//! Does not know what is read there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::btf::{self, Btf, BtfError};
use super::layouts::{self, BuildId, Known, LAYOUTS};

/// The path that stands for the size of the struct.
const SIZE: &str = "sizeof";

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $home:literal, $outer:literal, $($path:literal)|+;)*) => {
        /// A member that is read, or a size that is needed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Field {
            $($(#[$doc])* $name,)*
        }

        impl Field {
            /// All fields.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The object whose code defines the struct.
            #[must_use]
            pub const fn home(self) -> &'static str {
                match self { $(Self::$name => $home,)* }
            }

            /// The struct.
            #[must_use]
            pub const fn outer(self) -> &'static str {
                match self { $(Self::$name => $outer,)* }
            }

            /// Paths to the member, by generation.
            #[must_use]
            pub const fn paths(self) -> &'static [&'static str] {
                match self { $(Self::$name => &[$($path),+],)* }
            }
        }
    };
}

fields! {
    /// What a file belongs to: the vCPU of a vCPU's file.
    FilePrivateData: "vmlinux", "file", "private_data";
    /// The vCPU's guest.
    KvmVcpuKvm: "kvm", "kvm_vcpu", "kvm";
    /// The vCPU's number in its guest.
    KvmVcpuId: "kvm", "kvm_vcpu", "vcpu_id";
    /// `vcpu->mutex`.
    KvmVcpuMutex: "kvm", "kvm_vcpu", "mutex";
    /// What the vCPU shares with user space, its registers among it.
    KvmVcpuRun: "kvm", "kvm_vcpu", "run";
    /// The pointer to the state description of the vCPU.
    KvmVcpuSieBlock: "kvm", "kvm_vcpu", "arch.sie_block";
    /// The intercepted instruction, its first two bytes.
    SieBlockIpa: "kvm", "kvm_s390_sie_block", "ipa";
    /// Why the vCPU left SIE.
    SieBlockIcptcode: "kvm", "kvm_s390_sie_block", "icptcode";
    /// `kvm->lock`.
    KvmLock: "kvm", "kvm", "lock";
    /// `pqap_hook_rwsem`.
    KvmPqapHookRwsem: "kvm", "kvm", "arch.crypto.pqap_hook_rwsem";
    /// The hook that a driver has set: until v5.14 a pointer to a struct, then a pointer to the function's pointer.
    KvmPqapHook: "kvm", "kvm", "arch.crypto.pqap_hook";
    /// Link in KVM's list of guests.
    KvmVmList: "kvm", "kvm", "vm_list";
    /// Number of vCPUs.
    KvmOnlineVcpus: "kvm", "kvm", "online_vcpus";
    /// vCPUs in an xarray, since v5.17.
    KvmVcpuArray: "kvm", "kvm", "vcpu_array";
    /// vCPUs in an array, until v5.16.
    KvmVcpus: "kvm", "kvm", "vcpus";
    /// Process of the guest.
    KvmUserspacePid: "kvm", "kvm", "userspace_pid";
    /// Sixteen guest registers of 8 bytes.
    KvmRunGprs: "kvm", "kvm_run", "s.regs.gprs";
    /// `matrix_dev->lock`, until v5.19.
    MatrixDevLock: "vfio_ap", "ap_matrix_dev", "lock";
    /// `matrix_dev->mdevs_lock`, since v6.0.
    MatrixDevMdevsLock: "vfio_ap", "ap_matrix_dev", "mdevs_lock";
    /// `matrix_dev->guests_lock`, since v6.0.
    MatrixDevGuestsLock: "vfio_ap", "ap_matrix_dev", "guests_lock";
    /// List of mdevs.
    MatrixDevMdevList: "vfio_ap", "ap_matrix_dev", "mdev_list";
    /// Size of `struct ap_matrix_dev`.
    MatrixDevSize: "vfio_ap", "ap_matrix_dev", "sizeof";
    /// Link in the list of mdevs.
    MdevNode: "vfio_ap", "ap_matrix_mdev", "node";
    /// The matrix.
    MdevMatrix: "vfio_ap", "ap_matrix_mdev", "matrix";
    /// What of it the guest has, since v6.0.
    MdevShadowApcb: "vfio_ap", "ap_matrix_mdev", "shadow_apcb";
    /// The guest that has the mdev.
    MdevKvm: "vfio_ap", "ap_matrix_mdev", "kvm";
    /// The mdev's hook.
    MdevPqapHook: "vfio_ap", "ap_matrix_mdev", "pqap_hook";
    /// The open-coded lock, v5.13 and v5.14.
    MdevKvmBusy: "vfio_ap", "ap_matrix_mdev", "kvm_busy";
    /// Its wait queue.
    MdevWaitForKvm: "vfio_ap", "ap_matrix_mdev", "wait_for_kvm";
    /// The notifier of the vfio group, until v5.18.
    MdevGroupNotifier: "vfio_ap", "ap_matrix_mdev", "group_notifier";
    /// The mdev core's object.
    MdevMdev: "vfio_ap", "ap_matrix_mdev", "mdev";
    /// The vfio device inside the mdev, since v5.15.
    MdevVdev: "vfio_ap", "ap_matrix_mdev", "vdev";
    /// The guest of a vfio device, since v5.19.
    VfioDeviceKvm: "vfio", "vfio_device", "kvm";
    /// The device inside the mdev core's object.
    MdevDeviceDev: "mdev", "mdev_device", "dev";
    /// The driver's data in the mdev core's object, until v5.14.
    MdevDeviceDriverData: "mdev", "mdev_device", "driver_data";
    /// UUID of the mdev, 16 bytes.
    MdevDeviceUuid: "mdev", "mdev_device", "uuid";
    /// Name of a device, if it was given one.
    DeviceName: "vmlinux", "device", "kobj.name";
    /// The driver's data of a device.
    DeviceDriverData: "vmlinux", "device", "driver_data";
    /// APQN of a queue of the driver.
    QueueApqn: "vfio_ap", "vfio_ap_queue", "apqn";
    /// The mdev that has the queue.
    QueueMatrixMdev: "vfio_ap", "vfio_ap_queue", "matrix_mdev";
    /// The work item that verifies a reset, since v6.6.
    QueueResetWork: "vfio_ap", "vfio_ap_queue", "reset_work";
    /// The answer to the last reset, since v6.6.
    QueueResetStatus: "vfio_ap", "vfio_ap_queue", "reset_status";
    /// The device inside a queue of the AP bus.
    ApQueueApDev: "ap", "ap_queue", "ap_dev";
    /// APQN of a queue of the AP bus.
    ApQueueQid: "ap", "ap_queue", "qid";
    /// Function of a work item.
    WorkFunc: "vmlinux", "work_struct", "func";
    /// Owner of a mutex, with three bits of state.
    MutexOwner: "vmlinux", "mutex", "owner";
    /// Waiters of a mutex: a list, since v7.2 its first element.
    MutexWaiters: "vmlinux", "mutex", "wait_list" | "first_waiter";
    /// The link of a waiter of a mutex.
    MutexWaiterList: "vmlinux", "mutex_waiter", "list";
    /// Who it is.
    MutexWaiterTask: "vmlinux", "mutex_waiter", "task";
    /// Size of a mutex.
    MutexSize: "vmlinux", "mutex", "sizeof";
    /// Readers, writer and waiters of a rw_semaphore.
    RwsemCount: "vmlinux", "rw_semaphore", "count";
    /// Owner of a rw_semaphore, or its last reader.
    RwsemOwner: "vmlinux", "rw_semaphore", "owner";
    /// Waiters of a rw_semaphore: a list, since v7.2 its first element.
    RwsemWaiters: "vmlinux", "rw_semaphore", "wait_list" | "first_waiter";
    /// The link of a waiter of a rw_semaphore.
    RwsemWaiterList: "vmlinux", "rwsem_waiter", "list";
    /// Who it is.
    RwsemWaiterTask: "vmlinux", "rwsem_waiter", "task";
    /// Whether it wants to write (0) or to read.
    RwsemWaiterType: "vmlinux", "rwsem_waiter", "type";
    /// List of a wait queue.
    WaitQueueHead: "vmlinux", "wait_queue_head", "head";
    /// The link of an entry of a wait queue.
    WaitEntryLink: "vmlinux", "wait_queue_entry", "entry";
    /// Who it is.
    WaitEntryTask: "vmlinux", "wait_queue_entry", "private";
    /// Thread id.
    TaskPid: "vmlinux", "task_struct", "pid";
    /// Process id.
    TaskTgid: "vmlinux", "task_struct", "tgid";
    /// Name of the thread, 16 bytes.
    TaskComm: "vmlinux", "task_struct", "comm";
    /// When the task was put on its CPU or its run time was added up last, in nanoseconds of the scheduler's clock.
    TaskExecStart: "vmlinux", "task_struct", "se.exec_start";
    /// Link in the list of all processes, `init_task` being its head.
    TaskTasks: "vmlinux", "task_struct", "tasks";
    /// A worker's data, since v5.17: a `struct kthread`.
    TaskWorker: "vmlinux", "task_struct", "worker_private";
    /// What a thread of the kernel is given: a workqueue's worker.
    KthreadData: "vmlinux", "kthread", "data";
    /// The work item that a worker executes.
    WorkerCurrentWork: "vmlinux", "worker", "current_work";
    /// Its function.
    WorkerCurrentFunc: "vmlinux", "worker", "current_func";
    /// Work items that come after it, those that wake a waiting flush among them.
    WorkerScheduled: "vmlinux", "worker", "scheduled";
    /// The worker's task.
    WorkerTask: "vmlinux", "worker", "task";
    /// The link of a work item.
    WorkEntry: "vmlinux", "work_struct", "entry";
    /// Who waits for a work item.
    BarrierTask: "vmlinux", "wq_barrier", "task";
    /// First entry of an xarray.
    XarrayHead: "vmlinux", "xarray", "xa_head";
    /// Entries of a node of an xarray.
    XaNodeSlots: "vmlinux", "xa_node", "slots";
    /// What comes behind them.
    XaNodeMarks: "vmlinux", "xa_node", "marks";
    /// Registers at a probe (s390).
    PtRegsGprs: "vmlinux", "pt_regs", "gprs";
    /// Instruction address at a probe (s390).
    PtRegsPsw: "vmlinux", "pt_regs", "psw";
    /// What a device of a guest is, for the kvm-vfio device a `struct kvm_vfio`.
    KvmDevicePrivate: "kvm", "kvm_device", "private";
    /// The guest of a device of KVM.
    KvmDeviceKvm: "kvm", "kvm_device", "kvm";
    /// The set that a vfio device belongs to, since v5.15.
    VfioDeviceDevSet: "vfio", "vfio_device", "dev_set";
    /// `dev_set->lock`.
    DevSetLock: "vfio", "vfio_device_set", "lock";
    /// The group that a vfio device belongs to (until v6.6 always, later where groups are built in).
    VfioDeviceGroup: "vfio", "vfio_device", "group";
    /// `group->group_lock`, since v6.1.
    VfioGroupLock: "vfio", "vfio_group", "group_lock";
    /// `group->group_rwsem`, which it was before.
    VfioGroupRwsem: "vfio", "vfio_group", "group_rwsem";
    /// `kv->lock`.
    KvmVfioLock: "kvm", "kvm_vfio", "lock";
}

impl Field {
    /// `struct.member`, for people.
    #[must_use]
    pub fn name(self) -> String {
        match self.paths() {
            [SIZE] => format!("sizeof(struct {})", self.outer()),
            paths => format!("{}.{}", self.outer(), paths.join("|")),
        }
    }
}

/// Where an offset is known from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetSource {
    /// From types.
    Btf {
        /// The file, as it was given: `vmlinux`, a module, or a path.
        file: String,
        /// The path that the member has in this generation.
        path: &'static str,
    },
    /// From the table of known layouts.
    Layout {
        /// Object, release and build id.
        key: String,
    },
    /// The struct is known, and has no such member.
    Absent {
        /// From where that is known.
        known_from: String,
    },
    /// Nothing is known.
    Missing {
        /// Why.
        why: String,
    },
}

/// Types of a machine.
#[derive(Debug, Default)]
pub struct Types {
    /// Of vmlinux.
    pub vmlinux: Option<Arc<Btf>>,
    /// Of modules, by name.
    pub modules: BTreeMap<String, Btf>,
    /// Files that were given by hand, by name; they come first.
    pub given: Vec<(String, Btf)>,
    /// What could not be read, and why.
    pub failed: Vec<(String, BtfError)>,
}

impl Types {
    /// Takes the types of vmlinux.
    pub fn add_vmlinux(&mut self, data: Vec<u8>) {
        match Btf::parse(data) {
            Ok(btf) => self.vmlinux = Some(Arc::new(btf)),
            Err(error) => self.failed.push(("vmlinux".to_owned(), error)),
        }
    }

    /// Takes the types of a module; those of vmlinux come before.
    pub fn add_module(&mut self, name: &str, data: Vec<u8>) {
        match self.read(data) {
            Ok(btf) => {
                self.modules.insert(name.to_owned(), btf);
            }
            Err(error) => self.failed.push((name.to_owned(), error)),
        }
    }

    /// Takes a file given by hand, alone or continuing vmlinux' types.
    pub fn add_given(&mut self, name: &str, data: Vec<u8>) {
        match self.read(data) {
            Ok(btf) => self.given.push((name.to_owned(), btf)),
            Err(error) => self.failed.push((name.to_owned(), error)),
        }
    }

    fn read(&self, data: Vec<u8>) -> Result<Btf, BtfError> {
        match (&self.vmlinux, btf::is_split(&data)) {
            (Some(base), true) => Btf::parse_split(data, base),
            _ => Btf::parse(data),
        }
    }

    /// Files that may have a struct of an object, in the order in which they are asked.
    fn files(&self, home: &str) -> impl Iterator<Item = (&str, &Btf)> {
        let given = self.given.iter().map(|(name, btf)| (name.as_str(), btf));
        // Every module that uses a struct has it in its types; its own module's are asked first.
        let own = self.modules.get_key_value(home);
        let others = self.modules.iter().filter(move |(name, _)| **name != *home);
        let modules = own
            .into_iter()
            .chain(others)
            .map(|(name, btf)| (name.as_str(), btf));
        let vmlinux = self.vmlinux.as_deref().map(|btf| ("vmlinux", btf));
        let (first, last) = if home == "vmlinux" {
            (vmlinux, None)
        } else {
            (None, vmlinux)
        };
        given.chain(first).chain(modules).chain(last)
    }
}

/// Build ids of a machine.
#[derive(Debug, Default, Clone)]
pub struct BuildIds {
    ids: BTreeMap<String, BuildId>,
}

impl BuildIds {
    /// Takes the ELF notes of an object: `vmlinux` or a module. Whether they have a build id.
    pub fn add(&mut self, object: &str, notes: &[u8]) -> bool {
        let id = BuildId::from_notes(notes);
        id.is_some_and(|id| {
            self.ids.insert(object.to_owned(), id);
            true
        })
    }

    /// The build id of an object.
    #[must_use]
    pub fn get(&self, object: &str) -> Option<&BuildId> {
        self.ids.get(object)
    }
}

/// All offsets.
#[derive(Debug, Clone)]
pub struct Offsets {
    found: BTreeMap<Field, (Option<u32>, OffsetSource)>,
}

impl Offsets {
    /// Looks all fields up: in types given by hand, in those of the modules, in vmlinux', then in the known layouts.
    #[must_use]
    pub fn resolve(types: &Types, ids: &BuildIds) -> Self {
        let found = Field::ALL
            .iter()
            .map(|field| (*field, resolve(*field, types, ids)))
            .collect();
        Self { found }
    }

    /// The offset in bytes, where there is one.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<u32> {
        self.found.get(&field)?.0
    }

    /// Where it is known from.
    #[must_use]
    pub fn source(&self, field: Field) -> &OffsetSource {
        // `resolve`, the only constructor, has an entry for each field.
        &self.found[&field].1
    }

    /// Whether the member has this path in this kernel.
    #[must_use]
    pub fn is_called(&self, field: Field, name: &str) -> bool {
        matches!(self.source(field), OffsetSource::Btf { path, .. } if *path == name)
    }

    /// Whether the struct is known to have the member, known not to have it, or nothing is known.
    #[must_use]
    pub fn has(&self, field: Field) -> Option<bool> {
        match self.source(field) {
            OffsetSource::Btf { .. } | OffsetSource::Layout { .. } => Some(true),
            OffsetSource::Absent { .. } => Some(false),
            OffsetSource::Missing { .. } => None,
        }
    }

    /// All fields with their offsets and sources, in the order of [`Field::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Field, Option<u32>, &OffsetSource)> {
        self.found
            .iter()
            .map(|(field, (offset, source))| (*field, *offset, source))
    }
}

fn resolve(field: Field, types: &Types, ids: &BuildIds) -> (Option<u32>, OffsetSource) {
    let mut absent = None;
    let mut why = None;
    let defining = types
        .files(field.home())
        .filter(|(_, btf)| btf.defines(field.outer()));
    for (file, btf) in defining {
        for path in field.paths() {
            let result = match *path {
                SIZE => btf.size_of(field.outer()),
                path => btf.offset_of(field.outer(), path),
            };
            match result {
                Ok(offset) => {
                    let file = file.to_owned();
                    return (Some(offset), OffsetSource::Btf { file, path });
                }
                Err(error) if error.is_absent() => {
                    absent.get_or_insert_with(|| format!("types of {file}: {error}"));
                }
                Err(error) => {
                    why.get_or_insert_with(|| format!("types of {file}: {error}"));
                }
            }
        }
        if absent.is_some() {
            break;
        }
    }
    if let Some(known_from) = absent {
        return (None, OffsetSource::Absent { known_from });
    }
    // Any object's table may know the struct, since the offset was read from that object's code.
    for layout in LAYOUTS {
        let matches = ids
            .get(layout.object)
            .is_some_and(|id| id.is(layout.build_id));
        let known = layout.fields.iter().find(|(of, _)| *of == field);
        if let (true, Some((_, known))) = (matches, known) {
            let key = format!(
                "known layout of {} {}, build id {}",
                layout.object, layout.release, layout.build_id
            );
            return match known {
                Known::At(offset) => (Some(*offset), OffsetSource::Layout { key }),
                Known::Absent => (None, OffsetSource::Absent { known_from: key }),
            };
        }
    }
    let home = field.home();
    let types_say = why.unwrap_or_else(|| {
        if types.vmlinux.is_some() || !types.given.is_empty() {
            format!("no types (BTF) have struct {}", field.outer())
        } else {
            "no types (BTF)".to_owned()
        }
    });
    let table_says = match ids.get(home) {
        Some(id) if layouts::knows(home, id) => {
            format!("not in the known layout of {home}, build id {id}")
        }
        Some(id) => format!("no known layout for {home}, build id {id}"),
        None => format!("no build id of {home}"),
    };
    let why = format!("{types_say}; {table_says}");
    (None, OffsetSource::Missing { why })
}
