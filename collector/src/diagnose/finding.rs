//! What a finding is made of.

use std::fmt;

use serde::Serialize;

use super::chain::Chain;
use super::upstream::History;

/// Number of a kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u8);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AP{:03}", self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How bad it is. Ordered: the worst is the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is to be done.
    Info,
    /// It costs time, or can become critical.
    Warning,
    /// A guest, or the driver, does not go on.
    Critical,
}

impl Severity {
    /// `critical`, `warning` or `info`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A task that a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskRef {
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// What it is at: vCPU of a guest, guest start, writer, worker, ...; by its entry points, never by its name.
    pub role: String,
}

/// What a rule says of a finding, before the engine adds since when and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Which of the findings with one id: the same key is the same finding. Not shown.
    pub key: String,
    /// What tells it from others of its kind to the history of upstream; empty: the key. Not shown.
    pub symptom: String,
    /// It is there because of this finding, of a kind and with a key: it is told there, and is none of its own.
    pub because_of: Option<(Id, String)>,
    /// How bad.
    pub severity: Severity,
    /// One sentence.
    pub summary: String,
    /// What it is known from, and further facts, a line each.
    pub details: Vec<String>,
    /// What it means for the guest.
    pub meaning: String,
    /// What can help and what it risks, a line each.
    pub help: Vec<String>,
    /// Tasks, the most important first.
    pub tasks: Vec<TaskRef>,
    /// Names of locks.
    pub locks: Vec<String>,
    /// Who waits for whom, where that explains it.
    pub chain: Option<Chain>,
    /// When it began, by the clock of the traced machine; 0: when it was first seen.
    pub since_ns: u64,
    /// A fact about the past: it stays for the rest of the run.
    pub lasting: bool,
    /// It is there still, and everything but the key is as it was said before: texts cost more than seeing.
    pub unchanged: bool,
}

impl Sighting {
    /// A sighting with a key, a severity and a sentence, and nothing else.
    pub fn new(key: impl Into<String>, severity: Severity, summary: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            symptom: String::new(),
            because_of: None,
            severity,
            summary: summary.into(),
            details: Vec::new(),
            meaning: String::new(),
            help: Vec::new(),
            tasks: Vec::new(),
            locks: Vec::new(),
            chain: None,
            since_ns: 0,
            lasting: false,
            unchanged: false,
        }
    }

    /// What the history of upstream matches.
    pub fn symptom(&self) -> &str {
        if self.symptom.is_empty() {
            &self.key
        } else {
            &self.symptom
        }
    }

    /// What was seen before is there still.
    pub fn still(key: impl Into<String>) -> Self {
        Self {
            unchanged: true,
            ..Self::new(key, Severity::Info, "")
        }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Which kind.
    pub id: Id,
    /// What was seen, as it was seen last.
    pub seen: Sighting,
    /// When it began, CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub since_ns: u64,
    /// When it was published: the end of the tick.
    pub found_ns: u64,
    /// How often it was found: 1, and one more for each time it was over and came back.
    pub times: u64,
    /// When its texts were made: what does not change is told anew once a second.
    pub told_ns: u64,
    /// What there is only because of it, a line each.
    pub consequences: Vec<String>,
    /// When it was seen last; `None` while it stands.
    pub until_ns: Option<u64>,
    /// What upstream did.
    pub upstream: Vec<History>,
}

impl Finding {
    /// It stands.
    pub const fn active(&self) -> bool {
        self.until_ns.is_none()
    }
}
