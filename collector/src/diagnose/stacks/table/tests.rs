use probe_ebpf::abi::Mode;
use probe_ebpf::names::{CLASSES, ENTRY_POINTS};

use super::super::text::{Frame, Task};
use super::*;
use crate::attach::generation::Generation::{
    Rfc2021_07, V5_10, V5_11, V5_13, V5_15, V5_15Rc, V5_19, V6_0, V6_6, V7_3,
};

/// A task with this stack, innermost first: `mutex_lock handle_pqap:vfio_ap ?kvm_vcpu_ioctl:kvm`.
fn task(stack: &str) -> Task {
    let frame = |word: &str| {
        let reliable = !word.starts_with('?');
        let word = word.trim_start_matches('?');
        let (symbol, module) = word
            .split_once(':')
            .map_or((word, None), |(s, m)| (s, Some(m)));
        Frame {
            symbol: symbol.into(),
            offset: Some(0x52),
            module: module.map(Into::into),
            reliable,
        }
    };
    Task {
        comm: "a".into(),
        tid: 7,
        state: Some('D'),
        frames: stack.split_whitespace().map(frame).collect(),
        ..Task::default()
    }
}

fn spell((class, mode): Lock) -> String {
    let name = CLASSES[usize::from(class)].name;
    match mode {
        Mode::Exclusive => name.into(),
        Mode::Read => format!("{name} R"),
        Mode::Write => format!("{name} W"),
    }
}

