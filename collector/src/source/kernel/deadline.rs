//! Work that may never come back: done by a thread of its own, which is given up after a time.
//!
//! Attaching, detaching and loading take locks of the kernel. On a machine on which something is stuck, one of them may
//! be the lock that it is stuck on; whoever came to look at that must not wait for it.

use std::sync::mpsc;
use std::time::Duration;

/// How long one step may take. Longer means that something that is needed for it is stuck.
pub const STEP: Duration = Duration::from_secs(10);
/// How long the verifier may take for one program. It computes, and takes seconds on an emulated machine.
pub const LOAD: Duration = Duration::from_secs(60);

/// The work did not come back in time. Its thread stays until the process ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// Too slow, or stuck.
    #[error("did not end within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// There is no thread.
    #[error("no thread for it: {0}")]
    NoThread(String),
    /// The thread has ended without a result.
    #[error("its thread has died")]
    Died,
}

/// Does the work on a thread of its own, and waits this long for it.
///
/// # Errors
///
/// [`GivenUp`]; what was moved into the work is lost with it.
pub fn within<T: Send + 'static>(
    name: &str,
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GivenUp> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // A receiver that has given up does not want it.
            let _ = sender.send(work());
        })
        .map_err(|e| GivenUp::NoThread(e.to_string()))?;
    receiver.recv_timeout(time).map_err(|e| match e {
        mpsc::RecvTimeoutError::Timeout => GivenUp::Late(time),
        mpsc::RecvTimeoutError::Disconnected => GivenUp::Died,
    })
}

/// What became of a row of steps.
#[derive(Debug, PartialEq, Eq)]
pub struct Steps<T> {
    /// Results of the steps that came back, in order.
    pub done: Vec<T>,
    /// Why the step behind them did not.
    pub given_up: Option<GivenUp>,
}

/// Does steps one after the other on one thread. Each may take this long; with the first that takes longer, they end.
pub fn steps<T: Send + 'static>(
    name: &str,
    time: Duration,
    count: usize,
    mut step: impl FnMut(usize) -> T + Send + 'static,
) -> Steps<T> {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            for n in 0..count {
                if sender.send(step(n)).is_err() {
                    return;
                }
            }
        });
    let mut done = Vec::new();
    if let Err(e) = spawned {
        let given_up = Some(GivenUp::NoThread(e.to_string()));
        return Steps { done, given_up };
    }
    while done.len() < count {
        match receiver.recv_timeout(time) {
            Ok(result) => done.push(result),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let given_up = Some(GivenUp::Late(time));
                return Steps { done, given_up };
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let given_up = Some(GivenUp::Died);
                return Steps { done, given_up };
            }
        }
    }
    Steps {
        done,
        given_up: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(50);

    /// Never comes back.
    fn stuck() -> ! {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn what_never_comes_back_is_given_up() {
        let start = Instant::now();
        let result: Result<u32, _> = within("stuck", SHORT, || stuck());
        assert_eq!(result, Err(GivenUp::Late(SHORT)));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(within("quick", Duration::from_secs(5), || 7), Ok(7));
    }

    #[test]
    fn steps_before_the_one_that_is_stuck_count() {
        let steps = steps("steps", SHORT, 4, |n| if n == 2 { stuck() } else { n });
        assert_eq!(steps.done, [0, 1]);
        assert_eq!(steps.given_up, Some(GivenUp::Late(SHORT)));
    }

    #[test]
    fn each_step_has_its_own_time() {
        let steps = steps("steps", Duration::from_millis(500), 4, |n| {
            std::thread::sleep(Duration::from_millis(200));
            n
        });
        assert_eq!(steps.done, [0, 1, 2, 3]);
        assert_eq!(steps.given_up, None);
    }
}
