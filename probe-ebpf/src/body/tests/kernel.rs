//! What is different in a kernel: acquisitions that are settled later, contention events, adopted locks, returns found
//! by their frame.

use super::*;
use crate::abi::{NO_OFFSET, PENDING_HOLD, PENDING_WAIT};
use crate::body::attempts::{Attempt, attempt, tried};
use crate::body::{adopt, contention};

/// A vCPU's state description, and its file.
const SIE: u64 = 0xd000;
const FILE: u64 = 0xe000;

/// A kernel whose lock functions are seen at their entry.
fn tentative(contention_events: u32) -> Fake {
    let mut env = Fake::new();
    env.config = Config {
        tentative: 1,
        adopts: 1,
        user_memory: 0,
        contention_events,
        vcpu_mutex: 0x100,
        vcpu_id: 0x108,
        vcpu_sie_block: 0x110,
        sie_ipa: 4,
        kvm_lock: 0x20,
        kvm_rwsem: NO_OFFSET,
        mdev_kvm: NO_OFFSET,
        vdev_kvm: NO_OFFSET,
        file_private_data: 0x30,
        kvm_device_private: NO_OFFSET,
        kvm_vfio_lock: NO_OFFSET,
        kvm_device_kvm: NO_OFFSET,
        vdev_dev_set: NO_OFFSET,
        dev_set_lock: NO_OFFSET,
        has_flag: 0,
        ..env.config
    };
    env
}

fn owned_by(env: &Fake, lock: u64, task: u32) {
    env.memory
        .borrow_mut()
        .insert(lock, 0x10_0000 + 0x1000 * u64::from(task) + 1);
}

fn free(env: &Fake, lock: u64) {
    env.memory.borrow_mut().insert(lock, 0);
}

