//! bpf(2) and perf_event_open(2), as far as trying needs them.
//!
//! Programs are a few instructions written down here, so that what is tried is the kernel and not a loader. The
//! attributes are words at the offsets of `union bpf_attr` and `struct perf_event_attr` (include/uapi/linux/bpf.h and
//! perf_event.h), which are the same on every architecture.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// bpf(2) commands.
const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
const PROG_GET_NEXT_ID: u32 = 11;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const RAW_TRACEPOINT_OPEN: u32 = 17;
const LINK_CREATE: u32 = 28;
const ENABLE_STATS: u32 = 32;

/// Kinds of maps.
pub const MAP_ARRAY: u32 = 2;
pub const MAP_RINGBUF: u32 = 27;
/// The map can be mapped into user memory.
pub const MMAPABLE: u32 = 1 << 10;

/// Kinds of programs.
pub const KPROBE: u32 = 2;
pub const RAW_TRACEPOINT: u32 = 17;
pub const TRACING: u32 = 26;

/// Where a tracing program attaches.
pub const TRACE_RAW_TP: u32 = 23;
pub const TRACE_FENTRY: u32 = 24;
pub const TRACE_FEXIT: u32 = 25;
/// A link on a perf event.
const PERF_EVENT: u32 = 41;

/// Attributes of bpf(2): zeros, but for what is set.
#[repr(C, align(8))]
struct Attributes([u8; 152]);

impl Attributes {
    const fn new() -> Self {
        Self([0; 152])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: &OwnedFd) -> Self {
        // A descriptor is not negative.
        self.word(at, fd.as_raw_fd() as u32)
    }

    /// Calls bpf(2). A kernel that knows fewer attributes takes them where the rest is zeros.
    ///
    /// # Safety
    ///
    /// Addresses among the attributes must be those of memory that is large enough and lives until this returns.
    unsafe fn call(mut self, command: u32) -> io::Result<libc::c_long> {
        // SAFETY: the attributes live until the call returns; the caller answers for what they point to.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result)
    }

    /// As [`Self::call`], for commands that give a descriptor.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn open(self, command: u32) -> io::Result<OwnedFd> {
        // SAFETY: the caller's promise is ours.
        let fd = unsafe { self.call(command) }?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

/// A map with one kind of content.
pub fn create_map(
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = Attributes::new()
        .word(0, kind)
        .word(4, key)
        .word(8, value)
        .word(12, entries)
        .word(16, flags);
    // SAFETY: no addresses.
    unsafe { attributes.open(MAP_CREATE) }
}

/// One instruction.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `destination` and `source` are bit fields, whose order is the machine's byte order.
    const fn new(code: u8, destination: u8, source: u8, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "big") {
            destination << 4 | source
        } else {
            source << 4 | destination
        };
        Self {
            code,
            registers,
            offset: 0,
            immediate,
        }
    }
}

/// Does nothing: `r0 = 0; exit`.
pub const NOTHING: [Instruction; 2] = [
    Instruction::new(0xb7, 0, 0, 0),
    Instruction::new(0x95, 0, 0, 0),
];

/// Reads 8 bytes of kernel memory at address 0 to its stack, which fails, and is allowed or not when it is loaded:
/// `r1 = r10; r1 += -8; r2 = 8; r3 = 0; call bpf_probe_read_kernel; r0 = 0; exit`.
pub const READS_KERNEL: [Instruction; 7] = [
    Instruction::new(0xbf, 1, 10, 0),
    Instruction::new(0x07, 1, 0, -8),
    Instruction::new(0xb7, 2, 0, 8),
    Instruction::new(0xb7, 3, 0, 0),
    Instruction::new(0x85, 0, 0, 113),
    Instruction::new(0xb7, 0, 0, 0),
    Instruction::new(0x95, 0, 0, 0),
];

/// Why a program was not loaded.
#[derive(Debug)]
pub struct Refused {
    /// The error number.
    pub error: io::Error,
    /// What the verifier said last, if anything.
    pub said: Option<String>,
}

/// Loads a program. `attach` is, for a tracing program, where it will attach and the BTF id of the target.
pub fn load(
    kind: u32,
    instructions: &[Instruction],
    attach: Option<(u32, u32)>,
) -> Result<OwnedFd, Refused> {
    let mut nothing = [];
    let error = match try_load(kind, instructions, attach, &mut nothing) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more with a log: it is not written where the program is loaded the first time.
    let mut log = vec![0; 16 << 10];
    let said = match try_load(kind, instructions, attach, &mut log) {
        Ok(program) => return Ok(program),
        Err(_) => last_word(&log),
    };
    Err(Refused { error, said })
}

/// The last line of a verifier's log that is not its statistics.
fn last_word(log: &[u8]) -> Option<String> {
    let end = log.iter().position(|byte| *byte == 0)?;
    let text = String::from_utf8_lossy(&log[..end]);
    let line = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.starts_with("processed "))?;
    Some(line.chars().take(200).collect())
}

