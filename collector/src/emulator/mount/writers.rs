//! Threads that run the show and store functions, so that one that blocks in the driver blocks nobody but its caller.
//!
//! Each call in progress has a thread of its own. A thread whose call is over takes the next; of more than [`KEPT`] one
//! that has had nothing to do for a while ends. Beyond [`MOST`] calls in progress further ones queue.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most threads.
pub const MOST: usize = 512;
/// Threads that stay: who measures has room for a limited number of threads that come and go.
const KEPT: usize = 16;
/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(10);
/// The driver's functions have small frames.
const STACK_BYTES: usize = 256 << 10;

/// A call.
pub struct Job {
    /// Who calls what, for whoever explains a hang.
    pub what: String,
    /// Does it.
    pub run: Box<dyn FnOnce() + Send>,
}

/// What each thread does first.
pub type Enter = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a call.
    idle: usize,
    threads: usize,
    /// Calls that have begun, by number.
    running: BTreeMap<u64, String>,
    begun: u64,
    /// Calls that have ended, ever.
    ended: u64,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// There is a call to do.
    work: Condvar,
    /// A call has ended.
    over: Condvar,
    enter: Enter,
}

/// The threads.
#[derive(Clone)]
pub struct Writers(Arc<Shared>);

impl Shared {
    // Calls run without the lock; nothing under it panics.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        (self.enter)();
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                let number = state.begun;
                state.begun += 1;
                state.running.insert(number, job.what);
                drop(state);
                (job.run)();
                state = self.state();
                state.running.remove(&number);
                state.ended += 1;
                self.over.notify_all();
                continue;
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = wait(&self.work, state, IDLE);
            state.idle -= 1;
            if state.jobs.is_empty() && (state.closed || timed_out && state.threads > KEPT) {
                state.threads -= 1;
                return;
            }
        }
    }
}

fn wait<'a>(
    event: &Condvar,
    state: MutexGuard<'a, State>,
    time: Duration,
) -> (MutexGuard<'a, State>, bool) {
    let (state, timeout) = event
        .wait_timeout(state, time)
        .unwrap_or_else(PoisonError::into_inner);
    (state, timeout.timed_out())
}

impl Writers {
    /// No thread yet.
    pub fn new(enter: Enter) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            over: Condvar::new(),
            enter,
        }))
    }

    /// Has a call done. It is dropped undone after [`Writers::finish`].
    pub fn run(&self, job: Job) -> io::Result<()> {
        let mut state = self.0.state();
        if state.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.threads >= MOST {
            drop(state);
            self.0.work.notify_one();
            return Ok(());
        }
        let shared = Arc::clone(&self.0);
        let started = std::thread::Builder::new()
            .name("sysfs-call".into())
            .stack_size(STACK_BYTES)
            .spawn(move || shared.work());
        match started {
            Ok(_) => {
                state.threads += 1;
                Ok(())
            }
            // Those that there are will come to it.
            Err(_) if state.threads > 0 => Ok(()),
            Err(error) => {
                state.jobs.clear();
                Err(error)
            }
        }
    }

    /// Begins no further call, and waits until those in progress have ended, or none has for `patience`; those that
    /// are left.
    pub fn finish(&self, patience: Duration) -> Vec<String> {
        let mut state = self.0.state();
        state.closed = true;
        self.0.work.notify_all();
        let dropped = std::mem::take(&mut state.jobs);
        let mut ended = state.ended;
        let mut since = Instant::now();
        while !state.running.is_empty() && since.elapsed() < patience {
            (state, _) = wait(&self.0.over, state, Duration::from_millis(20));
            if state.ended != ended {
                ended = state.ended;
                since = Instant::now();
            }
        }
        let left = state.running.values().cloned().collect();
        drop(state);
        drop(dropped);
        left
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn job(what: &str, run: impl FnOnce() + Send + 'static) -> Job {
        Job {
            what: what.into(),
            run: Box::new(run),
        }
    }

    #[test]
    fn a_blocked_call_blocks_no_other() {
        let entered = Arc::new(Mutex::new(0));
        let count = Arc::clone(&entered);
        let writers = Writers::new(Arc::new(move || *count.lock().unwrap() += 1));
        let (release, blocked) = mpsc::channel::<()>();
        let (done, ended) = mpsc::channel();
        writers
            .run(job("blocked", move || {
                let _ = blocked.recv();
            }))
            .unwrap();
        for n in 0..100 {
            let done = done.clone();
            writers
                .run(job("free", move || done.send(n).unwrap()))
                .unwrap();
            assert_eq!(ended.recv().unwrap(), n);
        }
        assert_eq!(writers.finish(Duration::from_millis(50)), ["blocked"]);
        assert!(writers.run(job("late", || ())).is_err());
        release.send(()).unwrap();
        assert!(writers.finish(Duration::from_secs(60)).is_empty());
        assert!(*entered.lock().unwrap() < 101, "threads are used again");
    }

    #[test]
    fn beyond_the_limit_calls_queue() {
        let writers = Writers::new(Arc::new(|| ()));
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let (done, ended) = mpsc::channel();
        for _ in 0..MOST + 3 {
            let blocked = Arc::clone(&blocked);
            let done = done.clone();
            writers
                .run(job("one of many", move || {
                    let _ = blocked.lock().unwrap().recv();
                    done.send(()).unwrap();
                }))
                .unwrap();
        }
        assert_eq!(writers.0.state().threads, MOST);
        for _ in 0..MOST + 3 {
            release.send(()).unwrap();
            ended.recv().unwrap();
        }
        assert!(writers.finish(Duration::from_secs(60)).is_empty());
    }
}
