//! AP004 to AP007 and AP014: what holders do with locks.

use apscope_collector::diagnose::Severity;
use apscope_collector::frame::{Frame, LogLine, Loss, Spans};
use probe_ebpf::abi::{self, HELD_SECOND_HOLDER, PQAP_RESPONDED, SPAN_ENTRY, SPAN_LOCK};
use probe_ebpf::names::entry_id::{
    APQ_RESET_CHECK, ASSIGN_ADAPTER, CLOSE_DEVICE, GROUP_NOTIFIER, HANDLE_PQAP, KVM_S390_HANDLE_PV,
    NONE, OPEN, RESET_QUEUES,
};

use crate::findings_run::*;

#[test]
fn a_lock_that_is_held_after_the_call_is_leaked() {
    let leaker = task(21, "qemu").holds(MATRIX, GROUP_NOTIFIER, 5);
    let waiter = task(22, "qemu").inside(OPEN, 40).waits(MATRIX, OPEN, 50);
    let mut run = Run::of("rfc-2021-06");
    run.tick(&[leaker.clone(), waiter.clone()]);
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(&[leaker, waiter]);
    let finding = run.one(4);
    assert_eq!(
        finding.seen.summary,
        "qemu (21) has returned from vfio_ap_mdev_group_notifier with matrix_dev->lock held"
    );
    assert_eq!(finding.seen.severity, Severity::Critical);
    assert!(text(&finding).contains("1 task behind it: qemu (22)"));
    assert!(run.verdict().starts_with("DEADLOCK"));
    // Released after all.
    run.ticks(12, &[]);
    assert!(run.found(4).is_empty());
}

#[test]
fn a_task_can_end_with_a_lock() {
    for entry in [GROUP_NOTIFIER, NONE] {
        let mut run = Run::of("v5.13");
        run.ticks(2, &[task(21, "qemu").holds(MATRIX, entry, 5).exited()]);
        assert!(
            run.one(4)
                .seen
                .summary
                .starts_with("qemu (21) has ended with matrix_dev->lock held")
        );
    }
}

#[test]
fn what_only_looks_like_a_leak_is_none() {
    let holds = |entry| task(21, "qemu").holds(MATRIX, entry, 5);
    let mut adopted = holds(GROUP_NOTIFIER);
    adopted.0.holds[0].adopted = true;
    let cases = [
        (
            "still inside",
            holds(GROUP_NOTIFIER).inside(GROUP_NOTIFIER, 4),
        ),
        ("taken outside of every call", holds(NONE)),
        ("adopted", adopted),
        ("a flag", task(21, "qemu").holds(BUSY, GROUP_NOTIFIER, 5)),
        (
            "a work item",
            task(21, "kworker").holds(WORK, APQ_RESET_CHECK, 5),
        ),
    ];
    for (name, task) in cases {
        let mut run = Run::of("v5.13");
        run.ticks(5, &[task]);
        assert!(run.found(4).is_empty(), "{name}");
    }
    // Each time another one.
    let mut run = Run::of("v5.13");
    for number in 0..5 {
        run.tick(&[holds(GROUP_NOTIFIER).later(number)]);
    }
    assert!(run.found(4).is_empty());
    // A call may not have been seen.
    let mut run = Run::of("v5.13");
    let loss = Some(Loss {
        missed: 1,
        ..Loss::default()
    });
    run.frame(
        &[holds(GROUP_NOTIFIER)],
        Frame {
            loss,
            ..Frame::default()
        },
    );
    run.ticks(5, &[holds(GROUP_NOTIFIER)]);
    assert!(run.found(4).is_empty());
}

/// A release without an acquisition, while a task holds a lock before and after.
fn foreign(held: Lock, released_lock: Lock) -> Run {
    let holder = task(21, "qemu")
        .inside(CLOSE_DEVICE, 1)
        .holds(held, CLOSE_DEVICE, 5);
    let mut run = Run::of("rfc-2021-07");
    run.tick(std::slice::from_ref(&holder));
    let frame = Frame {
        series: vec![released(released_lock, 1, 1)],
        ..Frame::default()
    };
    run.frame(std::slice::from_ref(&holder), frame);
    run.ticks(2, &[holder]);
    run
}

#[test]
fn a_release_in_the_wrong_mode_or_by_another_task_is_found() {
    let finding = foreign(HOOK_WRITE, HOOK_READ).one(5);
    assert_eq!(
        finding.seen.summary,
        "pqap_hook_rwsem[guest-0] was released for reading while qemu (21) held it for writing"
    );
    let finding = foreign(HOOK_READ, HOOK_WRITE).one(5);
    assert!(
        finding
            .seen
            .summary
            .contains("released for writing while qemu (21) held it")
    );
    let finding = foreign(MATRIX, MATRIX).one(5);
    assert_eq!(
        finding.seen.summary,
        "matrix_dev->lock was released by another task while qemu (21) held it"
    );
    assert_eq!(finding.seen.severity, Severity::Critical);
}

