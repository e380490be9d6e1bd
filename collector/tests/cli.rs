//! The command line, as its user meets it: errors and files.

mod model_frames;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use apscope_collector::cli::plain;
use apscope_collector::diagnose::Case;
use apscope_collector::export::json::Origin;
use apscope_collector::frame::Frame;
use apscope_collector::recording::Writer;
use model_frames::{kernel_run, run};
use tempfile::TempDir;

fn apscope(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs a command that must fail; returns its three lines.
fn fails(folder: &Path, arguments: &[&str]) -> [String; 3] {
    let output = apscope(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    let mut lines = text.lines();
    let lines = ["error: ", "cause: ", "try: "].map(|start| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(start)
            .unwrap_or_else(|| panic!("{arguments:?}: {text}"))
            .to_owned()
    });
    assert!(lines.iter().all(|line| !line.is_empty()), "{text}");
    lines
}

fn recording(folder: &TempDir, name: &str, frames: &[Frame]) -> PathBuf {
    let path = folder.path().join(name);
    let mut writer = Writer::new(fs::File::create(&path).unwrap()).unwrap();
    for frame in frames {
        writer.push(frame).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn counts_out_of_bounds_are_refused_with_the_limit() {
    let folder = TempDir::new().unwrap();
    for (arguments, limit) in [
        (&["--guests", "0"][..], "1 to 1000"),
        (&["--guests", "100000"], "1 to 1000"),
        (&["--vcpus", "65"], "1 to 64"),
        (&["--guests", "1000", "--vcpus", "5"], "4000"),
        (&["--rate", "0"], "at most 1000"),
        (&["--rate", "NaN"], "at most 1000"),
        (&["--rate", "inf"], "at most 1000"),
        (&["--interval", "9ms"], "at least 10ms"),
        (&["--interval", "61s"], "at most 1m"),
        (&["--duration", "0s"], "no time"),
        (&["--pid", "0"], "start at 1"),
        (&["--ring-bytes", "2048"], "at least 4096"),
        (&["--ring-bytes", "5000"], "power of two"),
        (&["--ring-bytes", "2g"], "at most 1073741824"),
        (&["--ring-bytes", "16000000000g"], "at most 1073741824"),
    ] {
        let [_, cause, _] = fails(folder.path(), arguments);
        assert!(cause.contains(limit), "{arguments:?}: {cause}");
    }
    // The hint is what would have been right.
    let [_, _, hint] = fails(folder.path(), &["--ring-bytes", "5000"]);
    assert_eq!(hint, "--ring-bytes 8192");
}

#[test]
fn what_the_parser_refuses_exits_with_2_too() {
    let folder = TempDir::new().unwrap();
    for arguments in [
        &["--guests", "many"][..],
        &["--guests", "99999999999"],
        &["--ring-bytes", "64x"],
        &["--duration", "5"],
        &["--pid", "4", "--seed", "3"],
        &["--probe", "magic"],
        &["export", "--format", "xml", "-o", "x"],
        &["record"],
        &["record", "-o", "x", "-v", "-q"],
        &["--frobnicate"],
    ] {
        fails(folder.path(), arguments);
    }
}

#[test]
fn what_the_parser_refuses_is_explained() {
    let folder = TempDir::new().unwrap();
    for (arguments, lines) in [
        (
            &["--guests", "-3"][..],
            [
                "--guests -3 cannot be used",
                "it must be a whole number, 1 to 1000",
                "--guests 8",
            ],
        ),
        (
            &["--rate", "1e300"],
            [
                "--rate 1e300 cannot be used",
                "it must be a number above 0 and at most 1000",
                "--rate 1",
            ],
        ),
        (
            &["export", "--format", "xls"],
            [
                "--format xls cannot be used",
                "it can be json, openmetrics, prometheus, csv, hlog, folded, dot, perfetto, parquet",
                "one of json, openmetrics, prometheus, csv, hlog, folded, dot, perfetto, parquet",
            ],
        ),
        (
            &["--bogus"],
            [
                "unknown option --bogus",
                "apscope-collector has no such option",
                "apscope-collector --help",
            ],
        ),
        (
            &["--guest", "3"],
            [
                "unknown option --guest",
                "apscope-collector has no such option",
                "did you mean --guests? `apscope-collector --help` lists all",
            ],
        ),
        (
            &["record", "-3"],
            [
                "-3 is no option",
                "no number is negative here",
                "apscope-collector record --help",
            ],
        ),
        (
            &["--duration", "1s", "--duration", "2s"],
            [
                "--duration is given more than once",
                "it counts once",
                "--duration one time",
            ],
        ),
        (
            &["--pid", "1", "--guests", "9"],
            [
                "--pid cannot be used together with --guests",
                "an emulated driver that runs already has options of its own",
                "without --pid, or without --guests",
            ],
        ),
        (
            &["export"],
            [
                "--format <FORMAT> and --output <OUT> are missing",
                "apscope-collector export cannot do without",
                "apscope-collector export --format <FORMAT> --output <OUT> [FILE]",
            ],
        ),
        (
            &["--guests"],
            [
                "--guests has no value",
                "it needs one",
                "apscope-collector --help",
            ],
        ),
        (
            &["--probe", "magic"],
            [
                "--probe magic cannot be used",
                "it can be auto, ebpf, in-process",
                "one of auto, ebpf, in-process",
            ],
        ),
    ] {
        assert_eq!(fails(folder.path(), arguments), lines, "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    let folder = TempDir::new().unwrap();
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["export", "--help"],
    ] {
        let output = apscope(folder.path(), arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty());
    }
}

#[test]
fn an_output_that_cannot_be_written_is_known_before_the_run() {
    let folder = TempDir::new().unwrap();
    let live = ["--source", "emulator", "--duration", "1h"];
    for arguments in [
        &["export", "--format", "json", "-o", "no/such/folder"][..],
        &["export", "--format", "json", "-o", "."],
        &[
            "export", "--format", "json", "-o", "a", "--truth", "no/such",
        ],
        &["record", "-o", "no/such/folder"],
        &["record", "-o", "a", "--truth", "a"],
    ] {
        fails(folder.path(), &[arguments, &live].concat());
    }
    // Nothing is left behind.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_live_export_needs_a_duration() {
    let folder = TempDir::new().unwrap();
    let [_, cause, _] = fails(folder.path(), &["export", "--format", "json", "-o", "x"]);
    assert!(cause.contains("--duration"));
}

#[test]
fn a_recording_is_exported() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a.apscope", &run(25));
    let file = file.to_str().unwrap();
    let to_file = ["export", file, "--format", "json", "-o", "out.json"];
    assert!(apscope(folder.path(), &to_file).status.success());
    let text = fs::read(folder.path().join("out.json")).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["locks"][0]["acquisitions"], 75);
    assert_eq!(value["source"]["kind"], "recording");
    let output = apscope(
        folder.path(),
        &["export", file, "--format", "json", "-o", "-"],
    );
    assert_eq!(output.stdout, text);
    // A shorter document does not keep the rest of a longer file.
    fs::write(folder.path().join("out.json"), vec![b'x'; 2 * text.len()]).unwrap();
    assert!(apscope(folder.path(), &to_file).status.success());
    assert_eq!(fs::read(folder.path().join("out.json")).unwrap(), text);
}

#[test]
fn a_recording_is_not_written_over_by_what_is_made_of_it() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    let bytes = fs::read(&file).unwrap();
    std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
    for arguments in [
        &["export", "a", "--format", "json", "-o", "a"][..],
        &["export", "link", "--format", "csv", "-o", "./a"],
        &["export", "a", "--format", "hlog", "-o", "link"],
        &["report", "a", "-o", "link"],
    ] {
        let [what, cause, _] = fails(folder.path(), arguments);
        assert!(what.contains("cannot be written"), "{what}");
        assert_eq!(cause, "it is the recording that is read");
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
}

#[test]
fn options_that_say_how_to_measure_are_refused_with_a_recording() {
    let folder = TempDir::new().unwrap();
    recording(&folder, "a", &run(25));
    for (command, option) in [
        ("export a --format json -o -", "--scenario hotplug"),
        ("export a --format json -o -", "--duration 5s"),
        ("export a --format json -o -", "--connect unix:/x"),
        ("report a -o -", "--level 0"),
        ("diagnose a", "--generation v5.13"),
        ("diagnose a", "--probe ebpf"),
        ("a", "--lock 1000"),
    ] {
        let arguments: Vec<&str> = command.split(' ').chain(option.split(' ')).collect();
        let [error, cause, hint] = fails(folder.path(), &arguments);
        let name = option.split(' ').next().unwrap();
        assert_eq!(error, format!("{name} cannot be applied to a"));
        assert!(cause.contains("was measured when"), "{cause}");
        assert!(hint.contains("without"), "{hint}");
    }
    // All of them are named.
    let [error, ..] = fails(
        folder.path(),
        &[
            "diagnose",
            "a",
            "--guests",
            "2",
            "--seed",
            "9",
            "--interval",
            "1s",
        ],
    );
    assert_eq!(error, "--seed, --guests, --interval cannot be applied to a");
    let of_metrics = "export a --instances 3 --format json -o -";
    let [error, _, hint] = fails(folder.path(), &of_metrics.split(' ').collect::<Vec<_>>());
    assert_eq!(error, "--instances cannot be used here");
    assert!(hint.contains("without --instances"), "{hint}");
}

#[test]
fn a_damaged_recording_gives_what_is_before_the_damage() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let output = apscope(
        folder.path(),
        &["export", "a", "--format", "json", "-o", "b"],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("warning: a is not whole"), "{said}");
    assert!(said.contains("after 20 whole frames"), "{said}");
    let text = fs::read(folder.path().join("b")).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["locks"][0]["acquisitions"], 60);
}

