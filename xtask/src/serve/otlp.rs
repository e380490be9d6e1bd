//! The daemon exports to a receiver made of OpenTelemetry's own messages for Python: every count of the last export against
//! the last frame, and a log record for a deadlock.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::{Daemon, finished, free_port, get, read};
use crate::failure::Failure;
use crate::process;

/// The package that the receiver is made of.
const PACKAGE: &str = "opentelemetry-proto==1.29.0";

/// Runs the check; returns its section of the results.
pub fn check(program: &Path, folder: &Path) -> Result<String, Failure> {
    let packages = folder.join("python");
    process::run(
        Command::new("pip")
            .args(["install", "--quiet", "--target"])
            .arg(&packages)
            .arg(PACKAGE),
        "installing the receiver's messages",
    )?;
    let script = folder.join("receiver.py");
    fs::write(&script, include_str!("otlp_receiver.py"))
        .map_err(|e| Failure::file("writing", &script, &e))?;
    let (port, out) = (free_port()?, folder.join("received.json"));
    let mut receiver = Command::new("python3")
        .arg(&script)
        .arg(&packages)
        .arg(port.to_string())
        .arg(&out)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::new("running python3").cause(e.to_string()))?;
    let result = export(program, folder, port);
    // The end of its input ends it.
    drop(receiver.stdin.take());
    finished(receiver, "running the receiver")?;
    let last = result?;
    compare(&read(&out)?, &last)
}

/// A run into a deadlock, exported until its end. Returns what the last frame says.
fn export(program: &Path, folder: &Path, port: u16) -> Result<Value, Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(failure) = get(port, "/") {
        if Instant::now() > deadline {
            return Err(failure);
        }
        sleep(Duration::from_millis(100));
    }
    let config = folder.join("serve.toml");
    fs::write(&config, "otlp_interval = \"2s\"\n")
        .map_err(|e| Failure::file("writing", &config, &e))?;
    let url = format!("http://127.0.0.1:{port}");
    let config = config.display().to_string();
    let daemon = Daemon::start(
        program,
        folder,
        &[
            "--generation",
            "v5.13",
            "--scenario",
            "se-start",
            "--otlp",
            &url,
            "--config",
            &config,
        ],
    )?;
    let last = folder.join("last.json");
    let reader = daemon.export("10m", &last)?;
    println!("exporting over OTLP for 20 s");
    sleep(Duration::from_secs(20));
    daemon.stop()?;
    finished(reader, "reading until the end")?;
    read(&last)
}

fn compare(received: &Value, last: &Value) -> Result<String, Failure> {
    let mut wrong = Vec::new();
    let (mut numbers, mut histograms) = (0, 0);
    let rows = |name: &str| last[name].as_array().cloned().unwrap_or_default();
    let mut number = |name: String, ours: &Value| {
        numbers += 1;
        if received["numbers"][&name] != *ours {
            wrong.push(format!(
                "{name}: {ours}, received {}",
                received["numbers"][&name]
            ));
        }
    };
    let mut distributions = Vec::new();
    for lock in rows("locks") {
        let text = |name: &str| lock[name].as_str().unwrap_or_default().to_owned();
        let labels = format!(
            "apscope.lock.class={},apscope.lock.kind={},apscope.lock.mode={}",
            text("class"),
            text("kind"),
            text("mode")
        );
        for name in ["acquisitions", "contended", "releases", "attempts_failed"] {
            number(format!("apscope.lock.{name}{{{labels}}}"), &lock[name]);
        }
        for name in ["wait", "hold"] {
            distributions.push((
                format!("apscope.lock.{name}{{{labels}}}"),
                lock[name].clone(),
            ));
        }
    }
    for entry in rows("entry_points") {
        let name = entry["name"].as_str().unwrap_or_default().to_owned();
        let labels = format!("apscope.entry_point={name}");
        number(
            format!("apscope.entry_point.calls{{{labels}}}"),
            &entry["calls"],
        );
        distributions.push((
            format!("apscope.entry_point.duration{{{labels}}}"),
            entry["latency"].clone(),
        ));
    }
    for name in ["emitted", "received", "dropped"] {
        number(format!("apscope.events.{name}{{}}"), &last["events"][name]);
    }
    for (name, ours) in distributions {
        histograms += 1;
        let theirs = &received["histograms"][&name];
        if theirs["well"] != true || theirs["count"] != ours["count"] {
            wrong.push(format!(
                "{name}: {} values, received {theirs}",
                ours["count"]
            ));
        }
    }
    let logs = received["logs"].as_array().cloned().unwrap_or_default();
    let deadlock = logs.iter().find(|log| {
        log["apscope.finding.id"] == "AP001" && log["apscope.finding.state"] == "begins"
    });
    let body = deadlock
        .and_then(|log| log["body"].as_str())
        .unwrap_or_default();
    if !body.starts_with("EMULATED: ") {
        wrong.push("no log record says that there is a deadlock, and that it is emulated".into());
    }
    if received["resource"]["apscope.driver"] != "EMULATED" {
        wrong.push("the resource does not say EMULATED".into());
    }
    if received["unknown"] != 0 {
        wrong.push("the receiver does not know everything in a message".into());
    }
    if !wrong.is_empty() {
        return Err(
            Failure::found("what was received is not what was sent").cause(wrong.join("\n"))
        );
    }
    Ok(format!(
        "## OTLP\n\nA run into a deadlock, exported every two seconds to a receiver made of `{PACKAGE}` (PyPI); the last export \
         compared with the last frame.\n\n| | |\n|---|--:|\n| exports | {} |\n| counts, all equal | {numbers} |\n| histograms, all \
         counts equal, buckets adding up | {histograms} |\n| log records of findings | {} |\n\nThe record of the deadlock: \
         `{body}`\n",
        received["exports"],
        logs.len(),
    ))
}
