//! One line of such a text: what stands before its content is taken off, and stack frames and lists of fields are read.
//!
//! Takes a line, gives its parts, borrowed. Knows nothing of the lines around it.

use std::borrow::Cow;

/// A frame as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawFrame<'a> {
    /// The symbol, with a compiler's suffixes.
    pub symbol: &'a str,
    /// Offset in the function.
    pub offset: Option<u64>,
    /// The module in brackets.
    pub module: Option<&'a str>,
    /// The unwinder vouches for it.
    pub reliable: bool,
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A line as it was before it became a part of an HTML page or mail.
pub(super) fn unescaped(line: &str) -> Cow<'_, str> {
    if !line.contains('&') {
        return Cow::Borrowed(line);
    }
    let plain = line
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&");
    Cow::Owned(plain)
}

/// What is left of a line without the prefixes of mails (`> `, `| `, `AB> `), syslog (`Nov 25 17:16:32 host kernel: `), log levels
/// (`<3>`), time stamps (`[   12.345678]`, and what `dmesg -T` makes of them) and callers (`[T123]`, printk's
/// `PRINTK_CALLER`).
pub(crate) fn content(line: &str) -> &str {
    // What quoted-printable makes of a blank at the end.
    let mut rest = line.trim_end().trim_end_matches("=20").trim();
    // Each round takes something off, so it ends with the line.
    loop {
        let before = rest.len();
        rest = strip_quote(rest);
        rest = strip_level(rest);
        rest = strip_stamp(rest);
        rest = strip_syslog(rest);
        if rest.len() == before {
            return rest;
        }
    }
}

fn strip_quote(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix(['>', '|']) {
        return rest.trim_start();
    }
    // Some mail programs quote with initials.
    let initials = text.bytes().take_while(u8::is_ascii_uppercase).count();
    match text.get(initials..).and_then(|rest| rest.strip_prefix('>')) {
        Some(rest) if (1..=3).contains(&initials) => rest.trim_start(),
        _ => text,
    }
}

fn strip_level(text: &str) -> &str {
    let stripped = text
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .filter(|(level, _)| {
            (1..=3).contains(&level.len()) && level.bytes().all(|b| b.is_ascii_digit())
        });
    stripped.map_or(text, |(_, rest)| rest.trim_start())
}

fn strip_stamp(text: &str) -> &str {
    let Some((inner, rest)) = text.strip_prefix('[').and_then(|r| r.split_once(']')) else {
        return text;
    };
    let inner = inner.trim();
    let seconds = !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let caller = inner
        .strip_prefix(['T', 'C'])
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let date = DAYS.iter().any(|day| {
        inner
            .strip_prefix(day)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    if seconds || caller || date {
        rest.trim_start()
    } else {
        text
    }
}

fn strip_syslog(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix("kernel: ") {
        return rest.trim_start();
    }
    let dated = MONTHS.iter().any(|month| {
        text.strip_prefix(month)
            .is_some_and(|rest| rest.starts_with(' '))
    }) || text
        .as_bytes()
        .first_chunk::<5>()
        .is_some_and(|start| start[..4].iter().all(u8::is_ascii_digit) && start[4] == b'-');
    match text.split_once(" kernel: ") {
        Some((before, rest)) if dated && before.len() < 100 => rest.trim_start(),
        _ => text,
    }
}

/// Reads a frame: `[<addr>] f+0x1/0x2 [mod]`, the same in parentheses or behind a question mark (unreliable), without an
/// address, or of crash: `#4 [3e00] f at 3ff800d6c12 [mod]`.
pub(super) fn frame(content: &str) -> Option<RawFrame<'_>> {
    if let Some(rest) = content.strip_prefix('#') {
        return crash_frame(rest);
    }
    // s390's show_stack() puts frames that are not reliable into parentheses (v5.2 and later, dumpstack.c).
    let (inner, mut reliable) = match content.strip_prefix('(') {
        Some(rest) if rest.starts_with("[<") => (rest.trim_end_matches(')'), false),
        _ => (content, true),
    };
    let (mut rest, addressed) = match inner.strip_prefix("[<") {
        Some(rest) => {
            let (address, rest) = rest.split_once(">]")?;
            if !is_hex(address) {
                return None;
            }
            (rest.trim_start(), true)
        }
        None => (inner, false),
    };
    if let Some(unreliable) = rest.strip_prefix("? ") {
        reliable = false;
        rest = unreliable.trim_start();
    }
    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let word = word.trim_end_matches(')');
    let (symbol, offset) = match word.split_once('+') {
        Some((symbol, offset)) => {
            let offset = offset.split_once('/').map_or(offset, |(offset, _)| offset);
            (symbol, Some(number(offset.strip_prefix("0x")?, 16)?))
        }
        None if addressed => (word, None),
        None => return None,
    };
    // Behind the frame stands the module, or nothing; else it is a sentence with a function in it.
    let module = module(after);
    if !is_symbol(symbol) || !addressed && module.is_none() && !after.trim().is_empty() {
        return None;
    }
    Some(RawFrame {
        symbol,
        offset,
        module,
        reliable,
    })
}

fn crash_frame(rest: &str) -> Option<RawFrame<'_>> {
    let (number_text, rest) = rest.split_once(char::is_whitespace)?;
    number(number_text, 10)?;
    let (stack, rest) = rest.trim_start().strip_prefix('[')?.split_once(']')?;
    if !is_hex(stack) {
        return None;
    }
    let (word, rest) = rest.trim_start().split_once(" at ")?;
    let (symbol, offset) = match word.split_once('+') {
        Some((symbol, offset)) => (
            symbol,
            match offset.strip_prefix("0x") {
                Some(hex) => number(hex, 16),
                None => number(offset, 10),
            },
        ),
        None => (word, None),
    };
    is_symbol(symbol).then_some(RawFrame {
        symbol,
        offset,
        module: module(rest.split_once(char::is_whitespace).map_or("", |(_, r)| r)),
        reliable: true,
    })
}

