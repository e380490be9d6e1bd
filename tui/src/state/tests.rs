//! Keys and what they change.

use std::time::Duration;

use apscope_collector::frame::End;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;

use super::detail::Detail;
use super::export::Format;
use super::keys::Effect;
use super::rows::{EntryColumn, LockColumn};
use super::{App, Ending, Overlay, View};
use crate::fixture;
use crate::theme::Theme;

fn app() -> App {
    let mut app = App::new(Theme::PLAIN, Duration::from_millis(100));
    for number in 0..3 {
        app.apply(&fixture::frame(number, 8));
    }
    app.page = 10;
    app.show(View::Locks);
    app.refresh();
    app
}

fn press(app: &mut App, code: KeyCode) -> Effect {
    let effect = app.key(KeyEvent::new(code, KeyModifiers::NONE));
    app.refresh();
    effect
}

fn control(app: &mut App, c: char) -> Effect {
    app.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn text(app: &mut App, keys: &str) {
    for c in keys.chars() {
        press(app, KeyCode::Char(c));
    }
}

fn names(app: &App) -> Vec<&str> {
    app.lock_rows().iter().map(|r| r.name.as_str()).collect()
}

#[test]
fn q_and_ctrl_c_leave_from_everywhere() {
    for keys in ["", "?", "8", "3", "x", " "] {
        for detail in [false, true] {
            let mut app = app();
            if detail {
                press(&mut app, KeyCode::Enter);
            }
            text(&mut app, keys);
            assert_eq!(press(&mut app, KeyCode::Char('q')), Effect::Quit, "{keys}");
            assert_eq!(control(&mut app, 'c'), Effect::Quit);
        }
    }
    // While a filter is typed, q is a letter.
    let mut app = app();
    text(&mut app, "/");
    assert_eq!(press(&mut app, KeyCode::Char('q')), Effect::None);
    assert_eq!(control(&mut app, 'c'), Effect::Quit);
}

#[test]
fn first_row_is_the_longest_wait_and_the_selection_moves() {
    let mut app = app();
    assert_eq!(app.locks.sort, LockColumn::WaitP99);
    assert_eq!(app.locks.selected, Some(app.lock_rows()[0].facts.series));
    text(&mut app, "jj");
    assert_eq!(app.locks.index(), 2);
    text(&mut app, "k");
    assert_eq!(app.locks.index(), 1);
    text(&mut app, "G");
    assert_eq!(app.locks.index(), app.lock_rows().len() - 1);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.locks.index(), app.lock_rows().len() - 1);
    text(&mut app, "g");
    assert_eq!(app.locks.index(), 0);
    control(&mut app, 'd');
    assert_eq!(app.locks.index(), 5, "half of the ten rows that fit");
    control(&mut app, 'u');
    assert_eq!(app.locks.index(), 0);
}

#[test]
fn s_and_r_sort() {
    let mut app = app();
    while app.locks.sort != LockColumn::Rate {
        text(&mut app, "s");
    }
    let rates = |app: &App| -> Vec<u64> {
        app.lock_rows()
            .iter()
            .map(|r| r.facts.acquisitions)
            .collect()
    };
    let descending = rates(&app);
    assert!(descending.is_sorted_by(|a, b| a >= b), "{descending:?}");
    text(&mut app, "r");
    let ascending = rates(&app);
    assert!(ascending.is_sorted(), "{ascending:?}");
    // The other table has an order of its own.
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.entries.sort, EntryColumn::P99);
    text(&mut app, "s");
    assert_eq!(app.entries.sort, EntryColumn::Max);
    assert_eq!(app.locks.sort, LockColumn::Rate);
}

#[test]
fn long_holds_by_design_are_not_ranked() {
    let mut app = app();
    while app.locks.sort != LockColumn::HoldMax {
        text(&mut app, "s");
    }
    let row = app
        .lock_rows()
        .iter()
        .position(|r| r.facts.series == fixture::VCPU_MUTEX);
    assert!(
        row > Some(4),
        "its holds are the longest by far: {:?}",
        names(&app)
    );
}

