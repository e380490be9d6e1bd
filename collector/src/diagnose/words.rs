//! Durations and lists as words: ASCII, for text that is pasted into reports.

/// Nanoseconds with three significant digits and a unit, for example `1.23 s`, `45.6 ms`.
pub fn duration(ns: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
    let (unit, name) = UNITS
        .into_iter()
        .find(|(unit, _)| ns >= *unit)
        .unwrap_or((1, "ns"));
    if ns >= 600 * 1_000_000_000 {
        let seconds = ns / 1_000_000_000;
        return match seconds / 3600 {
            0 => format!("{} min {} s", seconds / 60, seconds % 60),
            hours => format!("{hours} h {} min", seconds / 60 % 60),
        };
    }
    let value = ns as f64 / unit as f64;
    match value {
        ..9.995 if unit > 1 => format!("{value:.2} {name}"),
        ..99.95 if unit > 1 => format!("{value:.1} {name}"),
        _ => format!("{value:.0} {name}"),
    }
}

/// A duration behind a word, nothing where it is not known: stacks do not say since when.
pub fn lasting(before: &str, ns: u64) -> String {
    if ns == 0 {
        String::new()
    } else {
        format!("{before}{}", duration(ns))
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// `1 task`, `2 tasks`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.50 us"),
            (45_600_000, "45.6 ms"),
            (2_000_000_000, "2.00 s"),
            (599_000_000_000, "599 s"),
            (720_000_000_000, "12 min 0 s"),
            (7_260_000_000_000, "2 h 1 min"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn lists() {
        let items = |n: usize| {
            ["a", "b", "c"][..n]
                .iter()
                .map(|s| (*s).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(list(&items(0)), "");
        assert_eq!(list(&items(1)), "a");
        assert_eq!(list(&items(3)), "a, b and c");
    }
}
