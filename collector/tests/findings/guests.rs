//! AP000, AP010, AP011, AP012: guests, and what is done to them.

use apscope_collector::diagnose::Severity;
use apscope_collector::frame::{Frame, Spans, Stack};
use probe_ebpf::abi::{self, SPAN_ENTRY, SPAN_LOCK};
use probe_ebpf::names::entry_id::{
    APMASK_STORE, APQ_RESET_CHECK, ASSIGN_ADAPTER, CLOSE_DEVICE, GROUP_NOTIFIER, HANDLE_PQAP,
    KVM_S390_HANDLE_PV, MATRIX_SHOW, NONE, OPEN_DEVICE,
};

use crate::findings_run::*;

#[test]
fn a_guest_that_is_not_stuck_here_is_said_to_be_elsewhere() {
    let vcpu = task(11, "CPU 0/KVM").on_cpu().asleep("S", "");
    let mut run = Run::of("v5.13").asked(0);
    run.ticks(19, std::slice::from_ref(&vcpu));
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(std::slice::from_ref(&vcpu));
    let finding = run.one(0);
    assert_eq!(
        finding.seen.summary,
        "no task of guest-0 is stuck in or behind vfio_ap"
    );
    assert!(text(&finding).contains("CPU 0/KVM (11): in kvm_vcpu_ioctl, state S"));
    assert!(run.verdict().starts_with("NOT vfio_ap: no task of guest-0"));
    // Not asked, not said.
    let mut run = Run::of("v5.13");
    run.ticks(30, &[vcpu]);
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn a_guest_that_waits_here_is_not_exonerated() {
    let waits = task(11, "CPU 0/KVM")
        .inside(HANDLE_PQAP, 0)
        .on_cpu()
        .waits(MATRIX, HANDLE_PQAP, 1);
    let mut run = Run::of("v5.13").asked(0);
    run.ticks(30, std::slice::from_ref(&waits));
    assert!(run.found(0).is_empty());
    // It is in PQAP and waits for no lock: stuck here all the same.
    let inside = task(11, "CPU 0/KVM").inside(HANDLE_PQAP, 0).on_cpu();
    let mut run = Run::of("v5.13").asked(0);
    run.ticks(30, &[inside]);
    assert_eq!(run.kinds(), [12]);
    // Another guest's wait says nothing about this one.
    let mut run = Run::of("v5.13").asked(1);
    run.ticks(30, &[waits]);
    run.one(0);
}

#[test]
fn stacks_elsewhere_exonerate_and_stacks_here_do_not() {
    let stacks = || Frame {
        stacks: vec![Stack {
            tid: 4711,
            comm: "CPU 0/KVM".into(),
            frames: [
                "__schedule+0x1",
                "schedule+0x2",
                "io_schedule+0x3",
                "nfs_wait_bit+0x4 [nfs]",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Stack::default()
        }],
        ..Frame::default()
    };
    let of_text = |meta: &mut apscope_collector::frame::Meta| meta.source = "stacks".into();
    let mut run = Run::of("v5.13").described(of_text);
    run.frame(&[], stacks());
    let finding = run.one(0);
    assert_eq!(
        finding.seen.summary,
        "the one task that is stuck in the text is not in or behind vfio_ap"
    );
    assert_eq!(
        finding.seen.details,
        ["CPU 0/KVM (4711): nfs_wait_bit+0x4 [nfs]"]
    );
    let mut run = Run::of("v5.13").described(of_text);
    run.frame(&[task(11, "CPU 0/KVM").inside(HANDLE_PQAP, 0)], stacks());
    assert!(run.found(0).is_empty());
    // One reading is enough for a deadlock there.
    let mut run = Run::of("v5.10").described(of_text);
    run.tick(&[
        task(11, "CPU 0/KVM").on_cpu().waits(MATRIX, HANDLE_PQAP, 1),
        task(12, "qemu")
            .holds(MATRIX, GROUP_NOTIFIER, 0)
            .waits(VCPU, GROUP_NOTIFIER, 1),
    ]);
    run.one(1);
}

fn refusals(entry: u8, refused: u64, accepted: u64) -> Frame {
    Frame {
        entries: vec![returned(entry, &[(0, accepted), (16, refused)])],
        ..Frame::default()
    }
}

#[test]
fn refusals_in_a_burst_are_found() {
    let mut run = Run::of("v5.13");
    let flux = task(12, "qemu")
        .inside(GROUP_NOTIFIER, 0)
        .holds(BUSY, GROUP_NOTIFIER, 0);
    run.frame(std::slice::from_ref(&flux), refusals(ASSIGN_ADAPTER, 50, 0));
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.frame(std::slice::from_ref(&flux), refusals(ASSIGN_ADAPTER, 50, 1));
    let finding = run.one(10);
    assert_eq!(finding.seen.severity, Severity::Info);
    assert_eq!(
        finding.seen.summary,
        "100 of 101 writes to assign_adapter failed with -EBUSY within 5.00 s"
    );
    assert!(text(&finding).contains("in flux now: kvm_busy[mdev-0]"));
    assert!(!finding.upstream.is_empty());
    // Out of the window and a second more, it is over.
    run.ticks(62, &[]);
    assert!(run.found(10).is_empty());
    let mut run = Run::of("v5.13");
    run.frame(&[], refusals(APMASK_STORE, 100, 0));
    assert!(text(&run.one(10)).contains("unassign it from its mdev first"));
}

#[test]
fn refusals_among_others_are_not() {
    for frame in [
        refusals(ASSIGN_ADAPTER, 19, 0),
        refusals(ASSIGN_ADAPTER, 20, 2),
        refusals(MATRIX_SHOW, 100, 0),
    ] {
        let mut run = Run::of("v5.13");
        run.frame(&[], frame);
        run.ticks(3, &[]);
        assert_eq!(run.kinds(), [0_u8; 0]);
    }
    // Two errors half and half, or few over a long time.
    let mut run = Run::of("v5.13");
    let frame = Frame {
        entries: vec![returned(ASSIGN_ADAPTER, &[(16, 30), (98, 30)])],
        ..Frame::default()
    };
    run.frame(&[], frame);
    assert_eq!(run.kinds(), [0_u8; 0]);
    let mut run = Run::of("v5.13");
    for _ in 0..30 {
        run.frame(&[], refusals(ASSIGN_ADAPTER, 3, 0));
        run.ticks(9, &[]);
        assert_eq!(run.kinds(), [0_u8; 0]);
    }
}

#[test]
fn a_stale_hook_needs_a_generation_that_leaves_it() {
    // Below level 2 nobody sees who writes the hook: returns are all that is known.
    let found = |generation: &str, entry, code| {
        let mut run = Run::of(generation).described(|meta| {
            meta.source = "kernel".into();
            meta.level = 1;
        });
        let frame = Frame {
            entries: vec![returned(entry, &[(code, 2)])],
            ..Frame::default()
        };
        run.frame(&[], frame);
        run.ticks(20, &[]);
        run.found(11).pop()
    };
    // NOTIFY_DONE, -EPERM.
    assert!(found("v5.15", GROUP_NOTIFIER, 0).is_some());
    assert!(found("v5.15", GROUP_NOTIFIER, 1).is_none());
    // These look for another mdev of the guest before they publish the hook.
    for generation in ["v5.15-rc", "rfc-2021-06", "rfc-2021-07"] {
        let refused = found(generation, GROUP_NOTIFIER, 0);
        assert!(refused.is_none(), "{generation}");
    }
    for generation in ["v5.19", "v6.0", "v6.6"] {
        let finding = found(generation, OPEN_DEVICE, 1).expect(generation);
        assert!(finding.seen.summary.contains("(-EPERM, 2 times)"));
        assert!(!finding.upstream.is_empty());
        assert!(found(generation, OPEN_DEVICE, 16).is_none());
    }
    for generation in ["v5.10", "v5.11", "v5.13", "v7.3"] {
        assert!(
            found(generation, GROUP_NOTIFIER, 0).is_none(),
            "{generation}"
        );
        assert!(found(generation, OPEN_DEVICE, 1).is_none(), "{generation}");
    }
    let unsure = found("v6.6|v7.3", OPEN_DEVICE, 1).expect("v6.6 may have it");
    assert!(text(&unsure).contains("if the driver is of v5.19, v6.0, v6.6"));
}

/// A call that has written guest 0's hook, at so many milliseconds.
fn hook_write(entry: u8, tid: u32, ms: u64, result: i32) -> Vec<abi::Span> {
    let span = |kind, what, start_ns, duration_ns, inside| abi::Span {
        start_ns,
        duration_ns,
        extra: 0,
        tid,
        instance: if kind == SPAN_LOCK {
            HOOK_WRITE.id
        } else {
            abi::NO_INSTANCE
        },
        result: if kind == SPAN_ENTRY { result } else { 0 },
        kind,
        what,
        inside,
        flags: 0,
    };
    vec![
        span(SPAN_LOCK, HOOK_WRITE.series as u8, at(ms) + 10, 5, entry),
        span(SPAN_ENTRY, entry, at(ms), 100, NONE),
    ]
}

fn spans(run: &Run, spans: &[abi::Span]) -> Frame {
    let end = at(run.next_ms());
    Frame {
        spans: Some(Spans::encode(end, spans, |_| "qemu".into())),
        ..Frame::default()
    }
}

#[test]
fn a_stale_hook_is_over_when_it_is_set_or_cleared() {
    let refused = |generation: &str, entry, result| {
        let mut run = Run::of(generation);
        let frame = spans(&run, &hook_write(entry, 21, 50, result));
        run.frame(&[], frame);
        run
    };
    for (generation, entry, result) in [("v5.15", GROUP_NOTIFIER, 0), ("v6.6", OPEN_DEVICE, -1)] {
        for (by, result_of) in [
            (CLOSE_DEVICE, 0),
            (entry, i32::from(entry == GROUP_NOTIFIER)),
        ] {
            let mut run = refused(generation, entry, result);
            run.ticks(20, &[]);
            let finding = run.one(11);
            assert!(
                finding.seen.summary.contains("the PQAP hook of guest-0"),
                "{finding:?}"
            );
            assert!(text(&finding).contains("nobody has set or cleared the hook since"));
            assert_eq!(finding.since_ns, at(50) + 10);
            assert!(!finding.upstream.is_empty());
            let ms = run.next_ms() - 20;
            let frame = spans(&run, &hook_write(by, 22, ms, result_of));
            run.frame(&[], frame);
            run.ticks(12, &[]);
            assert!(run.found(11).is_empty(), "{generation} {by}");
            assert_eq!(run.all().len(), 1);
        }
    }
    // Another refusal leaves it as it is.
    let mut run = refused("v6.6", OPEN_DEVICE, -1);
    let ms = run.next_ms() - 20;
    let frame = spans(&run, &hook_write(OPEN_DEVICE, 22, ms, -1));
    run.frame(&[], frame);
    run.ticks(20, &[]);
    assert!(text(&run.one(11)).contains("2 refusals"));
    // What was set right again before it was read is told, and over.
    let mut run = Run::of("v6.6");
    let mut both = hook_write(OPEN_DEVICE, 21, 50, -1);
    both.extend(hook_write(CLOSE_DEVICE, 22, 70, 0));
    let frame = spans(&run, &both);
    run.frame(&[], frame);
    assert!(text(&run.one(11)).contains("set or cleared soon after"));
    run.ticks(12, &[]);
    assert!(run.found(11).is_empty());
    // Calls that were not refused, and a generation that tests first.
    for (generation, entry, result) in [
        ("v6.6", OPEN_DEVICE, 0),
        ("v6.6", OPEN_DEVICE, -16),
        ("v7.3", OPEN_DEVICE, -1),
        ("v5.15", GROUP_NOTIFIER, 1),
    ] {
        assert_eq!(
            refused(generation, entry, result).kinds(),
            [0_u8; 0],
            "{generation}"
        );
    }
}

/// A vCPU in PQAP that waits for matrix_dev->lock, and these others; the finding about it after two seconds.
fn stuck(others: &[Task]) -> (Run, Vec<String>) {
    let mut tasks =
        vec![
            task(11, "CPU 0/KVM")
                .inside(HANDLE_PQAP, 0)
                .on_cpu()
                .waits(MATRIX, HANDLE_PQAP, 0),
        ];
    tasks.extend_from_slice(others);
    let mut run = Run::of("v5.13");
    run.ticks(19, &tasks);
    assert!(run.found(12).is_empty());
    run.tick(&tasks);
    let lines = chain(&run.one(12));
    (run, lines)
}

#[test]
fn every_kind_of_root_ends_a_chain() {
    let holder = || {
        task(12, "qemu")
            .inside(GROUP_NOTIFIER, 1800)
            .holds(MATRIX, GROUP_NOTIFIER, 1810)
    };
    let critical = Severity::Critical;
    let warning = Severity::Warning;
    let cases: Vec<(Vec<Task>, &str, Severity)> = vec![
        (
            vec![holder()],
            "which runs in vfio_ap_mdev_group_notifier",
            warning,
        ),
        (
            vec![holder().asleep("R", "")],
            "which runs in vfio_ap_mdev_group_notifier",
            warning,
        ),
        (
            vec![holder().asleep("D", "")],
            "which sleeps in vfio_ap_mdev_group_notifier",
            warning,
        ),
        (
            vec![holder().asleep("D", "msleep")],
            "which sleeps in msleep, called in vfio_ap_mdev_group_notifier",
            warning,
        ),
        (vec![holder().exited()], "which has ended", critical),
        (
            vec![],
            "nobody holds it at this moment, or it was taken before measuring began",
            critical,
        ),
        (
            vec![task(12, "qemu").holds(MATRIX, 0, 1810)],
            "qemu (12) is in no traced function and waits for no traced lock",
            critical,
        ),
        (
            vec![task(12, "qemu").holds(MATRIX, 0, 1810).asleep("R", "")],
            "which runs, in no call that was seen to begin",
            warning,
        ),
        (
            vec![holder().waits(WORK, GROUP_NOTIFIER, 1820)],
            "the work is queued and not running",
            critical,
        ),
        (
            vec![
                holder().waits(WORK, GROUP_NOTIFIER, 1820),
                task(900, "kworker").inside(APQ_RESET_CHECK, 1800).holds(
                    WORK,
                    APQ_RESET_CHECK,
                    1800,
                ),
            ],
            "which polls the hardware for the end of a reset (reset_work[05.0004])",
            critical,
        ),
        (
            vec![holder().waits(BUSY, GROUP_NOTIFIER, 1820)],
            "its holder was never seen",
            critical,
        ),
        (
            vec![holder().waits(VCPU, GROUP_NOTIFIER, 1820)],
            "which closes the cycle to task 11",
            critical,
        ),
    ];
    for (others, end, severity) in cases {
        let (run, lines) = stuck(&others);
        let last = lines.last().map_or("", String::as_str);
        assert!(last.ends_with(end), "{end}: {lines:#?}");
        let finding = run.one(12);
        assert_eq!(finding.seen.severity, severity, "{end}");
        assert_eq!(
            finding.seen.summary,
            "guest-0 is stuck: CPU 0/KVM (11) has been in handle_pqap for 2.00 s"
        );
        assert_eq!(finding.since_ns, at(0));
        // The root is named in the details too.
        assert!(
            finding
                .seen
                .details
                .iter()
                .any(|line| line.starts_with("the root: ")),
            "{end}"
        );
        // Each line of the chain is about one more task.
        assert!(
            lines[0].starts_with("CPU 0/KVM (11), vCPU of guest-0"),
            "{lines:#?}"
        );
    }
}

#[test]
fn of_several_readers_the_one_that_never_ends_decides() {
    let mut run = Run::of("v5.15");
    let tasks = [
        task(11, "qemu")
            .inside(CLOSE_DEVICE, 0)
            .waits(HOOK_WRITE, CLOSE_DEVICE, 1),
        task(12, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 1700)
            .holds(HOOK_READ, HANDLE_PQAP, 1700),
        task(13, "CPU 1/KVM")
            .holds(HOOK_READ, HANDLE_PQAP, 1750)
            .exited(),
    ];
    run.ticks(20, &tasks);
    let finding = run.one(12);
    assert_eq!(finding.seen.severity, Severity::Critical);
    assert!(
        text(&finding).contains("the root: CPU 1/KVM (13), which has ended"),
        "{}",
        text(&finding)
    );
    let lines = chain(&finding);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[2].ends_with("which runs in handle_pqap"));
    assert!(lines[3].ends_with("which has ended"));
}

#[test]
fn of_several_who_set_a_flag_the_one_that_goes_on_decides() {
    let mut run = Run::of("v5.13");
    let tasks = [
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 0)
            .waits(BUSY, HANDLE_PQAP, 1),
        task(12, "qemu").holds(BUSY, GROUP_NOTIFIER, 1).exited(),
        task(13, "qemu")
            .inside(GROUP_NOTIFIER, 1900)
            .holds(BUSY, GROUP_NOTIFIER, 1900),
    ];
    run.ticks(20, &tasks);
    let finding = run.one(12);
    assert_eq!(finding.seen.severity, Severity::Warning);
    assert!(
        text(&finding).contains("the root: qemu (13), which runs"),
        "{}",
        text(&finding)
    );
}

