//! Work items.

use super::*;
use crate::body::works;

fn work_stats(env: &Fake) -> &SeriesStats {
    env.stats(class_id::RESET_WORK, Mode::Exclusive)
}

#[test]
fn an_execution_is_a_hold_and_its_start_an_acquisition() {
    let env = Fake::new();
    works::work_start(env.at(1000), WORK);
    assert_eq!(env.held(0), [WORK]);
    // What the function takes is taken while the work item is held.
    locks::acquired(env.at(1100), KVM_LOCK, Mode::Exclusive);
    locks::release(env.at(1200), KVM_LOCK, || Mode::Exclusive);
    locks::release(env.at(1700), WORK, || Mode::Exclusive);
    assert!(env.held(0).is_empty());
    let stats = work_stats(&env);
    assert_eq!(
        (
            stats.acquisitions.get(),
            sum(&stats.hold),
            stats.hold_sum.get()
        ),
        (1, 1, 700)
    );
    assert_eq!((sum(&stats.wait), stats.contended.get()), (0, 0));
    assert_eq!(
        (
            env.instances[7].acquisitions.get(),
            sum(&env.instances[7].hold)
        ),
        (1, 1)
    );
    assert_eq!(
        env.edge_count(class_id::RESET_WORK, class_id::KVM_LOCK, 0),
        1
    );
    let spans = env.spans.borrow();
    assert_eq!(spans.len(), 2);
    assert_eq!(
        (spans[1].kind, spans[1].what),
        (SPAN_LOCK, series(class_id::RESET_WORK, Mode::Exclusive))
    );
}

#[test]
fn a_flush_that_waited_is_a_wait_of_the_flushing_task() {
    let env = Fake::new();
    works::work_start(env.task_is(1).at(1000), WORK);
    env.task_is(0);
    locks::acquired(env.at(1500), GUARD, Mode::Exclusive);
    entries::enter(&env, entry_id::ASSIGN_ADAPTER, [0; 6]);
    works::flush_enter(env.at(2000), WORK);
    let waiting = &env.tasks[0].0.waits[0];
    assert_eq!(env.tasks[0].0.waits_len.get(), 1);
    assert_eq!(
        (waiting.lock.get(), Info::unpack(waiting.info.get()).kind),
        (WORK, LockKind::Work as u8)
    );
    assert_eq!(
        env.edge_count(class_id::MATRIX_DEV_LOCK, class_id::RESET_WORK, 0),
        1
    );
    locks::release(env.task_is(1).at(5000), WORK, || Mode::Exclusive);
    works::flush_return(env.task_is(0).at(5100), true);
    assert_eq!(env.tasks[0].0.waits_len.get(), 0);
    let stats = work_stats(&env);
    assert_eq!(
        (
            stats.contended.get(),
            sum(&stats.wait),
            stats.wait_sum.get()
        ),
        (1, 1, 3100)
    );
    assert_eq!(
        (
            env.instances[7].contended.get(),
            env.instances[7].wait_sum.get()
        ),
        (1, 3100)
    );
    let by_entry = env
        .by_entry(
            series(class_id::RESET_WORK, Mode::Exclusive),
            entry_id::ASSIGN_ADAPTER,
        )
        .expect("there is one for each pair");
    assert_eq!(
        (by_entry.contended.get(), by_entry.wait_sum.get()),
        (1, 3100)
    );
    assert_eq!(stats.acquisitions.get(), 1, "a flush is no execution");
}

#[test]
fn a_flush_that_did_not_wait_counts_nothing_but_its_edge() {
    let env = Fake::new();
    locks::acquired(&env, GUARD, Mode::Exclusive);
    works::flush_enter(env.at(2000), WORK);
    works::flush_return(env.at(2100), false);
    let stats = work_stats(&env);
    assert_eq!(
        (
            stats.acquisitions.get(),
            stats.contended.get(),
            sum(&stats.wait),
            stats.wait_sum.get(),
            sum(&stats.hold),
            stats.unmatched_releases.get()
        ),
        (0, 0, 0, 0, 0, 0)
    );
    assert_eq!(env.tasks[0].0.waits_len.get(), 0);
    assert_eq!(env.tasks[0].1.wait[18].max.get(), 0);
    assert_eq!(
        env.edge_count(class_id::MATRIX_DEV_LOCK, class_id::RESET_WORK, 0),
        1
    );
    assert!(env.spans.borrow().is_empty());
}

#[test]
fn the_return_of_a_flush_that_is_not_traced_leaves_other_waits_alone() {
    let env = Fake::new();
    locks::contended(&env, KVM_LOCK, Mode::Exclusive);
    works::flush_enter(&env, 0xdead);
    works::flush_enter(&env, KVM_LOCK);
    works::flush_return(&env, true);
    assert_eq!(env.tasks[0].0.waits_len.get(), 1);
    assert_eq!(work_stats(&env).contended.get(), 0);
    works::work_start(&env, KVM_LOCK);
    works::work_start(&env, 0xdead);
    assert!(env.held(0).is_empty());
}

#[test]
fn the_only_work_item_has_no_statistics_of_its_own() {
    let mut env = Fake::new();
    let mut info = env.locks[&WORK];
    info.flags = abi::LOCK_IS_ONLY_INSTANCE;
    env.locks.insert(WORK, info);
    works::work_start(&env, WORK);
    works::flush_enter(env.task_is(1), WORK);
    locks::release(env.task_is(0), WORK, || Mode::Exclusive);
    works::flush_return(env.task_is(1), true);
    let own = &env.instances[7];
    assert_eq!(
        (own.acquisitions.get(), own.contended.get(), sum(&own.hold)),
        (0, 0, 0)
    );
    let stats = work_stats(&env);
    assert_eq!(
        (
            stats.acquisitions.get(),
            stats.contended.get(),
            sum(&stats.hold)
        ),
        (1, 1, 1)
    );
}

#[test]
fn an_end_without_a_start_is_unmatched_and_a_start_without_a_task_slot_counted() {
    let env = Fake::new();
    locks::release(&env, WORK, || Mode::Exclusive);
    assert_eq!(work_stats(&env).unmatched_releases.get(), 1);
    env.task_is(9);
    works::work_start(&env, WORK);
    works::flush_enter(&env, WORK);
    works::flush_return(&env, true);
    let stats = work_stats(&env);
    assert_eq!((stats.acquisitions.get(), stats.contended.get()), (1, 0));
    for program in [Program::WorkStart, Program::FlushEnter] {
        assert_eq!(env.counters[program as usize].no_task_slot.get(), 1);
    }
}
