//! What the gateway writes to the event log: the level, type, sentence and detail of each event.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use codexd_core::contract::EventLevel;
use codexd_core::plural::counted;
use serde_json::{Value, json};

use super::servers::Servers;
use crate::host::{PersistedGoals, TcpListenerConfig};
use crate::hub::{ClientId, HandoverReport, HandoverState, RefusedThread, Report, ServerId};
use crate::limits::UPSTREAM_MESSAGE_BYTES_MAX;

/// An entry of the event log.
#[derive(Debug)]
pub(super) struct LogEntry {
    pub(super) level: EventLevel,
    /// The type, such as `handover.completed`.
    pub(super) kind: &'static str,
    pub(super) message: String,
    pub(super) detail: Value,
}

/// What follows from a report of the hub.
#[derive(Debug)]
pub(super) struct Reported {
    /// For the commands that wait for it.
    pub(super) report: Option<Value>,
    pub(super) entry: Option<LogEntry>,
}

impl LogEntry {
    fn info(kind: &'static str, message: String, detail: Value) -> Self {
        Self { level: EventLevel::Info, kind, message, detail }
    }

    fn warn(kind: &'static str, message: String, detail: Value) -> Self {
        Self { level: EventLevel::Warn, kind, message, detail }
    }

    /// Also reports the detail, as the member `name`.
    fn reported_as(self, name: &str) -> Reported {
        Reported { report: Some(json!({name: &self.detail})), entry: Some(self) }
    }
}

impl From<LogEntry> for Reported {
    fn from(entry: LogEntry) -> Self {
        Reported { report: None, entry: Some(entry) }
    }
}

/// A client was disconnected because it reads too slowly or violates the protocol.
pub(super) fn client_cut(client: ClientId, reason: &str) -> LogEntry {
    LogEntry::warn(
        "client.cut",
        format!("disconnected client {}: {reason}", client.0),
        json!({"client": client.0, "why": reason}),
    )
}

pub(super) fn message_dropped(bytes: usize) -> LogEntry {
    let message = format!(
        "dropped a message of the app-server that belongs to no request: {bytes} bytes exceed the limit of {} MiB",
        UPSTREAM_MESSAGE_BYTES_MAX / (1024 * 1024)
    );
    LogEntry::warn("message.dropped", message, json!({"bytes": bytes}))
}

pub(super) fn listening(address: SocketAddr, token_file: &Path) -> LogEntry {
    let url = format!("ws://{address}");
    LogEntry::info(
        "gateway.listening",
        format!("listening on {url}; clients authenticate with the token in {}", token_file.display()),
        json!({"url": url, "tokenFile": token_file}),
    )
}

pub(super) fn listen_failed(config: &TcpListenerConfig, error: &io::Error) -> LogEntry {
    LogEntry {
        level: EventLevel::Error,
        kind: "gateway.listenFailed",
        message: format!("failed to listen on ws://{}: {error}; the gateway retries", config.listen),
        detail: json!({"listen": config.listen, "tokenFile": config.token_file, "error": error.to_string()}),
    }
}

pub(super) fn goals_not_persisted(goals: &PersistedGoals, error: &io::Error) -> LogEntry {
    let message = format!(
        "failed to store which goals are active: {error}; if the gateway is killed now, goals that it paused for a handover stay \
         paused, and other goals continue only when a client opens their threads"
    );
    LogEntry::warn(
        "goals.persist_failed",
        message,
        json!({"active": goals.active, "suspended": goals.suspended}),
    )
}

pub(super) fn client_identity_not_persisted(generations: &[String], error: &io::Error) -> LogEntry {
    let message = format!(
        "failed to store the client identity of the gateway: {error}; if the gateway is killed, the next one manages threads only \
         after a client has connected"
    );
    LogEntry::warn("client_identity.persist_failed", message, json!({"generations": generations}))
}

