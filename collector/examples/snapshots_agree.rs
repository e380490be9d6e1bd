//! Snapshots of the kernel's memory against what probes saw at the same time, for `cargo xtask lab`: one line of JSON.
//!
//! Arguments: a recording at level 2, and one or more at level 0 of the same time. Who owns a lock at level 0, and who waits for it,
//! is read from the lock's word and queue without a probe, between a frame's own time and that of the next frame. The
//! probes' view is exact: a hold and a wait begin and end at known times. A holder or waiter of a snapshot is *seen* if the
//! probes have the same task holding or waiting for the same lock at some time of the reading, *between* if just before or
//! after it, and *contradicted* if not.
//! Neither kind of recording may have two owners of a lock in one frame.
//! The same with other times, for all of them together, says what would be seen by chance. Waits for work items leave no
//! record, so they are not compared: *elsewhere*, like locks that the probes do not follow.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use apscope_collector::frame::{self, Frame};
use apscope_collector::recording::Reader;
use probe_ebpf::abi::SPAN_LOCK;

/// A lock's address, and a thread.
type Key = (u64, u32);

/// Times, from and to, in nanoseconds of CLOCK_MONOTONIC.
type Times = HashMap<Key, Vec<(u64, u64)>>;

/// What probes saw.
#[derive(Default)]
struct Traced {
    holds: Times,
    waits: Times,
    locks: HashSet<u64>,
    /// Names of locks, by address.
    names: HashMap<u64, String>,
    two_owners: Vec<Vec<String>>,
    from_ns: u64,
    to_ns: u64,
}

impl Traced {
    fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut traced = Self::default();
        let mut addresses = HashMap::new();
        let mut last: Option<Frame> = None;
        for frame in Reader::open(path)? {
            let frame = frame?;
            if let Some(meta) = &frame.meta {
                for instance in &meta.instances {
                    addresses.insert(instance.id, instance.address);
                    traced.names.insert(instance.address, instance.name.clone());
                }
                if meta.attaching {
                    traced.from_ns = 0;
                } else if traced.from_ns == 0 {
                    traced.from_ns = frame.at_ns;
                }
            }
            for span in frame
                .spans
                .iter()
                .flat_map(|spans| spans.decode(frame.at_ns))
            {
                if span.kind != SPAN_LOCK {
                    continue;
                }
                if let Some(&lock) = addresses.get(&span.instance) {
                    let end_ns = span.start_ns + span.duration_ns;
                    traced.add((lock, span.tid), (span.start_ns, end_ns), span.extra);
                }
            }
            let owners = two_owners(&frame, &traced.names);
            traced.two_owners.extend(owners);
            traced.to_ns = frame.at_ns;
            last = Some(frame);
        }
        // What was not over at the end.
        for task in last
            .iter()
            .flat_map(|frame| &frame.live)
            .flat_map(|live| &live.tasks)
        {
            for hold in &task.holds {
                traced.add(
                    (hold.lock, task.tid),
                    (hold.since_ns, u64::MAX),
                    hold.wait_ns,
                );
            }
            for wait in &task.waits {
                let waits = traced.waits.entry((wait.lock, task.tid)).or_default();
                waits.push((wait.since_ns, u64::MAX));
            }
        }
        Ok(traced)
    }

    fn is_work(&self, lock: u64) -> bool {
        let name = self.names.get(&lock);
        name.is_some_and(|name| name.starts_with("reset_work"))
    }

    /// A hold, and the wait before it.
    fn add(&mut self, key: Key, (from_ns, to_ns): (u64, u64), wait_ns: u64) {
        self.locks.insert(key.0);
        self.holds.entry(key).or_default().push((from_ns, to_ns));
        if wait_ns > 0 {
            let waits = self.waits.entry(key).or_default();
            waits.push((from_ns.saturating_sub(wait_ns), from_ns));
        }
    }
}

/// A task and a lock, for people.
fn what(
    task: &frame::TaskState,
    lock: u64,
    evidence: &str,
    at_ns: u64,
    names: &HashMap<u64, String>,
) -> String {
    let name = names.get(&lock).map_or("", String::as_str);
    format!(
        "{} ({}) and {name} 0x{lock:x} at {at_ns} ({evidence})",
        task.comm, task.tid
    )
}

/// Who has the same lock alone in the same frame, for each lock that has two such.
fn two_owners(frame: &Frame, names: &HashMap<u64, String>) -> Vec<Vec<String>> {
    let mut owners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for task in frame.live.iter().flat_map(|live| &live.tasks) {
        // A series is `2 * class + (mode is read)`; any number may read.
        for hold in task.holds.iter().filter(|hold| hold.series % 2 == 0) {
            let owner = what(task, hold.lock, &hold.evidence, frame.at_ns, names);
            owners.entry(hold.lock).or_default().push(owner);
        }
    }
    owners
        .into_values()
        .filter(|tasks| tasks.len() > 1)
        .collect()
}

/// Whether there is a time that has a moment in common with another.
fn overlaps(times: &Times, key: Key, (from_ns, to_ns): (u64, u64)) -> bool {
    let all = times.get(&key).map_or(&[][..], Vec::as_slice);
    all.iter()
        .any(|&(begin, end)| begin <= to_ns && end >= from_ns)
}

/// A lock is a task's before a probe says so, and for a while after: who is preempted in between is so for at most this
/// long, in nanoseconds.
const BETWEEN_NS: u64 = 100_000_000;

