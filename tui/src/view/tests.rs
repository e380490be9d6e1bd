//! Every view at several sizes, against stored pictures.

mod behaviour;
mod timeline;

use std::time::Duration;

use apscope_collector::frame::{End, Frame};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::buffer::Buffer;

use crate::fixture;
use crate::snapshot;
use crate::state::{App, View};
use crate::theme::Theme;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 60)];

fn app(theme: Theme) -> App {
    let mut app = App::new(theme, Duration::from_millis(100));
    for number in 0..30 {
        app.apply(&fixture::frame(number, 8));
    }
    app.show(View::Locks);
    app
}

fn press(app: &mut App, keys: &[KeyCode]) {
    for key in keys {
        app.key(KeyEvent::new(*key, KeyModifiers::NONE));
    }
}

fn text(app: &mut App, keys: &str) {
    for c in keys.chars() {
        press(app, &[KeyCode::Char(c)]);
    }
}

fn drawn(app: &mut App, width: u16, height: u16) -> Buffer {
    snapshot::buffer(app, width, height)
}

fn lines(buffer: &Buffer) -> String {
    snapshot::text(buffer)
}

/// One stored picture for each size.
fn pictures(name: &str, prepare: impl Fn(&mut App)) {
    for (width, height) in SIZES {
        let mut app = app(Theme::COLOUR);
        prepare(&mut app);
        let picture = lines(&drawn(&mut app, width, height));
        assert!(picture.contains("EMULATED"), "{name} at {width}x{height}");
        insta::assert_snapshot!(format!("{name}-{width}x{height}"), picture);
    }
}

#[test]
fn locks() {
    pictures("locks", |_| {});
}

#[test]
fn lock_detail() {
    pictures("lock-detail", |app| {
        text(app, "/kvm_busy");
        press(app, &[KeyCode::Enter, KeyCode::Enter]);
        assert!(app.detail_open);
    });
}

#[test]
fn entries() {
    pictures("entries", |app| text(app, "3"));
}

#[test]
fn entry_detail() {
    pictures("entry-detail", |app| {
        text(app, "3/name:handle_pqap");
        press(app, &[KeyCode::Enter, KeyCode::Enter]);
        assert!(app.detail_open);
    });
}

#[test]
fn first_screen() {
    pictures("overview", |app| text(app, "1"));
}

#[test]
fn findings_of_a_busy_run() {
    pictures("findings", |app| text(app, "7"));
}

#[test]
fn guided_look_and_export() {
    pictures("guide", |app| press(app, &[KeyCode::F(1)]));
    pictures("export", |app| text(app, "x"));
}

#[test]
fn ascii_is_ascii_in_every_view() {
    for keys in [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "?",
        "w",
        "x",
        "2/kvm_busy",
    ] {
        let mut app = app(Theme::COLOUR);
        app.ascii = true;
        text(&mut app, keys);
        press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
        let picture = lines(&drawn(&mut app, 120, 40));
        assert!(picture.is_ascii(), "{picture}");
    }
}

#[test]
fn the_first_run_says_what_it_is_until_a_key_is_pressed() {
    let mut app = app(Theme::COLOUR);
    let picture = lines(&drawn(&mut app, 80, 24));
    assert!(
        picture.contains("An emulated driver. Others: --scenario"),
        "{picture}"
    );
    text(&mut app, "j");
    assert!(!lines(&drawn(&mut app, 80, 24)).contains("An emulated driver"));
    let picture = lines(&drawn(&mut kernel(1), 80, 24));
    assert!(!picture.contains("An emulated driver"), "{picture}");
}

#[test]
fn each_row_of_a_table_can_be_hit_where_its_name_stands() {
    use crate::state::Target;
    let mut app = app(Theme::COLOUR);
    for view in [View::Locks, View::Entries, View::Guests] {
        app.show(view);
        let text = lines(&drawn(&mut app, 120, 40));
        let names: Vec<String> = match view {
            View::Locks => app.lock_rows().iter().map(|row| row.name.clone()).collect(),
            View::Entries => {
                let rows = app.entry_rows().iter();
                rows.map(|row| row.facts.name.to_owned()).collect()
            }
            _ => {
                let rows = app.rows().guests.iter();
                rows.map(|row| row.name.clone()).collect()
            }
        };
        assert!(!names.is_empty(), "{view:?}");
        for (row, name) in names.iter().enumerate() {
            let hit = app.targets.iter().find(|(_, t)| *t == Target::Row(row));
            let (area, _) = hit.unwrap_or_else(|| panic!("{view:?}: nothing to hit at {name}"));
            let line = text.lines().nth(usize::from(area.y)).unwrap();
            assert!(line.contains(name.as_str()), "{name}: {line}");
        }
    }
}

#[test]
fn what_the_mouse_can_hit_is_where_it_is_drawn() {
    use crate::state::Target;
    let mut app = app(Theme::COLOUR);
    for view in View::ALL {
        app.show(view);
        for (width, height) in SIZES {
            let buffer = drawn(&mut app, width, height);
            let text = lines(&buffer);
            for (area, target) in &app.targets {
                assert!(
                    area.right() <= width && area.bottom() <= height,
                    "{target:?}"
                );
                if let Target::Tab(view) = target {
                    let line = text.lines().nth(usize::from(area.y)).unwrap();
                    let found: String = line
                        .chars()
                        .skip(usize::from(area.x))
                        .take(usize::from(area.width))
                        .collect();
                    assert!(found.contains(view.title()), "{found} {view:?}");
                }
            }
        }
    }
}

