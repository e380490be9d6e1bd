//! The queues that guests name: the spans of PQAP have the APQN and the function code that the workload has put into the
//! guests' registers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::evidence::{items, number, text};
use super::{Evidence, Findings};
use crate::failure::Failure;

/// APQN and function.
type Queue<'a> = (&'a str, &'a str);

/// Judges the trace.
pub fn judge(evidence: &Evidence, findings: &mut Findings) -> Result<(), Failure> {
    let truth = evidence.json("truth.json")?;
    let seen = evidence.example("pqap_spans", &["trace.apscope"])?;
    compare(&truth, &seen, findings);
    Ok(())
}

fn compare(truth: &Value, seen: &Value, findings: &mut Findings) {
    // What the machine interprets never gets to KVM (ECA.APIE): functions below AQIC.
    let done = count(
        items(truth, "pqap")
            .filter(|pqap| !["TAPQ", "RAPQ", "ZAPQ"].contains(&text(pqap, "function"))),
    );
    let of = |entry: &'static str| {
        count(items(seen, "pqap").filter(move |pqap| text(pqap, "entry_point") == entry))
    };
    let queues = done.keys().map(|(apqn, _)| apqn).collect::<BTreeSet<_>>();
    findings.add(
        "spans of PQAP have the queues and functions that guests have executed",
        done == of("handle_pqap [kvm]") && queues.len() > 1,
        spell(&done, &of("handle_pqap [kvm]")),
    );
    // The driver is called for those that have a guest bound.
    let driver = of("handle_pqap");
    findings.add(
        "and those that the driver has handled are among them",
        !driver.is_empty() && driver.iter().all(|(queue, n)| done.get(queue) >= Some(n)),
        format!(
            "{} queues, {} spans",
            driver.len(),
            driver.values().sum::<u64>()
        ),
    );
}

fn count<'a>(pqap: impl Iterator<Item = &'a Value>) -> BTreeMap<Queue<'a>, u64> {
    let mut counts = BTreeMap::new();
    for one in pqap {
        *counts
            .entry((text(one, "apqn"), text(one, "function")))
            .or_default() += number(one, "count");
    }
    counts
}

/// What was counted, and what was done where that is something else.
fn spell(done: &BTreeMap<Queue<'_>, u64>, seen: &BTreeMap<Queue<'_>, u64>) -> String {
    let list = |counts: &BTreeMap<Queue<'_>, u64>| {
        let all: Vec<String> = counts
            .iter()
            .map(|((apqn, function), n)| format!("{apqn} {function} {n}"))
            .collect();
        all.join(", ")
    };
    if done == seen {
        list(done)
    } else {
        format!("{}, expected {}", list(seen), list(done))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(apqn: &str, count: u64) -> bool {
        let truth = json!({ "pqap": [
            { "apqn": "05.0004", "function": "AQIC", "status": "0x1", "count": 2 },
            { "apqn": "05.0004", "function": "AQIC", "status": "0x2", "count": 1 },
            { "apqn": "05.0047", "function": "AQIC", "status": "0x1", "count": 4 },
            { "apqn": "05.0047", "function": "TAPQ", "status": "0x1", "count": 9 },
        ] });
        let spans = |entry: &str| {
            [
                json!({ "entry_point": entry, "apqn": apqn, "function": "AQIC", "count": count }),
                json!({ "entry_point": entry, "apqn": "05.0047", "function": "AQIC", "count": 4 }),
            ]
        };
        let [a, b] = spans("handle_pqap [kvm]");
        let [c, d] = spans("handle_pqap");
        let mut findings = Findings::default();
        compare(&truth, &json!({ "pqap": [a, b, c, d] }), &mut findings);
        findings.lines.iter().all(|line| line.passed)
    }

    #[test]
    fn another_queue_or_another_count_is_wrong() {
        assert!(judged("05.0004", 3));
        assert!(!judged("05.0004", 2));
        assert!(!judged("06.0004", 3));
    }
}
