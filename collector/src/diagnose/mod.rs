//! Diagnosis: from the state of a run to who waits for whom, why, and what upstream did about it.
//!
//! Pure, like the model: no clock, no I/O, no async. [`Diagnosis::observe`] takes the model after each frame, and
//! [`Diagnosis::report`] gives the findings and the verdict. What came before is remembered in [`Diagnosis`] alone. It
//! does not know where frames come from: a kernel, the emulated driver, a recording and a text that somebody pasted all
//! come the same way.
//!
//! [`graph`] has the graphs, [`rules`] one file for each kind of finding, [`chain`] the way from a task to the root of
//! its wait, [`upstream`] what is known of commits, [`stacks`] what saved stacks imply.

pub mod chain;
pub mod document;
pub mod finding;
pub mod graph;
pub mod look;
pub mod messages;
pub mod rules;
pub mod stacks;
pub mod text;
pub mod thresholds;
pub mod upstream;
pub mod verdict;
pub mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use finding::{Finding, Id, Severity, Sighting, TaskRef};
pub use thresholds::Thresholds;
pub use verdict::Verdict;

use crate::frame::Frame;
use crate::model::Model;
use chain::Chain;
use graph::waits::Waits;
use look::{Look, Processes, Standing};
use rules::Rule;

/// Findings remembered, standing and past.
pub const MAX_FINDINGS: usize = 256;

/// Consequences remembered of one finding.
const MAX_CONSEQUENCES: usize = 16;

/// Tasks told of besides findings.
const MAX_OTHERS: usize = 16;

/// What a run's findings are made of, from frame to frame. A clone goes on from the same moment.
#[derive(Clone)]
pub struct Diagnosis {
    thresholds: Thresholds,
    asked: Option<u32>,
    rules: Vec<Box<dyn Rule>>,
    standing: Standing,
    findings: BTreeMap<(Id, String), Remembered>,
    /// Findings that there was no room for: the most in one tick.
    omitted: u64,
    verdict: Verdict,
    /// What tells a run from another one: its start, by both clocks, and the traced process.
    run: Option<(u64, u64, u32)>,
    /// Names of guests.
    labels: HashMap<u32, String>,
    /// Which guest's a process is.
    processes: Processes,
    /// What the driver may be, as the history of the findings was asked for.
    generations: Vec<String>,
    /// Nothing is observed after the next frame.
    last: bool,
    /// Of stacks, those that no finding is about.
    others: Vec<Chain>,
    /// What there is because of a finding: sentences, by its kind and key.
    consequences: BTreeMap<(Id, String), BTreeSet<String>>,
}

#[derive(Clone)]
struct Remembered {
    finding: Finding,
    /// The last tick that it was seen in.
    seen_ns: u64,
}

impl Default for Diagnosis {
    fn default() -> Self {
        Self::new(Thresholds::default())
    }
}

/// What there is to say at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The one line above all findings.
    pub verdict: Verdict,
    /// Findings: those that stand first, then the worst, then by id and time.
    pub findings: Vec<Finding>,
    /// Findings that there was no room for: the most in one tick.
    pub omitted: u64,
    /// Of saved stacks: tasks that wait in or behind the driver, or sleep there, and that no finding is about.
    pub others: Vec<Chain>,
}

