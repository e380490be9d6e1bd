//! Live state in the place of the one before: it comes whole with each frame, and differs little from one to the next, so
//! that texts and lists are written into the memory that they have.

use probe_ebpf::names::ENTRY_POINTS;

use super::fold::{clip, series_exists};
use crate::frame;

/// Holdings, waits and calls of one task remembered, each.
const MAX_PER_TASK: usize = 16;

/// Makes a list of these, each put by `replace` over what was in its place.
pub(super) fn refill<'a, T: Default + 'a>(
    list: &mut Vec<T>,
    from: impl Iterator<Item = &'a T>,
    mut replace: impl FnMut(&mut T, &T),
) {
    let mut count = 0;
    for new in from {
        if count == list.len() {
            list.push(T::default());
        }
        replace(&mut list[count], new);
        count += 1;
    }
    list.truncate(count);
}

/// Puts what is said of a task in the place of what was known, of the same one or another. Returns what was left out: ids
/// that do not exist, and more than the limits allow.
pub(super) fn replace(known: &mut frame::TaskState, task: &frame::TaskState) -> u64 {
    known.tid = task.tid;
    known.pid = task.pid;
    known.switches = task.switches;
    known.exited = task.exited;
    text(&mut known.comm, &task.comm);
    text(&mut known.state, &task.state);
    text(&mut known.asleep_in, &task.asleep_in);
    let holds = task.holds.iter().filter(|h| series_exists(h.series));
    refill(&mut known.holds, holds.take(MAX_PER_TASK), |known, new| {
        let mut evidence = std::mem::take(&mut known.evidence);
        text(&mut evidence, &new.evidence);
        *known = frame::Holding { evidence, ..*new };
    });
    let waits = task.waits.iter().filter(|w| series_exists(w.series));
    refill(&mut known.waits, waits.take(MAX_PER_TASK), |known, new| {
        let mut evidence = std::mem::take(&mut known.evidence);
        text(&mut evidence, &new.evidence);
        *known = frame::Waiting { evidence, ..*new };
    });
    let exists = |inside: &&frame::Inside| (inside.entry as usize) < ENTRY_POINTS.len();
    let inside = task.inside.iter().filter(exists);
    refill(
        &mut known.inside,
        inside.take(MAX_PER_TASK),
        |known, new| {
            let mut on_behalf_of_comm = std::mem::take(&mut known.on_behalf_of_comm);
            text(&mut on_behalf_of_comm, &new.on_behalf_of_comm);
            *known = frame::Inside {
                on_behalf_of_comm,
                ..*new
            };
        },
    );
    let left_out = (task.holds.len() - known.holds.len())
        + (task.waits.len() - known.waits.len())
        + (task.inside.len() - known.inside.len());
    left_out as u64
}

/// Writes a text over another.
fn text(known: &mut String, new: &str) {
    let new = clip(new);
    if known != new {
        known.clear();
        known.push_str(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_state_before_is_left() {
        let hold = |series, evidence: &str| frame::Holding {
            series,
            evidence: evidence.into(),
            ..frame::Holding::default()
        };
        let first = frame::TaskState {
            tid: 7,
            comm: "a long name".into(),
            holds: vec![hold(0, "probe,lock word"), hold(2, "probe")],
            inside: vec![frame::Inside {
                entry: 1,
                on_behalf_of_comm: "sh".into(),
                ..frame::Inside::default()
            }],
            asleep_in: "schedule".into(),
            exited: true,
            ..frame::TaskState::default()
        };
        let second = frame::TaskState {
            tid: 8,
            comm: "b".into(),
            holds: vec![hold(4, "stack"), hold(u32::MAX, "nowhere")],
            ..frame::TaskState::default()
        };
        let mut known = frame::TaskState::default();
        assert_eq!(replace(&mut known, &first), 0);
        assert_eq!(known, first);
        assert_eq!(replace(&mut known, &second), 1);
        assert_eq!(known.holds, [hold(4, "stack")]);
        let expected = frame::TaskState {
            holds: known.holds.clone(),
            ..second
        };
        assert_eq!(known, expected);
    }

    #[test]
    fn a_list_is_as_long_as_the_new_one() {
        let mut list = vec![1, 2, 3];
        refill(&mut list, [9].iter(), |known, new| *known = *new);
        assert_eq!(list, [9]);
        refill(&mut list, [4, 5, 6, 7].iter(), |known, new| *known = *new);
        assert_eq!(list, [4, 5, 6, 7]);
    }
}
