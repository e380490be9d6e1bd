//! A hasher for thread ids.
//!
//! Spans are looked up by thousands in each picture, and the standard hasher takes longer than all that is done with what
//! it finds. Thread ids come from recordings too: the factor is a secret of this process, so that nobody can choose ids
//! that fall together.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Makes hashers with a factor of their own.
#[derive(Debug, Clone)]
pub struct Spread {
    factor: u64,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            factor: RandomState::new().hash_one(0_u64) | 1,
        }
    }
}

impl BuildHasher for Spread {
    type Hasher = Product;

    fn build_hasher(&self) -> Product {
        Product {
            factor: self.factor,
            value: 0,
        }
    }
}

/// Multiplies by a secret odd number.
#[derive(Debug)]
pub struct Product {
    factor: u64,
    value: u64,
}

impl Hasher for Product {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.value = (self.value ^ u64::from(number)).wrapping_mul(self.factor);
    }

    fn finish(&self) -> u64 {
        // A map takes the lowest bits, and the highest ones of a product are those that depend on all of the number.
        self.value.rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_that_differ_in_any_bits_are_told_apart_by_the_lowest_ones() {
        let spread = Spread::default();
        for step in [1, 2, 1 << 10, 1 << 20] {
            let places = (0..4_096_u32).map(|n| spread.hash_one(n.wrapping_mul(step)) & 0xffff);
            let places: HashSet<u64> = places.collect();
            assert!(places.len() > 3_000, "{step}: {}", places.len());
        }
    }
}
