use std::collections::BTreeSet;

use super::{Deadline, Gate, RequestKind, ResourceRole, Route, all, find, kind, resource};

#[test]
fn rows_are_sorted_and_each_is_found() {
    let names: Vec<_> = all().map(|row| row.name).collect();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(names.iter().all(|name| find(name).is_some_and(|row| row.name == *name)));
}

#[test]
fn whatever_begins_a_resource_that_is_ended_by_a_request_has_such_a_request() {
    let of = |wanted: fn(ResourceRole) -> bool| -> BTreeSet<_> {
        let rows = all().filter_map(|row| row.resource).filter(|resource| wanted(resource.role));
        rows.map(|resource| format!("{:?}", resource.kind)).collect()
    };
    let begun = of(|role| matches!(role, ResourceRole::Begins | ResourceRole::ContinuesAfterResponse));
    let used = of(|role| matches!(role, ResourceRole::Uses | ResourceRole::Ends));
    assert!(used.is_subset(&begun), "{used:?} {begun:?}");
    assert_eq!(begun.len(), 7);
}

#[test]
fn a_gateway_login_stays_with_its_connection() {
    let begins = resource("account/gatewayOAuth/login").expect("it names a login");
    assert_eq!(kind("account/gatewayOAuth/login"), RequestKind::StartsBackground(begins));
    assert_eq!(begins.kind, resource("account/gatewayOAuth/cancel").expect("it names a login").kind);
}

#[test]
fn kinds_without_a_meaning_on_a_connection_are_plain_there() {
    assert_eq!(kind("mcpServer/oauth/login").over_shared(), RequestKind::Plain);
    assert_eq!(kind("thread/unsubscribe").over_dedicated(), RequestKind::Plain);
    assert_eq!(kind("thread/list").over_dedicated(), kind("thread/list").over_shared());
}

#[test]
fn every_request_that_starts_a_turn_goes_through_the_hub_and_may_take_long() {
    let starters: Vec<_> = all().filter(|row| row.starts_turn).collect();
    assert_eq!(starters.len(), 14);
    assert!(starters.iter().all(|row| row.route == Route::Hub && row.deadline != Deadline::Short));
}

#[test]
fn gates_name_no_more_members_than_fit_in_the_bits_of_a_word() {
    for row in all() {
        let members = match row.gate {
            Gate::Free => 0,
            Gate::Method(required) => required.map_or(0, <[_]>::len),
            Gate::Members(members) => members.len(),
        };
        assert!(members <= 32, "{}", row.name);
    }
}
