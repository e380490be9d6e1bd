//! The lock-order graph: which lock is taken while which is held, and the cycles in it.
//!
//! Modes are treated as lockdep treats those of an rwsem (Documentation/locking/lockdep-design.rst): an acquisition for
//! reading waits for a holder in either mode, because a writer may have queued between the two. Only where nobody has
//! ever taken the lock for writing, readers do not exclude each other. A trylock makes no edge to the lock it tries,
//! since it cannot wait; that is for whoever records edges to leave out.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::abi::Mode;

use super::scc;
use crate::model::{EdgeId, Model, query};

/// Cycles looked for in one component; there are never so many in a real driver.
pub const MAX_CYCLES: usize = 256;

/// One step of a cycle: while a lock of the class is held, the next one's is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Series held.
    pub held: u8,
    /// Series acquired: of the class that the next step holds.
    pub acquired: u8,
    /// The edges that this step stands for, the most frequent first.
    pub edges: Vec<EdgeId>,
}

/// A cycle in the order of locks: tasks that go round it at the same time wait for each other for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// Its steps, from the class with the smallest id on.
    pub steps: Vec<Step>,
}

impl Cycle {
    /// lockdep could have seen all of it.
    pub fn lockdep_visible(&self) -> bool {
        self.steps
            .iter()
            .all(|step| query::lockdep_visible(step.held, step.acquired))
    }

    /// Classes in order.
    pub fn classes(&self) -> Vec<u8> {
        self.steps.iter().map(|step| step.held >> 1).collect()
    }
}

/// An edge between series, with the edges of the model that make it up.
type Edges = BTreeMap<(u8, u8), Vec<EdgeId>>;

/// The cycles in the order of a model's locks: strongly connected components, and in each the shortest cycle through
/// each back edge. Each sequence of classes once; the shortest first, then by class ids.
pub fn cycles(model: &Model) -> Vec<Cycle> {
    let mut edges: Edges = BTreeMap::new();
    for edge in query::order_edges(model) {
        let of = edges.entry((edge.id.held, edge.id.acquired)).or_default();
        of.push(edge.id);
    }
    for ids in edges.values_mut() {
        ids.sort_by_key(|id| {
            let count = model.edges.get(id).map_or(0, |edge| edge.count_total);
            (std::cmp::Reverse(count), *id)
        });
    }
    let written: BTreeSet<u8> = edges
        .keys()
        .flat_map(|&(held, acquired)| [held, acquired])
        .chain(
            model
                .series
                .iter()
                .filter(|(_, series)| series.acquisitions > 0)
                .map(|(&id, _)| id),
        )
        .filter(|&series| query::mode(series) != Mode::Read)
        .map(|series| series >> 1)
        .collect();
    let pairs: Vec<(u8, u8)> = edges.keys().copied().collect();
    series_cycles(&pairs, &written)
        .into_iter()
        .map(|steps| Cycle {
            steps: steps
                .into_iter()
                .map(|(held, acquired)| Step {
                    held,
                    acquired,
                    edges: edges.get(&(held, acquired)).cloned().unwrap_or_default(),
                })
                .collect(),
        })
        .collect()
}

/// The cycles that edges between series make. `written`: classes that have been taken in an exclusive mode. Each
/// cycle is the list of its edges (held, acquired), the acquired one of the same class as the next held one.
pub(super) fn series_cycles(edges: &[(u8, u8)], written: &BTreeSet<u8>) -> Vec<Vec<(u8, u8)>> {
    // A node is a series that is held while something is taken.
    let held: BTreeSet<u8> = edges.iter().map(|&(held, _)| held).collect();
    let nodes: Vec<u8> = held.into_iter().collect();
    let waits_for = |acquired: u8, held: u8| {
        acquired >> 1 == held >> 1
            && (query::mode(acquired) != Mode::Read
                || query::mode(held) != Mode::Read
                || written.contains(&(held >> 1)))
    };
    let successors: Vec<Vec<usize>> = nodes
        .iter()
        .map(|&from| {
            (0..nodes.len())
                .filter(|&to| {
                    edges
                        .iter()
                        .any(|&(held, acquired)| held == from && waits_for(acquired, nodes[to]))
                })
                .collect()
        })
        .collect();
    let mut found: BTreeMap<Vec<u8>, Vec<(u8, u8)>> = BTreeMap::new();
    for component in scc::components(&successors) {
        for cycle in scc::cycles(&successors, &component, MAX_CYCLES) {
            let steps: Vec<(u8, u8)> = (0..cycle.len())
                .filter_map(|place| {
                    let from = nodes[cycle[place]];
                    let to = nodes[cycle[(place + 1) % cycle.len()]];
                    edges
                        .iter()
                        .copied()
                        .filter(|&(held, acquired)| held == from && waits_for(acquired, to))
                        // The exclusive acquisition waits for more.
                        .min_by_key(|&(_, acquired)| {
                            (query::mode(acquired) == Mode::Read, acquired)
                        })
                })
                .collect();
            let classes: Vec<u8> = steps.iter().map(|&(held, _)| held >> 1).collect();
            // A class twice: both modes of one lock. There is a shorter cycle through it.
            let distinct: BTreeSet<u8> = classes.iter().copied().collect();
            if steps.len() == cycle.len() && distinct.len() == classes.len() {
                found.entry(from_smallest(&classes)).or_insert(steps);
            }
        }
    }
    let mut all: Vec<Vec<(u8, u8)>> = found
        .into_iter()
        .map(|(classes, mut steps)| {
            let first = classes.first().copied().unwrap_or(0);
            if let Some(place) = steps.iter().position(|&(held, _)| held >> 1 == first) {
                steps.rotate_left(place);
            }
            steps
        })
        .collect();
    all.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    all
}

