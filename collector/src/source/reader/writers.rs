//! On whose behalf entry points were called: the probes name the writer in a record before the call's span.

use std::collections::HashMap;

use probe_ebpf::abi::{NO_INSTANCE, SPAN_ENTRY, SPAN_WRITER, Span};

use crate::frame::Writer;

/// The writer that each task has named last. Bounded by the number of tasks that have a slot.
#[derive(Debug, Default)]
pub(super) struct Writers(HashMap<u32, Writer>);

impl Writers {
    /// A record of the ring as a span and the writer it belongs to; `None` for a record that only names a writer.
    pub(super) fn translate(&mut self, record: &Span) -> Option<(Span, Option<Writer>)> {
        match record.kind {
            SPAN_WRITER => {
                let mut comm = [0; 16];
                comm[..8].copy_from_slice(&record.duration_ns.to_ne_bytes());
                comm[8..].copy_from_slice(&record.extra.to_ne_bytes());
                let pid = record.instance;
                self.0.insert(record.tid, Writer { pid, comm });
                None
            }
            SPAN_ENTRY if record.instance != NO_INSTANCE => {
                let pid = record.instance;
                // Where the ring had no room for the name, the pid is still known.
                let named = self.0.get(&record.tid).filter(|writer| writer.pid == pid);
                let writer = named.copied().unwrap_or(Writer { pid, comm: [0; 16] });
                Some((*record, Some(writer)))
            }
            _ => Some((*record, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, tid: u32, instance: u32) -> Span {
        Span {
            start_ns: 1,
            duration_ns: u64::from_ne_bytes(*b"echo\0\0\0\0"),
            extra: 0,
            tid,
            instance,
            result: 0,
            kind,
            what: 8,
            inside: 0,
            flags: 0,
        }
    }

    #[test]
    fn a_call_has_the_writer_that_its_own_task_named() {
        let mut writers = Writers::default();
        assert_eq!(writers.translate(&record(SPAN_WRITER, 7, 1234)), None);
        assert_eq!(writers.translate(&record(SPAN_WRITER, 8, 99)), None);
        let call = record(SPAN_ENTRY, 7, 1234);
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"echo");
        let writer = Writer { pid: 1234, comm };
        assert_eq!(writers.translate(&call), Some((call, Some(writer))));
        let own = record(SPAN_ENTRY, 7, NO_INSTANCE);
        assert_eq!(writers.translate(&own), Some((own, None)));
    }

    #[test]
    fn a_writer_whose_name_was_lost_has_no_other_ones() {
        let mut writers = Writers::default();
        writers.translate(&record(SPAN_WRITER, 7, 1234));
        let call = record(SPAN_ENTRY, 7, 1235);
        let nameless = Writer {
            pid: 1235,
            comm: [0; 16],
        };
        assert_eq!(writers.translate(&call), Some((call, Some(nameless))));
    }
}
