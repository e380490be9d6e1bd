//! Plain text for terminals that can show nothing else, and for pasting into reports: ASCII, at most 79 columns.

/// Columns of a line, at most.
pub const WIDTH: usize = 79;

/// Lines of ASCII within the width.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// What was written, with a final line feed.
    pub fn text(self) -> String {
        self.text
    }

    /// A line; what does not fit is cut off.
    pub fn line(&mut self, line: &str) {
        let line = ascii(line);
        self.text.push_str(line[..line.len().min(WIDTH)].trim_end());
        self.text.push('\n');
    }

    /// A paragraph, broken between words; lines from the second on are indented by two more than the first.
    pub fn wrapped(&mut self, indent: usize, text: &str) {
        let mut line = " ".repeat(indent);
        let mut empty = true;
        for word in ascii(text).split_whitespace() {
            if !empty && line.len() + 1 + word.len() > WIDTH {
                self.line(&line);
                line = " ".repeat(indent + 2);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        if !empty {
            self.line(&line);
        }
    }
}

/// Printable ASCII; everything else becomes a question mark, so that a thread name cannot steer the terminal.
pub fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}
