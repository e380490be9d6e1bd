//! The screens on recordings of the emulated driver: stored pictures of every view, what the first screen says of each
//! way to hang, the pictures of the documentation, and any key at any size.
//!
//! The recordings are made by `cargo xtask screenshots --record`.
#![forbid(unsafe_code)]

#[path = "screens/hangs.rs"]
mod hangs;
#[path = "screens/live.rs"]
mod live;
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use apscope_tui::screenshot::{self, PICTURES};
use apscope_tui::snapshot;
use apscope_tui::state::config::Settings;
use apscope_tui::state::{App, View};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;

use support::{RUNS, at, at_all_sizes, drawn, file, recordings};

/// A recording at its end.
fn end_of(name: &str) -> App {
    at(name, Duration::MAX)
}

/// Every view at every size, one file for each.
fn pictures(name: &str, mut make: impl FnMut() -> App) {
    for view in View::ALL {
        let all = at_all_sizes(|| {
            let mut app = make();
            app.show(view);
            app
        });
        insta::assert_snapshot!(format!("{name}-{}", view.name()), all);
    }
}

#[test]
fn every_view_of_each_run() {
    for (name, moment) in RUNS {
        pictures(name, || at(name, moment));
    }
}

#[test]
fn every_view_of_nothing() {
    pictures("empty", || {
        App::with(Settings::default(), Duration::from_millis(100))
    });
}

/// What stands on the first screen of a hang: the recording, the finding, how its tasks are called, what they are at.
struct Hang {
    recording: &'static str,
    finding: &'static str,
    tasks: &'static [&'static str],
    locks: &'static [&'static str],
}

const HANGS: &[Hang] = &[
    Hang {
        recording: "se-start-v5.13",
        finding: "AP001",
        tasks: &["vcpu", "notify/guest-0", "pv/guest-0"],
        locks: &[
            "kvm_busy[guest-0]",
            "kvm->lock[guest-0]",
            "vcpu->mutex[guest-0/vcpu",
        ],
    },
    Hang {
        recording: "se-start-v5.11",
        finding: "AP001",
        tasks: &["vcpu", "notify/guest-0", "pv/guest-0"],
        locks: &[
            "matrix_dev->lock",
            "kvm->lock[guest-0]",
            "vcpu->mutex[guest-0/vcpu",
        ],
    },
    Hang {
        recording: "se-start-v5.15-rc",
        finding: "AP001",
        tasks: &["vcpu", "notify/guest-0"],
        locks: &["kvm_busy[guest-0]", "pqap_hook_rwsem[guest-0]"],
    },
    Hang {
        recording: "stuck-reset-v6.6",
        finding: "AP007",
        tasks: &["kworker"],
        locks: &["reset_work[00.0000]", "mdevs_lock"],
    },
    Hang {
        recording: "lost-wakeup-v5.13",
        finding: "AP003",
        tasks: &["vcpu"],
        locks: &["kvm_busy[guest-0]"],
    },
    Hang {
        recording: "two-mdevs-rfc-2021-06",
        finding: "AP004",
        tasks: &["notify/guest-0"],
        locks: &["matrix_dev->lock"],
    },
    STARVED,
];

/// It never gets on, though everybody moves.
const STARVED: Hang = Hang {
    recording: "starved-vcpu-v5.13",
    finding: "AP008",
    tasks: &["vcpu"],
    locks: &["kvm_busy[guest-0]"],
};

#[test]
fn the_first_screen_names_finding_tasks_and_locks_of_each_hang() {
    for hang in HANGS {
        named_at_once(hang, &file(hang.recording));
    }
}

/// One tick after the finding the first screen has it, its tasks and its locks, and what can help.
fn named_at_once(hang: &Hang, recording: &Path) {
    let at = |moment| {
        screenshot::at(recording, moment, "", Settings::default())
            .unwrap_or_else(|failure| panic!("{}: {failure:?}", hang.recording))
    };
    let whole = at(Duration::MAX);
    let replay = whole.replay.as_ref().unwrap();
    let mark = replay
        .marks
        .iter()
        .find(|mark| mark.id == hang.finding)
        .unwrap_or_else(|| panic!("{}: {:?}", hang.recording, replay.marks));
    let found = Duration::from_nanos(mark.from_ns - replay.range().0) + Duration::from_millis(100);
    let mut app = at(found);
    let picture = drawn(&mut app, (80, 24));
    assert!(!app.touched, "no key was pressed");
    for part in [&[hang.finding][..], hang.tasks, hang.locks].concat() {
        assert!(
            picture.contains(part),
            "{}: {part} in\n{picture}",
            hang.recording
        );
    }
    assert!(
        picture.contains("can help"),
        "{}:\n{picture}",
        hang.recording
    );
}

#[test]
fn a_hang_is_on_the_screen_within_a_second() {
    for hang in HANGS {
        let name = hang.recording;
        let app = end_of(name);
        let mut findings = app.shown().report.findings.iter();
        let finding = findings
            .find(|finding| finding.id.to_string() == hang.finding)
            .unwrap();
        // A reset hangs once it has outrun its budget, and not when it begins.
        let begin = match finding.id.0 {
            7 => finding.since_ns + app.thresholds().reset.as_nanos() as u64,
            _ => finding.since_ns,
        };
        let after = finding.found_ns.saturating_sub(begin);
        println!("{name}: {} after {after} ns", hang.finding);
        assert!(after <= 1_000_000_000, "{name}: {after} ns");
    }
}

