//! Which of several locks a task waits for, and whose they are, by what the other tasks of the text are implied to hold.
//!
//! A stack with one `mutex_lock()` in it often does not tell which mutex. What others hold does: a lock that somebody
//! else holds cannot be held, and a lock that nobody holds is not waited for. Takes tasks with what they imply; gives
//! holdings and waits, and says in notes what was settled how.

use std::collections::{BTreeMap, BTreeSet};

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::CLASSES;
use probe_ebpf::names::class_id::{RESET_WORK, VCPU_MUTEX};
use probe_ebpf::names::entry_id::{HANDLE_PQAP, KVM_VCPU_IOCTL};

use super::instances::{Group, Key, is_global};
use crate::diagnose::stacks::table::{Activity, Candidate, Implied, Lock};
use crate::diagnose::stacks::text::{BlockerKind, Task};

/// Why one of several locks is taken to be awaited.
const ANOTHER_HOLDS_IT: &str = "another task holds it";

/// Holdings of one task, as the model takes them.
const MAX_HOLDS: usize = 16;
/// Owners that are not in the text.
const MAX_ABSENT: usize = 256;
/// Rounds of settling; each settles all that the one before made possible.
const ROUNDS: usize = 16;

/// A task with what its stack implies.
pub(super) struct Actor<'a> {
    pub task: &'a Task,
    pub implied: Implied,
    pub group: Group,
    /// What it holds.
    pub holds: Vec<Fact>,
    /// What it waits for.
    pub wait: Option<Fact>,
    /// What it may wait for as well, where nothing decided.
    pub or: Vec<&'static str>,
    /// The candidate that was chosen, by number.
    chosen: Option<usize>,
}

/// A task that the kernel names as the owner of a lock, and whose stack is not in the text.
pub(super) struct Absent<'a> {
    pub comm: &'a str,
    pub holds: Vec<Fact>,
}

/// A lock that is held or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fact {
    pub key: Key,
    pub mode: Mode,
    pub evidence: &'static str,
}

impl<'a> Actor<'a> {
    pub fn new(task: &'a Task, implied: Implied) -> Self {
        let group = match (task.tgid, task.ppid) {
            (Some(tgid), _) => Group::Process(tgid),
            (None, Some(ppid)) => Group::ChildrenOf(ppid),
            (None, None) => Group::Unknown,
        };
        Self {
            task,
            implied,
            group,
            holds: Vec::new(),
            wait: None,
            or: Vec::new(),
            chosen: None,
        }
    }

    fn candidates(&self) -> &[Candidate] {
        self.implied.waits.as_deref().unwrap_or_default()
    }

    fn who(&self) -> String {
        match self.task.comm.as_str() {
            "" => format!("task {}", self.task.tid),
            comm => format!("{comm} ({})", self.task.tid),
        }
    }

    /// Its possible holdings, if all is settled: unsettled ones may be anything.
    fn may_hold(&self) -> &[Lock] {
        match (self.chosen, self.candidates()) {
            (_, []) => &self.implied.may_hold,
            (Some(chosen), all) => &all[chosen].may_hold,
            (None, _) => &[],
        }
    }
}

/// All tasks, and who holds what.
pub(super) struct Settling<'a> {
    pub actors: Vec<Actor<'a>>,
    by_tid: BTreeMap<u32, usize>,
    /// The guests' processes.
    guests: BTreeSet<Group>,
    /// By group: the tasks that hold their vcpu->mutex.
    vcpus: BTreeMap<Group, Vec<usize>>,
    /// The tasks that execute a reset_work.
    works: Vec<usize>,
    holders: BTreeMap<Key, Vec<(usize, Mode)>>,
    /// Owners of locks that are not in the text, by thread id.
    pub absent: BTreeMap<u32, Absent<'a>>,
    pub notes: Vec<String>,
}

