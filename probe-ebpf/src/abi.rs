//! Every type that is shared between the probes and the collector.
//!
//! All types are `#[repr(C)]`, fixed width and in the machine's byte order; sizes and offsets are asserted below.
//! Memory that both sides touch at once is made of [`Word`]s: 64-bit cells that are read and written whole.
//! Statistics only ever grow, by atomic adds. A [`Task`] is written only by the task it describes.

use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};

use crate::h2;

/// Version of this ABI. An object built for another version is refused at load.
pub const VERSION: u32 = 6;

/// Lock classes at most.
pub const MAX_CLASSES: usize = 20;
/// Lock series at most: a class, times two for the modes of an rwsem.
pub const MAX_SERIES: usize = MAX_CLASSES * 2;
/// Entry points at most.
pub const MAX_ENTRY_POINTS: usize = 64;
/// Locks a task can hold at once; more are counted in [`Task::lost_holds`].
pub const MAX_HELD: usize = 8;
/// Waits a task can be in at once: a flag's waiter may queue for the guarding mutex.
pub const MAX_WAITS: usize = 4;
/// Entry points a task can be inside of at once.
pub const MAX_NESTED: usize = 8;
/// Instance pairs sampled for an order edge.
pub const MAX_PAIRS: usize = 8;
/// Return codes counted apart: index 0 is `ok`, 1..=[`MAX_ERRNO`] is `-errno`, the last is every other value.
pub const RETURN_CODES: usize = 536;
/// Largest errno counted apart: covers the kernel-internal ones (`ERESTARTSYS` 512 to `ENOPARAM` 519, `EIOCBQUEUED` 529).
pub const MAX_ERRNO: usize = RETURN_CODES - 2;
/// PQAP function codes counted apart.
pub const PQAP_FUNCTIONS: usize = 16;
/// PQAP response codes.
pub const PQAP_RESPONSES: usize = 256;
/// CPUs with counters of their own.
pub const MAX_CPUS: usize = 512;
/// "No instance": the lock has statistics by class only.
pub const NO_INSTANCE: u32 = u32::MAX;

/// A 64-bit cell that both sides may touch at once.
#[repr(transparent)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: every access is one aligned 64-bit load, store or atomic add, on all supported machines.
unsafe impl Sync for Word {}

impl Word {
    /// A cell holding `value`.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The current value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the cell is valid and aligned; volatile makes it one load.
        return unsafe { core::ptr::read_volatile(self.0.get()) };
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: the cell is valid and aligned, and only accessed atomically.
        return unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
            .load(core::sync::atomic::Ordering::Relaxed);
    }

    /// Stores a value. For cells that have a single writer.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the cell is valid and aligned; volatile makes it one store.
        unsafe {
            core::ptr::write_volatile(self.0.get(), value);
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: the cell is valid and aligned, and only accessed atomically.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
            .store(value, core::sync::atomic::Ordering::Relaxed);
    }

    /// Stores a value before everything that this task writes afterwards, and after everything it wrote before, as
    /// others see it. For sequence counters.
    #[inline(always)]
    pub fn set_ordered(&self, value: u64) {
        // x86-64 and s390x do not reorder stores; aarch64 needs a full barrier, which an exchange is.
        #[cfg(all(target_arch = "bpf", not(bpf_target_arch = "aarch64")))]
        self.set(value);
        #[cfg(all(target_arch = "bpf", bpf_target_arch = "aarch64"))]
        // SAFETY: the cell is valid and aligned.
        unsafe {
            core::intrinsics::atomic_xchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }>(
                self.0.get(),
                value,
            );
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            use core::sync::atomic::{AtomicU64, Ordering, fence};
            // SAFETY: the cell is valid and aligned, and only accessed atomically.
            unsafe { AtomicU64::from_ptr(self.0.get()) }.store(value, Ordering::Release);
            fence(Ordering::Release);
        }
    }

    /// Adds to the cell, atomically. Returns nothing: Linux 5.10 has no fetching atomics for eBPF.
    #[inline(always)]
    pub fn add(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        // SAFETY: the cell is valid and aligned.
        unsafe {
            core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::Relaxed }>(
                self.0.get(),
                value,
            );
        }
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: the cell is valid and aligned, and only accessed atomically.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
            .fetch_add(value, core::sync::atomic::Ordering::Relaxed);
    }
}

/// Kinds of lock.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// `struct mutex`.
    Mutex = 0,
    /// `struct rw_semaphore`.
    Rwsem = 1,
    /// An open-coded lock: a flag guarded by a mutex, with a wait queue.
    Flag = 2,
    /// A work item: held by the worker that executes it, waited for with `flush_work`.
    Work = 3,
}

/// How a lock is taken.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The only mode of a mutex, a flag or a work item.
    Exclusive = 0,
    /// An rwsem's read side.
    Read = 1,
    /// An rwsem's write side.
    Write = 2,
}

impl Mode {
    /// The mode with this number; unknown numbers are `Exclusive`.
    #[must_use]
    pub const fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Read,
            2 => Self::Write,
            _ => Self::Exclusive,
        }
    }
}

/// Index of a lock series (class and mode): `2 * class + (mode is read)`.
#[inline(always)]
#[must_use]
pub const fn series(class: u8, mode: Mode) -> u8 {
    (class << 1) | (matches!(mode, Mode::Read) as u8)
}

/// The mutex guards a flag that is sampled when it is released.
pub const LOCK_GUARDS_FLAG: u8 = 1;
/// The address is that of a wait queue; [`LockInfo::target`] is the flag's address.
pub const LOCK_IS_WAIT_QUEUE: u8 = 2;

/// The only lock of its class: statistics by class are those of the instance, and no others are kept.
pub const LOCK_IS_ONLY_INSTANCE: u8 = 4;

/// What is known about a traced address. Value of the map `LOCKS`, keyed by address.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockInfo {
    /// For a wait queue, the address of its flag; otherwise 0.
    pub target: u64,
    /// First slot in `INSTANCES` (an rwsem has two: write, read), or [`NO_INSTANCE`].
    pub instance: u32,
    /// Class id.
    pub class: u8,
    /// A [`LockKind`].
    pub kind: u8,
    /// `LOCK_*` bits.
    pub flags: u8,
    /// 0.
    pub reserved: u8,
}

