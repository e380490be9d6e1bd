//! What a kernel allows: one answer for each mechanism.
//!
//! On the machine itself each is tried; of a copy of a machine's files it is read from the answers that were recorded
//! with it (`apscope-probes.json`), or else concluded from the files.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Facts;
use super::files::Root;
use super::{obstacles, trials};

/// A way to trace, or something that it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Array maps that are mapped into the collector's memory.
    MappedMaps,
    /// The ring that carries spans.
    RingBuffer,
    /// bpf_probe_read_kernel(): owner words, arguments behind pointers.
    ReadKernel,
    /// Tracepoints without type information.
    RawTracepoint,
    /// Tracepoints with typed arguments.
    BtfTracepoint,
    /// Function entries through a trampoline.
    Fentry,
    /// Function returns through a trampoline.
    Fexit,
    /// Programs at function entries.
    Kprobe,
    /// Programs at function returns.
    Kretprobe,
    /// kprobes made through tracefs, whose return probes have a pool of instances of our own size.
    ProbeEvents,
    /// User functions: the emulated driver.
    Uprobe,
    /// A program that is told by a cookie at which place it was attached.
    AttachCookie,
    /// Running a raw tracepoint program without its tracepoint.
    TestRun,
    /// Run times of programs while a descriptor is open.
    RunTimeStats,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::MappedMaps,
        Self::RingBuffer,
        Self::ReadKernel,
        Self::RawTracepoint,
        Self::BtfTracepoint,
        Self::Fentry,
        Self::Fexit,
        Self::Kprobe,
        Self::Kretprobe,
        Self::ProbeEvents,
        Self::Uprobe,
        Self::AttachCookie,
        Self::TestRun,
        Self::RunTimeStats,
    ];

    /// As people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MappedMaps => "maps in user memory",
            Self::RingBuffer => "ring buffer",
            Self::ReadKernel => "reading kernel memory",
            Self::RawTracepoint => "raw tracepoints",
            Self::BtfTracepoint => "BTF tracepoints",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobes",
            Self::Kretprobe => "kretprobes",
            Self::ProbeEvents => "probe events in tracefs",
            Self::Uprobe => "uprobes",
            Self::AttachCookie => "attach cookies",
            Self::TestRun => "test runs",
            Self::RunTimeStats => "run-time statistics",
        }
    }

    /// What is lost without it.
    pub const fn lost(self) -> &'static str {
        match self {
            Self::MappedMaps => {
                "everything that eBPF measures: statistics and live state are in such maps"
            }
            Self::RingBuffer => "spans: single lock cycles and calls; no statistics",
            Self::ReadKernel => "locks adopted from arguments, owner words, written values",
            Self::RawTracepoint => {
                "contended waits from tracepoints, where BTF tracepoints are missing too"
            }
            Self::BtfTracepoint => {
                "the cheapest way to contended waits; raw tracepoints do the same"
            }
            Self::Fentry => "the cheapest way to function entries; kprobes do the same",
            Self::Fexit => {
                "the exact time at which a blocking acquisition ends; owner words stand in"
            }
            Self::Kprobe => {
                "the driver's own functions: entry points, and with them whose locks they are"
            }
            Self::Kretprobe => "latencies and return codes of entry points",
            Self::ProbeEvents => {
                "every kprobe and kretprobe: they are made there, for a pool of return instances that \
                 is large enough, and for the count of what was missed"
            }
            Self::Uprobe => "the emulated driver over eBPF; in process it is measured all the same",
            Self::AttachCookie => {
                "one program at many places; the emulated driver is then measured in process"
            }
            Self::TestRun => {
                "everything that eBPF measures: programs work only while one that this process runs \
                 tells them so, and the kernel's memory is read by another"
            }
            Self::RunTimeStats => "what the programs cost, unless kernel.bpf_stats_enabled is 1",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the answers came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Each was tried on this kernel.
    Probed,
    /// They were tried on another machine, and are read from a file.
    Recorded,
    /// Not probed: files of the machine speak against it, or nothing does.
    Concluded,
}

/// What a kernel allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// How the answers came about.
    pub basis: Basis,
    answers: BTreeMap<Mechanism, Result<(), String>>,
}