#[test]
fn many_stuck_guests_are_told_of_one_after_the_other() {
    use apscope_collector::frame::Instance;
    let mut run = Run::of("v6.0").described(|meta| {
        let more = (100..190).map(|id| Instance {
            id,
            name: format!("kvm->lock[guest-{id}]"),
            address: u64::from(id) << 20,
            series: KVM.series,
            guest: id + 1,
        });
        meta.instances.extend(more);
    });
    let tasks: Vec<Task> = (100..190)
        .map(|id| {
            let mut task =
                task(1000 + id, "CPU 0/KVM")
                    .inside(HANDLE_PQAP, 0)
                    .waits(KVM, HANDLE_PQAP, 0);
            task.0.waits[0].instance = id;
            task.0.waits[0].lock = u64::from(id) << 20;
            task
        })
        .collect();
    run.ticks(20, &tasks);
    assert_eq!(run.found(12).len(), 4);
    // No more than 64, and none of them comes and goes.
    for tick in 2..60 {
        run.tick(&tasks);
        assert_eq!(run.found(12).len(), (4 * tick).min(64), "{tick}");
    }
    assert!(text(&run.found(12)[0]).contains("26 more causes besides those reported"));
}

#[test]
fn guests_whose_root_is_not_known_have_a_finding_each() {
    let mut run = Run::of("v5.13");
    let tasks = [
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 100)
            .waits(KVM, HANDLE_PQAP, 100),
        task(12, "qemu")
            .inside(KVM_S390_HANDLE_PV, 0)
            .waits(KVM, KVM_S390_HANDLE_PV, 0),
        task(21, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 0)
            .waits(KVM_1, HANDLE_PQAP, 0),
        // A write is no guest, and does not go on either.
        task(31, "bash")
            .inside(ASSIGN_ADAPTER, 0)
            .waits(MATRIX, ASSIGN_ADAPTER, 0),
    ];
    run.ticks(21, &tasks);
    let mut summaries: Vec<String> = run.found(12).into_iter().map(|f| f.seen.summary).collect();
    summaries.sort();
    assert_eq!(
        summaries,
        [
            "bash (31) is stuck: it has been in assign_adapter_store for 2.00 s",
            "guest-0 is stuck: qemu (12) has been in kvm_s390_handle_pv for 2.10 s",
            "guest-1 is stuck: CPU 0/KVM (21) has been in handle_pqap for 2.00 s",
        ]
    );
    // It comes back, and goes on: over after a second.
    run.ticks(12, &[]);
    assert!(run.found(12).is_empty());
}

