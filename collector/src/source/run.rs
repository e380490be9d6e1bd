//! The collector's loop: ticks, early wake-ups of the ring, the emulator's answers, and commands.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::child::Emulator;
use super::confine;
use super::ebpf::Probes;
use super::log_lines::LogLines;
use super::named::Named;
use super::reader::{self, Reader, SpanRing};
use super::snapshot::emulated::Emulated;
use super::tasks::Tasks;
use crate::emulator::protocol::{Reply, Request, Truth};
use crate::frame::{End, Frame, Loss, Meta};

/// How long actors may take to finish their operations, the emulator's own deadline included.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The emulated kernel's log is asked for so often.
const MESSAGES_INTERVAL_NS: u64 = 1_000_000_000;

/// A kind of loss is told about once in this time.
const WARN_INTERVAL_NS: u64 = 1_000_000_000;

/// What a session asks of its source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    /// Another time between frames.
    Interval(Duration),
    /// Finish.
    Stop,
}

/// What measures.
pub(super) enum Backend {
    /// eBPF programs on the emulator's probe points.
    Ebpf {
        /// Programs and links.
        probes: Box<Probes>,
        /// Receiver of the programs' messages.
        logger: Option<Box<EbpfLogger<LogLines>>>,
    },
    /// Hooks in the emulator's process.
    InProcess,
}

/// An emulator that is being measured.
pub(super) struct Source {
    pub(super) emulator: Emulator,
    pub(super) backend: Backend,
    pub(super) ring: Box<dyn SpanRing + Send>,
    pub(super) log: LogLines,
    pub(super) meta: Meta,
    pub(super) reader: Reader,
    /// Names of what calls act on.
    pub(super) named: Named,
    pub(super) tasks: Tasks,
    /// *Stop* ends the emulator too; otherwise it is left running.
    pub(super) stops_emulator: bool,
    pub(super) losses: Losses,
    /// Of an emulator that was running before.
    pub(super) snapshot: Option<Emulated>,
    /// When to ask next what the driver has said.
    pub(super) next_messages_ns: u64,
}

/// What was lost, told in the log. Of each kind: how much was not yet said, and when something was said last.
#[derive(Debug, Default)]
pub(super) struct Losses([(u64, u64); 7]);

impl Losses {
    /// Says what the probes could not keep, at most once a second for each kind.
    pub(super) fn tell(&mut self, log: &LogLines, loss: &Loss, now: u64) {
        let kinds = [
            (
                loss.missed,
                "invocations were skipped by the kernel: statistics are \"at least\"",
            ),
            (
                loss.no_task_slot,
                "invocations found no task slot: statistics are \"at least\"",
            ),
            (
                loss.no_edge_slot,
                "order edges found no slot: the lock order is incomplete",
            ),
            (
                loss.overflowed,
                "held locks, waits or nested calls did not fit into a task's record",
            ),
            (loss.unreadable, "reads of object memory failed"),
            (
                loss.unmatched,
                "releases of locks whose acquisition was not seen",
            ),
            (
                loss.disagreements,
                "holders on record were contradicted by the lock word, and are shown no more",
            ),
        ];
        for ((count, text), (waiting, last)) in kinds.into_iter().zip(&mut self.0) {
            *waiting += count;
            if *waiting != 0 && now.saturating_sub(*last) >= WARN_INTERVAL_NS {
                log.push("warn", &format!("{waiting} {text}"));
                (*waiting, *last) = (0, now);
            }
        }
    }
}

