//! The kernel source on this machine: a real lock of the running kernel, contended by threads of the test, measured by
//! apscope and by an independent bpftrace script at once.

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use apscope_collector::diagnose::Diagnosis;
use apscope_collector::export::json::{Document, Origin};
use apscope_collector::model::Model;
use apscope_collector::options::{GivenLock, KernelOptions, RunOptions, SourceChoice};
use apscope_collector::source::Session;
use support::bpf;

/// Threads that write to one file. Each write holds the file's inode lock for as long as the copy takes.
const WRITERS: usize = 4;
const WRITES: usize = 50;
/// A write lasts several time slices.
const BYTES: usize = 32 << 20;

/// What is written: there before any thread is, so that none of them maps memory while others write.
static DATA: [u8; BYTES] = [7; BYTES];

/// Keeps the calling thread on the first processor that it may use.
fn stay_on_one_processor() {
    // SAFETY: both calls are given a set of the size they are told, of this frame; all zeros is an empty set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut set), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &set));
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(first.expect("a processor"), &mut set);
        assert_eq!(libc::sched_setaffinity(0, size, &raw const set), 0);
    }
}

/// Writes to one file with several threads at once: each waits for the inode's rwsem while another one writes. All of
/// them share one processor: whoever finds the lock taken finds its owner off the processor, so that it sleeps. On two
/// processors most waits would be spun through, without an event of contention (`rwsem_down_write_slowpath`, v6.18).
fn contend(file: &File, writes: usize) {
    let together = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                stay_on_one_processor();
                for _ in 0..writes {
                    together.wait();
                    file.write_all_at(&DATA, 0).unwrap();
                }
            });
        }
    });
}

