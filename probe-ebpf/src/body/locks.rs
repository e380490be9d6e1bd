//! Acquire and release of mutexes and rwsems, and the flags that a released mutex guards.

use super::order::Acquired;
use super::{
    Env, Note, add_coarse, add_full, begin, current_entry, emit, end, extreme, failure, innermost,
    innermost_wait, instance_of, pop_wait, record_order, serial, unknown,
};
use crate::abi::{
    self, ENTRY_SETS_FLAG, ENTRY_TESTS_FLAG, HELD_CONTENDED, HELD_IS_GUARD, HELD_IS_ONLY_INSTANCE,
    HELD_SECOND_HOLDER, HELD_UNCERTAIN, Held, Info, LOCK_GUARDS_FLAG, LOCK_IS_ONLY_INSTANCE,
    LOCK_IS_WAIT_QUEUE, LockInfo, LockKind, MAX_HELD, MAX_SERIES, Mode, NO_INSTANCE, Program,
    Resolve, SPAN_LOCK, Span, Task, TaskExtremes, WAIT_SLEPT,
};

/// A lock was obtained: runs when the acquisition is complete.
#[inline(always)]
pub fn acquired<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = known(env, address) else {
        return;
    };
    let series = abi::series(info.class, mode);
    let instance = instance_of(&info, mode);
    let only = info.flags & LOCK_IS_ONLY_INSTANCE != 0;
    let counted = if only { NO_INSTANCE } else { instance };
    let Some((task, extremes)) = env.task() else {
        count_uncontended(env, series, counted, 0);
        failure(env, Program::Acquired, Note::NoTaskSlot, env.id());
        return;
    };
    let entry = current_entry(task);
    let now = env.now();
    begin(task);
    let mut wait = 0;
    let mut flags = if only { HELD_IS_ONLY_INSTANCE } else { 0 };
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == address
    {
        wait = now.saturating_sub(waiting.since.get());
        flags |= HELD_CONTENDED;
        pop_wait(task);
        count_wait(env, extremes, series, counted, entry, wait);
    } else {
        count_uncontended(env, series, counted, entry);
        let target = Acquired {
            address,
            series,
            instance,
            entry,
            kind: info.kind,
            annotated: false,
        };
        record_order(env, Program::Acquired, task, target, now);
    }
    if info.flags & LOCK_GUARDS_FLAG != 0 {
        flags |= HELD_IS_GUARD;
        annotate(env, task, now);
    }
    let packed = Info {
        instance,
        series,
        entry,
        kind: info.kind,
        flags,
    };
    push_held(env, Program::Acquired, task, address, now, wait, packed);
    end(task);
}

/// The slow path was entered: the fast path has failed.
#[inline(always)]
pub fn contended<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = traced(env, address) else {
        return;
    };
    let series = abi::series(info.class, mode);
    let instance = instance_of(&info, mode);
    let task = env.task();
    let entry = task.map_or(0, |(task, _)| current_entry(task));
    let counted = if info.flags & LOCK_IS_ONLY_INSTANCE != 0 {
        NO_INSTANCE
    } else {
        instance
    };
    count_contended(env, series, counted, entry);
    let Some((task, _)) = task else {
        failure(env, Program::Contended, Note::NoTaskSlot, env.id());
        return;
    };
    let now = env.now();
    begin(task);
    let target = Acquired {
        address,
        series,
        instance,
        entry,
        kind: info.kind,
        annotated: false,
    };
    record_order(env, Program::Contended, task, target, now);
    let packed = Info {
        instance,
        series,
        entry,
        kind: info.kind,
        flags: 0,
    };
    super::waits::push(env, Program::Contended, task, address, now, packed);
    end(task);
}

/// An attempt ended without the lock: a failed trylock, or an interrupted wait.
#[inline(always)]
pub fn failed<E: Env>(env: &E, address: u64, mode: Mode) {
    let Some(info) = traced(env, address) else {
        return;
    };
    let series = abi::series(info.class, mode);
    if let Some(stats) = env.series(series) {
        stats.attempts_failed.add(1);
    }
    if info.flags & LOCK_IS_ONLY_INSTANCE == 0
        && let Some(stats) = env.instance(instance_of(&info, mode))
    {
        stats.attempts_failed.add(1);
    }
    let Some((task, _)) = env.task() else {
        failure(env, Program::Failed, Note::NoTaskSlot, env.id());
        return;
    };
    let entry = current_entry(task);
    if entry != 0
        && let Some(stats) = env.by_entry(series, entry)
    {
        stats.attempts_failed.add(1);
    }
    if let Some(waiting) = innermost_wait(task)
        && waiting.lock.get() == address
    {
        begin(task);
        pop_wait(task);
        end(task);
    }
}

