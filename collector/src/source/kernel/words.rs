//! Kernel memory, read by a program that this process runs: `bpf_probe_read_kernel`, which takes no lock and survives a
//! bad address. Works from Linux 5.10 on, and without BTF.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use probe_ebpf::abi::{PEEK_BYTES, Word};

use crate::source::ebpf::{ProbeError, object, sys};
use crate::source::memory::View;

const PROGRAM: &str = "peek";

/// Reads the kernel's memory.
pub trait Memory {
    /// Fills `into` from an address; false if it cannot be read. At most [`PEEK_BYTES`] - 1 bytes at once.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Eight bytes.
    fn u64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_ne_bytes(bytes))
    }

    /// Four bytes.
    fn u32(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)
            .then(|| u32::from_ne_bytes(bytes))
    }

    /// Text up to a NUL, at most `most` bytes.
    fn text(&self, address: u64, most: usize) -> Option<String> {
        let mut bytes = vec![0; most];
        if !self.read(address, &mut bytes) {
            // The text may lie at the end of what is mapped.
            return self.short_text(address, most);
        }
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(most);
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// As [`Memory::text`], byte by byte.
    fn short_text(&self, address: u64, most: usize) -> Option<String> {
        let mut bytes = Vec::new();
        for n in 0..most as u64 {
            let mut byte = [0];
            if !self.read(address.wrapping_add(n), &mut byte) {
                return None;
            }
            if byte[0] == 0 {
                break;
            }
            bytes.push(byte[0]);
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The running kernel's.
pub struct Kernel {
    program: OwnedFd,
    read: View<Word>,
}

impl Kernel {
    /// Loads the program.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let program = object::load_program(ebpf, PROGRAM)?;
        let read = object::view(ebpf, "PEEK", PEEK_BYTES / size_of::<Word>())?;
        Ok(Self { program, read })
    }
}

impl Memory for Kernel {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        if into.is_empty() || into.len() >= PEEK_BYTES || address == 0 {
            return into.is_empty();
        }
        let arguments = [address, into.len() as u64];
        if sys::run_program(self.program.as_fd(), &arguments).ok() != Some(0) {
            return false;
        }
        for (chunk, word) in into.chunks_mut(8).zip(self.read.iter()) {
            chunk.copy_from_slice(&word.get().to_ne_bytes()[..chunk.len()]);
        }
        true
    }
}
