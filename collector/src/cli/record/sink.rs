//! Where frames go: a file, numbered files, a ring in memory, or a ring that is written when something is found.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::RecordArgs;
use super::files::{Counts, Numbered, Piece};
use crate::cli::Failure;
use crate::cli::live::note;
use crate::cli::output::{Output, Target};
use crate::diagnose::{Case, Finding, Id, Severity, text};
use crate::frame::Frame;
use crate::recording::{Flush, Packer, Ring, Taken, WriteError};

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
    /// All that came.
    seen: Counts,
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
            seen: Counts::default(),
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
                let taken = ring.take(&mut self.packer);
                let taken = taken.map_err(|error| failed(&self.target, error))?;
                let mut piece = Piece::start(output)?;
                let written = write_all(&mut piece, &taken);
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
        let counts = Counts::of(&flush);
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
                        piece.write_totals(&totals)?;
                    }
                    *open = Some(piece);
                }
            }
            Sink::Ring(ring, _) => ring.push(flush),
            Sink::Flight(flight) => flight.store(flush)?,
        }
        self.seen += counts;
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
        let before = match flight.ring.covers_ns() {
            0 => String::new(),
            ns => format!("the last {} ", lasting(ns)),
        };
        note(&format!(
            "found: {what}; writing {before}to {}",
            path.display()
        ));
        let taken = flight.ring.take(&mut self.packer);
        let taken = taken.map_err(|error| failed(&self.target, error))?;
        flight.files.make_room(taken.bytes())?;
        let mut piece = flight.files.begin()?;
        write_all(&mut piece, &taken)?;
        flight.open = Some((piece, until_ns));
        Ok(())
    }

    /// Where it is, in a few words.
    pub fn progress(&self) -> String {
        let seen = self.seen;
        let ring = |ring: &Ring| {
            let bytes = ring.bytes();
            format!("the last {} in {bytes} bytes", lasting(ring.covers_ns()))
        };
        match &self.sink {
            Sink::Waiting(..) => seen.to_string(),
            Sink::One(piece, _) => format!("{seen}, {} bytes", piece.bytes()),
            Sink::Rotated(numbered, piece, _) => {
                let bytes = numbered.bytes() + piece.as_ref().map_or(0, Piece::bytes);
                let open = u64::from(piece.is_some());
                format!(
                    "{seen}, {bytes} bytes in {}",
                    files(numbered.count().0 + open)
                )
            }
            Sink::Ring(of, _) => format!("{seen}; {}", ring(of)),
            Sink::Flight(flight) => {
                let (written, _) = flight.files.count();
                let written = files(written + u64::from(flight.open.is_some()));
                format!("{seen}; {}; {written}", ring(&flight.ring))
            }
        }
    }

    /// What there is at the end: in the files that are there, and of all that came.
    pub fn summary(&self, name: &str) -> String {
        let seen = self.seen;
        let came = |there: Counts| {
            if there == seen {
                String::new()
            } else {
                format!("; of all that came: {seen}")
            }
        };
        match &self.sink {
            Sink::Waiting(..) | Sink::Ring(..) => format!("nothing was written; {seen} came"),
            Sink::One(piece, _) => {
                let full = if self.full {
                    "; it is as large as it may be"
                } else {
                    ""
                };
                let (there, bytes) = (piece.counts(), piece.bytes());
                format!(
                    "recorded {there}: {bytes} bytes in {name}{}{full}",
                    came(there)
                )
            }
            Sink::Rotated(numbered, ..) => {
                format!("recorded {}{}", in_files(numbered), came(numbered.counts()))
            }
            Sink::Flight(flight) => {
                let short = if flight.ring.is_short() {
                    "; the ring had no room for all the time that was asked for"
                } else {
                    ""
                };
                let written = match flight.files.count() {
                    (0, 0) => "nothing was found, and nothing written".to_owned(),
                    _ => format!("written {}", in_files(&flight.files)),
                };
                format!("watched {seen}; {written}{short}")
            }
        }
    }
}

/// What is in numbered files, which these are, and how many are gone.
fn in_files(numbered: &Numbered) -> String {
    let ((count, gone), bytes) = (numbered.count(), numbered.bytes());
    let first = numbered.first().map_or_else(String::new, |first| {
        let from = if count > 1 { ", the first " } else { ", " };
        format!("{from}{}", first.display())
    });
    let removed = match gone {
        0 => String::new(),
        1 => "; the oldest was removed".to_owned(),
        n => format!("; the {n} oldest were removed"),
    };
    format!(
        "{}: {bytes} bytes in {}{first}{removed}",
        numbered.counts(),
        files(count)
    )
}

fn files(count: u64) -> String {
    match count {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    }
}

/// So long, in the unit that says something.
fn lasting(ns: u64) -> String {
    match ns {
        0..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{:.0} s", ns as f64 / 1e9),
    }
}

/// Writes what a ring has given: the totals of what is no longer in it, where there are any, and its flushes.
fn write_all(piece: &mut Piece, taken: &Taken) -> Result<(), Failure> {
    if let Some(before) = &taken.before {
        piece.write_totals(before)?;
    }
    taken
        .flushes
        .iter()
        .try_for_each(|flush| piece.write(flush))
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