#[test]
fn an_attempt_counts_when_it_is_settled_by_the_release() {
    let env = tentative(0);
    free(&env, KVM_LOCK);
    attempt(env.at(1000), KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(sum(&stats.wait), 0, "not before its next event");
    owned_by(&env, KVM_LOCK, 0);
    locks::release_mode(env.at(1500), KVM_LOCK, Mode::Exclusive);
    assert_eq!((stats.wait[0].get(), sum(&stats.wait)), (1, 1));
    assert_eq!((stats.contended.get(), stats.hold_sum.get()), (0, 500));
    assert_eq!(env.tasks[0].0.pending.get(), 0);
}

#[test]
fn without_events_a_wait_ends_at_the_release_before_it() {
    let env = tentative(0);
    free(&env, KVM_LOCK);
    attempt(env.at(1000), KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    owned_by(&env, KVM_LOCK, 0);
    attempt(
        env.task_is(1).at(2000),
        KVM_LOCK,
        Mode::Exclusive,
        Attempt::Sure,
    );
    assert_eq!(env.tasks[1].0.pending.get() & 3, PENDING_WAIT);
    assert_eq!(env.tasks[1].0.waits_len.get(), 1);
    locks::release_mode(env.task_is(0).at(5000), KVM_LOCK, Mode::Exclusive);
    owned_by(&env, KVM_LOCK, 1);
    // The waiter's next event is its own release.
    locks::release_mode(env.task_is(1).at(9000), KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(stats.contended.get(), 1);
    assert_eq!(stats.wait_sum.get(), 3000);
    assert_eq!(stats.hold_sum.get(), 4000 + 4000);
    assert_eq!(env.tasks[1].0.waits_len.get(), 0);
    assert!(env.held(1).is_empty());
}

#[test]
fn a_killable_attempt_without_the_lock_has_failed() {
    let env = tentative(0);
    owned_by(&env, VCPU_MUTEX, 1);
    attempt(&env, VCPU_MUTEX, Mode::Exclusive, Attempt::MayFail);
    // Killed: its next event is another lock.
    free(&env, KVM_LOCK);
    attempt(&env, KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    let stats = env.stats(class_id::VCPU_MUTEX, Mode::Exclusive);
    assert_eq!((stats.attempts_failed.get(), sum(&stats.wait)), (1, 0));
    assert_eq!(env.held(0), [KVM_LOCK]);
}

#[test]
fn a_trylock_makes_no_edge_and_fails_by_the_owner_word() {
    let env = tentative(1);
    free(&env, KVM_LOCK);
    attempt(&env, KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    owned_by(&env, KVM_LOCK, 0);
    owned_by(&env, VCPU_MUTEX, 1);
    attempt(&env, VCPU_MUTEX, Mode::Exclusive, Attempt::Try);
    locks::release_mode(&env, KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::VCPU_MUTEX, Mode::Exclusive);
    assert_eq!(stats.attempts_failed.get(), 1);
    assert_eq!(
        env.edge_count(class_id::KVM_LOCK, class_id::VCPU_MUTEX, 0),
        0
    );
    assert!(env.held(0).is_empty());
}

#[test]
fn contention_takes_a_pending_acquisition_back_and_times_the_wait() {
    let env = tentative(1);
    attempt(env.at(1000), KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    assert_eq!(env.tasks[0].0.pending.get() & 3, PENDING_HOLD);
    contention::begins(env.at(1100), KVM_LOCK, Mode::Exclusive);
    assert!(env.held(0).is_empty());
    // A mutex says so again when it goes to sleep.
    contention::begins(env.at(1700), KVM_LOCK, Mode::Exclusive);
    contention::ends(env.at(3100), KVM_LOCK, 0);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!(
        (
            stats.contended.get(),
            sum(&stats.wait),
            stats.wait_sum.get()
        ),
        (1, 1, 2000)
    );
    locks::release_mode(env.at(4000), KVM_LOCK, Mode::Exclusive);
    assert_eq!(stats.hold_sum.get(), 900);
}

#[test]
fn an_interrupted_contention_is_a_failed_attempt() {
    let env = tentative(1);
    attempt(&env, VCPU_MUTEX, Mode::Exclusive, Attempt::MayFail);
    contention::begins(&env, VCPU_MUTEX, Mode::Exclusive);
    contention::ends(&env, VCPU_MUTEX, -4);
    let stats = env.stats(class_id::VCPU_MUTEX, Mode::Exclusive);
    assert_eq!((stats.attempts_failed.get(), sum(&stats.wait)), (1, 0));
    assert!(env.held(0).is_empty());
    assert_eq!(env.tasks[0].0.pending.get(), 0);
}

#[test]
fn what_the_contention_event_has_counted_fexit_does_not_count_again() {
    let mut env = tentative(1);
    env.config.tentative = 0;
    contention::begins(env.at(1000), KVM_LOCK, Mode::Exclusive);
    contention::ends(env.at(3000), KVM_LOCK, 0);
    locks::acquired_unless_held(env.at(3100), KVM_LOCK, Mode::Exclusive);
    locks::release_mode(env.at(4000), KVM_LOCK, Mode::Exclusive);
    locks::acquired_unless_held(env.at(5000), KVM_LOCK, Mode::Exclusive);
    locks::release_mode(env.at(5100), KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!((sum(&stats.wait), stats.wait[0].get()), (2, 1));
    assert_eq!((stats.wait_sum.get(), stats.hold_sum.get()), (2000, 1100));
    assert_eq!(stats.unmatched_releases.get(), 0);
}

#[test]
fn below_level_2_only_contended_waits_are_seen() {
    let env = tentative(1);
    attempt(&env, KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    env.level.set(1);
    contention::begins(env.at(1000), VCPU_MUTEX, Mode::Exclusive);
    assert!(
        env.held(0).is_empty(),
        "what was held is not known any more"
    );
    contention::ends(env.at(4000), VCPU_MUTEX, 0);
    attempt(&env, KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    locks::release_mode(&env, KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::VCPU_MUTEX, Mode::Exclusive);
    assert_eq!((stats.contended.get(), stats.wait_sum.get()), (1, 3000));
    assert!(env.held(0).is_empty());
    assert_eq!(
        env.edge_count(class_id::KVM_LOCK, class_id::VCPU_MUTEX, 0),
        0,
        "no edge from a lock that may have been released"
    );
    let other = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    // The attempt of before was settled; those after left no trace.
    assert_eq!((sum(&other.wait), other.unmatched_releases.get()), (1, 0));
}

#[test]
fn a_downgrade_ends_a_write_and_begins_a_read() {
    let mut env = tentative(1);
    env.config.tentative = 0;
    locks::acquired_unless_held(env.at(1000), RWSEM, Mode::Write);
    locks::downgraded(env.at(1600), RWSEM);
    locks::release_mode(env.at(2000), RWSEM, Mode::Read);
    let sums = [Mode::Write, Mode::Read]
        .map(|mode| env.stats(class_id::PQAP_HOOK_RWSEM, mode).hold_sum.get());
    assert_eq!(sums, [600, 400]);
}

#[test]
fn a_return_finds_its_call_by_the_frame() {
    let env = tentative(1);
    entries::enter_frame(
        env.at(1000),
        entry_id::HANDLE_PQAP,
        [VCPU, 0, 0, 0, 0, 0],
        0x9000,
    );
    entries::enter_frame(env.at(1100), entry_id::ASSIGN_ADAPTER, [0; 6], 0x8f00);
    entries::leave_frame(env.at(1300), 0x1234, 0);
    entries::leave_frame(env.at(1500), 0x8f00, 0);
    entries::leave_frame(env.at(2000), 0x9000, 0);
    let latency = |id: u8| env.entry_stats[id as usize].latency_sum.get();
    assert_eq!(latency(entry_id::ASSIGN_ADAPTER), 400);
    assert_eq!(latency(entry_id::HANDLE_PQAP), 1000);
    assert_eq!(env.tasks[0].0.inside_len.get(), 0);
}

#[test]
fn a_missed_return_does_not_swallow_those_that_follow() {
    let env = tentative(1);
    for start in [1000, 2000, 3000] {
        entries::enter_frame(env.at(start), entry_id::ASSIGN_ADAPTER, [0; 6], 0x9000);
        if start != 2000 {
            entries::leave_frame(env.at(start + 100), 0x9000, 7);
        }
    }
    let stats = &env.entry_stats[entry_id::ASSIGN_ADAPTER as usize];
    assert_eq!((stats.calls.get(), sum(&stats.latency)), (3, 2));
    assert_eq!(stats.latency_sum.get(), 200);
    assert_eq!(env.tasks[0].0.inside_len.get(), 0);
}

#[test]
fn of_an_opcode_group_only_pqap_counts() {
    let mut env = tentative(1);
    env.entries.insert(
        entry_id::KVM_HANDLE_PQAP,
        EntryInfo {
            flags: abi::ENTRY_PQAP | abi::ENTRY_RETURNS_INT,
            resolve: Resolve::VcpuB2 as u8,
            reserved: [0; 6],
        },
    );
    env.memory.borrow_mut().insert(VCPU + 0x110, SIE);
    let calls = |env: &Fake| {
        env.entry_stats[entry_id::KVM_HANDLE_PQAP as usize]
            .calls
            .get()
    };
    for (opcode, expected) in [([0xb2, 0x2b], 0), ([0xb2, 0xaf], 1)] {
        for (n, byte) in opcode.into_iter().enumerate() {
            env.memory.borrow_mut().insert(SIE + 4 + n as u64, byte);
        }
        let args = [VCPU, 0, 0, 0, 0, 0];
        entries::enter_frame(&env, entry_id::KVM_HANDLE_PQAP, args, 0x9000);
        assert_eq!(calls(&env), expected);
    }
}

#[test]
fn a_vcpus_ioctl_adopts_its_locks_and_those_of_its_guest() {
    let mut env = tentative(1);
    env.entries.insert(
        entry_id::KVM_VCPU_IOCTL,
        EntryInfo {
            flags: 0,
            resolve: Resolve::VcpuFile as u8,
            reserved: [0; 6],
        },
    );
    env.memory
        .borrow_mut()
        .extend([(FILE + 0x30, VCPU), (VCPU + 0x108, 3)]);
    entries::enter_frame(
        &env,
        entry_id::KVM_VCPU_IOCTL,
        [FILE, 0xae80, 0, 0, 0, 0],
        0x9000,
    );
    let adopted: Vec<(u64, u8, u64, u32)> = env
        .adopted
        .borrow()
        .iter()
        .map(|lock| (lock.address, lock.class, lock.object, lock.number))
        .collect();
    assert_eq!(
        adopted,
        [
            (KVM + 0x20, class_id::KVM_LOCK, KVM, 0),
            (VCPU + 0x100, class_id::VCPU_MUTEX, KVM, 3)
        ]
    );
    adopt::vcpu_gone(&env, VCPU);
    adopt::kvm_gone(&env, KVM);
    assert_eq!(*env.forgotten.borrow(), [VCPU + 0x100, KVM + 0x20]);
}

#[test]
fn nothing_is_adopted_through_an_offset_that_is_not_known() {
    let mut env = tentative(1);
    env.config.file_private_data = NO_OFFSET;
    env.entries.insert(
        entry_id::KVM_VCPU_IOCTL,
        EntryInfo {
            flags: 0,
            resolve: Resolve::VcpuFile as u8,
            reserved: [0; 6],
        },
    );
    entries::enter_frame(
        &env,
        entry_id::KVM_VCPU_IOCTL,
        [0xe000, 0, 0, 0, 0, 0],
        0x9000,
    );
    assert!(env.adopted.borrow().is_empty());
}

#[test]
fn a_stack_is_a_record_like_every_other_and_counted() {
    let env = tentative(1);
    env.stacks_over.set(1000);
    contention::begins(env.at(1000), KVM_LOCK, Mode::Exclusive);
    contention::ends(env.at(3000), KVM_LOCK, 0);
    locks::release_mode(env.at(3500), KVM_LOCK, Mode::Exclusive);
    let spans = env.spans.borrow();
    let kinds: Vec<u8> = spans.iter().map(|span| span.kind).collect();
    assert_eq!(kinds, [abi::SPAN_STACK, SPAN_LOCK], "the hold was short");
    assert_eq!(
        (spans[0].extra, spans[0].start_ns, spans[0].duration_ns),
        (5, 1000, 2000)
    );
    let emitted: u64 = env.counters.iter().map(|c| c.emitted.get()).sum();
    assert_eq!(emitted, 2);
}

#[test]
fn a_wait_of_before_a_silence_is_not_continued() {
    let env = tentative(1);
    contention::begins(env.at(1000), KVM_LOCK, Mode::Exclusive);
    // Its end was not seen: nobody was there.
    env.epoch.set(1);
    contention::begins(env.at(50_000), KVM_LOCK, Mode::Exclusive);
    contention::ends(env.at(51_000), KVM_LOCK, 0);
    locks::release_mode(env.at(51_500), KVM_LOCK, Mode::Exclusive);
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!((sum(&stats.wait), stats.wait_sum.get()), (1, 1000));
    assert_eq!(stats.hold_sum.get(), 500);
}

#[test]
fn nesting_beyond_the_record_ends_with_the_next_outer_call() {
    let env = tentative(1);
    let args = [0; 6];
    for depth in 0..MAX_NESTED as u64 + 2 {
        entries::enter_frame(&env, entry_id::ASSIGN_ADAPTER, args, 0x9000 - depth * 0x100);
    }
    entries::enter_frame(env.at(5000), entry_id::ASSIGN_ADAPTER, args, 0x9000);
    assert_eq!(env.tasks[0].0.inside_len.get(), 1);
    entries::leave_frame(env.at(6000), 0x9000, 0);
    assert_eq!(
        env.entry_stats[entry_id::ASSIGN_ADAPTER as usize]
            .latency_sum
            .get(),
        1000
    );
}

/// A lock of which nothing is known but its address.
const GIVEN: u64 = 0xf000;

fn with_given(mut env: Fake) -> Fake {
    let info = LockInfo {
        target: 0,
        instance: 0,
        class: class_id::GIVEN_LOCK,
        kind: LockKind::Rwsem as u8,
        flags: 0,
        reserved: 0,
    };
    env.locks = BTreeMap::from([(GIVEN, info)]);
    env
}

#[test]
fn a_given_lock_is_what_it_is_taken_as() {
    let env = with_given(Fake::new());
    locks::acquired(env.at(1000), GIVEN, Mode::Exclusive);
    locks::release_mode(env.at(1300), GIVEN, Mode::Exclusive);
    let mutex = env.stats(class_id::GIVEN_MUTEX, Mode::Exclusive);
    assert_eq!((mutex.wait[0].get(), mutex.hold_sum.get()), (1, 300));
    let rwsem = env.stats(class_id::GIVEN_LOCK, Mode::Write);
    assert_eq!((sum(&rwsem.wait), sum(&rwsem.hold)), (0, 0));
    assert_eq!(sum(&env.instances[2].wait), 1, "the mutex's own slot");
    assert_eq!(sum(&env.instances[0].wait), 0);

    let env = with_given(Fake::new());
    locks::acquired(&env, GIVEN, Mode::Write);
    locks::release_mode(&env, GIVEN, Mode::Write);
    contention::begins(env.at(2000), GIVEN, Mode::Read);
    contention::ends(env.at(2500), GIVEN, 0);
    let write = env.stats(class_id::GIVEN_LOCK, Mode::Write);
    let read = env.stats(class_id::GIVEN_LOCK, Mode::Read);
    assert_eq!((sum(&write.wait), read.wait_sum.get()), (1, 500));
    let mutex = env.stats(class_id::GIVEN_MUTEX, Mode::Exclusive);
    assert_eq!(sum(&mutex.wait), 0);
}

#[test]
fn a_failed_trylock_of_a_given_mutex_is_told_by_its_owner_word() {
    let env = with_given(tentative(1));
    owned_by(&env, GIVEN, 1);
    attempt(&env, GIVEN, Mode::Exclusive, Attempt::Try);
    // The task's next event.
    locks::release_mode(&env, KVM_LOCK, Mode::Exclusive);
    let mutex = env.stats(class_id::GIVEN_MUTEX, Mode::Exclusive);
    assert_eq!((mutex.attempts_failed.get(), sum(&mutex.wait)), (1, 0));
    assert!(env.held(0).is_empty());
}

#[test]
fn waits_are_counted_while_they_last() {
    let env = tentative(1);
    contention::begins(&env, KVM_LOCK, Mode::Exclusive);
    // A mutex says so twice.
    contention::begins(&env, KVM_LOCK, Mode::Exclusive);
    contention::begins(env.task_is(1), VCPU_MUTEX, Mode::Exclusive);
    assert_eq!(env.waiting.get(), 2);
    contention::ends(env.task_is(1), KVM_LOCK, 0);
    assert_eq!(env.waiting.get(), 2, "another task's wait");
    contention::ends(&env, VCPU_MUTEX, -4);
    contention::ends(env.task_is(0), KVM_LOCK, 0);
    assert_eq!(env.waiting.get(), 0);
    contention::ends(&env, KVM_LOCK, 0);
    assert_eq!(env.waiting.get(), 0, "an end without a beginning");
}

/// A device, in a kernel whose mdevs have a flag and whose queues have a work item.
fn removing() -> Fake {
    let mut env = tentative(1);
    env.config = Config {
        has_flag: 1,
        mdev_flag: 0x10,
        mdev_wait_queue: 0x18,
        queue_reset_work: 0x28,
        reset_work_func: 0x99,
        device_driver_data: 0x50,
        ap_device_queue: 0x50,
        mdev_device_driver_data: 0x50,
        ..env.config
    };
    let entry = |resolve: Resolve, flags| EntryInfo {
        flags,
        resolve: resolve as u8,
        reserved: [0; 6],
    };
    env.entries = BTreeMap::from([
        (
            entry_id::REMOVE,
            entry(Resolve::MdevDevice, abi::ENTRY_RETURNS_INT),
        ),
        (
            entry_id::REMOVE_QUEUE,
            entry(Resolve::ApDevice, abi::ENTRY_RETURNS_VOID),
        ),
    ]);
    env.memory.borrow_mut().insert(FILE + 0x50, MDEV);
    env.memory.borrow_mut().insert(VCPU + 0x50, WORK);
    env
}

#[test]
fn an_mdev_is_forgotten_when_it_was_removed() {
    let env = removing();
    entries::enter_frame(&env, entry_id::REMOVE, [FILE, 0, 0, 0, 0, 0], 0x900);
    assert!(env.forgotten.borrow().is_empty(), "it goes on until then");
    entries::leave_frame(&env, 0x900, 0);
    assert_eq!(*env.forgotten.borrow(), [FLAG, QUEUE]);
}

#[test]
fn an_mdev_that_is_in_use_is_not_forgotten() {
    let env = removing();
    entries::enter_frame(&env, entry_id::REMOVE, [FILE, 0, 0, 0, 0, 0], 0x900);
    entries::leave_frame(&env, 0x900, (-16_i64) as u64);
    assert!(env.forgotten.borrow().is_empty());
}

#[test]
fn the_work_item_of_a_queue_is_forgotten_with_it() {
    let env = removing();
    entries::enter_frame(&env, entry_id::REMOVE_QUEUE, [VCPU, 0, 0, 0, 0, 0], 0x900);
    entries::leave_frame(&env, 0x900, 0xffff_ffff);
    assert_eq!(*env.forgotten.borrow(), [WORK + 0x28]);
}

#[test]
fn locks_around_a_device_come_with_the_open_device_and_go_with_the_mdev() {
    for (group_is_rwsem, class) in [(0, class_id::GROUP_LOCK), (1, class_id::GROUP_RWSEM)] {
        locks_around_a_device(group_is_rwsem, class);
    }
}

fn locks_around_a_device(group_is_rwsem: u32, class: u8) {
    let mut env = removing();
    env.config.has_flag = 0;
    env.config.vdev_dev_set = 0x70;
    env.config.dev_set_lock = 0x8;
    env.config.vdev_group = 0x78;
    env.config.group_lock = 0x10;
    env.config.group_is_rwsem = group_is_rwsem;
    let entry = |resolve: Resolve| EntryInfo {
        flags: 0,
        resolve: resolve as u8,
        reserved: [0; 6],
    };
    for id in [entry_id::OPEN_DEVICE, entry_id::CLOSE_DEVICE] {
        env.entries.insert(id, entry(Resolve::VfioDevice));
    }
    env.memory.borrow_mut().insert(MDEV + 0x70, HOOK);
    env.memory.borrow_mut().insert(MDEV + 0x78, RUN);
    for (id, frame) in [
        (entry_id::CLOSE_DEVICE, 0x900),
        (entry_id::OPEN_DEVICE, 0x800),
    ] {
        entries::enter_frame(&env, id, [MDEV, 0, 0, 0, 0, 0], frame);
        let adopted = env.adopted.borrow();
        let found: Vec<_> = adopted
            .iter()
            .map(|lock| (lock.class, lock.address, lock.object))
            .collect();
        let expected = [
            (class_id::DEV_SET_LOCK, HOOK + 8, MDEV),
            (class, RUN + 0x10, MDEV),
        ];
        if id == entry_id::OPEN_DEVICE {
            assert_eq!(found, expected);
        } else {
            assert!(found.is_empty());
        }
    }
    entries::enter_frame(&env, entry_id::REMOVE, [FILE, 0, 0, 0, 0, 0], 0x700);
    assert_eq!(*env.forgotten.borrow(), [HOOK + 8, RUN + 0x10]);
}

#[test]
fn locks_around_a_device_are_known_before_it_is_opened() {
    let mut env = removing();
    env.config.has_flag = 0;
    env.config.vdev_group = 0x78;
    env.config.group_lock = 0x10;
    let probe = EntryInfo {
        flags: abi::ENTRY_RETURNS_INT,
        resolve: Resolve::MdevDevice as u8,
        reserved: [0; 6],
    };
    env.entries.insert(entry_id::PROBE, probe);
    env.memory.borrow_mut().insert(MDEV + 0x78, RUN);
    for (value, known) in [(-12_i64, 0), (0, 1)] {
        entries::enter_frame(&env, entry_id::PROBE, [FILE, 0, 0, 0, 0, 0], 0x900);
        entries::leave_frame(&env, 0x900, value as u64);
        assert_eq!(env.adopted.borrow().len(), known);
    }
}

#[test]
fn a_wait_that_began_before_attaching_ends_without_a_trace() {
    let env = tentative(1);
    // Somebody else waits, so that ends are looked at.
    contention::begins(env.at(1000), KVM_LOCK, Mode::Exclusive);
    contention::ends(env.task_is(1).at(2000), KVM_LOCK, 0);
    let counters = &env.counters[Program::ContentionEnd as usize];
    assert_eq!(counters.no_task_slot.get(), 0);
    assert!(env.notes.borrow().is_empty());
    let stats = env.stats(class_id::KVM_LOCK, Mode::Exclusive);
    assert_eq!((stats.contended.get(), sum(&stats.wait)), (1, 0));
    assert_eq!(env.waiting.get(), 1, "the other one still waits");
}

#[test]
fn the_trylock_of_an_rwsem_is_settled_by_what_it_returns() {
    for mode in [Mode::Read, Mode::Write] {
        let env = tentative(1);
        attempt(env.at(1000), RWSEM, mode, Attempt::Try);
        tried(env.at(1010), false);
        let stats = env.stats(class_id::PQAP_HOOK_RWSEM, mode);
        assert_eq!((stats.attempts_failed.get(), sum(&stats.wait)), (1, 0));
        assert!(env.held(0).is_empty());
        attempt(env.at(2000), RWSEM, mode, Attempt::Try);
        tried(env.at(2010), true);
        assert_eq!(env.held(0), [RWSEM]);
        assert_eq!(env.tasks[0].0.pending.get(), 0);
        assert_eq!((stats.attempts_failed.get(), sum(&stats.wait)), (1, 1));
        locks::release_traced(env.at(2600), RWSEM, mode);
        assert_eq!(stats.hold_sum.get(), 600);
    }
}

#[test]
fn the_return_of_another_locks_trylock_settles_nothing() {
    let env = tentative(1);
    attempt(env.at(1000), VCPU_MUTEX, Mode::Exclusive, Attempt::MayFail);
    let pending = env.tasks[0].0.pending.get();
    tried(env.at(1100), false);
    assert_eq!(env.tasks[0].0.pending.get(), pending);
    tried(env.task_is(1).at(1200), false);
    assert!(!env.recorded.borrow().contains(&1), "a stranger's");
}

#[test]
fn the_release_of_a_lock_that_nobody_traces_costs_one_look() {
    let env = tentative(1);
    attempt(env.at(1000), KVM_LOCK, Mode::Exclusive, Attempt::Sure);
    let looks = env.task_looks.get();
    locks::release_traced(env.at(1100), 0x9999, Mode::Exclusive);
    assert_eq!(env.task_looks.get(), looks);
    locks::release_traced(env.at(1200), KVM_LOCK, Mode::Exclusive);
    assert!(env.task_looks.get() > looks);
}

#[test]
fn a_downgrade_is_seen_where_functions_are_seen_at_their_entry() {
    let env = tentative(1);
    attempt(env.at(1000), RWSEM, Mode::Write, Attempt::Sure);
    locks::downgraded(env.at(1600), RWSEM);
    locks::release_traced(env.at(2000), RWSEM, Mode::Read);
    let sums = [Mode::Write, Mode::Read]
        .map(|mode| env.stats(class_id::PQAP_HOOK_RWSEM, mode).hold_sum.get());
    assert_eq!(sums, [600, 400]);
}
