//! All exports of a run, in memory: what the command writes into files.
#![allow(
    dead_code,
    reason = "shared by several tests, each of which uses a part"
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use apscope_collector::diagnose::Case;
use apscope_collector::export::folded::Folded;
use apscope_collector::export::json::Document;
use apscope_collector::export::openmetrics::{self, Dialect, Options};
use apscope_collector::export::{Origin, csv, dot, hlog, parquet, perfetto};
use apscope_collector::frame::Frame;
use apscope_collector::report;

/// Content by name of the file.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A file in memory that outlives its writer.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Folds frames, and gives what is known in the end and all files.
pub fn exports(frames: &[Frame], origin: Origin) -> (Case, Files) {
    let mut case = Case::default();
    let mut folded = Folded::default();
    let mut trace = perfetto::Trace::new(Vec::new());
    let mut spans = csv::Spans::new(Vec::new()).unwrap();
    let rows = Shared::default();
    let mut row_groups = parquet::Spans::new(rows.clone()).unwrap();
    let mut collected = report::Collected::default();
    for frame in frames {
        case.apply(frame);
        folded.frame(frame);
        trace.frame(&case.model, frame).unwrap();
        spans.frame(&case.model, frame).unwrap();
        row_groups.frame(&case.model, frame).unwrap();
        collected.frame(&case, frame);
    }
    let model = &case.model;
    let found = case.report();
    let mut files = Files::new();
    let mut add = |name: &str, write: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
        let mut bytes = Vec::new();
        write(&mut bytes).unwrap();
        files.insert(name.to_owned(), bytes);
    };
    add("out.json", &|out| {
        Document::of(model, origin, &found).write(out)
    });
    for (name, dialect) in [
        ("out.openmetrics", Dialect::OpenMetrics),
        ("out.prometheus", Dialect::Prometheus),
    ] {
        let options = Options {
            dialect,
            instances: 3,
        };
        add(name, &|out| openmetrics::write(model, &found, options, out));
    }
    add("out.hlog", &|out| hlog::write(model, out));
    add("out.dot", &|out| dot::write(model, &found, out));
    add("out.folded", &|out| folded.write(model, out));
    add("report.html", &|out| {
        report::write(&collected, &case, origin, out)
    });
    let tables = csv::Tables::new(model, &found, origin);
    for table in &csv::TABLES {
        add(&format!("{}.csv", table.name), &|out| {
            tables.write(table, out)
        });
    }
    let histograms = Shared::default();
    parquet::histograms(model, histograms.clone()).unwrap();
    files.insert("histograms.parquet".to_owned(), histograms.take());
    files.insert("spans.csv".to_owned(), spans.finish().unwrap());
    files.insert("out.perfetto".to_owned(), trace.finish(model).unwrap());
    row_groups.finish().unwrap();
    files.insert("spans.parquet".to_owned(), rows.take());
    (case, files)
}

/// The frames, written as a recording and read again.
pub fn replayed(frames: &[Frame]) -> Vec<Frame> {
    use apscope_collector::recording::{Reader, Writer};
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in frames {
        writer.push(frame).unwrap();
    }
    let bytes = writer.finish().unwrap();
    Reader::new(&bytes[..])
        .unwrap()
        .map(Result::unwrap)
        .collect()
}
