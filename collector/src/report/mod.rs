//! The report: one page of HTML about a run that can be read anywhere, without a network and without scripts.
//!
//! [`Collected`] sees every frame after it was folded into the case, and keeps what the model does not: distributions over
//! time, and what the tasks of a finding did before it was found. [`write()`] makes the page of that and of what is known in
//! the end. Pure, as exports are: it does not know whether frames come from a running source or from a recording.
//! Everything that comes from frames is escaped.

mod draw;
mod excerpt;
mod heat;
mod page;
mod parts;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};

use probe_ebpf::abi::Span;

use crate::diagnose::{Case, finding};
use crate::export::Origin;
use crate::export::json::Document;
use crate::frame::Frame;

use excerpt::Excerpt;
use heat::Heat;

/// Spans remembered for excerpts.
const SPANS: usize = 20_000;
/// Excerpts remembered.
const EXCERPTS: usize = 64;

/// What a report needs of each frame.
#[derive(Debug, Default)]
pub struct Collected {
    run: Option<(u64, u64, u32)>,
    heat: Heat,
    recent: VecDeque<Span>,
    excerpts: BTreeMap<(finding::Id, String), Excerpt>,
}

impl Collected {
    /// Takes a frame that was folded into the case.
    pub fn frame(&mut self, case: &Case, frame: &Frame) {
        let model = &case.model;
        let Some(meta) = &model.meta else { return };
        let run = (meta.start_ns, meta.start_unix_ns, meta.pid);
        if self.run.is_some_and(|known| known != run) {
            *self = Self::default();
        }
        self.run = Some(run);
        self.heat.frame(meta.start_ns, frame);
        for span in frame.spans.iter().flat_map(|s| s.decode(frame.at_ns)) {
            if self.recent.len() >= SPANS {
                self.recent.pop_front();
            }
            self.recent.push_back(span);
        }
        for finding in &case.report().findings {
            let key = (finding.id, finding.seen.key.clone());
            let room = self.excerpts.len() < EXCERPTS;
            if room && finding.active() && !self.excerpts.contains_key(&key) {
                let excerpt = Excerpt::of(model, finding, &self.recent);
                self.excerpts.insert(key, excerpt);
            }
        }
    }
}

/// Writes the page.
///
/// # Errors
///
/// Those of `out`.
pub fn write(
    collected: &Collected,
    case: &Case,
    origin: Origin,
    mut out: impl Write,
) -> io::Result<()> {
    let report = case.report();
    let document = Document::of(&case.model, origin, &report);
    let known = parts::Known {
        model: &case.model,
        report: &report,
        document: &document,
        collected,
    };
    out.write_all(page::page(&known).into_string().as_bytes())?;
    out.flush()
}
