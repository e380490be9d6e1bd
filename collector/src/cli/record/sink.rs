//! Where frames go: a file, numbered files, a ring in memory, or a ring that is written when something is found.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::RecordArgs;
use super::files::{Numbered, Piece};
use crate::cli::Failure;
use crate::cli::live::note;
use crate::cli::output::{Output, Target};
use crate::diagnose::{Case, Finding, Id, Severity, text};
use crate::frame::Frame;
use crate::recording::{Flush, Packer, Ring, WriteError};

/// Bytes of compressed flushes that a ring keeps at most.
const RING_BYTES: u64 = 256 << 20;
/// What follows a finding is written too, for so long.
const AFTER_NS: u64 = 5_000_000_000;

/// Where frames go.
pub(super) enum Sink {
    /// Not yet begun: what was in the file is still there.
    Waiting(Output, Kind),
    /// One file, with a limit.
    One(Piece, Option<u64>),
    /// Numbered files, and the size at which another one begins.
    Rotated(Numbered, Option<Piece>, u64),
    /// A ring, and the file that it goes to.
    Ring(Box<Ring>, Option<Output>),
    /// A ring that is written when something is found.
    Flight(Box<Flight>),
}

/// What a file is for.
pub(super) enum Kind {
    One(Option<u64>),
    Ring(Box<Ring>),
}

pub(super) struct Flight {
    ring: Ring,
    files: Numbered,
    /// The file that is being written, and until when.
    open: Option<(Piece, u64)>,
    case: Case,
    least: Severity,
    /// Findings that stand, and have been written.
    known: BTreeSet<(Id, String)>,
}

impl Sink {
    /// What the arguments ask for, tried as far as that changes nothing.
    pub fn open(args: &RecordArgs) -> Result<Self, Failure> {
        let path: &Path = &args.output;
        let ring = args.ring.map(|keep| {
            let most = match args.on_finding {
                None => args.max_size.unwrap_or(RING_BYTES),
                Some(_) => RING_BYTES,
            };
            Ring::new(u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX), most)
        });
        Ok(match (ring, args.on_finding, args.rotate) {
            (Some(ring), Some(least), _) => Self::Flight(Box::new(Flight {
                ring,
                files: Numbered::beside(path, args.max_size)?,
                open: None,
                case: Case::default(),
                least: least.severity(),
                known: BTreeSet::new(),
            })),
            (Some(ring), None, _) => Self::Waiting(Output::open(path)?, Kind::Ring(Box::new(ring))),
            (None, _, Some(size)) => {
                Self::Rotated(Numbered::beside(path, args.max_size)?, None, size)
            }
            (None, ..) => Self::Waiting(Output::open(path)?, Kind::One(args.max_size)),
        })
    }
}

/// Takes frames, and knows how many there were.
pub(super) struct Recorder {
    packer: Packer,
    sink: Sink,
    target: Target,
    frames: u64,
    spans: u64,
    dropped: u64,
    full: bool,
    /// When something was pending for the first time, by pauses.
    waited: bool,
}

impl Recorder {
    /// Begins to write.
    pub fn start(sink: Sink) -> Result<Self, Failure> {
        let target = match &sink {
            Sink::Waiting(output, _) => output.target().clone(),
            Sink::Rotated(files, ..) => Target::File(files.next_path()),
            Sink::Flight(flight) => Target::File(flight.files.next_path()),
            Sink::One(..) | Sink::Ring(..) => Target::Stdout,
        };
        let sink = match sink {
            Sink::Waiting(output, Kind::One(max)) => Sink::One(Piece::start(output)?, max),
            Sink::Waiting(output, Kind::Ring(ring)) => Sink::Ring(ring, Some(output)),
            Sink::Rotated(mut files, _, size) => {
                let piece = files.begin()?;
                Sink::Rotated(files, Some(piece), size)
            }
            sink => sink,
        };
        let packer = Packer::new().map_err(|error| failed(&target, error))?;
        Ok(Self {
            packer,
            sink,
            target,
            frames: 0,
            spans: 0,
            dropped: 0,
            full: false,
            waited: false,
        })
    }

