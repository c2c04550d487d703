//! Text for people: aligned, readable without color, and with color where the terminal supports it. Text of other programs cannot
//! control the terminal.

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use codexd_core::foreign_text::{quote, visible, visible_lines};

/// Text that is safe for a terminal: its only escape sequences are the colors of this module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Text(String);

impl<T: AsRef<str>> From<T> for Text {
    /// One line: line breaks and control characters are escaped.
    fn from(line: T) -> Self {
        Self(visible(line.as_ref()).into_owned())
    }
}

impl Text {
    /// A short text of another program, such as its version, in one line.
    pub fn quoted(foreign: &str) -> Self {
        Self(quote(foreign))
    }

    /// The lines of a log.
    pub fn of_log(bytes: &[u8]) -> Self {
        let lines = visible_lines(bytes);
        // The last line break is added when the text is printed.
        Self(lines.strip_suffix('\n').map(str::to_owned).unwrap_or(lines))
    }

    /// Adds more to the last line.
    #[must_use]
    pub fn then(mut self, more: impl Into<Text>) -> Self {
        self.0.push_str(&more.into().0);
        self
    }

    /// Adds a line.
    pub fn push_line(&mut self, line: impl Into<Text>) {
        self.0.push('\n');
        self.0.push_str(&line.into().0);
    }

    /// What to print.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A color.
#[derive(Clone, Copy, Debug)]
pub enum Color {
    /// As it should be.
    Green,
    /// Needs attention.
    Yellow,
    /// An error.
    Red,
    /// Less important.
    Dim,
}

/// `text` in `color`, if standard output is a terminal with colors. `NO_COLOR`, `CLICOLOR` and `CLICOLOR_FORCE` count.
pub fn paint(text: impl Into<Text>, color: Color) -> Text {
    let Text(text) = text.into();
    if AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        return Text(text);
    }
    let style = match color {
        Color::Green => AnsiColor::Green.on_default(),
        Color::Yellow => AnsiColor::Yellow.on_default(),
        Color::Red => AnsiColor::Red.on_default(),
        Color::Dim => Style::new().dimmed(),
    };
    Text(format!("{style}{text}{style:#}"))
}

/// Rows of a name and a value, the values in one column.
pub fn table(rows: &[(&str, Text)]) -> Text {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {}", value.0).trim_end().to_owned())
        .collect();
    Text(lines.join("\n"))
}

/// Lines, one below the other.
pub fn lines(lines: impl IntoIterator<Item = Text>) -> Text {
    let lines: Vec<String> = lines.into_iter().map(|line| line.0).collect();
    Text(lines.join("\n"))
}

/// A duration with its two largest units.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Text, duration, table};

    #[test]
    fn values_are_aligned_in_one_column() {
        let rows = [("state", Text::from("running")), ("pid", Text::from("7"))];
        assert_eq!(table(&rows).as_str(), "state  running\npid    7");
    }

    #[test]
    fn text_of_another_program_stays_in_its_line_and_cannot_control_the_terminal() {
        let rows = [("event", Text::from("a\nstate  running\u{1b}[2J\u{202e}"))];
        assert_eq!(table(&rows).as_str(), r"event  a\nstate  running\x1b[2J\u{202e}");
    }

    #[test]
    fn a_time_has_at_most_two_parts() {
        let texts: Vec<String> = [5, 65, 3_700, 90_000].into_iter().map(duration).collect();
        assert_eq!(texts, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
