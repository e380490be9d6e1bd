//! AP003, AP008, AP009, AP013: waits that nobody ends, or that take their time.

use apscope_collector::diagnose::Severity;
use apscope_collector::frame::Frame;
use probe_ebpf::names::entry_id::{GROUP_NOTIFIER, HANDLE_PQAP, OPEN, REMOVE};

use crate::findings_run::*;

/// A vCPU that sleeps on the wait queue of kvm_busy.
fn sleeper() -> Task {
    task(11, "CPU 0/KVM")
        .inside(HANDLE_PQAP, 0)
        .waits(BUSY, HANDLE_PQAP, 1)
}

/// The flag was set and cleared once.
fn cleared() -> Frame {
    let mut delta = acquired(BUSY, 1);
    delta.releases = 1;
    delta.by_instance[0].releases = 1;
    Frame {
        series: vec![delta],
        ..Frame::default()
    }
}

#[test]
fn a_lost_wake_up_is_found_in_the_third_reading() {
    let mut run = Run::of("v5.13");
    run.frame(&[sleeper()], cleared());
    run.tick(&[sleeper()]);
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(&[sleeper()]);
    let finding = run.one(3);
    assert_eq!(
        finding.seen.summary,
        "CPU 0/KVM (11) waits for kvm_busy[mdev-0], and the flag is clear already: the wake-up was lost"
    );
    assert_eq!(
        chain(&finding),
        [
            "CPU 0/KVM (11), vCPU of guest-0",
            "  waits 299 ms for kvm_busy[mdev-0], an open-coded lock, in handle_pqap [probe], and that is all that is known: the flag is clear and nobody has set it",
        ]
    );
    assert!(
        run.verdict().starts_with("DEADLOCK: CPU 0/KVM (11)"),
        "{}",
        run.verdict()
    );
    assert_eq!(run.kinds(), [3]);
}