    /// What the file, or the first of them, is called.
    pub fn name(&self) -> String {
        self.target.to_string()
    }

    /// There is no room for more: the recording is over.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Takes a frame.
    pub fn push(&mut self, frame: &Frame) -> Result<(), Failure> {
        self.waited = false;
        let flush = self.packer.push(frame);
        self.store(flush)?;
        let Sink::Flight(flight) = &mut self.sink else {
            return Ok(());
        };
        flight.case.apply(frame);
        if let Some(finding) = flight.begins() {
            let what = text::line(&finding);
            let flush = self.packer.take();
            self.store(flush)?;
            self.write_ring(&what, frame.at_ns)?;
        }
        Ok(())
    }

    /// No frame has come for a while: what has been pending for all of it is written.
    pub fn pause(&mut self) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.waited, true) {
            return Ok(());
        }
        let flush = self.packer.take();
        self.store(flush)
    }

    /// Writes what is left.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let flush = self.packer.take();
        self.store(flush)?;
        match &mut self.sink {
            Sink::Ring(ring, output) => {
                let Some(output) = output.take() else {
                    return Ok(());
                };
                let flushes = ring.take(&mut self.packer);
                let flushes = flushes.map_err(|error| failed(&self.target, error))?;
                let mut piece = Piece::start(output)?;
                let written = flushes.iter().try_for_each(|flush| piece.write(flush));
                // What is in the file is said, also where there was no room for all.
                self.sink = Sink::One(piece, None);
                written?;
            }
            Sink::Rotated(files, piece, _) => {
                if let Some(piece) = piece.take() {
                    files.complete(&piece);
                }
            }
            Sink::Flight(flight) => flight.close(),
            Sink::Waiting(..) | Sink::One(..) => {}
        }
        Ok(())
    }

    fn store(&mut self, flush: Result<Option<Flush>, WriteError>) -> Result<(), Failure> {
        let flush = flush.map_err(|error| failed(&self.target, error))?;
        let Some(flush) = flush else {
            return Ok(());
        };
        let size = flush.bytes.len() as u64;
        let (frames, spans, dropped) = (flush.frames, flush.spans, flush.dropped);
        match &mut self.sink {
            Sink::Waiting(..) => {}
            Sink::One(piece, max) => {
                self.full |= max.is_some_and(|max| piece.bytes() + size > max);
                if self.full {
                    return Ok(());
                }
                piece.write(&flush)?;
            }
            Sink::Rotated(files, open, rotate) => {
                let Some(piece) = open else { return Ok(()) };
                files.make_room(piece.bytes() + size)?;
                piece.write(&flush)?;
                if piece.bytes() >= *rotate {
                    files.complete(piece);
                    let mut piece = files.begin()?;
                    let totals = self.packer.totals();
                    if let Some(totals) = totals.map_err(|error| failed(&self.target, error))? {
                        piece.write(&totals)?;
                    }
                    *open = Some(piece);
                }
            }
            Sink::Ring(ring, _) => ring.push(flush),
            Sink::Flight(flight) => flight.store(flush)?,
        }
        self.frames += frames;
        self.spans += spans;
        self.dropped += dropped;
        Ok(())
    }

    /// Writes the ring into a file of its own, or goes on with the one that is open.
    fn write_ring(&mut self, what: &str, at_ns: u64) -> Result<(), Failure> {
        let Sink::Flight(flight) = &mut self.sink else {
            return Ok(());
        };
        let until_ns = at_ns.saturating_add(AFTER_NS);
        if let Some((_, until)) = &mut flight.open {
            *until = until_ns;
            note(&format!("found: {what}; it goes into the same file"));
            return Ok(());
        }
        let path = flight.files.next_path();
        note(&format!(
            "found: {what}; writing {:.0} s to {}",
            flight.ring.covers_ns() as f64 / 1e9,
            path.display()
        ));
        let flushes = flight.ring.take(&mut self.packer);
        let flushes = flushes.map_err(|error| failed(&self.target, error))?;
        let size = flushes.iter().map(|flush| flush.bytes.len() as u64).sum();
        flight.files.make_room(size)?;
        let mut piece = flight.files.begin()?;
        for flush in &flushes {
            piece.write(flush)?;
        }
        flight.open = Some((piece, until_ns));
        Ok(())
    }

    /// Where it is, in a few words.
    pub fn progress(&self) -> String {
        let counted = format!(
            "{} frames, {} spans, {} dropped",
            self.frames, self.spans, self.dropped
        );
        let ring = |ring: &Ring| {
            format!(
                "the last {:.0} s in {} bytes",
                ring.covers_ns() as f64 / 1e9,
                ring.bytes()
            )
        };
        match &self.sink {
            Sink::Waiting(..) => counted,
            Sink::One(piece, _) => format!("{counted}, {} bytes", piece.bytes()),
            Sink::Rotated(files, piece, _) => {
                let bytes = files.bytes() + piece.as_ref().map_or(0, Piece::bytes);
                let open = u64::from(piece.is_some());
                format!(
                    "{counted}, {bytes} bytes in {} files",
                    files.count().0 + open
                )
            }
            Sink::Ring(of, _) => format!("{counted}; {}", ring(of)),
            Sink::Flight(flight) => {
                let (files, _) = flight.files.count();
                let written = files + u64::from(flight.open.is_some());
                format!("{counted}; {}; {written} files", ring(&flight.ring))
            }
        }
    }

    /// What there is at the end.
    pub fn summary(&self, name: &str) -> String {
        let (frames, spans, dropped) = (self.frames, self.spans, self.dropped);
        let detail = format!("{spans} spans, {dropped} dropped");
        let removed = |count: u64| match count {
            0 => String::new(),
            n => format!("; the {n} oldest were removed"),
        };
        match &self.sink {
            Sink::Waiting(..) | Sink::Ring(..) => {
                format!("{frames} frames came, and nothing was written: {detail}")
            }
            Sink::One(piece, _) => {
                let full = if self.full {
                    "; it is as large as it may be"
                } else {
                    ""
                };
                let bytes = piece.bytes();
                format!("recorded {frames} frames, {bytes} bytes in {name}: {detail}{full}")
            }
            Sink::Rotated(files, ..) => {
                let ((count, gone), bytes) = (files.count(), files.bytes());
                format!(
                    "recorded {frames} frames, {bytes} bytes in {count} files from {name} on: {detail}{}",
                    removed(gone)
                )
            }
            Sink::Flight(flight) => {
                let (count, gone) = flight.files.count();
                let short = if flight.ring.is_short() {
                    "; the ring had no room for all the time that was asked for"
                } else {
                    ""
                };
                format!(
                    "watched {frames} frames: {detail}; {count} files written{}{short}",
                    removed(gone)
                )
            }
        }
    }
}

