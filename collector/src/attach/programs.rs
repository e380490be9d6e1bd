//! Which eBPF program goes to a point of the plan, and by which mechanism it is attached.
//!
//! Takes a [`Planned`]; gives the name of a program of the object. What attaches and what reports ask the same function,
//! so that the report is what happens. Loads and attaches nothing.

use probe_ebpf::abi::Mode;

use super::plan::{Mechanism, Planned};
use super::points::{Contention, Gone, LockCall, Role, Side, WaitQueue, Work};

/// Whether a program for points of this role can be attached by a trampoline. Entry points are told by the address of
/// their kprobe; wait queues and the ends of objects are rare enough for kprobes.
#[must_use]
pub const fn has_trampoline(role: Role) -> bool {
    matches!(role, Role::Lock(_) | Role::Work(Work::Flush))
}

/// The program for a side of a point, and the mechanism by which it is attached.
///
/// # Errors
///
/// Why there is none, in words.
pub fn program_of(planned: &Planned) -> Result<(&'static str, Mechanism), &'static str> {
    use Mechanism::{BtfTracepoint, Fentry, Fexit, Kprobe, Kretprobe, RawTracepoint};
    let Some(mechanism) = planned.mechanism else {
        return Err("no mechanism");
    };
    let symbol = planned.target.as_ref().map_or("", |t| t.symbol.as_str());
    let fast = matches!(mechanism, Fentry | Fexit);
    let chosen = match (planned.point.role, planned.side) {
        // Programs for entry points know an entry point by the address of its kprobe.
        (Role::Entry(_), Side::Enter) => ("k_enter", Kprobe),
        (Role::Entry(_), Side::Return) => ("k_return", Kretprobe),
        (Role::Lock(call), side) => return lock_program(call, side, fast, symbol),
        (Role::Contention(Contention::Begin), _) if mechanism == BtfTracepoint => {
            ("b_contention_begin", mechanism)
        }
        (Role::Contention(Contention::End), _) if mechanism == BtfTracepoint => {
            ("b_contention_end", mechanism)
        }
        (Role::Contention(Contention::Begin), _) => ("r_contention_begin", RawTracepoint),
        (Role::Contention(Contention::End), _) => ("r_contention_end", RawTracepoint),
        (Role::WaitQueue(WaitQueue::Prepare), _) => ("k_wait_prepare", Kprobe),
        (Role::WaitQueue(WaitQueue::Finish), _) => ("k_wait_finish", Kprobe),
        (Role::WaitQueue(WaitQueue::Wake), _) => ("k_wait_wake", Kprobe),
        (Role::Work(Work::Start), _) => ("r_work_start", RawTracepoint),
        (Role::Work(Work::End), _) => ("r_work_end", RawTracepoint),
        (Role::Work(Work::Flush), Side::Enter) if fast => ("f_flush_work", Fentry),
        (Role::Work(Work::Flush), Side::Return) if fast => ("x_flush_work", Fexit),
        (Role::Work(Work::Flush), Side::Enter) => ("k_flush", Kprobe),
        (Role::Work(Work::Flush), Side::Return) => ("k_flush_return", Kretprobe),
        (Role::Gone(Gone::Kvm), _) => ("k_kvm_gone", Kprobe),
        (Role::Gone(Gone::Vcpu), _) => ("k_vcpu_gone", Kprobe),
        (Role::Gone(_), _) => return Err("its locks are known by their addresses alone"),
    };
    Ok(chosen)
}

fn lock_program(
    call: LockCall,
    side: Side,
    fast: bool,
    symbol: &str,
) -> Result<(&'static str, Mechanism), &'static str> {
    use Mechanism::{Fentry, Fexit, Kprobe};
    // With lockdep, the function has a number behind the lock, and no other name is there.
    let plain = symbol.strip_suffix("_nested").unwrap_or(symbol);
    let shifted = plain != symbol;
    let program = match (call, side, fast) {
        (LockCall::Acquire(_), Side::Return, true) => match plain {
            "mutex_lock" => "x_mutex_lock",
            "mutex_lock_io" => "x_mutex_lock_io",
            "down_read" => "x_down_read",
            "down_write" => "x_down_write",
            _ => return Err("no program for this function"),
        },
        (LockCall::AcquireInterruptible(_) | LockCall::Try(_), Side::Return, true) if !shifted => {
            match plain {
                "mutex_lock_killable" => "x_mutex_lock_killable",
                "mutex_lock_interruptible" => "x_mutex_lock_interruptible",
                "mutex_trylock" => "x_mutex_trylock",
                "down_read_killable" => "x_down_read_killable",
                "down_read_interruptible" => "x_down_read_interruptible",
                "down_read_trylock" => "x_down_read_trylock",
                "down_write_killable" => "x_down_write_killable",
                "down_write_trylock" => "x_down_write_trylock",
                _ => return Err("no program for this function"),
            }
        }
        (LockCall::Release(Mode::Exclusive), Side::Enter, true) => "f_mutex_unlock",
        (LockCall::Release(Mode::Read), Side::Enter, true) => "f_up_read",
        (LockCall::Release(Mode::Write), Side::Enter, true) => "f_up_write",
        (LockCall::Downgrade, Side::Enter, true) => "f_downgrade_write",
        (LockCall::Acquire(Mode::Exclusive), Side::Enter, false) => "k_mutex",
        (LockCall::AcquireInterruptible(Mode::Exclusive), Side::Enter, false) => "k_mutex_may_fail",
        (LockCall::Try(Mode::Exclusive), Side::Enter, false) => "k_mutex_try",
        (LockCall::Try(Mode::Read), Side::Enter, false) => "k_read_try",
        (LockCall::Try(Mode::Write), Side::Enter, false) => "k_write_try",
        // A trylock never sleeps. A mutex needs no look at the result: its word says whether it was obtained.
        (LockCall::Try(Mode::Read | Mode::Write), Side::Return, false) => {
            return Ok(("k_try_return", Mechanism::Kretprobe));
        }
        (LockCall::Downgrade, Side::Enter, false) => "k_downgrade",
        (
            LockCall::Acquire(Mode::Read) | LockCall::AcquireInterruptible(Mode::Read),
            Side::Enter,
            false,
        ) => "k_read",
        (
            LockCall::Acquire(Mode::Write) | LockCall::AcquireInterruptible(Mode::Write),
            Side::Enter,
            false,
        ) => "k_write",
        (LockCall::Release(Mode::Exclusive), Side::Enter, false) => "k_mutex_release",
        (LockCall::Release(Mode::Read), Side::Enter, false) => "k_read_release",
        (LockCall::Release(Mode::Write), Side::Enter, false) => "k_write_release",
        _ => return Err("seen at the function's other side"),
    };
    let mechanism = match program.as_bytes()[0] {
        b'x' => Fexit,
        b'f' => Fentry,
        _ => Kprobe,
    };
    Ok((program, mechanism))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::plan::{Arguments, Status, Target};
    use crate::attach::points::{Filter, Point, points};

    fn planned(point: &'static Point, side: Side, mechanism: Mechanism) -> Planned {
        Planned {
            point,
            side,
            status: Status::Planned,
            target: Some(Target {
                symbol: point.names[0].symbol.into(),
                module: point.names[0].module.map(str::to_owned),
                address: None,
                unique: true,
                ftrace: true,
                suffix_note: None,
                arguments: Arguments::AsInSource,
                filter: Filter::All,
            }),
            mechanism: Some(mechanism),
            reason: String::new(),
            used_instead: None,
            lost: None,
        }
    }

    #[test]
    fn the_name_of_a_program_says_how_it_is_attached() {
        use Mechanism::{BtfTracepoint, Fentry, Fexit, Kprobe, Kretprobe, RawTracepoint};
        let mut programs = 0;
        for point in points() {
            for side in [Side::Enter, Side::Return] {
                for planned_by in [
                    BtfTracepoint,
                    RawTracepoint,
                    Fentry,
                    Fexit,
                    Kprobe,
                    Kretprobe,
                ] {
                    let Ok((program, by)) = program_of(&planned(point, side, planned_by)) else {
                        continue;
                    };
                    programs += 1;
                    let expected: &[Mechanism] = match program.as_bytes()[0] {
                        b'k' => &[Kprobe, Kretprobe],
                        b'r' => &[RawTracepoint],
                        b'b' => &[BtfTracepoint],
                        b'f' => &[Fentry],
                        _ => &[Fexit],
                    };
                    assert!(expected.contains(&by), "{}: {program} by {by}", point.name);
                    if matches!(by, Fentry | Fexit) {
                        assert!(has_trampoline(point.role), "{}", point.name);
                    }
                }
            }
        }
        assert!(programs > 100, "{programs}");
    }

    #[test]
    fn no_lock_function_that_may_sleep_has_a_return_probe() {
        let never_sleeps = |role| matches!(role, Role::Lock(LockCall::Try(_)));
        let locks = points().filter(|point| matches!(point.role, Role::Lock(_)));
        for point in locks.filter(|point| !never_sleeps(point.role)) {
            for side in [Side::Enter, Side::Return] {
                let program = program_of(&planned(point, side, Mechanism::Kretprobe));
                assert!(
                    !matches!(program, Ok((_, Mechanism::Kretprobe))),
                    "{}: {program:?}",
                    point.name
                );
            }
        }
    }

    #[test]
    fn trylocks_and_downgrades_of_rwsems_have_programs_by_kprobe_too() {
        let of = |name: &str, side, mechanism| {
            let point = points().find(|point| point.name == name).expect(name);
            program_of(&planned(point, side, mechanism)).map(|(program, _)| program)
        };
        for (name, entry) in [
            ("down_read_trylock", "k_read_try"),
            ("down_write_trylock", "k_write_try"),
        ] {
            assert_eq!(of(name, Side::Enter, Mechanism::Kprobe), Ok(entry));
            let end = of(name, Side::Return, Mechanism::Kretprobe);
            assert_eq!(end, Ok("k_try_return"));
        }
        let downgrade = of("downgrade_write", Side::Enter, Mechanism::Kprobe);
        assert_eq!(downgrade, Ok("k_downgrade"));
    }
}
