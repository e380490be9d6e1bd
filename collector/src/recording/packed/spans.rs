//! Spans come in the order of their ends, and a call next to the locks that were taken in it: its end is that of the span
//! before and little more, it began shortly before the last one of its task did, and acted on what that one acted on.

use probe_ebpf::abi::{SPAN_ENTRY, SPAN_LOCK};

use super::{MAX_ROWS, Way};
use crate::frame::Spans;

/// The last span of a task.
#[derive(Clone, Copy, Default)]
struct Last {
    /// When it began; of a lock, when it was asked for.
    from_ns: u64,
    /// Of the last call.
    arg: u64,
    mdev: u32,
    guest: u32,
}

const fn kind(packed: u32) -> u8 {
    packed.to_be_bytes()[0]
}

/// The wait, of a lock.
const fn wait_ns(packed: u32, extra: u64) -> u64 {
    if kind(packed) == SPAN_LOCK { extra } else { 0 }
}

/// Packs all of them. False, and nothing is changed, where columns do not fit together or a span is longer than 292 years.
pub(super) fn pack(spans: &mut Spans, at_ns: u64) -> bool {
    let waits = spans.packed.iter().zip(&spans.extra);
    let waits = waits.map(|(packed, extra)| wait_ns(*packed, *extra));
    let mut lengths = waits.zip(&spans.duration_ns);
    let short =
        lengths.all(|(wait, duration)| wait.wrapping_add(*duration) <= u64::from(u32::MAX) << 31);
    let can = short && is_regular(spans);
    if can {
        walk(spans, at_ns, Way::There);
    }
    can
}

/// Puts all back; `None` where columns do not fit together.
pub(super) fn unpack(spans: &mut Spans, at_ns: u64) -> Option<()> {
    is_regular(spans).then(|| walk(spans, at_ns, Way::Back))
}

fn is_regular(spans: &Spans) -> bool {
    let columns = [
        spans.start_step_ns.len(),
        spans.duration_ns.len(),
        spans.extra.len(),
        spans.task.len(),
        spans.instance.len(),
        spans.result.len(),
    ];
    let calls = spans.packed.iter().map(|packed| kind(*packed));
    let calls = calls.filter(|kind| *kind == SPAN_ENTRY).count();
    let of_calls = [spans.mdevs.len(), spans.guests.len()];
    let tasks = spans.tids.len();
    tasks <= MAX_ROWS
        && columns.iter().all(|column| *column == spans.packed.len())
        && of_calls.iter().all(|column| [0, calls].contains(column))
        && spans.task.iter().all(|task| (*task as usize) < tasks)
}

fn walk(spans: &mut Spans, at_ns: u64, way: Way) {
    let mut tasks = vec![Last::default(); spans.tids.len()];
    let (mut start_ns, mut until_ns) = (at_ns, at_ns);
    let (mut mdevs, mut guests) = (spans.mdevs.iter_mut(), spans.guests.iter_mut());
    let times = spans.start_step_ns.iter_mut().zip(&mut spans.duration_ns);
    let rest = spans.task.iter().zip(&spans.packed);
    for (((step, length), extra), (task, packed)) in times.zip(&mut spans.extra).zip(rest) {
        let Some(last) = tasks.get_mut(*task as usize) else {
            continue;
        };
        let wait_ns = wait_ns(*packed, *extra);
        let before_ns = until_ns;
        match way {
            Way::There => {
                start_ns = start_ns.wrapping_add(*step as u64);
                until_ns = start_ns.wrapping_add(*length);
                let from_ns = start_ns.wrapping_sub(wait_ns);
                let whole = until_ns.wrapping_sub(from_ns);
                let lead = last.from_ns.wrapping_sub(from_ns);
                *step = until_ns.wrapping_sub(before_ns) as i64;
                // Around the last span, or apart from it.
                *length = if lead < whole {
                    lead << 1 | 1
                } else {
                    whole << 1
                };
                last.from_ns = from_ns;
            }
            Way::Back => {
                until_ns = before_ns.wrapping_add(*step as u64);
                let around = *length & 1 == 1;
                let end = if around { last.from_ns } else { until_ns };
                last.from_ns = end.wrapping_sub(*length >> 1);
                let before_ns = start_ns;
                start_ns = last.from_ns.wrapping_add(wait_ns);
                *step = start_ns.wrapping_sub(before_ns) as i64;
                *length = until_ns.wrapping_sub(start_ns);
            }
        }
        if kind(*packed) == SPAN_ENTRY {
            last.arg = way.same(extra, last.arg);
            if let Some(mdev) = mdevs.next() {
                last.mdev = way.same(mdev, last.mdev);
            }
            if let Some(guest) = guests.next() {
                last.guest = way.same(guest, last.guest);
            }
        }
    }
}