/// A lock is about to be released: runs at the entry of the release. The mode is asked for only if the acquisition was
/// not seen.
#[inline(always)]
pub fn release<E: Env>(env: &E, address: u64, mode: impl Fn() -> Mode) {
    // A lock that the task holds is a traced one: most releases need no look at the table of locks.
    let Some((task, extremes)) = env.present_task() else {
        unmatched(env, mode(), address);
        return;
    };
    let Some(held) = find_held(task, address) else {
        unmatched(env, mode(), address);
        return;
    };
    let now = env.now();
    if Info::unpack(held.info.get()).flags & HELD_IS_GUARD != 0 {
        sample_flag(env, task, extremes, now);
    }
    finish_hold(env, task, extremes, held, now);
}

/// What is known about the address of a lock; wait queues are not locks.
#[inline(always)]
fn traced<E: Env>(env: &E, address: u64) -> Option<LockInfo> {
    let info = env.lock(address)?;
    (info.flags & LOCK_IS_WAIT_QUEUE == 0).then_some(info)
}

/// As [`traced`], from the current task's own memory where it can be had without a search.
#[inline(always)]
fn known<E: Env>(env: &E, address: u64) -> Option<LockInfo> {
    let place = env
        .last_task()
        .and_then(|task| task.known.get(abi::known_place(address)));
    if let Some(place) = place
        && place.address.get() == address
    {
        return Some(LockInfo::unpack(place.info.get()));
    }
    let info = traced(env, address)?;
    if let Some(place) = place {
        place.info.set(info.pack());
        place.address.set(address);
    }
    Some(info)
}

/// A release by a task that is not known to hold the lock.
#[inline(always)]
fn unmatched<E: Env>(env: &E, mode: Mode, address: u64) {
    let Some(info) = traced(env, address) else {
        return;
    };
    if let Some(stats) = env.series(abi::series(info.class, mode)) {
        stats.unmatched_releases.add(1);
    }
    if info.flags & LOCK_IS_ONLY_INSTANCE == 0
        && let Some(stats) = env.instance(instance_of(&info, mode))
    {
        stats.unmatched_releases.add(1);
    }
    failure(env, Program::Release, Note::UnexpectedRelease, address);
}

/// Counts that a task became a holder of a flag.
#[inline(always)]
fn count_flag<E: Env>(env: &E, series: u8, instance: u32, entry: u8) {
    if let Some(stats) = env.series(series) {
        stats.acquisitions.add(1);
    }
    if let Some(stats) = env.instance(instance) {
        stats.acquisitions.add(1);
    }
    if entry != 0
        && let Some(stats) = env.by_entry(series, entry)
    {
        stats.acquisitions.add(1);
    }
}

/// Counts an uncontended acquisition: a wait of 0.
#[inline(always)]
fn count_uncontended<E: Env>(env: &E, series: u8, instance: u32, entry: u8) {
    if let Some(stats) = env.series(series) {
        stats.wait[0].add(1);
    }
    if let Some(stats) = env.instance(instance) {
        stats.wait[0].add(1);
    }
    if entry != 0
        && let Some(stats) = env.by_entry(series, entry)
    {
        stats.wait[0].add(1);
    }
}

/// Counts a slow path, or a wait loop that slept.
#[inline(always)]
pub(super) fn count_contended<E: Env>(env: &E, series: u8, instance: u32, entry: u8) {
    if let Some(stats) = env.series(series) {
        stats.contended.add(1);
    }
    if let Some(stats) = env.instance(instance) {
        stats.contended.add(1);
    }
    if entry != 0
        && let Some(stats) = env.by_entry(series, entry)
    {
        stats.contended.add(1);
    }
}

/// Counts a wait that took the slow path.
#[inline(always)]
pub(super) fn count_wait<E: Env>(
    env: &E,
    extremes: &TaskExtremes,
    series: u8,
    instance: u32,
    entry: u8,
    wait: u64,
) {
    if let Some(stats) = env.series(series) {
        add_full(&stats.wait, wait);
        stats.wait_sum.add(wait);
    }
    if let Some(stats) = env.instance(instance) {
        add_coarse(&stats.wait, wait);
        stats.wait_sum.add(wait);
    }
    if entry != 0
        && let Some(stats) = env.by_entry(series, entry)
    {
        add_coarse(&stats.wait, wait);
        stats.wait_sum.add(wait);
    }
    if let Some(extremes) = extremes.wait.get(series as usize & (MAX_SERIES - 1)) {
        extreme(extremes, wait);
    }
}

/// The place in `held` that has this address, 0 for a free one; [`MAX_HELD`] if there is none.
#[inline(always)]
fn place_of(task: &Task, address: u64) -> usize {
    let mut place = MAX_HELD;
    for (n, held) in task.held.iter().enumerate().rev() {
        if held.lock.get() == address {
            place = n;
        }
    }
    unknown(task, place)
}

