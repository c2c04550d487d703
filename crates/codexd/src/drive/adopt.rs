//! Adoption of a server that runs without a supervisor of codexd.

use std::io;
use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::ListenerSeen;
use codexd_core::limits::{EXITING_TIMEOUT_MS, SUPERVISOR_TIMEOUT_MS};
use codexd_core::settings::Gateway;
use codexd_host::process;
use codexd_host::service::supervisor::{Order, Refusal};

use super::{Drive, OrderResult};
use crate::gateway_program;
use crate::observe::{self, OwnServer, Snapshot};

impl Drive<'_> {
    pub(super) fn adopt_recorded(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let Some(process) = snapshot.server.clone() else { return Ok(()) };
        let message =
            format!("the app-server (pid {}) had no supervisor; a new supervisor adopted it", process.pid);
        let behind_gateway = snapshot.codexd.as_ref().is_some_and(|record| record.socket.is_some());
        // A server that has a socket of its own needs a gateway, whatever the settings say now.
        let wanted = match (behind_gateway, self.request.gateway) {
            (true, Gateway::Off) => Gateway::default(),
            (true, wanted) => wanted,
            (false, _) => Gateway::Off,
        };
        let gateway = gateway_program::program(self.context, wanted)?.map(Box::new);
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
        // It answered before it was identified: still the same one?
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

    /// Answers whether the supervisor has taken the process over; if not, look again.
    fn give_adoption(&mut self, order: &Order, process: &Process) -> Result<bool, Failure> {
        // The supervisor waits for less: it is to answer others.
        process::await_arguments(process, Duration::from_millis(EXITING_TIMEOUT_MS));
        match self.give(order)? {
            OrderResult::Taken => Ok(true),
            OrderResult::SupervisorGone => Ok(false),
            // It was ending when it was found: a look that comes too soon would find it again.
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
