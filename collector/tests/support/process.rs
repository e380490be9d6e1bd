//! Processes that a test has started, and their children: found, waited for, ended.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Longest wait for what is only a matter of time; machines that build at the same time are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` gives something.
pub fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends SIGKILL to a process that this test, or a program it runs, has started.
pub fn kill(pid: u32) {
    let status = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// State and parent of a process; `None` where there is none, or where only its exit status is left.
fn state_of(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (comm) state ppid
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, 'Z' | 'X')).then_some((state, parent))
}

/// Whether it runs.
pub fn is_alive(pid: u32) -> bool {
    state_of(pid).is_some()
}

fn child_of(parent: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        (state_of(pid)?.1 == parent).then_some(pid)
    })
}

fn has_vcpu_threads(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
        .any(|comm| comm.starts_with("vcpu"))
}

/// Waits until the emulated driver of this collector is at work, so that probes are attached and it has been told to
/// go; returns its pid.
pub fn emulator_at_work(collector: &mut Child) -> u32 {
    wait_for("the emulated driver starts", || {
        let ended = collector.try_wait().unwrap();
        assert!(ended.is_none(), "the collector ended by itself: {ended:?}");
        child_of(collector.id()).filter(|pid| has_vcpu_threads(*pid))
    })
}

/// A program that is killed, by its pid, should the test end without it.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        // Nothing else can be done about a failure here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
