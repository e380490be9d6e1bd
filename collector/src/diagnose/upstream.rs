//! What upstream did: the commits behind findings, and which generations have what.
//!
//! Compiled from the kernel's history, the linux-s390 list (2019 to 2026) and the trees of v5.10.223, v6.1.192,
//! v6.12.107, v7.2.12 and v7.3-rc7. Where a hash is not established there is a title alone.

use serde::Serialize;

/// Generations of the driver, oldest first, as they are spelled everywhere.
pub const GENERATIONS: [&str; 11] = [
    "v5.10",
    "v5.11",
    "v5.13",
    "v5.15-rc",
    "rfc-2021-06",
    "rfc-2021-07",
    "v5.15",
    "v5.19",
    "v6.0",
    "v6.6",
    "v7.3",
];

/// A change in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Abbreviated hash; empty where it is not established.
    pub hash: &'static str,
    /// Title, without the subsystem.
    pub title: &'static str,
    /// First release that has it, or where else it is.
    pub release: &'static str,
}

/// What a change did about a kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of the finding, as in AP001.
    pub id: u8,
    /// Generations that have the problem.
    pub affected: &'static [&'static str],
    /// Distinguishes symptoms of one finding; empty: all. The finding's key contains it.
    pub symptom: &'static str,
    /// The change.
    pub commit: Commit,
    /// What it did.
    pub effect: &'static str,
}

const fn commit(hash: &'static str, title: &'static str, release: &'static str) -> Commit {
    Commit {
        hash,
        title,
        release,
    }
}

const HIDDEN: Commit = commit(
    "0cc00c8d4050",
    "fix circular lockdep when setting/clearing crypto masks",
    "v5.13; 5.12.y as 55a430f7ae5e; not in 5.10.y",
);
const REPLACED: Commit = commit(
    "86956e70761b",
    "replace open coded locks for VFIO_GROUP_NOTIFY_SET_KVM notification",
    "v5.15",
);
const HOOK_RWSEM: Commit = commit(
    "1e753732bda6",
    "r/w lock for PQAP interception handler function pointer",
    "v5.15",
);
const DRAFT_JUNE: Commit = commit(
    "",
    "replace open coded locks (first posting, 25 June 2021)",
    "never merged",
);
const DRAFT_JULY: Commit = commit(
    "",
    "replace open coded locks (second posting, 7 July 2021)",
    "never merged",
);
const STALE_HOOK: Commit = commit(
    "",
    "fix stale pqap_hook pointer on error in vfio_ap_mdev_set_kvm()",
    "v7.3; stable, as 13bfc94eef38, 469d84dcc51a and fc069d00a0db",
);
const UNLIMITED: Commit = commit(
    "",
    "remove upper limit on wait for queue reset to complete",
    "v6.6",
);
const WORK: Commit = commit("", "use work struct to verify queue reset", "v6.6");
const REQUEST: Commit = commit(
    "2e3d8d71e285",
    "wire in the vfio_device_ops request callback",
    "v6.5",
);
const HOTPLUG: Commit = commit(
    "",
    "allow hot plug/unplug of AP devices when assigned/unassigned",
    "v6.0",
);

const GROUP_LOCK: Commit = commit(
    "",
    "vfio: fix deadlock between group lock and kvm lock",
    "v6.3",
);

const SPLAT: &[&str] = &["v5.10", "v5.11"];
const FLAG: &[&str] = &["v5.13", "v5.15-rc"];