/// `[vfio_ap]`, and with a build id `[vfio_ap 0123abcd]`.
fn module(after: &str) -> Option<&str> {
    let (inner, _) = after.trim_start().strip_prefix('[')?.split_once(']')?;
    let name = inner.split_whitespace().next()?;
    is_symbol(name).then_some(name)
}

fn is_hex(text: &str) -> bool {
    (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_symbol(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$' | b'-'))
}

fn number(text: &str, radix: u32) -> Option<u64> {
    u64::from_str_radix(text, radix).ok()
}

/// The number behind `key`, with blanks between: `pid:   72`.
pub(super) fn field(text: &str, key: &str) -> Option<u32> {
    let (_, rest) = text.split_once(key)?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// `CPU 0/KVM:1234` as name and number; names may have colons.
pub(super) fn name_and_id(text: &str) -> Option<(&str, u32)> {
    let (name, id) = text.trim().rsplit_once(':')?;
    Some((name, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_taken_off() {
        for line in [
            "task:x",
            "  task:x  ",
            "[   12.345678] task:x",
            "<3>[   12.345678][T1234] task:x",
            "[Wed Nov 25 17:16:32 2026] task:x",
            "Nov 25 17:16:32 lnx1 kernel: task:x",
            "Nov 25 17:16:32 lnx1 kernel: [ 1234.5] task:x",
            "2026-11-25T17:16:32+0100 lnx1 kernel: task:x",
            "> > [ 12.3] task:x",
            "| [ 12.3] task:x",
            "AB> > [ 12.3] task:x",
            "task:x=20",
            "kernel: task:x",
        ] {
            assert_eq!(content(line), "task:x", "{line}");
        }
        assert_eq!(content("[<0>] f+0x1/0x2"), "[<0>] f+0x1/0x2");
        assert_eq!(content("[kvm] x"), "[kvm] x");
    }

    #[test]
    fn pages_are_read_as_text() {
        let line = unescaped("&gt; [&lt;0&gt;] f+0x1/0x2 a&amp;lt;b");
        assert_eq!(line, "> [<0>] f+0x1/0x2 a&lt;b");
        assert_eq!(unescaped("R&D"), "R&D");
    }

    #[test]
    fn frames_in_every_spelling() {
        let read = |text| frame(content(text)).unwrap_or_else(|| panic!("{text}"));
        for (text, reliable) in [
            (
                " [<000003ff800d6c12>] handle_pqap+0x52/0x330 [vfio_ap] ",
                true,
            ),
            (
                "([<000003ff800d6c12>] handle_pqap+0x52/0x330 [vfio_ap])",
                false,
            ),
            ("[<0>] handle_pqap+0x52/0x330 [vfio_ap]", true),
            (" handle_pqap+0x52/0x330 [vfio_ap]", true),
            (" ? handle_pqap+0x52/0x330 [vfio_ap]", false),
            ("handle_pqap+0x52/0x330 [vfio_ap 0123abcd]", true),
            (
                " #4 [38000] handle_pqap+0x52 at 3ff800d6c12 [vfio_ap]",
                true,
            ),
            (" #4 [38000] handle_pqap+82 at 3ff800d6c12 [vfio_ap]", true),
        ] {
            let expected = RawFrame {
                symbol: "handle_pqap",
                offset: Some(0x52),
                module: Some("vfio_ap"),
                reliable,
            };
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(read(" #0 [38000] __schedule at 1234abcd").offset, None);
        assert_eq!(
            read(" #0 [38000] __schedule at 1234abcd").symbol,
            "__schedule"
        );
        for text in [
            "Krnl PSW : 0704c00180000000 000000000052ea36 (f+0x1/0x2)",
            "#0: 00000000 (&vcpu->mutex){+.+.}-{3:3}, at: kvm_vcpu_ioctl+0x9a/0x760 [kvm]",
            "f+0x1/0x2 was called",
            "[<zz>] f+0x1",
            "0x1234",
            "",
            "#",
            "(",
        ] {
            assert_eq!(frame(text), None, "{text}");
        }
    }
}
