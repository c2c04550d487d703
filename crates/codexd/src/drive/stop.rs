//! The stop step of a verb, and the wait for what the server leaves.

use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::identity::Pid;
use codexd_core::lifecycle::KeeperSeen;
use codexd_core::limits::KEEPER_TIMEOUT_MS;
use codexd_host::service::keeper::{self, KeeperLink, LinkError, Order, Report};

use super::Drive;
use crate::failures;
use crate::observe::Sight;
use crate::patience::Progress as Patience;
use crate::ready::NotReady;

impl Drive<'_> {
    pub(super) fn stop(&mut self, sight: &Sight) -> Result<(), Failure> {
        // A keeper that keeps no server has none to stop: then nothing was running but, at most, a gateway.
        let kept = !matches!(sight.observation.keeper, KeeperSeen::Idle | KeeperSeen::Absent);
        if !self.order(&Order::Stop { policy: self.wish.policy, failed: false })? {
            return Ok(());
        }
        let Some(mut link) = self.link.take() else { return Ok(()) };
        self.await_leaving(&mut link, &mut Patience::begin())?;
        match link.await_departure(&self.context.home, Duration::from_millis(KEEPER_TIMEOUT_MS)) {
            Ok(()) => {}
            Err(error) => return Err(failures::keeper(&self.context.home, &error)),
        }
        self.progress.stopped |= kept;
        Ok(())
    }

    /// Until the keeper says that nothing is left, saying what it waits for.
    pub(super) fn await_leaving(
        &self,
        link: &mut KeeperLink,
        patience: &mut Patience,
    ) -> Result<(), Failure> {
        loop {
            match link.next(patience.due()) {
                Ok(Report::Leaving) | Err(LinkError::Gone) => return Ok(()),
                Ok(Report::Swept { left, .. }) if !left.is_empty() => {
                    return Err(still_alive(&left));
                }
                Ok(Report::Unkillable { pid }) => return Err(self.not_ready(NotReady::Unkillable(pid))),
                Ok(_) => {}
                Err(LinkError::Silent(_)) if !keeper::answers(&self.context.home) => {
                    return Err(failures::keeper_hangs(&link.keeper));
                }
                Err(LinkError::Silent(_)) => {
                    let grace = self.wish.policy.grace_ms.map(|ms| format!(" for up to {} s", ms / 1_000));
                    patience
                        .tell(|| format!("waiting{} for running turns to end", grace.unwrap_or_default()));
                }
                Err(error) => return Err(failures::keeper(&self.context.home, &error)),
            }
        }
    }
}

pub(super) fn still_alive(left: &[Pid]) -> Failure {
    let pids: Vec<u32> = left.iter().map(|pid| pid.0).collect();
    let message = format!("processes that the app-server started are still alive: {pids:?}");
    Failure::new(ErrorCode::StopTimeout, message).with("left", pids)
}