#[test]
fn releases_that_are_legal_are_not_reported() {
    // Another task may release for a reader; another lock says nothing.
    assert!(foreign(HOOK_READ, HOOK_READ).found(5).is_empty());
    assert!(foreign(KVM, KVM_1).found(5).is_empty());
    assert!(foreign(KVM, MATRIX).found(5).is_empty());
    // At the beginning nothing is known of who acquired.
    let mut run = Run::of("v5.13");
    let frame = Frame {
        series: vec![released(MATRIX, 3, 3)],
        ..Frame::default()
    };
    let holder = task(21, "qemu").holds(MATRIX, NONE, 50);
    run.frame(std::slice::from_ref(&holder), frame);
    run.ticks(3, std::slice::from_ref(&holder));
    assert!(run.found(5).is_empty());
    // The holder was only late: in the next readings it has released.
    let mut run = Run::of("v5.13");
    run.tick(std::slice::from_ref(&holder));
    let frame = Frame {
        series: vec![released(MATRIX, 1, 1)],
        ..Frame::default()
    };
    run.frame(std::slice::from_ref(&holder), frame);
    run.ticks(3, &[]);
    assert!(run.found(5).is_empty());
    // It took the lock again.
    let mut run = Run::of("v5.13");
    run.tick(std::slice::from_ref(&holder));
    let frame = Frame {
        series: vec![released(MATRIX, 1, 1)],
        ..Frame::default()
    };
    run.frame(std::slice::from_ref(&holder), frame);
    run.ticks(3, &[holder.later(1)]);
    assert!(run.found(5).is_empty());
}

#[test]
fn the_finding_of_a_wrong_release_stays() {
    let mut run = foreign(HOOK_WRITE, HOOK_READ);
    run.ticks(30, &[]);
    run.one(5);
}

/// A lock held for half a second by somebody in this state, and then no more.
fn held(lock: Lock, state: &str, function: &str) -> Run {
    let mut run = Run::of("v6.6");
    run.ticks(
        5,
        &[task(21, "qemu")
            .inside(RESET_QUEUES, 0)
            .holds(lock, RESET_QUEUES, 0)
            .asleep(state, function)],
    );
    assert!(run.found(6).is_empty(), "it is not over");
    run.tick(&[]);
    run
}

#[test]
fn a_hold_that_was_slept_through_is_found_when_it_is_over() {
    let run = held(MDEVS, "D", "msleep");
    let finding = run.one(6);
    assert_eq!(
        finding.seen.summary,
        "locks taken in vfio_ap_mdev_reset_queues are held while their holder sleeps in msleep, 500 ms at most"
    );
    assert!(text(&finding).contains("asleep in 4 of 4 readings of 1 such holds"));
    assert_eq!(finding.seen.locks, ["matrix_dev->mdevs_lock"]);
    assert!(run.verdict().starts_with("SLOW"));
}

#[test]
fn holds_that_were_not_slept_through_are_not_reported() {
    assert!(held(MDEVS, "R", "").found(6).is_empty());
    assert!(held(MDEVS, "", "").found(6).is_empty());
    assert!(
        held(VCPU, "D", "msleep").found(6).is_empty(),
        "long by design"
    );
    assert!(held(WORK, "D", "msleep").found(6).is_empty(), "a work item");
    // Short ones, each of its own.
    let mut run = Run::of("v6.6");
    for number in 0..10 {
        let ms = run.next_ms() - 50;
        run.tick(&[task(21, "qemu")
            .holds(MDEVS, RESET_QUEUES, ms)
            .asleep("D", "msleep")
            .later(number)]);
    }
    assert!(run.found(6).is_empty());
    // Waiting for another traced lock is no sleep.
    let mut run = Run::of("v6.6");
    let waits = task(21, "qemu")
        .holds(MDEVS, RESET_QUEUES, 0)
        .waits(KVM, RESET_QUEUES, 1);
    run.ticks(5, &[waits.asleep("D", "mutex_lock")]);
    run.tick(&[]);
    assert!(run.found(6).is_empty());
}

#[test]
fn what_kvm_sleeps_for_with_its_own_lock_is_not_the_drivers() {
    let sleeps = |inside: Option<u8>| {
        let mut qemu = task(21, "qemu").holds(KVM, KVM_S390_HANDLE_PV, 0);
        qemu = qemu.inside(KVM_S390_HANDLE_PV, 0);
        if let Some(entry) = inside {
            qemu = qemu.inside(entry, 1);
        }
        qemu.asleep("D", "msleep")
    };
    let mut run = Run::of("v6.6");
    run.ticks(6, &[sleeps(None)]);
    run.tick(&[]);
    assert!(run.found(6).is_empty());
    // Part of it in the driver: that part counts.
    let mut run = Run::of("v6.6");
    run.ticks(4, &[sleeps(None)]);
    run.ticks(4, &[sleeps(Some(CLOSE_DEVICE))]);
    run.tick(&[]);
    let words = text(&run.one(6));
    assert!(words.contains("asleep in 4 of 4 readings"), "{words}");
    assert!(
        words.contains("readings more, in which the holder slept outside"),
        "{words}"
    );
}

