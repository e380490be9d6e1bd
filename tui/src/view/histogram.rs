//! A distribution as horizontal bars, one a power of two.
//!
//! The difficulty is the range: waits run from nothing to minutes. Powers of two keep it within about twenty lines;
//! values of zero (uncontended acquisitions) have a line of their own, because there are usually far more of them
//! than of all others and they would flatten every other bar.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::pad;
use crate::format;
use crate::state::detail::Distribution;
use crate::theme::Theme;

/// Percentiles and bars, each line at most `width` columns.
pub fn lines(
    title: &'static str,
    values: &Distribution,
    style: Style,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(vec![
        Span::styled(pad(title, 5, false), theme.header()),
        Span::styled(
            format!(
                "{} values, mean {}",
                format::count(values.count),
                format::optional(values.mean_ns)
            ),
            theme.dim(),
        ),
    ])];
    if values.count == 0 {
        lines.push(Line::styled("no values yet", theme.dim()));
        return lines;
    }
    let mut percentiles = vec![Span::raw("")];
    for (name, value) in [
        ("p50", values.p50_ns),
        ("p90", values.p90_ns),
        ("p99", values.p99_ns),
        ("p99.9", values.p999_ns),
        ("max", values.max_ns),
    ] {
        let own = vec![
            Span::styled(format!("{name} "), theme.dim()),
            Span::styled(format!("{} ", format::optional(value)), style),
        ];
        let used: usize = percentiles.iter().chain(&own).map(Span::width).sum();
        if used > width && percentiles.len() > 1 {
            lines.push(Line::from(std::mem::take(&mut percentiles)));
        }
        percentiles.extend(own);
    }
    lines.push(Line::from(percentiles));
    if values.zero > 0 {
        lines.push(Line::from(vec![
            Span::styled(pad("0", 15, true), theme.dim()),
            Span::raw(format!(
                " {} ({}%), not drawn",
                format::count(values.zero),
                format::percent(values.zero, values.count)
            )),
        ]));
    }
    let first = values.octaves.iter().position(|n| *n > 0);
    let last = values.octaves.iter().rposition(|n| *n > 0);
    let largest = values.octaves.iter().copied().max().unwrap_or(0);
    if let (Some(first), Some(last)) = (first, last) {
        let room = width.saturating_sub(15 + 1 + 1 + 6);
        for power in first..=last {
            let n = values.octaves[power];
            lines.push(Line::from(vec![
                Span::styled(pad(&range(power), 15, true), theme.dim()),
                Span::raw(" "),
                Span::styled(pad(&format::bar(n, largest, room), room, false), style),
                Span::raw(format!(" {:>6}", format::count(n))),
            ]));
        }
    }
    lines
}

/// `4.10µs–8.19µs`.
fn range(power: usize) -> String {
    let low = 1_u64 << power.min(63);
    let high = low.saturating_mul(2);
    format!("{}–{}", format::duration(low), format::duration(high))
}
