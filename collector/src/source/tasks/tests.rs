//! Of a folder that stands for `/proc`, and of this process.

use super::*;

use std::sync::mpsc;

const TICK_NS: u64 = 100_000_000;

fn hold(class: u8, serial: u64) -> frame::Holding {
    frame::Holding {
        series: u32::from(class) << 1,
        lock: 0x1000 + u64::from(class),
        serial,
        since_ns: serial,
        ..frame::Holding::default()
    }
}

fn task(tid: u32, holds: Vec<frame::Holding>) -> frame::TaskState {
    frame::TaskState {
        tid,
        pid: 7,
        holds,
        ..frame::TaskState::default()
    }
}

fn live(tasks: &[frame::TaskState]) -> frame::Live {
    frame::Live {
        tasks: tasks.to_vec(),
        ..frame::Live::default()
    }
}

/// A `/proc` with these threads of process 7.
struct Proc(tempfile::TempDir);

impl Proc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn tasks(&self, of: Of) -> Tasks {
        Tasks::below(self.0.path().to_owned(), of, true)
    }

    fn folder(&self, tid: u32) -> PathBuf {
        self.0.path().join(format!("7/task/{tid}"))
    }

    fn thread(&self, tid: u32, state: &str, wchan: &str) {
        let folder = self.folder(tid);
        std::fs::create_dir_all(&folder).unwrap();
        let status = format!(
            "Name:\tState: x\nState:\t{state}\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n"
        );
        std::fs::write(folder.join("status"), status).unwrap();
        std::fs::write(folder.join("wchan"), wchan).unwrap();
    }

    fn gone(&self, tid: u32) {
        std::fs::remove_dir_all(self.folder(tid)).unwrap();
    }
}

/// The state of one task in the second of two ticks in which it is the same.
fn second(of: Of, state: &str, wchan: &str, inside: u8) -> frame::TaskState {
    let proc = Proc::new();
    proc.thread(9, state, wchan);
    let mut tasks = proc.tasks(of);
    let mut task = task(9, vec![hold(0, 1)]);
    if inside != 0 {
        task.inside.push(frame::Inside {
            entry: inside.into(),
            ..frame::Inside::default()
        });
    }
    tasks.fill(&mut live(std::slice::from_ref(&task)), TICK_NS);
    let mut now = live(&[task]);
    tasks.fill(&mut now, 2 * TICK_NS);
    now.tasks.remove(0)
}

/// What was read of it when it was there may be over by the time that it is asked for.
#[test]
fn who_ends_behind_the_reading_has_not_ended_with_what_it_held() {
    let proc = Proc::new();
    proc.thread(9, "R (running)", "0");
    let mut tasks = proc.tasks(Of::Kernel);
    let holder = task(9, vec![hold(0, 1)]);
    for tick in 1..5 {
        if tick == 3 {
            proc.gone(9);
        }
        let mut now = live(std::slice::from_ref(&holder));
        tasks.fill(&mut now, tick * TICK_NS);
        assert_eq!(now.tasks[0].exited, tick > 3, "{tick}");
    }
}

#[test]
fn what_has_only_begun_is_not_asked_for() {
    let proc = Proc::new();
    proc.thread(9, "S (sleeping)", "msleep");
    let mut tasks = proc.tasks(Of::Kernel);
    for tick in 1..4 {
        let mut now = live(&[task(9, vec![hold(0, tick)])]);
        tasks.fill(&mut now, tick * TICK_NS);
        assert_eq!(now.tasks[0].state, "");
        assert_eq!(now.tasks[0].switches, 0);
    }
    let mut now = live(&[task(9, vec![hold(0, 3), hold(1, 4)])]);
    tasks.fill(&mut now, 4 * TICK_NS);
    assert_eq!(now.tasks[0].state, "S");
    assert_eq!(now.tasks[0].switches, 42);
    assert_eq!(now.tasks[0].asleep_in, "msleep");
}

