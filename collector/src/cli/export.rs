//! `export`: what was measured, in the formats that other tools read.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::live::{Finished, Warnings, follow, note};
use super::output::Replaced;
use super::reading::fold_recording;
use super::writing::Writing;
use super::{Failure, Globals, run_options};
use crate::diagnose::Case;
use crate::export::Origin;
use crate::source::Session;

/// Arguments of `export`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ExportArgs {
    /// Recording or support bundle to export, `-` is the standard input; without it, the source is measured for `--duration`
    pub file: Option<PathBuf>,

    /// Format of the output
    #[arg(long, value_enum)]
    pub format: Format,

    /// File to write, `-` is the standard output; for `csv` and `parquet`, a folder to write files into
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,

    /// Of each lock class, so many instances have metrics of their own (`openmetrics` and `prometheus` only)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub instances: usize,

    /// Also write what the emulated driver counted in its own code, as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub truth: Option<PathBuf>,
}

/// Formats of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object, described in docs/json.md
    Json,
    /// Metrics as OpenMetrics 1.0 text, listed in docs/metrics.md
    #[value(name = "openmetrics")]
    OpenMetrics,
    /// The same in the older text format of Prometheus, for text files of node_exporter
    Prometheus,
    /// A folder with a CSV file for each table, spans among them
    Csv,
    /// HdrHistogram log, V2: waits, holds and latencies, tagged by lock class and entry point
    Hlog,
    /// Time waited and held, as folded stacks for flame graphs; functions inside where --stacks-over took stacks
    Folded,
    /// The order of locks, and who waits for whom, for Graphviz
    Dot,
    /// Perfetto trace: calls, waits, holds and releases of each task, queues of locks
    Perfetto,
    /// A folder with Parquet files of spans and of histograms
    Parquet,
}

impl ExportArgs {
    /// Only metrics have a number of instances; every other format has all of them.
    fn instances_apply(&self) -> Result<(), Failure> {
        if self.instances == 0 || matches!(self.format, Format::OpenMetrics | Format::Prometheus) {
            return Ok(());
        }
        Err(Failure::new(
            "--instances cannot be used here",
            "it limits the metrics of formats openmetrics and prometheus; other formats have all instances",
            "the same command without --instances",
        ))
    }
}

pub(super) fn run(args: &ExportArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    different(&args.output, args.truth.as_deref())?;
    args.instances_apply()?;
    if let Some(file) = &args.file {
        globals.only_read(file, &[])?;
        not_over(file, &args.output)?;
        let mut writing = Writing::open(args)?;
        let mut case = Case::default();
        fold_recording(file, &mut case, |case, frame| writing.frame(case, frame))?;
        writing.finish(&case, Origin::Recording)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(duration) = globals.duration else {
        return Err(Failure::new(
            "nothing says how long to measure",
            "an export of a running source needs --duration",
            "--duration 5s, or the path of a recording",
        ));
    };
    let mut options = run_options(globals)?;
    options.truth = args.truth.is_some();
    let mut writing = Writing::open(args)?;
    let truth = args.truth.as_deref().map(Replaced::open).transpose()?;
    let mut case = Case::default();
    let session = Session::start(&options)?;
    let finished = follow(globals, Warnings::Told, session, Some(duration), |frame| {
        case.apply(frame);
        writing.frame(&case, frame)
    })?;
    writing.finish(&case, Origin::Live)?;
    finish(globals, &finished, truth)
}

/// The last steps of a command that followed a run: the ground truth, and what is to be said about its end.
pub(super) fn finish(
    globals: &Globals,
    finished: &Finished,
    truth: Option<Replaced>,
) -> Result<ExitCode, Failure> {
    finished.check()?;
    if let Some(output) = truth {
        let Some(truth) = &finished.truth else {
            return Err(Failure::new(
                format!("{} could not be written", output.target()),
                "there is no ground truth: only an emulated driver that is stopped in order has one",
                "without --truth",
            ));
        };
        output.write(|mut out| {
            serde_json::to_writer_pretty(&mut out, truth)?;
            out.write_all(b"\n")
        })?;
    }
    if let Some(end) = finished.end.as_ref().filter(|end| end.how == "stuck")
        && !globals.quiet
    {
        note(&format!("note: the run ended stuck: {}", end.detail));
    }
    Ok(ExitCode::SUCCESS)
}

/// A file cannot be two outputs.
pub(super) fn different(output: &Path, truth: Option<&Path>) -> Result<(), Failure> {
    if truth.is_some_and(|truth| is_same(truth, output)) {
        return Err(Failure::new(
            format!("{} cannot be both outputs", output.display()),
            "--output and --truth name the same file",
            "two different paths",
        ));
    }
    Ok(())
}

/// A recording that is read must not be written over: it may be the only one.
pub(super) fn not_over(input: &Path, output: &Path) -> Result<(), Failure> {
    // `-` is the standard input here, and the standard output there.
    let input = match input.as_os_str() {
        name if name == "-" => Path::new("/dev/stdin"),
        _ => input,
    };
    let both_files =
        output.as_os_str() != "-" && std::fs::metadata(output).is_ok_and(|m| m.is_file());
    if both_files && is_same(input, output) {
        return Err(Failure::new(
            format!("{} cannot be written", output.display()),
            "it is the recording that is read",
            "another path for --output",
        ));
    }
    Ok(())
}

/// The same file, by whatever names.
fn is_same(a: &Path, b: &Path) -> bool {
    let file = |path: &Path| Some(std::fs::metadata(path).ok()?).map(|m| (m.dev(), m.ino()));
    a == b || file(a).is_some_and(|a| file(b) == Some(a))
}