impl Diagnosis {
    /// A diagnosis of a run that has not begun.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            asked: None,
            rules: rules::all(),
            standing: Standing::default(),
            findings: BTreeMap::new(),
            omitted: 0,
            verdict: Verdict::default(),
            run: None,
            labels: HashMap::new(),
            processes: Processes::default(),
            generations: Vec::new(),
            last: false,
            others: Vec::new(),
            consequences: BTreeMap::new(),
        }
    }

    /// Somebody asks about this guest: if nothing of it is stuck, that is a finding (AP000).
    pub fn ask(&mut self, guest: u32) {
        self.asked = Some(guest);
    }

    /// Changes from when on something is a finding. What was found stands until it is seen no more.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// The frame that is observed next is the last: all texts are made anew with it.
    pub fn next_is_last(&mut self) {
        self.last = true;
    }

    /// Looks at a model that `frame` has just been folded into. Every frame of a run must be shown, in order.
    pub fn observe(&mut self, model: &Model, frame: &Frame) {
        self.begin_anew(model);
        if frame.meta.is_some() {
            self.labels = look::guest_labels(model);
        }
        self.standing.read(&model.live, model.last.at_ns);
        self.processes.read(model);
        let waits = Waits::of(&model.live);
        let generations = generations(model);
        self.follow(&generations);
        let look = Look {
            model,
            frame,
            waits: &waits,
            standing: &self.standing,
            thresholds: &self.thresholds,
            generations: &generations,
            asked: self.asked,
            labels: &self.labels,
            processes: &self.processes,
            last: std::mem::take(&mut self.last) || frame.end.is_some(),
        };
        let now = look.now();
        let mut omitted = 0_u64;
        for rule in &mut self.rules {
            let id = rule.doc().id;
            let mut seen = Vec::new();
            rule.look(&look, &mut seen);
            for sighting in seen {
                let key = (id, sighting.key.clone());
                if let Some(cause) = sighting.because_of {
                    // It may have been found before its cause was known.
                    self.findings.remove(&key);
                    remember(&mut self.consequences, cause, sighting.summary);
                    continue;
                }
                let since_ns = match sighting.since_ns {
                    0 => now,
                    since => since,
                };
                if sighting.unchanged {
                    if let Some(known) = self.findings.get_mut(&key) {
                        if !known.finding.active() {
                            known.finding.times = known.finding.times.saturating_add(1);
                        }
                        known.finding.until_ns = None;
                        known.seen_ns = now;
                    }
                    continue;
                }
                if let Some(known) = self.findings.get_mut(&key) {
                    if !known.finding.active() {
                        // It is back.
                        known.finding.since_ns = since_ns;
                        known.finding.found_ns = now;
                        known.finding.times = known.finding.times.saturating_add(1);
                    }
                    if known.finding.seen.symptom() != sighting.symptom() {
                        known.finding.upstream =
                            upstream::history(id.0, sighting.symptom(), &generations);
                    }
                    known.finding.seen = sighting;
                    known.finding.told_ns = now;
                    known.finding.until_ns = None;
                    known.seen_ns = now;
                } else if make_room(&mut self.findings, sighting.severity) {
                    let upstream = upstream::history(id.0, sighting.symptom(), &generations);
                    let finding = Finding {
                        id,
                        seen: sighting,
                        since_ns,
                        found_ns: now,
                        times: 1,
                        told_ns: now,
                        consequences: Vec::new(),
                        until_ns: None,
                        upstream,
                    };
                    let seen_ns = now;
                    self.findings.insert(key, Remembered { finding, seen_ns });
                } else {
                    omitted = omitted.saturating_add(1);
                }
            }
        }
        self.omitted = self.omitted.max(omitted);
        let stays = u64::try_from(self.thresholds.stays.as_nanos()).unwrap_or(u64::MAX);
        for known in self.findings.values_mut() {
            let gone = now.saturating_sub(known.seen_ns) > stays;
            if known.finding.active() && !known.finding.seen.lasting && gone {
                known.finding.until_ns = Some(known.seen_ns);
            }
        }
        let standing: Vec<&Finding> = self.standing_findings().collect();
        let others = others(&look, &standing);
        self.verdict = verdict::verdict(&look, &standing, others.len());
        self.others = others;
    }

    /// The model begins anew with another run, and so does this.
    fn begin_anew(&mut self, model: &Model) {
        let meta = model.meta.as_ref();
        let run = meta.map(|meta| (meta.start_ns, meta.start_unix_ns, meta.pid));
        if self.run.is_some() && self.run != run {
            let asked = self.asked;
            *self = Self::new(self.thresholds.clone());
            self.asked = asked;
        }
        self.run = run;
    }

    /// A kernel's generation narrows with what is seen: the history of what was found before follows it.
    fn follow(&mut self, generations: &[String]) {
        if self.generations == generations {
            return;
        }
        self.generations = generations.to_vec();
        for ((id, _), known) in &mut self.findings {
            let symptom = known.finding.seen.symptom();
            known.finding.upstream = upstream::history(id.0, symptom, generations);
        }
    }

    fn standing_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .values()
            .map(|known| &known.finding)
            .filter(|finding| finding.active())
    }

    /// Everything found so far.
    pub fn report(&self) -> Report {
        let mut findings: Vec<Finding> = self
            .findings
            .iter()
            .map(|(key, known)| {
                let mut finding = known.finding.clone();
                let consequences = self.consequences.get(key).into_iter().flatten();
                finding.consequences = consequences.cloned().collect();
                finding
            })
            .collect();
        findings.sort_by(|a, b| {
            let order = |f: &Finding| {
                (
                    !f.active(),
                    std::cmp::Reverse(f.seen.severity),
                    f.id,
                    f.since_ns,
                )
            };
            order(a)
                .cmp(&order(b))
                .then_with(|| a.seen.key.cmp(&b.seen.key))
        });
        Report {
            verdict: self.verdict.clone(),
            findings,
            omitted: self.omitted,
            others: self.others.clone(),
        }
    }
}

