//! Which generations the driver may be of, by a text alone: the functions in it, and the kernel's release.
//!
//! Functions say more than a release: stable and enterprise kernels carry newer drivers. Takes a parsed text, gives
//! candidates and what they were found by.

use super::text::{Parsed, Task};
use crate::attach::generation::Generation::{
    self, Rfc2021_06, Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};
use crate::attach::generation::Generations;

/// Candidates, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// Never empty.
    pub generations: Generations,
    /// What was found, in the order it was applied.
    pub evidence: Vec<String>,
}

/// The end of what is said of a fact that contradicts those before it.
pub(super) const NOT_USED: &str = ", which does not go with the rest: not used";
/// What is taken for granted of every text.
pub(super) const RELEASED: &str = "it is a released kernel";

/// Drafts, and a state between two commits: no released kernel has them.
const UNRELEASED: Generations = Generations::of(&[V5_15Rc, Rfc2021_06, Rfc2021_07]);

/// Functions whose being there says something (names of vfio_ap_ops.c and vfio_ap_drv.c, by release).
const FUNCTIONS: &[(&str, Generations)] = &[
    (
        "vfio_ap_mdev_group_notifier",
        Generations::range(V5_10, V5_15),
    ),
    (
        "vfio_ap_mdev_open",
        Generations::range(V5_10, V5_13).or(Generations::of(&[Rfc2021_06, Rfc2021_07])),
    ),
    (
        "vfio_ap_mdev_release",
        Generations::range(V5_10, V5_13).or(Generations::of(&[Rfc2021_06, Rfc2021_07])),
    ),
    (
        "vfio_ap_mdev_open_device",
        Generations::range(V5_15, V7_3).or(Generations::of(&[V5_15Rc])),
    ),
    (
        "vfio_ap_mdev_close_device",
        Generations::range(V5_15, V7_3).or(Generations::of(&[V5_15Rc])),
    ),
    ("vfio_ap_mdev_unset_kvm", Generations::of(&[V5_10]).not()),
    ("vfio_ap_queue_dev_remove", Generations::range(V5_10, V5_19)),
    ("vfio_ap_queue_dev_probe", Generations::range(V5_10, V5_19)),
    ("vfio_ap_mdev_probe_queue", Generations::range(V6_0, V7_3)),
    ("vfio_ap_mdev_remove_queue", Generations::range(V6_0, V7_3)),
    (
        "vfio_ap_mdev_resource_in_use",
        Generations::range(V6_0, V7_3),
    ),
    ("vfio_ap_on_cfg_changed", Generations::range(V6_0, V7_3)),
    ("vfio_ap_on_scan_complete", Generations::range(V6_0, V7_3)),
    ("vfio_ap_mdev_dma_unmap", Generations::range(V6_0, V7_3)),
    ("guest_matrix_show", Generations::range(V6_0, V7_3)),
    ("get_update_locks_for_kvm", Generations::range(V6_0, V7_3)),
    ("get_update_locks_for_mdev", Generations::range(V6_0, V7_3)),
    ("get_update_locks_by_apqn", Generations::range(V6_0, V7_3)),
    ("get_update_locks_for_queue", Generations::range(V6_0, V7_3)),
    ("apq_reset_check", Generations::of(&[V6_6, V7_3])),
    ("vfio_ap_mdev_reset_qlist", Generations::of(&[V6_6, V7_3])),
    ("ap_config_store", Generations::of(&[V6_6, V7_3])),
];

/// Finds the candidates. Of those that a person names, it is one.
#[must_use]
pub fn candidates(parsed: &Parsed, given: Option<Generation>) -> Candidates {
    if let Some(given) = given {
        return Candidates {
            generations: Generations::of(&[given]),
            evidence: vec![format!("{} was given", given.name())],
        };
    }
    let mut evidence = Vec::new();
    let mut left = Generations::ALL;
    for (function, of) in FUNCTIONS {
        let there = parsed
            .tasks
            .iter()
            .flat_map(|task| &task.frames)
            .any(|frame| {
                frame.reliable
                    && frame.module.as_deref().is_none_or(|m| m == "vfio_ap")
                    && bare(&frame.symbol) == *function
            });
        apply(
            &mut left,
            &mut evidence,
            there,
            *of,
            &format!("{function} is in a stack"),
        );
    }
    shapes(parsed, &mut left, &mut evidence);
    apply(
        &mut left,
        &mut evidence,
        !parsed.messages.is_empty(),
        Generations::of(&[V6_6, V7_3]),
        "the driver says for how long it has polled a reset",
    );
    apply(&mut left, &mut evidence, true, UNRELEASED.not(), RELEASED);
    if let Some(release) = &parsed.kernel_release {
        let of = of_release(release);
        apply(
            &mut left,
            &mut evidence,
            of != Generations::ALL,
            of,
            &format!("the kernel is {release}"),
        );
    }
    Candidates {
        generations: left,
        evidence,
    }
}

fn bare(symbol: &str) -> &str {
    symbol.split_once('.').map_or(symbol, |(name, _)| name)
}

