//! A recording made in the guest, by a big-endian machine, in every format that others read.

use std::fs;
use std::process::Command;

use super::evidence::run;
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Formats of `apscope export --format`; `true`: files in a folder. JSON is what all other checks read.
const FORMATS: [(&str, bool); 8] = [
    ("openmetrics", false),
    ("prometheus", false),
    ("csv", true),
    ("hlog", false),
    ("folded", false),
    ("dot", false),
    ("perfetto", false),
    ("parquet", true),
];

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let recording = evidence.folder.join("trace.apscope");
    let (mut written, mut empty) = (0, Vec::new());
    for (format, is_folder) in FORMATS {
        let into = evidence.folder.join(format!("export.{format}"));
        // Of an earlier judgement.
        let _ = fs::remove_dir_all(&into);
        let mut command = Command::new(&evidence.apscope);
        command.args(["export", "--format", format, "-o"]);
        run(command.arg(&into).arg(&recording), &[0])?;
        let files = if is_folder {
            fs::read_dir(&into)
                .map_err(|e| Failure::file("reading", &into, &e))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        } else {
            vec![into]
        };
        let bytes: u64 = files
            .iter()
            .filter_map(|path| Some(fs::metadata(path).ok()?.len()))
            .sum();
        written += bytes;
        if bytes == 0 {
            empty.push(format.to_owned());
        }
    }
    let of = format!("{} formats, {written} bytes", FORMATS.len());
    findings.none("formats that came out empty", of, &empty);
    let report = evidence.folder.join("report.html");
    let mut command = Command::new(&evidence.apscope);
    run(
        command.arg("report").arg(&recording).arg("-o").arg(&report),
        &[0],
    )?;
    let report = evidence.text("report.html")?;
    findings.add(
        "a report of it",
        report.contains("handle_pqap"),
        format!("{} bytes", report.len()),
    );
    Ok(())
}