/// What is known, in the order of findings.
pub const TABLE: &[Entry] = &[
    Entry {
        id: 1,
        affected: SPLAT,
        symptom: "matrix_dev->lock",
        commit: HIDDEN,
        effect: "replaced the nesting by the flag kvm_busy and a wait queue, which hides the cycle from lockdep and keeps it",
    },
    Entry {
        id: 1,
        affected: &["v5.10", "v5.11", "v5.13", "v5.15-rc"],
        symptom: "kvm->lock",
        commit: REPLACED,
        effect: "takes kvm->lock before the driver's lock: the cycle is gone",
    },
    Entry {
        id: 1,
        affected: FLAG,
        symptom: "kvm_busy",
        commit: HIDDEN,
        effect: "made the flag that is in this cycle",
    },
    Entry {
        id: 1,
        affected: &["v5.15-rc"],
        symptom: "pqap_hook_rwsem",
        commit: HOOK_RWSEM,
        effect: "put the rwsem around a handler that still waits for kvm_busy; the next commit of the series, 86956e70761b, takes the flag away",
    },
    Entry {
        id: 1,
        affected: &["rfc-2021-07"],
        symptom: "pqap_hook_rwsem",
        commit: DRAFT_JULY,
        effect: "holds the rwsem for writing while it takes kvm->lock; the merged version releases it before",
    },
    Entry {
        id: 1,
        affected: &["rfc-2021-06"],
        symptom: "matrix_dev->lock",
        commit: DRAFT_JUNE,
        effect: "returns from unset_kvm with the lock held where there is no guest; found in review",
    },
    Entry {
        id: 1,
        affected: &["v6.0"],
        symptom: "group_lock",
        commit: GROUP_LOCK,
        effect: "no longer takes the group's lock under kvm->lock, which 51cdc8bc120e (6.2-rc) had begun to; v6.0 and v6.1 are not known to have it",
    },
    Entry {
        id: 2,
        affected: SPLAT,
        symptom: "matrix_dev->lock",
        commit: HIDDEN,
        effect: "silenced lockdep's report by replacing the nesting with the flag kvm_busy and a wait queue",
    },
    Entry {
        id: 2,
        affected: &["v5.10", "v5.11", "v5.13", "v5.15-rc"],
        symptom: "kvm->lock",
        commit: REPLACED,
        effect: "takes kvm->lock before the driver's lock: the cycle is gone",
    },
    Entry {
        id: 2,
        affected: FLAG,
        symptom: "kvm_busy",
        commit: HIDDEN,
        effect: "made the flag that closes this cycle where lockdep cannot see it",
    },
    Entry {
        id: 2,
        affected: &["v5.15-rc"],
        symptom: "pqap_hook_rwsem",
        commit: HOOK_RWSEM,
        effect: "put the rwsem around a handler that waits for kvm_busy; the next commit takes the flag away",
    },
    Entry {
        id: 2,
        affected: &["rfc-2021-07"],
        symptom: "pqap_hook_rwsem",
        commit: DRAFT_JULY,
        effect: "holds the rwsem for writing while it takes kvm->lock; the merged version does not",
    },
    Entry {
        id: 2,
        affected: &["v6.0"],
        symptom: "group_lock",
        commit: GROUP_LOCK,
        effect: "no longer takes the group's lock under kvm->lock, which 51cdc8bc120e (6.2-rc) had begun to; v6.0 and v6.1 are not known to have it",
    },
    Entry {
        id: 3,
        affected: FLAG,
        symptom: "",
        commit: REPLACED,
        effect: "removed kvm_busy and its wait queue: this wait cannot happen any more",
    },
    Entry {
        id: 4,
        affected: &["rfc-2021-06"],
        symptom: "",
        commit: DRAFT_JUNE,
        effect: "returns from unset_kvm with matrix_dev->lock held where there is no guest; found in review, no release has it",
    },
    Entry {
        id: 5,
        affected: &["rfc-2021-07"],
        symptom: "",
        commit: DRAFT_JULY,
        effect: "calls up_read on the rwsem that it holds for writing when the guest is another mdev's; no release has it",
    },
    Entry {
        id: 6,
        affected: &["v6.6", "v7.3"],
        symptom: "flush",
        commit: WORK,
        effect: "waits with flush_work for the poll of each queue while the locks are held",
    },
    Entry {
        id: 7,
        affected: &["v6.6", "v7.3"],
        symptom: "",
        commit: UNLIMITED,
        effect: "took the limit away, by design: no release limits this wait since",
    },
    Entry {
        id: 8,
        affected: FLAG,
        symptom: "",
        commit: REPLACED,
        effect: "removed kvm_busy and its wait queue",
    },
    Entry {
        id: 10,
        affected: &[
            "v5.10",
            "v5.11",
            "v5.13",
            "v5.15-rc",
            "rfc-2021-06",
            "rfc-2021-07",
            "v5.15",
            "v5.19",
        ],
        symptom: "-EBUSY",
        commit: HOTPLUG,
        effect: "writes are accepted while a guest uses the mdev, and plug or unplug under it",
    },
    Entry {
        id: 11,
        affected: &["v5.15", "v5.19", "v6.0", "v6.6"],
        symptom: "",
        commit: STALE_HOOK,
        effect: "publishes the hook only after every check has passed",
    },
    Entry {
        id: 13,
        affected: &["v5.15", "v5.19", "v6.0"],
        symptom: "",
        commit: REQUEST,
        effect: "asks the guest for the device through an eventfd, so that the removal ends by itself",
    },
    Entry {
        id: 14,
        affected: FLAG,
        symptom: "",
        commit: REPLACED,
        effect: "removed kvm_busy, which set_kvm never tested before it set it",
    },
];

