//! A table whose columns adapt to the width.
//!
//! Every column has a width and a rank. Columns are taken by rank while they fit; what is left over goes to the
//! columns that can grow. The first column is never narrower than its longest cell, so names are not cut, except
//! where even the name alone does not fit.

use ratatui::Frame;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::state::Target;
use crate::state::table::{self as state, TableState};
use crate::theme::Theme;

/// A column as a view declares it.
#[derive(Debug, Clone, Copy)]
pub struct Spec<C: 'static> {
    /// Sorting by it, where that is possible.
    pub sort: Option<C>,
    /// First line of the header; the mark of the order goes behind it.
    pub over: &'static str,
    /// Second line of the header.
    pub title: &'static str,
    /// Columns on screen at least, and at most.
    pub width: (usize, usize),
    /// Columns of low rank come first.
    pub rank: u8,
    /// Text, which stands to the left although it can be sorted by.
    pub left: bool,
    /// A drawing, which reversed would be another one: the mark of the selected row leaves it as it is.
    pub drawn: bool,
}

/// A column. `over` and `title` are the two lines of its header.
#[must_use]
pub const fn spec<C: Copy>(
    sort: Option<C>,
    over: &'static str,
    title: &'static str,
    width: (usize, usize),
    rank: u8,
) -> Spec<C> {
    Spec {
        sort,
        over,
        title,
        width,
        rank,
        left: false,
        drawn: false,
    }
}

impl<C> Spec<C> {
    /// The same with a drawing in it.
    #[must_use]
    pub const fn drawn(mut self) -> Self {
        self.drawn = true;
        self
    }

    /// The same with its text to the left.
    #[must_use]
    pub const fn to_the_left(mut self) -> Self {
        self.left = true;
        self
    }
}

/// The columns of a table as they are drawn: the first one as wide as its longest cell.
pub fn columns<C: state::Column, I>(
    specs: &[Spec<C>],
    longest: usize,
    table: &TableState<C, I>,
) -> Vec<Column> {
    specs
        .iter()
        .enumerate()
        .map(|(i, spec)| {
            let sorted = spec.sort == Some(table.sort);
            Column {
                over: spec.over,
                title: spec.title,
                width: if i == 0 { longest } else { spec.width.0 },
                max: if i == 0 { longest } else { spec.width.1 },
                // An order by something that is not on screen would look like no order.
                rank: if sorted { spec.rank.min(1) } else { spec.rank },
                right: i > 0 && spec.sort.is_some() && !spec.left,
                sorted: sorted.then_some(table.descending),
                drawn: spec.drawn,
            }
        })
        .collect()
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// First line of the header.
    pub over: &'static str,
    /// Second line of the header.
    pub title: &'static str,
    /// Columns on screen at least.
    pub width: usize,
    /// Columns on screen at most, where there is room to spare.
    pub max: usize,
    /// Columns of low rank come first.
    pub rank: u8,
    /// Numbers stand to the right.
    pub right: bool,
    /// The table is sorted by it: `Some(true)` the largest first.
    pub sorted: Option<bool>,
    /// A drawing, see [`Spec::drawn`].
    pub drawn: bool,
}

/// Chosen columns, by index, with their widths.
#[must_use]
pub fn fit(columns: &[Column], width: usize) -> Vec<(usize, usize)> {
    let mut by_rank: Vec<usize> = (0..columns.len()).collect();
    by_rank.sort_by_key(|&i| columns[i].rank);
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    let mut used = 0;
    for i in by_rank {
        let gap = usize::from(!chosen.is_empty());
        if chosen.is_empty() || used + gap + columns[i].width <= width {
            let own = columns[i].width.min(width);
            chosen.push((i, own));
            used += gap + own;
        }
    }
    for (i, own) in &mut chosen {
        let more = (width - used.min(width)).min(columns[*i].max.saturating_sub(*own));
        *own += more;
        used += more;
    }
    chosen.sort_unstable();
    chosen
}

/// A cell: text and style.
pub type Cell = (String, Style);

