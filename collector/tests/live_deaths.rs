//! Sudden ends: of the collector, after which nothing of it may remain, and of the emulated driver, after which
//! everything that was measured must remain.

mod support;

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::process::{Background, emulator_at_work, is_alive, kill, wait_for};
use support::{PROBES, Place, bpf, failure, number};

const GUESTS: &str = "--source emulator --guests 4 --vcpus 2";

#[test]
fn a_killed_collector_leaves_no_program_and_no_emulator() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let place = Place::new();
    let arguments = format!("record -o r --probe ebpf {GUESTS}");
    let mut collector = Background(place.start(&arguments));
    let emulator = emulator_at_work(&mut collector.0);
    // Programs of others may come and go meanwhile; those of this collector are the ones that use its maps.
    let maps = bpf::maps_of(collector.0.id());
    let programs = bpf::programs_on(&maps);
    assert!(programs.len() >= 9, "{programs:?} on maps {maps:?}");
    kill(collector.0.id());
    collector.0.wait().unwrap();
    wait_for("the emulated driver ends", || {
        (!is_alive(emulator)).then_some(())
    });
    wait_for("all programs are gone", || {
        bpf::programs_on(&maps).is_empty().then_some(())
    });
}

#[test]
fn a_killed_in_process_collector_leaves_no_emulator() {
    let place = Place::new();
    let arguments = format!("record -o r --probe in-process {GUESTS}");
    let mut collector = Background(place.start(&arguments));
    let emulator = emulator_at_work(&mut collector.0);
    kill(collector.0.id());
    collector.0.wait().unwrap();
    wait_for("the emulated driver ends", || {
        (!is_alive(emulator)).then_some(())
    });
}

/// Kills the emulated driver of a collector once it is at work and `ready` is true, and says how the collector ended.
fn bereaved(place: &Place, arguments: &str, mut ready: impl FnMut(&Place) -> bool) -> Output {
    let mut collector = place.start(arguments);
    let emulator = emulator_at_work(&mut collector);
    wait_for("enough is measured", || ready(place).then_some(()));
    kill(emulator);
    collector.wait_with_output().unwrap()
}

fn says_that_the_driver_died(output: &Output) {
    let [what, cause, _] = failure(output);
    assert_eq!(what, "the emulated driver ended unexpectedly");
    assert!(cause.contains("signal: 9"), "{cause}");
}

/// What was measured up to the last frame.
fn is_intact(export: &Value, probe: &str) {
    assert_eq!(export["source"]["ended"], "source died");
    assert_eq!(export["source"]["probe"], probe);
    let acquisitions: u64 = export["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| number(&lock["acquisitions"]))
        .sum();
    assert!(acquisitions > 0);
    let events = &export["events"];
    assert!(number(&events["received"]) > 0);
    assert_eq!(
        number(&events["emitted"]),
        number(&events["received"]) + number(&events["dropped"])
    );
}

#[test]
fn a_killed_emulator_costs_an_export_nothing() {
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let place = Place::new();
        let arguments = format!(
            "export --format json -o out.json --truth truth.json --probe {probe} --duration 1h {GUESTS}"
        );
        let mut at_work_since = None;
        let output = bereaved(&place, &arguments, |_| {
            let since = at_work_since.get_or_insert_with(Instant::now);
            since.elapsed() > Duration::from_millis(500)
        });
        says_that_the_driver_died(&output);
        is_intact(&place.json("out.json"), probe);
    }
}

#[test]
fn a_killed_emulator_costs_a_recording_nothing() {
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let place = Place::new();
        let arguments = format!("record -o r --probe {probe} {GUESTS}");
        // Killed after the first flush, so that there is something after it too.
        let output = bereaved(&place, &arguments, |place| {
            fs::metadata(place.path("r")).map_or(0, |file| file.len()) > 1000
        });
        says_that_the_driver_died(&output);
        place.run("export r --format json -o out.json");
        is_intact(&place.json("out.json"), probe);
    }
}
