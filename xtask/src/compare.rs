//! What an export says against what the emulated driver itself counted: two JSON documents in, differences out.
//!
//! Knows the two formats and what "exact" means: every count of every lock class and mode, by instance too, and of
//! every entry point, is the same number on both sides; and the export does not contradict itself. Knows nothing of
//! processes and files.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Counts that the export and the truth have in common.
const LOCK_COUNTS: [&str; 4] = ["acquisitions", "contended", "releases", "attempts_failed"];

/// Every difference, one sentence each; empty when the export is exact.
pub fn differences(export: &Value, truth: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if truth["ended"] != "finished" {
        found.push(format!("the run did not finish: ended {}", truth["ended"]));
    }
    locks(export, truth, &mut found);
    entry_points(export, truth, &mut found);
    let events = &export["events"];
    let (emitted, received, dropped) = (
        count(&events["emitted"]),
        count(&events["received"]),
        count(&events["dropped"]),
    );
    if emitted != received + dropped {
        found.push(format!(
            "events: emitted {emitted}, received {received} + dropped {dropped}"
        ));
    }
    if export["exact"] == Value::Bool(false) {
        found.push(format!(
            "the export calls itself inexact (missed {})",
            export["missed"]
        ));
    }
    found
}

fn locks(export: &Value, truth: &Value, found: &mut Vec<String>) {
    let measured = by_key(&export["locks"], class_and_mode);
    let counted = by_key(&truth["locks"], class_and_mode);
    for key in keys(&measured, &counted) {
        let (m, c) = (get(&measured, key), get(&counted, key));
        compare_counts(key, m, c, found);
        let waited_for = Waits::of(m);
        let measured = by_key(&m["by_instance"], name);
        let counted = by_key(&c["by_instance"], name);
        for instance in keys(&measured, &counted) {
            let (m, c) = (get(&measured, instance), get(&counted, instance));
            compare_counts(&format!("{key} {instance}"), m, c, found);
            histograms(&format!("{key} {instance}"), m, waited_for, found);
        }
        histograms(key, m, waited_for, found);
    }
}

fn compare_counts(of: &str, measured: &Value, counted: &Value, found: &mut Vec<String>) {
    for field in LOCK_COUNTS {
        let (m, c) = (count(&measured[field]), count(&counted[field]));
        if m != c {
            found.push(format!("{of}: {field} {m}, truth {c}"));
        }
    }
}

/// What a lock has a wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// Every acquisition, be it 0: a mutex or an rwsem.
    Acquisitions,
    /// Only those who slept: an open-coded lock, a work item.
    Contended,
}

impl Waits {
    fn of(lock: &Value) -> Self {
        if lock["kind"] == "flag" || lock["kind"] == "work" {
            Self::Contended
        } else {
            Self::Acquisitions
        }
    }
}

fn histograms(of: &str, lock: &Value, waited_for: Waits, found: &mut Vec<String>) {
    for side in ["wait", "hold"] {
        let histogram = &lock[side];
        let buckets: u64 = histogram["buckets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|b| count(&b[1]))
            .sum();
        if buckets != count(&histogram["count"]) {
            found.push(format!(
                "{of}: {side}.count {}, its buckets {buckets}",
                count(&histogram["count"])
            ));
        }
    }
    let waits = count(&lock["wait"]["count"]);
    let field = match waited_for {
        Waits::Acquisitions => "acquisitions",
        Waits::Contended => "contended",
    };
    if waits != count(&lock[field]) {
        found.push(format!(
            "{of}: wait.count {waits}, {field} {}",
            count(&lock[field])
        ));
    }
    let holds = count(&lock["hold"]["count"]);
    let unmatched = count(&lock["unmatched_releases"]);
    if holds + unmatched != count(&lock["releases"]) {
        found.push(format!(
            "{of}: hold.count {holds} + unmatched {unmatched}, releases {}",
            count(&lock["releases"])
        ));
    }
}

fn entry_points(export: &Value, truth: &Value, found: &mut Vec<String>) {
    let measured = by_key(&export["entry_points"], name);
    let counted = by_key(&truth["entry_points"], name);
    for key in keys(&measured, &counted) {
        let (m, c) = (get(&measured, key), get(&counted, key));
        if count(&m["calls"]) != count(&c["calls"]) {
            found.push(format!(
                "{key}: calls {}, truth {}",
                count(&m["calls"]),
                count(&c["calls"])
            ));
        }
        counts(
            &format!("{key}: returns"),
            &m["returns"],
            &c["returns"],
            found,
        );
        let functions = |v: &Value| -> BTreeSet<String> {
            v["pqap"]
                .as_object()
                .into_iter()
                .flat_map(|o| o.keys().cloned())
                .collect()
        };
        for function in functions(m).union(&functions(c)) {
            counts(
                &format!("{key}: PQAP {function}"),
                &m["pqap"][function],
                &c["pqap"][function],
                found,
            );
        }
        let returns: u64 = m["returns"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, n)| count(n))
            .sum();
        if count(&m["calls"]) != returns + count(&m["in_flight"]) {
            found.push(format!(
                "{key}: calls {}, returns {returns} + in_flight {}",
                count(&m["calls"]),
                count(&m["in_flight"])
            ));
        }
    }
}

