//! What upstream did: the commits behind findings, and which generations have what.
//!
//! Compiled from the kernel's history, the linux-s390 list (2019 to 2026) and the trees of v5.10.223, v6.1.192,
//! v6.12.107, v7.2.12 and v7.3-rc7. Where a hash is not established there is a title alone.
//!
//! What has no symptom in locks and waits is not here: queues that are reset without need (bf09b9d7cd78), interruption
//! resources that are not freed (65e05ec252a9), flags and masks that are wrong afterwards (b1f092d94f62, 6b8a02e216f6,
//! 5883528250be, 917f509bfb88).

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
    /// Title, without the subsystem; empty where it is not established.
    pub title: &'static str,
    /// First release that has it, or where else it is.
    pub release: &'static str,
}

/// What must be known of a finding for a change to be about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symptom {
    /// Nothing more than its kind.
    Any,
    /// It has this in it: a lock's class, a function, an errno.
    Has(&'static str),
    /// It has both in it.
    Both(&'static str, &'static str),
    /// A circle of this lock alone: a task that waits for what it holds.
    Alone(&'static str),
}

impl Symptom {
    fn is_of(self, of: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Has(part) => of.contains(part),
            Self::Both(one, other) => of.contains(one) && of.contains(other),
            Self::Alone(lock) => of.split(" #").next() == Some(lock),
        }
    }
}

impl std::fmt::Display for Symptom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Has(part) => write!(f, ", with `{part}`"),
            Self::Both(one, other) => write!(f, ", with `{one}` and `{other}`"),
            Self::Alone(lock) => write!(f, ", of `{lock}` alone"),
        }
    }
}

/// What a change did about a kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of the finding, as in AP001.
    pub id: u8,
    /// Generations that have the problem.
    pub affected: &'static [&'static str],
    /// Distinguishes symptoms of one finding.
    pub symptom: Symptom,
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
    "v7.3, 7.2.12 and 6.1.192; stable copies 13bfc94eef38, 469d84dcc51a and fc069d00a0db; not in 6.12.107",
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

const UNINIT: Commit = commit(
    "",
    "vfio/ap_ops: Add missed vfio_uninit_group_dev()",
    "v5.15-rc, in its third version",
);
const HOTPLUG_SERIES: Commit = commit("", "dynamic configuration support (20 patches)", "v6.0");
const KVM_LAST_PUT: Commit = commit(
    "51cdc8bc120e",
    "kvm/vfio: Fix potential deadlock on vfio group_lock",
    "6.2-rc",
);
const DUPLICATE: Commit = commit(
    "",
    "bypass unnecessary processing of AP resources",
    "6.0-rc7",
);
const DUPLICATE_LINK: Commit = commit(
    "",
    "ignore duplicate link requests in vfio_ap_mdev_link_queue",
    "v6.10",
);
const LONGER_WAIT: Commit = commit("", "increase max wait time for reset verification", "v6.3");
/// The releases that were read with the fixes of August 2026, and the one without.
const FIXED_2026: &str = "v7.3, 7.2.12 and 6.1.192; not in 6.12.107";
const NULL_KVM: Commit = commit(
    "d50346801b4f",
    "Fix dereference matrix_mdev->kvm without checking for NULL",
    FIXED_2026,
);
const NULL_QUEUE: Commit = commit(
    "dd6f4ef6f8a3",
    "Fix NULL deref in status_show() during queue probe",
    FIXED_2026,
);
const LIST_LOCK: Commit = commit(
    "7fa61c29850d",
    "Fix missing lock required to access list of ap_matrix_mdev objects",
    FIXED_2026,
);

const CHECKSTOP: Commit = commit(
    "",
    "handle hardware checkstop state on queue reset operation",
    "v6.9",
);
const NOT_AVAILABLE: Commit = commit("", "", "7.x");
const UNPIN: Commit = commit("", "unpin pages on gisc registration failure", "v6.8");
const HOTPLUG_DRAFT: Commit = commit(
    "",
    "dynamic configuration support (15th posting, April 2021)",
    "never merged in this form",
);

/// PQAP pins a page with the driver's lock held, and the error path forgot it.
const PINS: &[&str] = &["v5.10", "v5.11", "v5.13", "v5.15", "v5.19", "v6.0", "v6.6"];
const PINS_EFFECT: &str = "unpins the page if the interruption cannot be registered; pinning itself, which may sleep, is under the driver's lock in every release";

const SPLAT: &[&str] = &["v5.10", "v5.11"];
const FLAG: &[&str] = &["v5.13", "v5.15-rc"];

