//! The picture in ASCII: every other character becomes one that looks most like it.

use ratatui::buffer::Buffer;

/// Replaces what is not ASCII in a drawn buffer.
pub fn flatten(buffer: &mut Buffer) {
    let mut text = [0; 4];
    for cell in &mut buffer.content {
        if !cell.symbol().is_ascii() {
            let first = cell.symbol().chars().next().unwrap_or('?');
            cell.set_symbol(like(first).encode_utf8(&mut text));
        }
    }
}

/// The character of ASCII that stands for another one.
const fn like(c: char) -> char {
    match c {
        '─' | '╌' | '┄' | '━' | '–' | '↔' => '-',
        '│' | '╎' | '┆' | '┃' | '▏' | '▎' => '|',
        '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' | '╭' | '╮' | '╰' | '╯' | '▄' | '▅'
        | '▒' => '+',
        '▍' | '▌' | '▋' => '=',
        '▊' | '▉' | '█' | '■' => '#',
        '▓' => '%',
        '·' | '▁' | '◌' | '°' => '.',
        '░' | '▂' | '▃' => ':',
        '▆' | '▇' | '●' => '*',
        '○' => 'o',
        '◀' | '◁' | '←' => '<',
        '▶' | '▷' | '→' => '>',
        '▲' | '↑' => '^',
        '▼' | '↓' => 'v',
        '↺' | '↻' => '@',
        '×' | '✗' => 'x',
        'µ' | 'μ' => 'u',
        '…' => '~',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    #[test]
    fn nothing_but_ascii_is_left() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 40, 1));
        buffer.set_string(0, 0, "│1.20µs ▊▎ ◀──●╌○ 漢 e\u{301} …", Style::new());
        flatten(&mut buffer);
        let text: String = buffer
            .content
            .iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect();
        assert!(text.is_ascii(), "{text}");
        assert!(text.starts_with("|1.20us #| <--*-o"), "{text}");
    }

    #[test]
    fn signs_that_mean_different_things_stay_different() {
        for signs in [
            // Timeline, order, findings, matrix, heat map.
            &['░', '█', '─', '·'][..],
            &['◀', '●', '○', '─'],
            &['●', '▲', '·'],
            &['■', '○', '×', '↻', '·'],
            &['░', '▒', '▓', '█'],
        ] {
            let mut flat: Vec<char> = signs.iter().map(|sign| like(*sign)).collect();
            flat.sort_unstable();
            flat.dedup();
            assert_eq!(flat.len(), signs.len(), "{signs:?} became {flat:?}");
        }
    }
}
