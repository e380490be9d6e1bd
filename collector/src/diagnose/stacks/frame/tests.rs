use std::collections::BTreeMap;

use super::super::fuzzing::is_sane;
use super::super::text::parse;
use super::*;

/// As it was saved: a console writes other bytes than UTF-8 too.
macro_rules! fixture {
    ($name:literal) => {
        &String::from_utf8_lossy(include_bytes!(concat!(
            "../../../../tests/fixtures/stacks/",
            $name,
            ".txt"
        )))
    };
}

/// `vmtest (72): holds a, b; waits for c`, by thread id.
fn said(text: &str, generation: Option<&str>) -> (Vec<String>, frame::Frame, Vec<String>) {
    let (frame, notes) = frame(&parse(text), generation);
    let meta = frame.meta.as_ref().unwrap();
    let names: BTreeMap<u32, (&str, u32)> = meta
        .instances
        .iter()
        .map(|i| (i.id, (i.name.as_str(), i.series)))
        .collect();
    let name = |id: u32, series: u32, evidence: &str| {
        let (name, of) = names[&id];
        assert_eq!(of, series, "{name}");
        let read = if series & 1 == 1 { " read" } else { "" };
        match evidence {
            "stack" | "stack, assumed" => format!("{name}{read}"),
            other if other.starts_with("stack, assumed") => format!("{name}{read}"),
            other => format!("{name}{read} ({other})"),
        }
    };
    let tasks = &frame.live.as_ref().unwrap().tasks;
    let lines = tasks.iter().map(|task| {
        let holds: Vec<String> = task
            .holds
            .iter()
            .map(|h| name(h.instance, h.series, &h.evidence))
            .collect();
        let waits: Vec<String> = task
            .waits
            .iter()
            .map(|w| name(w.instance, w.series, &w.evidence))
            .collect();
        format!(
            "{} ({}): holds {}; waits for {}",
            task.comm,
            task.tid,
            holds.join(", "),
            waits.join(", ")
        )
    });
    let lines = lines.collect();
    (lines, frame, notes)
}

/// The hang of the genuine 5.10.223: two vCPUs, the conversion to protected mode, and the close of the device.
#[test]
fn the_hang_of_5_10_in_a_hung_task_report() {
    let (lines, frame, notes) = said(fixture!("5.10-hung-task"), None);
    assert_eq!(
        lines,
        [
            "vmtest (72): holds vcpu->mutex[task 72]; waits for matrix_dev->lock",
            "vmtest (73): holds vcpu->mutex[task 73]; waits for matrix_dev->lock",
            "vmtest (74): holds kvm->lock[children of 66]; waits for vcpu->mutex[task 72]",
            "vmtest (75): holds matrix_dev->lock; waits for kvm->lock[children of 66]",
        ]
    );
    let meta = frame.meta.unwrap();
    assert_eq!(meta.generation, "v5.10");
    assert_eq!(meta.kernel_release, "5.10.223-lab510");
    assert_eq!((meta.source.as_str(), meta.guests), ("stacks", 1));
    assert!(
        notes
            .iter()
            .any(|note| note.contains("vmtest (74): the stack allows 2 locks; vcpu->mutex")),
        "{notes:?}"
    );
    let waits = &frame.live.unwrap().tasks[0].waits[0];
    let seconds = (AT_NS - waits.since_ns) / 1_000_000_000;
    assert!((5..60).contains(&seconds), "{seconds}");
    assert_eq!(frame.stacks.len(), 4);
    assert_eq!(frame.stacks[0].frames[4], "handle_pqap+0x52 [vfio_ap]");
}

/// The same from sysrq-w, and as /proc shows it, where the lock functions are left out.
#[test]
fn the_hang_of_5_10_in_other_texts() {
    let (hung, ..) = said(fixture!("5.10-hung-task"), None);
    assert_eq!(said(fixture!("5.10-sysrq-w"), None).0, hung);
    let (lines, _, notes) = said(fixture!("5.10-proc-stacks"), Some("v5.10"));
    assert_eq!(
        lines,
        [
            " (72): holds vcpu->mutex[task 72]; waits for matrix_dev->lock",
            " (73): holds vcpu->mutex[task 73]; waits for matrix_dev->lock",
            " (74): holds kvm->lock[process 70]; waits for vcpu->mutex[task 72]",
            " (75): holds matrix_dev->lock; waits for kvm->lock[process 70]",
        ]
    );
    assert!(notes.contains(&"the text does not say how long: times are 0".into()));
}

