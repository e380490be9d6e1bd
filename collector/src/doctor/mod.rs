//! What can be measured on a machine, how, and what cannot: the report of `apscope doctor`.
//!
//! Takes the facts of a machine, what its kernel allows and what a run would be asked to be; gives a [`Report`], which
//! is the JSON document and, by [`text`], the page. It judges the source that a run with the same options would choose.
//! It attaches nothing, and does not know how the answers came about.

mod budget;
mod emulated;
mod kernel;
mod text;

use serde::Serialize;

use crate::machine::{Allowed, Facts, Others};
use crate::options::RunOptions;
use crate::source::ebpf::verifier::Tried;
use crate::survey::{GivenTypes, Survey, measures_kernel};

pub use budget::Budget;
pub use kernel::{GenerationFacts, OffsetRow};
pub use text::{Style, text};

/// Version of the JSON document.
pub const SCHEMA: u32 = 1;

/// All that can be said.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of apscope.
    pub version: &'static str,
    /// The machine.
    pub machine: Facts,
    /// What its kernel allows.
    pub allowed: Allowed,
    /// What would be measured.
    pub source: Chosen,
    /// The real driver's generation; absent where there is none, and where the emulated one is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationFacts>,
    /// Every function and tracepoint, and how it would be probed.
    pub attach: Vec<AttachRow>,
    /// Members of the kernel's structs; empty where the emulated driver is chosen, which says them itself.
    pub offsets: Vec<OffsetRow>,
    /// Memory that the eBPF maps would take.
    pub budget: Budget,
    /// What the kernel's verifier makes of every program; only where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programs: Option<Vec<Tried>>,
    /// What the dashboard will show, and what not.
    pub shows: Vec<Shown>,
    /// What no probe sees.
    pub blind_spots: Vec<String>,
    /// What is missing, the gravest first.
    pub problems: Vec<Problem>,
    /// The outcome.
    pub verdict: Verdict,
}

/// What a run with the same options would measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The driver.
    pub kind: Kind,
    /// How.
    pub probe: Probe,
    /// What would be attached to the kernel (`--level`); absent for the emulated driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Why.
    pub reason: String,
}

/// A driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The real one.
    Kernel,
    /// The emulated one.
    Emulator,
}

/// A way to measure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// eBPF programs.
    Ebpf,
    /// Hooks in the emulated driver's process.
    InProcess,
    /// None works.
    None,
}

/// A function or a tracepoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachRow {
    /// Its name in the source, with its module in brackets.
    pub symbol: String,
    /// `entry` or `return`.
    pub side: &'static str,
    /// Its level.
    pub level: u8,
    /// How it would be probed; `none` if it would not.
    pub mechanism: String,
    /// What becomes of it.
    pub status: RowStatus,
    /// Why this mechanism, or why none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a point of a higher level: its mechanism at level 2, or `none` with the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_level_2: Option<String>,
    /// What stands in for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// What is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// What becomes of an attach point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowStatus {
    /// It is probed.
    Probed,
    /// This kernel or this generation of the driver does without.
    NotNeeded,
    /// It is probed at a higher level.
    OtherLevel,
    /// Something else stands in for it.
    Replaced,
    /// It is lost.
    Lost,
}

/// Something that the dashboard shows or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// What.
    pub what: String,
    /// Whether.
    pub shown: bool,
    /// Why not, or with what limit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Shown {
    fn new(what: &str, result: Result<(), String>) -> Self {
        Self {
            what: what.to_owned(),
            shown: result.is_ok(),
            note: result.err().unwrap_or_default(),
        }
    }
}

/// How grave a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The chosen source does not need it.
    Note,
    /// Something is lost.
    Degrades,
    /// The chosen source does not work.
    Prevents,
}

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How grave it is.
    pub severity: Severity,
    /// What is missing, and why.
    pub what: String,
    /// What is lost by it.
    pub lost: String,
    /// What to do about it.
    pub remedy: String,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The outcome in a word.
    pub state: State,
    /// The outcome in a sentence.
    pub summary: String,
    /// Exit code of the command.
    pub exit: u8,
}

