//! AP012: a guest that does not go on.

use std::collections::BTreeMap;

use probe_ebpf::names::entry_id;

use super::{Doc, Rule, killable};
use crate::diagnose::chain::{Chain, Root};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::{count, duration};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(12),
    title: "stuck guest",
    text: "\
A vCPU is in PQAP, or a guest is being started, stopped or converted, and has not come back for longer than the threshold.
There is one such finding a guest, with the chain from its longest-waiting task to the root of it.

**How it is known.** The call has begun and not returned. The chain follows live state: what the task waits for, who holds
that, what that one waits for, to somebody who runs, sleeps, polls hardware, has ended, or closes a circle.

**What can help.** What helps at the root: see the finding about it (AP001 a circle, AP003 a lost wake-up, AP004 a leaked
lock, AP007 a queue), or wait if the root runs or sleeps with an end.
",
};

/// Calls in which a guest waits for the driver.
pub(super) const CALLS: [u8; 9] = [
    entry_id::HANDLE_PQAP,
    entry_id::KVM_HANDLE_PQAP,
    entry_id::GROUP_NOTIFIER,
    entry_id::OPEN,
    entry_id::RELEASE,
    entry_id::OPEN_DEVICE,
    entry_id::CLOSE_DEVICE,
    entry_id::KVM_VFIO_SET_ATTR,
    entry_id::KVM_S390_HANDLE_PV,
];

/// Guests with a finding of their own; those that have been stuck for longest.
const MAX_GUESTS: usize = 64;
/// Chains made in one tick. Those of others that are stuck too come in the next ticks.
const CHAINS_PER_TICK: usize = 4;
/// Durations in the texts are brought up to date so often, everything else at once.
const REFRESH_NS: u64 = 1_000_000_000;

/// What was told of a guest.
struct Told {
    at_ns: u64,
    /// The task, its call, its wait, whether it is stuck for good, and how many tasks there are.
    what: (u32, u64, Option<u64>, bool, usize),
}

#[derive(Default)]
pub(super) struct StuckGuest {
    told: BTreeMap<Option<u32>, Told>,
}

impl Rule for StuckGuest {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let least = look.nanos(look.thresholds.stuck);
        let mut guests: BTreeMap<Option<u32>, Vec<(usize, &frame::Inside)>> = BTreeMap::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let call = task.inside.iter().find(|inside| {
                CALLS.contains(&(inside.entry as u8)) && look.ago(inside.since_ns) >= least
            });
            if let Some(call) = call {
                guests
                    .entry(look.guest(task))
                    .or_default()
                    .push((place, call));
            }
        }
        self.told.retain(|guest, _| guests.contains_key(guest));
        let mut guests: Vec<_> = guests.into_iter().collect();
        for (_, tasks) in &mut guests {
            tasks.sort_by_key(|(place, call)| (call.since_ns, look.waits.tasks[*place].tid));
        }
        guests.sort_by_key(|(guest, tasks)| (tasks.first().map(|first| first.1.since_ns), *guest));
        let more = guests.len().saturating_sub(MAX_GUESTS);
        guests.truncate(MAX_GUESTS);
        // Who was told of longest ago, or never, comes first.
        let mut turns: Vec<usize> = (0..guests.len()).collect();
        turns.sort_by_key(|&turn| self.told.get(&guests[turn].0).map_or(0, |told| told.at_ns));
        let mut chains = 0;
        for turn in turns {
            let (guest, tasks) = &guests[turn];
            let what = what(look, tasks);
            let current = self
                .told
                .get(guest)
                .is_some_and(|told| told.what == what && look.ago(told.at_ns) < REFRESH_NS);
            if current || chains >= CHAINS_PER_TICK {
                seen.push(Sighting::still(key(*guest)));
                continue;
            }
            chains += 1;
            let at_ns = look.now();
            self.told.insert(*guest, Told { at_ns, what });
            let mut sighting = sighting(look, *guest, tasks);
            if let Some(sighting) = &mut sighting
                && more > 0
            {
                sighting.details.push(format!(
                    "{} stuck besides those reported",
                    count(more, "guest")
                ));
            }
            seen.extend(sighting);
        }
    }
}

fn what(
    look: &Look<'_>,
    tasks: &[(usize, &frame::Inside)],
) -> (u32, u64, Option<u64>, bool, usize) {
    tasks
        .first()
        .map_or((0, 0, None, false, 0), |&(place, call)| {
            let task = &look.waits.tasks[place];
            let wait = innermost(task).map(|wait| wait.serial);
            let stuck = look.waits.stuck[place];
            (task.tid, call.since_ns, wait, stuck, tasks.len())
        })
}

fn key(guest: Option<u32>) -> String {
    guest.map_or_else(|| "guest ?".to_owned(), |guest| format!("guest {guest}"))
}

fn sighting(
    look: &Look<'_>,
    guest: Option<u32>,
    tasks: &[(usize, &frame::Inside)],
) -> Option<Sighting> {
    let &(place, call) = tasks.first()?;
    let task = &look.waits.tasks[place];
    let name = guest.map_or_else(|| "a guest".to_owned(), |guest| look.guest_label(guest));
    let chain = Chain::of(look, place)?;
    let root = chain.root().map(|(at, root)| (at.clone(), root.clone()));
    let ends = matches!(
        root,
        Some((_, Root::Running { .. } | Root::Sleeping { .. }))
    );
    let mut sighting = Sighting::new(
        key(guest),
        if ends {
            Severity::Warning
        } else {
            Severity::Critical
        },
        format!(
            "{name} is stuck: {} has been in {} for {}",
            query::task_name(task),
            query::entry_name(call.entry as u8),
            duration(look.ago(call.since_ns))
        ),
    );
    sighting.since_ns = call.since_ns;
    if tasks.len() > 1 {
        sighting.details.push(format!(
            "{} of it in such calls",
            count(tasks.len(), "task")
        ));
    }
    if let Some((at, root)) = &root {
        let root = match root {
            Root::Cycle(_) => "a circle: see AP001".to_owned(),
            other => format!("{} ({}), {}", at.comm, at.tid, other.text()),
        };
        sighting.details.push(format!("the root: {root}"));
    }
    sighting.tasks = tasks
        .iter()
        .take(16)
        .map(|(place, _)| look.task_ref(&look.waits.tasks[*place]))
        .collect();
    sighting.locks = innermost(task)
        .map(|wait| look.lock_name(wait.series, wait.instance))
        .into_iter()
        .collect();
    sighting.chain = Some(chain);
    sighting.meaning = format!("{name} does not get on until its root does");
    sighting.help = match &root {
        Some((_, Root::Running { .. } | Root::Sleeping { .. })) => {
            vec!["wait: the root goes on".into()]
        }
        Some((_, Root::PollingHardware { .. })) => vec!["what helps the queue: see AP007".into()],
        Some((_, Root::Cycle(_))) => vec!["see AP001".into()],
        Some((_, Root::Exited)) => vec!["see AP003 and AP004".into()],
        _ => vec!["measure at a higher level, or read the lock's owner from a dump".into()],
    };
    if innermost(task).is_some_and(killable) {
        sighting
            .help
            .push("this wait is killable: killing QEMU ends it".into());
    }
    Some(sighting)
}
