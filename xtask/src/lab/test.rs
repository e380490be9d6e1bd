//! `cargo xtask lab test`: for each kernel, starts guests with the scripts of the checks, some at the same time, judges what
//! they leave, and prints each fact with what was measured. A table comes last.

use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::checks::{
    Alone, BOOTS, Boot, Evidence, Findings, LIBRARY, Line, build_examples, processes,
};
use super::console::Sink;
use super::guest::{Guest, Hardware};
use super::kernels::{self, Kernel};
use super::programs::Programs;
use super::room::{Place, Room, Turn};
use super::{doctor, find, qemu, runs};
use crate::apscope;
use crate::failure::Failure;
use crate::process;

/// What to test.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kernel: 5.10, 5.10-lockdep, 6.1, 6.12, 7.2, or 6.12-stock
    #[arg(long, value_name = "V", default_value = "6.12", conflicts_with = "all")]
    kernel: String,
    /// All kernels
    #[arg(long)]
    all: bool,
    /// Folder of ready kernels, instead of those that `lab build` made
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// How often trace, each time with another seed, and lockdep are repeated; with --only, what it names
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Machines that run at the same time; each has two CPUs, and waits a good deal. [default: the CPUs here]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Only these tests
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(BOOTS.map(|boot| boot.name)))]
    only: Vec<String>,
    /// This apscope for s390x instead of building one
    #[arg(long, value_name = "FILE")]
    apscope: Option<PathBuf>,
    /// This apscope for this machine, which reads the recordings, instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Start no machine: judge what the last run has left
    #[arg(long)]
    judge: bool,
    /// Also write the results as a document
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Results of one start.
#[derive(Debug)]
struct Row {
    kernel: String,
    boot: &'static str,
    run: u32,
    took: Duration,
    lines: Vec<(&'static str, Line)>,
}

impl Row {
    /// Where the start has left what it has left.
    fn folder(&self, root: &Path) -> PathBuf {
        runs(root).join(format!("{}-{}-{}", self.kernel, self.boot, self.run))
    }
}

/// Runs the tests; a fact that is not as it must be is a finding.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    doctor::require(doctor::Use::Run)?;
    let names: Vec<&str> = if options.all {
        kernels::NAMES.to_vec()
    } else {
        vec![&options.kernel]
    };
    let kernels = names
        .iter()
        .map(|name| find(root, options.kernels.as_deref(), name))
        .collect::<Result<Vec<_>, _>>()?;
    let host = apscope::binary(root, options.binary.clone())?;
    let programs = if options.judge {
        None
    } else {
        Some(Programs::build(root, options.apscope.as_deref())?)
    };
    let jobs = jobs(&kernels, options);
    if jobs.is_empty() {
        return Err(Failure::new("nothing to test").cause("no check is for these kernels"));
    }
    if jobs.iter().any(|job| job.boot.examples) {
        build_examples(root)?;
    }
    let start = Instant::now();
    let tester = Tester {
        root,
        programs: programs.as_ref(),
        host: &host,
        room: Room::default(),
    };
    let rows = tester.all(jobs, workers(options.jobs));
    let table = table(&rows);
    println!("\n{table}");
    println!("{} s in all", start.elapsed().as_secs());
    if let Some(output) = &options.output {
        let took = (!options.judge).then(|| start.elapsed());
        fs::write(output, document(&rows, &table, took))
            .map_err(|e| Failure::file("writing", output, &e))?;
    }
    let mut failed = 0;
    for row in &rows {
        for (subject, line) in row.lines.iter().filter(|(_, line)| !line.passed) {
            failed += 1;
            println!(
                "FAIL {} {}, run {}: {subject}: {}: {}",
                row.kernel, row.boot, row.run, line.what, line.measured
            );
            println!("     in {}", row.folder(root).display());
        }
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::found(format!("{failed} checks failed")))
    }
}

/// A start that is to be made.
#[derive(Debug, Clone, Copy)]
struct Job<'a> {
    kernel: &'a Kernel,
    boot: &'static Boot,
    run: u32,
    repeats: u32,
}

impl Job<'_> {
    fn name(&self) -> String {
        let Self {
            kernel,
            boot,
            run,
            repeats,
        } = self;
        format!("{} {}, run {run} of {repeats}", kernel.name, boot.name)
    }

    fn alone(&self) -> Alone {
        (self.boot.alone)(self.kernel)
    }

    /// Greater for what is to begin earlier: what must be alone, so that nobody has to be waited for, and then what lasts.
    fn precedence(&self) -> (Alone, bool) {
        (self.alone(), self.kernel.has_lockdep())
    }
}

