//! Collectors that come to an emulated driver that runs already, and what is refused.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Child;

use serde_json::Value;
use support::process::{Background, is_alive, wait_for};
use support::truth::count;
use support::{PROBES, Place, bpf, failure, lock, number};

/// An emulator of its own that has been at work for a while.
fn emulator(place: &Place, arguments: &str) -> Background {
    let mut child = place.start(&format!("emulate {arguments}"));
    announced(&mut child);
    Background(child)
}

/// Waits until it has said that it runs, with its pid.
fn announced(child: &mut Child) {
    let pid = format!("pid {}", child.id());
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(
        line.starts_with("EMULATED") && line.contains(&pid),
        "{line}"
    );
}

#[test]
fn a_running_emulator_is_measured_from_then_on() {
    for (probe, asks_for_truth) in PROBES.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let place = Place::new();
        let mut emulator = emulator(
            &place,
            "--generation v5.15 --guests 3 --vcpus 1 --seed 9 --truth truth.json",
        );
        let pid = emulator.0.id();
        let truth = if asks_for_truth {
            "--truth its.json"
        } else {
            ""
        };
        place.run(&format!(
            "export --pid {pid} --probe {probe} --duration 1s --format json -o out.json {truth}"
        ));
        let export = place.json("out.json");
        if asks_for_truth {
            // The truth is final, so the actors were stopped for it, and the emulator is through.
            assert_eq!(export["source"]["ended"], "finished");
        } else {
            assert_eq!(export["source"]["ended"], "left");
            assert!(is_alive(pid), "a collector that leaves does not end it");
            // SAFETY: sends a signal to a process that this test started and has not reaped.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
        }
        let ended = wait_for("the emulator ends", || emulator.0.try_wait().unwrap());
        assert!(ended.success(), "{ended}");
        let truth = place.json("truth.json");
        if asks_for_truth {
            assert_eq!(place.json("its.json"), truth);
        }
        let source = &export["source"];
        assert_eq!(source["pid"], pid);
        assert_eq!(source["probe"], probe);
        assert_eq!(source["generation"], "v5.15");
        assert_eq!((number(&source["guests"]), number(&source["seed"])), (3, 9));
        assert_eq!(truth["ended"], "finished");
        is_a_part(&export, &truth);
        only_what_was_held_is_adopted(&export, if asks_for_truth { 0 } else { THREADS });
    }
}

/// Threads of three guests with a vCPU each: at most that many calls of a function can be in flight.
const THREADS: u64 = 3 * (1 + 8);

/// A collector that comes late sees the end of what had begun before: at most one release of each lock, and no call
/// that never returns.
fn only_what_was_held_is_adopted(export: &Value, in_flight: u64) {
    for measured in export["locks"].as_array().unwrap() {
        let instances = measured["by_instance"].as_array().unwrap().len() as u64;
        // Each thread may hold an rwsem for read.
        assert!(
            number(&measured["unmatched_releases"]) <= instances.max(THREADS),
            "{measured}"
        );
    }
    for measured in export["entry_points"].as_array().unwrap() {
        let returns: u64 = measured["returns"]
            .as_object()
            .unwrap()
            .values()
            .map(number)
            .sum();
        assert_eq!(
            number(&measured["calls"]),
            returns + number(&measured["in_flight"])
        );
        assert!(number(&measured["in_flight"]) <= in_flight, "{measured}");
    }
}

/// What a collector has seen that came late: something of each lock that is taken all the time, and no more than there
/// was. The truth leaves out what the generation does not have; its counts are 0.
fn is_a_part(export: &Value, truth: &Value) {
    for class in ["matrix_dev->lock", "vcpu->mutex"] {
        assert!(number(&lock(export, class).unwrap()["acquisitions"]) > 0);
    }
    for measured in export["locks"].as_array().unwrap() {
        let same =
            |lock: &&Value| lock["class"] == measured["class"] && lock["mode"] == measured["mode"];
        let counted = truth["locks"].as_array().unwrap().iter().find(same);
        let counted = counted.unwrap_or(&Value::Null);
        for name in ["acquisitions", "contended", "releases"] {
            assert!(
                count(&measured[name]) <= count(&counted[name]),
                "{measured}"
            );
        }
        assert_eq!(
            number(&measured["releases"]),
            number(&measured["hold"]["count"]) + number(&measured["unmatched_releases"]),
            "{measured}"
        );
    }
    for measured in export["entry_points"].as_array().unwrap() {
        let same = |entry: &&Value| entry["name"] == measured["name"];
        let counted = truth["entry_points"].as_array().unwrap().iter().find(same);
        let counted = counted.unwrap_or(&Value::Null);
        assert!(
            count(&measured["calls"]) <= count(&counted["calls"]),
            "{measured}"
        );
    }
}

