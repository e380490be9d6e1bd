//! Ground truth: what the emulator counts in its own code, independently of any probe.
//!
//! Locks count themselves ([`super::primitives::LockCounters`]); this module counts calls and returns of entry points
//! and PQAP responses, in the dispatch between a probe point and the driver's function, and puts all counts together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_ebpf::abi;
use probe_ebpf::names::{ENTRY_POINTS, PQAP_FUNCTIONS, ReturnKind};

use super::protocol::{TruthEntry, TruthInstance, TruthLock};

/// Counts of one entry point.
#[derive(Debug)]
struct EntryCounters {
    calls: AtomicU64,
    /// By code: `ok` 0, then `errno`, the last every other value; a notifier's by place in [`NOTIFY`].
    returns: Vec<AtomicU64>,
    /// `function code * 256 + response code`; empty unless the entry point handles PQAP.
    pqap: Vec<AtomicU64>,
}

/// Counts of all entry points.
#[derive(Debug)]
pub struct EntryTruth(Vec<EntryCounters>);

fn zeros(n: usize) -> Vec<AtomicU64> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

impl Default for EntryTruth {
    fn default() -> Self {
        Self(
            ENTRY_POINTS
                .iter()
                .map(|entry| EntryCounters {
                    calls: AtomicU64::new(0),
                    returns: zeros(abi::RETURN_CODES),
                    pqap: zeros(if entry.pqap {
                        abi::PQAP_FUNCTIONS * abi::PQAP_RESPONSES
                    } else {
                        0
                    }),
                })
                .collect(),
        )
    }
}

/// What a notifier returns (`include/linux/notifier.h`).
const NOTIFY: [(i64, &str); 4] = [
    (0, "NOTIFY_DONE"),
    (1, "NOTIFY_OK"),
    (0x8002, "NOTIFY_BAD"),
    (0x8001, "NOTIFY_STOP"),
];

/// Place of a return value among the codes.
fn code(kind: ReturnKind, value: i64) -> usize {
    match kind {
        ReturnKind::Void => 0,
        ReturnKind::Notify => NOTIFY
            .iter()
            .position(|(v, _)| *v == value)
            .unwrap_or(abi::RETURN_CODES - 1),
        ReturnKind::Int | ReturnKind::Long if value >= 0 => 0,
        ReturnKind::Int | ReturnKind::Long => usize::try_from(value.unsigned_abs())
            .ok()
            .filter(|n| *n <= abi::MAX_ERRNO)
            .unwrap_or(abi::RETURN_CODES - 1),
    }
}

/// Name of the `n`th code.
fn code_name(kind: ReturnKind, n: usize) -> String {
    match (kind, n) {
        (_, n) if n == abi::RETURN_CODES - 1 => "other".into(),
        (ReturnKind::Notify, n) => NOTIFY.get(n).map_or("other", |(_, name)| name).into(),
        (_, 0) => "ok".into(),
        (_, n) => errno_name(n),
    }
}

/// `-ENAME` of the errors that the emulated code returns.
fn errno_name(n: usize) -> String {
    let name = match i32::try_from(n).unwrap_or(i32::MAX) {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ERANGE => "ERANGE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        n => return format!("-{n}"),
    };
    format!("-{name}")
}

impl EntryTruth {
    /// A call starts.
    pub fn enter(&self, entry: u8) {
        self.0[usize::from(entry)]
            .calls
            .fetch_add(1, Ordering::Relaxed);
    }

    /// A call returns.
    pub fn leave(&self, entry: u8, value: i64) {
        let index = usize::from(entry);
        self.0[index].returns[code(ENTRY_POINTS[index].returns, value)]
            .fetch_add(1, Ordering::Relaxed);
    }

