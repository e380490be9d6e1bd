//! `cargo xtask bench screen`: from an event in the emulated driver to its line on the screen, in a pseudo-terminal.
//!
//! The dashboard shows its log, where each completed span has a line with the moment it ended. The bytes of each picture
//! are timed when they come out of the terminal; a line that was not there before is an event whose picture took so long.
//! The terminal is that of `script` (util-linux), whose own delay is in the figures.

mod cells;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::cells::Cells;
use super::process;
use crate::apscope::{self, Scratch};
use crate::failure::Failure;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Use this apscope instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How it is measured
    #[arg(long, value_delimiter = ',', default_value = "in-process")]
    probes: Vec<String>,
    /// How long, for each way of measuring
    #[arg(long, value_name = "D", default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Where the table goes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "docs/results/screen.md"
    )]
    output: PathBuf,
}

/// The 99th percentile must not be above.
const LIMIT_MS: f64 = 150.0;
/// Columns and lines of the terminal.
const SIZE: (usize, usize) = (120, 60);
/// A picture is complete when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(5);
/// Not counted: the run begins, and the log fills.
const WARM_UP: Duration = Duration::from_secs(3);

/// Measures each way, writes the table.
pub fn run(root: &Path, options: &Options) -> Result<(), Failure> {
    let binary = apscope::binary(root, options.binary.clone())?;
    let mut text = format!(
        "# From event to screen\n\n\
         The scenario `steady` of the emulated driver at the default interval of 100 ms, and the dashboard in a pseudo-terminal\n\
         of {} by {}. From the moment that a span ends, by its own clock reading, until the last byte of the first picture that\n\
         shows it has come out of the terminal. The 99th percentile is to be {LIMIT_MS} ms at most. Written by `cargo xtask bench\n\
         screen`.\n\n{}\
         \n| probe | pictures | events | median ms | p99 ms | longest ms |\n|---|--:|--:|--:|--:|--:|\n",
        SIZE.0,
        SIZE.1,
        process::provenance(),
    );
    let mut slow = None;
    for probe in &options.probes {
        let (pictures, mut latencies) = measure(&binary, probe, options.duration)?;
        latencies.sort_by(f64::total_cmp);
        let at = |share| super::quantile(&latencies, share);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {probe} | {pictures} | {} | {:.0} | {:.0} | {:.0} |",
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        let line = format!(
            "{probe}: {} events, median {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
        println!("{line}");
        if at(0.99).is_nan() || at(0.99) > LIMIT_MS {
            slow = Some(line);
        }
    }
    let table = root.join(&options.output);
    fs::write(&table, text).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    slow.map_or(Ok(()), |slow| Err(Failure::found(slow)))
}

/// Some bytes, and when they came: nanoseconds of CLOCK_MONOTONIC.
type Chunk = (u64, Vec<u8>);

/// CLOCK_MONOTONIC in nanoseconds.
#[expect(
    unsafe_code,
    reason = "the moments of spans are of this clock, and std's Instant does not say its own"
)]
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The dashboard in its terminal; ended when dropped.
struct Dashboard {
    child: Child,
    keys: ChildStdin,
    chunks: Receiver<Chunk>,
}

impl Dashboard {
    fn start(binary: &Path, probe: &str, folder: &Path) -> Result<Self, Failure> {
        let command = format!(
            "stty cols {} rows {}; exec '{}' --source emulator --probe {probe} --scenario steady --guests 1 --vcpus 1 --rate 0.05",
            SIZE.0,
            SIZE.1,
            binary.display()
        );
        let failed = |e: std::io::Error| {
            Failure::new("starting the dashboard in a terminal")
                .cause(e.to_string())
                .hint("`script` of util-linux")
        };
        let mut child = Command::new("script")
            .args(["-qfec", &command, "/dev/null"])
            .current_dir(folder)
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let missing = || Failure::new("the terminal has no input or output");
        let keys = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        Ok(Self {
            child,
            keys,
            chunks: timed(output),
        })
    }

