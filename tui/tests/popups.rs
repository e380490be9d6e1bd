//! Stored pictures of what lies over the views, and of what is drilled into: help, guided look, filters, exports, details,
//! accesses to sysfs, messages and banners.
#![forbid(unsafe_code)]

mod support;

use std::time::Duration;

use apscope_collector::cli::open_recording;
use apscope_collector::source::Link;
use apscope_tui::screenshot::press;
use apscope_tui::state::config::Settings;
use apscope_tui::state::{App, Ending, View};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use support::{RUNS, at, at_all_sizes, file};

/// One file with all sizes, of keys pressed in a recording.
fn picture(name: &str, run: usize, keys: &str) -> String {
    let (recording, moment) = RUNS[run];
    let all = at_all_sizes(|| {
        let mut app = at(recording, moment);
        press(&mut app, keys);
        app
    });
    insta::assert_snapshot!(name, all);
    all
}

#[test]
fn help_of_each_view() {
    for view in View::ALL {
        let keys = format!("{}?", view.number());
        let all = picture(&format!("help-{}", view.name()), 0, &keys);
        assert!(all.contains("what is shown"), "{all}");
    }
}

#[test]
fn the_guided_look() {
    let (recording, moment) = RUNS[2];
    insta::assert_snapshot!(at_all_sizes(|| {
        let mut app = at(recording, moment);
        app.key(KeyEvent::new(KeyCode::F(1), KeyModifiers::NONE));
        app
    }));
}

#[test]
fn export_and_accesses_to_sysfs() {
    picture("export", 2, "7x");
    for (run, (recording, _)) in RUNS.into_iter().enumerate() {
        picture(&format!("{recording}-writes"), run, "w");
    }
}

#[test]
fn filters_as_they_are_typed() {
    picture("filter-typed", 0, "2/wait>1us class:kvm");
    let all = picture("filter-wrong", 0, "2/wait>1parsec");
    assert!(all.contains('✗'), "{all}");
    picture("filter-kept", 0, "8/call latency>1us⏎");
    picture("filter-without-rows", 0, "3/nothing_of_this_name⏎");
}

#[test]
fn details_of_each_run() {
    for (run, (recording, _)) in RUNS.into_iter().enumerate() {
        for (what, keys) in [
            ("lock", "2⏎"),
            ("entry", "3⏎"),
            ("guest", "4⏎"),
            ("edge", "5⏎"),
            ("span", "6⏎⏎"),
        ] {
            picture(&format!("{recording}-{what}"), run, keys);
        }
    }
    picture("se-start-v5.13-finding", 2, "7⏎");
    picture("se-start-v5.13-finding-of-the-first-screen", 2, "⏎");
}

#[test]
fn details_of_nothing() {
    let empty = || App::with(Settings::default(), Duration::from_millis(100));
    for view in View::ALL {
        let mut without = empty();
        without.show(view);
        let before = support::drawn(&mut without, (80, 24));
        press(&mut without, "⏎");
        // There is nothing to open.
        assert_eq!(support::drawn(&mut without, (80, 24)), before, "{view:?}");
    }
    for (name, keys) in [("help", "2?"), ("writes", "w"), ("export", "x")] {
        let all = at_all_sizes(|| {
            let mut app = empty();
            press(&mut app, keys);
            app
        });
        insta::assert_snapshot!(format!("empty-{name}"), all);
    }
}

/// A recording as a run that goes on, up to this frame.
fn live(name: &str, frames: usize) -> App {
    let mut app = App::with(Settings::default(), Duration::from_millis(100));
    let reader = open_recording(&file(name)).unwrap_or_else(|failure| panic!("{failure:?}"));
    for frame in reader.take(frames) {
        app.apply(&frame.unwrap());
    }
    app
}

#[test]
fn messages_and_banners() {
    let banner = |name: &str, change: fn(&mut App)| {
        let all = at_all_sizes(|| {
            let mut app = live("steady-v5.13", 20);
            change(&mut app);
            app
        });
        insta::assert_snapshot!(format!("message-{name}"), all);
    };
    banner("first-run", |_| {});
    banner("paused", |app| {
        press(app, "2 ");
        for frame in open_recording(&file("steady-v5.13"))
            .map_err(drop)
            .unwrap()
            .skip(20)
            .take(5)
        {
            app.apply(&frame.unwrap());
        }
    });
    banner("link-down", |app| {
        app.link = Link::Down("connection refused".into());
    });
    banner("source-died", |app| {
        app.ending = Some(Ending::Died("killed by signal 9".into()));
    });
    banner("detached", |app| {
        app.ending = Some(Ending::Detached(
            "the time to be attached (--for) is over".into(),
        ));
    });
    banner("failed", |app| {
        app.fail("apscope-locks.txt cannot be written: Permission denied");
    });
    banner("said", |app| press(app, "t"));
    banner("nothing-to-seek", |app| press(app, "]"));
}
