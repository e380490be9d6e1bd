//! The order of locks, by definition.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::CLASSES;
use proptest::prelude::*;

use super::config;
use super::simulator::Simulator;
use super::waits::steps;
use crate::diagnose::graph::order::cycles;
use crate::frame;
use crate::model::{Model, query};

/// Held series, acquired series, direction.
type Edge = (u8, u8, u8);

/// Who acquires `acquired` may wait for who holds `held`: the same class, and not two readers of one that nobody
/// writes.
fn waits_for(acquired: u8, held: u8, written: &BTreeSet<u8>) -> bool {
    let reads = |series| query::mode(series) == Mode::Read;
    acquired >> 1 == held >> 1
        && !(reads(acquired) && reads(held) && !written.contains(&(held >> 1)))
}

/// Classes that somebody writes: as an edge says, or a count.
fn written(edges: &[Edge], counted: &BTreeSet<u8>) -> BTreeSet<u8> {
    let ends = edges
        .iter()
        .flat_map(|&(held, acquired, _)| [held, acquired]);
    ends.chain(counted.iter().copied())
        .filter(|&series| query::mode(series) != Mode::Read)
        .map(|series| series >> 1)
        .collect()
}

/// Edges that say something: those between locks of one class only where both orders were seen.
fn telling(edges: &[Edge]) -> Vec<Edge> {
    let both = |class: u8| {
        [1, 2].iter().all(|&direction| {
            edges.iter().any(|&(held, acquired, d)| {
                held >> 1 == class && acquired >> 1 == class && d == direction
            })
        })
    };
    edges
        .iter()
        .copied()
        .filter(|&(held, acquired, _)| held >> 1 != acquired >> 1 || both(held >> 1))
        .collect()
}

/// All elementary cycles as classes, each from the smallest on: all paths over edges are walked.
fn elementary(edges: &[Edge], written: &BTreeSet<u8>) -> BTreeSet<Vec<u8>> {
    fn walk(
        edges: &[Edge],
        written: &BTreeSet<u8>,
        path: &mut Vec<Edge>,
        all: &mut BTreeSet<Vec<u8>>,
    ) {
        let (first, last) = (path[0], path[path.len() - 1]);
        if waits_for(last.1, first.0, written) {
            all.insert(path.iter().map(|edge| edge.0 >> 1).collect());
        }
        for &edge in edges {
            let class = edge.0 >> 1;
            let fresh = class > first.0 >> 1 && path.iter().all(|known| known.0 >> 1 != class);
            if fresh && waits_for(last.1, edge.0, written) {
                path.push(edge);
                walk(edges, written, path, all);
                path.pop();
            }
        }
    }
    let mut all = BTreeSet::new();
    for &edge in edges {
        walk(edges, written, &mut vec![edge], &mut all);
    }
    all
}

/// A model with these edges, folded in this order.
fn model(edges: &[Edge], counted: &BTreeSet<u8>) -> Model {
    let mut model = Model::default();
    model.apply(&frame::Frame {
        edges: edges
            .iter()
            .map(|&(held, acquired, direction)| frame::Edge {
                held: u32::from(held),
                acquired: u32::from(acquired),
                direction: u32::from(direction),
                count_total: 1,
                ..frame::Edge::default()
            })
            .collect(),
        series: counted
            .iter()
            .map(|&series| frame::SeriesDelta {
                series: u32::from(series),
                acquisitions: 1,
                ..frame::SeriesDelta::default()
            })
            .collect(),
        ..frame::Frame::default()
    });
    model
}

