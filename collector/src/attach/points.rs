//! The table of everything that is probed in a kernel: functions and tracepoints, as data.
//!
//! Each point says what it is for, under which names it may be found, which generations of the driver have it, what its
//! arguments are and what is lost without it. Does not know of any machine.

use probe_ebpf::abi::Mode;
use probe_ebpf::names::{ENTRY_POINTS, class_id, entry_id};

use super::generation::Generation::{
    Rfc2021_06, Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};
use super::generation::Generations;

/// What a call of a lock function does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockCall {
    /// Acquires, however long it takes; void.
    Acquire(Mode),
    /// Acquires, or gives up with `-EINTR`.
    AcquireInterruptible(Mode),
    /// Acquires at once or not at all; returns 1 for success (`mutex_trylock`, `down_*_trylock`).
    Try(Mode),
    /// Releases.
    Release(Mode),
    /// A writer becomes a reader.
    Downgrade,
}

/// When a program of [`Role::Contention`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contention {
    /// The slow path begins to spin or to sleep; a mutex says so for both.
    Begin,
    /// It ends.
    End,
}

/// A step of a wait queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitQueue {
    /// A task is put onto the queue.
    Prepare,
    /// It is taken off.
    Finish,
    /// Somebody wakes the queue.
    Wake,
}

/// A step of a work item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A worker begins to execute it.
    Start,
    /// The worker is done.
    End,
    /// A task waits for it.
    Flush,
}

/// What ends, so that its locks are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A guest.
    Kvm,
    /// A vCPU.
    Vcpu,
    /// A mediated device.
    Mdev,
    /// A queue of the driver.
    Queue,
}

/// What a point is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An entry point, by its id: counted, timed, and the place where locks are adopted.
    Entry(u8),
    /// A lock function, filtered by the lock's address.
    Lock(LockCall),
    /// The slow path of any lock.
    Contention(Contention),
    /// A wait queue.
    WaitQueue(WaitQueue),
    /// A work item.
    Work(Work),
    /// An object ends.
    Gone(Gone),
}

/// What is at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A function.
    Function,
    /// A tracepoint, named `group:event`.
    Tracepoint,
}

/// Which of a function's sides are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its entry, with arguments.
    Enter,
    /// Its return, with the value.
    Return,
}

/// Which calls of a function belong to a point, where the function does more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All calls.
    All,
    /// Calls by a vCPU (argument 1) whose intercepted instruction (`ipa` of its state description) is this.
    Instruction(u16),
    /// Calls of a guest's ioctl with this command as argument 2. Argument 1 is the guest's file: `private_data` is the
    /// guest.
    VmIoctl(u32),
}

/// PQAP.
pub const PQAP: u16 = 0xb2af;

/// `KVM_S390_PV_COMMAND`: `_IOWR(KVMIO, 0xc5, struct kvm_pv_cmd)`, 32 bytes (include/uapi/linux/kvm.h, v5.10).
pub const KVM_S390_PV_COMMAND: u32 = 0xc020_aec5;

/// One name under which a point may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Symbol of the source, or `group:event`.
    pub symbol: &'static str,
    /// Module; `None` is vmlinux.
    pub module: Option<&'static str>,
    /// For a clone by the compiler (`.isra` and so on): the numbers of arguments, from 1, whose meaning survives.
    /// Empty: only the fact and the time of the call are used.
    pub clone_arguments: &'static [u8],
    /// Which of its calls count.
    pub filter: Filter,
    /// What is different under this name.
    pub note: &'static str,
}

/// One point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Name for people; unique.
    pub name: &'static str,
    /// What is at it.
    pub kind: Kind,
    /// What it is for.
    pub role: Role,
    /// The lowest level at which it is attached: 1 or 2.
    pub level: u8,
    /// Generations that have it, or that need it.
    pub generations: Generations,
    /// Names, in order of preference.
    pub names: &'static [Name],
    /// Meaning of its arguments.
    pub arguments: &'static str,
    /// What is lost without it.
    pub lost: &'static str,
    /// Entry points that stand in for it, in order, where it is missing.
    pub instead: &'static [u8],
    /// Whether the machine is expected to have it whenever its generation does. Variants of lock functions and
    /// functions that are often inlined are not: their absence is no loss when one of their kin is there.
    pub expected: bool,
}

