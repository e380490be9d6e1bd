//! The attach plan: for each point of the table, where it is on this machine, by which mechanism it is probed, and why;
//! what stands in for what is missing, and what is lost.
//!
//! Takes what a [`Machine`] has and allows; gives a [`Plan`]. Attaches nothing, and asks the machine nothing.

mod blind_spots;
mod choose;
mod losses;

use std::collections::BTreeSet;
use std::fmt;

use super::functions::FilterFunctions;
use super::generation::{Detected, detect};
use super::offsets::{Offsets, Types};
use super::points::{Contention, Filter, Point, Role, Side, VARIABLES, Variable, points};
use super::programs::program_of;
use super::symbols::Symbols;

pub use blind_spots::{BLIND_SPOTS, BlindSpot};

/// How a point is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// A tracepoint with typed arguments.
    BtfTracepoint,
    /// A tracepoint.
    RawTracepoint,
    /// A trampoline at a function's entry.
    Fentry,
    /// A trampoline at a function's return, with the arguments.
    Fexit,
    /// A probe at a function's entry.
    Kprobe,
    /// A probe at a function's return.
    Kretprobe,
}

impl Mechanism {
    /// Name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BtfTracepoint => "btf tracepoint",
            Self::RawTracepoint => "raw tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `--mechanism` asks for. A point at which it is impossible by its nature (fentry at a module's function) is
/// probed as usual; one at which it is merely not allowed is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Forced {
    /// kprobes and kretprobes for all functions.
    Kprobe,
    /// fentry and fexit for functions of vmlinux.
    Fentry,
    /// BTF tracepoints.
    BtfTracepoint,
    /// Raw tracepoints.
    RawTracepoint,
}

impl Forced {
    /// Name, as in `--mechanism`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kprobe => "kprobe",
            Self::Fentry => "fentry",
            Self::BtfTracepoint => "btf-tracepoint",
            Self::RawTracepoint => "raw-tracepoint",
        }
    }
}

/// What the kernel allows, as it was tried out: each mechanism, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// BTF tracepoints.
    pub btf_tracepoint: Result<(), String>,
    /// Raw tracepoints.
    pub raw_tracepoint: Result<(), String>,
    /// Trampolines at entries.
    pub fentry: Result<(), String>,
    /// Trampolines at returns.
    pub fexit: Result<(), String>,
    /// Probes at entries.
    pub kprobe: Result<(), String>,
    /// Probes at returns.
    pub kretprobe: Result<(), String>,
    /// Functions that ftrace cannot patch may be probed, which may stop the machine (`--allow-stop-machine`).
    pub stop_machine: bool,
}

impl Allowed {
    /// Everything, but for stopping the machine.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            btf_tracepoint: Ok(()),
            raw_tracepoint: Ok(()),
            fentry: Ok(()),
            fexit: Ok(()),
            kprobe: Ok(()),
            kretprobe: Ok(()),
            stop_machine: false,
        }
    }

    fn check(&self, mechanism: Mechanism) -> Result<(), String> {
        let allowed = match mechanism {
            Mechanism::BtfTracepoint => &self.btf_tracepoint,
            Mechanism::RawTracepoint => &self.raw_tracepoint,
            Mechanism::Fentry => &self.fentry,
            Mechanism::Fexit => &self.fexit,
            Mechanism::Kprobe => &self.kprobe,
            Mechanism::Kretprobe => &self.kretprobe,
        };
        allowed
            .clone()
            .map_err(|reason| format!("{mechanism} not allowed: {reason}"))
    }
}

/// Tracepoints, as `group:event`: tracefs' `available_events`.
#[derive(Debug, Default, Clone)]
pub struct Tracepoints(BTreeSet<String>);

impl Tracepoints {
    /// Reads lines `group:event`.
    ///
    /// # Errors
    /// See [`super::lines::ReadError`].
    pub fn parse(text: impl std::io::BufRead) -> Result<Self, super::lines::ReadError> {
        let mut all = BTreeSet::new();
        super::lines::for_each(text, |line| {
            if line.contains(':') {
                all.insert(line.trim().to_owned());
            }
        })?;
        Ok(Self(all))
    }