/// Slots of a lock whose kind is not known before it is used: those of an rwsem (write, read), then that of a mutex, and
/// one that keeps the number even.
pub const SLOTS_PER_GIVEN: u32 = 4;
/// The mutex's among them.
pub const GIVEN_MUTEX_SLOT: u32 = 2;

impl LockInfo {
    /// What the lock is, now that a function takes it in this mode: only mutexes are taken exclusively, so that is how
    /// the kind of a lock is learned of which a person has given nothing but the address.
    #[inline(always)]
    #[must_use]
    pub const fn taken(self, mode: Mode) -> Self {
        use crate::names::class_id::{GIVEN_LOCK, GIVEN_MUTEX};
        if self.class == GIVEN_LOCK && matches!(mode, Mode::Exclusive) {
            return Self {
                instance: self.instance + GIVEN_MUTEX_SLOT,
                class: GIVEN_MUTEX,
                kind: LockKind::Mutex as u8,
                ..self
            };
        }
        self
    }

    /// All but the target as one word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let Self {
            target: _,
            instance,
            class,
            kind,
            flags,
            reserved: _,
        } = self;
        ((instance as u64) << 32)
            | ((class as u64) << 24)
            | ((kind as u64) << 16)
            | ((flags as u64) << 8)
    }

    /// The inverse of [`LockInfo::pack`], with a target of 0.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            target: 0,
            instance: (word >> 32) as u32,
            class: (word >> 24) as u8,
            kind: (word >> 16) as u8,
            flags: (word >> 8) as u8,
            reserved: 0,
        }
    }
}

/// The flag's owner entry points: sets and clears the flag.
pub const ENTRY_SETS_FLAG: u8 = 1;
/// Tests the flag and waits while it is set.
pub const ENTRY_TESTS_FLAG: u8 = 2;
/// Tests the flag only when its third argument is NULL (the group notifier's unset side).
pub const ENTRY_TESTS_FLAG_IF_NO_DATA: u8 = 4;
/// Counts PQAP response codes at return.
pub const ENTRY_PQAP: u8 = 8;
/// Returns a C `int`: the upper half of the return register means nothing.
pub const ENTRY_RETURNS_INT: u8 = 16;
/// Returns nothing.
pub const ENTRY_RETURNS_VOID: u8 = 32;
/// Returns `NOTIFY_*`.
pub const ENTRY_RETURNS_NOTIFY: u8 = 64;
/// Argument 5 is the pid of the process on whose behalf a file system thread makes the call (0: the caller itself),
/// argument 6 the address of its name, 16 bytes, NUL-padded. Only the emulated driver has them: in a kernel the writer
/// is the current task.
pub const ENTRY_HAS_WRITER: u8 = 128;

/// How an entry point's object (the matrix mdev) and its argument for display are found.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// No object.
    None = 0,
    /// Argument 1 is `struct device *`; its `driver_data` is the mdev. Argument 3 is the text written or NULL.
    Device = 1,
    /// Argument 1 is `struct mdev_device *`; its driver data is the mdev. Argument 2 is the ioctl command.
    MdevDevice = 2,
    /// Argument 1 is the `notifier_block` inside the mdev. Argument 3 is the kvm or NULL.
    Notifier = 3,
    /// Argument 1 is a vCPU: the mdev is the one whose hook the vCPU's kvm has when the guard is acquired.
    Vcpu = 4,
    /// Argument 1 is a kvm.
    Kvm = 5,
    /// As `Device`, but argument 3 is the page to be filled.
    Show = 6,
    /// Argument 1 is `struct ap_device *` of a queue, whose APQN is the argument for display. In a kernel with
    /// `reset_work` the object is the driver's `struct vfio_ap_queue`.
    ApDevice = 7,
    /// Argument 2 is `struct mdev_device *`, whose driver data is the mdev, if it has one yet.
    NewMdev = 8,
    /// Argument 1 is the matrix mdev itself.
    Mdev = 9,
    /// No object. Argument 2 is the text written (an attribute of a bus).
    BusText = 10,
    /// No object. Argument 2 is shown.
    Action = 11,
    /// Argument 1 is `struct file *`, whose `private_data` is a vCPU. Argument 2 is the ioctl command.
    VcpuFile = 12,
    /// Argument 1 is a vCPU. Argument 2 is shown.
    VcpuCall = 13,
    /// As `Vcpu`, and only calls that handle a PQAP instruction count: kvm's own handler is inlined into the handler of
    /// a whole opcode group.
    VcpuB2 = 14,
    /// Argument 1 is `struct kvm_device *`, whose `private` is a `struct kvm_vfio`.
    KvmDevice = 15,
    /// Argument 1 is the `struct vfio_device` that a matrix mdev begins with. Argument 2 is shown.
    VfioDevice = 16,
    /// Argument 1 is `struct file *`, whose `private_data` is a kvm. Argument 2 is the ioctl command, and only calls with
    /// the command [`KVM_S390_PV_COMMAND`] count: its handler is inlined into that of all ioctls of a guest.
    KvmFilePv = 17,
    /// Argument 1 is the `reset_work` of a `struct vfio_ap_queue`. The argument for display has, as that of a PQAP, the
    /// response code with which the reset was answered, where that can be read.
    Work = 18,
}

/// `_IOWR(KVMIO, 0xc5, struct kvm_pv_cmd)` (include/uapi/linux/kvm.h).
pub const KVM_S390_PV_COMMAND: u32 = 0xc020_aec5;

/// A PQAP span's response code is in bits 32 to 39 of [`Span::extra`].
pub const PQAP_RESPONDED: u64 = 1 << 40;

/// Index in the map `PQAP`: (the driver's or kvm's handler, function code, response code).
#[inline(always)]
#[must_use]
pub const fn pqap_index(entry: u8, function: u8, response: u8) -> u32 {
    let handler = (entry != crate::names::entry_id::HANDLE_PQAP) as u32;
    let function = function as u32 & (PQAP_FUNCTIONS as u32 - 1);
    (handler * PQAP_FUNCTIONS as u32 + function) * PQAP_RESPONSES as u32 + response as u32
}

/// Attach-time facts of an entry point. Value of the map `ENTRY_INFO`, indexed by entry point id.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryInfo {
    /// `ENTRY_*` bits.
    pub flags: u8,
    /// A [`Resolve`].
    pub resolve: u8,
    /// 0.
    pub reserved: [u8; 6],
}

