//! Hangs that were there before anybody looked: a collector that comes late finds what one finds that was there before,
//! by the emulated kernel's own words and tasks.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Place;
use support::process::Background;

/// How long a scenario has to get stuck, and to be found.
const PATIENCE: Duration = Duration::from_secs(60);

/// Findings by id, as JSON.
fn findings<'a>(report: &'a Value, id: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().unwrap();
    all.iter().filter(|finding| finding["id"] == id).collect()
}

/// Classes of the locks of a finding, and the functions of those who wait in its chain.
fn of(finding: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let class = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let locks = finding["locks"].as_array().unwrap();
    let locks = locks.iter().map(|lock| class(lock.as_str().unwrap()));
    let mut functions = BTreeSet::new();
    for link in finding["chain"].as_array().into_iter().flatten() {
        if let Some(function) = link["entry_point"].as_str() {
            functions.insert(function.to_owned());
        }
    }
    (locks.collect(), functions)
}

fn report(place: &Place, arguments: &str) -> Value {
    let output = place.command(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        panic!(
            "{arguments}: {e}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// Runs the scenario with a collector from the start, and one more that is looked at late; the finding must be in both, about
/// the same classes of locks, in the same functions.
fn late_as_early(scenario: &str, generation: &str, id: &str) {
    let place = Place::new();
    let options = format!("--scenario {scenario} --generation {generation} --guests 2 --seed 3");
    let early = report(
        &place,
        &format!("diagnose --probe in-process {options} --duration 8s --json"),
    );
    let early = findings(&early, id);
    assert!(
        !early.is_empty(),
        "{scenario} on {generation}: no {id} early"
    );
    let mut child = place.start(&format!("emulate {options}"));
    let pid = child.id();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let _emulator = Background(child);
    // Until it is stuck, nobody looks.
    std::thread::sleep(Duration::from_secs(5));
    let begin = Instant::now();
    loop {
        let late = report(
            &place,
            &format!("diagnose --pid {pid} --probe in-process --duration 1500ms --json"),
        );
        let late = findings(&late, id);
        let known: BTreeSet<_> = early.iter().map(|finding| of(finding)).collect();
        if let Some(found) = late.iter().find(|found| known.contains(&of(found))) {
            assert_eq!(found["severity"], early[0]["severity"]);
            // It was there before the probes were: nothing of it is known from one.
            let text = found["chain"].to_string();
            assert!(
                text.contains("lock word") && !text.contains("probe"),
                "{text}"
            );
            return;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{scenario} on {generation}: {id} early {known:?}, late {:?}",
            late.iter().map(|finding| of(finding)).collect::<Vec<_>>()
        );
    }
}

/// On each of these generations, at once: most of the time is waiting.
fn everywhere(scenario: &str, generations: &[&str], id: &str) {
    std::thread::scope(|scope| {
        for generation in generations {
            scope.spawn(move || late_as_early(scenario, generation, id));
        }
    });
}

// Every scenario on every generation on which it hangs (`expected/findings.txt`).

#[test]
fn a_deadlock_that_was_there_before() {
    let generations = [
        "v5.10",
        "v5.11",
        "v5.13",
        "v5.15-rc",
        "rfc-2021-06",
        "rfc-2021-07",
    ];
    everywhere("se-start", &generations, "AP001");
}

#[test]
fn a_task_that_waits_for_itself() {
    everywhere("two-mdevs", &["rfc-2021-06", "rfc-2021-07"], "AP001");
}

#[test]
fn a_wait_that_nobody_ends() {
    everywhere("lost-wakeup", &["v5.13", "v5.15-rc"], "AP003");
}

#[test]
fn a_reset_without_an_end() {
    everywhere("stuck-reset", &["v6.6", "v7.3"], "AP007");
}
