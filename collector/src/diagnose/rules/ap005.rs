//! AP005: a release that was not the holder's to make.

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting, TaskRef};
use crate::diagnose::look::Look;
use crate::model::query;
use probe_ebpf::abi::{LockKind, Mode};

const DOC: Doc = Doc {
    id: Id(5),
    title: "wrong-mode or foreign release",
    text: "\
A lock was released in a mode in which it was not held (`up_read` of an rwsem held for writing), or by a task that does
not own it. A reader may be released by another task; that is legal, and not reported.

**How it is known.** A release without an acquisition was counted on the very lock that a task was on record as holding,
before and after, in a mode that excludes the released one, and every invocation of a probe was seen. At the beginning of a run releases whose acquisition was not
seen are normal: they are counted, and no finding.

**What can help.** The word of the lock is wrong from now on: an rwsem's count no longer fits its holders. Who comes next
may get in where nobody should, or wait for ever. Take a dump; reboot when it can be done.
",
};

/// Readings for which the holder must stay on record after the release.
const READINGS: u32 = 2;
/// Readings after which a hold that may have begun after the release is taken for that.
const PATIENCE: u32 = 20;

/// Releases followed.
const MAX_SUSPECTS: usize = 64;

/// A release without an acquisition, and who held the lock in an excluding mode then.
#[derive(Clone)]
struct Suspect {
    tid: u32,
    serial: u64,
    holder: TaskRef,
    held: u8,
    released: u8,
    instance: u32,
    /// It was held before the reading in which the release was counted. Otherwise somebody who was never seen to
    /// acquire the lock may have released it, and this one acquired it after that: then it is one only if it is left
    /// held.
    before: bool,
    readings: u32,
}

#[derive(Default, Clone)]
pub(super) struct ForeignRelease {
    suspects: Vec<Suspect>,
    last_ns: u64,
}

impl Rule for ForeignRelease {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        self.confirm(look, seen);
        if look.frame.base.is_some() {
            // Totals of a time that is not looked at.
            self.suspects.clear();
        } else if look.model.loss.exact() {
            self.suspect(look);
        } else {
            // An acquisition that was not seen makes a release without one.
            self.suspects.clear();
        }
        self.last_ns = look.now();
    }
}

impl ForeignRelease {
    fn confirm(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        self.suspects.retain_mut(|suspect| {
            let holding = look.waits.place(suspect.tid).and_then(|place| {
                let holds = &look.waits.tasks[place].holds;
                holds.iter().find(|hold| {
                    (hold.serial, hold.series) == (suspect.serial, u32::from(suspect.held))
                })
            });
            let Some(hold) = holding else { return false };
            suspect.readings += 1;
            if suspect.readings < READINGS {
                return true;
            }
            let task = look
                .waits
                .place(suspect.tid)
                .map(|place| &look.waits.tasks[place]);
            if !suspect.before && !task.is_some_and(|task| look.left_entry(task, hold)) {
                return suspect.readings < PATIENCE;
            }
            let name = look.lock_name(hold.series, suspect.instance);
            let wrong_mode = query::mode(suspect.released) != query::mode(suspect.held);
            let how = if wrong_mode {
                format!(
                    "released for {}",
                    query::mode_name(suspect.released)
                        .replace("read", "reading")
                        .replace("write", "writing")
                )
            } else {
                "released by another task".to_owned()
            };
            let mut sighting = Sighting::new(
                format!("{name} {}", suspect.released),
                Severity::Critical,
                format!(
                    "{name} was {how} while {} ({}) held it{}",
                    suspect.holder.comm,
                    suspect.holder.tid,
                    if query::mode(suspect.held) == Mode::Write {
                        " for writing"
                    } else {
                        ""
                    }
                ),
            );
            sighting.lasting = true;
            sighting.tasks = vec![suspect.holder.clone()];
            sighting.locks = vec![name];
            sighting.details.push(format!(
                "taken in {}, still on record {} later",
                query::entry_name(hold.entry as u8),
                crate::diagnose::words::duration(look.ago(hold.since_ns))
            ));
            sighting.meaning =
                "the lock's word is wrong from now on: it lets in who should wait, or nobody"
                    .into();
            sighting.help = vec!["take a dump, and reboot when it can be done".into()];
            seen.push(sighting);
            false
        });
    }

    /// Releases that this frame counts as unmatched.
    fn suspect(&mut self, look: &Look<'_>) {
        for delta in &look.frame.series {
            let series = delta.series as u8;
            let Some(of) = look.model.series.get(&series) else {
                continue;
            };
            if !matches!(query::kind(series), LockKind::Mutex | LockKind::Rwsem) {
                continue;
            }
            let unmatched = delta.by_instance.iter();
            for by in unmatched.filter(|by| by.unmatched_releases > 0) {
                if self.suspects.len() >= MAX_SUSPECTS || !of.by_instance.contains_key(&by.id) {
                    continue;
                }
                self.holders(look, series, by.id);
            }
        }
    }

    /// Who holds a lock that was released without having been acquired.
    fn holders(&mut self, look: &Look<'_>, series: u8, instance: u32) {
        let address = look.model.instances.get(&instance).map_or(0, |i| i.address);
        for task in look.waits.tasks {
            for hold in &task.holds {
                let held = hold.series as u8;
                let excludes = query::mode(held) != Mode::Read || query::mode(series) != Mode::Read;
                if address != 0
                    && hold.lock == address
                    && held >> 1 == series >> 1
                    && excludes
                    && !hold.adopted
                {
                    self.suspects.push(Suspect {
                        tid: task.tid,
                        serial: hold.serial,
                        holder: look.task_ref(task),
                        held,
                        released: series,
                        instance,
                        // It was held before the tick in which the release came.
                        before: hold.since_ns < self.last_ns,
                        readings: 0,
                    });
                }
            }
        }
    }
}