fn list(locks: &[Lock]) -> String {
    locks
        .iter()
        .map(|lock| spell(*lock))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `held, held -> awaited`, for each candidate; what may be held in brackets.
fn said(implied: &Implied) -> String {
    let maybe = |locks: &[Lock]| match locks {
        [] => String::new(),
        locks => format!(" [{}]", list(locks)),
    };
    match &implied.waits {
        Some(all) => all
            .iter()
            .map(|c| {
                format!(
                    "{}{} -> {}",
                    list(&c.holds),
                    maybe(&c.may_hold),
                    spell(c.lock)
                )
            })
            .collect::<Vec<_>>()
            .join(" | "),
        None => format!(
            "{}{} {:?}",
            list(&implied.holds),
            maybe(&implied.may_hold),
            implied.activity
        ),
    }
}

fn says(stack: &str, generation: Generation) -> String {
    said(&imply(&task(stack), Generations::of(&[generation])))
}

const VCPU: &str = "handle_pqap:vfio_ap kvm_s390_handle_b2:kvm kvm_handle_sie_intercept:kvm \
    kvm_arch_vcpu_ioctl_run:kvm kvm_vcpu_ioctl:kvm __s390x_sys_ioctl";
const MUTEX: &str = "__schedule schedule schedule_preempt_disabled __mutex_lock.constprop.0";

#[test]
fn a_vcpu_in_the_handler() {
    let mutex = format!("{MUTEX} {VCPU}");
    assert_eq!(says(&mutex, V5_10), "vcpu->mutex -> matrix_dev->lock");
    assert_eq!(
        says(&mutex, V5_15),
        "vcpu->mutex, pqap_hook_rwsem R -> matrix_dev->lock"
    );
    assert_eq!(
        says(&mutex, V7_3),
        "vcpu->mutex, pqap_hook_rwsem R -> matrix_dev->mdevs_lock"
    );
    let flag = format!("__schedule schedule {VCPU}");
    assert_eq!(says(&flag, V5_13), "vcpu->mutex -> kvm_busy");
    assert_eq!(
        says(&flag, V5_15Rc),
        "vcpu->mutex, pqap_hook_rwsem R -> kvm_busy"
    );
    // As /proc shows it: mutex or flag, which is in the flag's generations only.
    assert_eq!(says(VCPU, V5_10), "vcpu->mutex -> matrix_dev->lock");
    assert_eq!(
        says(VCPU, V5_13),
        "vcpu->mutex -> matrix_dev->lock | vcpu->mutex -> kvm_busy"
    );
    // Disabling an interrupt sleeps with all the locks held.
    let polls = format!("msleep vfio_ap_irq_disable:vfio_ap {VCPU}");
    assert_eq!(
        says(&polls, V6_6),
        "vcpu->mutex, pqap_hook_rwsem R, matrix_dev->mdevs_lock SleepingIn(\"vfio_ap_irq_disable\")"
    );
    // A lock that is not the driver's.
    let pin =
        format!("{MUTEX} vfio_iommu_type1_pin_pages:vfio_iommu_type1 vfio_pin_pages:vfio {VCPU}");
    assert_eq!(
        says(&pin, V5_10),
        "vcpu->mutex, matrix_dev->lock SleepingIn(\"a mutex_lock of vfio_iommu_type1_pin_pages\")"
    );
}

/// IBM's debug builds have kvm's `handle_pqap` as a function, as in the report of 2021.
#[test]
fn both_handlers_have_one_name() {
    let both =
        "mutex_lock handle_pqap:vfio_ap handle_pqap:kvm kvm_s390_handle_b2:kvm kvm_vcpu_ioctl:kvm";
    assert_eq!(
        says(both, V5_15),
        "vcpu->mutex, pqap_hook_rwsem R -> matrix_dev->lock"
    );
    let bare = both.replace(":vfio_ap", "").replace(":kvm", "");
    assert_eq!(says(&bare, V5_15), says(both, V5_15));
    let implied = imply(&task(&bare), Generations::of(&[V5_15]));
    let names: Vec<_> = implied
        .inside
        .iter()
        .map(|id| ENTRY_POINTS[usize::from(*id)].name)
        .collect();
    assert_eq!(
        names,
        ["kvm_vcpu_ioctl", "handle_pqap [kvm]", "handle_pqap"]
    );
    // Waiting for the hook's rwsem, kvm's handler is innermost, and there is one.
    let waits = "down_read handle_pqap kvm_s390_handle_b2 kvm_vcpu_ioctl";
    let implied = imply(&task(waits), Generations::of(&[V5_15]));
    assert_eq!(said(&implied), "vcpu->mutex -> pqap_hook_rwsem R");
    assert!(implied.certain);
    // With kvm's inlined it may be the lock of the address space.
    let inlined = "down_read kvm_s390_handle_b2:kvm kvm_vcpu_ioctl:kvm";
    let implied = imply(&task(inlined), Generations::of(&[V5_15]));
    assert_eq!(said(&implied), "vcpu->mutex -> pqap_hook_rwsem R");
    assert!(!implied.certain);
}

#[test]
fn unbinding_a_guest() {
    let inner = "mutex_lock kvm_arch_crypto_clear_masks:kvm";
    let release = "vfio_ap_mdev_release:vfio_ap vfio_device_fops_release:vfio __fput";
    let masks = format!("{inner} {release}");
    assert_eq!(says(&masks, V5_10), "matrix_dev->lock -> kvm->lock");
    assert_eq!(says(&masks, V5_13), "kvm_busy -> kvm->lock");
    assert_eq!(says(&masks, Rfc2021_07), "pqap_hook_rwsem W -> kvm->lock");
    // Where the compiler did not inline.
    let split = format!("{inner} vfio_ap_mdev_unset_kvm.part.0:vfio_ap {release}");
    assert_eq!(says(&split, V5_13), "kvm_busy -> kvm->lock");
    let first = format!("mutex_lock {release}");
    assert_eq!(says(&first, V5_10), " -> matrix_dev->lock");
    assert_eq!(
        says(&first, V5_13),
        " -> matrix_dev->lock | kvm_busy -> matrix_dev->lock"
    );
    assert_eq!(says(&format!("schedule {release}"), V5_13), " -> kvm_busy");
    let close = "vfio_ap_mdev_close_device:vfio_ap vfio_df_group_close:vfio __fput";
    assert_eq!(
        says(
            &format!("rwsem_down_write_slowpath down_write {close}"),
            V7_3
        ),
        "group_lock, dev_set->lock, matrix_dev->guests_lock, kvm->lock -> pqap_hook_rwsem W"
    );
    assert_eq!(
        says(
            &format!("rwsem_down_write_slowpath down_write {close}"),
            V6_6
        ),
        "group_lock, dev_set->lock -> pqap_hook_rwsem W"
    );
    let flush = format!("__flush_work vfio_ap_mdev_reset_queues:vfio_ap {close}");
    assert_eq!(
        says(&flush, V6_6),
        "group_lock, dev_set->lock, matrix_dev->guests_lock, kvm->lock, matrix_dev->mdevs_lock -> reset_work"
    );
    assert_eq!(
        says(&flush, V7_3),
        "group_lock, dev_set->lock, matrix_dev->guests_lock, kvm->lock, pqap_hook_rwsem W, \
         matrix_dev->mdevs_lock -> reset_work"
    );
    // Opened as a cdev there is no group.
    assert_eq!(
        says(
            "mutex_lock vfio_ap_mdev_close_device:vfio_ap vfio_df_close:vfio",
            V5_19
        ),
        "dev_set->lock, group_rwsem R -> kvm->lock | dev_set->lock, group_rwsem R, kvm->lock -> matrix_dev->lock"
    );
    assert_eq!(
        says(
            "mutex_lock get_update_locks_for_kvm:vfio_ap vfio_ap_mdev_close_device:vfio_ap vfio_df_close:vfio",
            V6_6
        ),
        "dev_set->lock [group_lock] -> matrix_dev->guests_lock | \
         dev_set->lock, matrix_dev->guests_lock [group_lock] -> kvm->lock | \
         dev_set->lock, matrix_dev->guests_lock, kvm->lock [group_lock] -> matrix_dev->mdevs_lock"
    );
}

#[test]
fn the_notifier_chain() {
    let notifier = "mutex_lock kvm_arch_crypto_set_masks:kvm vfio_ap_mdev_group_notifier:vfio_ap \
        notifier_call_chain blocking_notifier_call_chain vfio_group_set_kvm:vfio kvm_vfio_set_attr:kvm";
    assert_eq!(
        says(notifier, V5_11),
        "group notifier rwsem R, matrix_dev->lock [kv->lock] -> kvm->lock"
    );
    assert_eq!(
        says(notifier, V5_10),
        "group notifier rwsem R [kv->lock] -> kvm->lock"
    );
    // Any chain has this function; alone it says nothing.
    let other = "down_read blocking_notifier_call_chain cpu_up";
    assert_eq!(says(other, V5_11), " Elsewhere");
}

#[test]
fn writes_to_attributes() {
    let assign = format!("{MUTEX} assign_domain_store:vfio_ap kernfs_fop_write_iter vfs_write");
    assert_eq!(says(&assign, V5_10), " -> matrix_dev->lock");
    let implied = imply(&task(&assign), Generations::of(&[V6_0]));
    assert_eq!(
        said(&implied),
        " -> ap_perms_mutex | ap_perms_mutex -> matrix_dev->guests_lock | \
         ap_perms_mutex, matrix_dev->guests_lock -> kvm->lock | \
         ap_perms_mutex, matrix_dev->guests_lock [kvm->lock] -> matrix_dev->mdevs_lock"
    );
    assert!(!implied.certain);
    assert_eq!(implied.holds, []);
    assert!(implied.also[0].contains("active reference"));
    let flush = "__flush_work vfio_ap_mdev_reset_qlist.isra.0:vfio_ap \
        vfio_ap_mdev_hot_unplug_domains:vfio_ap unassign_domain_store:vfio_ap kernfs_fop_write_iter";
    assert_eq!(
        says(flush, V6_6),
        "matrix_dev->guests_lock, matrix_dev->mdevs_lock [kvm->lock] -> reset_work"
    );
    // v6.6 and v7.3 agree on this: it is certain, though the generation is not.
    let both = imply(&task(flush), Generations::of(&[V6_6, V7_3]));
    assert!(both.certain);
    assert_eq!(said(&both), says(flush, V6_6));
    // They do not on the name of the bus's mutex.
    let bus = imply(
        &task("mutex_lock apmask_store:ap"),
        Generations::of(&[V6_6, V7_3]),
    );
    assert_eq!(said(&bus), " -> ap_perms_mutex |  -> ap_attr_mutex");
    assert!(!bus.certain);
    let in_use = "mutex_lock vfio_ap_mdev_resource_in_use:vfio_ap apmask_store";
    assert_eq!(
        says(in_use, V6_6),
        "ap_perms_mutex -> matrix_dev->guests_lock | \
         ap_perms_mutex, matrix_dev->guests_lock -> matrix_dev->mdevs_lock"
    );
}

#[test]
fn those_who_do_not_wait_for_a_lock() {
    let polls = "msleep apq_reset_check:vfio_ap process_one_work worker_thread";
    assert_eq!(says(polls, V6_6), "reset_work PollingHardware");
    let remove =
        "wait_for_completion_timeout vfio_unregister_group_dev:vfio vfio_ap_mdev_remove:vfio_ap";
    assert_eq!(
        says(remove, V6_0),
        " SleepingIn(\"vfio_unregister_group_dev\")"
    );
    // The endless loop over a list that was linked twice (6.0-rc7's fix): it runs.
    let mut spins = task("vfio_ap_mdev_reset_queues:vfio_ap vfio_ap_mdev_remove:vfio_ap");
    spins.state = Some('R');
    assert_eq!(
        said(&imply(&spins, Generations::of(&[V6_0]))),
        "matrix_dev->guests_lock, matrix_dev->mdevs_lock Running"
    );
    spins.frames.remove(0);
    let implied = imply(&spins, Generations::of(&[V6_0]));
    assert_eq!(said(&implied), " Running");
    assert!(!implied.certain);
    // In a function that the table does not know: before, under or after any of the locks.
    let other =
        task("schedule synchronize_rcu vfio_unregister_iommu:vfio vfio_ap_mdev_release:vfio_ap");
    let implied = imply(&other, Generations::of(&[V5_10]));
    assert_eq!(
        said(&implied),
        " [matrix_dev->lock, kvm->lock, group notifier rwsem W] SleepingIn(\"synchronize_rcu\")"
    );
    assert!(!implied.certain);
    assert_eq!(
        says("msleep vfio_ap_mdev_release:vfio_ap", V5_10),
        "matrix_dev->lock SleepingIn(\"vfio_ap_mdev_release\")"
    );
    let guest = "schedule kvm_vcpu_block:kvm kvm_arch_vcpu_ioctl_run:kvm kvm_vcpu_ioctl:kvm";
    assert_eq!(
        says(guest, V6_6),
        "vcpu->mutex SleepingIn(\"kvm_vcpu_block\")"
    );
    assert_eq!(says("schedule do_wait kernel_wait4", V6_6), " Elsewhere");
    assert_eq!(says("", V6_6), " Elsewhere");
}

#[test]
fn conversion_to_protected_mode() {
    let inlined = "mutex_lock kvm_arch_vm_ioctl:kvm kvm_vm_ioctl:kvm";
    let implied = imply(&task(inlined), Generations::of(&[V5_10]));
    assert_eq!(said(&implied), " -> kvm->lock | kvm->lock -> vcpu->mutex");
    assert!(!implied.certain);
    let split = "mutex_lock_nested kvm_s390_cpus_to_pv:kvm kvm_arch_vm_ioctl:kvm kvm_vm_ioctl:kvm";
    assert_eq!(says(split, V5_11), "kvm->lock -> vcpu->mutex");
    let pv = "mutex_lock kvm_s390_cpus_from_pv:kvm kvm_s390_handle_pv:kvm kvm_arch_vm_ioctl:kvm";
    let implied = imply(&task(pv), Generations::of(&[V6_6]));
    assert_eq!(said(&implied), "kvm->lock -> vcpu->mutex");
    assert!(implied.certain);
}

/// As sysrq-w shows them on Linux 5.10 with return probes on kvm_arch_crypto_clear_masks and on what calls it.
#[test]
fn callers_that_return_probes_hide() {
    let asleep =
        "__mutex_lock kvm_arch_crypto_clear_masks:kvm kretprobe_trampoline kretprobe_trampoline";
    let closes = format!("{asleep} vfio_device_fops_release:vfio __fput");
    assert_eq!(says(&closes, V5_10), "matrix_dev->lock -> kvm->lock");
    let implied = imply(&task(&closes), Generations::of(&[V5_10]));
    assert!(!implied.certain);
    // The notifier does not hold the driver's lock where it sets masks, and who called is not to be seen.
    assert_eq!(
        says(&format!("{asleep} ksys_ioctl"), V5_10),
        " -> kvm->lock | matrix_dev->lock -> kvm->lock"
    );
    let in_proc = closes.replace("kretprobe_trampoline", "kretprobe_trampoline_holder");
    assert_eq!(says(&in_proc, V5_10), "matrix_dev->lock -> kvm->lock");
    // Not hidden, but called by others.
    let other = "__mutex_lock kvm_arch_crypto_clear_masks:kvm vfio_device_fops_release:vfio";
    assert_eq!(says(other, V5_10), " Elsewhere");
}

#[test]
fn frames_without_the_unwinders_word_are_used_last() {
    let mixed = format!("mutex_lock ?assign_domain_store:vfio_ap {VCPU}");
    assert_eq!(says(&mixed, V5_10), "vcpu->mutex -> matrix_dev->lock");
    let doubtful = "?mutex_lock ?matrix_show:vfio_ap";
    let implied = imply(&task(doubtful), Generations::of(&[V5_10]));
    assert_eq!(said(&implied), " -> matrix_dev->lock");
    assert!(!implied.certain);
    // The same name in another module is another function.
    assert_eq!(says("mutex_lock matrix_show:drm", V5_10), " Elsewhere");
}
