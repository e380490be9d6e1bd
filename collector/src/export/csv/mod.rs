//! Tables as CSV (RFC 4180): one file for each, with a header, in a folder.
//!
//! The first column of every table is `driver`: `EMULATED`, `kernel` or `stacks`. Times are nanoseconds unless the name
//! says otherwise, and an empty field does not apply. docs/exports.md has all tables and columns, from [`TABLES`].

mod tables;

use std::io::{self, Write};

use super::spans::rows;
use super::{Origin, driver};
use crate::diagnose::Report;
use crate::frame::Frame;
use crate::model::Model;

pub use tables::{TABLES, Table};

/// Columns of the table of spans, besides `driver`.
pub const SPAN_COLUMNS: [&str; 18] = [
    "kind",
    "name",
    "class",
    "mode",
    "entry_point",
    "tid",
    "comm",
    "start_ns",
    "start_unix_ns",
    "duration_ns",
    "wait_ns",
    "contended",
    "returned",
    "result",
    "on_behalf_of_pid",
    "on_behalf_of_comm",
    "mdev",
    "guest",
];

/// The table of spans, which grows with every frame.
#[derive(Debug)]
pub struct Spans<W: Write> {
    out: csv::Writer<W>,
    rows: u64,
}

impl<W: Write> Spans<W> {
    /// A table with its header.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(out: W) -> io::Result<Self> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(["driver"].into_iter().chain(SPAN_COLUMNS))?;
        Ok(Self { out, rows: 0 })
    }

    /// Adds the spans of a frame that was folded into the model.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn frame(&mut self, model: &Model, frame: &Frame) -> io::Result<()> {
        for row in rows(model, frame) {
            let text = |number: Option<u64>| number.map_or_else(String::new, |n| n.to_string());
            let (pid, comm) = row.on_behalf_of.unzip();
            self.out.write_record([
                driver(model),
                if row.is_lock() { "lock" } else { "call" },
                row.name,
                row.class().unwrap_or_default(),
                row.mode().unwrap_or_default(),
                row.inside(),
                &row.raw.tid.to_string(),
                row.comm,
                &row.raw.start_ns.to_string(),
                &row.start_unix_ns.to_string(),
                &row.raw.duration_ns.to_string(),
                &text(row.wait_ns()),
                &row.contended().map_or_else(String::new, |c| c.to_string()),
                &row.returned().unwrap_or_default(),
                &if row.is_lock() {
                    String::new()
                } else {
                    row.raw.result.to_string()
                },
                &text(pid.map(u64::from)),
                comm.unwrap_or_default(),
                row.mdev.unwrap_or_default(),
                row.guest.unwrap_or_default(),
            ])?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Spans written so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes what is left.
    ///
    /// # Errors
    ///
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        self.out
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)
    }
}

/// The other tables, as they are in the end.
pub struct Tables<'a> {
    known: tables::Known<'a>,
}

impl<'a> Tables<'a> {
    /// Of a run.
    pub fn new(model: &'a Model, report: &Report, origin: Origin) -> Self {
        let known = tables::Known::new(model, report, origin);
        Self { known }
    }

    /// Writes one of them.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write(&self, table: &Table, out: impl Write) -> io::Result<()> {
        let mut out = csv::Writer::from_writer(out);
        out.write_record(["driver"].iter().chain(table.columns))?;
        let driver = driver(self.known.model);
        for row in (table.rows)(&self.known) {
            out.write_record([driver.to_owned()].into_iter().chain(row))?;
        }
        out.flush()
    }
}
