use std::collections::BTreeSet;

use proptest::prelude::{any, prop, prop_oneof};
use proptest::{prop_assert, proptest};

use super::methods::Deadline;
use super::{
    Audience, Requester, Route, ServerRequestScope, Special, audience, delta_of, gates, is_known, methods,
    notifications, request_id_members, response_timeout_ms, route, sent_by_hub, server_request,
    server_requests, starts_turn,
};

fn requests() -> impl Iterator<Item = (&'static str, Route)> {
    methods::all().map(|row| (row.name, row.route))
}

fn assert_sorted(names: impl Iterator<Item = &'static str>) {
    let names: Vec<_> = names.collect();
    for pair in names.windows(2) {
        assert!(pair[0] < pair[1], "{:?} and {:?} are out of order, or the same", pair[0], pair[1]);
    }
}

#[test]
fn every_table_is_sorted_and_has_each_name_once() {
    assert_sorted(requests().map(|(name, _)| name));
    assert_sorted(notifications().map(|(name, _)| name));
    assert_sorted(server_requests().map(|(name, _)| name));
}

#[test]
fn requests_notifications_and_server_requests_share_no_name() {
    let all = requests().map(|(name, _)| name);
    let all: Vec<_> = all.chain(notifications().map(|(name, _)| name)).collect();
    let all: Vec<_> = all.into_iter().chain(server_requests().map(|(name, _)| name)).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn every_row_is_found() {
    assert!(requests().all(|(name, expected)| is_known(name) && route(name) == expected));
    assert!(notifications().all(|(name, expected)| audience(name) == Some(expected)));
    assert!(server_requests().all(|(name, scope)| server_request(name) == Some(scope)));
}

#[test]
fn the_tables_have_as_many_rows_as_were_observed() {
    let count = |wanted| notifications().filter(move |(_, audience)| *audience == wanted).count();
    assert_eq!(requests().count(), 189 + 3 + 2, "0.171.0, what it takes beside its schema, and 0.131.0");
    assert_eq!(notifications().count(), 87);
    assert_eq!(server_requests().count(), 11);
    assert_eq!(count(Audience::Everyone), 12);
    assert_eq!(count(Audience::Subscribers), 50);
    assert_eq!(count(Audience::SubscribersOrEveryone), 3);
    assert_eq!(sent_by_hub().count(), 62 + 1);
}

#[test]
fn a_request_that_names_a_thread_goes_through_the_hub() {
    for method in ["thread/start", "thread/resume", "turn/start", "review/start", "mcpServer/tool/call"] {
        assert_eq!(route(method), Route::Hub, "{method}");
    }
    assert_eq!(route("thread/rollback"), Route::Hub, "0.131.0 has it");
    assert_eq!(route("mcpServer/event/stream/start"), Route::Hub);
    assert_eq!(route("hooks/list"), Route::HubOrDedicated);
    assert_eq!(route("account/usage/read"), Route::HubOrDedicated);
}

#[test]
fn requests_that_refer_to_another_connection_are_handled_by_the_gateway() {
    for (method, special) in [
        ("initialize", Special::Initialize),
        ("thread/unsubscribe", Special::Unsubscribe),
        ("thread/loaded/list", Special::LoadedList),
        ("thread/sample/cancel", Special::RequestId),
        ("mcpServer/event/stream/stop", Special::EventStreamStop),
        ("thread/list", Special::ThreadList),
        ("thread/search", Special::ThreadSearch),
        ("thread/search/stream", Special::ThreadSearch),
        ("thread/search/cancel", Special::RequestId),
        ("thread/search/stream/cancel", Special::RequestId),
        ("userVerification/cancel", Special::RequestId),
    ] {
        assert_eq!(route(method), Route::Gateway(special), "{method}");
    }
}

#[test]
fn only_requests_that_name_another_request_by_id_are_rewritten() {
    let of_clients: Vec<_> = request_id_members()
        .filter(|row| row.requester == Requester::Client && is_known(row.message))
        .map(|row| row.message)
        .collect();
    let rewritten: Vec<_> = requests()
        .filter(|(_, way)| *way == Route::Gateway(Special::RequestId))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(of_clients, rewritten);
    for row in request_id_members().filter(|row| !is_known(row.message)) {
        let expected = match row.requester {
            Requester::Client => Audience::Requester,
            Requester::Server => Audience::Subscribers,
        };
        assert_eq!(audience(row.message), Some(expected), "{}", row.message);
    }
}

#[test]
fn resources_bound_to_a_connection_are_known() {
    use methods::ResourceKind::{Command, Login, Process, Search, Watch};
    for (method, kind) in [
        ("fs/watch", Watch),
        ("command/exec", Command),
        ("process/spawn", Process),
        ("fuzzyFileSearch/sessionStart", Search),
        ("account/login/start", Login),
    ] {
        assert_eq!(route(method), Route::Dedicated, "{method}");
        assert_eq!(methods::resource(method).map(|resource| resource.kind), Some(kind), "{method}");
    }
    assert_eq!((route("account/read"), methods::resource("account/read")), (Route::Dedicated, None));
}

#[test]
fn every_request_that_does_not_wait_for_an_event_has_a_deadline() {
    let of = |deadline| methods::all().filter(move |row| row.deadline == deadline).count();
    assert_eq!((of(Deadline::None), of(Deadline::Long)), (9, 77));
    let times = ["thread/read", "thread/resume", "some/futureThing", "command/exec"].map(response_timeout_ms);
    assert!(times[0] < times[1] && times[1] == times[2] && times[3].is_none(), "{times:?}");
    let loads = ["thread/start", "thread/fork", "thread/resume"];
    assert!(
        requests()
            .filter(|(name, _)| starts_turn(name) || loads.contains(name))
            .all(|(name, _)| { response_timeout_ms(name).is_none_or(|within| Some(within) == times[1]) }),
        "a late response would leave a thread or a turn that no client knows"
    );
}

#[test]
fn an_unknown_request_takes_the_dedicated_connection() {
    assert_eq!(route("thread/futureThing"), Route::Dedicated);
    assert!(!is_known("thread/futureThing") && !starts_turn(""));
}

#[test]
fn every_request_that_can_start_a_turn_goes_through_the_hub() {
    let starters: Vec<_> = requests().filter(|(name, _)| starts_turn(name)).collect();
    assert_eq!(starters.len(), 14);
    assert!(starters.iter().all(|(_, way)| *way == Route::Hub), "{starters:?}");
    assert!(starts_turn("turn/start") && starts_turn("thread/queue/add") && !starts_turn("turn/steer"));
}

#[test]
fn dedicated_connections_opt_out_of_exactly_what_the_hub_sends() {
    let sent: BTreeSet<_> = sent_by_hub().collect();
    for name in ["thread/started", "turn/completed", "item/agentMessage/delta", "account/rateLimits/updated"]
    {
        assert!(sent.contains(name), "{name}");
    }
    for name in ["skills/changed", "fs/changed", "warning", "command/exec/outputDelta"] {
        assert!(!sent.contains(name), "{name}");
    }
}

#[test]
fn audiences_are_as_observed() {
    for (name, expected) in [
        ("thread/closed", Audience::Everyone),
        ("turn/started", Audience::Subscribers),
        ("warning", Audience::SubscribersOrEveryone),
        ("account/rateLimits/updated", Audience::RateLimits),
        ("fuzzyFileSearch/sessionUpdated", Audience::EveryoneWithoutThread),
        ("process/exited", Audience::Requester),
        ("remoteControl/status/changed", Audience::Greeting),
        ("mcpServer/event/stream/notification", Audience::EventStream),
    ] {
        assert_eq!(audience(name), Some(expected), "{name}");
    }
    assert_eq!(audience("thread/futureThing"), None);
}

#[test]
fn approvals_old_and_new_belong_to_a_thread() {
    for method in ["item/commandExecution/requestApproval", "applyPatchApproval", "execCommandApproval"] {
        assert_eq!(server_request(method), Some(ServerRequestScope::Thread), "{method}");
    }
    assert_eq!(server_request("attestation/generate"), Some(ServerRequestScope::Connection));
    assert_eq!(server_request("future/ask"), None);
}

#[test]
fn streamed_text_is_sent_to_subscribers() {
    let streams: Vec<_> = notifications().filter(|(name, _)| delta_of(name).is_some()).collect();
    assert_eq!(streams.len(), 6);
    assert!(streams.iter().all(|(_, audience)| *audience == Audience::Subscribers), "{streams:?}");
    assert_eq!(delta_of("item/reasoning/textDelta").and_then(|shape| shape.part), Some("contentIndex"));
    assert_eq!(delta_of("command/exec/outputDelta"), None);
}

proptest! {
    #[test]
    fn no_name_panics(name in prop_oneof![
        any::<String>(),
        "[a-z]{1,9}(/[a-zA-Z]{1,9}){0,3}",
        prop::sample::select(requests().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()),
    ]) {
        prop_assert!(is_known(&name) || route(&name) == Route::Dedicated);
        let _found = (audience(&name), server_request(&name), delta_of(&name));
        let _starts = starts_turn(&name);
        prop_assert!(gates::check(&name, None, true).is_ok());
    }
}