    /// Whether a tracepoint is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// A machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Its symbol table.
    pub symbols: &'a Symbols,
    /// Functions that ftrace can patch; `None` without tracefs.
    pub functions: Option<&'a FilterFunctions>,
    /// Its tracepoints; `None` without tracefs.
    pub tracepoints: Option<&'a Tracepoints>,
    /// Its types.
    pub types: &'a Types,
    /// Where members are.
    pub offsets: &'a Offsets,
    /// What is allowed.
    pub allowed: &'a Allowed,
    /// The level asked for: 0, 1 or 2.
    pub level: u8,
    /// The mechanism asked for.
    pub forced: Option<Forced>,
    /// Locks that were named, besides the driver's.
    pub named: Named,
}

/// Kinds of the locks that a person named. One whose kind is not known counts as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Named {
    /// There are mutexes.
    pub mutexes: bool,
    /// There are rwsems.
    pub rwsems: bool,
}

/// Where a point is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Symbol as the kernel has it, suffixes of the compiler included, or `group:event`.
    pub symbol: String,
    /// Module; `None` is vmlinux.
    pub module: Option<String>,
    /// Address; `None` where addresses are hidden, and for tracepoints.
    pub address: Option<u64>,
    /// Whether the symbol alone names it. Otherwise it is placed by address, or by module and symbol.
    pub unique: bool,
    /// Whether ftrace can patch it.
    pub ftrace: bool,
    /// For a clone by the compiler: what its arguments may be.
    pub suffix_note: Option<String>,
    /// Arguments that can be trusted: all of them, or for a clone those that the table names.
    pub arguments: Arguments,
    /// Which calls belong to the point. A program that cannot tell them apart must not be attached here.
    pub filter: Filter,
}

/// Arguments of a function that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// As in the source.
    AsInSource,
    /// None: those of a clone by the compiler (`.isra` and so on) may be others. Only the fact and the time of the call are
    /// used.
    Unknown,
}

/// What stands in for a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// Entry points, by id.
    Entries(Vec<u8>),
    /// The lock's entry, and the end of contention where there was any.
    ContentionEnd,
    /// The lock's entry, and its owner word at the task's next event.
    OwnerWord,
    /// The other side of the same function.
    OtherSide(Side),
}

/// What becomes of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is probed.
    Planned,
    /// It is not needed: another generation's, or a variant that this kernel does not have.
    NotNeeded,
    /// It waits for a higher level.
    OtherLevel,
    /// Something else stands in for it, with a loss.
    Replaced,
    /// It is lost.
    Lost,
}

/// One side of a point, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The point.
    pub point: &'static Point,
    /// Entry or return of the function. A tracepoint has only an entry.
    pub side: Side,
    /// What becomes of it.
    pub status: Status,
    /// Where it is, if it is there.
    pub target: Option<Target>,
    /// The mechanism, when it is planned.
    pub mechanism: Option<Mechanism>,
    /// Why this mechanism, or why none.
    pub reason: String,
    /// What stands in for it.
    pub used_instead: Option<Instead>,
    /// What is lost.
    pub lost: Option<String>,
}

impl Planned {
    /// Symbol and module, as in every output: `mutex_lock [kernel]`. A point that is not there has its own name.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.target {
            Some(target) => {
                let module = target.module.as_deref().unwrap_or("kernel");
                format!("{} [{module}]", target.symbol)
            }
            None => self.point.name.to_owned(),
        }
    }
}

/// A variable, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedVariable {
    /// The variable.
    pub variable: &'static Variable,
    /// Its symbol and module, if it is there.
    pub found: Option<(&'static str, Option<&'static str>)>,
    /// Its address, if that is known.
    pub address: Option<u64>,
    /// Why not, if not.
    pub reason: String,
}

/// Something that will not be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Points, variables or members.
    pub names: Vec<String>,
    /// What is lost.
    pub lost: String,
    /// Why.
    pub reason: String,
    /// What stands in for it.
    pub used_instead: Option<Instead>,
}

