//! What the scenarios must do: end or hang as they say, use everything between them, go on around a deadlock, and decide
//! by their seeds alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::emulator::protocol::Truth;
use crate::emulator::run::Run;
use crate::emulator::{Outcome, generations, outcome, scenarios};
use crate::options::EmulatorOptions;

/// Longest wait for what is a matter of time only.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(generation: &str, scenario: &str, seed: u64) -> EmulatorOptions {
    EmulatorOptions {
        generation: generation.into(),
        scenario: scenario.into(),
        seed,
        guests: 3,
        ..EmulatorOptions::default()
    }
}

fn combinations() -> Vec<(&'static str, &'static str, Outcome)> {
    let mut all = Vec::new();
    for generation in generations() {
        for scenario in scenarios() {
            all.push((generation, scenario, outcome(generation, scenario).unwrap()));
        }
    }
    all
}

/// At rest every acquisition was released, every call has returned.
fn assert_consistent(truth: &Truth) {
    let run = format!("{} {}", truth.generation, truth.scenario);
    assert_eq!(truth.ended, "finished", "{run}: {:?}", truth.blocked);
    for lock in &truth.locks {
        assert_eq!(lock.acquisitions, lock.releases, "{run}: {}", lock.class);
    }
    for entry in &truth.entry_points {
        let returned: u64 = entry.returns.values().sum();
        assert_eq!(entry.calls, returned, "{run}: {}", entry.name);
    }
}

fn run_for(options: &EmulatorOptions, length: Duration) -> Truth {
    let run = Run::build(options).unwrap();
    run.go().unwrap();
    std::thread::sleep(length);
    run.stop()
}

/// Notes what was used and what was not.
fn note_use(truth: &Truth, used: &mut BTreeSet<String>, unused: &mut BTreeSet<String>) {
    let locks = truth.locks.iter();
    let locks = locks.map(|l| (format!("{} {}", l.class, l.mode), l.acquisitions));
    let entries = truth.entry_points.iter().map(|e| (e.name.clone(), e.calls));
    for (name, count) in locks.chain(entries) {
        let list = if count > 0 { &mut *used } else { &mut *unused };
        list.insert(name);
    }
}

/// Each scenario that ends does so, and together they call every entry point and acquire every lock, on each generation.
#[test]
fn what_ends_uses_everything() {
    for generation in generations() {
        let (mut used, mut unused) = (BTreeSet::new(), BTreeSet::new());
        let mut run = |scenario, seed, ms| {
            let options = options(generation, scenario, seed);
            let truth = run_for(&options, Duration::from_millis(ms));
            assert_consistent(&truth);
            note_use(&truth, &mut used, &mut unused);
            unused.difference(&used).cloned().collect::<Vec<_>>()
        };
        let mut never = Vec::new();
        for scenario in scenarios() {
            if outcome(generation, scenario) == Some(Outcome::Ends) {
                never = run(scenario, 3, 300);
            }
        }
        // What is rare may not have come in so short a time; it is hot plug that has it.
        for seed in 4..10 {
            if never.is_empty() {
                break;
            }
            never = run("hotplug", seed, 1000);
        }
        assert!(never.is_empty(), "{generation}: {never:?}");
    }
}

#[test]
fn what_a_generation_does_not_have_is_refused() {
    for (generation, scenario, outcome) in combinations() {
        let built = Run::build(&options(generation, scenario, 1));
        if outcome != Outcome::Refused {
            assert!(built.is_ok(), "{generation} {scenario}");
            continue;
        }
        let message = built.unwrap_err().to_string();
        assert!(message.contains("kvm_busy"), "{message}");
        assert_eq!(message.lines().count(), 3, "{message}");
    }
}