/// A file in memory, whose writes wait for nothing but its inode's lock.
fn shared_file() -> File {
    let folder = Path::new("/dev/shm");
    let folder = if folder.is_dir() {
        folder.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::tempfile_in(folder).unwrap()
}

/// A bpftrace script that runs; killed by its pid when the test ends without it.
struct Script {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Script {
    fn start(program: &str) -> Self {
        let mut child = Command::new("bpftrace")
            .args(["-q", "-B", "line", "-e", program])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Lines until it says nothing for a while.
    fn lines_for(&self, patience: Duration) -> Vec<String> {
        let mut all = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(patience) {
            all.push(line);
        }
        all
    }

    /// Runs the workload again and again until the script, which is attached one probe after the other, has seen it.
    fn wait_until_it_sees(&self, mut workload: impl FnMut()) {
        for _ in 0..200 {
            workload();
            if let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
                assert!(line.contains("seen"), "{line}");
                return;
            }
        }
        panic!("bpftrace has seen nothing");
    }

    /// Ends it, and returns everything that it says then.
    fn end(mut self) -> String {
        // SAFETY: sends a signal to a process that this test started and has not reaped.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        let lines = self.lines_for(Duration::from_secs(5));
        let _ = self.child.wait();
        lines.join("\n")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// bpftrace, with the tracepoints that the scripts need; `None` where it is missing, which is printed. With
/// `APSCOPE_REQUIRE_BPF` in the environment that is a failure.
fn bpftrace_works() -> Option<()> {
    let tracefs = Path::new("/sys/kernel/tracing");
    if !tracefs.join("events/lock").exists() {
        // A machine whose tracefs nobody has mounted; mounting it changes nothing for anybody else.
        let _ = Command::new("mount")
            .args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
            .status();
    }
    let there = Command::new("bpftrace")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    let tracepoints = tracefs.join("events/lock/contention_begin").exists();
    if there && tracepoints {
        return Some(());
    }
    let what = format!("bpftrace: {there}, contention tracepoints: {tracepoints}");
    assert!(
        std::env::var_os("APSCOPE_REQUIRE_BPF").is_none(),
        "APSCOPE_REQUIRE_BPF is set: {what}"
    );
    eprintln!("skipped: {what}");
    None
}

/// The address of the rwsem that the writers of this process wait for: what most of its contention is about. Starting
/// threads makes some waits for the lock of the address space, so it takes more than a few, and a majority.
fn contended_rwsem(file: &File) -> u64 {
    let pid = std::process::id();
    let script = Script::start(&format!(
        "tracepoint:lock:contention_begin /pid == {pid} && args->flags == 4/ {{ printf(\"seen %llx\\n\", args->lock_addr); }}"
    ));
    most_seen(&script, || contend(file, 10))
}

/// The address that the script sees most of, while the workload runs again and again.
fn most_seen(script: &Script, mut workload: impl FnMut()) -> u64 {
    let mut counts = std::collections::BTreeMap::<u64, u32>::new();
    for _ in 0..200 {
        workload();
        while let Ok(line) = script.lines.recv_timeout(Duration::from_millis(100)) {
            let address = line
                .strip_prefix("seen ")
                .and_then(|hex| u64::from_str_radix(hex, 16).ok());
            *counts.entry(address.expect("an address")).or_insert(0) += 1;
        }
        let all: u32 = counts.values().sum();
        if let Some((&address, _)) = counts
            .iter()
            .find(|(_, count)| **count >= 20 && **count * 2 > all)
        {
            return address;
        }
    }
    panic!("no lock stands out: {counts:x?}");
}

/// A number that the script prints: `@name: 12`.
fn printed(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(&format!("@{name}: "))?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("no @{name} in {text}"))
}

/// The first frames come from the kernel's memory alone.
fn until_attached(session: &mut Session, model: &mut Model) {
    while let Some(frame) = session.frames.blocking_recv() {
        model.apply(&frame);
        if frame.meta.as_ref().is_some_and(|meta| !meta.attaching) {
            return;
        }
    }
    panic!("nothing was attached: {:?}", session.ended().failed);
}

/// The document of a run, as an export writes it.
fn document(model: &Model) -> serde_json::Value {
    let report = Diagnosis::default().report();
    serde_json::to_value(Document::of(model, Origin::Live, &report)).unwrap()
}

/// A lock of a file is to be measured, whatever that costs.
fn measuring(address: u64, kernel: KernelOptions) -> RunOptions {
    RunOptions {
        source: SourceChoice::Kernel,
        kernel: KernelOptions {
            locks: vec![GivenLock {
                address,
                kind: None,
                name: "inode".into(),
            }],
            max_overhead: 100.0,
            ..kernel
        },
        ..RunOptions::default()
    }
}

/// Ends the run; all frames that are left go to the model.
fn finish(mut session: Session, model: &mut Model) {
    session.stop();
    while let Some(frame) = session.frames.blocking_recv() {
        model.apply(&frame);
    }
    session.detached();
}

#[test]
fn waits_for_a_kernel_lock_agree_with_bpftrace() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    if bpftrace_works().is_none() {
        return;
    }
    let file = shared_file();
    let address = contended_rwsem(&file);
    let warm_up = shared_file();
    let pid = std::process::id();
    // Probes are attached in this order, so that who sees an end has seen the beginnings too. The warm-up has a lock of
    // its own, and is not counted.
    let script = Script::start(&format!(
        "tracepoint:lock:contention_begin /(uint64)args->lock_addr == 0x{address:x} && @start[tid] == 0/ {{ @start[tid] = nsecs; }} \
         tracepoint:lock:contention_end /(uint64)args->lock_addr == 0x{address:x} && @start[tid]/ {{ @count = count(); @sum = sum(nsecs - @start[tid]); delete(@start[tid]); }} \
         tracepoint:lock:contention_end /pid == {pid} && @told == 0/ {{ @told = 1; printf(\"seen\\n\"); }}"
    ));
    script.wait_until_it_sees(|| contend(&warm_up, 2));
    let kernel = KernelOptions {
        stacks_over: Some(Duration::from_micros(100)),
        ..KernelOptions::default()
    };
    let options = measuring(address, kernel);
    let mut session = Session::start(&options).expect("measures");
    let mut model = Model::default();
    let mut stacks = Vec::new();
    until_attached(&mut session, &mut model);
    // Everything is attached now, on both sides.
    contend(&file, WRITES);
    std::thread::sleep(Duration::from_millis(300));
    session.stop();
    while let Some(frame) = session.frames.blocking_recv() {
        stacks.extend(frame.stacks.clone());
        model.apply(&frame);
    }
    let said = script.end();
    session.detached();
    let lock = document(&model)["locks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|lock| lock["class"] == "given lock" && lock["mode"] == "write")
        .expect("the lock")
        .clone();
    let (count, sum) = (printed(&said, "count"), printed(&said, "sum"));
    assert!(
        count >= WRITES as u64,
        "only {count} waits: the lock was not contended"
    );
    assert_eq!(lock["contended"], count, "{said}");
    assert_eq!(lock["wait"]["count"], count, "{said}");
    let ours = lock["wait"]["sum_ns"].as_u64().unwrap();
    let off = ours.abs_diff(sum) as f64 / sum as f64;
    assert!(off <= 0.01, "sums {ours} and {sum} ns differ by {off:.4}");
    // The stacks of long waits name the function that writes, and the slow path below it.
    let named = stacks
        .iter()
        .find(|stack| stack.frames.iter().any(|f| f.contains("write")));
    let named = named.unwrap_or_else(|| panic!("no stack through a write: {stacks:?}"));
    assert!(!named.hold && named.duration_ns >= 100_000, "{named:?}");
}

#[test]
fn a_pile_up_that_was_there_before_leaves_the_counts_exact() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    if bpftrace_works().is_none() {
        return;
    }
    let file = shared_file();
    let address = contended_rwsem(&file);
    let enough = std::sync::atomic::AtomicBool::new(false);
    let model = std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                stay_on_one_processor();
                while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                    file.write_all_at(&DATA, 0).unwrap();
                }
            });
        }
        let options = measuring(address, KernelOptions::default());
        let mut session = Session::start(&options).expect("measures");
        let mut model = Model::default();
        until_attached(&mut session, &mut model);
        std::thread::sleep(Duration::from_secs(1));
        finish(session, &mut model);
        enough.store(true, std::sync::atomic::Ordering::Relaxed);
        model
    });
    let document = document(&model);
    assert_eq!(model.loss.no_task_slot, 0);
    assert_eq!(document["exact"], true, "{:?}", model.loss);
    let locks = document["locks"].as_array().unwrap();
    let waits: u64 = locks
        .iter()
        .map(|lock| lock["contended"].as_u64().unwrap())
        .sum();
    assert!(waits > 0, "{locks:?}");
}

