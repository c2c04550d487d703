//! What the host is asked and told. It may be slow: what is for it waits here.

use std::cell::RefCell;
use std::collections::VecDeque;

use codexd_core::contract::EventLevel;
use codexd_core::plural::counted;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::event_loop::HubDriver;
use crate::host::HostCommand;
use crate::hub::{HandoverReport, HandoverState, RefusedThread, Report};
use crate::limits::HOST_COMMANDS_WAITING_MAX;

/// The host_commands that wait.
#[derive(Debug, Default)]
pub(crate) struct HostCommands {
    waiting: RefCell<VecDeque<HostCommand>>,
    more: Notify,
}

impl HostCommands {
    /// Adds one. If the host takes nothing, old notes and reports make room; nothing else is dropped.
    pub(super) fn give(&self, order: HostCommand) {
        let mut waiting = self.waiting.borrow_mut();
        if order == HostCommand::TrimMemory && waiting.contains(&order) {
            return;
        }
        // Of one thread only the last settings count: no more than one such order for each waits.
        if let HostCommand::StoreThreadSettings(new) = &order {
            let is_of_it = |order: &HostCommand| matches!(order, HostCommand::StoreThreadSettings(old) if old.thread == new.thread);
            waiting.retain(|order| !is_of_it(order));
        } else if waiting.len() >= HOST_COMMANDS_WAITING_MAX {
            let may_go =
                |order: &HostCommand| matches!(order, HostCommand::Report(_) | HostCommand::Note { .. });
            let old = waiting.iter().position(may_go);
            old.map(|at| waiting.remove(at));
        }
        waiting.push_back(order);
        self.more.notify_one();
    }

    /// Writes a connection into the event log.
    pub(super) fn note(&self, level: EventLevel, kind: &str, message: String, detail: Value) {
        self.give(HostCommand::Note { level, kind: kind.to_owned(), message, detail });
    }

