//! AP011: a PQAP hook that points to an mdev without a guest.

use std::collections::{BTreeMap, VecDeque};

use probe_ebpf::abi::{self, Mode, SPAN_ENTRY, SPAN_LOCK, series};
use probe_ebpf::names::{class_id, entry_id};

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::look::Look;
use crate::diagnose::words::count;
use crate::model::{query, return_name};

const DOC: Doc = Doc {
    id: Id(11),
    title: "stale hook",
    text: "\
A guest was to be bound to an mdev, and the driver refused because the guest has another one already. In this generation
the hook for PQAP had been published before the check and is not taken back: the guest's next PQAP goes to the refused
mdev, and after that mdev is removed, to freed memory.

**How it is known.** The binding function returned its refusal (`-EPERM` of vfio_ap_mdev_open_device; `NOTIFY_DONE` of
vfio_ap_mdev_group_notifier, which tells nothing else in these generations), and the generation has the bug. What cannot
have it is not reported. Which guest's hook it is, and when it is set or withdrawn again, is known by who takes
`pqap_hook_rwsem` for writing; then the finding is over. Where that is not seen (below level 2, or where records were lost)
the finding stands to the end.

**What can help.** Do not remove the refused mdev while the guest runs. Stop the guest: that clears the hook. Use a kernel
with the fix.
",
};

/// Generations in which a refusal is NOTIFY_DONE of the notifier, and leaves the hook.
const NOTIFIER: &[&str] = &["v5.15"];
/// Generations in which it is -EPERM of open_device.
const OPEN_DEVICE: &[&str] = &["v5.19", "v6.0", "v6.6"];

/// Hooks that were written in calls which have not returned yet.
const MAX_PENDING: usize = 1024;
/// Guests whose hook is followed.
const MAX_HOOKS: usize = 4096;

/// A hook that was written, in a call that has not returned as far as it was read.
#[derive(Clone)]
struct Written {
    at_ns: u64,
    tid: u32,
    entry: u8,
    lock: u32,
}

/// What the last call that wrote a guest's hook left.
#[derive(Default, Clone)]
struct Hook {
    /// When it was written.
    at_ns: u64,
    /// The call was refused.
    stale: bool,
    /// The last call that was: its thread id, name, and function.
    refused: (u32, String, u8),
    /// Since when the hook is stale, or was; and refused calls since then.
    since_ns: u64,
    refusals: usize,
}

#[derive(Default, Clone)]
pub(super) struct StaleHook {
    pending: VecDeque<Written>,
    /// By instance of the hook's rwsem, for writing.
    hooks: BTreeMap<u32, Hook>,
}

impl Rule for StaleHook {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        for (entry, refusal, generations) in [
            (entry_id::GROUP_NOTIFIER, "NOTIFY_DONE", NOTIFIER),
            (entry_id::OPEN_DEVICE, "-EPERM", OPEN_DEVICE),
        ] {
            if !look.may_be(generations) {
                continue;
            }
            if !sees_hooks(look) {
                seen.extend(counted(look, entry, refusal, generations));
            }
        }
        if !look.may_be(NOTIFIER) && !look.may_be(OPEN_DEVICE) {
            return;
        }
        let stale = self.follow(look);
        if sees_hooks(look) {
            for lock in stale {
                seen.extend(self.hooks.get(&lock).map(|hook| stands(look, lock, hook)));
            }
        }
    }
}

/// Everybody who writes a hook leaves a record, and none was lost.
fn sees_hooks(look: &Look<'_>) -> bool {
    let meta = look.model.meta.as_ref();
    let level = meta.is_some_and(|meta| !query::is_kernel(meta) || meta.level >= 2);
    level && look.model.loss.exact() && look.model.loss.dropped() == 0
}

impl StaleHook {
    /// Follows the hooks through a frame's records. Returns those that were stale at its end, or at some time within it.
    fn follow(&mut self, look: &Look<'_>) -> Vec<u32> {
        let write = series(class_id::PQAP_HOOK_RWSEM, Mode::Write);
        let spans = || {
            let spans = look.frame.spans.iter();
            spans.flat_map(|s| s.decode(look.frame.at_ns))
        };
        for span in spans() {
            if span.kind == SPAN_LOCK && span.what == write {
                if self.pending.len() >= MAX_PENDING {
                    self.pending.pop_front();
                }
                self.pending.push_back(Written {
                    at_ns: span.start_ns,
                    tid: span.tid,
                    entry: span.inside,
                    lock: span.instance,
                });
            }
        }
        let mut stale: Vec<u32> = Vec::new();
        for span in spans().filter(|span| span.kind == SPAN_ENTRY) {
            if self.pending.is_empty() {
                break;
            }
            let end_ns = span.start_ns.saturating_add(span.duration_ns);
            let within = |written: &Written| {
                written.tid == span.tid
                    && written.entry == span.what
                    && (span.start_ns..=end_ns).contains(&written.at_ns)
            };
            while let Some(place) = self.pending.iter().position(within) {
                let Some(written) = self.pending.remove(place) else {
                    break;
                };
                let refused =
                    is_refusal(&span).then(|| (span.tid, comm(look, span.tid), span.what));
                if refused.is_some() {
                    stale.push(written.lock);
                }
                self.left(&written, refused);
            }
        }
        let stands = self.hooks.iter().filter(|(_, hook)| hook.stale);
        stale.extend(stands.map(|(lock, _)| *lock));
        stale.sort_unstable();
        stale.dedup();
        stale
    }

