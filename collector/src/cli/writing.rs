//! An export that is being written: the format, and the file or folder that it goes to.

use std::fs::File;
use std::io::{self, BufWriter};

use super::Failure;
use super::export::{ExportArgs, Format};
use super::folder::Folder;
use super::output::{Begun, Replaced, Target};
use crate::diagnose::Case;
use crate::export::folded::Folded;
use crate::export::json::Document;
use crate::export::openmetrics::{self, Dialect, Options};
use crate::export::{Origin, csv, dot, hlog, perfetto};
use crate::frame::Frame;

/// What is written, and where.
pub(super) enum Writing {
    /// A file, from what is known in the end.
    AtEnd(Replaced, AtEnd),
    /// The same, with all stacks of the frames.
    Folded(Replaced, Folded),
    Perfetto(Target, perfetto::Trace<Begun>),
    Csv(Folder, csv::Spans<BufWriter<File>>),
    #[cfg(target_endian = "little")]
    Parquet(Folder, Box<crate::export::parquet::Spans<BufWriter<File>>>),
}

/// Formats that are made of what is known in the end.
#[derive(Debug, Clone, Copy)]
pub(super) enum AtEnd {
    Json,
    Metrics(Options),
    Hlog,
    Dot,
}

impl Writing {
    /// Tries the output. Nothing that exists is changed before [`Writing::finish`].
    pub(super) fn open(args: &ExportArgs) -> Result<Self, Failure> {
        let at_end = |format| Ok(Self::AtEnd(Replaced::open(&args.output)?, format));
        let metrics = |dialect| Options {
            dialect,
            instances: args.instances,
        };
        match args.format {
            Format::Json => at_end(AtEnd::Json),
            Format::OpenMetrics => at_end(AtEnd::Metrics(metrics(Dialect::OpenMetrics))),
            Format::Prometheus => at_end(AtEnd::Metrics(metrics(Dialect::Prometheus))),
            Format::Hlog => at_end(AtEnd::Hlog),
            Format::Dot => at_end(AtEnd::Dot),
            Format::Folded => {
                let output = Replaced::open(&args.output)?;
                Ok(Self::Folded(output, Folded::default()))
            }
            Format::Perfetto => {
                let begun = Replaced::open(&args.output)?.begin()?;
                let target = begun.target().clone();
                Ok(Self::Perfetto(target, perfetto::Trace::new(begun)))
            }
            Format::Csv => {
                let mut folder = Folder::open(&args.output)?;
                let spans = folder.create("spans.csv").and_then(csv::Spans::new);
                let spans = spans.map_err(|error| folder.failure(&error))?;
                Ok(Self::Csv(folder, spans))
            }
            Format::Parquet => parquet(args),
        }
    }

    /// Takes a frame that was folded into the case.
    pub(super) fn frame(&mut self, case: &Case, frame: &Frame) -> Result<(), Failure> {
        match self {
            Self::AtEnd(..) => Ok(()),
            Self::Folded(_, folded) => {
                folded.frame(frame);
                Ok(())
            }
            Self::Perfetto(target, trace) => trace
                .frame(&case.model, frame)
                .map_err(|error| target.failure(&error)),
            Self::Csv(folder, spans) => spans
                .frame(&case.model, frame)
                .map_err(|error| folder.failure(&error)),
            #[cfg(target_endian = "little")]
            Self::Parquet(folder, spans) => spans
                .frame(&case.model, frame)
                .map_err(|error| folder.failure(&error)),
        }
    }

    /// Writes the rest, and gives files their names.
    pub(super) fn finish(self, case: &Case, origin: Origin) -> Result<(), Failure> {
        let model = &case.model;
        match self {
            Self::AtEnd(output, format) => {
                let report = case.report();
                output.write(|out| match format {
                    AtEnd::Json => Document::of(model, origin, &report).write(out),
                    AtEnd::Metrics(options) => openmetrics::write(model, &report, options, out),
                    AtEnd::Hlog => hlog::write(model, out),
                    AtEnd::Dot => dot::write(model, &report, out),
                })
            }
            Self::Folded(output, folded) => output.write(|out| folded.write(model, out)),
            Self::Perfetto(target, trace) => trace
                .finish(model)
                .map_err(|error| target.failure(&error))?
                .finish(),
            Self::Csv(mut folder, spans) => {
                let written = spans.finish().map(drop).and_then(|()| {
                    let tables = csv::Tables::new(model, &case.report(), origin);
                    csv::TABLES.iter().try_for_each(|table| {
                        let file = folder.create(&format!("{}.csv", table.name))?;
                        tables.write(table, file)
                    })
                });
                named(folder, written)
            }
            #[cfg(target_endian = "little")]
            Self::Parquet(mut folder, spans) => {
                let written = spans.finish().and_then(|()| {
                    let file = folder.create("histograms.parquet")?;
                    crate::export::parquet::histograms(model, file)
                });
                named(folder, written)
            }
        }
    }
}

fn named(folder: Folder, written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Ok(()) => folder.finish(),
        Err(error) => Err(folder.failure(&error)),
    }
}

#[cfg(target_endian = "little")]
fn parquet(args: &ExportArgs) -> Result<Writing, Failure> {
    let mut folder = Folder::open(&args.output)?;
    let spans = folder
        .create("spans.parquet")
        .and_then(crate::export::parquet::Spans::new);
    let spans = spans.map_err(|error| folder.failure(&error))?;
    Ok(Writing::Parquet(folder, Box::new(spans)))
}

#[cfg(not(target_endian = "little"))]
fn parquet(_: &ExportArgs) -> Result<Writing, Failure> {
    Err(Failure::new(
        "Parquet cannot be written on this machine",
        "its values are little-endian, and the library writes them in the byte order of the machine",
        "`record -o FILE` here, and `export FILE --format parquet` on x86-64 or Arm; or --format csv",
    ))
}
