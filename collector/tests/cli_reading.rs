//! What commands read: recordings and bundles from files, pipes and the standard input, whole and damaged.

mod model_frames;
mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use apscope_collector::bundle::{Archive, names};
use apscope_collector::cli::open_recording;
use apscope_collector::recording::Writer;
use model_frames::run;
use support::{Place, failure, told};

/// The sane run as a recording.
fn recording() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in run(25) {
        writer.push(&frame).unwrap();
    }
    writer.finish().unwrap()
}

/// The same as a bundle.
fn bundle(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new(1);
    archive.add(name, content).unwrap();
    let mut bytes = Vec::new();
    archive.write(&mut bytes).unwrap();
    bytes
}

/// Runs the program with these bytes on its standard input, which is a pipe.
fn piped(place: &Place, arguments: &str, bytes: &[u8]) -> Output {
    let mut child = place
        .command(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // In pieces, the first of which says nothing; a program that needs no more may have stopped reading.
    let (start, rest) = bytes.split_at(2);
    let _ = stdin
        .write_all(start)
        .and_then(|()| stdin.flush())
        .and_then(|()| stdin.write_all(rest));
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn a_pipe_gives_what_a_file_gives() {
    let place = Place::new();
    let recording = recording();
    for bytes in [&recording[..], &bundle(names::FRAMES, &recording)] {
        fs::write(place.path("file"), bytes).unwrap();
        for command in [
            "diagnose INPUT",
            "export INPUT --format hlog -o -",
            "report INPUT -o -",
        ] {
            let of_file = place
                .command(&command.replace("INPUT", "file"))
                .output()
                .unwrap();
            assert_ne!(of_file.status.code(), Some(2), "{}", told(&of_file));
            for input in ["/dev/stdin", "-"] {
                let output = piped(&place, &command.replace("INPUT", input), bytes);
                assert_eq!(output.status, of_file.status, "{}", told(&output));
                assert!(output.stdout == of_file.stdout, "{command}, {input}");
            }
        }
    }
}

#[test]
fn a_bundle_without_frames_gives_its_stacks_through_a_pipe() {
    let stacks = b"==> /proc/70/task/72/stack <==\n[<0>] handle_pqap+0x52/0x330 [vfio_ap]\n";
    let place = Place::new();
    let bytes = bundle(names::STACKS, stacks);
    fs::write(place.path("file"), &bytes).unwrap();
    let of_file = place.command("diagnose file").output().unwrap();
    let output = piped(&place, "diagnose -", &bytes);
    assert_eq!(output.status, of_file.status, "{}", told(&output));
    assert_eq!(output.stdout, of_file.stdout);
    assert!(output.stdout.starts_with(b"verdict: "));
}

#[test]
fn what_is_no_recording_is_refused_from_a_pipe_too() {
    let place = Place::new();
    let [what, cause, hint] = failure(&piped(&place, "diagnose -", b"a text\n"));
    assert_eq!(what, "the standard input cannot be read as a recording");
    assert_eq!(cause, "it is a text");
    assert!(hint.contains("--from -"), "{hint}");
    // Zeros without an end are no recording either, and that is known soon.
    let [what, ..] = failure(
        &place
            .command("report /dev/zero -o page.html")
            .output()
            .unwrap(),
    );
    assert!(what.contains("/dev/zero"), "{what}");
    // A replay goes back, which a pipe cannot.
    let refused = open_recording(Path::new("-")).err().unwrap().line();
    assert!(refused.contains("cannot be replayed"), "{refused}");
}

#[test]
fn of_a_cut_recording_the_exit_code_is_that_of_what_was_found() {
    let place = Place::new();
    let whole = recording();
    fs::write(place.path("whole"), &whole).unwrap();
    fs::write(place.path("cut"), &whole[..whole.len() - 1]).unwrap();
    fs::write(place.path("start"), &whole[..40]).unwrap();
    for command in [
        "diagnose FILE",
        "diagnose FILE --fail-on critical",
        "export FILE --format json -o -",
        "report FILE -o page.html",
    ] {
        let run = |file: &str| {
            let mut command = place.command(&command.replace("FILE", file));
            command.output().unwrap()
        };
        let (of_whole, of_cut) = (run("whole"), run("cut"));
        assert_eq!(of_cut.status, of_whole.status, "{}", told(&of_cut));
        let said = told(&of_cut);
        assert!(said.starts_with("warning: cut is not whole: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        // Nothing can be said of a file in which no frame is whole.
        let [what, ..] = failure(&run("start"));
        assert!(what.starts_with("start "), "{what}");
    }
}
