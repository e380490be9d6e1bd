//! A distribution over time: columns are time, rows powers of two, and the darker, the more values. Below it are the shades
//! of some counts.

use maud::{Markup, html};

use super::{at, magnitudes, moment, short, steps, tick};
use crate::diagnose::words::duration;
use crate::report::heat::{COLUMNS, Map};

const WIDTH: f64 = 460.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 20.0;
const ROW: f64 = 9.0;
/// Height of the legend.
const LEGEND: f64 = 18.0;
/// Width of one of its shades, with the count.
const SHADE: f64 = 48.0;

/// Draws it. `elapsed_ns` is the length of the run.
pub fn heat(map: &Map, column_ns: u64, elapsed_ns: u64, class: &str) -> Option<Markup> {
    let powers = map.keys().map(|(_, power)| *power);
    let (low, high) = (powers.clone().min()?, powers.max()?);
    let most = map.values().copied().max().unwrap_or(1);
    let last = map.keys().map(|(column, _)| *column).max().unwrap_or(0);
    let columns = (elapsed_ns / column_ns + 1).max(last + 1).min(COLUMNS);
    let width = (WIDTH - LEFT - 8.0) / columns as f64;
    let floor = f64::from(high - low + 1) * ROW + 4.0;
    let height = floor + BOTTOM + LEGEND;
    let shade = |count: u64| {
        let weight = (1.0 + count as f64).ln() / (1.0 + most as f64).ln();
        format!("{:.2}", 0.15 + 0.85 * weight)
    };
    let mut shades = magnitudes(most);
    shades.retain(|count| *count < most);
    shades.push(most);
    let step = steps(columns.saturating_mul(column_ns));
    let every = ((high - low) as usize).div_ceil(8).max(2);
    Some(html! {
        svg.heat viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="distribution over time" {
            @for power in (low..=high).step_by(every) {
                text.tick x=(LEFT - 5.0) y=(at(floor - f64::from(power - low) * ROW - 1.0)) text-anchor="end" {
                    (tick(1 << power))
                }
            }
            @for (&(column, power), &count) in map {
                rect class=(class) x=(at(LEFT + column as f64 * width)) y=(at(floor - f64::from(power - low + 1) * ROW))
                    width=(at((width - 0.4).max(0.8))) height=(at(ROW - 0.6))
                    fill-opacity=(shade(count)) {
                    title {
                        (count) " from " (duration(1 << power)) " on, at " (moment(column * column_ns))
                    }
                }
            }
            line.axis x1=(LEFT) x2=(WIDTH - 8.0) y1=(at(floor)) y2=(at(floor)) {}
            @for n in 0..=(columns.saturating_mul(column_ns) / step) {
                @let x = LEFT + (n * step) as f64 / column_ns as f64 * width;
                @if x < WIDTH - 20.0 {
                    text.tick x=(at(x)) y=(at(floor + BOTTOM - 5.0)) text-anchor=(if n == 0 { "start" } else { "middle" }) {
                        (moment(n * step))
                    }
                }
            }
            text.tick x=(LEFT) y=(at(height - 5.0)) { "values in a cell" }
            @for (n, count) in shades.into_iter().enumerate() {
                @let x = LEFT + 104.0 + n as f64 * SHADE;
                rect class=(class) x=(at(x)) y=(at(height - 13.0)) width="12" height=(at(ROW)) fill-opacity=(shade(count)) {}
                text.tick x=(at(x + 15.0)) y=(at(height - 5.0)) { (short(count)) }
            }
        }
    })
}
