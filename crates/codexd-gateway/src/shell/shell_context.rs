//! The state that all tasks of the I/O half share, and the queue of events for the hub.
//!
//! A task pushes an event with [`ShellContext::feed`]. The event loop ([`super::event_loop`]) passes it to the hub and performs
//! the actions that follow. The queue calls the event loop through a function pointer, so that this file, and every file
//! that feeds events, depends on no task.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

use super::clients::Clients;
use super::connection::WsConnection;
use super::host_commands::HostCommands;
use super::logic::Logic;
use super::read_turns::ReadTurns;
use super::servers::Servers;
use super::state_store::Persistence;
use super::timer::Timer;
use super::trace::ThreadStates;
use super::uninitialized::Uninitialized;
use super::upstream_connections::UpstreamConnections;
use super::write_queue::WriteQueue;
use crate::host::StateStore;
use crate::hub::{Action, ClientId, Connection, Event};
use crate::limits::UPSTREAM_READ_BYTES;
use crate::state_writer::StateWriter;

/// Passes the queued events to the hub and performs the actions.
pub(super) type Drain = fn(&Rc<ShellContext>);

pub(crate) struct ShellContext {
    pub(super) logic: RefCell<Box<dyn Logic>>,
    pub(super) events: RefCell<VecDeque<Event>>,
    is_draining: Cell<bool>,
    drain: Drain,
    /// Scratch space of the event loop.
    pub(super) actions: RefCell<Vec<Action>>,
    /// Scratch space of the event loop.
    pub(super) readable: RefCell<Vec<ClientId>>,
    pub(super) timer: Timer,
    pub(super) write_queue: Rc<WriteQueue<WsConnection>>,
    pub(super) clients: Clients,
    pub(super) uninitialized: Uninitialized,
    pub(super) upstream: UpstreamConnections,
    pub(super) servers: RefCell<Servers>,
    /// Notified when the sockets of app-servers may have changed.
    pub(super) sockets_changed: Notify,
    pub(super) host_commands: HostCommands,
    pub(super) persistence: Persistence,
    pub(super) thread_states: ThreadStates,
    /// Clients have left, and a task is about to return free memory to the system.
    pub(super) trim_is_due: Cell<bool>,
    /// Scratch space of all reads.
    pub(super) read_buffer: RefCell<Vec<u8>>,
    pub(super) read_turns: ReadTurns,
}

impl ShellContext {
    pub(super) fn new(
        logic: Box<dyn Logic>,
        drain: Drain,
        store: Box<dyn StateStore>,
        state_writer: StateWriter,
    ) -> Rc<Self> {
        Rc::new(Self {
            logic: RefCell::new(logic),
            events: RefCell::default(),
            is_draining: Cell::new(false),
            drain,
            actions: RefCell::default(),
            readable: RefCell::default(),
            timer: Timer::new(),
            write_queue: Rc::default(),
            clients: Clients::default(),
            uninitialized: Uninitialized::default(),
            upstream: UpstreamConnections::default(),
            servers: RefCell::default(),
            sockets_changed: Notify::new(),
            host_commands: HostCommands::default(),
            persistence: Persistence::new(store, state_writer),
            thread_states: ThreadStates::default(),
            trim_is_due: Cell::new(false),
            read_buffer: RefCell::new(vec![0; UPSTREAM_READ_BYTES]),
            read_turns: ReadTurns::default(),
        })
    }

    /// Passes an event to the hub and performs the actions that follow. While an action is being performed, the event waits
    /// in the queue.
    pub(crate) fn feed(self: &Rc<Self>, event: Event) {
        self.events.borrow_mut().push_back(event);
        if !self.is_draining.replace(true) {
            (self.drain)(self);
            self.is_draining.set(false);
        }
    }

    /// Whether more is to be read from a client.
    pub(super) fn wants_input(&self, client: ClientId) -> bool {
        self.logic.borrow().wants_input(client)
    }

    /// Whether a client has sent `initialize`.
    pub(super) fn has_initialized(&self, client: ClientId) -> bool {
        self.logic.borrow().has_initialized(client)
    }

    /// Whether a response is expected on a connection.
    pub(super) fn awaits(&self, connection: Connection) -> bool {
        self.logic.borrow().awaits(connection)
    }

    /// Whether a new client would be served.
    pub(super) fn is_ready(&self) -> bool {
        self.logic.borrow().is_ready()
    }
}
