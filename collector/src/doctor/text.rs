//! The report as a page of at most 79 columns: the order of its parts. What a machine is, and what would be measured of
//! it, have modules of their own; so has the page itself.

mod machine;
mod measured;
mod page;

use super::{Problem, Report, Severity, Shown};
use page::{Mark, Page};

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// ASCII alone: not a terminal.
    pub ascii: bool,
    /// With colours.
    pub colour: bool,
}

/// The page.
pub fn text(report: &Report, style: Style) -> String {
    let mut page = Page::new(style);
    machine::write(&mut page, report);
    measured::write(&mut page, report);
    page.heading("what the dashboard shows");
    for Shown { what, shown, note } in &report.shows {
        let mark = if *shown { Mark::Yes } else { Mark::No };
        let line = match note.as_str() {
            "" => what.clone(),
            note => format!("{what}: {note}"),
        };
        page.item(mark, &line);
    }
    page.heading("blind spots");
    for spot in &report.blind_spots {
        page.item(Mark::Plain, spot);
    }
    problems(&mut page, report);
    page.heading("verdict");
    page.verdict(report);
    page.text
}

fn problems(page: &mut Page, report: &Report) {
    page.heading("what is missing");
    if report.problems.is_empty() {
        page.item(Mark::Plain, "nothing");
    }
    for Problem {
        severity,
        what,
        lost,
        remedy,
    } in &report.problems
    {
        let mark = match severity {
            Severity::Note => Mark::Plain,
            Severity::Degrades | Severity::Prevents => Mark::No,
        };
        page.item(mark, what);
        page.more("lost", lost);
        page.more("try", remedy);
    }
}
