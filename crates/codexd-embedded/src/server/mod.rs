//! The event loop: takes an event, steps the model, carries out the actions.
//!
//! Everything that wakes it is an [`Event`] of one bounded queue. A connection that cannot put its request there
//! answers "overloaded" itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use codexd_protocol::RequestId;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::call::Call;
use crate::ids::{ConnectionId, ServerRequestId};
use crate::limits::{FLUSH_TIMEOUT_MS, INGRESS_REQUESTS_MAX};
use crate::model::{Decision, Input, Signal, State};
use crate::settings::Settings;
use crate::timestamp::Timestamp;
use crate::wire::Frame;
use crate::{Error, ExitReason, Options};

mod connection;
mod disk_adapter;
mod outbox;
pub(crate) mod signals;
mod socket;

use disk_adapter::DiskAdapter;
use outbox::Outbox;

/// Everything that can wake the loop.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client has completed its WebSocket handshake.
    Opened { connection: ConnectionId, outbox: Arc<Outbox> },
    /// A client has disconnected.
    Closed { connection: ConnectionId },
    /// A client sent a request.
    Request { connection: ConnectionId, id: RequestId, method: String, params: Option<Value> },
    /// A client answered a server request.
    Response { connection: ConnectionId, request: ServerRequestId, decision: Decision },
    /// A signal came.
    Signalled(Signal),
    /// A deadline of the model has passed.
    TimePassed,
}

/// Listens and serves until a signal ends the server.
pub(crate) async fn serve(
    options: Options,
    mut signals: mpsc::Receiver<Signal>,
) -> Result<ExitReason, Error> {
    let settings = Settings::read(&options)?;
    let socket = socket::Socket::bind(&options.listen, &options.codex_home)?;
    let (sender, mut events) = mpsc::channel(INGRESS_REQUESTS_MAX);
    let accepting = tokio::spawn(connection::accept(socket.listener()?, sender));
    let mut server = Server {
        disk: DiskAdapter::new(&settings.codex_home),
        state: State::new(settings, Uuid::new_v4().as_u64_pair().0),
        outboxes: HashMap::new(),
    };
    let reason = loop {
        let due = server.state.next_due();
        let event = tokio::select! {
            Some(signal) = signals.recv() => Event::Signalled(signal),
            Some(event) = events.recv() => event,
            () = sleep_until(instant(due)), if due.is_some() => Event::TimePassed,
        };
        if let Some(reason) = server.take(event) {
            break reason;
        }
        // The model may be due again at once: the connections run first.
        tokio::task::yield_now().await;
    };
    server.hang_up().await;
    server.disk.release(|_| false);
    accepting.abort();
    drop(socket);
    Ok(reason)
}

struct Server {
    state: State,
    disk: DiskAdapter,
    outboxes: HashMap<ConnectionId, Arc<Outbox>>,
}

impl Server {
    /// Handles one event; returns the exit reason if the server is to exit.
    fn take(&mut self, event: Event) -> Option<ExitReason> {
        let input = match event {
            Event::Opened { connection, outbox } => {
                self.outboxes.insert(connection, outbox);
                Input::Opened(connection)
            }
            Event::Closed { connection } => {
                self.outboxes.remove(&connection);
                Input::Closed(connection)
            }
            Event::Request { connection, id, method, params } => {
                let call = Call::parse(&method, params);
                let wants = call.as_ref().map(|call| self.state.wants(call));
                let lookup = self.disk.look_up(wants.ok());
                Input::Request { connection, id, call, lookup }
            }
            Event::Response { connection, request, decision } => {
                Input::Response { connection, request, decision }
            }
            Event::Signalled(signal) => Input::Signalled(signal),
            Event::TimePassed => Input::TimePassed,
        };
        let mut leave = None;
        for action in self.state.step(input, Timestamp::now()) {
            match self.disk.carry_out(action) {
                disk_adapter::Done::Nothing => {}
                disk_adapter::Done::Send { to, frame } => self.send(&to, &frame),
                disk_adapter::Done::Leave(reason) => leave = leave.or(Some(reason)),
            }
        }
        self.disk.release(|thread| self.state.is_loaded(thread));
        leave
    }

    fn send(&mut self, to: &[ConnectionId], frame: &Frame) {
        for outbox in to.iter().filter_map(|connection| self.outboxes.get(connection)) {
            outbox.push(frame.clone());
        }
    }

    /// Waits at most `FLUSH_TIMEOUT_MS` for the outboxes to drain, then closes the connections.
    async fn hang_up(&mut self) {
        let all = async {
            for outbox in self.outboxes.values() {
                outbox.emptied().await;
            }
        };
        // A client that has not read by now is not waited for.
        let _ = timeout(Duration::from_millis(FLUSH_TIMEOUT_MS), all).await;
        self.outboxes.values().for_each(|outbox| outbox.close());
    }
}

fn instant(due: Option<Timestamp>) -> Instant {
    Instant::now() + due.map(|due| due.since(Timestamp::now())).unwrap_or_default()
}

#[cfg(test)]
mod tests;
