//! `serve` and `--connect`, with the real binary: frames, totals, refusals, signals, and clients that behave badly.

mod clients;
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, told};

/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

/// A daemon that measures in process, at a port and a socket of its own.
struct Daemon {
    child: Child,
    socket: PathBuf,
    port: u16,
}

impl Daemon {
    fn start(place: &Place, more: &str) -> Self {
        let socket = place.path("collector.sock");
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let child = place
            .command(&format!(
                "serve --listen unix:{} --metrics {port} --source emulator --probe in-process {more}",
                socket.display()
            ))
            .spawn()
            .unwrap();
        let daemon = Self {
            child,
            socket,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !daemon.get("/healthz").contains("200 OK") {
            assert!(Instant::now() < deadline, "the daemon is not well");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn connect(&self) -> String {
        format!("--connect unix:{}", self.socket.display())
    }

    /// An HTTP answer with its head; empty where there is none.
    fn get(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_string(&mut text);
        }
        text
    }

    /// The value of a metric, over all its labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics");
        let of = |line: &&str| line.split([' ', '{']).next() == Some(name);
        let values = text.lines().filter(of);
        let values: Vec<f64> = values
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(!values.is_empty(), "{name} is not in\n{text}");
        values.iter().sum::<f64>() as u64
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Stops it in order; returns what it has said.
    fn stop(mut self) -> String {
        self.signal(libc::SIGTERM);
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said}");
        assert!(!self.socket.exists(), "the socket is still there");
        said
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let digits = line.unwrap().split_whitespace().nth(1).unwrap();
        digits.parse().unwrap()
    }
}

fn acquisitions(export: &Value) -> u64 {
    let locks = export["locks"].as_array().unwrap();
    let counts = locks
        .iter()
        .map(|lock| lock["acquisitions"].as_u64().unwrap());
    counts.sum()
}

fn read(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap()
}

#[test]
fn somebody_who_comes_late_has_the_same_totals() {
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 3 --rate 2");
    // A reader from the beginning, one that comes late, and what the daemon itself says.
    let early = place.start(&format!(
        "record {} --duration 4s -o early.apscope",
        daemon.connect()
    ));
    std::thread::sleep(Duration::from_secs(2));
    let late = place.start(&format!(
        "export {} --duration 1s --format json -o late.json",
        daemon.connect()
    ));
    for child in [early, late] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
    }
    place.run("export early.apscope --format json -o early.json");
    let (early, late) = (read(&place, "early.json"), read(&place, "late.json"));
    assert_eq!(early["source"]["emulated"], true);
    assert_eq!(early["source"]["pid"], late["source"]["pid"]);
    // Both have the start of the run, and so has the one that came late.
    let metrics = daemon.metric("apscope_events_received_total");
    assert!(acquisitions(&late) > 0 && acquisitions(&early) >= acquisitions(&late));
    let received = |export: &Value| export["events"]["received"].as_u64().unwrap();
    assert!(metrics >= received(&early) && received(&early) >= received(&late));
    assert!(received(&late) > received(&early) / 4);
    let said = daemon.stop();
    assert!(said.contains("listening at unix:"), "{said}");
    assert!(said.contains("has no capability"), "{said}");
}

#[test]
fn the_end_of_the_run_is_the_end_of_the_stream_with_the_truth_in_it() {
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 2");
    let reader = place.start(&format!(
        "export {} --duration 60s --format json -o out.json",
        daemon.connect()
    ));
    std::thread::sleep(Duration::from_secs(2));
    daemon.stop();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let export = read(&place, "out.json");
    assert_eq!(export["source"]["ended"], "finished");
    let events = &export["events"];
    let number = |name: &str| events[name].as_u64().unwrap();
    assert_eq!(number("emitted"), number("received") + number("dropped"));
}

