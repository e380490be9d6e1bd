//! What the emulator and the collector say to each other: one JSON object a line, over a Unix stream socket.
//!
//! The emulator builds its objects, sends [`Hello`], and waits. The collector may ask it to measure in process, then
//! sends [`Request::Go`]; actors start. [`Request::Stop`] makes every actor finish its operation; the answer carries
//! the ground truth. End of file on the socket ends the emulator.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const VERSION: u32 = 6;

/// Name, in the abstract namespace, of the socket on which an emulator that runs alone accepts collectors.
pub fn abstract_name(pid: u32) -> String {
    format!("apscope-emulator-{pid}")
}

/// The emulator's description of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// Process id.
    pub pid: u32,
    /// The binary that holds the probe points.
    pub executable: PathBuf,
    /// Driver generation.
    pub generation: String,
    /// Scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// Number of guests.
    pub guests: u32,
    /// vCPUs of each guest.
    pub vcpus: u32,
    /// Most threads that there can be besides the actors: workers, and calls of the emulated sysfs.
    pub extra_threads: u32,
    /// Probe points.
    pub points: Vec<Point>,
    /// Locks, in display order.
    pub locks: Vec<LockObject>,
    /// What calls act on: mdevs, or places for them, and guests.
    pub subjects: Vec<SubjectObject>,
    /// Structure offsets.
    pub offsets: Offsets,
    /// Its tasks.
    pub tasks: TaskLayout,
    /// Other collectors that are connected already.
    #[serde(default)]
    pub collectors: u32,
}

/// Where the tasks of the emulated kernel are in its process's memory, and what is where in a task: offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskLayout {
    /// Address of a word with the address of the task that was made last.
    pub newest: u64,
    /// Bytes of a task.
    pub size: u32,
    /// u64: address of the task that was made before.
    pub next: u32,
    /// u32: thread id.
    pub tid: u32,
    /// u32: process id.
    pub tgid: u32,
    /// 16 bytes: name.
    pub comm: u32,
    /// u64: address of what it waits for.
    pub blocker: u32,
    /// u64: since when, CLOCK_MONOTONIC in nanoseconds.
    pub since: u32,
    /// u8: it waits to read.
    pub reads: u32,
    /// u32: entry points that it is in.
    pub depth: u32,
    /// u32 each: their ids, outermost first.
    pub inside: u32,
    /// Of how many there are ids at most; a number, not an offset.
    pub deepest: u32,
    /// In a work item, u64: address of the task that executes it.
    pub worker: u32,
}

/// A probe point: the entry of an `extern "C"` function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// `kernel` (locks and wait queues), `vfio_ap` or `kvm`.
    pub module: String,
    /// The kernel's name of the function.
    pub symbol: String,
    /// Offset of its first instruction in `executable`.
    pub file_offset: u64,
    /// The function starts with a 5-byte nop (x86-64).
    pub nop5: bool,
}

/// A lock instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockObject {
    /// Address in the emulator: of the lock, or of the flag.
    pub address: u64,
    /// Class id of `probe_ebpf::names::CLASSES`.
    pub class: u8,
    /// For example `kvm->lock[guest-3]`; the class name alone for a global lock.
    pub name: String,
    /// Guest number, if it belongs to one.
    pub guest: Option<u32>,
    /// The mutex guards the open-coded flag.
    pub guards_flag: bool,
    /// Address of the flag's wait queue (flags only).
    pub wait_queue: Option<u64>,
}

/// An mdev, or a place for one, or a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectObject {
    /// Address of the `struct ap_matrix_mdev` or `struct kvm` in the emulator.
    pub address: u64,
    /// It is a guest.
    pub is_guest: bool,
    /// UUID of the mdev that a guest has from the start, or name of the guest, `guest-3`; of a place for other mdevs its
    /// name, `mdev-0`.
    pub name: String,
    /// Guest number, if it belongs to one.
    pub guest: Option<u32>,
    /// Where the UUID is, as text of [`UUID_LENGTH`] bytes, of the mdev that is in a place for others.
    pub uuid_at: Option<u64>,
}

/// Characters of a UUID.
pub const UUID_LENGTH: usize = 36;

