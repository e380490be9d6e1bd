//! The order of locks: classes in a column, and an arc for each pair. Arcs on the right go down, to a lock that is taken
//! later; those on the left go up again, and so close a circle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::at;
use crate::export::dot::{Arrow, arrows};
use crate::model::{Model, query};

const WIDTH: f64 = 820.0;
const BOX: f64 = 220.0;
/// Room for arcs that go up.
const LEFT: f64 = 170.0;
const ROW: f64 = 62.0;
const HIGH: f64 = 40.0;
const TOP: f64 = 10.0;

/// An arc, with the places of its ends.
struct Arc {
    held: u8,
    acquired: u8,
    arrow: Arrow,
    from: usize,
    to: usize,
}

impl Arc {
    fn down(&self) -> bool {
        self.to > self.from
    }

    fn far(&self) -> usize {
        self.from.abs_diff(self.to)
    }
}

/// Draws it.
pub fn order(model: &Model) -> Option<Markup> {
    let arrows = arrows(model);
    if arrows.is_empty() {
        return None;
    }
    let nodes = sorted(&arrows);
    let place: BTreeMap<u8, usize> = nodes.iter().copied().zip(0..).collect();
    let mut arcs: Vec<Arc> = arrows
        .iter()
        .filter_map(|(&(held, acquired), &arrow)| {
            let (from, to) = (*place.get(&held)?, *place.get(&acquired)?);
            Some(Arc {
                held,
                acquired,
                arrow,
                from,
                to,
            })
        })
        .collect();
    // The longest are drawn first, so that the short ones lie above them.
    arcs.sort_by_key(|arc| (Reverse(arc.far()), arc.from));
    let ports = ports(&arcs);
    let height = nodes.len() as f64 * ROW + 2.0 * TOP - (ROW - HIGH);
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
            @for (n, arc) in arcs.iter().enumerate() {
                (draw(arc, ports[&(n, true)], ports[&(n, false)]))
            }
            @for (n, arc) in arcs.iter().enumerate() {
                (count(arc, n, ports[&(n, true)], ports[&(n, false)]))
            }
            @for (n, id) in nodes.iter().enumerate() {
                @let open = query::open_coded(*id);
                @let y = TOP + n as f64 * ROW;
                rect class=(if open { "lock open" } else { "lock" }) x=(LEFT) y=(at(y)) width=(BOX) height=(HIGH) rx="4" {}
                text.name x=(at(LEFT + BOX / 2.0)) y=(at(y + HIGH / 2.0 + 4.0)) text-anchor="middle" {
                    (query::series_name(*id))
                }
            }
        }
    })
}

/// Heights at which arcs leave (true) and arrive (false), by their number: along the side of the box, so that none cross
/// there.
fn ports(arcs: &[Arc]) -> BTreeMap<(usize, bool), f64> {
    let mut sides: BTreeMap<(usize, bool), Vec<(usize, bool)>> = BTreeMap::new();
    for (n, arc) in arcs.iter().enumerate() {
        let right = arc.down();
        sides.entry((arc.from, right)).or_default().push((n, true));
        sides.entry((arc.to, right)).or_default().push((n, false));
    }
    let mut ports = BTreeMap::new();
    for ((node, _), mut ends) in sides {
        // Those from above are at the top, the nearest uppermost; those to below at the bottom, the nearest lowest.
        ends.sort_by_key(|&(n, leaves)| {
            let arc = &arcs[n];
            let other = if leaves { arc.to } else { arc.from };
            let below = other > node;
            let far = arc.far();
            (below, if below { usize::MAX - far } else { far })
        });
        let step = (HIGH - 8.0) / ends.len() as f64;
        for (at, end) in ends.into_iter().enumerate() {
            let y = TOP + node as f64 * ROW + 4.0 + step * (at as f64 + 0.5);
            ports.insert(end, y);
        }
    }
    ports
}

/// Where an arc begins, and how far out it turns.
fn sides(arc: &Arc) -> (f64, f64) {
    let far = arc.far().max(1) as f64;
    if arc.down() {
        let reach = (30.0 + far * 70.0).min((WIDTH - LEFT - BOX - 30.0) / 0.75);
        (LEFT + BOX, LEFT + BOX + reach)
    } else {
        let reach = (30.0 + far * 50.0).min((LEFT - 30.0) / 0.75);
        (LEFT, LEFT - reach)
    }
}

fn draw(arc: &Arc, y1: f64, y2: f64) -> Markup {
    let (edge, turn) = sides(arc);
    let mut class = "arc".to_owned();
    for (is, name) in [
        (arc.arrow.in_cycle, " circle"),
        (!arc.arrow.lockdep_visible, " unseen"),
        (arc.arrow.annotated, " annotated"),
    ] {
        class.push_str(if is { name } else { "" });
    }
    let head = if arc.arrow.in_cycle {
        "url(#arrow-circle)"
    } else {
        "url(#arrow)"
    };
    let [edge, turn, y1, y2] = [edge, turn, y1, y2].map(at);
    let d = format!("M{edge},{y1} C{turn},{y1} {turn},{y2} {edge},{y2}");
    html! {
        path class=(class) d=(d) marker-end=(head) {
            title {
                (query::series_name(arc.held)) ", then " (query::series_name(arc.acquired)) ": " (arc.arrow.count)
            }
        }
    }
}

/// The number of an arc, on it: of neighbours not at the same height.
fn count(arc: &Arc, n: usize, y1: f64, y2: f64) -> Markup {
    let (edge, turn) = sides(arc);
    let t = [0.5, 0.38, 0.62][n % 3];
    let weight = 3.0 * t * (1.0 - t);
    let x = edge + (turn - edge) * weight;
    let start = (1.0 - t).powi(3) + 3.0 * (1.0 - t).powi(2) * t;
    let y = y1 * start + y2 * (1.0 - start);
    html! {
        text.count x=(at(x)) y=(at(y + 3.0)) text-anchor="middle" { (arc.arrow.count) }
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