/// What follows from a report of the hub.
pub(super) fn of_report(report: &Report, servers: &Servers) -> Reported {
    let pid = |server: &ServerId| servers.pid(Some(*server));
    match report {
        Report::ServerLost { server, threads, requests, was_expected } => {
            server_lost(pid(server), *threads, *requests, *was_expected)
        }
        Report::Recovered { server, threads, completed, interrupted, took_ms } => {
            let pid = pid(server);
            let message = format!(
                "reloaded {} in the app-server{} within {took_ms} ms; of the turns that were running, {completed} had completed and \
                 {interrupted} were interrupted",
                counted(*threads, "thread"),
                of_process(pid)
            );
            let detail = json!({"pid": pid, "threads": threads, "turnsCompleted": completed,
                "turnsInterrupted": interrupted, "tookMs": took_ms});
            LogEntry::info("threads.recovered", message, detail).reported_as("recovered")
        }
        Report::NotLoaded { count, threads } => threads_not_loaded(*count, threads).reported_as("notLoaded"),
        Report::GoalsToLoad { server, threads } => {
            let pid = pid(server);
            let message = format!(
                "continuing active goals: the app-server{} loads {}",
                of_process(pid),
                counted(threads.len(), "thread")
            );
            LogEntry::info("goals.loading", message, json!({"pid": pid, "threads": threads})).into()
        }
        Report::GoalPostponed { thread } => {
            let message = format!(
                "goal of thread {thread} postponed for 60 s: loading the thread failed or crashed the app-server"
            );
            LogEntry::warn("goals.postponed", message, json!({"threads": [thread]})).into()
        }
        Report::GoalLost { thread } => {
            let message =
                format!("goal of thread {thread} cannot continue: the app-server cannot load the thread");
            LogEntry::warn("goals.lost", message, json!({"threads": [thread]})).into()
        }
        Report::MigrationRefused { thread, reason } => {
            let message = format!(
                "thread {thread} stays on the old app-server because the new one cannot load it: {reason}; the gateway retries"
            );
            LogEntry::warn("migration.refused", message, json!({"threadId": thread, "reason": reason})).into()
        }
        Report::Handover(handover) => handover_progress(handover, servers),
        Report::Unanswered { count, methods } => {
            let message =
                format!("no response in time to {}: {}", counted(*count, "request"), methods.join(", "));
            LogEntry::warn("request.unanswered", message, json!({"count": count, "methods": methods})).into()
        }
        Report::AnswerRefused { client, request, reason } => {
            let message = format!(
                "client {} sent an invalid answer to server request {request}: {reason}; waiting for the next answer",
                client.0
            );
            let detail = json!({"client": client.0, "serverRequest": request, "reason": reason});
            LogEntry::warn("serverRequest.answerRefused", message, detail).into()
        }
        Report::AnswerNotTaken { thread, request } => {
            let message = format!(
                "the app-server did not accept the answer to server request {request} of thread {thread}; waiting for the next answer"
            );
            let detail = json!({"threadId": thread, "serverRequest": request});
            LogEntry::warn("serverRequest.answerNotTaken", message, detail).into()
        }
        Report::ClientInfoDiscarded { reason } => {
            let message = format!(
                "discarded the clientInfo of the shared connection: {reason}; using that of the next client"
            );
            LogEntry::warn("clientInfo.discarded", message, json!({"reason": reason})).into()
        }
    }
}

fn server_lost(pid: Option<u32>, threads: usize, requests: usize, was_expected: bool) -> Reported {
    let detail = json!({"pid": pid, "threads": threads, "requests": requests});
    let (threads, requests) = (counted(threads, "thread"), counted(requests, "request"));
    match was_expected {
        true => {
            let message = format!(
                "the app-server{} exited as requested, with {threads} loaded; {requests} in flight got an error response",
                of_process(pid)
            );
            LogEntry::info("server.left", message, detail).reported_as("serverLeft")
        }
        false => {
            let message = format!(
                "lost the app-server{} with {threads} loaded; {requests} in flight got an error response",
                of_process(pid)
            );
            LogEntry::warn("server.lost", message, detail).reported_as("serverLost")
        }
    }
}

fn threads_not_loaded(count: usize, threads: &[RefusedThread]) -> LogEntry {
    let detail = json!({"count": count, "threads": threads});
    match threads.first() {
        Some(RefusedThread { thread_id, reason }) => {
            let message = format!(
                "the app-server cannot load {}; the gateway retries: thread {thread_id}: {reason}",
                counted(count, "thread")
            );
            LogEntry::warn("threads.not_loaded", message, detail)
        }
        None => {
            let message =
                "all threads that the app-server could not load are loaded again or have ended".to_owned();
            LogEntry::info("threads.loadable", message, detail)
        }
    }
}

fn handover_progress(handover: &HandoverReport, servers: &Servers) -> Reported {
    let (from, to) = (servers.pid(handover.from), servers.pid(handover.to));
    let mut detail = serde_json::to_value(handover).unwrap_or_default();
    detail["fromPid"] = json!(from);
    detail["toPid"] = json!(to);
    if !handover.is_news {
        return Reported { report: Some(json!({"handover": detail})), entry: None };
    }
    let (moved, waiting) = (handover.threads_moved, handover.threads_waiting.len());
    let (kind, message) = match handover.state {
        HandoverState::Moving if moved == 0 => {
            ("handover.started", format!("moving threads to the new app-server{}", of_process(to)))
        }
        HandoverState::Moving | HandoverState::Waiting => (
            "handover.progressed",
            format!("{} moved to the new app-server, {waiting} waiting", counted(moved, "thread")),
        ),
        HandoverState::Completed => (
            "handover.completed",
            format!(
                "moved {} in {} ms; the old app-server{} has no threads left",
                counted(moved, "thread"),
                handover.took_ms,
                of_process(from)
            ),
        ),
    };
    LogEntry::info(kind, message, detail).reported_as("handover")
}

fn of_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
