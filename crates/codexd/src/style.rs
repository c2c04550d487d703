//! Text for people: aligned, readable without colour, coloured where the terminal has it.

use std::io::{self, IsTerminal};

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

/// `text` in `colour` if stdout is a terminal that has colours and nobody asked for none.
pub fn paint(text: &str, colour: Colour) -> String {
    let plain = !io::stdout().is_terminal()
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Dim => 2,
    };
    if plain { text.to_owned() } else { format!("\u{1b}[{code}m{text}\u{1b}[0m") }
}

/// `text` without the escape sequences and control characters that a program may have written for a terminal.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // Up to the letter that ends the sequence.
            let _ = characters.by_ref().find(char::is_ascii_alphabetic);
        } else if !character.is_control() || character == '\t' {
            plain.push(character);
        }
    }
    plain
}

/// Rows of a name and a value, the values in one column.
pub fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<String> =
        rows.iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned()).collect();
    lines.join("\n")
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
    use super::{duration, table};

    #[test]
    fn values_stand_in_one_column() {
        let rows = [("state", "running".to_owned()), ("pid", "7".to_owned())];
        assert_eq!(table(&rows), "state  running\npid    7");
    }

    #[test]
    fn what_a_server_wrote_cannot_colour_our_terminal() {
        assert_eq!(super::plain("\u{1b}[2m12:00\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m\u{7} x"), "12:00 ERROR x");
    }

    #[test]
    fn a_time_has_at_most_two_parts() {
        let said: Vec<String> = [5, 65, 3_700, 90_000].into_iter().map(duration).collect();
        assert_eq!(said, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
    }
}
