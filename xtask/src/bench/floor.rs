//! What no daemon can beat: the bare app-server.

use std::time::{Duration, Instant};

use codexd_testkit::{AppServer, Home, Server, Version, block_on};
use rustix::process::Signal;

/// A home in which a bare app-server has started before.
pub struct Floor {
    home: Home,
    version: Version,
}

impl Floor {
    /// Prepares the home.
    ///
    /// # Errors
    /// The server does not start.
    pub fn of(version: Version) -> anyhow::Result<Floor> {
        let floor = Floor { home: Home::new()?, version };
        floor.measure()?;
        Ok(floor)
    }

    /// From the spawn until `initialize` is answered, and from SIGTERM until the end.
    ///
    /// # Errors
    /// The server does not start or does not end.
    pub fn measure(&self) -> anyhow::Result<(Duration, Duration)> {
        let (start, server) = block_on(async {
            let started = Instant::now();
            let server = AppServer::start(&self.home, Server::Real(self.version)).await?;
            anyhow::Ok((started.elapsed(), server))
        })?;
        let ended = Instant::now();
        server.end(Signal::TERM)?;
        Ok((start, ended.elapsed()))
    }
}
