//! The open-coded lock of v5.13 as a lock, its absence in v5.15, and recordings of both: one recorded run for each
//! generation and probe.

mod support;

use apscope_collector::model::{Model, query};
use apscope_collector::recording::Reader;
use serde_json::Value;
use support::consistency::contradictions;
use support::truth::differences;
use support::{PROBES, Place, bpf, lock, number};

/// Records a run and exports the recording, which must equal the truth. Returns the place, the recording `r` in it, and
/// the export. At ten times the scenario's rate the flag is waited for during a quarter of the run, so that readings
/// every 10 ms meet waiters many times.
fn recorded(probe: &str, generation: &str) -> (Place, Value) {
    let place = Place::new();
    place.run(&format!(
        "record -o r --truth truth.json --source emulator --probe {probe} --generation {generation} --seed 3 \
         --guests 4 --vcpus 2 --rate 10 --duration 2s --interval 10ms"
    ));
    place.run("export r --format json -o out.json");
    let (export, truth) = (place.json("out.json"), place.json("truth.json"));
    let found = [differences(&export, &truth), contradictions(&export)].concat();
    assert!(
        found.is_empty(),
        "{probe} {generation}:\n{}",
        found.join("\n")
    );
    assert_eq!(export["source"]["kind"], "recording");
    assert_eq!(export["source"]["emulated"], true);
    assert_eq!(export["source"]["ended"], "finished");
    assert!(number(&export["events"]["received"]) > 0);
    (place, export)
}

/// All edges from one class to another.
fn edges<'a>(export: &'a Value, held: &str, acquired: &str) -> Vec<&'a Value> {
    let order = export["order"].as_array().unwrap().iter();
    order
        .filter(|edge| edge["held"] == held && edge["acquired"] == acquired)
        .collect()
}

/// Most holders and most waiters of kvm_busy that a frame of the recording shows at once.
fn seen_live(place: &Place) -> (usize, usize) {
    let mut model = Model::default();
    let mut most = (0, 0);
    for frame in Reader::open(&place.path("r")).unwrap() {
        model.apply(&frame.unwrap());
        let of_flag = |name: &str| name.starts_with("kvm_busy");
        let holders = query::holders(&model)
            .iter()
            .filter(|h| of_flag(&h.lock))
            .count();
        let waiters = query::waiters(&model)
            .iter()
            .filter(|w| of_flag(&w.lock))
            .count();
        most = (most.0.max(holders), most.1.max(waiters));
    }
    most
}

#[test]
fn kvm_busy_is_a_lock_in_v5_13() {
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let (place, export) = recorded(probe, "v5.13");
        let flag = lock(&export, "kvm_busy").unwrap();
        assert_eq!(flag["kind"], "flag");
        assert_eq!(flag["open_coded"], true);
        assert_eq!(flag["instances"], 4);
        assert!(number(&flag["acquisitions"]) > 0, "{flag}");
        assert!(number(&flag["hold"]["count"]) > 0, "{flag}");
        assert!(number(&flag["wait"]["count"]) > 0, "{flag}");
        assert!(number(&flag["wait"]["max_ns"]) > 0, "{flag}");
        let (holders, waiters) = seen_live(&place);
        assert!(holders > 0 && waiters > 0, "{probe}: {holders}, {waiters}");
        for (held, acquired) in [("vcpu->mutex", "kvm_busy"), ("kvm_busy", "kvm->lock")] {
            let edges = edges(&export, held, acquired);
            assert!(!edges.is_empty(), "{probe}: no {held} → {acquired}");
            for edge in edges {
                assert_eq!(edge["lockdep_visible"], false, "{edge}");
                assert!(number(&edge["count"]) > 0, "{edge}");
            }
        }
        // A test that finds the flag clear leaves no trace of its own: known from the function that makes it.
        let annotated =
            |edge: &&Value| edge["annotated"] == true && edge["acquired_in"] == "handle_pqap";
        assert!(
            edges(&export, "vcpu->mutex", "kvm_busy")
                .iter()
                .any(annotated)
        );
    }
}

#[test]
fn kvm_busy_is_not_in_v5_15() {
    for probe in PROBES {
        let Some(_permit) = bpf::permitted_with(probe) else {
            continue;
        };
        let (place, export) = recorded(probe, "v5.15");
        assert_eq!(lock(&export, "kvm_busy"), None);
        assert_eq!(seen_live(&place), (0, 0));
        let order = export["order"].as_array().unwrap();
        assert!(
            order
                .iter()
                .all(|e| e["held"] != "kvm_busy" && e["acquired"] != "kvm_busy")
        );
        let edges = edges(&export, "kvm->lock", "matrix_dev->lock");
        assert!(!edges.is_empty(), "{probe}: {order:?}");
        assert!(edges.iter().all(|edge| edge["lockdep_visible"] == true));
    }
}