    /// Hands them on, for as long as somebody takes them.
    pub(super) async fn run(&self, host: mpsc::Sender<HostCommand>) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                None => self.more.notified().await,
                Some(order) => {
                    if host.send(order).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl HubDriver {
    /// Tells the host what the logic found worth telling.
    pub(super) fn report(&self, report: &Report) {
        match report {
            Report::ServerLost { server, threads, requests, was_expected: true } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let detail = json!({"pid": pid, "threads": threads, "requests": requests});
                let message = format!(
                    "the app-server{} exited as requested, with {} loaded; {} in flight got an error response",
                    of_process(pid),
                    counted(*threads, "thread"),
                    counted(*requests, "request")
                );
                self.tell_host("serverLeft", EventLevel::Info, "server.left", message, detail);
            }
            Report::ServerLost { server, threads, requests, was_expected: false } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let detail = json!({"pid": pid, "threads": threads, "requests": requests});
                let message = format!(
                    "lost the app-server{} with {} loaded; {} in flight got an error response",
                    of_process(pid),
                    counted(*threads, "thread"),
                    counted(*requests, "request")
                );
                self.tell_host("serverLost", EventLevel::Warn, "server.lost", message, detail);
            }
            Report::Recovered { server, threads, completed, interrupted, took_ms } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let detail = json!({"pid": pid, "threads": threads, "turnsCompleted": completed,
                    "turnsInterrupted": interrupted, "tookMs": took_ms});
                let message = format!(
                    "reloaded {} in the app-server{} within {took_ms} ms; of the turns that were running, {completed} had completed and \
                     {interrupted} were interrupted",
                    counted(*threads, "thread"),
                    of_process(pid)
                );
                self.tell_host("recovered", EventLevel::Info, "threads.recovered", message, detail);
            }
            Report::NotLoaded { count, threads } => self.report_not_loaded(*count, threads),
            Report::GoalsToLoad { server, threads } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let message = format!(
                    "continuing active goals: the app-server{} loads {}",
                    of_process(pid),
                    counted(threads.len(), "thread")
                );
                let detail = json!({"pid": pid, "threads": threads});
                self.host_commands.note(EventLevel::Info, "goals.loading", message, detail);
            }
            Report::GoalPostponed { thread } => {
                let message = format!(
                    "goal of thread {thread} postponed for 60 s: loading the thread failed or crashed the app-server"
                );
                self.host_commands.note(
                    EventLevel::Warn,
                    "goals.postponed",
                    message,
                    json!({"threads": [thread]}),
                );
            }
            Report::GoalLost { thread } => {
                let message =
                    format!("goal of thread {thread} cannot continue: the app-server cannot load the thread");
                self.host_commands.note(
                    EventLevel::Warn,
                    "goals.lost",
                    message,
                    json!({"threads": [thread]}),
                );
            }
            Report::MigrationRefused { thread, reason } => {
                let message = format!(
                    "thread {thread} stays on the old app-server because the new one cannot load it: {reason}; the gateway retries"
                );
                let detail = json!({"threadId": thread, "reason": reason});
                self.host_commands.note(EventLevel::Warn, "migration.refused", message, detail);
            }
            Report::Handover(handover) => self.report_handover(handover),
            Report::Unanswered { count, methods } => {
                let message =
                    format!("no response in time to {}: {}", counted(*count, "request"), methods.join(", "));
                let detail = json!({"count": count, "methods": methods});
                self.host_commands.note(EventLevel::Warn, "request.unanswered", message, detail);
            }
            Report::AnswerRefused { client, request, reason } => {
                let message = format!(
                    "client {} sent an invalid answer to server request {request}: {reason}; waiting for the next answer",
                    client.0
                );
                let detail = json!({"client": client.0, "serverRequest": request, "reason": reason});
                self.host_commands.note(EventLevel::Warn, "serverRequest.answerRefused", message, detail);
            }
            Report::AnswerNotTaken { thread, request } => {
                let message = format!(
                    "the app-server did not accept the answer to server request {request} of thread {thread}; waiting for the next answer"
                );
                let detail = json!({"threadId": thread, "serverRequest": request});
                self.host_commands.note(EventLevel::Warn, "serverRequest.answerNotTaken", message, detail);
            }
            Report::ClientInfoDiscarded { reason } => {
                let message = format!(
                    "discarded the clientInfo of the shared connection: {reason}; using that of the next client"
                );
                self.host_commands.note(
                    EventLevel::Warn,
                    "clientInfo.discarded",
                    message,
                    json!({"reason": reason}),
                );
            }
        }
    }

    fn report_not_loaded(&self, count: usize, threads: &[RefusedThread]) {
        let detail = json!({"count": count, "threads": threads});
        let (level, kind, message) = match threads.first() {
            Some(first) => (
                EventLevel::Warn,
                "threads.not_loaded",
                format!(
                    "the app-server cannot load {}; the gateway retries: thread {}: {}",
                    counted(count, "thread"),
                    first.thread_id,
                    first.reason
                ),
            ),
            None => (
                EventLevel::Info,
                "threads.loadable",
                "all threads that the app-server could not load are loaded again or have ended".to_owned(),
            ),
        };
        self.tell_host("notLoaded", level, kind, message, detail);
    }

    fn report_handover(&self, handover: &HandoverReport) {
        let (from, to) = {
            let servers = self.servers.borrow();
            (servers.pid(handover.from), servers.pid(handover.to))
        };
        let mut detail = serde_json::to_value(handover).unwrap_or_default();
        detail["fromPid"] = json!(from);
        detail["toPid"] = json!(to);
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
        match handover.is_news {
            true => self.tell_host("handover", EventLevel::Info, kind, message, detail),
            false => self.host_commands.give(HostCommand::Report(json!({"handover": detail}))),
        }
    }

    fn tell_host(&self, name: &str, level: EventLevel, kind: &str, message: String, detail: Value) {
        self.host_commands.give(HostCommand::Report(json!({name: &detail})));
        self.host_commands.note(level, kind, message, detail);
    }
}

fn of_process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}
