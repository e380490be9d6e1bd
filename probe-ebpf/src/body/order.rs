//! Lock order: edges from every lock a task holds to the one it acquires.

use super::Env;
use crate::abi::{
    EDGE_ANNOTATED, EDGE_ASCENDING, EDGE_DESCENDING, Edge, EdgeKey, HELD_IS_GUARD, Info, LockKind,
    MAX_PAIRS, NO_INSTANCE, Task,
};

/// The lock being acquired, or a flag being tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Address of the lock, or of the flag.
    pub address: u64,
    /// Series.
    pub series: u8,
    /// Instance slot.
    pub instance: u32,
    /// Entry point the task is in.
    pub entry: u8,
    /// A [`LockKind`].
    pub kind: u8,
    /// A test of a flag that was found clear.
    pub annotated: bool,
}

impl Acquired {
    /// All but the address as one word.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        let Self {
            address: _,
            series,
            instance,
            entry,
            kind,
            annotated,
        } = self;
        Info {
            instance,
            series,
            entry,
            kind,
            flags: annotated as u8,
        }
        .pack()
    }

    /// The inverse of [`Acquired::pack`].
    #[inline(always)]
    #[must_use]
    pub const fn unpack(address: u64, word: u64) -> Self {
        let Info {
            instance,
            series,
            entry,
            kind,
            flags,
        } = Info::unpack(word);
        Self {
            address,
            series,
            instance,
            entry,
            kind,
            annotated: flags != 0,
        }
    }
}

/// Records an edge from each held lock; false if an edge found no slot. There is no edge from a guard to its own
/// flag.
#[inline(always)]
pub fn record<E: Env>(env: &E, task: &Task, acquired: Acquired, now: u64) -> bool {
    let mut complete = true;
    for held in &task.held {
        let lock = held.lock.get();
        let info = Info::unpack(held.info.get());
        let own_guard = acquired.kind == LockKind::Flag as u8 && info.flags & HELD_IS_GUARD != 0;
        if lock == 0 || lock == acquired.address || own_guard {
            continue;
        }
        match env.edge(edge_key(info, acquired), now) {
            Some(edge) => count(edge, info.instance, acquired.instance, now),
            None => complete = false,
        }
    }
    complete
}

#[inline(always)]
fn edge_key(held: Info, acquired: Acquired) -> u64 {
    let mut flags = if acquired.annotated {
        EDGE_ANNOTATED
    } else {
        0
    };
    if held.series >> 1 == acquired.series >> 1 {
        flags |= if held.instance <= acquired.instance {
            EDGE_ASCENDING
        } else {
            EDGE_DESCENDING
        };
    }
    let key = EdgeKey {
        held: held.series,
        acquired: acquired.series,
        held_in: held.entry,
        acquired_in: acquired.entry,
        flags,
    };
    key.pack()
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
