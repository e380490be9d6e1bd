//! Locks against an independent tracer: events of tracefs at the functions that take a mutex, with the address of the lock.
//! They also say where the driver's structure is, which tells whether the offsets of its locks are right: in it, these
//! locks are taken and no others.

use std::collections::BTreeMap;

use serde_json::Value;

use super::evidence::{calls, items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Bytes of `struct ap_matrix_dev` at most: 888 in Linux 6.12 of Debian, less before.
const MATRIX_DEV: u64 = 1024;

/// What the events say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Calls by the address of the lock.
    locks: BTreeMap<u64, u64>,
    /// What the driver's variable pointed to.
    matrix_dev: Option<u64>,
    /// Calls of the driver's handler.
    pqap: u64,
}

fn parse(events: &str) -> Seen {
    let mut seen = Seen::default();
    for line in events.lines().filter(|line| !line.starts_with('#')) {
        if let Some(lock) = field(line, " lock=") {
            *seen.locks.entry(lock).or_default() += 1;
        }
        if let Some(matrix_dev) = field(line, " matrix_dev=") {
            seen.matrix_dev = Some(matrix_dev);
            seen.pqap += 1;
        }
    }
    seen
}

fn field(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    address(rest.split_whitespace().next()?)
}

fn address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let seen = parse(&evidence.text("events")?);
    let trace = evidence.export("trace.apscope")?;
    findings.equal(
        "lost by the independent tracer",
        &lost(
            &evidence.text("events.stats")?,
            &evidence.text("events.profile")?,
        ),
        &0,
    );
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, address, taken) in fixed(&trace) {
        let independent = seen.locks.get(&address).copied().unwrap_or_default();
        compared += independent;
        if taken != independent {
            wrong.push(format!("{name}: {taken}, tracefs {independent}"));
        }
    }
    if compared == 0 {
        wrong.push("tracefs saw none of these locks".into());
    }
    let of = format!("{compared} acquisitions");
    findings.none("locks as an independent tracer counts them", of, &wrong);
    findings.equal(
        "calls of the handler as an independent tracer counts them",
        &calls(&trace, "handle_pqap"),
        &seen.pqap,
    );
    let Some(matrix_dev) = seen.matrix_dev else {
        findings.add("address of the driver's structure", false, "not seen");
        return Ok(());
    };
    let offsets = |addresses: Vec<u64>| -> String {
        let mut offsets: Vec<u64> = addresses
            .into_iter()
            .filter(|address| (matrix_dev..matrix_dev + MATRIX_DEV).contains(address))
            .map(|address| address - matrix_dev)
            .collect();
        offsets.sort_unstable();
        let offsets: Vec<_> = offsets.iter().map(u64::to_string).collect();
        offsets.join(", ")
    };
    findings.equal(
        "offsets of the locks in struct ap_matrix_dev",
        &offsets(fixed(&trace).map(|(_, address, _)| address).collect()),
        &offsets(seen.locks.into_keys().collect()),
    );
    Ok(())
}

/// Events that did not get into the buffers, and hits of probes that were missed (`kprobe_profile`: event, hits, misses).
fn lost(stats: &str, profile: &str) -> u64 {
    let counted = ["overrun:", "commit overrun:", "dropped events:"];
    let stats = stats
        .lines()
        .filter(|line| counted.iter().any(|name| line.starts_with(name)));
    stats
        .chain(profile.lines())
        .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum()
}

/// Mutexes of the driver and the bus that are there before anything is traced: name, address, attempts.
fn fixed(trace: &Value) -> impl Iterator<Item = (&str, u64, u64)> {
    items(trace, "locks")
        .filter(|lock| text(lock, "kind") == "mutex")
        .filter(|lock| {
            let class = text(lock, "class");
            class.starts_with("matrix_dev->") || class.starts_with("ap_")
        })
        .flat_map(|lock| items(lock, "by_instance"))
        .filter_map(|lock| {
            let taken = number(lock, "acquisitions") + number(lock, "attempts_failed");
            Some((text(lock, "name"), address(text(lock, "address"))?, taken))
        })
        .filter(|&(_, _, taken)| taken != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_address() {
        let seen = parse(
            "# tracer: nop\n\
             \x20 a-1 [000] ..... 1.0: mutex_lock: (mutex_lock+0x0/0x28) lock=0x1610480\n\
             \x20 a-1 [000] ..... 1.1: pqap: (handle_pqap+0x0/0x330 [vfio_ap]) vcpu=0x1 matrix_dev=0x1610000\n\
             \x20 a-1 [000] ..... 1.2: mutex_lock_killable: (mutex_lock_killable+0x0/0x30) lock=0x1610480\n",
        );
        assert_eq!(seen.locks, BTreeMap::from([(0x0161_0480, 2)]));
        assert_eq!((seen.matrix_dev, seen.pqap), (Some(0x0161_0000), 1));
    }

    #[test]
    fn losses_of_buffers_and_probes_are_added() {
        let stats = "entries: 248\noverrun: 1\ncommit overrun: 2\nbytes: 8952\ndropped events: 3\n";
        let profile = "  mutex_lock     1000               4\n  pqap    7    0\n";
        assert_eq!(lost(stats, profile), 10);
    }
}
