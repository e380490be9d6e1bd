//! A heat map of waits or holds: time to the right, powers of two of nanoseconds upwards, the darker the more.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::table::pad;
use crate::format;
use crate::state::history::{BIN_NS, History, OCTAVES};
use crate::theme::Theme;

/// Lines of a map at most; above, neighbouring powers of two share one.
const ROWS: usize = 8;
const LABEL: usize = 8;

/// Lines of the map of a series: of its waits, or of its holds.
pub fn lines(
    title: &'static str,
    history: &History,
    series: u8,
    hold: bool,
    style: Style,
    theme: Theme,
    width: usize,
) -> Vec<Line<'static>> {
    let columns = width.saturating_sub(LABEL + 1);
    let last = history.bins().back().map_or(0, |bin| bin.number);
    let mut map = vec![[0_u64; OCTAVES]; columns];
    for bin in history.bins() {
        let back = last - bin.number;
        let Some(cell) = bin.series.get(&series) else {
            continue;
        };
        let Some(at) = usize::try_from(back)
            .ok()
            .and_then(|back| columns.checked_sub(back + 1))
        else {
            continue;
        };
        let octaves = if hold { &cell.hold } else { &cell.wait };
        for (slot, n) in map[at].iter_mut().zip(octaves.iter()) {
            *slot += u64::from(*n);
        }
    }
    let used: Vec<usize> = (0..OCTAVES)
        .filter(|&o| map.iter().any(|column| column[o] > 0))
        .collect();
    let mut lines = vec![Line::from(vec![
        Span::styled(pad(title, 5, false), theme.header()),
        Span::styled(
            format!(
                "by time, {} a column, ░ few █ many",
                format::duration(BIN_NS)
            ),
            theme.dim(),
        ),
    ])];
    let (Some(&low), Some(&high)) = (used.first(), used.last()) else {
        lines.push(Line::styled("nothing in this time", theme.dim()));
        return lines;
    };
    let each = (high - low + 1).div_ceil(ROWS);
    let rows = (high - low + 1).div_ceil(each);
    let sums = |column: &[u64; OCTAVES], row: usize| -> u64 {
        let from = low + row * each;
        column[from..(from + each).min(OCTAVES)].iter().sum()
    };
    let most = map
        .iter()
        .flat_map(|column| (0..rows).map(|row| sums(column, row)))
        .max()
        .unwrap_or(0);
    for row in (0..rows).rev() {
        let from = format::duration(1 << (low + row * each).min(63));
        let cells: String = map
            .iter()
            .map(|column| shade(sums(column, row), most))
            .collect();
        lines.push(Line::from(vec![
            Span::styled(format!("{} ", pad(&from, LABEL, true)), theme.dim()),
            Span::styled(cells, style),
        ]));
    }
    lines
}

/// Shades by the logarithm: one among a thousand is to be seen too.
fn shade(n: u64, most: u64) -> char {
    const SHADES: [char; 4] = ['░', '▒', '▓', '█'];
    if n == 0 {
        return ' ';
    }
    let share = (n as f64).ln_1p() / (most.max(1) as f64).ln_1p();
    SHADES[((share * 4.0) as usize).min(3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_seen_and_the_most_is_darkest() {
        assert_eq!(shade(0, 1_000), ' ');
        assert_eq!(shade(1, 1_000_000), '░');
        assert_eq!(shade(1_000, 1_000), '█');
    }
}
