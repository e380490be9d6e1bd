//! `apscope doctor` on copies of other machines.

mod doctor_report;
mod json_schema;
mod machines;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use doctor_report::{allowed, one_contains, problems, report, state};
use machines::{hide_addresses, machine};
use serde_json::Value;
use support::{Place, failure};

fn of_copy(kernel: &str, changes: &[&str]) -> Value {
    of_root(machine(kernel, changes).path(), "")
}

/// With every acquisition and release.
fn at_level_2(kernel: &str, changes: &[&str]) -> Value {
    of_root(machine(kernel, changes).path(), "--level 2")
}

fn of_root(root: &Path, arguments: &str) -> Value {
    let place = Place::new();
    let root = root.to_str().unwrap();
    let mut command = place.command(&format!("doctor --json {arguments}"));
    report(&command.args(["--root", root]).output().unwrap())
}

/// Points of the kernel that are probed by a mechanism.
fn probed(report: &Value, mechanism: &str) -> usize {
    let rows = report["attach"].as_array().unwrap().iter();
    rows.filter(|row| row["status"] == "probed" && row["mechanism"] == mechanism)
        .count()
}

#[test]
fn a_recent_host_is_ready() {
    for kernel in ["6.12", "7.2"] {
        let report = at_level_2(kernel, &[]);
        assert_eq!(problems(&report, "prevents"), [""; 0], "{kernel}");
        assert_eq!(problems(&report, "degrades"), [""; 0], "{kernel}");
        assert_eq!(state(&report), "ready", "{kernel}");
        assert_eq!(report["source"]["kind"], "kernel");
        assert_eq!(report["source"]["reason"], "this is an s390x machine");
        assert_eq!(report["allowed"]["basis"], "concluded");
        assert_eq!(report["budget"]["possible_cpus"], 16);
        assert!(probed(&report, "kprobe") > 20, "{kernel}");
        assert!(probed(&report, "kretprobe") > 20, "{kernel}");
        assert!(probed(&report, "fexit") > 3, "{kernel}");
        assert!(probed(&report, "btf tracepoint") >= 2, "{kernel}");
        let offsets = report["offsets"].as_array().unwrap();
        assert!(offsets.iter().filter(|row| row["offset"].is_u64()).count() > 40);
        assert!(
            report["blind_spots"]
                .to_string()
                .contains("never leave SIE")
        );
    }
}

#[test]
fn an_old_host_says_what_it_lacks() {
    let report = at_level_2("5.10", &[]);
    assert_eq!(state(&report), "degraded");
    let candidates = &report["generation"]["candidates"];
    assert_eq!(*candidates, serde_json::json!(["v5.10", "v5.11"]));
    let degrades = problems(&report, "degrades");
    one_contains(&degrades, &["fexit", "Linux 6.3", "owner word"]);
    one_contains(&degrades, &["contention_begin", "contended waits"]);
    assert!(
        report["blind_spots"]
            .to_string()
            .contains("AQIC is unusable")
    );

    let report = at_level_2("6.1", &[]);
    assert_eq!(state(&report), "degraded");
    assert!(allowed(&report, "fexit").unwrap_err().contains("6.3"));
    assert_eq!(allowed(&report, "btf-tracepoint"), Ok(()));
}

/// Rows of the functions and tracepoints with this name, without its module.
fn rows<'a>(report: &'a Value, symbol: &str) -> Vec<&'a Value> {
    let rows = report["attach"].as_array().unwrap().iter();
    rows.filter(|row| row["symbol"].as_str().unwrap().split(' ').next() == Some(symbol))
        .collect()
}

#[test]
fn a_level_says_what_is_attached_at_it_and_what_would_be_above() {
    let level = |level: u8| {
        let host = machine("6.12", &[]);
        of_root(host.path(), &format!("--level {level}"))
    };
    for (number, unlock, pqap) in [
        (0, "other-level", "other-level"),
        (1, "other-level", "probed"),
        (2, "probed", "probed"),
    ] {
        let report = level(number);
        assert_eq!(report["source"]["level"], number);
        assert_eq!(state(&report), "ready", "level {number}");
        let unlocks = rows(&report, "mutex_unlock");
        assert_eq!(unlocks.len(), 1);
        assert_eq!(unlocks[0]["status"], unlock, "level {number}");
        let above = unlocks[0].get("at_level_2");
        assert_eq!(above.is_some(), number < 2, "level {number}");
        if let Some(above) = above {
            assert_eq!(above, "fentry");
            assert_eq!(unlocks[0]["mechanism"], "none");
        }
        assert_eq!(rows(&report, "handle_pqap")[0]["status"], pqap);
        let shown = report["shows"].as_array().unwrap().iter();
        let mut shown = shown.filter(|row| row["what"].as_str().unwrap().starts_with("every"));
        assert_eq!(shown.next().unwrap()["shown"], number == 2);
    }
    // What only level 2 uses is no loss below it.
    let report = of_copy("6.1", &[]);
    assert!(
        !problems(&report, "degrades")
            .iter()
            .any(|problem| problem.contains("fexit"))
    );
    one_contains(&problems(&report, "note"), &["fexit", "owner words"]);
}

