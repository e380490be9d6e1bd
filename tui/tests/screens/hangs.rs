//! What filters, lengths and ranks say of a hang, on recordings of the emulated driver.

use std::time::Duration;

use apscope_collector::model::query;
use apscope_tui::state::{App, View};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::support::{at, drawn};

fn hang() -> App {
    at("se-start-v5.13", Duration::MAX)
}

fn press(app: &mut App, code: KeyCode) {
    app.key(KeyEvent::new(code, KeyModifiers::NONE));
    app.refresh();
}

fn filter(app: &mut App, view: View, text: &str) {
    app.show(view);
    press(app, KeyCode::Esc);
    for c in format!("/{text}").chars() {
        press(app, KeyCode::Char(c));
    }
}

#[test]
fn a_guests_filter_keeps_the_finding_that_hangs_it() {
    let mut app = hang();
    for view in [View::Overview, View::Findings] {
        for text in [
            "guest:0",
            "guest:guest-0",
            "class:vcpu",
            "class:kvm_busy",
            "task:vcpu*",
        ] {
            filter(&mut app, view, text);
            press(&mut app, KeyCode::Enter);
            let picture = drawn(&mut app, (80, 24));
            assert!(picture.contains("AP001"), "{text}:\n{picture}");
        }
        filter(&mut app, view, "guest:77");
        press(&mut app, KeyCode::Enter);
        let picture = drawn(&mut app, (80, 24));
        assert!(!picture.contains("no findings"), "{picture}");
        assert!(picture.contains("hidden by the filter: Esc"), "{picture}");
    }
}

#[test]
fn locks_and_spans_are_those_of_the_guests_that_wait_for_them() {
    let mut app = hang();
    filter(&mut app, View::Locks, "class:kvm guest:0 wait>1ms");
    assert!(!app.lock_rows().is_empty());
    filter(&mut app, View::Locks, "guest:0 task:vcpu* wait>1s");
    assert!(!app.lock_rows().is_empty(), "what goes on counts");
    filter(&mut app, View::Locks, "guest:77");
    assert!(app.lock_rows().is_empty());
    // The driver's lock has no guest; the vCPU that took it has.
    let mut app = at("steady-v5.13", Duration::MAX);
    filter(&mut app, View::Log, "task:vcpu* guest:0 class:matrix_dev");
    assert!(!app.rows().stream.is_empty());
    filter(&mut app, View::Log, "task:vcpu* guest:77 class:matrix_dev");
    assert!(app.rows().stream.is_empty());
}

#[test]
fn what_a_view_does_not_have_is_an_error_in_its_place() {
    let mut app = hang();
    for (view, text, error) in [
        (View::Entries, "guest:3", "this view has no guests"),
        (View::Locks, "latency>1s", "this view has no latencies"),
        (View::Timeline, "class:kvm", "this view has no classes"),
    ] {
        filter(&mut app, view, text);
        let picture = drawn(&mut app, (80, 24));
        assert!(picture.contains(error), "{picture}");
        press(&mut app, KeyCode::Esc);
    }
}

#[test]
fn a_wait_has_one_length() {
    let whole = hang();
    let replay = whole.replay.as_ref().unwrap();
    let mark = replay.marks.iter().find(|mark| mark.id == "AP001").unwrap();
    let found = Duration::from_nanos(mark.from_ns - replay.range().0);
    let mut stale = 0;
    for ticks in 1..9 {
        let mut app = at("se-start-v5.13", found + Duration::from_millis(130 * ticks));
        app.refresh();
        let row = app.rows().findings.iter().find(|row| row.finding.id.0 == 1);
        let row = row.unwrap_or_else(|| panic!("AP001 after {ticks} ticks"));
        stale += u32::from(row.told_ago_ns > 0);
        let chain = row.finding.seen.chain.as_ref().unwrap();
        let chain = chain.later(row.told_ago_ns);
        let waiters = query::waiters(&app.shown().model);
        let waiter = waiters
            .iter()
            .find(|waiter| waiter.tid == chain.task.tid && waiter.innermost);
        assert_eq!(chain.waits.unwrap().for_ns, waiter.unwrap().for_ns);
    }
    assert!(stale > 3, "texts are told once a second: {stale}");
}

#[test]
fn a_call_that_hangs_and_a_wait_that_goes_on_come_first() {
    let mut app = at("stuck-reset-v6.6", Duration::MAX);
    let picture = drawn(&mut app, (80, 24));
    let line = picture
        .lines()
        .skip_while(|line| !line.contains("slowest entry points"))
        .nth(1)
        .unwrap();
    assert!(line.contains("s+"), "{picture}");
    app.show(View::Entries);
    app.refresh();
    let first = &app.entry_rows()[0];
    assert!(!first.long_is_normal());
    assert!(first.inside_ns() > first.facts.latency.p99_ns);
    app.show(View::Locks);
    let picture = drawn(&mut app, (80, 24));
    assert!(
        picture.contains("queue") && picture.contains(" now "),
        "{picture}"
    );
    let first = &app.lock_rows()[0];
    assert!(first.facts.longest_wait_ns > first.facts.wait.p99_ns);
    assert!(picture.contains("holder"), "{picture}");
}

#[test]
fn the_timeline_goes_to_the_begin_of_a_wait_and_back_to_now() {
    for back in [KeyCode::Esc, KeyCode::End, KeyCode::Char('G')] {
        let mut app = hang();
        app.show(View::Timeline);
        app.refresh();
        let first = app.rows().lanes.get(0).unwrap();
        let begins: Vec<u64> = first.bars().map(|bar| bar.from_ns).collect();
        press(&mut app, KeyCode::Enter);
        let now = app.shown().model.last.at_ns;
        assert!(begins.contains(&app.window.cursor_ns(now)));
        assert!(app.window.elsewhere());
        press(&mut app, back);
        assert!(!app.window.elsewhere());
    }
}
