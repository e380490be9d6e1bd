//! On whose behalf a sysfs attribute is accessed, and what entry points resolve.

use super::*;
use crate::abi::{ENTRY_HAS_WRITER, ENTRY_RETURNS_VOID, NO_INSTANCE, SPAN_WRITER};

const COMM: u64 = 0xd001;
const NAME: [[u8; 8]; 2] = [*b"a-long-w", *b"riter\0\0\0"];

fn fake() -> Fake {
    let mut env = Fake::new();
    for flags in [ENTRY_HAS_WRITER, 0] {
        let entry = if flags == 0 {
            entry_id::IOCTL
        } else {
            entry_id::ASSIGN_ADAPTER
        };
        env.entries.insert(
            entry,
            EntryInfo {
                flags,
                resolve: Resolve::Device as u8,
                reserved: [0; 6],
            },
        );
    }
    let mut memory = env.memory.borrow_mut();
    for (n, part) in NAME.into_iter().enumerate() {
        memory.insert(COMM + 8 * n as u64, u64::from_ne_bytes(part));
    }
    drop(memory);
    env
}

#[test]
fn the_writer_is_part_of_the_call_and_named_before_its_span() {
    let env = fake();
    entries::enter(
        env.at(100),
        entry_id::ASSIGN_ADAPTER,
        [0, 0, 0, 0, 1234, COMM],
    );
    let inside = &env.tasks[0].0.inside[0];
    assert_eq!(inside.writer.get(), 1234);
    assert_eq!(
        [0, 1].map(|n: usize| inside.writer_comm[n].get().to_ne_bytes()),
        NAME
    );
    entries::leave(env.at(150), entry_id::ASSIGN_ADAPTER, 5);
    let spans = env.spans.borrow();
    let [writer, call] = spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(
        (writer.kind, writer.instance, writer.tid, writer.what),
        (SPAN_WRITER, 1234, 0, entry_id::ASSIGN_ADAPTER)
    );
    assert_eq!(
        [writer.duration_ns, writer.extra].map(u64::to_ne_bytes),
        NAME
    );
    assert_eq!(
        (call.kind, call.instance, call.duration_ns),
        (SPAN_ENTRY, 1234, 50)
    );
    let counters = &env.counters[Program::Return as usize];
    assert_eq!((counters.emitted.get(), counters.dropped.get()), (2, 0));
}

#[test]
fn a_call_for_oneself_has_no_writer_even_where_the_record_had_one() {
    let env = fake();
    entries::enter(&env, entry_id::ASSIGN_ADAPTER, [0, 0, 0, 0, 1234, COMM]);
    entries::leave(&env, entry_id::ASSIGN_ADAPTER, 5);
    env.spans.borrow_mut().clear();
    // Of an entry point without the flag, arguments 5 and 6 mean nothing.
    for (entry, args) in [
        (entry_id::ASSIGN_ADAPTER, [0, 0, 0, 0, 0, COMM]),
        (entry_id::IOCTL, [0, 0, 0, 0, 77, COMM]),
    ] {
        entries::enter(&env, entry, args);
        assert_eq!(env.tasks[0].0.inside[0].writer.get(), 0);
        entries::leave(&env, entry, 5);
        let spans = env.spans.take();
        assert_eq!(spans.len(), 1);
        assert_eq!(
            (spans[0].kind, spans[0].instance),
            (SPAN_ENTRY, NO_INSTANCE)
        );
    }
}

#[test]
fn a_writer_whose_name_cannot_be_read_still_has_its_pid() {
    let env = fake();
    entries::enter(&env, entry_id::ASSIGN_ADAPTER, [0, 0, 0, 0, 1234, 0]);
    entries::leave(&env, entry_id::ASSIGN_ADAPTER, 5);
    let spans = env.spans.borrow();
    assert_eq!((spans[0].kind, spans[0].duration_ns), (SPAN_WRITER, 0));
    assert_eq!(spans[1].instance, 1234);
}

