//! Spans as columns: packed, delta-coded parallel arrays with a dictionary of tasks that is complete in every frame.

use std::collections::HashMap;

use probe_ebpf::abi::{self, NO_INSTANCE};

use super::Spans;

impl Spans {
    /// The columns of these spans. `comm` gives a task's name; it is asked once a task.
    pub fn encode<'a>(
        at_ns: u64,
        spans: impl IntoIterator<Item = &'a abi::Span>,
        mut comm: impl FnMut(u32) -> String,
    ) -> Self {
        let mut columns = Self::default();
        let mut tasks = HashMap::new();
        let mut before = at_ns;
        for span in spans {
            columns
                .start_step_ns
                .push(span.start_ns.wrapping_sub(before) as i64);
            before = span.start_ns;
            columns.duration_ns.push(span.duration_ns);
            columns.extra.push(span.extra);
            let next = columns.tids.len() as u32;
            let task = *tasks.entry(span.tid).or_insert_with(|| {
                columns.tids.push(span.tid);
                columns.comms.push(comm(span.tid));
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
