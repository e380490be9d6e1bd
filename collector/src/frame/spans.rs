//! Spans as columns: packed, delta-coded parallel arrays with a dictionary of tasks that is complete in every frame.

use std::collections::HashMap;

use probe_ebpf::abi::{self, NO_INSTANCE, SPAN_ENTRY};

use super::Spans;

/// A process on whose behalf a task calls an entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Process id.
    pub pid: u32,
    /// Its name, NUL-padded.
    pub comm: [u8; 16],
}

impl Writer {
    /// Its name as text.
    pub fn name(&self) -> String {
        let end = self.comm.iter().position(|b| *b == 0);
        String::from_utf8_lossy(&self.comm[..end.unwrap_or(self.comm.len())]).into_owned()
    }
}

/// What is known of a span besides itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct About {
    /// The process on whose behalf the task acted.
    pub writer: Option<Writer>,
    /// What the call acted on.
    pub on: ActedOn,
}

/// What a call acts on: ids of [`super::Object`]s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActedOn {
    /// The mdev.
    pub mdev: Option<u32>,
    /// The guest.
    pub guest: Option<u32>,
}

impl ActedOn {
    /// From ids plus 1, as frames have them.
    pub fn from_frame(mdev: u32, guest: u32) -> Self {
        Self {
            mdev: mdev.checked_sub(1),
            guest: guest.checked_sub(1),
        }
    }

    /// Ids plus 1 of mdev and guest, as frames have them.
    pub fn to_frame(self) -> [u32; 2] {
        [self.mdev, self.guest].map(|id| id.map_or(0, |id| id.wrapping_add(1)))
    }
}

