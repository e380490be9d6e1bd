//! AP008: a waiter that is woken and never gets on.

use super::{Doc, Rule};
use crate::diagnose::chain::Chain;
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::diagnose::words::duration;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(8),
    title: "starvation",
    text: "\
A task that waits for an open-coded lock is woken again and again, finds the flag set by somebody else each time, and goes
back to sleep. A wait queue is no queue: nobody's turn comes.

**How it is known.** The rounds of its wait loop are counted by the probe. The hung-task detector does not report such a
task, because it runs now and then.

**What can help.** Fewer starts and stops of the same guest at the same time.
",
};

#[derive(Default)]
pub(super) struct Starvation;

impl Rule for Starvation {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        for (place, task) in look.waits.tasks.iter().enumerate() {
            // It may queue for the guard just now: the wait for the flag is one further out.
            let starved = task.waits.iter().find(|wait| {
                query::open_coded(wait.series as u8) && wait.rounds >= look.thresholds.rounds
            });
            let Some(wait) = starved else { continue };
            let name = look.lock_name(wait.series, wait.instance);
            let mut sighting = Sighting::new(
                format!("{name} {}.{}", task.tid, wait.serial),
                Severity::Warning,
                format!(
                    "{} was woken {} times in {} and still waits for {name}",
                    query::task_name(task),
                    wait.rounds,
                    duration(look.ago(wait.since_ns))
                ),
            );
            sighting.since_ns = wait.since_ns;
            sighting.tasks = vec![look.task_ref(task)];
            sighting.locks = vec![name];
            sighting.chain = Chain::of(look, place);
            sighting.meaning = "others take the lock each time before this task runs".into();
            sighting.help = vec!["fewer starts and stops of the same guest at once".into()];
            seen.push(sighting);
        }
    }
}