#[test]
fn a_sleep_has_its_place_where_that_is_known() {
    let asleep = |wchan: &str| second(Of::Kernel, "D (disk sleep)", wchan, 0).asleep_in;
    assert_eq!(
        asleep("poll_schedule_timeout.constprop.0"),
        "poll_schedule_timeout"
    );
    assert_eq!(asleep("0"), "");
    assert_eq!(asleep(""), "");
    assert_eq!(asleep("\u{1b}[31m"), "");
    assert_eq!(second(Of::Kernel, "R (running)", "msleep", 0).asleep_in, "");
}

/// Who waits for a traced lock is known to, and nothing more is asked.
#[test]
fn a_traced_wait_needs_no_place() {
    let proc = Proc::new();
    proc.thread(9, "D (disk sleep)", "msleep");
    let mut tasks = proc.tasks(Of::Kernel);
    let mut waits = task(9, Vec::new());
    waits.waits.push(frame::Waiting::default());
    let mut now = live(std::slice::from_ref(&waits));
    tasks.fill(&mut now, TICK_NS);
    let mut now = live(&[waits]);
    tasks.fill(&mut now, 2 * TICK_NS);
    assert_eq!(
        (now.tasks[0].state.as_str(), now.tasks[0].asleep_in.as_str()),
        ("D", "")
    );
}