/// Draws header and rows; returns how many rows fit. `cell` is asked only for the cells that are on screen.
pub fn draw(
    frame: &mut Frame,
    area: Rect,
    theme: Theme,
    columns: &[Column],
    rows: Rows,
    mut cell: impl FnMut(usize, usize, usize) -> Cell,
) {
    let fitted = fit(columns, usize::from(area.width));
    let mut lines = Vec::with_capacity(usize::from(area.height));
    for upper in [true, false] {
        if !upper || area.height > 6 {
            lines.push(line(fitted.iter().map(|&(i, width)| {
                let c = &columns[i];
                let text = if upper { c.over } else { c.title };
                let text = match c.sorted {
                    Some(descending) if upper => {
                        format!("{text}{}", if descending { '▼' } else { '▲' })
                    }
                    _ => text.to_owned(),
                };
                (pad(&text, width, c.right), theme.header())
            })));
        }
    }
    let room = usize::from(area.height).saturating_sub(lines.len());
    for row in (rows.first..rows.count).take(room) {
        let mut row_line = line(fitted.iter().map(|&(i, width)| {
            let (text, style) = cell(row, i, width);
            (pad(&text, width, columns[i].right), style)
        }));
        if rows.selected == Some(row) {
            // Reverse video over the whole row, whatever the cells' colours. Between two cells there is a blank.
            let rest = usize::from(area.width).saturating_sub(row_line.width());
            row_line.spans.push(Span::raw(" ".repeat(rest)));
            for (place, span) in row_line.spans.iter_mut().enumerate() {
                let cell = place
                    .is_multiple_of(2)
                    .then(|| fitted.get(place / 2))
                    .flatten();
                if !cell.is_some_and(|&(column, _)| columns[column].drawn) {
                    span.style = theme.selected();
                }
            }
        }
        lines.push(row_line);
    }
    frame.render_widget(Paragraph::new(lines).alignment(Alignment::Left), area);
}

/// Which rows to draw.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// First row on screen.
    pub first: usize,
    /// Rows there are.
    pub count: usize,
    /// The selected one.
    pub selected: Option<usize>,
}

/// Where the rows of a table stand, for the mouse.
pub fn targets(area: Rect, first: usize, count: usize) -> impl Iterator<Item = (Rect, Target)> {
    let room = room(area);
    let top = area.y + area.height - room as u16;
    (first..count).take(room).zip(top..).map(move |(row, y)| {
        let line = Rect {
            y,
            height: 1,
            ..area
        };
        (line, Target::Row(row))
    })
}

/// Rows that fit below the header.
#[must_use]
pub fn room(area: Rect) -> usize {
    usize::from(area.height).saturating_sub(if area.height > 6 { 2 } else { 1 })
}

fn line(cells: impl Iterator<Item = Cell>) -> Line<'static> {
    let mut spans = Vec::new();
    for (text, style) in cells {
        if !spans.is_empty() {
            spans.push(Span::raw(" "));
        }
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

/// Text in exactly `width` columns; what is cut off leaves an ellipsis.
#[must_use]
pub fn pad(text: &str, width: usize, right: bool) -> String {
    let text = cut(text, width);
    let rest = " ".repeat(width.saturating_sub(Span::raw(text.as_str()).width()));
    if right { rest + &text } else { text + &rest }
}

/// Text in at most `width` columns; what is cut off leaves an ellipsis.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    let mut buffer = [0; 4];
    for c in text.chars() {
        let wide = Span::raw(&*c.encode_utf8(&mut buffer)).width();
        if used + wide + 1 > width {
            break;
        }
        used += wide;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(width: usize, max: usize, rank: u8) -> Column {
        Column {
            over: "",
            title: "",
            width,
            max,
            rank,
            right: false,
            sorted: None,
            drawn: false,
        }
    }

    #[test]
    fn columns_go_by_rank_and_keep_their_places() {
        let columns = [column(10, 10, 0), column(6, 6, 2), column(6, 9, 1)];
        assert_eq!(fit(&columns, 30), [(0, 10), (1, 6), (2, 9)]);
        assert_eq!(fit(&columns, 20), [(0, 10), (2, 9)]);
        assert_eq!(fit(&columns, 12), [(0, 10)]);
        assert_eq!(fit(&columns, 4), [(0, 4)]);
    }

    #[test]
    fn cut_text_says_so() {
        assert_eq!(cut("matrix_dev->lock", 8), "matrix_…");
        assert_eq!(pad("ab", 4, true), "  ab");
        assert_eq!(cut("ab", 0), "");
    }

    proptest! {
        #[test]
        fn never_wider_than_there_is_room(
            widths in proptest::collection::vec((0_usize..30, 0_usize..40, 0_u8..9), 1..14), width in 0_usize..300
        ) {
            let columns: Vec<Column> = widths.iter().map(|&(w, m, r)| column(w, m, r)).collect();
            let fitted = fit(&columns, width);
            let used: usize = fitted.iter().map(|f| f.1).sum::<usize>() + fitted.len() - 1;
            prop_assert!(used <= width.max(fitted.len() - 1));
        }

        #[test]
        fn padding_is_exact(text in "\\PC{0,40}", width in 0_usize..50, right: bool) {
            prop_assert!(Span::raw(pad(&text, width, right)).width() <= width.max(1));
        }
    }
}
