//! `cargo xtask matrix --crash`: what a recorder leaves that is killed at a random moment.
//!
//! Each run records the emulated driver, waits until the file has its header, and sends SIGKILL after a time from 0 to 3 s
//! that is the same in every matrix. The file must open, its counts must be exact for what it covers, and it must reach to
//! within a second of the kill. The table goes to `docs/results/recording.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::apscope::Scratch;
use crate::failure::Failure;
use crate::process;

/// Recorders that are killed.
const RUNS: u32 = 50;
/// Bytes of the header of a recording.
const HEADER: u64 = 20;
/// What may be lost.
const MAY_LOSE: Duration = Duration::from_secs(1);
/// The latest moment.
const LATEST_MS: u64 = 3_000;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run.
struct Row {
    after: Duration,
    bytes: u64,
    spans: u64,
    lost: Duration,
    /// The file ended inside a flush, which was told.
    cut: bool,
}

/// Kills recorders and writes the table; a file that does not open, or misses more, is an error.
pub fn run(root: &Path, binary: &Path, output: &Path) -> Result<(), Failure> {
    let scratch = Scratch::new()?;
    let mut rows = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for number in 1..=RUNS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let after = Duration::from_millis(state % LATEST_MS);
        let row = kill(
            binary,
            &scratch.path().join("killed.apscope"),
            after,
            number,
        )?;
        println!(
            "run {number}: killed after {} ms, {} ms lost",
            row.after.as_millis(),
            row.lost.as_millis()
        );
        rows.push(row);
    }
    let table = root.join(output);
    fs::write(&table, markdown(&rows)).map_err(|e| Failure::file("writing", &table, &e))?;
    println!("table in {}", table.display());
    let most = rows.iter().map(|row| row.lost).max().unwrap_or_default();
    if most > MAY_LOSE {
        return Err(Failure::found(format!(
            "{} ms are lost, at most {} may be",
            most.as_millis(),
            MAY_LOSE.as_millis()
        )));
    }
    Ok(())
}

fn kill(binary: &Path, file: &Path, after: Duration, seed: u32) -> Result<Row, Failure> {
    let _ = fs::remove_file(file);
    let child = Command::new(binary)
        .args(["record", "-q", "--source", "emulator"])
        .args(["--probe", "in-process", "--rate", "10", "--seed"])
        .arg(seed.to_string())
        .arg("-o")
        .arg(file)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| Failure::file("running", binary, &e))?;
    let mut child = Killed(child);
    let patience = Instant::now() + Duration::from_secs(30);
    while fs::metadata(file).map_or(0, |m| m.len()) < HEADER {
        if Instant::now() > patience {
            return Err(Failure::new("the recorder does not begin"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = SystemTime::now();
    std::thread::sleep(after);
    child
        .0
        .kill()
        .map_err(|e| Failure::file("killing", binary, &e))?;
    let killed = SystemTime::now();
    drop(child);
    let bytes = fs::metadata(file).map_or(0, |m| m.len());
    let out = file.with_extension("json");
    let _ = fs::remove_file(&out);
    let exported = Command::new(binary)
        .args(["export", "--format", "json", "-o"])
        .arg(&out)
        .arg(file)
        .output()
        .map_err(|e| Failure::file("running", binary, &e))?;
    let said = String::from_utf8_lossy(&exported.stderr).into_owned();
    let broken = |why: &str| {
        Failure::found(format!(
            "run {seed}, killed after {} ms: {why}",
            after.as_millis()
        ))
        .cause(said.trim().to_owned())
    };
    let Ok(json) = fs::read_to_string(&out) else {
        // Nothing was flushed yet.
        if !said.contains("holds no frames") && !said.contains("is not whole") {
            return Err(broken("the file does not open"));
        }
        let lost = killed.duration_since(begun).unwrap_or_default();
        let cut = bytes > HEADER;
        return Ok(Row {
            after,
            bytes,
            spans: 0,
            lost,
            cut,
        });
    };
    let export: Value = serde_json::from_str(&json).map_err(|_| broken("its export is no JSON"))?;
    if export["exact"] != true {
        return Err(broken("its counts are not exact"));
    }
    let end = export["interval"]["end"].as_str().unwrap_or_default();
    let end = humantime::parse_rfc3339_weak(end).map_err(|_| broken("it has no end"))?;
    Ok(Row {
        after,
        bytes,
        spans: export["events"]["received"].as_u64().unwrap_or(0),
        lost: killed.duration_since(end).unwrap_or_default(),
        cut: !exported.status.success(),
    })
}

fn markdown(rows: &[Row]) -> String {
    let mut lost: Vec<Duration> = rows.iter().map(|row| row.lost).collect();
    lost.sort_unstable();
    let most = lost.last().copied().unwrap_or_default();
    let median = lost.get(lost.len() / 2).copied().unwrap_or_default();
    let mut text = format!(
        "# Recorders that were killed\n\n\
         `apscope record` of the emulated driver (EMULATED), killed by SIGKILL at {} random moments. Every file opens, its counts\n\
         are exact for what it covers, and what is lost is the time from its last frame to the kill, at most {} ms. Written by\n\
         `cargo xtask matrix --crash`.\n\n{}| killed | {} |\n| files that open | {} |\n| lost in the median | {} ms |\n\
         | lost at most | {} ms |\n| files that end inside a flush, which is told and skipped | {} |\n\n\
         | killed after ms | bytes | spans | lost ms |\n|--:|--:|--:|--:|\n",
        rows.len(),
        MAY_LOSE.as_millis(),
        process::provenance(),
        rows.len(),
        rows.len(),
        median.as_millis(),
        most.as_millis(),
        rows.iter().filter(|row| row.cut).count(),
    );
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            row.after.as_millis(),
            row.bytes,
            row.spans,
            row.lost.as_millis()
        );
    }
    text
}
