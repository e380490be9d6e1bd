//! Who waits for whom, by definition.

use std::collections::BTreeSet;

use probe_ebpf::abi::{LockKind, Mode};
use probe_ebpf::names::CLASSES;
use proptest::prelude::*;

use super::config;
use super::simulator::{Act, LOCKS, Simulator, Step, TASKS};
use crate::diagnose::graph::waits::{By, Waits, innermost};
use crate::frame;
use crate::model::query;

/// (waiter, task that keeps it waiting), and how.
type Pairs = BTreeSet<(usize, usize, By)>;

/// Each task and each of the others (or itself): does the other keep it waiting, by the rules in words?
fn pairs(tasks: &[frame::TaskState], all_writers: bool) -> Pairs {
    let mut pairs = Pairs::new();
    for (waiter, task) in tasks.iter().enumerate() {
        let Some(wait) = task.waits.last() else {
            continue;
        };
        let kind = query::kind(wait.series as u8);
        let same = |series: u32, lock: u64| series >> 1 == wait.series >> 1 && lock == wait.lock;
        let reads = |series: u32| query::mode(series as u8) == Mode::Read;
        for (other, holder) in tasks.iter().enumerate() {
            // Two readers do not exclude each other; everybody else does.
            let excludes = holder.holds.iter().any(|hold| {
                same(hold.series, hold.lock) && !(reads(hold.series) && reads(wait.series))
            });
            if excludes {
                let by = if kind == LockKind::Work {
                    By::Executing
                } else {
                    By::Holding
                };
                pairs.insert((waiter, other, by));
            }
            // A reader passes no writer that has queued before it.
            let writer_before = kind == LockKind::Rwsem
                && reads(wait.series)
                && holder.waits.last().is_some_and(|queued| {
                    same(queued.series, queued.lock)
                        && !reads(queued.series)
                        && (queued.since_ns, other) < (wait.since_ns, waiter)
                });
            if writer_before {
                pairs.insert((waiter, other, By::QueuedBefore));
            }
        }
        // Who has set a flag itself can be freed by the others who have.
        let others = pairs
            .iter()
            .any(|&(w, other, _)| w == waiter && other != waiter);
        if kind == LockKind::Flag && others {
            pairs.remove(&(waiter, waiter, By::Holding));
        }
        // Of several queued writers the one that waits longest stands for all.
        let queued: Vec<usize> = pairs
            .iter()
            .filter(|&&(w, _, by)| w == waiter && by == By::QueuedBefore)
            .map(|&(_, other, _)| other)
            .collect();
        let first = queued
            .iter()
            .copied()
            .min_by_key(|&other| (tasks[other].waits.last().map(|w| w.since_ns), other));
        for other in queued {
            if !all_writers && Some(other) != first {
                pairs.remove(&(waiter, other, By::QueuedBefore));
            }
        }
    }
    pairs
}

/// The largest set of tasks of which each can be freed by nobody outside of the set: all subsets are tried.
fn stuck(tasks: &[frame::TaskState], pairs: &Pairs) -> Vec<bool> {
    let blockers: Vec<BTreeSet<usize>> = (0..tasks.len())
        .map(|waiter| {
            pairs
                .iter()
                .filter(|&&(w, _, _)| w == waiter)
                .map(|&(_, other, _)| other)
                .collect()
        })
        .collect();
    let mut union = 0_u32;
    for set in 0..1_u32 << tasks.len() {
        let within = |task: usize| set & 1 << task != 0;
        let consistent = (0..tasks.len()).filter(|&task| within(task)).all(|task| {
            let Some(wait) = tasks[task].waits.last() else {
                return false;
            };
            let mut of = blockers[task].iter();
            let never = |&&other: &&usize| within(other) || tasks[other].exited;
            match query::kind(wait.series as u8) {
                // One who clears the flag is enough.
                LockKind::Flag => !blockers[task].is_empty() && of.all(|o| never(&o)),
                _ => of.any(|o| never(&o)),
            }
        });
        if consistent {
            union |= set;
        }
    }
    (0..tasks.len())
        .map(|task| union & 1 << task != 0)
        .collect()
}

