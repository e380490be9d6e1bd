//! Options shared by every command, and their limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::Failure;
use super::values::{
    attached_for, bytes, duration, endpoint, given_lock, guests, level, percent, rate, vcpus,
};
use crate::attach::plan::Forced;
use crate::emulator;
use crate::options::{
    EmulatorOptions, Endpoint, GivenLock, KernelOptions, MAX_INTERVAL, MAX_RING_BYTES,
    MIN_INTERVAL, MIN_RING_BYTES, ProbeChoice, RunOptions, SourceChoice,
};

/// Options shared by every command.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Take the measurements from an `apscope serve` that listens at this socket: unix:PATH
    #[arg(long, global = true, value_name = "unix:PATH", value_parser = endpoint, conflicts_with_all = ["source", "probe", "generation", "scenario", "seed", "guests", "vcpus", "rate", "mount", "pid", "level", "mechanism", "max_overhead", "stacks_over", "attached_for", "locks", "btf", "allow_stop_machine", "interval", "ring_bytes"])]
    pub connect: Option<Endpoint>,

    /// Where the measurements come from
    #[arg(long, global = true, value_enum, default_value_t)]
    pub source: SourceChoice,

    /// How the emulated driver is measured
    #[arg(long, global = true, value_enum, default_value_t)]
    pub probe: ProbeChoice,

    /// Generation of the emulated driver, v5.13 where nothing is said; of the driver in the stacks of `diagnose --from`
    #[arg(long, global = true, value_name = "G")]
    pub generation: Option<String>,

    /// What the emulated guests and administrators do
    #[arg(long, global = true, value_name = "S", default_value_t = EmulatorOptions::default().scenario)]
    pub scenario: String,

    /// Seed of the scenario: the same seed gives the same sequence of operations
    #[arg(long, global = true, value_name = "N", default_value_t = EmulatorOptions::default().seed, allow_negative_numbers = true)]
    pub seed: u64,

    /// Number of emulated guests, at most 1000
    #[arg(long, global = true, value_name = "N", default_value_t = EmulatorOptions::default().guests, allow_negative_numbers = true, value_parser = guests)]
    pub guests: u32,

    /// vCPUs of each emulated guest, at most 64
    #[arg(long, global = true, value_name = "N", default_value_t = EmulatorOptions::default().vcpus, allow_negative_numbers = true, value_parser = vcpus)]
    pub vcpus: u32,

    /// Speed of the scenario, relative to its own: 2 is twice as many operations a second
    #[arg(long, global = true, value_name = "X", default_value_t = EmulatorOptions::default().rate, allow_negative_numbers = true, value_parser = rate)]
    pub rate: f64,

    /// Mount the emulated driver's sysfs on this empty directory, as the root of a /sys; docs/sysfs.md describes it
    #[arg(long, global = true, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Attach to the emulated driver that runs as this process (see `emulate`) instead of starting one
    #[arg(long, global = true, value_name = "PID", allow_negative_numbers = true, conflicts_with_all = ["generation", "scenario", "seed", "guests", "vcpus", "rate", "mount"])]
    pub pid: Option<u32>,

    /// What is attached to a kernel: 0 nothing, 1 entry points and contended waits, 2 every acquisition and release
    #[arg(long, global = true, value_name = "N", default_value_t = KernelOptions::default().level, allow_negative_numbers = true, value_parser = level)]
    pub level: u8,

    /// Use this mechanism in a kernel wherever it is possible
    #[arg(long, global = true, value_enum)]
    pub mechanism: Option<Forced>,

    /// Most that the programs may cost in a kernel, in percent of the CPUs' time: what costs most is dropped above it
    #[arg(long, global = true, value_name = "PCT", default_value_t = KernelOptions::default().max_overhead, allow_negative_numbers = true, value_parser = percent)]
    pub max_overhead: f64,

    /// Take the stack of each wait and hold that is at least this long (over eBPF)
    #[arg(long, global = true, value_name = "D", allow_negative_numbers = true, value_parser = duration)]
    pub stacks_over: Option<Duration>,

    /// Detach from a kernel after this time, 15m where nothing is said; `serve` detaches when it ends
    #[arg(long = "for", global = true, value_name = "D", allow_negative_numbers = true, value_parser = attached_for)]
    pub attached_for: Option<Duration>,

    /// Measure this lock of the kernel too: [mutex:|rwsem:]ADDRESS[=NAME]. Without its kind, that shows when it is used. May be given several times
    #[arg(long = "lock", global = true, value_name = "ADDR", value_parser = given_lock)]
    pub locks: Vec<GivenLock>,

    /// Types (BTF) of the kernel's modules, where the kernel has none. May be given several times
    #[arg(long, global = true, value_name = "FILE")]
    pub btf: Vec<PathBuf>,

    /// Probe functions of the kernel that ftrace cannot patch, which may stop all CPUs for a moment
    #[arg(long, global = true)]
    pub allow_stop_machine: bool,

    /// How long to measure, for example 30s or 2m
    #[arg(long, global = true, value_name = "D", allow_negative_numbers = true, value_parser = duration)]
    pub duration: Option<Duration>,

    /// Time between two readings, 10ms to 1m
    #[arg(long, global = true, value_name = "D", allow_negative_numbers = true, value_parser = duration, default_value = "100ms")]
    pub interval: Duration,

    /// Size of the ring that carries spans: a power of two from 4k to 1g, in bytes or with k, m or g
    #[arg(long, global = true, value_name = "BYTES", allow_negative_numbers = true, value_parser = bytes, default_value = "8m")]
    pub ring_bytes: u64,

    /// Use colours; NO_COLOR in the environment counts as `never` unless `always` is given
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,

    /// Print the probes' own messages too; twice for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print nothing to the standard error but errors, and what of a recording could not be read
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Globals {
    /// Refuses options that say how to measure where a file is read: what it has was measured already. Those of `keep`
    /// apply all the same.
    ///
    /// An option with the value that it has anyway changes nothing, and is accepted.
    ///
    /// # Errors
    ///
    /// There is one.
    pub fn only_read(&self, file: &Path, keep: &[&str]) -> Result<(), Failure> {
        let of_run = [
            ("--connect", self.connect.is_some()),
            ("--source", self.source != SourceChoice::default()),
            ("--probe", self.probe != ProbeChoice::default()),
            ("--mount", self.mount.is_some()),
            ("--pid", self.pid.is_some()),
            ("--duration", self.duration.is_some()),
        ];
        let given = of_run
            .into_iter()
            .chain(self.of_emulator())
            .chain(self.of_kernel());
        let mut given = given.filter(|(name, given)| *given && !keep.contains(name));
        let Some((first, _)) = given.next() else {
            return Ok(());
        };
        let others: Vec<_> = given.map(|(name, _)| name).collect();
        let all = match others.len() {
            0 => first.to_owned(),
            _ => format!("{first}, {}", others.join(", ")),
        };
        Err(Failure::new(
            format!("{all} cannot be applied to {}", file.display()),
            "the file has what was measured when it was made; these options say how to measure",
            "without them; or without the file, to measure now",
        ))
    }

    fn of_emulator(&self) -> [(&'static str, bool); 6] {
        let default = EmulatorOptions::default();
        [
            ("--generation", self.generation.is_some()),
            ("--scenario", self.scenario != default.scenario),
            ("--seed", self.seed != default.seed),
            ("--guests", self.guests != default.guests),
            ("--vcpus", self.vcpus != default.vcpus),
            ("--rate", self.rate.to_bits() != default.rate.to_bits()),
        ]
    }

    fn of_kernel(&self) -> [(&'static str, bool); 10] {
        let default = KernelOptions::default();
        let run = RunOptions::default();
        let max_overhead = self.max_overhead.to_bits() != default.max_overhead.to_bits();
        [
            ("--level", self.level != default.level),
            ("--mechanism", self.mechanism.is_some()),
            ("--max-overhead", max_overhead),
            ("--stacks-over", self.stacks_over.is_some()),
            ("--for", self.attached_for.is_some()),
            ("--lock", !self.locks.is_empty()),
            ("--btf", !self.btf.is_empty()),
            ("--allow-stop-machine", self.allow_stop_machine),
            ("--interval", self.interval != run.interval),
            ("--ring-bytes", self.ring_bytes != u64::from(run.ring_bytes)),
        ]
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also where the output is no terminal
    Always,
    /// Not at all
    Never,
}

/// The run that these options ask for; an error where they are out of bounds.
pub fn run_options(globals: &Globals) -> Result<RunOptions, Failure> {
    let emulator = EmulatorOptions {
        generation: globals
            .generation
            .clone()
            .unwrap_or_else(|| EmulatorOptions::default().generation),
        scenario: globals.scenario.clone(),
        seed: globals.seed,
        guests: globals.guests,
        vcpus: globals.vcpus,
        rate: globals.rate,
        mount: globals.mount.clone(),
    };
    // An emulator that runs already has options of its own.
    if globals.pid.is_none() {
        emulator::check(&emulator)?;
    }
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&globals.interval) {
        return Err(Failure::new(
            format!(
                "--interval {} is out of bounds",
                humantime::format_duration(globals.interval)
            ),
            format!(
                "--interval is at least {} and at most {}",
                humantime::format_duration(MIN_INTERVAL),
                humantime::format_duration(MAX_INTERVAL)
            ),
            "--interval 100ms",
        ));
    }
    if globals.duration.is_some_and(|d| d.is_zero()) {
        return Err(Failure::new(
            "--duration 0s is out of bounds",
            "nothing can be measured in no time",
            "--duration 5s",
        ));
    }
    let mut addresses: Vec<u64> = globals.locks.iter().map(|lock| lock.address).collect();
    addresses.sort_unstable();
    let mut neighbours = addresses.iter().zip(addresses.iter().skip(1));
    if let Some((address, _)) = neighbours.find(|(one, other)| one == other) {
        return Err(Failure::new(
            format!("--lock {address:x} is given twice"),
            "a lock is measured once",
            "leave one of them out",
        ));
    }
    if globals.pid == Some(0) {
        return Err(Failure::new(
            "--pid 0 is no process",
            "process ids start at 1",
            "the pid that `emulate` prints",
        ));
    }
    Ok(RunOptions {
        connect: globals.connect.clone(),
        source: globals.source,
        probe: globals.probe,
        emulator,
        kernel: KernelOptions {
            level: globals.level,
            mechanism: globals.mechanism,
            max_overhead: globals.max_overhead,
            stacks_over: globals.stacks_over,
            attached_for: globals
                .attached_for
                .unwrap_or_else(|| KernelOptions::default().attached_for),
            locks: globals.locks.clone(),
            btf: globals.btf.clone(),
            allow_stop_machine: globals.allow_stop_machine,
        },
        pid: globals.pid,
        truth: false,
        interval: globals.interval,
        ring_bytes: ring_bytes(globals.ring_bytes)?,
    })
}

fn ring_bytes(bytes: u64) -> Result<u32, Failure> {
    let limits = u64::from(MIN_RING_BYTES)..=u64::from(MAX_RING_BYTES);
    let fitting = u32::try_from(bytes).ok();
    if let Some(size) = fitting
        && limits.contains(&bytes)
        && size.is_power_of_two()
    {
        return Ok(size);
    }
    let nearest = bytes
        .clamp(*limits.start(), *limits.end())
        .next_power_of_two();
    Err(Failure::new(
        format!("--ring-bytes {bytes} cannot be the size of a ring"),
        format!(
            "it must be a power of two, at least {MIN_RING_BYTES} and at most {MAX_RING_BYTES}"
        ),
        format!("--ring-bytes {nearest}"),
    ))
}
