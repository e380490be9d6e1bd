//! What the emulator's probe points call. While measuring in process is off, each is one load and a branch.

use std::fs::File;
use std::os::fd::{AsFd as _, FromRawFd as _, IntoRawFd as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use probe_ebpf::abi::Mode;
use probe_ebpf::body::{entries, locks, waits, works};

use super::env::InProcess;
use super::layout::Layout;
use super::ring::SharedRing;
use super::table::{Addresses, Table};
use crate::attach;
use crate::emulator::protocol::Hello;
use crate::source::instances::Instances;
use crate::source::memory::Mapping;
use crate::source::{self, tables};

static ENABLED: AtomicBool = AtomicBool::new(false);
static MEASURE: OnceLock<InProcess> = OnceLock::new();

/// Runs a body if measuring is on.
#[inline]
fn with(body: impl FnOnce(&InProcess)) {
    if ENABLED.load(Ordering::Acquire)
        && let Some(env) = MEASURE.get()
    {
        body(env);
    }
}

/// The lock at this address was obtained.
#[inline]
pub fn lock_acquired(lock: u64, mode: Mode) {
    with(|env| locks::acquired(env, lock, mode));
}

/// The lock is about to be released.
#[inline]
pub fn lock_release(lock: u64, mode: Mode) {
    with(|env| locks::release(env, lock, || mode));
}

/// The slow path was entered.
#[inline]
pub fn lock_contended(lock: u64, mode: Mode) {
    with(|env| locks::contended(env, lock, mode));
}

/// A trylock failed, or a wait was interrupted.
#[inline]
pub fn lock_failed(lock: u64, mode: Mode) {
    with(|env| locks::failed(env, lock, mode));
}

/// An entry point was called; `args` are its first six arguments: the fifth and the sixth say on whose behalf a sysfs
/// attribute is accessed (pid, address of 16 bytes of name).
#[inline]
pub fn entry_enter(entry: u8, args: [u64; 6]) {
    with(|env| entries::enter(env, entry, args));
}

/// An entry point returns.
#[inline]
pub fn entry_return(entry: u8, value: u64) {
    with(|env| entries::leave(env, entry, value));
}

/// `prepare_to_wait_event` was called.
#[inline]
pub fn wait_prepare(queue: u64) {
    with(|env| waits::prepare(env, queue));
}

/// `finish_wait` was called.
#[inline]
pub fn wait_finish(queue: u64) {
    with(|env| waits::finish(env, queue));
}

/// `__wake_up` was called.
#[inline]
pub fn wait_wake(queue: u64) {
    with(|env| waits::wake(env, queue));
}

/// A worker starts to execute the work item at this address.
#[inline]
pub fn work_start(work: u64) {
    with(|env| works::work_start(env, work));
}

/// The worker has executed the work item.
#[inline]
pub fn work_end(work: u64) {
    with(|env| locks::release(env, work, || Mode::Exclusive));
}

/// `flush_work` was called.
#[inline]
pub fn flush_enter(work: u64) {
    with(|env| works::flush_enter(env, work));
}

/// `flush_work` returns; `waited`: the work item was pending or running. Which one it was, the call has said.
#[inline]
pub fn flush_return(_work: u64, waited: bool) {
    with(|env| works::flush_return(env, waited));
}

/// Turns the hooks on, recording into new shared memory; returns its file descriptor number, for `Reply::Memory`.
///
/// # Errors
///
/// A text saying what could not be made and why.
pub fn enable(hello: &Hello, ring_bytes: u32) -> Result<i32, String> {
    if MEASURE.get().is_some() {
        return Err("this emulated driver is being measured already, by another collector".into());
    }
    let (env, file) = measure(hello, ring_bytes)?;
    MEASURE
        .set(env)
        .map_err(|_| "this emulated driver is being measured already".to_owned())?;
    ENABLED.store(true, Ordering::Release);
    // The descriptor stays open for the collector to find, as long as the process lives.
    Ok(file.into_raw_fd())
}

/// What the probe bodies work on, in new shared memory.
pub(super) fn measure(hello: &Hello, ring_bytes: u32) -> Result<(InProcess, File), String> {
    let instances = Instances::new(hello);
    let sizes = source::sizes(hello, &instances, ring_bytes).map_err(|e| e.to_string())?;
    let layout = Layout::new(&sizes);
    let file = memory_file(layout.length)
        .map_err(|e| format!("shared memory of {} bytes: {e}", layout.length))?;
    let mapping =
        Mapping::new(file.as_fd(), 0, layout.length, true).map_err(|e| format!("mmap: {e}"))?;
    let views = layout
        .views(&mapping, &sizes)
        .ok_or("the shared memory is too small")?;
    let ring = SharedRing::new(views.ring_control, views.ring);
    ring.clear();
    let env = InProcess {
        config: tables::config(hello, &sizes),
        locks: Addresses::new(&tables::addresses(hello, &instances)),
        entries: attach::entry_info(tables::has_flag(hello), attach::Writer::Arguments),
        memory: views.memory,
        ring,
        tasks: Table::new(sizes.tasks),
        edges: Table::new(sizes.edges),
        threads: AtomicU64::new(0),
    };
    Ok((env, file))
}

/// Anonymous memory behind a file descriptor, filled with zeroes.
fn memory_file(length: usize) -> std::io::Result<File> {
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"apscope-statistics".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(length as u64)?;
    Ok(file)
}
