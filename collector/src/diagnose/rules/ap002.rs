//! AP002: a deadlock is possible.

use std::collections::BTreeSet;

use super::leaks::{Leak, leaks};
use super::{Doc, Rule, taken_in};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::graph::order::{self, Cycle, Instances};
use crate::diagnose::look::Look;
use crate::diagnose::words;
use crate::model::{EdgeId, Model, query};

const DOC: Doc = Doc {
    id: Id(2),
    title: "possible deadlock",
    text: "\
Locks were taken in orders that contradict each other: A while B was held, and B (directly or through others) while A was
held. Nobody need have waited for it. It is what lockdep looks for, and more: a flag that a mutex guards, with a wait
queue, is a lock here, and a test that finds the flag clear makes an edge marked `annotated`, since it would have waited.

**How it is known.** From the exact edges (held, acquired) that probes count at each acquisition; none is ever lost, and
if there was no room for one the finding says `incomplete`. Cycles are found in the graph of lock classes by strongly
connected components and the shortest cycle through each back edge; each is reported once. An rwsem's modes are treated
as lockdep does: a reader waits for a reader as soon as anybody writes. Several locks of one class make no cycle unless
their order inverts. A cycle that is there only because a lock was left locked is told with that (AP004). Where the very same instances close the cycle it says so; where one exclusive lock was held at every
step the cycle cannot close, and is reported as info.

**What can help.** Nothing is to be done on a running host; it is a bug to report, with the functions of each edge. The
history says which releases have it no more.
",
};

/// Counts in the texts are brought up to date so often; everything else at once.
const REFRESH_NS: u64 = 1_000_000_000;

/// The cycles so far: they change only when an edge is new, or a class is taken exclusively for the first time.
#[derive(Default, Clone)]
pub(super) struct PossibleDeadlock {
    edges: usize,
    written: BTreeSet<u8>,
    cycles: Vec<Cycle>,
    told_ns: u64,
    /// Locks that somebody has left locked so far.
    leaks: Vec<Leak>,
}

/// Leaks remembered; each lock can be leaked once.
const MAX_LEAKS: usize = 64;

impl Rule for PossibleDeadlock {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        // A leak may show a reading later than the circle that it makes.
        let before = self.leaks.len();
        for leak in leaks(look) {
            if self.leaks.len() < MAX_LEAKS && !self.leaks.contains(&leak) {
                self.leaks.push(leak);
            }
        }
        let new_leak = self.leaks.len() > before;
        let retell = look.last && self.edges > 0;
        if look.frame.edges.is_empty() && !new_leak && !retell {
            return;
        }
        let new_edges = look.model.edges.len() != self.edges;
        let refresh = retell || look.ago(self.told_ns) >= REFRESH_NS;
        if !new_edges && !new_leak && (self.edges == 0 || !refresh) {
            return;
        }
        let written = order::written(look.model);
        if new_edges || written != self.written {
            self.edges = look.model.edges.len();
            self.written = written;
            self.cycles = order::cycles(look.model);
        } else {
            order::recount(look.model, &mut self.cycles);
        }
        self.told_ns = look.now();
        let guards = order::guards(look.model, &self.cycles);
        for (cycle, guard) in self.cycles.iter().zip(guards) {
            let mut sighting = sighting(look.model, cycle, guard);
            sighting.because_of = self
                .leaks
                .iter()
                .find(|leak| is_because_of(look.model, cycle, leak))
                .map(Leak::finding);
            seen.push(sighting);
        }
    }
}

/// All edges of a step were made by a task that went on with a lock which it had left locked.
fn is_because_of(model: &Model, cycle: &Cycle, leak: &Leak) -> bool {
    cycle
        .steps
        .iter()
        .any(|step| !step.edges.is_empty() && step.edges.iter().all(|edge| leak.made(model, *edge)))
}

