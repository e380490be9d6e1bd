//! Kernel stacks of tasks that do not go on, from `/proc/PID/task/TID/stack`.
//!
//! Reading one waits for the `exec_update_lock` of its process (`lock_trace`, fs/proc/base.c, since v5.11; before, the
//! `exec_update_mutex`), which an `execve` holds. That is no lock of the driver, but it may be held for long; so a thread of
//! its own reads, and is given up when it does not answer. A stack counts only if its task slept before and after, and was
//! not switched between. Takes thread ids; does not know what the functions mean.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::diagnose::stacks::text::{self, Task};
use crate::source::reader::monotonic_ns;
use crate::source::tasks::{Said, status};

/// Bytes of a stack that are read.
const STACK_BYTES: u64 = 16 * 1024;
/// Tasks whose stack is read in one look.
const MOST: usize = 1024;
/// Threads that are looked at to find those that sleep.
const MOST_THREADS: usize = 100_000;
/// Least time between two looks: frames come more often when the ring fills.
const BETWEEN_LOOKS: Duration = Duration::from_millis(90);
/// How long a look is waited for. What comes later is used in the next tick.
const PATIENCE: Duration = Duration::from_millis(40);
/// From then on the thread is stuck itself.
const STUCK: Duration = Duration::from_secs(5);
/// Time between two searches of all threads.
const SEARCH: Duration = Duration::from_secs(1);

/// A task that slept while its stack was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slept {
    /// Process id.
    pub pid: u32,
    /// Context switches up to then.
    pub switches: u64,
    /// When its stack was first seen as it is, CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
    /// Its stack.
    pub task: Task,
}

/// What is asked for.
struct Question {
    /// Thread ids, each with its process (0: the thread's own).
    wanted: Vec<(u32, u32)>,
    /// Processes all of whose threads are asked for.
    processes: Vec<u32>,
    /// All threads that sleep and cannot be interrupted, too.
    search: bool,
}

type Answer = HashMap<u32, Slept>;

/// Reads stacks on a thread of its own.
pub struct Stacks {
    questions: Sender<Question>,
    answers: Receiver<Answer>,
    last: Answer,
    asked: Option<Instant>,
    searched: Option<Instant>,
    /// When something was asked last.
    question_at: Option<Instant>,
    /// The last look has had an answer.
    fresh: bool,
    said: bool,
}

impl Stacks {
    /// Starts the thread; `None` where there can be none.
    pub fn start() -> Option<Self> {
        Self::below(PathBuf::from("/proc"))
    }

    fn below(proc: PathBuf) -> Option<Self> {
        let (questions, asked) = channel::<Question>();
        let (answer, answers) = channel();
        std::thread::Builder::new()
            .name("stacks".into())
            .spawn(move || {
                let mut known = Answer::new();
                while let Ok(question) = asked.recv() {
                    known = look(&proc, &question, known);
                    if answer.send(known.clone()).is_err() {
                        return;
                    }
                }
            })
            .ok()?;
        Some(Self {
            questions,
            answers,
            last: Answer::new(),
            asked: None,
            searched: None,
            question_at: None,
            fresh: false,
            said: false,
        })
    }

    /// The last look has had an answer that no look before it had.
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Stacks of these threads, of the threads of these processes, and (once a second) of all that sleep. Those of the look
    /// before where the thread is not ready; nothing where it is stuck, which is said once.
    pub fn look(
        &mut self,
        wanted: Vec<(u32, u32)>,
        processes: Vec<u32>,
    ) -> (&Answer, Option<String>) {
        let now = Instant::now();
        self.fresh = false;
        while let Ok(answer) = self.answers.try_recv() {
            // What comes so late is of another moment.
            let late = self.asked.is_some_and(|at| now.duration_since(at) >= STUCK);
            self.last = if late { Answer::new() } else { answer };
            (self.asked, self.said, self.fresh) = (None, false, !late);
        }
        let due = self
            .question_at
            .is_none_or(|at| now.duration_since(at) >= BETWEEN_LOOKS);
        if self.asked.is_none() && due {
            let search = self
                .searched
                .is_none_or(|at| now.duration_since(at) >= SEARCH);
            if search {
                self.searched = Some(now);
            }
            let question = Question {
                wanted,
                processes,
                search,
            };
            if self.questions.send(question).is_ok() {
                (self.asked, self.question_at) = (Some(now), Some(now));
            }
            if let Ok(answer) = self.answers.recv_timeout(PATIENCE) {
                (self.last, self.asked, self.said) = (answer, None, false);
                self.fresh = true;
            }
        }
        let stuck = self.asked.is_some_and(|at| now.duration_since(at) >= STUCK);
        let mut note = None;
        if stuck {
            self.last.clear();
            if !std::mem::replace(&mut self.said, true) {
                note = Some(
                    "reading kernel stacks is stuck (a process may be in execve): what only stacks show is missing"
                        .to_owned(),
                );
            }
        }
        (&self.last, note)
    }
}

/// Stacks of all tasks of this machine that sleep and cannot be interrupted, for where kernel memory cannot be read. `None` if
/// they cannot be read in `at_most`.
pub fn blocked(at_most: Duration) -> Option<Vec<Task>> {
    let (answer, answers) = channel();
    std::thread::Builder::new()
        .name("stacks".into())
        .spawn(move || {
            let question = Question {
                wanted: Vec::new(),
                processes: Vec::new(),
                search: true,
            };
            // Nobody may be waiting any more.
            let _ = answer.send(look(Path::new("/proc"), &question, Answer::new()));
        })
        .ok()?;
    let found = answers.recv_timeout(at_most).ok()?;
    let mut tasks: Vec<Task> = found.into_values().map(|slept| slept.task).collect();
    tasks.sort_by_key(|task| task.tid);
    Some(tasks)
}