#[test]
fn where_an_adopted_lock_was_taken_is_not_known() {
    let mut holder = task(21, "qemu").holds(MDEVS, NONE, 0).asleep("D", "msleep");
    holder.0.holds[0].adopted = true;
    let waiter = task(11, "CPU 0/KVM")
        .inside(HANDLE_PQAP, 1)
        .on_cpu()
        .waits(MDEVS, HANDLE_PQAP, 2);
    let mut run = Run::of("v6.6");
    run.ticks(21, &[holder, waiter]);
    let lines = chain(&run.one(12)).join("\n");
    assert!(
        lines.contains("held at least 2.10 s by qemu (21) [probe]"),
        "{lines}"
    );
    assert!(
        lines.contains("which sleeps in msleep, in no call that was seen to begin"),
        "{lines}"
    );
    run.tick(&[]);
    assert!(
        run.one(6)
            .seen
            .summary
            .contains("locks taken before measuring began are held")
    );
}

#[test]
fn flushing_work_is_sleeping_and_an_unread_state_ends_nothing() {
    let flushes = task(21, "qemu")
        .holds(MDEVS, RESET_QUEUES, 0)
        .waits(WORK, RESET_QUEUES, 1);
    let mut run = Run::of("v7.3");
    run.ticks(4, &[flushes]);
    run.tick(&[]);
    assert!(run.one(6).seen.summary.contains("sleeps in flush_work"));
    // Between readings with a state there is one without.
    let holds = |state| {
        task(21, "qemu")
            .holds(MDEVS, RESET_QUEUES, 0)
            .asleep(state, "msleep")
    };
    let mut run = Run::of("v7.3");
    run.ticks(4, &[holds("D")]);
    run.tick(&[holds("")]);
    assert!(run.found(6).is_empty());
}

#[test]
fn sleeping_under_lock_is_looked_back_on_for_ten_seconds() {
    let mut run = held(MDEVS, "D", "msleep");
    run.ticks(100, &[]);
    run.one(6);
    run.ticks(15, &[]);
    assert!(run.found(6).is_empty());
}

/// A worker that polls a queue, who flushes it with mdevs_lock held, and a vCPU that wants that.
pub fn stuck_reset() -> [Task; 3] {
    let mut worker = task(900, "kworker/3:1")
        .inside(APQ_RESET_CHECK, 0)
        .holds(WORK, APQ_RESET_CHECK, 0)
        .asleep("D", "msleep");
    worker.0.inside[0].arg = PQAP_RESPONDED | 5 << 32;
    [
        worker,
        task(21, "qemu")
            .inside(CLOSE_DEVICE, 1)
            .holds(MDEVS, CLOSE_DEVICE, 1)
            .waits(WORK, CLOSE_DEVICE, 2)
            .asleep("D", "flush_work"),
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 3)
            .on_cpu()
            .waits(MDEVS, HANDLE_PQAP, 4),
    ]
}