#[test]
fn what_is_measured_begins_when_everything_is_attached() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let address = support::kernel_address();
    let options = measuring(address, KernelOptions::default());
    let mut session = Session::start(&options).expect("measures");
    let mut model = Model::default();
    until_attached(&mut session, &mut model);
    let attached = model.last.at_ns;
    finish(session, &mut model);
    let meta = model.meta.as_ref().unwrap();
    assert!(meta.measured_from_ns > meta.start_ns);
    assert!(meta.measured_from_ns <= attached);
    let measured = model.last.at_ns - meta.measured_from_ns;
    assert_eq!(document(&model)["interval"]["duration_ns"], measured);
    let ticks: u64 = model
        .ticks
        .iter()
        .filter(|tick| tick.at_ns > meta.measured_from_ns)
        .map(|tick| tick.length_ns)
        .sum();
    assert_eq!(ticks, measured);
}

#[test]
fn what_level_2_costs_is_said_before_it_is_attached() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let kernel = KernelOptions {
        level: 2,
        ..KernelOptions::default()
    };
    let options = measuring(support::kernel_address(), kernel);
    let mut session = Session::start(&options).expect("measures");
    let mut before = Vec::new();
    let mut attaching = true;
    while attaching {
        let frame = session.frames.blocking_recv().expect("it is attached");
        attaching = frame.meta.as_ref().is_none_or(|meta| meta.attaching);
        if attaching {
            before.extend(frame.log.iter().map(|line| line.text.clone()));
        }
    }
    finish(session, &mut Model::default());
    let said = |text: &str| before.iter().any(|line| line.contains(text));
    assert!(
        said("level 2 is expected to cost") || said("the cost of level 2 could not be sampled"),
        "{before:?}"
    );
}

#[test]
fn an_address_without_memory_is_refused_by_the_run_and_by_the_doctor() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    // A program's, and one that no processor has.
    for address in ["7ffe00001000", "8000000000000000"] {
        let run = |arguments: &str| {
            Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
                .args(arguments.split(' '))
                .output()
                .unwrap()
        };
        let output = run(&format!(
            "export --source kernel --lock pipe={address} --duration 1s --format json -o -"
        ));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 3, "{said}");
        assert!(lines[0].contains("the lock pipe cannot be read"), "{said}");
        assert!(lines[1].contains("the kernel has no memory at"), "{said}");
        assert!(lines[2].contains("lock:contention_begin"), "{said}");
        let doctor = run(&format!("doctor --lock pipe={address}"));
        let page = String::from_utf8_lossy(&doctor.stdout);
        assert_eq!(doctor.status.code(), Some(2), "{page}");
        assert!(page.contains("the lock pipe cannot be read"), "{page}");
    }
}

