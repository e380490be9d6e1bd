//! AP008: a waiter that is woken and never gets on.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Doc, Rule};
use crate::diagnose::chain::Chain;
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::lasting;
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(8),
    title: "starvation",
    text: "\
A task that waits for an open-coded lock is woken again and again, finds the flag set by somebody else each time, and goes
back to sleep. A wait queue is no queue: nobody's turn comes.

**How it is known.** The rounds of its wait loop are counted by the probe. The hung-task detector does not report such a
task, because it runs now and then. Those who wait for one lock are one finding, about the one that was woken most often.

**What can help.** Fewer starts and stops of the same guest at the same time.
",
};

#[derive(Default, Clone)]
pub(super) struct Starvation;

impl Rule for Starvation {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        // By lock, those who were woken most often first.
        let mut starved: BTreeMap<String, Vec<(u64, usize)>> = BTreeMap::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            if let Some(wait) = starved_wait(look, task) {
                let name = look.lock_name(wait.series, wait.instance);
                let of = starved.entry(name).or_default();
                of.push((wait.rounds, place));
            }
        }
        for (name, mut of) in starved {
            of.sort_by_key(|&(rounds, place)| (Reverse(rounds), look.waits.tasks[place].tid));
            let places: Vec<usize> = of.into_iter().map(|(_, place)| place).collect();
            seen.extend(sighting(look, name, &places));
        }
    }
}

/// The wait of a task that has gone round too often. It may queue for the guard just now: the wait for the flag is one
/// further out.
fn starved_wait<'a>(look: &Look<'_>, task: &'a frame::TaskState) -> Option<&'a frame::Waiting> {
    task.waits
        .iter()
        .find(|wait| query::open_coded(wait.series as u8) && wait.rounds >= look.thresholds.rounds)
}

fn sighting(look: &Look<'_>, name: String, places: &[usize]) -> Option<Sighting> {
    let &first = places.first()?;
    let task = &look.waits.tasks[first];
    let wait = starved_wait(look, task)?;
    let mut sighting = Sighting::new(
        name.clone(),
        Severity::Warning,
        format!(
            "{} was woken {} times{} and {}",
            query::task_name(task),
            wait.rounds,
            lasting(" in ", look.ago(wait.since_ns)),
            match innermost(task) {
                Some(guard) if guard.serial != wait.serial => format!(
                    "waits for {} to look at {name} again",
                    look.lock_name(guard.series, guard.instance)
                ),
                _ => format!("still waits for {name}"),
            }
        ),
    );
    sighting.since_ns = wait.since_ns;
    if let others @ 1.. = places.len() - 1 {
        sighting.details.push(format!(
            "{} too, woken less often",
            match others {
                1 => "another task is starved".to_owned(),
                n => format!("{n} other tasks are starved"),
            }
        ));
    }
    sighting.tasks = look.task_refs(places);
    sighting.locks = vec![name];
    sighting.chain = Chain::of(look, first);
    sighting.meaning = "others take the lock each time before this task runs".into();
    sighting.help = vec!["fewer starts and stops of the same guest at once".into()];
    Some(sighting)
}