impl Spans {
    /// The columns of these spans, each task acting for itself. `comm` gives a task's name; it is asked once a task.
    pub fn encode<'a>(
        at_ns: u64,
        spans: impl IntoIterator<Item = &'a abi::Span>,
        comm: impl FnMut(u32) -> String,
    ) -> Self {
        let spans = spans.into_iter().map(|span| (span, About::default()));
        Self::encode_for(at_ns, spans, comm)
    }

    /// The columns of these spans, each with what else is known of it.
    pub fn encode_for<'a>(
        at_ns: u64,
        spans: impl IntoIterator<Item = (&'a abi::Span, About)>,
        mut comm: impl FnMut(u32) -> String,
    ) -> Self {
        let mut columns = Self::default();
        let mut tasks = HashMap::new();
        let mut before = at_ns;
        for (span, About { writer, on }) in spans {
            if span.kind == SPAN_ENTRY {
                let [mdev, guest] = on.to_frame();
                columns.mdevs.push(mdev);
                columns.guests.push(guest);
            }
            columns
                .start_step_ns
                .push(span.start_ns.wrapping_sub(before) as i64);
            before = span.start_ns;
            columns.duration_ns.push(span.duration_ns);
            columns.extra.push(span.extra);
            let next = columns.tids.len() as u32;
            let task = *tasks.entry((span.tid, writer)).or_insert_with(|| {
                columns.tids.push(span.tid);
                columns.comms.push(comm(span.tid));
                columns
                    .on_behalf_of_pids
                    .push(writer.map_or(0, |writer| writer.pid));
                columns
                    .on_behalf_of_comms
                    .push(writer.map_or_else(String::new, |writer| writer.name()));
                next
            });
            columns.task.push(task);
            // "None" is u32::MAX, so that it becomes 0.
            columns.instance.push(span.instance.wrapping_add(1));
            columns.result.push(span.result);
            columns.packed.push(
                u32::from(span.kind) << 24
                    | u32::from(span.what) << 16
                    | u32::from(span.inside) << 8
                    | u32::from(span.flags),
            );
        }
        if columns.on_behalf_of_pids.iter().all(|pid| *pid == 0) {
            columns.on_behalf_of_pids.clear();
            columns.on_behalf_of_comms.clear();
        }
        for ids in [&mut columns.mdevs, &mut columns.guests] {
            if ids.iter().all(|id| *id == 0) {
                ids.clear();
            }
        }
        columns
    }

    /// Number of whole spans: the length of the shortest column.
    pub fn len(&self) -> usize {
        [
            self.start_step_ns.len(),
            self.duration_ns.len(),
            self.extra.len(),
            self.task.len(),
            self.instance.len(),
            self.result.len(),
            self.packed.len(),
        ]
        .into_iter()
        .min()
        .unwrap_or(0)
    }

    /// There are no spans.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The spans. A task that is not in the dictionary has tid 0.
    pub fn decode(&self, at_ns: u64) -> impl Iterator<Item = abi::Span> + '_ {
        let mut start_ns = at_ns;
        (0..self.len()).map(move |i| {
            start_ns = start_ns.wrapping_add(self.start_step_ns[i] as u64);
            let [kind, what, inside, flags] = self.packed[i].to_be_bytes();
            abi::Span {
                start_ns,
                duration_ns: self.duration_ns[i],
                extra: self.extra[i],
                tid: self.tids.get(self.task[i] as usize).copied().unwrap_or(0),
                instance: self.instance[i].checked_sub(1).unwrap_or(NO_INSTANCE),
                result: self.result[i],
                kind,
                what,
                inside,
                flags,
            }
        })
    }

    /// What each span acted on, in the order of [`Spans::decode`]: nothing, unless it is a call.
    pub fn acted_on(&self) -> impl Iterator<Item = ActedOn> + '_ {
        let mut calls = 0;
        self.packed[..self.len()].iter().map(move |packed| {
            if packed.to_be_bytes()[0] != SPAN_ENTRY {
                return ActedOn::default();
            }
            let id = |ids: &[u32]| ids.get(calls).copied().unwrap_or(0);
            let on = ActedOn::from_frame(id(&self.mdevs), id(&self.guests));
            calls += 1;
            on
        })
    }

    /// Pid and name of the process on whose behalf the task of the `i`th span acted, if it did not act for itself.
    pub fn on_behalf_of(&self, i: usize) -> Option<(u32, &str)> {
        let task = *self.task.get(i)? as usize;
        let pid = *self.on_behalf_of_pids.get(task)?;
        let comm = self.on_behalf_of_comms.get(task).map_or("", String::as_str);
        (pid != 0).then_some((pid, comm))
    }

    /// Name of a task, where the dictionary has it.
    pub fn comm(&self, tid: u32) -> Option<&str> {
        let at = self.tids.iter().position(|&t| t == tid)?;
        self.comms.get(at).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span() -> impl Strategy<Value = abi::Span> {
        let times = (any::<u64>(), any::<u64>(), any::<u64>());
        let ids = (0_u32..5, any::<u32>(), any::<i32>());
        (times, ids, any::<[u8; 4]>()).prop_map(|(times, ids, bytes)| abi::Span {
            start_ns: times.0,
            duration_ns: times.1,
            extra: times.2,
            tid: ids.0,
            instance: ids.1,
            result: ids.2,
            kind: bytes[0],
            what: bytes[1],
            inside: bytes[2],
            flags: bytes[3],
        })
    }

    proptest! {
        #[test]
        fn columns_are_undone(spans in proptest::collection::vec(span(), 0..50), at_ns: u64) {
            let columns = Spans::encode(at_ns, &spans, |tid| format!("task {tid}"));
            let back: Vec<_> = columns.decode(at_ns).collect();
            prop_assert_eq!(&back, &spans);
            for span in &spans {
                let name = format!("task {}", span.tid);
                prop_assert_eq!(columns.comm(span.tid), Some(name.as_str()));
            }
        }
    }

    #[test]
    fn a_task_that_acts_for_others_is_in_the_dictionary_once_for_each() {
        let own = abi::Span {
            start_ns: 10,
            duration_ns: 1,
            extra: 0,
            tid: 7,
            instance: NO_INSTANCE,
            result: 5,
            kind: abi::SPAN_ENTRY,
            what: 8,
            inside: 0,
            flags: 0,
        };
        let writer = |pid, name: &[u8]| {
            let mut comm = [0; 16];
            comm[..name.len()].copy_from_slice(name);
            Some(Writer { pid, comm })
        };
        let spans = [
            (own, None),
            (own, writer(50, b"echo")),
            // The same pid, after exec.
            (own, writer(50, b"sixteen-letters!")),
            (own, writer(50, b"echo")),
        ];
        let spans = spans.iter().map(|(span, writer)| {
            let writer = *writer;
            let on = ActedOn::default();
            (span, About { writer, on })
        });
        let columns = Spans::encode_for(20, spans, |_| "fuse".into());
        assert_eq!(columns.task, [0, 1, 2, 1]);
        assert_eq!(columns.tids, [7, 7, 7]);
        let on_behalf_of: Vec<_> = (0..5).map(|i| columns.on_behalf_of(i)).collect();
        assert_eq!(
            on_behalf_of,
            [
                None,
                Some((50, "echo")),
                Some((50, "sixteen-letters!")),
                Some((50, "echo")),
                None
            ]
        );
        assert_eq!(columns.comm(7), Some("fuse"));
        let alone = Spans::encode(20, [&own], |_| "fuse".into());
        assert!(alone.on_behalf_of_pids.is_empty() && alone.on_behalf_of_comms.is_empty());
        assert_eq!(alone.on_behalf_of(0), None);
    }

    #[test]
    fn only_calls_have_what_they_acted_on() {
        let span = |kind| abi::Span {
            start_ns: 10,
            duration_ns: 1,
            extra: 0,
            tid: 7,
            instance: NO_INSTANCE,
            result: 0,
            kind,
            what: 1,
            inside: 0,
            flags: 0,
        };
        let (call, lock) = (span(SPAN_ENTRY), span(abi::SPAN_LOCK));
        let on = |mdev, guest| About {
            writer: None,
            on: ActedOn { mdev, guest },
        };
        let spans = [
            (&call, on(Some(0), Some(4))),
            (&lock, on(Some(1), None)),
            (&call, on(None, None)),
            (&call, on(None, Some(2))),
        ];
        let mut columns = Spans::encode_for(20, spans, |_| String::new());
        assert_eq!(
            (&columns.mdevs[..], &columns.guests[..]),
            (&[1, 0, 0][..], &[5, 0, 3][..])
        );
        let ids = |columns: &Spans| -> Vec<_> {
            let all = columns.acted_on();
            all.map(|on| (on.mdev, on.guest)).collect()
        };
        let none = (None, None);
        assert_eq!(
            ids(&columns),
            [(Some(0), Some(4)), none, none, (None, Some(2))]
        );
        // A damaged frame.
        columns.guests.truncate(1);
        assert_eq!(ids(&columns), [(Some(0), Some(4)), none, none, none]);
        columns.result.pop();
        assert_eq!(ids(&columns).len(), columns.len());
        let nothing = Spans::encode(20, [&call], |_| String::new());
        assert!(nothing.mdevs.is_empty() && nothing.guests.is_empty());
    }

    #[test]
    fn columns_of_different_length_end_with_the_shortest() {
        let one = abi::Span {
            start_ns: 10,
            duration_ns: 1,
            extra: 0,
            tid: 7,
            instance: NO_INSTANCE,
            result: -16,
            kind: 0,
            what: 1,
            inside: 2,
            flags: 3,
        };
        let mut columns = Spans::encode(20, &[one, one], |_| String::new());
        columns.result.pop();
        columns.tids.clear();
        let back: Vec<_> = columns.decode(20).collect();
        assert_eq!(back, [abi::Span { tid: 0, ..one }]);
        assert_eq!(columns.comm(7), None);
    }
}
