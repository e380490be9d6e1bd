//! Open-coded locks: flags that a mutex guards. A flag is looked at when its guard is released.

use super::holds::{find_held, finish_hold, free_held, push_held};
use super::order::Acquired;
use super::stats::{Place, count_acquisition, count_contended};
use super::{
    Env, Note, adopt, begin, end, failure, innermost, innermost_wait, locks, record_order, subject,
};
use crate::abi::{
    self, ENTRY_SETS_FLAG, ENTRY_TESTS_FLAG, HELD_SECOND_HOLDER, HELD_UNCERTAIN, Info, LockKind,
    Mode, Program, Resolve, Task, TaskExtremes, WAIT_SLEPT,
};

/// The mdev of the current call, found when the guard is held. 0 if there is none.
#[inline(always)]
fn object<E: Env>(env: &E, task: &Task, resolve_hook: bool) -> u64 {
    let Some(inside) = innermost(task) else {
        return 0;
    };
    let entry = inside.entry.get();
    let resolve = (entry >> 16) as u8;
    if resolve != Resolve::Vcpu as u8 && resolve != Resolve::VcpuB2 as u8 {
        return inside.object.get();
    }
    if !resolve_hook {
        return 0;
    }
    // The hook of the vCPU's kvm may change until the guard is held, so it is read here and not at the call.
    let kvm = adopt::pointer(env, inside.first.get(), env.config().vcpu_kvm);
    subject::hooked(env, kvm)
}

/// The guard was acquired in an entry point that tests the flag: if the flag is clear, the test leaves no trace, so
/// its order edges are recorded here.
#[inline(always)]
pub(super) fn annotate<E: Env>(env: &E, task: &Task, now: u64) {
    let Some(inside) = innermost(task) else {
        return;
    };
    let entry = inside.entry.get();
    if (entry >> 8) as u8 & ENTRY_TESTS_FLAG == 0 {
        return;
    }
    // Re-taking the guard inside the wait loop is not another test.
    if let Some(waiting) = innermost_wait(task)
        && Info::unpack(waiting.info.get()).kind == LockKind::Flag as u8
    {
        return;
    }
    let mdev = object(env, task, true);
    if mdev == 0 {
        return;
    }
    let address = mdev + u64::from(env.config().mdev_flag);
    let Some(info) = env.lock(address) else {
        return;
    };
    // Neither is re-taking it while holding the flag.
    if find_held(task, address).is_some() {
        return;
    }
    // A test that finds it set waits, and that leaves an edge of its own.
    match env.read_u8(address) {
        Some(0) => {}
        Some(_) => return,
        None => {
            failure(env, Program::Acquired, Note::Unreadable, address);
            return;
        }
    }
    let target = Acquired {
        address,
        series: abi::series(info.class, Mode::Exclusive),
        instance: info.instance,
        entry: entry as u8,
        kind: info.kind,
        annotated: true,
    };
    record_order(env, Program::Acquired, task, target, now);
}

/// The guard is about to be released: a wait loop goes to sleep, or the flag has changed.
#[inline(always)]
pub(super) fn sample<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes, now: u64) {
    if let Some(waiting) = innermost_wait(task) {
        let mut info = Info::unpack(waiting.info.get());
        if info.kind == LockKind::Flag as u8 {
            if info.flags & WAIT_SLEPT == 0 {
                info.flags |= WAIT_SLEPT;
                begin(task);
                waiting.info.set(info.pack());
                end(task);
                count_contended(env, Place::of(info));
            }
            return;
        }
    }
    let Some(inside) = innermost(task) else {
        return;
    };
    let entry = inside.entry.get();
    if (entry >> 8) as u8 & ENTRY_SETS_FLAG == 0 {
        return;
    }
    let mdev = object(env, task, false);
    if mdev == 0 {
        return;
    }
    let address = mdev + u64::from(env.config().mdev_flag);
    let Some(info) = env.lock(address) else {
        return;
    };
    let Some(value) = env.read_u8(address) else {
        failure(env, Program::Release, Note::Unreadable, address);
        return;
    };
    let mut before = None;
    if let Some(stats) = env.instance(info.instance) {
        before = stats.value.get().checked_sub(1);
        stats.value.set(u64::from(value) + 1);
    }
    let series = abi::series(info.class, Mode::Exclusive);
    let entry = entry as u8;
    match find_held(task, address) {
        Some(held) if value == 0 => {
            let held_info = Info::unpack(held.info.get());
            if held_info.flags & (HELD_SECOND_HOLDER | HELD_UNCERTAIN) != 0 {
                count_acquisition(env, Place::of(held_info));
            }
            finish_hold(env, task, extremes, held, now);
        }
        None if value != 0 => {
            // A second holder's acquisition is counted when it clears the flag: until then it may be a task that
            // only looked at a flag that somebody else had set. So is that of a flag seen for the first time.
            let flags = match before {
                Some(0) => 0,
                Some(_) => HELD_SECOND_HOLDER,
                None => HELD_UNCERTAIN,
            };
            if flags == 0 {
                let place = Place {
                    series,
                    instance: info.instance,
                    entry,
                };
                count_acquisition(env, place);
            }
            begin(task);
            let target = Acquired {
                address,
                series,
                instance: info.instance,
                entry,
                kind: info.kind,
                annotated: false,
            };
            record_order(env, Program::Release, task, target, now);
            let packed = Info {
                instance: info.instance,
                series,
                entry,
                kind: info.kind,
                flags,
            };
            push_held(env, Program::Release, task, address, now, 0, packed);
            end(task);
        }
        None if before.is_some_and(|before| before != 0) => {
            // Cleared by a task that was not seen to set it.
            locks::unmatched(env, Mode::Exclusive, address);
        }
        _ => {}
    }
}

/// The task leaves an entry point: a "second holder" that never cleared the flag was none.
#[inline(always)]
pub(super) fn forget_second_holds(task: &Task, entry: u8) {
    for held in &task.held {
        if held.lock.get() != 0 {
            let info = Info::unpack(held.info.get());
            if info.entry == entry && info.flags & (HELD_SECOND_HOLDER | HELD_UNCERTAIN) != 0 {
                free_held(task, held);
            }
        }
    }
}
