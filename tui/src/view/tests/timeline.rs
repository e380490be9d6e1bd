//! What the timeline says of spans that are kept no more.

use apscope_collector::frame::{Live, Spans};
use probe_ebpf::abi;

use super::*;
use crate::state::history::SPANS;

const STEP_NS: u64 = 50_000;

/// Two tasks that take turns with a lock, and as many spans as are kept and a quarter more: over two seconds and a little.
fn overfull() -> App {
    let mut app = App::new(Theme::COLOUR, Duration::from_millis(100));
    app.apply(&fixture::frame(0, 8));
    let begin = fixture::START + 100_000_000;
    let count = SPANS as u64 * 5 / 4;
    let spans: Vec<abi::Span> = (0..count)
        .map(|n| abi::Span {
            start_ns: begin + n * STEP_NS,
            duration_ns: STEP_NS / 2,
            extra: 0,
            tid: 70 + (n % 2) as u32,
            instance: abi::NO_INSTANCE,
            result: 0,
            kind: abi::SPAN_LOCK,
            what: 0,
            inside: 0,
            flags: 0,
        })
        .collect();
    // As they come: a tick after the other.
    for (number, spans) in (1..).zip(spans.chunks(2_000)) {
        let at_ns = spans.last().unwrap().start_ns + STEP_NS;
        app.apply(&Frame {
            number,
            at_ns,
            at_unix_ns: at_ns,
            live: Some(Live::default()),
            spans: Some(Spans::encode(at_ns, spans, |tid| format!("turn-{tid}"))),
            ..Frame::default()
        });
    }
    app.show(View::Timeline);
    app
}

/// The bars in a lane, and where they begin.
fn lane(picture: &str, task: &str) -> (String, usize) {
    let line = picture.lines().find(|line| line.starts_with(task)).unwrap();
    let bars: String = line.chars().filter(|c| *c == '█').collect();
    (bars, line.chars().position(|c| c == '█').unwrap())
}

#[test]
fn it_says_since_when_there_are_spans_and_under_the_cursor_that_they_have_gone() {
    let mut app = overfull();
    // 1.64 s of the two that are shown: since the first one that is kept ended.
    let kept_ns = SPANS as u64 * STEP_NS - STEP_NS / 2;
    let since = format!("-{}", crate::format::duration(kept_ns));
    for (width, height) in SIZES {
        let picture = lines(&drawn(&mut app, width, height));
        assert!(
            picture.contains(&format!("spans since {since}")),
            "{since} in\n{picture}"
        );
        assert!(!picture.contains("kept no more"), "{picture}");
        // The lane is empty where they have gone, and only there.
        let cells = usize::from(width) - "turn-70 (70)  ".len();
        let (bars, begin) = lane(&picture, "turn-70");
        let gone = cells - bars.chars().count();
        assert!((cells / 6..cells / 5).contains(&gone), "{gone}:\n{picture}");
        assert_eq!(begin, "turn-70 (70)  ".len() + gone, "{picture}");
    }
    // To the begin of the window.
    press(&mut app, &[KeyCode::Left; 40]);
    for (width, height) in SIZES {
        let picture = lines(&drawn(&mut app, width, height));
        let gone = format!("turn-70 (70): spans of then are kept no more (since {since})");
        assert!(picture.contains(&gone), "{gone} in\n{picture}");
    }
    // A part of time that is before all of them: nothing may have been traced in it, or much.
    text(&mut app, "zzz");
    press(&mut app, &[KeyCode::Left; 4]);
    let picture = lines(&drawn(&mut app, 80, 24));
    let gone = format!("spans of then are kept no more (since {since})");
    assert!(picture.contains(&gone), "{gone} in\n{picture}");
    assert!(!picture.contains("nothing was traced"), "{picture}");
    // Between two spans of one that are there, the sentence is another one; and none of it where nothing is missing.
    let mut app = app_of_few();
    press(&mut app, &[KeyCode::Left; 40]);
    let picture = lines(&drawn(&mut app, 120, 40));
    assert!(!picture.contains("spans since"), "{picture}");
    assert!(
        picture.contains("nothing traced under the cursor"),
        "{picture}"
    );
}

/// A run that has spans of its last moment only.
fn app_of_few() -> App {
    let mut app = app(Theme::COLOUR);
    app.show(View::Timeline);
    text(&mut app, "/task:pv*");
    press(&mut app, &[KeyCode::Enter]);
    app
}
