//! The settings in force in the running gateway, and how a command sends it new ones.

use std::time::{Duration, Instant};

use codexd_core::config::Gateway;
use codexd_core::contract::Failure;
use codexd_core::identity::Process;
use codexd_core::limits::SUPERVISOR_TIMEOUT_MS;
use codexd_host::service::supervisor::{ConnectionError, Order, SupervisorConnection};
use codexd_host::{Home, atomic, process};
use serde::Deserialize;

use crate::context::Context;
use crate::{launch_specs, output};

/// The TCP listener.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    /// Its address as a URL.
    pub listen: String,
    /// Why it does not listen; `None` if it listens.
    pub error: Option<String>,
}

/// The settings in force.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    gateway: Process,
    /// The TCP listener, if the settings have one.
    pub listener: Option<Listener>,
    subagent_approvals: String,
}

impl InForce {
    /// Reads what the running gateway has written; `None` for an older gateway, which does not write it.
    pub fn read(home: &Home) -> Option<Self> {
        let bytes = atomic::read(&home.gateway_state()).ok()??;
        let in_force: Self = serde_json::from_slice(&bytes).ok()?;
        process::is_alive(&in_force.gateway).then_some(in_force)
    }

    /// A sentence, if the TCP listener does not work.
    pub fn listener_failure(&self) -> Option<String> {
        let Listener { listen, error } = self.listener.as_ref()?;
        error.as_ref().map(|error| {
            format!(
                "the gateway cannot listen on {listen}: {error}; it retries every few seconds and keeps serving the control socket"
            )
        })
    }

    /// Whether nothing is to be changed. With a TCP listener the gateway always reads its token again.
    fn is_as(&self, wanted: Gateway) -> bool {
        self.listener.is_none()
            && wanted.listen().is_none()
            && self.subagent_approvals == wanted.subagent_approvals().as_str()
    }
}

/// Sends the settings to the running gateway, and waits until they are in force.
///
/// # Errors
/// If the path of the binary of codexd is unknown.
pub fn apply(
    context: &Context,
    connection: Option<&mut SupervisorConnection>,
    wanted: Gateway,
) -> Result<(), Failure> {
    let Some(connection) = connection.filter(|connection| connection.gateway.pid.is_some()) else {
        return Ok(());
    };
    let before = InForce::read(&context.home);
    if before.as_ref().is_some_and(|before| before.is_as(wanted)) {
        return Ok(());
    }
    let Some(program) = launch_specs::gateway(context, wanted)? else { return Ok(()) };
    let order = Order::ConfigureGateway { gateway: Box::new(program) };
    // If the supervisor has exited, the next command finds that.
    if connection.order(&order).is_err() || before.is_none() {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
    let is_taken = |connection: &SupervisorConnection| {
        connection.relayed.iter().any(|report| report.get("listener").is_some())
    };
    while !is_taken(connection) {
        match connection.next(deadline) {
            Ok(_) => {}
            Err(ConnectionError::Silent(_)) => {
                output::say(
                    "the gateway did not confirm its settings in time; `codexd status` shows which are in effect",
                );
                return Ok(());
            }
            Err(_) => return Ok(()),
        }
    }
    if let Some(failure) = InForce::read(&context.home).and_then(|now| now.listener_failure()) {
        output::say(&failure);
    }
    Ok(())
}
