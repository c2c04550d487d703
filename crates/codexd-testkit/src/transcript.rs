//! Making two records of the same script comparable.
//!
//! What differs from run to run becomes a placeholder, numbered in order of appearance where identity matters: ids, times,
//! pids, ports, versions, and the folders of the home. Two servers that behave alike then give equal lines.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};
use serde_json::{Map, Value};

use crate::Home;
use crate::client::{Direction, Entry};

/// Everything in a text that names one run: tried from left to right, the first that fits wins.
static VOLATILE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?P<uuid>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)",
        r"|(?P<time>\b\d{4}-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?)",
        r"|(?P<date>\b\d{4}/\d\d/\d\d\b)",
        r"|(?P<address>\b\d+\.\d+\.\d+\.\d+(?::\d+)?\b)",
        r"|(?P<version>\b\d+\.\d+\.\d+(?:-[0-9A-Za-z.]+)?\b)",
        r"|(?P<mock>\b(?:msg|call|fc|resp)_\d+\b)",
    ))
    .expect("the pattern is constant")
});

/// Names of the pattern's groups, each with whether its values are told apart.
const KINDS: [(&str, bool); 6] = [
    ("uuid", true),
    ("time", false),
    ("date", false),
    ("address", false),
    ("version", false),
    ("mock", true),
];

/// Replaces what differs from run to run; one value serves one whole run, so that numbers stay the same throughout.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    fixed: Vec<(String, String)>,
    numbers: HashMap<String, usize>,
    counts: HashMap<String, usize>,
}

impl Normaliser {
    /// One that knows the folders of a home.
    pub fn for_home(home: &Home) -> Normaliser {
        let folders = [(home.path(), "<home>"), (&home.work(), "<work>"), (home.root(), "<root>")];
        let start = Normaliser::default();
        folders.into_iter().fold(start, |known, (path, name)| known.replace(&path.to_string_lossy(), name))
    }

    /// Replaces a text wherever it occurs, before everything else.
    #[must_use]
    pub fn replace(mut self, text: &str, placeholder: &str) -> Normaliser {
        self.fixed.push((text.to_owned(), placeholder.to_owned()));
        self
    }

    /// A text with placeholders.
    pub fn text(&mut self, text: &str) -> String {
        let fixed =
            self.fixed.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from.as_str(), to));
        let placeholder = |found: &Captures<'_>| {
            let named = KINDS.iter().find_map(|&(kind, apart)| Some((kind, apart, found.name(kind)?)));
            let (kind, apart, value) = named.expect("one group of an alternation always fits");
            if apart { self.numbered(kind, value.as_str()) } else { format!("<{kind}>") }
        };
        VOLATILE.replace_all(&fixed, placeholder).into_owned()
    }

    /// A JSON value with placeholders, and its members in the order of their names.
    pub fn value(&mut self, value: &Value) -> Value {
        self.member("", value)
    }

    /// The lines of a record: `> request`, `< answer to its method`, `< notification`.
    pub fn lines(&mut self, entries: &[Entry]) -> Vec<String> {
        let mut asked: HashMap<String, String> = HashMap::new();
        let mut lines = Vec::with_capacity(entries.len());
        for Entry { direction, message, .. } in entries {
            let (arrow, back) = match direction {
                Direction::Sent => ('>', '<'),
                Direction::Received => ('<', '>'),
            };
            let id = message["id"].to_string();
            let normal = self.value(message);
            let line = if let Some(method) = message["method"].as_str() {
                asked.insert(format!("{back}{id}"), method.to_owned());
                format!("{arrow} {method} {}", normal["params"])
            } else {
                let method =
                    asked.get(&format!("{arrow}{id}")).map_or("what was never asked", String::as_str);
                let outcome = if normal["error"].is_null() { "result" } else { "error" };
                format!("{arrow} answer to {method}: {outcome} {}", normal[outcome])
            };
            lines.push(line);
        }
        lines
    }

    fn member(&mut self, name: &str, value: &Value) -> Value {
        match value {
            Value::Number(number) => match number_kind(name) {
                Some("pid") => Value::String(self.numbered("pid", &number.to_string())),
                Some(kind) => Value::String(format!("<{kind}>")),
                None => value.clone(),
            },
            Value::String(text) if number_kind(name) == Some("pid") => {
                Value::String(self.numbered("pid", text))
            }
            Value::String(text) if name == "userAgent" => {
                let product = text.split_once(' ').map_or(text.as_str(), |(product, _system)| product);
                Value::String(self.text(product))
            }
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.member(name, item)).collect(),
            Value::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_by_key(|(name, _)| name.as_str());
                let normal = |(name, value): (&String, &Value)| (self.text(name), self.member(name, value));
                Value::Object(sorted.into_iter().map(normal).collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    /// `<kind-N>`, where N says which of the values of this kind it is.
    fn numbered(&mut self, kind: &str, value: &str) -> String {
        let key = format!("{kind} {value}");
        let number = *self.numbers.entry(key).or_insert_with(|| {
            let count = self.counts.entry(kind.to_owned()).or_default();
            *count += 1;
            *count
        });
        format!("<{kind}-{number}>")
    }
}

/// What a number below this name is, if it differs from run to run.
fn number_kind(name: &str) -> Option<&'static str> {
    let last = name.rsplit(['_', '.']).next().unwrap_or(name);
    match last {
        "pid" | "processId" => Some("pid"),
        "timestamp" => Some("time"),
        _ if last.ends_with("Ms") || last.ends_with("At") || last.ends_with("Timestamp") => Some("time"),
        _ if last.ends_with("MemoryBytes") => Some("bytes"),
        _ => None,
    }
}

