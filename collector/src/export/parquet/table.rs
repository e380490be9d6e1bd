//! Rows that become columns, a group at a time.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

/// Rows of a group: what is kept in memory before it is written.
const GROUP: usize = 65_536;

/// A column of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// A value may be absent, where it does not apply.
    pub optional: bool,
    /// What it means.
    pub about: &'static str,
}

/// Kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// A signed 64-bit integer.
    Number,
    /// Nanoseconds since 1970 UTC, as a timestamp.
    Time,
    /// True or false.
    Flag,
}

impl Kind {
    /// As the schema language of Parquet spells it: the type, and what it stands for.
    pub const fn spelled(self) -> (&'static str, &'static str) {
        match self {
            Self::Text => ("BYTE_ARRAY", "(UTF8)"),
            Self::Number => ("INT64", ""),
            Self::Time => ("INT64", "(TIMESTAMP(NANOS,true))"),
            Self::Flag => ("BOOLEAN", ""),
        }
    }
}

/// A value of a row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Text(&'a str),
    Number(i64),
    Flag(bool),
    Nothing,
}

impl<'a> Cell<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(text)
    }

    /// A number; one that is too large becomes the largest.
    pub(super) fn number(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Values of a column that are there, and for each row whether it has one.
#[derive(Debug, Default)]
struct Values {
    texts: Vec<ByteArray>,
    numbers: Vec<i64>,
    flags: Vec<bool>,
    defined: Vec<i16>,
}

/// A file that is being written.
pub(super) struct Table<W: Write + Send> {
    columns: &'static [Column],
    values: Vec<Values>,
    rows: usize,
    file: SerializedFileWriter<W>,
}

impl<W: Write + Send> Table<W> {
    pub(super) fn new(name: &str, columns: &'static [Column], out: W) -> io::Result<Self> {
        let schema = parse_message_type(&message(name, columns)).map_err(io::Error::other)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("apscope ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))
            .map_err(io::Error::other)?;
        Ok(Self {
            columns,
            values: columns.iter().map(|_| Values::default()).collect(),
            rows: 0,
            file,
        })
    }

    /// Adds a row, which has a cell for each column.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        debug_assert_eq!(cells.len(), self.columns.len());
        for (values, cell) in self.values.iter_mut().zip(cells) {
            values
                .defined
                .push(i16::from(!matches!(cell, Cell::Nothing)));
            match cell {
                Cell::Text(text) => values.texts.push(ByteArray::from(*text)),
                Cell::Number(number) => values.numbers.push(*number),
                Cell::Flag(flag) => values.flags.push(*flag),
                Cell::Nothing => {}
            }
        }
        self.rows += 1;
        if self.rows >= GROUP {
            self.group().map_err(io::Error::other)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.group().map_err(io::Error::other)?;
        }
        self.file.close().map(drop).map_err(io::Error::other)
    }

    fn group(&mut self) -> parquet::errors::Result<()> {
        let mut group = self.file.next_row_group()?;
        for (column, values) in self.columns.iter().zip(&mut self.values) {
            write(&mut group, column, values)?;
            *values = Values::default();
        }
        self.rows = 0;
        group.close().map(drop)
    }
}

fn write<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    column: &Column,
    values: &Values,
) -> parquet::errors::Result<()> {
    let Some(mut out) = group.next_column()? else {
        return Ok(());
    };
    let defined = column.optional.then_some(values.defined.as_slice());
    match column.kind {
        Kind::Text => {
            let out = out.typed::<ByteArrayType>();
            out.write_batch(&values.texts, defined, None)?;
        }
        Kind::Number | Kind::Time => {
            let out = out.typed::<Int64Type>();
            out.write_batch(&values.numbers, defined, None)?;
        }
        Kind::Flag => {
            let out = out.typed::<BoolType>();
            out.write_batch(&values.flags, defined, None)?;
        }
    }
    out.close()
}

/// The schema in Parquet's own language.
fn message(name: &str, columns: &[Column]) -> String {
    let lines = columns.iter().map(|column| {
        let (kind, meaning) = column.kind.spelled();
        let need = if column.optional {
            "OPTIONAL"
        } else {
            "REQUIRED"
        };
        format!("{need} {kind} {} {meaning};", column.name)
    });
    format!(
        "message {name} {{ {} }}",
        lines.collect::<Vec<_>>().join(" ")
    )
}
