//! `apscope doctor` on this machine, under each missing capability, and held against what an export does.

mod doctor_report;
mod json_schema;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use doctor_report::{allowed, one_contains, problems, report, state};
use serde_json::Value;
use support::bpf::permitted;
use support::{Place, failure, told};

const CAP_BPF: i32 = 39;
const CAP_PERFMON: i32 = 38;
const CAP_DAC_OVERRIDE: i32 = 1;
const CAP_DAC_READ_SEARCH: i32 = 2;
const CAP_SYS_RESOURCE: i32 = 24;
const CAP_SYS_ADMIN: i32 = 21;
const CAP_SYS_PTRACE: i32 = 19;
const CAP_SYSLOG: i32 = 34;

/// The program as root without some capabilities.
fn without(place: &Place, capabilities: &[i32], arguments: &str) -> Command {
    let capabilities = capabilities.to_vec();
    let mut command = place.command(arguments);
    // SAFETY: prctl(2) alone, which may be called between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for capability in &capabilities {
                // exec(2) gives root what is in the bounding set.
                if libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command
}

/// The program as a user without any privilege.
fn as_nobody(place: &Place, arguments: &str) -> Command {
    let program = place.path("apscope-collector");
    fs::copy(env!("CARGO_BIN_EXE_apscope-collector"), &program).unwrap();
    fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(place.path("."))
        .args(arguments.split_whitespace())
        .uid(65534)
        .gid(65534);
    command
}

/// What a run without some capabilities can do: whether it measures over eBPF, and what it names.
fn cases() -> Vec<(&'static [i32], Result<(), &'static str>)> {
    // On kernels between, which may or may not have the change, there is nothing to expect.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut cases: Vec<(&'static [i32], Result<(), &'static str>)> = vec![
        (&[], Ok(())),
        // Each of the two was a part of CAP_SYS_ADMIN.
        (&[CAP_BPF], Ok(())),
        (&[CAP_PERFMON], Ok(())),
        (&[CAP_SYSLOG, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE], Ok(())),
        (&[CAP_SYS_ADMIN, CAP_BPF], Err("CAP_BPF")),
        (&[CAP_SYS_ADMIN, CAP_PERFMON], Err("CAP_PERFMON")),
    ];
    if release >= (6, 16) {
        cases.push((&[CAP_SYS_ADMIN], Err("CAP_SYS_ADMIN missing")));
    }
    cases
}

#[test]
fn this_machine_is_probed_under_each_missing_capability() {
    let Some(_permit) = permitted() else { return };
    for (capabilities, expected) in cases() {
        let place = Place::new();
        let arguments = "doctor --json --source emulator";
        let report = report(&without(&place, capabilities, arguments).output().unwrap());
        assert_eq!(report["allowed"]["basis"], "probed");
        match expected {
            Ok(()) => {
                assert_eq!(problems(&report, "degrades"), [""; 0], "{capabilities:?}");
                assert_eq!(state(&report), "ready", "{capabilities:?}");
                assert_eq!(report["source"]["probe"], "ebpf");
            }
            Err(missing) => {
                assert_eq!(state(&report), "degraded", "{capabilities:?}");
                assert_eq!(report["source"]["probe"], "in-process");
                one_contains(
                    &problems(&report, "degrades"),
                    &["uprobes", missing, "run as root"],
                );
            }
        }
        // What is tried agrees with what the kernel's source says.
        let stats = allowed(&report, "run-time-stats");
        if capabilities.contains(&CAP_SYS_ADMIN) {
            assert!(stats.unwrap_err().contains("EPERM"));
            assert_eq!(report["machine"]["others"]["known"], false);
        } else {
            assert_eq!(stats, Ok(()));
            assert_eq!(report["machine"]["others"]["known"], true);
        }
        let forced = format!("{arguments} --probe ebpf");
        let report = self::report(&without(&place, capabilities, &forced).output().unwrap());
        let judged = if expected.is_ok() {
            "ready"
        } else {
            "impossible"
        };
        assert_eq!(state(&report), judged, "{capabilities:?}");
    }
}

