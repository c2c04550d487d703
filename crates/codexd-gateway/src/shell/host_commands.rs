//! What the host is asked and told. It may be slow: what is for it waits here.

use std::cell::RefCell;
use std::collections::VecDeque;

use codexd_core::contract::EventLevel;
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
                    "the app-server{} ended as it was asked to; {threads} threads were loaded there, {requests} requests were \
                     answered with an error",
                    of_process(pid)
                );
                self.tell_host("serverLeft", EventLevel::Info, "server.left", message, detail);
            }
            Report::ServerLost { server, threads, requests, was_expected: false } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let detail = json!({"pid": pid, "threads": threads, "requests": requests});
                let message = format!(
                    "the app-server{} is gone under {threads} loaded threads; {requests} requests were answered with an error",
                    of_process(pid)
                );
                self.tell_host("serverLost", EventLevel::Warn, "server.lost", message, detail);
            }
            Report::Recovered { server, threads, completed, interrupted, took_ms } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let detail = json!({"pid": pid, "threads": threads, "turnsCompleted": completed,
                    "turnsInterrupted": interrupted, "tookMs": took_ms});
                let message = format!(
                    "{threads} threads are loaded again{}, {took_ms} ms after the loss; of the turns that ran {completed} had \
                     ended well and {interrupted} were cut",
                    of_process(pid)
                );
                self.tell_host("recovered", EventLevel::Info, "threads.recovered", message, detail);
            }
            Report::NotLoaded { count, threads } => self.report_not_loaded(*count, threads),
            Report::GoalsToLoad { server, threads } => {
                let pid = self.servers.borrow().pid(Some(*server));
                let message = format!(
                    "goals that were at work go on: the app-server{} is asked to load their threads, {} in all",
                    of_process(pid),
                    threads.len()
                );
                let detail = json!({"pid": pid, "threads": threads});
                self.host_commands.note(EventLevel::Info, "goals.loading", message, detail);
            }
            Report::GoalPostponed { thread } => {
                let message = format!(
                    "the goal of the thread {thread} rests for a minute: the app-server cannot load it, or dies of it"
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
                    format!("the goal of the thread {thread} does not go on: the app-server cannot load it");
                self.host_commands.note(
                    EventLevel::Warn,
                    "goals.lost",
                    message,
                    json!({"threads": [thread]}),
                );
            }
            Report::MigrationRefused { thread, reason } => {
                let message = format!(
                    "the thread {thread} does not move to the new app-server, which refuses it: {reason}; it is tried again"
                );
                let detail = json!({"threadId": thread, "reason": reason});
                self.host_commands.note(EventLevel::Warn, "migration.refused", message, detail);
            }
            Report::Handover(handover) => self.report_handover(handover),
            Report::Unanswered { count, methods } => {
                let message = format!("{count} requests were not answered in time: {}", methods.join(", "));
                let detail = json!({"count": count, "methods": methods});
                self.host_commands.note(EventLevel::Warn, "request.unanswered", message, detail);
            }
            Report::AnswerRefused { client, request, reason } => {
                let message = format!(
                    "client {} gave an answer to server request {request} that no app-server takes: {reason}; the next answer counts",
                    client.0
                );
                let detail = json!({"client": client.0, "serverRequest": request, "reason": reason});
                self.host_commands.note(EventLevel::Warn, "serverRequest.answerRefused", message, detail);
            }
            Report::AnswerNotTaken { thread, request } => {
                let message = format!(
                    "the app-server did not take the answer to server request {request} of thread {thread}; the next answer counts"
                );
                let detail = json!({"threadId": thread, "serverRequest": request});
                self.host_commands.note(EventLevel::Warn, "serverRequest.answerNotTaken", message, detail);
            }
            Report::ClientInfoDiscarded { reason } => {
                let message = format!(
                    "discarded the client information of the shared connection: {reason}; that of the next client is used"
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
                    "the app-server refuses to load {count} threads, which is tried again: thread {}: {}",
                    first.thread_id, first.reason
                ),
            ),
            None => (
                EventLevel::Info,
                "threads.loadable",
                "every thread that the app-server refused to load is loaded again or has ended".to_owned(),
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
                ("handover.started", format!("threads move to the app-server{}", of_process(to)))
            }
            HandoverState::Moving | HandoverState::Waiting => {
                ("handover.progressed", format!("{moved} threads have moved, {waiting} wait"))
            }
            HandoverState::Completed => (
                "handover.completed",
                format!(
                    "{moved} threads have moved within {} ms; the app-server{} holds nothing any more",
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
