//! Requests on a connection of the client's own: whatever is not about a thread, and whatever nobody here has heard of.

use serde_json::json;
use serde_json::value::RawValue;

use super::call::{Errand, Kind};
use super::event::{Action, ClientId, Link, ServerId, Text};
use super::places::{self, Placed};
use super::requests::Dispatched;
use super::{Hub, text};

impl Hub {
    pub(super) fn send_own(
        &mut self,
        id: ClientId,
        method: &str,
        raw: &str,
        text: &Text,
        params: Option<&RawValue>,
    ) -> Dispatched {
        let placed = places::placed(method);
        let name = placed.and_then(|placed| text::member(params?.get(), placed.member)).map(RawValue::get);
        let named = placed.zip(name);
        let there = named.and_then(|(placed, name)| self.clients.get(&id)?.place(placed.kind, name));
        let Some(server) = there.or(self.serving) else { return Dispatched::Waits };
        if !self.has_slot(id) {
            return Dispatched::Waits;
        }
        let Some(client) = self.clients.get(&id) else { return Dispatched::Done };
        let is_open =
            client.old_owns.contains(&server) || client.own.is_some_and(|own| own.server == server && own.up);
        if !is_open {
            self.open_own(id);
            return Dispatched::Waits;
        }
        self.keep_place(id, server, method, named, params);
        let kind = if method == "command/exec" { Kind::Exec } else { Kind::Plain };
        self.send(Link::Own(id, server), id, kind, None, raw, text);
        Dispatched::Done
    }

    /// Remembers what is begun on a connection, so that it can be found there, and be made again elsewhere.
    fn keep_place(
        &mut self,
        id: ClientId,
        server: ServerId,
        method: &str,
        named: Option<(Placed, &str)>,
        params: Option<&RawValue>,
    ) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some((placed, name)) = named else { return };
        match method {
            "fs/watch" => {
                client.watches.retain(|(known, _)| **known != *name);
                client.watches.push((name.into(), params.map_or("{}", RawValue::get).into()));
            }
            "fs/unwatch" => client.watches.retain(|(known, _)| **known != *name),
            _ if placed.begins => {
                client.placed.retain(|(kind, known, _)| !(*kind == placed.kind && **known == *name));
                client.placed.push((placed.kind, name.into(), server));
            }
            _ if placed.ends => {
                client.placed.retain(|(kind, known, _)| !(*kind == placed.kind && **known == *name));
            }
            _ => {}
        }
    }

    /// The request that ran a command was answered: the command has ended.
    pub(super) fn exec_ended(&mut self, id: ClientId, request: &str) {
        let params = text::member(request, "params");
        let name = params.and_then(|params| text::member(params.get(), "processId")).map(RawValue::get);
        self.place_ended(id, places::EXEC, name);
    }

    pub(super) fn place_ended(&mut self, id: ClientId, kind: &str, name: Option<&str>) {
        if let (Some(client), Some(name)) = (self.clients.get_mut(&id), name) {
            client.placed.retain(|(known, named, _)| !(*known == kind && **named == *name));
        }
    }

    /// A new connection of a client's own: what it watched is watched there, too.
    pub(super) fn watch_again(&mut self, id: ClientId, server: ServerId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.old_owns.is_empty() && !client.lost_own {
            return;
        }
        let watches: Vec<Text> = client.watches.iter().map(|(_, params)| params.clone()).collect();
        for params in watches {
            let params = serde_json::from_str(&params).unwrap_or_else(|_| json!({}));
            self.errand(Link::Own(id, server), Errand::Forget, "fs/watch", &params);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.lost_own = false;
        }
    }

    /// Closes the connections of a client on app-servers that are to leave, if nothing runs there any more.
    pub(super) fn let_go_of_old_owns(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        if client.old_owns.is_empty() || !client.own.is_none_or(|own| own.up) {
            return;
        }
        let idle = |server: &ServerId| {
            let link = Link::Own(id, *server);
            !client.placed.iter().any(|(kind, _, at)| at == server && *kind != places::EXEC)
                && !self.calls.values().any(|call| call.link == link)
        };
        let done: Vec<ServerId> = client.old_owns.iter().copied().filter(idle).collect();
        if done.is_empty() {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.old_owns.retain(|server| !done.contains(server));
            client.placed.retain(|(.., server)| !done.contains(server));
        }
        self.out.extend(done.into_iter().map(|server| Action::Close(Link::Own(id, server))));
        self.see_whether_all_have_left();
    }
}
