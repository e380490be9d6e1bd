//! Whether an export agrees with itself: one JSON document in, contradictions out.
//!
//! What the ground truth cannot say: histograms against counts, parts against sums. The driver must have been stopped
//! in order, with every operation finished.

use serde_json::Value;

use super::truth::count;

/// Every contradiction, one sentence each.
pub fn contradictions(export: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for lock in list(&export["locks"]) {
        let of = format!("{} {}", text(&lock["class"]), text(&lock["mode"]));
        one_lock(&of, lock, lock["open_coded"] == true, &mut found);
        for instance in list(&lock["by_instance"]) {
            let of = text(&instance["name"]);
            one_lock(of, instance, lock["open_coded"] == true, &mut found);
        }
        parts(
            &of,
            lock,
            "by_instance",
            &["unmatched_releases"],
            &mut found,
        );
        parts(&of, lock, "by_entry_point", &[], &mut found);
    }
    for entry in list(&export["entry_points"]) {
        let of = text(&entry["name"]);
        let returns: u64 = entry["returns"]
            .as_object()
            .into_iter()
            .flat_map(|codes| codes.values())
            .map(count)
            .sum();
        equal(
            &format!("{of}: calls, returns + in_flight"),
            count(&entry["calls"]),
            returns + count(&entry["in_flight"]),
            &mut found,
        );
        let timed = count(&entry["latency"]["count"]) + count(&entry["unmatched_returns"]);
        equal(
            &format!("{of}: returns, latency.count + unmatched_returns"),
            returns,
            timed,
            &mut found,
        );
        histogram(&format!("{of}: latency"), &entry["latency"], &mut found);
    }
    events(&export["events"], &mut found);
    found
}

fn one_lock(of: &str, lock: &Value, open_coded: bool, found: &mut Vec<String>) {
    histogram(&format!("{of}: wait"), &lock["wait"], found);
    histogram(&format!("{of}: hold"), &lock["hold"], found);
    equal(
        &format!("{of}: releases, hold.count + unmatched_releases"),
        count(&lock["releases"]),
        count(&lock["hold"]["count"]) + count(&lock["unmatched_releases"]),
        found,
    );
    // A flag that was found clear was not waited for.
    let waits = if open_coded {
        "contended"
    } else {
        "acquisitions"
    };
    equal(
        &format!("{of}: {waits}, wait.count"),
        count(&lock[waits]),
        count(&lock["wait"]["count"]),
        found,
    );
}

/// What a lock's instances, or entry points, have in sum.
fn parts(of: &str, lock: &Value, by: &str, more: &[&str], found: &mut Vec<String>) {
    let numbers: [(&str, fn(&Value) -> u64); 4] = [
        ("acquisitions", |l| count(&l["acquisitions"])),
        ("contended", |l| count(&l["contended"])),
        ("wait.count", |l| count(&l["wait"]["count"])),
        ("hold.count", |l| count(&l["hold"]["count"])),
    ];
    for (name, number) in numbers {
        let sum = list(&lock[by]).iter().map(number).sum();
        equal(&format!("{of}: {name}, sum {by}"), number(lock), sum, found);
    }
    for name in more {
        let sum = list(&lock[by]).iter().map(|part| count(&part[*name])).sum();
        equal(
            &format!("{of}: {name}, sum {by}"),
            count(&lock[*name]),
            sum,
            found,
        );
    }
}

/// Buckets ascend and add up; percentiles are in order and are ends of buckets, or the maximum.
fn histogram(of: &str, histogram: &Value, found: &mut Vec<String>) {
    let buckets = list(&histogram["buckets"]);
    let sum = buckets.iter().map(|bucket| count(&bucket[1])).sum();
    equal(
        &format!("{of}: count, sum of buckets"),
        count(&histogram["count"]),
        sum,
        found,
    );
    if !buckets.is_sorted_by(|a, b| count(&a[0]) < count(&b[0])) {
        found.push(format!("{of}: buckets do not ascend"));
    }
    let percentiles = ["p50_ns", "p90_ns", "p99_ns", "p999_ns"].map(|p| count(&histogram[p]));
    if !percentiles.is_sorted() {
        found.push(format!("{of}: percentiles {percentiles:?} do not ascend"));
    }
}

