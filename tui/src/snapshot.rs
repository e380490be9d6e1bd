//! Pictures: the dashboard drawn without a terminal, as text or as an SVG with monospace text and a terminal's colours.
//!
//! The picture needs nothing but a viewer with a monospace font: no style sheet, no script.

use std::fmt::Write;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use crate::state::App;
use crate::view;

/// Width and height of a character cell.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 12.0;
const BACKGROUND: &str = "#1e1e2e";
const FOREGROUND: &str = "#d9dced";

/// What a run of cells looks like.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Look {
    text: &'static str,
    ground: Option<&'static str>,
    bold: bool,
    dim: bool,
}

fn colour(colour: Color) -> Option<&'static str> {
    Some(match colour {
        Color::Black => "#45475a",
        Color::Red | Color::LightRed => "#f38ba8",
        Color::Green | Color::LightGreen => "#a6e3a1",
        Color::Yellow | Color::LightYellow => "#f9e2af",
        Color::Blue | Color::LightBlue => "#89b4fa",
        Color::Magenta | Color::LightMagenta => "#cba6f7",
        Color::Cyan | Color::LightCyan => "#94e2d5",
        Color::Gray => "#bac2de",
        Color::DarkGray => "#7f849c",
        Color::White => "#ffffff",
        // The dashboard uses nothing but the 16 colours.
        Color::Reset | Color::Rgb(..) | Color::Indexed(_) => return None,
    })
}

/// The same on a light background.
fn dark_colour(c: Color) -> Option<&'static str> {
    Some(match c {
        Color::Red | Color::LightRed => "#c4163a",
        Color::Green | Color::LightGreen => "#2f7d20",
        Color::Yellow | Color::LightYellow => "#9a6700",
        Color::Blue | Color::LightBlue => "#1e5fd6",
        Color::Magenta | Color::LightMagenta => "#8432c8",
        Color::Cyan | Color::LightCyan => "#0d7680",
        other => return colour(other),
    })
}

/// The colours of a terminal with a light background.
const LIGHT_BACKGROUND: &str = "#ffffff";
const LIGHT_FOREGROUND: &str = "#24273a";

fn look(cell: &Cell, light: bool) -> Look {
    let (background, foreground) = if light {
        (LIGHT_BACKGROUND, LIGHT_FOREGROUND)
    } else {
        (BACKGROUND, FOREGROUND)
    };
    let colour = |c| if light { dark_colour(c) } else { colour(c) };
    let (mut text, mut ground) = (colour(cell.fg), colour(cell.bg));
    if cell.modifier.contains(Modifier::REVERSED) {
        (text, ground) = (
            Some(ground.unwrap_or(background)),
            Some(text.unwrap_or(foreground)),
        );
    }
    Look {
        text: text.unwrap_or(foreground),
        ground,
        bold: cell.modifier.contains(Modifier::BOLD),
        dim: cell.modifier.contains(Modifier::DIM),
    }
}

/// The dashboard as it is drawn on a terminal of this size.
#[must_use]
pub fn buffer(app: &mut App, width: u16, height: u16) -> Buffer {
    // What is drawn into memory cannot fail.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, app));
    terminal.backend().buffer().clone()
}

/// The buffer as lines of text, without blanks at their ends.
#[must_use]
pub fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    buffer
        .content
        .chunks(width.max(1))
        .map(|row| {
            let line: String = row.iter().map(Cell::symbol).collect();
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}

/// The buffer as an SVG document.
#[must_use]
pub fn svg(buffer: &Buffer) -> String {
    svg_on(buffer, false)
}

/// The same, as on a terminal with a light background or a dark one.
#[must_use]
pub fn svg_on(buffer: &Buffer, light: bool) -> String {
    let background = if light { LIGHT_BACKGROUND } else { BACKGROUND };
    let area = buffer.area;
    let width = f64::from(area.width) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(area.height) * CELL.1 + 2.0 * MARGIN;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{background}\"/>"
    );
    for y in area.top()..area.bottom() {
        let mut x = area.left();
        while x < area.right() {
            let first = x;
            let style = look(&buffer[(x, y)], light);
            let mut text = String::new();
            while x < area.right() && look(&buffer[(x, y)], light) == style {
                text.push_str(buffer[(x, y)].symbol());
                x += 1;
            }
            run(
                &mut out,
                first - area.left(),
                y - area.top(),
                x - first,
                &text,
                style,
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// One run of cells that look the same.
fn run(out: &mut String, x: u16, y: u16, cells: u16, text: &str, look: Look) {
    let left = MARGIN + f64::from(x) * CELL.0;
    let top = MARGIN + f64::from(y) * CELL.1;
    let width = f64::from(cells) * CELL.0;
    if let Some(ground) = look.ground {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{ground}\"/>",
            CELL.1
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if look.bold {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let opacity = if look.dim { " opacity=\"0.6\"" } else { "" };
    // textLength keeps columns in line whatever the viewer's font is.
    let _ = writeln!(
        out,
        "<text x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
         xml:space=\"preserve\" fill=\"{}\"{weight}{opacity}>{}</text>",
        top + CELL.1 * 0.75,
        look.text,
        escape(text)
    );
}

/// Text as XML character data; what XML does not allow becomes a question mark.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    #[test]
    fn runs_of_one_style_become_one_text() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 1));
        buffer.set_string(0, 0, "kvm->lock", Style::new());
        buffer.set_string(
            9,
            0,
            " <&",
            Style::new().fg(Color::Red).add_modifier(Modifier::REVERSED),
        );
        let svg = svg(&buffer);
        assert!(svg.contains(">kvm-&gt;lock</text>"), "{svg}");
        assert!(svg.contains("> &lt;&amp;</text>"), "{svg}");
        assert!(
            svg.contains("fill=\"#f38ba8\"/>"),
            "reversed: red is the ground: {svg}"
        );
        assert_eq!(svg.matches("<text").count(), 2);
    }
}
