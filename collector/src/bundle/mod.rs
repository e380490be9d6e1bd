//! Support bundles: everything that a case needs in one file, a tar archive compressed with zstd. docs/recording.md has
//! the list of what is in it.
//!
//! [`host`] takes what the machine says besides the measurement, [`job`] sees that nothing is waited for too long, [`redact`]
//! hides names, [`Archive`] is written and [`Contents`] read. What is in a bundle are frames, functions, settings and times:
//! never guest memory, keys, environments or command lines. It does not know how frames are made.

mod archive;
pub mod host;
pub mod job;
pub mod redact;

use serde::{Deserialize, Serialize};

pub use archive::{Archive, Contents, ContentsError, is_bundle};

/// Version of the bundle's layout.
pub const VERSION: u32 = 1;

/// Names of the files in a bundle.
pub mod names {
    /// What is in it, what is not, and why.
    pub const MANIFEST: &str = "manifest.json";
    /// The diagnosis as text.
    pub const DIAGNOSIS: &str = "diagnosis.txt";
    /// The diagnosis as the JSON document of `diagnose --json`.
    pub const DIAGNOSIS_JSON: &str = "diagnosis.json";
    /// What the machine allows, as text.
    pub const DOCTOR: &str = "doctor.txt";
    /// The same as JSON.
    pub const DOCTOR_JSON: &str = "doctor.json";
    /// A recording.
    pub const FRAMES: &str = "frames.apscope";
    /// Kernel stacks of the tasks that hold, wait or are in a call.
    pub const STACKS: &str = "stacks.txt";
    /// Reports of the kernel's hung-task detector.
    pub const HUNG_TASKS: &str = "hung-tasks.txt";
    /// Build ids of kernel and modules, and hashes of their types.
    pub const BUILD_IDS: &str = "build-ids.json";
    /// Settings of the kernel.
    pub const SYSCTLS: &str = "sysctls.json";

    /// All of them, in the order of the archive.
    pub const ALL: [&str; 10] = [
        MANIFEST,
        DIAGNOSIS,
        DIAGNOSIS_JSON,
        DOCTOR,
        DOCTOR_JSON,
        FRAMES,
        STACKS,
        HUNG_TASKS,
        BUILD_IDS,
        SYSCTLS,
    ];
}

/// What is in a bundle, what is not, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub bundle: u32,
    /// Version of apscope that wrote it.
    pub version: String,
    /// The driver that was measured: `EMULATED` or `kernel`, as in every export, or `none`.
    pub driver: String,
    /// The verdict, in one line.
    pub verdict: String,
    /// Names are replaced by hashes.
    pub redacted: bool,
    /// Name of the host, or its hash.
    pub host: String,
    /// When it was begun, RFC 3339.
    pub created: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What the clocks said at one moment.
    pub clocks: Clocks,
    /// Each thing that was to be taken.
    pub items: Vec<Item>,
}

/// Something that was to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// File that it is in.
    pub file: String,
    /// It is there.
    pub taken: bool,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How long it may take before it is given up, in milliseconds; 0 in bundles of versions that did not say so.
    #[serde(default)]
    pub deadline_ms: u64,
    /// Why it is not there, or what of it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What the clocks said, in nanoseconds. The difference of two of them is what times of one are from those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_MONOTONIC: the times of frames and of the kernel's log.
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME: with the time that the machine slept.
    pub boottime_ns: u64,
    /// CLOCK_REALTIME, since 1970 UTC.
    pub unix_ns: u64,
    /// The clocks were read one after the other within this time.
    pub within_ns: u64,
}
