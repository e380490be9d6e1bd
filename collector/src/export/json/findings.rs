//! The members of the document that say what is the matter: `verdict` and `findings`.

use serde::Serialize;

use crate::diagnose::chain::Chain;
use crate::diagnose::graph::waits::By;
use crate::diagnose::upstream::History;
use crate::diagnose::{self, Severity, TaskRef};

/// A finding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// For example `AP001`.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// It stands at the end of the interval.
    pub active: bool,
    /// One sentence.
    pub summary: String,
    /// How long before the end of the interval it began.
    pub since_ns: u64,
    /// CLOCK_MONOTONIC of the traced machine when it began.
    pub began_at_ns: u64,
    /// The same when it was found.
    pub found_at_ns: u64,
    /// The same when it was seen last; absent while it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at_ns: Option<u64>,
    /// The same when its texts and its chain were made; absent if that is `found_at_ns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_at_ns: Option<u64>,
    /// What it is known from, and further facts.
    pub details: Vec<String>,
    /// What there is only because of it; absent where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consequences: Vec<String>,
    /// What it means for the guest.
    pub meaning: String,
    /// What can help, and what it risks.
    pub help: Vec<String>,
    /// Tasks, the most important first.
    pub tasks: Vec<TaskRef>,
    /// Names of locks.
    pub locks: Vec<String>,
    /// Who waits for whom, depth first.
    pub chain: Vec<Link>,
    /// What upstream did.
    pub upstream: Vec<History>,
}

/// A task of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// 0 at the top; one more than the task that this one keeps waiting.
    pub depth: usize,
    /// Thread id.
    pub tid: u32,
    /// Thread name.
    pub comm: String,
    /// What it is at.
    pub role: String,
    /// How it keeps the one above waiting; absent at the top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Keeps>,
    /// What it waits for; absent at a root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// What there is where the chain ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
}

/// How a task keeps another one waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Keeps {
    /// `holding`, `executing` or `queued before`.
    pub by: &'static str,
    /// `-`, `read` or `write`.
    pub mode: &'static str,
    /// For so long.
    pub for_ns: u64,
    /// Entry point.
    pub entry_point: &'static str,
    /// How it is known.
    pub evidence: String,
}

/// A wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// Name of the lock.
    pub lock: String,
    /// `-`, `read` or `write`.
    pub mode: &'static str,
    /// For so long.
    pub for_ns: u64,
    /// Entry point.
    pub entry_point: &'static str,
    /// How it is known.
    pub evidence: String,
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Root {
    /// `cycle`, `running`, `sleeping`, `polling hardware`, `exited`, `queued, not running`, `unknown`, `seen above`.
    pub kind: &'static str,
    /// The same as the end of a sentence.
    pub text: String,
}

impl Finding {
    /// Of a diagnosis; `end_ns` is the end of the interval.
    pub fn all(report: &diagnose::Report, end_ns: u64) -> Vec<Self> {
        let one = |finding: &diagnose::Finding| Self {
            id: finding.id.to_string(),
            severity: finding.seen.severity,
            active: finding.active(),
            summary: finding.seen.summary.clone(),
            since_ns: end_ns.saturating_sub(finding.since_ns),
            began_at_ns: finding.since_ns,
            found_at_ns: finding.found_ns,
            ended_at_ns: finding.until_ns,
            told_at_ns: (finding.told_ns != finding.found_ns).then_some(finding.told_ns),
            details: finding.seen.details.clone(),
            consequences: finding.consequences.clone(),
            meaning: finding.seen.meaning.clone(),
            help: finding.seen.help.clone(),
            tasks: finding.seen.tasks.clone(),
            locks: finding.seen.locks.clone(),
            chain: finding.seen.chain.iter().flat_map(links).collect(),
            upstream: finding.upstream.clone(),
        };
        report.findings.iter().map(one).collect()
    }
}

fn links(chain: &Chain) -> Vec<Link> {
    let mut links = Vec::new();
    let mut stack = vec![(chain, 0)];
    while let Some((chain, depth)) = stack.pop() {
        links.push(Link {
            depth,
            tid: chain.task.tid,
            comm: chain.task.comm.clone(),
            role: chain.task.role.clone(),
            keeps: chain.keeps.as_ref().map(|keeps| Keeps {
                by: match keeps.by {
                    By::Holding => "holding",
                    By::Executing => "executing",
                    By::QueuedBefore => "queued before",
                },
                mode: keeps.mode,
                for_ns: keeps.for_ns,
                entry_point: keeps.entry,
                evidence: keeps.evidence.clone(),
            }),
            waits: chain.waits.as_ref().map(|waits| Waits {
                lock: waits.lock.clone(),
                mode: waits.mode,
                for_ns: waits.for_ns,
                entry_point: waits.entry,
                evidence: waits.evidence.clone(),
            }),
            root: chain.root.as_ref().map(|root| Root {
                kind: root.name(),
                text: root.text(),
            }),
        });
        stack.extend(chain.below.iter().rev().map(|below| (below, depth + 1)));
    }
    links
}
