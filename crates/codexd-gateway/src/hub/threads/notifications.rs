//! Notifications of app-servers, and which clients receive them.

use codexd_protocol::methods::ResourceKind;
use serde_json::value::RawValue;

use crate::hub::Hub;
use crate::hub::event::{Action, ClientId, Connection, ServerId, Text, ThreadId};
use crate::hub::requests::request_ids::names_client_request;
use crate::hub::text::{self, Names};
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::{Audience, Thread};
use crate::hub::threads::thread_events::ThreadNotification;
use crate::routes::{self, Audience as Hears, gates};

impl Hub {
    /// A notification on a shared connection.
    pub(in crate::hub) fn on_notification(
        &mut self,
        server: ServerId,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        match routes::audience(method) {
            Some(Hears::RateLimits) => {
                let counted = self.servers.get(&server).and_then(|server| server.last_usage_thread.clone());
                if let Some(thread) = counted {
                    self.send_to_viewers(&thread, method, text);
                }
            }
            Some(Hears::Greeting) => self.on_connect_notification(server, method, params, text),
            Some(Hears::EventStream) => {
                let names = Names::of(params);
                let stream =
                    self.replayed.event_streams().iter().find(|stream| names.is_stream(&stream.name));
                let owner = stream.map(|stream| stream.owner);
                if let Some(client) = owner.filter(|client| self.wants(*client, method)) {
                    self.send_to_client(client, text.clone());
                }
            }
            Some(Hears::EveryoneWithoutThread) => {
                self.on_process_state_changed(server, method);
                self.send_to_clients_without_dedicated(method, text);
            }
            Some(Hears::Requester) if names_client_request(method) => {
                self.send_to_requester(Connection::Shared(server), method, params, text);
            }
            // Upstream sends it to the connection that requested full turns: it goes to the client that did.
            Some(Hears::Requester) => {
                let last_subscriber = self.deprecation_notices.next_recipient();
                if let Some(client) = last_subscriber.filter(|client| self.wants(*client, method)) {
                    self.send_to_client(client, text.clone());
                }
            }
            hears => {
                let names = Names::of(params);
                match (names.thread(), params) {
                    (Some(thread), Some(params)) => {
                        let everyone = hears == Some(Hears::Everyone);
                        let note = ThreadNotification {
                            server,
                            thread,
                            method,
                            params,
                            names: &names,
                            everyone,
                            text,
                        };
                        self.on_thread_notification(&note);
                    }
                    // `thread/started` has its thread as a member, not its id.
                    (None, Some(params)) if self.announces_trial_thread(server, method, params) => {}
                    _ if hears == Some(Hears::Everyone) => self.send_to_all(method, text),
                    _ => self.send_to_clients_without_dedicated(method, text),
                }
            }
        }
    }

    /// A thread is no longer loaded.
    pub(in crate::hub) fn forget_thread(&mut self, id: &ThreadId) {
        if let Some(thread) = self.threads.remove(id) {
            if thread.is_refused() {
                self.schedule_refusal_report();
            }
            // A thread that is not attached yet may be loaded again for its goal.
            if thread.state != ThreadState::Attaching {
                self.goals.confirm(id);
            }
            self.changes.goals_changed();
            self.changes.thread_state_changed();
        }
        self.thread_settings_gone(id);
        self.server_requests.thread_gone(id);
        self.replayed.thread_gone(id);
    }

    pub(in crate::hub) fn wants(&self, client: ClientId, method: &str) -> bool {
        self.clients.get(&client).is_some_and(|client| client.is_ready() && client.capabilities.wants(method))
    }

    pub(in crate::hub) fn send_to_all(&mut self, method: &str, text: &Text) {
        let experimental = gates::notification_needs_experimental(method);
        for client in self.clients.values() {
            let may = !experimental || client.capabilities.experimental;
            if may && client.is_ready() && client.capabilities.wants(method) {
                self.out.push(Action::SendToClient(client.id, text.clone()));
            }
        }
    }

    /// Sends a notification that upstream sends on every connection: clients with a dedicated connection receive it
    /// there.
    fn send_to_clients_without_dedicated(&mut self, method: &str, text: &Text) {
        for client in self.clients.values() {
            if client.is_ready() && !client.has_dedicated() && client.capabilities.wants(method) {
                self.out.push(Action::SendToClient(client.id, text.clone()));
            }
        }
    }

    /// Sends a notification to the viewers of a thread.
    pub(in crate::hub) fn send_to_viewers(&mut self, thread: &str, method: &str, text: &Text) {
        let Some(thread) = self.threads.get(thread) else { return };
        let experimental = gates::notification_needs_experimental(method);
        match &thread.audience {
            Audience::Viewers(viewers) => {
                let hear = viewers.iter().filter(|viewer| viewer.wants(method));
                let hear = hear.filter(|viewer| !experimental || viewer.experimental);
                self.out.extend(hear.map(|viewer| Action::SendToClient(viewer.client, text.clone())));
            }
            Audience::Everyone { but, .. } => {
                for client in self.clients.values() {
                    let may = !experimental || client.capabilities.experimental;
                    if may
                        && client.is_ready()
                        && client.capabilities.wants(method)
                        && !but.contains(&client.id)
                    {
                        self.out.push(Action::SendToClient(client.id, text.clone()));
                    }
                }
            }
        }
    }

    /// A notification on a client's dedicated connection.
    pub(in crate::hub) fn on_dedicated_notification(
        &mut self,
        id: ClientId,
        server: ServerId,
        method: &str,
        params: Option<&RawValue>,
        text: &Text,
    ) {
        // It arrives on the shared connection as well.
        match routes::audience(method) {
            Some(Hears::Everyone | Hears::Subscribers | Hears::RateLimits | Hears::Greeting) => return,
            Some(Hears::SubscribersOrEveryone) | None if Names::of(params).thread().is_some() => return,
            _ => {}
        }
        if let Some(params) = params.map(RawValue::get) {
            if method == "process/exited" {
                let handle = text::member(params, "processHandle").map(RawValue::get);
                self.end_resource(id, ResourceKind::Process, handle);
            }
            self.on_background_ended(id, method, params);
        }
        if names_client_request(method) {
            self.send_to_requester(Connection::Dedicated(id, server), method, params, text);
        } else if self.clients.get(&id).is_some_and(crate::hub::clients::client::Client::is_ready) {
            self.send_to_client(id, text.clone());
        }
        if self.clients.get(&id).is_some_and(|client| !client.dedicated.draining().is_empty()) {
            self.changes.dedicated_released(id);
        }
    }

    pub(in crate::hub) fn remove_viewer(&mut self, id: &ThreadId, client: ClientId) {
        let now = self.now;
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.last_subscriber == Some(client) {
            thread.last_subscriber = None;
        }
        if thread.unwatch(client, now) && !thread.is_watched() {
            self.on_no_subscribers(id);
        }
    }

    /// The last viewer of a thread has left.
    pub(in crate::hub) fn on_no_subscribers(&mut self, id: &ThreadId) {
        let Some(thread) = self.threads.get(id) else { return };
        let leaves = self.servers.get(&thread.server).is_some_and(|server| server.is_outgoing);
        if thread.is_ephemeral() || leaves {
            self.unload_if_unwatched(&id.clone());
        } else {
            self.schedule_unload_check(id, self.unwatched_max_ms());
        }
    }
}

impl Thread {
    /// The connection that is subscribed to the thread.
    pub(in crate::hub) fn connection(&self) -> Connection {
        Connection::Shared(self.server)
    }
}
