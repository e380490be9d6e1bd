//! The programs for a kernel: one for each mechanism and mode, all of them thin. Which is attached where is decided by the
//! collector's attach plan.
//!
//! No program here uses an attach cookie, which Linux has from 5.15 on: an entry point is told by the address at which its
//! probe is, and a return finds its call by the stack pointer.

use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, raw_tracepoint};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
    RetProbeContext,
};
use core::ffi::c_void;
use probe_ebpf::abi::Mode;
use probe_ebpf::body::attempts::{self, Attempt};
use probe_ebpf::body::{adopt, contention, entries, locks, waits, works};

use crate::argument;
use crate::env::{self, Maps};

/// The address at which a kprobe was hit, and the stack pointer there.
#[inline(always)]
fn place_of(ctx: &ProbeContext) -> (u64, u64) {
    // SAFETY: the context is the one this program was called with.
    let regs = unsafe { &*ctx.regs };
    #[cfg(bpf_target_arch = "s390x")]
    return (regs.psw.addr as u64, regs.gprs[15] as u64);
    #[cfg(bpf_target_arch = "aarch64")]
    return (regs.pc, regs.sp);
    #[cfg(not(any(bpf_target_arch = "s390x", bpf_target_arch = "aarch64")))]
    return (regs.rip as u64, regs.rsp as u64);
}

/// The stack pointer that the call had which returns now.
#[inline(always)]
fn frame_of(ctx: &RetProbeContext) -> u64 {
    // SAFETY: the context is the one this program was called with.
    let regs = unsafe { &*ctx.regs };
    #[cfg(bpf_target_arch = "s390x")]
    return regs.gprs[15] as u64;
    #[cfg(bpf_target_arch = "aarch64")]
    return regs.sp;
    // A call has pushed its return address, and a return has popped it.
    #[cfg(not(any(bpf_target_arch = "s390x", bpf_target_arch = "aarch64")))]
    return regs.rsp as u64 - 8;
}

/// An entry point is called.
#[kprobe]
pub fn k_enter(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    let (address, frame) = place_of(&ctx);
    let Some(entry) = env::entry_at(address) else {
        return 0;
    };
    let args = [
        argument(&ctx, 0),
        argument(&ctx, 1),
        argument(&ctx, 2),
        argument(&ctx, 3),
        0,
        0,
    ];
    entries::enter_frame(&maps, entry, args, frame);
    0
}

/// An entry point returns.
#[kretprobe]
pub fn k_return(ctx: RetProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    entries::leave_frame(&maps, frame_of(&ctx), ctx.ret());
    0
}

