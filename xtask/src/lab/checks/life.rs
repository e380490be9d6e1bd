//! What goes away while apscope is attached: apscope, a guest, an mdev, the driver. Nothing may be left behind, and what was
//! seen up to then must be whole.

use super::evidence::{calls, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// Judges the three recordings.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    for (file, what) in [
        ("kill.left", "left behind after SIGKILL"),
        ("exit.left", "left behind after guests have gone"),
        ("unload.left", "left behind after the driver has gone"),
    ] {
        let left = evidence.text(file)?;
        findings.equal(format!("events and processes {what}"), &left.trim(), &"0 0");
    }
    findings.equal(
        "exit code after guests have gone",
        &evidence.code("exit.code")?,
        &0,
    );
    let exit = evidence.export("exit.apscope")?;
    let removed = calls(&exit, "vfio_ap_mdev_remove");
    findings.add(
        "an mdev was removed while attached",
        removed > 0 && text(&exit["source"], "ended") == "finished",
        format!("{removed}, run {}", text(&exit["source"], "ended")),
    );
    findings.equal(
        "rmmod vfio_ap while attached",
        &evidence.code("rmmod.code")?,
        &0,
    );
    let unload = evidence.export("unload.apscope")?;
    findings.equal(
        "and the run ends with",
        &text(&unload["source"], "ended"),
        &"driver unloaded",
    );
    let pqap = calls(&unload, "handle_pqap");
    findings.add(
        "with everything up to then",
        pqap > 0 && number(&unload, "missed") == 0,
        format!(
            "{pqap} calls of handle_pqap, {} missed",
            number(&unload, "missed")
        ),
    );
    let dmesg = evidence.text("dmesg")?.to_lowercase();
    let wrong: Vec<String> = dmesg
        .lines()
        .filter(|line| {
            ["oops", "bug:", "warning:", "illegal operation"]
                .iter()
                .any(|w| line.contains(w))
        })
        .map(str::to_owned)
        .collect();
    findings.none("complaints of the kernel", "none", &wrong);
    Ok(())
}