/// The plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which generation it may be.
    pub generation: Detected,
    /// All points, in the order of the table, each side apart.
    pub points: Vec<Planned>,
    /// All variables that the generation may have.
    pub variables: Vec<PlannedVariable>,
    /// What no probe sees.
    pub blind_spots: Vec<BlindSpot>,
    /// What is lost on this machine.
    pub losses: Vec<Loss>,
}

impl Plan {
    /// Makes the plan for a machine.
    #[must_use]
    pub fn new(machine: &Machine<'_>) -> Self {
        let generation = detect(machine.symbols, machine.offsets);
        let mut chooser = choose::Chooser::new(machine, generation.candidates);
        // Contention first: what is done about acquisitions depends on it.
        let contention_end = points()
            .find(|point| point.role == Role::Contention(Contention::End))
            .map(|point| chooser.point(point));
        chooser.contention_end = contention_end
            .is_some_and(|sides| sides.iter().any(|side| side.status == Status::Planned));
        let mut planned: Vec<Planned> = points().flat_map(|point| chooser.point(point)).collect();
        stand_in(&mut planned);
        let variables: Vec<PlannedVariable> = VARIABLES
            .iter()
            .filter(|variable| variable.generations.meets(generation.candidates))
            .map(|variable| find_variable(variable, machine))
            .collect();
        let blind_spots = blind_spots::of(generation.candidates, machine);
        let mut plan = Self {
            generation,
            points: planned,
            variables,
            blind_spots,
            losses: Vec::new(),
        };
        plan.losses = plan.find_losses(machine.offsets);
        plan
    }

    /// What is to be attached.
    pub fn attached(&self) -> impl Iterator<Item = &Planned> {
        self.points
            .iter()
            .filter(|planned| planned.status == Status::Planned)
    }

    /// Whether anything is attached by the mechanism that was asked for.
    #[must_use]
    pub fn uses(&self, forced: Forced) -> bool {
        let of_forced = |mechanism: Mechanism| match forced {
            Forced::Kprobe => matches!(mechanism, Mechanism::Kprobe | Mechanism::Kretprobe),
            Forced::Fentry => matches!(mechanism, Mechanism::Fentry | Mechanism::Fexit),
            Forced::BtfTracepoint => mechanism == Mechanism::BtfTracepoint,
            Forced::RawTracepoint => mechanism == Mechanism::RawTracepoint,
        };
        let mut attached = self.attached();
        attached.any(|planned| program_of(planned).is_ok_and(|(_, by)| of_forced(by)))
    }

    /// Both sides of a point, by the point's name.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Planned> {
        self.points
            .iter()
            .filter(move |planned| planned.point.name == name)
    }
}

/// Names what stands in for entry points that are lost, from what is planned.
fn stand_in(planned: &mut [Planned]) {
    let entries: BTreeSet<u8> = planned
        .iter()
        .filter(|p| p.status == Status::Planned)
        .filter_map(|p| match p.point.role {
            Role::Entry(id) => Some(id),
            _ => None,
        })
        .collect();
    for lost in planned.iter_mut().filter(|p| p.status == Status::Lost) {
        let instead: Vec<u8> = lost
            .point
            .instead
            .iter()
            .copied()
            .filter(|id| entries.contains(id))
            .collect();
        if lost.used_instead.is_none() && !instead.is_empty() {
            lost.status = Status::Replaced;
            lost.used_instead = Some(Instead::Entries(instead));
        }
    }
}

fn find_variable(variable: &'static Variable, machine: &Machine<'_>) -> PlannedVariable {
    let found = variable.names.iter().find_map(|(symbol, module)| {
        let at = machine.symbols.data(*module, symbol)?;
        Some(((*symbol, *module), at.address))
    });
    let (found, address, reason) = match found {
        Some((name, 0)) => (
            Some(name),
            None,
            "the kernel hides addresses (kptr_restrict)".to_owned(),
        ),
        Some((name, address)) => (Some(name), Some(address), "in the symbol table".to_owned()),
        None => (
            None,
            None,
            format!("no variable {} in the symbol table", variable.name),
        ),
    };
    PlannedVariable {
        variable,
        found,
        address,
        reason,
    }
}
