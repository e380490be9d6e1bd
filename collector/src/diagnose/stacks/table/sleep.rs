//! How a task sleeps, from its innermost frames: the functions of the scheduler and of lock primitives.
//!
//! Takes frames, gives the mechanism and how many frames belong to it. Does not know of any driver.

/// What a task does at the top of its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Waits for a mutex.
    Mutex,
    /// Waits for an rw-semaphore as a reader.
    RwsemRead,
    /// Waits for an rw-semaphore as a writer.
    RwsemWrite,
    /// `schedule()` was called by the function itself: the loop of `wait_event()` is a macro.
    WaitEvent,
    /// Waits for a work item (`flush_work()`).
    Flush,
    /// `msleep()` and its like.
    Msleep,
    /// Waits for a completion.
    Completion,
    /// The scheduler's and lock primitives' frames are left out, as /proc/PID/stack does (`in_sched_functions()`): a mutex,
    /// an rw-semaphore, or a wait queue.
    Elided,
    /// It runs.
    Running,
}

/// Functions of the scheduler that are called by whatever sleeps.
const SCHEDULER: &[&str] = &[
    "__switch_to",
    "__schedule",
    "schedule",
    "schedule_preempt_disabled",
    "preempt_schedule_common",
    "schedule_timeout",
    "schedule_timeout_uninterruptible",
    "schedule_timeout_killable",
    "schedule_timeout_interruptible",
    "io_schedule",
    "io_schedule_timeout",
    "schedule_hrtimeout",
    "schedule_hrtimeout_range",
    "schedule_hrtimeout_range_clock",
    "schedule_rtlock",
];

/// Primitives, with the functions that they consist of (kernel/locking/*.c, kernel/workqueue.c, kernel/sched/completion.c,
/// kernel/time/timer.c of v5.10 to v7.3; `_nested` with lockdep, `rt_` with PREEMPT_RT).
const PRIMITIVES: &[(Mechanism, &[&str])] = &[
    (
        Mechanism::Completion,
        &[
            "do_wait_for_common",
            "__wait_for_common",
            "wait_for_common",
            "wait_for_completion",
            "wait_for_completion_timeout",
            "wait_for_completion_interruptible",
            "wait_for_completion_interruptible_timeout",
            "wait_for_completion_killable",
            "wait_for_completion_state",
        ],
    ),
    (Mechanism::Flush, &["__flush_work", "flush_work"]),
    (
        Mechanism::Mutex,
        &[
            "__mutex_lock",
            "__mutex_lock_common",
            "__mutex_lock_slowpath",
            "__mutex_lock_killable_slowpath",
            "__mutex_lock_interruptible_slowpath",
            "mutex_lock",
            "mutex_lock_nested",
            "_mutex_lock_nest_lock",
            "mutex_lock_killable",
            "mutex_lock_killable_nested",
            "_mutex_lock_killable",
            "mutex_lock_interruptible",
            "mutex_lock_interruptible_nested",
            "mutex_lock_io",
            "mutex_optimistic_spin",
            "osq_lock",
            "rt_mutex_slowlock",
            "rt_mutex_slowlock_block",
            "__rt_mutex_slowlock",
            "__rt_mutex_slowlock_locked",
            "__rt_mutex_lock",
        ],
    ),
    (
        Mechanism::RwsemRead,
        &[
            "rwsem_down_read_slowpath",
            "__down_read",
            "__down_read_common",
            "down_read",
            "down_read_nested",
            "down_read_killable",
            "down_read_interruptible",
            "__rwbase_read_lock",
            "rwbase_read_lock",
        ],
    ),
    (
        Mechanism::RwsemWrite,
        &[
            "rwsem_down_write_slowpath",
            "rwsem_optimistic_spin",
            "__down_write",
            "__down_write_common",
            "down_write",
            "down_write_nested",
            "down_write_killable",
            "down_write_killable_nested",
            "rwbase_write_lock",
        ],
    ),
    (
        Mechanism::Msleep,
        &[
            "msleep",
            "msleep_interruptible",
            "usleep_range",
            "usleep_range_state",
            "ssleep",
        ],
    ),
];

/// The mechanism, and the number of frames that it takes.
pub(super) fn mechanism(names: &[&str], running: bool) -> (Mechanism, usize) {
    let count = |from: usize, set: &[&str]| {
        let rest = names.get(from..).unwrap_or_default();
        rest.iter().take_while(|name| set.contains(name)).count()
    };
    let scheduler = count(0, SCHEDULER);
    let mut at = scheduler;
    let mut found = None;
    // flush_work() waits for a completion: the outermost primitive counts.
    for (mechanism, functions) in PRIMITIVES {
        let taken = count(at, functions);
        if taken > 0 {
            at += taken;
            found = Some(*mechanism);
        }
    }
    // schedule_timeout() and its like are no wait loop's.
    let last = scheduler.checked_sub(1).and_then(|last| names.get(last));
    let mechanism = match (found, last) {
        (Some(found), _) => found,
        (None, Some(&("schedule" | "__schedule"))) => Mechanism::WaitEvent,
        (None, Some(_)) => Mechanism::Msleep,
        (None, None) if running => Mechanism::Running,
        (None, None) => Mechanism::Elided,
    };
    (mechanism, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_stack() {
        for (names, expected, taken) in [
            (
                "__schedule schedule schedule_preempt_disabled __mutex_lock handle_pqap",
                Mechanism::Mutex,
                4,
            ),
            ("mutex_lock handle_pqap", Mechanism::Mutex, 1),
            (
                "__schedule schedule rwsem_down_read_slowpath down_read kvm_s390_handle_b2",
                Mechanism::RwsemRead,
                4,
            ),
            (
                "schedule rwsem_down_write_slowpath vfio_ap_mdev_close_device",
                Mechanism::RwsemWrite,
                2,
            ),
            ("__schedule schedule handle_pqap", Mechanism::WaitEvent, 2),
            (
                "__schedule schedule schedule_timeout do_wait_for_common wait_for_completion __flush_work x",
                Mechanism::Flush,
                6,
            ),
            ("__flush_work x", Mechanism::Flush, 1),
            (
                "__schedule schedule schedule_timeout msleep apq_reset_check",
                Mechanism::Msleep,
                4,
            ),
            (
                "__schedule schedule schedule_timeout wait_for_completion x",
                Mechanism::Completion,
                4,
            ),
            ("handle_pqap", Mechanism::Elided, 0),
            ("", Mechanism::Elided, 0),
        ] {
            let names: Vec<&str> = names.split_whitespace().collect();
            assert_eq!(mechanism(&names, false), (expected, taken), "{names:?}");
        }
        assert_eq!(mechanism(&["handle_pqap"], true), (Mechanism::Running, 0));
    }
}
