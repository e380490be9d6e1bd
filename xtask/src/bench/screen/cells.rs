//! As much of a terminal as the dashboard uses: text, and where the cursor goes. Colours are left out.

/// Cells of a screen, from what is written to it.
pub struct Cells {
    columns: usize,
    rows: Vec<Vec<char>>,
    /// Column and line of the next character, from 0.
    cursor: (usize, usize),
    /// What has come of a sequence or a character that is not complete.
    rest: Vec<u8>,
}

impl Cells {
    /// An empty screen.
    pub fn new(columns: usize, lines: usize) -> Self {
        Self {
            columns,
            rows: vec![vec![' '; columns]; lines],
            cursor: (0, 0),
            rest: Vec::new(),
        }
    }

    /// The lines, without blanks at their ends.
    pub fn lines(&self) -> Vec<String> {
        let line = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        self.rows.iter().map(line).collect()
    }

    /// Takes bytes that were written.
    pub fn take(&mut self, bytes: &[u8]) {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut at = 0;
        while at < all.len() {
            let Some(used) = self.one(&all[at..]) else {
                break;
            };
            at += used;
        }
        self.rest = all.split_off(at);
    }

    /// Takes one character or sequence: how many bytes it has, `None` where it is not complete.
    fn one(&mut self, bytes: &[u8]) -> Option<usize> {
        match bytes {
            [0x1b, b'[', rest @ ..] => {
                let end = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
                let arguments = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.sequence(rest[end], &arguments);
                Some(end + 3)
            }
            // The clipboard and titles: up to BEL or ST.
            [0x1b, b']', rest @ ..] => {
                let end = rest.iter().position(|byte| matches!(byte, 7 | b'\\'))?;
                Some(end + 3)
            }
            [] | [0x1b] => None,
            [0x1b, ..] => Some(2),
            [b'\r', ..] => {
                self.cursor.0 = 0;
                Some(1)
            }
            [b'\n', ..] => {
                self.cursor.1 += 1;
                Some(1)
            }
            [0..=0x1f, ..] => Some(1),
            [first, ..] => {
                let length = match first {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                let character = bytes.get(..length)?;
                let text = String::from_utf8_lossy(character);
                self.put(text.chars().next().unwrap_or(' '));
                Some(length)
            }
        }
    }

    fn put(&mut self, character: char) {
        let (column, line) = self.cursor;
        if let Some(cell) = self.rows.get_mut(line).and_then(|row| row.get_mut(column)) {
            *cell = character;
        }
        self.cursor.0 = (column + 1).min(self.columns);
    }

    fn sequence(&mut self, last: u8, arguments: &str) {
        let mut numbers = arguments.split(';').map(|text| text.parse().unwrap_or(1));
        let mut next = || numbers.next().unwrap_or(1_usize).max(1);
        match last {
            // Cursor position: line, column, from 1.
            b'H' => {
                let line = next() - 1;
                self.cursor = (next() - 1, line);
            }
            // Erase the display, of which only the whole is used; anything in front of `?` is another sequence.
            b'J' => {
                for row in &mut self.rows {
                    row.fill(' ');
                }
            }
            b'C' => self.cursor.0 += next(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_where_the_cursor_is() {
        let mut cells = Cells::new(8, 2);
        cells.take(b"\x1b[?1049h\x1b[2J\x1b[2;3H\x1b[38;5;9mab\x1b[0m");
        // In the middle of a sequence and of a character.
        cells.take("\x1b[1;".as_bytes());
        cells.take(&"1H×".as_bytes()[..3]);
        cells.take(&"1H×".as_bytes()[3..]);
        assert_eq!(cells.lines(), ["×", "  ab"]);
        cells.take(b"\x1b[1;8Hxyz\x1b]52;c;YQ==\x1b\\\x1b[9;9Hn");
        assert_eq!(cells.lines(), ["×      x", "  ab"]);
    }
}