#[test]
fn removal_that_waits_for_a_guest_is_explained() {
    // A guest gives its device back within the second that a removal may take by default.
    let mut settings = Settings::default();
    settings.thresholds.set("removal=200ms").unwrap();
    let whole = screenshot::at(
        &file("remove-in-use-v6.0"),
        Duration::MAX,
        "",
        settings.clone(),
    );
    let mut app = whole.map_err(|failure| format!("{failure:?}")).unwrap();
    app.show(View::Findings);
    let picture = drawn(&mut app, (120, 40));
    assert!(
        picture.contains("AP013") && picture.contains("removing an mdev"),
        "{picture}"
    );
}

#[test]
fn seeking_back_is_as_never_having_gone_on() {
    let mut whole = end_of("se-start-v5.13");
    let settings = Settings::default();
    let (mut tape, replay) =
        apscope_tui::tape::Tape::open(&file("se-start-v5.13"), &settings.thresholds).unwrap();
    let mut app = App::with(settings, Duration::from_millis(100));
    app.replay = Some(replay);
    for share in [1.0, 0.3, 0.9, 0.0, 0.7, 0.65, 0.2, 1.0] {
        app.replay.as_mut().unwrap().seek_share(share);
        tape.arrive(&mut app).unwrap();
        let shown = app.live().model.last.at_ns;
        assert!(shown <= app.replay.as_ref().unwrap().at_ns());
        // The same as where it was gone to without having been anywhere else.
        let fresh = app.replay.as_ref().unwrap();
        let offset = Duration::from_nanos(fresh.at_ns() - fresh.range().0);
        let mut fresh = at("se-start-v5.13", offset);
        app.replay.as_mut().unwrap().playing = false;
        for view in [View::Overview, View::Locks, View::Timeline, View::Log] {
            app.show(view);
            fresh.show(view);
            assert_eq!(drawn(&mut app, (120, 40)), drawn(&mut fresh, (120, 40)));
        }
    }
    app.replay.as_mut().unwrap().playing = false;
    for view in View::ALL {
        app.show(view);
        whole.show(view);
        assert_eq!(drawn(&mut app, (120, 40)), drawn(&mut whole, (120, 40)));
    }
}

#[test]
fn damaged_recordings_go_as_far_as_they_are_whole() {
    let bytes = fs::read(file("se-start-v5.13")).unwrap();
    let folder = std::env::temp_dir().join(format!("apscope-tape-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("cut.apscope");
    fs::write(&path, &bytes[..bytes.len() * 3 / 4]).unwrap();
    let app = screenshot::at(&path, Duration::MAX, "", Settings::default())
        .map_err(|_| ())
        .unwrap();
    let replay = app.replay.as_ref().unwrap();
    assert!(replay.damaged.is_some());
    assert!(app.live().model.last.number > 0);
    fs::write(&path, b"nothing").unwrap();
    assert!(screenshot::at(&path, Duration::MAX, "", Settings::default()).is_err());
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_documentations_pictures_are_what_is_drawn() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    let update = std::env::var_os("APSCOPE_UPDATE_DOCS").is_some();
    for picture in PICTURES {
        let expected = screenshot::draw(picture, &recordings())
            .map_err(|f| format!("{f:?}"))
            .unwrap();
        let path = folder.join(format!("{}.svg", picture.name));
        if update {
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "{} is stale: cargo xtask screenshots",
            path.display()
        );
    }
}

/// Keys that do something, and some that do not.
const KEYS: &[KeyCode] = &[
    KeyCode::Enter,
    KeyCode::Esc,
    KeyCode::Tab,
    KeyCode::BackTab,
    KeyCode::Backspace,
    KeyCode::Up,
    KeyCode::Down,
    KeyCode::Left,
    KeyCode::Right,
    KeyCode::PageDown,
    KeyCode::PageUp,
    KeyCode::Home,
    KeyCode::End,
    KeyCode::F(1),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_key_at_any_size_on_any_frame(
        run in 0_usize..3,
        frame in 0.0_f64..1.0,
        keys in proptest::collection::vec((0_usize..KEYS.len() + 60, any::<bool>()), 200),
        sizes in proptest::collection::vec((1_u16..300, 1_u16..90), 8),
    ) {
        let settings = Settings::default();
        let (mut tape, replay) = apscope_tui::tape::Tape::open(&file(RUNS[run].0), &settings.thresholds).unwrap();
        let mut app = App::with(settings, Duration::from_millis(100));
        app.replay = Some(replay);
        app.replay.as_mut().unwrap().seek_share(frame);
        tape.arrive(&mut app).unwrap();
        let letters = "jkhlgGsrtxyezZ/ 12345678?w+-=,.[]nq:>*!ctrlwaitkvm0msé漢";
        for (n, (key, control)) in keys.into_iter().enumerate() {
            let code = KEYS.get(key).copied().unwrap_or_else(|| {
                KeyCode::Char(letters.chars().nth((key - KEYS.len()) % letters.chars().count()).unwrap_or('j'))
            });
            let modifiers = if control && n % 5 == 0 { KeyModifiers::CONTROL } else { KeyModifiers::NONE };
            app.key(KeyEvent::new(code, modifiers));
            // Only now and then, and within the part that is read: a seek folds frames.
            if n % 20 == 0 {
                tape.arrive(&mut app).unwrap();
            }
            if n % 7 == 0 {
                let (width, height) = sizes[n / 7 % sizes.len()];
                let buffer = snapshot::buffer(&mut app, width, height);
                prop_assert_eq!((buffer.area.width, buffer.area.height), (width, height));
                for (area, _) in &app.targets {
                    prop_assert!(area.right() <= width && area.bottom() <= height);
                }
            }
            app.refresh();
            prop_assert!(app.detail_open == app.detail().is_some());
        }
    }
}