/// Threads read one open file of /proc: each read holds the file's mutex (`seq_read_iter`, fs/seq_file.c) while it makes up all
/// that is before its place (`traverse`), which is long enough for the others to come.
fn contend_for_a_seq_file(file: &File) {
    const READS: usize = 10;
    const PLACE: u64 = 1 << 20;
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut buffer = [0; 1024];
                for _ in 0..READS {
                    file.read_at(&mut buffer, PLACE).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_mutex_whose_address_alone_is_given_is_shown_as_a_mutex() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    if bpftrace_works().is_none() {
        return;
    }
    let file = File::open("/proc/kallsyms").unwrap();
    let pid = std::process::id();
    // LCB_F_MUTEX, alone or with LCB_F_SPIN.
    let script = Script::start(&format!(
        "tracepoint:lock:contention_begin /pid == {pid} && (args->flags & 32)/ {{ printf(\"seen %llx\\n\", args->lock_addr); }}"
    ));
    let address = most_seen(&script, || contend_for_a_seq_file(&file));
    let _ = script.end();
    let options = RunOptions {
        source: SourceChoice::Kernel,
        kernel: KernelOptions {
            locks: vec![GivenLock {
                address,
                kind: None,
                name: "seq_file".into(),
            }],
            max_overhead: 100.0,
            ..KernelOptions::default()
        },
        ..RunOptions::default()
    };
    let mut session = Session::start(&options).expect("measures");
    let mut model = Model::default();
    until_attached(&mut session, &mut model);
    for _ in 0..10 {
        contend_for_a_seq_file(&file);
    }
    std::thread::sleep(Duration::from_millis(300));
    finish(session, &mut model);
    let document = document(&model);
    let locks = document["locks"].as_array().unwrap();
    assert_eq!(locks.len(), 1, "{locks:?}");
    let lock = &locks[0];
    assert_eq!(
        (&lock["class"], &lock["mode"]),
        (&"given mutex".into(), &"-".into())
    );
    assert_eq!(lock["by_instance"][0]["name"], "seq_file");
    assert!(lock["contended"].as_u64().unwrap() > 0, "{lock}");
    assert_eq!(lock["by_instance"][0]["contended"], lock["contended"]);
}

#[test]
fn level_2_is_refused_or_explained_where_lock_functions_cannot_be_probed() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        eprintln!("skipped: this kernel has kprobes");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args(
            format!(
                "export --source kernel --lock {:x} --level 2 --duration 1s --format json -o -",
                support::kernel_address()
            )
            .split(' '),
        )
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["source"]["level"], 1);
    assert!(said.contains("level 1 was reached"), "{said}");
}

#[test]
fn without_the_driver_the_kernel_source_says_so() {
    if Path::new("/sys/module/vfio_ap").exists() {
        eprintln!("skipped: this machine has the driver");
        return;
    }
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args("export --source kernel --duration 1s --format json -o -".split(' '))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(
        lines[0].starts_with("error: there is no vfio_ap driver"),
        "{said}"
    );
    assert!(lines[2].contains("--lock"), "{said}");
}

#[test]
fn a_kernel_run_leaves_no_program_behind_when_it_is_killed() {
    let Some(_permit) = bpf::permitted() else {
        return;
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args(
            format!(
                "export --source kernel --lock {:x} --duration 60s --format json -o /dev/null",
                support::kernel_address()
            )
            .split(' '),
        )
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let maps = support::process::wait_for("programs are loaded", || {
        let maps = bpf::maps_of(pid);
        let programs = bpf::programs_on(&maps);
        programs
            .iter()
            .any(|name| name.starts_with("b_contention") || name.starts_with("r_contention"))
            .then_some(maps)
    });
    support::process::kill(pid);
    child.wait().unwrap();
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.read_to_string(&mut said).unwrap();
    }
    support::process::wait_for("all programs go", || {
        bpf::programs_on(&maps).is_empty().then_some(())
    });
}
