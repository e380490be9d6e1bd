//! How the state looks.
//!
//! [`draw`] puts the whole picture into a frame of any size: header, the current view, and a footer with the last
//! message and the keys. Where there is little room, lines and columns go by importance, and nothing panics.
//! Nothing here changes what is known; only the sizes that scrolling needs are written back.

mod detail;
mod entries;
mod footer;
mod header;
mod help;
mod histogram;
mod locks;
mod log;
pub mod table;
mod writes;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use crate::state::{App, Overlay, View};

/// Draws the dashboard.
pub fn draw(frame: &mut Frame, app: &mut App) {
    app.refresh();
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let banner = header::banner(app);
    let head = header::lines(app, area.width, header_height(area.height));
    let foot = footer::lines(app, area.width, footer_height(area.height));
    let [head_area, banner_area, body, foot_area] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(u16::from(banner.is_some())),
        Constraint::Fill(1),
        Constraint::Length(foot.len() as u16),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), head_area);
    if let Some(banner) = banner {
        frame.render_widget(
            Paragraph::new(banner).style(app.theme.banner()),
            banner_area,
        );
    }
    match (app.overlay, app.detail_open, app.view) {
        (Some(Overlay::Log), ..) => {
            let lines = log::lines(app);
            scrolled(frame, app, body, " log: l or Esc closes ", lines);
        }
        (Some(Overlay::Writes), ..) => {
            let lines = writes::lines(app, usize::from(body.width));
            scrolled(frame, app, body, " sysfs: w or Esc closes ", lines);
        }
        (_, true, _) => detail::draw(frame, app, body),
        (_, false, View::Locks) => locks::draw(frame, app, body),
        (_, false, View::Entries) => entries::draw(frame, app, body),
    }
    if app.overlay == Some(Overlay::Help) {
        let lines = help::lines(app);
        let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
        let area = centred(body, width, lines.len() as u16 + 2);
        frame.render_widget(Clear, area);
        scrolled(frame, app, area, " keys: ? or Esc closes ", lines);
    }
    frame.render_widget(Paragraph::new(foot), foot_area);
}

/// Header lines that fit: the table comes first on very low terminals.
fn header_height(height: u16) -> usize {
    match height {
        0..=5 => 1,
        6..=13 => 2,
        14..=29 => 3,
        _ => 4,
    }
}

fn footer_height(height: u16) -> usize {
    match height {
        0..=3 => 0,
        4..=11 => 1,
        _ => 2,
    }
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    }
}

/// Lines in a box, scrolled to [`App::scroll`], which is brought into range.
fn scrolled(
    frame: &mut Frame,
    app: &mut App,
    area: Rect,
    title: &'static str,
    lines: Vec<Line<'static>>,
) {
    let block = Block::bordered().title(Span::styled(title, app.theme.title()));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    lines_at(frame, app, inner, lines);
}

/// The lines from [`App::scroll`] on, as many as fit.
fn lines_at(frame: &mut Frame, app: &mut App, area: Rect, lines: Vec<Line<'static>>) {
    app.page = usize::from(area.height);
    app.lines = lines.len();
    app.scroll = app.scroll.min(app.lines.saturating_sub(app.page));
    let shown: Vec<Line> = lines.into_iter().skip(app.scroll).take(app.page).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

/// What stands where a table has no rows.
fn empty(app: &App) -> Line<'static> {
    let text = if app.shown().model.meta.is_none() {
        "no data yet"
    } else if app.filter().active.is_empty() {
        "nothing has been measured yet"
    } else {
        "no row matches the filter: Esc clears it, / changes it"
    };
    Line::styled(text, app.theme.dim())
}

#[cfg(test)]
mod tests;
