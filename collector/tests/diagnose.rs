//! `diagnose`, `compare` and `explain` as a person runs them: on the emulated driver, a recording of it, and on texts.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::bpf;
use tempfile::TempDir;

/// Runs apscope-collector to its end.
fn apscope(arguments: &str) -> Output {
    apscope_in(Path::new("."), arguments)
}

fn apscope_in(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)))
}

fn ids(document: &Value) -> BTreeSet<String> {
    let findings = document["findings"].as_array().unwrap().iter();
    findings
        .map(|f| f["id"].as_str().unwrap().to_owned())
        .collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/stacks")
        .join(name)
}

/// What must and may be found in a cell of the matrix.
fn expected(scenario: &str, generation: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let file = include_str!("expected/findings.txt");
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        if fields.len() == 5
            && fields[0] == scenario
            && fields[1].split(',').any(|known| known == generation)
        {
            let set = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            return (set(fields[2]), set(fields[3]));
        }
    }
    panic!("{scenario} on {generation} is not in the file");
}

/// Runs a cell of the matrix, and compares what is found.
fn cell(scenario: &str, generation: &str, options: &str, probe: &str) -> Value {
    let output = apscope(&format!(
        "diagnose --json -q --source emulator --probe {probe} --scenario {scenario} --generation {generation} \
         --guests 3 {options}"
    ));
    let document = json(&output);
    let found = ids(&document);
    let (must, may) = expected(scenario, generation);
    let allowed: BTreeSet<String> = must.union(&may).cloned().collect();
    let sums: Vec<&Value> = document["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["summary"])
        .collect();
    assert!(
        must.is_subset(&found),
        "{scenario} {generation}: {found:?} {sums:?}"
    );
    assert!(
        found.is_subset(&allowed),
        "{scenario} {generation}: {found:?} {sums:?}"
    );
    let code = i32::from(!found.is_empty());
    assert_eq!(output.status.code(), Some(code));
    document
}

fn classes(finding: &Value) -> BTreeSet<String> {
    let locks = finding["locks"].as_array().unwrap().iter();
    locks
        .map(|lock| lock.as_str().unwrap().split('[').next().unwrap().to_owned())
        .collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn the_splat_is_found_before_anybody_hangs_and_its_hidden_form_too() {
    let splat = cell("se-serial", "v5.11", "--duration 3s", "in-process");
    let cycle = &splat["findings"][0];
    assert_eq!(
        classes(cycle),
        set(&["matrix_dev->lock", "kvm->lock", "vcpu->mutex"])
    );
    let details = cycle["details"].to_string();
    assert!(details.contains("lockdep sees every edge"), "{details}");
    assert!(
        details.contains("kvm_s390_handle_pv") && details.contains("handle_pqap"),
        "{details}"
    );
    assert!(
        splat["verdict"]
            .as_str()
            .unwrap()
            .contains("a deadlock is possible (AP002)")
    );

    let hidden = cell("se-serial", "v5.13", "--duration 3s", "in-process");
    let cycle = &hidden["findings"][0];
    assert_eq!(
        classes(cycle),
        set(&["kvm_busy", "kvm->lock", "vcpu->mutex"])
    );
    let details = cycle["details"].to_string();
    assert!(
        details.contains("vcpu->mutex -> kvm_busy  (invisible to lockdep, annotated)"),
        "{details}"
    );
    assert!(
        details.contains("kvm_busy -> kvm->lock  (invisible to lockdep)"),
        "{details}"
    );
    assert_eq!(cycle["upstream"][0]["commit"], "86956e70761b");
    // Few pairs are sampled of each edge, and a guest has several vCPUs: that is said, and no circle of classes made of it.
    let known = ["the very same locks", "locks of one guest"];
    assert!(known.iter().any(|part| details.contains(part)), "{details}");

    let fixed = cell("se-serial", "v5.15", "--duration 3s", "in-process");
    assert!(
        fixed["verdict"]
            .as_str()
            .unwrap()
            .starts_with("NOT vfio_ap")
    );
}

#[test]
fn the_three_party_hang_is_named() {
    let document = cell("se-start", "v5.13", "--duration 6s", "in-process");
    let deadlock = &document["findings"][0];
    assert_eq!(deadlock["id"], "AP001");
    assert_eq!(deadlock["severity"], "critical");
    let chain = deadlock["chain"].as_array().unwrap();
    assert_eq!(chain.len(), 4, "{deadlock}");
    let link = |at: usize, comm: &str, lock: &str| {
        let own = &chain[at];
        assert!(own["comm"].as_str().unwrap().starts_with(comm), "{own}");
        assert!(
            own["waits"]["lock"].as_str().unwrap().starts_with(lock),
            "{own}"
        );
    };
    link(0, "vcpu", "kvm_busy[guest-0]");
    link(1, "notify/guest-0", "kvm->lock[guest-0]");
    link(2, "pv/guest-0", "vcpu->mutex[guest-0/");
    assert_eq!(chain[3]["root"]["kind"], "cycle");
    assert_eq!(chain[3]["tid"], chain[0]["tid"]);
    let details = deadlock["details"].to_string();
    assert!(
        details.contains("other mdevs and their guests keep working"),
        "{details}"
    );
    assert!(
        deadlock["help"]
            .to_string()
            .contains("killing QEMU does not help")
    );
    assert!(
        document["verdict"]
            .as_str()
            .unwrap()
            .starts_with("DEADLOCK: 3 tasks")
    );
}

#[test]
fn the_queue_is_the_root_and_not_the_innocent_holder() {
    let document = cell("stuck-reset", "v6.6", "--duration 6s", "in-process");
    let reset = &document["findings"][0];
    assert_eq!(reset["id"], "AP007");
    assert!(
        reset["summary"].as_str().unwrap().contains("queue 00.0000"),
        "{reset}"
    );
    assert!(
        reset["tasks"][0]["comm"]
            .as_str()
            .unwrap()
            .starts_with("kworker"),
        "{reset}"
    );
    // The driver says so ten times in five seconds, and is heard once a second.
    let details = reset["details"].to_string();
    assert!(
        details.contains("the last answer in the kernel's log is 05 (busy), to poll "),
        "{details}"
    );
    let last = reset["chain"].as_array().unwrap().last().unwrap();
    assert_eq!(last["root"]["kind"], "polling hardware");
    assert!(
        document["verdict"]
            .as_str()
            .unwrap()
            .starts_with("WAITING ON HARDWARE")
    );
}

#[test]
fn over_ebpf_the_same_is_found() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let document = cell("se-start", "v5.11", "--duration 6s", "ebpf");
    assert_eq!(document["source"]["probe"], "ebpf");
    assert_eq!(
        classes(&document["findings"][0]),
        set(&["matrix_dev->lock", "kvm->lock", "vcpu->mutex"])
    );
    cell("lost-wakeup", "v5.13", "--duration 8s", "ebpf");
}

#[test]
fn a_healthy_driver_has_no_findings() {
    for (scenario, generation) in [
        ("steady", "v6.6"),
        ("churn", "v5.15"),
        ("boot-storm", "v7.3"),
    ] {
        let document = cell(scenario, generation, "--duration 3s", "in-process");
        assert!(
            document["verdict"]
                .as_str()
                .unwrap()
                .starts_with("NOT vfio_ap"),
            "{document}"
        );
    }
}

#[test]
fn a_recording_gives_the_same_diagnosis() {
    let folder = TempDir::new().unwrap();
    let recorded = apscope_in(
        folder.path(),
        "record -o hang.apscope -q --source emulator --probe in-process --scenario se-start --generation v5.13 \
         --guests 3 --duration 5s",
    );
    assert!(recorded.status.success(), "{}", text(&recorded.stderr));
    let output = apscope_in(folder.path(), "diagnose hang.apscope --json");
    assert_eq!(output.status.code(), Some(1));
    let document = json(&output);
    assert_eq!(ids(&document), expected("se-start", "v5.13").0);
    let page = text(&apscope_in(folder.path(), "diagnose hang.apscope").stdout);
    assert!(
        page.is_ascii() && page.lines().all(|line| line.len() <= 79),
        "{page}"
    );
    assert!(page.starts_with("verdict: DEADLOCK: 3 tasks"), "{page}");
    // Exports say the same.
    let export = json(&apscope_in(
        folder.path(),
        "export hang.apscope --format json -o -",
    ));
    assert_eq!(export["findings"], document["findings"]);
    assert_eq!(export["verdict"], document["verdict"]);
}

#[test]
fn the_genuine_hang_is_found_in_what_people_save() {
    for (name, tasks) in [
        ("5.10-hung-task.txt", 3),
        ("5.10-sysrq-w.txt", 3),
        ("5.10-sysrq-w-probed.txt", 3),
        ("5.10-proc-stacks.txt", 3),
    ] {
        let path = fixture(name);
        let output = apscope(&format!("diagnose -q --json --from {}", path.display()));
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let document = json(&output);
        let deadlock = &document["findings"][0];
        assert_eq!(deadlock["id"], "AP001", "{name}: {document}");
        assert_eq!(deadlock["tasks"].as_array().unwrap().len(), tasks);
        assert_eq!(
            classes(deadlock),
            set(&["matrix_dev->lock", "kvm->lock", "vcpu->mutex"])
        );
        assert!(
            document["verdict"]
                .as_str()
                .unwrap()
                .starts_with("DEADLOCK")
        );
    }
    let path = fixture("6.12-hung-task.txt");
    let document = json(&apscope(&format!(
        "diagnose -q --json --from {}",
        path.display()
    )));
    assert!(ids(&document).contains("AP007"), "{document}");
    assert!(
        document["verdict"]
            .as_str()
            .unwrap()
            .starts_with("WAITING ON HARDWARE"),
        "{document}"
    );
}

#[test]
fn what_is_elsewhere_is_exonerated() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("mail.txt"),
        "INFO: task qemu:77 blocked for more than 122 seconds.\n\
         task:qemu state:D stack:0 pid:77 tgid:77 ppid:1 flags:0x0\n\
         Call Trace:\n [<0>] __schedule+0x300/0x900\n [<0>] schedule+0x30/0xc0\n [<0>] io_schedule+0x20/0x40\n \
         [<0>] folio_wait_bit_common+0x130/0x340\n [<0>] ext4_sync_file+0x90/0x400\n",
    )
    .unwrap();
    let output = apscope_in(folder.path(), "diagnose -q --json --from mail.txt");
    let document = json(&output);
    assert_eq!(ids(&document), set(&["AP000"]));
    assert!(
        document["verdict"]
            .as_str()
            .unwrap()
            .starts_with("NOT vfio_ap"),
        "{document}"
    );
    assert!(
        document["findings"][0]["details"]
            .to_string()
            .contains("ext4_sync_file")
    );
    // It is no warning.
    let output = apscope_in(
        folder.path(),
        "diagnose -q --from mail.txt --fail-on warning",
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_the_driver_says_of_its_polls_is_read_from_the_text() {
    let folder = TempDir::new().unwrap();
    let said = "[  123.4] Waited 90000ms for reset of queue 0a.0002 (2, 0, 0)\n";
    let hung = fs::read_to_string(fixture("6.12-hung-task.txt")).unwrap();
    fs::write(folder.path().join("both.txt"), format!("{said}{hung}")).unwrap();
    fs::write(folder.path().join("log.txt"), said).unwrap();
    for (name, severity) in [("both.txt", "critical"), ("log.txt", "warning")] {
        let document = json(&apscope_in(
            folder.path(),
            &format!("diagnose -q --json --from {name}"),
        ));
        let reset = document["findings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["id"] == "AP007")
            .unwrap();
        assert_eq!(reset["severity"], severity, "{document}");
        let words = reset.to_string();
        for part in ["queue 0a.0002", "is 02 (reset in progress), to poll 4500"] {
            assert!(words.contains(part), "{name}: no {part}: {words}");
        }
    }
}

#[test]
fn lockdeps_report_exonerates_nobody() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("splat.txt"),
        "WARNING: possible circular locking dependency detected\n5.10.223 #1 Tainted: G           O\n\
         qemu/92 is trying to acquire lock:\n00000000a1 (&kvm->lock){+.+.}-{3:3}, at: kvm_arch_crypto_clear_masks+0x3a/0x98 [kvm]\n\
         stack backtrace:\nCPU: 0 PID: 92 Comm: qemu Tainted: G           O      5.10.223 #1\nCall Trace:\n \
         [<0>] show_stack+0x92/0xd8\n [<0>] check_noncircular+0x142/0x160\n [<0>] __mutex_lock+0x1/0x2\n",
    )
    .unwrap();
    let output = apscope_in(folder.path(), "diagnose -q --from splat.txt");
    let page = text(&output.stdout);
    assert!(page.starts_with("verdict: CANNOT TELL because"), "{page}");
    assert!(page.contains("the text has a report of lockdep"), "{page}");
}

