//! The eBPF programs: thin section functions that fetch arguments and call the shared bodies, and the maps behind
//! [`Env`].
//!
//! The collector sizes every map when it loads the object: the sizes given here are the smallest that load.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::inline_always, reason = "see the library")]
#![expect(
    missing_docs,
    reason = "the programs are named after abi::PROGRAM_NAMES, and documented there"
)]

mod env;
mod kernel;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_attach_cookie;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use probe_ebpf::abi::Mode;
use probe_ebpf::body::{entries, locks, waits, works};

use crate::env::Maps;

/// The cookie of the attachment: a mode, or an entry point id.
#[inline(always)]
fn cookie(ctx: &impl EbpfContext) -> u8 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_attach_cookie(ctx.as_ptr()) as u8 }
}

#[inline(always)]
fn argument(ctx: &ProbeContext, n: usize) -> u64 {
    ctx.arg(n).unwrap_or(0)
}

/// `lock_acquired(lock, mode)`: the acquisition is complete.
#[uprobe]
pub fn lock_acquired(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    locks::acquired(
        &maps,
        argument(&ctx, 0),
        Mode::from_u8(argument(&ctx, 1) as u8),
    );
    0
}

/// `mutex_unlock(lock)`, `up_read(sem)`, `up_write(sem)`, `workqueue_execute_end(work)`; the cookie is the mode.
#[uprobe]
pub fn lock_release(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    let mode = || Mode::from_u8(cookie(&ctx));
    locks::release(&maps, argument(&ctx, 0), mode);
    0
}

/// `__mutex_lock_slowpath(lock)`, `rwsem_down_*_slowpath(sem)`; the cookie is the mode.
#[uprobe]
pub fn lock_contended(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    locks::contended(&maps, argument(&ctx, 0), Mode::from_u8(cookie(&ctx)));
    0
}

/// `lock_attempt_failed(lock, mode)`.
#[uprobe]
pub fn lock_failed(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    locks::failed(
        &maps,
        argument(&ctx, 0),
        Mode::from_u8(argument(&ctx, 1) as u8),
    );
    0
}

/// An entry point is called; the cookie is its id.
#[uprobe]
pub fn entry_enter(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    let entry = cookie(&ctx);
    let args = [
        argument(&ctx, 0),
        argument(&ctx, 1),
        argument(&ctx, 2),
        argument(&ctx, 3),
        argument(&ctx, 4),
        sixth_argument(&ctx, &maps, entry),
    ];
    entries::enter(&maps, entry, args);
    0
}

/// The sixth argument of a call.
#[cfg(not(bpf_target_arch = "s390x"))]
#[inline(always)]
fn sixth_argument(ctx: &ProbeContext, _: &Maps, _: u8) -> u64 {
    argument(ctx, 5)
}

/// The sixth argument of a call, where the entry point has one that matters. s390x passes five in registers, the rest
/// above the 160 bytes where the callee saves registers (s390x ELF ABI, parameter area).
#[cfg(bpf_target_arch = "s390x")]
#[inline(always)]
fn sixth_argument(ctx: &ProbeContext, maps: &Maps, entry: u8) -> u64 {
    use probe_ebpf::abi::ENTRY_HAS_WRITER;
    use probe_ebpf::body::Env as _;

    match maps.entry_info(entry) {
        Some(info) if info.flags & ENTRY_HAS_WRITER != 0 => {
            // SAFETY: the context is the one this program was called with.
            let stack = unsafe { (*ctx.regs).gprs[15] };
            maps.read_u64(stack as u64 + 160).unwrap_or(0)
        }
        _ => 0,
    }
}

/// An entry point returns; the cookie is its id.
#[uretprobe]
pub fn entry_return(ctx: RetProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    entries::leave(&maps, cookie(&ctx), ctx.ret());
    0
}

/// `prepare_to_wait_event(queue, ...)`.
#[uprobe]
pub fn wait_prepare(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    waits::prepare(&maps, argument(&ctx, 0));
    0
}

/// `finish_wait(queue, ...)`.
#[uprobe]
pub fn wait_finish(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    waits::finish(&maps, argument(&ctx, 0));
    0
}

/// `__wake_up(queue, ...)`.
#[uprobe]
pub fn wait_wake(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    waits::wake(&maps, argument(&ctx, 0));
    0
}

/// `workqueue_execute_start(work)`.
#[uprobe]
pub fn work_start(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    works::work_start(&maps, argument(&ctx, 0));
    0
}

/// `flush_work(work)` is called.
#[uprobe]
pub fn flush_enter(ctx: ProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    works::flush_enter(&maps, argument(&ctx, 0));
    0
}

/// `flush_work` returns: whether it waited.
#[uretprobe]
pub fn flush_return(ctx: RetProbeContext) -> u32 {
    let Some(maps) = Maps::open(&ctx) else {
        return 0;
    };
    works::flush_return(&maps, ctx.ret::<u64>() as u32 != 0);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that this is never reached: a program with an endless loop does not load.
    loop {}
}

/// The kernel requires a GPL-compatible licence for the helpers used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
