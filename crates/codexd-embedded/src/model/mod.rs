//! What the server is, without sockets, files or clocks: connections, threads, turns, approvals and subscriptions.
//!
//! `State::step` takes one [`Input`] and the time and returns [`Action`]s in order. What a request
//! needs from disk is read before ([`State::wants`]) and passed in with it ([`Lookup`]).
//!
//! Invariants:
//! - every request gets exactly one reply, and the reply precedes the effects of the request;
//! - a record of a turn is written to disk before it is sent to a client;
//! - all subscribers of a thread see the same messages in the same order;
//! - an approval has one id for all clients, and the first answer decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use codexd_protocol::RequestId;

use crate::call::Call;
use crate::ids::{ConnectionId, IdGenerator, ServerRequestId, ThreadId};
use crate::refusal::Refusal;
use crate::settings::Settings;
use crate::timestamp::Timestamp;
use crate::wire::Frame;

mod approvals;
mod connections;
mod drain;
mod lists;
mod requests;
mod shared_state;
mod thread;
mod threads;
pub(crate) mod transcript;
mod turn_runner;
mod turns;
mod views;

pub(crate) use approvals::Decision;
pub(crate) use drain::Signal;

use shared_state::SharedState;
use thread::Thread;
use transcript::{Record, Transcript};

/// Everything that can happen to the server.
#[derive(Debug)]
pub(crate) enum Input {
    /// A client has connected.
    Opened(ConnectionId),
    /// A client has disconnected.
    Closed(ConnectionId),
    /// A client sent a request.
    Request { connection: ConnectionId, id: RequestId, call: Result<Call, Refusal>, lookup: Lookup },
    /// A client answered a server request.
    Response { connection: ConnectionId, request: ServerRequestId, decision: Decision },
    /// A signal came.
    Signalled(Signal),
    /// The time of [`State::next_due`] has passed.
    TimePassed,
}

/// One effect of a step; the caller carries the actions out in order.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send a message to these connections.
    Send { to: Vec<ConnectionId>, frame: Frame },
    /// Add a record to the file of a thread; a first record makes the file.
    Append { thread: ThreadId, record: Record },
    /// Move the file of a thread to the archive.
    Archive(ThreadId),
    /// Move it back.
    Unarchive(ThreadId),
    /// Take the writer lock of a new thread.
    Claim(ThreadId),
    /// Abort the process, as `kill -9` would.
    Abort,
    /// Exit in order.
    Exit(crate::ExitReason),
}

/// What a request needs from the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wants {
    Nothing,
    /// The thread, and whether its writer lock is to be taken.
    Thread {
        thread: ThreadId,
        lock: bool,
    },
    /// All threads, or all archived ones.
    Threads {
        archived: bool,
    },
    /// The memory of this process.
    Memory,
}

/// The result of reading what [`Wants`] names.
#[derive(Debug)]
pub(crate) enum Lookup {
    Nothing,
    Thread(Found),
    Threads(Vec<Arc<Transcript>>),
    Memory { resident_bytes: u64 },
}

/// A thread on the disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub transcript: Option<Arc<Transcript>>,
    pub archived: bool,
    /// Another process writes it.
    pub other_writer: bool,
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct State {
    shared: SharedState,
    threads: BTreeMap<ThreadId, Thread>,
}

impl State {
    /// A server without clients and threads. `seed` must differ from process to process.
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        Self { shared: SharedState::new(settings, IdGenerator::new(seed)), threads: BTreeMap::new() }
    }

    /// Handles one input at `now` and returns the actions to carry out.
    pub(crate) fn step(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        self.shared.now = now;
        match input {
            Input::Opened(connection) => self.shared.connections.open(connection),
            Input::Closed(connection) => self.leave(connection),
            Input::Request { connection, id, call, lookup } => self.answer(connection, &id, call, lookup),
            Input::Response { connection, request, decision } => self.decide(connection, request, decision),
            Input::Signalled(signal) => self.signalled(signal),
            Input::TimePassed => self.time_passed(),
        }
        self.exit_when_drained();
        self.shared.take_actions()
    }

    /// When [`Input::TimePassed`] is due next; `None` while no thread waits for time.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.threads.values().filter_map(|thread| thread.due(&self.shared)).min()
    }

    /// What must be read from disk before `call` is stepped.
    pub(crate) fn wants(&self, call: &Call) -> Wants {
        if self.shared.draining && call.refused_while_draining() {
            return Wants::Nothing;
        }
        let lock = match call {
            Call::ThreadList(params) => return Wants::Threads { archived: params.archived == Some(true) },
            Call::Diagnostics => return Wants::Memory,
            Call::ThreadResume(_) | Call::ThreadArchive(_) | Call::ThreadUnarchive(_) => true,
            Call::ThreadRead(_) | Call::ThreadTurnsList(_) | Call::ThreadSetName(_) => false,
            _ => return Wants::Nothing,
        };
        match call.thread() {
            Ok(Some(thread)) if !self.is_loaded(thread) => Wants::Thread { thread, lock },
            _ => Wants::Nothing,
        }
    }

    /// Whether this process is the writer of `thread`.
    pub(crate) fn is_loaded(&self, thread: ThreadId) -> bool {
        self.threads.contains_key(&thread)
    }

    fn time_passed(&mut self) {
        let Self { shared, threads } = self;
        for thread in threads.values_mut() {
            thread.run_due_step(shared);
        }
        let left: Vec<ThreadId> =
            threads.values().filter(|thread| thread.is_unload_due(shared)).map(Thread::id).collect();
        for id in left {
            if let Some(thread) = threads.remove(&id) {
                thread.unload(shared);
            }
        }
    }

    fn leave(&mut self, connection: ConnectionId) {
        let Self { shared, threads } = self;
        shared.connections.close(connection);
        for thread in threads.values_mut() {
            thread.unsubscribe(connection, shared);
        }
    }
}

#[cfg(test)]
mod tests;