/// Read-only configuration, written into the object before it is loaded. Offsets are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// [`VERSION`] of the collector.
    pub version: u32,
    /// Number of shards of the full-resolution statistics, minus one; a power of two minus one.
    pub shard_mask: u32,
    /// 1: object memory is user memory (the emulator); 0: kernel memory.
    pub user_memory: u32,
    /// The ring wakes its reader when more than this many bytes are waiting.
    pub ring_wake_bytes: u32,
    /// `kvm_busy` in `struct ap_matrix_mdev`.
    pub mdev_flag: u32,
    /// The notifier block in `struct ap_matrix_mdev`.
    pub mdev_notifier: u32,
    /// `pqap_hook` in `struct ap_matrix_mdev`.
    pub mdev_hook: u32,
    /// `driver_data` in `struct device`.
    pub device_driver_data: u32,
    /// Driver data in `struct mdev_device`.
    pub mdev_device_driver_data: u32,
    /// `kvm` in `struct kvm_vcpu`.
    pub vcpu_kvm: u32,
    /// `run` in `struct kvm_vcpu`.
    pub vcpu_run: u32,
    /// `arch.crypto.pqap_hook` in `struct kvm`.
    pub kvm_hook: u32,
    /// `s.regs.gprs[0]` in `struct kvm_run`.
    pub run_gprs: u32,
    /// The APQN, a 32-bit word, in the structure around a queue's `struct ap_device`.
    pub ap_device_qid: u32,
    /// 1 where the generation has an open-coded flag.
    pub has_flag: u32,
    /// 1: locks are adopted from the arguments of entry points, and forgotten when their object ends (a kernel);
    /// 0: the table of locks is complete before anything runs (the emulator).
    pub adopts: u32,
    /// 1: a lock function is seen when it is called, not when it returns, so that its acquisition is settled at the
    /// task's next event.
    pub tentative: u32,
    /// 1: the kernel has `contention_begin` and `contention_end`.
    pub contention_events: u32,
    /// `private_data` in `struct file`; [`NO_OFFSET`] where it is not known, as with all that follow.
    pub file_private_data: u32,
    /// `mutex` in `struct kvm_vcpu`.
    pub vcpu_mutex: u32,
    /// `vcpu_id` in `struct kvm_vcpu`.
    pub vcpu_id: u32,
    /// `arch.sie_block`, a pointer, in `struct kvm_vcpu`.
    pub vcpu_sie_block: u32,
    /// `ipa` in `struct kvm_s390_sie_block`.
    pub sie_ipa: u32,
    /// `lock` in `struct kvm`.
    pub kvm_lock: u32,
    /// `arch.crypto.pqap_hook_rwsem` in `struct kvm`.
    pub kvm_rwsem: u32,
    /// `kvm` in `struct ap_matrix_mdev`.
    pub mdev_kvm: u32,
    /// `kvm` in `struct vfio_device`.
    pub vdev_kvm: u32,
    /// `wait_for_kvm` in `struct ap_matrix_mdev`.
    pub mdev_wait_queue: u32,
    /// `private` in `struct kvm_device`.
    pub kvm_device_private: u32,
    /// `lock` in `struct kvm_vfio`.
    pub kvm_vfio_lock: u32,
    /// `func` in `struct work_struct`.
    pub work_func: u32,
    /// `reset_work` in `struct vfio_ap_queue`.
    pub queue_reset_work: u32,
    /// `owner` in `struct mutex`.
    pub mutex_owner: u32,
    /// `kvm` in `struct kvm_device`.
    pub kvm_device_kvm: u32,
    /// `dev_set`, a pointer, in `struct vfio_device`.
    pub vdev_dev_set: u32,
    /// `lock` in `struct vfio_device_set`.
    pub dev_set_lock: u32,
    /// Address of the function of a queue's `reset_work`; 0 where the generation has none.
    pub reset_work_func: u64,
    /// The byte in `struct vfio_ap_queue` with the response code that the last reset was answered with, or
    /// [`NO_OFFSET`].
    pub queue_reset_rc: u32,
    /// `matrix_mdev`, a pointer, in `struct vfio_ap_queue`.
    pub queue_mdev: u32,
    /// Driver data, the `struct vfio_ap_queue`, in what is given of a queue's `struct ap_device`.
    pub ap_device_queue: u32,
    /// `group`, a pointer, in `struct vfio_device`.
    pub vdev_group: u32,
    /// `group_lock` in `struct vfio_group`, or `group_rwsem`, which it was before.
    pub group_lock: u32,
    /// 1: it is a `struct rw_semaphore`.
    pub group_is_rwsem: u32,
}

impl Config {
    /// This version's, with 0 everywhere else: what an object holds before the collector has written to it.
    pub const EMPTY: Self = Self {
        version: VERSION,
        shard_mask: 0,
        user_memory: 0,
        ring_wake_bytes: 0,
        mdev_flag: 0,
        mdev_notifier: 0,
        mdev_hook: 0,
        device_driver_data: 0,
        mdev_device_driver_data: 0,
        vcpu_kvm: 0,
        vcpu_run: 0,
        kvm_hook: 0,
        run_gprs: 0,
        ap_device_qid: 0,
        has_flag: 0,
        adopts: 0,
        tentative: 0,
        contention_events: 0,
        file_private_data: 0,
        vcpu_mutex: 0,
        vcpu_id: 0,
        vcpu_sie_block: 0,
        sie_ipa: 0,
        kvm_lock: 0,
        kvm_rwsem: 0,
        mdev_kvm: 0,
        vdev_kvm: 0,
        mdev_wait_queue: 0,
        kvm_device_private: 0,
        kvm_vfio_lock: 0,
        work_func: 0,
        queue_reset_work: 0,
        mutex_owner: 0,
        kvm_device_kvm: 0,
        vdev_dev_set: 0,
        dev_set_lock: 0,
        reset_work_func: 0,
        queue_reset_rc: NO_OFFSET,
        queue_mdev: NO_OFFSET,
        ap_device_queue: NO_OFFSET,
        vdev_group: NO_OFFSET,
        group_lock: NO_OFFSET,
        group_is_rwsem: 0,
    };
}

/// "Not known" as an offset in [`Config`].
pub const NO_OFFSET: u32 = u32::MAX;

