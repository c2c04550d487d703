use std::path::PathBuf;

use codexd_testkit::codex;
use serde_json::json;

use super::check::check;
use super::references;
use super::release::{Names, Params, Release};
use super::request_ids::RequestIdPlace;

mod gates;

/// The reference releases, or why they cannot be asked.
fn releases() -> Result<Vec<Release>, String> {
    codex::platform()?;
    let binaries: Vec<PathBuf> = references().map_err(|error| format!("{error:#}"))?;
    Ok(Release::print_all(&binaries).expect("every reference release prints its schema"))
}

/// The newest one, for a change that has to be noticed.
fn newest(releases: &mut [Release]) -> &mut Release {
    releases.last_mut().expect("there are references")
}

fn add(names: &mut Names, name: &str, members: &[&str], required: &[&str]) {
    let params = Params {
        members: members.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect(),
        required: required.iter().map(|name| (*name).to_owned()).collect(),
        optional: false,
    };
    names.insert(name.to_owned(), params);
}

#[test]
fn the_tables_and_the_schema_of_every_reference_release_say_the_same() {
    let mut releases = match releases() {
        Ok(releases) => releases,
        Err(reason) => codexd_testkit::skip!("{reason}"),
    };
    assert_eq!(check(&releases), Vec::<String>::new());
    assert_eq!(newest(&mut releases).full.requests.len(), 189, "it was read whole");
}

#[test]
fn whatever_changes_in_the_schema_is_named_with_the_place_to_change() {
    let releases = match releases() {
        Ok(releases) => releases,
        Err(reason) => codexd_testkit::skip!("{reason}"),
    };
    for (change, expected) in
        changes_of_tables().into_iter().chain(changes_of_gates()).chain(changes_of_request_ids())
    {
        let mut changed = releases.clone();
        change(newest(&mut changed));
        let complaints = check(&changed);
        assert!(
            complaints.iter().any(|complaint| complaint.contains(expected)),
            "{expected}: {complaints:#?}"
        );
    }
}

type Change = fn(&mut Release);

fn changes_of_tables() -> Vec<(Change, &'static str)> {
    vec![
        (
            |release| add(&mut release.full.requests, "thread/new", &[], &[]),
            "request thread/new of 0.171.0 is in no table; add a row to crates/codexd-protocol/src/methods/table.rs",
        ),
        (
            |release| add(&mut release.full.notifications, "new/told", &["threadId"], &[]),
            "notification new/told of 0.171.0 is in no table",
        ),
        (
            |release| add(&mut release.full.server_requests, "new/asked", &[], &[]),
            "server request new/asked of 0.171.0 is in no table",
        ),
        (
            |release| drop(release.full.requests.remove("thread/realtime/list")),
            "request thread/realtime/list is in crates/codexd-protocol/src/methods/table.rs, but no release has it",
        ),
        (
            |release| add(&mut release.full.requests, "getAuthStatus", &[], &[]),
            "getAuthStatus is in the schema now",
        ),
        (
            |release| add(&mut release.full.requests, "turn/start", &["threadId"], &[]),
            "request turn/start of 0.171.0 takes a threadId or none, but",
        ),
        (
            |release| add(&mut release.full.notifications, "skills/changed", &["threadId"], &["threadId"]),
            "notification skills/changed of 0.171.0 requires a threadId, but",
        ),
        (
            |release| add(&mut release.full.server_requests, "item/tool/call", &[], &[]),
            "server request item/tool/call of 0.171.0 names no thread, but",
        ),
        (
            |release| {
                let members = &["threadId", "turnId", "itemId", "delta"];
                add(&mut release.full.notifications, "item/started", members, members);
            },
            "notification item/started of 0.171.0 streams text in another shape",
        ),
    ]
}

fn carries_request_id(release: &mut Release, what: &'static str, message: &str, path: &str) {
    let place = RequestIdPlace { what, message: message.to_owned(), path: path.to_owned() };
    release.full.request_ids.insert(place);
}

fn changes_of_request_ids() -> Vec<(Change, &'static str)> {
    vec![
        (
            |release| carries_request_id(release, "request", "thread/read", "requestId"),
            "request thread/read of 0.171.0 carries a request id in requestId; add a row to",
        ),
        (
            |release| {
                carries_request_id(release, "notification", "thread/search/partial", "data.[].requestId");
            },
            "notification thread/search/partial of 0.171.0 carries a request id in data.[].requestId; add",
        ),
        (
            |release| carries_request_id(release, "result", "ThreadReadResponse", "requestId"),
            "result ThreadReadResponse of 0.171.0 carries a request id in requestId; add",
        ),
        (
            |release| release.full.request_ids.retain(|place| place.message != "thread/search/cancel"),
            "thread/search/cancel.requestId is in crates/codexd-protocol/src/methods/table.rs, but no release",
        ),
    ]
}

fn changes_of_gates() -> Vec<(Change, &'static str)> {
    vec![
        (
            |release| add(&mut release.stable.requests, "thread/search", &[], &[]),
            "thread/search is gated in crates/codexd-protocol/src/methods/table.rs, but needs no experimentalApi",
        ),
        (
            |release| drop(release.stable.requests.remove("account/read")),
            "account/read of 0.171.0 needs experimentalApi; gate it in crates",
        ),
        (
            |release| add(&mut release.full.requests, "thread/search", &[], &["new"]),
            "thread/search of 0.171.0 requires Some({\"new\"}), but crates/codexd-protocol/src/methods/table.rs",
        ),
        (
            |release| {
                let method = release.full.requests.get_mut("thread/read").expect("it is there");
                method.members.insert("newField".to_owned(), json!({"type": "boolean"}));
            },
            "thread/read.newField of 0.171.0 needs experimentalApi; add it to crates/codexd-protocol/src/methods/experimental.rs",
        ),
        (
            |release| {
                let method = release.full.requests.get_mut("thread/start").expect("it is there");
                method.members.insert("environments".to_owned(), json!({"type": "boolean"}));
            },
            "but List in crates/codexd-protocol/src/methods/experimental.rs",
        ),
        (
            |release| {
                let method = release.full.requests.get_mut("turn/steer").expect("it is there");
                method.members.remove("additionalContext");
            },
            "turn/steer.additionalContext is in crates/codexd-protocol/src/methods/experimental.rs",
        ),
    ]
}