/// Whoever sleeps with a lock and does not run meanwhile does not go on, and is the root of all who wait for it.
#[test]
fn a_root_that_sleeps_for_good_is_told_from_one_that_gets_on() {
    let writer = |switches| {
        task(31, "bash")
            .inside(ASSIGN_ADAPTER, 0)
            .holds(MDEVS, ASSIGN_ADAPTER, 1)
            .asleep("D", "__lock_page")
            .switches(switches)
    };
    let vcpu = || {
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 0)
            .on_cpu()
            .waits(MDEVS, HANDLE_PQAP, 1)
    };
    let mut run = Run::of("v6.6");
    run.ticks(24, &[writer(7), vcpu()]);
    // At once in the verdict; that it goes on was said a moment ago.
    assert!(
        run.verdict().starts_with("CANNOT TELL"),
        "{}",
        run.verdict()
    );
    run.ticks(10, &[writer(7), vcpu()]);
    let finding = run.one(12);
    assert_eq!(finding.seen.severity, Severity::Critical);
    let said = text(&finding);
    for part in [
        "guest-0 is stuck: CPU 0/KVM (11) has been in handle_pqap",
        "2 tasks in such calls",
        "bash (31) has not run for at least ",
        "bash (31) holds matrix_dev->mdevs_lock",
        "1 task behind it: CPU 0/KVM (11)",
        "look for what __lock_page waits for",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    assert!(!said.contains("goes on"), "{said}");
    let verdict = run.verdict();
    assert!(
        verdict.starts_with("CANNOT TELL because guest-0 is stuck")
            && verdict.contains("sleeps in __lock_page with matrix_dev->mdevs_lock held: what wakes it is not vfio_ap's"),
        "{verdict}"
    );
    // The same hold of one that runs now and then.
    let mut run = Run::of("v6.6");
    for tick in 0..25 {
        run.tick(&[writer(7 + tick), vcpu()]);
    }
    assert_eq!(run.one(12).seen.severity, Severity::Warning);
    assert!(run.verdict().starts_with("SLOW"), "{}", run.verdict());
    // Nobody waits for it: it is found all the same, by its own call.
    let mut run = Run::of("v6.6");
    run.ticks(35, &[writer(7)]);
    let finding = run.one(12);
    assert_eq!(finding.seen.severity, Severity::Critical);
    assert!(
        finding
            .seen
            .summary
            .starts_with("bash (31) is stuck: it has been in assign_adapter_store")
    );
}

