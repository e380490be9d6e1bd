//! The commands `export` and `report` on recordings: which files they write, and what they say where they cannot.

mod model_frames;
mod support;

use std::fs;

use apscope_collector::recording::Writer;
use model_frames::run;
use support::{Place, failure, told};

const FORMATS: [&str; 9] = [
    "json",
    "openmetrics",
    "prometheus",
    "csv",
    "hlog",
    "folded",
    "dot",
    "perfetto",
    "parquet",
];

/// A folder with the recording of the sane run.
fn place() -> Place {
    let place = Place::new();
    let mut writer = Writer::new(Vec::new()).unwrap();
    for frame in run(20) {
        writer.push(&frame).unwrap();
    }
    fs::write(place.path("run.apscope"), writer.finish().unwrap()).unwrap();
    place
}

fn names(place: &Place, folder: &str) -> Vec<String> {
    let files = fs::read_dir(place.path(folder)).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn each_format_is_written_and_nothing_else() {
    let place = place();
    for format in FORMATS {
        if format == "parquet" && cfg!(target_endian = "big") {
            continue;
        }
        // The second time, there is an older one.
        for _ in 0..2 {
            place.run(&format!(
                "export run.apscope --format {format} -o out.{format}"
            ));
        }
        let written = fs::metadata(place.path(&format!("out.{format}"))).unwrap();
        assert_eq!(written.is_dir(), ["csv", "parquet"].contains(&format));
        assert!(written.len() > 200, "{format}");
    }
    place.run("report run.apscope -o report.html");
    assert!(fs::metadata(place.path("report.html")).unwrap().len() > 10_000);
    assert_eq!(names(&place, "out.csv").len(), 20);
    assert_eq!(
        names(&place, "out.parquet"),
        ["histograms.parquet", "spans.parquet"]
    );
    assert_eq!(
        names(&place, "").len(),
        2 + FORMATS.len(),
        "{:?}",
        names(&place, "")
    );
}

#[test]
fn files_go_to_the_standard_output_and_folders_cannot() {
    let place = place();
    for format in FORMATS {
        let output = place
            .command(&format!("export run.apscope --format {format} -o -"))
            .output()
            .unwrap();
        if ["csv", "parquet"].contains(&format) {
            let [what, _, hint] = failure(&output);
            assert_eq!(what, "the standard output cannot hold several files");
            assert!(hint.contains("folder"), "{hint}");
        } else {
            assert!(output.status.success(), "{}", told(&output));
            assert!(output.stdout.len() > 200, "{format}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_said_and_leaves_nothing() {
    let place = place();
    fs::write(place.path("file"), "mine").unwrap();
    for arguments in [
        "export run.apscope --format csv -o file",
        "export run.apscope --format csv -o no/such/folder",
        "export run.apscope --format perfetto -o no/such/file",
        "report run.apscope -o no/such/file",
    ] {
        let [what, cause, _] = failure(&place.command(arguments).output().unwrap());
        assert!(what.contains("cannot be written"), "{what}");
        assert!(!cause.contains(".apscope-"), "{cause}");
    }
    for arguments in [
        "export no.apscope --format csv -o new",
        "export no.apscope --format perfetto -o new",
        "export no.apscope --format parquet -o new",
        "report no.apscope -o new",
        "report -o new",
        "export --format hlog -o new",
    ] {
        failure(&place.command(arguments).output().unwrap());
        assert!(!place.path("new").exists(), "{arguments}");
    }
    assert_eq!(fs::read(place.path("file")).unwrap(), b"mine");
    assert_eq!(names(&place, ""), ["file", "run.apscope"]);
}

#[test]
fn a_recording_that_was_cut_gives_what_is_before_the_cut() {
    let place = place();
    let mut bytes = fs::read(place.path("run.apscope")).unwrap();
    bytes.truncate(bytes.len() - 7);
    fs::write(place.path("cut.apscope"), bytes).unwrap();
    for format in FORMATS {
        if format == "parquet" && cfg!(target_endian = "big") {
            continue;
        }
        let arguments = format!("export cut.apscope --format {format} -o out.{format}");
        let output = place.command(&arguments).output().unwrap();
        let said = told(&output);
        assert!(output.status.success(), "{said}");
        assert!(
            said.starts_with("warning: cut.apscope is not whole"),
            "{said}"
        );
        assert!(place.path(&format!("out.{format}")).exists(), "{format}");
    }
}
