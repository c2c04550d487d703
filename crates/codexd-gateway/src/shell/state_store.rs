//! What is remembered on disk. The state writer's thread waits for it; this one should_read of the outcome.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::event_loop::HubDriver;
use crate::host::{PersistedClientIdentity, PersistedGoals, StateStore};
use crate::hub::{Event, Text};
use crate::limits::{GOALS_AGAIN_AFTER_MS, LOOK_AGAIN_AFTER_MS};
use crate::state_writer::StateWriter;

/// StateStore, and what is on its way there.
pub(super) struct Persistence {
    store: Arc<Mutex<Box<dyn StateStore>>>,
    writer: StateWriter,
    tell: UnboundedSender<Outcome>,
    /// One for each job of the writer's, which are bounded.
    outcomes: RefCell<Option<UnboundedReceiver<Outcome>>>,
    /// What the gateway before this one left.
    before: RefCell<Before>,
    /// As whom the logic introduces itself, as far as it has said so.
    client_identity: RefCell<Option<Text>>,
    /// The goals that are to be on disk.
    goals: RefCell<Option<(u64, PersistedGoals)>>,
    /// They could not be written, and are tried again.
    is_trying_again: Cell<bool>,
}

#[derive(Debug, Default)]
struct Before {
    goals_wait: bool,
    client_identity: Option<PersistedClientIdentity>,
}

/// What became of a job.
#[derive(Debug)]
enum Outcome {
    Goals { number: u64, stored: io::Result<()> },
    ClientIdentity { generations: Vec<String>, stored: io::Result<()> },
    Looked { thread: String, exists: bool },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Persistence {
    pub(super) fn new(store: Box<dyn StateStore>, writer: StateWriter) -> Self {
        let (tell, outcomes) = unbounded_channel();
        Self {
            store: Arc::new(Mutex::new(store)),
            writer,
            tell,
            outcomes: RefCell::new(Some(outcomes)),
            before: RefCell::default(),
            client_identity: RefCell::default(),
            goals: RefCell::default(),
            is_trying_again: Cell::new(false),
        }
    }

    fn store_goals(&self) {
        let Some((number, goals)) = self.goals.borrow().clone() else { return };
        let (store, tell) = (Arc::clone(&self.store), self.tell.clone());
        self.writer.replace("goals", move || {
            let stored = lock(&store).persist_goals(&goals);
            let _ = tell.send(Outcome::Goals { number, stored });
        });
    }
}

impl HubDriver {
    /// Tells the logic what the gateway before this one left undone. Reads from disk: before anybody is served.
    pub(super) fn load_persisted(self: &Rc<Self>) {
        let (goals, client_identity) = {
            let mut store = lock(&self.persistence.store);
            (store.goals(), store.client_identity())
        };
        *self.persistence.before.borrow_mut() = Before { goals_wait: !goals.is_empty(), client_identity };
        if !goals.is_empty() {
            self.feed(Event::GoalsRestored(goals));
        }
    }

    /// Tells the logic as whom one of `living` knows the gateway before this one; or as whom it was known last, if there are
    /// goals that are to go on before anybody comes.
    pub(super) fn offer_client_identity(self: &Rc<Self>, living: &[String]) {
        let Before { goals_wait, client_identity } = self.persistence.before.take();
        let is_known = |generation_id: &String| living.contains(generation_id);
        let client_identity = client_identity
            .filter(|client_identity| goals_wait || client_identity.generations.iter().any(is_known));
        if let Some(PersistedClientIdentity { initialize_params, .. }) = client_identity {
            self.persistence.client_identity.replace(Some(initialize_params.as_str().into()));
            self.feed(Event::ClientIdentityRestored(initialize_params.into()));
        }
    }

    /// The logic has said as whom it introduces itself.
    pub(super) fn client_identity_chosen(&self, client_identity: Text) {
        self.persistence.client_identity.replace(Some(client_identity));
        self.persist_client_identity();
    }