    /// A PQAP handler has answered (it returned 0): GR0 and GR1 of the guest.
    pub fn leave_pqap(&self, entry: u8, gr0: u64, gr1: u64) {
        let function = (gr0 >> 24) as usize & 0xff;
        let response = (gr1 >> 16) as usize & 0xff;
        let slot = function * abi::PQAP_RESPONSES + response;
        if let Some(counter) = self.0[usize::from(entry)].pqap.get(slot) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Calls that have started but not returned.
    #[cfg(test)]
    pub fn in_flight(&self) -> u64 {
        self.0
            .iter()
            .map(|e| {
                let returned: u64 = e.returns.iter().map(|r| r.load(Ordering::Relaxed)).sum();
                e.calls.load(Ordering::Relaxed).saturating_sub(returned)
            })
            .sum()
    }

    /// The counts of the entry points with these ids.
    pub fn read(&self, entries: &[u8]) -> Vec<TruthEntry> {
        entries.iter().map(|id| self.read_one(*id)).collect()
    }

    fn read_one(&self, id: u8) -> TruthEntry {
        let entry = &ENTRY_POINTS[usize::from(id)];
        let counters = &self.0[usize::from(id)];
        let mut pqap: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (slot, count) in nonzero(&counters.pqap) {
            let function = slot / abi::PQAP_RESPONSES;
            let name = PQAP_FUNCTIONS
                .get(function)
                .map_or_else(|| function.to_string(), |name| (*name).to_string());
            let response = format!("{:02x}", slot % abi::PQAP_RESPONSES);
            pqap.entry(name).or_default().insert(response, count);
        }
        TruthEntry {
            name: entry.name.into(),
            calls: counters.calls.load(Ordering::Relaxed),
            returns: nonzero(&counters.returns)
                .map(|(n, count)| (code_name(entry.returns, n), count))
                .collect(),
            pqap,
        }
    }
}

fn nonzero(counters: &[AtomicU64]) -> impl Iterator<Item = (usize, u64)> + '_ {
    counters
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .enumerate()
        .filter(|(_, count)| *count != 0)
}

/// The counts of one class and mode, from those of its instances.
pub fn lock(class: &str, mode: &str, by_instance: Vec<TruthInstance>) -> TruthLock {
    let sum = |field: fn(&TruthInstance) -> u64| by_instance.iter().map(field).sum();
    TruthLock {
        class: class.into(),
        mode: mode.into(),
        acquisitions: sum(|i| i.acquisitions),
        contended: sum(|i| i.contended),
        releases: sum(|i| i.releases),
        attempts_failed: sum(|i| i.attempts_failed),
        by_instance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::names::entry_id;

    #[test]
    fn returns_are_named_by_kind() {
        let truth = EntryTruth::default();
        for (entry, value) in [
            (entry_id::HANDLE_PQAP, -i64::from(libc::EOPNOTSUPP)),
            (entry_id::HANDLE_PQAP, 0),
            (entry_id::GROUP_NOTIFIER, 0),
            (entry_id::GROUP_NOTIFIER, 1),
            (entry_id::ASSIGN_ADAPTER, 4),
            (entry_id::ASSIGN_ADAPTER, -i64::from(libc::EBUSY)),
            (entry_id::RELEASE, -1),
        ] {
            truth.enter(entry);
            truth.leave(entry, value);
        }
        let names = |id| {
            let entry = &truth.read(&[id])[0];
            entry.returns.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(entry_id::HANDLE_PQAP), ["-EOPNOTSUPP", "ok"]);
        assert_eq!(
            names(entry_id::GROUP_NOTIFIER),
            ["NOTIFY_DONE", "NOTIFY_OK"]
        );
        assert_eq!(names(entry_id::ASSIGN_ADAPTER), ["-EBUSY", "ok"]);
        assert_eq!(names(entry_id::RELEASE), ["ok"]);
        assert_eq!(truth.in_flight(), 0);
    }

    #[test]
    fn pqap_responses_are_read_from_the_registers() {
        let truth = EntryTruth::default();
        truth.leave_pqap(entry_id::HANDLE_PQAP, 0x0300_1234, 0x8007_0000);
        truth.leave_pqap(entry_id::HANDLE_PQAP, 0x0f00_0000, 0x000a_0000);
        // Not counted: beyond the functions that are counted apart.
        truth.leave_pqap(entry_id::HANDLE_PQAP, 0xff00_0000, 0);
        // Not a PQAP handler.
        truth.leave_pqap(entry_id::OPEN, 0x0300_0000, 0);
        let entry = &truth.read(&[entry_id::HANDLE_PQAP])[0];
        assert_eq!(entry.pqap["AQIC"]["07"], 1);
        assert_eq!(entry.pqap["15"]["0a"], 1);
        assert_eq!(entry.pqap.len(), 2);
    }
}
