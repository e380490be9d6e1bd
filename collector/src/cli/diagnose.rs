//! `diagnose`: what is the matter, as text for a report or as JSON; live, of a recording, or of a text with stacks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::live::{Warnings, follow, note};
use super::output::print;
use super::reading::{Given, frames};
use super::{Failure, Globals, run_options, values};
use crate::bundle::{Contents, names};
use crate::diagnose::chain::Chain;
use crate::diagnose::upstream::GENERATIONS;
use crate::diagnose::{Case, Diagnosis, Finding, Report, Severity, Thresholds, stacks, text};
use crate::export::json::{Document, Origin, rfc3339};
use crate::frame::LogLine;
use crate::machine::real_host;
use crate::model::Model;
use crate::options::RunOptions;
use crate::source::Session;
use crate::survey::measures_kernel;

/// How long a run is watched where nothing is said.
const DEFAULT_DURATION: Duration = Duration::from_secs(5);
/// A deadlock does not go away: that long after it was found there is nothing to wait for.
const AFTER_CRITICAL_NS: u64 = 1_000_000_000;
/// Bytes of a pasted text that are read.
const MAX_TEXT: u64 = 64 << 20;

/// Arguments of `diagnose`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct DiagnoseArgs {
    /// Recording or support bundle to diagnose, `-` is the standard input; without it, the source is watched for `--duration`, or 5 s
    pub file: Option<PathBuf>,

    /// Diagnose stacks that somebody saved: hung-task or sysrq-w lines, /proc/*/stack, `foreach bt` of crash; `-` reads
    /// the standard input. Neither a driver nor privileges are needed
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub from: Option<PathBuf>,

    /// One JSON object, described in docs/json.md, instead of text
    #[arg(long)]
    pub json: bool,

    /// Keep watching, and print what changes, until `--duration` is over or ctrl-c
    #[arg(long, conflicts_with_all = ["file", "from", "json"])]
    pub watch: bool,

    /// Least severity that makes the exit code 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = FailOn::Info)]
    pub fail_on: FailOn,

    /// Say so if nothing of this guest is stuck here (AP000): its number, as in guest-N
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = values::guest)]
    pub guest: Option<u32>,

    /// From when on something is a finding, for example stuck=500ms; docs/findings.md lists them. May be given several
    /// times
    #[arg(long = "threshold", value_name = "NAME=VALUE")]
    pub thresholds: Vec<String>,
}

/// Severities that make the exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// A guest or the driver does not go on.
    Critical,
    /// That, or it costs time, or can become critical.
    Warning,
    /// Any finding.
    Info,
}

impl FailOn {
    pub(super) const fn severity(self) -> Severity {
        match self {
            Self::Critical => Severity::Critical,
            Self::Warning => Severity::Warning,
            Self::Info => Severity::Info,
        }
    }
}

pub(super) fn run(args: &DiagnoseArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let mut case = Case {
        model: Model::default(),
        diagnosis: Diagnosis::new(thresholds(&args.thresholds)?),
    };
    if let Some(guest) = args.guest {
        case.diagnosis.ask(guest);
    }
    if let Some(path) = &args.from {
        globals.only_read(path, &["--generation"])?;
        let assumed = from_text(path, globals, &mut case)?;
        tell_assumed(args, globals, &assumed);
        return answer(args, &case, &case.report(), Origin::Recording);
    }
    if let Some(path) = &args.file {
        return from_file(args, globals, path, case);
    }
    live(args, globals, case)
}

fn thresholds(given: &[String]) -> Result<Thresholds, Failure> {
    let mut all = Thresholds::default();
    for text in given {
        all.set(text).map_err(|cause| {
            Failure::new(
                format!("--threshold {text} cannot be set"),
                cause,
                "--threshold stuck=500ms",
            )
        })?;
    }
    Ok(all)
}