/// A queue that stays in reset, on the genuine 6.12.107: everybody is behind the worker that polls it.
#[test]
fn a_reset_that_never_ends() {
    let (lines, frame, _) = said(fixture!("6.12-sysrq-w"), None);
    assert_eq!(
        lines,
        [
            "kworker/1:1 (40): holds reset_work[task 40]; waits for ",
            "vmtest (83): holds vcpu->mutex[task 83], pqap_hook_rwsem[process 81] read; waits for matrix_dev->mdevs_lock",
            "vmtest (84): holds vcpu->mutex[task 84], pqap_hook_rwsem[process 81] read; waits for matrix_dev->mdevs_lock",
            "sh (85): holds matrix_dev->guests_lock, matrix_dev->mdevs_lock; waits for reset_work[task 40]",
            "sh (87): holds ap_perms_mutex; waits for matrix_dev->guests_lock",
            "cat (88): holds ; waits for matrix_dev->mdevs_lock",
            "sh (89): holds ; waits for matrix_dev->guests_lock",
        ]
    );
    assert_eq!(frame.meta.unwrap().generation, "v6.6|v7.3");
    let (all, ..) = said(fixture!("6.12-sysrq-t"), Some("v6.6"));
    let store = all.iter().find(|line| {
        line.contains("ap_perms_mutex") && line.starts_with("sh") && line.contains("holds ;")
    });
    assert!(
        store.is_some(),
        "the writer of apmask waits interruptibly: {all:#?}"
    );
    for text in [
        fixture!("6.12-hung-task"),
        fixture!("6.12-proc-stacks"),
        fixture!("7.2-hung-task"),
        fixture!("7.2-sysrq-w"),
        fixture!("7.2-proc-stacks"),
    ] {
        let (lines, ..) = said(text, Some("v7.3"));
        assert!(
            lines
                .iter()
                .any(|line| line
                    .contains("guests_lock, matrix_dev->mdevs_lock; waits for reset_work")),
            "{lines:#?}"
        );
    }
}

fn report(tid: u32, process: u32, seconds: u64, frames: &[&str]) -> String {
    let mut text = format!(
        "INFO: task CPU {tid}/KVM:{tid} blocked for more than {seconds} seconds.\n\
         task:CPU {tid}/KVM state:D stack:0 pid:{tid} tgid:{process} ppid:1 flags:0x0\nCall Trace:\n"
    );
    for frame in frames {
        text.push_str(&[" [<0>] ", frame, "\n"].concat());
    }
    text
}

/// Two guests and the open-coded lock: three tasks of one guest wait in a circle, the other guest's is in none.
#[test]
fn guests_are_told_apart() {
    let vcpu = [
        "schedule+0x1/0x2",
        "handle_pqap+0x1/0x2 [vfio_ap]",
        "handle_pqap+0xe2/0x200 [kvm]",
        "kvm_s390_handle_b2+0x1/0x2 [kvm]",
        "kvm_vcpu_ioctl+0x2cc/0x9b0 [kvm]",
    ];
    let close = [
        "mutex_lock_nested+0x1/0x2",
        "kvm_arch_crypto_clear_masks+0x1/0x2 [kvm]",
        "vfio_ap_mdev_release+0x1/0x2 [vfio_ap]",
    ];
    let pv = [
        "mutex_lock_nested+0x1/0x2",
        "kvm_s390_cpus_to_pv+0x4e/0xf8 [kvm]",
        "kvm_arch_vm_ioctl+0x3ec/0x1000 [kvm]",
    ];
    let text = report(11, 10, 122, &vcpu)
        + &report(12, 10, 122, &close)
        + &report(13, 10, 122, &pv)
        + &report(21, 20, 61, &vcpu);
    let (lines, frame, _) = said(&text, None);
    assert_eq!(
        lines,
        [
            "CPU 11/KVM (11): holds vcpu->mutex[task 11]; waits for kvm_busy[process 10]",
            "CPU 12/KVM (12): holds kvm_busy[process 10]; waits for kvm->lock[process 10]",
            "CPU 13/KVM (13): holds kvm->lock[process 10]; waits for vcpu->mutex[task 11]",
            "CPU 21/KVM (21): holds vcpu->mutex[task 21]; waits for kvm_busy[process 20]",
        ]
    );
    let meta = frame.meta.unwrap();
    assert_eq!((meta.generation.as_str(), meta.guests), ("v5.13", 2));
    let waits: Vec<u64> = frame
        .live
        .unwrap()
        .tasks
        .iter()
        .map(|t| AT_NS - t.waits[0].since_ns)
        .collect();
    assert_eq!(
        waits,
        [
            122_000_000_000,
            122_000_000_000,
            122_000_000_000,
            61_000_000_000
        ]
    );
}

