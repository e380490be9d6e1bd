//! The filter that `/` opens: which rows are shown.
//!
//! A filter is a list of terms separated by blanks; a row must match all of them. A plain word is looked for in
//! everything that names the row. `class:`, `kind:`, `name:`, `owner:`, `task:`, `guest:` and `mdev:` look in one of its
//! names; a word with `*` in it must match all of the name, `*` standing for anything. `wait>1ms`, `hold<=5us`, `latency>20ms`
//! compare a percentile: the 99th, or another one as in `wait.p50>1us`, `hold.max>1s`. `!` before a
//! term turns it round. Parsing never panics and says what is wrong with which term.

mod fields;

pub use fields::{Fields, TextField, TimeField};

/// What a filter looks at in a row.
pub trait Row {
    /// The row's text in a field; `None` where rows of this view have no such field.
    fn text(&self, field: TextField) -> Option<&str>;
    /// One of the row's texts in a field passes: a row may have several locks, tasks or guests.
    fn any(&self, field: TextField, passes: &dyn Fn(&str) -> bool) -> bool {
        self.text(field).is_some_and(passes)
    }
    /// The row's value in nanoseconds; `None` while there is none.
    fn time(&self, field: TimeField, at: Percentile) -> Option<u64>;
}

/// Which value of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Percentile {
    /// Half of all values are below.
    P50,
    /// 99 % of all values are below.
    P99,
    /// The largest.
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Any(String),
    Text(TextField, String),
    Time(TimeField, Percentile, Comparison, u64),
}

/// A parsed filter. The empty one matches every row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<(bool, Test)>,
}

/// Longest filter that is accepted, in bytes.
pub const MAX_LENGTH: usize = 256;

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    ///
    /// One line that names the term and says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("longer than {MAX_LENGTH} bytes"));
        }
        let terms = text
            .split_whitespace()
            .map(term)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { terms })
    }

    /// The same for rows that have these fields only.
    ///
    /// # Errors
    ///
    /// As [`Filter::parse`], and what of it the rows do not have.
    pub fn parse_for(text: &str, fields: Fields) -> Result<Self, String> {
        let filter = Self::parse(text)?;
        for (_, test) in &filter.terms {
            let lacking = match test {
                Test::Text(field, _) if !fields.text.contains(field) => field.plural(),
                Test::Time(field, ..) if !fields.time.contains(field) => field.plural(),
                _ => continue,
            };
            return Err(format!("this view has no {lacking}: {}", fields.names()));
        }
        Ok(filter)
    }

    /// Every row matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The row matches every term.
    pub fn matches(&self, row: &impl Row) -> bool {
        self.terms
            .iter()
            .all(|(negated, test)| test.matches(row) != *negated)
    }
}

impl Test {
    fn matches(&self, row: &impl Row) -> bool {
        match self {
            Self::Any(word) => TextField::ALL
                .into_iter()
                .any(|field| row.any(field, &|t| contains(t, word))),
            Self::Text(TextField::Guest, word) => {
                // `guest:3` is not guest 30.
                row.any(TextField::Guest, &|name| {
                    let name = name.to_lowercase();
                    matches(&name, word)
                        || name
                            .rsplit_once('-')
                            .is_some_and(|(_, number)| number == word)
                })
            }
            Self::Text(field, word) => row.any(*field, &|t| contains(t, word)),
            Self::Time(field, at, comparison, limit) => {
                row.time(*field, *at).is_some_and(|value| match comparison {
                    Comparison::Less => value < *limit,
                    Comparison::LessOrEqual => value <= *limit,
                    Comparison::Greater => value > *limit,
                    Comparison::GreaterOrEqual => value >= *limit,
                })
            }
        }
    }
}

/// `word` is already in lower case.
fn contains(text: &str, word: &str) -> bool {
    let text = text.to_lowercase();
    if word.contains('*') {
        matches(&text, word)
    } else {
        text.contains(word)
    }
}

