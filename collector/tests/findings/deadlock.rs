//! AP001.

use apscope_collector::diagnose::Severity;
use probe_ebpf::names::entry_id::{
    CLOSE_DEVICE, GROUP_NOTIFIER, HANDLE_PQAP, KVM_S390_HANDLE_PV, KVM_VCPU_IOCTL, OPEN_DEVICE,
};

use crate::findings_run::*;

/// Two tasks and two mutexes, crosswise.
pub fn crosswise() -> [Task; 2] {
    [
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 0)
            .on_cpu()
            .waits(MATRIX, HANDLE_PQAP, 10),
        task(21, "qemu")
            .inside(GROUP_NOTIFIER, 5)
            .holds(MATRIX, GROUP_NOTIFIER, 5)
            .waits(VCPU, GROUP_NOTIFIER, 20),
    ]
}

/// The three-party hang of v5.13: kvm_busy, kvm->lock, vcpu->mutex.
pub fn three_parties() -> [Task; 3] {
    [
        task(11, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 1)
            .on_cpu()
            .waits(BUSY, HANDLE_PQAP, 30),
        task(12, "qemu")
            .inside(GROUP_NOTIFIER, 5)
            .holds(BUSY, GROUP_NOTIFIER, 6)
            .waits(KVM, GROUP_NOTIFIER, 7),
        task(13, "qemu")
            .inside(KVM_S390_HANDLE_PV, 2)
            .holds(KVM, KVM_S390_HANDLE_PV, 3)
            .waits(VCPU, KVM_S390_HANDLE_PV, 4),
    ]
}

#[test]
fn a_circle_is_published_in_its_second_reading() {
    let mut run = Run::of("v5.11");
    run.tick(&crosswise());
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.tick(&crosswise());
    let finding = run.one(1);
    assert_eq!(run.kinds(), [1]);
    assert_eq!(finding.seen.severity, Severity::Critical);
    // It began when the last of its waits did.
    assert_eq!(finding.since_ns, at(20));
    assert_eq!(finding.found_ns, at(200));
    assert_eq!(
        finding.seen.summary,
        "2 tasks wait for each other: matrix_dev->lock and vcpu->mutex[guest-0/0]"
    );
    assert_eq!(
        chain(&finding),
        [
            "CPU 0/KVM (11), vCPU of guest-0",
            "  waits 190 ms for matrix_dev->lock in handle_pqap [probe]",
            "  held 195 ms by qemu (21), start or stop of guest-0 [probe]",
            "    waits 180 ms for vcpu->mutex[guest-0/0] in vfio_ap_mdev_group_notifier [probe]",
            "    held 200 ms by CPU 0/KVM (11), vCPU of guest-0 [probe], which closes the circle to task 11",
        ]
        .map(|line| line.replace("closes the circle", "closes the cycle"))
    );
    assert!(run.verdict().starts_with("DEADLOCK: 2 tasks wait"));
}

#[test]
fn who_runs_between_two_readings_is_in_no_deadlock() {
    let mut run = Run::of("v5.11");
    let [vcpu, notifier] = crosswise();
    for switches in 0..5 {
        run.tick(&[
            vcpu.clone().switches(7),
            notifier.clone().switches(5 + switches),
        ]);
    }
    assert!(run.found(1).is_empty());
    // It stops running.
    run.tick(&[vcpu.clone().switches(7), notifier.clone().switches(9)]);
    run.one(1);
}

