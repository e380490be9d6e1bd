use super::*;

fn one(text: &str) -> Task {
    let parsed = parse(text);
    assert_eq!(parsed.tasks.len(), 1, "{parsed:?}");
    parsed.tasks[0].clone()
}

#[test]
fn a_hung_task_of_each_release() {
    for (header, tgid) in [
        (
            "task:CPU 0/KVM       state:D stack:    0 pid: 1234 ppid:     1 flags:0x00000000",
            None,
        ),
        (
            "task:CPU 0/KVM       state:D stack:0     pid:1234  ppid:1      flags:0x00000002",
            None,
        ),
        (
            "task:CPU 0/KVM       state:D stack:0     pid:1234  tgid:1200  ppid:1      flags:0x00000000",
            Some(1200),
        ),
        (
            "task:CPU 0/KVM       state:D stack:0     pid:1234  tgid:1200  ppid:1      task_flags:0x400040 flags:0x00000000",
            Some(1200),
        ),
        ("CPU 0/KVM       D    0  1234      1 0x00000000", None),
    ] {
        for prefix in [
            "",
            "[  371.123456] ",
            "<3>[  371.123456][   T32] ",
            "Nov 25 17:16:32 lnx1 kernel: ",
            "> ",
        ] {
            let text = [
                "INFO: task CPU 0/KVM:1234 blocked for more than 122 seconds.",
                "      Tainted: G           O      5.10.223-lab510 #1",
                "\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.",
                header,
                "Call Trace:",
                " [<000000000052ea36>] __schedule+0x286/0x5f0 ",
                "([<000000000052ee00>] schedule+0x60/0xf0)",
                " [<000003ff800d6c12>] handle_pqap+0x52/0x330 [vfio_ap] ",
            ]
            .map(|line| format!("{prefix}{line}\n"))
            .concat();
            let parsed = parse(&text);
            assert_eq!(parsed.kernel_release.as_deref(), Some("5.10.223-lab510"));
            assert_eq!(parsed.notes, [""; 0]);
            let task = one(&text);
            assert_eq!(task.comm, "CPU 0/KVM");
            assert_eq!((task.tid, task.tgid, task.ppid), (1234, tgid, Some(1)));
            assert_eq!((task.state, task.blocked_for_s), (Some('D'), Some(122)));
            let frames: Vec<String> = task.frames.iter().map(Frame::to_string).collect();
            let expected = [
                "__schedule+0x286",
                "? schedule+0x60",
                "handle_pqap+0x52 [vfio_ap]",
            ];
            assert_eq!(frames, expected, "{prefix}{header}");
        }
    }
}

#[test]
fn saved_proc_stacks() {
    let frames = "[<0>] handle_pqap+0x52/0x330 [vfio_ap]\n[<0>] system_call+0xdc/0x28c\n";
    for (header, tgid) in [
        ("==> /proc/70/task/72/stack <==\n", Some(70)),
        ("/proc/70/task/72/stack:\n", Some(70)),
        // The short path is there for a thread's id too.
        ("/proc/72/stack:\n", None),
        ("PID 72 CPU 0/KVM\n", None),
    ] {
        let task = one(&format!("{header}{frames}\n"));
        assert_eq!((task.tid, task.tgid), (72, tgid), "{header}");
        assert_eq!(task.frames.len(), 2, "{header}");
    }
    // As `grep . /proc/*/task/*/stack` writes it.
    let grep: Vec<String> = frames
        .lines()
        .map(|line| format!("/proc/70/task/72/stack:{line}"))
        .collect();
    let grep = grep.join("\n");
    let task = one(&grep);
    assert_eq!((task.tid, task.tgid, task.frames.len()), (72, Some(70), 2));
    assert_eq!(parse(&grep).notes, [""; 0]);
}

#[test]
fn what_crash_prints() {
    let text = r#"
    RELEASE: 5.14.0-362.el9.s390x
crash> foreach bt
PID: 0        TASK: 12bb0a          CPU: 0    COMMAND: "swapper/0"
 #0 [38000] __schedule at 1234abcd
PID: 1234     TASK: 9f0e8000          CPU: 2    COMMAND: "CPU 0/KVM"
 #0 [3800047b9a8] __schedule at 12bb0a
 #1 [3800047ba18] schedule at 12bc44
 #2 [3800047ba38] handle_pqap at 3ff800d6c12 [vfio_ap]
 PSW:  0705200180000000 000003ffa5fc4b2e (user space)
"#;
    let parsed = parse(text);
    assert_eq!(
        parsed.kernel_release.as_deref(),
        Some("5.14.0-362.el9.s390x")
    );
    let task = one(text);
    assert_eq!((task.comm.as_str(), task.tid), ("CPU 0/KVM", 1234));
    assert_eq!(task.frames.len(), 3);
    assert_eq!(task.frames[2].module.as_deref(), Some("vfio_ap"));
}

