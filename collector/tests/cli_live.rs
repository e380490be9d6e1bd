//! Commands on a running source: the emulated driver, measured in process, so that no privilege is needed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const LIVE: [&str; 8] = [
    "--source",
    "emulator",
    "--probe",
    "in-process",
    "--guests",
    "2",
    "--vcpus",
    "1",
];

fn apscope(folder: &Path, arguments: &[&str]) -> Command {
    started(folder, LIVE.iter().chain(arguments))
}

fn started<'a>(folder: &Path, arguments: impl IntoIterator<Item = &'a &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apscope-collector"));
    command
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Sends a signal to a process that this test has started.
fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// The process whose parent is this one.
fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (comm) state ppid
        let parent_of_it = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        (parent_of_it.parse() == Ok(parent)).then_some(pid)
    })
}

/// Waits until a recording has its first flush.
fn wait_for_flush(folder: &Path, name: &str, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(folder.join(name)).map_or(0, |m| m.len()) < 1_000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(Instant::now() < deadline, "nothing was recorded");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn export(folder: &Path, recording: &str) -> Value {
    let arguments = ["export", recording, "--format", "json", "-o", "out.json"];
    let output = started(folder, &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    json(folder, "out.json")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_export_equals_the_ground_truth() {
    let folder = TempDir::new().unwrap();
    let arguments = [
        "export",
        "--duration",
        "1s",
        "--format",
        "json",
        "-o",
        "out.json",
        "--truth",
        "truth.json",
    ];
    let output = apscope(folder.path(), &arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let (out, truth) = (
        json(folder.path(), "out.json"),
        json(folder.path(), "truth.json"),
    );
    assert_eq!(out["source"]["kind"], "emulator");
    assert_eq!(out["source"]["probe"], "in-process");
    let mut acquisitions = 0;
    for counted in truth["locks"].as_array().unwrap() {
        let measured = out["locks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|lock| lock["class"] == counted["class"] && lock["mode"] == counted["mode"])
            .unwrap();
        for member in ["acquisitions", "contended", "releases", "attempts_failed"] {
            assert_eq!(
                measured[member], counted[member],
                "{} {member}",
                counted["class"]
            );
        }
        acquisitions += counted["acquisitions"].as_u64().unwrap();
    }
    for counted in truth["entry_points"].as_array().unwrap() {
        let measured = out["entry_points"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["name"] == counted["name"])
            .unwrap();
        assert_eq!(measured["calls"], counted["calls"], "{}", counted["name"]);
        assert_eq!(
            measured["returns"], counted["returns"],
            "{}",
            counted["name"]
        );
    }
    assert!(acquisitions > 0, "the emulator did nothing");
}

#[test]
fn an_interrupted_recording_is_whole() {
    let folder = TempDir::new().unwrap();
    let mut child = apscope(folder.path(), &["record", "-o", "r"])
        .spawn()
        .unwrap();
    wait_for_flush(folder.path(), "r", &mut child);
    signal("-INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("recorded"));
    let value = export(folder.path(), "r");
    assert_eq!(value["source"]["ended"], "finished");
    let events = &value["events"];
    let count = |name: &str| events[name].as_u64().unwrap();
    assert_eq!(count("emitted"), count("received") + count("dropped"));
}

#[test]
fn an_emulator_that_dies_is_said_and_costs_nothing_recorded() {
    let folder = TempDir::new().unwrap();
    let mut child = apscope(folder.path(), &["record", "-o", "r"])
        .spawn()
        .unwrap();
    wait_for_flush(folder.path(), "r", &mut child);
    let emulator = child_of(child.id()).expect("the emulator is a child of the collector");
    signal("-KILL", emulator);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output);
    let error = told.lines().find(|line| line.starts_with("error: "));
    assert_eq!(error, Some("error: the emulated driver ended unexpectedly"));
    let value = export(folder.path(), "r");
    assert_eq!(value["source"]["ended"], "source died");
}

#[test]
fn a_killed_export_leaves_the_older_file_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("old"), "precious").unwrap();
    for name in ["old", "new"] {
        let arguments = [
            "-v",
            "export",
            "--duration",
            "1h",
            "--format",
            "json",
            "-o",
            name,
        ];
        let mut child = apscope(folder.path(), &arguments).spawn().unwrap();
        // Outputs are opened before the emulator is started.
        let deadline = Instant::now() + Duration::from_secs(60);
        while child_of(child.id()).is_none() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(Instant::now() < deadline, "nothing was started");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal("-KILL", child.id());
        child.wait().unwrap();
    }
    assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_summary_of_a_running_source_is_plain() {
    let folder = TempDir::new().unwrap();
    let output = apscope(folder.path(), &["--watch", "--duration", "2500ms"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).starts_with("measuring for 2s 500ms ...\n"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.is_ascii());
    assert!(text.lines().all(|line| line.len() <= 79), "{text}");
    assert!(text.contains("EMULATED driver v5.13"));
    // Each second, and at the end.
    assert!(text.matches("\nLOCK ").count() >= 2, "{text}");
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let folder = TempDir::new().unwrap();
    for (option, known) in [("--generation", "v5.13"), ("--scenario", "steady")] {
        let output = apscope(folder.path(), &[option, "v9"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let told = text(&output);
        assert!(
            told.starts_with("error: unknown") && told.contains(known),
            "{told}"
        );
    }
}
