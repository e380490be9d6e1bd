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
        .env("LC_ALL", "C.UTF-8")
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
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"2345678?\x1bq")
        .unwrap();
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
fn the_terminal_is_given_back_after_a_panic() {
    let text = output(in_terminal(80, 24, "", &format!("{RUN} --panic-after 1s")));
    assert_given_back(&text);
    assert!(text.contains("asked for by --panic-after"), "{text:?}");
    assert!(text.ends_with("rc=101\r\n"), "{text:?}");
}

#[test]
fn a_recording_is_gone_through() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/recordings/se-start-v5.13.apscope"
    );
    let mut child = in_terminal(100, 30, "", &format!("replay {file} --paused"));
    sleep(Duration::from_secs(1));
    // To the first critical finding, a step back and forth, faster, and play.
    let stdin = child.stdin.as_mut().unwrap();
    for keys in [&b"n"[..], b"n", b",", b".", b"+", b" ", b"7", b"]", b"["] {
        stdin.write_all(keys).unwrap();
        sleep(Duration::from_millis(150));
    }
    stdin.write_all(b"q").unwrap();
    let text = output(child);
    assert_given_back(&text);
    for part in ["EMULATED", "STOPPED", "PLAYING", "AP001"] {
        assert!(text.contains(part), "{part} in {text:?}");
    }
    assert!(text.ends_with("rc=0\r\n"), "{text:?}");
    // Where it begins is shown without a key.
    let arguments = format!("replay {file} --paused --duration 2s");
    let text = output(in_terminal(100, 30, "", &arguments));
    assert!(text.contains("busiest locks"), "{text:?}");
    assert!(text.contains("matrix_dev->lock"), "{text:?}");
    let text = output(in_terminal(80, 24, "", "replay /nowhere"));
    assert!(
        text.contains("cannot be read as a recording") && text.ends_with("rc=2\r\n"),
        "{text:?}"
    );
}

