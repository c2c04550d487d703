//! Sends an order to the supervisor and waits for the reply.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use codexd_core::lifecycle::SupervisorSeen;
use codexd_core::limits::{ORDER_MAX_BYTES, SUPERVISOR_TIMEOUT_MS};
use rustix::event::{PollFd, PollFlags};

use super::connection::{ConnectionError, SupervisorConnection, gone_or};
use super::framing::{self, Message, NumberedOrder, ReplyStatus};
use super::wire::{Order, Report};

/// Bytes of an id in an order, with its key and separators, at most.
const ID_MAX_BYTES: usize = 32;

impl SupervisorConnection {
    /// Sends an order and waits for the reply. Reports that follow are later than the order; its immediate changes are known when this
    /// returns.
    ///
    /// # Errors
    /// [`ConnectionError::OrderRefused`] if nothing was changed, [`ConnectionError::Gone`] if the supervisor has exited,
    /// [`ConnectionError::Silent`].
    pub fn order(&mut self, order: &Order) -> Result<(), ConnectionError> {
        if self.protocol == 0 {
            return self.order_without_id(order);
        }
        let bytes = framing::line(order).map_err(io::Error::from)?.len() + ID_MAX_BYTES;
        if bytes > ORDER_MAX_BYTES {
            self.give(&Order::AnnounceOrder { bytes })?;
        }
        self.give(order)
    }

    fn give(&mut self, order: &Order) -> Result<(), ConnectionError> {
        self.last_id += 1;
        let line = framing::line(&NumberedOrder { id: self.last_id, order }).map_err(io::Error::from)?;
        self.stream.write_all(&line).map_err(gone_or)?;
        // A supervisor that exits after the order has carried it out.
        let ends_it = matches!(order, Order::Stop { .. });
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        let mut is_taken = false;
        loop {
            match self.next_message(deadline) {
                Ok(Message::Reply(reply)) if reply.re == self.last_id => match reply.status {
                    ReplyStatus::Progress => {
                        is_taken = true;
                        self.queued.clear();
                        self.relayed.clear();
                    }
                    ReplyStatus::Ok => return Ok(()),
                    ReplyStatus::Refused(refusal) => return Err(ConnectionError::OrderRefused(refusal)),
                },
                Ok(Message::Reply(_)) => {}
                Ok(Message::Report(report)) => self.queued.push_back(report),
                Err(ConnectionError::Gone) if ends_it && is_taken => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// An older supervisor sends no reply, but reports its state, or a refusal, to all connections.
    fn order_without_id(&mut self, order: &Order) -> Result<(), ConnectionError> {
        self.catch_up()?;
        self.relayed.clear();
        // The exit may have been reported before the order was read.
        let replaced = match (order, self.seen) {
            (Order::Replace { .. }, SupervisorSeen::Keeping(pid)) => Some(pid),
            _ => None,
        };
        let line = framing::line(order).map_err(io::Error::from)?;
        self.stream.write_all(&line).map_err(gone_or)?;
        if matches!(order, Order::ConfigureGateway { .. }) {
            // The gateway's report is the only answer.
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_millis(SUPERVISOR_TIMEOUT_MS);
        loop {
            let report = match self.next_message(deadline) {
                Ok(Message::Report(Report::Refused(refusal))) => {
                    return Err(ConnectionError::OrderRefused(refusal));
                }
                Ok(Message::Report(Report::Exited { exit })) if Some(exit.pid) == replaced => continue,
                Ok(Message::Report(report)) => report,
                Ok(Message::Reply(_)) => continue,
                Err(ConnectionError::Gone) if matches!(order, Order::Stop { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            let is_answer = self.is_answer(order, &report);
            self.queued.push_back(report);
            if is_answer {
                return Ok(());
            }
        }
    }

    fn is_answer(&self, order: &Order, report: &Report) -> bool {
        match (order, report) {
            (Order::GetLaunchSpec, Report::LaunchSpec { .. }) | (_, Report::Leaving) => true,
            (Order::GetLaunchSpec, _) => false,
            // A report about another app-server may belong to the previous order.
            (Order::Promote { generation, .. }, Report::State { pid, .. }) => {
                pid.is_some() && *pid == self.pid_of(generation)
            }
            (_, Report::State { .. }) => true,
            _ => false,
        }
    }

    fn pid_of(&self, generation: &str) -> Option<Pid> {
        let known = self.generations.iter().find(|known| known.generation_id.as_deref() == Some(generation));
        known.map(|known| known.pid)
    }

    /// Processes the reports that have arrived, without waiting, and keeps only the resulting state.
    ///
    /// # Errors
    /// [`ConnectionError::Gone`] if the supervisor has exited.
    pub fn catch_up(&mut self) -> Result<(), ConnectionError> {
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        self.queued.clear();
        loop {
            while self.arrived().is_some() {}
            let mut waits = [PollFd::new(&self.stream, PollFlags::IN)];
            match rustix::event::poll(&mut waits, Some(&now)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
                Ok(_) => self.fill()?,
                Err(error) => return Err(ConnectionError::System(error.into())),
            }
        }
    }
}
