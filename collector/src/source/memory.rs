//! The statistics as the collector sees them: arrays in memory that the probes are writing.
//!
//! Under eBPF each array is a map, mapped into this process; in process they are parts of one shared memory.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use probe_ebpf::abi::{
    Coarse, Counters, Edge, EntryStats, InstanceInfo, SeriesStats, Task, TaskExtremes, Word,
};

/// A shared mapping of a file descriptor.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping lives as long as this value, and what is in it is accessed through `Word`s only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `fd` from `offset` on; `writable` if this process is to write to it.
    pub fn new(
        fd: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        writable: bool,
    ) -> io::Result<Arc<Self>> {
        let protection = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Arc::new(Self { start, length }))
    }

    /// First byte.
    #[must_use]
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Types whose every field is a [`Word`] (or an array of them): any memory content is a valid value.
///
/// # Safety
///
/// Implement only for such types.
pub unsafe trait Shared {}

// SAFETY: all of these consist of `Word`s; see their definitions.
unsafe impl Shared for Word {}
// SAFETY: as above.
unsafe impl Shared for Task {}
// SAFETY: as above.
unsafe impl Shared for TaskExtremes {}
// SAFETY: as above.
unsafe impl Shared for SeriesStats {}
// SAFETY: as above.
unsafe impl Shared for EntryStats {}
// SAFETY: as above.
unsafe impl Shared for Coarse {}
// SAFETY: as above.
unsafe impl Shared for Edge {}
// SAFETY: as above.
unsafe impl Shared for Counters {}
// SAFETY: as above.
unsafe impl Shared for InstanceInfo {}

/// An array of `T` in a mapping.
pub struct View<T: Shared> {
    mapping: Arc<Mapping>,
    first: NonNull<T>,
    len: usize,
}

// SAFETY: see `Mapping`.
unsafe impl<T: Shared> Send for View<T> {}
// SAFETY: see `Mapping`.
unsafe impl<T: Shared> Sync for View<T> {}

impl<T: Shared> View<T> {
    /// `len` elements, `offset` bytes into the mapping. `None` if they do not lie in it, aligned.
    #[must_use]
    pub fn new(mapping: &Arc<Mapping>, offset: usize, len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        if offset.checked_add(bytes)? > mapping.length() {
            return None;
        }
        // SAFETY: `offset` lies within the mapping.
        let first = NonNull::new(unsafe { mapping.start().add(offset) }.cast::<T>())?;
        first.is_aligned().then(|| Self {
            mapping: Arc::clone(mapping),
            first,
            len,
        })
    }

    /// The mapping it lies in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl<T: Shared> Deref for View<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the elements lie in the mapping (checked by `new`), and `T: Shared` makes any content valid.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

/// Everything the probes write.
pub struct Memory {
    /// Live state of tasks.
    pub tasks: View<Task>,
    /// Extremes, same index as `tasks`.
    pub extremes: View<TaskExtremes>,
    /// Shard after shard, [`probe_ebpf::abi::MAX_SERIES`] each.
    pub series: View<SeriesStats>,
    /// Shard after shard, [`probe_ebpf::abi::MAX_ENTRY_POINTS`] each.
    pub entries: View<EntryStats>,
    /// By instance slot.
    pub instances: View<Coarse>,
    /// Series after series, [`probe_ebpf::abi::MAX_ENTRY_POINTS`] each.
    pub by_entry: View<Coarse>,
    /// See [`probe_ebpf::abi::pqap_index`].
    pub pqap: View<Word>,
    /// Order edges.
    pub edges: View<Edge>,
    /// CPU after CPU, [`probe_ebpf::abi::PROGRAMS`] each.
    pub counters: View<Counters>,
}