/// An adopted lock instance. Element of the map `INSTANCE_INFO`, by instance slot; written once, but for `gone_ns`.
#[repr(C)]
pub struct InstanceInfo {
    /// Address of the lock; 0 marks a free slot. Written last.
    pub address: Word,
    /// Class id in the low byte, [`LockKind`] in the next.
    pub class: Word,
    /// What it belongs to: kvm, matrix mdev or queue.
    pub object: Word,
    /// Number within it: the vCPU's id.
    pub number: Word,
    /// Thread group of the task that it was adopted from.
    pub tgid: Word,
    /// When it was adopted, CLOCK_MONOTONIC nanoseconds.
    pub since: Word,
    /// When its object ended, CLOCK_MONOTONIC nanoseconds; 0 while it lives.
    pub gone_ns: Word,
    /// 0.
    pub reserved: Word,
}

/// Most bytes of kernel memory that are read at once; a power of two, and one less can be read.
pub const PEEK_BYTES: usize = 4096;

/// Adopted instances take two slots each, like an rwsem.
pub const SLOTS_PER_ADOPTED: u32 = 2;

/// A lock that is adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Address of the lock, or of the flag.
    pub address: u64,
    /// Class id.
    pub class: u8,
    /// A [`LockKind`].
    pub kind: u8,
    /// See [`InstanceInfo::object`].
    pub object: u64,
    /// See [`InstanceInfo::number`].
    pub number: u32,
    /// For a flag, the address of its wait queue; otherwise 0.
    pub wait_queue: u64,
}

/// Words of the map `GATE`: what lets the programs work.
pub mod gate {
    /// Jiffies of the last heartbeat.
    pub const BEAT: u32 = 0;
    /// Jiffies for which a heartbeat holds.
    pub const LIMIT: u32 = 1;
    /// Time of the last heartbeat, CLOCK_MONOTONIC nanoseconds.
    pub const BEAT_NS: u32 = 2;
    /// The level that is attached, 1 or 2: below 2, holds are not seen.
    pub const LEVEL: u32 = 3;
    /// Waits and holds at least this long have their stack taken, in nanoseconds; 0: none.
    pub const STACKS_OVER: u32 = 4;
    /// 1: no spans are written.
    pub const NO_SPANS: u32 = 5;
    /// Grows when the programs work again after a silence: what tasks held and waited for before is not known any more.
    pub const EPOCH: u32 = 6;
    /// Jiffies until which the programs work, [`LIMIT`] after the last heartbeat; 0 until every program is attached: a
    /// release must not be seen before the acquisition can be.
    pub const UNTIL: u32 = 7;
    /// Number of words.
    pub const WORDS: u32 = 8;
}

/// Full-resolution statistics of one lock series in one shard. Every acquisition of a mutex or rwsem has a wait
/// (0 if uncontended), so the number of acquisitions is the sum of `wait`.
#[repr(C)]
pub struct SeriesStats {
    /// Flags and work items only: times a task became a holder, or executions started.
    pub acquisitions: Word,
    /// Slow paths entered; for a flag, wait loops that slept; for a work item, flushes that had to wait.
    pub contended: Word,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: Word,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: Word,
    /// Sum of all waits, in nanoseconds.
    pub wait_sum: Word,
    /// Sum of all holds, in nanoseconds.
    pub hold_sum: Word,
    /// Waits by [`h2::bucket`]; of flags and work items, only those that slept.
    pub wait: [Word; h2::BUCKETS],
    /// Holds by [`h2::bucket`].
    pub hold: [Word; h2::BUCKETS],
}

/// Full-resolution statistics of one entry point in one shard.
#[repr(C)]
pub struct EntryStats {
    /// Calls started.
    pub calls: Word,
    /// Sum of all latencies, in nanoseconds.
    pub latency_sum: Word,
    /// Returns whose call was not seen, or lost to nesting deeper than [`MAX_NESTED`].
    pub unmatched_returns: Word,
    /// Latencies by [`h2::bucket`].
    pub latency: [Word; h2::BUCKETS],
    /// Returns: index 0 `ok`, 1..=[`MAX_ERRNO`] `-errno`, last other. For notifiers: 0 `NOTIFY_DONE`,
    /// 1 `NOTIFY_OK`, 2 `NOTIFY_BAD`, 3 `NOTIFY_STOP`.
    pub returns: [Word; RETURN_CODES],
}

/// Coarse statistics: of one instance, or of one (series, entry point) pair. Shared by all CPUs.
#[repr(C)]
pub struct Coarse {
    /// Flags and work items only: times a task became a holder, or executions started.
    pub acquisitions: Word,
    /// Slow paths entered; for a flag, wait loops that slept; for a work item, flushes that had to wait.
    pub contended: Word,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: Word,
    /// Releases whose acquisition was not seen.
    pub unmatched_releases: Word,
    /// Sum of all waits, in nanoseconds.
    pub wait_sum: Word,
    /// Sum of all holds, in nanoseconds.
    pub hold_sum: Word,
    /// Wake-ups of the wait queue (flags only).
    pub wakes: Word,
    /// Last sampled value plus 1 (flags only); 0 before the first sample.
    pub value: Word,
    /// Waits by [`h2::ilog2`]; of flags, only those that slept.
    pub wait: [Word; h2::COARSE_BUCKETS],
    /// Holds by [`h2::ilog2`].
    pub hold: [Word; h2::COARSE_BUCKETS],
}

/// The open-coded lock's flag was already set by somebody else when this task became a holder.
pub const HELD_SECOND_HOLDER: u8 = 1;
/// The acquisition took the slow path.
pub const HELD_CONTENDED: u8 = 2;
/// The lock guards an open-coded flag.
pub const HELD_IS_GUARD: u8 = 4;
/// The flag was set when it was first looked at: by this task, or by one that set it before anybody looked.
pub const HELD_UNCERTAIN: u8 = 16;
/// As [`LOCK_IS_ONLY_INSTANCE`].
pub const HELD_IS_ONLY_INSTANCE: u8 = 8;
/// The lock function was called, and whether it has the lock is settled at the task's next event.
pub const HELD_TENTATIVE: u8 = 32;

/// Packed facts of a holding or a waiting, see [`Info`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Instance slot of this series (mode already applied), or [`NO_INSTANCE`].
    pub instance: u32,
    /// Series.
    pub series: u8,
    /// Entry point the task was in.
    pub entry: u8,
    /// A [`LockKind`].
    pub kind: u8,
    /// `HELD_*` or `WAIT_*` bits.
    pub flags: u8,
}

