//! Points that are lock functions.

use probe_ebpf::abi::Mode;

use super::{ALL, Kind, LockCall, Name, Point, Role, name, vmlinux};

const fn lock(
    label: &'static str,
    call: LockCall,
    names: &'static [Name],
    lost: &'static str,
) -> Point {
    Point {
        name: label,
        kind: Kind::Function,
        role: Role::Lock(call),
        level: 2,
        generations: ALL,
        names,
        arguments: "1 the lock",
        lost,
        instead: &[],
        expected: true,
    }
}

const HOLDS: &str = "acquisitions and holds of mutexes";
const RWSEM_HOLDS: &str = "acquisitions and holds of rwsems";

/// Lock functions (kernel/locking/mutex.c and rwsem.c). With CONFIG_DEBUG_LOCK_ALLOC, `mutex_lock` and its kin are
/// macros around the `_nested` functions (include/linux/mutex.h), while `down_read` and `down_write` stay functions
/// beside theirs.
pub(super) const LOCKS: &[Point] = &[
    lock(
        "mutex_lock",
        LockCall::Acquire(Mode::Exclusive),
        &[
            name("mutex_lock", None),
            Name {
                note: "lockdep's build: every acquisition takes this way",
                ..name("mutex_lock_nested", None)
            },
        ],
        HOLDS,
    ),
    lock(
        "mutex_lock_killable",
        LockCall::AcquireInterruptible(Mode::Exclusive),
        vmlinux!["mutex_lock_killable", "mutex_lock_killable_nested"],
        "acquisitions of vcpu->mutex by ioctls",
    ),
    lock(
        "mutex_lock_interruptible",
        LockCall::AcquireInterruptible(Mode::Exclusive),
        vmlinux![
            "mutex_lock_interruptible",
            "mutex_lock_interruptible_nested"
        ],
        HOLDS,
    ),
    lock(
        "mutex_lock_io",
        LockCall::Acquire(Mode::Exclusive),
        vmlinux!["mutex_lock_io", "mutex_lock_io_nested"],
        HOLDS,
    )
    .rare(),
    lock(
        "mutex_trylock",
        LockCall::Try(Mode::Exclusive),
        // The second is its name in newer kernels' lockdep builds.
        vmlinux!["mutex_trylock", "_mutex_trylock_nest_lock"],
        "acquisitions by trylock, and its failures",
    ),
    lock(
        "mutex_unlock",
        LockCall::Release(Mode::Exclusive),
        vmlinux!["mutex_unlock"],
        "when mutexes are released, and flags that they guard",
    ),
    lock(
        "down_read",
        LockCall::Acquire(Mode::Read),
        vmlinux!["down_read"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_read_nested",
        LockCall::Acquire(Mode::Read),
        vmlinux!["down_read_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_killable",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_killable"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_killable_nested",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_killable_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_interruptible",
        LockCall::AcquireInterruptible(Mode::Read),
        vmlinux!["down_read_interruptible"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_read_trylock",
        LockCall::Try(Mode::Read),
        vmlinux!["down_read_trylock"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_write",
        LockCall::Acquire(Mode::Write),
        vmlinux!["down_write"],
        RWSEM_HOLDS,
    ),
    lock(
        "down_write_nested",
        LockCall::Acquire(Mode::Write),
        vmlinux!["down_write_nested", "_down_write_nest_lock"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_killable",
        LockCall::AcquireInterruptible(Mode::Write),
        vmlinux!["down_write_killable"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_killable_nested",
        LockCall::AcquireInterruptible(Mode::Write),
        vmlinux!["down_write_killable_nested"],
        RWSEM_HOLDS,
    )
    .rare(),
    lock(
        "down_write_trylock",
        LockCall::Try(Mode::Write),
        vmlinux!["down_write_trylock"],
        RWSEM_HOLDS,
    ),
    lock(
        "up_read",
        LockCall::Release(Mode::Read),
        vmlinux!["up_read"],
        "when rwsems are released by readers",
    ),
    lock(
        "up_write",
        LockCall::Release(Mode::Write),
        vmlinux!["up_write"],
        "when rwsems are released by writers",
    ),
    lock(
        "downgrade_write",
        LockCall::Downgrade,
        vmlinux!["downgrade_write"],
        "writers that become readers",
    )
    .rare(),
];
