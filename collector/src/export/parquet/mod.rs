//! Parquet: spans and histograms as files that query engines read, from one host or from thousands.
//!
//! [`SPANS`] and [`HISTOGRAMS`] are the schemas, which docs/exports.md shows. Numbers are signed 64-bit integers, which is
//! what every engine has; pages are compressed with Snappy. The module is there on little-endian machines alone, because
//! the library writes values in the byte order of the machine.

mod table;

use std::io::{self, Write};

use super::spans::rows;
use super::{driver, each_histogram, exact};
use crate::frame::Frame;
use crate::model::Model;
use table::{Cell, Table};

pub use table::{Column, Kind};

const fn column(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        optional: false,
        about,
    }
}

const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        optional: true,
        about,
    }
}

/// Columns of the spans, one row for each lock cycle and call.
#[rustfmt::skip]
pub const SPANS: [Column; 20] = [
    column("driver", Kind::Text, "`EMULATED`, `kernel` or `stacks`"),
    column("generation", Kind::Text, "driver generation; of a kernel, all candidates"),
    column("kind", Kind::Text, "`lock` (acquisition to release) or `call` (of an entry point)"),
    column("name", Kind::Text, "lock instance, or entry point"),
    optional("class", Kind::Text, "lock class"),
    optional("mode", Kind::Text, "`-`, `read` or `write`"),
    column("entry_point", Kind::Text, "function in which the lock was acquired, or around the call; `-` for none"),
    column("tid", Kind::Number, "thread id"),
    column("comm", Kind::Text, "thread name"),
    column("start", Kind::Time, "acquisition, or call, UTC"),
    column("start_ns", Kind::Number, "the same, CLOCK_MONOTONIC of the traced machine"),
    column("duration_ns", Kind::Number, "hold, or latency"),
    optional("wait_ns", Kind::Number, "how long the acquisition waited"),
    optional("contended", Kind::Flag, "the slow path was entered"),
    optional("returned", Kind::Text, "what the call returned: `ok`, `-EBUSY`, ..."),
    optional("result", Kind::Number, "the same as a number"),
    optional("on_behalf_of_pid", Kind::Number, "process on whose behalf the task acted"),
    optional("on_behalf_of_comm", Kind::Text, "its name"),
    optional("mdev", Kind::Text, "UUID of the mdev that the call acted on"),
    optional("guest", Kind::Text, "guest that the call acted on"),
];

/// Columns of the histograms, one row for each bucket that has values.
#[rustfmt::skip]
pub const HISTOGRAMS: [Column; 17] = [
    column("driver", Kind::Text, "`EMULATED`, `kernel` or `stacks`"),
    column("generation", Kind::Text, "driver generation; of a kernel, all candidates"),
    column("kernel_release", Kind::Text, "release of the kernel"),
    optional("timing", Kind::Text, "why times are not those of hardware, where they are not"),
    column("run_start", Kind::Time, "when counting began, UTC"),
    column("exact", Kind::Flag, "counts are exact; otherwise \"at least\""),
    column("what", Kind::Text, "`wait`, `hold` or `latency`"),
    column("name", Kind::Text, "lock class, or entry point"),
    column("mode", Kind::Text, "`-`, `read` or `write`; empty for an entry point"),
    column("lower_ns", Kind::Number, "smallest value of the bucket"),
    column("upper_ns", Kind::Number, "largest value of the bucket, inclusive"),
    column("count", Kind::Number, "values in the bucket"),
    column("total_count", Kind::Number, "values in the whole histogram"),
    column("total_sum_ns", Kind::Number, "their sum"),
    column("total_min_ns", Kind::Number, "the smallest of them"),
    column("total_max_ns", Kind::Number, "the largest of them"),
    column("apscope_version", Kind::Text, "version of apscope that measured"),
];

/// The file of spans, which grows with every frame.
pub struct Spans<W: Write + Send> {
    table: Table<W>,
    rows: u64,
}

impl<W: Write + Send> Spans<W> {
    /// A file without rows.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(out: W) -> io::Result<Self> {
        let table = Table::new("span", &SPANS, out)?;
        Ok(Self { table, rows: 0 })
    }

    /// Adds the spans of a frame that was folded into the model.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn frame(&mut self, model: &Model, frame: &Frame) -> io::Result<()> {
        let generation = model.meta.as_ref().map_or("", |meta| &meta.generation);
        for row in rows(model, frame) {
            let (pid, comm) = row.on_behalf_of.unzip();
            let lock = row.is_lock();
            let returned = row.returned();
            self.table.row(&[
                Cell::text(driver(model)),
                Cell::text(generation),
                Cell::text(if lock { "lock" } else { "call" }),
                Cell::text(row.name),
                row.class().map_or(Cell::Nothing, Cell::text),
                row.mode().map_or(Cell::Nothing, Cell::text),
                Cell::text(row.inside()),
                Cell::number(u64::from(row.raw.tid)),
                Cell::text(row.comm),
                Cell::number(row.start_unix_ns),
                Cell::number(row.raw.start_ns),
                Cell::number(row.raw.duration_ns),
                row.wait_ns().map_or(Cell::Nothing, Cell::number),
                row.contended().map_or(Cell::Nothing, Cell::Flag),
                returned.as_deref().map_or(Cell::Nothing, Cell::text),
                if lock {
                    Cell::Nothing
                } else {
                    Cell::Number(i64::from(row.raw.result))
                },
                pid.map_or(Cell::Nothing, |pid| Cell::number(u64::from(pid))),
                comm.map_or(Cell::Nothing, Cell::text),
                row.mdev.map_or(Cell::Nothing, Cell::text),
                row.guest.map_or(Cell::Nothing, Cell::text),
            ])?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Spans written so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is left, and the end of the file.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(self) -> io::Result<()> {
        self.table.finish()
    }
}

/// Writes the file of histograms.
///
/// # Errors
///
/// Those of `out`.
pub fn histograms(model: &Model, out: impl Write + Send) -> io::Result<()> {
    let mut table = Table::new("histogram", &HISTOGRAMS, out)?;
    let meta = model.meta.clone().unwrap_or_default();
    let mut written = Ok(());
    each_histogram(model, |what, name, mode, histogram| {
        for (lower, upper, count) in histogram.buckets() {
            let row = table.row(&[
                Cell::text(driver(model)),
                Cell::text(&meta.generation),
                Cell::text(&meta.kernel_release),
                match meta.timing.as_str() {
                    "" => Cell::Nothing,
                    timing => Cell::text(timing),
                },
                Cell::number(meta.start_unix_ns),
                Cell::Flag(exact(model)),
                Cell::text(what),
                Cell::text(name),
                Cell::text(mode),
                Cell::number(lower),
                Cell::number(upper),
                Cell::number(count),
                Cell::number(histogram.count),
                Cell::number(histogram.sum_ns),
                Cell::number(histogram.min_ns),
                Cell::number(histogram.max_ns),
                Cell::text(&meta.version),
            ]);
            if written.is_ok() {
                written = row;
            }
        }
    });
    written?;
    table.finish()
}
