//! The reader: from lines to tasks.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::diagnose::messages;

use super::line::{self, content, field, name_and_id, unescaped};
use super::{
    Blocker, BlockerKind, Frame, MAX_FRAMES, MAX_LINE, MAX_MESSAGES, MAX_NAME, MAX_NOTES,
    MAX_TASKS, MAX_TEXT, Parsed, Saved, Task,
};

/// Reads a text. Any text: what is not understood is passed over.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let mut reader = Reader::default();
    let read = clipped(text, MAX_TEXT);
    if read.len() < text.len() {
        reader.note(format!("only the first {MAX_TEXT} bytes were read"));
    }
    let (read, others) = last_kernel(read);
    if let Some(note) = others {
        reader.note(note);
    }
    for line in read.lines() {
        reader.line(content(&unescaped(clipped(line, MAX_LINE))));
    }
    reader.finish()
}

/// The part of a text that is of the last kernel in it, and what to say of those before it: their tasks are not these.
fn last_kernel(text: &str) -> (&str, Option<String>) {
    let mut kernels: Vec<String> = Vec::new();
    let mut start = 0;
    let mut report = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let clipped = unescaped(clipped(line, MAX_LINE));
        let content = content(&clipped);
        // A report begins before the line that has the release.
        if content.starts_with("INFO: task ") {
            report = report.or(Some(at));
        } else if line::frame(content).is_some() || content.starts_with("task:") {
            report = None;
        }
        if let Some(release) = release_in(content)
            && kernels.last().is_none_or(|last| last != release)
        {
            if !kernels.is_empty() {
                start = report.unwrap_or(at);
            }
            if kernels.len() < MAX_KERNELS {
                kernels.push(release.to_owned());
            } else if let Some(last) = kernels.last_mut() {
                release.clone_into(last);
            }
        }
        at += line.len();
    }
    let (Some(last), others) = (kernels.pop(), kernels) else {
        return (text, None);
    };
    if others.is_empty() {
        return (text, None);
    }
    let note = format!(
        "the text is of several kernels: only what is of the last, {last}, is read; save what is of {} in a file of its own",
        others.join(", ")
    );
    (text.get(start..).unwrap_or(text), Some(note))
}

/// The kernel's release before its build number: `Tainted: G  O   5.10.223 #1`, `Linux version 6.12.1 (builder@`, and
/// what crash says.
fn release_in(text: &str) -> Option<&str> {
    let release = if let Some(rest) = text.strip_prefix("Linux version ") {
        rest.split_whitespace().next()?
    } else if let Some(rest) = text.strip_prefix("RELEASE: ") {
        rest.trim()
    } else if text.contains("ainted") && text.contains(" #") {
        let mut words = text.split_whitespace().peekable();
        loop {
            let word = words.next()?;
            if words.peek().is_some_and(|next| next.starts_with('#')) {
                break word;
            }
        }
    } else {
        return None;
    };
    let numbered = release.starts_with(|c: char| c.is_ascii_digit()) && release.contains('.');
    numbered.then(|| clipped(release, MAX_NAME))
}

/// Whether two stacks of a task, in the order they were saved, are the same; `None` if one of them was saved in a way that
/// leaves out the scheduler's frames, or the lock's, and they differ in more than that.
fn is_same(before: &[Frame], after: &[Frame]) -> Option<bool> {
    let place = |frame: &Frame| (frame.symbol.clone(), frame.offset);
    let (one, other): (Vec<_>, Vec<_>) = (
        before.iter().rev().map(place).collect(),
        after.iter().rev().map(place).collect(),
    );
    let common = one.len().min(other.len());
    if common > 0 && one[..common] == other[..common] {
        return Some(true);
    }
    let whole = |frames: &[Frame]| {
        let mut innermost = frames.iter().take(2);
        innermost.any(|frame| frame.symbol == "__schedule" || frame.symbol == "schedule")
    };
    (whole(before) == whole(after)).then_some(false)
}

fn clipped(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn name(text: &str) -> String {
    clipped(text.trim(), MAX_NAME).to_owned()
}

/// Kernels of one text that are named.
const MAX_KERNELS: usize = 8;

/// What begins something that is no task's stack but has frames.
const OTHER: [&str; 9] = [
    "-> #",
    "WARNING:",
    "INFO:",
    "BUG:",
    "Showing ",
    "stack backtrace:",
    "other info that",
    "Last Breaking-Event-Address:",
    "Krnl PSW",
];

/// Where frames go.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Current {
    /// To no task: they are part of something else, such as lockdep's chain.
    #[default]
    None,
    /// To this one.
    Task(usize),
}