/// What is known, in the order of findings.
pub const TABLE: &[Entry] = &[
    Entry {
        id: 1,
        affected: SPLAT,
        symptom: Symptom::Has("matrix_dev->lock"),
        commit: HIDDEN,
        effect: "replaced the nesting by the flag kvm_busy and a wait queue, which hides the cycle from lockdep and keeps it",
    },
    Entry {
        id: 1,
        affected: &["v5.10", "v5.11", "v5.13", "v5.15-rc"],
        symptom: Symptom::Has("kvm->lock"),
        commit: REPLACED,
        effect: "takes kvm->lock before the driver's lock: the cycle is gone",
    },
    Entry {
        id: 1,
        affected: FLAG,
        symptom: Symptom::Has("kvm_busy"),
        commit: HIDDEN,
        effect: "made the flag that is in this cycle",
    },
    Entry {
        id: 1,
        affected: &["v5.15-rc"],
        symptom: Symptom::Has("pqap_hook_rwsem"),
        commit: HOOK_RWSEM,
        effect: "put the rwsem around a handler that still waits for kvm_busy",
    },
    Entry {
        id: 1,
        affected: &["v5.15-rc"],
        symptom: Symptom::Both("kvm_busy", "pqap_hook_rwsem"),
        commit: REPLACED,
        effect: "takes the flag away, one commit later in the series, and this circle with it",
    },
    Entry {
        id: 1,
        affected: &["rfc-2021-07"],
        symptom: Symptom::Alone("pqap_hook_rwsem"),
        commit: DRAFT_JULY,
        effect: "calls up_read on the rwsem that it holds for writing when the guest is another mdev's, and so keeps it; no release has it",
    },
    Entry {
        id: 1,
        affected: &["rfc-2021-07"],
        symptom: Symptom::Both("pqap_hook_rwsem", "kvm->lock"),
        commit: DRAFT_JULY,
        effect: "holds the rwsem for writing while it takes kvm->lock; the merged version releases it before",
    },
    Entry {
        id: 1,
        affected: &["rfc-2021-06"],
        symptom: Symptom::Has("matrix_dev->lock"),
        commit: DRAFT_JUNE,
        effect: "returns from unset_kvm with the lock held where there is no guest; found in review",
    },
    Entry {
        id: 1,
        affected: &["v6.0"],
        symptom: Symptom::Has("group_lock"),
        commit: GROUP_LOCK,
        effect: "no longer takes the group's lock under kvm->lock, which 51cdc8bc120e (6.2-rc) had begun to: 6.1.y took that over without this, and has the circle (seen on 6.1.176); v6.0 is not known to have it",
    },
    Entry {
        id: 1,
        affected: &["v5.15"],
        symptom: Symptom::Has("dev_set->lock"),
        commit: UNINIT,
        effect: "calls vfio_uninit_group_dev after the driver's lock is released; earlier versions called it with the lock held, against the order of closing a device. v5.15 as released cannot have this circle",
    },
    Entry {
        id: 1,
        affected: &["v6.0"],
        symptom: Symptom::Has("ap_perms_mutex"),
        commit: HOTPLUG_SERIES,
        effect: "takes ap_perms_mutex before guests_lock everywhere; drafts took it after, against a write to apmask. v6.0 as released cannot have this circle",
    },
    Entry {
        id: 1,
        affected: &["v6.0"],
        symptom: Symptom::Alone("group_lock"),
        commit: KVM_LAST_PUT,
        effect: "a last reference to the guest that is dropped under the group's lock took that lock again; the fix was itself fixed in v6.3",
    },
    Entry {
        id: 2,
        affected: SPLAT,
        symptom: Symptom::Has("matrix_dev->lock"),
        commit: HIDDEN,
        effect: "silenced lockdep's report by replacing the nesting with the flag kvm_busy and a wait queue",
    },
    Entry {
        id: 2,
        affected: &["v5.10", "v5.11", "v5.13", "v5.15-rc"],
        symptom: Symptom::Has("kvm->lock"),
        commit: REPLACED,
        effect: "takes kvm->lock before the driver's lock: the cycle is gone",
    },
    Entry {
        id: 2,
        affected: FLAG,
        symptom: Symptom::Has("kvm_busy"),
        commit: HIDDEN,
        effect: "made the flag that closes this cycle where lockdep cannot see it",
    },
    Entry {
        id: 2,
        affected: &["v5.15-rc"],
        symptom: Symptom::Has("pqap_hook_rwsem"),
        commit: HOOK_RWSEM,
        effect: "put the rwsem around a handler that waits for kvm_busy",
    },
    Entry {
        id: 2,
        affected: &["v5.15-rc"],
        symptom: Symptom::Both("kvm_busy", "pqap_hook_rwsem"),
        commit: REPLACED,
        effect: "takes the flag away, one commit later in the series, and this circle with it",
    },
    Entry {
        id: 2,
        affected: &["v5.11"],
        symptom: Symptom::Both("matrix_dev->lock", "in assign_adapter_store"),
        commit: HOTPLUG_DRAFT,
        effect: "took kvm->lock in assign_adapter_store with matrix_dev->lock held, which made the circle anew; as merged (v6.0) it takes guests_lock and kvm->lock first",
    },
    Entry {
        id: 2,
        affected: &["rfc-2021-07"],
        symptom: Symptom::Has("pqap_hook_rwsem"),
        commit: DRAFT_JULY,
        effect: "holds the rwsem for writing while it takes kvm->lock; the merged version does not",
    },
    Entry {
        id: 2,
        affected: &["v6.0"],
        symptom: Symptom::Has("group_lock"),
        commit: GROUP_LOCK,
        effect: "no longer takes the group's lock under kvm->lock, which 51cdc8bc120e (6.2-rc) had begun to: 6.1.y took that over without this, and has the circle (seen on 6.1.176); v6.0 is not known to have it",
    },
    Entry {
        id: 2,
        affected: &["v5.15"],
        symptom: Symptom::Has("dev_set->lock"),
        commit: UNINIT,
        effect: "calls vfio_uninit_group_dev after the driver's lock is released; earlier versions called it with the lock held, against the order of closing a device. v5.15 as released cannot have this circle",
    },
    Entry {
        id: 2,
        affected: &["v6.0"],
        symptom: Symptom::Has("ap_perms_mutex"),
        commit: HOTPLUG_SERIES,
        effect: "takes ap_perms_mutex before guests_lock everywhere; drafts took it after, against a write to apmask. v6.0 as released cannot have this circle",
    },
    Entry {
        id: 3,
        affected: FLAG,
        symptom: Symptom::Any,
        commit: REPLACED,
        effect: "removed kvm_busy and its wait queue: this wait cannot happen any more",
    },
    Entry {
        id: 4,
        affected: &["rfc-2021-06"],
        symptom: Symptom::Any,
        commit: DRAFT_JUNE,
        effect: "returns from unset_kvm with matrix_dev->lock held where there is no guest; found in review, no release has it",
    },
    Entry {
        id: 4,
        affected: &["rfc-2021-07"],
        symptom: Symptom::Has("pqap_hook_rwsem"),
        commit: DRAFT_JULY,
        effect: "calls up_read on the rwsem that it holds for writing when the guest is another mdev's, and so keeps it; no release has it",
    },
    Entry {
        id: 4,
        affected: &["v5.10", "v5.11", "v5.13"],
        symptom: Symptom::Has("ended vcpu->mutex"),
        commit: HOOK_RWSEM,
        effect: "reads the hook under a lock: before, closing the device while a vCPU is in PQAP made KVM jump to address 0, and the thread died with vcpu->mutex (seen on 5.10.223)",
    },
    Entry {
        id: 4,
        affected: &["v6.0", "v6.6"],
        symptom: Symptom::Has("ended matrix_dev->guests_lock vfio_ap_on_"),
        commit: NULL_KVM,
        effect: "tests for a guest before it takes its kvm->lock: without a guest the worker of the AP bus died there, with guests_lock",
    },
    Entry {
        id: 4,
        affected: &["v6.0", "v6.6"],
        symptom: Symptom::Has("ended matrix_dev->mdevs_lock status_show"),
        commit: NULL_QUEUE,
        effect: "tests for the queue: reading status while the queue was being probed killed the reader, with mdevs_lock",
    },
    Entry {
        id: 4,
        affected: &["v6.0", "v6.6"],
        symptom: Symptom::Has("ended matrix_dev->guests_lock"),
        commit: LIST_LOCK,
        effect: "extends the list of mdevs under guests_lock, under which it is read: before, a reader could meet an entry that was only half there",
    },
    Entry {
        id: 5,
        affected: &["rfc-2021-07"],
        symptom: Symptom::Any,
        commit: DRAFT_JULY,
        effect: "calls up_read on the rwsem that it holds for writing when the guest is another mdev's; no release has it",
    },
    Entry {
        id: 6,
        affected: &["v6.6", "v7.3"],
        symptom: Symptom::Has("flush"),
        commit: WORK,
        effect: "waits with flush_work for the poll of each queue while the locks are held",
    },
    Entry {
        id: 6,
        affected: &["v6.0"],
        symptom: Symptom::Has("msleep"),
        commit: LONGER_WAIT,
        effect: "waits longer for the end of a reset, with the same locks held",
    },
    Entry {
        id: 6,
        affected: &[
            "v5.10",
            "v5.11",
            "v5.13",
            "v5.15-rc",
            "rfc-2021-06",
            "rfc-2021-07",
            "v5.15",
            "v5.19",
            "v6.0",
        ],
        symptom: Symptom::Has("msleep"),
        commit: WORK,
        effect: "lets a worker poll; who resets waits for it with the same locks held, since then without a limit",
    },
    Entry {
        id: 6,
        affected: PINS,
        symptom: Symptom::Both("handle_pqap", "pinning"),
        commit: UNPIN,
        effect: PINS_EFFECT,
    },
    Entry {
        id: 7,
        affected: &["v6.6"],
        symptom: Symptom::Has("answers 04"),
        commit: CHECKSTOP,
        effect: "ends the poll of a queue that is checkstopped",
    },
    Entry {
        id: 7,
        affected: &["v6.6"],
        symptom: Symptom::Has("answers 01"),
        commit: NOT_AVAILABLE,
        effect: "the poll ends at response code 01 too, queue not available",
    },
    Entry {
        id: 7,
        affected: &["v6.6", "v7.3"],
        symptom: Symptom::Any,
        commit: UNLIMITED,
        effect: "took the limit away, by design: no release limits this wait since",
    },
    Entry {
        id: 8,
        affected: FLAG,
        symptom: Symptom::Any,
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
        symptom: Symptom::Has("-EBUSY"),
        commit: HOTPLUG,
        effect: "writes are accepted while a guest uses the mdev, and plug or unplug under it",
    },
    Entry {
        id: 11,
        affected: &["v5.15", "v5.19", "v6.0", "v6.6"],
        symptom: Symptom::Any,
        commit: STALE_HOOK,
        effect: "publishes the hook only after every check has passed",
    },
    Entry {
        id: 12,
        affected: &["v6.0"],
        symptom: Symptom::Has("runs in vfio_ap_mdev_reset_queues"),
        commit: DUPLICATE,
        effect: "an adapter or domain that was assigned twice made the list of queues a ring before 6.0-rc7, and the reset goes round it for ever: if its CPU is busy all the time, it is that",
    },
    Entry {
        id: 12,
        affected: &["v6.0", "v6.6"],
        symptom: Symptom::Has("runs in vfio_ap_mdev_reset_queues"),
        commit: DUPLICATE_LINK,
        effect: "does not link a queue a second time, from whatever cause",
    },
    Entry {
        id: 12,
        affected: PINS,
        symptom: Symptom::Both("called in handle_pqap", "pinning"),
        commit: UNPIN,
        effect: PINS_EFFECT,
    },
    Entry {
        id: 13,
        affected: &["v5.15", "v5.19", "v6.0"],
        symptom: Symptom::Any,
        commit: REQUEST,
        effect: "asks the guest for the device through an eventfd, so that the removal ends by itself",
    },
    Entry {
        id: 14,
        affected: FLAG,
        symptom: Symptom::Any,
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
    /// Title of the commit; empty where it is not established.
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
        if self.title.is_empty() {
            return format!("{commit}{}: {}", self.release, self.effect);
        }
        format!(
            "{commit}\"{}\" ({}): {}",
            self.title, self.release, self.effect
        )
    }
}