impl Flight {
    fn store(&mut self, flush: Flush) -> Result<(), Failure> {
        let Some((piece, until_ns)) = &mut self.open else {
            self.ring.push(flush);
            return Ok(());
        };
        let over = flush.to_ns >= *until_ns;
        self.files
            .make_room(piece.bytes() + flush.bytes.len() as u64)?;
        piece.write(&flush)?;
        // A frame is in one file only.
        self.ring.pass(flush);
        if over {
            self.close();
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some((piece, _)) = self.open.take() {
            self.files.complete(&piece);
        }
    }

    /// A finding that was not there in the frame before.
    fn begins(&mut self) -> Option<Finding> {
        let report = self.case.report();
        let standing = report.findings.into_iter().filter(|finding| {
            // AP000 says that it is not here.
            finding.active() && finding.id.0 != 0 && finding.seen.severity >= self.least
        });
        let standing: Vec<Finding> = standing.collect();
        let key = |finding: &Finding| (finding.id, finding.seen.key.clone());
        let new = standing.iter().find(|f| !self.known.contains(&key(f)));
        let new = new.cloned();
        self.known = standing.iter().map(key).collect();
        new
    }
}

fn failed(target: &Target, error: WriteError) -> Failure {
    match error {
        WriteError::Io(error) => target.failure(&error),
        error => target.failure(&io::Error::other(error)),
    }
}