#[test]
fn enter_opens_the_selected_row_and_escape_goes_back_step_by_step() {
    let mut app = app();
    text(&mut app, "/kvm_busy");
    press(&mut app, KeyCode::Enter);
    assert_eq!(names(&app), ["kvm_busy*"]);
    press(&mut app, KeyCode::Enter);
    let Some(Detail::Lock(lock)) = app.detail() else {
        panic!("a lock's detail");
    };
    assert_eq!(
        (lock.class, lock.holders.len(), lock.waiters.len()),
        ("kvm_busy", 2, 2)
    );
    assert!(lock.holders[1].remark.contains("SECOND HOLDER"));
    assert!(lock.waiters[0].remark.contains("behind qemu/guest-3"));
    text(&mut app, "?");
    assert_eq!(app.overlay, Some(Overlay::Help));
    press(&mut app, KeyCode::Esc);
    assert_eq!((app.overlay, app.detail_open), (None, true));
    press(&mut app, KeyCode::Esc);
    assert!(!app.detail_open && app.detail().is_none());
    assert_eq!(app.lock_rows().len(), 1, "the filter stays");
    press(&mut app, KeyCode::Esc);
    assert!(app.lock_rows().len() > 1, "the filter has gone");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.view, View::Locks);
}

#[test]
fn entry_point_detail_has_codes_and_pqap_responses() {
    let mut app = app();
    text(&mut app, "3/name:handle_pqap");
    press(&mut app, KeyCode::Enter);
    press(&mut app, KeyCode::Enter);
    let Some(Detail::Entry(entry)) = app.detail() else {
        panic!("an entry point's detail");
    };
    assert_eq!(entry.calls, 3 * 81 + 2);
    assert_eq!(entry.in_flight, 2);
    assert_eq!(entry.pqap[0], ("AQIC".to_owned(), 0, 3 * 76));
    assert_eq!(entry.inside.len(), 2);
}

#[test]
fn each_view_keeps_its_filter() {
    let mut app = app();
    text(&mut app, "/kvm");
    press(&mut app, KeyCode::Enter);
    text(&mut app, "3");
    assert!(app.filter().text.is_empty());
    text(&mut app, "/!");
    assert!(app.filter().error.is_some());
    press(&mut app, KeyCode::Enter);
    assert!(
        app.filter().typing.is_some(),
        "an error keeps the line open"
    );
    press(&mut app, KeyCode::Esc);
    text(&mut app, "2");
    assert_eq!(app.filter().text, "kvm");
}

#[test]
fn editing_a_filter() {
    let mut app = app();
    text(&mut app, "/kind:mutex wait>1ms");
    control(&mut app, 'w');
    assert_eq!(app.filter().typing.as_deref(), Some("kind:mutex "));
    press(&mut app, KeyCode::Backspace);
    assert_eq!(app.filter().text, "kind:mutex");
    app.refresh();
    assert!(app.lock_rows().iter().all(|r| r.kind == "mutex"));
    control(&mut app, 'u');
    assert_eq!(app.filter().typing.as_deref(), Some(""));
}

#[test]
fn a_filter_that_matches_nothing_closes_nothing_for_good() {
    let mut app = app();
    text(&mut app, "/nothing_like_it");
    press(&mut app, KeyCode::Enter);
    assert!(app.lock_rows().is_empty());
    press(&mut app, KeyCode::Enter);
    assert!(!app.detail_open);
    text(&mut app, "jkGgsr ");
    press(&mut app, KeyCode::Esc);
    assert!(!app.lock_rows().is_empty());
    assert!(app.locks.selected.is_some());
}

#[test]
fn pause_shows_a_snapshot_and_folds_on() {
    let mut app = app();
    text(&mut app, " ");
    let before = app.lock_rows().to_vec();
    app.apply(&fixture::frame(3, 8));
    app.refresh();
    assert_eq!(app.behind_ns(), Some(100_000_000));
    assert_eq!(app.lock_rows(), before);
    assert_eq!(app.live().model.last.number, 3);
    assert_eq!(app.shown().model.last.number, 2);
    // Sorting and details work on the snapshot.
    text(&mut app, "sr");
    press(&mut app, KeyCode::Enter);
    assert!(app.detail_open);
    text(&mut app, " ");
    assert_eq!(app.behind_ns(), None);
    assert_eq!(app.shown().model.last.number, 3);
}