/// Offsets in bytes, with the meaning of the fields of `probe_ebpf::abi::Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "named after the fields of probe_ebpf::abi::Config, documented there"
)]
pub struct Offsets {
    pub mdev_flag: u32,
    pub mdev_notifier: u32,
    pub mdev_hook: u32,
    pub device_driver_data: u32,
    pub mdev_device_driver_data: u32,
    pub vcpu_kvm: u32,
    pub vcpu_run: u32,
    pub kvm_hook: u32,
    pub run_gprs: u32,
    pub ap_device_qid: u32,
    pub queue_reset_work: u32,
    pub queue_reset_rc: u32,
    pub mdev_kvm: u32,
    pub queue_mdev: u32,
    pub ap_device_queue: u32,
    pub kvm_device_kvm: u32,
    /// Of the matrix in an mdev.
    pub mdev_matrix: u32,
    /// Of what the guest has of it; `None` where that is all.
    pub mdev_shadow_apcb: Option<u32>,
}

/// What the collector asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Measure in process, into shared memory that the answer names.
    MeasureInProcess {
        /// Size of the span ring in bytes.
        ring_bytes: u32,
    },
    /// Start the actors.
    Go,
    /// Hand over what the driver has printed to the kernel's log.
    Messages,
    /// Stop the actors, each at the end of its operation.
    Stop,
}

/// What the emulator answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// First line.
    Hello(Box<Hello>),
    /// Answer to [`Request::MeasureInProcess`]: `/proc/<pid>/fd/<fd>` is the memory.
    Memory {
        /// File descriptor number in the emulator.
        fd: i32,
    },
    /// Answer to [`Request::Messages`]: what no collector has been given yet.
    Messages {
        /// The oldest first.
        messages: Vec<Message>,
    },
    /// Answer to [`Request::Stop`]: all actors have stopped (or could not, see `truth.ended`).
    Stopped {
        /// Ground truth.
        truth: Box<Truth>,
    },
    /// The emulator cannot go on.
    Error {
        /// Why.
        message: String,
    },
}

/// A line of the emulated kernel's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// The text.
    pub text: String,
}

/// Ground truth: what the emulator counted in its own code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// 1.
    pub schema: u32,
    /// Driver generation.
    pub generation: String,
    /// Scenario.
    pub scenario: String,
    /// Seed.
    pub seed: u64,
    /// `finished` or `stuck`.
    pub ended: String,
    /// By class and mode.
    pub locks: Vec<TruthLock>,
    /// By entry point.
    pub entry_points: Vec<TruthEntry>,
    /// Operations in flight of a run that ended stuck: `thread: operation`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<String>,
    /// Who waited for which lock then, and who held it, from the locks' own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<BlockedTask>,
    /// Scenario `known-holds`: the holds that the emulator measured itself, ascending, in nanoseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_holds_ns: Vec<u64>,
    /// Most tasks that held `kvm_busy` of one mdev at the same time; 0, and absent, where there is no such flag or
    /// nobody set it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flag_holders_max: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A thread that waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedTask {
    /// Thread name.
    pub thread: String,
    /// Instance name of the lock.
    pub lock: String,
    /// Names of the threads that hold it.
    pub holders: Vec<String>,
    /// When this wait began, as the lock's own slow path has it: CLOCK_MONOTONIC, in nanoseconds. Of tasks that wait for
    /// each other, the last to begin closed the cycle.
    #[serde(default)]
    pub since_ns: u64,
}

/// Counts of one lock class and mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruthLock {
    /// Class name.
    pub class: String,
    /// `-`, `read` or `write`.
    pub mode: String,
    /// Locks obtained; for a flag, transitions.
    pub acquisitions: u64,
    /// Slow paths entered; for a flag, wait loops that slept.
    pub contended: u64,
    /// Releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
    /// The same by instance.
    pub by_instance: Vec<TruthInstance>,
}

/// Counts of one lock instance in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruthInstance {
    /// Instance name.
    pub name: String,
    /// Locks obtained.
    pub acquisitions: u64,
    /// Slow paths entered.
    pub contended: u64,
    /// Releases.
    pub releases: u64,
    /// Failed trylocks and interrupted waits.
    pub attempts_failed: u64,
}

/// Counts of one entry point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruthEntry {
    /// Entry point name.
    pub name: String,
    /// Calls started.
    pub calls: u64,
    /// Returns: `ok`, `-EBUSY`, `NOTIFY_OK`, ...
    pub returns: std::collections::BTreeMap<String, u64>,
    /// PQAP: function name → response code (two hex digits) → count.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub pqap: std::collections::BTreeMap<String, std::collections::BTreeMap<String, u64>>,
}
