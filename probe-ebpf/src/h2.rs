//! Log-linear (H2) histogram buckets: which bucket a duration falls into, and what a bucket means.
//!
//! The layout is that of the H2 histogram with grouping power 5 and a maximum value power of 48: values below
//! 2^6 ns have a bucket each, every power of two above is split into 32 equal buckets, so a bucket's width is at
//! most 1/32 (3.2 %) of its lower bound. Values from 2^48 ns (78 hours) on share the overflow bucket.

/// log2 of the number of buckets per power of two.
pub const GROUPING_POWER: u32 = 5;
/// Values of 2^this nanoseconds and more go to the overflow bucket.
pub const MAX_VALUE_POWER: u32 = 48;
/// Buckets below the overflow bucket.
pub const REGULAR_BUCKETS: usize =
    ((MAX_VALUE_POWER - GROUPING_POWER + 1) as usize) << GROUPING_POWER;
/// Index of the overflow bucket.
pub const OVERFLOW: usize = REGULAR_BUCKETS;
/// Number of buckets, the overflow bucket included.
pub const BUCKETS: usize = REGULAR_BUCKETS + 1;

/// Buckets of a coarse histogram: bucket `n` counts values `v` with `ilog2(v) == n`, and 0 counts 0 and 1.
pub const COARSE_BUCKETS: usize = 64;

/// Multiplying a number of the form 2^n - 1 by this puts a value in its top six bits that is different for each n.
const DE_BRUIJN: u64 = 0x03f7_9d71_b4cb_0a89;

/// The exponent for each of those values.
static EXPONENTS: [u8; 64] = {
    let mut table = [0; 64];
    let mut power = 0;
    while power < 64 {
        let ones = u64::MAX >> (63 - power);
        table[(ones.wrapping_mul(DE_BRUIJN) >> 58) as usize] = power as u8;
        power += 1;
    }
    table
};

/// Position of the highest set bit; 0 for 0.
///
/// The eBPF instruction set has no count-leading-zeros, and each branch would double what the verifier has to look
/// at, so this has none.
#[inline(always)]
#[must_use]
pub const fn ilog2(value: u64) -> u32 {
    let mut ones = value | 1;
    ones |= ones >> 1;
    ones |= ones >> 2;
    ones |= ones >> 4;
    ones |= ones >> 8;
    ones |= ones >> 16;
    ones |= ones >> 32;
    EXPONENTS[(ones.wrapping_mul(DE_BRUIJN) >> 58) as usize] as u32
}

/// Bucket of a value in nanoseconds; always below [`BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn bucket(value_ns: u64) -> usize {
    if value_ns < 1 << (GROUPING_POWER + 1) {
        return value_ns as usize;
    }
    if value_ns >= 1 << MAX_VALUE_POWER {
        return OVERFLOW;
    }
    let power = ilog2(value_ns);
    let shift = power - GROUPING_POWER;
    // (value >> shift) is in 32..64, so the groups follow each other without a gap.
    ((shift as usize) << GROUPING_POWER) + (value_ns >> shift) as usize
}

/// Smallest value, in nanoseconds, that falls into a bucket.
#[must_use]
pub const fn lower_bound(bucket: usize) -> u64 {
    if bucket < 1 << (GROUPING_POWER + 1) {
        return bucket as u64;
    }
    if bucket >= OVERFLOW {
        return 1 << MAX_VALUE_POWER;
    }
    let shift = (bucket >> GROUPING_POWER) as u32 - 1;
    (((bucket & ((1 << GROUPING_POWER) - 1)) + (1 << GROUPING_POWER)) as u64) << shift
}

/// Largest value, in nanoseconds, that falls into a bucket; `u64::MAX` for the overflow bucket.
#[must_use]
pub const fn upper_bound(bucket: usize) -> u64 {
    if bucket >= OVERFLOW {
        u64::MAX
    } else {
        lower_bound(bucket + 1) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_contiguous_and_contain_their_values() {
        let mut next = 0;
        for b in 0..REGULAR_BUCKETS {
            assert_eq!(lower_bound(b), next, "bucket {b}");
            assert_eq!(bucket(lower_bound(b)), b);
            assert_eq!(bucket(upper_bound(b)), b);
            next = upper_bound(b) + 1;
        }
        assert_eq!(next, 1 << MAX_VALUE_POWER);
        assert_eq!(bucket(next), OVERFLOW);
        assert_eq!(bucket(u64::MAX), OVERFLOW);
    }

    #[test]
    fn relative_error_is_at_most_one_part_in_32() {
        for b in 64..REGULAR_BUCKETS {
            assert!((upper_bound(b) - lower_bound(b)) as f64 <= lower_bound(b) as f64 / 32.0);
        }
    }

    #[test]
    fn ilog2_agrees_with_the_standard_library() {
        for shift in 0..64 {
            let v = 1_u64 << shift;
            for v in [v, v | 1, v.wrapping_sub(1).max(1)] {
                assert_eq!(ilog2(v), v.ilog2());
            }
        }
        assert_eq!(ilog2(0), 0);
    }
}
