//! Who holds and who waits: a hold and a wait begin soon after the call that they belong to.

use super::Way;
use crate::frame::Live;

/// The evidence of nearly every hold and wait.
const PROBE: &str = "probe";
/// Series that are told apart, where one is likely to have the addresses of the last one.
const SERIES: usize = 64;

/// Packs all of it, or puts it back.
pub(super) fn live(live: &mut Live, at_ns: u64, way: Way) {
    let (mut tid, mut pid, mut serial) = (0, 0, 0_u64);
    let mut locks = [0; SERIES];
    let mut calls: Vec<(u32, u64)> = Vec::new();
    for task in &mut live.tasks {
        tid = way.u32(&mut task.tid, tid);
        pid = way.u32(&mut task.pid, pid);
        calls.clear();
        let mut since_ns = at_ns;
        let (mut object, mut arg) = (0, 0);
        let (mut mdev, mut guest) = (0, 0);
        for inside in &mut task.inside {
            since_ns = way.u64(&mut inside.since_ns, since_ns);
            object = way.u64(&mut inside.object, object);
            arg = way.u64(&mut inside.arg, arg);
            mdev = way.u32(&mut inside.mdev, mdev);
            guest = way.u32(&mut inside.guest, guest);
            calls.push((inside.entry, since_ns));
        }
        // The innermost call of this function.
        let began = |entry: u32| {
            let call = calls.iter().rev().find(|call| call.0 == entry);
            call.map_or(at_ns, |call| call.1)
        };
        for hold in &mut task.holds {
            way.u64(&mut hold.since_ns, began(hold.entry));
            serial = way.u64(&mut hold.serial, serial.wrapping_add(1));
            let lock = &mut locks[hold.series as usize % SERIES];
            *lock = way.u64(&mut hold.lock, *lock);
            usual(&mut hold.evidence);
        }
        for wait in &mut task.waits {
            way.u64(&mut wait.since_ns, began(wait.entry));
            serial = way.u64(&mut wait.serial, serial.wrapping_add(1));
            let lock = &mut locks[wait.series as usize % SERIES];
            *lock = way.u64(&mut wait.lock, *lock);
            usual(&mut wait.evidence);
        }
    }
}

/// Nothing for the usual evidence, and the other way round.
fn usual(evidence: &mut String) {
    if evidence.is_empty() {
        PROBE.clone_into(evidence);
    } else if evidence == PROBE {
        evidence.clear();
    }
}