#[test]
fn the_configuration_is_printed_checked_and_used() {
    let folder = std::env::temp_dir().join(format!("apscope-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("config.toml");
    let apscope = |arguments: &[&str]| Command::new(APSCOPE).args(arguments).output().unwrap();
    let printed = apscope(&["config", "--print-default"]);
    assert!(printed.status.success());
    fs::write(&file, &printed.stdout).unwrap();
    let path = file.to_str().unwrap();
    let checked = apscope(&["config", path]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("is in order"));
    fs::write(&file, "[keys]\nquit = \"z\"\n").unwrap();
    let mut child = in_terminal(
        80,
        24,
        "",
        &format!("{RUN} --config {path} --ascii --theme light"),
    );
    sleep(Duration::from_secs(2));
    child.stdin.as_mut().unwrap().write_all(b"qz").unwrap();
    let text = output(child);
    assert!(text.ends_with("rc=0\r\n"), "{text:?}");
    let picture = &text[text.find(ENTER).unwrap()..text.rfind(LEAVE).unwrap()];
    assert!(picture.is_ascii(), "{picture:?}");
    fs::write(&file, "[keys]\njump = \"j\"\n").unwrap();
    let text = output(in_terminal(80, 24, "", &format!("{RUN} --config {path}")));
    assert!(
        text.contains("there is no action jump") && text.ends_with("rc=2\r\n"),
        "{text:?}"
    );
    // The option names a file for `config` too, and is not ignored where there is no dashboard.
    for arguments in [
        &["config", path][..],
        &["--config", path, "config"],
        &["--config", path],
        &["--config", path, "--plain"],
    ] {
        let refused = apscope(arguments);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("there is no action jump"), "{said}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_locale_without_utf_8_is_drawn_in_ascii_and_a_vt_without_colours() {
    let text = output(in_terminal(
        80,
        24,
        "LC_ALL=C TERM=vt220",
        &format!("{RUN} --duration 1s"),
    ));
    let picture = &text[text.find(ENTER).unwrap()..text.rfind(LEAVE).unwrap()];
    assert!(picture.contains("EMULATED"), "{picture:?}");
    assert!(picture.is_ascii(), "{picture:?}");
    assert!(!picture.contains("\x1b[38;5;"), "{picture:?}");
}

#[test]
fn another_run_elsewhere_is_waited_for() {
    if Command::new("tmux").arg("-V").output().is_err() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("apscope-again-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = format!("unix:{}", folder.join("s").display());
    let serve = || {
        let serve = format!("{RUN} serve --listen {socket}");
        Served(
            Command::new(APSCOPE)
                .args(serve.split_whitespace())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    };
    let there = |place: &std::path::Path| {
        let mut waits = 0..200;
        while !place.exists() && waits.next().is_some() {
            sleep(Duration::from_millis(50));
        }
        sleep(Duration::from_secs(1));
    };
    let first = serve();
    there(&folder.join("s"));
    let tmux = Tmux(format!("apscope-again-{}", std::process::id()));
    let command = format!("LC_ALL=C.UTF-8 {APSCOPE} --connect {socket}; echo left rc=$?; sleep 60");
    tmux.run(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
    tmux.wait_for("matrix_dev->lock");
    first.stop();
    let screen = tmux.wait_for("ENDED over there");
    assert!(screen.contains("waiting for another (q quits)"), "{screen}");
    assert!(screen.contains("as of "), "{screen}");
    tmux.wait_for("ENDED over there 2s ago");
    let second = serve();
    let mut waits = 0..100;
    while tmux.run(&["capture-pane", "-p"]).contains("ENDED") && waits.next().is_some() {
        sleep(Duration::from_millis(100));
    }
    let screen = tmux.wait_for("matrix_dev->lock");
    assert!(
        !screen.contains("ENDED") && !screen.contains("as of "),
        "{screen}"
    );
    tmux.keys(&["q"]);
    tmux.wait_for("left rc=0");
    second.stop();
    fs::remove_dir_all(&folder).unwrap();
}

/// A collector that serves, gone at the end of the test whatever happens.
struct Served(Child);

impl Served {
    /// As a service manager stops it.
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.is_ok_and(|status| status.success()));
        assert!(self.0.wait().is_ok());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_view_is_written_to_files() {
    let folder = std::env::temp_dir().join(format!("apscope-export-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut child = in_terminal(80, 24, &format!("cd '{}';", folder.display()), RUN);
    sleep(Duration::from_secs(2));
    let stdin = child.stdin.as_mut().unwrap();
    for keys in [
        &b"2"[..],
        b"x",
        b"t",
        b"x",
        b"s",
        b"x",
        b"j",
        b"x",
        b"t",
        b"y",
    ] {
        stdin.write_all(keys).unwrap();
        sleep(Duration::from_millis(150));
    }
    stdin.write_all(b"q").unwrap();
    let text = output(child);
    assert!(text.contains("\x1b]52;c;"), "the clipboard: {text:?}");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("apscope-locks.txt").contains("kvm_busy*"));
    assert!(
        read("apscope-locks-1.txt").contains("EMULATED"),
        "never over another file"
    );
    assert!(read("apscope-locks.svg").starts_with("<svg"));
    assert!(read("apscope-locks.json").contains("\"emulated\": true"));
    fs::remove_dir_all(&folder).unwrap();
}

/// tmux on a socket of its own, gone at the end of the test whatever happens.
struct Tmux(String);

impl Tmux {
    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.0])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The screen, as soon as it contains a text.
    fn wait_for(&self, part: &str) -> String {
        let mut screen = String::new();
        for _ in 0..100 {
            screen = self.run(&["capture-pane", "-p"]);
            if screen.contains(part) {
                return screen;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("{part} in\n{screen}");
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn a_person_at_a_terminal() {
    if Command::new("tmux").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tmux is missing");
        eprintln!("SKIPPED: there is no tmux");
        return;
    }
    let tmux = Tmux(format!("apscope-{}", std::process::id()));
    let command = format!(
        "env -u NO_COLOR '{APSCOPE}' {RUN}; echo left rc=$?; stty -a | grep -oE -- '-?icanon'; sleep 60"
    );
    tmux.run(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
    tmux.wait_for("busiest locks");
    for (key, part) in [
        ("2", "acq/s"),
        ("3", "calls/s"),
        ("4", "vCPUs"),
        ("5", "a lane is one lock"),
        ("6", "cursor"),
        ("7", "7 Findings"),
        ("8", "ended"),
        ("1", "busiest locks"),
    ] {
        tmux.keys(&[key]);
        tmux.wait_for(part);
    }
    tmux.keys(&["2", "/"]);
    tmux.keys(&["-l", "wait>"]);
    tmux.wait_for("needs a time");
    tmux.keys(&["-l", "1ns"]);
    tmux.keys(&["Enter"]);
    tmux.wait_for("filter: wait>1ns");
    tmux.keys(&["Escape"]);
    tmux.keys(&["s", "r"]);
    tmux.wait_for("▲");
    tmux.keys(&["Space"]);
    tmux.wait_for("PAUSED");
    tmux.run(&["resize-window", "-x", "130", "-y", "40"]);
    tmux.wait_for("activity");
    tmux.keys(&["Space", "?"]);
    tmux.wait_for("what is shown");
    tmux.keys(&["Escape", "q"]);
    let screen = tmux.wait_for("left rc=0");
    assert!(
        !screen.contains("EMULATED"),
        "the screen is as it was: {screen}"
    );
}

#[test]
fn a_signal_ends_it_in_order() {
    let tmux = Tmux(format!("apscope-signal-{}", std::process::id()));
    if Command::new("tmux").arg("-V").output().is_err() {
        return;
    }
    // `exec` would leave no shell to look at the terminal: the number goes into a file instead.
    let file = std::env::temp_dir().join(format!("apscope-signal-{}", std::process::id()));
    let command = format!(
        "sh -c 'echo $$ > {0}; exec {APSCOPE} {RUN}'; echo left rc=$?; stty -a | grep -oE -- '-?icanon'; sleep 60",
        file.display()
    );
    tmux.run(&["new-session", "-d", "-x", "80", "-y", "24", &command]);
    tmux.wait_for("busiest locks");
    let pid = fs::read_to_string(&file).unwrap();
    assert!(
        Command::new("kill")
            .args(["-TERM", pid.trim()])
            .status()
            .unwrap()
            .success()
    );
    let screen = tmux.wait_for("icanon");
    assert!(
        screen.contains("left rc=0") && !screen.contains("-icanon"),
        "{screen}"
    );
    fs::remove_file(&file).unwrap();
}