    /// Has remembered as whom the living app-servers know this gateway.
    pub(super) fn persist_client_identity(&self) {
        let client_identity = self.persistence.client_identity.borrow().as_ref().map(ToString::to_string);
        let Some(initialize_params) = client_identity else { return };
        let generations = self.servers.borrow().living();
        if generations.is_empty() {
            // Nobody knows it: what the gateway before this one was known as may be needed still.
            return;
        }
        let client_identity = PersistedClientIdentity { initialize_params, generations };
        let (store, tell) = (Arc::clone(&self.persistence.store), self.persistence.tell.clone());
        self.persistence.writer.replace("client_identity", move || {
            let stored = lock(&store).persist_client_identity(&client_identity);
            let _ = tell.send(Outcome::ClientIdentity { generations: client_identity.generations, stored });
        });
    }

    /// Has goals written; the logic is told when they are.
    pub(super) fn persist_goals(&self, number: u64, goals: PersistedGoals) {
        self.persistence.goals.replace(Some((number, goals)));
        self.persistence.store_goals();
    }

    /// Looks whether a file exists; the logic is told.
    pub(super) fn look_for_file(self: &Rc<Self>, thread: String, path: String) {
        let (tell, looked_for) = (self.persistence.tell.clone(), thread.clone());
        let look = {
            let path = path.clone();
            move || {
                let exists = std::fs::symlink_metadata(path).is_ok();
                let _ = tell.send(Outcome::Looked { thread: looked_for, exists });
            }
        };
        if !self.persistence.writer.run(look) {
            let driver = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_AFTER_MS)).await;
                driver.look_for_file(thread, path);
            });
        }
    }

    /// Hears what became of jobs, for as long as it is polled.
    pub(super) async fn take_outcomes(self: &Rc<Self>) {
        let Some(mut outcomes) = self.persistence.outcomes.take() else { return };
        while let Some(outcome) = outcomes.recv().await {
            match outcome {
                Outcome::Goals { number, stored } => self.goals_stored(number, stored),
                Outcome::Looked { thread, exists } => self.feed(Event::RolloutChecked { thread, exists }),
                Outcome::ClientIdentity { generations, stored: Err(error) } => {
                    self.note_client_identity_failed(&generations, &error);
                }
                Outcome::ClientIdentity { stored: Ok(()), .. } => {}
            }
        }
    }

    fn goals_stored(self: &Rc<Self>, number: u64, stored: io::Result<()>) {
        match stored {
            Ok(()) => self.persistence.is_trying_again.set(false),
            Err(error) => {
                if !self.persistence.is_trying_again.replace(true) {
                    self.note_goals_failed(&error);
                }
                let driver = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(GOALS_AGAIN_AFTER_MS)).await;
                    // What stands on disk is older than what is: the next gateway would go by that.
                    if driver.persistence.is_trying_again.get() {
                        driver.persistence.store_goals();
                    }
                });
            }
        }
        // Also if they are not: what waits for it has waited long enough.
        self.feed(Event::GoalsPersisted(number));
    }

    fn note_goals_failed(&self, error: &io::Error) {
        let message = format!(
            "failed to store which goals are active: {error}; if the gateway is killed now, goals that it paused for a handover stay \
             paused, and other goals continue only when a client opens their threads"
        );
        let goals =
            self.persistence.goals.borrow().as_ref().map(|(_, goals)| goals.clone()).unwrap_or_default();
        let detail = json!({"active": goals.active, "held": goals.held});
        self.host_commands.note(EventLevel::Warn, "goals.persist_failed", message, detail);
    }

    fn note_client_identity_failed(&self, generations: &[String], error: &io::Error) {
        let message = format!(
            "failed to store the client identity of the gateway: {error}; if the gateway is killed, the next one manages threads only \
             after a client has connected"
        );
        self.host_commands.note(
            EventLevel::Warn,
            "client_identity.persist_failed",
            message,
            json!({"generations": generations}),
        );
    }
}
