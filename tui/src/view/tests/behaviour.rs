//! Styles, robustness, cost.

use std::time::Instant;

use apscope_collector::frame::{End, Frame, LogLine, Loss, ProgramLoss};
use apscope_collector::source::Link;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;

#[test]
fn only_the_terminals_own_colours_and_none_with_no_color() {
    let own = [
        Color::Reset,
        Color::Red,
        Color::Green,
        Color::Yellow,
        Color::Blue,
        Color::Magenta,
        Color::Cyan,
    ];
    for keys in [
        "1", "2", "3", "4", "5", "6", "7", "8", "?", "w", "x", " ", "/hold>", "3/rae>5",
    ] {
        for (theme, allowed) in [
            (Theme::COLOUR, &own[..]),
            (Theme::LIGHT, &own[..]),
            (Theme::SAFE, &own[..]),
            (Theme::PLAIN, &own[..1]),
        ] {
            for detail in [false, true] {
                let mut app = app(theme);
                app.apply(&dropping(30));
                if detail {
                    press(&mut app, &[KeyCode::Enter]);
                }
                text(&mut app, keys);
                let buffer = drawn(&mut app, 120, 40);
                for cell in &buffer.content {
                    assert!(allowed.contains(&cell.fg), "{keys}: {cell:?}");
                    assert!(allowed.contains(&cell.bg), "{keys}: {cell:?}");
                }
            }
        }
    }
}

#[test]
fn without_colours_the_words_are_the_same() {
    let mut coloured = app(Theme::COLOUR);
    let mut plain = app(Theme::PLAIN);
    assert_eq!(
        lines(&drawn(&mut coloured, 80, 24)),
        lines(&drawn(&mut plain, 80, 24))
    );
}

fn dropping(number: u64) -> Frame {
    Frame {
        loss: Some(Loss {
            received: 10,
            missed: 3,
            programs: vec![ProgramLoss {
                name: "lock_release".into(),
                cpu: 1,
                emitted: 1_244,
                dropped: 1_234,
            }],
            ..Loss::default()
        }),
        meta: None,
        ..fixture::frame(number, 8)
    }
}

fn style_of(buffer: &Buffer, word: &str) -> Vec<Color> {
    let text = lines(buffer);
    let (y, line) = text
        .lines()
        .enumerate()
        .find(|(_, line)| line.contains(word))
        .unwrap_or_else(|| panic!("no {word} in\n{text}"));
    let before = line.find(word).unwrap();
    let x = line[..before].chars().count();
    (x..x + word.chars().count())
        .map(|x| buffer[(x as u16, y as u16)].fg)
        .collect()
}

#[test]
fn drops_are_red_and_inexact_statistics_say_at_least() {
    let mut app = app(Theme::COLOUR);
    assert!(
        style_of(&drawn(&mut app, 80, 24), "dropped 0")
            .iter()
            .all(|c| *c != Color::Red)
    );
    assert_eq!(style_of(&drawn(&mut app, 80, 24), "exact")[0], Color::Green);
    app.apply(&dropping(30));
    let buffer = drawn(&mut app, 80, 24);
    assert!(
        style_of(&buffer, "DROPPED 1,234")
            .iter()
            .all(|c| *c == Color::Red)
    );
    assert_eq!(style_of(&buffer, "AT LEAST")[0], Color::Yellow);
    assert!(lines(&buffer).contains("missed 3"));
    // Even where little fits.
    assert!(lines(&drawn(&mut app, 20, 6)).contains("DROPPED 1,234"));
}

#[test]
fn paused_picture_stands_while_data_are_folded() {
    let mut app = app(Theme::COLOUR);
    text(&mut app, " ");
    let before = lines(&drawn(&mut app, 80, 24));
    assert!(before.contains("PAUSED 0 behind"), "{before}");
    for number in 30..45 {
        app.apply(&fixture::frame(number, 8));
    }
    let after = lines(&drawn(&mut app, 80, 24));
    assert!(after.contains("PAUSED 1.50s behind"), "{after}");
    assert!(after.contains("EMULATED"));
    assert_eq!(
        before.lines().skip(1).collect::<Vec<_>>(),
        after.lines().skip(1).collect::<Vec<_>>()
    );
    text(&mut app, " ");
    let going = lines(&drawn(&mut app, 80, 24));
    assert!(!going.contains("PAUSED"));
    assert_ne!(
        going.lines().nth(5),
        after.lines().nth(5),
        "the new data show"
    );
}

#[test]
fn a_link_that_is_down_leaves_the_last_figures_under_a_banner() {
    let mut app = app(Theme::COLOUR);
    app.link = Link::Down("Connection refused (os error 111)".into());
    let picture = lines(&drawn(&mut app, 100, 24));
    app.away = Some(Duration::from_secs(12));
    let narrow = lines(&drawn(&mut app, 80, 24));
    assert!(
        narrow.contains(" LINK DOWN for 12s, trying again: Connection refused\n"),
        "{narrow}"
    );
    assert!(!narrow.contains("os error"), "{narrow}");
    text(&mut app, "1");
    let old = lines(&drawn(&mut app, 80, 24));
    assert!(old.contains(" as of 12s ago "), "{old}");
    assert!(picture.contains("EMULATED"), "{picture}");
    app.link = Link::Down(
        "a reason that is far longer than what is left of a line of eighty columns".into(),
    );
    let cut = lines(&drawn(&mut app, 80, 24));
    let banner = cut.lines().find(|line| line.contains("LINK DOWN")).unwrap();
    assert!(banner.ends_with('…'), "{banner}");
    app.link = Link::Up;
    app.away = None;
    assert!(!lines(&drawn(&mut app, 100, 24)).contains("LINK DOWN"));
}

