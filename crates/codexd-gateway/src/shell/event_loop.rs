//! The middle: everything that happens goes through [`HubDriver::feed`], which asks the logic and does what it says.
//!
//! Doing never asks the logic again: what an action leads to at once (a client that is cut, a link that cannot be opened)
//! waits in connection as an event of its own. Nothing here waits for anything.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use codexd_core::clock::Monotonic;
use tokio::sync::Notify;

use super::clients::Clients;
use super::host_commands::HostCommands;
use super::logic::Logic;
use super::servers::Servers;
use super::state_store::Persistence;
use super::trace;
use super::uninitialized::Uninitialized;
use super::upstream_connections::UpstreamConnections;
use super::writer::Writer;
use crate::host::{HostCommand, StateStore, ThreadSettings};
use crate::hub::{Action, ClientId, Connection, Event};
use crate::state_writer::StateWriter;

/// The state that all tasks share.
pub(crate) struct HubDriver {
    logic: RefCell<Box<dyn Logic>>,
    began: Instant,
    events: RefCell<VecDeque<Event>>,
    feeding: Cell<bool>,
    actions: RefCell<Vec<Action>>,
    resumed: RefCell<Vec<ClientId>>,
    /// What the timer sleeps until.
    armed: Cell<Option<Monotonic>>,
    rearm: Notify,
    pub(super) writer: Rc<Writer>,
    pub(super) clients: Clients,
    pub(super) uninitialized: Uninitialized,
    pub(super) upstream: UpstreamConnections,
    /// Clients have left, and free memory is about to be returned to the system.
    pub(super) trim_is_due: Cell<bool>,
    pub(super) servers: RefCell<Servers>,
    /// The host has news of the sockets of app-servers.
    pub(super) sockets_changed: Notify,
    pub(super) host_commands: HostCommands,
    pub(super) persistence: Persistence,
    thread_states: trace::ThreadStates,
    /// What is read goes through here; nothing stays.
    pub(super) read_buffer: RefCell<Vec<u8>>,
    pub(super) read_turns: super::read_turns::ReadTurns,
}

impl HubDriver {
    pub(crate) fn new(logic: Box<dyn Logic>, store: Box<dyn StateStore>, writer: StateWriter) -> Rc<Self> {
        Rc::new(Self {
            logic: RefCell::new(logic),
            began: Instant::now(),
            events: RefCell::default(),
            feeding: Cell::new(false),
            trim_is_due: Cell::new(false),
            actions: RefCell::default(),
            resumed: RefCell::default(),
            armed: Cell::new(None),
            rearm: Notify::new(),
            writer: Rc::default(),
            clients: Clients::default(),
            uninitialized: Uninitialized::default(),
            upstream: UpstreamConnections::default(),
            servers: RefCell::default(),
            sockets_changed: Notify::new(),
            host_commands: HostCommands::default(),
            persistence: Persistence::new(store, writer),
            thread_states: trace::ThreadStates::default(),
            read_turns: super::read_turns::ReadTurns::default(),
            read_buffer: RefCell::new(vec![0; crate::limits::UPSTREAM_READ_BYTES]),
        })
    }

    /// Tells the logic what happened and does what follows.
    pub(crate) fn feed(self: &Rc<Self>, event: Event) {
        self.events.borrow_mut().push_back(event);
        if self.feeding.replace(true) {
            return;
        }
        let mut actions = self.actions.take();
        self.logic.borrow_mut().set_unix_time(unix_ms());
        loop {
            let Some(event) = self.events.borrow_mut().pop_front() else { break };
            trace::event(&event);
            self.logic.borrow_mut().step(event, self.now(), &mut actions);
            for action in actions.drain(..) {
                trace::action(&action);
                self.perform(action);
            }
            self.thread_states.log_changes(&**self.logic.borrow());
        }
        self.actions.replace(actions);
        self.feeding.set(false);
        self.wake_resumed();
        self.arm();
    }

    /// Whether more is to be read from a client.
    pub(crate) fn should_read(&self, client: ClientId) -> bool {
        self.logic.borrow().wants_input(client)
    }

    /// Whether a client has sent `initialize`.
    pub(super) fn has_initialized(&self, client: ClientId) -> bool {
        self.logic.borrow().has_initialized(client)
    }

    /// Whether an answer is to come over a link.
    pub(super) fn awaits(&self, link: Connection) -> bool {
        self.logic.borrow().awaits(link)
    }

    /// Whether a client that came now would be answered.
    pub(crate) fn is_ready(&self) -> bool {
        self.logic.borrow().is_ready()
    }

    /// Tells the logic when the moment has come that it wanted to be told of.
    pub(crate) async fn run_timer(self: &Rc<Self>) {
        loop {
            let rearmed = self.rearm.notified();
            let deadline = self.logic.borrow().deadline();
            self.armed.set(deadline);
            match deadline {
                None => rearmed.await,
                Some(at) if at <= self.now() => {
                    self.feed(Event::DeadlineReached);
                    // A deadline that does not move must not keep everybody else from running.
                    tokio::task::yield_now().await;
                }
                Some(at) => tokio::select! {
                    () = rearmed => {}
                    () = tokio::time::sleep_until((self.began + std::time::Duration::from_millis(at.0)).into()) => {}
                },
            }
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Wakes the timer if it would sleep too long. One that wakes too early just looks again.
    fn arm(&self) {
        let Some(deadline) = self.logic.borrow().deadline() else { return };
        if self.armed.get().is_none_or(|armed| deadline < armed) {
            self.armed.set(Some(deadline));
            self.rearm.notify_one();
        }
    }

    fn wake_resumed(&self) {
        let mut resumed = self.resumed.borrow_mut();
        self.logic.borrow_mut().take_readable(&mut resumed);
        for client in resumed.drain(..) {
            self.clients.wake(client);
        }
    }

    /// Tells the logic what the gateway before this one had stored of threads.
    pub(super) fn thread_settings_stored(self: &Rc<Self>, stored: Vec<ThreadSettings>) {
        for ThreadSettings { thread, settings } in stored {
            if let Some(settings) = settings {
                self.feed(Event::ThreadSettingsRestored { thread, settings: settings.into() });
            }
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::SendToClient(client, text) => self.send_to_client(client, text),
            Action::Admit(client) => self.admit(client),
            Action::SendUpstream(link, text) => self.send_upstream(link, text),
            Action::Connect(link, initialize) => self.connect(link, initialize),
            Action::Close(link) => self.upstream.close(link),
            Action::Probe(server) => self.probe_readiness(server),
            Action::CheckRollout { thread, path } => self.look_for_file(thread, path),
            Action::Retire(server) => self.retire(server),
            Action::PersistGoals { number, goals } => self.persist_goals(number, goals),
            Action::PersistClientIdentity(client_identity) => self.client_identity_chosen(client_identity),
            Action::StoreThreadSettings { thread, settings } => {
                let settings = settings.map(|settings| settings.to_string());
                self.host_commands
                    .give(HostCommand::StoreThreadSettings(ThreadSettings { thread, settings }));
            }
            Action::Report(report) => self.report(&report),
        }
    }
}

/// The time of day, in milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
