//! The output of a command: one JSON object or text on stdout, sentences on stderr. Text of servers, tools, clients and users
//! in it cannot control the terminal.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::foreign_text::{escape_json, visible, visible_lines};
use serde::Serialize;

use crate::style::Text;

/// The form of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// One JSON object on one line.
    Json,
    /// Text for people.
    Text,
}

impl Mode {
    /// The mode for a command line that cannot be parsed.
    pub fn of_arguments<'a>(mut arguments: impl Iterator<Item = &'a OsString> + Clone) -> Self {
        Self::of_options(
            arguments.clone().any(|word| word == "--json"),
            arguments.any(|word| word == "--text"),
        )
    }

    /// The mode of `--json` and `--text`; without them text on a terminal and JSON elsewhere.
    pub fn of_options(json: bool, text: bool) -> Self {
        match (json, text) {
            (true, _) => Mode::Json,
            (_, true) => Mode::Text,
            _ if io::stdout().is_terminal() => Mode::Text,
            _ => Mode::Json,
        }
    }
}

/// An answer in both forms.
pub trait Answer: Serialize {
    /// The text form, without a final line break.
    fn text(&self) -> Text;
}

/// Prints an answer or a failure, and returns the exit code.
pub fn finish<A: Answer>(mode: Mode, outcome: Result<A, Failure>) -> ExitCode {
    match outcome {
        Ok(answer) => {
            let line = match mode {
                Mode::Json => serde_json::to_string(&answer)
                    .map(|json| escape_json(&json).into_owned())
                    .map_err(io::Error::from),
                Mode::Text => Ok(answer.text().as_str().to_owned()),
            };
            match line.and_then(|line| print(&line)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => stdout_closed(&error),
            }
        }
        Err(failure) => {
            print_sentence(&failure);
            match mode {
                Mode::Json => print_failure_json(&failure),
                Mode::Text => ExitCode::from(failure.code.exit_code()),
            }
        }
    }
}

/// Prints the JSON form of a failure.
pub fn print_failure_json(failure: &Failure) -> ExitCode {
    match print(&escape_json(&failure.to_json().to_string())) {
        Ok(()) => ExitCode::from(failure.code.exit_code()),
        Err(error) => stdout_closed(&error),
    }
}

/// Prints the answer in one write, and only one answer per process: a signal handler may print one at the same time.
fn print(line: &str) -> io::Result<()> {
    static ANSWERED: AtomicBool = AtomicBool::new(false);
    if ANSWERED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes())?;
    stdout.flush()
}

/// Reports that the answer could not be printed.
pub fn stdout_closed(error: &io::Error) -> ExitCode {
    say(&format!("error: failed to write to standard output: {error}"));
    ExitCode::from(ErrorCode::StdoutClosed.exit_code())
}

/// Prints a line on stderr. A closed stderr is ignored.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(line));
}

/// Prints several lines on stderr.
pub fn say_lines(lines: &str) {
    let _ = writeln!(io::stderr(), "{}", visible_lines(lines.as_bytes()));
}

fn print_sentence(failure: &Failure) {
    say(&format!("error: {}", failure.message));
    if let Some(hint) = &failure.hint {
        say(&format!("  hint: {hint}"));
    }
}