#[test]
fn owners_that_the_kernel_names() {
    let text = "INFO: task CPU 0/KVM:72 blocked for more than 122 seconds.\n\
        INFO: task CPU 0/KVM:72 is blocked on a mutex likely owned by task a:b:75.\n\
        INFO: task x:73 <writer> blocked on an rw-semaphore likely owned by task y:76 <reader>\n\
        INFO: task x:74 <reader> blocked on an rw-semaphore likely owned by task y:77 <writer>\n\
        INFO: task x:78 blocked on a semaphore likely last held by task y:79\n\
        INFO: task x:80 is blocked on a mutex, but the owner is not found.\n";
    let parsed = parse(text);
    let blockers: Vec<_> = parsed
        .tasks
        .iter()
        .map(|t| {
            (
                t.tid,
                t.blocker.as_ref().map(|b| (b.kind, b.comm.as_str(), b.tid)),
            )
        })
        .collect();
    assert_eq!(
        blockers,
        [
            (72, Some((BlockerKind::Mutex, "a:b", 75))),
            (73, Some((BlockerKind::RwsemWriter, "y", 76))),
            (74, Some((BlockerKind::RwsemReader, "y", 77))),
            (78, Some((BlockerKind::Semaphore, "y", 79))),
        ]
    );
}

#[test]
fn the_last_report_of_a_task_is_used() {
    let report = |seconds, function| {
        format!(
            "INFO: task a:7 blocked for more than {seconds} seconds.\n\
             task:a state:D stack:0 pid:7 tgid:6 ppid:1 flags:0x0\n [<0>] {function}+0x1/0x2\n"
        )
    };
    let text = report(5, "first") + &report(10, "second");
    let task = one(&text);
    assert_eq!(task.blocked_for_s, Some(10));
    assert_eq!(task.frames.len(), 1);
    assert_eq!(task.frames[0].symbol, "second");
    assert_eq!(
        parse(&text).notes,
        [
            "a (7) is there 2 times, and its stack has changed: it has run in between; the last is used"
        ]
    );
    assert_eq!(task.saved, Saved::Moved);
    let same = report(5, "first") + &report(10, "first");
    assert_eq!(one(&same).saved, Saved::Same);
    assert_eq!(
        parse(&same).notes,
        ["a (7) is there 2 times with the same stack"]
    );
    // /proc leaves out what the hung-task detector prints: as far as both go they are the same.
    let other = "/proc/6/task/7/stack:[<0>] other+0x1/0x2\n";
    assert_eq!(one(&(report(5, "first") + other)).saved, Saved::Moved);
    let in_full = report(5, "__schedule").replace("+0x1/0x2", "+0x1/0x2\n [<0>] first+0x1/0x2");
    let short = "/proc/6/task/7/stack:[<0>] first+0x1/0x2\n";
    assert_eq!(one(&(in_full.clone() + short)).saved, Saved::Same);
    assert_eq!(one(&(in_full + other)).saved, Saved::Once);
    assert_eq!(one(&report(5, "first")).saved, Saved::Once);
    // A header without a stack does not take away the stack before.
    let cut = report(5, "first") + "task:a state:D stack:0 pid:7 tgid:6";
    assert_eq!(one(&cut).frames[0].symbol, "first");
}

/// Tasks of two kernels are not each other's, though they have the same ids.
#[test]
fn only_the_last_kernel_of_a_text_is_read() {
    let of = |release: &str, tid: u32, function: &str| {
        format!(
            "INFO: task a:{tid} blocked for more than 5 seconds.\n      Not tainted {release} #1\n\
             task:a state:D stack:0 pid:{tid} ppid:1\n [<0>] {function}+0x1/0x2\n"
        )
    };
    let text = of("5.10.223", 7, "first") + &of("5.10.223", 8, "f") + &of("6.12.33", 7, "second");
    let parsed = parse(&text);
    assert_eq!(parsed.kernel_release.as_deref(), Some("6.12.33"));
    assert_eq!(parsed.tasks.len(), 1);
    assert_eq!(parsed.tasks[0].blocked_for_s, Some(5));
    assert_eq!(parsed.tasks[0].frames[0].symbol, "second");
    let [note] = &parsed.notes[..] else {
        panic!("{:?}", parsed.notes);
    };
    assert!(
        note.contains("the last, 6.12.33") && note.contains("what is of 5.10.223"),
        "{note}"
    );
    let one = of("5.10.223", 7, "first") + &of("5.10.223", 8, "f");
    assert_eq!(parse(&one).tasks.len(), 2);
}

