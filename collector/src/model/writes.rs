//! Accesses to sysfs: who wrote what, and what came of it.
//!
//! With the emulated driver, calls that a file system thread makes on behalf of another process; in a kernel, where the
//! writer is the task itself, calls of functions that store an attribute.

use probe_ebpf::abi::{self, MAX_ERRNO, SPAN_ENTRY};
use probe_ebpf::names::{ENTRY_POINTS, ReturnKind};

use super::fold::{clipped, push_bounded};
use super::{Model, return_name};
use crate::frame;

/// Calls remembered.
pub const WRITES: usize = 100;

/// A call that a file system thread made for another process: an access to an attribute in sysfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// When it was called, CLOCK_MONOTONIC nanoseconds of the traced machine.
    pub at_ns: u64,
    /// Entry point id.
    pub entry: u8,
    /// First bytes of the text written, without the final line feed; `None` for a call that takes no text.
    pub text: Option<String>,
    /// Process id of the writer.
    pub pid: u32,
    /// Its name; empty where it is not known.
    pub comm: String,
    /// Spelling of what it returned: `ok`, `-EBUSY`, ...
    pub returns: String,
    /// From call to return.
    pub latency_ns: u64,
    /// What it acted on: ids of [`Model::objects`].
    pub on: frame::ActedOn,
}

impl Model {
    /// Remembers the calls that were made on behalf of others.
    pub(super) fn fold_writes(&mut self, spans: &frame::Spans, at_ns: u64) {
        let kernel = self
            .meta
            .as_ref()
            .is_some_and(|meta| meta.source == "kernel");
        if !kernel && spans.on_behalf_of_pids.iter().all(|pid| *pid == 0) {
            return;
        }
        let big_endian = self.meta.as_ref().is_some_and(|meta| meta.arch == "s390x");
        for (i, (span, on)) in spans.decode(at_ns).zip(spans.acted_on()).enumerate() {
            let own = || {
                let stores = span.kind == SPAN_ENTRY
                    && ENTRY_POINTS
                        .get(usize::from(span.what))
                        .is_some_and(|entry| entry.symbol.ends_with("_store"));
                let task = *spans.task.get(i)? as usize;
                let comm = spans.comms.get(task)?;
                (kernel && stores).then_some((span.tid, comm.as_str()))
            };
            let Some((pid, comm)) = spans.on_behalf_of(i).or_else(own) else {
                continue;
            };
            if span.kind != SPAN_ENTRY || usize::from(span.what) >= ENTRY_POINTS.len() {
                self.ignore(1);
                continue;
            }
            let write = Write {
                at_ns: span.start_ns,
                entry: span.what,
                text: text(&span, big_endian),
                pid,
                comm: clipped(comm),
                returns: returns(span.what, span.result),
                latency_ns: span.duration_ns,
                on,
            };
            push_bounded(&mut self.writes, write, WRITES);
        }
    }
}

/// The argument for display of a function that stores text is its first bytes, in memory order of the traced machine.
fn text(span: &abi::Span, big_endian: bool) -> Option<String> {
    let entry = ENTRY_POINTS.get(usize::from(span.what))?;
    if !entry.symbol.ends_with("_store") {
        return None;
    }
    let bytes = if big_endian {
        span.extra.to_be_bytes()
    } else {
        span.extra.to_le_bytes()
    };
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// Spelling of a result, as [`super::return_name`] spells codes. The result of a function that returns nothing is
/// whatever the register had.
pub fn returns(entry: u8, result: i32) -> String {
    let kind = ENTRY_POINTS.get(usize::from(entry)).map(|e| e.returns);
    let code = match kind {
        Some(ReturnKind::Void) => 0,
        Some(ReturnKind::Notify) => match result {
            0 => 0,
            1 => 1,
            0x8002 => 2,
            0x8001 => 3,
            _ => MAX_ERRNO as u32 + 1,
        },
        _ if result >= 0 => 0,
        _ => result.unsigned_abs().min(MAX_ERRNO as u32 + 1),
    };
    return_name(entry, code).into_owned()
}

#[cfg(test)]
mod tests {
    use probe_ebpf::names::entry_id;

    use super::*;

    #[test]
    fn text_is_read_in_the_byte_order_of_the_traced_machine() {
        let span = |bytes: [u8; 8], what| abi::Span {
            start_ns: 0,
            duration_ns: 0,
            extra: u64::from_le_bytes(bytes),
            tid: 0,
            instance: 0,
            result: 0,
            kind: SPAN_ENTRY,
            what,
            inside: 0,
            flags: 0,
        };
        let store = entry_id::ASSIGN_ADAPTER;
        let read = |bytes| text(&span(bytes, store), false);
        assert_eq!(read(*b"0x05\n\0\0\0").as_deref(), Some("0x05"));
        assert_eq!(read(*b"0xffffff").as_deref(), Some("0xffffff"));
        assert_eq!(read([0; 8]).as_deref(), Some(""));
        assert_eq!(read(*b"\xff\n\n\0\0\0\0\0").as_deref(), Some("\u{fffd}\n"));
        let mut turned = *b"0x05\n\0\0\0";
        turned.reverse();
        assert_eq!(text(&span(turned, store), true).as_deref(), Some("0x05"));
        assert_eq!(text(&span([1; 8], entry_id::REMOVE), false), None);
    }

    #[test]
    fn results_are_spelled_as_in_the_counts() {
        for (entry, result, expected) in [
            (entry_id::ASSIGN_ADAPTER, 5, "ok"),
            (entry_id::ASSIGN_ADAPTER, -16, "-EBUSY"),
            (entry_id::ASSIGN_ADAPTER, i32::MIN, "other"),
            (entry_id::RELEASE, -1, "ok"),
            (entry_id::GROUP_NOTIFIER, 0x8002, "NOTIFY_BAD"),
            (entry_id::GROUP_NOTIFIER, 7, "other"),
        ] {
            assert_eq!(returns(entry, result), expected, "{entry} {result}");
        }
    }
}
