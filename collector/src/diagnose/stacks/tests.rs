//! Texts, and what is said of them in the end.

use super::frame::frame;
use super::text::parse;
use crate::diagnose::{Case, Report, Severity, text};
use crate::frame::LogLine;

macro_rules! fixture {
    ($name:literal) => {
        &String::from_utf8_lossy(include_bytes!(concat!(
            "../../../tests/fixtures/stacks/",
            $name,
            ".txt"
        )))
    };
}

/// What is found in a text, and the page about it, with its lines joined.
fn said(saved: &str) -> (Report, String) {
    let mut case = Case::default();
    let (mut frame, notes) = frame(&parse(saved), None);
    frame.log.extend(notes.into_iter().map(|text| LogLine {
        at_ns: frame.at_ns,
        level: "info".into(),
        text,
    }));
    case.apply(&frame);
    let report = case.report();
    let page = text::render(&report, &case.model);
    let words: Vec<&str> = page.split_whitespace().collect();
    (report, words.join(" "))
}

fn ids(report: &Report) -> Vec<u8> {
    report.findings.iter().map(|f| f.id.0).collect()
}

fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "no {part:?} in: {page}");
    }
}

#[test]
fn who_sleeps_with_the_drivers_lock_is_named() {
    let (report, page) = said(fixture!("by-hand-pin"));
    assert_eq!(ids(&report), [12]);
    assert_eq!(report.findings[0].seen.severity, Severity::Critical);
    has(
        &page,
        &[
            "verdict: CANNOT TELL because the guest with parent process 1 is stuck: CPU 0/KVM (1001)",
            "the root sleeps in __lock_page with matrix_dev->lock held: what wakes it is not vfio_ap's",
            "CPU 0/KVM (1001) has not run for at least 122 s",
            "CPU 0/KVM (1001) holds matrix_dev->lock",
            "1 task behind it: sh (2002)",
            "sh (2002), writer of the matrix waits 122 s for matrix_dev->lock",
            "unpin pages on gisc registration failure",
            "from saved stacks",
        ],
    );
    assert!(
        !page.contains("goes on") && !page.contains("(none)"),
        "{page}"
    );

    let (report, page) = said(fixture!("by-hand-unmap"));
    assert_eq!(report.findings[0].seen.severity, Severity::Critical);
    has(
        &page,
        &[
            "the guest of process 3000 is stuck",
            "sleeps in a mutex_lock of vfio_iommu_type1_pin_pages with matrix_dev->mdevs_lock and pqap_hook_rwsem[process 3000] held",
            "1 task behind it: qemu-system-s39 (3000)",
            "locks of vfio_iommu_type1 that are not measured",
        ],
    );
    assert!(
        !page.contains("guest-0") && !page.contains("goes on"),
        "{page}"
    );
}

#[test]
fn who_runs_with_the_drivers_lock_may_be_in_a_loop() {
    let (report, page) = said(fixture!("by-hand-loop"));
    assert_eq!(ids(&report), [12]);
    has(
        &page,
        &[
            "verdict: CANNOT TELL because the guest of process 3000 is stuck",
            "whether the root, which runs in vfio_ap_mdev_reset_queues with matrix_dev->guests_lock and matrix_dev->mdevs_lock held, gets on",
            "mdevctl (4001) holds matrix_dev->guests_lock and matrix_dev->mdevs_lock",
            "1 task behind it: CPU 0/KVM (3001)",
            "bypass unnecessary processing of AP resources",
        ],
    );
}

#[test]
fn administrators_and_the_bus_are_found_without_a_guest() {
    let (report, page) = said(fixture!("by-hand-writer"));
    assert_eq!(ids(&report), [12]);
    assert_eq!(report.findings[0].seen.tasks.len(), 3);
    has(
        &page,
        &[
            "qemu-system-s39 (3000) has been in vfio_ap_mdev_ioctl for 122 s",
            "3 tasks in such calls",
            "the root: kworker/u:4 (4000), which sleeps in synchronize_rcu, called in vfio_ap_on_scan_complete",
            "2 tasks behind it",
        ],
    );
}

