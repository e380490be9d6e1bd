//! What is known of a machine, with the attach plan that is made of it: what measuring its kernel starts from, and what
//! the doctor judges.
//!
//! Takes the facts of a machine, what its kernel allows and the options of a run; reads the machine's tables and the
//! files that the options name. Attaches nothing.

use std::path::{Path, PathBuf};

use crate::attach::offsets::Offsets;
use crate::attach::plan::{self, Plan};
use crate::attach::symbols::Symbols;
use crate::machine::{Allowed, Facts, Mechanism, Tables};
use crate::options::{GivenKind, KernelOptions, RunOptions, SourceChoice};

/// What is known of a machine.
pub struct Survey {
    /// Files.
    pub facts: Facts,
    /// What the kernel allows.
    pub allowed: Allowed,
    /// Tables.
    pub tables: Tables,
    /// Offsets.
    pub offsets: Offsets,
    /// The plan for the level of the options.
    pub plan: Plan,
}

/// A file given with `--btf` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum GivenTypes {
    /// It cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It has no types.
    #[error("no types in {}: {why}", file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
}

impl GivenTypes {
    /// What to try.
    pub const HINT: &str =
        "--btf takes a file as /sys/kernel/btf has them, or as pahole -J writes them";

    /// What failed, and why.
    #[must_use]
    pub fn what_and_cause(&self) -> (String, String) {
        match self {
            Self::Read { file, error } => {
                (format!("cannot read {}", file.display()), error.to_string())
            }
            Self::Parse { file, why } => (format!("no types in {}", file.display()), why.clone()),
        }
    }
}

impl Survey {
    /// Reads a machine's tables and makes a plan.
    ///
    /// # Errors
    ///
    /// If a file of the options has no types.
    pub fn new(
        facts: Facts,
        allowed: Allowed,
        options: &KernelOptions,
    ) -> Result<Self, GivenTypes> {
        let tables = Tables::read(&facts);
        Self::of(facts, allowed, tables, options)
    }

    /// As [`Survey::new`], of this machine, of whose kernel nothing is tried: files say what it should allow. For reading
    /// memory that is enough, and what tries to attach may wait for what is stuck.
    ///
    /// # Errors
    ///
    /// If a file of the options has no types.
    pub fn untried(options: &KernelOptions) -> Result<Self, GivenTypes> {
        let facts = Facts::read(Path::new("/"));
        let allowed = Allowed::conclude(&facts);
        Self::new(facts, allowed, options)
    }

    /// Tries what the kernel allows, and plans anew.
    pub fn try_out(&mut self, options: &KernelOptions) {
        self.allowed = Allowed::probe(&self.facts);
        self.plan = self.plan_at(options, options.level);
    }

    fn of(
        facts: Facts,
        allowed: Allowed,
        mut tables: Tables,
        options: &KernelOptions,
    ) -> Result<Self, GivenTypes> {
        for file in &options.btf {
            let data = std::fs::read(file).map_err(|error| GivenTypes::Read {
                file: file.clone(),
                error,
            })?;
            let before = tables.types.failed.len();
            tables.types.add_given(&file.display().to_string(), data);
            if let Some((_, error)) = tables.types.failed.get(before) {
                return Err(GivenTypes::Parse {
                    file: file.clone(),
                    why: error.to_string(),
                });
            }
        }
        let offsets = Offsets::resolve(&tables.types, &tables.ids);
        let plan = make_plan(options, options.level, &allowed, &tables, &offsets);
        Ok(Self {
            facts,
            allowed,
            tables,
            offsets,
            plan,
        })
    }

    /// The plan for another level.
    #[must_use]
    pub fn plan_at(&self, options: &KernelOptions, level: u8) -> Plan {
        make_plan(options, level, &self.allowed, &self.tables, &self.offsets)
    }

    /// Whether the driver is there, in a generation that is known.
    #[must_use]
    pub fn has_driver(&self) -> bool {
        !self.plan.generation.candidates.is_empty()
    }
}

fn make_plan(
    options: &KernelOptions,
    level: u8,
    allowed: &Allowed,
    tables: &Tables,
    offsets: &Offsets,
) -> Plan {
    let no_symbols = Symbols::default();
    Plan::new(&plan::Machine {
        symbols: tables.symbols.as_ref().unwrap_or(&no_symbols),
        functions: tables.functions.as_ref().ok(),
        tracepoints: tables.tracepoints.as_ref().ok(),
        types: &tables.types,
        offsets,
        allowed: &for_plan(allowed, options.allow_stop_machine),
        level,
        forced: options.mechanism,
        named: plan::Named {
            mutexes: is_named(options, GivenKind::Mutex),
            rwsems: is_named(options, GivenKind::Rwsem),
        },
    })
}

/// Whether a lock was named that is, or may be, of this kind.
fn is_named(options: &KernelOptions, kind: GivenKind) -> bool {
    let mut locks = options.locks.iter();
    locks.any(|lock| lock.kind.is_none_or(|known| known == kind))
}

/// kprobes are made through tracefs, on both sides of a function.
fn for_plan(allowed: &Allowed, stop_machine: bool) -> plan::Allowed {
    let all = |mechanisms: &[Mechanism]| {
        let mut answers = mechanisms.iter().map(|mechanism| allowed.get(*mechanism));
        answers.try_for_each(|answer| answer.map_err(str::to_owned))
    };
    plan::Allowed {
        btf_tracepoint: all(&[Mechanism::BtfTracepoint]),
        raw_tracepoint: all(&[Mechanism::RawTracepoint]),
        fentry: all(&[Mechanism::Fentry]),
        fexit: all(&[Mechanism::Fexit]),
        kprobe: all(&[Mechanism::Kprobe, Mechanism::ProbeEvents]),
        kretprobe: all(&[Mechanism::Kretprobe, Mechanism::ProbeEvents]),
        stop_machine,
    }
}

/// Whether a run measures the kernel and not the emulated driver, and why. `real_host`: what says that a real driver
/// could be here, if anything does.
#[must_use]
pub fn measures_kernel(
    options: &RunOptions,
    real_host: Option<&'static str>,
) -> (bool, &'static str) {
    match (options.source, real_host) {
        (SourceChoice::Kernel, _) => (true, "kernel asked for"),
        (SourceChoice::Emulator, _) => (false, "emulated driver asked for"),
        (SourceChoice::Auto, Some(sign)) if options.pid.is_none() => (true, sign),
        (SourceChoice::Auto, _) if !options.kernel.locks.is_empty() => {
            (true, "--lock names a lock of the kernel")
        }
        (SourceChoice::Auto, _) => (false, "no vfio_ap driver on this machine"),
    }
}