/// Everything that is to be started, kernel after kernel.
fn jobs<'a>(kernels: &'a [Kernel], options: &Options) -> Vec<Job<'a>> {
    let wanted =
        |boot: &Boot| options.only.is_empty() || options.only.iter().any(|name| name == boot.name);
    kernels
        .iter()
        .flat_map(|kernel| BOOTS.iter().map(move |boot| (kernel, boot)))
        .filter(|(kernel, boot)| wanted(boot) && (boot.is_for)(kernel))
        .flat_map(|(kernel, boot)| {
            let repeated = boot.repeated || !options.only.is_empty();
            let repeats = if repeated { options.runs } else { 1 };
            (1..=repeats).map(move |run| Job {
                kernel,
                boot,
                run,
                repeats,
            })
        })
        .collect()
}

fn workers(wanted: Option<u32>) -> usize {
    wanted.map_or_else(
        || thread::available_parallelism().map_or(1, NonZeroUsize::get),
        |jobs| jobs as usize,
    )
}

/// What all starts have in common.
#[derive(Debug)]
struct Tester<'a> {
    root: &'a Path,
    programs: Option<&'a Programs>,
    host: &'a Path,
    room: Room,
}

impl Tester<'_> {
    /// Results in the order of the jobs, however they were done.
    fn all(&self, jobs: Vec<Job<'_>>, workers: usize) -> Vec<Row> {
        let mut queue: Vec<_> = jobs.into_iter().enumerate().collect();
        // The last is taken first; of equals, those of the newest kernel, which take longest.
        queue.sort_by_key(|(_, job)| job.precedence());
        let (all, ended) = (queue.len(), AtomicUsize::new(0));
        let queue = Mutex::new(queue);
        // Who takes a job is in the line for a machine before the next job is taken.
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue
                .pop()
                .map(|(number, job)| (number, job, self.room.line_up()))
        };
        let work = || {
            let mut done = Vec::new();
            while let Some((number, job, turn)) = next() {
                done.push((number, self.one(&job, &turn)));
                let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
                println!("{}[{ended}/{all}]", spell(&job, &done[done.len() - 1].1));
            }
            done
        };
        let mut done = Vec::new();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                match thread.join() {
                    Ok(rows) => done.extend(rows),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, row)| row).collect()
    }

    /// One start of a guest, and what is to say of it.
    fn one(&self, job: &Job<'_>, turn: &Turn) -> Row {
        let alone = job.alone();
        let place = self.room.enter(turn, alone != Alone::Never);
        let mut row = Row {
            kernel: job.kernel.name.clone(),
            boot: job.boot.name,
            run: job.run,
            took: Duration::ZERO,
            lines: Vec::new(),
        };
        let folder = row.folder(self.root);
        let seconds = folder.join("seconds");
        let mut is_over = false;
        // The folder is this guest's until it is judged.
        let mut guest = None;
        if let Some(programs) = self.programs {
            let mut findings = Findings::default();
            match Guest::new(&folder, job.kernel.clone(), programs) {
                Ok(made) => {
                    start(&made, job, &place, &mut row.took, &mut findings);
                    // For who judges again; without it, it is not known.
                    let _ = fs::write(&seconds, row.took.as_secs_f64().to_string());
                    guest = Some(made);
                }
                Err(failure) => findings.add("the guest", false, one_line(&failure)),
            }
            is_over = !findings.lines.is_empty() && row.took == Duration::ZERO;
            row.lines
                .extend(findings.lines.into_iter().map(|line| ("guest", line)));
        } else {
            let known = fs::read_to_string(&seconds).ok();
            let known = known.and_then(|text| text.trim().parse().ok());
            row.took = Duration::try_from_secs_f64(known.unwrap_or(0.0)).unwrap_or_default();
        }
        if !is_over {
            let evidence = Evidence {
                kernel: job.kernel,
                folder: folder.join("share/out"),
                apscope: self.host.into(),
                root: self.root.into(),
            };
            // To judge takes processors too; a machine need not be waited for if it is not measured.
            if alone != Alone::Always {
                drop(place);
            }
            judge(&evidence, job.boot, &mut row);
        }
        drop(guest);
        row
    }
}

