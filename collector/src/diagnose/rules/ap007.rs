//! AP007: a queue reset without an end.

use std::collections::BTreeSet;

use probe_ebpf::abi::PQAP_RESPONDED;
use probe_ebpf::names::{class_id, entry_id};

use super::{Doc, Rule};
use crate::diagnose::chain::Chain;
use crate::diagnose::finding::{Id, Severity, Sighting};
use crate::diagnose::graph::waits::innermost;
use crate::diagnose::look::Look;
use crate::diagnose::messages::{Answer, Answers, meaning_of, most_polls};
use crate::diagnose::words::{count, duration, lasting, list};
use crate::frame;
use crate::model::query;

const DOC: Doc = Doc {
    id: Id(7),
    title: "unbounded reset",
    text: "\
A worker asks a queue every 20 ms whether its reset is complete, and has done so for longer than any reset should take.
Whoever reset the queue waits for the worker (flush_work) with the driver's locks held, and everybody else waits for
those: PQAP of all guests, starts, stops and writes. The root is the queue, and not the task that holds the lock.

**How it is known.** The work item `reset_work` of the queue is being executed (`apq_reset_check`) for longer than the
budget; its name has the queue's APQN. Who waits for it, and behind that, is live state. The last answer to a poll is taken
from what the driver says in the kernel's log, `Waited 4500ms for reset of queue 01.0002 (2, 0, 0)`, ten times in five
seconds at most: the emulated driver's, `/dev/kmsg` of a kernel, or a saved text. The response code of the instruction
that began the reset is shown where it can be read. 02 is reset in progress, 05 busy.

**What can help.** The poll ends as soon as the queue answers 00, 03 or 04 (from v7.2 also 01). Deconfiguring the adapter
(`chzcrypt --config-off`, or at the HMC/SE) makes it answer 03; its guests lose it. Killing QEMU does not help: flush_work is
uninterruptible. Waiting helps if the adapter only is slow.
",
};

#[derive(Default, Clone)]
pub(super) struct UnboundedReset {
    /// What queues have answered.
    answers: Answers,
}

impl Rule for UnboundedReset {
    fn doc(&self) -> &'static Doc {
        &DOC
    }

    fn look(&mut self, look: &Look<'_>, seen: &mut Vec<Sighting>) {
        self.answers.read(&look.frame.log);
        for (place, task) in look.waits.tasks.iter().enumerate() {
            let work = task
                .holds
                .iter()
                .find(|hold| hold.series >> 1 == u32::from(class_id::RESET_WORK));
            let Some(work) = work else { continue };
            let stands = look
                .standing
                .hold(task.tid, work)
                .is_some_and(|stood| stood.readings >= 2 || look.from_stacks());
            if stands && look.lasts(work.since_ns, look.thresholds.reset) {
                seen.push(sighting(look, place, task, work, &self.answers));
            }
        }
        if look.from_stacks() {
            let worker = !seen.is_empty();
            seen.extend(without_worker(look, &self.answers));
            if !worker && seen.is_empty() {
                seen.extend(by_the_log(look, &self.answers));
            }
        }
    }
}

/// Stacks of those who wait for the poll, without the worker's: it runs every 20 ms, so that it is not reported as hung.
fn without_worker(look: &Look<'_>, answers: &Answers) -> Option<Sighting> {
    let waiters = |&place: &usize| {
        let task = &look.waits.tasks[place];
        look.waits.blockers(place).is_empty()
            && innermost(task).is_some_and(|w| w.series >> 1 == u32::from(class_id::RESET_WORK))
    };
    let flushing: Vec<usize> = (0..look.waits.tasks.len()).filter(waiters).collect();
    let &first = flushing.first()?;
    let behind = look.waits.behind(&flushing);
    let task = &look.waits.tasks[first];
    let mut sighting = Sighting::new(
        "without worker",
        Severity::Critical,
        format!(
            "{} waits in flush_work until a queue is reset, {} behind it",
            query::task_name(task),
            count(behind.len(), "task")
        ),
    );
    sighting.since_ns = innermost(task).map_or(0, |wait| wait.since_ns);
    sighting.tasks = look.task_refs(flushing.iter().chain(&behind));
    let held: BTreeSet<String> = task
        .holds
        .iter()
        .map(|hold| look.lock_name(hold.series, hold.instance))
        .collect();
    let held: Vec<String> = held.into_iter().collect();
    if !held.is_empty() {
        sighting.details.push(format!("it holds {}", list(&held)));
    }
    sighting.details.push(
        "the worker (apq_reset_check) is not among the stacks, as it runs every 20 ms".into(),
    );
    let polled = answers.longest();
    if polled.is_empty() {
        sighting.details.push(
            "which queue it is about is in the kernel's log: \"Waited ... ms for reset of queue\"; the text has no such line".into(),
        );
    }
    let lines = polled.into_iter().take(SHOWN_QUEUES);
    sighting
        .details
        .extend(lines.map(|answer| format!("queue {}: {}", answer.queue(), words_of(answer))));
    sighting.chain = Chain::of(look, behind.first().copied().unwrap_or(first));
    sighting.locks = std::iter::once("reset_work".to_owned())
        .chain(held)
        .collect();
    sighting.meaning = "nothing behind it goes on until the queue answers".into();
    sighting.help = vec![
        "deconfiguring the queue's adapter (chzcrypt --config-off, or at the HMC) makes it answer 03 and ends the poll; its guests lose it".into(),
        "killing QEMU does not help: flush_work is uninterruptible".into(),
    ];
    Some(sighting)
}

/// Queues that are named of those whose polls are in a text.
const SHOWN_QUEUES: usize = 4;