fn try_load(
    kind: u32,
    instructions: &[Instruction],
    attach: Option<(u32, u32)>,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    const LICENCE: &CStr = c"GPL";
    const NAME: &[u8; 13] = b"apscope_trial";
    let (attach_type, target) = attach.unwrap_or((0, 0));
    let mut attributes = Attributes::new()
        .word(0, kind)
        .word(4, instructions.len() as u32)
        .long(8, instructions.as_ptr() as u64)
        .long(16, LICENCE.as_ptr() as u64)
        .word(68, attach_type)
        .word(108, target);
    if !log.is_empty() {
        attributes = attributes
            .word(24, 1)
            .word(28, log.len() as u32)
            .long(32, log.as_mut_ptr() as u64);
    }
    attributes.0[48..48 + NAME.len()].copy_from_slice(NAME);
    // SAFETY: instructions, licence and log live until the call returns; the log is as long as it is said to be.
    unsafe { attributes.open(PROG_LOAD) }
}

/// Attaches a raw tracepoint program to a tracepoint by name, or a tracing program to the target it was loaded for.
pub fn open_raw_tracepoint(name: Option<&CStr>, program: &OwnedFd) -> io::Result<OwnedFd> {
    let name = name.map_or(0, |name| name.as_ptr() as u64);
    // SAFETY: the name lives until the call returns.
    unsafe {
        Attributes::new()
            .long(0, name)
            .fd(8, program)
            .open(RAW_TRACEPOINT_OPEN)
    }
}

/// Runs a raw tracepoint program once, here.
pub fn test_run(program: &OwnedFd) -> io::Result<()> {
    let arguments = [0u64; 12];
    let attributes = Attributes::new()
        .fd(0, program)
        .word(40, size_of_val(&arguments) as u32)
        .long(48, arguments.as_ptr() as u64);
    // SAFETY: the arguments live until the call returns; there is no output.
    unsafe { attributes.call(PROG_TEST_RUN) }.map(drop)
}

/// Measures every program's run time while the descriptor is open.
pub fn enable_stats() -> io::Result<OwnedFd> {
    // SAFETY: no addresses. Type 0 is BPF_STATS_RUN_TIME.
    unsafe { Attributes::new().word(0, 0).open(ENABLE_STATS) }
}

/// A perf event of a dynamic event source: `kprobe` or `uprobe`.
///
/// `config` has the bit for a return probe; `name` is the function or the path, `offset` the place in it; `pid` is the
/// only process in which it fires, `None` every one.
pub fn open_probe(
    source: u32,
    config: u64,
    name: &CStr,
    offset: u64,
    pid: Option<u32>,
) -> io::Result<OwnedFd> {
    /// `PERF_ATTR_SIZE_VER1`: up to `config2`.
    const SIZE: u32 = 72;
    const FLAG_FD_CLOEXEC: u64 = 8;
    let attributes = Attributes::new()
        .word(0, source)
        .word(4, SIZE)
        .long(8, config)
        .long(56, name.as_ptr() as u64)
        .long(64, offset);
    let (pid, cpu) = match pid {
        Some(pid) => (pid as i32, -1),
        None => (-1, 0),
    };
    // SAFETY: attributes and name live until the call returns; the kernel only reads them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.0.as_ptr(),
            pid,
            cpu,
            -1,
            FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a program to a perf event, by ioctl(2): every kernel can.
pub fn set_program(event: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    use aya_obj::generated::{PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF};
    let requests = [
        (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
        (PERF_EVENT_IOC_ENABLE, 0),
    ];
    for (request, argument) in requests {
        // SAFETY: both requests take an integer.
        let result =
            unsafe { libc::ioctl(event.as_raw_fd(), libc::Ioctl::from(request), argument) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Attaches a program to a perf event by a link, with a cookie: from Linux 5.15 on.
pub fn link_with_cookie(event: &OwnedFd, program: &OwnedFd, cookie: u64) -> io::Result<OwnedFd> {
    let attributes = Attributes::new()
        .fd(0, program)
        .fd(4, event)
        .word(8, PERF_EVENT)
        .long(16, cookie);
    // SAFETY: no addresses.
    unsafe { attributes.open(LINK_CREATE) }
}

/// A loaded program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its name, at most 15 bytes, zeros behind.
    pub name: [u8; 16],
    /// Who loaded it.
    pub uid: u32,
}

/// Id of the next loaded program; `None` after the last.
pub fn next_program(after: u32) -> io::Result<Option<u32>> {
    let mut attributes = Attributes::new().word(0, after);
    // SAFETY: no addresses; the answer is in the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_GET_NEXT_ID,
            attributes.0.as_mut_ptr(),
            attributes.0.len(),
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(u32::from_ne_bytes([
        attributes.0[4],
        attributes.0[5],
        attributes.0[6],
        attributes.0[7],
    ])))
}

/// A loaded program's name and owner; `None` where it has gone meanwhile.
pub fn program_info(id: u32) -> io::Result<Option<ProgramInfo>> {
    // SAFETY: no addresses.
    let fd = match unsafe { Attributes::new().word(0, id).open(PROG_GET_FD_BY_ID) } {
        Ok(fd) => fd,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The first 80 bytes of `struct bpf_prog_info`: up to the name.
    let mut info = [0u8; 80];
    let attributes = Attributes::new()
        .fd(0, &fd)
        .word(4, info.len() as u32)
        .long(8, info.as_mut_ptr() as u64);
    // SAFETY: the kernel writes at most 80 bytes to `info`, which lives until the call returns.
    unsafe { attributes.call(OBJ_GET_INFO_BY_FD) }?;
    let mut name = [0; 16];
    name.copy_from_slice(&info[64..80]);
    let uid = u32::from_ne_bytes([info[48], info[49], info[50], info[51]]);
    Ok(Some(ProgramInfo { name, uid }))
}