/// All simple cycles among stuck tasks, each from its smallest task on: all paths are walked.
fn cycles(pairs: &Pairs, stuck: &[bool]) -> BTreeSet<Vec<usize>> {
    fn walk(
        edges: &BTreeSet<(usize, usize)>,
        path: &mut Vec<usize>,
        all: &mut BTreeSet<Vec<usize>>,
    ) {
        let (first, last) = (path[0], path[path.len() - 1]);
        for &(_, next) in edges.iter().filter(|&&(from, _)| from == last) {
            if next == first {
                all.insert(path.clone());
            } else if next > first && !path.contains(&next) {
                path.push(next);
                walk(edges, path, all);
                path.pop();
            }
        }
    }
    let edges: BTreeSet<(usize, usize)> = pairs
        .iter()
        .filter(|&&(from, to, _)| stuck[from] && stuck[to])
        .map(|&(from, to, _)| (from, to))
        .collect();
    let mut all = BTreeSet::new();
    for start in 0..stuck.len() {
        walk(&edges, &mut vec![start], &mut all);
    }
    all
}

/// Everything that must hold in any state.
fn check(tasks: &[frame::TaskState]) -> Result<(), TestCaseError> {
    let waits = Waits::of(tasks);
    let pairs_of = pairs(tasks, false);
    let fast: Pairs = waits
        .blocked
        .iter()
        .enumerate()
        .flat_map(|(waiter, blocked)| {
            let of = blocked.iter().flat_map(|blocked| &blocked.by);
            of.map(move |blocker| (waiter, blocker.task, blocker.by))
        })
        .collect();
    prop_assert_eq!(&fast, &pairs_of, "who keeps whom waiting");
    // The records named are the ones that the edges are made of.
    for (waiter, blocked) in waits.blocked.iter().enumerate() {
        for blocker in blocked.iter().flat_map(|blocked| &blocked.by) {
            let wait = innermost(&tasks[waiter]).map(|wait| (wait.lock, wait.series >> 1));
            let other = &tasks[blocker.task];
            let record = match blocker.by {
                By::QueuedBefore => other
                    .waits
                    .get(blocker.record)
                    .map(|w| (w.lock, w.series >> 1)),
                _ => other
                    .holds
                    .get(blocker.record)
                    .map(|h| (h.lock, h.series >> 1)),
            };
            prop_assert_eq!(record, wait);
        }
    }
    let stuck_of = stuck(tasks, &pairs_of);
    prop_assert_eq!(&waits.stuck, &stuck_of, "the greatest fixed point");
    prop_assert_eq!(
        &stuck_of,
        &stuck(tasks, &pairs(tasks, true)),
        "one queued writer stands for all"
    );
    let all = cycles(&pairs_of, &stuck_of);
    let knots = waits.knots();
    let on_cycles: BTreeSet<usize> = all.iter().flatten().copied().collect();
    let members: Vec<usize> = knots.iter().flat_map(|knot| knot.members.clone()).collect();
    prop_assert_eq!(
        members.iter().copied().collect::<BTreeSet<_>>(),
        on_cycles,
        "a task is in a knot if and only if it is on a cycle"
    );
    prop_assert_eq!(members.len(), members.iter().collect::<BTreeSet<_>>().len());
    for knot in &knots {
        let inside = |cycle: &&Vec<usize>| cycle.iter().all(|task| knot.members.contains(task));
        let shortest = all.iter().filter(inside).map(Vec::len).min();
        let mut cycle = knot.cycle.clone();
        let smallest = cycle
            .iter()
            .enumerate()
            .min_by_key(|(_, t)| **t)
            .map_or(0, |(p, _)| p);
        cycle.rotate_left(smallest);
        prop_assert!(all.contains(&cycle), "{:?} is no cycle of {:?}", cycle, all);
        prop_assert_eq!(Some(cycle.len()), shortest, "no shorter cycle in its knot");
        // From the smallest thread id on.
        let tids = knot.cycle.iter().map(|&task| tasks[task].tid);
        prop_assert_eq!(tids.clone().min(), tids.clone().next());
        // A knot is connected: no cycle goes from one to another.
        for cycle in &all {
            let in_it = cycle
                .iter()
                .filter(|task| knot.members.contains(task))
                .count();
            prop_assert!(in_it == 0 || in_it == cycle.len());
        }
    }
    Ok(())
}

/// Steps of a history; ends are rare.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let act = prop_oneof![
        8 => Just(Act::Take),
        6 => Just(Act::Share),
        6 => Just(Act::Release),
        1 => Just(Act::Exit),
    ];
    let step =
        (0..TASKS, 0..LOCKS.len(), act).prop_map(|(task, lock, act)| Step { task, lock, act });
    proptest::collection::vec(step, 0..80)
}

