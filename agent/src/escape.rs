//! Foreign text made safe to show. Names of processes, paths, labels and document keys are chosen by others: they may hold
//! terminal commands, line breaks that forge a log line, or marks that turn the reading direction.

use std::borrow::Cow;
use std::fmt::Write as _;

/// How many characters of foreign text are shown, `…` included.
pub const LIMIT: usize = 256;

/// The text with everything that is not plainly printable written out (`\x1b`, `\n`, `\u{202e}`) and cut at [`LIMIT`]
/// characters. Text that is fine is returned as it is; escaping twice changes nothing more than backslashes.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_within(text, LIMIT)
}

/// The same with another limit, in characters of the result; at least 1.
pub fn escape_within(text: &str, limit: usize) -> Cow<'_, str> {
    if text.chars().all(is_plain) && text.chars().nth(limit).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(limit));
    let mut used = 0;
    let mut piece = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        piece.clear();
        push(&mut piece, character);
        let width = piece.chars().count();
        // The last place is kept for the mark, unless this is the end.
        let room = if rest.peek().is_none() { limit } else { limit - 1 };
        if used + width > room {
            out.push('…');
            break;
        }
        out.push_str(&piece);
        used += width;
    }
    Cow::Owned(out)
}

/// Bytes that ought to be text: escaped as [`escape`] does, with bytes that are no UTF-8 as `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut out, character);
        }
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\x{byte:02x}");
        }
        if out.len() > 4 * LIMIT {
            break;
        }
    }
    if out.chars().count() > LIMIT {
        out = out.chars().take(LIMIT - 1).chain(['…']).collect();
    }
    out
}

/// A process name as the kernel keeps it: sixteen bytes, ended by a zero unless full.
pub fn escape_comm(comm: &[u8; 16]) -> String {
    let length = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    escape_bytes(&comm[..length])
}

fn push(out: &mut String, character: char) {
    let _infallible = match character {
        plain if is_plain(plain) => {
            out.push(plain);
            Ok(())
        }
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        ascii if ascii.is_ascii() => write!(out, "\\x{:02x}", u32::from(ascii)),
        other => write!(out, "\\u{{{:x}}}", u32::from(other)),
    };
}

/// Characters beyond ASCII that show nothing, or not what they are.
const HIDDEN: [(char, char); 24] = [
    // C1 controls, the soft hyphen, and the space that does not look like another one.
    ('\u{7f}', '\u{a0}'),
    ('\u{ad}', '\u{ad}'),
    // Marks that pile up on the character before them.
    ('\u{300}', '\u{36f}'),
    ('\u{1ab0}', '\u{1aff}'),
    ('\u{1dc0}', '\u{1dff}'),
    ('\u{20d0}', '\u{20ff}'),
    // Zero-width and bidirectional marks, separators, fillers, selectors, tags, private use, specials.
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{2000}', '\u{200f}'),
    ('\u{2028}', '\u{202f}'),
    ('\u{205f}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3000}', '\u{3000}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', char::MAX),
];

/// Letters, digits and marks that take one place and change nothing else. The backslash is not, so that nobody can write
/// what looks like an escape.
fn is_plain(character: char) -> bool {
    match character {
        '\\' => false,
        ' '..='~' => true,
        other if other.is_control() => false,
        // The last two of every plane are no characters at all.
        other => {
            u32::from(other) & 0xfffe != 0xfffe
                && !HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&other))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_text_is_returned_untouched() {
        for text in ["", "curl", "shop/checkout", "/system.slice/a.service", "naïve", "日本", "a b"] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn nothing_that_moves_a_cursor_or_a_line_comes_through() {
        for (text, shown) in [
            ("a\x1b[2Jb", r"a\x1b[2Jb"),
            ("a\nDENY", r"a\nDENY"),
            ("a\r\tb\0", r"a\r\tb\x00"),
            ("\u{202e}gpj.exe", r"\u{202e}gpj.exe"),
            ("\u{2066}x\u{2069}", r"\u{2066}x\u{2069}"),
            ("a\u{200b}b\u{feff}", r"a\u{200b}b\u{feff}"),
            ("\u{9b}31m", r"\u{9b}31m"),
            ("\u{7f}", r"\x7f"),
            ("\u{2028}", r"\u{2028}"),
            ("e\u{301}", r"e\u{301}"),
            (r"\x1b", r"\\x1b"),
            ("\u{e0041}", r"\u{e0041}"),
            ("\u{1fffe}", r"\u{1fffe}"),
        ] {
            assert_eq!(escape(text), shown, "{text:?}");
        }
    }

    #[test]
    fn no_control_or_format_character_survives() {
        for character in (0..=0x10_ffff).filter_map(char::from_u32) {
            let shown = escape(&character.to_string()).into_owned();
            assert!(shown.chars().all(|c| !c.is_control()), "{character:?}");
            assert!(!shown.is_empty(), "{character:?}");
        }
    }

    #[test]
    fn long_text_is_cut_with_a_mark_and_never_inside_an_escape() {
        for (text, limit, shown) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abcde…"),
            ("abc\x1bdef", 6, "abc…"),
            ("\x1b", 4, "\\x1b"),
            ("ab\x1b", 6, "ab\\x1b"),
            ("\u{202e}\u{202e}", 8, "…"),
        ] {
            assert_eq!(escape_within(text, limit), shown, "{text:?} within {limit}");
        }
        assert_eq!(escape(&"\x1b".repeat(4096)).chars().count(), 253);
        assert_eq!(escape(&"a".repeat(4096)).chars().count(), LIMIT);
    }

    #[test]
    fn a_process_name_ends_at_its_zero_and_may_be_no_utf8() {
        for (comm, shown) in [
            (*b"curl\0\0\0\0\0\0\0\0\0\0\0\0", "curl"),
            (*b"exactly-sixteen!", "exactly-sixteen!"),
            (*b"a\xff\x1b[0m\nx\0yyyyyyy", r"a\xff\x1b[0m\nx"),
            ([0; 16], ""),
            ([0xff; 16], r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert_eq!(escape_comm(&comm), shown);
        }
    }

    #[test]
    fn bytes_are_bounded_too() {
        assert_eq!(escape_bytes(&[0xff; 4096]).chars().count(), LIMIT);
    }
}
