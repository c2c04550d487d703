//! Reading and writing protocol messages without changing members that the gateway does not own.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::hub::event::{Text, ThreadId};
use crate::limits::QUEUED_MAX_MS;

/// A string that is borrowed where it holds no escapes.
#[derive(Clone, Debug, Deserialize)]
pub struct Str<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Error code of a failure that the request did not cause.
pub const SERVER_ERROR: i64 = -32000;

/// The ids in the parameters of a message, read as an app-server reads them: of a repeated member the last one
/// counts, and a member of another type does not affect the others.
#[derive(Debug, Default)]
pub struct Names<'a> {
    pub thread_id: Option<Str<'a>>,
    pub conversation_id: Option<Str<'a>>,
    pub turn_id: Option<Str<'a>>,
    pub item_id: Option<Str<'a>>,
    pub subscription_id: Option<&'a RawValue>,
    pub request_id: Option<&'a RawValue>,
}

impl<'a> Names<'a> {
    /// The ids in `params`; none if they are no object.
    pub fn of(params: Option<&'a RawValue>) -> Self {
        params.map(|params| Self::of_text(params.get())).unwrap_or_default()
    }

    /// The ids in raw parameters.
    pub fn of_text(params: &'a str) -> Self {
        let mut names = Self::default();
        each_member(params, |name, value| names.take(name, value));
        names
    }

    fn take(&mut self, name: &str, value: &'a RawValue) {
        let string = || serde_json::from_str::<Str<'a>>(value.get()).ok();
        match name {
            "threadId" => self.thread_id = string().map(canonical),
            "conversationId" => self.conversation_id = string().map(canonical),
            "turnId" => self.turn_id = string(),
            "itemId" => self.item_id = string(),
            "requestId" => self.request_id = Some(value),
            "subscriptionId" => self.subscription_id = Some(value),
            _ => {}
        }
    }

    /// Whether this event stream is named; `name` is raw.
    pub fn is_stream(&self, name: &str) -> bool {
        self.subscription_id.is_some_and(|raw| raw.get() == name)
    }

    /// The thread id, under its newer or its older name.
    pub fn thread(&self) -> Option<&str> {
        self.thread_id.as_ref().or(self.conversation_id.as_ref()).map(|name| &*name.0)
    }
}

/// A thread id in the form of the app-server, which also reads a UUID in capitals, without hyphens, in braces or as a
/// URN (0.171.0).
fn canonical(id: Str<'_>) -> Str<'_> {
    let is_canonical = |text: &str| text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_canonical(&id.0) {
        return id;
    }
    let text = id.0.strip_prefix("urn:uuid:").unwrap_or(&id.0);
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let digits: String =
        text.bytes().filter(u8::is_ascii_hexdigit).map(|byte| byte.to_ascii_lowercase() as char).collect();
    let hyphens: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    if digits.len() != 32
        || digits.len() + hyphens.len() != text.len()
        || !matches!(hyphens[..], [] | [8, 13, 18, 23])
    {
        return id;
    }
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    Str(format!("{a}-{b}-{c}-{d}-{e}").into())
}

/// The thread that parameters name.
pub fn thread_of(params: Option<&RawValue>) -> Option<ThreadId> {
    Names::of(params).thread().map(ThreadId::from)
}

/// The members of an object, raw; none if it is no object.
pub fn members(object: &str) -> Vec<(Cow<'_, str>, &RawValue)> {
    let mut members = Vec::new();
    let is_object = each_member_named(object, |name, value| members.push((name, value)));
    if is_object { members } else { Vec::new() }
}

/// Calls `each` with the members of an object.
fn each_member<'a>(object: &'a str, mut each: impl FnMut(&str, &'a RawValue)) {
    each_member_named(object, |name, value| each(&name, value));
}

/// Calls `each` with the members of an object. Returns whether it is one.
fn each_member_named<'a>(object: &'a str, each: impl FnMut(Cow<'a, str>, &'a RawValue)) -> bool {
    struct Each<F>(F);
    impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> serde::de::Visitor<'de> for Each<F> {
        type Value = ();
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("an object")
        }
        fn visit_map<M: serde::de::MapAccess<'de>>(mut self, mut map: M) -> Result<(), M::Error> {
            while let Some(Str(name)) = map.next_key()? {
                self.0(name, map.next_value()?);
            }
            Ok(())
        }
    }
    let mut reader = serde_json::Deserializer::from_str(object);
    serde::Deserializer::deserialize_map(&mut reader, Each(each)).is_ok()
}

/// One member of an object, raw.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a RawValue> {
    members(object).into_iter().rfind(|(known, _)| known == name).map(|(_, value)| value)
}

/// A member that is a string.
pub fn string<'a>(object: &'a str, name: &str) -> Option<Cow<'a, str>> {
    member(object, name).and_then(|raw| serde_json::from_str::<Str<'a>>(raw.get()).ok()).map(|text| text.0)
}

/// `text` with `part`, which must be a slice of it, replaced.
pub fn splice(text: &str, part: &str, with: &str) -> Text {
    splice_all(text, [(part, with)])
}

/// `text` with several parts, which must be slices of it that do not overlap, replaced.
pub fn splice_all<const N: usize>(text: &str, mut parts: [(&str, &str); N]) -> Text {
    parts.sort_unstable_by_key(|(part, _)| part.as_ptr());
    let mut spliced = String::with_capacity(text.len());
    let mut end = 0;
    for (part, with) in parts {
        let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        debug_assert!(end <= start && start + part.len() <= text.len(), "parts of the text");
        spliced.push_str(&text[end..start]);
        spliced.push_str(with);
        end = start + part.len();
    }
    spliced.push_str(&text[end..]);
    spliced.into()
}