/// A run as it is followed: the model, and the diagnosis that watches it.
#[derive(Default)]
pub struct Case {
    /// Everything known of the run.
    pub model: Model,
    /// What is the matter with it.
    pub diagnosis: Diagnosis,
}

impl Case {
    /// Folds a frame in, and looks at what has become of the run. A run that begins anew is diagnosed anew.
    pub fn apply(&mut self, frame: &Frame) {
        self.model.apply(frame);
        self.diagnosis.observe(&self.model, frame);
    }

    /// Everything found so far.
    pub fn report(&self) -> Report {
        self.diagnosis.report()
    }
}

/// Tasks in or behind the driver that no finding is about, of saved stacks: whoever sent them wants to know.
fn others(look: &Look<'_>, standing: &[&Finding]) -> Vec<Chain> {
    if !look.from_stacks() {
        return Vec::new();
    }
    let mut told: BTreeSet<u32> = standing
        .iter()
        .flat_map(|finding| {
            let tasks = finding.seen.tasks.iter().map(|task| task.tid);
            tasks.chain(finding.seen.chain.iter().flat_map(Chain::tids))
        })
        .collect();
    let concerned = look.concerned();
    let mut others = Vec::new();
    for place in concerned {
        let task = &look.waits.tasks[place];
        let runs = task.state == "R" && task.waits.is_empty();
        if runs || told.contains(&task.tid) || others.len() >= MAX_OTHERS {
            continue;
        }
        if let Some(chain) = Chain::of(look, place) {
            told.extend(chain.tids());
            others.push(chain);
        }
    }
    others
}

/// Remembers what there is because of a finding.
fn remember(
    consequences: &mut BTreeMap<(Id, String), BTreeSet<String>>,
    cause: (Id, String),
    summary: String,
) {
    if consequences.len() < MAX_FINDINGS || consequences.contains_key(&cause) {
        let of = consequences.entry(cause).or_default();
        if of.len() < MAX_CONSEQUENCES {
            of.insert(summary);
        }
    }
}

/// Whether there is room for a finding of this severity. Those that are over go first, the oldest of them; then one that
/// is less severe.
fn make_room(findings: &mut BTreeMap<(Id, String), Remembered>, severity: Severity) -> bool {
    if findings.len() < MAX_FINDINGS {
        return true;
    }
    let least = findings
        .iter()
        .filter(|(_, known)| !known.finding.active() || known.finding.seen.severity < severity)
        .min_by_key(|(_, known)| {
            let finding = &known.finding;
            (finding.active(), finding.seen.severity, known.seen_ns)
        })
        .map(|(key, _)| key.clone());
    least.is_some_and(|key| findings.remove(&key).is_some())
}

/// Candidates of the driver's generation; all of them where nothing is known.
fn generations(model: &Model) -> Vec<String> {
    let known = model.meta.as_ref().map_or("", |meta| &meta.generation);
    if known.is_empty() {
        return upstream::GENERATIONS.map(str::to_owned).to_vec();
    }
    known.split('|').map(str::to_owned).collect()
}