#[test]
fn guests_that_sleep_for_something_else_exonerate_the_driver() {
    for (saved, at) in [
        (fixture!("by-hand-page-fault"), "folio_wait_bit_common"),
        (fixture!("by-hand-kvm-alone"), "kvm_arch_vm_ioctl"),
    ] {
        let (report, page) = said(saved);
        assert_eq!(ids(&report), [0], "{page}");
        has(&page, &["verdict: NOT vfio_ap", at]);
    }
    // The same wait for kvm->lock, and who holds it is not in the text: it may be the driver.
    let (report, page) = said(
        "task:qemu state:D stack:0 pid:3000 tgid:3000 ppid:1 flags:0x0\n [<0>] __mutex_lock+0x1/0x2\n \
         [<0>] kvm_vm_ioctl+0x1/0x2 [kvm]\n",
    );
    assert_eq!(ids(&report), [0_u8; 0]);
    has(
        &page,
        &[
            "verdict: CANNOT TELL because the stacks do not lead to a cause; 1 task in or behind the driver",
            "in or behind the driver too: qemu (3000)",
        ],
    );
    assert!(!page.contains("cannot be told"), "{page}");
}

#[test]
fn a_removal_is_the_cause_that_the_verdict_names() {
    let (report, page) = said(fixture!("by-hand-removal"));
    assert_eq!(ids(&report), [12, 13]);
    let both = fixture!("by-hand-removal").to_string();
    let (alone, _) = both.split_once("[  250.1]").unwrap();
    let (report, other) = said(alone);
    assert_eq!(ids(&report), [13]);
    has(&page, &["waits until its device is closed"]);
    has(
        &other,
        &[
            "verdict: SLOW, PROGRESSING: mdevctl (2001) has been removing an mdev for 122 s, and waits until its device is closed",
        ],
    );
}

#[test]
fn threads_of_a_process_that_is_not_known_are_in_one_deadlock() {
    let long = fixture!("5.10-proc-stacks").to_string();
    // As `grep . /proc/TID/stack` names them.
    let short: Vec<String> = long
        .lines()
        .map(|line| match line.split_once("/task/") {
            Some((_, rest)) => format!("==> /proc/{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    for saved in [long, short.concat()] {
        let (report, page) = said(&saved);
        assert_eq!(report.findings[0].id.0, 1, "{page}");
        has(&page, &["verdict: DEADLOCK: 3 tasks wait for each other"]);
        assert!(
            !page.contains("assumed: (") && !page.contains("guest of ?"),
            "{page}"
        );
    }
}

/// Where nothing names the second kernel, its functions do.
#[test]
fn a_text_of_two_kernels_says_so() {
    let mixed = fixture!("5.10-hung-task").to_string() + fixture!("6.12-sysrq-w");
    let (_, page) = said(&mixed);
    has(
        &page,
        &["if the text is of two kernels, their tasks are not each other's"],
    );
    for one in [fixture!("5.10-hung-task"), fixture!("6.12-sysrq-w")] {
        assert!(!said(one).1.contains("two kernels"));
    }
}

#[test]
fn stacks_that_were_saved_twice_are_compared() {
    let once = fixture!("5.10-sysrq-w").to_string();
    let (_, page) = said(&once);
    has(&page, &["save the stacks again after ten seconds"]);
    let (report, page) = said(&once.repeat(2));
    assert_eq!(report.findings[0].id.0, 1);
    has(
        &page,
        &["a second save of the stacks is the same: nobody has moved"],
    );
    assert!(!page.contains("save the stacks again"), "{page}");
    let moved = format!(
        "{}{once}",
        once.replace("vfio_ap_mdev_release", "vfio_ap_mdev_open")
    );
    let (_, page) = said(&moved);
    has(&page, &["its stack has changed: it has run in between"]);
}