/// Every call that somebody makes of the driver is watched, and the removal only where it does not wait for a descriptor.
#[test]
fn administrators_and_the_bus_are_stuck_too() {
    use probe_ebpf::names::ENTRY_POINTS;
    for (entry, point) in (0_u8..).zip(ENTRY_POINTS) {
        if !matches!(point.module, "vfio_ap" | "kernel")
            // Parts of the others, and the worker of AP007.
            || matches!(point.name, "vfio_ap_mdev_reset_queues" | "apq_reset_check" | "-")
        {
            continue;
        }
        let mut run = Run::of("v6.6");
        run.ticks(
            21,
            &[task(31, "sh").inside(entry, 0).waits(MDEVS, entry, 0)],
        );
        let said = run.one(12).seen.summary;
        assert!(
            said.contains("sh (31)") && said.contains(point.name),
            "{said}"
        );
        assert!(!run.verdict().starts_with("NOT"), "{}", run.verdict());
    }
}

#[test]
fn nobody_is_exonerated_while_a_wait_is_long() {
    // Outside of every call that is traced.
    let waits = task(31, "qemu").waits(KVM, NONE, 0);
    let mut run = Run::of("v6.6");
    run.ticks(19, std::slice::from_ref(&waits));
    assert!(
        run.verdict().starts_with("NOT vfio_ap"),
        "{}",
        run.verdict()
    );
    run.ticks(3, &[waits]);
    assert!(
        run.verdict()
            .starts_with("CANNOT TELL because qemu (31) waits for kvm->lock[guest-0] for 2."),
        "{}",
        run.verdict()
    );
}

#[test]
fn a_task_works_for_the_guest_of_its_process() {
    let vcpu = || task(11, "CPU 0/KVM").on_cpu();
    // Another vCPU of the process, of which nothing but its call is known.
    let other = || {
        task(12, "CPU 1/KVM")
            .inside(HANDLE_PQAP, 0)
            .waits(MATRIX, HANDLE_PQAP, 0)
    };
    let found = |source: &str, tasks: &[Task]| {
        let mut run = Run::of("v5.13").described(|meta| {
            meta.source = source.into();
            meta.level = 2;
        });
        run.tick(&[vcpu()]);
        run.ticks(20, tasks);
        run.one(12).seen.summary
    };
    // What was learnt stays, though the first is in no record any more.
    assert!(found("kernel", &[other()]).starts_with("guest-0 is stuck"));
    // All guests of an emulated driver are of one process.
    assert!(found("emulator", &[other()]).starts_with("a guest that is not known is stuck"));
    let mut stranger = other();
    stranger.0.pid = 99;
    assert!(found("kernel", &[stranger]).starts_with("a guest that is not known is stuck"));
}