impl Info {
    /// One word: `instance << 32 | series << 24 | entry << 16 | kind << 8 | flags`.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        ((self.instance as u64) << 32)
            | ((self.series as u64) << 24)
            | ((self.entry as u64) << 16)
            | ((self.kind as u64) << 8)
            | self.flags as u64
    }

    /// The inverse of [`Info::pack`].
    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            instance: (word >> 32) as u32,
            series: (word >> 24) as u8,
            entry: (word >> 16) as u8,
            kind: (word >> 8) as u8,
            flags: word as u8,
        }
    }
}

/// A lock that a task holds.
#[repr(C)]
pub struct Held {
    /// Address of the lock (of the flag, for an open-coded lock); 0 marks a free place.
    pub lock: Word,
    /// Acquisition time, CLOCK_MONOTONIC nanoseconds.
    pub since: Word,
    /// How long the acquisition waited, in nanoseconds.
    pub wait: Word,
    /// Sequence number of this holding within the task.
    pub serial: Word,
    /// An [`Info`].
    pub info: Word,
}

/// The wait loop has slept (flags): the guard was released inside it.
pub const WAIT_SLEPT: u8 = 1;

/// A lock that a task waits for.
#[repr(C)]
pub struct Waiting {
    /// Address of the lock (of the flag, for an open-coded lock).
    pub lock: Word,
    /// Start of the wait, CLOCK_MONOTONIC nanoseconds.
    pub since: Word,
    /// Times the wait loop went round (flags): more than 1 means woken in vain.
    pub rounds: Word,
    /// Sequence number of this waiting within the task.
    pub serial: Word,
    /// An [`Info`].
    pub info: Word,
}

/// An entry point that a task is inside of.
#[repr(C)]
pub struct Inside {
    /// Entry point id; in bits 8 to 15 the `ENTRY_*` bits that hold for this call, in bits 16 to 23 the [`Resolve`].
    pub entry: Word,
    /// Call time, CLOCK_MONOTONIC nanoseconds.
    pub since: Word,
    /// Address of the matrix mdev (or vCPU, for [`Resolve::Vcpu`]; or kvm; or queue, for [`Resolve::ApDevice`]); 0 if
    /// none.
    pub object: Word,
    /// First argument of the call.
    pub first: Word,
    /// Argument for display, by [`Resolve`]: Device and BusText: the first 8 bytes of the text written; MdevDevice:
    /// the ioctl command; Notifier: kvm; Vcpu: GR0 (function code and APQN); ApDevice: the APQN; NewMdev and Action:
    /// argument 2.
    pub arg: Word,
    /// Pid of the process on whose behalf the call is made; 0: the task itself.
    pub writer: Word,
    /// Its name, NUL-padded; meaningless where `writer` is 0.
    pub writer_comm: [Word; 2],
    /// Stack pointer at the call, by which a return finds it; 0 where returns find it by entry point.
    pub frame: Word,
    /// See [`Call::mdev`].
    pub mdev: Word,
    /// See [`Call::guest`].
    pub guest: Word,
}

/// Places in [`Task::known`].
pub const KNOWN: usize = 4;

/// A copy of a lock's entry in `LOCKS`, which costs less to look at. Locks do not change while they are traced.
#[repr(C)]
pub struct Known {
    /// Address; 0 for none.
    pub address: Word,
    /// [`LockInfo::pack`].
    pub info: Word,
}

/// Place of an address in [`Task::known`].
#[inline(always)]
#[must_use]
pub const fn known_place(address: u64) -> usize {
    ((address >> 4) ^ (address >> 9)) as usize & (KNOWN - 1)
}

/// Live state of one task. Element of the map `TASKS`; written by that task alone.
#[repr(C)]
pub struct Task {
    /// Odd while the task is changing the record.
    pub sequence: Word,
    /// Thread id in the low half, thread group id in the high half; 0 marks a free slot.
    pub id: Word,
    /// Thread name, NUL-padded.
    pub comm: [Word; 2],
    /// Source of serial numbers.
    pub serial: Word,
    /// Holdings that did not fit into `held`.
    pub lost_holds: Word,
    /// Valid elements of `waits`, the innermost last.
    pub waits_len: Word,
    /// Valid elements of `inside`, the innermost last; larger than [`MAX_NESTED`] when calls were lost.
    pub inside_len: Word,
    /// Valid elements of `held`.
    pub held_len: Word,
    /// Place in `held` of the latest acquisition: where the next release most often finds its lock.
    pub latest: Word,
    /// `PENDING_*` bits of an acquisition that is settled at the task's next event; 0 if there is none. Its place in
    /// `held` is in bits 8 to 15.
    pub pending: Word,
    /// [`gate::EPOCH`] in which the record was last changed (a kernel).
    pub epoch: Word,
    /// What this task has lately learned of traced addresses, by [`known_place`].
    pub known: [Known; KNOWN],
    /// Locks held, in any order (their serial numbers tell it), with free places between them.
    pub held: [Held; MAX_HELD],
    /// Locks waited for.
    pub waits: [Waiting; MAX_WAITS],
    /// Entry points the task is inside of.
    pub inside: [Inside; MAX_NESTED],
}

/// The pending acquisition is in [`Task::held`]: the lock was free, or the kernel tells of contention.
pub const PENDING_HOLD: u64 = 1;
/// The pending acquisition is the innermost of [`Task::waits`]: the lock was taken when its function was called.
pub const PENDING_WAIT: u64 = 2;
/// The function may return without the lock.
pub const PENDING_MAY_FAIL: u64 = 4;
/// The function is a trylock: its return settles it, where that is seen.
pub const PENDING_TRY: u64 = 8;

/// Smallest and largest value seen by one task; `min` is stored as `u64::MAX - min`, so that 0 means "none yet".
#[repr(C)]
pub struct Extremes {
    /// `u64::MAX - min`, or 0 where there is no value yet.
    pub inverse_min: Word,
    /// Maximum.
    pub max: Word,
}

/// Per task, because a single writer needs no compare-and-swap (Linux 5.10 has none for eBPF) and so the extremes
/// are exact. Element of the map `EXTREMES`, same index as the task's.
#[repr(C)]
pub struct TaskExtremes {
    /// Contended waits by series.
    pub wait: [Extremes; MAX_SERIES],
    /// Holds by series.
    pub hold: [Extremes; MAX_SERIES],
    /// Latencies by entry point.
    pub latency: [Extremes; MAX_ENTRY_POINTS],
}

