//! A distribution as bars: four to each power of two, heights by the logarithm of the count, with its scale at the left.

use maud::{Markup, html};
use probe_ebpf::h2;

use super::{at, magnitudes, short, tick};
use crate::diagnose::words::duration;
use crate::model::histogram::Histogram;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 150.0;
/// Room for the scale of counts.
const LEFT: f64 = 34.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 22.0;

/// Buckets of a bar: a quarter of a power of two.
const JOINED: usize = (1 << h2::GROUPING_POWER) / 4;

struct Bar {
    lower_ns: u64,
    upper_ns: u64,
    count: u64,
}

/// Draws it. What is 0 is left out: it is told in words.
pub fn distribution(histogram: &Histogram, class: &str) -> Option<Markup> {
    let bars = bars(histogram);
    let (first, last) = (bars.first()?, bars.last()?);
    let from = log(first.lower_ns).floor();
    let to = log(last.upper_ns).ceil().max(from + 1.0);
    let x = |ns: u64| LEFT + (log(ns) - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1);
    let floor = HEIGHT - BOTTOM;
    let height = |count: u64| (1.0 + count as f64).ln() / (1.0 + most as f64).ln() * (floor - TOP);
    let every = ((to - from) / 7.0).ceil().max(1.0) as usize;
    let marks = [(0.5, "p50"), (0.99, "p99")];
    Some(html! {
        svg.distribution viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="distribution" {
            @for power in (from as u32..=to as u32).step_by(every) {
                @let x = x(1 << power.min(63));
                @let anchor = if x < LEFT + 16.0 { "start" } else if x > WIDTH - 24.0 { "end" } else { "middle" };
                line.grid x1=(at(x)) x2=(at(x)) y1=(TOP) y2=(floor) {}
                text.tick x=(at(x)) y=(HEIGHT - 7.0) text-anchor=(anchor) { (tick(1 << power.min(63))) }
            }
            @for count in magnitudes(most) {
                @let y = floor - height(count);
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(at(y)) y2=(at(y)) {}
                text.tick x=(LEFT - 4.0) y=(at(y + 3.0)) text-anchor="end" { (short(count)) }
            }
            @for bar in &bars {
                @let (left, right) = (x(bar.lower_ns), x(bar.upper_ns.saturating_add(1)));
                @let height = height(bar.count).max(1.5);
                rect class=(class) x=(at(left)) y=(at(floor - height)) width=(at((right - left - 0.6).max(1.0)))
                    height=(at(height)) {
                    title {
                        (bar.count) " of " (duration(bar.lower_ns)) " to " (duration(bar.upper_ns))
                    }
                }
            }
            line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(floor) y2=(floor) {}
            @for (n, (q, name)) in marks.into_iter().enumerate() {
                @if let Some(ns) = histogram.quantile(q).filter(|ns| *ns >= first.lower_ns) {
                    @let line = x(ns).clamp(LEFT, WIDTH - RIGHT);
                    @let end = line > WIDTH * 0.7;
                    line.mark x1=(at(line)) x2=(at(line)) y1=(TOP - 12.0 + 10.0 * n as f64) y2=(floor) {}
                    text.label x=(at(if end { line - 4.0 } else { line + 4.0 })) y=(TOP - 9.0 + 11.0 * n as f64)
                        text-anchor=(if end { "end" } else { "start" }) {
                        (name) " " (duration(ns).replace("us", "µs"))
                    }
                }
            }
        }
    })
}

fn log(ns: u64) -> f64 {
    (ns.max(1) as f64).log2()
}

/// Bars that have values, and those between them.
fn bars(histogram: &Histogram) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    // Buckets below 2^6 ns are 1 ns each; so fine a picture would say nothing.
    for (start, joined) in histogram.counts.chunks(JOINED).enumerate() {
        let first = start * JOINED;
        let zero = if first == 0 { joined[0] } else { 0 };
        let sum = joined.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let count = sum - zero;
        if count > 0 {
            let last = first + joined.len() - 1;
            bars.push(Bar {
                lower_ns: h2::lower_bound(first).max(1),
                upper_ns: h2::upper_bound(last).min(histogram.max_ns.max(1)),
                count,
            });
        }
    }
    bars
}