/// Compares two objects of counts; an absent key counts 0.
fn counts(of: &str, measured: &Value, counted: &Value, found: &mut Vec<String>) {
    let keys = |v: &Value| -> BTreeSet<String> {
        v.as_object()
            .into_iter()
            .flat_map(|o| o.keys().cloned())
            .collect()
    };
    for key in keys(measured).union(&keys(counted)) {
        let (m, c) = (count(&measured[key]), count(&counted[key]));
        if m != c {
            found.push(format!("{of} {key} {m}, truth {c}"));
        }
    }
}

/// A count; absent means 0.
pub fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn class_and_mode(lock: &Value) -> String {
    let text = |field: &str| lock[field].as_str().unwrap_or("?").to_owned();
    match text("mode").as_str() {
        "-" => text("class"),
        mode => format!("{} ({mode})", text("class")),
    }
}

fn name(value: &Value) -> String {
    value["name"].as_str().unwrap_or("?").to_owned()
}

fn by_key(list: &Value, key: impl Fn(&Value) -> String) -> BTreeMap<String, &Value> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|v| (key(v), v))
        .collect()
}

fn keys<'a>(
    a: &'a BTreeMap<String, &Value>,
    b: &'a BTreeMap<String, &Value>,
) -> BTreeSet<&'a String> {
    a.keys().chain(b.keys()).collect()
}

