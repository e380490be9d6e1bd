//! The lock-order graph: which lock is taken while which is held, and the cycles in it.
//!
//! Modes are treated as lockdep treats those of an rwsem (Documentation/locking/lockdep-design.rst): an acquisition for
//! reading waits for a holder in either mode, because a writer may have queued between the two. Only where nobody has
//! ever taken the lock for writing, readers do not exclude each other. A trylock makes no edge to the lock it tries,
//! since it cannot wait; that is for whoever records edges to leave out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use probe_ebpf::abi::{MAX_PAIRS, Mode, NO_INSTANCE};

use super::scc;
use crate::model::{EdgeId, Model, query};

/// Cycles looked for in one component; there are never so many in a real driver.
pub const MAX_CYCLES: usize = 256;

/// One step of a cycle: while a lock of the class is held, the next one's is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Series held: that of the edge which waits for most.
    pub held: u8,
    /// Series acquired: of the class that the next step holds.
    pub acquired: u8,
    /// All edges between the two classes, the most frequent first.
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

/// The edges of the model between two classes.
type Edges = BTreeMap<(u8, u8), Vec<EdgeId>>;

/// Classes that have been taken in an exclusive mode: only there does anybody wait.
pub fn written(model: &Model) -> BTreeSet<u8> {
    let edges = model.edges.keys().flat_map(|id| [id.held, id.acquired]);
    let taken = model.series.iter();
    edges
        .chain(
            taken
                .filter(|(_, series)| series.acquisitions > 0)
                .map(|(&id, _)| id),
        )
        .filter(|&series| query::mode(series) != Mode::Read)
        .map(|series| series >> 1)
        .collect()
}

/// The cycles in the order of a model's locks: strongly connected components, and in each the shortest cycle through
/// each back edge. Each sequence of classes once; the shortest first, then by class ids.
pub fn cycles(model: &Model) -> Vec<Cycle> {
    let mut edges: Edges = BTreeMap::new();
    for edge in query::order_edges(model) {
        let between = (edge.id.held >> 1, edge.id.acquired >> 1);
        edges.entry(between).or_default().push(edge.id);
    }
    let pairs: BTreeSet<(u8, u8)> = edges.keys().copied().collect();
    class_cycles(&pairs, &written(model))
        .into_iter()
        .map(|classes| Cycle {
            steps: (0..classes.len())
                .filter_map(|place| {
                    let next = classes[(place + 1) % classes.len()];
                    step(model, edges.get(&(classes[place], next))?)
                })
                .collect(),
        })
        .collect()
}

/// The step that all edges between two classes make, whatever their modes.
fn step(model: &Model, edges: &[EdgeId]) -> Option<Step> {
    // The exclusive acquisition waits for more: it is the one to name.
    let named = edges
        .iter()
        .min_by_key(|id| (query::mode(id.acquired) == Mode::Read, id.acquired, id.held))?;
    let mut step = Step {
        held: named.held,
        acquired: named.acquired,
        edges: edges.to_vec(),
    };
    sort(model, &mut step);
    Some(step)
}

fn sort(model: &Model, step: &mut Step) {
    step.edges.sort_by_cached_key(|id| {
        let count = model.edges.get(id).map_or(0, |edge| edge.count_total);
        (std::cmp::Reverse(count), *id)
    });
}

/// Puts the edges of cycles in the order of their counts now.
pub fn recount(model: &Model, cycles: &mut [Cycle]) {
    for step in cycles.iter_mut().flat_map(|cycle| &mut cycle.steps) {
        sort(model, step);
    }
}

/// The cycles of edges (held, acquired) between classes, each from its smallest class on.
///
/// An acquisition of a class that nobody takes exclusively (`written` has it not) waits for nobody. In one that
/// somebody does, each acquisition can wait for each holder, readers for readers included, so that the modes of single
/// edges make no difference any more.
pub(super) fn class_cycles(edges: &BTreeSet<(u8, u8)>, written: &BTreeSet<u8>) -> Vec<Vec<u8>> {
    let classes: Vec<u8> = written.iter().copied().collect();
    let successors: Vec<Vec<usize>> = classes
        .iter()
        .map(|&held| {
            (0..classes.len())
                .filter(|&to| edges.contains(&(held, classes[to])))
                .collect()
        })
        .collect();
    let mut all: Vec<Vec<u8>> = scc::components(&successors)
        .iter()
        .flat_map(|component| scc::cycles(&successors, component, MAX_CYCLES))
        .map(|cycle| cycle.into_iter().map(|node| classes[node]).collect())
        .collect();
    all.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    all
}