impl<'a> Settling<'a> {
    pub fn new(actors: Vec<Actor<'a>>) -> Self {
        let mut this = Self {
            by_tid: actors.iter().map(|a| a.task.tid).zip(0..).collect(),
            guests: BTreeSet::new(),
            vcpus: BTreeMap::new(),
            works: Vec::new(),
            holders: BTreeMap::new(),
            absent: BTreeMap::new(),
            notes: Vec::new(),
            actors,
        };
        for (at, actor) in this.actors.iter().enumerate() {
            let held = |class| actor.implied.holds.iter().any(|(held, _)| *held == class);
            if held(VCPU_MUTEX) {
                this.vcpus.entry(actor.group).or_default().push(at);
            }
            if held(RESET_WORK) {
                this.works.push(at);
            }
            if actor.implied.own_guest {
                this.guests.insert(actor.group);
            }
        }
        for at in 0..this.actors.len() {
            for lock in this.actors[at].implied.holds.clone() {
                this.hold(at, lock, "stack");
            }
        }
        this
    }

    /// Settles what can be.
    pub fn run(&mut self) {
        for at in 0..self.actors.len() {
            if let [_] = self.actors[at].candidates() {
                self.choose(at, 0, None);
            }
        }
        self.ask_the_kernel();
        for _ in 0..ROUNDS {
            let excluded = self.settle(false);
            if !excluded && !self.settle(true) {
                break;
            }
        }
        self.give_up();
        self.add_likely_holds();
        self.add_owners();
    }

    /// The instance that is held.
    fn held_key(&self, at: usize, class: u8) -> Key {
        match class {
            VCPU_MUTEX | RESET_WORK => Key::Task(class, self.actors[at].task.tid),
            _ => self.common_key(at, class),
        }
    }

    fn common_key(&self, at: usize, class: u8) -> Key {
        let mut guests = self.guests.iter();
        if is_global(class) {
            Key::Global(class)
        } else if self.actors[at].implied.own_guest {
            Key::Guest(class, self.actors[at].group)
        } else if let (Some(only), None) = (guests.next(), guests.next()) {
            // An administrator's write is about some guest: if the text has one only, about that.
            Key::Guest(class, *only)
        } else {
            Key::Unknown(class)
        }
    }

    /// The instance that is waited for.
    fn awaited_key(&self, at: usize, class: u8) -> Key {
        match class {
            VCPU_MUTEX => self.awaited_vcpu(at),
            // The driver flushes one work item after the other: if several are executed, it comes to each.
            RESET_WORK => self.works.first().map_or(Key::Unknown(class), |work| {
                Key::Task(class, self.actors[*work].task.tid)
            }),
            _ => self.common_key(at, class),
        }
    }

    /// A conversion to protected mode takes every vCPU's mutex, one after the other: it comes to the one that is blocked
    /// in the driver, if it has not yet. Another ioctl on a vCPU is on one that the text does not name.
    fn awaited_vcpu(&self, at: usize) -> Key {
        let actor = &self.actors[at];
        let all = self.vcpus.get(&actor.group).map_or(&[][..], Vec::as_slice);
        let mut others = all.iter().copied().filter(|other| *other != at);
        let one_of_many = actor.implied.inside.last() == Some(&KVM_VCPU_IOCTL);
        let blocked = others.clone().find(|other| {
            let other = &self.actors[*other].implied;
            !one_of_many
                && other.activity == Activity::Waiting
                && other.inside.contains(&HANDLE_PQAP)
        });
        let only = others.next().filter(|_| others.next().is_none());
        blocked.or(only).map_or(Key::Unknown(VCPU_MUTEX), |other| {
            Key::Task(VCPU_MUTEX, self.actors[other].task.tid)
        })
    }

