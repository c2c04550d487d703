//! What a user message asks of the mock model: `hello [[deltas=500 delay=0.002]]`.

use std::time::Duration;

use serde_json::Value;

/// How one answer is to be given. The text between `[[` and `]]` of the last user message sets it, as `name=value`
/// parted by blanks; a shell command or the call of a tool ends with `;;`. A message without `[[` may have it between `<<`
/// and `>>`: that is how the message that a tool call carries speaks for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Directives {
    /// `deltas=N`: how many pieces the answer has.
    pub deltas: usize,
    /// `delay=SECONDS`: pause after each piece.
    pub delay: Duration,
    /// `size=N`: bytes of a piece.
    pub size: usize,
    /// `batch=N`: pieces per write.
    pub batch: usize,
    /// `first_delay=SECONDS`: pause before the first piece.
    pub first_delay: Duration,
    /// `fail=429|500|sse|drop`: do not answer at all, in this way.
    pub failure: Option<Failure>,
    /// `shell=COMMAND;;`: ask for this command first, and answer when its output has come.
    pub shell: Option<String>,
    /// `tool=NAME {ARGUMENTS};;`: call this tool first, and answer when its output has come. A tool of a group is
    /// `GROUP/NAME`.
    pub tool: Option<Tool>,
    /// `escalate=1`: ask for the command outside the sandbox, so that a client must approve it.
    pub escalate: bool,
    /// `hold=NAME`: after the last piece, wait until the test releases NAME.
    pub hold: Option<String>,
}

/// The call of a tool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tool {
    /// The group that it belongs to.
    pub group: Option<String>,
    /// Its name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// A way not to answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failure {
    /// An HTTP error with this status.
    Status(u16),
    /// A `response.failed` event.
    Event,
    /// The connection is cut in the middle of the answer.
    Dropped,
}

impl Default for Directives {
    fn default() -> Self {
        Directives {
            deltas: 5,
            delay: Duration::ZERO,
            size: 8,
            batch: 1,
            first_delay: Duration::ZERO,
            failure: None,
            shell: None,
            tool: None,
            escalate: false,
            hold: None,
        }
    }
}

impl Directives {
    /// Reads them out of a user message; what is not understood is left at its default.
    pub fn parse(message: &str) -> Directives {
        let mut directives = Directives::default();
        let Some(body) = between(message, "[[", "]]").or_else(|| between(message, "<<", ">>")) else {
            return directives;
        };
        let (shell, body) = taken(body, "shell=");
        let (tool, body) = taken(&body, "tool=");
        directives.shell = shell;
        directives.tool = tool.map(|call| Tool::parse(&call));
        for (name, value) in body.split_whitespace().filter_map(|word| word.split_once('=')) {
            directives.set(name, value);
        }
        directives
    }

    fn set(&mut self, name: &str, value: &str) {
        let count = |default: usize| value.parse().unwrap_or(default);
        let seconds = || value.parse().map(Duration::from_secs_f64).unwrap_or_default();
        match name {
            "deltas" => self.deltas = count(self.deltas),
            "size" => self.size = count(self.size),
            "batch" => self.batch = count(self.batch).max(1),
            "delay" => self.delay = seconds(),
            "first_delay" => self.first_delay = seconds(),
            "escalate" => self.escalate = value != "0",
            "hold" => self.hold = Some(value.to_owned()),
            "fail" => {
                self.failure = match value {
                    "sse" => Some(Failure::Event),
                    "drop" => Some(Failure::Dropped),
                    status => status.parse().ok().map(Failure::Status),
                }
            }
            _ => {}
        }
    }
}

impl Tool {
    fn parse(call: &str) -> Tool {
        let (name, arguments) = call.split_once(' ').unwrap_or((call, "{}"));
        let (group, name) = match name.split_once('/') {
            Some((group, name)) => (Some(group.to_owned()), name),
            None => (None, name),
        };
        Tool { group, name: name.to_owned(), arguments: arguments.to_owned() }
    }
}

/// What stands between two marks.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(body, _)| body)
}

/// What stands between a name and `;;`, and the text without it.
fn taken(text: &str, name: &str) -> (Option<String>, String) {
    let found = text.split_once(name).and_then(|(before, rest)| {
        let (value, after) = rest.split_once(";;")?;
        Some((value.to_owned(), format!("{before} {after}")))
    });
    found.map_or_else(|| (None, text.to_owned()), |(value, rest)| (Some(value), rest))
}

/// The last message of the user in a request, and whether the output of a tool has come since.
pub(super) fn last_user_message(body: &Value) -> (String, bool) {
    let mut last = (String::new(), false);
    for item in body["input"].as_array().into_iter().flatten() {
        match item["type"].as_str().unwrap_or("message") {
            "message" if item["role"] == "user" => {
                let text = text_of(&item["content"]);
                // What a goal is about is handed to the model as if it had asked for it, beside a message that no user wrote (0.169.0).
                last =
                    if text.starts_with("<codex_internal_context") { (last.0, false) } else { (text, false) };
            }
            "function_call_output" if item["name"] == "goal_objective" => {
                last = (item["output"].as_str().unwrap_or_default().to_owned(), false);
            }
            "function_call_output" | "custom_tool_call_output" => last.1 = true,
            _ => {}
        }
    }
    last
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Directives, Failure, last_user_message};

    #[test]
    fn a_message_without_directives_asks_for_the_usual() {
        assert_eq!(Directives::parse("hello [[ not closed"), Directives::default());
    }

    #[test]
    fn a_shell_command_may_hold_anything_but_its_end() {
        let parsed =
            Directives::parse("run [[deltas=2 shell=touch /tmp/a=b; ls;; escalate=1 delay=0.5]] now");
        assert_eq!(parsed.shell.as_deref(), Some("touch /tmp/a=b; ls"));
        assert_eq!((parsed.deltas, parsed.escalate, parsed.delay), (2, true, Duration::from_millis(500)));
    }

    #[test]
    fn the_call_of_a_tool_may_carry_directives_of_its_own() {
        let parsed = Directives::parse(r#"go [[tool=agents/spawn {"message":"x <<deltas=7>>"};; deltas=2]]"#);
        let tool = parsed.tool.expect("a call");
        assert_eq!((tool.group.as_deref(), tool.name.as_str(), parsed.deltas), (Some("agents"), "spawn", 2));
        assert_eq!(Directives::parse(&tool.arguments).deltas, 7);
    }

    #[test]
    fn failures_have_three_kinds() {
        for (text, failure) in
            [("429", Failure::Status(429)), ("sse", Failure::Event), ("drop", Failure::Dropped)]
        {
            assert_eq!(Directives::parse(&format!("[[fail={text}]]")).failure, Some(failure));
        }
    }

    #[test]
    fn a_turn_of_a_goal_is_about_its_objective() {
        let body = serde_json::json!({"input": [
            {"role": "user", "content": "one"},
            {"type": "function_call_output", "name": "goal_objective", "output": "go on"},
            {"role": "user", "content": "<codex_internal_context source=\"goal\">"},
        ]});
        assert_eq!(last_user_message(&body), ("go on".to_owned(), false));
    }

    #[test]
    fn the_output_of_a_tool_belongs_to_the_message_before_it() {
        let body = serde_json::json!({"input": [
            {"role": "user", "content": "one"},
            {"type": "function_call_output", "output": "x"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]},
        ]});
        assert_eq!(last_user_message(&body), ("two".to_owned(), false));
    }
}
