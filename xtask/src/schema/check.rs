//! The comparison, both ways. Pure: releases in, sentences out.

use std::collections::BTreeMap;

use super::gates;
use super::release::{Names, Params, Protocol, Release};
use super::request_ids;
use codexd_gateway::routes::{
    Audience, Route, ServerRequestScope, delta_of, methods, notifications, server_requests,
};

const REQUESTS: &str = "crates/codexd-protocol/src/methods/table.rs";
const NOTIFICATIONS: &str = "crates/codexd-gateway/src/routes/notifications.rs";
const ROUTES: &str = "crates/codexd-gateway/src/routes.rs";

/// What 0.171.0, 0.169.0 and 0.131.0 name when they list the methods that they take, but leave out of their schema.
const NOT_IN_THE_SCHEMA: &[&str] = &["getAuthStatus", "getConversationSummary", "gitDiffToRemote"];

/// Everything that is not in order, a sentence each. `releases` is sorted, oldest first; what several have is judged as
/// the newest of them has it.
pub fn check(releases: &[Release]) -> Vec<String> {
    let mut complaints = check_requests(&merge(releases, |protocol| &protocol.requests));
    let told = merge(releases, |protocol| &protocol.notifications);
    complaints.extend(check_notifications(&told));
    complaints.extend(told.iter().filter_map(|(name, told)| check_delta(name, told)));
    complaints.extend(check_server_requests(&merge(releases, |protocol| &protocol.server_requests)));
    let ids: Vec<_> = releases.iter().map(|release| (release.version(), &release.full.request_ids)).collect();
    complaints.extend(request_ids::check(&ids));
    complaints.extend(releases.last().into_iter().flat_map(gates::check));
    complaints
}

/// A message as the newest release that has it tells.
struct Told<'a> {
    version: String,
    params: &'a Params,
}

type Merged<'a> = BTreeMap<&'a str, Told<'a>>;

fn merge(releases: &[Release], of: impl Fn(&Protocol) -> &Names) -> Merged<'_> {
    let mut merged = Merged::new();
    for release in releases {
        for (name, params) in of(&release.full) {
            merged.insert(name, Told { version: release.version(), params });
        }
    }
    merged
}

/// How a message names the thread that it is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Thread {
    Always,
    Sometimes,
    Never,
}

impl Thread {
    fn of(params: &Params, members: &[&str]) -> Thread {
        let named: Vec<_> = members.iter().filter(|member| params.has(member)).collect();
        if named.is_empty() {
            Thread::Never
        } else if named.iter().any(|member| params.required.contains(**member)) {
            Thread::Always
        } else {
            Thread::Sometimes
        }
    }

    fn words(self) -> &'static str {
        match self {
            Thread::Always => "requires a threadId",
            Thread::Sometimes => "takes a threadId or none",
            Thread::Never => "has no threadId",
        }
    }
}

fn check_requests(schema: &Merged<'_>) -> Vec<String> {
    let table: BTreeMap<_, _> = methods::all().map(|row| (row.name, row.route)).collect();
    let mut complaints = both_ways("request", schema, table.keys().copied(), REQUESTS, NOT_IN_THE_SCHEMA);
    for (name, told) in schema {
        let Some(route) = table.get(name) else { continue };
        let thread = Thread::of(told.params, &["threadId"]);
        let fits = match route {
            Route::Hub => thread == Thread::Always || *name == "thread/start",
            Route::HubOrDedicated => thread == Thread::Sometimes,
            Route::Dedicated => thread == Thread::Never,
            // The gateway knows what it does.
            Route::Gateway(_) => true,
        };
        if !fits {
            let (version, words) = (&told.version, thread.words());
            complaints
                .push(format!("request {name} of {version} {words}, but {REQUESTS} has it as {route:?}"));
        }
    }
    complaints
}

fn check_notifications(schema: &Merged<'_>) -> Vec<String> {
    let table: BTreeMap<_, _> = notifications().collect();
    let mut complaints = both_ways("notification", schema, table.keys().copied(), NOTIFICATIONS, &[]);
    for (name, told) in schema {
        let Some(audience) = table.get(name) else { continue };
        // `thread/started` brings the thread itself.
        let thread = Thread::of(told.params, &["threadId", "thread"]);
        let wanted = match audience {
            Audience::Everyone | Audience::Subscribers => Thread::Always,
            Audience::SubscribersOrEveryone => Thread::Sometimes,
            Audience::RateLimits
            | Audience::EveryoneWithoutThread
            | Audience::Greeting
            | Audience::Requester
            | Audience::EventStream => Thread::Never,
        };
        if thread != wanted {
            let (version, words) = (&told.version, thread.words());
            complaints.push(format!(
                "notification {name} of {version} {words}, but {NOTIFICATIONS} has it for {audience:?}"
            ));
        }
    }
    complaints
}

fn check_server_requests(schema: &Merged<'_>) -> Vec<String> {
    let table: BTreeMap<_, _> = server_requests().collect();
    let mut complaints = both_ways("server request", schema, table.keys().copied(), NOTIFICATIONS, &[]);
    for (name, told) in schema {
        let Some(scope) = table.get(name) else { continue };
        let names_thread = Thread::of(told.params, &["threadId", "conversationId"]) == Thread::Always;
        if names_thread != (*scope == ServerRequestScope::Thread) {
            let words = if names_thread { "names a thread" } else { "names no thread" };
            complaints.push(format!(
                "server request {name} of {} {words}, but {NOTIFICATIONS} has it for {scope:?}",
                told.version
            ));
        }
    }
    complaints
}

/// What the schema has and the table has not, and the other way round.
fn both_ways(
    what: &str,
    schema: &Merged<'_>,
    table: impl Iterator<Item = &'static str>,
    file: &str,
    beside: &[&str],
) -> Vec<String> {
    let table: Vec<_> = table.collect();
    let missing = schema
        .iter()
        .filter(|(name, _)| !table.contains(name))
        .map(|(name, told)| format!("{what} {name} of {} is in no table; add a row to {file}", told.version));
    let left_over = table
        .iter()
        .filter(|name| !schema.contains_key(*name) && !beside.contains(name))
        .map(|name| format!("{what} {name} is in {file}, but no release has it; take the row out"));
    let told_now = beside
        .iter()
        .filter(|name| schema.contains_key(*name))
        .map(|name| format!("{what} {name} is in the schema now; take it out of NOT_IN_THE_SCHEMA"));
    missing.chain(left_over).chain(told_now).collect()
}

/// Whether a notification that streams text has the shape that is known of it, and one that looks like it is known.
fn check_delta(name: &str, told: &Told<'_>) -> Option<String> {
    let params = told.params;
    let is =
        |member: &str, kind: &str| params.required.contains(member) && params.members[member]["type"] == kind;
    let of_item = ["threadId", "turnId", "itemId"].iter().all(|member| is(member, "string"));
    let parts: Vec<_> = params.members.iter().filter(|(_, member)| member["type"] == "integer").collect();
    let fits = match delta_of(name) {
        None => !(of_item && is("delta", "string")),
        Some(shape) => {
            of_item
                && is(shape.text, "string")
                && parts.iter().map(|(part, _)| Some(part.as_str())).eq(shape.part.map(Some))
        }
    };
    let version = &told.version;
    (!fits).then(|| {
        format!(
            "notification {name} of {version} streams text in another shape than delta_of in {ROUTES} says"
        )
    })
}
