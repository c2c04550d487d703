//! Retirement of outgoing app-servers, and the reports of a handover.

use crate::hub::event::{
    Action, BlockedOn, BlockedThread, Connection, HandoverReport, HandoverState, Report, ServerId,
};
use crate::hub::migration::Handover;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::upstream::servers::ConnectionState;
use crate::hub::{Hub, Timer};
use crate::limits::HANDOVER_REPORT_AFTER_MS;

impl Hub {
    /// Retires outgoing app-servers that hold nothing any more: no thread, no connection in use, no pending request.
    pub(in crate::hub) fn retire_drained_servers(&mut self) {
        let mut outgoing: Vec<ServerId> = (self.servers.iter())
            .filter(|(_, server)| server.is_outgoing && !server.is_retired)
            .map(|(&id, _)| id)
            .collect();
        outgoing.sort_unstable();
        for id in outgoing {
            // While the current app-server does not answer, the outgoing one serves.
            let successor_serves = self.servers.serving().is_some_and(|serving| serving != id)
                || (!self.identity.is_known() && self.is_ready());
            if !successor_serves || self.holds_anything(id) {
                continue;
            }
            let Some(server) = self.servers.get_mut(&id) else { continue };
            server.is_retired = true;
            let shared = std::mem::take(&mut server.shared);
            self.servers.stop_serving(id);
            self.orphan_server_requests(Connection::Shared(id));
            if shared != ConnectionState::Closed {
                self.out.push(Action::Close(Connection::Shared(id)));
            }
            self.out.push(Action::Retire(id));
            if let Some(handover) = self.migration.handover.as_mut().filter(|handover| handover.from == id) {
                handover.state = HandoverState::Completed;
                self.report_handover();
            }
            // Other outgoing app-servers may remain.
            self.changes.servers_changed();
        }
    }

    fn holds_anything(&self, id: ServerId) -> bool {
        // What it has loaded is unknown until it has reported that.
        let listed = self.servers.get(&id).is_some_and(|server| server.is_listed);
        !listed
            || self.threads.values().any(|thread| thread.server == id || thread.unloaded_from == Some(id))
            || self.clients.values().any(|client| client.dedicated.leads_to(id))
            || self.pending.values().any(|pending| pending.connection.server() == id)
    }

    pub(super) fn handover_progressed(&mut self) {
        let has_pending_trial = self.has_pending_trial();
        let Some(handover) = &mut self.migration.handover else { return };
        let is_listed = self.servers.get(&handover.from).is_some_and(|server| server.is_listed);
        if handover.state == HandoverState::Moving && is_listed && !has_pending_trial {
            handover.state = HandoverState::Waiting;
            self.report_handover();
        }
    }

    pub(super) fn report_handover(&mut self) {
        if let Some(mut report) = self.handover_report() {
            if let Some(handover) = &mut self.migration.handover {
                report.is_news = match handover.state {
                    HandoverState::Moving => !std::mem::replace(&mut handover.has_reported_moving, true),
                    HandoverState::Waiting => {
                        !std::mem::replace(&mut handover.has_reported_waiting, true)
                            || handover.reported.0 != report.threads_moved
                    }
                    HandoverState::Completed => true,
                };
                handover.reported = (report.threads_moved, report.threads_waiting.clone());
            }
            self.out.push(Action::Report(Report::Handover(report)));
        }
    }

    /// Reports a handover soon: threads may have migrated, or be blocked on something else.
    pub(in crate::hub) fn schedule_handover_report(&mut self) {
        let continues = |handover: &&mut Handover| handover.state != HandoverState::Completed;
        let Some(handover) = self.migration.handover.as_mut().filter(continues) else { return };
        if !std::mem::replace(&mut handover.report_is_due, true) {
            self.set_timer(HANDOVER_REPORT_AFTER_MS, Timer::HandoverReport);
        }
    }

    pub(in crate::hub) fn report_handover_if_changed(&mut self) {
        let Some(handover) = &mut self.migration.handover else { return };
        handover.report_is_due = false;
        let state = handover.state;
        let Some(report) = self.handover_report() else { return };
        let now = (report.threads_moved, report.threads_waiting);
        if state != HandoverState::Completed
            && self.migration.handover.as_ref().is_some_and(|known| known.reported != now)
        {
            self.report_handover();
        }
    }

    pub(in crate::hub) fn handover_report(&self) -> Option<HandoverReport> {
        let handover = self.migration.handover.as_ref()?;
        let leaves = |id: &ServerId| self.servers.get(id).is_some_and(|server| server.is_outgoing);
        let is_between = |thread: &Thread| thread.unloaded_from.as_ref().is_some_and(leaves);
        let waiting = self.threads.values().filter(|thread| leaves(&thread.server) || is_between(thread));
        let mut threads_waiting: Vec<BlockedThread> = waiting
            .map(|thread| BlockedThread {
                thread_id: thread.id.to_string(),
                blocked_on: match thread.state {
                    // No app-server has it.
                    ThreadState::Orphaned | ThreadState::Recovering { .. }
                        if thread.load_refusal.is_some() =>
                    {
                        BlockedOn::Refused
                    }
                    _ => self.known_blocker(&thread.id).unwrap_or(thread.blocked_on),
                },
                reason: thread.load_refusal.clone(),
            })
            .collect();
        threads_waiting.sort_by(|one, other| one.thread_id.cmp(&other.thread_id));
        let connections =
            self.clients.values().filter(|client| client.dedicated.draining().iter().any(leaves));
        Some(HandoverReport {
            from: Some(handover.from),
            to: Some(handover.to),
            state: handover.state,
            threads_moved: handover.moved,
            threads_waiting,
            connections_waiting: connections.count(),
            took_ms: self.now.since_ms(handover.since),
            is_news: true,
        })
    }
}