/// A variable of the kernel whose value or address names locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name for people.
    pub name: &'static str,
    /// What it is.
    pub content: Content,
    /// Generations that have it.
    pub generations: Generations,
    /// Symbol and module (`None` is vmlinux), in order of preference.
    pub names: &'static [(&'static str, Option<&'static str>)],
    /// What is lost without it.
    pub lost: &'static str,
}

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A pointer to `struct ap_matrix_dev`, which has the driver's locks.
    MatrixDev,
    /// A lock of this class itself.
    Lock(u8),
}

const VFIO_AP: Option<&str> = Some("vfio_ap");
const KVM: Option<&str> = Some("kvm");
const ALL: Generations = Generations::ALL;
const DRAFTS: Generations = Generations::of(&[Rfc2021_06, Rfc2021_07]);
/// Until the driver became a vfio_device driver in v5.15-rc1.
const MDEV_OPS: Generations = Generations::of(&[V5_10, V5_11, V5_13]).or(DRAFTS);
const DEVICE_OPS: Generations = MDEV_OPS.not();
const NOTIFIER: Generations = Generations::range(V5_10, V5_15);
const BEFORE_HOT_PLUG: Generations = Generations::range(V5_10, V5_19);
const HOT_PLUG: Generations = Generations::range(V6_0, V7_3);
const RESET_WORK: Generations = Generations::of(&[V6_6, V7_3]);
const FLAG: Generations = Generations::of(&[V5_13, V5_15Rc]);
/// 6.10 added `ap_config`; the nearest generation is v6.6.
const AP_CONFIG: Generations = RESET_WORK;

const fn name(symbol: &'static str, module: Option<&'static str>) -> Name {
    Name {
        symbol,
        module,
        clone_arguments: &[],
        filter: Filter::All,
        note: "",
    }
}

const fn entry(
    id: u8,
    generations: Generations,
    names: &'static [Name],
    arguments: &'static str,
    lost: &'static str,
) -> Point {
    Point {
        name: ENTRY_POINTS[id as usize].name,
        kind: Kind::Function,
        role: Role::Entry(id),
        level: 1,
        generations,
        names,
        arguments,
        lost,
        instead: &[],
        expected: true,
    }
}

impl Point {
    const fn or(mut self, instead: &'static [u8]) -> Self {
        self.instead = instead;
        self
    }

    const fn rare(mut self) -> Self {
        self.expected = false;
        self
    }

    /// The sides of a function that are probed, if there is a mechanism for each.
    #[must_use]
    pub const fn sides(&self) -> &'static [Side] {
        const BOTH: &[Side] = &[Side::Enter, Side::Return];
        const ENTER: &[Side] = &[Side::Enter];
        match self.role {
            Role::Entry(_)
            | Role::Work(Work::Flush)
            | Role::Lock(
                LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) | LockCall::Try(_),
            ) => BOTH,
            _ => ENTER,
        }
    }
}

macro_rules! vfio_ap {
    ($($symbol:literal),+) => { &[$(name($symbol, VFIO_AP)),+] };
}

macro_rules! kvm {
    ($($symbol:literal),+) => { &[$(name($symbol, KVM)),+] };
}

macro_rules! vmlinux {
    ($($symbol:literal),+) => { &[$(name($symbol, None)),+] };
}

const STORE: &str = "1 struct device * (driver_data is the mdev), 3 text written, 4 its length; returns the length or -errno";
const SHOW: &str =
    "1 struct device * (driver_data is the mdev), 3 page to be filled; returns the length";
const QUEUE: &str = "1 struct ap_device * inside a struct ap_queue";