#[test]
fn what_is_no_recording_costs_no_older_export() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("text"), "not a recording").unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::write(folder.path().join("old.json"), "precious").unwrap();
    for file in ["text", "empty", "missing", "."] {
        let arguments = ["export", file, "--format", "json", "-o", "old.json"];
        fails(folder.path(), &arguments);
        fails(
            folder.path(),
            &["export", file, "--format", "json", "-o", "new.json"],
        );
        fails(folder.path(), &[file]);
    }
    let old = fs::read_to_string(folder.path().join("old.json")).unwrap();
    assert_eq!(old, "precious");
    assert!(!folder.path().join("new.json").exists());
    recording(&folder, "no-frames", &[]);
    let [what, ..] = fails(folder.path(), &["no-frames"]);
    assert!(what.contains("no frames"), "{what}");
}

#[test]
fn a_write_that_fails_is_an_error() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    let file = file.to_str().unwrap();
    let [what, ..] = fails(
        folder.path(),
        &["export", file, "--format", "json", "-o", "/dev/full"],
    );
    assert!(what.contains("/dev/full could not be written"), "{what}");
}

#[test]
fn an_export_replaces_the_older_file_when_it_is_whole() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    let old = folder.path().join("old");
    fs::write(&old, "old").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
    let open = fs::File::open(&old).unwrap();
    symlink("old", folder.path().join("link")).unwrap();
    let file = file.to_str().unwrap();
    let output = apscope(
        folder.path(),
        &["export", file, "--format", "json", "-o", "link"],
    );
    assert!(output.status.success(), "{output:?}");
    // Who had the older file open still reads all of it.
    assert_eq!(io::read_to_string(open).unwrap(), "old");
    assert!(fs::read_to_string(&old).unwrap().starts_with('{'));
    assert!(folder.path().join("link").is_symlink());
    let mode = fs::metadata(&old).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    // a, link, old.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn an_export_goes_through_a_pipe_with_a_name() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    let file = file.to_str().unwrap();
    let output = apscope(
        folder.path(),
        &["export", file, "--format", "json", "-o", "pipe"],
    );
    assert!(output.status.success(), "{output:?}");
    assert!(reader.join().unwrap().starts_with('{'));
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn a_closed_output_is_no_error_and_no_panic() {
    let folder = TempDir::new().unwrap();
    let file = recording(&folder, "a", &run(25));
    for arguments in [&["export", "--format", "json", "-o", "-"][..], &[]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
            .args(arguments)
            .arg(&file)
            .stdout(OwnedFd::from(writer))
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
    }
}

