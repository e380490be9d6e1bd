//! AP004: a lock that a function has left locked.

use super::leaks::{is_leaked, key};
use super::{Doc, REBOOT, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::diagnose::words::{count, list};
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(4),
    title: "leaked lock",
    text: "\
A task has returned from a function with a lock that it had taken there, or has ended with it. Everybody who wants the
lock from now on waits for ever.

**How it is known.** The holding stood in two readings after the call in which the lock was acquired had returned (or the
thread had ended), and every invocation of a probe was seen. Open-coded locks are AP003. Orders of locks that are there only
because the task went on with the lock make no findings of their own: they are listed here.

**What can help.** Nothing releases it: a mutex is released by its owner. If the owner can be made to enter the function
again it deadlocks with itself.
",
};

const READINGS: u32 = 2;

#[derive(Default, Clone)]
pub(super) struct LeakedLock;

impl Rule for LeakedLock {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        // A return that was not seen leaves a call on record, and not the other way round; an entry that was not seen
        // makes a hold that belongs to no call.
        if !look.model.loss.exact() {
            return;
        }
        for (place, task) in look.waits.tasks.iter().enumerate() {
            for hold in &task.holds {
                if !is_leaked(look, task, hold) {
                    continue;
                }
                let stood = look.standing.hold(task.tid, hold);
                if stood.is_none_or(|stood| stood.readings < READINGS) {
                    continue;
                }
                let name = look.lock_name(hold.series, hold.instance);
                let entry = query::entry_name(hold.entry as u8);
                let who = query::task_name(task);
                let how = if task.exited {
                    format!("has ended with {name} held, which it took in {entry}")
                } else {
                    format!("has returned from {entry} with {name} held")
                };
                let mut sighting = Sighting::new(
                    key(&name, task.tid, hold),
                    Severity::Critical,
                    format!("{who} {how}"),
                );
                sighting.symptom = format!(
                    "{} {} {entry}",
                    if task.exited { "ended" } else { "returned" },
                    query::class_name(hold.series as u8)
                );
                sighting.since_ns = hold.since_ns;
                sighting.tasks = vec![look.task_ref(task)];
                let behind = look.waits.behind(&[place]);
                if !behind.is_empty() {
                    let names = look.task_names(&behind);
                    sighting.details.push(format!(
                        "{} behind it: {}",
                        count(behind.len(), "task"),
                        list(&names)
                    ));
                }
                sighting.locks = vec![name];
                sighting.meaning = "whoever wants the lock from now on stops for ever".into();
                sighting.help = vec![
                    "nothing releases it: not waiting, not killing those who wait".into(),
                    REBOOT.into(),
                ];
                seen.push(sighting);
            }
        }
    }
}
