//! The socket on which the supervisor takes orders.

use std::io;
use std::os::unix::net::UnixListener;

use codexd_core::contract::EventLevel;

use super::Supervisor;
use crate::events::Event as LogEvent;
use crate::home::Home;
use crate::{atomic, ownership};

/// Listens on the socket, in place of the socket of a dead supervisor. The caller holds the supervisor's lock, so no other
/// supervisor listens there.
///
/// # Errors
/// The socket cannot be created.
pub(super) fn listen(home: &Home) -> io::Result<UnixListener> {
    let path = home.supervisor_socket();
    atomic::remove_if_exists(&path)?;
    let listener = ownership::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Supervisor {
    /// Listens again if the socket was removed, so that new commands find this supervisor.
    pub(super) fn check_supervisor_socket(&mut self) {
        if self.has_left || self.home.supervisor_socket().exists() || !self.owns_the_home() {
            return;
        }
        // If this fails, the next command ends this supervisor and starts another one.
        if let Ok(listener) = listen(&self.home) {
            self.listener = listener;
            let message = "the socket of the supervisor was removed; the supervisor created it again";
            self.log_event(LogEvent::new(EventLevel::Warn, "server.socket.restored", message));
        }
    }
}