fn get<'a>(map: &BTreeMap<String, &'a Value>, key: &str) -> &'a Value {
    map.get(key).copied().unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn export() -> Value {
        json!({
            "exact": true, "missed": 0,
            "events": { "emitted": 10, "received": 7, "dropped": 3 },
            "locks": [
                { "class": "kvm->lock", "kind": "mutex", "mode": "-", "acquisitions": 5, "contended": 1,
                  "releases": 5, "attempts_failed": 0, "unmatched_releases": 1,
                  "wait": { "count": 5, "buckets": [[0, 4], [127, 1]] },
                  "hold": { "count": 4, "buckets": [[63, 4]] },
                  "by_instance": [
                    { "name": "kvm->lock[guest-0]", "acquisitions": 5, "contended": 1, "releases": 5,
                      "attempts_failed": 0, "unmatched_releases": 1,
                      "wait": { "count": 5, "buckets": [[1, 4], [127, 1]] },
                      "hold": { "count": 4, "buckets": [[63, 4]] } } ] },
                { "class": "kvm_busy", "kind": "flag", "open_coded": true, "mode": "-", "acquisitions": 2,
                  "contended": 1, "releases": 2, "attempts_failed": 0,
                  "wait": { "count": 1, "buckets": [[127, 1]] }, "hold": { "count": 2, "buckets": [[63, 2]] },
                  "by_instance": [
                    { "name": "kvm_busy[guest-0]", "acquisitions": 2, "contended": 1, "releases": 2,
                      "attempts_failed": 0, "wait": { "count": 1, "buckets": [[127, 1]] },
                      "hold": { "count": 2, "buckets": [[63, 2]] } } ] } ],
            "entry_points": [
                { "name": "handle_pqap", "calls": 4, "in_flight": 0, "returns": { "ok": 3, "-EBUSY": 1 },
                  "pqap": { "AQIC": { "00": 3, "01": 1 } } } ]
        })
    }

    fn truth() -> Value {
        json!({
            "schema": 1, "ended": "finished",
            "locks": [
                { "class": "kvm->lock", "mode": "-", "acquisitions": 5, "contended": 1, "releases": 5,
                  "attempts_failed": 0,
                  "by_instance": [ { "name": "kvm->lock[guest-0]", "acquisitions": 5, "contended": 1,
                                     "releases": 5, "attempts_failed": 0 } ] },
                { "class": "kvm_busy", "mode": "-", "acquisitions": 2, "contended": 1, "releases": 2,
                  "attempts_failed": 0,
                  "by_instance": [ { "name": "kvm_busy[guest-0]", "acquisitions": 2, "contended": 1,
                                     "releases": 2, "attempts_failed": 0 } ] } ],
            "entry_points": [
                { "name": "handle_pqap", "calls": 4, "returns": { "ok": 3, "-EBUSY": 1 },
                  "pqap": { "AQIC": { "00": 3, "01": 1 } } } ]
        })
    }

    #[test]
    fn equal_counts_are_no_difference() {
        assert_eq!(differences(&export(), &truth()), Vec::<String>::new());
    }

    /// Each change of one number, on either side, is found and named.
    #[test]
    fn every_single_changed_number_is_found() {
        for (pointer, says) in [
            (
                "/locks/0/acquisitions",
                "kvm->lock: acquisitions 6, truth 5",
            ),
            ("/locks/0/contended", "kvm->lock: contended 2, truth 1"),
            ("/locks/0/releases", "kvm->lock: releases 6, truth 5"),
            (
                "/locks/0/attempts_failed",
                "kvm->lock: attempts_failed 1, truth 0",
            ),
            (
                "/locks/0/wait/count",
                "kvm->lock: wait.count 6, its buckets 5",
            ),
            (
                "/locks/0/hold/count",
                "kvm->lock: hold.count 5 + unmatched 1, releases 5",
            ),
            (
                "/locks/0/by_instance/0/contended",
                "kvm->lock kvm->lock[guest-0]: contended 2, truth 1",
            ),
            ("/locks/1/acquisitions", "kvm_busy: acquisitions 3, truth 2"),
            ("/entry_points/0/calls", "handle_pqap: calls 5, truth 4"),
            (
                "/entry_points/0/returns/ok",
                "handle_pqap: returns ok 4, truth 3",
            ),
            (
                "/entry_points/0/pqap/AQIC/01",
                "handle_pqap: PQAP AQIC 01 2, truth 1",
            ),
            (
                "/events/emitted",
                "events: emitted 11, received 7 + dropped 3",
            ),
        ] {
            let mut export = export();
            let value = export
                .pointer_mut(pointer)
                .expect("the pointer names a count");
            *value = json!(count(value) + 1);
            let found = differences(&export, &truth());
            assert!(found.iter().any(|d| d == says), "{pointer}: {found:?}");
        }
    }

    #[test]
    fn what_only_one_side_has_is_found() {
        let mut without = truth();
        without["locks"] = json!([]);
        without["entry_points"] = json!([]);
        let found = differences(&export(), &without);
        assert!(
            found.contains(&"kvm_busy: acquisitions 2, truth 0".to_owned()),
            "{found:?}"
        );
        assert!(
            found.contains(&"handle_pqap: calls 4, truth 0".to_owned()),
            "{found:?}"
        );

        let mut without = export();
        without["locks"] = json!([]);
        let found = differences(&without, &truth());
        assert!(
            found.contains(&"kvm_busy: acquisitions 0, truth 2".to_owned()),
            "{found:?}"
        );
    }

    #[test]
    fn a_run_that_ended_stuck_or_missed_invocations_is_no_proof() {
        let mut stuck = truth();
        stuck["ended"] = json!("stuck");
        assert_eq!(differences(&export(), &stuck).len(), 1);
        let mut missed = export();
        missed["exact"] = json!(false);
        missed["missed"] = json!(3);
        assert_eq!(
            differences(&missed, &truth()),
            ["the export calls itself inexact (missed 3)"]
        );
    }
}
