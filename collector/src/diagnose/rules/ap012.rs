//! AP012: a guest that does not go on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use probe_ebpf::names::entry_id;

use super::{Doc, Rule, killable};
use crate::diagnose::chain::{Chain, Root};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::{self, count, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(12),
    title: "stuck guest",
    text: "\
A vCPU is in PQAP, or a guest is being started, stopped or converted, and has not come back for longer than the threshold.
Guests with the same root are one finding, with the chain from the task that has been gone for longest to that root.

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

#[derive(Default)]
pub(super) struct StuckGuest;

impl Rule for StuckGuest {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let mut stuck: Vec<Stuck<'_>> = Vec::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let call = task.inside.iter().find(|inside| {
                CALLS.contains(&(inside.entry as u8))
                    && look.lasts(inside.since_ns, look.thresholds.stuck)
            });
            if let Some(call) = call {
                stuck.push(Stuck {
                    place,
                    guest: look.guest(task),
                    call,
                });
            }
        }
        stuck.sort_by_key(|s| (s.call.since_ns, look.waits.tasks[s.place].tid));
        // The root of each guest's longest call; guests with one root are one finding.
        let mut roots: BTreeMap<String, (Chain, Vec<Stuck<'_>>)> = BTreeMap::new();
        let mut of_guest: HashMap<Option<u32>, String> = HashMap::new();
        for task in stuck {
            let key = match of_guest.get(&task.guest) {
                Some(key) => key.clone(),
                None => {
                    let Some(chain) = Chain::of(look, task.place) else {
                        continue;
                    };
                    let key = key(&chain, task.guest);
                    of_guest.insert(task.guest, key.clone());
                    roots
                        .entry(key.clone())
                        .or_insert_with(|| (chain, Vec::new()));
                    key
                }
            };
            if let Some((_, tasks)) = roots.get_mut(&key) {
                tasks.push(task);
            }
        }
        seen.extend(
            roots
                .into_iter()
                .filter_map(|(key, (chain, tasks))| sighting(look, key, chain, &tasks)),
        );
    }
}

/// A task in a call that has not come back.
struct Stuck<'a> {
    place: usize,
    guest: Option<u32>,
    call: &'a frame::Inside,
}

/// What tells one root from another. A circle is one root wherever it is entered; a root that is not known is each
/// guest's own.
fn key(chain: &Chain, guest: Option<u32>) -> String {
    match chain.root() {
        Some((_, Root::Cycle(_))) => "circle".to_owned(),
        Some((_, Root::Unknown { .. })) | None => format!("guest {guest:?}"),
        Some((at, root)) => format!("{} {}", root.name(), at.tid),
    }
}

fn sighting(look: &Look<'_>, key: String, chain: Chain, tasks: &[Stuck<'_>]) -> Option<Sighting> {
    let first = tasks.first()?;
    let task = &look.waits.tasks[first.place];
    let guests: BTreeSet<Option<u32>> = tasks.iter().map(|task| task.guest).collect();
    let names: Vec<String> = guests
        .iter()
        .map(|guest| {
            guest.map_or_else(
                || "a guest that is not known".to_owned(),
                |guest| look.guest_label(guest),
            )
        })
        .collect();
    let root = chain.root().map(|(at, root)| (at.clone(), root.clone()));
    let ends = matches!(
        root,
        Some((
            _,
            Root::Running { .. } | Root::Sleeping { .. } | Root::Passing { .. }
        ))
    );
    let shown = names.len().min(8);
    let mut who = list(&names[..shown]);
    if names.len() > shown {
        who = format!("{who} and {} more", names.len() - shown);
    }
    let mut sighting = Sighting::new(
        key,
        if ends {
            Severity::Warning
        } else {
            Severity::Critical
        },
        format!(
            "{who} {} stuck: {} has been in {}{}",
            if names.len() == 1 { "is" } else { "are" },
            query::task_name(task),
            query::entry_name(first.call.entry as u8),
            words::lasting(" for ", look.ago(first.call.since_ns))
        ),
    );
    sighting.since_ns = first.call.since_ns;
    if tasks.len() > 1 {
        sighting
            .details
            .push(format!("{} in such calls", count(tasks.len(), "task")));
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
        .map(|stuck| look.task_ref(&look.waits.tasks[stuck.place]))
        .collect();
    sighting.locks = innermost(task)
        .map(|wait| look.lock_name(wait.series, wait.instance))
        .into_iter()
        .collect();
    sighting.chain = Some(chain);
    sighting.meaning = format!(
        "{} not get on until the root does",
        if names.len() == 1 {
            "the guest does"
        } else {
            "these guests do"
        }
    );
    sighting.help = match &root {
        Some((_, Root::Running { .. } | Root::Sleeping { .. })) => {
            vec!["wait: the root goes on".into()]
        }
        Some((_, Root::Passing { .. })) => {
            vec!["wait: the lock moves, and others are given it in between".into()]
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
