//! How the state looks.
//!
//! [`draw`] puts the whole picture into a frame of any size: header, the current view, and a footer with the last
//! message and the keys. Where there is little room, lines and columns go by importance, and nothing panics.
//! Nothing here changes what is known; only the sizes that scrolling needs are written back.

mod ascii;
mod busiest;
mod detail;
mod entries;
mod findings;
mod footer;
mod guests;
mod header;
mod heat;
mod help;
mod histogram;
mod locks;
mod log;
mod order;
mod overview;
mod scrubber;
pub mod table;
mod timeline;
mod words;
mod writes;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use crate::state::{App, Overlay, View};

/// Draws the dashboard.
pub fn draw(frame: &mut Frame, app: &mut App) {
    app.refresh();
    app.targets.clear();
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    let banner = header::banner(app);
    let (head, tabs) = header::lines(app, area.width, header_height(area.height));
    let foot = footer::lines(app, area.width, footer_height(area.height));
    let scrubber = app.replay.is_some() && area.height > 5;
    let [head_area, banner_area, body, scrubber_area, foot_area] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(u16::from(banner.is_some())),
        Constraint::Fill(1),
        Constraint::Length(u16::from(scrubber)),
        Constraint::Length(foot.len() as u16),
    ])
    .areas(area);
    for (line, columns, view) in tabs {
        let target = Rect {
            x: head_area.x + columns.start,
            y: head_area.y + line,
            width: columns.end - columns.start,
            height: 1,
        };
        app.targets.push((target, crate::state::Target::Tab(view)));
    }
    frame.render_widget(Paragraph::new(head), head_area);
    if let Some((banner, style)) = banner {
        // What does not fit says so.
        let banner = table::cut(&banner, usize::from(banner_area.width));
        frame.render_widget(Paragraph::new(banner).style(style), banner_area);
    }
    if !body.is_empty() {
        main(frame, app, body);
    }
    if scrubber {
        scrubber::draw(frame, app, scrubber_area);
    }
    frame.render_widget(Paragraph::new(foot), foot_area);
    if app.ascii {
        ascii::flatten(frame.buffer_mut());
    }
}

/// The view, and what lies over it.
fn main(frame: &mut Frame, app: &mut App, body: Rect) {
    match (app.overlay, app.detail_open, app.view) {
        (Some(Overlay::Writes), ..) => {
            let lines = writes::lines(app, usize::from(body.width));
            scrolled(frame, app, body, " sysfs: w or Esc closes ", lines);
        }
        (_, true, _) => detail::draw(frame, app, body),
        (_, false, View::Overview) => overview::draw(frame, app, body),
        (_, false, View::Locks) => locks::draw(frame, app, body),
        (_, false, View::Entries) => entries::draw(frame, app, body),
        (_, false, View::Guests) => guests::draw(frame, app, body),
        (_, false, View::Order) => order::draw(frame, app, body),
        (_, false, View::Timeline) => timeline::draw(frame, app, body),
        (_, false, View::Findings) => findings::draw(frame, app, body),
        (_, false, View::Log) => log::draw(frame, app, body),
    }
    let popup = match app.overlay {
        Some(Overlay::Help) => Some((" keys: ? or Esc closes ", help::lines(app))),
        Some(Overlay::Guide) => Some((
            " a guided look: F1 or Esc closes ",
            help::guide(app, usize::from(body.width).saturating_sub(4).clamp(8, 90)),
        )),
        Some(Overlay::Export) => Some((" export this view: Esc closes ", help::export(app))),
        Some(Overlay::Writes) | None => None,
    };
    if let Some((title, lines)) = popup {
        let width = lines
            .iter()
            .map(Line::width)
            .max()
            .unwrap_or(0)
            .max(title.len()) as u16
            + 4;
        let area = centred(body, width, lines.len() as u16 + 2);
        frame.render_widget(Clear, area);
        scrolled(frame, app, area, title, lines);
    }
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
    let mut block = Block::bordered().title(Span::styled(title, app.theme.title()));
    let inner = block.inner(area);
    let (count, room) = (lines.len(), usize::from(inner.height));
    let more = count.saturating_sub(room + app.scroll.min(count));
    if more > 0 {
        let text = format!(" ↓ {more} more ");
        block = block.title_bottom(Span::styled(text, app.theme.key()));
    }
    frame.render_widget(block, area);
    let shown = from_scroll(app, inner, lines);
    frame.render_widget(Paragraph::new(shown), inner);
}

/// The lines from [`App::scroll`] on, as many as fit; the last one says that there are more.
fn lines_at(frame: &mut Frame, app: &mut App, area: Rect, lines: Vec<Line<'static>>) {
    let mut shown = from_scroll(app, area, lines);
    let below = app.lines - app.scroll - shown.len();
    if below > 0
        && shown.len() > 2
        && let Some(last) = shown.last_mut()
    {
        *last = Line::styled(format!("↓ {} more lines", below + 1), app.theme.key());
    }
    frame.render_widget(Paragraph::new(shown), area);
}

/// The lines from [`App::scroll`] on, as many as fit; brings it into range.
fn from_scroll(app: &mut App, area: Rect, lines: Vec<Line<'static>>) -> Vec<Line<'static>> {
    app.page = usize::from(area.height);
    app.lines = lines.len();
    app.scroll = app.scroll.min(app.lines.saturating_sub(app.page));
    lines.into_iter().skip(app.scroll).take(app.page).collect()
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
