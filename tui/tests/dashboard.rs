//! The program itself, in a pseudo-terminal, on the emulated driver measured in process (which needs no privilege).
//!
//! The pseudo-terminal is that of `script` (util-linux).
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const APSCOPE: &str = env!("CARGO_BIN_EXE_apscope");
const RUN: &str = "--source emulator --probe in-process --guests 2";
const ATTACH: &str = "--source emulator --probe in-process --pid";
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// Starts apscope in a terminal of this size; its exit code ends the output as `rc=N`, after the terminal's settings.
fn in_terminal(columns: u16, lines: u16, environment: &str, arguments: &str) -> Child {
    let command = format!(
        "stty cols {columns} rows {lines}; {environment} '{APSCOPE}' {arguments}; rc=$?; \
         stty -a | grep -oE -- '-?icanon'; echo rc=$rc"
    );
    Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`script` of util-linux")
}

/// An emulator on its own, gone at the end of the test whatever happens.
struct Emulator(Child);

impl Emulator {
    fn start() -> Self {
        let mut child = Command::new(APSCOPE)
            .args(["emulate", "--guests", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says that it runs.
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap())
            .read_line(&mut said)
            .unwrap();
        assert!(said.contains("EMULATED"), "{said}");
        Self(child)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(child: Child) -> String {
    let Output { stdout, .. } = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&stdout).into_owned()
}

fn assert_given_back(text: &str) {
    let entered = text.find(ENTER).expect("the alternate screen");
    let left = text.rfind(LEAVE).expect("the alternate screen is left");
    assert!(entered < left);
    let rest = &text[left..];
    assert!(rest.contains(SHOW_CURSOR), "{rest:?}");
    assert!(
        rest.contains("icanon") && !rest.contains("-icanon"),
        "raw mode is off: {rest:?}"
    );
}

#[test]
fn q_leaves_the_terminal_as_it_was() {
    let mut child = in_terminal(80, 24, "", RUN);
    sleep(Duration::from_secs(3));
    child.stdin.as_mut().unwrap().write_all(b"2?\x1bq").unwrap();
    let text = output(child);
    assert_given_back(&text);
    assert!(text.contains("EMULATED"));
    assert!(text.contains("kvm_busy*"));
    assert!(text.ends_with("rc=0\r\n"), "{text:?}");
}

#[test]
fn a_duration_ends_it_and_no_color_means_none() {
    let text = output(in_terminal(
        80,
        24,
        "NO_COLOR=1",
        &format!("{RUN} --duration 1s"),
    ));
    assert_given_back(&text);
    assert!(text.contains("EMULATED"));
    assert!(text.ends_with("rc=0\r\n"), "{text:?}");
    for colour in 30..38 {
        assert!(!text.contains(&format!("\x1b[{colour}m")), "{colour}");
        assert!(!text.contains(&format!("\x1b[38;5;{}m", colour - 30)));
    }
}

#[test]
fn a_dead_source_leaves_its_picture_and_exit_code_2() {
    let mut emulator = Emulator::start();
    let pid = emulator.0.id();
    let mut child = in_terminal(100, 30, "", &format!("{ATTACH} {pid}"));
    sleep(Duration::from_secs(3));
    emulator.0.kill().unwrap();
    emulator.0.wait().unwrap();
    sleep(Duration::from_secs(2));
    child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let text = output(child);
    assert_given_back(&text);
    assert!(text.contains("SOURCE DIED"), "{text:?}");
    assert!(text.contains("error: "), "{text:?}");
    assert!(text.contains("cause: ") && text.contains("try: "));
    assert!(text.ends_with("rc=2\r\n"), "{text:?}");
}

#[test]
fn leaving_does_not_end_an_emulator_that_was_there_before() {
    let mut emulator = Emulator::start();
    let mut child = in_terminal(80, 24, "", &format!("{ATTACH} {}", emulator.0.id()));
    sleep(Duration::from_secs(2));
    child.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let text = output(child);
    assert!(text.ends_with("rc=0\r\n"), "{text:?}");
    sleep(Duration::from_millis(300));
    assert_eq!(emulator.0.try_wait().unwrap(), None);
}

#[test]
fn where_it_cannot_be_drawn_there_is_a_text() {
    for text in [
        output(in_terminal(59, 24, "", &format!("{RUN} --duration 1s"))),
        output(in_terminal(
            80,
            24,
            "TERM=dumb",
            &format!("{RUN} --duration 1s"),
        )),
        output(in_terminal(
            80,
            24,
            "",
            &format!("{RUN} --duration 1s --plain"),
        )),
    ] {
        assert!(!text.contains('\x1b'), "{text:?}");
        assert!(
            text.contains("EMULATED") && text.contains("kvm_busy"),
            "{text}"
        );
        assert!(
            text.lines()
                .all(|line| line.trim_end().chars().count() <= 79)
        );
    }
}

#[test]
fn pictures_are_drawn_from_a_run() {
    let file = std::env::temp_dir().join(format!("apscope-picture-{}.svg", std::process::id()));
    for view in ["locks", "lock-detail", "entries"] {
        let status = Command::new(APSCOPE)
            .args(["screenshot", "--after", "1s", "--view", view, "-o"])
            .arg(&file)
            .args(RUN.split(' '))
            .status()
            .unwrap();
        assert!(status.success());
        let picture = fs::read_to_string(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(
            picture.starts_with("<svg") && picture.contains("EMULATED"),
            "{view}"
        );
    }
    let status = Command::new(APSCOPE)
        .args(["screenshot", "--after", "10ms", "-o", "/nowhere/x.svg"])
        .args(RUN.split(' '))
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}
