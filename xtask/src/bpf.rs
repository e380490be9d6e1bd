//! bpf(2) itself, where no safe interface has what is needed: the verifier's log of a program that loads, and the
//! run statistics of a program. Knows nothing of object files.
#![expect(
    unsafe_code,
    reason = "bpf(2) takes pointers, and aya drops the log of a program that loads"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use aya_obj::Function;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info, bpf_prog_type};

/// Only the summary: `BPF_LOG_STATS` (include/linux/bpf_verifier.h, since Linux 5.2).
const LOG_STATS: u32 = 4;
const LOG_BYTES: usize = 64 << 10;

/// What the kernel is told of a program besides its instructions.
pub struct Kind {
    /// Its type.
    pub program: bpf_prog_type,
    /// How it will be attached, where that is part of loading.
    pub attach: Option<bpf_attach_type>,
    /// The BTF id of what a tracing program is for; 0 for others.
    pub target: u32,
}

/// Gives type information to the kernel.
pub fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: plain data for which all zeroes is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_7.btf = bytes.as_ptr() as u64;
    attr.__bindgen_anon_7.btf_size = bytes.len() as u32;
    // SAFETY: `bytes` outlives the call.
    unsafe { new_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr) }
}

/// Loads a program, whose maps and calls are relocated. Also returns the verifier's log: its summary, after the
/// reason where it refuses.
pub fn load(
    function: &Function,
    kind: &Kind,
    license: &CStr,
    btf: Option<&OwnedFd>,
) -> (io::Result<OwnedFd>, String) {
    let mut log = vec![0_u8; LOG_BYTES];
    let (lines, functions) = (
        function.line_info.line_info_bytes(),
        function.func_info.func_info_bytes(),
    );
    // SAFETY: plain data for which all zeroes is valid.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these are the members for BPF_PROG_LOAD, and all zeroes is valid for them.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = kind.program as u32;
    load.expected_attach_type = kind.attach.map_or(0, |a| a as u32);
    load.attach_btf_id = kind.target;
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = function.instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    load.log_level = LOG_STATS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    if let Some(btf) = btf {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        if function.line_info_rec_size > 0 {
            load.line_info = lines.as_ptr() as u64;
            load.line_info_cnt = function.line_info.len() as u32;
            load.line_info_rec_size = function.line_info_rec_size as u32;
        }
        if function.func_info_rec_size > 0 {
            load.func_info = functions.as_ptr() as u64;
            load.func_info_cnt = function.func_info.len() as u32;
            load.func_info_rec_size = function.func_info_rec_size as u32;
        }
    }
    // SAFETY: instructions, licence, BTF information and log are owned above or borrowed, and outlive the call; the
    // kernel writes at most `log_size` bytes to the log.
    let program = unsafe { new_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) };
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    (program, String::from_utf8_lossy(&log[..end]).into_owned())
}

/// What the kernel says of a program.
pub fn prog_info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: both are plain data for which all zeroes is valid.
    let (mut info, mut attr): (bpf_prog_info, bpf_attr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Size of a page in bytes.
pub fn page_bytes() -> u32 {
    // SAFETY: no precondition.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// A command that returns a new file descriptor.
///
/// # Safety
///
/// As [`bpf`]; and the command must return a new descriptor.
unsafe fn new_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
///
/// What the attribute's members for this command point to must be as long as they say, and live during the call.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the attribute is as large as it says, the rest is the caller's promise.
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