/// Entry points.
const ENTRIES: &[Point] = &[
    entry(
        entry_id::HANDLE_PQAP,
        ALL,
        vfio_ap!["handle_pqap"],
        "1 struct kvm_vcpu *; returns 0 or -EOPNOTSUPP",
        "PQAP in the driver: counts, latencies, response codes, and which mdev a guest uses",
    )
    .or(&[entry_id::KVM_HANDLE_PQAP]),
    entry(
        entry_id::GROUP_NOTIFIER,
        NOTIFIER,
        vfio_ap!["vfio_ap_mdev_group_notifier"],
        "1 struct notifier_block * inside the mdev, 2 action, 3 struct kvm * or NULL; returns NOTIFY_*",
        "when a guest is bound to an mdev and when it is taken away",
    )
    .or(&[
        entry_id::OPEN_DEVICE,
        entry_id::CLOSE_DEVICE,
        entry_id::SET_MASKS,
        entry_id::CLEAR_MASKS,
    ]),
    entry(
        entry_id::OPEN,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_open"],
        "1 struct mdev_device *; returns 0 or -errno",
        "when a device is opened",
    ),
    entry(
        entry_id::RELEASE,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_release"],
        "1 struct mdev_device *",
        "when a device is closed, which takes the guest away",
    )
    .or(&[entry_id::CLEAR_MASKS]),
    entry(
        entry_id::OPEN_DEVICE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_open_device"],
        "1 struct vfio_device *, the first member of the mdev; returns 0 or -errno",
        "when a device is opened; since v5.19 also when a guest is bound",
    )
    .or(&[entry_id::GROUP_NOTIFIER, entry_id::SET_MASKS]),
    entry(
        entry_id::CLOSE_DEVICE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_close_device"],
        "1 struct vfio_device *, the first member of the mdev",
        "when a device is closed, which takes the guest away",
    )
    .or(&[entry_id::GROUP_NOTIFIER, entry_id::CLEAR_MASKS]),
    entry(
        entry_id::IOCTL,
        ALL,
        vfio_ap!["vfio_ap_mdev_ioctl"],
        "1 struct vfio_device * (until v5.14 struct mdev_device *), 2 command; returns 0 or -errno",
        "RESET ioctls: who resets all queues of an mdev",
    ),
    entry(
        entry_id::ASSIGN_ADAPTER,
        ALL,
        vfio_ap!["assign_adapter_store"],
        STORE,
        "writes to assign_adapter",
    ),
    entry(
        entry_id::UNASSIGN_ADAPTER,
        ALL,
        vfio_ap!["unassign_adapter_store"],
        STORE,
        "writes to unassign_adapter",
    ),
    entry(
        entry_id::ASSIGN_DOMAIN,
        ALL,
        vfio_ap!["assign_domain_store"],
        STORE,
        "writes to assign_domain",
    ),
    entry(
        entry_id::UNASSIGN_DOMAIN,
        ALL,
        vfio_ap!["unassign_domain_store"],
        STORE,
        "writes to unassign_domain",
    ),
    entry(
        entry_id::ASSIGN_CONTROL_DOMAIN,
        ALL,
        vfio_ap!["assign_control_domain_store"],
        STORE,
        "writes to assign_control_domain",
    ),
    entry(
        entry_id::UNASSIGN_CONTROL_DOMAIN,
        ALL,
        vfio_ap!["unassign_control_domain_store"],
        STORE,
        "writes to unassign_control_domain",
    ),
    entry(
        entry_id::AP_CONFIG_STORE,
        AP_CONFIG,
        vfio_ap!["ap_config_store"],
        STORE,
        "writes to ap_config",
    )
    .rare(),
    entry(
        entry_id::MATRIX_SHOW,
        ALL,
        vfio_ap!["matrix_show"],
        SHOW,
        "reads of matrix",
    ),
    entry(
        entry_id::CONTROL_DOMAINS_SHOW,
        ALL,
        vfio_ap!["control_domains_show"],
        SHOW,
        "reads of control_domains",
    ),
    entry(
        entry_id::GUEST_MATRIX_SHOW,
        HOT_PLUG,
        vfio_ap!["guest_matrix_show"],
        SHOW,
        "reads of guest_matrix",
    ),
    entry(
        entry_id::AP_CONFIG_SHOW,
        AP_CONFIG,
        vfio_ap!["ap_config_show"],
        SHOW,
        "reads of ap_config",
    )
    .rare(),
    entry(
        entry_id::STATUS_SHOW,
        HOT_PLUG,
        vfio_ap!["status_show"],
        "1 struct device * of a queue, 3 page to be filled; returns the length",
        "reads of a queue's status",
    ),
    entry(
        entry_id::KVM_HANDLE_PQAP,
        ALL,
        &[
            name("handle_pqap", KVM),
            Name {
                filter: Filter::Instruction(PQAP),
                note: "handle_pqap is inlined: calls are those whose instruction is B2AF",
                ..name("kvm_s390_handle_b2", KVM)
            },
        ],
        "1 struct kvm_vcpu *; returns 0 or -EOPNOTSUPP",
        "PQAP in KVM: function codes that KVM answers itself, and the hook's rwsem on the way",
    )
    .or(&[entry_id::HANDLE_PQAP]),
    entry(
        entry_id::KVM_VCPU_IOCTL,
        ALL,
        kvm!["kvm_vcpu_ioctl"],
        "1 struct file * (private_data is the vCPU), 2 command; returns 0 or -errno",
        "which threads are vCPUs, vcpu->mutex, and when a vCPU runs",
    )
    .or(&[entry_id::KVM_HANDLE_PQAP, entry_id::HANDLE_PQAP]),
    entry(
        entry_id::KVM_S390_HANDLE_PV,
        ALL,
        &[
            name("kvm_s390_handle_pv", KVM),
            // Inlined in v5.10, which has kvm->lock around it.
            Name {
                filter: Filter::VmIoctl(KVM_S390_PV_COMMAND),
                note: "kvm_s390_handle_pv is inlined: calls are those with KVM_S390_PV_COMMAND",
                ..name("kvm_arch_vm_ioctl", KVM)
            },
        ],
        "1 struct kvm *, 2 struct kvm_pv_cmd *; returns 0 or -errno",
        "conversions of guests to protected virtualisation (Secure Execution)",
    ),
    entry(
        entry_id::SET_MASKS,
        ALL,
        kvm!["kvm_arch_crypto_set_masks"],
        "1 struct kvm *, 2 to 4 masks",
        "when a guest is given adapters and domains",
    ),
    entry(
        entry_id::CLEAR_MASKS,
        ALL,
        kvm!["kvm_arch_crypto_clear_masks"],
        "1 struct kvm *",
        "when a guest loses its adapters and domains",
    ),
    entry(
        entry_id::KVM_VFIO_SET_ATTR,
        ALL,
        kvm!["kvm_vfio_set_attr"],
        "1 struct kvm_device *, 2 struct kvm_device_attr *; returns 0 or -errno",
        "when a vfio group is given to a guest, and kv->lock",
    ),
    entry(
        entry_id::QUEUE_DEV_PROBE,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_queue_dev_probe"],
        QUEUE,
        "when a queue comes to the driver",
    ),
    entry(
        entry_id::QUEUE_DEV_REMOVE,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_queue_dev_remove"],
        QUEUE,
        "when a queue goes from the driver, with its reset",
    ),
    entry(
        entry_id::PROBE_QUEUE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_probe_queue"],
        QUEUE,
        "when a queue comes to the driver",
    ),
    entry(
        entry_id::REMOVE_QUEUE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_remove_queue"],
        QUEUE,
        "when a queue goes from the driver, with its reset",
    ),
    entry(
        entry_id::CREATE,
        MDEV_OPS,
        vfio_ap!["vfio_ap_mdev_create"],
        "1 struct kobject *, 2 struct mdev_device *; returns 0 or -errno",
        "when an mdev is created",
    ),
    entry(
        entry_id::PROBE,
        DEVICE_OPS,
        vfio_ap!["vfio_ap_mdev_probe"],
        "1 struct mdev_device *; returns 0 or -errno",
        "when an mdev is created",
    ),
    entry(
        entry_id::REMOVE,
        ALL,
        vfio_ap!["vfio_ap_mdev_remove"],
        "1 struct mdev_device *; until v5.14 returns 0 or -EBUSY",
        "when an mdev is removed",
    ),
    entry(
        entry_id::REQUEST,
        RESET_WORK,
        vfio_ap!["vfio_ap_mdev_request"],
        "1 struct vfio_device *, 2 how often it was asked",
        "when user space is asked to close a device that is to be removed",
    )
    .rare(),
    entry(
        entry_id::DMA_UNMAP,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_dma_unmap"],
        "1 struct vfio_device *, 2 address, 3 length",
        "when a guest's memory is unmapped under a queue's interrupt",
    ),
    entry(
        entry_id::IOMMU_NOTIFIER,
        BEFORE_HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_iommu_notifier"],
        "1 struct notifier_block * inside the mdev, 2 action; returns NOTIFY_*",
        "when a guest's memory is unmapped under a queue's interrupt",
    ),
    entry(
        entry_id::RESOURCE_IN_USE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_mdev_resource_in_use"],
        "1 adapter mask, 2 domain mask; returns 0 or -EADDRINUSE",
        "when a change of apmask or aqmask is checked by the driver",
    ),
    entry(
        entry_id::ON_CFG_CHANGED,
        HOT_PLUG,
        vfio_ap!["vfio_ap_on_cfg_changed"],
        "1 and 2 new and old struct ap_config_info *",
        "when the host's configuration of adapters changes",
    ),
    entry(
        entry_id::ON_SCAN_COMPLETE,
        HOT_PLUG,
        vfio_ap!["vfio_ap_on_scan_complete"],
        "1 and 2 new and old struct ap_config_info *",
        "when the AP bus has scanned after a change",
    ),
    entry(
        entry_id::RESET_QUEUES,
        ALL,
        vfio_ap!["vfio_ap_mdev_reset_queues"],
        "1 struct ap_matrix_mdev * (6.0 to 6.7 a struct ap_queue_table *, until v5.14 a struct mdev_device *); returns 0 or -errno",
        "how long the queues of an mdev take to reset, with locks held",
    ),
    entry(
        entry_id::APQ_RESET_CHECK,
        RESET_WORK,
        vfio_ap!["apq_reset_check"],
        "1 struct work_struct * inside the queue",
        "how long one queue takes to reset",
    ),
    entry(
        entry_id::APMASK_STORE,
        ALL,
        AP_BUS_APMASK,
        "2 text written, 3 its length; returns the length or -errno",
        "writes to the AP bus's apmask",
    ),
    entry(
        entry_id::AQMASK_STORE,
        ALL,
        AP_BUS_AQMASK,
        "2 text written, 3 its length; returns the length or -errno",
        "writes to the AP bus's aqmask",
    ),
];

