//! The lock-order graph, laid out: classes in layers, and for each class a lane that joins those held when it is taken.
//!
//! An arrow for each edge would be a web at any size. A lane is one lock being taken: it has a mark in the line of the
//! lock that is taken, and one in the line of each lock held at that time, so that a driver with a dozen classes fits
//! into as many lines and lanes.

use std::collections::{BTreeMap, BTreeSet};

use apscope_collector::diagnose::graph::order::{Cycle, cycles};
use apscope_collector::model::{EdgeId, Model, query};

use super::table::{Column, TableState};
use crate::filter::{Filter, Percentile, Row, TextField, TimeField};

/// Columns that edges can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the columns on screen")]
pub enum EdgeColumn {
    Cycle,
    Held,
    Acquired,
    Count,
}

impl Column for EdgeColumn {
    const ALL: &'static [Self] = &[Self::Cycle, Self::Held, Self::Acquired, Self::Count];

    fn descending(self) -> bool {
        matches!(self, Self::Cycle | Self::Count)
    }
}

/// All edges between two classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joint {
    /// Class held.
    pub held: u8,
    /// Class taken meanwhile.
    pub acquired: u8,
    /// How often.
    pub count: u64,
    /// lockdep could see it.
    pub lockdep_visible: bool,
    /// Every edge of it comes from an annotation: a flag that was tested and found clear.
    pub annotated: bool,
    /// It is a step of a cycle.
    pub in_cycle: bool,
    /// The edges, the most frequent first.
    pub edges: Vec<EdgeId>,
}

/// A class in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Class.
    pub class: u8,
    /// 0: nothing that is shown is held when it is taken.
    pub layer: usize,
}

/// The graph, laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// Classes from top to bottom.
    pub nodes: Vec<Node>,
    /// Edges.
    pub joints: Vec<Joint>,
    /// Lanes from left to right: the place in `nodes` of the class that is taken.
    pub lanes: Vec<usize>,
    /// Cycles, each as its classes in order.
    pub cycles: Vec<Cycle>,
}

impl Graph {
    /// Of the edges of a model.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        let mut joints: BTreeMap<(u8, u8), Joint> = BTreeMap::new();
        for edge in query::order_edges(model) {
            let key = (edge.id.held >> 1, edge.id.acquired >> 1);
            let joint = joints.entry(key).or_insert_with(|| Joint {
                held: key.0,
                acquired: key.1,
                count: 0,
                lockdep_visible: true,
                annotated: true,
                in_cycle: false,
                edges: Vec::new(),
            });
            joint.count = joint.count.saturating_add(edge.edge.count_total);
            joint.lockdep_visible &= edge.lockdep_visible;
            joint.annotated &= edge.id.annotated;
            joint.edges.push(edge.id);
        }
        let cycles = cycles(model);
        for step in cycles.iter().flat_map(|cycle| &cycle.steps) {
            if let Some(joint) = joints.get_mut(&(step.held >> 1, step.acquired >> 1)) {
                joint.in_cycle = true;
            }
        }
        let mut joints: Vec<Joint> = joints.into_values().collect();
        for joint in &mut joints {
            joint.edges.sort_by_key(|id| {
                std::cmp::Reverse(model.edges.get(id).map_or(0, |e| e.count_total))
            });
        }
        let nodes = nodes(&joints);
        let lanes = lanes(&nodes, &joints);
        Self {
            nodes,
            joints,
            lanes,
            cycles,
        }
    }

    /// The edge between two classes.
    #[must_use]
    pub fn joint(&self, held: u8, acquired: u8) -> Option<&Joint> {
        self.joints
            .iter()
            .find(|joint| (joint.held, joint.acquired) == (held, acquired))
    }
}

