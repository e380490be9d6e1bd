//! The emulator as a collector meets it: the handshake over a socket pair and over the abstract socket, the probe points
//! in the executable, bad input.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::IntoRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use apscope_collector::emulator::command::{EmulateArgs, run};
use apscope_collector::emulator::protocol::{self, Hello, Point, Reply, Request, Truth};
use apscope_collector::emulator::{self, Problem};

fn args() -> EmulateArgs {
    EmulateArgs {
        generation: "v5.13".into(),
        scenario: "steady".into(),
        seed: 1,
        guests: 2,
        vcpus: 2,
        rate: 1.0,
        mount: None,
        duration: None,
        truth: None,
        control_fd: None,
    }
}

/// An emulator under the test's control.
struct Controlled {
    stream: BufReader<UnixStream>,
    emulator: Option<JoinHandle<Result<(), Problem>>>,
}

impl Controlled {
    fn start(mut args: EmulateArgs) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        args.control_fd = Some(theirs.into_raw_fd());
        let emulator = std::thread::spawn(move || run(&args));
        Self {
            stream: BufReader::new(ours),
            emulator: Some(emulator),
        }
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn ask(&mut self, request: &Request) {
        let line = serde_json::to_string(request).unwrap();
        self.say(&format!("{line}\n"));
    }

