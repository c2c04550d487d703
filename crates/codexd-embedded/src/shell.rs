//! Simulated commands: this server never executes a command.
//!
//! `echo` gives back its words and `false` fails, because tests of the real server need one command with an output and
//! one with a failure; every other command succeeds without output.

/// The outcome of a simulated command.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub exit_code: i32,
    /// `None` if there was no output, as upstream.
    pub output: Option<String>,
}

/// Splits a command line into words as a shell would, as far as quotes go. `None` if a quote stays open.
pub(crate) fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = command.chars();
    while let Some(letter) = rest.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '\\') => word.get_or_insert_default().extend(rest.next()),
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// The command line that upstream shows for `command`.
pub(crate) fn login_shell(command: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "+-./:@_=,%^".contains(letter);
    if !command.is_empty() && command.chars().all(plain) {
        return format!("/bin/bash -lc {command}");
    }
    if command.contains('\'') && !command.contains(['"', '$', '`', '\\', '!']) {
        return format!("/bin/bash -lc \"{command}\"");
    }
    format!("/bin/bash -lc '{}'", command.replace('\'', r"'\''"))
}

/// The outcome that the command would have had.
pub(crate) fn simulate(command: &str) -> Outcome {
    let words = words(command).unwrap_or_default();
    match words.split_first() {
        Some((name, arguments)) if name == "echo" => {
            Outcome { exit_code: 0, output: Some(format!("{}\n", arguments.join(" "))) }
        }
        Some((name, _)) if name == "false" => Outcome { exit_code: 1, output: None },
        _ => Outcome { exit_code: 0, output: None },
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, login_shell, simulate, words};

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(
            words(r#"a 'b c' "d  e"f \g"#),
            Some(vec!["a".into(), "b c".into(), "d  ef".into(), "g".into()])
        );
        assert_eq!(words("a 'b"), None);
    }

    #[test]
    fn a_plain_word_needs_no_quotes() {
        assert_eq!(login_shell("true"), "/bin/bash -lc true");
        assert_eq!(login_shell("echo hi"), "/bin/bash -lc 'echo hi'");
        assert_eq!(login_shell("echo 'a b'"), "/bin/bash -lc \"echo 'a b'\"");
    }

    #[test]
    fn nothing_is_run_and_echo_still_answers() {
        assert_eq!(simulate("echo a  'b c'"), Outcome { exit_code: 0, output: Some("a b c\n".into()) });
        assert_eq!(simulate("false"), Outcome { exit_code: 1, output: None });
        assert_eq!(simulate("rm -rf /"), Outcome { exit_code: 0, output: None });
    }
}
