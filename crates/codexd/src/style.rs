//! Text for people: aligned, readable without colour, coloured where the terminal has it. What others wrote cannot control the terminal.

use std::io::{self, IsTerminal};

use codexd_core::foreign_text::{quote, visible, visible_lines};

/// Text that a terminal may be given: the only escape sequences in it are our own colours.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Text(String);

impl<T: AsRef<str>> From<T> for Text {
    /// One line; whatever is in it, it stays one.
    fn from(line: T) -> Self {
        Self(visible(line.as_ref()).into_owned())
    }
}

impl Text {
    /// What another program says of itself, such as its version: one short line.
    pub fn quoted(foreign: &str) -> Self {
        Self(quote(foreign))
    }

    /// The lines of a log.
    pub fn of_log(bytes: &[u8]) -> Self {
        let lines = visible_lines(bytes);
        // The caller that prints it ends the last line.
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

/// A colour.
#[derive(Clone, Copy, Debug)]
pub enum Colour {
    /// As it should be.
    Green,
    /// Look at this.
    Yellow,
    /// Wrong.
    Red,
    /// Less important.
    Dim,
}

/// `text` in `colour` if stdout is a terminal that has colours and `NO_COLOR` is unset.
pub fn paint(text: impl Into<Text>, colour: Colour) -> Text {
    let Text(text) = text.into();
    let plain = !io::stdout().is_terminal()
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Dim => 2,
    };
    Text(if plain { text } else { format!("\u{1b}[{code}m{text}\u{1b}[0m") })
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

/// A length of time as people say it.
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
    fn values_stand_in_one_column() {
        let rows = [("state", Text::from("running")), ("pid", Text::from("7"))];
        assert_eq!(table(&rows).as_str(), "state  running\npid    7");
    }

    #[test]
    fn a_value_of_another_program_stays_in_its_line_and_controls_nothing() {
        let rows = [("event", Text::from("a\nstate  running\u{1b}[2J\u{202e}"))];
        assert_eq!(table(&rows).as_str(), r"event  a\nstate  running\x1b[2J\u{202e}");
    }

    #[test]
    fn a_time_has_at_most_two_parts() {
        let said: Vec<String> = [5, 65, 3_700, 90_000].into_iter().map(duration).collect();
        assert_eq!(said, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