    /// A call that wrote a hook has returned.
    fn left(&mut self, written: &Written, refused: Option<(u32, String, u8)>) {
        if self.hooks.len() >= MAX_HOOKS && !self.hooks.contains_key(&written.lock) {
            return;
        }
        let hook = self.hooks.entry(written.lock).or_default();
        // Records of two threads come in no order.
        if written.at_ns < hook.at_ns {
            return;
        }
        hook.at_ns = written.at_ns;
        let was_stale = std::mem::replace(&mut hook.stale, refused.is_some());
        if let Some(refused) = refused {
            if !was_stale {
                (hook.since_ns, hook.refusals) = (written.at_ns, 0);
            }
            hook.refusals += 1;
            hook.refused = refused;
        }
    }
}

/// Whether a call has refused a guest, and left the hook.
fn is_refusal(span: &abi::Span) -> bool {
    match span.what {
        entry_id::OPEN_DEVICE => span.result == -libc::EPERM,
        // NOTIFY_DONE (include/linux/notifier.h).
        entry_id::GROUP_NOTIFIER => span.result == 0,
        _ => false,
    }
}

/// Name of a thread in a frame's records.
fn comm(look: &Look<'_>, tid: u32) -> String {
    let Some(spans) = &look.frame.spans else {
        return String::new();
    };
    let place = spans.tids.iter().position(|known| *known == tid);
    let comm = place.and_then(|place| spans.comms.get(place));
    comm.cloned().unwrap_or_default()
}

/// A hook that is stale, or was within this tick.
fn stands(look: &Look<'_>, instance: u32, hook: &Hook) -> Sighting {
    let write = u32::from(series(class_id::PQAP_HOOK_RWSEM, Mode::Write));
    let name = look.lock_name(write, instance);
    let guest = look
        .model
        .instances
        .get(&instance)
        .map_or(0, |known| known.guest);
    let guest = match guest.checked_sub(1) {
        Some(guest) => look.guest_label(guest),
        None => format!("the guest of {name}"),
    };
    let (tid, comm, entry) = hook.refused.clone();
    let function = query::entry_name(entry);
    let mut sighting = Sighting::new(
        name,
        Severity::Warning,
        format!(
            "the PQAP hook of {guest} points to an mdev that {function} has refused to bind to it"
        ),
    );
    sighting.since_ns = hook.since_ns;
    sighting.details = vec![format!(
        "published by {comm} ({tid}), {}; {}",
        count(hook.refusals, "refusal"),
        if hook.stale {
            "nobody has set or cleared the hook since"
        } else {
            "the hook was set or cleared soon after"
        }
    )];
    unsure(
        look,
        if entry == entry_id::OPEN_DEVICE {
            OPEN_DEVICE
        } else {
            NOTIFIER
        },
        &mut sighting,
    );
    sighting.tasks = vec![TaskRef {
        tid,
        comm,
        role: String::new(),
    }];
    finish(sighting)
}

/// Where nobody sees who writes hooks: refusals, by the exact counts of returns.
fn counted(look: &Look<'_>, entry: u8, refusal: &str, generations: &[&str]) -> Option<Sighting> {
    let of = look.model.entries.get(&entry)?;
    let refused: u64 = of
        .returns
        .iter()
        .filter(|(code, _)| return_name(entry, **code) == refusal)
        .map(|(_, n)| *n)
        .sum();
    if refused == 0 {
        return None;
    }
    let name = query::entry_name(entry);
    let left = if look.only(generations) {
        "left"
    } else {
        "may have left"
    };
    let mut sighting = Sighting::new(
        name,
        Severity::Warning,
        format!(
            "{name} refused a guest ({refusal}, {}) and {left} the PQAP hook behind",
            count(usize::try_from(refused).unwrap_or(usize::MAX), "time")
        ),
    );
    sighting.lasting = true;
    sighting
        .details
        .push("whether the hook has been set or cleared since is not seen".into());
    unsure(look, generations, &mut sighting);
    Some(finish(sighting))
}

/// Says so where the driver may be of a generation that takes the hook back.
fn unsure(look: &Look<'_>, generations: &[&str], sighting: &mut Sighting) {
    if !look.only(generations) {
        sighting.details.push(format!(
            "if the driver is of {}; others that it may be take the hook back",
            generations.join(", ")
        ));
    }
}

fn finish(mut sighting: Sighting) -> Sighting {
    sighting.meaning =
        "the guest's PQAP goes to an mdev that is not its own, and once that is removed, to freed memory".into();
    sighting.help =
        vec!["stop the guest before the refused mdev is removed; that clears the hook".into()];
    sighting
}