/// How often the comparison is made again with other times.
const OTHER_TIMES: u64 = 63;

/// What a snapshot says: that a task holds a lock, or waits for it, at some time of its reading.
struct Fact {
    waits: bool,
    key: Key,
    window: (u64, u64),
    what: String,
}

impl Fact {
    fn is_seen(&self, traced: &Traced, window: (u64, u64)) -> bool {
        let times = if self.waits {
            &traced.waits
        } else {
            &traced.holds
        };
        overlaps(times, self.key, window)
    }
}

/// What all snapshots of a run say.
#[derive(Default)]
struct Snapshots {
    number: u64,
    facts: Vec<Fact>,
    /// Who had the same lock alone at the same time, for each such case.
    two_owners: Vec<Vec<String>>,
    /// Facts that probes say nothing of.
    elsewhere: u64,
}

impl Snapshots {
    /// Adds the frames of one recording.
    fn add(&mut self, traced: &Traced, frames: &[Frame]) {
        for pair in frames.windows(2) {
            let window = (pair[0].at_ns, pair[1].at_ns);
            if window.0 < traced.from_ns || window.1 > traced.to_ns {
                continue;
            }
            self.number += 1;
            let owners = two_owners(&pair[0], &traced.names);
            self.two_owners.extend(owners);
            for task in pair[0].live.iter().flat_map(|live| &live.tasks) {
                let holds = task
                    .holds
                    .iter()
                    .map(|hold| (hold.lock, &hold.evidence, false));
                let waits = task
                    .waits
                    .iter()
                    .map(|wait| (wait.lock, &wait.evidence, true));
                for (lock, evidence, waits) in holds.chain(waits) {
                    if !traced.locks.contains(&lock) || waits && traced.is_work(lock) {
                        self.elsewhere += 1;
                        continue;
                    }
                    self.facts.push(Fact {
                        waits,
                        key: (lock, task.tid),
                        window,
                        what: what(task, lock, evidence, window.0, &traced.names),
                    });
                }
            }
        }
    }

    /// How many facts are not seen if all were read later by a part of the time from the first snapshot to the last, whose
    /// end goes on at its beginning.
    fn unseen(&self, traced: &Traced, part: u64, only_waits: bool) -> usize {
        let windows = || self.facts.iter().map(|fact| fact.window);
        let from_ns = windows().map(|(from, _)| from).min().unwrap_or(0);
        let to_ns = windows().map(|(_, to)| to).max().unwrap_or(0);
        let length_ns = (to_ns - from_ns).max(1);
        let later_ns = length_ns * part / (OTHER_TIMES + 1);
        let moved = |(begin, end): (u64, u64)| {
            let moved = from_ns + (begin - from_ns + later_ns) % length_ns;
            (moved, moved + (end - begin))
        };
        let unseen = self.facts.iter().filter(|fact| {
            (fact.waits || !only_waits) && !fact.is_seen(traced, moved(fact.window))
        });
        unseen.count()
    }

    fn json(&self, traced: &Traced) -> String {
        format!(
            "{{\"compared\":{},\"holds\":{{{}}},\"waits\":{{{},{}}},{},\"two_owners\":{:?},\
             \"elsewhere\":{}}}",
            self.number,
            self.kind(traced, false),
            self.kind(traced, true),
            self.chance(traced, true),
            self.chance(traced, false),
            self.two_owners,
            self.elsewhere
        )
    }

    /// How many facts are not seen at their time, and at the best of the other times.
    fn chance(&self, traced: &Traced, only_waits: bool) -> String {
        let elsewhen = (1..=OTHER_TIMES).map(|part| self.unseen(traced, part, only_waits));
        format!(
            "\"unseen\":{},\"unseen_elsewhen\":{}",
            self.unseen(traced, 0, only_waits),
            elsewhen.min().unwrap_or(0)
        )
    }

    /// Numbers of one kind of fact.
    fn kind(&self, traced: &Traced, waits: bool) -> String {
        let (mut seen, mut between, mut contradicted) = (0_u64, 0_u64, Vec::new());
        for fact in self.facts.iter().filter(|fact| fact.waits == waits) {
            let (from_ns, to_ns) = fact.window;
            let wider = (
                from_ns.saturating_sub(BETWEEN_NS),
                to_ns.saturating_add(BETWEEN_NS),
            );
            if fact.is_seen(traced, fact.window) {
                seen += 1;
            } else if fact.is_seen(traced, wider) {
                between += 1;
            } else {
                contradicted.push(&fact.what);
            }
        }
        // The first few are enough to look further.
        let first = &contradicted[..contradicted.len().min(5)];
        format!(
            "\"seen\":{seen},\"between\":{between},\"contradicted\":{},\"first\":{first:?}",
            contradicted.len()
        )
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = std::env::args_os().skip(1);
    let (Some(traced), recordings) = (files.next(), files.collect::<Vec<_>>()) else {
        return Err("arguments: a recording at level 2, and one or more at level 0".into());
    };
    let traced = Traced::read(Path::new(&traced))?;
    let mut snapshots = Snapshots::default();
    for path in &recordings {
        let frames = Reader::open(Path::new(path))?.collect::<Result<Vec<_>, _>>()?;
        snapshots.add(&traced, &frames);
    }
    snapshots
        .two_owners
        .extend(traced.two_owners.iter().cloned());
    println!("{}", snapshots.json(&traced));
    Ok(())
}