#[test]
fn objects_and_arguments_by_kind_of_entry_point() {
    let mut env = fake();
    let text = 0xa000;
    for (n, byte) in b"+1,-2\n".iter().enumerate() {
        env.memory
            .borrow_mut()
            .insert(text + n as u64, u64::from(*byte));
    }
    // A queue's APQN is a 32-bit word; an mdev's driver data is set only after `create`.
    env.memory
        .borrow_mut()
        .extend([(0xe00c, 0x0007_0102_0304), (0xe108, MDEV), (0xe208, 0)]);
    let text_word = u64::from_ne_bytes(*b"+1,-2\n\0\0");
    for (resolve, args, expected) in [
        (Resolve::ApDevice, [0xe000, 0, 0, 0, 0, 0], (0, 0x0304)),
        (Resolve::NewMdev, [1, 0xe100, 0, 0, 0, 0], (MDEV, 0xe100)),
        (Resolve::NewMdev, [1, 0xe200, 0, 0, 0, 0], (0, 0xe200)),
        (Resolve::Mdev, [MDEV, 3, 0, 0, 0, 0], (MDEV, 0)),
        (Resolve::BusText, [1, text, 6, 0, 0, 0], (0, text_word)),
        (Resolve::Action, [1, 2, 3, 0, 0, 0], (0, 2)),
        (Resolve::None, [1, 2, 3, 4, 0, 0], (0, 0)),
    ] {
        env.entries.insert(
            entry_id::CREATE,
            EntryInfo {
                flags: 0,
                resolve: resolve as u8,
                reserved: [0; 6],
            },
        );
        entries::enter(&env, entry_id::CREATE, args);
        let inside = &env.tasks[0].0.inside[0];
        assert_eq!(
            (inside.object.get(), inside.arg.get()),
            expected,
            "{resolve:?}"
        );
        entries::leave(&env, entry_id::CREATE, 0);
    }
}

/// unset_kvm of v5.13 inside release: the queues are reset between the flag's setting and its clearing, by a function
/// that is an entry point too.
#[test]
fn a_flag_is_sampled_right_around_a_nested_reset_of_the_queues() {
    let mut env = Fake::new().flag_known();
    for (entry, flags, resolve) in [
        (
            entry_id::RELEASE,
            ENTRY_SETS_FLAG | ENTRY_TESTS_FLAG | ENTRY_RETURNS_VOID,
            Resolve::MdevDevice,
        ),
        (entry_id::RESET_QUEUES, 0, Resolve::Mdev),
    ] {
        env.entries.insert(
            entry,
            EntryInfo {
                flags,
                resolve: resolve as u8,
                reserved: [0; 6],
            },
        );
    }
    env.set_flag(0);
    env.memory.borrow_mut().insert(0xe008, MDEV);
    entries::enter(&env, entry_id::RELEASE, [0xe000, 0, 0, 0, 0, 0]);
    locks::acquired(&env, GUARD, Mode::Exclusive);
    env.set_flag(1);
    locks::release(env.at(2000), GUARD, || Mode::Exclusive);
    assert_eq!(env.held(0), [FLAG]);
    locks::acquired(env.at(2100), GUARD, Mode::Exclusive);
    entries::enter(&env, entry_id::RESET_QUEUES, [MDEV, 0, 0, 0, 0, 0]);
    entries::leave(env.at(2200), entry_id::RESET_QUEUES, 0);
    env.set_flag(0);
    locks::release(env.at(2500), GUARD, || Mode::Exclusive);
    entries::leave(&env, entry_id::RELEASE, 0);
    let stats = env.stats(class_id::KVM_BUSY, Mode::Exclusive);
    assert_eq!(
        (
            stats.acquisitions.get(),
            stats.hold_sum.get(),
            stats.unmatched_releases.get()
        ),
        (1, 500, 0)
    );
    let by_entry = |entry| {
        env.by_entry(series(class_id::KVM_BUSY, Mode::Exclusive), entry)
            .expect("there is one for each pair")
            .acquisitions
            .get()
    };
    assert_eq!(
        (
            by_entry(entry_id::RELEASE),
            by_entry(entry_id::RESET_QUEUES)
        ),
        (1, 0)
    );
    assert!(env.held(0).is_empty());
}
