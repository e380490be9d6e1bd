//! Pictures: a drawn buffer as an SVG with monospace text and the terminal's colours.
//!
//! The picture needs nothing but a viewer with a monospace font: no style sheet, no script.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

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

fn look(cell: &Cell) -> Look {
    let (mut text, mut ground) = (colour(cell.fg), colour(cell.bg));
    if cell.modifier.contains(Modifier::REVERSED) {
        (text, ground) = (
            Some(ground.unwrap_or(BACKGROUND)),
            Some(text.unwrap_or(FOREGROUND)),
        );
    }
    Look {
        text: text.unwrap_or(FOREGROUND),
        ground,
        bold: cell.modifier.contains(Modifier::BOLD),
        dim: cell.modifier.contains(Modifier::DIM),
    }
}

/// The buffer as an SVG document.
#[must_use]
pub fn svg(buffer: &Buffer) -> String {
    let area = buffer.area;
    let width = f64::from(area.width) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(area.height) * CELL.1 + 2.0 * MARGIN;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>"
    );
    for y in area.top()..area.bottom() {
        let mut x = area.left();
        while x < area.right() {
            let first = x;
            let style = look(&buffer[(x, y)]);
            let mut text = String::new();
            while x < area.right() && look(&buffer[(x, y)]) == style {
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
