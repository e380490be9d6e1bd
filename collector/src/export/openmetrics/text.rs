//! Numbers and texts as the formats want them.

use std::fmt::Write;

use crate::model::histogram::Histogram;

/// Kinds of metrics, as `# TYPE` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while a run lasts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of durations by upper bound.
    Histogram,
    /// Texts about the run, as labels of a 1.
    Info,
}

impl Kind {
    /// The word in `# TYPE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What it adds to the name of its samples.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

const LOWEST: u32 = 8;
const HIGHEST: u32 = 38;

/// Upper bounds of the buckets, inclusive, in nanoseconds: 0, which is what did not wait; then 255 ns to 275 s, each
/// about twice the one before. They are bounds of the programs' own buckets too (2^k - 1), so no count is estimated.
pub const BOUNDS_NS: [u64; (HIGHEST - LOWEST) as usize + 2] = {
    let mut bounds = [0; (HIGHEST - LOWEST) as usize + 2];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = (1 << (LOWEST + at as u32 - 1)) - 1;
        at += 1;
    }
    bounds
};

/// How many values are not above each of [`BOUNDS_NS`].
pub(super) fn cumulative(histogram: &Histogram) -> [u64; BOUNDS_NS.len()] {
    let mut counts = [0_u64; BOUNDS_NS.len()];
    for (lower, _, count) in histogram.buckets() {
        // A bucket of the model lies between two bounds, so its lower end says which.
        let first = BOUNDS_NS.partition_point(|bound| *bound < lower);
        for cell in &mut counts[first..] {
            *cell = cell.saturating_add(count);
        }
    }
    counts
}

/// Nanoseconds as seconds, every digit of them: no float in between.
pub(super) fn seconds(ns: u64) -> String {
    let (whole, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let mut text = format!("{whole}.{rest:09}");
    while text.ends_with('0') && !text.ends_with(".0") {
        text.pop();
    }
    text
}

/// Adds a label's value, with what the format reserves escaped.
pub(super) fn push_escaped(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
}

/// Adds `name="value"` for each label, separated by commas.
pub(super) fn push_labels(text: &mut String, labels: &[(&str, &str)]) {
    for (at, (name, value)) in labels.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{name}=\"");
        push_escaped(text, value);
        text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use probe_ebpf::h2;

    use super::*;

    #[test]
    fn seconds_have_every_digit() {
        for (ns, text) in [
            (0, "0.0"),
            (255, "0.000000255"),
            (1_500_000_000, "1.5"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(seconds(ns), text);
        }
    }

    #[test]
    fn no_bucket_of_the_model_lies_across_a_bound() {
        for bucket in 0..h2::REGULAR_BUCKETS {
            let (lower, upper) = (h2::lower_bound(bucket), h2::upper_bound(bucket));
            let of = |ns| BOUNDS_NS.partition_point(|bound| *bound < ns);
            assert_eq!(of(lower), of(upper), "{lower} to {upper}");
        }
    }

    #[test]
    fn reserved_letters_are_escaped() {
        let mut text = String::new();
        push_labels(&mut text, &[("a", "x\\y\"z\nw"), ("b", "->")]);
        assert_eq!(text, "a=\"x\\\\y\\\"z\\nw\",b=\"->\"");
    }
}