#[derive(Default)]
struct Reader {
    tasks: Vec<Task>,
    by_tid: HashMap<u32, usize>,
    /// By task: how often a stack of it began.
    reports: Vec<u32>,
    /// By task: the frames there are of an earlier report, to be replaced by the next frame.
    stale: Vec<bool>,
    current: Current,
    /// The header of /proc that the current frames came with, to know it when each line repeats it (`grep`).
    path: Option<u32>,
    /// By task: its stack in the report before, and how it compares.
    before: Vec<(Vec<Frame>, Saved)>,
    release: Option<String>,
    notes: Vec<String>,
    messages: VecDeque<String>,
    lockdep: bool,
    unowned_frames: u64,
    lost_frames: u64,
    lost_tasks: u64,
    lost_notes: u64,
}

impl Reader {
    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        } else {
            self.lost_notes += 1;
        }
    }

    fn line(&mut self, text: &str) {
        if text.is_empty() || self.proc_line(text) {
            return;
        }
        if let Some(raw) = line::frame(text) {
            self.frame(&Frame {
                symbol: name(raw.symbol),
                offset: raw.offset,
                module: raw.module.map(name),
                reliable: raw.reliable,
            });
            return;
        }
        self.find_release(text);
        if messages::answer(0, text).is_some() {
            if self.messages.len() >= MAX_MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back(text.to_owned());
            return;
        }
        if self.hung_task(text) || self.blocker(text) || self.task_line(text) {
            return;
        }
        if self.crash_line(text) || self.old_task_line(text) || self.cpu_line(text) {
            return;
        }
        // `WARNING: possible circular locking dependency detected` (kernel/locking/lockdep.c).
        self.lockdep |= text.contains("circular locking dependency detected");
        if OTHER.iter().any(|start| text.starts_with(start)) {
            self.current = Current::None;
        }
    }

    /// The task of this id, which is made if there is none.
    fn task(&mut self, tid: u32) -> Option<usize> {
        // Every CPU has an idle task of the id 0; none of them waits for anything.
        if tid == 0 {
            return None;
        }
        if let Some(&at) = self.by_tid.get(&tid) {
            return Some(at);
        }
        if self.tasks.len() >= MAX_TASKS {
            self.lost_tasks += 1;
            return None;
        }
        self.tasks.push(Task {
            tid,
            ..Task::default()
        });
        self.reports.push(0);
        self.before.push((Vec::new(), Saved::Once));
        self.stale.push(false);
        self.by_tid.insert(tid, self.tasks.len() - 1);
        Some(self.tasks.len() - 1)
    }

    /// A header of a task's stack: frames that follow are its.
    fn begin(&mut self, tid: u32, comm: &str) -> Option<usize> {
        self.path = None;
        self.current = Current::None;
        let at = self.task(tid)?;
        self.current = Current::Task(at);
        self.reports[at] = self.reports[at].saturating_add(1);
        self.stale[at] = !self.tasks[at].frames.is_empty();
        if !comm.trim().is_empty() {
            self.tasks[at].comm = name(comm);
        }
        Some(at)
    }

    fn frame(&mut self, frame: &Frame) {
        let Current::Task(at) = self.current else {
            self.unowned_frames += 1;
            return;
        };
        if std::mem::take(&mut self.stale[at]) {
            self.compare(at);
            self.before[at].0 = std::mem::take(&mut self.tasks[at].frames);
        }
        if self.tasks[at].frames.len() < MAX_FRAMES {
            self.tasks[at].frames.push(frame.clone());
        } else {
            self.lost_frames += 1;
        }
    }

    /// Compares a task's stack with that of the report before, if there was one.
    fn compare(&mut self, at: usize) {
        let (before, saved) = &mut self.before[at];
        if before.is_empty() || self.tasks[at].frames.is_empty() {
            return;
        }
        match is_same(before, &self.tasks[at].frames) {
            Some(true) if *saved == Saved::Once => *saved = Saved::Same,
            Some(false) => *saved = Saved::Moved,
            _ => {}
        }
        before.clear();
    }

    /// `==> /proc/70/task/72/stack <==`, `/proc/456/stack:`, `/proc/456/stack:[<0>] f+0x1/0x2` or `PID 456 comm`.
    fn proc_line(&mut self, text: &str) -> bool {
        if let Some(rest) = text.strip_prefix("PID ") {
            let (id, comm) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let Ok(tid) = id.trim_end_matches(':').parse() else {
                return false;
            };
            let comm = comm.trim().trim_start_matches('(').trim_end_matches(')');
            self.begin(tid, comm);
            return true;
        }
        let path = text.strip_prefix("==> ").unwrap_or(text);
        let Some(path) = path.strip_prefix("/proc/") else {
            return false;
        };
        let Some((ids, rest)) = path.split_once("/stack") else {
            return false;
        };
        let mut ids = ids.split('/');
        let (pid, word, thread) = (ids.next(), ids.next(), ids.next());
        let pid: Option<u32> = pid.and_then(|pid| pid.parse().ok());
        let (tid, group) = match (pid, word, thread.map(str::parse)) {
            (Some(pid), None, None) => (pid, None),
            (Some(pid), Some("task"), Some(Ok(tid))) => (tid, Some(pid)),
            _ => return false,
        };
        if self.path != Some(tid) {
            if let Some(at) = self.begin(tid, "") {
                // /proc/PID is there for a thread's id too, though ls does not list it: only the long path is certain.
                let known = self.tasks[at].tgid;
                self.tasks[at].tgid = group.or(known);
            }
            self.path = Some(tid);
        }
        let rest = rest.trim_start_matches(':').trim_start();
        if let Some(raw) = line::frame(rest) {
            self.frame(&Frame {
                symbol: name(raw.symbol),
                offset: raw.offset,
                module: raw.module.map(name),
                reliable: raw.reliable,
            });
        }
        true
    }

    /// `INFO: task CPU 0/KVM:1234 blocked for more than 122 seconds.` (kernel/hung_task.c)
    fn hung_task(&mut self, text: &str) -> bool {
        let Some((who, rest)) = text
            .strip_prefix("INFO: task ")
            .and_then(|rest| rest.split_once(" blocked "))
        else {
            return false;
        };
        let Some((_, seconds)) = rest.split_once("for more than ") else {
            return false;
        };
        let Some((comm, tid)) = name_and_id(who) else {
            return false;
        };
        let seconds = seconds
            .split_whitespace()
            .next()
            .and_then(|s| s.parse().ok());
        if let Some(at) = self.begin(tid, comm) {
            // The header of the stack itself follows.
            self.reports[at] -= 1;
            let before = self.tasks[at].blocked_for_s;
            self.tasks[at].blocked_for_s = seconds.max(before);
            self.tasks[at].blocker = None;
        }
        true
    }

    /// `INFO: task X:1 is blocked on a mutex likely owned by task Y:2.`, `INFO: task X:1 <writer> blocked on an rw-semaphore
    /// likely owned by task Y:2 <reader>`
    fn blocker(&mut self, text: &str) -> bool {
        let Some((who, rest)) = text
            .strip_prefix("INFO: task ")
            .and_then(|rest| rest.split_once(" blocked on "))
        else {
            return false;
        };
        let who = who.trim_end_matches(" is");
        let (who, role) = match who.rsplit_once(" <") {
            Some((who, role)) => (who, role.trim_end_matches('>')),
            None => (who, ""),
        };
        let kind = if rest.contains("mutex") {
            BlockerKind::Mutex
        } else if rest.contains("rw-semaphore") && role == "writer" {
            BlockerKind::RwsemWriter
        } else if rest.contains("rw-semaphore") {
            BlockerKind::RwsemReader
        } else {
            BlockerKind::Semaphore
        };
        let owner = rest.split_once(" by task ").map(|(_, owner)| {
            let owner = owner.rsplit_once(" <").map_or(owner, |(owner, _)| owner);
            owner.trim_end_matches('.')
        });
        let Some((_, tid)) = name_and_id(who) else {
            return true;
        };
        let Some((comm, owner)) = owner.and_then(name_and_id) else {
            return true;
        };
        if let Some(at) = self.task(tid) {
            self.tasks[at].blocker = Some(Blocker {
                kind,
                comm: name(comm),
                tid: owner,
            });
        }
        true
    }

    /// `task:CPU 0/KVM       state:D stack:    0 pid: 1234 tgid:1200 ppid:     1 flags:0x00000000` (sched_show_task(),
    /// kernel/sched/core.c, since v5.10; the tgid since v6.9).
    fn task_line(&mut self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix("task:") else {
            return false;
        };
        // A thread's name may contain anything, so from the end.
        let Some((comm, fields)) = rest.rsplit_once(" state:") else {
            return false;
        };
        // In a log line that was cut the id may be missing: frames that follow are nobody's.
        self.current = Current::None;
        let Some(tid) = field(fields, " pid:") else {
            return true;
        };
        if let Some(at) = self.begin(tid, comm) {
            let task = &mut self.tasks[at];
            task.state = fields.chars().next();
            task.tgid = field(fields, "tgid:").or(task.tgid);
            task.ppid = field(fields, "ppid:").or(task.ppid);
        }
        true
    }

    /// `CPU 0/KVM       D    0  1234      1 0x00000000`, `sh   R  running task    0 12 1 0x00000000`: before v5.10.
    fn old_task_line(&mut self, text: &str) -> bool {
        let mut words = text.rsplit(' ').filter(|word| !word.is_empty());
        let flags = words.next().and_then(|w| w.strip_prefix("0x"));
        if !flags.is_some_and(|f| {
            (8..=16).contains(&f.len()) && f.bytes().all(|b| b.is_ascii_hexdigit())
        }) {
            return false;
        }
        let (ppid, tid, stack) = (words.next(), words.next(), words.next());
        let number = |word: Option<&str>| word.and_then(|w| w.parse::<u32>().ok());
        let (Some(ppid), Some(tid), Some(_)) = (number(ppid), number(tid), number(stack)) else {
            return false;
        };
        let mut state = words.next();
        if state == Some("task") && words.next() == Some("running") {
            state = words.next();
        }
        let letter = state.filter(|s| s.len() == 1 && "RSDTtXZPIKWN".contains(*s));
        let Some(letter) = letter.and_then(|s| s.chars().next()) else {
            return false;
        };
        let mut comm: Vec<&str> = words.collect();
        comm.reverse();
        if let Some(at) = self.begin(tid, &comm.join(" ")) {
            self.tasks[at].state = Some(letter);
            self.tasks[at].ppid = Some(ppid);
        }
        true
    }

    /// `PID: 1234     TASK: 9f0e8000          CPU: 2    COMMAND: "CPU 0/KVM"`
    fn crash_line(&mut self, text: &str) -> bool {
        let Some((_, comm)) = text.split_once("COMMAND: \"") else {
            return false;
        };
        let Some(tid) = text
            .starts_with("PID: ")
            .then(|| field(text, "PID:"))
            .flatten()
        else {
            return false;
        };
        self.begin(tid, comm.trim_end().trim_end_matches('"'));
        true
    }

    /// `CPU: 0 PID: 92 Comm: vmtest Not tainted 5.12.0-rc6 #1` (dump_stack_print_info()): the task that runs there.
    fn cpu_line(&mut self, text: &str) -> bool {
        if !text.starts_with("CPU: ") {
            return false;
        }
        let (Some(tid), Some((_, rest))) = (field(text, " PID: "), text.split_once(" Comm: "))
        else {
            return false;
        };
        let end = [" Tainted:", " Not tainted", " Kdump:"];
        let comm = end
            .iter()
            .filter_map(|end| rest.split_once(end))
            .map(|(comm, _)| comm)
            .min_by_key(|comm| comm.len())
            .unwrap_or(rest);
        if let Some(at) = self.begin(tid, comm) {
            self.tasks[at].state = Some('R');
        }
        true
    }

    fn find_release(&mut self, text: &str) {
        if self.release.is_none() {
            self.release = release_in(text).map(name);
        }
    }

    fn finish(mut self) -> Parsed {
        for at in 0..self.tasks.len() {
            self.compare(at);
            self.tasks[at].saved = self.before[at].1;
        }
        // A process's first thread has its id.
        let leaders: HashSet<u32> = self.tasks.iter().filter_map(|task| task.tgid).collect();
        for task in &mut self.tasks {
            if task.tgid.is_none() && leaders.contains(&task.tid) {
                task.tgid = Some(task.tid);
            }
        }
        let repeated: Vec<String> = self
            .tasks
            .iter()
            .zip(&self.reports)
            .filter(|(_, reports)| **reports > 1)
            .map(|(task, reports)| {
                let who = match task.comm.as_str() {
                    "" => format!("task {}", task.tid),
                    comm => format!("{comm} ({})", task.tid),
                };
                match task.saved {
                    Saved::Once => format!("{who} is there {reports} times; the last stack is used"),
                    Saved::Same => format!("{who} is there {reports} times with the same stack"),
                    Saved::Moved => format!(
                        "{who} is there {reports} times, and its stack has changed: it has run in between; the last is used"
                    ),
                }
            })
            .collect();
        for note in repeated {
            self.note(note);
        }
        if self.lockdep {
            self.note("the text has a report of lockdep, which says what can happen and not who is stuck; its chains are not read".to_owned());
        }
        for (count, what) in [
            (self.unowned_frames, "frames that belong to no task"),
            (self.lost_frames, "frames beyond the limit of a stack"),
            (self.lost_tasks, "tasks beyond the limit of a text"),
            (self.lost_notes, "more notes like these"),
        ] {
            if count > 0 {
                self.notes.push(format!("left out: {count} {what}"));
            }
        }
        Parsed {
            tasks: self.tasks,
            kernel_release: self.release,
            messages: self.messages.into(),
            notes: self.notes,
        }
    }
}