#[test]
fn an_export_agrees_with_the_doctor() {
    let Some(_permit) = permitted() else { return };
    let export = "export --source emulator --format json -o out.json --guests 1 --duration 1s";
    for (capabilities, expected) in cases().into_iter().skip(1) {
        let place = Place::new();
        let output = without(&place, capabilities, export).output().unwrap();
        assert!(
            output.status.success(),
            "{capabilities:?}: {}",
            told(&output)
        );
        let source = &place.json("out.json")["source"];
        let reason = source["reason"].as_str().unwrap();
        match expected {
            Ok(()) => assert_eq!(source["probe"], "ebpf", "{reason}"),
            Err(missing) => {
                assert_eq!(source["probe"], "in-process", "{reason}");
                assert!(reason.contains(missing), "{reason}");
                let forced = format!("{export} --probe ebpf");
                let output = without(&place, capabilities, &forced).output().unwrap();
                let [_, cause, hint] = failure(&output);
                assert!(cause.contains(missing), "{cause}");
                assert!(hint.contains("root"), "{hint}");
            }
        }
    }
}

#[test]
fn a_user_without_privileges_measures_in_process() {
    let Some(_permit) = permitted() else { return };
    let place = Place::new();
    let arguments = "doctor --json --source emulator";
    let report = report(&as_nobody(&place, arguments).output().unwrap());
    assert_eq!(report["machine"]["privileges"]["uid"], 65534);
    assert_eq!(state(&report), "degraded");
    assert_eq!(report["source"]["probe"], "in-process");
    one_contains(
        &problems(&report, "degrades"),
        &["CAP_BPF", "CAP_PERFMON", "in process", "run as root"],
    );
    let export = "export --source emulator --format json -o out.json --guests 1 --duration 1s";
    let output = as_nobody(&place, export).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let source = &place.json("out.json")["source"];
    assert_eq!(source["probe"], "in-process");
    assert!(
        source["reason"]
            .as_str()
            .unwrap()
            .contains("CAP_BPF and CAP_PERFMON missing")
    );
    let forced = as_nobody(&place, &format!("{export} --probe ebpf"));
    let [_, cause, _] = failure(&{ forced }.output().unwrap());
    assert!(cause.contains("CAP_BPF and CAP_PERFMON missing"), "{cause}");
}

#[test]
fn the_real_driver_is_impossible_where_there_is_none() {
    if Path::new("/sys/module/vfio_ap").exists() {
        return;
    }
    let place = Place::new();
    let output = place
        .command("doctor --json --source kernel")
        .output()
        .unwrap();
    let report = report(&output);
    assert_eq!(state(&report), "impossible");
    assert_eq!(report["source"]["probe"], "none");
    one_contains(&problems(&report, "prevents"), &["vfio_ap is not loaded"]);
}

/// A place in the kernel's memory where no lock is.
fn no_lock() -> String {
    format!("given={:x}", support::kernel_address())
}

const ALL: [i32; 8] = [
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_SYS_PTRACE,
    CAP_SYS_ADMIN,
    CAP_SYS_RESOURCE,
    CAP_SYSLOG,
    CAP_PERFMON,
    CAP_BPF,
];