macro_rules! kprobes {
    ($($(#[$doc:meta])* $name:ident => |$maps:ident, $first:ident| $body:expr;)*) => { $(
        $(#[$doc])*
        #[kprobe]
        pub fn $name(ctx: ProbeContext) -> u32 {
            let Some($maps) = Maps::open(&ctx) else {
                return 0;
            };
            let $maps = &$maps;
            let $first = argument(&ctx, 0);
            $body;
            0
        }
    )* };
}

kprobes! {
    /// `mutex_lock`, `mutex_lock_nested`, `mutex_lock_io`.
    k_mutex => |maps, lock| attempts::attempt(maps, lock, Mode::Exclusive, Attempt::Sure);
    /// `mutex_lock_killable`, `mutex_lock_interruptible`.
    k_mutex_may_fail => |maps, lock| attempts::attempt(maps, lock, Mode::Exclusive, Attempt::MayFail);
    /// `mutex_trylock`.
    k_mutex_try => |maps, lock| attempts::attempt(maps, lock, Mode::Exclusive, Attempt::Try);
    /// `down_read` and its kin.
    k_read => |maps, lock| attempts::attempt(maps, lock, Mode::Read, Attempt::Sure);
    /// `down_read_trylock`.
    k_read_try => |maps, lock| attempts::attempt(maps, lock, Mode::Read, Attempt::Try);
    /// `down_write` and its kin.
    k_write => |maps, lock| attempts::attempt(maps, lock, Mode::Write, Attempt::Sure);
    /// `down_write_trylock`.
    k_write_try => |maps, lock| attempts::attempt(maps, lock, Mode::Write, Attempt::Try);
    /// `mutex_unlock`.
    k_mutex_release => |maps, lock| locks::release_traced(maps, lock, Mode::Exclusive);
    /// `up_read`.
    k_read_release => |maps, lock| locks::release_traced(maps, lock, Mode::Read);
    /// `up_write`.
    k_write_release => |maps, lock| locks::release_traced(maps, lock, Mode::Write);
    /// `downgrade_write`.
    k_downgrade => |maps, lock| locks::downgraded(maps, lock);
    /// `prepare_to_wait_event`.
    k_wait_prepare => |maps, queue| waits::prepare(maps, queue);
    /// `finish_wait`.
    k_wait_finish => |maps, queue| waits::finish(maps, queue);
    /// `__wake_up`.
    k_wait_wake => |maps, queue| waits::wake(maps, queue);
    /// `flush_work` is called.
    k_flush => |maps, work| works::flush_enter(maps, work);
    /// `kvm_arch_destroy_vm`.
    k_kvm_gone => |maps, kvm| adopt::kvm_gone(maps, kvm);
    /// `kvm_arch_vcpu_destroy`.
    k_vcpu_gone => |maps, vcpu| adopt::vcpu_gone(maps, vcpu);
}

/// `flush_work` returns: whether it waited.
#[kretprobe]
pub fn k_flush_return(ctx: RetProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    works::flush_return(&maps, ctx.ret::<u64>() as u8 != 0);
    0
}

/// `down_read_trylock` or `down_write_trylock` returns: whether it has the lock. Neither sleeps, so that no call keeps
/// a return instance.
#[kretprobe]
pub fn k_try_return(ctx: RetProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    attempts::tried(&maps, ctx.ret::<u64>() as u32 != 0);
    0
}

/// A function whose rate is sampled.
#[kprobe]
pub fn k_count(ctx: ProbeContext) -> u32 {
    if Maps::open(&ctx).is_some() {
        env::count_call();
    }
    0
}

macro_rules! fexits {
    ($($(#[$doc:meta])* $name:ident => $mode:expr, $ok:expr, $acquired:path;)*) => { $(
        $(#[$doc])*
        #[fexit]
        pub fn $name(ctx: FExitContext) -> i32 {
            let Some(maps) = Maps::open(&ctx) else {
                return 0;
            };
            let Some(lock) = env::traced_argument(&ctx, ctx.arg(0), 0) else {
                return 0;
            };
            let ok: fn(u64) -> Option<bool> = $ok;
            match ok(ctx.arg::<u64>(1)) {
                Some(true) => $acquired(&maps, lock, $mode),
                Some(false) => locks::failed_shared(&maps, lock, $mode),
                None => {}
            }
            0
        }
    )* };
}

macro_rules! fexits_void {
    ($($(#[$doc:meta])* $name:ident => $mode:expr;)*) => { $(
        $(#[$doc])*
        #[fexit]
        pub fn $name(ctx: FExitContext) -> i32 {
            let Some(maps) = Maps::open(&ctx) else {
                return 0;
            };
            let Some(lock) = env::traced_argument(&ctx, ctx.arg(0), 0) else {
                return 0;
            };
            locks::acquired_unless_held(&maps, lock, $mode);
            0
        }
    )* };
}

fexits_void! {
    /// `mutex_lock` returns.
    x_mutex_lock => Mode::Exclusive;
    /// `mutex_lock_io` returns.
    x_mutex_lock_io => Mode::Exclusive;
    /// `down_read` returns.
    x_down_read => Mode::Read;
    /// `down_write` returns.
    x_down_write => Mode::Write;
}

/// A function that returns 0, or an errno when its wait was interrupted: `contention_end` has counted that.
#[inline(always)]
fn zero_is_ok(ret: u64) -> Option<bool> {
    (ret as u32 == 0).then_some(true)
}

/// A function that returns whether it has the lock.
#[inline(always)]
fn one_is_ok(ret: u64) -> Option<bool> {
    Some(ret as u32 != 0)
}

fexits! {
    /// `mutex_lock_killable` returns.
    x_mutex_lock_killable => Mode::Exclusive, zero_is_ok, locks::acquired_unless_held;
    /// `mutex_lock_interruptible` returns.
    x_mutex_lock_interruptible => Mode::Exclusive, zero_is_ok, locks::acquired_unless_held;
    /// `mutex_trylock` returns.
    x_mutex_trylock => Mode::Exclusive, one_is_ok, locks::acquired_without_waiting;
    /// `down_read_killable` returns.
    x_down_read_killable => Mode::Read, zero_is_ok, locks::acquired_unless_held;
    /// `down_read_interruptible` returns.
    x_down_read_interruptible => Mode::Read, zero_is_ok, locks::acquired_unless_held;
    /// `down_read_trylock` returns.
    x_down_read_trylock => Mode::Read, one_is_ok, locks::acquired_without_waiting;
    /// `down_write_killable` returns.
    x_down_write_killable => Mode::Write, zero_is_ok, locks::acquired_unless_held;
    /// `down_write_trylock` returns.
    x_down_write_trylock => Mode::Write, one_is_ok, locks::acquired_without_waiting;
}

macro_rules! fentries {
    ($($(#[$doc:meta])* $name:ident => |$maps:ident, $first:ident| $body:expr;)*) => { $(
        $(#[$doc])*
        #[fentry]
        pub fn $name(ctx: FEntryContext) -> i32 {
            let Some($maps) = Maps::open(&ctx) else {
                return 0;
            };
            let $maps = &$maps;
            let Some($first) = env::traced_argument(&ctx, ctx.arg(0), 0) else {
                return 0;
            };
            $body;
            0
        }
    )* };
}

fentries! {
    /// `mutex_unlock`.
    f_mutex_unlock => |maps, lock| locks::release_mode(maps, lock, Mode::Exclusive);
    /// `up_read`.
    f_up_read => |maps, lock| locks::release_mode(maps, lock, Mode::Read);
    /// `up_write`.
    f_up_write => |maps, lock| locks::release_mode(maps, lock, Mode::Write);
    /// `downgrade_write`.
    f_downgrade_write => |maps, lock| locks::downgraded(maps, lock);
}

/// `flush_work` is called.
#[fentry]
pub fn f_flush_work(ctx: FEntryContext) -> i32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    // A work item may be one that is adopted now.
    if let Some(work) = env::untyped_argument(&ctx, 0) {
        works::flush_enter(&maps, work);
    }
    0
}

/// `flush_work` returns: whether it waited.
#[fexit]
pub fn x_flush_work(ctx: FExitContext) -> i32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    works::flush_return(&maps, ctx.arg::<u64>(1) as u8 != 0);
    0
}

macro_rules! contention_begin {
    ($ctx:ident) => {{
        // Before any map is looked at: spin locks are most of what there is.
        if let Some(mode) = contention::mode_of(u64::from($ctx.arg::<u32>(1)))
            && let Some(maps) = Maps::open(&$ctx)
        {
            contention::begins(&maps, $ctx.arg(0), mode);
        }
        0
    }};
}

macro_rules! contention_end {
    ($ctx:ident) => {{
        if env::may_end_wait($ctx.arg(0))
            && let Some(maps) = Maps::open(&$ctx)
        {
            contention::ends(&maps, $ctx.arg(0), $ctx.arg::<u64>(1) as i32);
        }
        0
    }};
}

/// `contention_begin(lock, flags)`.
#[btf_tracepoint(function = "contention_begin")]
pub fn b_contention_begin(ctx: BtfTracePointContext) -> i32 {
    contention_begin!(ctx)
}

/// `contention_end(lock, ret)`.
#[btf_tracepoint(function = "contention_end")]
pub fn b_contention_end(ctx: BtfTracePointContext) -> i32 {
    contention_end!(ctx)
}

/// `contention_begin(lock, flags)`, without BTF.
#[raw_tracepoint(tracepoint = "contention_begin")]
pub fn r_contention_begin(ctx: RawTracePointContext) -> i32 {
    contention_begin!(ctx)
}

/// `contention_end(lock, ret)`, without BTF.
#[raw_tracepoint(tracepoint = "contention_end")]
pub fn r_contention_end(ctx: RawTracePointContext) -> i32 {
    contention_end!(ctx)
}

/// `workqueue_execute_start(work)`.
#[raw_tracepoint(tracepoint = "workqueue_execute_start")]
pub fn r_work_start(ctx: RawTracePointContext) -> i32 {
    if let Some(maps) = Maps::open(&ctx) {
        works::work_start(&maps, ctx.arg(0));
    }
    0
}

/// `workqueue_execute_end(work)`.
#[raw_tracepoint(tracepoint = "workqueue_execute_end")]
pub fn r_work_end(ctx: RawTracePointContext) -> i32 {
    if let Some(maps) = Maps::open(&ctx) {
        locks::release_mode(&maps, ctx.arg(0), Mode::Exclusive);
    }
    0
}

/// `sched_process_exit(task)`: the current task ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn r_task_exit(ctx: RawTracePointContext) -> i32 {
    if Maps::open(&ctx).is_some() {
        env::task_exits();
    }
    0
}

/// Run by the collector, never attached: it is alive.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub fn heartbeat(_: RawTracePointContext) -> i32 {
    env::beat();
    0
}

/// Run by the collector, never attached: reads kernel memory, `(address, length)`. Returns 0, or a negative errno: aya's
/// macro would make 0 of every return.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn peek(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    env::peek(ctx.arg(0), ctx.arg(1)) as i32
}