/// Watches a source. The answer is that of the last moment before the source is stopped: what stopping does to it is
/// not what was asked.
fn live(args: &DiagnoseArgs, globals: &Globals, mut case: Case) -> Result<ExitCode, Failure> {
    let options = run_options(globals)?;
    let duration = match globals.duration {
        None if !args.watch => Some(DEFAULT_DURATION),
        duration => duration,
    };
    if !globals.quiet {
        note(&match duration {
            Some(duration) => format!("watching for {} ...", humantime::format_duration(duration)),
            None => "watching until ctrl-c ...".to_owned(),
        });
    }
    let session = match Session::start(&options) {
        Ok(session) => session,
        Err(error) => return from_this_machine(args, globals, case, &options, error.into()),
    };
    let limit_ns = duration.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    let interval_ns = u64::try_from(options.interval.as_nanos()).unwrap_or(u64::MAX);
    let early = globals.duration.is_none() && !args.watch;
    let mut first_ns = None;
    let mut received = 0_u64;
    let mut answered: Option<Report> = None;
    let mut changes = Changes::default();
    let stop = session.stopper();
    let finished = follow(globals, Warnings::Told, session, duration, |frame| {
        if answered.is_some() {
            return Ok(());
        }
        // What is printed at the end is as of the end.
        let so_far = frame.at_ns.saturating_sub(first_ns.unwrap_or(frame.at_ns));
        let two_ticks = interval_ns.saturating_mul(2);
        let ends = limit_ns.is_some_and(|limit| so_far.saturating_add(two_ticks) >= limit);
        if ends
            || early
                && case
                    .report()
                    .findings
                    .iter()
                    .any(|f| stands_for_good(f, frame.at_ns))
        {
            case.diagnosis.next_is_last();
        }
        case.apply(frame);
        received += 1;
        let at_ns = case.model.last.at_ns;
        let attaching = is_attaching(&case);
        // The time to watch begins when everything is attached.
        let elapsed = if attaching {
            0
        } else {
            at_ns.saturating_sub(*first_ns.get_or_insert(at_ns))
        };
        let report = case.report();
        if args.watch {
            for line in changes.since(&report, &case.model) {
                print(&format!("{line}\n"))?;
            }
        }
        // Two ticks before the end: by then nobody has been told to stop.
        // (Attaching takes longer than a tick, once.)
        let tick = case.model.last.length_ns.min(interval_ns).saturating_mul(2);
        let over = limit_ns.is_some_and(|limit| elapsed.saturating_add(tick) >= limit);
        let clear = early
            && report
                .findings
                .iter()
                .any(|f| stands_for_good(f, at_ns) || attaching && is_deadlock(f));
        if over || clear || frame.end.is_some() {
            answered = Some(report);
        }
        if clear {
            stop.stop();
        }
        Ok(())
    });
    match finished {
        Ok(finished) => finished.check()?,
        // What the kernel's memory has said stands, also where nothing could be attached. A finding needs two readings.
        Err(error) if received >= 2 && is_attaching(&case) && !args.watch => {
            note(&format!(
                "warning: {}; this is what the kernel's memory says",
                error.line()
            ));
        }
        Err(error) => return Err(error),
    }
    let report = answered.unwrap_or_else(|| case.report());
    if args.watch {
        return Ok(exit_code(args, &report));
    }
    answer(args, &case, &report, Origin::Live)
}

/// All that was read so far is from the kernel's memory.
fn is_attaching(case: &Case) -> bool {
    case.model.meta.as_ref().is_some_and(|meta| meta.attaching)
}

/// A circle of tasks that wait for each other.
fn is_deadlock(finding: &Finding) -> bool {
    finding.active() && finding.id.0 == 1
}

/// Nothing that is seen later changes what there is to say.
fn stands_for_good(finding: &Finding, at_ns: u64) -> bool {
    is_deadlock(finding) && at_ns.saturating_sub(finding.found_ns) >= AFTER_CRITICAL_NS
}

/// Where nothing can be measured: what the stacks of this machine's tasks say, if it has the driver.
fn from_this_machine(
    args: &DiagnoseArgs,
    globals: &Globals,
    mut case: Case,
    options: &RunOptions,
    error: Failure,
) -> Result<ExitCode, Failure> {
    let asked = options.pid.is_none()
        && options.connect.is_none()
        && !args.watch
        && measures_kernel(options, real_host()).0
        && options.kernel.btf.is_empty();
    let parsed = asked
        .then(Session::stacks_alone)
        .flatten()
        .filter(|parsed| !parsed.tasks.is_empty());
    let Some(parsed) = parsed else {
        return Err(error);
    };
    note(&format!(
        "warning: {}; this is what the stacks of sleeping tasks say",
        error.line()
    ));
    let assumed = apply_stacks(&parsed, globals.generation.as_deref(), &mut case);
    tell_assumed(args, globals, &assumed);
    answer(args, &case, &case.report(), Origin::Live)
}