impl Source {
    /// Sends frames until stopped, until the emulator is gone, or until nobody takes them. Returns the ground truth
    /// of an emulator that was stopped in order.
    pub(super) async fn run(
        &mut self,
        interval: Duration,
        mut commands: mpsc::UnboundedReceiver<Command>,
        frames: &mpsc::Sender<Arc<Frame>>,
    ) -> Option<Truth> {
        let wake = wake_of(self.ring.as_ref());
        let mut ticks = ticker(interval);
        let mut stopping: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = readable(wake.as_ref()) => {}
                command = commands.recv() => match command {
                    Some(Command::Interval(interval)) => {
                        ticks = ticker(interval);
                        continue;
                    }
                    Some(Command::Stop) if !self.stops_emulator => {
                        return self.finish(frames, None, "left", String::new()).await;
                    }
                    Some(Command::Stop) => {
                        if stopping.is_none() && self.emulator.send(&Request::Stop).is_ok() {
                            stopping = Some(Instant::now() + STOP_TIMEOUT);
                        }
                        continue;
                    }
                    // The session was dropped.
                    None => return self.finish(frames, None, "interrupted", String::new()).await,
                },
                reply = self.emulator.replies.recv() => match reply {
                    Some(Reply::Stopped { truth }) => {
                        let how = if truth.ended == "stuck" { "stuck" } else { "finished" };
                        let detail = truth.in_flight.join("; ");
                        return self.finish(frames, Some(*truth), how, detail).await;
                    }
                    Some(Reply::Error { message }) => {
                        self.log.push("error", &message);
                        continue;
                    }
                    Some(Reply::Messages { messages }) => {
                        for message in messages {
                            self.log.push_driver(message.at_ns, &message.text);
                        }
                        continue;
                    }
                    Some(_) => continue,
                    None => {
                        let detail = self.emulator.epitaph();
                        return self.finish(frames, None, "source died", detail).await;
                    }
                },
            }
            if stopping.is_some_and(|deadline| Instant::now() > deadline) {
                let detail = "the emulated driver did not answer".to_owned();
                return self.finish(frames, None, "source died", detail).await;
            }
            if stopping.is_none() {
                self.ask_for_messages();
            }
            let frame = self.frame();
            if frames.send(Arc::new(frame)).await.is_err() {
                return None;
            }
        }
    }

    /// Asks once a second what the driver has said to the kernel's log; the answer comes between two frames.
    fn ask_for_messages(&mut self) {
        let now = reader::monotonic_ns();
        if now >= self.next_messages_ns {
            self.next_messages_ns = now.saturating_add(MESSAGES_INTERVAL_NS);
            // An emulator that is gone shows elsewhere.
            let _ = self.emulator.send(&Request::Messages);
        }
    }

    fn frame(&mut self) -> Frame {
        confine::follow();
        if let Backend::Ebpf {
            logger: Some(logger),
            ..
        } = &mut self.backend
        {
            logger.flush();
        }
        let runs = self.backend.runs();
        let (now, unix) = (reader::monotonic_ns(), reader::unix_ns());
        let mut frame = self.reader.frame(self.ring.as_mut(), now, unix, &runs);
        let new = self
            .named
            .name(&mut self.reader.subjects, &mut self.meta.objects, now);
        if let Some(live) = &mut frame.live {
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.look(live, now);
            }
            self.tasks.fill(live, now);
        }
        if new || frame.number == 0 {
            frame.meta = Some(self.meta.clone());
        }
        if let Some(loss) = &frame.loss {
            self.losses.tell(&self.log, loss, now);
        }
        frame.log = self.log.take();
        frame
    }

    /// Reads everything once more and sends it as the last frame.
    async fn finish(
        &mut self,
        frames: &mpsc::Sender<Arc<Frame>>,
        truth: Option<Truth>,
        how: &str,
        detail: String,
    ) -> Option<Truth> {
        let mut frame = self.frame();
        frame.end = Some(End {
            how: how.into(),
            detail,
        });
        // A receiver that has gone away does not want it.
        let _ = frames.send(Arc::new(frame)).await;
        truth
    }

    /// Ends the emulator, if it is ours, and detaches.
    pub(super) fn end(self) {
        let Self {
            emulator,
            backend,
            ring,
            ..
        } = self;
        // Detaching takes seconds, and whoever started it may be gone by then.
        emulator.end();
        drop(ring);
        drop(backend);
    }
}

pub(super) fn ticker(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What becomes readable when a ring asks to be drained, if it can.
pub(super) fn wake_of(ring: &dyn SpanRing) -> Option<AsyncFd<OwnedFd>> {
    let fd = ring.wake_fd()?;
    // SAFETY: the descriptor is owned by the `AsyncFd`, so it stays open and the same while registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
}

/// Waits until the ring asks to be drained; forever if it never does.
pub(super) async fn readable(wake: Option<&AsyncFd<OwnedFd>>) {
    match wake {
        Some(wake) => {
            if let Ok(mut guard) = wake.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}
