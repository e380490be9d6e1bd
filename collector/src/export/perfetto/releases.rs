//! Which release let a waiter in: the last one of the same lock, by another task, while it waited.

use std::collections::{BTreeMap, VecDeque};

use probe_ebpf::abi::Span;

/// Releases of one lock remembered.
const RELEASES: usize = 64;
/// Locks remembered.
const LOCKS: usize = 16_384;

/// A lock: class and address. Both modes of an rwsem are one.
pub(super) type Lock = (u8, u64);

/// A release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) at_ns: u64,
    pub(super) tid: u32,
    /// The track with the hold that ended.
    pub(super) track: u64,
}

/// The latest releases of each lock.
#[derive(Debug, Default)]
pub(super) struct Releases {
    locks: BTreeMap<Lock, VecDeque<Release>>,
}

impl Releases {
    pub(super) fn add(&mut self, lock: Lock, release: Release) {
        if self.locks.len() >= LOCKS && !self.locks.contains_key(&lock) {
            return;
        }
        let of = self.locks.entry(lock).or_default();
        if of.len() >= RELEASES {
            of.pop_front();
        }
        of.push_back(release);
    }

    /// The release that let in whoever has acquired the lock with this span; `None` where it did not wait, or where the
    /// release was not seen.
    pub(super) fn that_let_in(&self, lock: Lock, acquired: &Span) -> Option<Release> {
        let (until, wait_ns) = (acquired.start_ns, acquired.extra);
        let since = until.saturating_sub(wait_ns);
        let releases = self.locks.get(&lock)?.iter();
        releases
            .filter(|release| wait_ns > 0 && release.tid != acquired.tid)
            .filter(|release| (since..=until).contains(&release.at_ns))
            .max_by_key(|release| release.at_ns)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use probe_ebpf::abi::{NO_INSTANCE, SPAN_LOCK};

    use super::*;

    #[test]
    fn the_last_release_while_it_waited_let_the_waiter_in() {
        let mut releases = Releases::default();
        let lock = (0, 0x1000);
        for (at_ns, tid) in [(50, 1), (120, 2), (150, 3), (160, 9), (250, 4)] {
            let track = u64::from(tid);
            releases.add(lock, Release { at_ns, tid, track });
        }
        let acquired = |wait_ns| Span {
            start_ns: 200,
            duration_ns: 10,
            extra: wait_ns,
            tid: 9,
            instance: NO_INSTANCE,
            result: 0,
            kind: SPAN_LOCK,
            what: 0,
            inside: 0,
            flags: 0,
        };
        let found = |lock, wait_ns| {
            releases
                .that_let_in(lock, &acquired(wait_ns))
                .map(|r| r.tid)
        };
        assert_eq!(found(lock, 100), Some(3));
        assert_eq!(found(lock, 0), None, "it did not wait");
        assert_eq!(found(lock, 20), None, "nobody let go while it waited");
        assert_eq!(found((0, 0x2000), 100), None, "another lock");
    }
}
