//! Requests on a connection of the client's own: whatever is not about a thread, and whatever nobody here has heard of.

use serde_json::json;
use serde_json::value::RawValue;

use crate::hub::clients::bounds::too_many;
use crate::hub::clients::client::Kept;
use crate::hub::clients::replayed_settings;
use crate::hub::event::{Action, ClientId, Connection, ServerId, Text};
use crate::hub::requests::dispatch::{Dispatched, lists_threads};
use crate::hub::requests::fair_queue::SERVER_ERROR;
use crate::hub::requests::pending::{Asker, Errand, Kind};
use crate::hub::upstream::backoff::Backoff;
use crate::hub::upstream::connection_bound::{self, Background, Placed};
use crate::hub::{Hub, Timer, text};

impl Hub {
    pub(in crate::hub) fn send_own(
        &mut self,
        id: ClientId,
        method: &str,
        raw: &str,
        text: &Text,
        params: Option<&RawValue>,
    ) -> Dispatched {
        let placed = connection_bound::placed(method);
        let name = placed.and_then(|placed| placed.name(params));
        let named = placed.zip(name);
        let there = named.and_then(|(placed, name)| self.clients.get(&id)?.place(placed.kind, name));
        let Some(server) = there.or(self.serving) else { return Dispatched::Waits };
        if !self.has_open_own(id, server) {
            self.open_own(id);
            if !self.has_open_own(id, server) {
                return Dispatched::Waits;
            }
        }
        if self.is_full(Connection::Dedicated(id, server)) {
            return Dispatched::WaitsInLane;
        }
        if let Some(refusal) = self.too_much_is_kept(id, method, named, params) {
            self.tell(id, text::error(raw, SERVER_ERROR, &refusal, Some(&too_many())));
            return Dispatched::Done;
        }
        self.keep_place(id, server, named);
        let kind = match method {
            "command/exec" => Kind::Exec,
            "process/spawn" => Kind::Spawn,
            _ if placed.is_some_and(|placed| placed.is_replayed()) => Kind::Replayed,
            _ if lists_threads(method) => Kind::ThreadList,
            _ if replayed_settings::is_setting(method) => Kind::Setting,
            _ => connection_bound::background(method).map_or(Kind::Plain, Kind::Begins),
        };
        let number = self.send(Connection::Dedicated(id, server), id, kind, None, raw, text);
        self.answer_is_due(number, method);
        Dispatched::Done
    }

    fn has_open_own(&self, id: ClientId, server: ServerId) -> bool {
        self.clients.get(&id).is_some_and(|client| client.dedicated.is_open_to(server))
    }

    /// The client's own connection to the app-server that serves; `None` while it opens.
    pub(in crate::hub) fn own_link(&mut self, id: ClientId) -> Option<Connection> {
        let server = self.serving?;
        if !self.has_open_own(id, server) {
            self.open_own(id);
        }
        self.has_open_own(id, server).then_some(Connection::Dedicated(id, server))
    }

    /// Remembers what is begun on a connection, so that it can be found there. What is made again elsewhere is remembered when
    /// it was accepted ([`Hub::replay_from_now_on`]).
    fn keep_place(&mut self, id: ClientId, server: ServerId, named: Option<(Placed, &str)>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some((placed, name)) = named else { return };
        if placed.is_replayed() {
            if placed.ends {
                client.kept.retain(|kept| !(kept.kind == placed.kind && *kept.name == *name));
                self.forget_replayed_under_way(id, placed, name);
            }
        } else if placed.begins {
            // A name may be taken again before the first of that name is known to have ended.
            client.placed.push((placed.kind, name.into(), server));
        } else if placed.ends {
            self.place_ended(id, placed.kind, Some(name));
        }
    }

    /// Something goes on in the app-server that began it: a login waits for its user there.
    pub(in crate::hub) fn goes_on(
        &mut self,
        id: ClientId,
        server: ServerId,
        background: &Background,
        request: &str,
        result: &str,
    ) {
        let params = text::member(request, "params").map_or("{}", RawValue::get);
        let name = background.name(if background.is_in_result { result } else { params });
        let (Some(client), Some(name)) = (self.clients.get_mut(&id), name) else { return };
        if client.ended_early.take().is_some_and(|(kind, ended)| kind == background.kind && *ended == *name) {
            return;
        }
        // The same login once more takes the place of the one before.
        client.placed.retain(|(kind, known, _)| *kind != background.kind || **known != *name);
        client.placed.push((background.kind, name.into(), server));
    }

