//! Snapshots of the kernel's memory against what probes saw at the same time, for `cargo xtask lab`: one line of JSON.
//!
//! Arguments: a recording at level 0, and one at level 2 of the same time. Who owns a lock at level 0, and who waits for it,
//! is read from the lock's word and queue without a probe, between a frame's own time and that of the next frame. The
//! probes' view is exact: a hold and a wait begin and end at known times. A holder or waiter of a snapshot is *seen* if the
//! probes have the same task holding or waiting for the same lock at some time of the reading, *between* if just before or
//! after it, and *contradicted* if not.
//! The same with all of the probes' times moved says how many would be seen by chance. Waits for work items leave no
//! record, so they are not compared: *elsewhere*, like locks that the probes do not follow.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use apscope_collector::frame::Frame;
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

/// Whether there is a time that has a moment in common with another.
fn overlaps(times: &Times, key: Key, (from_ns, to_ns): (u64, u64)) -> bool {
    let all = times.get(&key).map_or(&[][..], Vec::as_slice);
    all.iter()
        .any(|&(begin, end)| begin <= to_ns && end >= from_ns)
}

/// A lock is a task's before a probe says so, and for a while after: who is preempted in between is so for at most this
/// long, in nanoseconds.
const BETWEEN_NS: u64 = 100_000_000;

/// Sum of one kind of fact.
#[derive(Default)]
struct Sum {
    seen: u64,
    /// At the time of the reading, the task was about to be seen, or had just been.
    between: u64,
    by_chance: u64,
    contradicted: Vec<String>,
}

impl Sum {
    fn add(
        &mut self,
        times: &Times,
        key: Key,
        window: (u64, u64),
        moved: (u64, u64),
        what: String,
    ) {
        let wider = (
            window.0.saturating_sub(BETWEEN_NS),
            window.1.saturating_add(BETWEEN_NS),
        );
        if overlaps(times, key, window) {
            self.seen += 1;
        } else if overlaps(times, key, wider) {
            self.between += 1;
        } else {
            self.contradicted.push(what);
        }
        self.by_chance += u64::from(overlaps(times, key, moved));
    }

    fn json(&self) -> String {
        // The first few are enough to look further.
        let first: Vec<String> = self
            .contradicted
            .iter()
            .take(5)
            .map(|text| format!("{text:?}"))
            .collect();
        format!(
            "{{\"seen\":{},\"between\":{},\"by_chance\":{},\"contradicted\":{},\"first\":[{}]}}",
            self.seen,
            self.between,
            self.by_chance,
            self.contradicted.len(),
            first.join(",")
        )
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = std::env::args_os().skip(1);
    let (Some(snapshots), Some(traced)) = (files.next(), files.next()) else {
        return Err("arguments: a recording at level 0, and one at level 2".into());
    };
    let traced = Traced::read(Path::new(&traced))?;
    let frames = Reader::open(Path::new(&snapshots))?.collect::<Result<Vec<_>, _>>()?;
    let half_ns = traced.to_ns.saturating_sub(traced.from_ns) / 2;
    let (mut compared, mut two_owners, mut elsewhere) = (0_u64, 0_u64, 0_u64);
    let (mut holds, mut waits) = (Sum::default(), Sum::default());
    for pair in frames.windows(2) {
        let window = (pair[0].at_ns, pair[1].at_ns);
        if window.0 < traced.from_ns || window.1 > traced.to_ns {
            continue;
        }
        compared += 1;
        // The other half of the run.
        let move_it = |ns: u64| {
            if ns - traced.from_ns < half_ns {
                ns + half_ns
            } else {
                ns - half_ns
            }
        };
        let moved = (move_it(window.0), move_it(window.0) + (window.1 - window.0));
        let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
        for task in pair[0].live.iter().flat_map(|live| &live.tasks) {
            let what = |lock: u64, evidence: &str| {
                let name = traced.names.get(&lock).map_or("", String::as_str);
                format!(
                    "{} ({}) and {name} 0x{lock:x} at {} to {} ({evidence})",
                    task.comm, task.tid, window.0, window.1
                )
            };
            for hold in &task.holds {
                if !traced.locks.contains(&hold.lock) {
                    elsewhere += 1;
                    continue;
                }
                // A series is `2 * class + (mode is read)`; any number may read.
                if hold.series % 2 == 0 {
                    *owners.entry(hold.lock).or_default() += 1;
                }
                holds.add(
                    &traced.holds,
                    (hold.lock, task.tid),
                    window,
                    moved,
                    what(hold.lock, &hold.evidence),
                );
            }
            for wait in &task.waits {
                if !traced.locks.contains(&wait.lock) || traced.is_work(wait.lock) {
                    elsewhere += 1;
                    continue;
                }
                waits.add(
                    &traced.waits,
                    (wait.lock, task.tid),
                    window,
                    moved,
                    what(wait.lock, &wait.evidence),
                );
            }
        }
        two_owners += owners.values().filter(|&&tasks| tasks > 1).count() as u64;
    }
    println!(
        "{{\"frames\":{},\"compared\":{compared},\"holds\":{},\"waits\":{},\"two_owners\":{two_owners},\"elsewhere\":{elsewhere}}}",
        frames.len(),
        holds.json(),
        waits.json()
    );
    Ok(())
}