#[test]
fn help() {
    pictures("help", |app| text(app, "?"));
}

#[test]
fn log() {
    pictures("log", |app| text(app, "8"));
}

#[test]
fn guests() {
    pictures("guests", |app| text(app, "4j"));
}

#[test]
fn writes() {
    pictures("writes", |app| text(app, "w"));
}

fn kernel(level: u32) -> App {
    let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
    for number in 0..30 {
        app.apply(&fixture::kernel_frame(number, level));
    }
    app.show(View::Locks);
    app
}

#[test]
fn a_kernel_says_what_it_is_and_how_much_of_it_is_seen() {
    for (width, height) in SIZES {
        let picture = lines(&drawn(&mut kernel(1), width, height));
        assert!(!picture.contains("EMULATED"), "{picture}");
        for part in [" KERNEL ", "v6.6 or v7.3", "level 1: contended only"] {
            assert!(picture.contains(part), "{part} in\n{picture}");
        }
        // Points of other generations and levels are no loss.
        assert!(!picture.contains("probes missing"), "{picture}");
        insta::assert_snapshot!(format!("kernel-{width}x{height}"), picture);
    }
    let picture = lines(&drawn(&mut kernel(2), 120, 40));
    assert!(picture.contains("level 2"), "{picture}");
    assert!(!picture.contains("contended only"), "{picture}");
    assert!(picture.contains("1 loss (apscope doctor)"), "{picture}");
}

#[test]
fn emulated_cpus_are_said_at_every_width() {
    let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
    let mut frame = fixture::kernel_frame(0, 2);
    if let Some(meta) = &mut frame.meta {
        meta.timing = "QEMU emulates the CPUs".into();
    }
    app.apply(&frame);
    for (width, height) in SIZES {
        let picture = lines(&drawn(&mut app, width, height));
        assert!(picture.contains(" TIMING NOT HARDWARE "), "{picture}");
    }
}

#[test]
fn the_detail_of_a_lock_has_its_latest_stack() {
    let mut app = kernel(1);
    text(&mut app, "/name:kvm->lock");
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    let picture = lines(&drawn(&mut app, 120, 60));
    for part in [
        "contended acquisitions; others, and holds, are not seen",
        "latest stack  CPU 0/KVM (4310) waited 34.0ms  guest-0",
        "  kvm_s390_handle_pv+0x1f2 [kvm]",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
    // Another lock has none.
    let mut app = kernel(1);
    text(&mut app, "/name:kvm_busy");
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    let picture = lines(&drawn(&mut app, 120, 60));
    assert!(!picture.contains("latest stack"), "{picture}");
}

#[test]
fn a_kernel_that_was_detached_from_stays_on_the_screen() {
    let mut app = kernel(1);
    app.apply(&Frame {
        end: Some(End {
            how: "detached".into(),
            detail: "the time to be attached (--for) is over".into(),
        }),
        ..fixture::kernel_frame(30, 1)
    });
    app.closed();
    let picture = lines(&drawn(&mut app, 80, 24));
    assert!(
        picture.contains("DETACHED (q quits): the time to be attached (--for) is over"),
        "{picture}"
    );
}

#[test]
fn a_thread_that_works_for_another_process_is_shown_under_its_name() {
    let mut app = app(Theme::COLOUR);
    let picture = lines(&drawn(&mut app, 200, 24));
    assert!(picture.contains("echo (5120)"), "{picture}");
    text(&mut app, "/matrix_dev->lock");
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    let picture = lines(&drawn(&mut app, 120, 40));
    assert!(
        picture.contains("held by  echo (5120)  1.00ms"),
        "{picture}"
    );
    assert!(picture.contains("behind echo (5120)"), "{picture}");
    press(&mut app, &[KeyCode::Esc]);
    text(&mut app, "3/name:unassign");
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    let picture = lines(&drawn(&mut app, 80, 24));
    assert!(
        picture.contains("inside   echo (5120)  2.00ms"),
        "{picture}"
    );
    assert!(!picture.contains("sysfs"), "{picture}");
}

#[test]
fn class_names_are_whole_and_marks_are_there_at_80_columns() {
    let picture = lines(&drawn(&mut app(Theme::COLOUR), 80, 24));
    for part in [
        "matrix_dev->guests_lock",
        "group notifier rwsem",
        "kvm_busy*",
        "open-coded",
        "rwsem read",
        "wait",
        "hold",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
}

#[test]
fn the_column_that_orders_is_always_on_screen() {
    let mut app = app(Theme::COLOUR);
    for _ in 0..10 {
        text(&mut app, "s");
        for width in [60, 80] {
            let picture = lines(&drawn(&mut app, width, 24));
            assert!(picture.contains('▼') || picture.contains('▲'), "{picture}");
        }
    }
}

#[test]
fn open_coded_lock_shows_holders_waiters_and_instances() {
    let mut app = app(Theme::COLOUR);
    text(&mut app, "/kvm_busy");
    press(&mut app, &[KeyCode::Enter, KeyCode::Enter]);
    let picture = lines(&drawn(&mut app, 120, 60));
    for part in [
        "qemu/guest-3 (4301)  37.0ms",
        "SECOND HOLDER",
        "vcpu1/guest-3 (4311)  29.0ms",
        "behind qemu/guest-3 (4301)",
        "woken 3×",
        "kvm_busy[guest-7]",
        "lockdep does not see it",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
}
