//! System calls for which aya has no accessor, or none that can be used from another thread.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya::Ebpf;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

use crate::source::reader::ProgramRuns;

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is plain data of the size given; the pointers in it are the callers' to vouch for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A command that opens a descriptor.
pub(super) fn open(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: a descriptor that was just opened, and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What each of these programs has cost, and how many of its invocations the kernel skipped, since it was loaded.
/// Programs that are not loaded are left out.
pub fn runs_of(ebpf: &Ebpf, names: &[&'static str]) -> BTreeMap<&'static str, ProgramRuns> {
    let mut all = BTreeMap::new();
    for name in names {
        let Some(program) = ebpf.program(name) else {
            continue;
        };
        let Ok(fd) = program.fd() else { continue };
        if let Ok(runs) = program_runs(fd.as_fd()) {
            all.insert(*name, runs);
        }
    }
    all
}

/// What the kernel says of a program (`BPF_OBJ_GET_INFO_BY_FD`); aya reads the same structure but has no accessor for
/// `recursion_misses` and `verified_insns`.
pub(super) fn program_info(fd: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: both are plain data for which all zeroes is valid.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = fd.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // The kernel writes at most `info_len` bytes to `info`, which outlives the call.
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// What a program has cost, and how many of its invocations the kernel skipped, since it was loaded.
pub fn program_runs(fd: BorrowedFd<'_>) -> io::Result<ProgramRuns> {
    let info = program_info(fd)?;
    Ok(ProgramRuns {
        runs: info.run_cnt,
        run_time_ns: info.run_time_ns,
        missed: info.recursion_misses,
    })
}

/// Runs a raw tracepoint program once, now, with these arguments (`BPF_PROG_TEST_RUN`, for this type since Linux 5.10).
/// Returns what it returns.
pub fn run_program(fd: BorrowedFd<'_>, arguments: &[u64]) -> io::Result<u32> {
    // SAFETY: plain data for which all zeroes is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = fd.as_raw_fd() as u32;
    // A size of 0 wants an address of 0.
    if !arguments.is_empty() {
        attr.test.ctx_in = arguments.as_ptr() as u64;
        attr.test.ctx_size_in = size_of_val(arguments) as u32;
    }
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the kernel has written this member of the union.
    Ok(unsafe { attr.test.retval })
}

/// Attaches a raw tracepoint program to a tracepoint, or (without a name) a program that was loaded for a function or
/// tracepoint to that (`BPF_RAW_TRACEPOINT_OPEN`). Closing the descriptor detaches.
pub fn open_raw_tracepoint(fd: BorrowedFd<'_>, name: Option<&CStr>) -> io::Result<OwnedFd> {
    // SAFETY: plain data for which all zeroes is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.raw_tracepoint.name = name.map_or(0, |name| name.as_ptr() as u64);
    attr.raw_tracepoint.prog_fd = fd.as_raw_fd() as u32;
    open(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// Makes the kernel measure programs' run times as long as the descriptor is open (`BPF_ENABLE_STATS`, since Linux 5.8).
pub fn enable_run_time_stats() -> io::Result<OwnedFd> {
    // SAFETY: plain data for which all zeroes is valid; type 0 is BPF_STATS_RUN_TIME.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    open(bpf_cmd::BPF_ENABLE_STATS, &mut attr)
}