#[test]
fn plus_and_minus_change_the_interval_within_bounds() {
    let mut app = app();
    let ms = Duration::from_millis;
    assert_eq!(
        press(&mut app, KeyCode::Char('+')),
        Effect::Interval(ms(200))
    );
    assert_eq!(
        press(&mut app, KeyCode::Char('-')),
        Effect::Interval(ms(100))
    );
    assert_eq!(
        press(&mut app, KeyCode::Char('-')),
        Effect::Interval(ms(50))
    );
    assert_eq!(
        press(&mut app, KeyCode::Char('-')),
        Effect::Interval(ms(50))
    );
    for _ in 0..20 {
        text(&mut app, "+");
    }
    assert_eq!(app.interval, Duration::from_secs(5));
    // An interval between two steps goes to the next one in the direction asked for.
    app.interval = ms(300);
    assert_eq!(
        press(&mut app, KeyCode::Char('-')),
        Effect::Interval(ms(200))
    );
    app.interval = ms(300);
    assert_eq!(
        press(&mut app, KeyCode::Char('+')),
        Effect::Interval(ms(500))
    );
    app.interval = Duration::from_secs(60);
    assert_eq!(
        press(&mut app, KeyCode::Char('-')),
        Effect::Interval(Duration::from_secs(5))
    );
}

#[test]
fn a_log_opens_at_its_end_and_stays_there() {
    let mut app = app();
    text(&mut app, "8");
    // What drawing found: 50 lines, 10 fit.
    (app.lines, app.page) = (50, 10);
    press(&mut app, KeyCode::Up);
    assert_eq!(app.scroll, 39);
    text(&mut app, "G");
    assert_eq!(app.scroll, usize::MAX, "what comes is followed");
    text(&mut app, "g");
    assert_eq!(app.scroll, 0);
    text(&mut app, "w");
    assert_eq!(
        (app.overlay, app.scroll),
        (Some(Overlay::Writes), usize::MAX)
    );
    text(&mut app, "w");
    assert_eq!((app.overlay, app.scroll), (None, usize::MAX));
}

#[test]
fn numbers_and_tab_go_to_views() {
    let mut app = app();
    for (number, view) in ('1'..='8').zip(View::ALL) {
        press(&mut app, KeyCode::Char(number));
        assert_eq!(app.view, view);
    }
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.view, View::Overview);
    press(&mut app, KeyCode::BackTab);
    assert_eq!(app.view, View::Log);
}

#[test]
fn themes_go_round_and_panes_expand() {
    let mut app = app();
    for theme in [Theme::COLOUR, Theme::LIGHT, Theme::SAFE, Theme::PLAIN] {
        text(&mut app, "t");
        assert_eq!(app.theme, theme);
        assert!(app.notice.is_some());
    }
    text(&mut app, "e");
    assert!(app.expanded && app.notice.is_none());
    press(&mut app, KeyCode::Esc);
    assert!(!app.expanded);
}

#[test]
fn x_asks_for_a_form_and_y_copies() {
    let mut app = app();
    text(&mut app, "x");
    assert_eq!(app.overlay, Some(Overlay::Export));
    assert_eq!(
        press(&mut app, KeyCode::Char('j')),
        Effect::Export(Format::Json)
    );
    assert_eq!(app.overlay, None);
    let json = super::export::json(&mut app);
    assert_eq!(json["view"], "locks");
    assert_eq!(json["emulated"], true);
    assert_eq!(
        json["rows"].as_array().map(Vec::len),
        Some(app.lock_rows().len())
    );
    for number in '1'..='8' {
        press(&mut app, KeyCode::Char(number));
        for open in [false, true] {
            if open {
                press(&mut app, KeyCode::Enter);
            }
            let was = app.detail_open;
            assert!(super::export::json(&mut app)["rows"].is_array());
            assert_eq!(app.detail_open, was);
        }
    }
    text(&mut app, "2");
    let Effect::Copy(copied) = press(&mut app, KeyCode::Char('y')) else {
        panic!("a text");
    };
    assert_eq!(copied, app.lock_rows()[0].name);
}