#[test]
fn system_calls_of_the_emulated_driver_stand_for_functions() {
    let of = |wchan, inside| {
        let task = second(Of::Emulator, "S (sleeping)", wchan, inside);
        (task.state, task.asleep_in)
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(of("hrtimer_nanosleep", 0), pair("S", "msleep"));
    assert_eq!(of("do_nanosleep", entry_id::IOCTL), pair("S", "msleep"));
    // A guest that computes.
    assert_eq!(of("futex_do_wait", entry_id::KVM_VCPU_IOCTL), pair("R", ""));
    assert_eq!(
        of("futex_wait_queue_me", entry_id::REMOVE),
        pair("S", "vfio_unregister_group_dev")
    );
    assert_eq!(of("futex_do_wait", entry_id::ASSIGN_ADAPTER), pair("S", ""));
    assert_eq!(of("pipe_read", 0), pair("S", "pipe_read"));
}

#[test]
fn a_thread_that_ends_with_a_lock_stays() {
    let proc = Proc::new();
    proc.thread(9, "S (sleeping)", "msleep");
    let mut tasks = proc.tasks(Of::Kernel);
    let holder = task(9, vec![hold(0, 1)]);
    for tick in 1..3 {
        tasks.fill(&mut live(std::slice::from_ref(&holder)), tick * TICK_NS);
    }
    proc.gone(9);
    for tick in 3..40 {
        let mut now = live(std::slice::from_ref(&holder));
        // Frames also come between ticks.
        tasks.fill(&mut now, tick * TICK_NS / 4 * 3);
        if tick > 5 {
            assert!(now.tasks[0].exited, "{tick}");
            assert_eq!(now.tasks[0].state, "");
        }
    }
    assert!(tasks.has_ended(9));
    let now = live(std::slice::from_ref(&holder));
    assert!(tasks.forgotten(&now, KEPT_NS / 2).is_empty());
    assert_eq!(tasks.forgotten(&now, KEPT_NS * 2), [9]);
    let mut waiter = task(10, Vec::new());
    waiter.waits.push(frame::Waiting {
        lock: holder.holds[0].lock,
        ..frame::Waiting::default()
    });
    let now = live(&[holder.clone(), waiter]);
    assert!(tasks.forgotten(&now, KEPT_NS * 2).is_empty());
    // Another thread has the id, and takes locks of its own.
    proc.thread(9, "R (running)", "0");
    let mut other = live(&[task(9, vec![hold(0, 2)])]);
    tasks.fill(&mut other, 50 * TICK_NS);
    assert!(!other.tasks[0].exited);
}

#[test]
fn a_call_of_a_thread_that_is_gone_is_over() {
    let proc = Proc::new();
    let mut tasks = proc.tasks(Of::Kernel);
    let mut inside = task(9, Vec::new());
    inside.inside.push(frame::Inside::default());
    for tick in 1..4 {
        let mut now = live(std::slice::from_ref(&inside));
        tasks.fill(&mut now, tick * TICK_NS);
        assert_eq!(now.tasks.is_empty(), tick > 1, "{tick}");
    }
}

/// The first thread of a process ends before the others, and stays a zombie.
#[test]
fn a_zombie_is_gone() {
    let zombie = Proc::new();
    zombie.thread(9, "Z (zombie)", "0");
    let mut tasks = zombie.tasks(Of::Kernel);
    for tick in 1..4 {
        let mut now = live(&[task(9, vec![hold(0, 1)])]);
        tasks.fill(&mut now, tick * TICK_NS);
        assert_eq!(now.tasks[0].exited, tick == 3, "{tick}");
    }
    assert!(!second(Of::Kernel, "1: garbage", "0", 0).exited);
    let unreadable = Proc::new();
    std::fs::create_dir_all(unreadable.folder(9).join("status")).unwrap();
    let mut tasks = unreadable.tasks(Of::Kernel);
    for tick in 1..4 {
        let mut now = live(&[task(9, vec![hold(0, 1)])]);
        tasks.fill(&mut now, tick * TICK_NS);
        assert!(!now.tasks[0].exited);
    }
}

#[test]
fn many_take_turns_and_who_waits_comes_sooner() {
    const THREADS: u32 = 500;
    const TICKS: u64 = 40;
    let usual = CLASSES.iter().position(|class| class.long_hold_is_normal);
    let usual = usual.unwrap() as u8;
    let proc = Proc::new();
    let mut all: Vec<frame::TaskState> = (1..=THREADS)
        .map(|tid| {
            proc.thread(tid, "S (sleeping)", "msleep");
            task(tid, vec![hold(usual, u64::from(tid))])
        })
        .collect();
    all[400].waits.push(frame::Waiting::default());
    let mut tasks = proc.tasks(Of::Kernel);
    let mut times = vec![0_u32; all.len()];
    for tick in 1..=TICKS {
        let mut now = live(&all);
        tasks.fill(&mut now, tick * TICK_NS);
        let asked: Vec<usize> = (0..all.len())
            .filter(|&n| !now.tasks[n].state.is_empty())
            .collect();
        assert_eq!(asked.len(), if tick == 1 { 0 } else { A_TICK });
        if tick == 2 {
            // The longest first, and the one that waits.
            assert!(asked.contains(&0) && asked.contains(&400) && !asked.contains(&499));
        }
        for n in asked {
            times[n] += 1;
        }
    }
    let turns = (TICKS - 1) as u32 * A_TICK as u32 / THREADS;
    assert!(times[400] >= turns * 3, "{}", times[400]);
    for (n, &times) in times.iter().enumerate() {
        assert!(times + 1 >= turns, "{n}: {times}");
    }
}

#[test]
fn in_another_pid_namespace_nobody_is_asked_for() {
    let proc = Proc::new();
    let mut tasks = Tasks::below(proc.0.path().to_owned(), Of::Kernel, false);
    for tick in 1..4 {
        let mut now = live(&[task(9, vec![hold(0, 1)])]);
        tasks.fill(&mut now, tick * TICK_NS);
        assert!(!now.tasks[0].exited);
    }
}

/// The real files: a thread that sleeps, then one that is gone.
#[test]
fn this_process_is_seen_to_sleep_and_to_end() {
    let (tell, told) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: no precondition.
        tell.send(unsafe { libc::gettid() } as u32).unwrap();
        ends.recv().unwrap_err();
    });
    let state = frame::TaskState {
        pid: std::process::id(),
        ..task(told.recv().unwrap(), vec![hold(0, 1)])
    };
    let mut tasks = Tasks::new(Of::Emulator, false);
    let mut now = 0;
    let mut until = |done: &dyn Fn(&frame::TaskState) -> bool| {
        for _ in 0..200 {
            let mut live = live(std::slice::from_ref(&state));
            now += TICK_NS;
            tasks.fill(&mut live, now);
            if done(&live.tasks[0]) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("not seen");
    };
    until(&|task| task.state == "S" && task.switches > 0);
    drop(end);
    thread.join().unwrap();
    until(&|task| task.exited);
}