/// The whole text is the word, in which `*` stands for anything. Both are in lower case.
fn matches(text: &str, word: &str) -> bool {
    let mut parts = word.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn term(text: &str) -> Result<(bool, Test), String> {
    let (negated, body) = match text.strip_prefix('!') {
        Some("") => return Err("`!` needs a term after it".into()),
        Some(rest) => (true, rest),
        None => (false, text),
    };
    Ok((negated, test(body)?))
}

fn test(body: &str) -> Result<Test, String> {
    // `->` is part of most lock names: only a comparison sign after a known field makes a comparison.
    if let Some(at) = body.find(['<', '>', '=']) {
        let (field, rest) = body.split_at(at);
        if let Some((field, percentile)) = time_field(field)? {
            return comparison(body, field, percentile, rest);
        }
        if !body[..at].ends_with('-') && field.chars().all(|c| c.is_ascii_alphabetic() || c == '.')
        {
            return Err(format!(
                "`{field}` cannot be compared; wait, hold and latency can"
            ));
        }
    }
    if let Some((field, word)) = body.split_once(':') {
        let field = TextField::named(field)?;
        if word.is_empty() {
            return Err(format!("`{body}` needs a word after the colon"));
        }
        return Ok(Test::Text(field, word.to_lowercase()));
    }
    Ok(Test::Any(body.to_lowercase()))
}

/// `wait`, `hold.p50`, ...; `Ok(None)` where it is no such field.
fn time_field(text: &str) -> Result<Option<(TimeField, Percentile)>, String> {
    let lower = text.to_ascii_lowercase();
    let (name, percentile) = match lower.split_once('.') {
        Some((name, p)) => (name, Some(p)),
        None => (lower.as_str(), None),
    };
    let Some(field) = TimeField::named(name) else {
        return Ok(None);
    };
    let percentile = match percentile {
        None | Some("p99") => Percentile::P99,
        Some("p50") => Percentile::P50,
        Some("max") => Percentile::Max,
        Some(other) => return Err(format!("no percentile `{other}`; there are p50, p99, max")),
    };
    Ok(Some((field, percentile)))
}

fn comparison(
    body: &str,
    field: TimeField,
    percentile: Percentile,
    rest: &str,
) -> Result<Test, String> {
    let (comparison, value) = [
        (">=", Comparison::GreaterOrEqual),
        ("<=", Comparison::LessOrEqual),
        (">", Comparison::Greater),
        ("<", Comparison::Less),
    ]
    .into_iter()
    .find_map(|(sign, c)| rest.strip_prefix(sign).map(|v| (c, v)))
    .ok_or_else(|| format!("`{body}`: compare with <, <=, > or >="))?;
    let limit = time(value).ok_or_else(|| {
        format!("`{body}` needs a time after the sign, for example 500us, 1ms or 2.5s")
    })?;
    Ok(Test::Time(field, percentile, comparison, limit))
}

/// A number with a unit (`ns`, `us`, `µs`, `ms`, `s`, `m`) as nanoseconds.
fn time(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    let scale = match unit.to_lowercase().as_str() {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 6e10,
        _ => return None,
    };
    // Saturates at u64::MAX, about 584 years.
    Some((number * scale).round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Lock;

    impl Row for Lock {
        fn text(&self, field: TextField) -> Option<&str> {
            Some(match field {
                TextField::Class | TextField::Name => "matrix_dev->lock",
                TextField::Kind => "mutex",
                TextField::Holder => "vcpu2/guest-3",
                TextField::Guest => "guest-3",
                TextField::Task | TextField::Mdev => return None,
            })
        }
        fn time(&self, field: TimeField, at: Percentile) -> Option<u64> {
            match (field, at) {
                (TimeField::Wait, Percentile::P99) => Some(2_000_000),
                (TimeField::Wait, Percentile::Max) => Some(9_000_000),
                (TimeField::Hold, Percentile::P50) => Some(1_000),
                _ => None,
            }
        }
    }

    fn matches(text: &str) -> bool {
        Filter::parse(text).unwrap().matches(&Lock)
    }

    #[test]
    fn every_term_must_match() {
        for (text, expected) in [
            ("", true),
            ("   ", true),
            ("lock", true),
            ("MATRIX", true),
            ("matrix_dev->lock", true),
            ("->lo", true),
            ("lock rwsem", false),
            ("guest-3", true),
            ("class:matrix kind:mutex", true),
            ("kind:flag", false),
            ("!kind:flag", true),
            ("!lock", false),
            ("holder:vcpu2", true),
            ("owner:vcpu*", true),
            ("owner:*guest-3", true),
            ("owner:cpu*", false),
            ("owner:v*u*3", true),
            ("guest:3", true),
            ("guest:guest-3", true),
            ("guest:30", false),
            ("guest:guest", false),
            ("task:vcpu2", false),
            ("wait>1ms", true),
            ("wait>2ms", false),
            ("wait>=2ms", true),
            ("wait<2.5ms", true),
            ("wait.max>8ms", true),
            ("WAIT.MAX<8ms", false),
            ("hold.p50<=1us", true),
            ("hold.p50<=1µs", true),
            // No value yet: neither comparison holds.
            ("latency>0ns", false),
            ("latency<1s", false),
        ] {
            assert_eq!(matches(text), expected, "{text}");
        }
    }

    #[test]
    fn errors_name_the_term() {
        for (text, part) in [
            ("colour:red", "no field `colour`"),
            ("kind:", "needs a word"),
            ("wait>", "needs a time"),
            ("wait>5", "needs a time"),
            ("wait>ms", "needs a time"),
            ("wait=5ms", "compare with"),
            ("hold.p77>1ms", "no percentile `p77`"),
            ("rate>5", "`rate` cannot be compared"),
            ("!", "needs a term"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Filter::parse(&"x".repeat(MAX_LENGTH + 1)).is_err());
    }

    #[test]
    fn what_a_view_lacks_is_said() {
        let fields = Fields {
            text: &[TextField::Class, TextField::Name],
            time: &[TimeField::Latency],
        };
        for (text, error) in [
            ("guest:3", "this view has no guests: class name latency"),
            (
                "pqap !owner:a",
                "this view has no owners: class name latency",
            ),
            ("hold>1ms", "this view has no holds: class name latency"),
        ] {
            assert_eq!(Filter::parse_for(text, fields), Err(error.into()), "{text}");
            assert!(Filter::parse_for(text, Fields::ALL).is_ok(), "{text}");
        }
        assert!(Filter::parse_for("pqap class:vfio latency>1s", fields).is_ok());
    }

    proptest! {
        #[test]
        fn anything_parses_or_is_refused(text in "\\PC*") {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches(&Lock);
            }
        }

        #[test]
        fn what_looks_like_a_term_never_panics(
            text in "!?(wait|hold|latency|class|kind)?(\\.(p50|p99|max|x))?[<>=:!.]{0,3}[0-9.]{0,25}(ns|us|µs|ms|s|m|q)?"
        ) {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches(&Lock);
            }
        }

        #[test]
        fn comparisons_agree_with_numbers(limit in 0_u64..10_000_000) {
            prop_assert_eq!(matches(&format!("wait>{limit}ns")), 2_000_000 > limit);
            prop_assert_eq!(matches(&format!("wait<={limit}ns")), 2_000_000 <= limit);
            prop_assert_eq!(matches(&format!("!wait>{limit}ns")), 2_000_000 <= limit);
        }

        #[test]
        fn words_are_substrings(word in "[a-z0-9_-]{1,12}") {
            let expected = ["matrix_dev->lock", "mutex", "vcpu2/guest-3"].iter().any(|t| t.contains(&word));
            prop_assert_eq!(matches(&word), expected);
        }
    }
}
