//! Work with a deadline: on a thread of its own, which is given up when it does not answer. On a host that hangs, anything
//! that asks the kernel may.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Work that goes on.
pub struct Job<T> {
    answer: Receiver<(Result<T, String>, Duration)>,
    begun: Instant,
    limit: Duration,
}

/// What became of it.
pub struct Done<T> {
    /// What it gave, or why it gave nothing.
    pub result: Result<T, String>,
    /// How long it took.
    pub took: Duration,
    /// How long it might have taken.
    pub limit: Duration,
}

impl<T> Done<T> {
    /// The same work, with something else made of what it gave.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Done<U> {
        Done {
            result: self.result.map(make),
            took: self.took,
            limit: self.limit,
        }
    }
}

impl<T: Send + 'static> Job<T> {
    /// Begins work that may take so long.
    pub fn start(
        limit: Duration,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Self {
        let (answers, answer) = channel();
        let begun = Instant::now();
        let started = std::thread::Builder::new()
            .name("bundle".into())
            .spawn(move || {
                let result = work();
                // Nobody may want it any more.
                let _ = answers.send((result, begun.elapsed()));
            });
        // Without a thread the channel is closed, which is told below.
        drop(started);
        Self {
            answer,
            begun,
            limit,
        }
    }

    /// Waits for it, until its time is over.
    pub fn wait(self) -> Done<T> {
        let left = self.limit.saturating_sub(self.begun.elapsed());
        match self.answer.recv_timeout(left) {
            Ok((result, took)) => Done {
                result,
                took,
                limit: self.limit,
            },
            Err(error) => Done {
                result: Err(match error {
                    RecvTimeoutError::Timeout => format!(
                        "no answer within {}: given up",
                        humantime::format_duration(self.limit)
                    ),
                    RecvTimeoutError::Disconnected => "its thread ended without an answer".into(),
                }),
                took: self.begun.elapsed(),
                limit: self.limit,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_hangs_is_given_up() {
        let begun = Instant::now();
        let hangs: Job<()> = Job::start(Duration::from_millis(50), || {
            loop {
                std::thread::park();
            }
        });
        let quick = Job::start(Duration::from_secs(30), || Ok(7));
        let panics: Job<()> = Job::start(Duration::from_secs(30), || panic!("on purpose"));
        assert_eq!(quick.wait().result, Ok(7));
        assert!(hangs.wait().result.unwrap_err().contains("given up"));
        assert!(
            panics
                .wait()
                .result
                .unwrap_err()
                .contains("without an answer")
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
