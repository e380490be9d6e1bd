//! Kernel memory of a test: words of 8 bytes at chosen addresses.

use std::collections::BTreeMap;

use crate::source::kernel::words::Memory;

/// Words by address, which is divisible by 8.
#[derive(Debug, Clone, Default)]
pub struct Words(BTreeMap<u64, u64>);

impl Words {
    /// Writes a word.
    pub fn put(&mut self, at: u64, value: u64) {
        self.0.insert(at, value);
    }

    /// Writes four bytes.
    pub fn put_u32(&mut self, at: u64, value: u32) {
        let mut bytes = self.0.get(&(at & !7)).copied().unwrap_or(0).to_ne_bytes();
        let within = (at & 7) as usize;
        bytes[within..within + 4].copy_from_slice(&value.to_ne_bytes());
        self.0.insert(at & !7, u64::from_ne_bytes(bytes));
    }

    /// Makes a word unreadable.
    pub fn forget(&mut self, at: u64) {
        self.0.remove(&at);
    }

    /// A word.
    pub fn get(&self, at: u64) -> Option<u64> {
        self.0.get(&at).copied()
    }
}

impl Memory for Words {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        for (n, byte) in into.iter_mut().enumerate() {
            let at = address.wrapping_add(n as u64);
            let Some(word) = self.0.get(&(at & !7)) else {
                return false;
            };
            *byte = word.to_ne_bytes()[(at & 7) as usize];
        }
        true
    }
}
