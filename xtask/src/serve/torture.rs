//! Fifty clients that connect, read, stall, die, say nothing and talk nonsense, for minutes: what they cost the daemon.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::Daemon;
use crate::failure::Failure;

const CLIENTS: u32 = 50;
/// Before and after them.
const ALONE: Duration = Duration::from_secs(45);
/// What the daemon may grow by meanwhile: the frames kept (16 MiB), one in the buffer of each client, and the allocator.
const MAY_GROW_KIB: u64 = 64 << 10;

/// One stretch of the run.
struct Phase {
    name: &'static str,
    seconds: f64,
    emitted: f64,
    dropped: f64,
    left_out: f64,
    cpu_percent: f64,
    resident_kib: (u64, u64),
}

/// Runs the check; returns its section of the results.
pub fn check(
    program: &Path,
    clients: &Path,
    folder: &Path,
    length: Duration,
) -> Result<String, Failure> {
    let daemon = Daemon::start(
        program,
        folder,
        &["--scenario", "steady", "--guests", "8", "--rate", "16"],
    )?;
    // Allocations of the start are over.
    sleep(Duration::from_secs(5));
    let before = phase(&daemon, "before", ALONE)?;
    println!("{CLIENTS} clients for {} s", length.as_secs());
    let mut running = Command::new(clients)
        .arg(&daemon.socket)
        .args([CLIENTS.to_string(), length.as_secs().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::file("running", clients, &e))?;
    let during = phase(&daemon, "with clients", length);
    if during.is_err() {
        let _ = running.kill();
    }
    let output = running
        .wait_with_output()
        .map_err(|e| Failure::file("running", clients, &e))?;
    let during = during?;
    let did: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| Failure::new("reading what the clients did").cause(e.to_string()))?;
    let after = phase(&daemon, "after", ALONE)?;
    let watching = daemon.metric("apscope_serve_clients")?;
    daemon.stop()?;
    judge(&before, &during, &after, watching)?;
    Ok(section(&[before, during, after], &did))
}

fn judge(before: &Phase, during: &Phase, after: &Phase, watching: f64) -> Result<(), Failure> {
    if before.dropped > 0.0 {
        return Err(Failure::new(
            "the machine is too busy: spans were dropped without clients",
        ));
    }
    let mut wrong = Vec::new();
    if during.dropped > 0.0 || after.dropped > 0.0 {
        wrong.push(format!("{} spans dropped", during.dropped + after.dropped));
    }
    if during.resident_kib.1 > before.resident_kib.1 + MAY_GROW_KIB {
        wrong.push(format!(
            "memory grew from {} KiB to {} KiB",
            before.resident_kib.1, during.resident_kib.1
        ));
    }
    if watching > 0.0 {
        wrong.push(format!("{watching} clients that are gone are still served"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::found("clients cost the daemon something").cause(wrong.join("; ")))
    }
}

fn phase(daemon: &Daemon, name: &'static str, length: Duration) -> Result<Phase, Failure> {
    let counts = || -> Result<[f64; 3], Failure> {
        Ok([
            daemon.metric("apscope_events_emitted_total")?,
            daemon.metric("apscope_events_dropped_total")?,
            daemon.metric("apscope_serve_left_out_frames_total")?,
        ])
    };
    let (first, cpu) = (counts()?, cpu_ticks(daemon.pid())?);
    let start = Instant::now();
    let mut resident_kib = (u64::MAX, 0);
    while start.elapsed() < length {
        let now = resident(daemon.pid())?;
        resident_kib = (resident_kib.0.min(now), resident_kib.1.max(now));
        sleep(Duration::from_millis(500));
    }
    let seconds = start.elapsed().as_secs_f64();
    let (last, cpu) = (counts()?, cpu_ticks(daemon.pid())? - cpu);
    Ok(Phase {
        name,
        seconds,
        emitted: last[0] - first[0],
        dropped: last[1] - first[1],
        left_out: last[2] - first[2],
        // A hundred ticks a second, on every Linux that apscope runs on.
        cpu_percent: cpu as f64 / seconds,
        resident_kib,
    })
}

fn file(pid: u32, name: &str) -> Result<String, Failure> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).map_err(|e| Failure::file("reading", Path::new(&path), &e))
}

/// Resident memory in KiB.
fn resident(pid: u32) -> Result<u64, Failure> {
    let status = file(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let digits = line.and_then(|line| line.split_whitespace().next());
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Failure::new("the daemon's memory is not known"))
}

/// CPU time of all threads, in ticks.
fn cpu_ticks(pid: u32) -> Result<u64, Failure> {
    let stat = file(pid, "stat")?;
    let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
    let fields = rest.split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum())
}

fn section(phases: &[Phase], did: &Value) -> String {
    let mut text = format!(
        "## Clients that behave badly\n\n{CLIENTS} clients at a time, each of which lives up to eight seconds and then again: they \
         read, stop reading with the connection open, die in the middle of a frame, connect and say nothing, or talk nonsense. \
         The daemon's pings, time limits and bounded queues are all that there is against them.\n\n| | seconds | spans a \
         second | dropped | frames left out for slow clients | resident memory, KiB | CPU of the daemon |\n|---|--:|--:|--:|--:|--:|--:|\n"
    );
    // Writing to a String cannot fail.
    for phase in phases {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {} | {} | {} to {} | {:.0} % |",
            phase.name,
            phase.seconds,
            phase.emitted / phase.seconds,
            phase.dropped,
            phase.left_out,
            phase.resident_kib.0,
            phase.resident_kib.1,
            phase.cpu_percent,
        );
    }
    let count = |name: &str| did["lives"][name].as_u64().unwrap_or(0);
    let _ = writeln!(
        text,
        "\n{} connections ({} that read, {} that stalled, {} that died, {} silent, {} nonsense) took {} MiB of frames.",
        did["connections"],
        count("read"),
        count("stalled"),
        count("died"),
        count("silent"),
        count("nonsense"),
        did["bytes"].as_u64().unwrap_or(0) >> 20,
    );
    text
}
