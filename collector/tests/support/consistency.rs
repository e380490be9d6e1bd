//! Whether an export agrees with itself: one JSON document in, contradictions out.
//!
//! What the ground truth cannot say: histograms against counts, parts against sums. The driver must have been stopped
//! in order, with every operation finished.

use serde_json::Value;

use super::truth::count;

/// Locks that are acquired in functions that are not traced, too: the conversion of a guest takes `kvm->lock` in the
/// ioctl, before `kvm_s390_handle_pv`; VFIO core takes its own around the opening and closing of a device.
const ALSO_OUTSIDE: [&str; 5] = [
    "kvm->lock",
    "dev_set->lock",
    "group_lock",
    "group_rwsem",
    "reset_work",
];

/// Every contradiction, one sentence each.
pub fn contradictions(export: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for lock in list(&export["locks"]) {
        let of = format!("{} {}", text(&lock["class"]), text(&lock["mode"]));
        one_lock(&of, lock, counted(lock), &mut found);
        for instance in list(&lock["by_instance"]) {
            let of = text(&instance["name"]);
            one_lock(of, instance, counted(lock), &mut found);
        }
        instances(&of, lock, &mut found);
        entry_points(&of, lock, &mut found);
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
    waits(of, lock, open_coded, found);
}

/// Each acquisition has a wait, be it 0; but a flag that was found clear was not waited for.
fn waits(of: &str, lock: &Value, open_coded: bool, found: &mut Vec<String>) {
    let with_wait = if open_coded {
        "contended"
    } else {
        "acquisitions"
    };
    equal(
        &format!("{of}: {with_wait}, wait.count"),
        count(&lock[with_wait]),
        count(&lock["wait"]["count"]),
        found,
    );
}

/// A number of a lock, or of a part of it.
type Number = fn(&Value) -> u64;

const COUNTS: [(&str, Number); 4] = [
    ("acquisitions", |lock| count(&lock["acquisitions"])),
    ("contended", |lock| count(&lock["contended"])),
    ("wait.count", |lock| count(&lock["wait"]["count"])),
    ("hold.count", |lock| count(&lock["hold"]["count"])),
];

/// A lock's instances have in sum what it has itself.
fn instances(of: &str, lock: &Value, found: &mut Vec<String>) {
    let unmatched: Number = |lock| count(&lock["unmatched_releases"]);
    for (name, number) in COUNTS
        .into_iter()
        .chain([("unmatched_releases", unmatched)])
    {
        let sum = list(&lock["by_instance"]).iter().map(number).sum();
        equal(
            &format!("{of}: {name}, sum by_instance"),
            number(lock),
            sum,
            found,
        );
    }
}

/// Acquisitions have a count of their own: those of a flag, and executions of a work item, do not wait.
fn counted(lock: &Value) -> bool {
    lock["open_coded"] == true || lock["kind"] == "work"
}

/// So have the functions in which it was acquired, unless it is acquired outside all of them too.
fn entry_points(of: &str, lock: &Value, found: &mut Vec<String>) {
    for part in list(&lock["by_entry_point"]) {
        let of = format!("{of} in {}", text(&part["name"]));
        waits(&of, part, counted(lock), found);
        if count(&lock["unmatched_releases"]) == 0 {
            equal(
                &format!("{of}: acquisitions, hold.count"),
                count(&part["acquisitions"]),
                count(&part["hold"]["count"]),
                found,
            );
        }
    }
    for (name, number) in COUNTS {
        let sum = list(&lock["by_entry_point"]).iter().map(number).sum();
        let whole = number(lock);
        if sum > whole || !ALSO_OUTSIDE.contains(&text(&lock["class"])) {
            equal(
                &format!("{of}: {name}, sum by_entry_point"),
                whole,
                sum,
                found,
            );
        }
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

    /// A real lock with a release that was not matched, or a flag without one.
    fn lock(class: &str, open_coded: bool, waits: u64) -> Value {
        let unmatched = u64::from(!open_coded);
        let part = |name: &str| {
            json!({ "name": name, "acquisitions": 5, "contended": 3, "releases": 5, "unmatched_releases": unmatched,
                    "wait": histogram(waits), "hold": histogram(5 - unmatched) })
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

    /// Fewer in the entry points than in all is sound only for a lock that is acquired elsewhere too.
    #[test]
    fn a_part_that_is_missing_is_found() {
        let mut without = export();
        without["locks"][0]["by_entry_point"] = json!([]);
        assert_eq!(contradictions(&without), Vec::<String>::new());
        without["locks"][1]["by_entry_point"] = json!([]);
        let found = contradictions(&without);
        let says = "kvm_busy -: acquisitions, sum by_entry_point: 5 is not 0";
        assert!(found.iter().any(|said| said == says), "{found:?}");
        let mut without = export();
        without["locks"][0]["by_instance"] = json!([]);
        assert_eq!(contradictions(&without).len(), 5);
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