/// What a chain of frames says.
fn shapes(parsed: &Parsed, left: &mut Generations, evidence: &mut Vec<String>) {
    let any = |f: &dyn Fn(&Task) -> bool| parsed.tasks.iter().any(f);
    // A macro in the driver: only wait_event_cmd() of v5.13 calls schedule() there.
    let waits = |task: &Task| {
        let mut frames = task.frames.iter().filter(|frame| frame.reliable);
        frames.any(|frame| frame.symbol == "schedule")
            && frames.next().is_some_and(|frame| {
                frame.module.as_deref() == Some("vfio_ap")
                    && matches!(
                        bare(&frame.symbol),
                        "handle_pqap"
                            | "vfio_ap_mdev_ioctl"
                            | "vfio_ap_mdev_release"
                            | "vfio_ap_mdev_group_notifier"
                            | "vfio_ap_mdev_unset_kvm"
                    )
            })
    };
    let busy = Generations::of(&[V5_13, V5_15Rc]);
    apply(
        left,
        evidence,
        any(&waits),
        busy,
        "the driver has a wait loop of its own",
    );
    // The masks took kvm->lock themselves until v5.14.
    let masks = |task: &Task| {
        let mut frames = task.frames.iter().filter(|frame| frame.reliable);
        let locks = |symbol: &str| symbol.contains("mutex_lock");
        let mut lock = false;
        frames.any(|frame| {
            let name = bare(&frame.symbol);
            let here = matches!(
                name,
                "kvm_arch_crypto_set_masks" | "kvm_arch_crypto_clear_masks"
            );
            let found = here && lock;
            lock = locks(name);
            found
        })
    };
    let inner = Generations::range(V5_10, V5_13).or(UNRELEASED);
    apply(
        left,
        evidence,
        any(&masks),
        inner,
        "kvm->lock is asked for where the masks are set",
    );
}

fn apply(
    left: &mut Generations,
    evidence: &mut Vec<String>,
    there: bool,
    of: Generations,
    fact: &str,
) {
    if !there || left.and(of) == *left {
        return;
    }
    if left.meets(of) {
        *left = left.and(of);
        evidence.push(format!("{fact}: {left}"));
    } else {
        evidence.push(format!("{fact}{NOT_USED}"));
    }
}

/// What a release may have. Enterprise kernels keep their number and take everything newer: they say nothing.
fn of_release(release: &str) -> Generations {
    let enterprise = [".el", "-default", ".fc", "azure", ".ibm"];
    if enterprise.iter().any(|mark| release.contains(mark)) {
        return Generations::ALL;
    }
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (next(), next()) else {
        return Generations::ALL;
    };
    match (major, minor) {
        (4, 20..) | (5, ..=10) => Generations::of(&[V5_10]),
        // 5.12.y has v5.13's change since May 2021.
        (5, 11) => Generations::of(&[V5_11]),
        (5, 12) => Generations::of(&[V5_11, V5_13]),
        (5, 13 | 14) => Generations::of(&[V5_13]),
        (5, 15) if release.contains("-rc") => Generations::of(&[V5_13, V5_15Rc, V5_15]),
        (5, 15..=18) => Generations::of(&[V5_15]),
        (5, 19) => Generations::of(&[V5_19]),
        // Stable kernels of 2026 have v7.3's order of locks: 6.1.y since 6.1.192, 7.2.y by 7.2.12.
        (6, ..=5) => Generations::of(&[V6_0, V7_3]),
        (6, _) | (7, ..=2) => Generations::of(&[V6_6, V7_3]),
        (7.., _) => Generations::of(&[V7_3]),
        _ => Generations::ALL,
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::parse;
    use super::*;

    fn of(text: &str) -> String {
        candidates(&parse(text), None).generations.to_string()
    }

    #[test]
    fn functions_and_the_release_narrow() {
        let stack =
            |frames: &str, release: &str| format!("Linux version {release} (x)\nPID 7 a\n{frames}");
        let frames = "[<0>] mutex_lock+0x1/0x2\n[<0>] kvm_arch_crypto_clear_masks+0x1/0x2 [kvm]\n\
            [<0>] vfio_ap_mdev_release+0x1/0x2 [vfio_ap]\n";
        assert_eq!(of(&stack(frames, "5.10.223")), "v5.10");
        assert_eq!(of(&stack(frames, "5.12.3")), "v5.11|v5.13");
        // An enterprise kernel's number says nothing.
        assert_eq!(
            of(&stack(frames, "4.18.0-305.el8.s390x")),
            "v5.10|v5.11|v5.13"
        );
        assert_eq!(
            of(&stack(frames, "5.14.21-150400.24-default")),
            "v5.10|v5.11|v5.13"
        );
        // The release does not go with the functions.
        assert_eq!(of(&stack(frames, "6.12.1")), "v5.10|v5.11|v5.13");
        let work = "[<0>] apq_reset_check+0x1/0x2 [vfio_ap]\n";
        assert_eq!(of(&stack(work, "6.12.107")), "v6.6|v7.3");
        assert_eq!(of(&stack(work, "7.3.0")), "v7.3");
        let busy = "[<0>] schedule+0x1/0x2\n[<0>] handle_pqap+0x1/0x2 [vfio_ap]\n";
        assert_eq!(of(&stack(busy, "5.4.0-99-generic")), "v5.13");
        assert_eq!(of(&stack("", "5.15.0-rc1")), "v5.13|v5.15");
        assert_eq!(of(&stack("", "nonsense")).split('|').count(), 8);
    }

    #[test]
    fn what_a_person_says_counts() {
        let found = candidates(&parse("Linux version 6.12.1 (x)"), Some(V5_15Rc));
        assert_eq!(found.generations, Generations::of(&[V5_15Rc]));
        assert_eq!(found.evidence, ["v5.15-rc was given"]);
    }
}