    /// A notification on a client's dedicated connection says that something has ended.
    pub(in crate::hub) fn background_ended(&mut self, id: ClientId, method: &str, params: &str) {
        let Some(background) = connection_bound::ended_by(method, params) else { return };
        let Some(name) = background.name(params) else { return };
        if self.place_ended(id, background.kind, Some(name)) {
            return;
        }
        // Before the answer to what began it?
        let begins = Kind::Begins(background);
        let is_asked = self.calls.values().any(|call| match &call.asker {
            Asker::Client { client, kind, .. } => *client == id && *kind == begins,
            Asker::Gateway(_) => false,
        });
        if let Some(client) = self.clients.get_mut(&id).filter(|_| is_asked) {
            client.ended_early = Some((background.kind, name.into()));
        }
    }

    /// A client's own connection is gone: its processes have ended, for all that anybody can know. (Commands are answered
    /// with an error, as every request; watches and searches are made again.)
    pub(in crate::hub) fn own_lost(&mut self, id: ClientId, server: ServerId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let was_current = client.dedicated.lost(server);
        let (gone, kept) = client.placed.drain(..).partition(|(.., at)| *at == server);
        client.placed = kept;
        let gone: Vec<(&str, Box<str>, ServerId)> = gone;
        if was_current {
            client.lost_own = !client.kept.is_empty();
            let (of, backoff) = &mut client.own_backoff;
            if of.replace(server) != Some(server) {
                *backoff = Backoff::default();
            }
            let wait = backoff.lost(self.now);
            self.timer(wait, Timer::Reconnect);
        }
        for (_, name, _) in gone.iter().filter(|(kind, ..)| *kind == connection_bound::PROCESS) {
            let name = serde_json::from_str(name).unwrap_or(serde_json::Value::Null);
            let why = "the app-server ended under this process";
            let params = json!({
                "processHandle": name, "exitCode": -1,
                "stdout": "", "stdoutCapReached": false, "stderr": why, "stderrCapReached": false,
            });
            let method = "process/exited";
            if self.wants(id, method) {
                self.tell(id, text::notification(method, &params));
            }
        }
    }

    /// Opens connections of clients' own on the app-server that serves now, for those who have one elsewhere.
    pub(in crate::hub) fn open_owns_anew(&mut self) {
        let have_one = self.clients.values().filter(|client| client.dedicated.current().is_some());
        let mut clients: Vec<ClientId> = have_one.map(|client| client.id).collect();
        clients.sort_unstable();
        for client in clients {
            self.open_own(client);
        }
    }

    /// The answer to a request that began something says that nothing of it runs there: a command has ended with it, a
    /// process was refused.
    pub(in crate::hub) fn begun_in_vain(&mut self, id: ClientId, kind: &str, member: &str, request: &str) {
        let params = text::member(request, "params");
        let name = params.and_then(|params| text::member(params.get(), member)).map(RawValue::get);
        self.place_ended(id, kind, name);
    }

    /// Answers whether it was known.
    pub(in crate::hub) fn place_ended(&mut self, id: ClientId, kind: &str, name: Option<&str>) -> bool {
        if let (Some(client), Some(name)) = (self.clients.get_mut(&id), name)
            && let Some(at) =
                client.placed.iter().position(|(known, named, _)| *known == kind && **named == *name)
        {
            client.placed.remove(at);
            return true;
        }
        false
    }

    /// A new connection of a client's own: what it watched is watched there, too.
    pub(in crate::hub) fn watch_again(&mut self, id: ClientId, server: ServerId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.dedicated.draining().is_empty() && !client.lost_own {
            return;
        }
        for Kept { method, params, .. } in client.kept.clone() {
            let params = serde_json::from_str(&params).unwrap_or_else(|_| json!({}));
            self.errand(Connection::Dedicated(id, server), Errand::Forget, &method, &params);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.lost_own = false;
        }
    }

    /// Closes the connections of a client on app-servers that are to leave, if nothing runs there any more.
    pub(in crate::hub) fn close_drained(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.dedicated.draining().is_empty() || client.dedicated.is_opening() {
            return;
        }
        let idle = |server: &ServerId| {
            let link = Connection::Dedicated(id, *server);
            !client.placed.iter().any(|(kind, _, at)| at == server && *kind != connection_bound::EXEC)
                && !self.calls.values().any(|call| call.link == link)
        };
        let done: Vec<ServerId> = client.dedicated.draining().iter().copied().filter(idle).collect();
        if done.is_empty() {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.dedicated.drained(&done);
            client.placed.retain(|(.., server)| !done.contains(server));
        }
        for server in done {
            self.forget_asks(Connection::Dedicated(id, server));
            self.out.push(Action::Close(Connection::Dedicated(id, server)));
        }
        self.see_whether_all_have_left();
    }
}
