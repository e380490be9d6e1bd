//! Folding a frame's spans into the model: the last ones, and the calls among them by what they acted on.

use probe_ebpf::abi;
use probe_ebpf::names::{ENTRY_POINTS, ReturnKind};

use super::fold::{MAX_OBJECTS, grow, push_bounded};
use super::{CallsOn, Model, SPANS, Span};
use crate::frame;

/// Pairs of object and entry point whose calls are counted before they are added to the others.
const CALLS: usize = 1_024;

/// Calls of one entry point that acted on one object.
type Counted = ((u32, u8), CallsOn);

impl Model {
    pub(super) fn fold_spans(&mut self, spans: &frame::Spans, at_ns: u64) {
        let count = spans.len();
        grow(&mut self.span_count, count as u64);
        let spans = spans.decode(at_ns).zip(spans.acted_on());
        let mut calls = vec![None; CALLS];
        for (n, (raw, on)) in spans.enumerate() {
            for id in [on.mdev, on.guest].into_iter().flatten() {
                self.fold_call(&raw, id, &mut calls);
            }
            if n >= count.saturating_sub(SPANS) {
                push_bounded(&mut self.spans, Span { raw, on }, SPANS);
            }
        }
        for counted in calls.into_iter().flatten() {
            self.fold_calls(counted);
        }
    }

    /// Counts a call of what it acted on. `calls` has those of the last spans, each in a place of its own as long as no
    /// other takes it: there are many spans, and few objects in most frames.
    fn fold_call(&mut self, span: &abi::Span, id: u32, calls: &mut [Option<Counted>]) {
        let Some(entry) = ENTRY_POINTS.get(usize::from(span.what)) else {
            return;
        };
        let fails = matches!(entry.returns, ReturnKind::Int | ReturnKind::Long);
        let failed = u64::from(fails && span.result < 0);
        let key = (id, span.what);
        let place = id.wrapping_mul(61).wrapping_add(u32::from(span.what)) as usize % CALLS;
        let slot = &mut calls[place];
        match slot {
            Some((known, calls)) if *known == key => {
                calls.spans += 1;
                calls.failed += failed;
            }
            _ => {
                let first = CallsOn { spans: 1, failed };
                if let Some(other) = slot.replace((key, first)) {
                    self.fold_calls(other);
                }
            }
        }
    }

    /// Adds calls to those of an object and an entry point.
    fn fold_calls(&mut self, ((id, what), new): Counted) {
        let known = self.calls_on.len() < MAX_OBJECTS || self.calls_on.contains_key(&id);
        if !known {
            return self.ignore(new.spans);
        }
        let calls = self.calls_on.entry(id).or_default();
        let calls = calls.entry(what).or_default();
        grow(&mut calls.spans, new.spans);
        grow(&mut calls.failed, new.failed);
    }
}
