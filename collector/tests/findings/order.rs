//! AP002.

use apscope_collector::diagnose::Severity;
use apscope_collector::frame::{Edge, Frame, Instance, Loss, Meta};
use probe_ebpf::names::entry_id::{GROUP_NOTIFIER, OPEN};

use crate::findings_run::*;

fn edges(edges: impl IntoIterator<Item = Edge>) -> Frame {
    Frame {
        edges: edges.into_iter().collect(),
        ..Frame::default()
    }
}

/// The splat of 2021: matrix_dev->lock > kvm->lock > vcpu->mutex > matrix_dev->lock.
fn splat() -> [Edge; 3] {
    [
        edge(MATRIX, KVM, 21),
        edge(KVM, VCPU, 13),
        edge(VCPU, MATRIX, 11),
    ]
}

#[test]
fn the_splat_is_found_without_any_wait() {
    let mut run = Run::of("v5.11");
    run.frame(&[], edges(splat()));
    let finding = run.one(2);
    assert_eq!(run.kinds(), [2]);
    assert_eq!(finding.seen.severity, Severity::Warning);
    assert_eq!(
        finding.seen.summary,
        "locks are taken in a circle: matrix_dev->lock -> kvm->lock -> vcpu->mutex -> matrix_dev->lock"
    );
    let text = text(&finding);
    assert!(text.contains("lockdep sees every edge of it"), "{text}");
    assert!(
        text.contains("the very same locks were taken in this order"),
        "{text}"
    );
    assert!(text.contains("3 times, first by CPU 0/KVM (13)"), "{text}");
    let commits: Vec<&str> = finding.upstream.iter().map(|h| h.commit).collect();
    assert_eq!(commits, ["0cc00c8d4050", "86956e70761b"]);
    // It stays, with nothing new.
    run.ticks(30, &[]);
    run.one(2);
    assert!(
        run.verdict().contains("a deadlock is possible (AP002)"),
        "{}",
        run.verdict()
    );
}

#[test]
fn the_order_in_which_edges_come_does_not_matter() {
    let mut keys = std::collections::BTreeSet::new();
    for first in 0..3 {
        let mut run = Run::of("v5.11");
        let mut all = splat();
        all.rotate_left(first);
        for edge in all {
            run.frame(&[], edges([edge]));
        }
        keys.insert(run.one(2).seen.key);
    }
    assert_eq!(keys.len(), 1);
}

#[test]
fn no_circle_is_no_finding() {
    let mut run = Run::of("v5.11");
    run.frame(
        &[],
        edges([
            edge(MATRIX, KVM, 21),
            edge(KVM, VCPU, 13),
            edge(MATRIX, VCPU, 11),
        ]),
    );
    assert_eq!(run.kinds(), [0_u8; 0]);
}

#[test]
fn the_same_circle_through_the_flag_is_invisible_and_annotated() {
    let mut run = Run::of("v5.13");
    let tested = Edge {
        annotated: true,
        ..edge(VCPU, BUSY, 11)
    };
    run.frame(
        &[],
        edges([edge(BUSY, KVM, 12), edge(KVM, VCPU, 13), tested]),
    );
    let text = text(&run.one(2));
    assert!(
        text.contains("lockdep cannot see it: an open-coded lock is part of it"),
        "{text}"
    );
    assert!(
        text.contains("vcpu->mutex -> kvm_busy  (invisible to lockdep, annotated)"),
        "{text}"
    );
    assert!(
        text.contains("kvm_busy -> kvm->lock  (invisible to lockdep)"),
        "{text}"
    );
    assert!(text.contains("kvm->lock -> vcpu->mutex\n"), "{text}");
    assert!(text.contains("tested and found clear"), "{text}");
}

/// kvm->lock and vcpu->mutex both ways, under guests_lock so many times of ten.
fn under_guests_lock(times: u64) -> Frame {
    let count = |edge: Edge, count_total| Edge {
        count_total,
        ..edge
    };
    let mut frame = edges([
        count(edge(KVM, VCPU, 1), 10),
        count(edge(VCPU, KVM, 2), 10),
        count(edge(GUESTS, KVM, 1), 10),
        count(edge(GUESTS, VCPU, 1), times),
    ]);
    frame.series = vec![acquired(KVM, 10), acquired(VCPU, 10), acquired(GUESTS, 20)];
    frame
}

