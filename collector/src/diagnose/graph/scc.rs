//! Strongly connected components and shortest paths of small directed graphs, given as lists of successors.
//!
//! Nothing is recursive: graphs come from files too, and may be one path of thousands of nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Strongly connected components (Tarjan 1972), each sorted, in the order of their smallest node. A single node is one
/// only if it has an edge to itself. Successors out of range are ignored.
pub fn components(successors: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let nodes = successors.len();
    let mut index = vec![UNSEEN; nodes];
    let mut low = vec![0; nodes];
    let mut on_stack = vec![false; nodes];
    let mut stack = Vec::new();
    let mut found = Vec::new();
    let mut next = 0;
    // (node, place in its successors)
    let mut calls: Vec<(usize, usize)> = Vec::new();
    for root in 0..nodes {
        if index[root] != UNSEEN {
            continue;
        }
        calls.push((root, 0));
        while let Some(&mut (node, ref mut place)) = calls.last_mut() {
            if *place == 0 {
                index[node] = next;
                low[node] = next;
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            }
            if let Some(&to) = successors[node].get(*place) {
                *place += 1;
                if to >= nodes {
                    continue;
                }
                if index[to] == UNSEEN {
                    calls.push((to, 0));
                } else if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
                continue;
            }
            // An edge to a visited node is looked at with `place` above 0, so a node without successors ends here.
            calls.pop();
            if let Some(&(parent, _)) = calls.last() {
                low[parent] = low[parent].min(low[node]);
            }
            if low[node] == index[node] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                component.sort_unstable();
                if component.len() > 1 || successors[node].contains(&node) {
                    found.push(component);
                }
            }
        }
    }
    found.sort_unstable();
    found
}

/// The shortest path from `from` to `to` over at least one edge, through nodes that `allowed` accepts; both ends
/// included, `from` first. Of several, the one whose nodes come first in the lists of successors.
pub fn shortest_path(
    successors: &[Vec<usize>],
    from: usize,
    to: usize,
    allowed: impl Fn(usize) -> bool,
) -> Option<Vec<usize>> {
    const NONE: usize = usize::MAX;
    let mut before = vec![NONE; successors.len()];
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for &next in successors.get(node)? {
            if next >= successors.len() || !allowed(next) {
                continue;
            }
            if next == to {
                let mut path = vec![to];
                let mut at = node;
                while at != from {
                    path.push(at);
                    at = before[at];
                }
                path.push(from);
                path.reverse();
                return Some(path);
            }
            if next != from && before[next] == NONE {
                before[next] = node;
                queue.push_back(next);
            }
        }
    }
    None
}

/// Minimal cycles of one component: the shortest through each back edge of a depth-first search, and every edge of a
/// node to itself. Each is a list of nodes in the order of the edges, beginning with its smallest node; no two are the
/// same; shortest first.
pub fn cycles(successors: &[Vec<usize>], component: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let inside = |node: usize| component.binary_search(&node).is_ok();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for (from, to) in back_edges(successors, component) {
        let cycle = if from == to {
            vec![from]
        } else {
            match shortest_path(successors, to, from, inside) {
                Some(path) => rotated(path),
                None => continue,
            }
        };
        if !found.contains(&cycle) {
            found.push(cycle);
        }
        if found.len() >= limit {
            break;
        }
    }
    found.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    found
}

/// The shortest cycle of one component, beginning with its smallest node; always the same one of several. `None` for
/// what is no component.
///
/// Every cycle has a back edge, so that only those who begin one need be searched from; and never deeper than what has
/// been found.
pub fn shortest_cycle(successors: &[Vec<usize>], component: &[usize]) -> Option<Vec<usize>> {
    // Ends of back edges by their beginnings: the paths to close.
    let mut ends: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (from, to) in back_edges(successors, component) {
        ends.entry(to).or_default().insert(from);
    }
    let mut best: Option<Vec<usize>> = None;
    let mut scratch = Scratch {
        before: vec![(0, 0); successors.len()],
        round: 0,
    };
    for (&start, ends) in &ends {
        let limit = best.as_ref().map_or(usize::MAX, Vec::len);
        if let Some(path) = scratch.nearest(successors, component, start, ends, limit) {
            best = Some(path);
        }
    }
    best.map(rotated)
}

/// What searches have in common.
struct Scratch {
    /// For each node, the search that saw it last, and the node before it.
    before: Vec<(u32, usize)>,
    round: u32,
}