/// The outcome in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything that there is to see is seen.
    Ready,
    /// It works, and something is lost.
    Degraded,
    /// It does not work.
    Impossible,
}

impl State {
    /// Exit code of the command.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Degraded => 1,
            Self::Impossible => 2,
        }
    }

    /// In capitals.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Degraded => "DEGRADED",
            Self::Impossible => "IMPOSSIBLE",
        }
    }
}

/// What a source contributes to the report.
struct Examined {
    source: Chosen,
    generation: Option<GenerationFacts>,
    attach: Vec<AttachRow>,
    offsets: Vec<OffsetRow>,
    shows: Vec<Shown>,
    blind_spots: Vec<String>,
    problems: Vec<Problem>,
    /// What works, for the verdict.
    subject: String,
}

impl Report {
    /// Judges a machine for a run with these options.
    ///
    /// # Errors
    ///
    /// If a file that the options name for types has none, and the kernel would be measured.
    pub fn of(facts: Facts, allowed: Allowed, options: &RunOptions) -> Result<Self, GivenTypes> {
        let (real, reason) = measures_kernel(options, facts.real_host());
        let (examined, facts, allowed) = if real {
            let survey = Survey::new(facts, allowed, &options.kernel)?;
            let examined = kernel::examine(&survey, &options.kernel, reason);
            (examined, survey.facts, survey.allowed)
        } else {
            let examined = emulated::examine(&facts, &allowed, options, reason.into());
            (examined, facts, allowed)
        };
        let mut problems = examined.problems;
        let budget = Budget::of(&facts, options, real);
        if examined.source.probe == Probe::Ebpf || real {
            problems.extend(budget.problem(&facts));
        }
        problems.extend(others(&facts.others, real, options.pid));
        // The order of problems of one severity stays: the nearest to the root first.
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        let verdict = verdict(&problems, &examined.subject);
        let source = Chosen {
            probe: if verdict.state == State::Impossible {
                Probe::None
            } else {
                examined.source.probe
            },
            ..examined.source
        };
        Ok(Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine: facts,
            allowed,
            source,
            generation: examined.generation,
            attach: examined.attach,
            offsets: examined.offsets,
            budget,
            programs: None,
            shows: examined.shows,
            blind_spots: examined.blind_spots,
            problems,
            verdict,
        })
    }
}

/// Other collectors on this machine. Of emulated drivers it is only known how many are measured, not which.
fn others(others: &Others, real: bool, pid: Option<u32>) -> Option<Problem> {
    let Others::Attached { kernel, emulated } = *others else {
        return None;
    };
    let twice = "time: what is probed twice costs twice";
    let (what, lost, remedy) = match (real, kernel, emulated, pid) {
        (true, 1.., _, _) => (
            format!("{kernel} more collector(s) measure this kernel"),
            twice.to_owned(),
            "end the other one".to_owned(),
        ),
        (false, _, 1.., Some(pid)) => (
            format!(
                "{emulated} more collector(s) measure emulated drivers on this machine; whether that of process {pid} is \
                 one of them is not known here"
            ),
            format!("{twice}, if it is"),
            "a run with --pid asks that process, and says so".to_owned(),
        ),
        _ => (
            format!(
                "{} more collector(s) measure something else on this machine: {kernel} its kernel, {emulated} emulated drivers",
                kernel + emulated
            ),
            "nothing but the time that they take".to_owned(),
            "nothing needs to be done".to_owned(),
        ),
    };
    Some(Problem {
        severity: Severity::Note,
        what,
        lost,
        remedy,
    })
}

fn verdict(problems: &[Problem], subject: &str) -> Verdict {
    let gravest = problems.first().map_or(Severity::Note, |p| p.severity);
    let first = problems.first().map_or("", |p| p.what.as_str());
    let others = problems
        .iter()
        .filter(|p| p.severity == gravest)
        .count()
        .saturating_sub(1);
    let more = match others {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let (state, summary) = match gravest {
        Severity::Note => (State::Ready, subject.to_owned()),
        Severity::Degrades => (State::Degraded, format!("{subject}; {first}{more}")),
        Severity::Prevents => (State::Impossible, format!("{first}{more}")),
    };
    Verdict {
        state,
        summary,
        exit: state.exit(),
    }
}
