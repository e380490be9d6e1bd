//! What the emulator's probe points call. While measuring in process is off, each is one load and a branch.

use probe_ebpf::abi::Mode;

/// The lock at this address was obtained.
#[inline]
pub fn lock_acquired(_lock: u64, _mode: Mode) {}
/// The lock is about to be released.
#[inline]
pub fn lock_release(_lock: u64, _mode: Mode) {}
/// The slow path was entered.
#[inline]
pub fn lock_contended(_lock: u64, _mode: Mode) {}
/// A trylock failed, or a wait was interrupted.
#[inline]
pub fn lock_failed(_lock: u64, _mode: Mode) {}
/// An entry point was called; `args` are its first four arguments.
#[inline]
pub fn entry_enter(_entry: u8, _args: [u64; 4]) {}
/// An entry point returns.
#[inline]
pub fn entry_return(_entry: u8, _value: u64) {}
/// `prepare_to_wait_event` was called.
#[inline]
pub fn wait_prepare(_queue: u64) {}
/// `finish_wait` was called.
#[inline]
pub fn wait_finish(_queue: u64) {}
/// `__wake_up` was called.
#[inline]
pub fn wait_wake(_queue: u64) {}
/// Turns the hooks on, recording into new shared memory; returns its file descriptor number, for `Reply::Memory`.
///
/// # Errors
///
/// A text saying what could not be made and why.
pub fn enable(_hello: &crate::emulator::protocol::Hello, _ring_bytes: u32) -> Result<i32, String> {
    Err("not there yet".into())
}
