//! The settings that the running gateway has in force, and how a command gives it those that it has read.

use std::time::{Duration, Instant};

use codexd_core::contract::Failure;
use codexd_core::identity::Process;
use codexd_core::limits::SUPERVISOR_TIMEOUT_MS;
use codexd_core::settings::Gateway;
use codexd_host::service::supervisor::{ConnectionError, Order, SupervisorConnection};
use codexd_host::{Home, atomic, process};
use serde::Deserialize;

use crate::context::Context;
use crate::{gateway_program, output};

/// The listener for the network.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    /// Where it is to be, as a URL.
    pub listen: String,
    /// Why it does not listen; nothing if it does.
    pub error: Option<String>,
}

/// What counts in the gateway now.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    gateway: Process,
    /// The listener for the network, if there is to be one.
    pub listener: Option<Listener>,
    subagent_approvals: String,
}

impl InForce {
    /// What the gateway that lives has written down; `None` if it has not, as older ones.
    pub fn read(home: &Home) -> Option<Self> {
        let bytes = atomic::read(&home.gateway_state()).ok()??;
        let in_force: Self = serde_json::from_slice(&bytes).ok()?;
        process::is_alive(&in_force.gateway).then_some(in_force)
    }

    /// A sentence, if there is to be a listener that does not work.
    pub fn listener_failure(&self) -> Option<String> {
        let Listener { listen, error } = self.listener.as_ref()?;
        error.as_ref().map(|error| {
            format!(
                "the gateway cannot listen on {listen}: {error}; it retries every few seconds and serves the control socket meanwhile"
            )
        })
    }

    /// Whether nothing is to be changed. A token is read again whenever there is a listener.
    fn is_as(&self, wanted: Gateway) -> bool {
        self.listener.is_none()
            && wanted.listen().is_none()
            && self.subagent_approvals == wanted.subagent_approvals().as_str()
    }
}

/// Gives the gateway that runs the settings, and waits until it has taken them.
///
/// # Errors
/// If this very binary cannot be told.
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
    let Some(program) = gateway_program::program(context, wanted)? else { return Ok(()) };
    let order = Order::ConfigureGateway { gateway: Box::new(program) };
    // A supervisor that has gone meanwhile keeps no gateway: the next command finds that.
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
