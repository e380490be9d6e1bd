//! Tracks: which there are, and what they are called.

use std::collections::BTreeMap;

use super::proto::{CounterDescriptor, ProcessDescriptor, ThreadDescriptor, TrackDescriptor};
use crate::export::driver;
use crate::export::spans::SpanRow;
use crate::model::{Model, query};

/// Where something that a task does is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// On its own track: calls that are in no other one.
    Task,
    /// Calls inside of this function.
    CallsInside(u8),
    /// Waits for locks.
    Waits,
    /// Waits for open-coded locks, during which a task may wait for the mutex that guards them.
    FlagWaits,
    /// Holds of a lock, by series and instance.
    Holds(u8, u32),
}

/// The tracks described so far, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    last: u64,
    run: u64,
    processes: BTreeMap<u32, u64>,
    tasks: BTreeMap<(u32, Place), u64>,
    counters: BTreeMap<String, u64>,
}

impl Tracks {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The track above all counters.
    pub(super) fn run(&mut self, name: String) -> TrackDescriptor {
        self.run = self.next();
        TrackDescriptor {
            uuid: Some(self.run),
            name: Some(name),
            ..TrackDescriptor::default()
        }
    }

    /// The track of a counter, and its description where it is new.
    pub(super) fn counter(&mut self, name: &str) -> (u64, Option<TrackDescriptor>) {
        if let Some(&track) = self.counters.get(name) {
            return (track, None);
        }
        let track = self.next();
        self.counters.insert(name.to_owned(), track);
        let descriptor = TrackDescriptor {
            uuid: Some(track),
            name: Some(name.to_owned()),
            parent_uuid: (self.run != 0).then_some(self.run),
            counter: Some(CounterDescriptor {}),
            ..TrackDescriptor::default()
        };
        (track, Some(descriptor))
    }

    /// The track for something that a task does, and descriptions of those that are new, the outer ones first.
    pub(super) fn of_task(
        &mut self,
        model: &Model,
        row: &SpanRow<'_>,
        place: Place,
    ) -> (u64, Vec<TrackDescriptor>) {
        let tid = row.raw.tid;
        if let Some(&track) = self.tasks.get(&(tid, place)) {
            return (track, Vec::new());
        }
        let mut new = Vec::new();
        let task = match self.tasks.get(&(tid, Place::Task)) {
            Some(&task) => task,
            None => self.task(model, row, &mut new),
        };
        if place == Place::Task {
            return (task, new);
        }
        let track = self.next();
        self.tasks.insert((tid, place), track);
        let name = match place {
            Place::Task => String::new(),
            Place::CallsInside(entry) => format!("inside {}", query::entry_name(entry)),
            Place::Waits => "waits".to_owned(),
            Place::FlagWaits => "waits for open-coded locks".to_owned(),
            Place::Holds(series, instance) => {
                let lock = query::lock_name(model, series, instance);
                match query::mode_name(series) {
                    "-" => format!("holds {lock}"),
                    mode => format!("holds {lock} ({mode})"),
                }
            }
        };
        new.push(TrackDescriptor {
            uuid: Some(track),
            name: Some(name),
            parent_uuid: Some(task),
            ..TrackDescriptor::default()
        });
        (track, new)
    }

    /// A task's own track, and its process's.
    fn task(&mut self, model: &Model, row: &SpanRow<'_>, new: &mut Vec<TrackDescriptor>) -> u64 {
        let tid = row.raw.tid;
        let own = model.meta.as_ref().map_or(0, |meta| meta.pid);
        // The emulated driver is one process. Of a kernel's tasks it is only known while they hold or wait; they are
        // shown as processes of their own.
        let known = model.live.iter().find(|task| task.tid == tid);
        let pid = match (own, known) {
            (0, Some(task)) if task.pid != 0 => task.pid,
            (0, _) => tid,
            (own, _) => own,
        };
        if !self.processes.contains_key(&pid) {
            let process = self.next();
            self.processes.insert(pid, process);
            let name = if own == 0 {
                row.comm.to_owned()
            } else {
                let generation = model.meta.as_ref().map_or("", |meta| &meta.generation);
                format!("{} {generation}", driver(model))
            };
            new.push(TrackDescriptor {
                uuid: Some(process),
                process: Some(ProcessDescriptor {
                    pid: i32::try_from(pid).ok(),
                    process_name: Some(name),
                }),
                ..TrackDescriptor::default()
            });
        }
        let task = self.next();
        self.tasks.insert((tid, Place::Task), task);
        new.push(TrackDescriptor {
            uuid: Some(task),
            parent_uuid: self.processes.get(&pid).copied(),
            thread: Some(ThreadDescriptor {
                pid: i32::try_from(pid).ok(),
                tid: Some(i64::from(tid)),
                thread_name: Some(row.comm.to_owned()),
            }),
            ..TrackDescriptor::default()
        });
        task
    }
}