#[test]
fn a_sleeper_that_runs_or_queues_for_the_guard_is_no_orphan() {
    let mut run = Run::of("v5.13");
    run.frame(&[sleeper()], cleared());
    for switches in 1..8 {
        run.tick(&[sleeper().switches(switches)]);
    }
    assert_eq!(run.kinds(), [0_u8; 0]);
    // Woken, it queues for the mutex that guards the flag.
    let queues = sleeper().waits(MATRIX, HANDLE_PQAP, 5);
    let mut run = Run::of("v5.13");
    run.frame(std::slice::from_ref(&queues), cleared());
    run.ticks(6, &[queues]);
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn a_flag_that_is_set_again_has_lost_nothing() {
    let mut run = Run::of("v5.13");
    let setter = task(12, "qemu")
        .inside(GROUP_NOTIFIER, 5)
        .holds(BUSY, GROUP_NOTIFIER, 6);
    run.frame(&[sleeper(), setter.clone()], cleared());
    run.ticks(6, &[sleeper(), setter]);
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn a_flag_whose_setter_was_never_seen_is_no_orphan_and_the_chain_says_so() {
    let mut run = Run::of("v5.13");
    run.ticks(30, &[sleeper()]);
    assert!(run.found(3).is_empty());
    let lines = chain(&run.one(12));
    assert!(lines[1].contains("its holder was never seen"), "{lines:?}");
    assert!(
        run.verdict().starts_with("CANNOT TELL because"),
        "{}",
        run.verdict()
    );
}

#[test]
fn a_setter_that_has_ended_or_left_wakes_nobody() {
    let mut run = Run::of("v5.13");
    let ended = task(12, "qemu").holds(BUSY, GROUP_NOTIFIER, 6).exited();
    run.ticks(3, &[sleeper(), ended]);
    let finding = run.one(3);
    assert!(
        finding
            .seen
            .summary
            .ends_with("and qemu (12), who set it, has ended")
    );
    let root = "held 294 ms by qemu (12), start or stop of guest-0 [probe], which has ended";
    assert_eq!(chain(&finding)[2].trim_start(), root);
    assert_eq!(run.kinds(), [3]);

    let mut run = Run::of("v5.13");
    // It is in another call by now.
    let left = task(12, "qemu")
        .inside(OPEN, 50)
        .holds(BUSY, GROUP_NOTIFIER, 6);
    run.ticks(3, &[sleeper(), left]);
    let finding = run.one(3);
    assert!(
        finding
            .seen
            .summary
            .ends_with("has left vfio_ap_mdev_group_notifier")
    );

    // In the same one still, or in a later call of it: the first may clear it, the second has not set it.
    let still = task(12, "qemu")
        .inside(GROUP_NOTIFIER, 5)
        .holds(BUSY, GROUP_NOTIFIER, 6);
    let mut run = Run::of("v5.13");
    run.ticks(4, &[sleeper(), still]);
    assert_eq!(run.kinds(), [0_u8; 0]);
    let again = task(12, "qemu")
        .inside(GROUP_NOTIFIER, 7)
        .holds(BUSY, GROUP_NOTIFIER, 6);
    let mut run = Run::of("v5.13");
    run.ticks(4, &[sleeper(), again]);
    run.one(3);
}

#[test]
fn one_setter_that_is_left_can_still_clear_the_flag() {
    let mut run = Run::of("v5.13");
    let ended = task(12, "qemu").holds(BUSY, GROUP_NOTIFIER, 6).exited();
    let other = task(13, "qemu")
        .inside(GROUP_NOTIFIER, 7)
        .holds(BUSY, GROUP_NOTIFIER, 8);
    run.ticks(4, &[sleeper(), ended, other]);
    assert!(run.found(3).is_empty());
}

#[test]
fn a_waiter_that_goes_back_to_sleep_again_and_again_starves() {
    let rounds = |n| {
        let mut task = sleeper();
        task.0.waits[0].rounds = n;
        task.switches(n)
    };
    let setter = task(12, "qemu")
        .inside(GROUP_NOTIFIER, 5)
        .holds(BUSY, GROUP_NOTIFIER, 6);
    let mut run = Run::of("v5.13");
    for n in 1..6 {
        run.tick(&[rounds(n), setter.clone().later(n)]);
    }
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(&[rounds(6), setter.clone()]);
    let finding = run.one(8);
    assert_eq!(finding.seen.severity, Severity::Warning);
    assert!(
        finding
            .seen
            .summary
            .contains("was woken 6 times in 599 ms and still waits for kvm_busy")
    );
    // While it queues for the guard it waits for the flag no less.
    run.tick(&[rounds(7).waits(MATRIX, HANDLE_PQAP, 600), setter]);
    assert_eq!(run.one(8).found_ns, finding.found_ns);
    assert!(
        text(&run.one(8))
            .contains("and waits for matrix_dev->lock to look at kvm_busy[mdev-0] again"),
        "{}",
        text(&run.one(8))
    );
    assert!(
        run.verdict().starts_with("SLOW, PROGRESSING"),
        "{}",
        run.verdict()
    );
}

fn queue(length: u32) -> Vec<Task> {
    let mut tasks: Vec<Task> = (0..length)
        .map(|n| task(100 + n, "CPU 0/KVM").waits(MATRIX, HANDLE_PQAP, 0))
        .collect();
    tasks.push(
        task(11, "qemu")
            .inside(GROUP_NOTIFIER, 0)
            .holds(MATRIX, GROUP_NOTIFIER, 0),
    );
    tasks
}

fn moved(lock: Lock) -> Frame {
    Frame {
        series: vec![acquired(lock, 5)],
        ..Frame::default()
    }
}

#[test]
fn a_queue_that_moves_and_does_not_empty_is_a_convoy() {
    let mut run = Run::of("v5.13");
    for _ in 0..20 {
        run.frame(&queue(9), moved(MATRIX));
        assert!(run.found(9).is_empty());
    }
    run.frame(&queue(9), moved(MATRIX));
    let finding = run.one(9);
    assert!(
        finding
            .seen
            .summary
            .starts_with("9 tasks queue for matrix_dev->lock")
    );
    // Shorter for one reading, it flickers not.
    run.frame(&queue(7), moved(MATRIX));
    run.one(9);
    run.ticks(12, &[]);
    assert!(run.found(9).is_empty());
}

#[test]
fn a_queue_that_is_short_or_drains_or_stands_is_no_convoy() {
    let mut run = Run::of("v5.13");
    for _ in 0..30 {
        run.frame(&queue(7), moved(MATRIX));
    }
    assert!(run.found(9).is_empty());
    let mut run = Run::of("v5.13");
    for n in 0..40 {
        run.frame(&queue(if n % 15 == 14 { 0 } else { 9 }), moved(MATRIX));
    }
    assert!(run.found(9).is_empty());
    let mut run = Run::of("v5.13");
    run.ticks(40, &queue(9));
    assert!(run.found(9).is_empty());
}

#[test]
fn readers_and_writers_of_one_rwsem_are_one_queue_that_may_stand() {
    // In turns the first one waits for reading and for writing; both modes have counts, and they stand.
    let tasks = |first: Lock, other: Lock| -> Vec<Task> {
        (0..10)
            .map(|n| task(100 + n, "qemu").waits(if n == 0 { first } else { other }, OPEN, 0))
            .collect()
    };
    let counts = || Frame {
        series: vec![acquired(HOOK_READ, 7), acquired(HOOK_WRITE, 3)],
        ..Frame::default()
    };
    let mut run = Run::of("v5.15");
    run.frame(&tasks(HOOK_READ, HOOK_WRITE), counts());
    for _ in 0..20 {
        run.tick(&tasks(HOOK_READ, HOOK_WRITE));
        run.tick(&tasks(HOOK_WRITE, HOOK_READ));
    }
    assert!(run.found(9).is_empty());
    // Readers go through while only writers are looked at.
    let mut run = Run::of("v5.15");
    for _ in 0..25 {
        run.frame(&tasks(HOOK_WRITE, HOOK_WRITE), moved(HOOK_READ));
    }
    run.one(9);
}

#[test]
fn a_removal_waits_for_an_open_descriptor() {
    let remove = task(31, "mdevctl")
        .inside(REMOVE, 0)
        .asleep("S", "vfio_unregister_group_dev");
    let mut run = Run::of("v6.6");
    run.ticks(9, std::slice::from_ref(&remove));
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(std::slice::from_ref(&remove));
    let finding = run.one(13);
    assert!(text(&finding).contains("asleep in vfio_unregister_group_dev"));
    assert!(text(&finding).contains("waits until its device is closed"));
    assert!(
        run.verdict()
            .starts_with("SLOW, PROGRESSING: mdevctl (31) has been removing an mdev"),
        "{}",
        run.verdict()
    );
    // Where it sleeps was not read.
    let mut elsewhere = Run::of("v6.6");
    elsewhere.ticks(10, &[task(31, "mdevctl").inside(REMOVE, 0)]);
    assert!(text(&elsewhere.one(13)).contains("its device may be open"));
    assert!(finding.upstream.is_empty());
    // With a lock held, or while it waits for one, it is another thing.
    for busy in [
        remove.clone().holds(MDEVS, REMOVE, 1),
        remove.clone().waits(MDEVS, REMOVE, 1),
    ] {
        let mut run = Run::of("v6.6");
        run.ticks(19, &[busy]);
        assert!(run.found(13).is_empty());
    }
    let mut run = Run::of("v6.0");
    run.ticks(12, &[remove]);
    assert_eq!(run.one(13).upstream.len(), 1);
}
