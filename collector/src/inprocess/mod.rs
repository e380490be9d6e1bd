//! The in-process source: the same probe bodies as the eBPF programs, run by the emulator's own threads into shared
//! memory that the collector reads with the same reader.
//!
//! The emulator makes the memory ([`hooks::enable`]); the collector maps it ([`open`]). Both compute the same
//! [`layout::Layout`] from the same sizes.

mod env;
pub mod hooks;
mod layout;
mod ring;
mod table;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd as _;

use crate::source::budget::Sizes;
use crate::source::memory::{Mapping, Memory};

pub use ring::SharedRing;

/// Maps the memory of an emulator that measures in process: `/proc/<pid>/fd/<fd>`.
pub fn open(pid: u32, fd: i32, sizes: &Sizes) -> io::Result<(Memory, SharedRing)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/fd/{fd}"))?;
    let layout = layout::Layout::new(sizes);
    if file.metadata()?.len() < layout.length as u64 {
        return Err(io::Error::other(
            "the shared memory is smaller than this version expects",
        ));
    }
    let mapping = Mapping::new(file.as_fd(), 0, layout.length, true)?;
    let views = layout
        .views(&mapping, sizes)
        .ok_or_else(|| io::Error::other("the shared memory is too small"))?;
    Ok((
        views.memory,
        SharedRing::new(views.ring_control, views.ring),
    ))
}