/// The kernel's word on an owner is joined with what the stack says, and stands alone where the owner's stack says nothing.
#[test]
fn the_kernels_own_word() {
    let store = [
        "mutex_lock+0x1/0x2",
        "assign_domain_store+0x1/0x2 [vfio_ap]",
    ];
    let show = ["mutex_lock+0x1/0x2", "matrix_show+0x1/0x2 [vfio_ap]"];
    let flush = [
        "__flush_work+0x1/0x2",
        "vfio_ap_mdev_reset_queues+0x1/0x2 [vfio_ap]",
        "vfio_ap_mdev_ioctl+0x1/0x2 [vfio_ap]",
    ];
    let text = report(30, 30, 10, &store)
        + "INFO: task CPU 30/KVM:30 is blocked on a mutex likely owned by task CPU 33/KVM:33.\n"
        + &report(31, 31, 10, &show)
        + "INFO: task CPU 31/KVM:31 is blocked on a mutex likely owned by task CPU 32/KVM:32.\n"
        + &report(32, 32, 10, &flush)
        + &report(33, 33, 10, &["schedule+0x1/0x2", "do_exit+0x1/0x2"]);
    let (lines, ..) = said(&text, Some("v7.3"));
    assert_eq!(
        lines,
        [
            "CPU 30/KVM (30): holds ; waits for ap_attr_mutex (stack,kernel, assumed: or matrix_dev->guests_lock, or kvm->lock)",
            "CPU 31/KVM (31): holds ; waits for matrix_dev->mdevs_lock (stack,kernel)",
            "CPU 32/KVM (32): holds matrix_dev->mdevs_lock (stack,kernel); waits for reset_work[?]",
            "CPU 33/KVM (33): holds ap_attr_mutex (kernel); waits for ",
        ]
    );
}

/// The kernel and the stack say two things: no holding comes of it.
#[test]
fn a_kernels_word_that_does_not_fit() {
    let show = ["mutex_lock+0x1/0x2", "matrix_show+0x1/0x2 [vfio_ap]"];
    let text = report(31, 31, 10, &show)
        + "INFO: task CPU 31/KVM:31 <writer> blocked on an rw-semaphore likely owned by task x:32 <reader>\n"
        + &report(32, 32, 10, &show);
    let (lines, _, notes) = said(&text, Some("v7.3"));
    assert_eq!(
        lines,
        [
            "CPU 31/KVM (31): holds ; waits for matrix_dev->mdevs_lock",
            "CPU 32/KVM (32): holds ; waits for matrix_dev->mdevs_lock",
        ]
    );
    assert!(
        notes
            .iter()
            .any(|note| note.contains("another kind of lock")),
        "{notes:?}"
    );
    is_sane(&text, Some("v7.3"));
}