/// Where two lists of lines first differ, told for a person; `None` if they are equal.
pub fn difference(left: &[String], right: &[String]) -> Option<String> {
    const AROUND: usize = 3;
    if left == right {
        return None;
    }
    let at = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let shown = |lines: &[String]| {
        let from = at.saturating_sub(AROUND);
        let lines = lines.iter().enumerate().skip(from).take(2 * AROUND + 1);
        lines.map(|(number, line)| format!("{number:5} {line}\n")).collect::<String>()
    };
    Some(format!("first difference at line {at}\n--- left\n{}--- right\n{}", shown(left), shown(right)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::{Normaliser, difference};
    use crate::client::{Direction, Entry};

    const A: &str = "01a1f6fa-02c2-7000-8000-000000000001";
    const B: &str = "01a1f6fa-02c2-7000-8000-000000000002";

    fn entry(direction: Direction, message: Value) -> Entry {
        Entry { direction, at: Instant::now(), message }
    }

    #[test]
    fn the_same_id_keeps_its_number() {
        let mut normal = Normaliser::default().replace("/tmp/cxd-1/h", "<home>");
        let path = format!("/tmp/cxd-1/h/sessions/2026/11/20/rollout-2026-11-20T05-01-02-{B}.jsonl");
        let value = normal.value(&json!({"b": [A, B, A], "c": path, "createdAt": 17, "pid": 4, "n": 3}));
        let path = "<home>/sessions/<date>/rollout-<time>-<uuid-2>.jsonl";
        let expected = json!({
            "b": ["<uuid-1>", "<uuid-2>", "<uuid-1>"], "c": path, "createdAt": "<time>", "pid": "<pid-1>", "n": 3,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn versions_ports_and_systems_go() {
        let mut normal = Normaliser::default();
        let value =
            json!({"userAgent": "x/0.169.0 (Debian 12.0.0; x86_64) y", "url": "ws://127.0.0.1:4242/a"});
        let expected = json!({"userAgent": "x/<version>", "url": "ws://<address>/a"});
        assert_eq!(normal.value(&value), expected);
    }

    #[test]
    fn an_answer_is_labelled_with_what_it_answers() {
        let record = [
            entry(Direction::Sent, json!({"id": 1, "method": "thread/start", "params": {"b": 1, "a": 2}})),
            entry(Direction::Received, json!({"id": 1, "method": "approve", "params": {}})),
            entry(Direction::Received, json!({"id": 1, "result": {}})),
            entry(Direction::Sent, json!({"id": 1, "error": {"code": 1}})),
        ];
        let lines = Normaliser::default().lines(&record);
        let expected = [
            "> thread/start {\"a\":2,\"b\":1}",
            "< approve {}",
            "< answer to thread/start: result {}",
            "> answer to approve: error {\"code\":1}",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_missing_line_is_a_difference() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(difference(&lines("a b"), &lines("a b")), None);
        assert!(difference(&lines("a b"), &lines("a")).expect("one is shorter").contains("line 1"));
    }
}