#[test]
fn bad_input_is_three_lines() {
    let folder = TempDir::new().unwrap();
    fs::write(
        folder.path().join("empty.txt"),
        "nothing of use\n\u{0}\u{1b}[2J",
    )
    .unwrap();
    fs::write(folder.path().join("mail.txt"), "task:a state:D pid:7\n").unwrap();
    fs::write(folder.path().join("wide.txt"), b"t\0a\0s\0k\0:\0a\0").unwrap();
    fs::write(folder.path().join("mail.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    for (arguments, part) in [
        ("diagnose --from empty.txt", "has no stacks"),
        ("diagnose --from missing.txt", "cannot be read"),
        ("diagnose missing.apscope", "cannot be read"),
        ("diagnose --threshold stuck=never", "cannot be set"),
        ("diagnose mail.txt", "cannot be read as a recording"),
        ("diagnose --from wide.txt", "is no plain text"),
        ("diagnose --from mail.gz", "is no plain text"),
        ("diagnose --guest xyz", "--guest xyz cannot be used"),
        (
            "diagnose --threshold stick=1s",
            "there is no threshold stick",
        ),
        ("explain AP099", "no finding AP099"),
        ("compare --generations v5.11,v4.1", "no generation v4.1"),
        ("compare --generations v5.11 --pid 7", "drivers of its own"),
    ] {
        let output = apscope_in(folder.path(), arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert_eq!(said.lines().count(), 3, "{arguments}: {said}");
        assert!(said.contains(part), "{arguments}: {said}");
    }
    for (arguments, hint) in [
        ("diagnose mail.txt", "try: apscope diagnose --from mail.txt"),
        (
            "diagnose --from wide.txt",
            "iconv -f UTF-16LE -t UTF-8 wide.txt | apscope diagnose --from -",
        ),
        (
            "diagnose --from mail.gz",
            "zcat mail.gz | apscope diagnose --from -",
        ),
        (
            "diagnose --guest xyz",
            "the number of a guest, as in guest-3",
        ),
    ] {
        let said = text(&apscope_in(folder.path(), arguments).stderr);
        assert!(said.contains(hint), "{arguments}: {said}");
    }
}

#[test]
fn watching_prints_what_changes() {
    let output = apscope(
        "diagnose --watch -q --source emulator --probe in-process --scenario se-start --generation v5.11 --guests 2 \
         --duration 5s",
    );
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let begins = said
        .lines()
        .filter(|line| line.contains(" begins: AP001"))
        .count();
    assert_eq!(begins, 1, "{said}");
    assert!(said.contains("verdict: DEADLOCK"), "{said}");
}

#[test]
fn a_guest_that_is_asked_about_is_answered_for() {
    let output = apscope(
        "diagnose --guest 1 -q --json --source emulator --probe in-process --scenario steady --generation v6.6 \
         --guests 2 --duration 4s",
    );
    let document = json(&output);
    assert_eq!(ids(&document), set(&["AP000"]), "{document}");
    assert!(
        document["verdict"].as_str().unwrap().contains("guest-1"),
        "{document}"
    );
}

#[test]
fn generations_are_compared() {
    let output = apscope(
        "compare --generations v5.11,v5.13,v5.15 --scenario se-serial --probe in-process --guests 2 --duration 2s -q --json",
    );
    let document = json(&output);
    let columns = document["generations"].as_array().unwrap();
    assert_eq!(columns.len(), 3);
    let visible: Vec<Vec<bool>> = columns
        .iter()
        .map(|column| {
            let cycles = column["cycles"].as_array().unwrap().iter();
            cycles
                .map(|cycle| cycle["lockdep_visible"].as_bool().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(visible, [vec![true], vec![false], vec![]]);
    let output = apscope(
        "compare --generations v5.13,v5.15 --scenario set-unset --probe in-process --guests 2 --duration 1s -q",
    );
    let table = text(&output.stdout);
    assert!(
        table.is_ascii() && table.contains("no such scenario"),
        "{table}"
    );
}
