//! Text of servers, tools, clients and users that codexd prints or quotes. A terminal obeys what such text contains: a title, the
//! clipboard, a cleared screen, a reversed line. So every control character and every mark that changes the direction or the line is
//! printed as an escape that a person can read, such as `\x1b` or `\u{202e}`.
//!
//! Sequences that only choose a color (SGR) are left out: Codex writes them to its log, and they say nothing.

use std::borrow::Cow;
use std::fmt::Write;

use crate::limits::QUOTED_CHARS_MAX;

mod error_line;

pub use error_line::error_line;

/// What stands where characters were left out.
const ELLIPSIS: &str = " … ";
/// The longest color sequence that is waited for at the end of a part of a text.
const COLOR_SEQUENCE_BYTES_MAX: usize = 64;

/// `text` in one line: line breaks and tabs are escaped, too.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut shown = Escaper { keeps_layout: false, shown: String::with_capacity(text.len() + 16) };
    shown.push_bytes(text.as_bytes(), true);
    Cow::Owned(shown.shown)
}

/// Lines of a log: line breaks and tabs stay. A byte that is not UTF-8 is printed as `\xff`.
pub fn visible_lines(bytes: &[u8]) -> String {
    let mut stream = VisibleStream::default();
    let mut shown = stream.push(bytes);
    shown.push_str(&stream.finish());
    shown
}

/// [`visible`], and at most [`QUOTED_CHARS_MAX`] characters of it: for a message, an event or a line of `status`. A longer text loses
/// its middle, for a chain of errors begins with what was tried and ends with the cause.
pub fn quote(text: &str) -> String {
    let shown = visible(text.trim());
    let length = shown.chars().count();
    if length <= QUOTED_CHARS_MAX {
        return shown.into_owned();
    }
    let left = QUOTED_CHARS_MAX - ELLIPSIS.chars().count();
    let (head, tail) = (left - left / 3, left / 3);
    let mut quoted: String = shown.chars().take(head).collect();
    quoted.push_str(ELLIPSIS);
    quoted.extend(shown.chars().skip(length - tail));
    quoted
}

/// JSON in which no character reaches a terminal as a control or a change of direction. The values are the same.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // In JSON text these characters stand in strings alone; below U+0020 the writer has escaped them.
    let is_raw = |character: char| character > '\u{7e}' && is_dangerous(character);
    if !json.chars().any(is_raw) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_raw(character) {
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Whether a terminal may do something else than print it: C0, DEL, C1, marks of direction, separators of lines and paragraphs.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A log that comes in parts, which may end within a character or a color sequence.
#[derive(Debug, Default)]
pub struct VisibleStream {
    pending: Vec<u8>,
}

impl VisibleStream {
    /// The next part; the end of it may be shown with the part after it.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut escaper = Escaper { keeps_layout: true, shown: String::with_capacity(self.pending.len()) };
        let used = escaper.push_bytes(&self.pending, false);
        self.pending.drain(..used);
        escaper.shown
    }

    /// What is left at the end of the log.
    pub fn finish(&mut self) -> String {
        let mut escaper = Escaper { keeps_layout: true, shown: String::new() };
        escaper.push_bytes(&std::mem::take(&mut self.pending), true);
        escaper.shown
    }
}

struct Escaper {
    /// Whether line breaks and tabs stay.
    keeps_layout: bool,
    shown: String,
}

impl Escaper {
    /// Shows `bytes`, all of them if they are the last; gives how many were used.
    fn push_bytes(&mut self, bytes: &[u8], is_last: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            at += self.push_plain(&bytes[at..]);
            let rest = &bytes[at..];
            match color_sequence(rest) {
                Color::Whole(length) => {
                    at += length;
                    continue;
                }
                Color::Begun if !is_last => break,
                Color::Begun | Color::None => {}
            }
            match first_character(rest) {
                Decoded::Character(character) => {
                    self.push_character(character);
                    at += character.len_utf8();
                }
                Decoded::Begun if !is_last => break,
                Decoded::Begun => at += self.push_invalid(rest),
                Decoded::Invalid(length) => at += self.push_invalid(&rest[..length]),
                Decoded::Nothing => {}
            }
        }
        at
    }

    /// Shows the printable ASCII at the beginning, in whole steps: a log is long, and nearly all of it is that.
    fn push_plain(&mut self, bytes: &[u8]) -> usize {
        let mut length = 0;
        while bytes.get(length..length + 8).and_then(|step| step.try_into().ok()).is_some_and(is_plain) {
            length += 8;
        }
        self.shown.push_str(std::str::from_utf8(&bytes[..length]).unwrap_or_default());
        length
    }

    fn push_invalid(&mut self, bytes: &[u8]) -> usize {
        for byte in bytes {
            let _ = write!(self.shown, "\\x{byte:02x}");
        }
        bytes.len()
    }

    fn push_character(&mut self, character: char) {
        match character {
            '\n' | '\t' if self.keeps_layout => self.shown.push(character),
            '\n' => self.shown.push_str("\\n"),
            '\t' => self.shown.push_str("\\t"),
            '\r' => self.shown.push_str("\\r"),
            _ if !is_dangerous(character) => self.shown.push(character),
            _ => {
                let code = u32::from(character);
                // Not `\x9b`, which stands for a byte.
                let _ = match code {
                    0..0x80 => write!(self.shown, "\\x{code:02x}"),
                    _ => write!(self.shown, "\\u{{{code:x}}}"),
                };
            }
        }
    }
}

/// Whether all eight bytes are printable ASCII.
fn is_plain(bytes: [u8; 8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let all = u64::from_ne_bytes(bytes);
    let below = |all: u64, limit: u64| all.wrapping_sub(EACH * limit) & !all;
    let is_del = all ^ (EACH * 0x7f);
    (all | below(all, 0x20) | below(is_del, 1)) & (EACH * 0x80) == 0
}

enum Decoded {
    Character(char),
    /// So many bytes are no part of a character.
    Invalid(usize),
    /// They may become a character with the bytes that follow.
    Begun,
    Nothing,
}

fn first_character(bytes: &[u8]) -> Decoded {
    let window = &bytes[..bytes.len().min(4)];
    let (valid, invalid) = match std::str::from_utf8(window) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default();
            (valid, Some(error.error_len()))
        }
    };
    match (valid.chars().next(), invalid) {
        (Some(character), _) => Decoded::Character(character),
        (None, Some(Some(length))) => Decoded::Invalid(length),
        (None, Some(None)) => Decoded::Begun,
        (None, None) => Decoded::Nothing,
    }
}

enum Color {
    /// So many bytes are one.
    Whole(usize),
    /// They may become one with the bytes that follow.
    Begun,
    None,
}

/// `ESC [ numbers m` at the beginning of `bytes`.
fn color_sequence(bytes: &[u8]) -> Color {
    let Some(rest) = bytes.strip_prefix(b"\x1b") else { return Color::None };
    let Some((b'[', rest)) = rest.split_first() else {
        return if rest.is_empty() { Color::Begun } else { Color::None };
    };
    let numbers = rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b';' | b':')).count();
    match rest.get(numbers) {
        _ if numbers > COLOR_SEQUENCE_BYTES_MAX => Color::None,
        Some(b'm') => Color::Whole(2 + numbers + 1),
        Some(_) => Color::None,
        None => Color::Begun,
    }
}

#[cfg(test)]
mod tests;