#[test]
fn the_mouse_selects_opens_and_scrolls() {
    use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
    use ratatui::layout::Rect;
    let mut app = app();
    let mouse = |app: &mut App, kind, row| {
        app.mouse(MouseEvent {
            kind,
            column: 3,
            row,
            modifiers: KeyModifiers::NONE,
        });
        app.refresh();
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    let line = |y| Rect {
        x: 0,
        y,
        width: 80,
        height: 1,
    };
    app.targets = vec![
        (line(2), super::Target::Tab(View::Entries)),
        (line(5), super::Target::Row(0)),
        (line(6), super::Target::Row(1)),
    ];
    mouse(&mut app, click, 6);
    assert_eq!((app.locks.index(), app.detail_open), (1, false));
    mouse(&mut app, click, 6);
    assert!(app.detail_open, "a second click opens");
    app.detail_open = false;
    app.touch();
    app.refresh();
    mouse(&mut app, MouseEventKind::ScrollDown, 0);
    assert_eq!(app.locks.index(), 4);
    mouse(&mut app, click, 2);
    assert_eq!(app.view, View::Entries);
    // Nothing is there.
    mouse(&mut app, click, 60);
}

#[test]
fn only_a_recording_can_be_sought_in() {
    let mut app = app();
    text(&mut app, "]");
    assert!(app.notice.as_ref().is_some_and(|notice| notice.failed));
}

#[test]
fn the_diagnosis_is_that_of_the_library() {
    use apscope_collector::diagnose::Case;
    let mut app = App::new(Theme::PLAIN, Duration::from_millis(100));
    let mut case = Case::default();
    for number in 0..30 {
        app.apply(&fixture::frame(number, 8));
        case.apply(&fixture::frame(number, 8));
    }
    app.refresh();
    assert_eq!(app.shown().report, case.report());
    // And again from the start.
    app.restart();
    for number in 0..30 {
        app.apply(&fixture::frame(number, 8));
    }
    app.refresh();
    assert_eq!(app.shown().report, case.report());
}

#[test]
fn how_a_run_ended() {
    let ended = |how: &str| {
        let mut app = app();
        let mut frame = fixture::frame(3, 8);
        frame.end = Some(End {
            how: how.into(),
            detail: "d".into(),
        });
        app.apply(&frame);
        app.closed();
        app.ending
    };
    assert_eq!(ended("finished"), Some(Ending::InOrder));
    assert_eq!(ended("stuck"), Some(Ending::InOrder));
    for how in ["detached", "driver unloaded"] {
        assert_eq!(ended(how), Some(Ending::Detached("d".into())));
    }
    assert_eq!(ended("source died"), Some(Ending::Died("d".into())));
    let mut app = app();
    app.closed();
    assert!(matches!(app.ending, Some(Ending::Died(_))));
}

#[test]
fn releases_of_keys_are_no_keys() {
    let mut app = app();
    let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    key.kind = crossterm::event::KeyEventKind::Release;
    assert_eq!(app.key(key), Effect::None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_sequence_of_keys_breaks_anything(keys in "[qjkgGsr/ 1-8l?+\\-hxwaetyzZnit>1msé!:,.\\[\\]]{0,40}", specials in 0_u64..u64::MAX) {
        let mut app = app();
        let mut specials = specials;
        for (n, c) in keys.chars().enumerate() {
            press(&mut app, KeyCode::Char(c));
            match specials % 7 {
                0 => { press(&mut app, KeyCode::Enter); }
                1 => { press(&mut app, KeyCode::Esc); }
                2 => { press(&mut app, KeyCode::Tab); }
                3 => { press(&mut app, KeyCode::Backspace); }
                4 => app.apply(&fixture::frame(3 + n as u64, 8)),
                _ => {}
            }
            specials /= 2;
            prop_assert!(app.detail_open == app.detail().is_some());
            let rows = app.row_count();
            let open = app.detail_open;
            if let Some(table) = app.listing() {
                prop_assert!(open || table.len() == rows, "{} of {}", table.len(), rows);
                prop_assert!(table.is_empty() || table.index() < table.len());
            }
        }
    }
}