fn events(events: &Value, found: &mut Vec<String>) {
    equal(
        "events: emitted, received + dropped",
        count(&events["emitted"]),
        count(&events["received"]) + count(&events["dropped"]),
        found,
    );
    for field in ["emitted", "dropped"] {
        let sum = list(&events["by_program"])
            .iter()
            .map(|p| count(&p[field]))
            .sum();
        equal(
            &format!("events: {field}, sum by_program"),
            count(&events[field]),
            sum,
            found,
        );
    }
}

fn equal(what: &str, a: u64, b: u64, found: &mut Vec<String>) {
    if a != b {
        found.push(format!("{what}: {a} is not {b}"));
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn histogram(count: u64) -> Value {
        json!({ "count": count, "p50_ns": 7, "p90_ns": 7, "p99_ns": 9, "p999_ns": 9,
                "buckets": [[7, count - 1], [9, 1]] })
    }

    fn lock(class: &str, open_coded: bool, waits: u64) -> Value {
        let part = |name: &str| {
            json!({ "name": name, "acquisitions": 5, "contended": 3, "releases": 5, "unmatched_releases": 1,
                    "wait": histogram(waits), "hold": histogram(4) })
        };
        let mut whole = part(class);
        whole["class"] = json!(class);
        whole["mode"] = json!("-");
        whole["open_coded"] = json!(open_coded);
        whole["by_instance"] = json!([part("one")]);
        whole["by_entry_point"] = json!([part("handle_pqap")]);
        whole
    }

    fn export() -> Value {
        json!({
            "locks": [lock("kvm->lock", false, 5), lock("kvm_busy", true, 3)],
            "entry_points": [{ "name": "handle_pqap", "calls": 7, "in_flight": 1, "unmatched_returns": 2,
                               "returns": { "ok": 4, "-EBUSY": 2 }, "latency": histogram(4) }],
            "events": { "emitted": 9, "received": 7, "dropped": 2,
                        "by_program": [{ "emitted": 9, "dropped": 2 }] }
        })
    }

    #[test]
    fn a_sound_export_has_no_contradiction() {
        assert_eq!(contradictions(&export()), Vec::<String>::new());
    }

    /// Every count of the document takes part in some check: one more, anywhere, is found.
    #[test]
    fn every_number_is_held_against_another() {
        let mut changed = 0;
        for pointer in numbers(&export(), String::new()) {
            // Ends of buckets and percentiles only have an order, and only a lock has releases to compare.
            if pointer.contains("/buckets/") && pointer.ends_with("/0")
                || pointer.ends_with("_ns")
                || pointer.contains("/by_entry_point/")
                    && (pointer.ends_with("/releases")
                        || pointer.ends_with("/unmatched_releases")
                        || pointer.contains("/buckets/"))
            {
                continue;
            }
            let mut export = export();
            let value = export.pointer_mut(&pointer).unwrap();
            *value = json!(count(value) + 1);
            assert_ne!(contradictions(&export), Vec::<String>::new(), "{pointer}");
            changed += 1;
        }
        assert!(changed > 50, "{changed}");
    }

    #[test]
    fn what_is_out_of_order_is_found() {
        for (pointer, value) in [
            ("/locks/0/wait/p50_ns", 8),
            ("/locks/1/hold/p99_ns", 6),
            ("/entry_points/0/latency/buckets/0/0", 9),
        ] {
            let mut export = export();
            *export.pointer_mut(pointer).unwrap() = json!(value);
            assert_eq!(contradictions(&export).len(), 1, "{pointer}");
        }
    }

    /// JSON pointers of all numbers.
    fn numbers(value: &Value, at: String) -> Vec<String> {
        match value {
            Value::Number(_) => vec![at],
            Value::Array(list) => list
                .iter()
                .enumerate()
                .flat_map(|(n, value)| numbers(value, format!("{at}/{n}")))
                .collect(),
            Value::Object(members) => members
                .iter()
                .flat_map(|(name, value)| numbers(value, format!("{at}/{name}")))
                .collect(),
            _ => Vec::new(),
        }
    }
}