    fn hear(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    fn hello(&mut self) -> Hello {
        match self.hear() {
            Reply::Hello(hello) => *hello,
            other => panic!("{other:?}"),
        }
    }

    fn stop(&mut self) -> Truth {
        self.ask(&Request::Stop);
        match self.hear() {
            Reply::Stopped { truth } => *truth,
            other => panic!("{other:?}"),
        }
    }

    /// Closes the connection and waits for the emulator's end.
    fn close(mut self) -> Result<(), Problem> {
        self.stream
            .get_ref()
            .shutdown(std::net::Shutdown::Both)
            .unwrap();
        self.emulator.take().unwrap().join().unwrap()
    }
}

#[test]
fn handshake_go_and_stop() {
    for generation in emulator::generations() {
        let mut emulator = Controlled::start(EmulateArgs {
            generation: generation.into(),
            ..args()
        });
        let hello = emulator.hello();
        assert_eq!(hello.version, protocol::VERSION);
        assert_eq!(hello.generation, generation);
        assert_eq!(hello.pid, std::process::id());
        assert_eq!((hello.guests, hello.vcpus), (2, 2));
        emulator.ask(&Request::Go);
        std::thread::sleep(Duration::from_millis(500));
        let truth = emulator.stop();
        assert_eq!(truth.ended, "finished", "{:?}", truth.in_flight);
        assert!(truth.locks.iter().all(|l| l.acquisitions == l.releases));
        assert!(truth.locks[0].acquisitions > 0);
        let same = emulator.stop();
        assert_eq!(same, truth);
        emulator.close().unwrap();
    }
}

#[test]
fn nothing_runs_before_go() {
    let mut emulator = Controlled::start(args());
    emulator.hello();
    std::thread::sleep(Duration::from_millis(200));
    let truth = emulator.stop();
    assert!(truth.locks.iter().all(|l| l.acquisitions == 0));
    assert!(truth.entry_points.iter().all(|e| e.calls == 0));
    emulator.close().unwrap();
}

#[test]
fn bad_requests_are_answered_and_survived() {
    let mut emulator = Controlled::start(args());
    emulator.hello();
    for text in ["nonsense\n", "{}\n", "\"fly\"\n", "\u{0}\n"] {
        emulator.say(text);
        match emulator.hear() {
            Reply::Error { message } => assert!(message.contains("not a request"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(emulator.stop().ended, "finished");
    emulator.say(&"x".repeat(65 << 10));
    match emulator.hear() {
        Reply::Error { message } => assert!(message.contains("65536"), "{message}"),
        other => panic!("{other:?}"),
    }
    emulator.emulator.take().unwrap().join().unwrap().unwrap();
}

#[test]
fn the_truth_file_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("truth.json");
    let mut emulator = Controlled::start(EmulateArgs {
        truth: Some(file.clone()),
        ..args()
    });
    emulator.hello();
    emulator.ask(&Request::Go);
    let truth = emulator.stop();
    emulator.close().unwrap();
    let written: Truth = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(written, truth);
}

#[test]
fn alone_it_runs_at_once_and_collectors_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("truth.json");
    let alone = EmulateArgs {
        truth: Some(file.clone()),
        duration: Some(Duration::from_secs(60)),
        ..args()
    };
    let emulator = std::thread::spawn(move || run(&alone));
    let address =
        SocketAddr::from_abstract_name(protocol::abstract_name(std::process::id())).unwrap();
    let connect = || {
        for _ in 0..500 {
            if let Ok(stream) = UnixStream::connect_addr(&address) {
                return Controlled {
                    stream: BufReader::new(stream),
                    emulator: None,
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody listens");
    };
    let mut first = connect();
    assert_eq!(first.hello().scenario, "steady");
    drop(first);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!emulator.is_finished());
    let mut second = connect();
    second.hello();
    second.ask(&Request::Go);
    let truth = second.stop();
    assert!(truth.locks[0].acquisitions > 0);
    drop(second);
    emulator.join().unwrap().unwrap();
    let written: Truth = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(written, truth);
}

#[test]
fn bad_options_are_refused() {
    let refused = |args: EmulateArgs| run(&args).unwrap_err().to_string();
    let unwritable = refused(EmulateArgs {
        truth: Some("/nonexistent/truth.json".into()),
        ..args()
    });
    assert!(
        unwritable.contains("/nonexistent/truth.json"),
        "{unwritable}"
    );
    let guests = refused(EmulateArgs {
        guests: 100_000,
        ..args()
    });
    assert!(guests.contains("1 to 1000"), "{guests}");
    for fd in [-1, 987_654] {
        let message = refused(EmulateArgs {
            control_fd: Some(fd),
            ..args()
        });
        assert!(message.contains("not a stream socket"), "{message}");
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = refused(EmulateArgs {
        control_fd: Some(file.into_raw_fd()),
        ..args()
    });
    assert!(message.contains("not a stream socket"), "{message}");
}

/// Address, as linked, of a byte of an ELF file.
fn linked_address(elf: &[u8], offset: u64) -> u64 {
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap());
    let table = usize::try_from(u64_at(32)).unwrap();
    for n in 0..usize::from(u16_at(56)) {
        let header = table + n * usize::from(u16_at(54));
        let loads = elf[header..header + 4] == [1, 0, 0, 0];
        let (start, address, size) = (u64_at(header + 8), u64_at(header + 16), u64_at(header + 32));
        if loads && (start..start + size).contains(&offset) {
            return offset - start + address;
        }
    }
    panic!("offset {offset:#x} is not loaded");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_point_starts_with_a_five_byte_nop() {
    const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
    let mut emulator = Controlled::start(args());
    let hello = emulator.hello();
    emulator.close().unwrap();
    let elf = std::fs::read(&hello.executable).unwrap();
    let objdump = Command::new("objdump").arg("--version").output().is_ok();
    if !objdump {
        eprintln!("objdump is not installed: only the bytes are checked");
    }
    assert!(hello.points.len() > 30);
    for point in &hello.points {
        let at = usize::try_from(point.file_offset).unwrap();
        assert_eq!(elf[at..at + 5], NOP5, "{point:?}");
        assert!(point.nop5, "{point:?}");
        let address = linked_address(&elf, point.file_offset);
        assert_eq!(address % 16, 0, "{point:?}");
        if objdump {
            let output = Command::new("objdump")
                .args(["-d", "--no-show-raw-insn"])
                .arg(format!("--start-address={address:#x}"))
                .arg(format!("--stop-address={:#x}", address + 10))
                .arg(&hello.executable)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let code: Vec<&str> = text
                .lines()
                .filter_map(|line| line.split_once(":\t"))
                .map(|(_, instruction)| instruction)
                .collect();
            assert!(code[0].starts_with("nopl"), "{point:?}: {text}");
            assert!(code[1].starts_with("jmp"), "{point:?}: {text}");
        }
    }
    let mut names: Vec<_> = hello
        .points
        .iter()
        .map(|p| (&p.module, &p.symbol))
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), hello.points.len());
}

/// Rows of the first table in a document that has this heading row.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<(&'a str, &'a str)> {
    document
        .lines()
        .skip_while(|line| *line != heading)
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_matches('|').split_once('|'))
        .map(|(name, about)| (name.trim().trim_matches('`'), about.trim()))
        .collect()
}

#[test]
fn the_documents_list_what_there_is() {
    let (generations, scenarios) = emulator::catalogue();
    let document = include_str!("../../docs/emulator.md");
    assert_eq!(
        rows(document, "| name | what distinguishes it |"),
        generations
    );
    let text = include_str!("../../docs/scenarios.md");
    assert_eq!(rows(text, "| name | for |"), scenarios);
    // Each generation reports the points that it has; the document lists those of all.
    let points_of = |generation: &str| {
        let mut emulator = Controlled::start(EmulateArgs {
            generation: generation.into(),
            ..args()
        });
        let points = emulator.hello().points;
        emulator.close().unwrap();
        points
    };
    let all: Vec<Vec<_>> = generations
        .iter()
        .map(|(name, _)| points_of(name))
        .collect();
    for module in ["kernel", "vfio_ap", "kvm"] {
        let listed = rows(document, "| module | points |")
            .into_iter()
            .find(|(name, _)| *name == module)
            .map(|(_, points)| points)
            .unwrap();
        let listed: BTreeSet<&str> = listed
            .split(", `")
            .map(|name| name.trim_matches('`').split('(').next().unwrap())
            .collect();
        let in_module = |points: &[Point]| -> BTreeSet<String> {
            let points = points.iter().filter(|p| p.module == module);
            points.map(|p| p.symbol.clone()).collect()
        };
        let present: BTreeSet<String> = all.iter().flat_map(|points| in_module(points)).collect();
        assert_eq!(
            listed,
            present.iter().map(String::as_str).collect(),
            "{module}"
        );
    }
}