#[inline(always)]
fn find_held(task: &Task, address: u64) -> Option<&Held> {
    let latest = task.latest.get() as usize & (MAX_HELD - 1);
    let latest = task.held.get(latest)?;
    if latest.lock.get() == address {
        return Some(latest);
    }
    task.held.get(place_of(task, address))
}

#[inline(always)]
fn push_held<E: Env>(
    env: &E,
    program: Program,
    task: &Task,
    address: u64,
    now: u64,
    wait: u64,
    info: Info,
) {
    // Most tasks release in reverse order, so the place after the latest, or the latest itself, is free.
    let held_len = task.held_len.get();
    let mut place = held_len as usize & (MAX_HELD - 1);
    if task.held.get(place).is_none_or(|held| held.lock.get() != 0) {
        place = place_of(task, 0);
    }
    let Some(held) = task.held.get(place) else {
        task.lost_holds.set(task.lost_holds.get() + 1);
        failure(env, program, Note::Overflow, address);
        return;
    };
    held.since.set(now);
    held.wait.set(wait);
    held.serial.set(serial(task));
    held.info.set(info.pack());
    held.lock.set(address);
    task.held_len.set(held_len + 1);
    task.latest.set(place as u64);
}

/// Frees a place in `held`. What is left is most often in the place before.
#[inline(always)]
fn free_held(task: &Task, held: &Held) {
    held.lock.set(0);
    let held_len = task.held_len.get() - 1;
    task.held_len.set(held_len);
    task.latest
        .set(held_len.wrapping_sub(1) & (MAX_HELD as u64 - 1));
}

/// Ends a hold: statistics, span, and the record.
#[inline(always)]
fn finish_hold<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes, held: &Held, now: u64) {
    let since = held.since.get();
    let wait = held.wait.get();
    let info = Info::unpack(held.info.get());
    begin(task);
    free_held(task, held);
    end(task);
    let duration = now.saturating_sub(since);
    if let Some(stats) = env.series(info.series) {
        add_full(&stats.hold, duration);
        stats.hold_sum.add(duration);
    }
    if info.flags & HELD_IS_ONLY_INSTANCE == 0
        && let Some(stats) = env.instance(info.instance)
    {
        add_coarse(&stats.hold, duration);
        stats.hold_sum.add(duration);
    }
    if info.entry != 0
        && let Some(stats) = env.by_entry(info.series, info.entry)
    {
        add_coarse(&stats.hold, duration);
        stats.hold_sum.add(duration);
    }
    if let Some(extremes) = extremes.hold.get(info.series as usize & (MAX_SERIES - 1)) {
        extreme(extremes, duration);
    }
    let span = Span {
        start_ns: since,
        duration_ns: duration,
        extra: wait,
        tid: task.id.get() as u32,
        instance: info.instance,
        result: 0,
        kind: SPAN_LOCK,
        what: info.series,
        inside: info.entry,
        flags: info.flags,
    };
    emit(env, Program::Release, &span);
}

/// The mdev of the current call, found when the guard is held. 0 if there is none.
#[inline(always)]
fn object<E: Env>(env: &E, task: &Task, resolve_hook: bool) -> u64 {
    let Some(inside) = innermost(task) else {
        return 0;
    };
    let entry = inside.entry.get();
    if (entry >> 16) as u8 != Resolve::Vcpu as u8 {
        return inside.object.get();
    }
    if !resolve_hook {
        return 0;
    }
    // The hook of the vCPU's kvm may change until the guard is held, so it is read here and not at the call.
    let config = env.config();
    let kvm = env
        .read_u64(inside.first.get() + u64::from(config.vcpu_kvm))
        .unwrap_or(0);
    if kvm == 0 {
        return 0;
    }
    match env.read_u64(kvm + u64::from(config.kvm_hook)) {
        Some(hook) if hook != 0 => hook - u64::from(config.mdev_hook),
        _ => 0,
    }
}

/// The guard was acquired in an entry point that tests the flag: if the flag is clear, the test leaves no trace, so
/// its order edges are recorded here.
#[inline(always)]
fn annotate<E: Env>(env: &E, task: &Task, now: u64) {
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
fn sample_flag<E: Env>(env: &E, task: &Task, extremes: &TaskExtremes, now: u64) {
    if let Some(waiting) = innermost_wait(task) {
        let mut info = Info::unpack(waiting.info.get());
        if info.kind == LockKind::Flag as u8 {
            if info.flags & WAIT_SLEPT == 0 {
                info.flags |= WAIT_SLEPT;
                begin(task);
                waiting.info.set(info.pack());
                end(task);
                count_contended(env, info.series, info.instance, info.entry);
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
                count_flag(env, series, info.instance, held_info.entry);
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
                count_flag(env, series, info.instance, entry);
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
            unmatched(env, Mode::Exclusive, address);
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