/// For each cycle, the class whose lock is always held, by whoever waits, at every step of it: two tasks cannot both be
/// there, so that the cycle cannot close. `None` if there is none, or if that is not known for certain.
///
/// It is inferred from exact counts: every acquisition of a series in an entry point has an edge from each lock held,
/// so where the edges from a lock with a single instance are as many as the acquisitions, it was held each time.
pub fn guards(model: &Model, cycles: &[Cycle]) -> Vec<Option<u8>> {
    if cycles.is_empty() {
        return Vec::new();
    }
    let mut single: BTreeMap<u8, bool> = BTreeMap::new();
    // Acquisitions of a series in an entry point, by the lock that was held.
    let mut under: HashMap<(u8, u8, u8), u64> = HashMap::new();
    for (id, edge) in &model.edges {
        let exclusive = query::mode(id.held) != Mode::Read && !query::open_coded(id.held);
        if id.annotated
            || !exclusive
            || !*single
                .entry(id.held)
                .or_insert_with(|| single_instance(model, id.held))
        {
            continue;
        }
        let sum = under
            .entry((id.held, id.acquired, id.acquired_in))
            .or_default();
        *sum = sum.saturating_add(edge.count_total);
    }
    let candidates: Vec<u8> = single
        .into_iter()
        .filter_map(|(series, single)| single.then_some(series))
        .collect();
    cycles
        .iter()
        .map(|cycle| {
            let classes = cycle.classes();
            let guard = candidates
                .iter()
                .filter(|&&held| !classes.contains(&(held >> 1)))
                .find(|&&held| {
                    let mut edges = cycle.steps.iter().flat_map(|step| &step.edges);
                    edges.all(|&edge| always_under(model, &under, held, edge))
                });
            guard.map(|held| held >> 1)
        })
        .collect()
}

/// There is one lock of the class: both modes of an rwsem have instances of their own, with one address.
fn single_instance(model: &Model, series: u8) -> bool {
    let class = u32::from(series >> 1);
    let of = model.instances.values().filter(|i| i.series >> 1 == class);
    let locks: BTreeSet<(u64, u32)> = of.map(|i| address(model, i.id)).collect();
    locks.len() == 1
}

fn always_under(
    model: &Model,
    under: &HashMap<(u8, u8, u8), u64>,
    guard: u8,
    edge: EdgeId,
) -> bool {
    if edge.annotated {
        return false;
    }
    let under = under
        .get(&(guard, edge.acquired, edge.acquired_in))
        .copied()
        .unwrap_or(0);
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
    /// They do not close, but do so guest by guest: there is room for few pairs of an edge, and a guest has many vCPUs.
    SameGuest,
    /// They do not close, and there was no room for all pairs of a step.
    NotSampled,
    /// No pairs were sampled for a step.
    Unknown,
}

/// Whether the sampled instances of a cycle's steps close to a cycle of instances.
pub fn instances(model: &Model, cycle: &Cycle) -> Instances {
    let mut per_step: Vec<Vec<(u32, u32)>> = Vec::new();
    let mut all_sampled = true;
    for step in &cycle.steps {
        let pairs: Vec<(u32, u32)> = step
            .edges
            .iter()
            .filter_map(|id| model.edges.get(id))
            .flat_map(|edge| edge.pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])))
            .filter(|&(held, acquired)| held != NO_INSTANCE && acquired != NO_INSTANCE)
            .collect();
        if pairs.is_empty() {
            return Instances::Unknown;
        }
        all_sampled &= step
            .edges
            .iter()
            .filter_map(|id| model.edges.get(id))
            .all(|edge| edge.pairs.len() < 2 * MAX_PAIRS);
        per_step.push(pairs);
    }
    if closes(&per_step, |one, other| {
        one == other || address(model, one) == address(model, other)
    }) {
        return Instances::Same;
    }
    // The locks of a guest: another of its vCPUs is as good.
    let guest = |id: u32| model.instances.get(&id).map_or(0, |known| known.guest);
    if closes(&per_step, |one, other| {
        let same = one == other || address(model, one) == address(model, other);
        same || guest(one) != 0 && guest(one) == guest(other)
    }) {
        return Instances::SameGuest;
    }
    if all_sampled {
        Instances::ClassOnly
    } else {
        Instances::NotSampled
    }
}

/// Whether pairs of locks close to a circle, where these locks are the same.
fn closes(per_step: &[Vec<(u32, u32)>], same: impl Fn(u32, u32) -> bool) -> bool {
    let Some(first) = per_step.first() else {
        return false;
    };
    let starts: BTreeSet<u32> = first.iter().map(|pair| pair.0).collect();
    for start in starts {
        let mut reached = BTreeSet::from([start]);
        for pairs in per_step {
            reached = pairs
                .iter()
                .filter(|(held, _)| reached.iter().any(|at| same(*at, *held)))
                .map(|(_, acquired)| *acquired)
                .collect();
        }
        if reached.iter().any(|end| same(*end, start)) {
            return true;
        }
    }
    false
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
