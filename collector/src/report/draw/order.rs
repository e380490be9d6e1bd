//! The order of locks: classes in a column, and an arc for each pair. Arcs on the right go down, to a lock that is taken
//! later; those on the left go up again, and so close a circle.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::at;
use crate::export::dot::{Arrow, arrows};
use crate::model::{Model, query};

const WIDTH: f64 = 720.0;
const BOX: f64 = 220.0;
const ROW: f64 = 46.0;
const HIGH: f64 = 26.0;
const TOP: f64 = 8.0;

/// Draws it.
pub fn order(model: &Model) -> Option<Markup> {
    let arrows = arrows(model);
    if arrows.is_empty() {
        return None;
    }
    let nodes = sorted(&arrows);
    let place: BTreeMap<u8, usize> = nodes.iter().copied().zip(0..).collect();
    let height = nodes.len() as f64 * ROW + 2.0 * TOP;
    let left = (WIDTH - BOX) / 2.0;
    let y = |n: usize| TOP + n as f64 * ROW + HIGH / 2.0;
    Some(html! {
        svg.order viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="order of locks" {
            defs {
                @for class in ["arrow", "arrow circle"] {
                    marker id=(class.replace(' ', "-")) viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
                        orient="auto" {
                        path class=(format!("head {class}")) d="M0,0 L8,4 L0,8 z" {}
                    }
                }
            }
            @for ((held, acquired), arrow) in &arrows {
                @if let (Some(&from), Some(&to)) = (place.get(held), place.get(acquired)) {
                    (arc(*arrow, from, to, left, y(from), y(to)))
                }
            }
            @for (n, id) in nodes.iter().enumerate() {
                @let open = query::open_coded(*id);
                rect class=(if open { "lock open" } else { "lock" }) x=(at(left)) y=(at(y(n) - HIGH / 2.0)) width=(BOX)
                    height=(HIGH) rx="4" {}
                text.name x=(at(WIDTH / 2.0)) y=(at(y(n) + 4.0)) text-anchor="middle" { (query::series_name(*id)) }
            }
        }
    })
}

fn arc(arrow: Arrow, from: usize, to: usize, left: f64, y1: f64, y2: f64) -> Markup {
    let down = to > from;
    let far = from.abs_diff(to).max(1) as f64;
    let reach = (24.0 + far.sqrt() * 62.0).min(left - 40.0);
    // Those that leave a box and those that arrive do not meet in one point.
    let (y1, y2) = if down {
        (y1 + 5.0, y2 - 5.0)
    } else {
        (y1 - 5.0, y2 + 5.0)
    };
    let (edge, turn) = if down {
        (left + BOX, left + BOX + reach)
    } else {
        (left, left - reach)
    };
    // The curve's outermost point is three quarters of the way to its controls.
    let label = edge + (turn - edge) * 0.75;
    let mut class = "arc".to_owned();
    for (is, name) in [
        (arrow.in_cycle, " circle"),
        (!arrow.lockdep_visible, " unseen"),
        (arrow.annotated, " annotated"),
    ] {
        class.push_str(if is { name } else { "" });
    }
    let head = if arrow.in_cycle {
        "url(#arrow-circle)"
    } else {
        "url(#arrow)"
    };
    let d = format!(
        "M{},{} C{},{} {},{} {},{}",
        at(edge),
        at(y1),
        at(turn),
        at(y1),
        at(turn),
        at(y2),
        at(edge),
        at(y2)
    );
    html! {
        path class=(class) d=(d) marker-end=(head) {}
        text.count x=(at(label)) y=(at(f64::midpoint(y1, y2) + 3.0)) text-anchor="middle" { (arrow.count) }
    }
}

/// Locks that are held when others are taken come first. Of a circle, somebody must: who is taken most rarely below others.
fn sorted(arrows: &BTreeMap<(u8, u8), Arrow>) -> Vec<u8> {
    let mut left: BTreeSet<u8> = arrows.keys().flat_map(|&(a, b)| [a, b]).collect();
    let mut nodes = Vec::new();
    while !left.is_empty() {
        let below = |id: u8| -> u64 {
            let into = arrows.iter().filter(|((held, acquired), _)| {
                *acquired == id && *held != id && left.contains(held)
            });
            into.map(|(_, arrow)| arrow.count).sum()
        };
        let Some(next) = left.iter().copied().min_by_key(|&id| (below(id), id)) else {
            break;
        };
        left.remove(&next);
        nodes.push(next);
    }
    nodes
}