#[test]
fn a_circle_under_a_common_lock_is_for_information() {
    let mut run = Run::of("v6.0");
    run.frame(&[], under_guests_lock(10));
    let finding = run.one(2);
    assert_eq!(finding.seen.severity, Severity::Info);
    assert!(text(&finding).contains("matrix_dev->guests_lock was held at every step, by counts"));
    // One acquisition without it, and it guards nothing.
    run.frame(
        &[],
        Frame {
            series: vec![acquired(VCPU, 1)],
            edges: vec![Edge {
                count_total: 11,
                ..edge(KVM, VCPU, 1)
            }],
            ..Frame::default()
        },
    );
    // Counts are looked at once a second.
    run.ticks(10, &[]);
    run.frame(
        &[],
        edges([Edge {
            count_total: 12,
            ..edge(KVM, VCPU, 1)
        }]),
    );
    let finding = run.one(2);
    assert_eq!(finding.seen.severity, Severity::Warning);
    assert!(text(&finding).contains("12 times"));
    let mut run = Run::of("v6.0");
    run.frame(&[], under_guests_lock(9));
    assert_eq!(run.one(2).seen.severity, Severity::Warning);
}

#[test]
fn a_lock_of_many_guests_guards_nothing() {
    // kvm->lock has an instance for each guest: two tasks under two of them meet.
    let mut run = Run::of("v6.0");
    let mut frame = edges([
        edge(GUESTS, MDEVS, 1),
        edge(MDEVS, GUESTS, 2),
        edge(KVM, GUESTS, 1),
        edge(KVM, MDEVS, 2),
    ]);
    frame.series = vec![acquired(GUESTS, 3), acquired(MDEVS, 3)];
    run.frame(&[], frame);
    assert_eq!(run.one(2).seen.severity, Severity::Warning);
}

#[test]
fn a_reader_that_is_not_under_the_guard_counts_too() {
    // The exclusive acquisition is always under guests_lock, that for reading is not.
    let mut run = Run::of("v6.0");
    let mut frame = edges([
        edge(KVM, HOOK_WRITE, 1),
        edge(KVM, HOOK_READ, 1),
        edge(HOOK_WRITE, KVM, 2),
        edge(GUESTS, HOOK_WRITE, 1),
        edge(GUESTS, KVM, 2),
    ]);
    frame.series = vec![
        acquired(KVM, 3),
        acquired(HOOK_WRITE, 3),
        acquired(HOOK_READ, 3),
    ];
    run.frame(&[], frame);
    assert_eq!(run.one(2).seen.severity, Severity::Warning);
}

#[test]
fn the_same_instances_and_only_the_classes_are_told_apart() {
    let mut run = Run::of("v5.11");
    let mut all = splat();
    // kvm->lock of another guest.
    all[1].pairs = vec![KVM_1.id, VCPU.id];
    run.frame(&[], edges(all.clone()));
    assert!(text(&run.one(2)).contains("it is one of classes"));
    // Of many pairs a few are sampled: that these do not close says nothing of the others.
    let mut run = Run::of("v5.11");
    all[1].pairs = [KVM_1.id, VCPU.id].repeat(8);
    run.frame(&[], edges(all.clone()));
    assert!(text(&run.one(2)).contains("is not known: more were taken than are sampled"));
    // Another vCPU of the same guest.
    let mut run = Run::of("v5.11").described(|meta| {
        meta.instances.push(Instance {
            id: 40,
            name: "vcpu->mutex[guest-0/1]".into(),
            address: 0x9000,
            series: VCPU.series,
            guest: 1,
        });
    });
    let mut other = splat();
    other[1].pairs = vec![KVM.id, 40];
    run.frame(&[], edges(other));
    assert!(text(&run.one(2)).contains("locks of one guest were taken in this order"));
    let mut run = Run::of("v5.11");
    all[1].pairs.clear();
    run.frame(&[], edges(all.clone()));
    assert!(text(&run.one(2)).contains("which locks of each class is not known"));
    let mut run = Run::of("v5.11");
    all[1].pairs = vec![u32::MAX, u32::MAX];
    run.frame(&[], edges(all));
    assert!(text(&run.one(2)).contains("which locks of each class is not known"));
}

#[test]
fn one_task_or_several_is_said() {
    let mut run = Run::of("v5.11");
    run.frame(&[], edges([edge(MATRIX, KVM, 21), edge(KVM, MATRIX, 21)]));
    assert!(text(&run.one(2)).contains("all by one task (21)"));
    let mut run = Run::of("v5.11");
    run.frame(&[], edges([edge(MATRIX, KVM, 21), edge(KVM, MATRIX, 22)]));
    assert!(!text(&run.one(2)).contains("all by one task"));
}

