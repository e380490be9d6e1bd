//! The s390x object before a genuine kernel's verifier: every program loads, or the kernel lacks what it is for, and costs
//! what probe-ebpf/complexity.md says.

use super::evidence::{items, text};
use super::{Evidence, Findings};
use crate::complexity;
use crate::failure::Failure;

/// Judges the doctor's document.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let report = evidence.json("programs.json")?;
    let code = evidence.code("programs.code")?;
    findings.add("doctor: exit code", code < 2, code.to_string());
    let refused: Vec<_> = items(&report, "programs")
        .filter(|program| program["refused"].is_string())
        .map(|program| format!("{}: {}", text(program, "name"), text(program, "refused")))
        // A function that the configuration of this kernel leaves out.
        .filter(|line| !line.contains("the kernel's BTF has no "))
        .collect();
    let accepted = items(&report, "programs").filter(|program| program["accepted"].is_object());
    findings.none(
        "programs that the verifier refuses",
        format!("none; {} accepted", accepted.count()),
        &refused,
    );
    let typed = items(&report, "programs").filter(|program| {
        program["accepted"].is_object()
            && ["fentry", "fexit"]
                .contains(&text(program, "section").split('/').next().unwrap_or(""))
    });
    let typed = typed.count();
    findings.add(
        "programs for trampolines among them",
        typed >= 10,
        typed.to_string(),
    );
    let (compared, differing) = complexity::against_the_table(&evidence.root, &report)?;
    findings.none("as probe-ebpf/complexity.md has it", compared, &differing);
    evidence.nothing_left("programs.left", "left behind", findings)
}
