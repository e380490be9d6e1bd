//! AP009: a convoy.

use std::collections::BTreeMap;

use super::{Doc, Rule};
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::words::duration;
use crate::frame;

const DOC: Doc = Doc {
    id: Id(9),
    title: "convoy",
    text: "\
Tasks arrive at a lock faster than it is given to them, so that the queue does not empty. The lock moves, and everybody
is late by the length of the queue times the time of a hold.

**How it is known.** In every reading over the threshold's time at least so many tasks waited for the same lock, and
acquisitions went on. A burst that drains is none; a lock that does not move is another finding.

**What can help.** Less at once: the entry points in the table of locks say who takes it most and who holds it longest.
",
};

/// Without an acquisition for so long, the lock does not move.
const MOVES_NS: u64 = 500_000_000;

#[derive(Clone)]
struct Queue {
    since_ns: u64,
    seen_ns: u64,
    acquisitions: u64,
    moved_ns: u64,
    longest: usize,
}

#[derive(Default, Clone)]
pub(super) struct Convoy {
    queues: BTreeMap<(u64, u32), Queue>,
}

impl Rule for Convoy {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        let now = look.now();
        let mut waiting: BTreeMap<(u64, u32), Vec<usize>> = BTreeMap::new();
        for (place, task) in look.waits.tasks.iter().enumerate() {
            if let Some(wait) = innermost(task) {
                waiting
                    .entry((wait.lock, wait.series >> 1))
                    .or_default()
                    .push(place);
            }
        }
        for (lock, tasks) in waiting {
            if tasks.len() < look.thresholds.convoy {
                continue;
            }
            let Some(wait) = tasks
                .first()
                .and_then(|&place| innermost(&look.waits.tasks[place]))
            else {
                continue;
            };
            let acquisitions = acquisitions(look, wait);
            let queue = self.queues.entry(lock).or_insert(Queue {
                since_ns: now,
                seen_ns: now,
                acquisitions,
                moved_ns: now,
                longest: 0,
            });
            queue.seen_ns = now;
            queue.longest = queue.longest.max(tasks.len());
            if queue.acquisitions != acquisitions {
                queue.acquisitions = acquisitions;
                queue.moved_ns = now;
            }
            let moves = now.saturating_sub(queue.moved_ns) < MOVES_NS;
            let lasts =
                now.saturating_sub(queue.since_ns) >= look.nanos(look.thresholds.convoy_for);
            if !moves || !lasts {
                continue;
            }
            let name = look.lock_name(wait.series, wait.instance);
            let longest_wait = tasks
                .iter()
                .filter_map(|&place| innermost(&look.waits.tasks[place]))
                .map(|wait| look.ago(wait.since_ns))
                .max()
                .unwrap_or(0);
            let mut sighting = Sighting::new(
                name.clone(),
                Severity::Warning,
                format!(
                    "{} tasks queue for {name}, and the queue has not emptied for {}",
                    tasks.len(),
                    duration(now.saturating_sub(queue.since_ns))
                ),
            );
            sighting.since_ns = queue.since_ns;
            sighting.details.push(format!(
                "the longest queue was {} tasks; the longest wait now is {}",
                queue.longest,
                duration(longest_wait)
            ));
            sighting.tasks = look.task_refs(&tasks);
            sighting.locks = vec![name];
            sighting.meaning =
                "the lock moves, and everybody is late by the length of the queue".into();
            sighting.help =
                vec!["less at once; the table of locks says who holds it longest".into()];
            seen.push(sighting);
        }
        self.queues.retain(|_, queue| queue.seen_ns == now);
    }
}

/// Acquisitions of the lock that is waited for so far, in both modes of an rwsem.
fn acquisitions(look: &Look<'_>, wait: &frame::Waiting) -> u64 {
    let of = |series: u32| -> u64 {
        let Some(series) = look.model.series.get(&(series as u8)) else {
            return 0;
        };
        if series.by_instance.is_empty() {
            // Nothing is counted by instance: the class may still be the lock.
            return series.acquisitions;
        }
        series
            .by_instance
            .iter()
            .filter(|(id, _)| look.is_same_lock(wait, **id))
            .map(|(_, by)| by.acquisitions)
            .fold(0, u64::saturating_add)
    };
    let class = wait.series >> 1;
    of(class << 1).saturating_add(of((class << 1) | 1))
}
