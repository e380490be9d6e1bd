//! What a run is asked to be: the options shared by every command that starts or reads a source.

use std::path::PathBuf;
use std::time::Duration;

use crate::attach::plan::Forced;

/// Largest `--guests`.
pub const MAX_GUESTS: u32 = 1000;
/// Largest `--vcpus`.
pub const MAX_VCPUS: u32 = 64;
/// Most vCPU threads in one run.
pub const MAX_VCPU_THREADS: u32 = 4000;
/// Shortest `--interval`.
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Longest `--interval`.
pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Smallest `--ring-bytes`: one page.
pub const MIN_RING_BYTES: u32 = 4096;
/// Largest `--ring-bytes`.
pub const MAX_RING_BYTES: u32 = 1 << 30;

/// What to emulate.
#[derive(Debug, Clone, PartialEq)]
pub struct EmulatorOptions {
    /// Driver generation, for example `v5.13`.
    pub generation: String,
    /// Scenario, for example `steady`.
    pub scenario: String,
    /// Seed of every actor's sequence of operations.
    pub seed: u64,
    /// Number of guests, 1 to [`MAX_GUESTS`].
    pub guests: u32,
    /// vCPUs of each guest, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Operations a second of each actor, relative to the scenario's own rate; 1.0 is the scenario's rate.
    pub rate: f64,
    /// Empty directory on which the emulated sysfs is mounted.
    pub mount: Option<PathBuf>,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            generation: "v5.13".into(),
            scenario: "steady".into(),
            seed: 1,
            guests: 8,
            vcpus: 2,
            rate: 1.0,
            mount: None,
        }
    }
}

/// Where frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum SourceChoice {
    /// The real driver where there is one, else the emulated driver.
    #[default]
    Auto,
    /// The kernel: the real driver, or the locks that `--lock` names.
    Kernel,
    /// The emulated driver.
    Emulator,
}

/// How the emulated driver is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProbeChoice {
    /// eBPF where it is permitted, else in process.
    #[default]
    Auto,
    /// eBPF, or an error.
    Ebpf,
    /// Hooks in the emulator's own process.
    InProcess,
}

/// A lock of the kernel that a person gives the address of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenLock {
    /// Address.
    pub address: u64,
    /// What it is; `None` until its use shows it.
    pub kind: Option<GivenKind>,
    /// Name in every output.
    pub name: String,
}

/// Kinds of lock that `--lock` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenKind {
    /// `struct mutex`.
    Mutex,
    /// `struct rw_semaphore`.
    Rwsem,
}

impl GivenKind {
    /// Name, as in `--lock`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
            Self::Rwsem => "rwsem",
        }
    }
}

/// How a kernel is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelOptions {
    /// 0: nothing is attached, the kernel's state is read; 1: entry points and contended waits; 2: every acquisition and
    /// release.
    pub level: u8,
    /// Use this mechanism wherever it is possible.
    pub mechanism: Option<Forced>,
    /// Most that the programs may cost, in percent of all CPUs' time.
    pub max_overhead: f64,
    /// Waits and holds at least this long have their stack taken.
    pub stacks_over: Option<Duration>,
    /// Detach after this time.
    pub attached_for: Duration,
    /// Locks to measure besides the driver's.
    pub locks: Vec<GivenLock>,
    /// Files with types (BTF) of modules.
    pub btf: Vec<PathBuf>,
    /// Functions that ftrace cannot patch may be probed.
    pub allow_stop_machine: bool,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            level: 1,
            mechanism: None,
            max_overhead: 1.0,
            stacks_over: None,
            attached_for: Duration::from_secs(15 * 60),
            locks: Vec::new(),
            btf: Vec::new(),
            allow_stop_machine: false,
        }
    }
}

/// Where a collector listens that serves: a unix socket, also one that `ssh -L` has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its path.
    pub path: PathBuf,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix:{}", self.path.display())
    }
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// Take frames from this collector instead of measuring; then nothing else here matters.
    pub connect: Option<Endpoint>,
    /// Where frames come from.
    pub source: SourceChoice,
    /// How the emulated driver is measured.
    pub probe: ProbeChoice,
    /// What to emulate.
    pub emulator: EmulatorOptions,
    /// How a kernel is measured.
    pub kernel: KernelOptions,
    /// Attach to this emulator instead of starting one.
    pub pid: Option<u32>,
    /// The ground truth is wanted: an emulator found by `pid` is stopped for it, which otherwise goes on.
    pub truth: bool,
    /// Time between frames.
    pub interval: Duration,
    /// Size of the span ring in bytes: a power of two, at least one page.
    pub ring_bytes: u32,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            connect: None,
            source: SourceChoice::Auto,
            probe: ProbeChoice::Auto,
            emulator: EmulatorOptions::default(),
            kernel: KernelOptions::default(),
            pid: None,
            truth: false,
            interval: Duration::from_millis(100),
            ring_bytes: 8 << 20,
        }
    }
}
