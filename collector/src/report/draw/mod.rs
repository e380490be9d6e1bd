//! Pictures as SVG, in the colours of the page.

pub mod distribution;
pub mod heat;
pub mod order;
pub mod timeline;

use crate::diagnose::words::duration;

/// A duration for an axis: a power of two of nanoseconds, in few letters.
fn tick(ns: u64) -> String {
    let (value, unit) = match ns {
        0..=999 => (ns, "ns"),
        1_000..=999_999 => (ns / 1_000, "µs"),
        1_000_000..=999_999_999 => (ns / 1_000_000, "ms"),
        _ => (ns / 1_000_000_000, "s"),
    };
    format!("{value} {unit}")
}

/// A coordinate, with as many digits as a picture needs.
fn at(value: f64) -> String {
    format!("{value:.1}")
}

/// The scale of a time axis: from `from_ns` on, steps of a round length, at most eight of them.
fn steps(length_ns: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for factor in [1, 2, 5] {
            if length_ns / (step * factor) < 8 {
                return step * factor;
            }
        }
        let Some(next) = step
            .checked_mul(10)
            .filter(|next| next.checked_mul(5).is_some())
        else {
            return step;
        };
        step = next;
    }
}

/// Powers of ten up to `most`, at most five of them, evenly apart: the scale of counts that are drawn by their logarithm.
fn magnitudes(most: u64) -> Vec<u64> {
    let powers = most.max(1).ilog10();
    let every = (powers as usize).div_ceil(4).max(1);
    let exponents = (0..=powers).step_by(every);
    exponents.map(|power| 10_u64.pow(power)).collect()
}

/// A count in few letters.
fn short(count: u64) -> String {
    let (value, unit) = match count {
        0..=999 => return count.to_string(),
        1_000..=999_999 => (count as f64 / 1e3, "k"),
        1_000_000..=999_999_999 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "G"),
    };
    if value < 10.0 && value.fract() >= 0.05 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// A moment on a time axis.
fn moment(ns: u64) -> String {
    if ns == 0 {
        "0".to_owned()
    } else {
        duration(ns).replace("us", "µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_scale_of_few_steps() {
        assert_eq!(magnitudes(0), [1]);
        assert_eq!(magnitudes(9), [1]);
        assert_eq!(magnitudes(12_345), [1, 10, 100, 1_000, 10_000]);
        assert_eq!(magnitudes(3_000_000), [1, 100, 10_000, 1_000_000]);
        for most in [1, 99, 100_000, 999_999_999, u64::MAX] {
            let all = magnitudes(most);
            assert!(all.len() <= 5 && all.iter().all(|n| *n <= most), "{most}");
        }
    }

    #[test]
    fn counts_are_short() {
        let all = [0, 999, 1_000, 1_240, 12_345, 999_999, 2_500_000, u64::MAX].map(short);
        assert_eq!(
            all,
            [
                "0",
                "999",
                "1k",
                "1.2k",
                "12k",
                "1000k",
                "2.5M",
                "18446744074G"
            ]
        );
    }
}
