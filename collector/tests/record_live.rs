//! `record` on the emulated driver: killed, without room, in several files, in a ring.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apscope_collector::frame::Frame;
use apscope_collector::recording::Reader;
use support::process::{Background, wait_for};
use support::{Place, failure, told};

const EMULATED: &str = "--source emulator --probe in-process --guests 4";

/// All frames of a file that must be whole.
fn frames(file: &Path) -> Vec<Frame> {
    let reader = Reader::open(file).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

/// What is in these frames; totals of others are no frame.
fn counts(frames: impl Iterator<Item = Frame>) -> String {
    let (mut count, mut spans) = (0, 0);
    for frame in frames.filter(|frame| frame.base.is_none()) {
        count += 1;
        spans += frame
            .spans
            .as_ref()
            .map_or(0, apscope_collector::frame::Spans::len);
    }
    format!("{count} frames, {spans} spans")
}

/// What the recorder has said of its files.
fn said(output: &std::process::Output) -> String {
    let told = told(output);
    let at = told.find("recorded ").unwrap_or_else(|| panic!("{told}"));
    let words = told[at..].split(", ").take(2).collect::<Vec<_>>();
    words.join(", ").trim_start_matches("recorded ").to_owned()
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// Counts of an export of a recording.
fn export(place: &Place, file: &str) -> serde_json::Value {
    place.run(&format!("export {file} --format json -o {file}.json"));
    place.json(&format!("{file}.json"))
}

#[test]
fn a_recorder_that_is_killed_leaves_all_but_the_last_second() {
    for after_ms in [700, 1310, 2050] {
        let place = Place::new();
        let child = place.start(&format!("record {EMULATED} -o killed.apscope"));
        let mut child = Background(child);
        let file = place.path("killed.apscope");
        wait_for("something is recorded", || {
            fs::metadata(&file).ok().filter(|m| m.len() > 20)
        });
        sleep(Duration::from_millis(after_ms));
        child.0.kill().unwrap();
        let killed = unix_ns();
        child.0.wait().unwrap();
        // A write that was not finished costs its flush, and is told.
        let all: Vec<Frame> = Reader::open(&file).unwrap().flatten().collect();
        let newest = all.last().unwrap().at_unix_ns;
        let lost = killed.saturating_sub(newest);
        assert!(lost < 1_000_000_000, "{lost} ns are lost");
        let export = export(&place, "killed.apscope");
        assert_eq!(export["exact"], true, "{export}");
    }
}

#[test]
fn without_room_the_file_holds_what_came_before() {
    let place = Place::new();
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    }
    let output = place
        .command(&format!(
            "record {EMULATED} --rate 20 --duration 60s -o disk/full.apscope"
        ))
        .output()
        .unwrap();
    let back = fs::copy(disk.join("full.apscope"), place.path("copy.apscope"));
    assert!(
        Command::new("umount")
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
    back.unwrap();
    let [what, cause, hint] = failure(&output);
    assert!(
        what.contains("disk/full.apscope could not be written"),
        "{what}"
    );
    assert!(cause.contains("No space left"), "{cause}");
    assert!(hint.contains("make room"), "{hint}");
    assert!(!frames(&place.path("copy.apscope")).is_empty());
}

#[test]
fn several_files_are_one_recording_and_each_counts_from_the_start() {
    let place = Place::new();
    place.run(&format!(
        "record {EMULATED} --rate 20 --duration 4s --rotate 64k --truth truth.json -o run.apscope"
    ));
    let mut files: Vec<String> = fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("run."))
        .collect();
    files.sort();
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(files[0], "run.0001.apscope");
    let all: Vec<u8> = files
        .iter()
        .flat_map(|name| fs::read(place.path(name)).unwrap())
        .collect();
    fs::write(place.path("all.apscope"), all).unwrap();
    let whole = export(&place, "all.apscope");
    assert!(whole["interval"]["detail_start"].is_null());
    assert!(support::truth::differences(&whole, &place.json("truth.json")).is_empty());
    let last = export(&place, files.last().unwrap());
    assert!(last["interval"]["detail_start"].is_string());
    for member in ["locks", "entry_points", "order", "events", "exact"] {
        assert_eq!(last[member], whole[member], "{member}");
    }
    // Nothing that exists is overwritten.
    place.run(&format!(
        "record {EMULATED} --duration 500ms --rotate 1m -o run.apscope"
    ));
    let next = format!("run.{:04}.apscope", files.len() + 1);
    assert!(place.path(&next).exists());
}

#[test]
fn the_oldest_files_make_room() {
    let place = Place::new();
    let output = place
        .command(&format!(
            "record {EMULATED} --rate 40 --duration 6s --rotate 64k --max-size 256k -o run.apscope"
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        told(&output).contains("oldest were removed"),
        "{}",
        told(&output)
    );
    assert!(!place.path("run.0001.apscope").exists());
    assert!(
        !told(&output).contains("run.0001.apscope"),
        "{}",
        told(&output)
    );
    let mut names: Vec<_> = fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(told(&output).contains(&names[0]), "{}", told(&output));
    let all = names.iter().flat_map(|name| frames(&place.path(name)));
    assert_eq!(said(&output), counts(all));
    let sizes = fs::read_dir(place.path(".")).unwrap();
    let bytes: u64 = sizes
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 256 << 10, "{bytes}");
}

#[test]
fn a_recording_ends_before_it_is_too_large() {
    let place = Place::new();
    let output = place
        .command(&format!(
            "record {EMULATED} --rate 20 --duration 60s --max-size 128k -o run.apscope"
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(
        told(&output).contains("as large as it may be"),
        "{}",
        told(&output)
    );
    let file = place.path("run.apscope");
    assert!(fs::metadata(&file).unwrap().len() <= 128 << 10);
    assert!(!frames(&file).is_empty());
}

#[test]
fn a_ring_is_written_at_the_end() {
    let place = Place::new();
    let output = place
        .command(&format!(
            "record {EMULATED} --duration 4s --ring 1s --truth truth.json -o run.apscope"
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let there = frames(&place.path("run.apscope"));
    let spans = there.iter().flat_map(|frame| &frame.spans);
    assert!(spans.count() > 0);
    assert_eq!(said(&output), counts(there.into_iter()));
    assert!(
        told(&output).contains("of all that came: "),
        "{}",
        told(&output)
    );
    let mode = fs::metadata(place.path("run.apscope")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let all = frames(&place.path("run.apscope"));
    let covered = all.last().unwrap().at_ns - all[0].at_ns;
    assert!(
        (1_000_000_000..2_500_000_000).contains(&covered),
        "{covered}"
    );
    let export = export(&place, "run.apscope");
    let differences = support::truth::differences(&export, &place.json("truth.json"));
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn a_flight_recorder_writes_when_something_is_found() {
    let place = Place::new();
    let output = place
        .command(
            "record --source emulator --probe in-process --generation v5.13 --scenario se-start --guests 4 --duration 12s --ring 3s --on-finding=critical -o hang.apscope",
        )
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("found: "), "{}", told(&output));
    assert!(!told(&output).contains("writing 0 "), "{}", told(&output));
    assert!(
        told(&output).contains("bytes in 1 file, hang.0001.apscope"),
        "{}",
        told(&output)
    );
    let output = place
        .command("diagnose hang.0001.apscope")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    // Nothing is found: nothing is written.
    let output = place
        .command(&format!(
            "record {EMULATED} --scenario none --duration 1s --ring 1s --on-finding -o none.apscope"
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(!place.path("none.0001.apscope").exists() && !place.path("none.apscope").exists());
}
