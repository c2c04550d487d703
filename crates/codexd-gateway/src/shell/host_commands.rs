//! The queue of commands and reports for the host, which may be slow to take them.

use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::sync::{Notify, mpsc};

use super::event_log::{self, LogEntry};
use super::servers::Servers;
use crate::host::HostCommand;
use crate::hub::Report;
use crate::limits::HOST_COMMANDS_WAITING_MAX;

#[derive(Debug, Default)]
pub(crate) struct HostCommands {
    waiting: RefCell<VecDeque<HostCommand>>,
    more: Notify,
}

impl HostCommands {
    /// Adds a command. If too many wait, the oldest log entry or report is dropped; no other command is.
    pub(super) fn push(&self, command: HostCommand) {
        let mut waiting = self.waiting.borrow_mut();
        if command == HostCommand::TrimMemory && waiting.contains(&command) {
            return;
        }
        // Only the last settings of a thread count: at most one such command per thread waits.
        if let HostCommand::StoreThreadSettings(new) = &command {
            let is_replaced = |command: &HostCommand| matches!(command, HostCommand::StoreThreadSettings(old) if old.thread == new.thread);
            waiting.retain(|command| !is_replaced(command));
        } else if waiting.len() >= HOST_COMMANDS_WAITING_MAX {
            let may_go =
                |command: &HostCommand| matches!(command, HostCommand::Report(_) | HostCommand::Note { .. });
            let old = waiting.iter().position(may_go);
            old.map(|at| waiting.remove(at));
        }
        waiting.push_back(command);
        self.more.notify_one();
    }

    /// Writes an entry into the event log.
    pub(super) fn log(&self, entry: LogEntry) {
        let LogEntry { level, kind, message, detail } = entry;
        self.push(HostCommand::Note { level, kind: kind.to_owned(), message, detail });
    }

    /// Passes a report of the hub on: to the event log, to the commands that wait for one, or to both.
    pub(super) fn report(&self, report: &Report, servers: &Servers) {
        let event_log::Reported { report, entry } = event_log::of_report(report, servers);
        if let Some(report) = report {
            self.push(HostCommand::Report(report));
        }
        if let Some(entry) = entry {
            self.log(entry);
        }
    }

    /// Sends the commands to the host, until the host is gone.
    pub(super) async fn run(&self, host: mpsc::Sender<HostCommand>) {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                None => self.more.notified().await,
                Some(command) => {
                    if host.send(command).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
