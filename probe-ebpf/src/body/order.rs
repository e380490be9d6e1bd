//! Lock order: edges from every lock a task holds to the one it acquires.

use super::{Env, Note, failure};
use crate::abi::{
    EDGE_ANNOTATED, EDGE_ASCENDING, EDGE_DESCENDING, Edge, EdgeKey, HELD_IS_GUARD, Info, LockKind,
    MAX_PAIRS, NO_INSTANCE, Program, Task,
};

/// The lock being acquired, or a flag being tested.
#[derive(Clone, Copy)]
pub(super) struct Acquired {
    pub address: u64,
    pub series: u8,
    pub instance: u32,
    pub entry: u8,
    pub kind: u8,
    pub annotated: bool,
}

/// Records an edge from each held lock. There is no edge from a guard to its own flag.
#[inline(always)]
pub(super) fn record<E: Env>(env: &E, program: Program, task: &Task, acquired: Acquired, now: u64) {
    for held in &task.held {
        let lock = held.lock.get();
        if lock == 0 || lock == acquired.address {
            continue;
        }
        let info = Info::unpack(held.info.get());
        if acquired.kind == LockKind::Flag as u8 && info.flags & HELD_IS_GUARD != 0 {
            continue;
        }
        let mut flags = if acquired.annotated {
            EDGE_ANNOTATED
        } else {
            0
        };
        if info.series >> 1 == acquired.series >> 1 {
            flags |= if info.instance <= acquired.instance {
                EDGE_ASCENDING
            } else {
                EDGE_DESCENDING
            };
        }
        let key = EdgeKey {
            held: info.series,
            acquired: acquired.series,
            held_in: info.entry,
            acquired_in: acquired.entry,
            flags,
        };
        let key = key.pack();
        match env.edge(key, now) {
            Some(edge) => count(edge, info.instance, acquired.instance, now),
            None => failure(env, program, Note::NoEdgeSlot, key),
        }
    }
}

#[inline(always)]
fn count(edge: &Edge, held: u32, acquired: u32, now: u64) {
    edge.count.add(1);
    edge.last_ns.set(now);
    if held == NO_INSTANCE || acquired == NO_INSTANCE {
        return;
    }
    let pair = ((u64::from(held) << 32) | u64::from(acquired)) + 1;
    let place = (held.wrapping_mul(31).wrapping_add(acquired)) as usize & (MAX_PAIRS - 1);
    if let Some(word) = edge.pairs.get(place)
        && word.get() == 0
    {
        word.set(pair);
    }
}