#[test]
fn the_summary_is_plain() {
    let folder = TempDir::new().unwrap();
    let frames = run(25);
    let file = recording(&folder, "a", &frames);
    let output = apscope(folder.path(), &[file.to_str().unwrap()]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.is_ascii());
    assert!(text.lines().all(|line| line.len() <= 79), "{text}");
    let mut case = Case::default();
    for frame in &frames {
        case.apply(frame);
    }
    let expected = plain::render(&case.model, &case.report(), Origin::Recording);
    assert_eq!(text, expected);
    insta::assert_snapshot!(text);
}

#[test]
fn the_summary_of_a_kernel_says_what_is_seen_of_it() {
    for level in [0, 1, 2] {
        let mut case = Case::default();
        for frame in kernel_run(25, level) {
            case.apply(&frame);
        }
        let text = plain::render(&case.model, &case.report(), Origin::Live);
        assert!(text.is_ascii());
        assert!(text.lines().all(|line| line.len() <= 79), "{text}");
        assert!(!text.contains("EMULATED"), "{text}");
        assert!(text.contains("vfio_ap v6.6 or v7.3"), "{text}");
        assert_eq!(text.contains("contended ones only"), level == 1, "{text}");
        if level == 1 {
            insta::assert_snapshot!(text);
        }
    }
}

#[test]
fn why_there_is_no_ebpf_is_said_once() {
    let folder = TempDir::new().unwrap();
    let mut frames = run(25);
    let reason = &frames[0].meta.as_ref().unwrap().reason;
    let (why, _) = reason.split_once(';').unwrap();
    let why = why.to_owned();
    for frame in &mut frames {
        frame.log.truncate(usize::from(frame.meta.is_some()));
        for line in &mut frame.log {
            line.text.clone_from(&why);
        }
    }
    let file = recording(&folder, "a", &frames);
    let output = apscope(folder.path(), &[file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches(&why).count(), 1, "{text}");
    assert!(!text.contains("MESSAGES"), "{text}");
}

#[test]
fn the_page_of_findings_is_what_the_rules_say() {
    let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args(["explain", "--markdown"])
        .output()
        .unwrap();
    let page = String::from_utf8(output.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/findings.md");
    assert_eq!(
        fs::read_to_string(path).unwrap_or_default(),
        page,
        "run `cargo xtask findings`"
    );
}

#[test]
fn a_finding_that_does_not_exist_is_refused() {
    let folder = TempDir::new().unwrap();
    let output = apscope(folder.path(), &["explain", "AP015"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 3, "{said}");
    let output = apscope(folder.path(), &["explain", "ap001"]);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("# AP001: deadlock now")
    );
    let output = apscope(folder.path(), &["explain"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().count(),
        15
    );
}