fn sighting(model: &Model, cycle: &Cycle, guard: Option<u8>) -> Sighting {
    let names: Vec<&str> = cycle
        .steps
        .iter()
        .map(|step| query::class_name(step.held))
        .collect();
    let first = names.first().copied().unwrap_or("?");
    let key = names.join(" > ");
    let round = format!("{} -> {first}", names.join(" -> "));
    let functions: BTreeSet<&str> = cycle
        .steps
        .iter()
        .flat_map(|step| step.edges.iter().take(4))
        .map(|edge| query::entry_name(edge.acquired_in))
        .collect();
    let functions: Vec<String> = functions.iter().map(|name| format!("in {name}")).collect();
    let symptom = format!("{key}, {}", functions.join(", "));
    let severity = if guard.is_some() {
        Severity::Info
    } else {
        Severity::Warning
    };
    let mut sighting = Sighting::new(
        key,
        severity,
        format!("locks are taken in a circle: {round}"),
    );
    sighting.symptom = symptom;
    sighting.lasting = true;
    for step in &cycle.steps {
        sighting.details.push(format!(
            "{} -> {}{}",
            query::series_name(step.held),
            query::series_name(step.acquired),
            marks(step.held, step.acquired, &step.edges),
        ));
        for &id in step.edges.iter().take(4) {
            sighting.details.push(edge_line(model, id));
        }
    }
    sighting.details.push(
        if cycle.lockdep_visible() {
            "lockdep sees every edge of it"
        } else {
            "lockdep cannot see it: an open-coded lock is part of it"
        }
        .into(),
    );
    sighting.details.push(
        match order::instances(model, cycle) {
            Instances::Same => "the very same locks were taken in this order",
            Instances::SameGuest => {
                "locks of one guest were taken in this order; the very same ones are not among the sampled pairs"
            }
            Instances::NotSampled => {
                "whether the very same locks were is not known: more were taken than are sampled"
            }
            Instances::ClassOnly => "no sampled locks close the circle: it is one of classes",
            Instances::Unknown => "which locks of each class is not known for every step",
        }
        .into(),
    );
    if let Some(tid) = order::one_task(model, cycle) {
        sighting
            .details
            .push(format!("all by one task ({tid}), one after the other"));
    }
    if let Some(class) = guard {
        sighting.details.push(format!(
            "{} was held at every step, by counts: two tasks cannot be in it at once",
            query::class_name(class << 1)
        ));
    }
    if order::incomplete(model) {
        sighting
            .details
            .push("incomplete: some edges found no room".into());
    }
    sighting.tasks = tasks(model, cycle);
    sighting.locks = names.iter().map(|name| (*name).to_owned()).collect();
    sighting.meaning = "tasks that are at these steps at the same time stop for ever".into();
    sighting.help = vec!["nothing to do now; report it with the functions of each edge".into()];
    sighting
}

fn marks(held: u8, acquired: u8, edges: &[EdgeId]) -> String {
    let mut marks = Vec::new();
    if !query::lockdep_visible(held, acquired) {
        marks.push("invisible to lockdep");
    }
    if !edges.is_empty() && edges.iter().all(|edge| edge.annotated) {
        marks.push("annotated");
    }
    if marks.is_empty() {
        String::new()
    } else {
        format!("  ({})", marks.join(", "))
    }
}

fn edge_line(model: &Model, id: EdgeId) -> String {
    let known = model.edges.get(&id);
    let ago = |ns: u64| words::duration(model.last.at_ns.saturating_sub(ns));
    let by = known.map_or_else(String::new, |edge| {
        format!(
            ", {}, first by {} ({}) {} ago, last {} ago",
            words::count(
                usize::try_from(edge.count_total).unwrap_or(usize::MAX),
                "time"
            ),
            edge.first_comm,
            edge.first_tid,
            ago(edge.first_ns),
            ago(edge.last_ns)
        )
    });
    let (held, taken) = (taken_in(id.held_in), taken_in(id.acquired_in));
    if id.annotated {
        format!("  held {held}, tested and found clear {taken}{by}")
    } else {
        format!("  held {held}, taken {taken}{by}")
    }
}

/// The first task at each step, once each.
fn tasks(model: &Model, cycle: &Cycle) -> Vec<TaskRef> {
    let mut tasks: Vec<TaskRef> = Vec::new();
    for id in cycle.steps.iter().filter_map(|step| step.edges.first()) {
        let Some(edge) = model.edges.get(id) else {
            continue;
        };
        if tasks.iter().all(|task| task.tid != edge.first_tid) {
            tasks.push(TaskRef {
                tid: edge.first_tid,
                comm: edge.first_comm.clone(),
                role: String::new(),
            });
        }
    }
    tasks
}