fn from_smallest(classes: &[u8]) -> Vec<u8> {
    let mut classes = classes.to_vec();
    if let Some((place, _)) = classes.iter().enumerate().min_by_key(|(_, class)| **class) {
        classes.rotate_left(place);
    }
    classes
}

/// The class whose lock is always held, by whoever waits, at every step of a cycle: two tasks cannot both be there, so
/// that the cycle cannot close. `None` if there is none, or if that is not known for certain.
///
/// It is inferred from exact counts: every acquisition of a series in an entry point has an edge from each lock held,
/// so where the edges from a lock with a single instance are as many as the acquisitions, it was held each time.
pub fn guard(model: &Model, cycle: &Cycle) -> Option<u8> {
    let classes = cycle.classes();
    let candidates: BTreeSet<u8> = model
        .edges
        .keys()
        .filter(|id| !id.annotated && query::mode(id.held) != Mode::Read)
        .map(|id| id.held)
        .filter(|held| !classes.contains(&(held >> 1)) && !query::open_coded(*held))
        .filter(|held| single_instance(model, *held))
        .collect();
    candidates.into_iter().find_map(|held| {
        cycle
            .steps
            .iter()
            .all(|step| {
                step.edges
                    .iter()
                    .all(|edge| always_under(model, held, edge))
            })
            .then_some(held >> 1)
    })
}

fn single_instance(model: &Model, series: u8) -> bool {
    let class = u32::from(series >> 1);
    let mut instances = model.instances.values().filter(|i| i.series >> 1 == class);
    instances.next().is_some() && instances.next().is_none()
}

fn always_under(model: &Model, guard: u8, edge: &EdgeId) -> bool {
    if edge.annotated {
        return false;
    }
    let under: u64 = model
        .edges
        .iter()
        .filter(|(id, _)| {
            id.held == guard
                && id.acquired == edge.acquired
                && id.acquired_in == edge.acquired_in
                && !id.annotated
        })
        .map(|(_, edge)| edge.count_total)
        .fold(0, u64::saturating_add);
    let all = model
        .series
        .get(&edge.acquired)
        .and_then(|series| series.by_entry.get(&edge.acquired_in))
        .map_or(0, |entry| entry.acquisitions);
    all > 0 && under >= all
}

/// What is known of the instances along a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instances {
    /// The sampled pairs close: the very same locks were taken in this order.
    Same,
    /// They do not close: the classes were, each pair seen with other instances.
    ClassOnly,
    /// No pairs were sampled for a step.
    Unknown,
}

/// Whether the sampled instances of a cycle's steps close to a cycle of instances.
pub fn instances(model: &Model, cycle: &Cycle) -> Instances {
    let mut per_step: Vec<Vec<(u32, u32)>> = Vec::new();
    for step in &cycle.steps {
        let pairs: Vec<(u32, u32)> = step
            .edges
            .iter()
            .filter_map(|id| model.edges.get(id))
            .flat_map(|edge| edge.pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])))
            .collect();
        if pairs.is_empty() {
            return Instances::Unknown;
        }
        per_step.push(pairs);
    }
    let Some(first) = per_step.first() else {
        return Instances::Unknown;
    };
    let starts: BTreeSet<u32> = first.iter().map(|pair| pair.0).collect();
    let same = |one: u32, other: u32| one == other || address(model, one) == address(model, other);
    for start in starts {
        let mut reached = BTreeSet::from([start]);
        for pairs in &per_step {
            reached = pairs
                .iter()
                .filter(|(held, _)| reached.iter().any(|at| same(*at, *held)))
                .map(|(_, acquired)| *acquired)
                .collect();
        }
        if reached.iter().any(|end| same(*end, start)) {
            return Instances::Same;
        }
    }
    Instances::ClassOnly
}

/// Both modes of one rwsem have one address; an instance that is not known has none like another's.
fn address(model: &Model, instance: u32) -> (u64, u32) {
    model
        .instances
        .get(&instance)
        .filter(|known| known.address != 0)
        .map_or((0, instance), |known| (known.address, 0))
}

/// All edges of a cycle were first made by the same task: one sequence of calls, not tasks that run against each other.
pub fn one_task(model: &Model, cycle: &Cycle) -> Option<u32> {
    let mut tids = cycle
        .steps
        .iter()
        .flat_map(|step| &step.edges)
        .filter_map(|id| model.edges.get(id))
        .map(|edge| edge.first_tid);
    let first = tids.next()?;
    tids.all(|tid| tid == first).then_some(first)
}

/// An inversion cannot be told from an order that nobody has recorded: edges had no room.
pub fn incomplete(model: &Model) -> bool {
    model.loss.no_edge_slot > 0
}
