//! The scenarios as whole processes: which generation deadlocks in `se-start`, and through which locks; and how the
//! others hang or end.

/// What developers' commands know of the combinations.
#[allow(
    dead_code,
    reason = "shared with the developers' commands, which use all of it"
)]
#[path = "../../xtask/src/combinations.rs"]
mod combinations;

use std::process::{Command, Stdio};

use apscope_collector::emulator::{self, Outcome};
use serde_json::Value;

/// Runs the emulated driver alone for three seconds and reads its ground truth.
fn truth(generation: &str, scenario: &str, seed: u64, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("truth.json");
    let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args([
            "emulate",
            "--generation",
            generation,
            "--scenario",
            scenario,
        ])
        .args(["--seed", &seed.to_string(), "--duration", "3s"])
        .args(more)
        .arg("--truth")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = std::fs::read(&file).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("{generation} {scenario} {seed}: {error}: {said}")
    })
}

/// Runs them side by side: they mostly wait.
fn side_by_side<T: Send>(
    runs: impl IntoIterator<Item = T>,
    check: impl Fn(T) + Sync + Send + Copy,
) {
    std::thread::scope(|scope| {
        for run in runs {
            scope.spawn(move || check(run));
        }
    });
}

/// `thread waits for lock held by holder`, of those with this beginning.
fn waits(truth: &Value, thread: &str) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let blocked = truth["blocked"].as_array().into_iter().flatten();
    blocked
        .filter(|wait| text(&wait["thread"]).starts_with(thread))
        .map(|wait| {
            let holders = wait["holders"].as_array().unwrap();
            (text(&wait["lock"]), holders.iter().map(text).collect())
        })
        .collect()
}

/// Someone whose name begins with `thread` waits for a lock whose name begins with `lock`, held by a thread whose name
/// begins with `holder`.
fn assert_waits(truth: &Value, thread: &str, lock: &str, holder: &str) {
    let found = waits(truth, thread)
        .iter()
        .any(|(l, holders)| l.starts_with(lock) && holders.iter().any(|h| h.starts_with(holder)));
    assert!(
        found,
        "no {thread} waits for {lock} of {holder}: {}",
        truth["blocked"]
    );
}

const RELEASE: &str = "notify/guest-0";
const CONVERSION: &str = "pv/guest-0";
const VCPU: &str = "vcpu";

/// The waits that close the cycle.
fn assert_deadlock(generation: &str, truth: &Value) {
    let conversion_waits_for_vcpu = || {
        assert_waits(truth, CONVERSION, "vcpu->mutex[guest-0", VCPU);
        assert_waits(truth, RELEASE, "kvm->lock[guest-0]", CONVERSION);
    };
    match generation {
        "v5.10" | "v5.11" => {
            conversion_waits_for_vcpu();
            assert_waits(truth, VCPU, "matrix_dev->lock", RELEASE);
        }
        "v5.13" => {
            conversion_waits_for_vcpu();
            assert_waits(truth, VCPU, "kvm_busy[guest-0]", RELEASE);
            // The driver's mutex is free.
            let blocked = truth["blocked"].as_array().unwrap();
            assert!(blocked.iter().all(|w| w["lock"] != "matrix_dev->lock"));
        }
        "v5.15-rc" => {
            assert_waits(truth, VCPU, "kvm_busy[guest-0]", RELEASE);
            assert_waits(truth, RELEASE, "pqap_hook_rwsem[guest-0]", VCPU);
        }
        "rfc-2021-06" => {
            // Whoever wants the lock, the one who left it held included.
            assert_waits(truth, RELEASE, "matrix_dev->lock", RELEASE);
        }
        "rfc-2021-07" => {
            conversion_waits_for_vcpu();
            assert_waits(truth, VCPU, "pqap_hook_rwsem[guest-0]", RELEASE);
        }
        other => panic!("{other} must not deadlock"),
    }
}

