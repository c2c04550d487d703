//! Requests over a client's dedicated connection: everything that is not about a thread, and methods unknown to the
//! gateway.

use codexd_protocol::methods::{self, Resource, ResourceKind};
use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::clients::client::ReplayableRequest;
use crate::hub::clients::unanswered::too_many;
use crate::hub::event::{Action, ClientId, Connection, ServerId, Text};
use crate::hub::requests::dispatch::DispatchOutcome;
use crate::hub::requests::pending::{InternalRequest, Origin, RequestKind};
use crate::hub::text::SERVER_ERROR;
use crate::hub::upstream::backoff::Backoff;
use crate::hub::upstream::connection_bound;
use crate::hub::{Hub, Timer, text};

impl Hub {
    pub(in crate::hub) fn send_dedicated(
        &mut self,
        id: ClientId,
        method: &str,
        raw: &str,
        text: &Text,
        params: Option<&RawValue>,
    ) -> DispatchOutcome {
        let resource = connection_bound::of_request(method);
        let name = resource.and_then(|resource| connection_bound::name(&resource, params));
        let named = resource.zip(name);
        let there = named.and_then(|(resource, name)| self.clients.get(&id)?.place(resource.kind, name));
        let Some(server) = there.or(self.servers.serving()) else { return DispatchOutcome::Blocked };
        if !self.has_open_dedicated(id, server) {
            self.open_dedicated(id);
            if !self.has_open_dedicated(id, server) {
                return DispatchOutcome::Blocked;
            }
        }
        if self.back_pressure.is_full(Connection::Dedicated(id, server)) {
            return DispatchOutcome::BlockedByKey;
        }
        if let Some(refusal) = self.exceeds_client_bound(id, method, named, params) {
            self.send_to_client(id, text::error(raw, SERVER_ERROR, &refusal, Some(&too_many())));
            return DispatchOutcome::Done;
        }
        self.track_resource(id, server, named);
        let kind = methods::kind(method).over_dedicated();
        let number = self.send(Connection::Dedicated(id, server), id, kind, None, raw, text);
        self.answer_is_due(number, method);
        DispatchOutcome::Done
    }

    fn has_open_dedicated(&self, id: ClientId, server: ServerId) -> bool {
        self.clients.get(&id).is_some_and(|client| client.dedicated.is_open_to(server))
    }

    /// The client's dedicated connection to the serving app-server; `None` while it opens.
    pub(in crate::hub) fn dedicated_connection(&mut self, id: ClientId) -> Option<Connection> {
        let server = self.servers.serving()?;
        if !self.has_open_dedicated(id, server) {
            self.open_dedicated(id);
        }
        self.has_open_dedicated(id, server).then_some(Connection::Dedicated(id, server))
    }

    /// Records a resource that a request begins or ends on a connection. A replayable one is recorded when its
    /// request is accepted ([`Hub::add_replayable`]).
    fn track_resource(&mut self, id: ClientId, server: ServerId, named: Option<(Resource, &str)>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some((resource, name)) = named else { return };
        if resource.is_replayed() {
            if resource.ends() {
                client.replayable.retain(|kept| !(kept.kind == resource.kind && *kept.name == *name));
                self.forget_pending_replayable(id, resource, name);
            }
        } else if resource.begins() {
            // A name may be used again before the end of the first resource with this name is known.
            client.bound_resources.push((resource.kind, name.into(), server));
        } else if resource.ends() {
            self.end_resource(id, resource.kind, Some(name));
        }
    }

    /// A request started something that continues in its app-server after the response, such as a login.
    pub(in crate::hub) fn track_background(
        &mut self,
        id: ClientId,
        server: ServerId,
        background: Resource,
        request: &str,
        result: &str,
    ) {
        let params = text::member(request, "params").map_or("{}", RawValue::get);
        let members = if background.kind.is_named_by_result() { result } else { params };
        let name = connection_bound::continuing_name(&background, members);
        let (Some(client), Some(name)) = (self.clients.get_mut(&id), name) else { return };
        if client
            .ended_before_response
            .take()
            .is_some_and(|(kind, ended)| kind == background.kind && *ended == *name)
        {
            return;
        }
        // The same login replaces the previous one.
        client.bound_resources.retain(|(kind, known, _)| *kind != background.kind || **known != *name);
        client.bound_resources.push((background.kind, name.into(), server));
    }

