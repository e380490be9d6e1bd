//! bpf(2) itself: aya drops the verifier's log of a program that loads.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use aya_obj::Function;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

use crate::source::ebpf::sys;

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
    // `bytes` outlives the call.
    sys::open(bpf_cmd::BPF_BTF_LOAD, &mut attr)
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
    // Instructions, licence, BTF information and log are owned above or borrowed, and outlive the call; the kernel
    // writes at most `log_size` bytes to the log.
    let program = sys::open(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
    (program, String::from_utf8_lossy(&log[..end]).into_owned())
}