#[test]
fn somebody_who_was_too_slow_is_told_and_has_the_same_totals() {
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 6 --rate 8 --interval 10ms");
    let export = |out: &str| {
        let connect = daemon.connect();
        place.start(&format!(
            "export {connect} --duration 2m --format json -o {out}"
        ))
    };
    let (well, slow) = (export("well.json"), export("slow.json"));
    std::thread::sleep(Duration::from_secs(1));
    let pid = i32::try_from(slow.id()).unwrap();
    // Longer than what is kept, and what sockets hold; shorter than the patience of pings.
    for (signal, pause) in [(libc::SIGSTOP, 8), (libc::SIGCONT, 3)] {
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        std::thread::sleep(Duration::from_secs(pause));
    }
    let left_out = daemon.metric("apscope_serve_left_out_frames_total");
    assert!(left_out > 0, "it was not too slow");
    daemon.stop();
    let well = well.wait_with_output().unwrap();
    assert!(well.status.success(), "{}", told(&well));
    let slow = slow.wait_with_output().unwrap();
    assert!(slow.status.success(), "{}", told(&slow));
    assert!(
        told(&slow).contains("frames came too fast for here"),
        "{}",
        told(&slow)
    );
    let (well, slow) = (read(&place, "well.json"), read(&place, "slow.json"));
    assert_eq!(slow["source"]["ended"], "finished");
    for part in ["locks", "entry_points", "order", "exact", "missed"] {
        assert_eq!(well[part], slow[part], "{part}");
    }
    for count in ["emitted", "received", "dropped"] {
        assert_eq!(well["events"][count], slow["events"][count], "{count}");
    }
}

#[test]
fn a_link_that_is_down_is_said_and_comes_back() {
    let place = Place::new();
    let first = Daemon::start(&place, "--guests 2");
    let socket = first.connect();
    let mut reader = place.start(&format!("record {socket} --duration 8s -o out.apscope"));
    std::thread::sleep(Duration::from_secs(2));
    first.signal(libc::SIGKILL);
    let mut child = first.child;
    child.wait().unwrap();
    let second = Daemon::start(&place, "--guests 2");
    let mut said = String::new();
    let stderr = reader.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(reader.wait().unwrap().success(), "{said}");
    assert!(said.contains("the link is down"), "{said}");
    assert!(said.matches("the link is down").count() < 5, "{said}");
    place.run("export out.apscope --format json -o out.json");
    let export = read(&place, "out.json");
    assert_eq!(export["source"]["ended"], "left");
    second.stop();
}

#[test]
fn strangers_are_refused_even_where_they_can_open_the_socket() {
    if nix::unistd::geteuid().as_raw() != 0 {
        eprintln!("skipped: only root can become nobody");
        return;
    }
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 1 --group 4242");
    let mode = std::fs::metadata(&daemon.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let as_nobody = |groups: &[u32]| {
        let groups = groups.to_vec();
        let mut command = place.command(&format!(
            "export {} --duration 1s --format json -o -",
            daemon.connect()
        ));
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let failed = libc::setgroups(groups.len(), groups.as_ptr()) != 0
                    || libc::setgid(NOBODY) != 0
                    || libc::setuid(NOBODY) != 0;
                if failed {
                    Err(std::io::Error::last_os_error())
                } else {
                    Ok(())
                }
            });
        }
        command.output().unwrap()
    };
    // The folder lets everybody through, the program is readable, the socket is not.
    let folder = daemon.socket.parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let outside = as_nobody(&[]);
    assert_eq!(outside.status.code(), Some(2), "{}", told(&outside));
    assert!(
        told(&outside).contains("Permission denied"),
        "{}",
        told(&outside)
    );
    // Somebody has opened it to all: the kernel says who they are.
    std::fs::set_permissions(&daemon.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let stranger = as_nobody(&[]);
    assert_eq!(stranger.status.code(), Some(2));
    assert!(
        told(&stranger).contains("members of its --group"),
        "{}",
        told(&stranger)
    );
    let member = as_nobody(&[4242]);
    assert!(member.status.success(), "{}", told(&member));
    assert_eq!(daemon.metric("apscope_serve_refused_total"), 1);
    daemon.stop();
}