#[test]
fn other_waits_of_the_same_tasks_are_no_deadlock() {
    let mut run = Run::of("v5.11");
    for number in 0..6 {
        run.tick(&crosswise().map(|task| task.later(number * 10)));
    }
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn a_wait_that_a_holder_can_end_is_no_deadlock() {
    let mut run = Run::of("v5.11");
    let [vcpu, _] = crosswise();
    // It holds what the vCPU waits for, and runs.
    let notifier = task(21, "qemu")
        .inside(GROUP_NOTIFIER, 5)
        .holds(MATRIX, GROUP_NOTIFIER, 5);
    run.ticks(6, &[vcpu, notifier]);
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn the_hang_through_the_flag_is_named() {
    let mut run = Run::of("v5.13");
    run.ticks(2, &three_parties());
    let finding = run.one(1);
    let text = text(&finding);
    for part in [
        "3 tasks wait for each other: kvm_busy[mdev-0], kvm->lock[guest-0] and vcpu->mutex[guest-0/0]",
        "kvm_busy[mdev-0] is an open-coded lock (a flag and a wait queue): lockdep cannot see this circle",
        "other mdevs and their guests keep working",
        "killing QEMU does not help",
        "only a reboot",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let tids: Vec<u32> = finding.seen.tasks.iter().map(|task| task.tid).collect();
    assert_eq!(tids, [11, 12, 13]);
    let roles: Vec<&str> = finding
        .seen
        .tasks
        .iter()
        .map(|task| task.role.as_str())
        .collect();
    assert_eq!(
        roles,
        [
            "vCPU of guest-0",
            "start or stop of guest-0",
            "conversion to a protected guest of guest-0"
        ]
    );
    assert!(
        finding
            .upstream
            .iter()
            .any(|history| history.commit == "86956e70761b")
    );
}

#[test]
fn other_mdevs_do_not_work_when_somebody_stands_on_the_drivers_lock() {
    let mut run = Run::of("v5.13");
    let mut tasks = three_parties();
    tasks[1] = tasks[1].clone().holds(MATRIX, GROUP_NOTIFIER, 5);
    run.ticks(2, &tasks);
    assert!(!text(&run.one(1)).contains("keep working"));
}

#[test]
fn a_killable_wait_is_said_to_be() {
    let mut run = Run::of("v5.11");
    let [_, notifier] = crosswise();
    let vcpu = task(11, "CPU 0/KVM")
        .inside(KVM_VCPU_IOCTL, 0)
        .holds(KVM, KVM_VCPU_IOCTL, 0)
        .waits(VCPU, KVM_VCPU_IOCTL, 1);
    let other =
        task(31, "qemu")
            .holds(VCPU, KVM_S390_HANDLE_PV, 0)
            .waits(KVM, KVM_S390_HANDLE_PV, 1);
    run.ticks(2, &[vcpu, other, notifier]);
    let text = text(&run.one(1));
    assert!(
        text.contains("killing process 10 ends the wait of CPU 0/KVM (11)"),
        "{text}"
    );
    assert!(!text.contains("reboot"), "{text}");
}

#[test]
fn a_task_can_wait_for_itself() {
    for lock in [MATRIX, BUSY] {
        let mut run = Run::of("rfc-2021-06");
        let notifier = task(21, "qemu")
            .inside(GROUP_NOTIFIER, 5)
            .holds(lock, GROUP_NOTIFIER, 5)
            .waits(lock, GROUP_NOTIFIER, 6);
        run.ticks(3, &[notifier]);
        let finding = run.one(1);
        assert!(
            finding
                .seen
                .summary
                .starts_with("a task waits for itself: ")
        );
        assert_eq!(finding.seen.tasks.len(), 1);
        assert!(
            chain(&finding)
                .last()
                .is_some_and(|line| line.contains("closes the cycle to task 21"))
        );
        assert_eq!(run.kinds(), [1]);
    }
}

#[test]
fn one_of_several_who_set_a_flag_is_enough() {
    let mut run = Run::of("v5.13");
    let mut tasks = three_parties().to_vec();
    // Somebody else has set the flag too, and goes on.
    tasks.push(
        task(41, "qemu")
            .inside(GROUP_NOTIFIER, 8)
            .holds(BUSY, GROUP_NOTIFIER, 8),
    );
    run.ticks(4, &tasks);
    assert!(run.found(1).is_empty());
    // Until that one stops.
    tasks[3] = tasks[3].clone().waits(KVM, GROUP_NOTIFIER, 400);
    run.ticks(2, &tasks);
    run.one(1);
}

/// A writer, two readers: one runs, one waits for what the writer holds.
fn writer_and_readers() -> [Task; 3] {
    [
        task(11, "qemu")
            .inside(OPEN_DEVICE, 1)
            .holds(KVM, OPEN_DEVICE, 2)
            .waits(HOOK_WRITE, OPEN_DEVICE, 30),
        task(12, "CPU 0/KVM")
            .inside(HANDLE_PQAP, 3)
            .holds(HOOK_READ, HANDLE_PQAP, 4),
        task(13, "CPU 1/KVM")
            .inside(HANDLE_PQAP, 5)
            .holds(HOOK_READ, HANDLE_PQAP, 6)
            .waits(KVM, HANDLE_PQAP, 40),
    ]
}

#[test]
fn all_readers_are_branches_and_one_is_enough_for_a_circle() {
    let mut run = Run::of("v5.15");
    run.ticks(2, &writer_and_readers());
    let finding = run.one(1);
    let tids: Vec<u32> = finding.seen.tasks.iter().map(|task| task.tid).collect();
    assert_eq!(tids, [11, 13]);
    let lines = chain(&finding);
    assert!(
        lines[1].contains("(write) in vfio_ap_mdev_open_device"),
        "{lines:#?}"
    );
    assert!(
        lines[2].starts_with("  held (read) 196 ms by CPU 0/KVM (12)"),
        "{lines:#?}"
    );
    assert!(
        lines[2].ends_with("which runs in handle_pqap"),
        "{lines:#?}"
    );
    assert!(
        lines[3].starts_with("  held (read) 194 ms by CPU 1/KVM (13)"),
        "{lines:#?}"
    );
    assert!(
        lines[5].contains("closes the cycle to task 11"),
        "{lines:#?}"
    );
}

/// A reader behind a queued writer, which waits for a reader, which waits for what the first holds.
fn queued_writer(reader_ms: u64) -> [Task; 3] {
    [
        task(11, "CPU 0/KVM").inside(HANDLE_PQAP, 0).on_cpu().waits(
            HOOK_READ,
            HANDLE_PQAP,
            reader_ms,
        ),
        task(12, "qemu")
            .inside(CLOSE_DEVICE, 0)
            .waits(HOOK_WRITE, CLOSE_DEVICE, 20),
        task(13, "qemu")
            .inside(KVM_S390_HANDLE_PV, 0)
            .holds(HOOK_READ, KVM_S390_HANDLE_PV, 5)
            .waits(VCPU, KVM_S390_HANDLE_PV, 6),
    ]
}

#[test]
fn a_reader_waits_for_a_writer_that_queued_before_it() {
    let mut run = Run::of("v5.15");
    run.ticks(2, &queued_writer(30));
    let finding = run.one(1);
    assert_eq!(finding.seen.tasks.len(), 3);
    let text = text(&finding);
    assert!(text.contains("queued before 180 ms by qemu (12)"), "{text}");
    // One that asked before the writer did is not behind it.
    let mut run = Run::of("v5.15");
    run.ticks(4, &queued_writer(10));
    assert!(run.found(1).is_empty());
}

/// What is said last is as of the end, and not of up to a second before.
#[test]
fn the_last_texts_are_made_anew() {
    let mut run = Run::of("v5.11");
    run.ticks(25, &crosswise());
    let before: Vec<u64> = run.all().iter().map(|f| f.told_ns).collect();
    run.next_is_last();
    run.tick(&crosswise());
    for finding in run.all() {
        assert_eq!(finding.told_ns, at(run.next_ms() - 100), "{}", finding.id);
        assert!(before.iter().any(|told| *told < at(2400)), "{before:?}");
    }
}

#[test]
fn who_joins_later_makes_no_second_finding() {
    let mut run = Run::of("v5.13");
    run.ticks(2, &three_parties());
    let mut tasks = three_parties().to_vec();
    // Behind it, and in it: a second vCPU that holds what the notifier waits for as well would be a shorter circle.
    tasks.push(
        task(51, "CPU 1/KVM")
            .inside(HANDLE_PQAP, 250)
            .waits(BUSY, HANDLE_PQAP, 260),
    );
    run.ticks(3, &tasks);
    let finding = run.one(1);
    assert!(text(&finding).contains("1 further task waits behind it"));
    assert_eq!(run.all().len(), 1);
}

#[test]
fn a_reading_without_it_makes_no_flicker() {
    let mut run = Run::of("v5.11");
    run.ticks(3, &crosswise());
    let before = run.one(1);
    for _ in 0..5 {
        run.tick(&[]);
        run.one(1);
        run.ticks(2, &crosswise());
        assert_eq!(run.one(1).found_ns, before.found_ns);
    }
    // Gone for longer than that, it is over, and stays in the report.
    run.ticks(12, &[]);
    assert!(run.found(1).is_empty());
    let all = run.all();
    assert_eq!(all.len(), 1);
    assert!(all[0].until_ns.is_some());
}

#[test]
fn a_long_circle_is_named_by_its_first_locks() {
    // Guests do not matter: a lock is told by its address.
    let tasks: Vec<Task> = (0..200)
        .map(|n| {
            let mut task = task(1000 + n, "qemu")
                .inside(GROUP_NOTIFIER, 0)
                .holds(KVM, GROUP_NOTIFIER, 0)
                .waits(KVM, GROUP_NOTIFIER, 1);
            task.0.holds[0].lock = 0x9000 + u64::from(n);
            task.0.waits[0].lock = 0x9000 + u64::from((n + 1) % 200);
            task
        })
        .collect();
    let mut run = Run::of("v5.11");
    run.ticks(2, &tasks);
    let finding = run.one(1);
    assert!(
        finding
            .seen
            .summary
            .ends_with("kvm->lock[guest-0] and 192 more locks")
    );
    assert!(finding.seen.tasks.len() <= 64 && chain(&finding).len() <= 2 * 64 + 1);
    // Nothing new: it stands, and its texts are brought up to date once a second.
    run.ticks(9, &tasks);
    assert_eq!(run.one(1).seen, finding.seen);
    run.tick(&tasks);
    assert_ne!(run.one(1).seen, finding.seen);
}

#[test]
fn records_without_address_and_instance_are_of_no_common_lock() {
    let mut run = Run::of("v5.11");
    let tasks = crosswise().map(|mut task| {
        for hold in &mut task.0.holds {
            (hold.lock, hold.instance) = (0, u32::MAX);
        }
        for wait in &mut task.0.waits {
            (wait.lock, wait.instance) = (0, u32::MAX);
        }
        task
    });
    run.ticks(3, &tasks);
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn another_run_begins_anew() {
    let mut run = Run::of("v5.11");
    run.ticks(3, &crosswise());
    run.one(1);
    let mut meta = run.model.meta.clone().unwrap_or_default();
    meta.start_ns += 1;
    let frame = apscope_collector::frame::Frame {
        meta: Some(meta),
        ..Default::default()
    };
    run.frame(&[], frame);
    assert!(run.all().is_empty());
}