/// The edge comes from an annotation: the entry point tests the flag, found it clear, and left no trace.
pub const EDGE_ANNOTATED: u8 = 1;
/// Both sides are instances of one class, taken in ascending order of instance.
pub const EDGE_ASCENDING: u8 = 2;
/// Both sides are instances of one class, taken in descending order of instance.
pub const EDGE_DESCENDING: u8 = 4;

/// Key of a lock-order edge, as one word: `held series << 32 | acquired series << 24 | entry held in << 16 |
/// entry acquired in << 8 | flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeKey {
    /// Series held.
    pub held: u8,
    /// Series acquired.
    pub acquired: u8,
    /// Entry point in which the held one was acquired.
    pub held_in: u8,
    /// Entry point in which the acquired one was acquired.
    pub acquired_in: u8,
    /// `EDGE_*` bits.
    pub flags: u8,
}

impl EdgeKey {
    /// The key as a word; never 0, because bit 63 is set.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (1 << 63)
            | ((self.held as u64) << 32)
            | ((self.acquired as u64) << 24)
            | ((self.held_in as u64) << 16)
            | ((self.acquired_in as u64) << 8)
            | self.flags as u64
    }

    /// The inverse of [`EdgeKey::pack`].
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            held: (word >> 32) as u8,
            acquired: (word >> 24) as u8,
            held_in: (word >> 16) as u8,
            acquired_in: (word >> 8) as u8,
            flags: word as u8,
        }
    }
}

/// A lock-order edge. Element of the map `EDGES`.
#[repr(C)]
pub struct Edge {
    /// An [`EdgeKey`]; 0 marks a free slot.
    pub key: Word,
    /// Times seen.
    pub count: Word,
    /// Thread id of the first task.
    pub first_tid: Word,
    /// Name of the first task, NUL-padded.
    pub first_comm: [Word; 2],
    /// First seen, CLOCK_MONOTONIC nanoseconds.
    pub first_ns: Word,
    /// Last seen, CLOCK_MONOTONIC nanoseconds.
    pub last_ns: Word,
    /// Instance pairs, `held << 32 | acquired`, plus 1; 0 marks a free place. Pair `n` is where
    /// `hash(pair) % MAX_PAIRS` puts it, first come first kept.
    pub pairs: [Word; MAX_PAIRS],
}

/// The probe programs, for counters by program.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Lock acquisition complete.
    Acquired = 0,
    /// Entry of a lock release.
    Release = 1,
    /// Slow path entered.
    Contended = 2,
    /// Attempt failed.
    Failed = 3,
    /// Entry point called.
    Enter = 4,
    /// Entry point returned.
    Return = 5,
    /// Wait loop entered or gone round.
    WaitPrepare = 6,
    /// Wait loop left.
    WaitFinish = 7,
    /// Wait queue woken.
    Wake = 8,
    /// A worker starts to execute a work item. Its end is [`Program::Release`].
    WorkStart = 9,
    /// Flush of a work item called.
    FlushEnter = 10,
    /// Flush of a work item returned.
    FlushReturn = 11,
    /// A lock function is called (a kernel without fexit).
    Attempt = 12,
    /// `contention_begin`.
    ContentionBegin = 13,
    /// `contention_end`.
    ContentionEnd = 14,
    /// An object ends, and its locks are forgotten.
    Forget = 15,
}

/// Number of [`Program`]s.
pub const PROGRAMS: usize = 16;

/// The first so many are attached to the emulated driver by uprobes, under these names.
pub const UPROBE_PROGRAMS: usize = 12;

/// Names of the programs, by number. The first [`UPROBE_PROGRAMS`] are names of eBPF programs too; in a kernel several
/// eBPF programs, one for each mechanism and mode, count under one name.
pub const PROGRAM_NAMES: [&str; PROGRAMS] = [
    "lock_acquired",
    "lock_release",
    "lock_contended",
    "lock_failed",
    "entry_enter",
    "entry_return",
    "wait_prepare",
    "wait_finish",
    "wait_wake",
    "work_start",
    "flush_enter",
    "flush_return",
    "lock_attempt",
    "contention_begin",
    "contention_end",
    "object_gone",
];

/// Counters of one program on one CPU. Element of the map `COUNTERS`, index `cpu * PROGRAMS + program`.
#[repr(C)]
pub struct Counters {
    /// Records (spans and writers) that were to be written to the ring.
    pub emitted: Word,
    /// Records for which the ring had no room.
    pub dropped: Word,
    /// No task slot: live state and holds of this invocation are lost.
    pub no_task_slot: Word,
    /// No edge slot: the lock-order graph is incomplete.
    pub no_edge_slot: Word,
    /// A task held more than [`MAX_HELD`] locks, waited for more than [`MAX_WAITS`], or was nested deeper than
    /// [`MAX_NESTED`].
    pub overflowed: Word,
    /// Object memory could not be read.
    pub unreadable: Word,
    /// Releases without an acquisition.
    pub unmatched: Word,
    /// 0.
    pub reserved: Word,
}

/// A span is one completed lock cycle.
pub const SPAN_LOCK: u8 = 0;
/// A span is one completed call of an entry point.
pub const SPAN_ENTRY: u8 = 1;
/// No span of its own: names the writer of the same task's next [`SPAN_ENTRY`] of the same entry point. `tid`: the
/// task; `instance`: the writer's pid; `duration_ns` and `extra`: its name, 16 bytes in memory order; `what`: the entry
/// point; `start_ns`: the call.
pub const SPAN_WRITER: u8 = 2;
/// A stack was taken at the end of a long wait (`flags` 0) or hold (`flags` 1). `tid`: the task; `extra`: key in the map
/// `STACKS`; `start_ns`: the wait's or the hold's start; `duration_ns`: its length; `what`: the series.
pub const SPAN_STACK: u8 = 3;

/// Detail record: one completed lock cycle, or one completed call of an entry point. Record of the ring buffer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Acquisition, or call; CLOCK_MONOTONIC nanoseconds.
    pub start_ns: u64,
    /// Hold, or latency.
    pub duration_ns: u64,
    /// Lock: wait. Entry point: the argument for display; for PQAP, GR0's low word (function code and APQN), with
    /// [`PQAP_RESPONDED`] and the response code in bits 32 to 39 where there is one.
    pub extra: u64,
    /// Thread id.
    pub tid: u32,
    /// Lock: instance slot, or [`NO_INSTANCE`]. Entry point: pid of the process on whose behalf it was called, or
    /// [`NO_INSTANCE`] where the task called for itself.
    pub instance: u32,
    /// Entry point: the return value, clipped to 32 bits. Lock: 0.
    pub result: i32,
    /// `SPAN_*`.
    pub kind: u8,
    /// Series, or entry point id.
    pub what: u8,
    /// Entry point the lock was acquired in, or the enclosing entry point.
    pub inside: u8,
    /// `HELD_*` bits.
    pub flags: u8,
}