#[test]
fn a_named_lock_is_judged_under_each_single_missing_capability_as_an_export_does() {
    let Some(_permit) = permitted() else { return };
    if Path::new("/sys/module/vfio_ap").exists() {
        eprintln!("skipped: this machine has the driver");
        return;
    }
    let lock = no_lock();
    for capability in ALL {
        for stacks in ["", " --stacks-over 10ms"] {
            let place = Place::new();
            let arguments = format!("--lock {lock}{stacks}");
            let what = format!("without {capability}{stacks}");
            let doctor = format!("doctor --json --source kernel {arguments}");
            let report = report(&without(&place, &[capability], &doctor).output().unwrap());
            let export = format!(
                "export --source kernel --format json -o out.json --duration 1s {arguments}"
            );
            let output = without(&place, &[capability], &export).output().unwrap();
            let impossible = state(&report) == "impossible";
            assert_eq!(
                output.status.success(),
                !impossible,
                "{what}: {}",
                told(&output)
            );
            let (degrades, notes) = (problems(&report, "degrades"), problems(&report, "note"));
            match capability {
                CAP_SYSLOG => {
                    let hidden = "symbol addresses hidden: stacks have numbers instead of names";
                    let (where_it_is, expected) = if stacks.is_empty() {
                        (&notes, "ready")
                    } else {
                        (&degrades, "degraded")
                    };
                    one_contains(where_it_is, &[hidden, "CAP_SYSLOG"]);
                    assert_eq!(state(&report), expected, "{what}");
                    assert_eq!(told(&output).contains(hidden), !stacks.is_empty(), "{what}");
                }
                CAP_SYS_ADMIN => {
                    assert!(allowed(&report, "run-time-stats").is_err(), "{what}");
                    if !impossible {
                        one_contains(&degrades, &["run-time stat", "CAP_SYS_ADMIN"]);
                        let programs = &place.json("out.json")["overhead"]["programs"];
                        let programs = programs.as_array().unwrap();
                        assert!(!programs.is_empty(), "{what}");
                        let counted = programs.iter().any(|p| p.get("runs").is_some());
                        assert!(!counted, "{what}: {programs:?}");
                    }
                }
                _ => {
                    assert_eq!(degrades, [""; 0], "{what}");
                    assert_eq!(state(&report), "ready", "{what}");
                }
            }
        }
    }
}

#[test]
fn a_named_lock_is_measured_without_the_driver_as_an_export_does() {
    let Some(_permit) = permitted() else { return };
    if Path::new("/sys/module/vfio_ap").exists() {
        eprintln!("skipped: this machine has the driver");
        return;
    }
    let place = Place::new();
    for options in [
        "",
        "--mechanism raw-tracepoint",
        "--level 2 --max-overhead 100",
        "--level 2 --max-overhead 100 --mechanism kprobe",
    ] {
        let arguments = format!("--lock {} {options}", no_lock());
        let doctor = format!("doctor --json {arguments}");
        let report = report(&place.command(&doctor).output().unwrap());
        assert_eq!(report["source"]["kind"], "kernel", "{options}");
        let reason = report["source"]["reason"].as_str().unwrap();
        assert!(reason.contains("--lock"), "{reason}");
        assert_eq!(problems(&report, "prevents"), [""; 0], "{options}");
        assert_eq!(report.get("generation"), None);
        let shows = report["shows"].as_array().unwrap();
        let owners = shows
            .iter()
            .find(|row| row["what"] == "owners, from lock words");
        assert_eq!(owners.unwrap()["shown"], true, "{options}");
        let blind = report["blind_spots"].to_string();
        assert!(blind.contains("spin locks"), "{options}: {blind}");
        assert_eq!(
            blind.contains("find a lock free"),
            !options.contains("--level 2")
        );
        if !options.contains("--level 2") {
            assert_eq!(problems(&report, "degrades"), [""; 0], "{options}");
            assert_eq!(state(&report), "ready", "{options}");
        }
        place.run(&format!(
            "export --format json -o out.json --duration 1s {arguments}"
        ));
        let export = place.json("out.json");
        assert!(
            export["source"]["reason"]
                .as_str()
                .unwrap()
                .contains(reason)
        );
        let attached: Vec<_> = export["attach"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| (point["symbol"].clone(), point["mechanism"].clone()))
            .collect();
        let announced: Vec<_> = report["attach"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                let symbol = row["symbol"].as_str().unwrap();
                let side = if row["side"] == "return" {
                    " return"
                } else {
                    ""
                };
                let symbol = Value::from(format!("{symbol}{side}"));
                (symbol, row["mechanism"].clone())
            })
            .collect();
        assert_eq!(announced, attached, "{options}");
        assert!(attached.iter().any(|(_, mechanism)| mechanism != "none"));
        // The level that is reached is the one that was announced.
        let lower = problems(&report, "degrades")
            .iter()
            .any(|problem| problem.contains("level 2 is not reached"));
        let reached = if lower {
            serde_json::json!(1)
        } else {
            report["source"]["level"].clone()
        };
        assert_eq!(export["source"]["level"], reached, "{options}");
    }
}