#[test]
fn frames_are_sane() {
    for text in [
        "",
        "nothing of this is a stack",
        fixture!("5.10-hung-task"),
        fixture!("6.12-sysrq-t"),
        fixture!("7.2-sysrq-w"),
    ] {
        is_sane(text, None);
        for generation in Generation::ALL {
            is_sane(text, Some(generation.name()));
        }
    }
    // More instances than a model takes, and a task that all others say is the owner.
    let many: Vec<String> = (1..=16_384)
        .map(|tid| {
            format!(
                "task:a state:D stack:0 pid:{tid} tgid:{tid} ppid:1\n[<0>] mutex_lock+0x1/0x2\n\
                 [<0>] kvm_arch_crypto_clear_masks+0x1/0x2\n[<0>] vfio_ap_mdev_release+0x1/0x2\n\
                 [<0>] kvm_vcpu_ioctl+0x1/0x2\n\
                 INFO: task a:{tid} is blocked on a mutex likely owned by task a:1.\n"
            )
        })
        .collect();
    let many = many.concat();
    is_sane(&many, Some("v5.13"));
    let (_, notes) = frame(&parse(""), Some("v9"));
    assert!(notes[0].contains("v9"), "{notes:?}");
}

proptest::proptest! {
    /// Any stacks of functions of the table, in any order.
    #[test]
    fn any_stacks_make_a_frame(tasks in proptest::collection::vec(
        proptest::collection::vec(
            proptest::sample::select(vec![
                "mutex_lock", "down_read", "down_write", "schedule", "__flush_work", "msleep",
                "handle_pqap", "kvm_s390_handle_b2", "kvm_vcpu_ioctl", "kvm_arch_vm_ioctl",
                "kvm_arch_crypto_clear_masks", "vfio_ap_mdev_release", "vfio_ap_mdev_close_device",
                "assign_domain_store", "unassign_adapter_store", "vfio_ap_mdev_reset_queues",
                "apq_reset_check", "apmask_store", "vfio_ap_mdev_resource_in_use", "other",
            ]),
            0..6,
        ),
        0..12,
    ), which in 0_usize..12) {
        let mut text = String::new();
        for (tid, frames) in (1..).zip(&tasks) {
            let frames: Vec<String> = frames.iter().map(|f| format!("{f}+0x1/0x2")).collect();
            let frames: Vec<&str> = frames.iter().map(String::as_str).collect();
            text += &report(tid, tid / 3, u64::from(tid), &frames);
            let owner = format!("INFO: task x:{tid} is blocked on a mutex likely owned by task y:{}.\n", tid / 2);
            text.push_str(&owner);
        }
        is_sane(&text, Generation::ALL.get(which).map(|g| g.name()));
    }
}

#[test]
fn an_owner_whose_stack_is_not_in_the_text_is_named() {
    let vcpu = [
        "mutex_lock+0x1/0x2",
        "handle_pqap+0x1/0x2 [vfio_ap]",
        "kvm_s390_handle_b2+0x1/0x2 [kvm]",
        "kvm_vcpu_ioctl+0x1/0x2 [kvm]",
    ];
    let text = report(31, 30, 130, &vcpu)
        + "INFO: task CPU 31/KVM:31 is blocked on a mutex likely owned by task qemu-system:77.\n";
    let (lines, frame, _) = said(&text, Some("v6.6"));
    assert!(
        lines.contains(
            &"qemu-system (77): holds matrix_dev->mdevs_lock (kernel); waits for ".to_owned()
        ),
        "{lines:#?}"
    );
    let tasks = &frame.live.as_ref().unwrap().tasks;
    let owner = tasks.iter().find(|task| task.tid == 77).unwrap();
    assert!(owner.inside.is_empty() && owner.holds.len() == 1);
    // Nothing is waited for that the kernel could be talking of.
    let (lines, ..) = said(
        &text.replace("mutex likely", "semaphore likely"),
        Some("v6.6"),
    );
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

#[test]
fn all_that_a_stack_may_wait_for_is_listed() {
    let store = [
        "mutex_lock+0x1/0x2",
        "unassign_adapter_store+0x1/0x2 [vfio_ap]",
    ];
    let (_, frame, notes) = said(&report(50, 50, 130, &store), Some("v6.6"));
    let wait = &frame.live.as_ref().unwrap().tasks[0].waits[0];
    assert_eq!(
        wait.evidence,
        "stack, assumed: or kvm->lock, or matrix_dev->mdevs_lock"
    );
    assert!(
        notes.iter().any(|note| note.contains("cannot be told")),
        "{notes:?}"
    );
}