impl Scratch {
    /// The shortest path of fewer than `limit` nodes from a node to one of `ends`, inside of a component.
    fn nearest(
        &mut self,
        successors: &[Vec<usize>],
        component: &[usize],
        start: usize,
        ends: &BTreeSet<usize>,
        limit: usize,
    ) -> Option<Vec<usize>> {
        self.round += 1;
        self.before[start] = (self.round, start);
        let mut queue = VecDeque::from([(start, 1)]);
        while let Some((node, length)) = queue.pop_front() {
            if length >= limit {
                return None;
            }
            if ends.contains(&node) {
                let mut path = vec![node];
                let mut at = node;
                while at != start {
                    at = self.before[at].1;
                    path.push(at);
                }
                path.reverse();
                return Some(path);
            }
            for &next in &successors[node] {
                if component.binary_search(&next).is_ok() && self.before[next].0 != self.round {
                    self.before[next] = (self.round, node);
                    queue.push_back((next, length + 1));
                }
            }
        }
        None
    }
}

/// The same cycle, beginning with its smallest node.
fn rotated(mut cycle: Vec<usize>) -> Vec<usize> {
    let smallest = cycle.iter().enumerate().min_by_key(|(_, node)| **node);
    if let Some((place, _)) = smallest {
        cycle.rotate_left(place);
    }
    cycle
}

/// Edges from a node to itself or to one that the search, which begins with the smallest node, is still below.
fn back_edges(successors: &[Vec<usize>], component: &[usize]) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Unseen,
        Open,
        Done,
    }
    let place = |node: usize| component.binary_search(&node).ok();
    let mut marks = vec![Mark::Unseen; component.len()];
    let mut edges = Vec::new();
    for start in 0..component.len() {
        if marks[start] != Mark::Unseen {
            continue;
        }
        marks[start] = Mark::Open;
        let mut calls = vec![(start, 0)];
        while let Some(&mut (at, ref mut next)) = calls.last_mut() {
            let Some(&to) = successors[component[at]].get(*next) else {
                marks[at] = Mark::Done;
                calls.pop();
                continue;
            };
            *next += 1;
            let Some(to_place) = place(to) else { continue };
            match marks[to_place] {
                Mark::Open => edges.push((component[at], to)),
                Mark::Unseen => {
                    marks[to_place] = Mark::Open;
                    calls.push((to_place, 0));
                }
                Mark::Done => {}
            }
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_two_cycles_and_a_tail() {
        let graph = vec![vec![1], vec![2], vec![0, 3], vec![4], vec![3], vec![0]];
        assert_eq!(components(&graph), [vec![0, 1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_node_is_a_component_only_with_an_edge_to_itself() {
        assert_eq!(components(&[vec![0], vec![]]), [vec![0]]);
        assert!(components(&[vec![1], vec![]]).is_empty());
    }

    #[test]
    fn a_long_path_needs_no_stack() {
        let mut graph: Vec<Vec<usize>> = (1..200_000).map(|n| vec![n]).collect();
        graph.push(vec![0]);
        let all = components(&graph);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].len(), 200_000);
        assert_eq!(cycles(&graph, &all[0], 10).len(), 1);
    }

    #[test]
    fn the_shortest_cycle_is_found_behind_hundreds_of_others() {
        // 0 has 300 cycles of three nodes, and the last of them is on one of two.
        let last = 600;
        let mut graph: Vec<Vec<usize>> = vec![Vec::new(); last + 2];
        for first in (1..=last).step_by(2) {
            graph[0].push(first);
            graph[first].push(first + 1);
            graph[first + 1].push(0);
        }
        graph[last].push(last + 1);
        graph[last + 1].push(last);
        let component = &components(&graph)[0];
        assert_eq!(
            shortest_cycle(&graph, component),
            Some(vec![last, last + 1])
        );
        assert_eq!(shortest_cycle(&[vec![0]], &[0]), Some(vec![0]));
        assert_eq!(shortest_cycle(&[vec![1], vec![]], &[0]), None);
    }

    #[test]
    fn each_cycle_is_found_once_the_shortest_first() {
        // 0 → 1 → 2 → 0, and 1 → 3 → 1.
        let graph = vec![vec![1], vec![2, 3], vec![0], vec![1]];
        let component = &components(&graph)[0];
        assert_eq!(cycles(&graph, component, 10), [vec![1, 3], vec![0, 1, 2]]);
    }
}
