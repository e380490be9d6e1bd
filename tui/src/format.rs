//! Numbers as text: short, of bounded width, three significant digits.
//!
//! Takes nanoseconds and counts, gives strings for table cells. Knows nothing of colours or layout.

/// Columns that [`duration`], [`count`] and [`rate`] need at most.
pub const WIDTH: usize = 7;

fn three(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Nanoseconds with a unit, for example `1.23µs`, `45.6ms`, `12m34s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    let x = ns as f64;
    match ns {
        0 => "0".into(),
        1..1_000 => format!("{ns}ns"),
        1_000..999_500 => three(x / 1e3) + "µs",
        999_500..999_500_000 => three(x / 1e6) + "ms",
        999_500_000..600_000_000_000 => three(x / 1e9) + "s",
        _ => long(ns / 1_000_000_000),
    }
}

fn long(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if minutes < 60 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else if hours < 48 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if days < 1000 {
        format!("{days}d{:02}h", hours % 24)
    } else {
        format!("{days}d")
    }
}

/// A duration that may be absent: `-` where there is no value.
#[must_use]
pub fn optional(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".into(), duration)
}

/// A count: whole up to 9999, then `12.3k`, `4.56M`, ...
#[must_use]
pub fn count(n: u64) -> String {
    if n < 10_000 {
        n.to_string()
    } else {
        scaled(n as f64)
    }
}

fn scaled(value: f64) -> String {
    let mut value = value;
    for unit in ["", "k", "M", "G", "T", "P", "E"] {
        if value < 999.5 {
            return three(value) + unit;
        }
        value /= 1e3;
    }
    three(value) + "Z"
}

/// A rate a second: one decimal below 10, then as [`count`]. What is not a number is 0.
#[must_use]
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second <= 0.0 {
        "0".into()
    } else if per_second < 9.95 {
        format!("{per_second:.1}")
    } else if per_second < 9999.5 {
        format!("{per_second:.0}")
    } else {
        scaled(per_second)
    }
}

/// A share in percent: `-` of nothing, `<0.1` of something small.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    let value = part as f64 * 100.0 / whole as f64;
    if part == 0 {
        "0".into()
    } else if value < 0.05 {
        "<0.1".into()
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A whole number with its thousands apart: `1,234,567`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Time since the start: `m:ss`, from an hour on `h:mm:ss`.
#[must_use]
pub fn elapsed(ns: u64) -> String {
    let s = ns / 1_000_000_000;
    if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

/// The last `width` values as a line of blocks, scaled to the largest of them; a value that is not 0 is visible.
pub fn sparkline(values: impl DoubleEndedIterator<Item = u64>, width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut shown: Vec<u64> = values.rev().take(width).collect();
    shown.reverse();
    let max = shown.iter().copied().max().unwrap_or(0).max(1);
    let mut line = " ".repeat(width.saturating_sub(shown.len()));
    line.extend(shown.iter().map(|&v| match v {
        0 => ' ',
        v => BLOCKS[(u128::from(v) * 7 / u128::from(max)) as usize],
    }));
    line
}

/// A horizontal bar of `part` of `whole`, at most `width` columns; what is not 0 is visible.
#[must_use]
pub fn bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    if part == 0 || whole == 0 || width == 0 {
        return String::new();
    }
    let eighths = (u128::from(part.min(whole)) * width as u128 * 8 / u128::from(whole)).max(1);
    let (full, rest) = ((eighths / 8) as usize, (eighths % 8) as usize);
    let mut bar = "█".repeat(full);
    if rest > 0 {
        bar.push(EIGHTHS[rest]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (1_234, "1.23µs"),
            (45_678, "45.7µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (12_345_678, "12.3ms"),
            (1_500_000_000, "1.50s"),
            (599_000_000_000, "599s"),
            (754_000_000_000, "12m34s"),
            (11_100_000_000_000, "3h05m"),
            (1_000_000_000_000_000, "11d13h"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn counts_and_rates_are_short() {
        assert_eq!(count(9_999), "9999");
        assert_eq!(count(12_345), "12.3k");
        assert_eq!(count(999_950), "1.00M");
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(f64::NAN), "0");
        assert_eq!(rate(3.25), "3.2");
        assert_eq!(rate(123.4), "123");
        assert_eq!(rate(123_456.0), "123k");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(1, 10_000), "<0.1");
        assert_eq!(percent(1, 3), "33.3");
        assert_eq!(elapsed(3_725_000_000_000), "1:02:05");
    }

    #[test]
    fn small_values_stay_visible() {
        assert_eq!(sparkline([0, 1, 1000].into_iter(), 4), "  ▁█");
        assert_eq!(sparkline([5, 5, 5].into_iter(), 2), "██");
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(5, 10, 4), "██");
        assert_eq!(bar(0, 10, 4), "");
        assert_eq!(bar(u64::MAX, u64::MAX, 3), "███");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_a_column(n: u64, x: f64, width in 0_usize..50) {
            prop_assert!(duration(n).chars().count() <= WIDTH, "{}", duration(n));
            prop_assert!(count(n).chars().count() <= WIDTH);
            prop_assert!(rate(n as f64).chars().count() <= WIDTH);
            let _ = rate(x);
            prop_assert_eq!(sparkline([n, 1, 0].into_iter(), width).chars().count(), width);
            prop_assert!(bar(n, u64::MAX / 2, width).chars().count() <= width);
        }
    }
}