/// The gateway's own request.
pub fn request(id: u64, method: &str, params: &serde_json::Value) -> Text {
    format!(r#"{{"id":{id},"method":"{method}","params":{params}}}"#).into()
}

/// The gateway's own notification; `params` is raw, or a value.
pub fn notification(method: &str, params: &impl std::fmt::Display) -> Text {
    composed(format!(r#"{{"method":"{method}","params":{params}}}"#))
}

/// A successful response; `id` and `result` are raw.
pub fn result(id: &str, result: &str) -> Text {
    format!(r#"{{"id":{id},"result":{result}}}"#).into()
}

/// An error response in upstream's form; `id` is raw.
pub fn error(id: &str, code: i64, message: &str, data: Option<&serde_json::Value>) -> Text {
    let message = serde_json::Value::from(message);
    composed(match data {
        Some(data) => format!(r#"{{"error":{{"code":{code},"data":{data},"message":{message}}},"id":{id}}}"#),
        None => format!(r#"{{"error":{{"code":{code},"message":{message}}},"id":{id}}}"#),
    })
}

/// The response to a request that timed out in the queue.
pub fn unavailable(raw_id: &str) -> Text {
    let data = serde_json::json!({"reason": "appServerUnavailable", "retryable": true});
    let message = format!("no app-server has answered for {} s; try again", QUEUED_MAX_MS / 1_000);
    error(raw_id, SERVER_ERROR, &message, Some(&data))
}

/// A fingerprint of an id or a text.
pub fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A message that the gateway composes for clients. The tests check each against the schema of every reference
/// release.
fn composed(text: String) -> Text {
    #[cfg(test)]
    crate::hub::tests::composed::check(&text);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::{Names, error, member, splice, splice_all, string};
    use codexd_protocol::{Message, parse};

    #[test]
    fn an_id_is_replaced_and_nothing_else() {
        let text = r#"{ "method":"m", "id" : "a\"b" , "params":{"id":"a\"b"}, "trace": [1.0] }"#;
        let Ok(Message::Request { id, .. }) = parse(text) else { panic!("a request") };
        assert_eq!(
            splice(text, id.get(), "7").as_str(),
            r#"{ "method":"m", "id" : 7 , "params":{"id":"a\"b"}, "trace": [1.0] }"#
        );
    }

    #[test]
    fn several_parts_are_replaced_in_any_order() {
        let text = r#"{"params":{"requestId":"s"},"id":3}"#;
        let (id, named) = (member(text, "id").expect("id").get(), r#""s""#);
        let at = text.find(named).expect("named");
        let named = &text[at..at + named.len()];
        for parts in [[(id, "10"), (named, "9")], [(named, "9"), (id, "10")]] {
            assert_eq!(splice_all(text, parts).as_str(), r#"{"params":{"requestId":9},"id":10}"#);
        }
    }

    #[test]
    fn members_are_found_raw() {
        let text = r#"{"a":{"b":"x"},"c":"q\"","d":1.50}"#;
        assert_eq!(member(text, "d").map(|raw| raw.get()), Some("1.50"));
        assert_eq!(string(text, "c").as_deref(), Some("q\""));
        assert!(member(text, "z").is_none() && member("[1]", "z").is_none());
    }

    #[test]
    fn names_that_are_no_strings_name_nobody() {
        let raw = serde_json::value::RawValue::from_string(r#"{"threadId":5}"#.into()).expect("JSON");
        assert!(Names::of(Some(&raw)).thread().is_none());
        assert!(Names::of(None).thread().is_none());
    }

    #[test]
    fn a_thread_is_named_as_the_app_server_reads_it() {
        let id = "01a22415-2bcf-7061-b043-d42fa6a2d69b";
        for params in [
            format!(r#"{{"threadId":"{id}"}}"#),
            format!(r#"{{"threadId":"x","threadId":"{id}"}}"#),
            format!(r#"{{"threadId":"{id}","turnId":5,"itemId":[],"conversationId":{{}}}}"#),
            format!(r#"{{"thread\u0049d":"{id}"}}"#),
            format!(r#"{{"threadId":"{}"}}"#, id.to_uppercase()),
            format!(r#"{{"threadId":"{}"}}"#, id.replace('-', "")),
            format!(r#"{{"threadId":"{{{id}}}"}}"#),
            format!(r#"{{"threadId":"urn:uuid:{id}"}}"#),
        ] {
            let raw = serde_json::value::RawValue::from_string(params).expect("JSON");
            assert_eq!(Names::of(Some(&raw)).thread(), Some(id), "{raw}");
        }
        for other in [format!(" {id}"), "01a224152bcf-7061-b043-d42fa6a2d69b".to_owned(), "T".to_owned()] {
            let raw = serde_json::value::to_raw_value(&serde_json::json!({"threadId": other})).expect("JSON");
            assert_eq!(Names::of(Some(&raw)).thread(), Some(&*other));
        }
    }

    #[test]
    fn a_refusal_is_json_whatever_it_says() {
        let text = error("\"x\"", -32600, "a \"b\"\n", None);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["error"]["message"], "a \"b\"\n");
    }
}