#[test]
fn two_collectors_on_one_kernel_know_of_each_other() {
    let Some(_permit) = permitted() else { return };
    let others = |report: &Value| report["machine"]["others"]["kernel"].as_u64().unwrap();
    let place = Place::new();
    let doctor = || {
        let arguments = format!("doctor --json --lock {}", no_lock());
        report(&place.command(&arguments).output().unwrap())
    };
    // Somebody else's may be there too.
    let before = others(&doctor());
    let lock = no_lock();
    let first =
        format!("export --source kernel --lock {lock} --format json -o first.json --duration 60s");
    let first = support::process::Background(place.start(&first));
    let announced = support::process::wait_for("the first one is attached", || {
        let report = doctor();
        (others(&report) > before).then_some(report)
    });
    one_contains(
        &problems(&announced, "note"),
        &["more collector(s) measure this kernel", "costs twice"],
    );
    let second =
        format!("export --source kernel --lock {lock} --format json -o second.json --duration 1s");
    let output = place.command(&second).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let said = "more collector(s) measure this kernel";
    assert!(told(&output).contains(said), "{}", told(&output));
    let reason = &place.json("second.json")["source"]["reason"];
    assert!(reason.as_str().unwrap().contains(said), "{reason}");
    drop(first);
    support::process::wait_for("the first one is gone", || {
        (others(&doctor()) == before).then_some(())
    });
    // An emulated driver is another target.
    let emulator = "export --source emulator --probe ebpf --format json -o third.json --guests 1 --duration 60s";
    let emulator = support::process::Background(place.start(emulator));
    let report = support::process::wait_for("an emulated driver is measured", || {
        let report = doctor();
        let emulated = report["machine"]["others"]["emulated"].as_u64().unwrap();
        (emulated > 0).then_some(report)
    });
    assert_eq!(others(&report), before);
    if before == 0 {
        let said = ["measure something else on this machine", "emulated drivers"];
        one_contains(&problems(&report, "note"), &said);
    }
    drop(emulator);
}

/// Trials leave nothing behind.
#[test]
fn nothing_stays_loaded() {
    let Some(_permit) = permitted() else { return };
    let place = Place::new();
    report(
        &place
            .command("doctor --json --source emulator")
            .output()
            .unwrap(),
    );
    // Another doctor may be at work on this machine just now.
    support::process::wait_for("no trial is loaded", || {
        let left = aya::programs::loaded_programs()
            .flatten()
            .filter(|program| program.name_as_str() == Some("apscope_trial"));
        (left.count() == 0).then_some(())
    });
}

/// What is loaded is what a run loads: the uprobes' programs are accepted here, as a run proves that they are.
#[test]
fn the_verifiers_word_on_every_program() {
    let Some(_permit) = permitted() else { return };
    let place = Place::new();
    let mut command = place.command("doctor --programs --json --source emulator");
    let report = report(&command.output().unwrap());
    let programs = report["programs"].as_array().unwrap();
    let accepted = |name: &str| {
        let program = programs.iter().find(|program| program["name"] == name);
        program.unwrap_or_else(|| panic!("{name}"))["accepted"].clone()
    };
    for name in ["entry_enter", "lock_acquired", "lock_release", "k_enter"] {
        let accepted = accepted(name);
        let verified = accepted["verified_instructions"].as_u64().unwrap();
        assert!((1_000..1_000_000).contains(&verified), "{name}: {verified}");
        let stack = accepted["stack_bytes"].as_array().unwrap();
        assert!(stack.len() > 3, "{name}: {stack:?}");
        assert!(stack.iter().all(|bytes| bytes.as_u64().unwrap() <= 512));
    }
    for program in programs {
        assert!(
            program["accepted"].is_object() != program["refused"].is_string(),
            "{program}"
        );
    }

    let page = place.command("doctor --programs").output().unwrap().stdout;
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("PROGRAMS IN THIS KERNEL'S VERIFIER"),
        "{page}"
    );
    assert!(page.contains("  ok lock_release "), "{page}");
}

#[test]
fn programs_cannot_be_tried_without_privilege_or_on_a_copy() {
    let place = Place::new();
    let [what, cause, _] = failure(&as_nobody(&place, "doctor --programs").output().unwrap());
    assert_eq!(what, "the programs cannot be loaded");
    assert!(cause.contains("CAP_BPF"), "{cause}");
    let refused = place
        .command("doctor --programs --root /")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
}
