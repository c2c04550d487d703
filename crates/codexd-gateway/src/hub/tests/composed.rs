//! Every message that the gateway composes itself fits the schema of every reference release that has it. The hub calls
//! [`check`] for each, so all tests of the hub look; where no release is in the cache of the testkit, nothing is checked.

use std::sync::OnceLock;

use codexd_testkit::{Schema, Version, skip};
use serde_json::{Value, json};

static SCHEMAS: OnceLock<Vec<Schema>> = OnceLock::new();

fn schemas() -> &'static [Schema] {
    SCHEMAS.get_or_init(|| {
        let of = |version| Schema::of(version).unwrap_or_else(|error| panic!("{version}: {error:#}"));
        Version::ALL.into_iter().filter_map(of).collect()
    })
}

/// Fails the test in which the hub composed a message that does not fit.
pub fn check(text: &str) {
    let message: Value = serde_json::from_str(text).expect("a composed message is JSON");
    let method = message["method"].as_str();
    let having = schemas().iter().filter(|schema| method.is_none_or(|method| schema.has(method)));
    let mut known = schemas().is_empty();
    for schema in having {
        known = true;
        if let Err(why) = schema.check(&message) {
            panic!("the gateway composed what its clients cannot read: {why}");
        }
    }
    assert!(known, "no release has {method:?}");
}

#[test]
fn what_the_gateway_composes_is_held_against_every_reference_release() {
    if schemas().len() < Version::ALL.len() {
        skip!("not every reference release is in the cache");
    }
    let item = json!({"type": "agentMessage", "id": "i", "text": ""});
    let told = json!({"method": "item/completed", "params": {"threadId": "t", "turnId": "u", "item": item}});
    assert!(std::panic::catch_unwind(|| check(&told.to_string())).is_err(), "it lacks its time");
}