#[test]
fn a_mechanism_can_be_forced() {
    let host = machine("6.12", &[]);
    let mechanism = |arguments: &str, symbol: &str| {
        let report = of_root(host.path(), arguments);
        let found = rows(&report, symbol);
        found[0]["mechanism"].as_str().unwrap().to_owned()
    };
    assert_eq!(mechanism("--level 2", "mutex_unlock"), "fentry");
    let kprobes = "--level 2 --mechanism kprobe";
    assert_eq!(mechanism(kprobes, "mutex_unlock"), "kprobe");
    let contention = "lock:contention_begin";
    assert_eq!(mechanism("", contention), "btf tracepoint");
    let raw = "--mechanism raw-tracepoint";
    assert_eq!(mechanism(raw, contention), "raw tracepoint");
    // No return probe on a lock function that may sleep; a trylock never does.
    let report = of_root(host.path(), kprobes);
    for row in report["attach"].as_array().unwrap() {
        let symbol = row["symbol"].as_str().unwrap();
        let lock = ["mutex_", "down_", "up_"];
        let lock = lock.iter().any(|start| symbol.starts_with(start));
        let sleeps = lock && !symbol.contains("trylock");
        assert!(!(sleeps && row["mechanism"] == "kretprobe"), "{row}");
    }
    for (symbol, probes) in [
        ("down_read_trylock", ["kprobe", "kretprobe"].as_slice()),
        ("down_write_trylock", &["kprobe", "kretprobe"]),
        ("downgrade_write", &["kprobe"]),
    ] {
        let found: Vec<&str> = rows(&report, symbol)
            .iter()
            .map(|row| row["mechanism"].as_str().unwrap())
            .collect();
        assert_eq!(found, probes, "{symbol}");
    }
}

#[test]
fn what_a_mechanism_does_not_do_or_costs_is_said() {
    let host = machine("6.12", &[]);
    let report = of_root(host.path(), "--level 0 --mechanism fentry");
    assert_eq!(state(&report), "ready");
    one_contains(
        &problems(&report, "note"),
        &["--mechanism fentry has no effect", "leave out --mechanism"],
    );
    let report = of_root(host.path(), "--level 2 --mechanism kprobe");
    let degrades = problems(&report, "degrades");
    assert!(!degrades.is_empty());
    for problem in degrades {
        assert!(problem.contains("leave out --mechanism"), "{problem}");
    }
}

#[test]
fn what_only_a_higher_level_probes_is_one_line_for_each_mechanism() {
    let host = machine("6.12", &[]);
    let place = Place::new();
    let mut command = place.command("doctor --level 1");
    let output = command.args(["--root", host.path().to_str().unwrap()]);
    let page = String::from_utf8(output.output().unwrap().stdout).unwrap();
    let above: Vec<&str> = page
        .lines()
        .filter(|line| line.contains("at level 2"))
        .collect();
    assert!(!above.is_empty() && above.len() < 6, "{above:?}");
    assert!(
        above
            .iter()
            .any(|line| line.contains("more at level 2: fentry")),
        "{above:?}"
    );
    assert!(!page.contains("mutex_lock [kernel]"), "{page}");
}

#[test]
fn kprobes_need_what_they_are_made_through() {
    let host = machine("7.2", &[]);
    let file = host.path().join("sys/kernel/tracing/kprobe_events");
    fs::remove_file(file).unwrap();
    let report = of_root(host.path(), "");
    assert_eq!(state(&report), "impossible");
    assert_eq!(probed(&report, "kprobe") + probed(&report, "kretprobe"), 0);
    one_contains(
        &problems(&report, "prevents"),
        &["tracefs has no kprobe_events", "every kprobe"],
    );
}

