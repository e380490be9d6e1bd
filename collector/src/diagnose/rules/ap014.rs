//! AP014: an open-coded lock with two holders.

use probe_ebpf::abi::{HELD_SECOND_HOLDER, NO_INSTANCE, SPAN_LOCK, Span};

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::look::Look;
use crate::frame::{self, Spans};
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(14),
    title: "flag is not exclusive",
    text: "\
A task has set the flag of an open-coded lock that another one had already set, and has not waited. Each believes that
nobody interferes, and the first to clear the flag clears it for the other. In v5.13 vfio_ap_mdev_set_kvm sets kvm_busy
without a test, so that two mdevs can adopt one guest.

**How it is known.** A probe saw the flag set at the release of its guard, by a task that then cleared it, while it had
been set by somebody else before.

**What can help.** Nothing on the running host, unless the guest misbehaves: then stop and start it. It is a bug to report.
",
};

const MEANING: &str =
    "two tasks change the same guest's binding at once, and either clears the flag for both";
const HELP: &str = "stop and start the guest if it misbehaves; report it";

#[derive(Default, Clone)]
pub(super) struct FlagNotExclusive;

impl Rule for FlagNotExclusive {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        two_now(look, seen);
        let Some(spans) = &look.frame.spans else {
            return;
        };
        // The flags are the lowest byte.
        let second = |packed: &u32| packed & u32::from(HELD_SECOND_HOLDER) != 0;
        if !spans.packed.iter().any(second) {
            return;
        }
        for span in spans.decode(look.frame.at_ns) {
            if span.kind != SPAN_LOCK
                || span.flags & HELD_SECOND_HOLDER == 0
                || !query::open_coded(span.what)
            {
                continue;
            }
            let instance = if span.instance == NO_INSTANCE {
                u32::MAX
            } else {
                span.instance
            };
            let name = look.lock_name(u32::from(span.what), instance);
            if seen.iter().any(|known| known.key == name) {
                continue;
            }
            let place = spans.tids.iter().position(|tid| *tid == span.tid);
            let comm = place
                .and_then(|place| spans.comms.get(place))
                .cloned()
                .unwrap_or_default();
            let entry = query::entry_name(span.inside);
            let first = first_holder(look, spans, &span);
            let mut sighting = Sighting::new(
                name.clone(),
                Severity::Warning,
                format!(
                    "{comm} ({}) set {name} in {entry} while {} had set it",
                    span.tid,
                    first.as_ref().map_or_else(
                        || "somebody else".to_owned(),
                        |(tid, comm)| format!("{comm} ({tid})")
                    )
                ),
            );
            sighting.lasting = true;
            sighting.since_ns = span.start_ns;
            sighting.tasks = vec![TaskRef {
                tid: span.tid,
                comm,
                role: String::new(),
            }];
            sighting.tasks.extend(first.map(|(tid, comm)| TaskRef {
                tid,
                comm,
                role: String::new(),
            }));
            sighting.locks = vec![name];
            sighting.meaning = MEANING.into();
            sighting.help = vec![HELP.into()];
            seen.push(sighting);
        }
    }
}

/// Who had set the flag when another task set it too: of the records of the same moment, or holds it still. `None` if its
/// record came earlier.
fn first_holder(look: &Look<'_>, spans: &Spans, second: &Span) -> Option<(u32, String)> {
    let held = spans.decode(look.frame.at_ns).into_iter().find(|span| {
        span.kind == SPAN_LOCK
            && (span.what, span.instance) == (second.what, second.instance)
            && span.tid != second.tid
            && span.start_ns <= second.start_ns
            && span.start_ns.saturating_add(span.duration_ns) >= second.start_ns
    });
    if let Some(span) = held {
        let place = spans.tids.iter().position(|tid| *tid == span.tid)?;
        return Some((span.tid, spans.comms.get(place)?.clone()));
    }
    let of = |task: &&frame::TaskState| {
        task.tid != second.tid
            && task.holds.iter().any(|hold| {
                hold.series == u32::from(second.what)
                    && hold.instance == second.instance
                    && hold.since_ns <= second.start_ns
            })
    };
    let task = look.waits.tasks.iter().find(of)?;
    Some((task.tid, task.comm.clone()))
}

/// Flags that two tasks hold at this moment: spans of what they did may be lost, this is not.
fn two_now(look: &Look<'_>, seen: &mut Vec<Sighting>) {
    for task in look.waits.tasks {
        for hold in task.holds.iter().filter(|hold| hold.second_holder) {
            let first = look.waits.tasks.iter().find(|other| {
                other.tid != task.tid
                    && other.holds.iter().any(|of| {
                        of.series == hold.series && of.lock == hold.lock && !of.second_holder
                    })
            });
            let Some(first) = first else { continue };
            let name = look.lock_name(hold.series, hold.instance);
            if seen.iter().any(|known| known.key == name) {
                continue;
            }
            let mut sighting = Sighting::new(
                name.clone(),
                Severity::Warning,
                format!(
                    "{} and {} hold {name} at once",
                    query::task_name(first),
                    query::task_name(task)
                ),
            );
            sighting.lasting = true;
            sighting.since_ns = hold.since_ns;
            sighting.tasks = vec![look.task_ref(first), look.task_ref(task)];
            sighting.locks = vec![name];
            sighting.meaning = MEANING.into();
            sighting.help = vec![HELP.into()];
            seen.push(sighting);
        }
    }
}