/// Waits until the run can never go on as a whole.
fn wait_for_deadlock(run: &Run) {
    let deadline = Instant::now() + PATIENCE;
    let mut before = BTreeSet::new();
    loop {
        let now = run.deadlocked();
        if !now.is_empty() && now == before {
            return;
        }
        assert!(Instant::now() < deadline, "no deadlock");
        before = now;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn acquisitions(truth: &Truth, class: &str, instance: &str) -> u64 {
    let mut locks = truth.locks.iter().filter(|l| l.class == class);
    let mut instances = locks.next().unwrap().by_instance.iter();
    instances
        .find(|i| i.name.contains(instance))
        .unwrap()
        .acquisitions
}

/// The fingerprint of the open-coded lock: its deadlock leaves the driver's mutex free, and other mdevs go on.
#[test]
fn others_go_on_around_the_deadlock_of_kvm_busy() {
    for seed in 1..=2 {
        let run = Run::build(&options("v5.13", "se-start", seed)).unwrap();
        run.go().unwrap();
        wait_for_deadlock(&run);
        let before = run.truth_now();
        for class in ["vcpu->mutex", "kvm_busy"] {
            let deadline = Instant::now() + PATIENCE;
            let count = |truth: &Truth| acquisitions(truth, class, "guest-1");
            while count(&run.truth_now()) < count(&before) + 3 {
                assert!(Instant::now() < deadline, "guest 1 stands still: {class}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let truth = run.stop();
        assert_eq!(truth.ended, "stuck");
        for wait in &truth.blocked {
            assert!(!wait.lock.contains("matrix_dev->lock"), "{wait:?}");
            assert!(wait.thread.ends_with("/guest-0"), "{wait:?}");
        }
    }
}

/// Without a release against it, a conversion is harmless; without overlap, the release is too.
#[test]
fn the_serial_order_is_the_same_and_never_hangs() {
    for generation in generations() {
        let truth = run_for(
            &options(generation, "se-serial", 5),
            Duration::from_millis(400),
        );
        assert_consistent(&truth);
        for class in ["kvm->lock", "vcpu->mutex"] {
            assert!(
                acquisitions(&truth, class, "guest-0") > 0,
                "{generation} {class}"
            );
        }
    }
}

#[test]
fn a_lost_wakeup_leaves_a_sleeper_that_nobody_keeps_waiting() {
    for generation in ["v5.13", "v5.15-rc"] {
        let run = Run::build(&options(generation, "lost-wakeup", 2)).unwrap();
        run.go().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !run.wakeup_is_lost() {
            assert!(Instant::now() < deadline, "{generation}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let truth = run.stop();
        assert_eq!(truth.ended, "stuck", "{generation}");
        let sleepers: Vec<_> = truth
            .blocked
            .iter()
            .filter(|wait| wait.lock == "kvm_busy[guest-0]")
            .collect();
        assert!(!sleepers.is_empty(), "{generation}: {:?}", truth.blocked);
        for sleeper in sleepers {
            assert!(sleeper.holders.is_empty(), "{generation}: {sleeper:?}");
        }
    }
}

#[test]
fn the_flag_has_two_holders_at_once() {
    for generation in ["v5.13", "v5.15-rc"] {
        for seed in 1..=10 {
            let truth = run_for(
                &options(generation, "set-unset", seed),
                Duration::from_millis(400),
            );
            assert_consistent(&truth);
            assert!(truth.flag_holders_max >= 2, "{generation} seed {seed}");
        }
    }
}

/// What each actor decides depends on the seed alone: not on the generation, and so not on what happens.
#[test]
fn the_same_seed_gives_the_same_decisions_on_every_generation() {
    let decisions = |generation: &str, scenario: &str, seed| -> BTreeMap<String, Vec<String>> {
        let run = Run::build_recording(&options(generation, scenario, seed)).unwrap();
        run.go().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        let decisions = run.decisions();
        run.stop();
        decisions
    };
    for scenario in scenarios() {
        // One generation in two, so that both the old and the new are among them.
        let all: Vec<_> = generations()
            .into_iter()
            .filter(|g| outcome(g, scenario) == Some(Outcome::Ends))
            .step_by(2)
            .collect();
        let Some((first, rest)) = all.split_first() else {
            continue;
        };
        let expected = decisions(first, scenario, 7);
        let mut compared = 0;
        for generation in rest {
            let other = decisions(generation, scenario, 7);
            assert_eq!(
                expected.keys().collect::<Vec<_>>(),
                other.keys().collect::<Vec<_>>()
            );
            for (actor, a) in &expected {
                let b = &other[actor];
                let n = a.len().min(b.len());
                assert_eq!(a[..n], b[..n], "{generation} {scenario} {actor}");
                compared += n;
            }
        }
        let decides = !["none", "lock-cycle", "known-holds"].contains(&scenario);
        assert!(compared > 0 || !decides || rest.is_empty(), "{scenario}");
    }
}