#[test]
fn without_test_runs_nothing_is_measured() {
    let host = machine("7.2", &[]);
    let report = of_root(host.path(), "");
    let mut record = report["allowed"].clone();
    for answer in record["mechanisms"].as_array_mut().unwrap() {
        if answer["mechanism"] == "test-run" {
            *answer =
                serde_json::json!({"mechanism": "test-run", "allowed": false, "reason": "EINVAL"});
        }
    }
    fs::write(host.path().join("apscope-probes.json"), record.to_string()).unwrap();
    let report = of_root(host.path(), "");
    assert_eq!(state(&report), "impossible");
    one_contains(&problems(&report, "prevents"), &["test runs", "EINVAL"]);
    let report = of_root(host.path(), "--source emulator");
    assert_eq!(report["source"]["probe"], "in-process");
}

#[test]
fn options_of_a_kernel_do_not_apply_to_the_emulated_driver() {
    let root = machine("6.12", &[]);
    let note = |arguments: &str| {
        let report = of_root(root.path(), &format!("--source emulator {arguments}"));
        problems(&report, "note")
            .into_iter()
            .find(|problem| problem.contains("not apply"))
    };
    assert_eq!(note(""), None);
    let said = note("--lock ffff888012345678").expect("a note");
    assert!(said.starts_with("--lock does not apply"), "{said}");
    assert!(said.contains("--source kernel"), "{said}");
    let said = note("--lock mutex:ffff888012345678 --mechanism kprobe").expect("a note");
    assert!(
        said.starts_with("--lock, --mechanism do not apply"),
        "{said}"
    );
}

#[test]
fn types_can_be_given() {
    let host = machine("7.2", &[]);
    let types = host.path().join("sys/kernel/btf/vfio_ap");
    let given = host.path().join("vfio_ap.btf");
    fs::rename(types, &given).unwrap();
    let missing = |report: &Value| {
        let offsets = report["offsets"].as_array().unwrap().iter();
        offsets
            .filter(|row| row.get("offset").is_none() && row["absent"] == false)
            .count()
    };
    let without = missing(&of_root(host.path(), ""));
    let with = of_root(host.path(), &format!("--btf {}", given.display()));
    assert_eq!(missing(&with), 0);
    assert!(without > 0);
    let place = Place::new();
    for (file, cause) in [("nowhere", "No such file"), (".", "directory")] {
        let output = place
            .command(&format!("doctor --source kernel --btf {file}"))
            .output()
            .unwrap();
        let lines = failure(&output);
        assert!(lines[1].contains(cause), "{lines:?}");
        assert!(lines[2].contains("--btf"), "{lines:?}");
    }
}

#[test]
fn the_budget_is_that_of_what_is_measured() {
    let report = of_copy("7.2", &[]);
    assert_eq!(report["budget"]["tasks"], 4096);
    assert!(report["budget"]["locks"].as_u64().unwrap() > 4096);
    assert_eq!(report["budget"].get("guests"), None);
    let stacks = of_root(machine("7.2", &[]).path(), "--stacks-over 10ms");
    let bytes = |report: &Value| report["budget"]["map_bytes"].as_u64().unwrap();
    assert!(bytes(&stacks) > bytes(&report) + (4 << 20));
    let host = machine("7.2", &[]);
    let emulated = of_root(host.path(), "--source emulator --guests 3");
    assert_eq!(emulated["budget"]["guests"], 3);
    assert!(emulated["budget"]["tasks"].as_u64().unwrap() < 4096);
}

#[test]
fn locked_memory_counts_before_5_11() {
    let report = of_copy("5.10", &["small-memlock", "no-resource"]);
    assert_eq!(state(&report), "impossible");
    one_contains(
        &problems(&report, "prevents"),
        &["65536", "ulimit -l unlimited"],
    );
    // Who may raise the limit raises it.
    let report = of_copy("5.10", &["small-memlock"]);
    assert_ne!(state(&report), "impossible");
    let report = of_copy("6.1", &["small-memlock", "no-resource"]);
    assert_ne!(state(&report), "impossible");
}

#[test]
fn without_tracefs_nothing_is_probed_blindly() {
    let report = of_copy("7.2", &["no-tracefs"]);
    assert_eq!(state(&report), "impossible");
    one_contains(
        &problems(&report, "prevents"),
        &[
            "tracefs is not mounted",
            "stop the machine",
            "mount -t tracefs",
        ],
    );
    assert_eq!(probed(&report, "kprobe"), 0);
}

