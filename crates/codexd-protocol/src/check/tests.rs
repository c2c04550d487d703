use super::{DEPTH_MAX, INVALID_REQUEST, PARSE_ERROR, check};
use crate::Message;

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn request(params: &str) -> String {
    format!(r#"{{"id":5,"method":"thread/list","params":{params}}}"#)
}

fn refused(text: &str) -> Option<(Option<String>, i64)> {
    check(text).err().map(|refusal| (refusal.id.map(str::to_owned), refusal.code))
}

#[test]
fn half_a_surrogate_pair_is_refused_wherever_it_stands() {
    for half in [r"\ud83d", r"\udc00", r"\ud83dx", r"\ud83d\n", r"\ud83d\ud83d", r"\uD83D\u0041", r"\\\ud83d"]
    {
        for params in [format!(r#"{{"x":"{half}"}}"#), format!(r#"{{"{half}":1}}"#)] {
            assert_eq!(refused(&request(&params)), Some((Some("5".into()), PARSE_ERROR)), "{params}");
        }
    }
    assert_eq!(refused(r#"{"id":"\ud83d","method":"m"}"#), Some((None, PARSE_ERROR)));
    for whole in [r"\ud83d\ude00", r"\\ud83d", r"\u0000", r"\uFFFF", r#"\"\ud83d\ude00"#] {
        assert_eq!(refused(&request(&format!(r#"{{"x":"{whole}"}}"#))), None, "{whole}");
    }
}

#[test]
fn nesting_is_refused_at_the_depth_of_the_app_server() {
    let text = |depth| request(&format!(r#"{{"x":{}}}"#, nested(depth)));
    assert_eq!(refused(&text(DEPTH_MAX - 2)), None);
    assert_eq!(refused(&text(DEPTH_MAX - 1)), Some((Some("5".into()), PARSE_ERROR)));
    let other = |depth| format!(r#"{{"id":5,"method":"m","zz":{}}}"#, nested(depth));
    assert_eq!(refused(&other(DEPTH_MAX - 1)), None);
    assert!(refused(&other(DEPTH_MAX)).is_some() && refused(&other(100_000)).is_some());
    let flat = format!(r#"{{"x":[{}1],"y":"{}"}}"#, "[],".repeat(1_000), "[".repeat(1_000));
    assert_eq!(refused(&request(&flat)), None);
}

#[test]
fn numbers_of_any_size_are_taken_as_the_app_server_takes_them() {
    for number in ["1e999", "-1e999", "1e-999", "99999999999999999999", &"9".repeat(400)] {
        assert_eq!(refused(&request(&format!(r#"{{"x":{number}}}"#))), None, "{number}");
    }
}

#[test]
fn a_trace_is_a_trace_context_or_null() {
    let text = |trace: &str| format!(r#"{{"id":5,"method":"m","params":{{}},"trace":{trace}}}"#);
    for trace in ["null", "{}", r#"{"traceparent":"x","tracestate":null}"#, r#"{"zz":1}"#, r#"["a","b"]"#] {
        assert_eq!(refused(&text(trace)), None, "{trace}");
    }
    for trace in ["7", r#""x""#, r#"{"traceparent":7}"#, r#"{"traceparent":"x","traceparent":"x"}"#] {
        assert_eq!(refused(&text(trace)), Some((Some("5".into()), INVALID_REQUEST)), "{trace}");
    }
}

#[test]
fn an_id_that_makes_a_notification_of_a_request_is_refused() {
    for (id, repeated) in [
        ("5.0", Some("5.0")),
        ("5e0", Some("5e0")),
        ("9223372036854775808", Some("9223372036854775808")),
        ("null", None),
        ("true", Some("true")),
        ("[5]", Some("[5]")),
    ] {
        let text = format!(r#"{{"id":{id},"method":"m"}}"#);
        assert_eq!(refused(&text), Some((repeated.map(str::to_owned), INVALID_REQUEST)), "{id}");
    }
    for id in ["-5", "9223372036854775807", r#""""#, r#""\u0061""#] {
        assert_eq!(refused(&format!(r#"{{"id":{id},"method":"m"}}"#)), None, "{id}");
    }
}

#[test]
fn members_of_the_envelope_stand_there_once() {
    for text in [
        r#"{"id":4,"id":5,"method":"m"}"#,
        r#"{"id":5,"method":"n","method":"m"}"#,
        r#"{"id":5,"method":"m","params":7,"params":{}}"#,
        r#"{"id":5,"method":"m","trace":null,"trace":null}"#,
    ] {
        assert_eq!(refused(text), Some((None, INVALID_REQUEST)), "{text}");
    }
    assert_eq!(refused(r#"{"id":5,"method":"m","z":1,"z":2,"jsonrpc":7}"#), None);
}

#[test]
fn an_answer_has_a_result_or_a_whole_error() {
    for text in [
        r#"{"id":0,"error":{}}"#,
        r#"{"id":0,"error":{"message":"no"}}"#,
        r#"{"id":0,"error":{"code":1}}"#,
        r#"{"id":0,"error":{"code":1.5,"message":"no"}}"#,
        r#"{"id":0,"error":7}"#,
        r#"{"id":0,"result":"\ud83d"}"#,
    ] {
        let refusal = check(text).expect_err(text);
        assert!(refusal.is_answer && refusal.id == Some("0"), "{text}");
    }
    for (text, good) in [
        (r#"{"id":0,"result":null}"#, true),
        (r#"{"id":0,"result":{},"error":7}"#, true),
        (r#"{"id":0,"error":{"code":-1,"message":"no","data":[1]}}"#, false),
    ] {
        let checked = check(text).expect(text);
        assert!(matches!(checked.message, Message::Response { outcome, .. } if outcome.is_ok() == good));
    }
}

#[test]
fn a_method_may_be_written_with_escapes() {
    let checked = check(r#"{"id":5,"method":"thread\/list"}"#).expect("upstream takes it");
    assert_eq!(checked.escaped_method, Some(r#""thread\/list""#));
    assert!(matches!(checked.message, Message::Request { method: "", .. }));
    for method in ["7", "null", "true", r#""\ud83d""#] {
        assert!(refused(&format!(r#"{{"id":5,"method":{method}}}"#)).is_some(), "{method}");
    }
}

#[test]
fn what_is_no_json_is_a_parse_error() {
    for text in
        ["", "{", "x", "\u{feff}{}", "{} x", "{\"id\":1}\n{\"id\":2}", "{\"x\":\"\u{1}\"}", r#"{"x":"\q"}"#]
    {
        assert_eq!(refused(text), Some((None, PARSE_ERROR)), "{text}");
    }
    assert_eq!(refused(r#"[5,"m",{}]"#), Some((None, INVALID_REQUEST)));
    assert_eq!(refused("{}"), Some((None, INVALID_REQUEST)));
}