/// One completed call of an entry point, with what it acted on: the record of the ring buffer for a [`SPAN_ENTRY`]. The
/// others are a [`Span`] alone, which is shorter.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The span.
    pub span: Span,
    /// Address of the matrix mdev: the one that the call was made for, that has the queue it was made for, or that handles
    /// PQAP for the vCPU it was made for. As it was when the call began; of a call that makes an mdev, when it returned. 0
    /// if there is none, or none could be found.
    pub mdev: u64,
    /// Address of the `struct kvm` of the guest: the one that the call was made for, or that had the mdev when the call
    /// began; where it had none, when the call returned. 0 if there is none, or none could be found.
    pub guest: u64,
}

impl Call {
    /// A span that is no call, or acts on nothing.
    #[must_use]
    pub const fn of(span: Span) -> Self {
        Self {
            span,
            mdev: 0,
            guest: 0,
        }
    }
}

// The layout is the contract: a change here needs a new VERSION.
const _: () = {
    assert!(size_of::<Word>() == 8);
    assert!(size_of::<LockInfo>() == 16);
    assert!(offset_of!(LockInfo, target) == 0);
    assert!(offset_of!(LockInfo, instance) == 8);
    assert!(offset_of!(LockInfo, class) == 12);
    assert!(offset_of!(LockInfo, kind) == 13);
    assert!(offset_of!(LockInfo, flags) == 14);
    assert!(offset_of!(LockInfo, reserved) == 15);
    assert!(size_of::<EntryInfo>() == 8);
    assert!(offset_of!(EntryInfo, flags) == 0);
    assert!(offset_of!(EntryInfo, resolve) == 1);
    assert!(offset_of!(EntryInfo, reserved) == 2);
    assert!(size_of::<Config>() == 176);
    assert!(offset_of!(Config, version) == 0);
    assert!(offset_of!(Config, shard_mask) == 4);
    assert!(offset_of!(Config, user_memory) == 8);
    assert!(offset_of!(Config, ring_wake_bytes) == 12);
    assert!(offset_of!(Config, mdev_flag) == 16);
    assert!(offset_of!(Config, mdev_notifier) == 20);
    assert!(offset_of!(Config, mdev_hook) == 24);
    assert!(offset_of!(Config, device_driver_data) == 28);
    assert!(offset_of!(Config, mdev_device_driver_data) == 32);
    assert!(offset_of!(Config, vcpu_kvm) == 36);
    assert!(offset_of!(Config, vcpu_run) == 40);
    assert!(offset_of!(Config, kvm_hook) == 44);
    assert!(offset_of!(Config, run_gprs) == 48);
    assert!(offset_of!(Config, ap_device_qid) == 52);
    assert!(offset_of!(Config, has_flag) == 56);
    assert!(offset_of!(Config, adopts) == 60);
    assert!(offset_of!(Config, tentative) == 64);
    assert!(offset_of!(Config, contention_events) == 68);
    assert!(offset_of!(Config, file_private_data) == 72);
    assert!(offset_of!(Config, vcpu_mutex) == 76);
    assert!(offset_of!(Config, vcpu_id) == 80);
    assert!(offset_of!(Config, vcpu_sie_block) == 84);
    assert!(offset_of!(Config, sie_ipa) == 88);
    assert!(offset_of!(Config, kvm_lock) == 92);
    assert!(offset_of!(Config, kvm_rwsem) == 96);
    assert!(offset_of!(Config, mdev_kvm) == 100);
    assert!(offset_of!(Config, vdev_kvm) == 104);
    assert!(offset_of!(Config, mdev_wait_queue) == 108);
    assert!(offset_of!(Config, kvm_device_private) == 112);
    assert!(offset_of!(Config, kvm_vfio_lock) == 116);
    assert!(offset_of!(Config, work_func) == 120);
    assert!(offset_of!(Config, queue_reset_work) == 124);
    assert!(offset_of!(Config, mutex_owner) == 128);
    assert!(offset_of!(Config, kvm_device_kvm) == 132);
    assert!(offset_of!(Config, vdev_dev_set) == 136);
    assert!(offset_of!(Config, dev_set_lock) == 140);
    assert!(offset_of!(Config, reset_work_func) == 144);
    assert!(offset_of!(Config, queue_reset_rc) == 152);
    assert!(offset_of!(Config, queue_mdev) == 156);
    assert!(offset_of!(Config, ap_device_queue) == 160);
    assert!(offset_of!(Config, vdev_group) == 164);
    assert!(offset_of!(Config, group_lock) == 168);
    assert!(offset_of!(Config, group_is_rwsem) == 172);
    assert!(size_of::<SeriesStats>() == 48 + 16 * h2::BUCKETS);
    assert!(offset_of!(SeriesStats, acquisitions) == 0);
    assert!(offset_of!(SeriesStats, contended) == 8);
    assert!(offset_of!(SeriesStats, attempts_failed) == 16);
    assert!(offset_of!(SeriesStats, unmatched_releases) == 24);
    assert!(offset_of!(SeriesStats, wait_sum) == 32);
    assert!(offset_of!(SeriesStats, hold_sum) == 40);
    assert!(offset_of!(SeriesStats, wait) == 48);
    assert!(offset_of!(SeriesStats, hold) == 48 + 8 * h2::BUCKETS);
    assert!(size_of::<EntryStats>() == 24 + 8 * h2::BUCKETS + 8 * RETURN_CODES);
    assert!(offset_of!(EntryStats, calls) == 0);
    assert!(offset_of!(EntryStats, latency_sum) == 8);
    assert!(offset_of!(EntryStats, unmatched_returns) == 16);
    assert!(offset_of!(EntryStats, latency) == 24);
    assert!(offset_of!(EntryStats, returns) == 24 + 8 * h2::BUCKETS);
    assert!(size_of::<Coarse>() == 64 + 16 * h2::COARSE_BUCKETS);
    assert!(offset_of!(Coarse, acquisitions) == 0);
    assert!(offset_of!(Coarse, contended) == 8);
    assert!(offset_of!(Coarse, attempts_failed) == 16);
    assert!(offset_of!(Coarse, unmatched_releases) == 24);
    assert!(offset_of!(Coarse, wait_sum) == 32);
    assert!(offset_of!(Coarse, hold_sum) == 40);
    assert!(offset_of!(Coarse, wakes) == 48);
    assert!(offset_of!(Coarse, value) == 56);
    assert!(offset_of!(Coarse, wait) == 64);
    assert!(offset_of!(Coarse, hold) == 64 + 8 * h2::COARSE_BUCKETS);
    assert!(size_of::<Held>() == 40);
    assert!(offset_of!(Held, lock) == 0);
    assert!(offset_of!(Held, since) == 8);
    assert!(offset_of!(Held, wait) == 16);
    assert!(offset_of!(Held, serial) == 24);
    assert!(offset_of!(Held, info) == 32);
    assert!(size_of::<Waiting>() == 40);
    assert!(offset_of!(Waiting, lock) == 0);
    assert!(offset_of!(Waiting, since) == 8);
    assert!(offset_of!(Waiting, rounds) == 16);
    assert!(offset_of!(Waiting, serial) == 24);
    assert!(offset_of!(Waiting, info) == 32);
    assert!(size_of::<Inside>() == 88);
    assert!(offset_of!(Inside, entry) == 0);
    assert!(offset_of!(Inside, since) == 8);
    assert!(offset_of!(Inside, object) == 16);
    assert!(offset_of!(Inside, first) == 24);
    assert!(offset_of!(Inside, arg) == 32);
    assert!(offset_of!(Inside, writer) == 40);
    assert!(offset_of!(Inside, writer_comm) == 48);
    assert!(offset_of!(Inside, frame) == 64);
    assert!(offset_of!(Inside, mdev) == 72);
    assert!(offset_of!(Inside, guest) == 80);
    assert!(
        size_of::<Task>() == 96 + 16 * KNOWN + 40 * MAX_HELD + 40 * MAX_WAITS + 88 * MAX_NESTED
    );
    assert!(offset_of!(Task, sequence) == 0);
    assert!(offset_of!(Task, id) == 8);
    assert!(offset_of!(Task, comm) == 16);
    assert!(offset_of!(Task, serial) == 32);
    assert!(offset_of!(Task, lost_holds) == 40);
    assert!(offset_of!(Task, waits_len) == 48);
    assert!(offset_of!(Task, inside_len) == 56);
    assert!(offset_of!(Task, held_len) == 64);
    assert!(offset_of!(Task, latest) == 72);
    assert!(offset_of!(Task, pending) == 80);
    assert!(offset_of!(Task, epoch) == 88);
    assert!(offset_of!(Task, known) == 96);
    assert!(offset_of!(Task, held) == 96 + 16 * KNOWN);
    assert!(offset_of!(Task, waits) == 96 + 16 * KNOWN + 40 * MAX_HELD);
    assert!(offset_of!(Task, inside) == 96 + 16 * KNOWN + 40 * MAX_HELD + 40 * MAX_WAITS);
    assert!(size_of::<Known>() == 16);
    assert!(offset_of!(Known, address) == 0);
    assert!(offset_of!(Known, info) == 8);
    assert!(size_of::<Extremes>() == 16);
    assert!(offset_of!(Extremes, inverse_min) == 0);
    assert!(offset_of!(Extremes, max) == 8);
    assert!(size_of::<TaskExtremes>() == 32 * MAX_SERIES + 16 * MAX_ENTRY_POINTS);
    assert!(offset_of!(TaskExtremes, wait) == 0);
    assert!(offset_of!(TaskExtremes, hold) == 16 * MAX_SERIES);
    assert!(offset_of!(TaskExtremes, latency) == 32 * MAX_SERIES);
    assert!(size_of::<Edge>() == 56 + 8 * MAX_PAIRS);
    assert!(offset_of!(Edge, key) == 0);
    assert!(offset_of!(Edge, count) == 8);
    assert!(offset_of!(Edge, first_tid) == 16);
    assert!(offset_of!(Edge, first_comm) == 24);
    assert!(offset_of!(Edge, first_ns) == 40);
    assert!(offset_of!(Edge, last_ns) == 48);
    assert!(offset_of!(Edge, pairs) == 56);
    assert!(size_of::<InstanceInfo>() == 64);
    assert!(offset_of!(InstanceInfo, address) == 0);
    assert!(offset_of!(InstanceInfo, class) == 8);
    assert!(offset_of!(InstanceInfo, object) == 16);
    assert!(offset_of!(InstanceInfo, number) == 24);
    assert!(offset_of!(InstanceInfo, tgid) == 32);
    assert!(offset_of!(InstanceInfo, since) == 40);
    assert!(offset_of!(InstanceInfo, gone_ns) == 48);
    assert!(offset_of!(InstanceInfo, reserved) == 56);
    assert!(size_of::<Counters>() == 64);
    assert!(offset_of!(Counters, emitted) == 0);
    assert!(offset_of!(Counters, dropped) == 8);
    assert!(offset_of!(Counters, no_task_slot) == 16);
    assert!(offset_of!(Counters, no_edge_slot) == 24);
    assert!(offset_of!(Counters, overflowed) == 32);
    assert!(offset_of!(Counters, unreadable) == 40);
    assert!(offset_of!(Counters, unmatched) == 48);
    assert!(offset_of!(Counters, reserved) == 56);
    assert!(size_of::<Span>() == 40);
    assert!(offset_of!(Span, start_ns) == 0);
    assert!(offset_of!(Span, duration_ns) == 8);
    assert!(offset_of!(Span, extra) == 16);
    assert!(offset_of!(Span, tid) == 24);
    assert!(offset_of!(Span, instance) == 28);
    assert!(offset_of!(Span, result) == 32);
    assert!(offset_of!(Span, kind) == 36);
    assert!(offset_of!(Span, what) == 37);
    assert!(offset_of!(Span, inside) == 38);
    assert!(offset_of!(Span, flags) == 39);
    assert!(size_of::<Call>() == 56);
    assert!(offset_of!(Call, span) == 0);
    assert!(offset_of!(Call, mdev) == 40);
    assert!(offset_of!(Call, guest) == 48);
};