/// What upstream did, as a finding shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History {
    /// Abbreviated hash; absent where it is not established.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub commit: &'static str,
    /// First release that has it, or where else it is.
    pub release: &'static str,
    /// Title of the commit.
    pub title: &'static str,
    /// What it did about this.
    pub effect: &'static str,
}

impl History {
    /// One line.
    pub fn text(&self) -> String {
        let commit = if self.commit.is_empty() {
            String::new()
        } else {
            format!("{} ", self.commit)
        };
        format!(
            "{commit}\"{}\" ({}): {}",
            self.title, self.release, self.effect
        )
    }
}

/// The history of a finding: of those generations that the driver may be, with its symptom in `key`.
pub fn history(id: u8, key: &str, generations: &[String]) -> Vec<History> {
    TABLE
        .iter()
        .filter(|entry| entry.id == id && key.contains(entry.symptom))
        .filter(|entry| {
            generations
                .iter()
                .any(|generation| entry.affected.contains(&generation.as_str()))
        })
        .map(|entry| History {
            commit: entry.commit.hash,
            release: entry.commit.release,
            title: entry.commit.title,
            effect: entry.effect,
        })
        .collect()
}

/// The generations that can have a kind of finding; empty where any can.
pub fn affected(id: u8) -> Vec<&'static str> {
    GENERATIONS
        .into_iter()
        .filter(|generation| {
            TABLE
                .iter()
                .any(|entry| entry.id == id && entry.affected.contains(generation))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generations_are_those_of_the_emulated_driver() {
        let mut known = crate::emulator::generations();
        let mut ours = GENERATIONS.to_vec();
        known.sort_unstable();
        ours.sort_unstable();
        assert_eq!(known, ours);
    }

    #[test]
    fn every_generation_named_exists() {
        for entry in TABLE {
            for generation in entry.affected {
                assert!(GENERATIONS.contains(generation), "{generation}");
            }
        }
    }

    #[test]
    fn the_splat_and_its_hiding_are_told_apart() {
        let of = |key: &str, generation: &str| {
            history(2, key, &[generation.to_owned()])
                .into_iter()
                .map(|h| h.commit)
                .collect::<Vec<_>>()
        };
        let splat = "matrix_dev->lock > kvm->lock > vcpu->mutex";
        let hidden = "kvm_busy > kvm->lock > vcpu->mutex";
        assert_eq!(of(splat, "v5.11"), ["0cc00c8d4050", "86956e70761b"]);
        assert_eq!(of(hidden, "v5.13"), ["86956e70761b", "0cc00c8d4050"]);
        assert!(of(splat, "v5.15").is_empty());
    }
}
