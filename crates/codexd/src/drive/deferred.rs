//! A command that runs inside the app-server that it ends or replaces: it gives the order and ends, and the keeper goes on. The
//! server waits for its running turns, and one of them waits for this command.

use std::time::{Duration, Instant};

use codexd_core::contract::{Backend, Failure, LifecycleStatus};
use codexd_core::lifecycle::KeeperSeen;
use codexd_core::limits::KEEPER_TIMEOUT_MS;
use codexd_host::service::keeper::{LinkError, Order, Report};
use serde_json::json;

use super::{Drive, Reached};
use crate::failures;
use crate::observe::Sight;
use crate::ready::NotReady;

impl Drive<'_> {
    /// Whether a server can start only when the one in which this command runs has ended.
    pub(super) fn waits_for_the_caller(&self, sight: &Sight) -> bool {
        let is_stopping = matches!(sight.observation.keeper, KeeperSeen::Stopping(_));
        is_stopping && sight.server.is_some() && self.context.caller().is_inside()
    }

    /// The keeper starts a server when the one that is ending has ended.
    pub(super) fn start_after_the_caller(&mut self, sight: &Sight) -> Result<Option<Reached>, Failure> {
        let (program, gateway) = self.what_to_run(sight)?;
        if !self.order(&Order::Start { program, gateway })? {
            return Ok(None);
        }
        self.deferred(LifecycleStatus::Restarting, sight).map(Some)
    }

    /// The keeper ends the server within the grace.
    pub(super) fn stop_after_the_caller(&mut self, sight: &Sight) -> Result<Option<Reached>, Failure> {
        if !self.order(&Order::Stop { policy: self.wish.policy, failed: false })? {
            return Ok(None);
        }
        self.deferred(LifecycleStatus::Stopping, sight).map(Some)
    }

    /// What the caller is told of an order that the keeper has taken.
    pub(super) fn deferred(&mut self, status: LifecycleStatus, sight: &Sight) -> Result<Reached, Failure> {
        self.await_acceptance()?;
        let record = sight.codexd.as_ref();
        let from = sight.server.as_ref().map(|server| server.pid);
        let replaced = status == LifecycleStatus::Restarting;
        Ok(Reached {
            status,
            backend: Some(Backend::Pid),
            pid: None,
            answer: None,
            embedded: record.is_some_and(|record| record.embedded),
            fronted: record.is_some_and(|record| record.socket.is_some()),
            handover: replaced.then(|| json!({"from": from, "to": null, "state": "waiting"})),
        })
    }

    /// Until the keeper has answered the order; what it then does is its own affair.
    fn await_acceptance(&mut self) -> Result<(), Failure> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_millis(KEEPER_TIMEOUT_MS);
        loop {
            match link.next_or_busy(deadline) {
                Ok(Report::Refused { message, errno }) => {
                    return Err(self.not_ready(NotReady::Refused { message, errno }));
                }
                // The last report about an order; a keeper without a server has left instead.
                Ok(Report::State { .. } | Report::Leaving) | Err(LinkError::Gone) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(failures::keeper(&self.context.home, &error)),
            }
        }
    }
}
