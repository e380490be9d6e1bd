#![allow(warnings)]
#[path = "../src/fixture.rs"]
mod fixture;
use std::sync::Arc;
use std::time::Duration;
fn main() {
    let (tx, rx) = tokio::sync::mpsc::channel(64);
    let die = std::env::args().nth(1);
    if die.as_deref() == Some("uipanic") {
        let g = apscope_tui::terminal::Guard::take().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        panic!("ui boom");
    }
    let _ = std::thread::Builder::new()
        .name("source".into())
        .spawn(move || {
            for n in 0.. {
                let mut f = fixture::frame(n, 8);
                if n == 50 && die.as_deref() == Some("die") {
                    f.end = Some(apscope_collector::frame::End {
                        how: "source died".into(),
                        detail: "killed by signal 9".into(),
                    });
                }
                if n == 50 && die.as_deref() == Some("panic") {
                    panic!("boom");
                }
                if n == 30 && die.as_deref() == Some("end") {
                    f.end = Some(apscope_collector::frame::End {
                        how: "finished".into(),
                        detail: "".into(),
                    });
                }
                let end = f.end.is_some();
                if tx.blocking_send(Arc::new(f)).is_err() || end {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    let s = apscope_collector::source::Session { frames: rx };
    let r = apscope_tui::app::watch(
        s,
        Duration::from_millis(100),
        None,
        apscope_tui::theme::Theme::COLOUR,
    );
    match r {
        Ok(()) => println!("ok"),
        Err(e) => std::process::exit(if format!("{:?}", e.report()).len() > 0 {
            2
        } else {
            0
        }),
    }
}