    fn press(&mut self, keys: &str) -> Result<(), Failure> {
        let done = self.keys.write_all(keys.as_bytes());
        done.map_err(|e| Failure::new("pressing a key").cause(e.to_string()))
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // Best effort: closing its terminal ends it too.
        let _ = self.press("q");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads on a thread of its own, so that a moment is that of the bytes.
fn timed(mut output: ChildStdout) -> Receiver<Chunk> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let chunk = (monotonic_ns(), buffer[..count].to_vec());
            if sender.send(chunk).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Number of pictures, and for each event that a picture was the first to show, how long that took in milliseconds.
fn measure(binary: &Path, probe: &str, duration: Duration) -> Result<(u64, Vec<f64>), Failure> {
    let scratch = Scratch::new()?;
    let mut dashboard = Dashboard::start(binary, probe, scratch.path())?;
    let mut cells = Cells::new(SIZE.0, SIZE.1);
    // Attaching takes its time: the first picture says that it is over.
    let begin = Instant::now();
    while !cells.lines().iter().any(|line| line.contains("EMULATED")) {
        if begin.elapsed() > Duration::from_secs(60) {
            return Err(Failure::new("the dashboard shows nothing").cause(cells.lines().join("\n")));
        }
        picture(&dashboard.chunks, &mut cells)?;
    }
    dashboard.press("8")?;
    let mut seen: HashSet<String> = HashSet::new();
    let mut last: BTreeSet<String> = BTreeSet::new();
    let (mut pictures, mut gaps) = (0_u64, 0_u64);
    // Time since the start of the run, and the moment of the picture.
    let mut first_shown: Vec<(u64, u64)> = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP + duration {
        let Some(at_ns) = picture(&dashboard.chunks, &mut cells)? else {
            continue;
        };
        let counted = begin.elapsed() > WARM_UP;
        let mut now = BTreeSet::new();
        for line in cells.lines() {
            let Some(ended_ns) = ended(&line) else {
                continue;
            };
            if seen.insert(line.clone()) && counted {
                first_shown.push((ended_ns, at_ns));
            }
            now.insert(line);
        }
        if counted {
            pictures += 1;
            gaps += u64::from(now.is_disjoint(&last));
        }
        last = now;
    }
    // More than a screen of spans in one tick: those that are never seen would be the slowest.
    if pictures == 0 || gaps * 100 > pictures {
        return Err(
            Failure::new("the pictures do not show every span").cause(format!(
                "{gaps} of {pictures} pictures have no line in common with the one before"
            )),
        );
    }
    let start_ns = start(&mut dashboard, &mut cells, scratch.path())?;
    let latencies = first_shown
        .into_iter()
        .map(|(ended_ns, at_ns)| at_ns.saturating_sub(start_ns + ended_ns) as f64 / 1e6)
        .collect();
    Ok((pictures, latencies))
}

/// The next picture: when its last bytes came. `None` where none came for a while.
fn picture(chunks: &Receiver<Chunk>, cells: &mut Cells) -> Result<Option<u64>, Failure> {
    use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
    let mut last = None;
    loop {
        let wait = if last.is_some() {
            QUIET
        } else {
            Duration::from_secs(1)
        };
        match chunks.recv_timeout(wait) {
            Ok((at_ns, bytes)) => {
                cells.take(&bytes);
                last = Some(at_ns);
            }
            Err(Timeout) => return Ok(last),
            Err(Disconnected) => {
                return Err(Failure::new("the dashboard has ended").cause(cells.lines().join("\n")));
            }
        }
    }
}

/// When the span of a line of the log ended: `0:03.217`, nanoseconds since the start of the run.
fn ended(line: &str) -> Option<u64> {
    let (time, _) = line.trim_start().split_once(' ')?;
    let (minutes, rest) = time.split_once(':')?;
    let (seconds, millis) = rest.split_once('.')?;
    let number = |text: &str, digits: usize| -> Option<u64> {
        (text.len() == digits).then(|| text.parse().ok())?
    };
    let minutes: u64 = minutes.parse().ok()?;
    let millis = (minutes * 60 + number(seconds, 2)?) * 1_000 + number(millis, 3)?;
    Some(millis * 1_000_000)
}

/// What the screen counts from: the dashboard writes it with the rows of the log.
fn start(dashboard: &mut Dashboard, cells: &mut Cells, folder: &Path) -> Result<u64, Failure> {
    dashboard.press("xj")?;
    let file = folder.join("apscope-log.json");
    let begin = Instant::now();
    loop {
        picture(&dashboard.chunks, cells)?;
        let text = fs::read_to_string(&file).unwrap_or_default();
        let written: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(start_ns) = written.and_then(|written| written["start_ns"].as_u64()) {
            return Ok(start_ns);
        }
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(
                Failure::new("the dashboard does not say when the run began")
                    .cause(format!("{} has no start_ns", file.display())),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_have_a_time() {
        assert_eq!(ended(" 0:03.217 vcpu0 lock"), Some(3_217_000_000));
        assert_eq!(ended("12:00.001 x"), Some(720_001_000_000));
        for line in [
            "",
            "0:03 info started",
            "    ended task",
            "q quit",
            "1 Overview",
        ] {
            assert_eq!(ended(line), None, "{line}");
        }
    }
}
