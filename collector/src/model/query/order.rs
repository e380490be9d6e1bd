//! The lock-order graph as it is reported.

use std::collections::BTreeMap;

use super::open_coded;
use crate::frame;
use crate::model::{EdgeId, Model};

/// An edge of the lock-order graph: `acquired` was acquired while `held` was held.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderEdge<'a> {
    /// What identifies it.
    pub id: EdgeId,
    /// Count, first task, sampled instance pairs.
    pub edge: &'a frame::Edge,
    /// lockdep could have seen it: neither side is an open-coded lock.
    pub lockdep_visible: bool,
}

/// lockdep can see an edge between these series: neither is an open-coded lock.
pub fn lockdep_visible(held: u8, acquired: u8) -> bool {
    !open_coded(held) && !open_coded(acquired)
}

/// All edges, sorted. An edge from a class to itself is reported only where its instances were taken in both orders:
/// in one order alone it says nothing.
pub fn order_edges(model: &Model) -> Vec<OrderEdge<'_>> {
    // Bits: directions that the class was seen in.
    let mut seen = BTreeMap::<u8, u8>::new();
    for id in model
        .edges
        .keys()
        .filter(|id| id.held >> 1 == id.acquired >> 1)
    {
        *seen.entry(id.held >> 1).or_default() |= id.direction;
    }
    let inverted = |class: u8| seen.get(&class).is_some_and(|&directions| directions == 3);
    model
        .edges
        .iter()
        .filter(|(id, _)| id.held >> 1 != id.acquired >> 1 || inverted(id.held >> 1))
        .map(|(&id, edge)| OrderEdge {
            id,
            edge,
            lockdep_visible: lockdep_visible(id.held, id.acquired),
        })
        .collect()
}