fn ids(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Stacks of what is asked for; those that are `known` and whose task was not switched since are not read again.
fn look(proc: &Path, question: &Question, mut known: Answer) -> Answer {
    let mut found = Answer::new();
    // What the last search found.
    let before: Vec<(u32, u32)> = known.iter().map(|(tid, slept)| (*tid, slept.pid)).collect();
    let mut take = |tid: u32, pid: u32, only_blocked: bool| {
        if found.len() >= MOST || found.contains_key(&tid) {
            return;
        }
        let place = proc
            .join(pid.to_string())
            .join("task")
            .join(tid.to_string());
        let Said::Is(state, switches) = status(&place) else {
            return;
        };
        let sleeps = matches!(state, 'S' | 'D' | 'I');
        if !sleeps || only_blocked && state != 'D' {
            return;
        }
        if let Some(slept) = known.remove(&tid)
            && slept.switches == switches
            && slept.pid == pid
        {
            found.insert(tid, slept);
            return;
        }
        if let Some(task) = stack(&place, pid, tid, state)
            && status(&place) == Said::Is(state, switches)
        {
            let slept = Slept {
                pid,
                switches,
                since_ns: monotonic_ns(),
                task,
            };
            found.insert(tid, slept);
        }
    };
    for &(tid, pid) in &question.wanted {
        take(tid, if pid == 0 { tid } else { pid }, false);
    }
    // Those that sleep and cannot be interrupted come before all that sleeps in guests' processes.
    if question.search {
        let mut threads = 0;
        'all: for pid in ids(proc) {
            for tid in ids(&proc.join(pid.to_string()).join("task")) {
                threads += 1;
                if threads > MOST_THREADS {
                    break 'all;
                }
                take(tid, pid, true);
            }
        }
    } else {
        for (tid, pid) in before {
            take(tid, pid, true);
        }
    }
    for &pid in &question.processes {
        for tid in ids(&proc.join(pid.to_string()).join("task")) {
            take(tid, pid, false);
        }
    }
    found
}

/// A stack as a text that somebody saved has it.
fn stack(place: &Path, pid: u32, tid: u32, state: char) -> Option<Task> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = fs::File::open(place.join("stack")).ok()?;
    file.take(STACK_BYTES).read_to_end(&mut bytes).ok()?;
    let frames = String::from_utf8_lossy(&bytes);
    let text = format!("==> /proc/{pid}/task/{tid}/stack <==\n{frames}\n");
    let mut task = text::parse(&text).tasks.into_iter().next()?;
    let comm = fs::read_to_string(place.join("comm")).unwrap_or_default();
    comm.trim_end().clone_into(&mut task.comm);
    task.state = Some(state);
    task.tgid = Some(pid);
    (task.tid == tid && !task.frames.is_empty()).then_some(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(proc: &Path, pid: u32, tid: u32, state: char, switches: u64, stack: &str) {
        let place = proc.join(format!("{pid}/task/{tid}"));
        fs::create_dir_all(&place).unwrap();
        let status = format!(
            "Name:\tx\nState:\t{state} (x)\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t0\n"
        );
        fs::write(place.join("status"), status).unwrap();
        fs::write(place.join("comm"), "worker\n").unwrap();
        fs::write(place.join("stack"), stack).unwrap();
    }

    const STACK: &str =
        "[<0>] mutex_lock+0x2a/0x40\n[<0>] assign_adapter_store+0x60/0x250 [vfio_ap]\n";

    #[test]
    fn those_that_are_wanted_and_those_that_are_blocked_are_read() {
        let dir = tempfile::tempdir().unwrap();
        thread(dir.path(), 7, 8, 'S', 3, STACK);
        thread(dir.path(), 9, 9, 'D', 1, STACK);
        thread(dir.path(), 9, 10, 'S', 1, STACK);
        thread(dir.path(), 11, 11, 'R', 1, STACK);
        let mut stacks = Stacks::below(dir.path().to_owned()).unwrap();
        let (found, note) = stacks.look(vec![(8, 7), (11, 0)], Vec::new());
        let mut tids: Vec<u32> = found.keys().copied().collect();
        tids.sort_unstable();
        assert_eq!(tids, [8, 9]);
        assert_eq!(note, None);
        let slept = found[&8].clone();
        assert!(stacks.is_fresh());
        stacks.look(Vec::new(), Vec::new());
        assert!(!stacks.is_fresh(), "too early to ask again");
        assert_eq!((slept.pid, slept.switches, slept.task.tid), (7, 3, 8));
        assert_eq!(slept.task.comm, "worker");
        assert_eq!(slept.task.frames[1].symbol, "assign_adapter_store");
        assert_eq!(slept.task.frames[1].module.as_deref(), Some("vfio_ap"));
        std::thread::sleep(BETWEEN_LOOKS);
        let (found, _) = stacks.look(Vec::new(), vec![9]);
        assert!(found.contains_key(&10) && found.contains_key(&9));
        // It goes on: its stack is not what it was.
        thread(dir.path(), 9, 9, 'R', 2, STACK);
        std::thread::sleep(BETWEEN_LOOKS);
        let (found, _) = stacks.look(Vec::new(), Vec::new());
        assert!(!found.contains_key(&9));
    }
}