impl Allowed {
    /// Tries everything, if the facts are of this machine; otherwise reads or concludes.
    ///
    /// A trial loads and attaches programs that do nothing, and takes them away again. It touches no function that is
    /// traced.
    pub fn probe(facts: &Facts) -> Self {
        let mut root = Root::new(&facts.root);
        if root.is_live() {
            let mut answers = trials::all(facts);
            for (mechanism, answer) in &mut answers {
                // The kernel gives an error number; the facts often say what it is about.
                let known = obstacles::in_words(&obstacles::against(facts, *mechanism));
                if let (Err(reason), Some(known)) = (answer, known)
                    && *reason != known
                {
                    *reason = format!("{reason}: {known}");
                }
            }
            return Self::new(Basis::Probed, answers);
        }
        match recorded(&mut root) {
            Some(answers) => Self::new(Basis::Recorded, answers),
            None => Self::conclude(facts),
        }
    }

    /// What the facts alone say.
    pub fn conclude(facts: &Facts) -> Self {
        let answers = Mechanism::ALL.into_iter().map(|mechanism| {
            let known = obstacles::in_words(&obstacles::against(facts, mechanism));
            let answer = known.map_or(Ok(()), Err);
            (mechanism, answer)
        });
        Self::new(Basis::Concluded, answers.collect())
    }

    /// Answers that are known. Mechanisms without one were not tried.
    pub fn new(basis: Basis, mut answers: BTreeMap<Mechanism, Result<(), String>>) -> Self {
        for mechanism in Mechanism::ALL {
            let untried = || Err("not tried".to_owned());
            answers.entry(mechanism).or_insert_with(untried);
        }
        Self { basis, answers }
    }

    /// Whether a mechanism can be used.
    ///
    /// # Errors
    ///
    /// The reason why not, in words.
    pub fn get(&self, mechanism: Mechanism) -> Result<(), &str> {
        match self.answers.get(&mechanism) {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(reason),
            // `new` has filled in all.
            None => Err("not tried"),
        }
    }

    /// Whether a mechanism can be used.
    pub fn has(&self, mechanism: Mechanism) -> bool {
        self.get(mechanism).is_ok()
    }

    /// All answers.
    pub fn iter(&self) -> impl Iterator<Item = (Mechanism, Result<(), &str>)> {
        Mechanism::ALL
            .into_iter()
            .map(|mechanism| (mechanism, self.get(mechanism)))
    }
}

/// An answer, in JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    mechanism: Mechanism,
    allowed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The file `apscope-probes.json`: the member `mechanisms` of a doctor's JSON is one.
#[derive(Debug, Deserialize)]
struct Recorded {
    mechanisms: Vec<Answer>,
}

fn recorded(root: &mut Root) -> Option<BTreeMap<Mechanism, Result<(), String>>> {
    let text = root.text("apscope-probes.json")?;
    let recorded: Recorded = serde_json::from_str(&text).ok()?;
    let answers = recorded.mechanisms.into_iter().take(256).map(|answer| {
        let result = match answer.reason {
            _ if answer.allowed => Ok(()),
            reason => Err(reason.unwrap_or_else(|| "no reason recorded".into())),
        };
        (answer.mechanism, result)
    });
    Some(answers.collect())
}

impl Serialize for Allowed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut allowed = serializer.serialize_struct("Allowed", 2)?;
        allowed.serialize_field("basis", &self.basis)?;
        let answers: Vec<Answer> = self
            .iter()
            .map(|(mechanism, answer)| Answer {
                mechanism,
                allowed: answer.is_ok(),
                reason: answer.err().map(str::to_owned),
            })
            .collect();
        allowed.serialize_field("mechanisms", &answers)?;
        allowed.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_answers_are_read_back() {
        let mut answers = BTreeMap::new();
        answers.insert(Mechanism::Fentry, Ok(()));
        answers.insert(Mechanism::Kprobe, Err("EPERM".to_owned()));
        let allowed = Allowed::new(Basis::Probed, answers);
        let folder = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&allowed).unwrap();
        std::fs::write(folder.path().join("apscope-probes.json"), text).unwrap();
        let facts = Facts::read(folder.path());
        let again = Allowed::probe(&facts);
        assert_eq!(again.basis, Basis::Recorded);
        assert!(again.has(Mechanism::Fentry));
        assert_eq!(again.get(Mechanism::Kprobe), Err("EPERM"));
        assert_eq!(again.get(Mechanism::Uprobe), Err("not tried"));
    }

    #[test]
    fn a_damaged_record_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("apscope-probes.json");
        std::fs::write(
            file,
            r#"{"mechanisms":[{"mechanism":"magic","allowed":true}]}"#,
        )
        .unwrap();
        let allowed = Allowed::probe(&Facts::read(folder.path()));
        assert_eq!(allowed.basis, Basis::Concluded);
    }
}
