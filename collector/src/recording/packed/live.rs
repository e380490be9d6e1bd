//! Who holds and who waits: a hold and a wait begin soon after the call that they belong to. What a task is in for long
//! has the same bytes in every frame, which zstd sees: so the outermost call's beginning is no difference to the frame's time.

use std::collections::HashMap;

use super::Way;
use crate::frame::Live;

/// The evidence of nearly every hold and wait.
const PROBE: &str = "probe";
/// Series that are told apart, where one is likely to have the addresses of the last one.
const SERIES: usize = 64;

/// Packs all of it, or puts it back.
pub(super) fn live(live: &mut Live, way: Way) {
    let (mut tid, mut pid, mut serial) = (0, 0, 0_u64);
    let mut locks = [0; SERIES];
    // When the innermost call of each function began.
    let mut calls: HashMap<u32, u64> = HashMap::new();
    for task in &mut live.tasks {
        tid = way.u32(&mut task.tid, tid);
        pid = way.u32(&mut task.pid, pid);
        calls.clear();
        let mut since_ns = 0;
        let (mut object, mut arg) = (0, 0);
        let (mut mdev, mut guest) = (0, 0);
        for inside in &mut task.inside {
            since_ns = way.u64(&mut inside.since_ns, since_ns);
            object = way.u64(&mut inside.object, object);
            arg = way.u64(&mut inside.arg, arg);
            mdev = way.u32(&mut inside.mdev, mdev);
            guest = way.u32(&mut inside.guest, guest);
            calls.insert(inside.entry, since_ns);
        }
        let began = |entry: u32| calls.get(&entry).copied().unwrap_or(0);
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