/// States that no history makes: several writers, a wait for what one holds, records without an address.
fn wild() -> impl Strategy<Value = Vec<frame::TaskState>> {
    let series = (0..CLASSES.len() as u32, any::<bool>()).prop_map(|(class, read)| {
        let rwsem = CLASSES[class as usize].kind == LockKind::Rwsem;
        class << 1 | u32::from(rwsem && read)
    });
    // Few classes, so that records meet.
    let series = series.prop_map(|series| 8 + series % 12);
    let hold =
        (series.clone(), 1..3_u64, 0..4_u64).prop_map(|(series, lock, since_ns)| frame::Holding {
            series,
            lock,
            since_ns,
            ..frame::Holding::default()
        });
    let wait = (series, 1..3_u64, 0..4_u64).prop_map(|(series, lock, since_ns)| frame::Waiting {
        series,
        lock,
        since_ns,
        ..frame::Waiting::default()
    });
    let task = (
        proptest::collection::vec(hold, 0..3),
        proptest::collection::vec(wait, 0..3),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(holds, waits, exited)| frame::TaskState {
            holds,
            // Who has ended waits no more.
            waits: if exited { Vec::new() } else { waits },
            exited,
            ..frame::TaskState::default()
        });
    proptest::collection::vec(task, 0..7).prop_map(|mut tasks| {
        for (number, task) in tasks.iter_mut().enumerate() {
            // Not in the order of places.
            task.tid = 100 + (number as u32 * 5) % 7;
        }
        tasks
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn of_histories(steps in steps()) {
        let simulator = Simulator::of(&steps);
        let tasks = simulator.states();
        check(&tasks)?;
        let waits = Waits::of(&tasks);
        for (place, task) in tasks.iter().enumerate() {
            prop_assert!(
                task.waits.is_empty() || !waits.blockers(place).is_empty(),
                "{} waits for nobody", task.comm
            );
        }
        // Nobody who is not stuck stays behind when everybody else gives back what they can.
        prop_assert_eq!(&waits.stuck, &simulator.stuck());
    }

    #[test]
    fn of_states_that_no_history_makes(tasks in wild()) {
        check(&tasks)?;
    }
}

/// Histories reach what they are for: otherwise the properties say little.
#[test]
fn histories_deadlock_in_every_way() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut knots, mut queued, mut flags, mut behind_ended, mut long) = (0, 0, 0, 0, 0);
    for _ in 0..2_000 {
        let steps = steps()
            .new_tree(&mut runner)
            .expect("steps can always be made");
        let tasks = Simulator::of(&steps.current()).states();
        let waits = Waits::of(&tasks);
        let on_cycles: Vec<usize> = waits
            .knots()
            .into_iter()
            .flat_map(|knot| knot.cycle)
            .collect();
        knots += usize::from(!on_cycles.is_empty());
        long += usize::from(waits.knots().iter().any(|knot| knot.cycle.len() > 2));
        let by_queue = |&task: &usize| {
            let mut blockers = waits.blockers(task).iter();
            blockers.all(|blocker| blocker.by == By::QueuedBefore)
        };
        queued += usize::from(on_cycles.iter().any(by_queue));
        let flag = |&task: &usize| {
            innermost(&tasks[task]).is_some_and(|wait| query::open_coded(wait.series as u8))
        };
        flags += usize::from(on_cycles.iter().any(flag));
        let stuck = (0..tasks.len()).any(|task| waits.stuck[task]);
        behind_ended += usize::from(stuck && on_cycles.is_empty());
    }
    let reached = [knots, queued, flags, behind_ended, long];
    assert!(reached.iter().all(|&n| n >= 20), "{reached:?} of 2000");
}

/// The definition finds what it must: two tasks and two mutexes, crosswise.
#[test]
fn the_reference_finds_a_deadlock() {
    let step = |task, lock, act| Step { task, lock, act };
    let simulator = Simulator::of(&[
        step(0, 0, Act::Take),
        step(1, 1, Act::Take),
        step(0, 1, Act::Take),
        step(1, 0, Act::Take),
        step(2, 0, Act::Take),
    ]);
    let tasks = simulator.states();
    let pairs = pairs(&tasks, false);
    let stuck = stuck(&tasks, &pairs);
    assert_eq!(stuck, [true, true, true, false, false, false]);
    assert_eq!(cycles(&pairs, &stuck), BTreeSet::from([vec![0, 1]]));
}
