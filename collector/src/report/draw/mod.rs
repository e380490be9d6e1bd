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

/// A moment on a time axis.
fn moment(ns: u64) -> String {
    if ns == 0 {
        "0".to_owned()
    } else {
        duration(ns).replace("us", "µs")
    }
}
