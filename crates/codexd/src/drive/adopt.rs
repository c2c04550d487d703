//! Adoption of a server that runs without a supervisor of codexd.

use std::io;
use std::time::Duration;

use codexd_core::config::Gateway;
use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::ListenerSeen;
use codexd_core::limits::{EXITING_TIMEOUT_MS, SUPERVISOR_TIMEOUT_MS};
use codexd_host::process;
use codexd_host::service::supervisor::{Order, Refusal};

use super::{Drive, OrderResult};
use crate::launch_specs;
use crate::observe::{self, OwnServer, Snapshot};

impl Drive<'_> {
    pub(super) fn adopt_recorded(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let Some(process) = snapshot.server.clone() else { return Ok(()) };
        let message = format!(
            "the app-server (pid {}) had no supervisor; started a supervisor that adopted it",
            process.pid
        );
        let behind_gateway = snapshot.codexd.as_ref().is_some_and(|record| record.socket.is_some());
        // A server with its own socket needs a gateway, whatever the settings are now.
        let wanted = match (behind_gateway, self.request.gateway) {
            (true, Gateway::Off) => Gateway::default(),
            (true, wanted) => wanted,
            (false, _) => Gateway::Off,
        };
        let gateway = launch_specs::gateway(self.context, wanted)?.map(Box::new);
        let order = Order::Adopt { process: process.clone(), codexd: snapshot.codexd.clone(), gateway };
        if self.give_adoption(&order, &process)? {
            self.context.repaired("lost-supervisor", message);
        }
        Ok(())
    }

    pub(super) fn adopt_listener(&mut self, pid: Pid) -> Result<(), Failure> {
        let gone = |error: io::Error| {
            Failure::new(ErrorCode::UnmanagedServer, format!("failed to adopt process {pid}: {error}"))
        };
        let process = process::identify(pid).map_err(gone)?;
        // It answered before it was identified: check that the same process still listens.
        let ListenerSeen::Unresponsive { pid: Some(again), .. } =
            observe::peek(&self.context.home, OwnServer::default())
        else {
            return Ok(());
        };
        if again != pid || !process::is_alive(&process) {
            return Ok(());
        }
        let order = Order::Adopt { process: process.clone(), codexd: None, gateway: None };
        self.give_adoption(&order, &process).map(drop)
    }

    /// Whether the supervisor has adopted the process. `false`: observe again.
    fn give_adoption(&mut self, order: &Order, process: &Process) -> Result<bool, Failure> {
        // Wait here: the supervisor waits for a shorter time, because it has other clients to answer.
        process::await_arguments(process, Duration::from_millis(EXITING_TIMEOUT_MS));
        match self.give(order)? {
            OrderResult::Taken => Ok(true),
            OrderResult::SupervisorGone => Ok(false),
            // The process was exiting when it was observed. Wait for its exit, so that the next observation does not find it
            // again.
            OrderResult::Refused(_) if process::is_exiting(process.pid) => {
                process::await_end(process, Duration::from_millis(SUPERVISOR_TIMEOUT_MS));
                Ok(false)
            }
            OrderResult::Refused(Refusal { message, errno }) => {
                Err(Failure::new(ErrorCode::SupervisorFailed, message).with("errno", errno))
            }
        }
    }
}