/// What was assumed of stacks. The text has it; JSON has no place for it.
fn tell_assumed(args: &DiagnoseArgs, globals: &Globals, assumed: &[String]) {
    if args.json && !globals.quiet {
        for text in assumed {
            note(&format!("note: {text}"));
        }
    }
}

/// Reads a recording or a support bundle; of a bundle that has no frames, the stacks.
fn from_file(
    args: &DiagnoseArgs,
    globals: &Globals,
    path: &Path,
    mut case: Case,
) -> Result<ExitCode, Failure> {
    globals.only_read(path, &["--generation"])?;
    let given = Given::open(path)?;
    let name = given.name().to_owned();
    let recording = match given.bundle()? {
        Ok(mut contents) => match stacks_alone(&contents) {
            Some(text) => {
                let assumed = apply_text(&name, &text, globals, &mut case)?;
                tell_assumed(args, globals, &assumed);
                return answer(args, &case, &case.report(), Origin::Recording);
            }
            None => frames(name, &mut contents)?,
        },
        Err(given) => given.recording()?,
    };
    globals.only_read(path, &[])?;
    recording.fold(&mut case, |_, _| Ok(()))?;
    answer(args, &case, &case.report(), Origin::Recording)
}

/// The stacks in a support bundle that has no frames.
fn stacks_alone(contents: &Contents) -> Option<Vec<u8>> {
    let text = contents.stacks();
    (contents.file(names::FRAMES).is_none() && !text.is_empty()).then_some(text)
}

fn from_text(path: &Path, globals: &Globals, case: &mut Case) -> Result<Vec<String>, Failure> {
    let (name, bytes) = read_bounded(path)?;
    apply_text(&name, &bytes, globals, case)
}

/// Applies the stacks in a text. Returns what was assumed.
fn apply_text(
    name: &str,
    bytes: &[u8],
    globals: &Globals,
    case: &mut Case,
) -> Result<Vec<String>, Failure> {
    if let Some((what, program)) = packed(bytes) {
        return Err(Failure::new(
            format!("{name} is no plain text"),
            format!("it is {what}"),
            format!("{program} {name} | apscope diagnose --from -"),
        ));
    }
    let text = String::from_utf8_lossy(bytes);
    let parsed = stacks::text::parse(&text);
    if parsed.tasks.is_empty() && parsed.messages.is_empty() {
        return Err(Failure::new(
            format!("{name} has no stacks"),
            "there is no hung-task report, no sysrq-w output, no /proc/PID/stack and no backtrace of crash in it",
            "echo w > /proc/sysrq-trigger; dmesg > FILE, on the host that hangs",
        ));
    }
    let generation = globals.generation.as_deref();
    if let Some(name) = generation.filter(|name| !GENERATIONS.contains(name)) {
        return Err(Failure::new(
            format!("there is no generation {name}"),
            format!("there are {}", GENERATIONS.join(", ")),
            "without --generation: it is found out from the stacks",
        ));
    }
    Ok(apply_stacks(&parsed, generation, case))
}

