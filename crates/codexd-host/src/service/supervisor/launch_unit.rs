//! Starting the supervisor as a unit of systemd.

use std::io;
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use codexd_core::limits::{LAUNCH_TIMEOUT_MS, SYSTEMCTL_TIMEOUT_MS, UNIT_POLL_MS};

use super::connection::{ConnectionError, SupervisorConnection};
use super::observe;
use crate::home::Home;
use crate::service::systemd::{Systemctl, UnitNames};
use crate::{poll, process};

/// Starts the unit and waits until its supervisor answers.
pub fn launch(home: &Home) -> Result<SupervisorConnection, ConnectionError> {
    let (systemctl, unit) = (Systemctl::new(), UnitNames::of(home).supervisor());
    let failed = |why: String| {
        let message = format!("cannot start {unit}, which bootstrap has installed: {why}");
        ConnectionError::System(io::Error::other(message))
    };
    if !systemctl.is_there() {
        let why =
            "no user manager of systemd runs; log in, or run `loginctl enable-linger` to have one always";
        return Err(failed(why.to_owned()));
    }
    let timeout = Duration::from_millis(SYSTEMCTL_TIMEOUT_MS);
    systemctl
        .run(&["start", "--no-block", "--", &unit], timeout)
        .map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + Duration::from_millis(LAUNCH_TIMEOUT_MS);
    loop {
        match connect(home, deadline) {
            Ok(Some(connection)) => return Ok(connection),
            Ok(None) if Instant::now() < deadline => {
                poll::pause(Duration::from_millis(UNIT_POLL_MS));
            }
            Ok(None) => return Err(failed("it does not listen for orders".to_owned())),
            Err(error) => return Err(error),
        }
    }
}

/// The supervisor, if one listens.
fn connect(home: &Home, deadline: Instant) -> Result<Option<SupervisorConnection>, ConnectionError> {
    let Ok(stream) = observe::connect(home) else { return Ok(None) };
    let Some(pid) = codexd_protocol::unix::peer(&stream)?.pid else { return Ok(None) };
    let Ok(supervisor) = process::identify(Pid(pid)) else { return Ok(None) };
    let mut connection = SupervisorConnection::new(stream, supervisor)?;
    match connection.greeting(deadline) {
        Ok(true) => Ok(Some(connection)),
        // One that is about to leave.
        Ok(false) | Err(ConnectionError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}
