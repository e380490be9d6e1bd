//! What tasks did: a lane for each, with calls above, waits in the middle and holds below.

use maud::{Markup, html};

use super::{at, moment, steps};
use crate::diagnose::words::duration;
use crate::report::excerpt::{Bar, Excerpt, Kind};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 170.0;
const TOP: f64 = 6.0;
const ROW: f64 = 15.0;
const GAP: f64 = 9.0;
const BOTTOM: f64 = 22.0;
/// Width of a letter, about.
const LETTER: f64 = 6.2;

/// Draws it.
pub fn timeline(excerpt: &Excerpt) -> Option<Markup> {
    let length = excerpt.to_ns.saturating_sub(excerpt.from_ns);
    if excerpt.lanes.is_empty() || length == 0 {
        return None;
    }
    let x = |ns: u64| {
        let after = ns.saturating_sub(excerpt.from_ns) as f64;
        LEFT + after / length as f64 * (WIDTH - LEFT - 8.0)
    };
    let lane = ROW * 3.0 + GAP;
    let floor = TOP + excerpt.lanes.len() as f64 * lane;
    let height = floor + BOTTOM;
    let step = steps(length);
    Some(html! {
        svg.timeline viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="timeline" {
            @for n in 0..=(length / step) {
                @let here = x(excerpt.from_ns + n * step);
                line.grid x1=(at(here)) x2=(at(here)) y1=(TOP) y2=(at(floor)) {}
                @let anchor = if n == 0 { "start" } else if here > WIDTH - 30.0 { "end" } else { "middle" };
                text.tick x=(at(here)) y=(at(height - 6.0)) text-anchor=(anchor) {
                    (moment(n * step))
                }
            }
            @for (n, tasks) in excerpt.lanes.iter().enumerate() {
                @let top = TOP + n as f64 * lane;
                text.label x=(LEFT - 8.0) y=(at(top + ROW * 1.75)) text-anchor="end" { (cut(&tasks.name, 26)) }
                @for bar in &tasks.bars {
                    (one(bar, x(bar.from_ns), x(bar.to_ns), top))
                }
                line.axis x1=(LEFT) x2=(WIDTH - 8.0) y1=(at(top + lane - GAP / 2.0)) y2=(at(top + lane - GAP / 2.0)) {}
            }
        }
    })
}

fn one(bar: &Bar, left: f64, right: f64, top: f64) -> Markup {
    let (class, row, verb) = match bar.kind {
        Kind::Call => ("call", 0.0, "in"),
        Kind::Wait => ("wait", 1.0, "waits for"),
        Kind::Hold => ("hold", 2.0, "holds"),
    };
    let width = (right - left).max(0.8);
    let letters = ((width - 6.0) / LETTER).max(0.0) as usize;
    let y = top + row * ROW;
    html! {
        rect class=(class) x=(at(left)) y=(at(y)) width=(at(width)) height=(at(ROW - 2.0)) rx="1.5" {
            title {
                (verb) " " (bar.name) " for " (duration(bar.to_ns.saturating_sub(bar.from_ns)))
                @if bar.open { ", and goes on" }
            }
        }
        @if letters >= 5 {
            text.inside x=(at(left + 4.0)) y=(at(y + ROW - 5.0)) { (cut(&bar.name, letters)) }
        }
    }
}

/// As many letters as there is room for.
fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let kept: String = text.chars().take(letters.saturating_sub(1)).collect();
    format!("{kept}…")
}