#[test]
fn clients_that_behave_badly_cost_nothing() {
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 4 --rate 4");
    let before = daemon.resident_kib();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tally = runtime.block_on(clients::torture(&daemon.socket, 50, Duration::from_secs(8)));
    assert!(daemon.get("/healthz").contains("200 OK"));
    assert_eq!(daemon.metric("apscope_events_dropped_total"), 0);
    let after = daemon.resident_kib();
    assert!(after < before + 96 * 1024, "{before} KiB, then {after} KiB");
    assert!(tally.connections.load(std::sync::atomic::Ordering::Relaxed) >= 50);
    let said = daemon.stop();
    assert!(!said.contains("error"), "{said}");
}

#[test]
fn who_reads_no_answer_keeps_nobody_from_the_pages() {
    let place = Place::new();
    let daemon = Daemon::start(&place, "--guests 2");
    let stuck: Vec<TcpStream> = (0..80)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
            // Refused by the time it is written, it was one too many.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
            stream
        })
        .collect();
    assert!(daemon.get("/healthz").contains("200 OK"));
    assert!(daemon.get("/metrics").contains("apscope_source_info"));
    drop(stuck);
    daemon.stop();
}

#[test]
fn the_configuration_is_read_again_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    let file = place.path("serve.toml");
    std::fs::write(&file, "interval = \"50ms\"\n").unwrap();
    let daemon = Daemon::start(&place, &format!("--guests 1 --config {}", file.display()));
    for text in [
        "interval = \"200ms\"\n[thresholds]\nstuck = \"1s\"\n",
        "interval = 5\n",
    ] {
        std::fs::write(&file, text).unwrap();
        daemon.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(daemon.get("/healthz").contains("200 OK"));
    let said = daemon.stop();
    assert!(said.contains("was read again"), "{said}");
    assert!(said.contains("what was configured before holds"), "{said}");
}

#[test]
fn a_backend_that_does_not_answer_delays_no_end_and_what_is_lost_is_said() {
    let place = Place::new();
    // It accepts, by its backlog, and says nothing.
    let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = backend.local_addr().unwrap().port();
    let daemon = Daemon::start(
        &place,
        &format!("--guests 1 --otlp http://127.0.0.1:{port}"),
    );
    let said = daemon.stop();
    assert!(
        said.contains("has not taken the last export: no answer within 3 s of the end"),
        "{said}"
    );
    assert!(said.contains("lost: the last totals"), "{said}");
    // And one that is not there.
    drop(backend);
    let daemon = Daemon::start(
        &place,
        &format!("--guests 1 --otlp http://127.0.0.1:{port}"),
    );
    let said = daemon.stop();
    assert!(said.contains("has not taken the last export"), "{said}");
}

#[test]
fn errors_say_what_to_try() {
    let place = Place::new();
    for (arguments, said) in [
        (
            "export --connect unix:/nowhere/x.sock --duration 1s --format json -o -",
            "serve --listen",
        ),
        (
            "export --connect tcp:127.0.0.1:1 --duration 1s --format json -o -",
            "ssh -L",
        ),
        (
            "export --connect unix:/x --guests 2 --duration 1s --format json -o -",
            "rule each other out",
        ),
        ("serve --listen unix:/nowhere/x.sock", "folder that exists"),
        (
            "serve --listen unix:x.sock --group no-such-group",
            "no such group",
        ),
        ("serve --listen unix:x.sock --otlp https://a", "TLS"),
        (
            "serve --listen unix:x.sock --metrics somewhere",
            "127.0.0.1:9929",
        ),
    ] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(
            told(&output).contains(said),
            "{arguments}: {}",
            told(&output)
        );
    }
    // Something else listens there.
    let path = place.path("other.sock");
    let other = UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let output = Command::new(env!("CARGO_BIN_EXE_apscope-collector"))
        .args([
            "export",
            "--duration",
            "1s",
            "--format",
            "json",
            "-o",
            "-",
            "--connect",
        ])
        .arg(format!("unix:{}", path.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    answering.join().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told(&output).contains("does not answer as a collector"),
        "{}",
        told(&output)
    );
}
