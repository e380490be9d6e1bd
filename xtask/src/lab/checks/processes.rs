//! Every apscope that ran inside ended as it should, and the kernel has nothing to say about it.

use super::{Evidence, Findings};
use crate::failure::Failure;

/// What a recording is called that was ended by SIGKILL.
const KILLED: &str = "kill";
/// What a shell says of a process that SIGKILL has ended.
const KILLED_CODE: i64 = 128 + 9;
/// How lines of a kernel begin that has come to harm.
const HARM: [&str; 5] = [
    "BUG: ",
    "WARNING: ",
    "Oops",
    "Unable to handle kernel",
    "Kernel panic",
];
/// The report that lockdep makes of the driver's order, which is what the lab is there for.
const LOCKDEP: &str = "WARNING: possible circular locking dependency detected";

/// Looks at the exit codes of all recordings, at what was printed to the standard errors, and at the kernel's log.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let names = evidence.names()?;
    let (mut ended, mut wrong) = (0, Vec::new());
    for name in &names {
        if let Some(recording) = name.strip_suffix(".apscope") {
            let code = evidence.code(&format!("{recording}.code"))?;
            let expected = if recording == KILLED { KILLED_CODE } else { 0 };
            ended += 1;
            if code != expected {
                wrong.push(format!("{recording}: exit code {code}, not {expected}"));
            }
        }
        if name.strip_suffix(".err").is_some() {
            let text = evidence.text(name)?;
            let panics = text.lines().filter(|line| line.contains("panicked at"));
            wrong.extend(panics.map(|line| format!("{name}: {line}")));
        }
    }
    findings.none(
        "recordings ended in order, and nobody panicked",
        format!("{ended} recordings"),
        &wrong,
    );
    let log = evidence.text("dmesg")?;
    let harm: Vec<String> = log
        .lines()
        .filter(|line| HARM.iter().any(|word| line.contains(word)))
        .filter(|line| !line.contains(LOCKDEP))
        .map(str::to_owned)
        .collect();
    findings.none("the kernel came to no harm", "its log", &harm);
    Ok(())
}
