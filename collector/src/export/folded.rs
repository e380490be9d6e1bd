//! Folded stacks: time waited for locks and time held, for flame graphs.
//!
//! A line is `DRIVER;wait or hold;ENTRY POINT;...;LOCK NANOSECONDS`. Sums are those of the statistics, so they are exact:
//! all lines of a lock that begin with `wait` add up to the time that it was waited for. Where stacks were taken
//! (`--stacks-over`), the part of the time that they are of stands under their functions, outermost first.
//!
//! What goes on at the end is in no sum yet, and stands apart: `wait that goes on`, `hold that goes on`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::driver;
use crate::frame::Frame;
use crate::model::{Model, query};

/// Different stacks remembered; the time of others stands without functions.
const STACKS: usize = 65_536;
/// What locks were acquired in outside of every traced function.
const OUTSIDE: &str = "(outside of traced functions)";

/// What a stack is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    hold: bool,
    series: u8,
    entry: u8,
    /// Functions, outermost first, separated by semicolons.
    functions: String,
}

/// Collects stacks of the frames of a run.
#[derive(Debug, Default)]
pub struct Folded {
    stacks: BTreeMap<Place, u64>,
}

impl Folded {
    /// Takes the stacks of a frame: those of waits and holds that have ended, since others are in no sum yet.
    pub fn frame(&mut self, frame: &Frame) {
        for stack in frame.stacks.iter().filter(|stack| stack.ended) {
            let functions: Vec<_> = stack.frames.iter().rev().map(|f| function(f)).collect();
            let (Ok(series), Ok(entry)) = (u8::try_from(stack.series), u8::try_from(stack.entry))
            else {
                continue;
            };
            let place = Place {
                hold: stack.hold,
                series,
                entry,
                functions: functions.join(";"),
            };
            if self.stacks.len() < STACKS || self.stacks.contains_key(&place) {
                let ns = self.stacks.entry(place).or_default();
                *ns = ns.saturating_add(stack.duration_ns);
            }
        }
    }

    /// Writes what the frames' model knows.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, model: &Model, mut out: impl Write) -> io::Result<()> {
        let driver = driver(model);
        for (place, ns) in self.places(model) {
            let Place {
                hold,
                series,
                entry,
                functions,
            } = place;
            let what = if hold { "hold" } else { "wait" };
            let entry = entry_part(entry);
            let lock = part(&query::series_name(series));
            let functions = if functions.is_empty() {
                functions
            } else {
                format!("{functions};")
            };
            writeln!(out, "{driver};{what};{entry};{functions}{lock} {ns}")?;
        }
        for ((hold, series, entry), ns) in standing(model) {
            let what = if hold { "hold" } else { "wait" };
            let (entry, lock) = (entry_part(entry), part(&query::series_name(series)));
            writeln!(out, "{driver};{what} that goes on;{entry};{lock} {ns}")?;
        }
        out.flush()
    }

    /// All places where time was spent, with how much: the sums of the statistics, divided among stacks.
    fn places(&self, model: &Model) -> BTreeMap<Place, u64> {
        let mut places = BTreeMap::new();
        for id in query::listed_series(model) {
            let Some(series) = model.series.get(&id) else {
                continue;
            };
            for hold in [false, true] {
                let whole = if hold { &series.hold } else { &series.wait };
                let mut outside = whole.sum_ns;
                for (&entry, coarse) in &series.by_entry {
                    let of = if hold { &coarse.hold } else { &coarse.wait };
                    if entry != 0 {
                        outside = outside.saturating_sub(of.sum_ns);
                        self.divide(&mut places, hold, id, entry, of.sum_ns);
                    }
                }
                self.divide(&mut places, hold, id, 0, outside);
            }
        }
        places
    }

    fn divide(
        &self,
        places: &mut BTreeMap<Place, u64>,
        hold: bool,
        series: u8,
        entry: u8,
        mut rest: u64,
    ) {
        let own = |place: &Place| (place.hold, place.series, place.entry) == (hold, series, entry);
        for (place, &ns) in self.stacks.iter().filter(|(place, _)| own(place)) {
            let ns = ns.min(rest);
            rest -= ns;
            if ns > 0 {
                places.insert(place.clone(), ns);
            }
        }
        if rest > 0 {
            let place = Place {
                hold,
                series,
                entry,
                functions: String::new(),
            };
            let ns = places.entry(place).or_default();
            *ns = ns.saturating_add(rest);
        }
    }
}

/// For how long locks have been held and waited for at the end: (held, series, entry point) and nanoseconds.
fn standing(model: &Model) -> BTreeMap<(bool, u8, u8), u64> {
    let mut all = BTreeMap::new();
    for task in &model.live {
        let holds = task
            .holds
            .iter()
            .map(|h| (true, h.series, h.entry, h.since_ns));
        let waits = task
            .waits
            .iter()
            .map(|w| (false, w.series, w.entry, w.since_ns));
        for (hold, series, entry, since_ns) in holds.chain(waits) {
            let ns = all
                .entry((hold, series as u8, entry as u8))
                .or_insert(0_u64);
            *ns = ns.saturating_add(model.last.at_ns.saturating_sub(since_ns));
        }
    }
    all.retain(|_, ns| *ns > 0);
    all
}

fn entry_part(entry: u8) -> String {
    match entry {
        0 => OUTSIDE.to_owned(),
        entry => part(query::entry_name(entry)),
    }
}

/// A function without the offset in it, so that all of its places are one; with the module's name, but not with the path of
/// a program.
fn function(frame: &str) -> String {
    let name = frame.split_once("+0x").map_or(frame, |(name, _)| name);
    let module = frame.split_once(" [").map(|(_, module)| module);
    match module.filter(|module| !module.contains('/') && !name.contains('[')) {
        Some(module) => part(&format!("{name} [{module}")),
        None => part(name.trim_end()),
    }
}

/// A frame of a line: what separates frames and lines is not in it.
fn part(text: &str) -> String {
    text.replace([';', '\n', '\r'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_without_their_offsets() {
        for (frame, name) in [
            ("kvm_s390_handle_pv+0x1f2 [kvm]", "kvm_s390_handle_pv [kvm]"),
            ("schedule+0x3c", "schedule"),
            ("main+0x10 [/usr/bin/a b]", "main"),
            ("0x7f8944e2f1f5", "0x7f8944e2f1f5"),
            ("a;b+0x1", "a_b"),
        ] {
            assert_eq!(function(frame), name);
        }
    }
}