/// Classes in layers: each below all that are held when it is taken, as far as cycles permit.
fn nodes(joints: &[Joint]) -> Vec<Node> {
    let classes: BTreeSet<u8> = joints.iter().flat_map(|j| [j.held, j.acquired]).collect();
    let forward = without_back_edges(&classes, joints);
    let mut layer: BTreeMap<u8, usize> = classes.iter().map(|class| (*class, 0)).collect();
    // The longest path; there are no cycles left, so as many rounds as classes are enough.
    for _ in 0..classes.len() {
        for (held, acquired) in &forward {
            let below = layer[held] + 1;
            if layer[acquired] < below {
                layer.insert(*acquired, below);
            }
        }
    }
    let mut nodes: Vec<Node> = layer
        .into_iter()
        .map(|(class, layer)| Node { class, layer })
        .collect();
    nodes.sort_by_key(|node| (node.layer, node.class));
    nodes
}

/// Edges that do not lead back to a class on the way to it. Begins where least is held.
fn without_back_edges(classes: &BTreeSet<u8>, joints: &[Joint]) -> Vec<(u8, u8)> {
    let mut after: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut incoming: BTreeMap<u8, usize> = BTreeMap::new();
    for joint in joints.iter().filter(|joint| joint.held != joint.acquired) {
        after.entry(joint.held).or_default().push(joint.acquired);
        *incoming.entry(joint.acquired).or_default() += 1;
    }
    let mut starts: Vec<u8> = classes.iter().copied().collect();
    starts.sort_by_key(|class| (incoming.get(class).copied().unwrap_or(0), *class));
    let mut forward = Vec::new();
    // 0 not seen, 1 on the way, 2 done.
    let mut seen: BTreeMap<u8, u8> = BTreeMap::new();
    for start in starts {
        let mut stack = vec![(start, 0)];
        while let Some((class, next)) = stack.pop() {
            if next == 0 {
                if seen.contains_key(&class) {
                    continue;
                }
                seen.insert(class, 1);
            }
            match after.get(&class).and_then(|all| all.get(next)) {
                Some(&to) => {
                    stack.push((class, next + 1));
                    if seen.get(&to) != Some(&1) {
                        forward.push((class, to));
                        stack.push((to, 0));
                    }
                }
                None => {
                    seen.insert(class, 2);
                }
            }
        }
    }
    forward
}

/// Lanes: those that reach least far first, so that they are near the names.
fn lanes(nodes: &[Node], joints: &[Joint]) -> Vec<usize> {
    let mut lanes: Vec<(usize, usize)> = nodes
        .iter()
        .enumerate()
        .filter_map(|(place, node)| {
            let ends = joints
                .iter()
                .filter(|joint| joint.acquired == node.class)
                .filter_map(|joint| nodes.iter().position(|n| n.class == joint.held));
            ends.map(|end| end.abs_diff(place))
                .max()
                .map(|reach| (reach, place))
        })
        .collect();
    lanes.sort_unstable();
    lanes.into_iter().map(|(_, place)| place).collect()
}

/// A row of the edges table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeRow {
    /// The edges between two classes.
    pub joint: Joint,
    /// Name of the class held.
    pub held: &'static str,
    /// Name of the class acquired.
    pub acquired: &'static str,
    /// Functions in which the most frequent of the edges was made: held in, acquired in.
    pub functions: (&'static str, &'static str),
    /// All functions, for the filter.
    names: String,
}

impl EdgeRow {
    /// The classes.
    #[must_use]
    pub const fn key(&self) -> (u8, u8) {
        (self.joint.held, self.joint.acquired)
    }
}

impl Row for EdgeRow {
    fn text(&self, field: TextField) -> Option<&str> {
        match field {
            TextField::Class => Some(self.acquired),
            TextField::Holder => Some(self.held),
            TextField::Name => Some(&self.names),
            TextField::Kind if self.joint.lockdep_visible => Some("lockdep"),
            TextField::Kind => Some("hidden"),
            TextField::Task | TextField::Guest | TextField::Mdev => None,
        }
    }