/// What the kernel's log says of an answer.
fn words_of(answer: &Answer) -> String {
    format!(
        "the last answer in the kernel's log is {}, to poll {}",
        answer.response(),
        answer.poll()
    )
}

/// A text that has nobody who waits for the poll, but the driver's own word that it polls for long.
fn by_the_log(look: &Look<'_>, answers: &Answers) -> Option<Sighting> {
    let answer = *answers.longest().first()?;
    let waited_ns = answer.waited_ms.saturating_mul(1_000_000);
    if waited_ns < look.nanos(look.thresholds.reset) {
        return None;
    }
    let mut sighting = Sighting::new(
        "log",
        Severity::Warning,
        format!(
            "the reset of queue {} was polled for {}, by the kernel's log; nobody in the text waits for it",
            answer.queue(),
            duration(waited_ns)
        ),
    );
    sighting.details.push(words_of(answer));
    let more = answers.longest().len() - 1;
    if more > 0 {
        sighting
            .details
            .push(format!("{} polled too", count(more, "more queue")));
    }
    sighting.meaning =
        "whoever has reset the queue waits, with the driver's locks held, until it answers".into();
    sighting.help = vec![
        "save the stacks of all tasks too (sysrq-t): they show who waits for it, and whether it goes on".into(),
    ];
    Some(sighting)
}

/// The queue in the name of its work item, `reset_work[00.0000]`; `None` where the work item is known by its worker alone.
fn queue_of(work: &str) -> Option<&str> {
    let (_, rest) = work.split_once('[')?;
    rest.strip_suffix(']').filter(|queue| queue.contains('.'))
}

fn sighting(
    look: &Look<'_>,
    place: usize,
    task: &frame::TaskState,
    work: &frame::Holding,
    answers: &Answers,
) -> Sighting {
    let name = look.lock_name(work.series, work.instance);
    let queue = queue_of(&name);
    let behind = look.waits.behind(&[place]);
    let held: BTreeSet<String> = behind
        .iter()
        .map(|&waiter| &look.waits.tasks[waiter])
        .filter(|waiter| {
            innermost(waiter).is_some_and(|w| w.series >> 1 == u32::from(class_id::RESET_WORK))
        })
        .flat_map(|waiter| &waiter.holds)
        .filter(|hold| !query::long_hold_is_normal(hold.series as u8))
        .map(|hold| look.lock_name(hold.series, hold.instance))
        .collect();
    let held: Vec<String> = held.into_iter().collect();
    let (severity, waiting) = match behind.len() {
        0 => (Severity::Warning, "nobody waits for it yet".to_owned()),
        n => (
            Severity::Critical,
            format!("{} behind it", count(n, "task")),
        ),
    };
    let mut sighting = Sighting::new(
        name.clone(),
        severity,
        format!(
            "the reset of {} is polled{}, {waiting}",
            match queue {
                Some(queue) => format!("queue {queue}"),
                None => "a queue".to_owned(),
            },
            lasting(" for ", look.ago(work.since_ns))
        ),
    );
    sighting.since_ns = work.since_ns;
    sighting.tasks = vec![look.task_ref(task)];
    sighting.tasks.extend(
        behind
            .iter()
            .take(16)
            .map(|&waiter| look.task_ref(&look.waits.tasks[waiter])),
    );
    let polls = task
        .inside
        .last()
        .map_or(entry_id::APQ_RESET_CHECK, |inside| inside.entry as u8);
    sighting.details.push(format!(
        "{} polls in {}",
        query::task_name(task),
        query::entry_name(polls)
    ));
    if let Some(code) = response_code(task) {
        sighting.details.push(format!(
            "the instruction that began the reset was answered {code:02x}{}",
            meaning_of(code)
        ));
    }
    let answer = queue.and_then(|queue| answers.of(queue));
    // One of an earlier reset says nothing of this one.
    let answer =
        answer.filter(|answer| look.from_stacks() || work.adopted || answer.at_ns >= work.since_ns);
    if let Some(answer) = answer {
        sighting.symptom = format!("{name} answers {:02x}", answer.response);
    }
    sighting.details.push(match answer {
        Some(answer) if look.from_stacks() => words_of(answer),
        Some(answer) => format!(
            "{}, {} ago; polled {} times so far at most",
            words_of(answer),
            duration(look.ago(answer.at_ns)),
            most_polls(look.ago(work.since_ns)).max(answer.poll())
        ),
        None => "no answer to a poll is in what was read of the kernel's log".into(),
    });
    if !held.is_empty() {
        sighting.details.push(format!(
            "held by those who wait for the worker: {}",
            list(&held)
        ));
    }
    // The longest wait behind it tells the way to the root.
    sighting.chain = behind.first().and_then(|&waiter| Chain::of(look, waiter));
    sighting.locks = std::iter::once(name.clone()).chain(held).collect();
    sighting.meaning = "nothing behind it goes on until the queue answers".into();
    sighting.help = vec![
        format!(
            "deconfiguring {} (chzcrypt --config-off, or at the HMC) makes the queue answer 03 and ends the poll; its guests lose it",
            queue.and_then(|queue| queue.split('.').next()).map_or_else(
                || "the queue's adapter".to_owned(),
                |adapter| format!("adapter {adapter}")
            )
        ),
        "killing QEMU does not help: flush_work is uninterruptible".into(),
        "waiting helps only if the adapter is slow and not stuck".into(),
    ];
    sighting
}

/// The response code of the instruction that began the reset, where the probe could read it.
fn response_code(task: &frame::TaskState) -> Option<u8> {
    let inside = task
        .inside
        .iter()
        .find(|inside| inside.entry == u32::from(entry_id::APQ_RESET_CHECK))?;
    (inside.arg & PQAP_RESPONDED != 0).then_some((inside.arg >> 32) as u8)
}