fn check(edges: &[Edge], counted: &BTreeSet<u8>) -> Result<(), TestCaseError> {
    let model = model(edges, counted);
    prop_assert_eq!(model.ignored, 0);
    let found = cycles(&model);
    let (telling, written) = (telling(edges), written(edges, counted));
    let all = elementary(&telling, &written);
    prop_assert_eq!(found.is_empty(), all.is_empty(), "{:?}", all);
    let mut classes = BTreeSet::new();
    for cycle in &found {
        prop_assert!(
            all.contains(&cycle.classes()),
            "{:?} is none of {:?}",
            cycle,
            all
        );
        prop_assert!(classes.insert(cycle.classes()), "{:?} twice", cycle);
        let visible = cycle
            .classes()
            .iter()
            .all(|&class| CLASSES[usize::from(class)].kind != LockKind::Flag);
        prop_assert_eq!(cycle.lockdep_visible(), visible);
        // Its steps are all edges from each class to the next, and the series named are of one of them.
        for (place, step) in cycle.steps.iter().enumerate() {
            let next = &cycle.steps[(place + 1) % cycle.steps.len()];
            let of: BTreeSet<Edge> = step
                .edges
                .iter()
                .map(|id| (id.held, id.acquired, id.direction))
                .collect();
            let all: BTreeSet<Edge> = telling
                .iter()
                .copied()
                .filter(|&(held, acquired, _)| {
                    held >> 1 == step.held >> 1 && acquired >> 1 == next.held >> 1
                })
                .collect();
            prop_assert!(
                of.iter()
                    .any(|&(held, acquired, _)| (held, acquired) == (step.held, step.acquired))
            );
            prop_assert_eq!(of, all);
        }
    }
    // Classes that are on a cycle together, by all cycles there are: each such set has its shortest one among those
    // reported.
    let mut component: BTreeMap<u8, u8> =
        all.iter().flatten().map(|&class| (class, class)).collect();
    for cycle in all.iter().chain(&all) {
        let smallest = cycle.iter().map(|class| component[class]).min();
        let of: BTreeSet<u8> = cycle.iter().map(|class| component[class]).collect();
        for value in component.values_mut() {
            if of.contains(value) {
                *value = smallest.unwrap_or(*value);
            }
        }
    }
    for &number in component.values().collect::<BTreeSet<_>>() {
        let within = |cycle: &Vec<u8>| component[&cycle[0]] == number;
        let shortest = all.iter().filter(|cycle| within(cycle)).map(Vec::len).min();
        let reported = classes
            .iter()
            .filter(|cycle| within(cycle))
            .map(Vec::len)
            .min();
        prop_assert_eq!(shortest, reported);
    }
    // Shortest first.
    prop_assert!(
        found
            .windows(2)
            .all(|two| two[0].steps.len() <= two[1].steps.len())
    );
    Ok(())
}

/// Of `PQAP_HOOK_RWSEM` to `AP_ATTR_MUTEX`, and two rwsems: few classes, so that edges meet.
fn series() -> impl Strategy<Value = u8> {
    let of = [0, 6, 8, 10, 11, 12, 22, 23, 28, 29];
    proptest::sample::select(of.to_vec())
}

fn edges() -> impl Strategy<Value = Vec<Edge>> {
    let edge = (series(), series(), 0..3_u8).prop_map(|(held, acquired, direction)| {
        let same = held >> 1 == acquired >> 1;
        (held, acquired, if same { direction } else { 0 })
    });
    proptest::collection::vec(edge, 0..14)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn of_edges(
        (edges, shuffled) in edges().prop_flat_map(|edges| (Just(edges.clone()), Just(edges).prop_shuffle())),
        counted in proptest::collection::btree_set(series(), 0..2),
    ) {
        check(&edges, &counted)?;
        prop_assert_eq!(
            cycles(&model(&edges, &counted)),
            cycles(&model(&shuffled, &counted)),
            "the order in which edges came"
        );
    }

    #[test]
    fn of_histories(steps in steps()) {
        let simulator = Simulator::of(&steps);
        let edges: Vec<Edge> = simulator.edges.iter().copied().collect();
        check(&edges, &BTreeSet::new())?;
    }
}

/// The definition finds what it must: readers are in each other's way only where somebody writes.
#[test]
fn the_reference_knows_readers() {
    let edges = [(11, 23, 0), (23, 11, 0)];
    let none = BTreeSet::new();
    assert!(elementary(&edges, &written(&edges, &none)).is_empty());
    // One of the two written is not enough.
    assert!(elementary(&edges, &written(&edges, &BTreeSet::from([22]))).is_empty());
    let both = BTreeSet::from([10, 22]);
    let expected = BTreeSet::from([vec![5, 11]]);
    assert_eq!(elementary(&edges, &written(&edges, &both)), expected);
}
