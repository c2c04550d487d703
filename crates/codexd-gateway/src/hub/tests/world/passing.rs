//! How one gateway passes and another one comes.

use super::World;
use crate::hub::{ClientId, Connection, Event, Hub, ServerId};

impl World {
    /// The gateway ends and another one comes at once: all clients are gone, all connections closed.
    pub fn restart_gateway(&mut self) {
        self.lose_gateway();
        self.begin_gateway();
    }

    /// The gateway ends. Until another one starts, nothing is subscribed.
    pub fn lose_gateway(&mut self) {
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for id in clients {
            if let Some(seen) = self.clients.get_mut(&id) {
                seen.left = true;
                seen.open.clear();
            }
        }
        let servers: Vec<ServerId> = self.outgoing.iter().chain(&self.current).copied().collect();
        let connections: Vec<Connection> = self.connections.keys().copied().collect();
        for connection in connections {
            self.forget_connection(connection);
        }
        for server in servers {
            self.shared_broke(server);
        }
        self.up.clear();
        self.connections.clear();
        self.running_there.clear();
    }

    /// Another gateway comes.
    pub fn begin_gateway(&mut self) {
        self.hub = Hub::new(self.subagent_approvals);
        // Another gateway does not know what the one before it let go.
        self.retired.clear();
        self.last.clear();
        self.feed(Event::GoalsRestored(self.persisted_goals.clone()));
        if let Some(identity) = self.stored_identity.clone() {
            self.feed(Event::ClientIdentityRestored(identity));
        }
        if std::mem::take(&mut self.settings_are_lost) {
            self.stored_settings.clear();
            self.feed(Event::ThreadSettingsLost);
        }
        for (thread, settings) in self.stored_settings.clone() {
            self.feed(Event::ThreadSettingsRestored { thread, settings });
        }
        self.report_servers();
    }
}