#[test]
fn without_types_no_offset_is_guessed() {
    let report = of_copy("7.2", &["no-btf"]);
    assert_eq!(state(&report), "impossible");
    one_contains(
        &problems(&report, "prevents"),
        &[
            "offsets of kvm->lock",
            "no known layout",
            "CONFIG_DEBUG_INFO_BTF",
        ],
    );
    let offsets = report["offsets"].as_array().unwrap();
    assert!(offsets.iter().all(|row| row.get("offset").is_none()));
    // Types are missing there too, but these two builds are known.
    for kernel in ["5.10", "5.10-lockdep"] {
        let host = machine("5.10", &[]);
        if kernel != "5.10" {
            machines::tables_of(kernel, host.path());
        }
        let types = host.path().join("sys/kernel/btf");
        fs::remove_dir_all(types).unwrap();
        let report = of_root(host.path(), "");
        assert_eq!(state(&report), "degraded", "{kernel}");
        let offsets = report["offsets"].to_string();
        assert!(offsets.contains("known layout"), "{kernel}");
    }
}

#[test]
fn paranoia_binds_only_who_has_no_capability() {
    let report = of_copy("7.2", &["paranoid"]);
    assert_eq!(state(&report), "ready");
    assert_eq!(report["machine"]["settings"]["perf_event_paranoid"], 4);
    let report = of_copy("7.2", &["paranoid", "no-perfmon"]);
    assert_eq!(state(&report), "impossible");
    one_contains(
        &problems(&report, "prevents"),
        &["kprobes", "CAP_PERFMON missing", "run as root"],
    );
    let host = machine("7.2", &["paranoid", "no-perfmon"]);
    let place = Place::new();
    let root = host.path().to_str().unwrap();
    let page = place
        .command("doctor")
        .args(["--root", root])
        .output()
        .unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(
        page.contains("4: no event can be opened without CAP_PERFMON"),
        "{page}"
    );
}

#[test]
fn lockdown_is_told_apart_by_its_level() {
    let report = of_copy("7.2", &["lockdown-integrity"]);
    assert_eq!(state(&report), "ready");
    assert_eq!(report["machine"]["kernel"]["lockdown"], "integrity");
    let report = of_copy("7.2", &["lockdown-confidentiality"]);
    assert_eq!(state(&report), "impossible");
    one_contains(
        &problems(&report, "prevents"),
        &["kprobes", "confidentiality", "lockdown=integrity"],
    );
    assert_eq!(probed(&report, "kprobe"), 0);
}

#[test]
fn each_other_thing_that_is_missing_is_named() {
    for (change, expected, parts) in [
        (
            "no-module",
            "impossible",
            &["vfio_ap is not loaded", "modprobe vfio_ap"][..],
        ),
        (
            "no-kprobes",
            "impossible",
            &["kprobes", "CONFIG_KPROBE_EVENTS"],
        ),
        (
            "no-ftrace",
            "impossible",
            &["ftrace_enabled is 0", "sysctl kernel.ftrace_enabled=1"],
        ),
        (
            "namespace",
            "impossible",
            &["user namespace do not count", "outside of the container"],
        ),
        ("user", "impossible", &["CAP_BPF missing", "run as root"]),
        (
            "no-perfmon",
            "impossible",
            &["CAP_PERFMON missing", "kprobes"],
        ),
        ("realtime", "degraded", &["PREEMPT_RT", "owner word"]),
    ] {
        let report = of_copy("7.2", &[change]);
        assert_eq!(state(&report), expected, "{change}");
        let severity = if expected == "impossible" {
            "prevents"
        } else {
            "degrades"
        };
        one_contains(&problems(&report, severity), parts);
    }
}

#[test]
fn hidden_addresses_are_no_addresses() {
    let host = machine("7.2", &["hidden-addresses"]);
    hide_addresses(host.path());
    let report = of_root(host.path(), "");
    assert_eq!(state(&report), "degraded");
    one_contains(
        &problems(&report, "degrades"),
        &[
            "zeros instead of addresses",
            "the driver's own locks",
            "kptr_restrict=1",
        ],
    );
    assert_eq!(report["machine"]["tracing"]["addresses"], false);
}

#[test]
fn recorded_answers_come_before_conclusions() {
    let host = machine("7.2", &[]);
    let record = r#"{"basis":"probed","mechanisms":[{"mechanism":"kprobe","allowed":false,"reason":"EACCES"}]}"#;
    fs::write(host.path().join("apscope-probes.json"), record).unwrap();
    let report = of_root(host.path(), "");
    assert_eq!(report["allowed"]["basis"], "recorded");
    assert_eq!(allowed(&report, "kprobe"), Err("EACCES".into()));
    assert_eq!(allowed(&report, "fexit"), Err("not tried".into()));
    assert_eq!(state(&report), "impossible");
}

