//! Loading programs side by side.
//!
//! The verifier computes for seconds where processors are slow, and takes no lock for callers with CAP_BPF (since Linux
//! 5.2: bpf_check() in kernel/bpf/verifier.c), so that programs can be loaded by several threads at once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::Program;

/// Threads that load at most. Each keeps the verifier's states of one program in the kernel's memory.
const THREADS: usize = 8;

/// Gives each of these programs to `load`, several at a time, and returns what became of them in the order of the names.
/// A name that the object does not have, or that was there before, is left out.
pub fn side_by_side<R: Send>(
    ebpf: &mut Ebpf,
    names: &[&'static str],
    load: impl Fn(&'static str, &mut Program) -> R + Sync,
) -> Vec<(&'static str, R)> {
    let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let wanted: Vec<_> = names
        .iter()
        .filter_map(|name| Some((*name, programs.remove(*name)?)))
        .collect();
    spread(wanted, |(name, program)| (name, load(name, program)))
}

/// Loads each item, several at a time, and returns the results in order.
pub(super) fn spread<T: Send, R: Send>(items: Vec<T>, load: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    on_threads(items, threads.min(THREADS), load)
}

/// Does something with each item, on so many threads, and returns the results in order.
fn on_threads<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let next = Mutex::new(items.into_iter().enumerate());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    let all = || {
        let mut done = Vec::new();
        while let Some((number, item)) = take() {
            done.push((number, work(item)));
        }
        done
    };
    let mut done = std::thread::scope(|scope| {
        // A thread that there is no room for is done without.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| {
                let thread = std::thread::Builder::new().name("load".into());
                thread.spawn_scoped(scope, all).ok()
            })
            .collect();
        let mut done = all();
        for other in others {
            match other.join() {
                Ok(results) => done.extend(results),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What is being worked on, and since when.
#[derive(Debug, Default)]
pub struct UnderWay(Mutex<HashMap<&'static str, Instant>>);

impl UnderWay {
    /// Does something that is known as under way meanwhile.
    pub fn during<R>(&self, name: &'static str, work: impl FnOnce() -> R) -> R {
        self.lock().insert(name, Instant::now());
        let result = work();
        self.lock().remove(name);
        result
    }

    /// What has taken longer than this, of several the longest.
    pub fn longer_than(&self, time: Duration) -> Option<&'static str> {
        let under_way = self.lock();
        let (name, since) = under_way.iter().min_by_key(|(_, since)| **since)?;
        (since.elapsed() > time).then_some(*name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn results_are_in_order_whoever_was_first() {
        let odd_ones_later = |n: u64| {
            std::thread::sleep(Duration::from_millis(5 * (n % 2)));
            n * n
        };
        for threads in [1, 3, 20] {
            let squares = on_threads((0..10).collect(), threads, odd_ones_later);
            assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81], "{threads}");
        }
        assert!(on_threads(Vec::<u64>::new(), 3, odd_ones_later).is_empty());
    }

    #[test]
    fn items_are_worked_on_at_the_same_time() {
        let all_there = Barrier::new(3);
        let done = on_threads(vec![1, 2, 3], 3, |n| {
            all_there.wait();
            n
        });
        assert_eq!(done, [1, 2, 3]);
    }

    #[test]
    fn the_longest_under_way_is_named() {
        let under_way = UnderWay::default();
        let named = under_way.during("slow", || {
            std::thread::sleep(Duration::from_millis(20));
            under_way.during("quick", || {
                assert_eq!(under_way.longer_than(Duration::from_secs(600)), None);
                under_way.longer_than(Duration::from_millis(10))
            })
        });
        assert_eq!(named, Some("slow"));
        assert_eq!(under_way.longer_than(Duration::ZERO), None);
    }
}
