//! What a setting may be: its type and range, and how a value is read from JSON, TOML or text.

use serde_json::Value as Json;

use crate::config::suggest::nearest;
use crate::foreign_text::quote;

/// The type and range of a setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number within these bounds, both included.
    Integer {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One line of text, not empty.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An absolute path. On the command line and in the environment a relative one counts from the current folder.
    Path,
    /// A path, or the name of a program without a slash.
    Program,
    /// The octal digits of a umask that leaves the owner every right.
    Umask,
    /// `ws://` with an IP address and a port.
    WebSocketUrl,
    /// `npm`, `official`, `official:URL`, `script`, or `script:`, `directory:` or `file:` with an absolute path.
    ReleaseSource,
    /// A list of words.
    Words,
}

/// The value of a setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// For [`Kind::Bool`].
    Bool(bool),
    /// For [`Kind::Integer`].
    Integer(u64),
    /// For [`Kind::Words`].
    Words(Vec<String>),
    /// For all others.
    Text(String),
}

/// Why a value is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadValue {
    /// The value, quoted.
    pub found: String,
    /// What is accepted.
    pub expected: String,
    /// The nearest value that is accepted, as text.
    pub nearest: Option<String>,
}

impl Value {
    /// The value in JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Text(value) => value.clone().into(),
            Value::Words(words) => words.clone().into(),
        }
    }

    /// The value in the form of the environment, as [`Kind::from_text`] reads it.
    pub fn to_text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            other => other.to_json().to_string(),
        }
    }
}

impl Kind {
    /// What is accepted, for messages and documents.
    pub fn expected(self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Text => "one line of text".to_owned(),
            Kind::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Path => "an absolute path".to_owned(),
            Kind::Program => "an absolute path, or a program name without a slash".to_owned(),
            Kind::Umask => "octal digits from \"000\" to \"077\"".to_owned(),
            Kind::WebSocketUrl => {
                "ws:// with an IP address and a port, such as ws://127.0.0.1:4500".to_owned()
            }
            Kind::ReleaseSource => {
                "npm, official, official:URL, script, or script:PATH, directory:PATH or file:PATH with an absolute path".to_owned()
            }
            Kind::Words => "a list of texts".to_owned(),
        }
    }

    /// Reads a value of a file.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn from_json(self, value: &Json) -> Result<Value, BadValue> {
        let read = match (self, value) {
            (Kind::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
            (Kind::Integer { .. }, value) => value.as_u64().and_then(|number| self.integer(number)),
            (Kind::Words, Json::Array(words)) => {
                let words = words.iter().map(|word| word.as_str().map(str::to_owned));
                words.collect::<Option<_>>().map(Value::Words)
            }
            (_, Json::String(text)) => self.word(text),
            _ => None,
        };
        read.ok_or_else(|| self.bad(&value.to_string(), value.as_str().unwrap_or_default()))
    }

    /// Reads a value of the environment or the command line.
    ///
    /// # Errors
    /// [`BadValue`].
    pub fn from_text(self, text: &str) -> Result<Value, BadValue> {
        let read = match self {
            Kind::Bool => match text {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            Kind::Integer { .. } => digits(text).and_then(|number| self.integer(number)),
            Kind::Words if text.trim_start().starts_with('[') => {
                serde_json::from_str::<Vec<String>>(text).ok().map(Value::Words)
            }
            Kind::Words => Some(Value::Words(text.split_whitespace().map(str::to_owned).collect())),
            _ => self.word(text),
        };
        read.ok_or_else(|| self.bad(&format!("\"{text}\""), text))
    }

    fn integer(self, number: u64) -> Option<Value> {
        match self {
            Kind::Integer { min, max } if (min..=max).contains(&number) => Some(Value::Integer(number)),
            _ => None,
        }
    }

    fn word(self, text: &str) -> Option<Value> {
        let is_good = match self {
            Kind::Text => !text.trim().is_empty() && !text.chars().any(char::is_control),
            Kind::Choice(words) => words.contains(&text),
            Kind::Path => text.starts_with('/') && !text.contains('\0'),
            Kind::Program => {
                !text.is_empty() && !text.contains('\0') && (text.starts_with('/') || !text.contains('/'))
            }
            Kind::Umask => umask(text).is_some(),
            Kind::WebSocketUrl => super::gateway::address(text).is_some(),
            Kind::ReleaseSource => is_release_source(text),
            Kind::Bool | Kind::Integer { .. } | Kind::Words => false,
        };
        is_good.then(|| Value::Text(text.to_owned()))
    }

    fn bad(self, found: &str, text: &str) -> BadValue {
        let nearest = match self {
            Kind::Bool => nearest(text, ["true", "false"].into_iter()).map(str::to_owned),
            Kind::Choice(words) => nearest(text, words.iter().copied()).map(str::to_owned),
            Kind::Integer { min, max } => {
                let number = found.trim_matches('"').parse::<i128>().ok();
                number.map(|number| number.clamp(min.into(), max.into()).to_string())
            }
            Kind::WebSocketUrl => {
                let url = format!("ws://{}", text.trim_start_matches("tcp://").trim_start_matches("wss://"));
                super::gateway::address(&url).map(|_| url)
            }
            _ => None,
        };
        BadValue { found: quote(found), expected: self.expected(), nearest }
    }
}

/// Whether releases may be fetched from a URL: HTTPS, or plain HTTP from this machine.
pub fn is_release_url(url: &str) -> bool {
    let is_text = |rest: &str| {
        !rest.is_empty() && !rest.contains(|char: char| char.is_whitespace() || char.is_control())
    };
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"]
        .iter()
        .find_map(|host| url.strip_prefix(host));
    url.strip_prefix("https://").is_some_and(is_text)
        || local.is_some_and(|rest| rest.starts_with([':', '/']) && is_text(rest) && !rest.contains('@'))
}

fn is_release_source(text: &str) -> bool {
    let path = ["script:", "directory:", "file:"].iter().find_map(|kind| text.strip_prefix(kind));
    matches!(text, "npm" | "official" | "script")
        || text.strip_prefix("official:").is_some_and(is_release_url)
        || path.is_some_and(|path| Kind::Path.word(path).is_some())
}

/// A whole number without a sign, spaces or leading zeros.
fn digits(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_plain.then(|| text.parse().ok())?
}

/// The owner's own rights cannot be masked: the server could not use its files.
pub fn umask(digits: &str) -> Option<u32> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| u32::from_str_radix(digits, 8).ok().filter(|&umask| umask <= 0o077))?
}
