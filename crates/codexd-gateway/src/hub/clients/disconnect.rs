//! A client leaves: what was its own goes with it.

use crate::hub::Hub;
use crate::hub::event::{Action, ClientId, Connection};
use crate::hub::threads::thread::{self, ThreadId};

impl Hub {
    pub(in crate::hub) fn client_left(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        for server in client.dedicated.servers() {
            self.out.push(Action::Close(Connection::Dedicated(id, server)));
            self.forget_calls(Connection::Dedicated(id, server));
        }
        self.forget_texts_of(id);
        self.resumers.retain(|resumer| *resumer != id);
        self.full_links.retain(|link| !matches!(link, Connection::Dedicated(owner, _) if *owner == id));
        self.asked_client_left(id);
        self.streams.retain(|stream| stream.owner != id);
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
            self.unwatch(&thread, id);
        }
        if self.clients.is_empty() {
            self.leave_children_alone();
        }
        self.see_whether_all_have_left();
        self.pump();
    }
}
