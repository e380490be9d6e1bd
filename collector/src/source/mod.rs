//! Sources: where frames come from.
//!
//! A [`Session`] runs a source on a thread of its own and hands over one frame a tick. It knows nothing of what is
//! done with the frames.

pub mod budget;
mod child;
mod choose;
pub mod confine;
pub mod ebpf;
pub mod instances;
pub mod kernel;
pub mod leave;
mod log_lines;
mod matrix;
pub mod memory;
mod named;
pub mod reader;
mod remote;
mod run;
#[cfg(test)]
pub mod scene;
mod snapshot;
pub mod stacks;
pub mod tables;
mod tasks;

pub(crate) use choose::sizes;
pub use remote::{END_LINK_DOWN, Link, link_changed};

use std::sync::{Arc, Mutex};
use std::time::Duration;

use choose::Started;
use tokio::sync::{mpsc, watch};

use crate::emulator::protocol::Truth;
use crate::frame::Frame;
use crate::options::{Endpoint, RunOptions};

/// Why a session could not start or go on: what, why, and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct SourceError {
    /// What failed.
    pub what: String,
    /// Why.
    pub cause: String,
    /// What to try.
    pub hint: String,
}

/// What is said where others measure the same.
fn measured_by_others(others: impl std::fmt::Display, what: &str) -> String {
    format!("{others} more collector(s) measure {what}: what is probed twice costs twice")
}

/// A running source.
pub struct Session {
    /// One frame a tick, until the channel closes. The last frame has `end`.
    pub frames: mpsc::Receiver<Arc<Frame>>,
    /// Whether a collector elsewhere can be heard; `None` where it is measured here.
    pub link: Option<watch::Receiver<Link>>,
    commands: mpsc::UnboundedSender<run::Command>,
    ended: Arc<Mutex<Ended>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How a session ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// The emulator's ground truth, where it was stopped in order.
    pub truth: Option<Truth>,
    /// Why a kernel could not be measured, after its memory had been read.
    pub failed: Option<SourceError>,
}

/// Stops a source, as [`Session::stop`] does.
#[derive(Debug, Clone)]
pub struct Stopper(tokio::sync::mpsc::UnboundedSender<run::Command>);

impl Stopper {
    /// Asks the source to stop.
    pub fn stop(&self) {
        // A source that has ended needs no stopping.
        let _ = self.0.send(run::Command::Stop);
    }
}

impl Session {
    /// Starts a source: decides between kernel and emulator and between eBPF and in process, starts or attaches to
    /// the emulator, attaches every probe, says *go*. To a kernel, probes are attached after the first frames, which say
    /// that they are `attaching` and come from its memory alone; how that fails is in [`Session::ended`].
    pub fn start(options: &RunOptions) -> Result<Self, SourceError> {
        if let Some(endpoint) = &options.connect {
            return Self::connect(endpoint);
        }
        let mut source = choose::start(options)?;
        let (frame_sender, frames) = mpsc::channel(64);
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let ended = Arc::new(Mutex::new(Ended::default()));
        let interval = options.interval;
        let result = Arc::clone(&ended);
        let failed = |error: std::io::Error| cannot_start(&error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("collector".into())
            .spawn(move || {
                let mut failed = None;
                let truth = match &mut source {
                    Started::Emulator(source) => {
                        runtime.block_on(source.run(interval, command_receiver, &frame_sender))
                    }
                    Started::Kernel(source) => {
                        let run = source.run(interval, command_receiver, &frame_sender);
                        failed = runtime.block_on(run).err();
                        None
                    }
                };
                if let Ok(mut ended) = result.lock() {
                    *ended = Ended { truth, failed };
                }
                // The end of the frames says that the result is there. What is slow comes after it.
                drop(frame_sender);
                match source {
                    Started::Emulator(source) => source.end(),
                    Started::Kernel(source) => source.end(),
                }
            })
            .map_err(failed)?;
        Ok(Self {
            frames,
            link: None,
            commands,
            ended,
            thread: Some(thread),
        })
    }

    /// Takes the frames of a collector elsewhere.
    fn connect(endpoint: &Endpoint) -> Result<Self, SourceError> {
        let failed = |error: std::io::Error| cannot_start(&error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let first = runtime.block_on(remote::connect(endpoint))?;
        let (frame_sender, frames) = mpsc::channel(remote::FRAMES);
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let (link_sender, link) = watch::channel(Link::Up);
        let remote = remote::Remote::new(endpoint.clone(), link_sender);
        let thread = std::thread::Builder::new()
            .name("remote".into())
            .spawn(move || runtime.block_on(remote.run(first, command_receiver, &frame_sender)))
            .map_err(failed)?;
        Ok(Self {
            frames,
            link: Some(link),
            commands,
            ended: Arc::default(),
            thread: Some(thread),
        })
    }

    /// Stacks of tasks of this machine that sleep and cannot be interrupted, where it has the driver: what is left to look at
    /// where the kernel lets nobody read its memory (lockdown, missing capabilities). Needs CAP_SYS_ADMIN alone.
    pub fn stacks_alone() -> Option<crate::diagnose::stacks::text::Parsed> {
        std::path::Path::new("/sys/module/vfio_ap")
            .exists()
            .then_some(())?;
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        let tasks = snapshot::stacks::blocked(Duration::from_secs(5))?;
        Some(crate::diagnose::stacks::text::Parsed {
            tasks,
            kernel_release: release.map(|release| release.trim().to_owned()),
            ..Default::default()
        })
    }

    /// Changes the time between frames.
    pub fn set_interval(&self, interval: Duration) {
        // A source that has ended needs no interval.
        let _ = self.commands.send(run::Command::Interval(interval));
    }

    /// Asks the source to stop: actors finish their operations, the last frame is read, `frames` closes.
    pub fn stop(&self) {
        // A source that has ended needs no stopping.
        let _ = self.commands.send(run::Command::Stop);
    }

    /// What stops the source, for somebody who has given the session away.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.commands.clone())
    }

    /// How it ended; call it when `frames` has closed. Detaching goes on: [`Session::detached`] waits for it.
    pub fn ended(&self) -> Ended {
        self.ended
            .lock()
            .map(|ended| ended.clone())
            .unwrap_or_default()
    }

    /// Waits until every probe is detached and an emulator of ours is gone. The kernel waits for several grace
    /// periods for each uprobe, one after the other, which adds up to seconds.
    pub fn detached(mut self) {
        self.frames.close();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn cannot_start(error: &std::io::Error) -> SourceError {
    SourceError {
        what: "cannot start the collector".into(),
        cause: error.to_string(),
        hint: "raise the limits of threads and open files".into(),
    }
}