/// `grep . /proc/TID/stack` does not say whose threads they are: they are taken to be of one process, unless it is known.
#[test]
fn a_short_path_names_a_process_only_where_another_does() {
    let text = "/proc/70/stack:[<0>] f+0x1/0x2\n/proc/70/task/72/stack:[<0>] g+0x1/0x2\n\
        /proc/75/stack:[<0>] h+0x1/0x2\n";
    let groups: Vec<_> = parse(text).tasks.iter().map(|t| (t.tid, t.tgid)).collect();
    assert_eq!(groups, [(70, Some(70)), (72, Some(70)), (75, None)]);
}

/// A mail with the stacks in it, quoted in other ways, and as HTML.
#[test]
fn quoted_mails_are_read() {
    let plain = "task:a state:D stack:0 pid:7 tgid:6 ppid:1\n [<0>] f+0x1/0x2 [kvm]\n";
    for prefix in ["| ", "XX> ", "> | "] {
        let quoted: Vec<String> = plain.lines().map(|l| format!("{prefix}{l}\n")).collect();
        assert_eq!(
            parse(&quoted.concat()).tasks,
            parse(plain).tasks,
            "{prefix}"
        );
    }
    let html = format!("&gt; {}", plain.replace('<', "&lt;").replace('>', "&gt;"));
    assert_eq!(parse(&html).tasks, parse(plain).tasks);
}

#[test]
fn frames_of_lockdep_are_no_tasks() {
    let text = "task:a state:D stack:0 pid:7 ppid:1 flags:0x0\n f+0x1/0x2\n\
        WARNING: possible circular locking dependency detected\n\
        -> #2 (&kvm->lock){+.+.}-{3:3}:\n        g+0x1/0x2 [kvm]\n\
        stack backtrace:\nCPU: 0 PID: 92 Comm: vmtest Not tainted 5.12.0-rc6 #1\n\
        Call Trace:\n [<0>] h+0x1/0x2\n";
    let parsed = parse(text);
    let symbols: Vec<_> = parsed
        .tasks
        .iter()
        .map(|t| (t.tid, t.state, t.frames.len()))
        .collect();
    assert_eq!(symbols, [(7, Some('D'), 1), (92, Some('R'), 1)]);
    assert_eq!(parsed.kernel_release.as_deref(), Some("5.12.0-rc6"));
    let [report, left_out] = &parsed.notes[..] else {
        panic!("{:?}", parsed.notes);
    };
    assert!(report.starts_with("the text has a report of lockdep"));
    assert_eq!(left_out, "left out: 1 frames that belong to no task");
}

#[test]
fn everything_is_bounded() {
    let frames = " [<0>] f+0x1/0x2\n".repeat(MAX_FRAMES + 6);
    let long = "x".repeat(MAX_NAME * 3);
    let text = format!("task:{long} state:D stack:0 pid:7 ppid:1\n{frames}");
    let task = one(&text);
    assert_eq!((task.frames.len(), task.comm.len()), (MAX_FRAMES, MAX_NAME));
    assert_eq!(
        parse(&text).notes,
        ["left out: 6 frames beyond the limit of a stack"]
    );
    let many: Vec<String> = (1..=MAX_TASKS + 3)
        .map(|tid| format!("PID {tid} a"))
        .collect();
    let parsed = parse(&many.join("\n"));
    assert_eq!(parsed.tasks.len(), MAX_TASKS);
    assert_eq!(
        parsed.notes,
        ["left out: 3 tasks beyond the limit of a text"]
    );
}

/// Cut anywhere, a text gives the tasks before the cut as the whole does, but for the last.
#[test]
fn a_text_may_end_anywhere() {
    let text = include_str!("../../../../tests/fixtures/stacks/5.10-sysrq-w.txt");
    let whole = parse(text);
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let cut = parse(&text[..end]);
        let known = cut.tasks.len().saturating_sub(1);
        assert_eq!(cut.tasks[..known], whole.tasks[..known], "{end}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let parsed = parse(&String::from_utf8_lossy(&bytes));
        proptest::prop_assert!(parsed.tasks.iter().all(|t| t.tid != 0));
    }

    #[test]
    fn any_lines_are_read(lines in proptest::collection::vec(
        "(\\[|<|>|\\(|\\)|task:|state:|pid:|tgid:| |INFO: task |blocked for more than |blocked on |/proc/|stack|==>|#[0-9]|at|f\\+0x[0-9a-f]{0,20}|\\[kvm\\]|PID: |COMMAND: \"|[0-9]{1,12}|é){0,12}",
        0..20,
    )) {
        let parsed = parse(&lines.join("\n"));
        for task in &parsed.tasks {
            proptest::prop_assert!(task.comm.len() <= MAX_NAME);
            proptest::prop_assert!(task.frames.len() <= MAX_FRAMES);
        }
    }
}