#[test]
fn a_process_that_is_no_emulator_is_refused() {
    let place = Place::new();
    let own = std::process::id();
    let output = place
        .command(&format!("--pid {own} --duration 1s"))
        .output()
        .unwrap();
    let [what, ..] = failure(&output);
    assert!(what.contains(&own.to_string()), "{what}");
    assert!(is_alive(own));
}

#[test]
fn names_and_counts_that_cannot_be_are_refused_before_the_run() {
    let place = Place::new();
    let live = "--source emulator --duration 1h --format json -o out.json";
    for (arguments, known) in [
        (format!("export --generation v9 {live}"), "v5.13"),
        (format!("export --scenario riot {live}"), "steady"),
        (format!("export --vcpus 0 {live}"), "1 to 64"),
        ("emulate --generation v9".into(), "v5.13"),
        ("emulate --scenario riot".into(), "steady"),
        ("emulate --guests 0".into(), "1 to 1000"),
        ("emulate --guests 100000".into(), "1 to 1000"),
        ("emulate --vcpus 0".into(), "1 to 64"),
        ("emulate --truth no/such/folder".into(), "No such file"),
    ] {
        let output = place.command(&arguments).output().unwrap();
        let lines = failure(&output).join("\n");
        assert!(lines.contains(known), "{arguments}: {lines}");
    }
    assert!(!place.path("out.json").exists());
}

#[test]
fn two_collectors_on_one_emulator_know_of_each_other() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let place = Place::new();
    let emulator = emulator(&place, "--guests 1 --vcpus 1");
    let pid = emulator.0.id();
    // Others on this machine are no others of this emulator.
    let other = self::emulator(&place, "--guests 1 --vcpus 1");
    let measure = |pid: u32, file: &str, time: &str| {
        format!("export --pid {pid} --probe ebpf --duration {time} --format json -o {file}")
    };
    let first = Background(place.start(&measure(pid, "first.json", "60s")));
    let says = "1 more collector(s) measure this emulated driver";
    wait_for("the second one is told of the first", || {
        let output = place
            .command(&measure(pid, "second.json", "200ms"))
            .output()
            .unwrap();
        support::told(&output).contains(says).then_some(())
    });
    let reason = &place.json("second.json")["source"]["reason"];
    assert!(reason.as_str().unwrap().contains(says), "{reason}");
    let elsewhere = place
        .command(&measure(other.0.id(), "third.json", "200ms"))
        .output()
        .unwrap();
    assert!(!support::told(&elsewhere).contains("more collector"));
    drop(first);
}

#[test]
fn runs_of_programs_are_counted_where_that_is_permitted_and_left_out_elsewhere() {
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let place = Place::new();
        place.run(&format!(
            "export --source emulator --probe {probe} --guests 1 --duration 1s --format json -o out.json"
        ));
        let export = place.json("out.json");
        let programs = export["overhead"]["programs"].as_array().unwrap();
        assert_eq!(programs.is_empty(), probe == "in-process");
        if probe == "ebpf" {
            let acquired = programs.iter().find(|p| p["name"] == "lock_acquired");
            let acquired = acquired.expect("the program");
            // The machine's own permission: CAP_SYS_ADMIN, or kernel.bpf_stats_enabled.
            assert!(number(&acquired["runs"]) > 0, "{acquired}");
            assert!(number(&acquired["run_time_ns"]) > 0, "{acquired}");
            assert_eq!(acquired["missed"], 0);
        }
    }
}