    /// A notification on a client's dedicated connection reports the end of a resource.
    pub(in crate::hub) fn on_background_ended(&mut self, id: ClientId, method: &str, params: &str) {
        let Some(background) = connection_bound::ended_by(method, params) else { return };
        let Some(name) = connection_bound::continuing_name(&background, params) else { return };
        if self.end_resource(id, background.kind, Some(name)) {
            return;
        }
        // It may have ended before the response to the request that started it.
        let begins = RequestKind::StartsBackground(background);
        let is_requested = self.pending.values().any(|pending| match &pending.origin {
            Origin::Client { client, kind, .. } => *client == id && *kind == begins,
            Origin::Internal(_) => false,
        });
        if let Some(client) = self.clients.get_mut(&id).filter(|_| is_requested) {
            client.ended_before_response = Some((background.kind, name.into()));
        }
    }

    /// A client's dedicated connection is lost: its processes are reported as ended. Its commands are answered with
    /// an error, like every request; its watches and searches are replayed.
    pub(in crate::hub) fn on_dedicated_lost(&mut self, id: ClientId, server: ServerId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let was_current = client.dedicated.lost(server);
        let (gone, kept) = client.bound_resources.drain(..).partition(|(.., at)| *at == server);
        client.bound_resources = kept;
        let gone: Vec<(ResourceKind, Box<str>, ServerId)> = gone;
        if was_current {
            client.lost_dedicated = !client.replayable.is_empty();
            let (of, backoff) = &mut client.dedicated_backoff;
            if of.replace(server) != Some(server) {
                *backoff = Backoff::default();
            }
            let wait = backoff.lost(self.now);
            self.set_timer(wait, Timer::Reconnect);
        }
        for (_, name, _) in gone.iter().filter(|(kind, ..)| *kind == ResourceKind::Process) {
            let name = serde_json::from_str(name).unwrap_or(serde_json::Value::Null);
            let why = "the app-server ended under this process";
            let params = json!({
                "processHandle": name, "exitCode": -1,
                "stdout": "", "stdoutCapReached": false, "stderr": why, "stderrCapReached": false,
            });
            let method = "process/exited";
            if self.wants(id, method) {
                self.send_to_client(id, text::notification(method, &params));
            }
        }
    }

    /// Opens dedicated connections to the serving app-server for clients that have one elsewhere.
    pub(in crate::hub) fn reopen_dedicated(&mut self) {
        let have_one = self.clients.values().filter(|client| client.dedicated.current().is_some());
        let mut clients: Vec<ClientId> = have_one.map(|client| client.id).collect();
        clients.sort_unstable();
        for client in clients {
            self.open_dedicated(client);
        }
    }

    /// A response reports that a command has ended or that a process was refused.
    pub(in crate::hub) fn end_resource_of_request(
        &mut self,
        id: ClientId,
        kind: ResourceKind,
        member: &str,
        request: &str,
    ) {
        let params = text::member(request, "params");
        let name = params.and_then(|params| text::member(params.get(), member)).map(RawValue::get);
        self.end_resource(id, kind, name);
    }

    /// A resource has ended. Returns whether it was known.
    pub(in crate::hub) fn end_resource(
        &mut self,
        id: ClientId,
        kind: ResourceKind,
        name: Option<&str>,
    ) -> bool {
        if let (Some(client), Some(name)) = (self.clients.get_mut(&id), name)
            && let Some(at) =
                client.bound_resources.iter().position(|(known, named, _)| *known == kind && **named == *name)
        {
            client.bound_resources.remove(at);
            return true;
        }
        false
    }

    /// A new dedicated connection is open: replays the client's watches and searches there.
    pub(in crate::hub) fn replay_requests(&mut self, id: ClientId, server: ServerId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.dedicated.draining().is_empty() && !client.lost_dedicated {
            return;
        }
        for ReplayableRequest { method, params, .. } in client.replayable.clone() {
            let params = serde_json::from_str(&params).unwrap_or_else(|_| json!({}));
            self.send_internal(
                Connection::Dedicated(id, server),
                InternalRequest::IgnoreResponse,
                &method,
                &params,
            );
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.lost_dedicated = false;
        }
    }

    /// Closes a client's draining connections on which nothing runs any more.
    pub(in crate::hub) fn close_drained(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.dedicated.draining().is_empty() || client.dedicated.is_opening() {
            return;
        }
        let idle = |server: &ServerId| {
            let connection = Connection::Dedicated(id, *server);
            !client.bound_resources.iter().any(|(kind, _, at)| at == server && *kind != ResourceKind::Command)
                && !self.pending.values().any(|pending| pending.connection == connection)
        };
        let done: Vec<ServerId> = client.dedicated.draining().iter().copied().filter(idle).collect();
        if done.is_empty() {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.dedicated.drained(&done);
            client.bound_resources.retain(|(.., server)| !done.contains(server));
        }
        for server in done {
            self.orphan_server_requests(Connection::Dedicated(id, server));
            self.out.push(Action::Close(Connection::Dedicated(id, server)));
        }
        self.changes.holding_released();
    }
}
