//! What the first screen says of runs of now, and not of those that were recorded once.

use std::fs;
use std::process::Command;

use crate::{HANGS, Hang, STARVED, named_at_once};

/// Runs the emulated driver for some seconds, measured in process; what was recorded shows the same.
fn happens_again(hang: &Hang, guests: &str) {
    let (scenario, generation) = hang.recording.rsplit_once("-v").unwrap();
    let name = format!("apscope-{}-{scenario}.apscope", std::process::id());
    let file = std::env::temp_dir().join(name);
    let run = Command::new(env!("CARGO_BIN_EXE_apscope"))
        .args(["record", "--source", "emulator", "--probe", "in-process"])
        .args(["--scenario", scenario, "--guests", guests])
        .arg(format!("--generation=v{generation}"))
        .args(["--duration", "4s", "-o"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    named_at_once(hang, &file);
    fs::remove_file(&file).unwrap();
}

#[test]
fn a_starved_vcpu_is_named_with_the_flag_that_it_waits_for() {
    // Those who set the flag starve too now and then: who is woken most often is chance.
    let any = Hang {
        tasks: &["/guest-"],
        ..STARVED
    };
    happens_again(&any, "5");
}

#[test]
fn a_deadlock_is_named_with_its_tasks_and_the_flag() {
    happens_again(&HANGS[0], "3");
}
