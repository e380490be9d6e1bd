//! The JSON export: its content, and that it is what the published JSON Schema says.

mod json_schema;
mod model_frames;

use std::collections::BTreeSet;

use apscope_collector::diagnose::Diagnosis;
use apscope_collector::export::json::{Document, Origin};
use apscope_collector::frame::Frame;
use apscope_collector::model::Model;
use json_schema::violations;
use model_frames::{MDEV, add_writers, kernel_run, run};
use serde_json::Value;

fn export(frames: u64, origin: Origin) -> Value {
    export_of(&run(frames), origin)
}

/// The sane run, with writers in its last frame.
fn export_with_writers() -> Value {
    let mut frames = run(20);
    add_writers(frames.last_mut().unwrap());
    export_of(&frames, Origin::Live)
}

fn export_of(frames: &[Frame], origin: Origin) -> Value {
    let mut model = Model::default();
    for frame in frames {
        model.apply(frame);
    }
    let mut text = Vec::new();
    Document::of(&model, origin, &Diagnosis::default().report())
        .write(&mut text)
        .unwrap();
    assert!(text.ends_with(b"}\n"));
    serde_json::from_slice(&text).unwrap()
}

fn schema() -> Value {
    let text = include_str!("../../docs/json.schema.json");
    serde_json::from_str(text).unwrap()
}

fn check(value: &Value) -> Vec<String> {
    let schema = schema();
    let mut found = Vec::new();
    violations(&schema, &schema, value, "", &mut found);
    found
}

#[test]
fn exports_are_what_the_schema_says() {
    for frames in [1, 20] {
        for origin in [Origin::Live, Origin::Recording] {
            assert_eq!(check(&export(frames, origin)), [""; 0]);
        }
    }
    assert_eq!(check(&export_with_writers()), [""; 0]);
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    let whole = export(2, Origin::Live);
    let changes: [(&str, Value); 6] = [
        ("/schema", 2.into()),
        ("/locks/0/mode", "shared".into()),
        ("/locks/0/acquisitions", (-1).into()),
        ("/locks/0/by_instance/0/address", "12".into()),
        ("/interval/start", "yesterday".into()),
        ("/locks/0/wait/buckets/0", Value::Array(vec![1.into()])),
    ];
    for (path, value) in changes {
        let mut wrong = whole.clone();
        *wrong.pointer_mut(path).unwrap() = value;
        assert_eq!(check(&wrong).len(), 1, "{path}");
    }
    let mut wrong = whole;
    let locks = wrong["locks"][0].as_object_mut().unwrap();
    locks.remove("hold");
    locks.insert("holds".into(), 1.into());
    assert_eq!(check(&wrong).len(), 2);
}