/// The history of a finding: of those generations that the driver may be, with its symptom.
pub fn history(id: u8, symptom: &str, generations: &[String]) -> Vec<History> {
    TABLE
        .iter()
        .filter(|entry| entry.id == id && entry.symptom.is_of(symptom))
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

/// A finding of this kind is a mistake in the code, so that one that the history does not know is news. The others come
/// from load, hardware, or what administrators do.
pub const fn is_mistake(id: u8) -> bool {
    matches!(id, 1..=5 | 8 | 11 | 14)
}

/// What is to be said where no change is known that is about a finding of this kind on such a driver.
pub fn unknown(id: u8, generations: &[&str]) -> Option<String> {
    if !is_mistake(id) || generations.is_empty() {
        return None;
    }
    let these = generations.join(" or ");
    let all = affected(id);
    let had: Vec<&str> = all
        .into_iter()
        .filter(|g| !generations.contains(g))
        .collect();
    Some(if had.is_empty() {
        format!("not known of {these} in this form: worth a report")
    } else {
        format!(
            "what is known of this kind was in {}, and {these} cannot have it in this form: it is new, and worth a report",
            had.join(", ")
        )
    })
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
    fn what_a_row_is_about() {
        let of = |id, symptom: &str, generation: &str| {
            history(id, symptom, &[generation.to_owned()]).len()
        };
        // A task alone, and two.
        assert_eq!(of(1, "group_lock #7.1", "v6.0"), 2);
        assert_eq!(of(1, "kvm->lock > group_lock #7.1,8.1", "v6.0"), 1);
        assert_eq!(of(1, "group_lock #7.1", "v6.6"), 0);
        assert_eq!(
            of(
                4,
                "ended matrix_dev->guests_lock vfio_ap_on_scan_complete",
                "v6.6"
            ),
            2
        );
        assert_eq!(
            of(
                4,
                "returned matrix_dev->guests_lock vfio_ap_on_scan_complete",
                "v6.6"
            ),
            0
        );
        assert_eq!(of(12, "runs in vfio_ap_mdev_reset_queues", "v6.6"), 1);
        assert_eq!(of(12, "sleeps in vfio_ap_mdev_reset_queues", "v6.6"), 0);
        // The rwsem that a draft keeps, and its circle with the guest's lock, are two things.
        assert_eq!(of(4, "returned pqap_hook_rwsem f", "rfc-2021-07"), 1);
        let effect = |symptom: &str| history(1, symptom, &["rfc-2021-07".to_owned()])[0].effect;
        assert!(effect("pqap_hook_rwsem #7.1").starts_with("calls up_read"));
        assert!(effect("pqap_hook_rwsem > kvm->lock #7.1,8.1").starts_with("holds the rwsem"));
        assert_eq!(of(1, "pqap_hook_rwsem #7.1", "rfc-2021-07"), 1);
        // The commit that ends the circle of flag and rwsem is among its history.
        for id in [1, 2] {
            let known = history(id, "kvm_busy > pqap_hook_rwsem", &["v5.15-rc".to_owned()]);
            assert!(
                known.iter().any(|h| h.commit == "86956e70761b"),
                "{known:?}"
            );
        }
        assert_eq!(of(7, "reset_work[01.0002]", "v6.6"), 1);
        assert_eq!(of(7, "reset_work[01.0002] answers 04", "v6.6"), 2);
        assert_eq!(of(7, "reset_work[01.0002] answers 01", "v7.3"), 1);
        assert_eq!(of(6, "handle_pqap folio_wait_bit pinning", "v6.0"), 1);
        assert_eq!(of(6, "handle_pqap msleep", "v6.6"), 0);
        let splat = "matrix_dev->lock > kvm->lock > vcpu->mutex";
        let again = format!("{splat}, kvm->lock in assign_adapter_store");
        assert_eq!(of(2, &again, "v5.11"), of(2, splat, "v5.11") + 1);
    }

    /// Releases that were read, as the kernel's trees and the lab have them.
    #[test]
    fn the_releases_that_carry_a_fix_are_named() {
        for entry in TABLE.iter().filter(|entry| {
            ["d50346801b4f", "dd6f4ef6f8a3", "7fa61c29850d"].contains(&entry.commit.hash)
                || entry.id == 11
        }) {
            for part in ["v7.3", "7.2.12", "6.1.192", "not in 6.12.107"] {
                assert!(entry.commit.release.contains(part), "{entry:?}");
            }
        }
        let groups = TABLE.iter().filter(|entry| entry.commit == GROUP_LOCK);
        for entry in groups {
            assert!(entry.effect.contains("6.1.176"), "{entry:?}");
        }
    }

    #[test]
    fn what_a_generation_cannot_have_is_said() {
        let said = unknown(3, &["v6.6"]).unwrap();
        assert!(
            said.contains("was in v5.13, v5.15-rc, and v6.6 cannot have it"),
            "{said}"
        );
        let said = unknown(3, &["v5.13", "v5.15-rc"]).unwrap();
        assert!(said.starts_with("not known of v5.13 or v5.15-rc"), "{said}");
        // Load, hardware and administrators are no mistakes of a generation.
        assert_eq!(unknown(10, &["v6.6"]), None);
        assert_eq!(unknown(3, &[]), None);
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
