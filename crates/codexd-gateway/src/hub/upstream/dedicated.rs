//! The connections upstream that are dedicated to one client: one for what it asks next, and those that drain on
//! app-servers that are to leave.
//!
//! Only an open connection can drain. A connection that is still opening when another app-server takes over carries
//! nothing yet: it is closed.

use crate::hub::event::ServerId;

/// The dedicated connections of one client.
#[derive(Debug, Default)]
pub struct DedicatedConnections {
    current: Current,
    /// Connections that stay open for what still runs there.
    draining: Vec<ServerId>,
}

/// The connection for what the client asks next.
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
    /// The connection before was still opening: it is to be closed.
    pub close: Option<ServerId>,
    /// The connection is to be opened. It is not if it was draining: it is the current one again.
    pub connect: bool,
}

impl DedicatedConnections {
    /// Where the current connection leads, open or not.
    pub fn current(&self) -> Option<ServerId> {
        match self.current {
            Current::None => None,
            Current::Opening(server) | Current::Open(server) => Some(server),
        }
    }

    /// Where the current connection leads, if it is open.
    pub fn open(&self) -> Option<ServerId> {
        match self.current {
            Current::Open(server) => Some(server),
            Current::None | Current::Opening(_) => None,
        }
    }

    pub fn is_opening(&self) -> bool {
        matches!(self.current, Current::Opening(_))
    }

    /// Where connections drain.
    pub fn draining(&self) -> &[ServerId] {
        &self.draining
    }

    /// Whether something can be sent to an app-server.
    pub fn is_open_to(&self, server: ServerId) -> bool {
        self.open() == Some(server) || self.draining.contains(&server)
    }

    /// Whether there is a connection to an app-server, open or not.
    pub fn leads_to(&self, server: ServerId) -> bool {
        self.servers().any(|other| other == server)
    }

    /// Every app-server that a connection leads to.
    pub fn servers(&self) -> impl Iterator<Item = ServerId> + '_ {
        self.current().into_iter().chain(self.draining.iter().copied())
    }

    /// From now on the current connection is one to this app-server; `None` if it was already. An open one to another
    /// app-server drains.
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

    /// The connection to an app-server is open; false if it is not wanted any more.
    pub fn opened(&mut self, server: ServerId) -> bool {
        let is_wanted = self.current == Current::Opening(server);
        if is_wanted {
            self.current = Current::Open(server);
        }
        is_wanted
    }

    /// The connection to an app-server is gone; answers whether it was the current one.
    pub fn lost(&mut self, server: ServerId) -> bool {
        self.draining.retain(|draining| *draining != server);
        let was_current = self.current() == Some(server);
        if was_current {
            self.current = Current::None;
        }
        was_current
    }

    /// Nothing runs any more on these connections that drain.
    pub fn drained(&mut self, servers: &[ServerId]) {
        self.draining.retain(|draining| !servers.contains(draining));
    }
}