/// A reader of these would wait for ever, as it would for a lock that a stuck task holds.
#[test]
fn nothing_behind_a_traced_lock_is_opened() {
    let host = machine("7.2", &[]);
    for path in [
        "sys/bus/ap/apmask",
        "sys/bus/ap/aqmask",
        "sys/devices/vfio_ap/matrix/0/matrix",
        "sys/devices/vfio_ap/matrix/0/guest_matrix",
        "sys/devices/vfio_ap/matrix/0/ap_config",
        "proc/1/cmdline",
        "proc/self/cmdline",
        "proc/modules",
        // Not even in place of a file that is read.
        "proc/sys/kernel/bpf_stats_enabled",
    ] {
        let path = host.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        let status = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
    }
    let report = of_root(host.path(), "");
    assert_eq!(state(&report), "ready");
    let unreadable = report["machine"]["unreadable"].as_array().unwrap();
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    assert_eq!(unreadable[0]["path"], "/proc/sys/kernel/bpf_stats_enabled");
}

#[test]
fn damaged_files_are_said_and_survived() {
    let host = machine("7.2", &[]);
    for path in [
        "proc/kallsyms",
        "proc/self/status",
        "proc/sys/kernel/osrelease",
        "sys/kernel/btf/vmlinux",
        "sys/kernel/btf/kvm",
        "sys/kernel/notes",
        "sys/kernel/tracing/available_filter_functions",
        "sys/module/vfio_ap/notes/.note.gnu.build-id",
    ] {
        let bytes: Vec<u8> = (0..=255u8).cycle().take(5000).collect();
        fs::write(host.path().join(path), bytes).unwrap();
    }
    let report = of_root(host.path(), "");
    assert_eq!(state(&report), "impossible");
    let place = Place::new();
    let root = host.path().to_str().unwrap();
    let page = place
        .command("doctor --color never")
        .args(["--root", root])
        .output()
        .unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(
        page.chars().all(|c| c == '\n' || !c.is_control()),
        "{page:?}"
    );
}

#[test]
fn a_page_has_79_columns_of_ascii() {
    for (kernel, changes) in [
        ("5.10", &[][..]),
        ("7.2", &[]),
        ("7.2", &["no-btf", "user"]),
    ] {
        let host = machine(kernel, changes);
        let place = Place::new();
        let root = host.path().to_str().unwrap();
        let output = place
            .command("doctor")
            .args(["--root", root])
            .output()
            .unwrap();
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.is_ascii());
        for line in page.lines() {
            assert!(line.len() <= 79, "{line}");
        }
        for heading in [
            "MACHINE",
            "PRIVILEGES",
            "KERNEL FEATURES",
            "DRIVER",
            "ATTACH POINTS",
            "OFFSETS",
            "MEMORY",
            "WHAT THE DASHBOARD SHOWS",
            "BLIND SPOTS",
            "WHAT IS MISSING",
            "VERDICT",
        ] {
            assert!(
                page.lines().any(|line| line.starts_with(heading)),
                "{heading}: {page}"
            );
        }
    }
}

/// Names of the members that a schema knows.
fn names(schema: &Value, found: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties") {
        for (name, inner) in properties.as_object().unwrap() {
            found.push(name.clone());
            names(inner, found);
        }
    }
    if let Some(items) = schema.get("items") {
        names(items, found);
    }
}

#[test]
fn every_member_and_exit_code_is_documented() {
    let page = include_str!("../../docs/doctor.md");
    let schema = serde_json::from_str(include_str!("../../docs/doctor.schema.json")).unwrap();
    let mut members = Vec::new();
    names(&schema, &mut members);
    assert!(members.len() > 60);
    for word in members
        .iter()
        .map(String::as_str)
        .chain(["ready", "degraded", "impossible"])
    {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn a_folder_that_is_no_machine_is_refused() {
    let place = Place::new();
    for arguments in ["doctor --root nowhere", "doctor --root ."] {
        let [what, _, hint] = failure(&place.command(arguments).output().unwrap());
        assert!(what.contains("cannot be read as a machine"), "{what}");
        assert!(hint.contains("proc and sys"), "{hint}");
    }
}
