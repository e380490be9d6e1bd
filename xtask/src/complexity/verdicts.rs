//! What a kernel's verifier makes of every program, as `apscope doctor --programs --json` says it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::failure::Failure;

/// One kernel and its verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Release and machine.
    pub name: String,
    /// By program.
    pub verdicts: BTreeMap<String, Verdict>,
}

/// What the verifier says of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(Accepted),
    /// Why it does not load.
    Refused(String),
}

/// A program that loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Bytes of stack of the program and of each function that it calls, joined by `+`.
    pub stack: String,
    pub verified: u64,
    pub states: u64,
    pub jited: u64,
}

impl Kernel {
    /// That of this machine.
    pub fn here(apscope: &Path) -> Result<Self, Failure> {
        let failed = |cause: String| {
            Failure::new(format!("{} doctor --programs", apscope.display()))
                .cause(cause)
                .hint("run as root")
        };
        let output = Command::new(apscope)
            .args(["doctor", "--programs", "--json"])
            .output()
            .map_err(|e| failed(e.to_string()))?;
        let report = serde_json::from_slice(&output.stdout)
            .map_err(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))?;
        Self::of(&report).map_err(|e| failed(e.to_owned()))
    }

    /// From the doctor's document.
    pub fn of(report: &Value) -> Result<Self, &'static str> {
        let kernel = &report["machine"]["kernel"];
        let release = kernel["release"].as_str().ok_or("no kernel release")?;
        let machine = kernel["arch"].as_str().ok_or("no machine")?;
        let programs = report["programs"].as_array().ok_or("no programs")?;
        let verdicts = programs
            .iter()
            .map(|program| Some((program["name"].as_str()?.to_owned(), verdict(program)?)))
            .collect::<Option<_>>()
            .ok_or("a program that is not understood")?;
        Ok(Self {
            name: format!("{release} {machine}"),
            verdicts,
        })
    }

    /// What of this kernel's verdicts differs in another's, one sentence each. Of another release only the stack is
    /// compared; of another machine nothing.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let all = self.verdicts.keys().chain(now.verdicts.keys());
        let mut names: Vec<_> = all.collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| {
                let (kept, new) = (self.verdicts.get(name), now.verdicts.get(name));
                let differs = if self.name == now.name {
                    kept != new
                } else if let (Some(Verdict::Accepted(a)), Some(Verdict::Accepted(b))) = (kept, new)
                {
                    a.stack != b.stack
                } else {
                    false
                };
                differs.then(|| format!("{name}: {}; now {}", said(kept), said(new)))
            })
            .collect()
    }

    /// The machine that the kernel is of.
    pub fn machine(&self) -> &str {
        self.name.rsplit(' ').next().unwrap_or_default()
    }
}

fn said(verdict: Option<&Verdict>) -> String {
    match verdict {
        Some(Verdict::Accepted(a)) => format!(
            "stack {}, {} verified, {} states, {} bytes",
            a.stack, a.verified, a.states, a.jited
        ),
        Some(Verdict::Refused(reason)) => reason.clone(),
        None => "not there".into(),
    }
}

fn verdict(program: &Value) -> Option<Verdict> {
    if let Some(reason) = program["refused"].as_str() {
        return Some(Verdict::Refused(reason.to_owned()));
    }
    let accepted = &program["accepted"];
    let number = |name: &str| accepted[name].as_u64();
    let stack: Option<Vec<_>> = accepted["stack_bytes"]
        .as_array()?
        .iter()
        .map(|bytes| Some(bytes.as_u64()?.to_string()))
        .collect();
    Some(Verdict::Accepted(Accepted {
        stack: stack?.join("+"),
        verified: number("verified_instructions")?,
        states: number("peak_states")?,
        jited: number("jited_bytes")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kernel(release: &str, verified: u64, stack: u32) -> Kernel {
        Kernel::of(&json!({
            "machine": {"kernel": {"release": release, "arch": "s390x"}},
            "programs": [
                {"name": "a", "section": "kprobe", "accepted": {
                    "stack_bytes": [stack, 0], "verified_instructions": verified, "peak_states": 3, "jited_bytes": 100
                }},
                {"name": "b", "section": "fentry", "refused": "EPERM"},
            ],
        }))
        .expect("is understood")
    }

    #[test]
    fn the_doctors_document_is_understood() {
        let kernel = kernel("7.2.0", 12, 8);
        assert_eq!(kernel.name, "7.2.0 s390x");
        assert_eq!(kernel.machine(), "s390x");
        let accepted = Accepted {
            stack: "8+0".into(),
            verified: 12,
            states: 3,
            jited: 100,
        };
        assert_eq!(kernel.verdicts["a"], Verdict::Accepted(accepted));
        assert_eq!(kernel.verdicts["b"], Verdict::Refused("EPERM".into()));
        assert!(Kernel::of(&json!({})).is_err());
    }

    #[test]
    fn any_difference_counts_on_the_same_kernel() {
        let kept = kernel("7.2.0", 12, 8);
        assert_eq!(kept.differences(&kept.clone()), [""; 0]);
        assert_eq!(
            kept.differences(&kernel("7.2.0", 13, 8)),
            [
                "a: stack 8+0, 12 verified, 3 states, 100 bytes; now stack 8+0, 13 verified, 3 states, 100 bytes"
            ]
        );
        let mut less = kept.clone();
        less.verdicts.remove("b");
        assert_eq!(kept.differences(&less), ["b: EPERM; now not there"]);
        assert_eq!(less.differences(&kept), ["b: not there; now EPERM"]);
    }

    #[test]
    fn another_kernel_may_verify_differently_but_not_use_another_stack() {
        let kept = kernel("7.2.0", 12, 8);
        let mut now = kernel("7.3.0", 99, 8);
        now.verdicts.remove("b");
        assert_eq!(kept.differences(&now), [""; 0]);
        assert_eq!(kept.differences(&kernel("7.3.0", 12, 16)).len(), 1);
    }
}
