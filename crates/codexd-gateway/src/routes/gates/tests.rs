use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert, proptest};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::{Gate, check, methods, notification_needs_experimental};
use crate::routes::{Route, route};

fn refused(method: &str, params: &str) -> Option<String> {
    let params: Box<RawValue> = serde_json::from_str(params).expect("JSON");
    assert_eq!(check(method, Some(&params), true), Ok(()), "a client with the capability may");
    check(method, Some(&params), false).err()
}

fn sentence(what: &str) -> Option<String> {
    Some(format!("{what} requires experimentalApi capability"))
}

#[test]
fn as_many_methods_are_gated_as_the_newest_release_gates() {
    let gated = methods::all().filter(|row| matches!(row.gate, Gate::Method(_))).count();
    let of_members = methods::all().filter(|row| matches!(row.gate, Gate::Members(_))).count();
    assert_eq!((gated, of_members), (79, 8));
    assert_eq!(route("thread/settings/update"), Route::Hub);
}

#[test]
fn an_experimental_method_is_refused_in_upstreams_words() {
    let method = "thread/settings/update";
    assert_eq!(refused(method, r#"{"threadId":"x"}"#), sentence(method));
    assert_eq!(refused("memory/reset", "{}"), sentence("memory/reset"));
    assert_eq!(refused("collaborationMode/list", "[]"), sentence("collaborationMode/list"));
    assert_eq!(check("memory/reset", None, false).err(), sentence("memory/reset"));
}

#[test]
fn requests_with_invalid_params_are_left_to_upstream() {
    for params in ["{}", "null", "[]", r#"{"thread_id":"x"}"#] {
        assert_eq!(refused("thread/settings/update", params), None, "{params}");
    }
    assert_eq!(check("thread/settings/update", None, false), Ok(()));
    for params in
        [r#"{"environments":5}"#, r#"{"experimentalRawEvents":null}"#, r#"{"permissions":["x"]}"#, "[1]"]
    {
        assert_eq!(refused("thread/start", params), None, "{params}");
    }
}

#[test]
fn a_field_is_refused_depending_on_its_value() {
    for (method, params, field) in [
        ("thread/start", r#"{"cwd":"/x","environments":[]}"#, "environments"),
        ("thread/start", r#"{"dynamicTools":[]}"#, "dynamicTools"),
        ("thread/start", r#"{"experimentalRawEvents":true}"#, "experimentalRawEvents"),
        ("thread/start", r#"{"daybreakEnabled":false}"#, "daybreakEnabled"),
        ("thread/start", r#"{"permissions":""}"#, "permissions"),
        ("thread/resume", r#"{"threadId":"x","path":"x"}"#, "path"),
        ("thread/list", r#"{"projectId":null}"#, "projectId"),
        ("turn/start", r#"{"threadId":"x","input":[],"additionalContext":{}}"#, "additionalContext"),
        ("thread/start", r#"{ "experimentalRawEv\u0065nts" : true }"#, "experimentalRawEvents"),
    ] {
        assert_eq!(refused(method, params), sentence(&format!("{method}.{field}")), "{params}");
    }
    for (method, params) in [
        ("thread/start", "{}"),
        ("thread/start", r#"{"dynamicTools":null,"environments":null,"daybreakEnabled":null}"#),
        ("thread/start", r#"{"experimentalRawEvents":false,"allowProviderModelFallback":false}"#),
        ("thread/start", r#"{"persistExtendedHistory":true}"#),
        ("thread/start", r#"{"experimentalRawEvents":true,"experimentalRawEvents":false}"#),
        ("thread/resume", r#"{"threadId":"x","path":""}"#),
        ("thread/metadata/update", r#"{"threadId":"x","projectId":null}"#),
        ("turn/interrupt", r#"{"permissions":"x"}"#),
    ] {
        assert_eq!(refused(method, params), None, "{params}");
    }
}

#[test]
fn the_refusal_names_the_first_field_in_upstreams_order() {
    let params = r#"{"experimentalRawEvents":true,"permissions":"x","historyMode":"paginated"}"#;
    assert_eq!(refused("thread/start", params), sentence("thread/start.permissions"));
    let params = r#"{"permissions":"x","environments":[]}"#;
    assert_eq!(refused("turn/start", params), sentence("turn/start.environments"));
}

#[test]
fn a_granular_approval_policy_is_refused_by_its_own_name() {
    let params = r#"{"approvalPolicy":{"granular":{"rules":true}},"permissions":"x"}"#;
    for method in ["thread/start", "thread/resume", "thread/fork", "turn/start"] {
        assert_eq!(refused(method, params), sentence("askForApproval.granular"), "{method}");
        assert_eq!(refused(method, r#"{"approvalPolicy":"never"}"#), None, "{method}");
    }
}

#[test]
fn an_array_in_place_of_an_object_is_gated_like_the_object() {
    for (method, params) in [
        ("thread/memoryMode/set", r#"["T","disabled"]"#),
        ("thread/backgroundTerminals/clean", r#"["T"]"#),
        ("thread/settings/update", r#"["T",null,null]"#),
    ] {
        assert_eq!(refused(method, params), sentence(method), "{params}");
    }
    assert_eq!(refused("thread/memoryMode/set", r#"["T"]"#), None, "upstream misses a member");
    let mode = r#"{"threadId":"x","input":[],"collaborationMode":["plan",["m",null,null]]}"#;
    assert_eq!(refused("turn/start", mode), sentence("turn/start.collaborationMode"));
    let word = r#"{"threadId":"x","input":[],"multiAgentMode":{"none":null}}"#;
    assert_eq!(refused("turn/start", word), sentence("turn/start.multiAgentMode"));
    let granular = r#"{"approvalPolicy":{"granular":[true,true,true,true,true]}}"#;
    assert_eq!(refused("thread/start", granular), sentence("askForApproval.granular"));
}

#[test]
fn the_read_state_is_sent_only_to_clients_with_the_capability() {
    assert!(notification_needs_experimental("thread/readState/changed"));
    assert!(!notification_needs_experimental("thread/status/changed"));
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof![
        any::<String>(),
        prop::sample::select(vec!["threadId", "permissions", "approvalPolicy", "granular"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..5)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn any_params_are_checked_unless_the_client_has_the_capability(
        method in prop::sample::select(methods::all().filter(|row| row.gate != Gate::Free).map(|row| row.name)
            .collect::<Vec<_>>()),
        params in json(),
    ) {
        let params = to_raw_value(&params).expect("JSON");
        prop_assert!(check(method, Some(&params), true).is_ok());
        if let Err(sentence) = check(method, Some(&params), false) {
            prop_assert!(sentence.ends_with(" requires experimentalApi capability"));
        }
    }
}
