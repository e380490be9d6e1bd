//! AP010: writes that are refused in a burst.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use probe_ebpf::names::{ENTRY_POINTS, entry_id};

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::look::Look;
use crate::diagnose::words::{count, duration, list};
use crate::model::{query, return_name};

const DOC: Doc = Doc {
    id: Id(10),
    title: "refused writes",
    text: "\
Nearly every write to one attribute of the matrix fails with the same error, many times in a short while: somebody tries
again and again, and cannot succeed at the moment.

**How it is known.** From the exact counts of returns: so many refusals with one errno within the threshold's time, and
at least 19 of 20 calls. What was in flux is shown: open-coded locks that are held, and guests that run.

**What can help.** `-EBUSY` up to v5.19: the mdev belongs to a running guest; stop it, or write while it is stopped. On
v5.13 it is also returned while a guest merely starts or stops: try again. `-EADDRINUSE`: another mdev has the queue.
`-EADDRNOTAVAIL`: the queue is not bound to vfio_ap; see apmask and aqmask. `-ENODEV`: no such adapter or domain.
",
};

/// Of so many calls at most one may succeed, or fail otherwise.
const CALLS: u64 = 20;

#[derive(Default, Clone)]
pub(super) struct RefusedWrites {
    /// Ticks in which an entry point returned: time, returns, and returns by errno.
    returns: BTreeMap<u8, VecDeque<Returned>>,
}

#[derive(Clone)]
struct Returned {
    at_ns: u64,
    all: u64,
    by_code: Vec<(u32, u64)>,
}

impl Rule for RefusedWrites {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let now = look.now();
        for delta in &look.frame.entries {
            let Ok(entry) = u8::try_from(delta.entry) else {
                continue;
            };
            if !is_store(entry) {
                continue;
            }
            let by_code: Vec<(u32, u64)> = delta
                .code
                .iter()
                .copied()
                .zip(delta.code_count.iter().copied())
                .collect();
            let all = by_code.iter().map(|(_, n)| *n).fold(0, u64::saturating_add);
            if all > 0 {
                self.returns.entry(entry).or_default().push_back(Returned {
                    at_ns: now,
                    all,
                    by_code,
                });
            }
        }
        let window = look.nanos(look.thresholds.refused_within);
        for (&entry, ticks) in &mut self.returns {
            while ticks
                .front()
                .is_some_and(|tick| now.saturating_sub(tick.at_ns) > window)
            {
                ticks.pop_front();
            }
            seen.extend(sighting(look, entry, ticks));
        }
    }
}

/// A write to the matrix or to the bus's masks.
fn is_store(entry: u8) -> bool {
    ENTRY_POINTS
        .get(usize::from(entry))
        .is_some_and(|point| point.symbol.ends_with("_store"))
}

fn sighting(look: &Look<'_>, entry: u8, ticks: &VecDeque<Returned>) -> Option<Sighting> {
    let all = ticks
        .iter()
        .map(|tick| tick.all)
        .fold(0, u64::saturating_add);
    let mut by_code: BTreeMap<u32, u64> = BTreeMap::new();
    for (code, n) in ticks.iter().flat_map(|tick| &tick.by_code) {
        let sum = by_code.entry(*code).or_default();
        *sum = sum.saturating_add(*n);
    }
    let (code, refused) = by_code
        .into_iter()
        .filter(|(code, _)| *code != 0)
        .max_by_key(|(_, n)| *n)?;
    if refused < look.thresholds.refused
        || refused.saturating_mul(CALLS) < all.saturating_mul(CALLS - 1)
    {
        return None;
    }
    let name = query::entry_name(entry);
    let error = return_name(entry, code);
    let mut sighting = Sighting::new(
        format!("{name} {error}"),
        Severity::Info,
        format!(
            "{refused} of {all} writes to {} failed with {error} within {}",
            name.trim_end_matches("_store"),
            duration(look.nanos(look.thresholds.refused_within))
        ),
    );
    sighting.details = flux(look);
    let writers: BTreeSet<String> = look
        .model
        .writes
        .iter()
        .rev()
        .take(64)
        .filter(|write| write.entry == entry)
        .map(|write| format!("{} ({})", write.comm, write.pid))
        .collect();
    if !writers.is_empty() {
        let writers: Vec<String> = writers.into_iter().take(4).collect();
        sighting
            .details
            .push(format!("written by {}", list(&writers)));
    }
    sighting.meaning = "the matrix stays as it is".into();
    sighting.help = vec![match error.as_ref() {
        "-EBUSY" if matches!(entry, entry_id::APMASK_STORE | entry_id::AQMASK_STORE) => {
            "a guest uses the queue: unassign it from its mdev first".into()
        }
        "-EBUSY" => "the mdev's guest runs, starts or stops: write while it is stopped".into(),
        "-EADDRINUSE" => "another mdev has the queue: unassign it there first".into(),
        "-EADDRNOTAVAIL" => {
            "the queue is not bound to vfio_ap: see apmask and aqmask of the AP bus".into()
        }
        "-ENODEV" => "there is no such adapter or domain on this machine".into(),
        _ => "see what is written, and where".into(),
    }];
    Some(sighting)
}

/// What was in flux at this moment.
fn flux(look: &Look<'_>) -> Vec<String> {
    let mut flags = BTreeSet::new();
    let mut guests = BTreeSet::new();
    for task in look.waits.tasks {
        for hold in &task.holds {
            if query::open_coded(hold.series as u8) {
                flags.insert(look.lock_name(hold.series, hold.instance));
            }
        }
        guests.extend(look.guest(task));
    }
    let mut lines = Vec::new();
    if !flags.is_empty() {
        let flags: Vec<String> = flags.into_iter().collect();
        lines.push(format!("in flux now: {}", list(&flags)));
    }
    if !guests.is_empty() {
        lines.push(format!(
            "{} at work at this moment",
            count(guests.len(), "guest")
        ));
    }
    lines
}
