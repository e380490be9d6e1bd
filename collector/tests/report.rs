//! The report: that it is there whole, loads nothing, and that nothing from a recording becomes part of the page.
// Parquet, which is among all exports, is there on these machines alone.
#![cfg(target_endian = "little")]

mod export_files;
mod model_frames;

use apscope_collector::export::Origin;
use apscope_collector::frame::Frame;
use export_files::exports;
use model_frames::{add_writers, kernel_run, run};

fn page(frames: &[Frame]) -> String {
    let (_, mut files) = exports(frames, Origin::Live);
    String::from_utf8(files.remove("report.html").unwrap()).unwrap()
}

/// Elements that were opened and not closed, or closed and not opened.
fn unbalanced(page: &str) -> Vec<String> {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    let mut wrong = Vec::new();
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, next) = after.split_once('>').unwrap_or((after, ""));
        rest = next;
        let name: String = tag.chars().take_while(|c| !c.is_whitespace()).collect();
        if let Some(name) = name.strip_prefix('/') {
            if open.pop().as_deref() != Some(name) {
                wrong.push(name.to_owned());
            }
        } else if !VOID.contains(&name.as_str()) {
            // What is in these is no HTML.
            for raw in ["style", "script"] {
                if name == raw {
                    rest = rest
                        .split_once(&format!("</{raw}>"))
                        .map_or("", |(_, after)| after);
                }
            }
            if !["style", "script"].contains(&name.as_str()) {
                open.push(name);
            }
        }
    }
    wrong.extend(open);
    wrong
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let mut frames = run(20);
    add_writers(frames.last_mut().unwrap());
    for frames in [frames, kernel_run(5, 1), kernel_run(5, 0), run(1)] {
        let page = page(&frames);
        assert_eq!(unbalanced(&page), [""; 0]);
        for id in [
            "findings",
            "live",
            "locks",
            "entries",
            "order",
            "objects",
            "environment",
        ] {
            assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
            assert!(page.contains(&format!("href=\"#{id}\"")));
        }
        for outside in ["src=", "href=\"h", "@import", "url(h", "//cdn"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(
            page.contains("<svg class=\"distribution\"") || frames.len() == 1,
            "histograms"
        );
    }
}

#[test]
fn the_page_says_what_was_measured_and_how_exactly() {
    let emulated = page(&run(5));
    assert!(emulated.contains("This is the emulated driver, not a real machine."));
    assert!(emulated.contains("counts are exact"));
    assert!(emulated.contains("records of detail were lost"));
    let kernel = page(&kernel_run(5, 1));
    assert!(!kernel.contains("EMULATED"));
    assert!(kernel.contains("only acquisitions that had to wait are seen"));
    assert!(kernel.contains("NQAP and DQAP"), "blind spots");
    assert!(page(&kernel_run(5, 0)).contains("nothing is counted"));
}

#[test]
fn what_frames_say_stays_text() {
    const HOSTILE: &str = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>";
    let mut frames = run(3);
    for frame in &mut frames {
        if let Some(meta) = &mut frame.meta {
            for text in [
                &mut meta.generation,
                &mut meta.scenario,
                &mut meta.reason,
                &mut meta.version,
            ] {
                *text = HOSTILE.to_owned();
            }
            for instance in &mut meta.instances {
                instance.name = HOSTILE.to_owned();
            }
        }
        for task in frame.live.iter_mut().flat_map(|live| &mut live.tasks) {
            task.comm = HOSTILE.to_owned();
        }
        for edge in &mut frame.edges {
            edge.first_comm = HOSTILE.to_owned();
        }
    }
    let page = page(&frames);
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains("<img"));
    assert_eq!(page.matches("<script>").count(), 1, "our own");
    assert!(page.contains("&lt;script&gt;alert"));
    assert_eq!(unbalanced(&page), [""; 0]);
}
