//! How the driver would be probed, and how it was: the generation that was concluded, the mechanism, and that each function
//! is either probed or has a reason why not.

use serde_json::Value;

use super::evidence::{items, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Judges the attach plan and the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    doctor(evidence, findings)?;
    let trace = evidence.export("trace.apscope")?;
    let source = &trace["source"];
    let concluded = text(source, "generation");
    // No symbol, no member and no order tells v5.10 from v5.11.
    let expected = if evidence.has_one_lock() {
        "v5.10|v5.11"
    } else {
        evidence.generation()
    };
    findings.equal("generation, after tracing", &concluded, &expected);
    findings.add(
        "recorded by a big-endian machine, read here",
        text(source, "arch") == "s390x",
        text(source, "kernel_release"),
    );
    // The processor's trampolines came with Linux 6.3, and Debian's own image has no JIT, without which there are none.
    let kernel = evidence.kernel;
    let expected = if kernel.is_stock() || ["5.10", "6.1"].contains(&kernel.series()) {
        "kprobe"
    } else {
        "fexit"
    };
    let mutexes = mutexes(&trace);
    findings.add(
        format!("mutex_lock is seen by {expected}"),
        mutexes
            .iter()
            .any(|name| name == &format!("mutex_lock {expected}")),
        mutexes.join(", "),
    );
    Ok(())
}

/// Judges the attach plan of a kernel whose mutexes are taken by other functions.
pub fn judge_lockdep(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    doctor(evidence, findings)?;
    let mutexes = mutexes(&evidence.export("lockdep.apscope")?);
    let has = |symbol: &str| {
        mutexes
            .iter()
            .any(|name| name.split(' ').next() == Some(symbol))
    };
    findings.add(
        "mutex_lock_nested stands in for mutex_lock",
        has("mutex_lock_nested") && !has("mutex_lock"),
        mutexes.join(", "),
    );
    Ok(())
}

fn doctor(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let doctor = evidence.json("doctor.json")?;
    let code = evidence.code("doctor.code")?;
    let summary = text(&doctor["verdict"], "summary");
    findings.add(
        "doctor: can be measured",
        code < 2,
        format!("exit code {code}: {summary}"),
    );
    let candidates: Vec<&str> = items(&doctor["generation"], "candidates")
        .filter_map(Value::as_str)
        .collect();
    findings.add(
        "generation, before tracing",
        candidates.contains(&evidence.generation()) || summary.contains(evidence.generation()),
        candidates.join("|"),
    );
    let plan: Vec<&Value> = items(&doctor, "attach").collect();
    let is_probed = |point: &&&Value| text(point, "mechanism") != "none";
    let probed = plan.iter().filter(is_probed).count();
    let unexplained: Vec<String> = plan
        .iter()
        .filter(|point| !is_probed(point) && text(point, "reason").is_empty())
        .map(|point| text(point, "symbol").to_owned())
        .collect();
    let of = format!("{probed} probed, {} with a reason", plan.len() - probed);
    findings.none("every point is probed or explained", of, &unexplained);
    Ok(())
}

/// Which functions that take mutexes are probed, and how: `mutex_lock fexit`.
fn mutexes(export: &Value) -> Vec<String> {
    items(export, "attach")
        .filter(|point| text(point, "mechanism") != "none")
        .filter_map(|point| {
            let symbol = text(point, "symbol").split(' ').next().unwrap_or_default();
            let is_one = ["mutex_lock", "mutex_lock_nested"].contains(&symbol);
            is_one.then(|| format!("{symbol} {}", text(point, "mechanism")))
        })
        .collect()
}
