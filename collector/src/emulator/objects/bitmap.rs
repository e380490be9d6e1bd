//! The AP architecture's bitmaps, and the matrix made of three of them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bitmap of 256 bits, numbered as the AP architecture numbers them: bit 0 is the leftmost of word 0.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Bitmap([AtomicU64; 4]);

impl Bitmap {
    /// Number of bits.
    pub const BITS: u16 = 256;

    fn place(bit: u16) -> (usize, u64) {
        (usize::from(bit / 64 % 4), 1 << (63 - bit % 64))
    }

    /// `set_bit_inv`.
    pub fn set(&self, bit: u16) {
        let (word, mask) = Self::place(bit);
        self.0[word].fetch_or(mask, Ordering::Relaxed);
    }

    /// `clear_bit_inv`.
    pub fn clear(&self, bit: u16) {
        let (word, mask) = Self::place(bit);
        self.0[word].fetch_and(!mask, Ordering::Relaxed);
    }

    /// `test_bit_inv`.
    pub fn test(&self, bit: u16) -> bool {
        let (word, mask) = Self::place(bit);
        self.0[word].load(Ordering::Relaxed) & mask != 0
    }

    /// Bits that are set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..Self::BITS).filter(|bit| self.test(*bit))
    }

    /// No bit is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| w.load(Ordering::Relaxed) == 0)
    }

    /// Both have a bit in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .any(|(a, b)| a.load(Ordering::Relaxed) & b.load(Ordering::Relaxed) != 0)
    }

    /// Takes over all bits of `other`.
    pub fn copy_from(&self, other: &Self) {
        for (to, from) in self.0.iter().zip(&other.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Clears all bits.
    pub fn clear_all(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Both have the same bits.
    pub fn is_equal(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(a, b)| a.load(Ordering::Relaxed) == b.load(Ordering::Relaxed))
    }

    /// The bits of `a` that `b` has too (`bitmap_and`); true if there are any.
    pub fn set_and(&self, a: &Self, b: &Self) -> bool {
        self.combine(a, b, |a, b| a & b)
    }

    /// The bits of `a` that `b` has not (`bitmap_andnot`); true if there are any.
    pub fn set_andnot(&self, a: &Self, b: &Self) -> bool {
        self.combine(a, b, |a, b| a & !b)
    }

    fn combine(&self, a: &Self, b: &Self, f: impl Fn(u64, u64) -> u64) -> bool {
        let mut any = 0;
        for (to, (a, b)) in self.0.iter().zip(a.0.iter().zip(&b.0)) {
            let word = f(a.load(Ordering::Relaxed), b.load(Ordering::Relaxed));
            to.store(word, Ordering::Relaxed);
            any |= word;
        }
        any != 0
    }

    /// A copy.
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        copy.copy_from(self);
        copy
    }

    /// Only this bit.
    pub fn only(bit: u16) -> Self {
        let map = Self::default();
        map.set(bit);
        map
    }

    /// All 256 bits.
    pub fn full() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(u64::MAX)))
    }

    /// `0x` and 64 hexadecimal digits, as the AP bus and `ap_config` write masks.
    pub fn hex(&self) -> String {
        let mut text = String::from("0x");
        for word in &self.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{:016x}", word.load(Ordering::Relaxed));
        }
        text
    }

    /// `ap_hex2bitmap` of the AP bus: up to 64 hexadecimal digits, `0x` before them or not; the first is bits 0 to 3.
    /// `None` if there is something else.
    pub fn ap_hex2bitmap(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(b"0x").unwrap_or(text);
        if digits.len() > usize::from(Self::BITS / 4) {
            return None;
        }
        let map = Self::default();
        for (n, digit) in digits.iter().enumerate() {
            let value = char::from(*digit).to_digit(16)?;
            for bit in 0..4 {
                if value & (8 >> bit) != 0 {
                    map.set(n as u16 * 4 + bit);
                }
            }
        }
        Some(map)
    }
}

/// `struct ap_matrix`: adapters, usage domains, control domains. Guarded by the driver's lock.
#[derive(Debug)]
#[repr(C)]
pub struct ApMatrix {
    /// Largest adapter number.
    pub apm_max: u64,
    /// Adapters.
    pub apm: Bitmap,
    /// Largest domain number.
    pub aqm_max: u64,
    /// Usage domains.
    pub aqm: Bitmap,
    /// Largest control domain number.
    pub adm_max: u64,
    /// Control domains.
    pub adm: Bitmap,
}

impl Default for ApMatrix {
    /// `vfio_ap_matrix_init` on a machine with APXA: 256 adapters, 256 domains.
    fn default() -> Self {
        Self {
            apm_max: 255,
            apm: Bitmap::default(),
            aqm_max: 255,
            aqm: Bitmap::default(),
            adm_max: 255,
            adm: Bitmap::default(),
        }
    }
}

impl ApMatrix {
    /// Takes over all bits of `other` (`ap_matrix_copy`).
    pub fn copy_from(&self, other: &Self) {
        self.apm.copy_from(&other.apm);
        self.aqm.copy_from(&other.aqm);
        self.adm.copy_from(&other.adm);
    }

    /// Clears all bits.
    pub fn clear_all(&self) {
        self.apm.clear_all();
        self.aqm.clear_all();
        self.adm.clear_all();
    }

    /// The adapter and the domain of this queue are both there.
    pub fn has_queue(&self, apqn: u16) -> bool {
        self.apm.test(apqn >> 8) && self.aqm.test(apqn & 0xff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_numbered_from_the_left() {
        let map = Bitmap::default();
        assert!(map.is_empty());
        for bit in [0, 63, 64, 255] {
            map.set(bit);
        }
        assert_eq!(map.0[0].load(Ordering::Relaxed), (1 << 63) | 1);
        assert_eq!(map.0[1].load(Ordering::Relaxed), 1 << 63);
        assert_eq!(map.0[3].load(Ordering::Relaxed), 1);
        assert_eq!(map.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        map.clear(63);
        assert!(!map.test(63));
        let other = Bitmap::default();
        assert!(!map.intersects(&other));
        other.set(255);
        assert!(map.intersects(&other));
    }

    #[test]
    fn masks_are_written_and_read() {
        let map = Bitmap::default();
        map.set(0);
        map.set(7);
        map.set(255);
        let text = map.hex();
        assert!(text.starts_with("0x81000000") && text.ends_with("01"));
        assert_eq!(text.len(), 66);
        assert!(
            Bitmap::ap_hex2bitmap(text.as_bytes())
                .unwrap()
                .is_equal(&map)
        );
        // Fewer digits are the first ones.
        let short = Bitmap::ap_hex2bitmap(b"0x41").unwrap();
        assert_eq!(short.iter().collect::<Vec<_>>(), [1, 7]);
        for bad in ["0xg", "0x 1", "41,", "-1"] {
            assert!(Bitmap::ap_hex2bitmap(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(Bitmap::ap_hex2bitmap(format!("0x{}", "0".repeat(65)).as_bytes()).is_none());
    }

    #[test]
    fn sets_are_combined() {
        let (a, b) = (Bitmap::default(), Bitmap::default());
        a.set(1);
        a.set(2);
        b.set(2);
        b.set(3);
        let c = Bitmap::default();
        assert!(c.set_and(&a, &b));
        assert_eq!(c.iter().collect::<Vec<_>>(), [2]);
        assert!(c.set_andnot(&a, &b));
        assert_eq!(c.iter().collect::<Vec<_>>(), [1]);
        assert!(!c.set_and(&Bitmap::only(9), &b));
        assert!(Bitmap::full().test(255) && c.copy().is_equal(&c));
    }
}
