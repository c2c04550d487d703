//! A client disconnects: its connections, requests, event streams and views end.

use crate::hub::Hub;
use crate::hub::event::{Action, ClientId, Connection, ThreadId};
use crate::hub::threads::thread;

impl Hub {
    pub(in crate::hub) fn on_client_disconnected(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        for server in client.dedicated.servers() {
            self.out.push(Action::Close(Connection::Dedicated(id, server)));
            self.forget_pending_requests(Connection::Dedicated(id, server));
        }
        self.drop_request_texts(id);
        self.deprecation_notices.client_disconnected(id);
        self.back_pressure.client_disconnected(id);
        self.on_recipient_left(id);
        self.replayed.client_disconnected(id);
        let mut watched: Vec<ThreadId> = Vec::new();
        for thread in self.threads.values_mut() {
            match &mut thread.audience {
                thread::Audience::Everyone { but, joined } => {
                    but.retain(|known| *known != id);
                    joined.retain(|viewer| viewer.client != id);
                }
                thread::Audience::Viewers(viewers) if viewers.iter().any(|viewer| viewer.client == id) => {
                    watched.push(thread.id.clone());
                }
                thread::Audience::Viewers(_) => {}
            }
        }
        self.withdraw_demands(id);
        watched.sort_unstable();
        for thread in watched {
            self.remove_viewer(&thread, id);
        }
        if self.clients.is_empty() {
            self.drop_subagent_viewers();
        }
        self.changes.holding_released();
        self.changes.requests_changed();
    }
}