#[test]
fn readers_are_in_each_others_way_only_where_somebody_writes() {
    let both = [edge(KVM, HOOK_READ, 1), edge(HOOK_READ, KVM, 2)];
    let mut run = Run::of("v5.15");
    run.frame(&[], edges(both.clone()));
    assert_eq!(run.kinds(), [0_u8; 0]);
    // A writer, under no lock at all.
    let mut frame = edges(both.clone());
    frame.series = vec![acquired(HOOK_WRITE, 1)];
    run.ticks(10, &[]);
    run.frame(&[], frame);
    run.one(2);
    // Or with one, at once.
    let mut run = Run::of("v5.15");
    run.frame(
        &[],
        edges(both.into_iter().chain([edge(GUESTS, HOOK_WRITE, 3)])),
    );
    run.one(2);
}

#[test]
fn locks_of_one_class_make_a_circle_only_in_both_orders() {
    let ascending = Edge {
        direction: 1,
        ..edge(KVM, KVM_1, 21)
    };
    let descending = Edge {
        direction: 2,
        ..edge(KVM_1, KVM, 22)
    };
    let mut run = Run::of("v6.0");
    run.frame(&[], edges([ascending]));
    assert_eq!(run.kinds(), [0_u8; 0]);
    run.frame(&[], edges([descending]));
    let finding = run.one(2);
    assert_eq!(
        finding.seen.summary,
        "locks are taken in a circle: kvm->lock -> kvm->lock"
    );
}

#[test]
fn edges_without_room_are_said() {
    let mut run = Run::of("v5.11");
    let mut frame = edges(splat());
    frame.loss = Some(Loss {
        no_edge_slot: 1,
        ..Loss::default()
    });
    run.frame(&[], frame);
    assert!(text(&run.one(2)).contains("incomplete"));
}

#[test]
fn an_order_that_only_a_leaked_lock_makes_is_told_with_the_leak() {
    let leaker = task(21, "qemu").holds(MATRIX, GROUP_NOTIFIER, 5);
    let made = |held_in: u8, acquired_in: u8, tid, ms| Edge {
        held_in: u32::from(held_in),
        acquired_in: u32::from(acquired_in),
        first_ns: at(ms),
        ..edge(MATRIX, KVM, tid)
    };
    let back = || edge(KVM, MATRIX, 13);
    // The circle shows before the leak does.
    let mut run = Run::of("rfc-2021-06");
    run.frame(&[], edges([made(GROUP_NOTIFIER, OPEN, 21, 50), back()]));
    assert_eq!(run.kinds(), [2]);
    run.ticks(2, std::slice::from_ref(&leaker));
    assert_eq!(run.kinds(), [4]);
    let leak = run.one(4);
    assert_eq!(
        leak.consequences,
        ["locks are taken in a circle: matrix_dev->lock -> kvm->lock -> matrix_dev->lock"]
    );
    run.ticks(20, std::slice::from_ref(&leaker));
    assert_eq!(run.all().len(), 1);
    // So is what the call itself takes after it.
    let mut run = Run::of("rfc-2021-06");
    let inside = made(GROUP_NOTIFIER, GROUP_NOTIFIER, 21, 50);
    run.frame(std::slice::from_ref(&leaker), edges([inside, back()]));
    run.ticks(2, std::slice::from_ref(&leaker));
    assert_eq!(run.kinds(), [4]);
    // What others take so, what was taken so before, and what is of another lock, is an order of its own.
    for other in [
        made(GROUP_NOTIFIER, OPEN, 22, 50),
        Edge {
            pairs: vec![MATRIX.id, KVM.id, KVM_1.id, KVM.id],
            ..made(GROUP_NOTIFIER, OPEN, 21, 50)
        },
        made(OPEN, OPEN, 21, 50),
        made(GROUP_NOTIFIER, OPEN, 21, 4),
    ] {
        let mut run = Run::of("rfc-2021-06");
        run.frame(std::slice::from_ref(&leaker), edges([other, back()]));
        run.ticks(2, std::slice::from_ref(&leaker));
        assert_eq!(run.kinds(), [2, 4]);
        assert!(run.one(4).consequences.is_empty());
    }
}

#[test]
fn the_history_follows_the_generation() {
    let unsure = "v5.11|v5.13";
    let mut run = Run::of(unsure);
    run.frame(&[], edges(splat()));
    let commits = |run: &Run| -> Vec<&str> {
        let history = run.one(2).upstream.into_iter();
        history.map(|h| h.commit).collect()
    };
    assert_eq!(commits(&run), ["0cc00c8d4050", "86956e70761b"]);
    let meta = run.model.meta.clone().map(|meta| Meta {
        generation: "v5.13".into(),
        ..meta
    });
    let narrowed = Frame {
        meta,
        ..Frame::default()
    };
    run.frame(&[], narrowed);
    assert_eq!(commits(&run), ["86956e70761b"]);
}
