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

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_attach_cookie;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use probe_ebpf::abi::Mode;
use probe_ebpf::body::{entries, locks, waits};

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

/// `mutex_unlock(lock)`, `up_read(sem)`, `up_write(sem)`; the cookie is the mode.
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
    let args = [
        argument(&ctx, 0),
        argument(&ctx, 1),
        argument(&ctx, 2),
        argument(&ctx, 3),
    ];
    entries::enter(&maps, cookie(&ctx), args);
    0
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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that this is never reached: a program with an endless loop does not load.
    loop {}
}

/// The kernel requires a GPL-compatible licence for the helpers used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