/// What a text was packed with, by its first bytes, and the program that makes it one again.
fn packed(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const KNOWN: [(&[u8], &str, &str); 6] = [
        (&[0x1f, 0x8b], "compressed with gzip", "zcat"),
        (b"BZh", "compressed with bzip2", "bzcat"),
        (
            &[0xfd, b'7', b'z', b'X', b'Z', 0],
            "compressed with xz",
            "xzcat",
        ),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd", "zstdcat"),
        (&[0xff, 0xfe], "in UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (&[0xfe, 0xff], "in UTF-16", "iconv -f UTF-16 -t UTF-8"),
    ];
    let of = |start: &[u8]| bytes.starts_with(start);
    let known = KNOWN.into_iter().find(|(start, ..)| of(start));
    // Without its mark, every other byte of a text in UTF-16 is 0.
    let wide = || {
        let start = bytes.get(..256).unwrap_or(bytes);
        let zeros: usize = start.iter().map(|byte| usize::from(*byte == 0)).sum();
        (zeros * 5 >= start.len() * 2 && zeros > 0).then(|| match start.first() {
            Some(0) => ("in UTF-16", "iconv -f UTF-16BE -t UTF-8"),
            _ => ("in UTF-16", "iconv -f UTF-16LE -t UTF-8"),
        })
    };
    known
        .map(|(_, what, program)| (what, program))
        .or_else(wide)
}

/// Applies the frame that stacks make. Returns what was assumed.
fn apply_stacks(
    parsed: &stacks::text::Parsed,
    generation: Option<&str>,
    case: &mut Case,
) -> Vec<String> {
    let (mut frame, notes) = stacks::frame::frame(parsed, generation);
    let at_ns = frame.at_ns;
    frame.log.extend(notes.iter().map(|text| LogLine {
        at_ns,
        level: "info".into(),
        text: text.clone(),
    }));
    case.apply(&frame);
    notes
}

fn read_bounded(path: &Path) -> Result<(String, Vec<u8>), Failure> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let (name, read) = if path.as_os_str() == "-" {
        let read = std::io::stdin()
            .lock()
            .take(MAX_TEXT)
            .read_to_end(&mut bytes);
        ("the standard input".to_owned(), read)
    } else {
        let read =
            std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_end(&mut bytes));
        (path.display().to_string(), read)
    };
    match read {
        Ok(_) => Ok((name, bytes)),
        Err(error) => Err(Failure::new(
            format!("{name} cannot be read"),
            error.to_string(),
            "a text file with stacks, or - for the standard input",
        )),
    }
}

fn answer(
    args: &DiagnoseArgs,
    case: &Case,
    report: &Report,
    origin: Origin,
) -> Result<ExitCode, Failure> {
    if args.json {
        let mut json = Vec::new();
        Document::of(&case.model, origin, report)
            .write(&mut json)
            .map_err(|error| {
                Failure::new(
                    "the diagnosis cannot be written as JSON",
                    error.to_string(),
                    "without --json",
                )
            })?;
        print(&String::from_utf8_lossy(&json))?;
    } else {
        print(&text::render(report, &case.model))?;
    }
    Ok(exit_code(args, report))
}

/// 0: nothing found; 1: findings at least as bad as was asked for.
fn exit_code(args: &DiagnoseArgs, report: &Report) -> ExitCode {
    let least = args.fail_on.severity();
    // AP000 says that it is not here.
    let accuses = |f: &&Finding| f.id.0 != 0;
    let found = report
        .findings
        .iter()
        .filter(accuses)
        .any(|f| f.seen.severity >= least);
    ExitCode::from(u8::from(found))
}

/// What `--watch` has printed already.
#[derive(Default)]
struct Changes {
    verdict: String,
    standing: Vec<(crate::diagnose::Id, String)>,
}

impl Changes {
    /// Lines for what is new: the verdict's first word, findings that begin, findings that are over.
    fn since(&mut self, report: &Report, model: &Model) -> Vec<String> {
        let at = rfc3339(model.last.at_unix_ns);
        let mut lines = Vec::new();
        let verdict = report.verdict.kind.name().to_owned();
        if verdict != self.verdict {
            lines.push(format!("{at} verdict: {}", report.verdict));
            self.verdict = verdict;
        }
        let standing: Vec<&Finding> = report.findings.iter().filter(|f| f.active()).collect();
        for finding in &standing {
            let key = (finding.id, finding.seen.key.clone());
            if !self.standing.contains(&key) {
                lines.push(format!("{at} begins: {}", text::line(finding)));
                let chain = finding.seen.chain.iter().flat_map(Chain::lines);
                lines.extend(chain.map(|line| format!("    {line}")));
                self.standing.push(key);
            }
        }
        self.standing.retain(|(id, key)| {
            let stands = standing.iter().any(|f| f.id == *id && f.seen.key == *key);
            if !stands {
                let past = report
                    .findings
                    .iter()
                    .find(|f| f.id == *id && f.seen.key == *key);
                let what = past.map_or_else(|| id.to_string(), text::line);
                lines.push(format!("{at} is over: {what}"));
            }
            stands
        });
        lines
    }
}
