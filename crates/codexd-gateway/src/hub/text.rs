//! Reading and writing messages without touching what is not ours in them.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::Text;

/// A string that is borrowed where it holds no escapes.
#[derive(Clone, Debug, Deserialize)]
pub struct Str<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The names that parameters carry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names<'a> {
    #[serde(borrow)]
    pub thread_id: Option<Str<'a>>,
    #[serde(borrow)]
    pub conversation_id: Option<Str<'a>>,
    #[serde(borrow)]
    pub turn_id: Option<Str<'a>>,
    #[serde(borrow)]
    pub item_id: Option<Str<'a>>,
    #[serde(borrow)]
    pub request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub subscription_id: Option<&'a RawValue>,
}

impl<'a> Names<'a> {
    /// The names in `params`; none where they are not as expected, which the app-server will say.
    pub fn of(params: Option<&'a RawValue>) -> Self {
        params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default()
    }

    /// The names in the parameters of a request, which upstream takes as an array as well: what names a thread, or what is
    /// to be ended, comes first there.
    pub fn of_request(params: Option<&'a RawValue>) -> Self {
        match params.filter(|params| params.get().starts_with('[')) {
            None => Self::of(params),
            Some(array) => {
                let values: Vec<&RawValue> = serde_json::from_str(array.get()).unwrap_or_default();
                let first = values.first().copied();
                let thread_id = first.and_then(|first| serde_json::from_str(first.get()).ok());
                Self { thread_id, request_id: first, subscription_id: first, ..Self::default() }
            }
        }
    }

    /// Whether the stream of events of this raw name is meant.
    pub fn is_stream(&self, name: &str) -> bool {
        self.subscription_id.is_some_and(|raw| raw.get() == name)
    }

    /// The thread, under its newer or its older name.
    pub fn thread(&self) -> Option<&str> {
        self.thread_id.as_ref().or(self.conversation_id.as_ref()).map(|name| &*name.0)
    }
}

/// The members of an object, raw; none if it is no object.
pub fn members(object: &str) -> Vec<(Cow<'_, str>, &RawValue)> {
    struct All;
    impl<'de> serde::de::Visitor<'de> for All {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("an object")
        }
        fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut members = Vec::new();
            while let Some(Str(name)) = map.next_key()? {
                members.push((name, map.next_value()?));
            }
            Ok(members)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(object);
    serde::Deserializer::deserialize_map(&mut reader, All).unwrap_or_default()
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

/// A request of the gateway's own.
pub fn request(id: u64, method: &str, params: &serde_json::Value) -> Text {
    format!(r#"{{"id":{id},"method":"{method}","params":{params}}}"#).into()
}

/// A notification of the gateway's own; `params` is raw, or a value.
pub fn notification(method: &str, params: &impl std::fmt::Display) -> Text {
    composed(format!(r#"{{"method":"{method}","params":{params}}}"#))
}

/// A good answer; `id` and `result` are raw.
pub fn result(id: &str, result: &str) -> Text {
    format!(r#"{{"id":{id},"result":{result}}}"#).into()
}

/// A refusal, as upstream writes it; `id` is raw.
pub fn error(id: &str, code: i64, message: &str, data: Option<&serde_json::Value>) -> Text {
    let message = serde_json::Value::from(message);
    composed(match data {
        Some(data) => format!(r#"{{"error":{{"code":{code},"data":{data},"message":{message}}},"id":{id}}}"#),
        None => format!(r#"{{"error":{{"code":{code},"message":{message}}},"id":{id}}}"#),
    })
}

/// A message for clients that the gateway has composed itself. The tests hold each against the schema of every reference
/// release.
fn composed(text: String) -> Text {
    #[cfg(test)]
    super::tests::composed::check(&text);
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
    fn an_array_names_its_thread_first() {
        let raw =
            serde_json::value::RawValue::from_string(r#"["t1",[{"type":"text"}]]"#.into()).expect("JSON");
        assert_eq!(Names::of_request(Some(&raw)).thread(), Some("t1"));
    }

    #[test]
    fn a_refusal_is_json_whatever_it_says() {
        let text = error("\"x\"", -32600, "a \"b\"\n", None);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["error"]["message"], "a \"b\"\n");
    }
}
