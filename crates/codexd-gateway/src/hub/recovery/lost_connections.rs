//! The loss of a connection to an app-server: its pending requests are answered with an error, its threads wait to be
//! loaded again, and the connection is opened again with backoff.

use serde_json::json;

use crate::hub::clients::client::{Client, Stage};
use crate::hub::event::{Action, Connection, Now, Report, ServerId};
use crate::hub::goals::RequestFate;
use crate::hub::recovery::{EndedServer, Loss};
use crate::hub::requests::pending::{Origin, PendingRequest, RequestKind};
use crate::hub::text::SERVER_ERROR;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::upstream::servers::ConnectionState;
use crate::hub::{Hub, Timer, text};
use crate::limits::{EXPECTED_EXIT_REPORT_MS, GOAL_CRASHES_MAX, GOAL_STABLE_MS};

impl EndedServer {
    fn report(self, was_expected: bool) -> Action {
        let Self { server, threads, requests } = self;
        Action::Report(Report::ServerLost { server, threads, requests, was_expected })
    }
}

impl Hub {
    /// Reports the ends that are known to have been requested.
    pub(in crate::hub) fn report_expected_ends(&mut self) {
        let servers = &self.servers;
        let was_expected =
            |id: &ServerId| servers.get(id).is_some_and(|server| server.is_draining || server.is_outgoing);
        for ended in self.recovery.ended_servers.extract_if(.., |ended| was_expected(&ended.server)) {
            self.out.push(ended.report(true));
        }
    }

    /// Reports an end as a loss: the app-server is gone from the supervisor's list, or the supervisor had time to report a request.
    pub(in crate::hub) fn report_losses(&mut self, server: ServerId) {
        self.report_expected_ends();
        for ended in self.recovery.ended_servers.extract_if(.., |ended| ended.server == server) {
            self.out.push(ended.report(false));
        }
    }

    pub(in crate::hub) fn on_connection_lost(&mut self, connection: Connection) {
        self.orphan_server_requests(connection);
        self.back_pressure.reset(connection);
        self.drop_unsent(connection);
        // Before anything else, so that nothing more is sent there.
        let was_up = match connection {
            Connection::Shared(server) => {
                let known = self.servers.get_mut(&server);
                known.is_some_and(|server| std::mem::take(&mut server.shared) == ConnectionState::Open)
            }
            Connection::Dedicated(..) => false,
        };
        match connection {
            Connection::Dedicated(id, server) => self.on_dedicated_lost(id, server),
            Connection::Shared(server) if was_up => {
                self.servers.stop_serving(server);
                self.abort_handover(server);
                let of_it = self.threads.values_mut().filter(|thread| thread.server == server);
                of_it.for_each(Thread::lose);
                self.drop_rollback_origin(server);
            }
            Connection::Shared(_) => {}
        }
        let failed = self.fail_pending_requests(connection);
        match connection {
            Connection::Shared(server) => self.on_shared_lost(server, was_up, failed),
            Connection::Dedicated(id, _) => self.changes.dedicated_released(id),
        }
        self.changes.holding_released();
        self.changes.requests_changed();
    }

    /// Answers the pending requests of a connection with an error: how far they came is unknown. Returns their
    /// number.
    fn fail_pending_requests(&mut self, connection: Connection) -> usize {
        let mut failed = 0;
        for number in self.pending.over(connection) {
            let Some(PendingRequest { origin, has_permit, .. }) = self.pending.remove(number) else {
                continue;
            };
            match origin {
                Origin::Internal(request) => self.on_internal_request_lost(&request),
                Origin::Client { client, id, thread, kind, text } => {
                    if has_permit {
                        self.release_permit(client);
                    }
                    self.deprecation_notices.request_done(client, &text);
                    if kind == RequestKind::EventStream {
                        self.remove_event_stream(client, &text);
                    }
                    if let Some(thread) = thread {
                        self.on_goal_request_done(&thread, number, RequestFate::Unknown);
                        self.on_thread_request_done(&thread);
                    }
                    if self.clients.contains_key(&client) {
                        failed += 1;
                        let message =
                            "the app-server ended before it answered; whether it acted is not known";
                        let data = json!({"reason": "appServerRestarted"});
                        self.send_to_client(client, text::error(&id, SERVER_ERROR, message, Some(&data)));
                    }
                }
            }
        }
        failed
    }

    fn on_shared_lost(&mut self, id: ServerId, was_up: bool, requests: usize) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.is_listed = false;
        // The process may be alive: then its connection is opened again.
        let wait = server.backoff.lost(self.now);
        self.set_timer(wait, Timer::Reconnect);
        if !was_up {
            // It was not open: nothing was lost with it.
            return;
        }
        let threads = self.threads.values().filter(|thread| thread.server == id).count();
        self.recovery.ended_servers.push(EndedServer { server: id, threads, requests });
        self.set_timer(EXPECTED_EXIT_REPORT_MS, Timer::EndedServer(id));
        self.report_expected_ends();
        if threads > 0 && self.recovery.loss.is_none() {
            self.recovery.loss = Some(Loss { since: self.now, recovered: 0, completed: 0, interrupted: 0 });
        }
        // Another app-server may serve already.
        self.servers.serve_with_any();
        self.changes.loads_changed();
    }

    /// An app-server died with these threads, perhaps because of one of them: goals without viewers are postponed.
    pub(in crate::hub) fn postpone_crashing_threads(&mut self, server: ServerId) {
        let mut postponed = Vec::new();
        for thread in self.threads.values_mut().filter(|thread| thread.server == server) {
            if self.goals.has_work_in(thread) && thread.crashes_too_often(self.now) {
                postponed.push(thread.id.clone());
            }
        }
        postponed.sort_unstable();
        postponed.iter().for_each(|thread| self.postpone_goal(thread));
    }

    /// Opens lost connections that are needed again.
    pub(in crate::hub) fn reconnect(&mut self) {
        self.open_shared_connections();
        let waits = |client: &&Client| {
            client.lost_dedicated
                || (client.dedicated.current().is_none()
                    && matches!(client.stage, Stage::Initializing { asks_upstream: true, .. }))
        };
        let mut lost: Vec<_> = self.clients.values().filter(waits).map(|client| client.id).collect();
        lost.sort_unstable();
        for client in lost {
            self.open_dedicated(client);
        }
    }
}

impl Thread {
    /// Whether it has no viewers and its app-server was lost repeatedly with it, or while it was loading.
    fn crashes_too_often(&mut self, now: Now) -> bool {
        let lasted = self.recovered_at.take().is_some_and(|at| now.since_ms(at) >= GOAL_STABLE_MS);
        self.crash_count = if lasted { 1 } else { self.crash_count + 1 };
        self.crash_count >= GOAL_CRASHES_MAX && !self.is_watched()
    }

    /// Its app-server's shared connection broke.
    fn lose(&mut self) {
        let was_loaded = !matches!(
            self.state,
            ThreadState::Loading
                | ThreadState::RollingBack
                | ThreadState::Orphaned
                | ThreadState::Recovering { .. }
        );
        if was_loaded {
            // Only the successor refused it. Its app-server may be alive, and a turn may run there.
            self.load_refusal = None;
        }
        self.state = ThreadState::Orphaned;
        self.retry_at = Now::default();
        for turn in &mut self.turns {
            turn.lost = true;
        }
    }
}