    fn time(&self, _: TimeField, _: Percentile) -> Option<u64> {
        None
    }
}

/// Name of a class.
#[must_use]
pub fn class_name(class: u8) -> &'static str {
    query::class_name(class << 1)
}

/// The edges that match, in order.
#[must_use]
pub fn rows(
    graph: &Graph,
    filter: &Filter,
    table: &TableState<EdgeColumn, (u8, u8)>,
) -> Vec<EdgeRow> {
    let mut rows: Vec<EdgeRow> = graph
        .joints
        .iter()
        .map(|joint| {
            let first = joint.edges.first();
            let names: BTreeSet<&str> = joint
                .edges
                .iter()
                .flat_map(|id| {
                    [
                        query::entry_name(id.held_in),
                        query::entry_name(id.acquired_in),
                    ]
                })
                .collect();
            EdgeRow {
                held: class_name(joint.held),
                acquired: class_name(joint.acquired),
                functions: first.map_or(("-", "-"), |id| {
                    (
                        query::entry_name(id.held_in),
                        query::entry_name(id.acquired_in),
                    )
                }),
                names: names.into_iter().collect::<Vec<_>>().join(" "),
                joint: joint.clone(),
            }
        })
        .filter(|row| filter.matches(row))
        .collect();
    rows.sort_by(|a, b| {
        let order = match table.sort {
            EdgeColumn::Cycle => {
                (a.joint.in_cycle, a.joint.count).cmp(&(b.joint.in_cycle, b.joint.count))
            }
            EdgeColumn::Held => a.held.cmp(b.held),
            EdgeColumn::Acquired => a.acquired.cmp(b.acquired),
            EdgeColumn::Count => a.joint.count.cmp(&b.joint.count),
        };
        let order = if table.descending {
            order.reverse()
        } else {
            order
        };
        order.then(a.key().cmp(&b.key()))
    });
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joint(held: u8, acquired: u8) -> Joint {
        Joint {
            held,
            acquired,
            count: 1,
            lockdep_visible: true,
            annotated: false,
            in_cycle: false,
            edges: Vec::new(),
        }
    }

    #[test]
    fn what_is_taken_stands_below_what_is_held() {
        let joints = [joint(3, 1), joint(1, 2), joint(3, 2)];
        let nodes = nodes(&joints);
        let order: Vec<(u8, usize)> = nodes.iter().map(|n| (n.class, n.layer)).collect();
        assert_eq!(order, [(3, 0), (1, 1), (2, 2)]);
        // 1 is taken one line below 3; 2 reaches over two lines.
        assert_eq!(lanes(&nodes, &joints), [1, 2]);
    }

    #[test]
    fn a_cycle_has_layers_too() {
        let joints = [joint(1, 2), joint(2, 3), joint(3, 1), joint(0, 1)];
        let order: Vec<(u8, usize)> = nodes(&joints).iter().map(|n| (n.class, n.layer)).collect();
        assert_eq!(order, [(0, 0), (1, 1), (2, 2), (3, 3)]);
    }

    proptest! {
        #[test]
        fn every_class_has_one_place_and_every_edge_a_lane(edges in proptest::collection::btree_set((0_u8..9, 0_u8..9), 0..40)) {
            let joints: Vec<Joint> = edges.iter().map(|&(held, acquired)| joint(held, acquired)).collect();
            let nodes = nodes(&joints);
            let lanes = lanes(&nodes, &joints);
            let classes: BTreeSet<u8> = edges.iter().flat_map(|e| [e.0, e.1]).collect();
            prop_assert_eq!(nodes.len(), classes.len());
            prop_assert!(nodes.iter().all(|node| node.layer < classes.len().max(1)));
            for joint in &joints {
                let lane = lanes.iter().filter(|&&place| nodes[place].class == joint.acquired).count();
                prop_assert_eq!(lane, 1);
            }
        }
    }
}