#[test]
fn a_conversion_against_a_release_deadlocks_where_it_must() {
    for seed in 1..=2 {
        side_by_side(combinations::DEADLOCKING, |generation| {
            let truth = truth(generation, "se-start", seed, &["--guests", "2"]);
            assert_eq!(truth["ended"], "stuck", "{generation} seed {seed}");
            assert_deadlock(generation, &truth);
        });
    }
}

#[test]
fn a_conversion_against_a_release_ends_elsewhere() {
    let others = combinations::GENERATIONS
        .into_iter()
        .filter(|g| combinations::ends(g, "se-start"));
    side_by_side(others, |generation| {
        let truth = truth(generation, "se-start", 1, &["--guests", "2"]);
        assert_eq!(truth["ended"], "finished", "{generation}: {truth}");
    });
}

#[test]
fn a_reset_that_never_ends_stops_everybody_behind_one_work_item() {
    side_by_side(["v6.0", "v6.6", "v7.3"], |generation| {
        let truth = truth(generation, "stuck-reset", 1, &["--guests", "2"]);
        if combinations::ends(generation, "stuck-reset") {
            assert_eq!(truth["ended"], "finished", "{generation}: {truth}");
            return;
        }
        assert_eq!(truth["ended"], "stuck", "{generation}");
        // Somebody flushes with mdevs_lock held, and everybody else, vCPUs of other guests too, queues for it.
        assert_waits(&truth, "", "reset_work[00.0000]", "kworker/");
        assert_waits(&truth, VCPU, "matrix_dev->mdevs_lock", "");
        let vcpus = waits(&truth, VCPU);
        assert!(vcpus.len() >= 2, "{generation}: {vcpus:?}");
    });
}

/// What a refused guest leaves behind differs; that it is refused does not.
#[test]
fn a_second_mdev_is_refused() {
    side_by_side(combinations::GENERATIONS, |generation| {
        let truth = truth(generation, "two-mdevs", 1, &["--guests", "1"]);
        let returns = |entry: &str, code: &str| {
            let mut entries = truth["entry_points"].as_array().unwrap().iter();
            let entry = entries.find(|e| e["name"] == entry);
            entry.map_or(0, |e| e["returns"][code].as_u64().unwrap_or(0))
        };
        match generation {
            "rfc-2021-06" => assert_waits(&truth, RELEASE, "matrix_dev->lock", RELEASE),
            "rfc-2021-07" => assert_waits(&truth, "", "pqap_hook_rwsem[guest-0]", RELEASE),
            "v5.19" | "v6.0" | "v6.6" | "v7.3" => {
                assert!(returns("vfio_ap_mdev_open_device", "-EPERM") > 0, "{truth}");
            }
            _ => {
                let refused = returns("vfio_ap_mdev_group_notifier", "NOTIFY_DONE");
                assert!(refused > 0, "{truth}");
            }
        }
        let ends = combinations::ends(generation, "two-mdevs");
        let ended = if ends { "finished" } else { "stuck" };
        assert_eq!(truth["ended"], ended, "{generation}: {truth}");
    });
}

#[test]
fn developers_commands_know_how_each_combination_ends() {
    assert_eq!(combinations::GENERATIONS.to_vec(), emulator::generations());
    let mut scenarios = emulator::scenarios();
    scenarios.retain(|scenario| *scenario != "none");
    assert_eq!(combinations::SCENARIOS.to_vec(), scenarios);
    for generation in combinations::GENERATIONS {
        for scenario in combinations::SCENARIOS {
            assert_eq!(
                combinations::ends(generation, scenario),
                emulator::outcome(generation, scenario) == Some(Outcome::Ends),
                "{generation} {scenario}"
            );
        }
        assert_eq!(
            combinations::DEADLOCKING.contains(&generation),
            emulator::outcome(generation, "se-start") == Some(Outcome::Hangs),
        );
    }
}
