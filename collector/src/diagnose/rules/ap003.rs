//! AP003: a wait that nobody will end.

use std::collections::BTreeMap;

use probe_ebpf::abi::LockKind;

use super::{Doc, REBOOT, Rule};
use crate::diagnose::chain::Chain;
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::{count, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(3),
    title: "orphaned wait",
    text: "\
A task sleeps on the wait queue of an open-coded lock, and nobody is left who would wake it: the flag is clear already (the
wake-up was lost), or the task that set it has ended, or has left the function without clearing it.

**How it is known.** Its setter was seen, or the flag was seen to be cleared; the sleeper stood in at least three readings
without running, and does not queue for the mutex that guards the flag. A flag whose setter was never seen is `holder
unknown` in a chain, and not this finding.

**What can help.** After a lost wake-up, any later one of the same wait queue: starting or stopping the same guest wakes
everybody, where it does not itself wait for the sleeper. Where the setter is gone the flag stays set, and a stop of the
guest would wait for it too: only a reboot, after a dump. Killing does not help: the wait is uninterruptible.
",
};

/// The cause of a wait for a flag that is clear.
const LOST: &str = "the flag is clear already: the wake-up was lost";

/// Readings in a row without having run: somebody who was just woken runs within one of them.
const READINGS: u32 = 3;

#[derive(Default, Clone)]
pub(super) struct OrphanedWait;

impl Rule for OrphanedWait {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        // A missed invocation makes a flag look clear, and a setter look gone.
        if !look.model.loss.exact() {
            return;
        }
        // By lock and cause: those who sleep on one queue are one finding.
        let mut orphans: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let Some(wait) = innermost(task) else {
                continue;
            };
            if query::kind(wait.series as u8) != LockKind::Flag || !look.waits_still(task, READINGS)
            {
                continue;
            }
            if let Some(cause) = cause(look, place, wait) {
                let name = look.lock_name(wait.series, wait.instance);
                orphans.entry((name, cause)).or_default().push(place);
            }
        }
        for ((name, cause), mut places) in orphans {
            let since = |place: &usize| {
                let task = &look.waits.tasks[*place];
                (innermost(task).map_or(0, |wait| wait.since_ns), task.tid)
            };
            places.sort_by_key(since);
            seen.push(sighting(look, name, &cause, &places));
        }
    }
}

fn sighting(look: &Look<'_>, name: String, cause: &str, places: &[usize]) -> Sighting {
    let tasks = places.iter().map(|&place| &look.waits.tasks[place]);
    let names = look.task_names(places);
    let (verb, more) = match places.len() {
        1 => ("waits", String::new()),
        n if n > names.len() => ("wait", format!(" and {} more", n - names.len())),
        _ => ("wait", String::new()),
    };
    let mut sighting = Sighting::new(
        format!("{name} {cause}"),
        Severity::Critical,
        format!("{}{more} {verb} for {name}, and {cause}", list(&names)),
    );
    sighting.since_ns = tasks
        .clone()
        .filter_map(innermost)
        .map(|wait| wait.since_ns)
        .min()
        .unwrap_or(0);
    sighting.tasks = look.task_refs(places);
    sighting.chain = places.first().and_then(|&place| Chain::of(look, place));
    let behind = look.waits.behind(places);
    if !behind.is_empty() {
        let names = look.task_names(&behind);
        sighting.details.push(format!(
            "{} behind it: {}",
            count(behind.len(), "task"),
            list(&names)
        ));
    }
    sighting.locks = vec![name];
    sighting.meaning = "it sleeps until somebody else happens to wake this queue".into();
    sighting.help = if cause == LOST {
        vec![
            "another start or stop of the same guest wakes the queue, unless it waits for this task itself".into(),
            REBOOT.into(),
        ]
    } else {
        // The flag is set: whoever stops the guest waits for it too.
        vec![
            "nothing clears the flag any more, and a stop of the guest waits for it too".into(),
            REBOOT.into(),
        ]
    };
    sighting
}

/// Why nobody will end the wait; `None` if somebody may.
fn cause(look: &Look<'_>, place: usize, wait: &frame::Waiting) -> Option<String> {
    let blockers = look.waits.blockers(place);
    if blockers.is_empty() {
        let clear = look.flag_is_clear(wait.instance);
        return clear.then(|| LOST.to_owned());
    }
    let mut causes = blockers.iter().map(|blocker| {
        let holder = &look.waits.tasks[blocker.task];
        let hold = holder.holds.get(blocker.record)?;
        let who = query::task_name(holder);
        if hold.adopted {
            return None;
        }
        if holder.exited {
            return Some(format!("{who}, who set it, has ended"));
        }
        let left = look.left_entry(holder, hold);
        left.then(|| {
            format!(
                "{who}, who set it, has left {}",
                query::entry_name(hold.entry as u8)
            )
        })
    });
    // Whoever clears the flag wakes the task: all must be gone.
    let first = causes.next()??;
    causes.all(|cause| cause.is_some()).then_some(first)
}