#[test]
fn a_run_that_ended_elsewhere_says_since_when() {
    let mut app = app(Theme::COLOUR);
    app.ending = Some(crate::state::Ending::Over);
    app.away = Some(Duration::from_secs(75));
    let picture = lines(&drawn(&mut app, 80, 24));
    assert!(
        picture.contains(" ENDED over there 1m15s ago, waiting for another (q quits)"),
        "{picture}"
    );
}

#[test]
fn the_mark_of_the_selected_row_leaves_drawings_as_they_are() {
    let mut app = app(Theme::COLOUR);
    for key in ["2", "3"] {
        text(&mut app, key);
        let buffer = drawn(&mut app, 200, 30);
        let reversed = |cell: &ratatui::buffer::Cell| {
            cell.modifier.contains(ratatui::style::Modifier::REVERSED)
        };
        let blocks = |cell: &ratatui::buffer::Cell| {
            let c = cell.symbol().chars().next();
            c.is_some_and(|c| ('▁'..='█').contains(&c))
        };
        let y = (6..30).find(|&y| reversed(&buffer[(0, y)])).unwrap();
        let drawn: Vec<_> = (0..200)
            .map(|x| &buffer[(x, y)])
            .filter(|c| blocks(c))
            .collect();
        assert!(!drawn.is_empty());
        assert!(drawn.iter().all(|cell| !reversed(cell)));
    }
}

#[test]
fn dead_source_leaves_its_figures_under_a_banner() {
    let mut app = app(Theme::COLOUR);
    let table = lines(&drawn(&mut app, 80, 24));
    app.apply(&Frame {
        end: Some(End {
            how: "source died".into(),
            detail: "the emulator was killed by signal 9".into(),
        }),
        ..dropping(30)
    });
    let picture = lines(&drawn(&mut app, 80, 24));
    assert!(
        picture.contains("SOURCE DIED (q quits): the emulator was killed by signal 9"),
        "{picture}"
    );
    assert!(table.contains("kvm_busy*") && picture.contains("kvm_busy*"));
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    let mut app = app(Theme::COLOUR);
    let mut frame = fixture::frame(30, 8);
    for task in frame.live.iter_mut().flat_map(|live| &mut live.tasks) {
        task.comm = "\u{1b}[2J\u{7}漢字漢字\u{200d}".into();
        for call in &mut task.inside {
            call.on_behalf_of_pid = 1;
            call.on_behalf_of_comm = "\u{1b}[2J\u{7}漢字".into();
        }
    }
    let mut written = fixture::frame(12, 8).spans.expect("this frame has writes");
    written.on_behalf_of_comms.fill("\u{1b}[2J\n".into());
    written
        .extra
        .fill(u64::from_le_bytes(*b"\x1b[2J\x07\n\r\t"));
    frame.spans = Some(written);
    frame.log = vec![LogLine {
        at_ns: 0,
        level: "warn\u{1b}".into(),
        text: "a\u{1b}]0;b\u{7}\nc".into(),
    }];
    app.apply(&frame);
    for keys in ["1", "2", "4", "6", "7", "8", "?", "w"] {
        for detail in [false, true] {
            text(&mut app, keys);
            if detail {
                press(&mut app, &[KeyCode::Esc, KeyCode::Enter]);
            }
            for cell in &drawn(&mut app, 100, 30).content {
                assert!(!cell.symbol().contains(char::is_control), "{cell:?}");
            }
        }
    }
}

#[test]
fn every_size_can_be_drawn() {
    let sizes = (1..=12).flat_map(|w| (1..=8).map(move |h| (w, h))).chain([
        (1, 90),
        (300, 1),
        (59, 10),
        (60, 5),
        (81, 25),
        (139, 24),
        (141, 24),
        (300, 90),
    ]);
    let mut states = Vec::new();
    for keys in [
        "1", "2", "3", "4", "5", "6", "7", "8", "?", "w", "x", "/wait>x", " ", "1e", "5e", "7e",
    ] {
        for detail in [false, true] {
            let mut app = app(Theme::COLOUR);
            if detail {
                press(&mut app, &[KeyCode::Enter]);
            }
            text(&mut app, keys);
            states.push(app);
        }
    }
    states.push(App::new(Theme::PLAIN, Duration::from_millis(100)));
    for (width, height) in sizes {
        for app in &mut states {
            drawn(app, width, height);
            // Keys after a resize find sizes that fit.
            text(app, "jGkg");
            drawn(app, width, height);
        }
    }
}

#[test]
fn resizing_keeps_the_selection_on_screen() {
    let mut app = app(Theme::COLOUR);
    text(&mut app, "G");
    for height in [24, 9, 60, 7] {
        let picture = lines(&drawn(&mut app, 80, height));
        assert!(picture.contains("rwsem write"), "{height}:\n{picture}");
    }
}

/// The most that one redraw may take with 200 guests. Compared with the fastest of many redraws: what the machine does
/// besides must not count.
const REDRAW: Duration = Duration::from_millis(4);

#[test]
fn redraw_with_200_guests_is_cheap() {
    for keys in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        for detail in [false, true] {
            let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
            for number in 0..5 {
                app.apply(&fixture::frame(number, 200));
            }
            text(&mut app, keys);
            if detail {
                press(&mut app, &[KeyCode::Enter]);
            }
            let mut terminal = Terminal::new(TestBackend::new(200, 60)).unwrap();
            let fastest = (5..36)
                .map(|number| {
                    app.apply(&fixture::frame(number, 200));
                    let start = Instant::now();
                    terminal
                        .draw(|frame| super::super::draw(frame, &mut app))
                        .unwrap();
                    start.elapsed()
                })
                .min();
            assert!(
                fastest <= Some(REDRAW),
                "{keys:?} detail {detail}: {fastest:?}"
            );
        }
    }
}