/// Runs the script; how long the machine lived, if it ended by itself, and what went wrong.
fn start(
    guest: &Guest,
    job: &Job<'_>,
    place: &Place,
    took: &mut Duration,
    findings: &mut Findings,
) {
    let (boot, alone) = (job.boot, job.alone());
    let hardware = Hardware {
        shim: boot.shim.iter().map(|&option| option.into()).collect(),
        expedited: boot.expedited,
        ..Hardware::default()
    };
    let script = format!("SEED={}\n{LIBRARY}\n{}", job.run, boot.script);
    let share = {
        let place = place.clone();
        move |line: &str| {
            if let Alone::Until(mark) = alone
                && line.contains(mark)
            {
                place.share();
            }
        }
    };
    println!("{}: started", job.name());
    let ended = Sink::new(&guest.log(), false)
        .and_then(|sink| guest.run_with(&script, &hardware, boot.deadline, sink.watched(share)));
    match ended {
        Ok(ended) => {
            *took = ended.took;
            if ended.code != 0 {
                let log = guest.log();
                let measured = format!("exit code {}, see {}", ended.code, log.display());
                findings.add("the script", false, measured);
            }
        }
        Err(failure) => findings.add("the machine", false, one_line(&failure)),
    }
}

/// Looks at what a start has left.
fn judge(evidence: &Evidence, boot: &Boot, row: &mut Row) {
    let everywhere = [("processes", processes::judge as _)];
    for &(subject, judge) in everywhere.iter().chain(boot.judges) {
        let mut findings = Findings::default();
        if let Err(failure) = judge(evidence, &mut findings) {
            findings.add("results", false, one_line(&failure));
        }
        row.lines
            .extend(findings.lines.into_iter().map(|line| (subject, line)));
    }
}

/// The facts of one start.
fn spell(job: &Job<'_>, row: &Row) -> String {
    let mut text = format!("\n{}: {:.0} s\n", job.name(), row.took.as_secs_f64());
    for (subject, line) in &row.lines {
        let mark = if line.passed { "ok" } else { "FAIL" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {mark:<4} {subject}: {}: {}",
            line.what, line.measured
        );
    }
    text
}

fn one_line(failure: &Failure) -> String {
    failure.to_string().replace('\n', ", ")
}

/// One line for each start.
fn table(rows: &[Row]) -> String {
    let mut text =
        "| kernel | test | run | checks | failed | seconds |\n|---|---|--:|--:|--:|--:|\n"
            .to_owned();
    for row in rows {
        let failed = row.lines.iter().filter(|(_, line)| !line.passed).count();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {failed} | {:.0} |",
            row.kernel,
            row.boot,
            row.run,
            row.lines.len(),
            row.took.as_secs_f64(),
        );
    }
    text
}

fn document(rows: &[Row], table: &str, took: Option<Duration>) -> String {
    let emulator = qemu::version().unwrap_or_default();
    let took = took.map_or_else(
        || "judged again".to_owned(),
        |took| format!("{} s", took.as_secs()),
    );
    let mut text = format!(
        "# The lab\n\n\
         What `cargo xtask lab test` has measured on the genuine driver, which it starts in an emulated machine with emulated\n\
         AP hardware; [lab.md](../lab.md) says what is genuine and what is not. Written by it with `--output`.\n\n\
         {}| emulator | {emulator} |\n| in all | {took} |\n\n{table}",
        process::provenance(),
    );
    for row in rows.iter().filter(|row| row.run == 1) {
        let _ = write!(
            text,
            "\n## {}: {}\n\n| | check | | measured |\n|---|---|---|---|\n",
            row.kernel, row.boot
        );
        for (subject, line) in &row.lines {
            let _ = writeln!(
                text,
                "| {subject} | {} | {} | {} |",
                cell(&line.what),
                if line.passed { "ok" } else { "**fails**" },
                cell(&line.measured)
            );
        }
    }
    text
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_counted() {
        let line = |passed| Line {
            what: "a|b".into(),
            passed,
            measured: "1".into(),
        };
        let rows = [Row {
            kernel: "6.12".into(),
            boot: "trace",
            run: 1,
            took: Duration::from_secs(7),
            lines: vec![("x", line(true)), ("y", line(false))],
        }];
        let table = table(&rows);
        assert!(
            table.ends_with("| 6.12 | trace | 1 | 2 | 1 | 7 |\n"),
            "{table}"
        );
        let document = document(&rows, &table, Some(Duration::from_secs(9)));
        assert!(
            document.contains("| y | a\\|b | **fails** | 1 |"),
            "{document}"
        );
    }
}
