//! The sections of the page.

pub mod entries;
pub mod environment;
pub mod findings;
pub mod live;
pub mod locks;
pub mod objects;
pub mod order;

use maud::{Markup, html};

use super::Collected;
use crate::diagnose::Report;
use crate::diagnose::words::duration;
use crate::export::json::Document;
use crate::model::Model;

/// What sections are made of.
pub struct Known<'a> {
    /// The run.
    pub model: &'a Model,
    /// What is the matter.
    pub report: &'a Report,
    /// Both, as they are exported.
    pub document: &'a Document,
    /// What the model does not keep.
    pub collected: &'a Collected,
}

/// A cell of a table.
enum Cell {
    Text(String),
    /// In a fixed-width font.
    Code(String),
    Count(u64),
    /// A part of a whole, as a percentage.
    Share(u64, u64),
    /// Nanoseconds; nothing where there is no value.
    Time(Option<u64>),
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn code(text: impl Into<String>) -> Self {
        Self::Code(text.into())
    }

    fn draw(&self) -> Markup {
        match self {
            Self::Text(text) => html! { td { (text) } },
            Self::Code(text) => html! { td { code { (text) } } },
            Self::Count(count) => html! { td.number data-v=(count) { (grouped(*count)) } },
            Self::Share(part, whole) => {
                html! { td.number data-v=(*part as f64 / (*whole).max(1) as f64) { (percent(*part, *whole)) } }
            }
            Self::Time(None) => html! { td.number data-v="-1" { "–" } },
            Self::Time(Some(ns)) => {
                html! { td.number data-v=(ns) { (duration(*ns).replace("us", "µs")) } }
            }
        }
    }

    const fn is_number(&self) -> bool {
        matches!(self, Self::Count(_) | Self::Share(..) | Self::Time(_))
    }
}

/// A table that can be sorted where scripts are allowed.
fn table(heads: &[&str], rows: &[Vec<Cell>]) -> Markup {
    let number = |at: usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(at));
        cells.next().is_some_and(Cell::is_number)
    };
    html! {
        div.wide {
            table.sortable {
                thead {
                    tr {
                        @for (at, head) in heads.iter().enumerate() {
                            th.number[number(at)] scope="col" { (head) }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr { @for cell in row { (cell.draw()) } }
                    }
                }
            }
        }
    }
}

/// Digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A share in percent.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// A picture with what it shows.
fn figure(picture: Option<Markup>, caption: &Markup) -> Markup {
    html! {
        @if let Some(picture) = picture {
            figure {
                figcaption { (caption) }
                (picture)
            }
        }
    }
}

/// How pictures of distributions are read.
fn legend() -> Markup {
    html! {
        p.key {
            "Bars: how many values were how long, four bars to each power of two. Heights are logarithmic, the numbers at the left "
            "are counts. Over time: each column is a while, each row a power of two of time, and the stronger the colour, the "
            "more values; shades are logarithmic too."
        }
    }
}
