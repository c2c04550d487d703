//! What no daemon can beat: the bare app-server.

use std::time::{Duration, Instant};

use codexd_testkit::{AppServer, Home, Server, Version, block_on};
use rustix::process::Signal;

/// A home in which a bare app-server has started before.
pub struct Floor {
    home: Home,
}

impl Floor {
    /// Prepares the home.
    ///
    /// # Errors
    /// The server does not start.
    pub fn new() -> anyhow::Result<Floor> {
        let floor = Floor { home: Home::new()? };
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
            let server = AppServer::start(&self.home, Server::Real(Version::V0_169_0)).await?;
            anyhow::Ok((started.elapsed(), server))
        })?;
        let ended = Instant::now();
        server.end(Signal::TERM)?;
        Ok((start, ended.elapsed()))
    }
}
