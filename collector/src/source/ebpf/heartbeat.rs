//! Telling the programs that somebody is there: they do nothing once the collector has been silent for ten seconds.
//!
//! The programs look at the kernel's tick counter, which costs them a load. Only a program can read it, so the beat itself
//! is a program that this process runs once a second, on a thread of its own: a slow reader of frames is not silence.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use probe_ebpf::abi::gate;

use super::{ProbeError, chain, object, sys};
use crate::source::confine;

const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Seconds of silence after which the programs do nothing.
const SILENCE: u64 = 10;
/// Ticks a second that kernels are built with (`CONFIG_HZ`).
const RATES: [u64; 4] = [100, 250, 300, HIGHEST_RATE];
const HIGHEST_RATE: u64 = 1000;
const PROGRAM: &str = "heartbeat";

/// The program that says that this process is alive.
pub struct Beat(OwnedFd);

impl Beat {
    /// Loads it. After a beat, programs work for so many ticks of the kernel.
    pub fn load(ebpf: &mut Ebpf, limit_ticks: u64) -> Result<Self, ProbeError> {
        let program = match object::loaded_program(ebpf, PROGRAM) {
            Some(program) => program,
            None => object::load_program(ebpf, PROGRAM)?,
        };
        object::set_gate(ebpf, gate::LIMIT, limit_ticks)?;
        Ok(Self(program))
    }

    /// Beats.
    pub fn once(&self) -> std::io::Result<()> {
        sys::run_program(self.0.as_fd(), &[]).map(drop)
    }
}

/// Beats until it is dropped.
pub struct Heartbeat {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// The first beat lets the programs work: call it when all are attached.
    pub fn start(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let failed = |e: std::io::Error| ProbeError::Load(format!("{PROGRAM}: {e}"));
        // Until the rate is known, ten seconds at the highest: a lower one makes them longer, for a moment.
        let program = Beat::load(ebpf, SILENCE * HIGHEST_RATE)?;
        let mut gate = Gate::new(ebpf)?;
        program.once().map_err(failed)?;
        let first = gate.beat();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || beat(&program, &mut gate, first, &stopped))
            .map_err(failed)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Beats once a second, and sets the limit when the rate of ticks is known.
fn beat(program: &Beat, gate: &mut Gate, first: (u64, u64), stopped: &mpsc::Receiver<()>) {
    let mut known = false;
    while stopped.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
        confine::follow();
        // A program that ran once runs again; if it did not, the programs fall silent, which is what they should do.
        let _ = program.once();
        if !known {
            let now = gate.beat();
            if let Some(rate) = rate(now.0 - first.0, now.1 - first.1) {
                gate.set_limit(SILENCE * rate);
                known = true;
            }
        }
    }
}

/// Ticks a second, given how many there were in a time of nanoseconds.
fn rate(ticks: u64, ns: u64) -> Option<u64> {
    let measured = ticks.checked_mul(1_000_000_000)?.checked_div(ns)?;
    RATES.into_iter().min_by_key(|rate| rate.abs_diff(measured))
}

/// The map `GATE`, through a descriptor of its own.
struct Gate(Array<MapData, u64>);

impl Gate {
    fn new(ebpf: &Ebpf) -> Result<Self, ProbeError> {
        let data = object::own_map(ebpf, "GATE")?;
        let map = Array::try_from(aya::maps::Map::Array(data));
        map.map(Self).map_err(|e| ProbeError::Map {
            map: "GATE",
            reason: chain(&e),
        })
    }

    /// Ticks and nanoseconds of the last beat.
    fn beat(&self) -> (u64, u64) {
        let word = |index| self.0.get(&index, 0).unwrap_or(0);
        (word(gate::BEAT), word(gate::BEAT_NS))
    }

    fn set_limit(&mut self, ticks: u64) {
        // The longer limit stays, which only makes silence last longer.
        let _ = self.0.set(gate::LIMIT, ticks, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_the_nearest_that_exists() {
        assert_eq!(rate(101, 1_000_000_000), Some(100));
        assert_eq!(rate(249, 1_000_300_000), Some(250));
        assert_eq!(rate(301, 1_001_000_000), Some(300));
        assert_eq!(rate(990, 1_000_000_000), Some(1000));
        assert_eq!(rate(5, 0), None);
    }
}