    fn hold(&mut self, at: usize, (class, mode): Lock, evidence: &'static str) {
        let key = self.held_key(at, class);
        let known = self.actors[at].holds.iter_mut().find(|h| h.key == key);
        if let Some(known) = known {
            if known.evidence != evidence {
                known.evidence = "stack,kernel";
            }
            return;
        }
        self.actors[at].holds.push(Fact {
            key,
            mode,
            evidence,
        });
        self.holders.entry(key).or_default().push((at, mode));
    }

    /// Whether another task is known to hold it in a mode that excludes this one.
    fn is_taken(&self, at: usize, key: Key, mode: Mode) -> bool {
        let holders = self.holders.get(&key).map_or(&[][..], Vec::as_slice);
        key.is_known()
            && holders
                .iter()
                .any(|(holder, held)| *holder != at && !(mode == Mode::Read && *held == Mode::Read))
    }

    /// The candidates that what others hold leaves.
    fn possible(&self, at: usize) -> Vec<usize> {
        let actor = &self.actors[at];
        let free = |candidate: &Candidate| {
            let assumed = candidate
                .holds
                .iter()
                .filter(|lock| !actor.implied.holds.contains(lock));
            assumed
                .map(|(class, mode)| (self.held_key(at, *class), *mode))
                .all(|(key, mode)| !self.is_taken(at, key, mode))
        };
        let all = actor.candidates().iter().enumerate();
        all.filter(|(_, candidate)| free(candidate) && self.may_be_owned(at, candidate.lock))
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether the kernel's word on the owner allows this to be the awaited lock: nobody else may hold it alone.
    fn may_be_owned(&self, at: usize, (class, mode): Lock) -> bool {
        let Some(blocker) = &self.actors[at].task.blocker else {
            return true;
        };
        // Nothing of the table is a semaphore.
        if blocker.kind == BlockerKind::Semaphore {
            return true;
        }
        if !fits(blocker.kind, (class, mode)) {
            return false;
        }
        let key = self.awaited_key(at, class);
        let holders = self.holders.get(&key).map_or(&[][..], Vec::as_slice);
        !key.is_known()
            || holders.iter().all(|(holder, mode)| {
                *mode == Mode::Read || self.actors[*holder].task.tid == blocker.tid
            })
    }

    fn is_awaited_taken(&self, at: usize, candidate: usize) -> bool {
        let (class, mode) = self.actors[at].candidates()[candidate].lock;
        self.is_taken(at, self.awaited_key(at, class), mode)
    }

    /// One round; true if anything was settled. First what only one candidate is left for; then, with `held`, what others
    /// hold, those with the fewest candidates first.
    fn settle(&mut self, held: bool) -> bool {
        let mut open: Vec<(usize, usize)> = (0..self.actors.len())
            .filter(|at| {
                self.actors[*at].chosen.is_none() && !self.actors[*at].candidates().is_empty()
            })
            .map(|at| (self.possible(at).len(), at))
            .collect();
        open.sort_unstable();
        let mut settled = false;
        for (_, at) in open {
            // What was settled before in this round counts.
            let possible = self.possible(at);
            let choice = match possible[..] {
                [only] if !held => Some((only, "no other lock is possible")),
                _ if !held => None,
                _ => possible
                    .iter()
                    .find(|candidate| self.is_awaited_taken(at, **candidate))
                    .map(|candidate| (*candidate, ANOTHER_HOLDS_IT)),
            };
            if let Some((candidate, why)) = choice {
                self.choose(at, candidate, Some(why));
                settled = true;
            }
        }
        settled
    }

    fn choose(&mut self, at: usize, index: usize, why: Option<&str>) {
        let Candidate { lock, holds, .. } = self.actors[at].candidates()[index].clone();
        let count = self.actors[at].candidates().len();
        self.actors[at].chosen = Some(index);
        for held in holds {
            self.hold(at, held, "stack");
        }
        let key = self.awaited_key(at, lock.0);
        // Where the stack allows several, and another task decides which.
        let assumed = count > 1 && why == Some(ANOTHER_HOLDS_IT);
        self.actors[at].wait = Some(Fact {
            key,
            mode: lock.1,
            evidence: if assumed { "stack, assumed" } else { "stack" },
        });
        if let (Some(why), true) = (why, count > 1) {
            let who = self.actors[at].who();
            let lock = class_name(lock.0);
            self.notes.push(format!(
                "{who}: the stack allows {count} locks; {lock} is taken to be the one: {why}"
            ));
        }
    }

    /// What nothing settles: the first lock in the order of the source, with what is held in any case.
    fn give_up(&mut self) {
        for at in 0..self.actors.len() {
            let actor = &self.actors[at];
            let all = actor.candidates();
            if actor.chosen.is_some() || all.is_empty() {
                continue;
            }
            let mut possible = self.possible(at);
            if possible.is_empty() {
                possible = (0..all.len()).collect();
            }
            let locks: Vec<Lock> = possible.iter().map(|index| all[*index].lock).collect();
            let (class, mode) = locks[0];
            let mut names: Vec<&'static str> = Vec::new();
            for (class, _) in &locks {
                let name = class_name(*class);
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            // One class in several places: what else is held is not known, what is waited for is.
            if names.len() > 1 {
                let note = format!(
                    "{}: which of {} it waits for cannot be told; the first is followed",
                    actor.who(),
                    names.join(", ")
                );
                self.notes.push(note);
            }
            let evidence = if names.len() > 1 {
                "stack, assumed"
            } else {
                "stack"
            };
            let key = self.awaited_key(at, class);
            self.actors[at].or = names.split_off(1);
            self.actors[at].wait = Some(Fact {
                key,
                mode,
                evidence,
            });
        }
    }

    /// Candidates that the kernel's own word on the owner decides (v6.16 and later).
    fn ask_the_kernel(&mut self) {
        for at in 0..self.actors.len() {
            let Some(blocker) = &self.actors[at].task.blocker else {
                continue;
            };
            let Some(&owner) = self.by_tid.get(&blocker.tid) else {
                continue;
            };
            let holds = |candidate: &Candidate| {
                let key = self.awaited_key(at, candidate.lock.0);
                fits(blocker.kind, candidate.lock)
                    && self.actors[owner].holds.iter().any(|held| held.key == key)
            };
            if self.actors[at].chosen.is_none()
                && let Some(index) = self.actors[at].candidates().iter().position(holds)
            {
                self.choose(at, index, Some("the kernel names its owner"));
            }
        }
    }

    /// Locks that a task may hold, that are waited for, and that nobody else can hold.
    fn add_likely_holds(&mut self) {
        let mut may: BTreeMap<Key, Vec<(usize, Lock)>> = BTreeMap::new();
        for (at, actor) in self.actors.iter().enumerate() {
            for lock in actor.may_hold() {
                let key = self.held_key(at, lock.0);
                may.entry(key).or_default().push((at, *lock));
            }
        }
        let waited: BTreeSet<Key> = self
            .actors
            .iter()
            .filter_map(|actor| actor.wait.map(|wait| wait.key))
            .collect();
        for key in waited {
            let known = self.holders.get(&key).is_some_and(|all| !all.is_empty());
            let (true, false, Some(&[(at, lock)])) =
                (key.is_known(), known, may.get(&key).map(Vec::as_slice))
            else {
                continue;
            };
            self.hold(at, lock, "stack");
            self.notes.push(format!(
                "{}: may hold {}, which is waited for and which no other task of the text can hold: taken to hold it",
                self.actors[at].who(),
                class_name(lock.0)
            ));
        }
    }

    /// The kernel's word on who owns what is waited for.
    fn add_owners(&mut self) {
        for at in 0..self.actors.len() {
            let Some(blocker) = &self.actors[at].task.blocker else {
                continue;
            };
            let Some(wait) = self.actors[at].wait else {
                continue;
            };
            // "Likely": of a semaphore it is who took it last, of a reader-owned rw-semaphore the last of many readers.
            let mode = match blocker.kind {
                BlockerKind::Semaphore => continue,
                BlockerKind::Mutex => Mode::Exclusive,
                BlockerKind::RwsemReader => Mode::Write,
                BlockerKind::RwsemWriter => Mode::Read,
            };
            if !fits(blocker.kind, (wait.key.class(), wait.mode)) {
                self.notes.push(format!(
                    "{}: the kernel names another kind of lock than {}, which the stack implies",
                    self.actors[at].who(),
                    class_name(wait.key.class())
                ));
                continue;
            }
            let Some(&owner) = self.by_tid.get(&blocker.tid) else {
                self.add_absent(at, wait, mode);
                continue;
            };
            let held = |actor: &Actor<'_>| actor.holds.iter().position(|h| h.key == wait.key);
            match held(&self.actors[owner]) {
                Some(known) => {
                    let known = &mut self.actors[owner].holds[known];
                    if known.evidence.starts_with("stack") {
                        known.evidence = "stack,kernel";
                    }
                }
                None if !self.may_be_owned(at, (wait.key.class(), wait.mode)) => {
                    self.notes.push(format!(
                        "{}: the kernel says that {} ({}) owns what it waits for, the stacks say otherwise of {}",
                        self.actors[at].who(),
                        blocker.comm,
                        blocker.tid,
                        class_name(wait.key.class())
                    ));
                    continue;
                }
                None if self.actors[owner].holds.len() >= MAX_HOLDS => continue,
                None => {
                    self.actors[owner].holds.push(Fact {
                        key: wait.key,
                        mode,
                        evidence: "kernel",
                    });
                    self.holders
                        .entry(wait.key)
                        .or_default()
                        .push((owner, mode));
                }
            }
            if let Some(wait) = &mut self.actors[at].wait {
                wait.evidence = "stack,kernel";
            }
        }
    }
}

impl Settling<'_> {
    /// The owner of what a task waits for is not in the text: all that is known of it is the kernel's word.
    fn add_absent(&mut self, at: usize, wait: Fact, mode: Mode) {
        let Some(blocker) = &self.actors[at].task.blocker else {
            return;
        };
        // Every CPU's idle task has the id 0, and owns nothing.
        let full = self.absent.len() >= MAX_ABSENT && !self.absent.contains_key(&blocker.tid);
        if blocker.tid == 0 || full {
            return;
        }
        // Another task of the text holds it alone: the kernel's word is of another moment.
        if !self.may_be_owned(at, (wait.key.class(), wait.mode)) {
            return;
        }
        let absent = self.absent.entry(blocker.tid).or_insert(Absent {
            comm: &blocker.comm,
            holds: Vec::new(),
        });
        let known = absent.holds.iter().any(|held| held.key == wait.key);
        if !known && absent.holds.len() < MAX_HOLDS {
            absent.holds.push(Fact {
                key: wait.key,
                mode,
                evidence: "kernel",
            });
        }
        if let Some(wait) = &mut self.actors[at].wait {
            wait.evidence = "stack,kernel";
        }
    }
}

/// Whether a lock is of the kind that the kernel names, and asked for in that way.
fn fits(kind: BlockerKind, (class, mode): Lock) -> bool {
    let class = CLASSES.get(usize::from(class)).map(|class| class.kind);
    match kind {
        BlockerKind::Mutex => class == Some(LockKind::Mutex),
        BlockerKind::RwsemReader => class == Some(LockKind::Rwsem) && mode == Mode::Read,
        BlockerKind::RwsemWriter => class == Some(LockKind::Rwsem) && mode == Mode::Write,
        BlockerKind::Semaphore => false,
    }
}

pub(super) fn class_name(class: u8) -> &'static str {
    CLASSES
        .get(usize::from(class))
        .map_or("?", |class| class.name)
}
