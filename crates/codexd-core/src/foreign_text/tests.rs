use proptest::prelude::*;
use serde_json::json;

use super::{VisibleStream, error_line, escape_json, is_dangerous, quote, visible, visible_lines};
use crate::limits::QUOTED_CHARS_MAX;

#[test]
fn control_and_direction_characters_are_printed_as_escapes() {
    let text = "a\u{1b}]0;title\u{7}b\u{9b}2J\u{202e}\u{2066}\u{61c}\u{200f}\u{2028}\u{7f}\r\n\tc";
    let shown = r"a\x1b]0;title\x07b\u{9b}2J\u{202e}\u{2066}\u{61c}\u{200f}\u{2028}\x7f\r\n\tc";
    assert_eq!(visible(text), shown);
    assert_eq!(visible("grün 🦀 \\"), "grün 🦀 \\");
}

#[test]
fn lines_of_a_log_keep_their_layout_and_lose_their_colors() {
    let line = b"\x1b[2m12:00\x1b[0m\t\x1b[31mERROR\x1b[0m\x1b[2J\x07 \xff\xc3\n\xe2\x80\xae\n";
    assert_eq!(visible_lines(line), "12:00\tERROR\\x1b[2J\\x07 \\xff\\xc3\n\\u{202e}\n");
    assert_eq!(visible_lines(b"\x1b[31"), "\\x1b[31");
    assert_eq!(visible_lines(b"\x1b"), "\\x1b");
}

#[test]
fn a_quote_is_one_short_line_that_keeps_both_ends() {
    assert_eq!(quote("  a\nb "), "a\\nb");
    let long = format!("failed to open {}: permission denied", "é".repeat(4_000));
    let quoted = quote(&long);
    assert_eq!(quoted.chars().count(), QUOTED_CHARS_MAX);
    assert!(quoted.starts_with("failed to open é") && quoted.ends_with("é: permission denied"), "{quoted}");
}

#[test]
fn the_error_line_is_the_error_and_not_the_end_of_its_backtrace() {
    let causes = [
        (
            "Error: failed to open the database\n\nCaused by:\n    0: error returned from database\n    1: unable to open\n\nStack backtrace:\n   0: <unknown>\n   1: main\n             at ./src/main.rs:3\n",
            "Error: failed to open the database: error returned from database: unable to open",
        ),
        ("Error: no database\n\nCaused by:\n    is a directory\n", "Error: no database: is a directory"),
        ("Error: \n   0: \u{1b}[91mno database\u{1b}[0m\n\nLocation:\n   src/main.rs:5\n", "no database"),
        (
            "thread 'main' (7) panicked at src/main.rs:5:5:\nno database\nstack backtrace:\n   0: x\n      at y\nnote: run with `RUST_BACKTRACE=1`\n",
            "thread 'main' (7) panicked at src/main.rs:5:5: no database",
        ),
        (
            "thread 'main' panicked at 'no database', src/main.rs:5:5\nnote: run with `RUST_BACKTRACE=1`\n",
            "thread 'main' panicked at 'no database', src/main.rs:5:5",
        ),
        (
            "thread 'a' panicked at src/a.rs:1:1:\nfirst\nError: then this\n   0: <unknown>\n",
            "Error: then this",
        ),
        (
            "2026-11-29T00:00:00Z \u{1b}[31mERROR\u{1b}[0m codex: no database\n2026-11-29T00:00:01Z  INFO codex: bye\n",
            "2026-11-29T00:00:00Z ERROR codex: no database",
        ),
        ("node:internal/x:1\nError: spawn ENOENT\n    at Process.x (node:y)\n", "Error: spawn ENOENT"),
        ("Traceback (most recent call last):\n  File \"x\"\nValueError: no\n", "ValueError: no"),
        ("first\nlast words\n", "last words"),
        ("   6: <unknown>\n", "   6: <unknown>"),
    ];
    for (stderr, cause) in causes {
        assert_eq!(error_line(stderr).as_deref(), Some(cause.trim()), "{stderr}");
    }
    assert_eq!(error_line("\n \n"), None);
}

proptest! {
    #[test]
    fn nothing_that_a_terminal_obeys_is_left(bytes: Vec<u8>, text: String) {
        let kept = |character: char| matches!(character, '\n' | '\t');
        prop_assert!(!visible_lines(&bytes).chars().any(|shown| is_dangerous(shown) && !kept(shown)));
        prop_assert!(!visible(&text).chars().any(is_dangerous));
        prop_assert!(!quote(&text).chars().any(is_dangerous));
        prop_assert!(!error_line(&text).unwrap_or_default().chars().any(is_dangerous));
    }

    #[test]
    fn the_parts_of_a_log_show_what_the_whole_shows(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b'm'), Just(b'1'), Just(0xe2), Just(0x80), Just(0xae)], 0..200),
        cut in 0_usize..200,
    ) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        let mut stream = VisibleStream::default();
        let parts = stream.push(first) + &stream.push(second) + &stream.finish();
        prop_assert_eq!(parts, visible_lines(&bytes));
    }

    #[test]
    fn escaped_json_has_the_same_value(text: String, extra in "[\u{80}-\u{9f}\u{202a}-\u{202e}\u{7f}\u{1b}]*") {
        let value = json!({"text": text + &extra});
        let json = value.to_string();
        let escaped = escape_json(&json);
        prop_assert!(!escaped.chars().any(is_dangerous));
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).expect("JSON"), value);
    }
}

#[test]
fn eight_bytes_are_plain_if_each_is_printable_ascii() {
    for byte in 0..=u8::MAX {
        for place in 0..8 {
            let mut bytes = *b" ~az09!x";
            bytes[place] = byte;
            assert_eq!(super::is_plain(bytes), (0x20..0x7f).contains(&byte), "{byte} at {place}");
        }
    }
}
