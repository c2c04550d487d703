//! Directives in the prompt, which replace the model: `run it [[shell=ls;; escalate=1]]`.
//!
//! The directives and the text they produce are those of the mock model that drives the real Codex in the tests, so
//! one sequence of requests gives the same transcript from both. This server adds `hang`, `crash` and `approve=`. A prompt
//! without directives is echoed.

use std::time::Duration;

use crate::limits::{DELTA_BYTES_MAX, DELTAS_MAX};

/// The course of one model call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PromptDirectives {
    /// `first_delay=SECONDS`: pause before the first piece.
    pub first_delay: Duration,
    /// `delay=SECONDS`: pause after each piece.
    pub delay: Duration,
    /// The text of the answer.
    pub reply: ReplyText,
    /// `fail=500|429|401|…|sse|drop`: the call fails like this.
    pub failure: Option<Failure>,
    /// `shell=COMMAND;;`: ask for this command first.
    pub shell: Option<Shell>,
    /// `hang`: send the requested pieces (none by default), then never end.
    pub hang: bool,
    /// `crash`: the whole server dies, as by `kill -9`.
    pub crash: bool,
}

/// A command that the model asks for. It is never run: see [`crate::shell`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shell {
    /// The command line.
    pub command: String,
    /// `escalate=1`: outside the sandbox, so a client has to approve it.
    pub escalate: bool,
}

/// The text of an answer, piece by piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ReplyText {
    /// `d0 xxxxx`, `d1 xxxxx`, …
    Counted { pieces: u32, bytes: usize },
    /// The prompt, word by word.
    Echo(Vec<String>),
}

/// A way for a call to fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// An HTTP status.
    Status(u16),
    /// An error event in the stream.
    Event,
    /// The connection breaks.
    Dropped,
}

impl ReplyText {
    /// How many pieces there are.
    pub(crate) fn pieces(&self) -> u32 {
        match self {
            ReplyText::Counted { pieces, .. } => *pieces,
            ReplyText::Echo(words) => u32::try_from(words.len()).unwrap_or(u32::MAX),
        }
    }

    /// The text of a piece.
    pub(crate) fn piece(&self, index: u32) -> String {
        match self {
            ReplyText::Counted { bytes, .. } if *bytes > 2 => {
                let mut text = format!("d{index} ");
                while text.len() < *bytes {
                    text.push('x');
                }
                text
            }
            ReplyText::Counted { bytes, .. } => "x".repeat(*bytes),
            ReplyText::Echo(words) => words.get(index as usize).cloned().unwrap_or_default(),
        }
    }
}

impl PromptDirectives {
    /// Parses a prompt. Unknown directives are ignored.
    pub(crate) fn parse(prompt: &str) -> Self {
        let body = prompt.split_once("[[").and_then(|(_, rest)| rest.split_once("]]")).map(|(body, _)| body);
        let mut directives = PromptDirectives {
            first_delay: Duration::ZERO,
            delay: Duration::ZERO,
            reply: ReplyText::Echo(prompt.split_inclusive(' ').map(str::to_owned).collect()),
            failure: None,
            shell: None,
            hang: false,
            crash: false,
        };
        if let Some(body) = body {
            directives.read(body);
        }
        directives
    }

    fn read(&mut self, body: &str) {
        let (mut words, mut pieces, mut bytes, mut escalate) = (Vec::new(), None, 8, false);
        let mut rest = body;
        for name in ["shell=", "approve="] {
            if let Some((head, shell)) = rest.split_once(name)
                && let Some((command, tail)) = shell.split_once(";;")
            {
                self.shell = Some(Shell { command: command.to_owned(), escalate: false });
                escalate |= name == "approve=";
                words.extend(head.split_whitespace());
                rest = tail;
            }
        }
        words.extend(rest.split_whitespace());
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let seconds = || value.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
            match name {
                "deltas" => pieces = value.parse().ok(),
                "size" => bytes = value.parse().unwrap_or(bytes).min(DELTA_BYTES_MAX),
                "delay" => self.delay = seconds().unwrap_or_default(),
                "first_delay" => self.first_delay = seconds().unwrap_or_default(),
                "escalate" => escalate |= value != "0",
                "fail" => self.failure = failure(value),
                "hang" => self.hang = true,
                "crash" => self.crash = true,
                _ => {}
            }
        }
        let usual = if self.hang { 0 } else { 5 };
        self.reply = ReplyText::Counted { pieces: pieces.unwrap_or(usual).min(DELTAS_MAX), bytes };
        if let Some(shell) = &mut self.shell {
            shell.escalate = escalate;
        }
    }
}

fn failure(value: &str) -> Option<Failure> {
    match value {
        "sse" => Some(Failure::Event),
        "drop" => Some(Failure::Dropped),
        status => status.parse().ok().map(Failure::Status),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Failure, PromptDirectives, ReplyText, Shell};

    fn pieces_of(prompt: &str) -> Vec<String> {
        let reply = PromptDirectives::parse(prompt).reply;
        (0..reply.pieces()).map(|index| reply.piece(index)).collect()
    }

    #[test]
    fn directives_make_the_text_of_the_mock_model() {
        assert_eq!(pieces_of("[[deltas=2]]"), ["d0 xxxxx", "d1 xxxxx"]);
        assert_eq!(pieces_of("a [[deltas=11 size=5]]").last().map(String::as_str), Some("d10 x"));
        assert_eq!(pieces_of("[[size=2 deltas=1]]"), ["xx"]);
        assert_eq!(pieces_of("[[]]").len(), 5);
    }

    #[test]
    fn a_prompt_without_directives_is_echoed() {
        assert_eq!(pieces_of("good morning  you").concat(), "good morning  you");
    }

    #[test]
    fn a_command_may_hold_anything_but_its_end() {
        let directives = PromptDirectives::parse("[[delay=0.5 shell=touch x/a=b; ls;; escalate=1 deltas=3]]");
        assert_eq!(directives.shell, Some(Shell { command: "touch x/a=b; ls".into(), escalate: true }));
        assert_eq!((directives.delay, directives.reply.pieces()), (Duration::from_millis(500), 3));
        assert_eq!(
            PromptDirectives::parse("[[approve=true;;]]").shell,
            Some(Shell { command: "true".into(), escalate: true })
        );
    }

    #[test]
    fn failures_have_three_kinds() {
        for (text, kind) in
            [("429", Failure::Status(429)), ("sse", Failure::Event), ("drop", Failure::Dropped)]
        {
            assert_eq!(PromptDirectives::parse(&format!("[[fail={text}]]")).failure, Some(kind));
        }
    }

    #[test]
    fn a_turn_that_hangs_sends_only_the_requested_pieces() {
        assert_eq!((pieces_of("[[hang]]").len(), pieces_of("[[hang deltas=2]]").len()), (0, 2));
        assert_eq!(PromptDirectives::parse("[[reply=x]]").reply, ReplyText::Counted { pieces: 5, bytes: 8 });
    }
}
