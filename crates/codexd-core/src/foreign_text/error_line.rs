//! Which line of a program's standard error says what failed. The last one often does not: with `RUST_BACKTRACE` it is a frame of a
//! backtrace.

use super::quote;

/// The line that says what failed, at most [`QUOTED_CHARS_MAX`](crate::limits::QUOTED_CHARS_MAX) characters of it: the message of the
/// last panic, or the last `Error:` with its causes, whichever comes later; else the last line that a log marks as an error; else the
/// last line that is no part of a backtrace. `None` if nothing was written.
pub fn error_line(stderr: &str) -> Option<String> {
    let lines: Vec<String> = stderr.lines().map(plain).collect();
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
    let reported =
        (0..lines.len()).rev().find_map(|at| panic_at(&lines, at).or_else(|| error_at(&lines, at)));
    let logged = || lines.iter().rev().find(|line| is_logged_error(line)).map(|line| (*line).to_owned());
    let last = || {
        let told = lines.iter().rev().find(|line| !is_of_backtrace(line));
        told.or(lines.last()).map(|line| (*line).to_owned())
    };
    reported.or_else(logged).or_else(last).map(|line| quote(&line))
}

/// Without the colors that a log may have.
fn plain(line: &str) -> String {
    super::visible_lines(line.as_bytes())
}

/// `thread 'main' (7) panicked at src/main.rs:5:5:` and the message in the line after it.
fn panic_at(lines: &[&str], at: usize) -> Option<String> {
    let line = lines[at].trim_start();
    let is_panic = line.starts_with("thread '") && line.contains(" panicked at ");
    let is_message = |next: &&&str| line.ends_with(':') && !is_of_backtrace(next);
    is_panic.then(|| match lines.get(at + 1).filter(is_message) {
        Some(message) => format!("{line} {}", message.trim_start()),
        None => line.to_owned(),
    })
}

/// `Error: …`, and what stands below `Caused by:`.
fn error_at(lines: &[&str], at: usize) -> Option<String> {
    let line = lines[at];
    let first = ["Error:", "error:", "fatal:"].iter().find_map(|begin| line.strip_prefix(begin))?.trim();
    // color-eyre begins with an empty one and numbers what follows.
    let mut parts: Vec<&str> = if first.is_empty() { Vec::new() } else { vec![line] };
    let mut is_cause = first.is_empty();
    for line in lines.iter().skip(at + 1) {
        let trimmed = line.trim_start();
        match trimmed {
            "Caused by:" => is_cause = true,
            _ if ends_causes(trimmed) || !line.starts_with(' ') || !is_cause => break,
            _ => parts.push(without_number(trimmed)),
        }
    }
    (!parts.is_empty()).then(|| parts.join(": "))
}

fn ends_causes(line: &str) -> bool {
    let line = line.to_lowercase();
    ["location:", "stack backtrace", "backtrace"].iter().any(|begin| line.starts_with(begin))
}

/// `0: cause` without its number.
fn without_number(line: &str) -> &str {
    let rest = line.trim_start_matches(|character: char| character.is_ascii_digit());
    if rest.len() < line.len() { rest.strip_prefix(": ").unwrap_or(line) } else { line }
}

/// A line of a log whose level is that of an error: `2026-11-29T00:00:00Z ERROR target: message`.
fn is_logged_error(line: &str) -> bool {
    line.split_whitespace().take(3).any(|word| matches!(word, "ERROR" | "[ERROR]" | "FATAL"))
}

/// A frame, or one of the lines around them.
fn is_of_backtrace(line: &str) -> bool {
    let line = line.trim_start();
    let after_digits = line.trim_start_matches(|character: char| character.is_ascii_digit());
    let is_frame = after_digits.len() < line.len() && after_digits.starts_with(": ");
    let lower = line.to_lowercase();
    is_frame
        || lower.starts_with("stack backtrace")
        || lower.starts_with("note: ")
        || line.starts_with("at ")
        || line.starts_with("Location:")
}
