//! Points that are neither entry points nor lock functions.

use probe_ebpf::names::entry_id;

use super::{
    ALL, Contention, FLAG, Gone, KVM, Kind, Name, Point, RESET_WORK, Role, VFIO_AP, WaitQueue,
    Work, kvm, name, vfio_ap, vmlinux,
};
use crate::attach::generation::Generations;

const fn point(
    label: &'static str,
    kind: Kind,
    role: Role,
    generations: Generations,
    names: &'static [Name],
    arguments: &'static str,
    lost: &'static str,
) -> Point {
    Point {
        name: label,
        kind,
        role,
        level: 1,
        generations,
        names,
        arguments,
        lost,
        instead: &[],
        expected: true,
    }
}

/// Contention, wait queues, work items, and the ends of objects.
pub(super) const OTHERS: &[Point] = &[
    point(
        "contention_begin",
        Kind::Tracepoint,
        Role::Contention(Contention::Begin),
        ALL,
        vmlinux!["lock:contention_begin"],
        "the lock, flags: 1 spinning, 2 reading, 4 writing, 32 a mutex",
        "contended waits where no lock function is probed (level 1)",
    ),
    point(
        "contention_end",
        Kind::Tracepoint,
        Role::Contention(Contention::End),
        ALL,
        vmlinux!["lock:contention_end"],
        "the lock, 0 or -errno",
        "how long contended waits last, where acquisitions are not probed at their return",
    ),
    point(
        "prepare_to_wait_event",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Prepare),
        FLAG,
        vmlinux!["prepare_to_wait_event"],
        "1 the wait queue",
        "waits for kvm_busy",
    ),
    point(
        "finish_wait",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Finish),
        FLAG,
        vmlinux!["finish_wait"],
        "1 the wait queue",
        "when waits for kvm_busy end",
    ),
    point(
        "__wake_up",
        Kind::Function,
        Role::WaitQueue(WaitQueue::Wake),
        FLAG,
        vmlinux!["__wake_up"],
        "1 the wait queue",
        "who wakes those that wait for kvm_busy",
    ),
    point(
        "workqueue_execute_start",
        Kind::Tracepoint,
        Role::Work(Work::Start),
        RESET_WORK,
        vmlinux!["workqueue:workqueue_execute_start"],
        "the work item",
        "which worker verifies a queue's reset, and since when",
    )
    .or(&[entry_id::APQ_RESET_CHECK]),
    point(
        "workqueue_execute_end",
        Kind::Tracepoint,
        Role::Work(Work::End),
        RESET_WORK,
        vmlinux!["workqueue:workqueue_execute_end"],
        "the work item",
        "when a queue's reset is verified",
    )
    .or(&[entry_id::APQ_RESET_CHECK]),
    point(
        "flush_work",
        Kind::Function,
        Role::Work(Work::Flush),
        RESET_WORK,
        vmlinux!["flush_work"],
        "1 the work item",
        "who waits for a queue's reset",
    )
    .or(&[entry_id::RESET_QUEUES]),
    point(
        "kvm_arch_destroy_vm",
        Kind::Function,
        Role::Gone(Gone::Kvm),
        ALL,
        kvm!["kvm_arch_destroy_vm"],
        "1 struct kvm *",
        "locks of guests that ended: they stay until their slots are needed",
    ),
    point(
        "kvm_arch_vcpu_destroy",
        Kind::Function,
        Role::Gone(Gone::Vcpu),
        ALL,
        kvm!["kvm_arch_vcpu_destroy"],
        "1 struct kvm_vcpu *",
        "locks of vCPUs that ended: they stay until their slots are needed",
    ),
    point(
        "vfio_ap_mdev_remove (end of the mdev)",
        Kind::Function,
        Role::Gone(Gone::Mdev),
        ALL,
        vfio_ap!["vfio_ap_mdev_remove"],
        "1 struct mdev_device *",
        "locks of mdevs that were removed",
    ),
    point(
        "vfio_ap_mdev_remove_queue (end of the queue)",
        Kind::Function,
        Role::Gone(Gone::Queue),
        ALL,
        vfio_ap!["vfio_ap_mdev_remove_queue", "vfio_ap_queue_dev_remove"],
        "1 struct ap_device *",
        "work items of queues that are gone",
    ),
];
