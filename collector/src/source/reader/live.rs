//! Task records as frames have them.

use probe_ebpf::abi::{HELD_SECOND_HOLDER, Info, MAX_NESTED, MAX_WAITS, Task, Word};

use crate::frame;

/// A name from a NUL-padded pair of words.
pub(super) fn text(words: &[Word; 2]) -> String {
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&words[0].get().to_ne_bytes());
    bytes[8..].copy_from_slice(&words[1].get().to_ne_bytes());
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A task's record, read whole: again while the task is changing it; and for each call that it is inside of, the addresses
/// of the mdev and the guest that it acts on. `None` if it never holds still.
pub(super) fn task_state(task: &Task) -> Option<(frame::TaskState, Vec<(u64, u64)>)> {
    for _ in 0..8 {
        let before = task.sequence.get();
        if before & 1 != 0 {
            std::hint::spin_loop();
            continue;
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        let state = copy_task(task);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        if task.sequence.get() == before {
            return Some(state);
        }
    }
    None
}

fn copy_task(task: &Task) -> (frame::TaskState, Vec<(u64, u64)>) {
    let id = task.id.get();
    let mut holds: Vec<frame::Holding> = task
        .held
        .iter()
        .filter(|held| held.lock.get() != 0)
        .map(|held| {
            let info = Info::unpack(held.info.get());
            frame::Holding {
                series: u32::from(info.series),
                instance: info.instance,
                lock: held.lock.get(),
                since_ns: held.since.get(),
                wait_ns: held.wait.get(),
                serial: held.serial.get(),
                entry: u32::from(info.entry),
                second_holder: info.flags & HELD_SECOND_HOLDER != 0,
                adopted: false,
                evidence: "probe".into(),
            }
        })
        .collect();
    holds.sort_by_key(|holding| holding.serial);
    let waits = task
        .waits
        .iter()
        .take((task.waits_len.get() as usize).min(MAX_WAITS))
        .map(|waiting| {
            let info = Info::unpack(waiting.info.get());
            frame::Waiting {
                series: u32::from(info.series),
                instance: info.instance,
                lock: waiting.lock.get(),
                since_ns: waiting.since.get(),
                serial: waiting.serial.get(),
                entry: u32::from(info.entry),
                rounds: waiting.rounds.get(),
                evidence: "probe".into(),
            }
        });
    let inside = || {
        let nested = (task.inside_len.get() as usize).min(MAX_NESTED);
        task.inside.iter().take(nested)
    };
    let acts_on = inside().map(|inside| (inside.mdev.get(), inside.guest.get()));
    let acts_on = acts_on.collect();
    let inside = inside().map(|inside| frame::Inside {
        entry: u32::from(inside.entry.get() as u8),
        since_ns: inside.since.get(),
        object: inside.object.get(),
        arg: inside.arg.get(),
        on_behalf_of_pid: inside.writer.get() as u32,
        on_behalf_of_comm: if inside.writer.get() == 0 {
            String::new()
        } else {
            text(&inside.writer_comm)
        },
        // Ids are given when the record is known to be whole.
        mdev: 0,
        guest: 0,
    });
    let state = frame::TaskState {
        tid: id as u32,
        pid: (id >> 32) as u32,
        comm: text(&task.comm),
        waits: waits.collect(),
        inside: inside.collect(),
        holds,
        ..frame::TaskState::default()
    };
    (state, acts_on)
}
