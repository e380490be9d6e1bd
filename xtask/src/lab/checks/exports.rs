//! A recording made in the guest, by a big-endian machine, in every format that others read.

use std::fs;
use std::process::Command;

use super::evidence::run;
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Formats of `apscope export --format`, and what is in each file of theirs, or in the named one of a folder. JSON is what all
/// other checks read.
const FORMATS: [(&str, Option<&str>, &str); 8] = [
    ("openmetrics", None, "handle_pqap"),
    ("prometheus", None, "handle_pqap"),
    ("csv", Some("spans.csv"), "handle_pqap"),
    ("hlog", None, "handle_pqap"),
    ("folded", None, "handle_pqap"),
    ("dot", None, "matrix_dev->"),
    ("perfetto", None, "handle_pqap"),
    ("parquet", Some("spans.parquet"), "PAR1"),
];

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let recording = evidence.folder.join("trace.apscope");
    let (mut written, mut wrong) = (0, Vec::new());
    for (format, file, needle) in FORMATS {
        let into = evidence.folder.join(format!("export.{format}"));
        // Of an earlier judgement.
        let _ = fs::remove_dir_all(&into).or_else(|_| fs::remove_file(&into));
        let mut command = Command::new(&evidence.apscope);
        command.args(["export", "--format", format, "-o"]);
        run(command.arg(&into).arg(&recording), &[0])?;
        let path = file.map_or_else(|| into.clone(), |file| into.join(file));
        let bytes = fs::read(&path).map_err(|e| Failure::file("reading", &path, &e))?;
        written += bytes.len();
        if !bytes
            .windows(needle.len())
            .any(|window| window == needle.as_bytes())
        {
            wrong.push(format!("{format} has no {needle}"));
        }
    }
    let of = format!("{} formats, {written} bytes", FORMATS.len());
    findings.none("it comes out in every format", of, &wrong);
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