/// Names of all members, and where: `locks/wait/p50_ns`.
fn members(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|e| members(e, at, found)),
        Value::Object(object) => {
            // Keys that are data.
            if at.ends_with("returns") || at.contains("pqap") {
                return;
            }
            for (name, member) in object {
                found.insert(name.clone());
                members(member, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_member_is_documented() {
    let page = include_str!("../../docs/json.md");
    let mut names = BTreeSet::new();
    members(&export_with_writers(), "", &mut names);
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_content_is_that_of_the_run() {
    let value = export(20, Origin::Live);
    let classes: Vec<_> = value["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| format!("{} {}", lock["class"], lock["mode"]).replace('"', ""))
        .collect();
    assert_eq!(
        classes,
        [
            "kvm->lock -",
            "vcpu->mutex -",
            "pqap_hook_rwsem write",
            "pqap_hook_rwsem read",
            "kvm_busy -"
        ]
    );
    let lock = &value["locks"][0];
    assert_eq!(lock["wait"]["count"], lock["acquisitions"]);
    assert_eq!(lock["hold"]["count"], 40);
    assert_eq!(lock["hold"]["p50_ns"], 10);
    assert_eq!(lock["hold"]["p99_ns"], 20_000);
    assert_eq!(lock["hold"]["buckets"][0], serde_json::json!([10, 20]));
    // Instances by their number, those that were never taken too.
    assert_eq!(lock["by_instance"][0]["name"], "kvm->lock[guest-0]");
    assert_eq!(lock["by_instance"][0]["acquisitions"], 0);
    assert_eq!(lock["by_instance"][0]["hold"].get("p50_ns"), None);
    assert_eq!(lock["by_instance"][1]["acquisitions"], 60);
    assert_eq!(lock["by_instance"][1].get("wakes"), None);
    assert_eq!(value["locks"][1]["acquisitions"], 0);
    assert_eq!(value["locks"][4]["open_coded"], true);
    assert_eq!(value["locks"][4]["by_instance"][0]["wakes"], 60);
    assert_eq!(value["events"]["emitted"], 60);
    assert_eq!(value["events"]["received"], 40);
    assert_eq!(value["events"]["dropped"], 20);
    assert_eq!(value["exact"], true);
    let entries = &value["entry_points"];
    assert_eq!(entries[0]["name"], "handle_pqap");
    assert_eq!(entries[0]["pqap"]["AQIC"]["01"], 20);
    assert_eq!(entries[1]["returns"]["NOTIFY_OK"], 20);
    assert_eq!(entries[2]["returns"]["-EBUSY"], 20);
    assert_eq!(entries[2]["in_flight"], 20);
    assert_eq!(entries[2].get("pqap"), None);
    let order = &value["order"];
    assert_eq!(order[1]["held"], "vcpu->mutex");
    assert_eq!(order[1]["acquired"], "kvm_busy");
    assert_eq!(order[1]["lockdep_visible"], false);
    assert_eq!(order[1]["annotated"], true);
    assert_eq!(value["live"]["waiters"][0]["owner_tid"], 102);
    assert_eq!(value["interval"]["start"], "2026-01-02T03:04:05Z");
    assert_eq!(value["interval"]["duration_ns"], 2_000_000_000_u64);
    assert_eq!(value["source"]["kind"], "emulator");
    assert_eq!(value["source"]["ended"], "finished");
    assert_eq!(value["findings"], serde_json::json!([]));
}

#[test]
fn it_says_for_whom_a_file_system_thread_works() {
    let value = export_with_writers();
    let echo = serde_json::json!({ "pid": 1234, "comm": "echo" });
    let live = |list: &str, for_ns: u64| {
        let list = value["live"][list].as_array().unwrap();
        list.iter()
            .find(|l| l["tid"] == 103 && l["for_ns"] == for_ns)
            .unwrap()
            .get("on_behalf_of")
            .cloned()
    };
    assert_eq!(live("holders", 3_000), Some(echo.clone()));
    assert_eq!(live("holders", 9_000), None, "held from before the call");
    assert_eq!(live("waiters", 2_000), Some(echo));
    let others = value["live"]["holders"].as_array().unwrap();
    assert!(
        others
            .iter()
            .filter(|h| h["tid"] != 103)
            .all(|h| h.get("on_behalf_of").is_none())
    );
    assert_eq!(
        value["writes"],
        serde_json::json!([
            {
                "at_ns": 1_999_980_000_u64,
                "entry_point": "assign_adapter_store",
                "text": "0x05",
                "pid": 77,
                "comm": "mdevctl",
                "returns": "-EBUSY",
                "latency_ns": 700,
                "mdev": MDEV,
                "guest": "guest-0"
            },
            {
                "at_ns": 1_999_990_000_u64,
                "entry_point": "vfio_ap_mdev_remove",
                "pid": 77,
                "comm": "mdevctl",
                "returns": "ok",
                "latency_ns": 700,
                "mdev": "mdev-0"
            }
        ])
    );
    let calls = |entry_point, failed| serde_json::json!([{ "entry_point": entry_point, "spans": 1, "failed": failed }]);
    let (store, remove) = ("assign_adapter_store", "vfio_ap_mdev_remove");
    assert_eq!(
        value["objects"],
        serde_json::json!([
            { "kind": "mdev", "name": MDEV, "calls_of_spans": calls(store, 1) },
            { "kind": "guest", "name": "guest-0", "calls_of_spans": calls(store, 1) },
            { "kind": "mdev", "name": "mdev-0", "calls_of_spans": calls(remove, 0) }
        ])
    );
    assert_eq!(export(2, Origin::Live)["writes"], serde_json::json!([]));
}

/// As a kernel's frames are: the writer is the task itself, and an mdev's memory has been used for another one.
#[test]
fn a_kernel_says_what_calls_acted_on() {
    use apscope_collector::frame::{About, ActedOn, Object, Spans};
    use probe_ebpf::abi;
    use probe_ebpf::names::entry_id;

    const OTHER: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
    let mut frames = kernel_run(3, 2);
    let last = frames.last_mut().unwrap();
    let mut meta = kernel_run(1, 2)[0].meta.clone().unwrap();
    let first = meta.objects[0].clone();
    meta.objects.push(Object {
        id: 9,
        name: OTHER.into(),
        ..first
    });
    last.meta = Some(meta);
    let call = |what, result| abi::Span {
        start_ns: last.at_ns - 1000,
        duration_ns: 100,
        extra: 0,
        tid: 4330,
        instance: abi::NO_INSTANCE,
        result,
        kind: abi::SPAN_ENTRY,
        what,
        inside: 0,
        flags: 0,
    };
    let about = |mdev, guest| About {
        writer: None,
        on: ActedOn { mdev, guest },
    };
    let spans = [
        (call(entry_id::ASSIGN_DOMAIN, -16), about(Some(0), Some(1))),
        (call(entry_id::ASSIGN_DOMAIN, 3), about(Some(9), None)),
        (call(entry_id::HANDLE_PQAP, 0), about(Some(0), Some(1))),
    ];
    let spans = spans.iter().map(|(span, about)| (span, *about));
    last.spans = Some(Spans::encode_for(last.at_ns, spans, |_| "chzdev".into()));
    let value = export_of(&frames, Origin::Live);
    assert_eq!(check(&value), Vec::<String>::new());
    let writes = value["writes"].as_array().unwrap();
    let on: Vec<_> = writes
        .iter()
        .map(|write| (write["mdev"].as_str(), write["guest"].as_str()))
        .collect();
    assert_eq!(on, [(Some(MDEV), Some("guest-0")), (Some(OTHER), None)]);
    let calls = |name: &str| {
        let objects = value["objects"].as_array().unwrap();
        let object = objects
            .iter()
            .find(|object| object["name"] == name)
            .unwrap();
        let calls = object["calls_of_spans"].as_array().unwrap().iter();
        let calls = calls.map(|calls| {
            let count = |member: &str| calls[member].as_u64().unwrap();
            (
                calls["entry_point"].as_str().unwrap(),
                count("spans"),
                count("failed"),
            )
        });
        calls.collect::<Vec<_>>()
    };
    let refused = ("assign_domain_store", 1, 1);
    let pqap = ("handle_pqap", 1, 0);
    assert_eq!(calls(MDEV), [pqap, refused]);
    assert_eq!(calls("guest-0"), [pqap, refused]);
    assert_eq!(calls(OTHER), [("assign_domain_store", 1, 0)]);
}

#[test]
fn an_export_of_a_recording_still_says_emulated() {
    let value = export(2, Origin::Recording);
    assert_eq!(value["source"]["kind"], "recording");
    assert_eq!(value["source"]["emulated"], true);
}

#[test]
fn a_model_without_frames_is_an_empty_document() {
    let document = Document::of(
        &Model::default(),
        Origin::Live,
        &Diagnosis::default().report(),
    );
    let value = serde_json::to_value(document).unwrap();
    assert_eq!(value["locks"], serde_json::json!([]));
    assert_eq!(value["interval"]["start"], "1970-01-01T00:00:00Z");
}

#[test]
fn a_kernel_says_what_its_level_does_not_count() {
    use apscope_collector::frame;
    use apscope_collector::model::query;
    let of_level = |level| {
        let mut model = Model::default();
        model.apply(&frame::Frame {
            meta: Some(frame::Meta {
                source: "kernel".into(),
                series: vec![0],
                level,
                ..frame::Meta::default()
            }),
            series: vec![frame::SeriesDelta {
                series: 0,
                acquisitions: 4,
                contended: 4,
                ..frame::SeriesDelta::default()
            }],
            ..frame::Frame::default()
        });
        model
    };
    // Nothing is counted at level 0, and of acquisitions only contended ones at level 1.
    for (level, exact, percent) in [
        (0, false, Some(100.0)),
        (1, true, None),
        (2, true, Some(100.0)),
    ] {
        let model = of_level(level);
        let document = serde_json::to_value(Document::of(
            &model,
            Origin::Live,
            &Diagnosis::default().report(),
        ))
        .unwrap();
        assert_eq!(document["exact"], exact, "level {level}");
        let rows = query::lock_rows(&model);
        assert_eq!(rows[0].contended_percent, percent, "level {level}");
    }
}
