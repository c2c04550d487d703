//! The dedicated connections of one client: the current one, and those that drain on outgoing app-servers.
//!
//! Only an open connection can drain. A connection that is still opening when another app-server takes over carries
//! nothing yet and is closed.

use crate::hub::event::ServerId;

/// The dedicated connections of one client.
#[derive(Debug, Default)]
pub struct DedicatedConnections {
    current: Current,
    /// App-servers to which a connection stays open for what still runs there.
    draining: Vec<ServerId>,
}

/// The connection for the client's next requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Current {
    #[default]
    None,
    /// Nothing may be sent over it yet.
    Opening(ServerId),
    Open(ServerId),
}

/// What follows from [`DedicatedConnections::begin`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Switched {
    /// The previous connection was still opening and has to be closed.
    pub close: Option<ServerId>,
    /// Whether the new connection has to be opened. It does not if it was draining.
    pub connect: bool,
}

impl DedicatedConnections {
    /// The app-server of the current connection, open or not.
    pub fn current(&self) -> Option<ServerId> {
        match self.current {
            Current::None => None,
            Current::Opening(server) | Current::Open(server) => Some(server),
        }
    }

    /// The app-server of the current connection, if it is open.
    pub fn open(&self) -> Option<ServerId> {
        match self.current {
            Current::Open(server) => Some(server),
            Current::None | Current::Opening(_) => None,
        }
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.current, Current::Opening(_))
    }

    /// The app-servers of the draining connections.
    pub fn draining(&self) -> &[ServerId] {
        &self.draining
    }

    /// Whether a connection to an app-server is open.
    pub fn is_open_to(&self, server: ServerId) -> bool {
        self.open() == Some(server) || self.draining.contains(&server)
    }

    /// Whether there is a connection to an app-server, open or not.
    pub fn leads_to(&self, server: ServerId) -> bool {
        self.servers().any(|other| other == server)
    }

    /// The app-servers of all connections.
    pub fn servers(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.current().into_iter().chain(self.draining.iter().copied())
    }

    /// Makes the connection to this app-server the current one; `None` if it was already. An open connection to
    /// another app-server drains.
    pub fn begin(&mut self, server: ServerId) -> Option<Switched> {
        if self.current() == Some(server) {
            return None;
        }
        let mut close = None;
        match self.current {
            Current::None => {}
            Current::Opening(before) => close = Some(before),
            Current::Open(before) => self.draining.push(before),
        }
        let was_draining = self.draining.contains(&server);
        self.draining.retain(|draining| *draining != server);
        self.current = if was_draining { Current::Open(server) } else { Current::Opening(server) };
        Some(Switched { close, connect: !was_draining })
    }

    /// The connection to an app-server is open. Returns whether it is still wanted.
    pub fn opened(&mut self, server: ServerId) -> bool {
        let is_wanted = self.current == Current::Opening(server);
        if is_wanted {
            self.current = Current::Open(server);
        }
        is_wanted
    }

    /// The connection to an app-server is gone. Returns whether it was the current one.
    pub fn lost(&mut self, server: ServerId) -> bool {
        self.draining.retain(|draining| *draining != server);
        let was_current = self.current() == Some(server);
        if was_current {
            self.current = Current::None;
        }
        was_current
    }

    /// Nothing runs on these draining connections any more.
    pub fn drained(&mut self, servers: &[ServerId]) {
        self.draining.retain(|draining| !servers.contains(draining));
    }
}