#[test]
fn a_reset_without_an_end_is_the_root_and_not_the_lock_holder() {
    let mut run = Run::of("v7.3");
    run.ticks(9, &stuck_reset());
    assert!(run.found(7).is_empty());
    run.tick(&stuck_reset());
    let finding = run.one(7);
    assert_eq!(finding.seen.severity, Severity::Critical);
    assert_eq!(
        finding.seen.summary,
        "the reset of queue 05.0004 is polled for 1.00 s, 2 tasks behind it"
    );
    let words = text(&finding);
    for part in [
        "kworker/3:1 (900) polls in apq_reset_check",
        "the reset was answered 05 (busy)",
        "no answer to a poll is in what was read of the kernel's log",
        "held by those who wait for the worker: matrix_dev->mdevs_lock",
        "deconfiguring adapter 05 ",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let tids: Vec<u32> = finding.seen.tasks.iter().map(|task| task.tid).collect();
    assert_eq!(tids, [900, 21, 11]);
    run.ticks(11, &stuck_reset());
    assert!(
        run.verdict()
            .starts_with("WAITING ON HARDWARE: the reset of queue 05.0004")
    );
    // The guest behind it is stuck, and its chain ends at the queue. So is whoever closes the device: which guest's that
    // is, its locks do not say. Both have one root.
    let stuck = run.one(12);
    assert!(stuck.seen.summary.contains("guest-0"), "{stuck:?}");
    let lines = chain(&stuck);
    let end = "which polls the hardware for the end of a reset (reset_work[05.0004])";
    assert!(
        lines.last().is_some_and(|line| line.ends_with(end)),
        "{lines:#?}"
    );
    assert_eq!(run.kinds(), [7, 12]);
}

/// What the driver says of a poll, at so many milliseconds.
fn said(ms: u64, level: &str, text: &str) -> Frame {
    Frame {
        log: vec![LogLine {
            at_ns: at(ms),
            level: level.into(),
            text: text.into(),
        }],
        ..Frame::default()
    }
}

#[test]
fn the_last_answer_to_a_poll_is_what_the_driver_says_of_this_reset() {
    let says = |ms, level, line: &str| {
        let mut run = Run::of("v7.3");
        run.frame(&stuck_reset(), said(ms, level, line));
        run.ticks(9, &stuck_reset());
        text(&run.one(7))
    };
    let line = "Waited 60ms for reset of queue 05.0004 (2, 0, 0)";
    let words = says(60, "kmsg", line);
    let last = "the last answer in the kernel's log is 02 (reset in progress), to poll 3, 940 ms ago; polled 50 times so far at most";
    assert!(words.contains(last), "{words}");
    // Of another queue, of somebody else, of a reset before this one.
    let other = "Waited 60ms for reset of queue 05.0005 (2, 0, 0)";
    let mut before = Run::of("v7.3");
    let mut tasks = stuck_reset();
    tasks[0].0.holds[0].since_ns = at(70);
    before.frame(&tasks, said(60, "kmsg", line));
    before.ticks(10, &tasks);
    for words in [
        says(60, "kmsg", other),
        says(60, "info", line),
        text(&before.one(7)),
    ] {
        assert!(words.contains("no answer to a poll"), "{words}");
    }
}

#[test]
fn a_reset_that_nobody_waits_for_is_a_warning_and_a_new_one_none() {
    let [worker, ..] = stuck_reset();
    let mut run = Run::of("v7.3");
    run.ticks(10, std::slice::from_ref(&worker));
    let finding = run.one(7);
    assert_eq!(finding.seen.severity, Severity::Warning);
    assert!(finding.seen.summary.ends_with("nobody waits for it yet"));
    // Resets that end are many short ones.
    let mut run = Run::of("v7.3");
    for number in 0..30 {
        let ms = run.next_ms() - 60;
        run.tick(&[task(900, "kworker/3:1")
            .holds(WORK, APQ_RESET_CHECK, ms)
            .later(number)]);
    }
    assert_eq!(run.kinds(), [0_u8; 0]);
}

fn span(kind: u8, lock: Lock, flags: u8) -> Frame {
    let span = abi::Span {
        start_ns: at(40),
        duration_ns: 1_000,
        extra: 0,
        tid: 12,
        instance: lock.id,
        result: 0,
        kind,
        what: lock.series as u8,
        inside: GROUP_NOTIFIER,
        flags,
    };
    Frame {
        spans: Some(Spans::encode(at(100), [&span, &span], |_| "qemu".into())),
        ..Frame::default()
    }
}

#[test]
fn a_second_holder_of_a_flag_is_found_by_the_mark_on_its_span() {
    let mut run = Run::of("v5.13");
    run.frame(&[], span(SPAN_LOCK, BUSY, HELD_SECOND_HOLDER));
    let finding = run.one(14);
    assert_eq!(
        finding.seen.summary,
        "qemu (12) set kvm_busy[mdev-0] in vfio_ap_mdev_group_notifier while somebody else had set it"
    );
    assert_eq!(finding.since_ns, at(40));
    // Who had set it before, and has it still.
    let mut named = Run::of("v5.13");
    let first = task(11, "qemu").holds(BUSY, GROUP_NOTIFIER, 20);
    named.frame(&[first], span(SPAN_LOCK, BUSY, HELD_SECOND_HOLDER));
    assert!(
        named
            .one(14)
            .seen
            .summary
            .ends_with("while qemu (11) had set it"),
        "{}",
        named.one(14).seen.summary
    );
    run.ticks(40, &[]);
    run.one(14);
    assert!(
        run.verdict()
            .starts_with("CANNOT TELL because no task waits"),
        "{}",
        run.verdict()
    );
    for frame in [
        span(SPAN_LOCK, BUSY, 0),
        span(SPAN_LOCK, MATRIX, HELD_SECOND_HOLDER),
        span(SPAN_ENTRY, BUSY, HELD_SECOND_HOLDER),
    ] {
        let mut run = Run::of("v5.13");
        run.frame(&[task(11, "sh").inside(ASSIGN_ADAPTER, 0)], frame);
        assert_eq!(run.kinds(), [0_u8; 0]);
    }
}