/// The AP bus is built in, except where it was made a module (`ap`), or stands beside the built-in one as a stand-in
/// without hardware (`aplab`); then that is the bus that vfio_ap is bound to.
const AP_BUS_APMASK: &[Name] = &[
    name("apmask_store", Some("aplab")),
    name("apmask_store", Some("ap")),
    name("apmask_store", None),
];
const AP_BUS_AQMASK: &[Name] = &[
    name("aqmask_store", Some("aplab")),
    name("aqmask_store", Some("ap")),
    name("aqmask_store", None),
];

const fn lock(
    label: &'static str,
    call: LockCall,
    names: &'static [Name],
    lost: &'static str,
) -> Point {
    Point {
        name: label,
        kind: Kind::Function,
        role: Role::Lock(call),
        level: 2,
        generations: ALL,
        names,
        arguments: "1 the lock",
        lost,
        instead: &[],
        expected: true,
    }
}

const HOLDS: &str = "acquisitions and holds of mutexes";
const RWSEM_HOLDS: &str = "acquisitions and holds of rwsems";

/// Lock functions (kernel/locking/mutex.c and rwsem.c). With CONFIG_DEBUG_LOCK_ALLOC, `mutex_lock` and its kin are
/// macros around the `_nested` functions (include/linux/mutex.h), while `down_read` and `down_write` stay functions
/// beside theirs.
const LOCKS: &[Point] = &[
    lock(
        "mutex_lock",
        LockCall::Acquire(Mode::Exclusive),
        &[
            name("mutex_lock", None),
            Name {
                note: "lockdep's build: every acquisition takes this way",
                ..name("mutex_lock_nested", None)
            },
        ],
        HOLDS,
    ),
    lock(
        "mutex_lock_killable",
        LockCall::AcquireInterruptible(Mode::Exclusive),
        vmlinux!["mutex_lock_killable", "mutex_lock_killable_nested"],
        "acquisitions of vcpu->mutex by ioctls",
    ),
    lock(
        "mutex_lock_interruptible",
        LockCall::AcquireInterruptible(Mode::Exclusive),
        vmlinux![
            "mutex_lock_interruptible",
            "mutex_lock_interruptible_nested"
        ],
        HOLDS,
    ),
    lock(
        "mutex_lock_io",
        LockCall::Acquire(Mode::Exclusive),
        vmlinux!["mutex_lock_io", "mutex_lock_io_nested"],
        HOLDS,
    )
    .rare(),
    lock(
        "mutex_trylock",
        LockCall::Try(Mode::Exclusive),
        // The second is its name in newer kernels' lockdep builds.
        vmlinux!["mutex_trylock", "_mutex_trylock_nest_lock"],
        "acquisitions by trylock, and its failures",
    ),
    lock(
        "mutex_unlock",
        LockCall::Release(Mode::Exclusive),
        vmlinux!["mutex_unlock"],
        "when mutexes are released, and flags that they guard",
    ),
    lock(
        "down_read",
        LockCall::Acquire(Mode::Read),
        vmlinux!["down_read"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_read_nested",
        LockCall::Acquire(Mode::Read),
        vmlinux!["down_read_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_killable",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_killable"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_killable_nested",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_killable_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_interruptible",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_interruptible"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_trylock",
        LockCall::Try(Mode::Read),
        vmlinux!["down_read_trylock"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_write",
        LockCall::Acquire(Mode::Write),
        vmlinux!["down_write"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_write_nested",
        LockCall::Acquire(Mode::Write),
        vmlinux!["down_write_nested", "_down_write_nest_lock"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_killable",
        LockCall::AcquireInterruptible(Mode::Write),
        vmlinux!["down_write_killable"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_killable_nested",
        LockCall::AcquireInterruptible(Mode::Write),
        vmlinux!["down_write_killable_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_trylock",
        LockCall::Try(Mode::Write),
        vmlinux!["down_write_trylock"],
        RWSEM_HOLDS,
    ),
    lock(
        "up_read",
        LockCall::Release(Mode::Read),
        vmlinux!["up_read"],
        "when rwsems are released by readers",
    ),
    lock(
        "up_write",
        LockCall::Release(Mode::Write),
        vmlinux!["up_write"],
        "when rwsems are released by writers",
    ),
    lock(
        "downgrade_write",
        LockCall::Downgrade,
        vmlinux!["downgrade_write"],
        "writers that become readers",
    )
    .rare(),
];

const fn point(
    label: &'static str,
    kind: Kind,
    role: Role,
    generations: Generations,
    names: &'static [Name],
    arguments: &'static str,
    lost: &'static str,
) -> Point {
    Point {
        name: label,
        kind,
        role,
        level: 1,
        generations,
        names,
        arguments,
        lost,
        instead: &[],
        expected: true,
    }
}

/// Contention, wait queues, work items, and the ends of objects.
const OTHERS: &[Point] = &[
    point(
        "contention_begin",
        Kind::Tracepoint,
        Role::Contention(Contention::Begin),
        ALL,
        vmlinux!["lock:contention_begin"],
        "the lock, flags: 1 spinning, 2 reading, 4 writing, 32 a mutex",
        "contended waits where no lock function is probed (level 1)",
    ),
    point(
        "contention_end",
        Kind::Tracepoint,
        Role::Contention(Contention::End),
        ALL,
        vmlinux!["lock:contention_end"],
        "the lock, 0 or -errno",
        "how long contended waits last, where acquisitions are not probed at their return",
    ),
    point(
        "prepare_to_wait_event",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Prepare),
        FLAG,
        vmlinux!["prepare_to_wait_event"],
        "1 the wait queue",
        "waits for kvm_busy",
    ),
    point(
        "finish_wait",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Finish),
        FLAG,
        vmlinux!["finish_wait"],
        "1 the wait queue",
        "when waits for kvm_busy end",
    ),
    point(
        "__wake_up",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Wake),
        FLAG,
        vmlinux!["__wake_up"],
        "1 the wait queue",
        "who wakes those that wait for kvm_busy",
    ),
    point(
        "workqueue_execute_start",
        Kind::Tracepoint,
        Role::Work(Work::Start),
        RESET_WORK,
        vmlinux!["workqueue:workqueue_execute_start"],
        "the work item",
        "which worker verifies a queue's reset, and since when",
    )
    .or(&[entry_id::APQ_RESET_CHECK]),
    point(
        "workqueue_execute_end",
        Kind::Tracepoint,
        Role::Work(Work::End),
        RESET_WORK,
        vmlinux!["workqueue:workqueue_execute_end"],
        "the work item",
        "when a queue's reset is verified",
    )
    .or(&[entry_id::APQ_RESET_CHECK]),
    point(
        "flush_work",
        Kind::Function,
        Role::Work(Work::Flush),
        RESET_WORK,
        vmlinux!["flush_work"],
        "1 the work item",
        "who waits for a queue's reset",
    )
    .or(&[entry_id::RESET_QUEUES]),
    point(
        "kvm_arch_destroy_vm",
        Kind::Function,
        Role::Gone(Gone::Kvm),
        ALL,
        kvm!["kvm_arch_destroy_vm"],
        "1 struct kvm *",
        "locks of guests that ended: they stay until their slots are needed",
    ),
    point(
        "kvm_arch_vcpu_destroy",
        Kind::Function,
        Role::Gone(Gone::Vcpu),
        ALL,
        kvm!["kvm_arch_vcpu_destroy"],
        "1 struct kvm_vcpu *",
        "locks of vCPUs that ended: they stay until their slots are needed",
    ),
    point(
        "vfio_ap_mdev_remove (end of the mdev)",
        Kind::Function,
        Role::Gone(Gone::Mdev),
        ALL,
        vfio_ap!["vfio_ap_mdev_remove"],
        "1 struct mdev_device *",
        "locks of mdevs that were removed",
    ),
    point(
        "vfio_ap_mdev_remove_queue (end of the queue)",
        Kind::Function,
        Role::Gone(Gone::Queue),
        ALL,
        vfio_ap!["vfio_ap_mdev_remove_queue", "vfio_ap_queue_dev_remove"],
        "1 struct ap_device *",
        "work items of queues that are gone",
    ),
];

/// All points, entry points first.
pub fn points() -> impl Iterator<Item = &'static Point> {
    ENTRIES.iter().chain(LOCKS).chain(OTHERS)
}

/// All variables.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "matrix_dev",
        content: Content::MatrixDev,
        generations: ALL,
        names: &[("matrix_dev", VFIO_AP)],
        lost: "the driver's own locks, until an entry point names an mdev",
    },
    Variable {
        name: "ap_perms_mutex",
        content: Content::Lock(class_id::AP_PERMS_MUTEX),
        // vfio_ap takes it since v6.0, the bus itself always.
        generations: Generations::range(V5_10, V6_6),
        names: &[
            ("lab_ap_perms_mutex", Some("aplab")),
            ("ap_perms_mutex", Some("ap")),
            ("ap_perms_mutex", None),
        ],
        lost: "the AP bus's lock around apmask and aqmask",
    },
    Variable {
        name: "ap_attr_mutex",
        content: Content::Lock(class_id::AP_ATTR_MUTEX),
        generations: RESET_WORK,
        names: &[("ap_attr_mutex", Some("ap")), ("ap_attr_mutex", None)],
        lost: "the AP bus's lock around apmask and aqmask (its name since v6.19)",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_point_is_in_the_table_once() {
        let ids: Vec<u8> = points()
            .filter_map(|point| match point.role {
                Role::Entry(id) => Some(id),
                _ => None,
            })
            .collect();
        let set: HashSet<u8> = ids.iter().copied().collect();
        assert_eq!(set.len(), ids.len());
        for id in 1..ENTRY_POINTS.len() as u8 {
            assert!(set.contains(&id), "{}", ENTRY_POINTS[id as usize].name);
        }
    }

    #[test]
    fn names_agree_with_the_list_of_entry_points() {
        for point in points() {
            let Role::Entry(id) = point.role else {
                continue;
            };
            let entry = &ENTRY_POINTS[usize::from(id)];
            assert!(
                point.names.iter().any(|name| name.symbol == entry.symbol
                    && name.module.unwrap_or("kernel") == entry.module),
                "{}",
                point.name
            );
        }
    }

    #[test]
    fn points_are_told_apart_and_complete() {
        let mut seen = HashSet::new();
        for point in points() {
            assert!(seen.insert(point.name), "{}", point.name);
            assert!(!point.names.is_empty() && !point.lost.is_empty());
            assert!(matches!(point.level, 1 | 2));
            assert!(!point.generations.is_empty(), "{}", point.name);
        }
    }
}
