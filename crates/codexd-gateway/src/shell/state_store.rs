//! State that outlives the gateway, and the jobs that write it. The state writer's thread waits for the disk; this thread
//! gets the outcome of each job.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::host::{PersistedClientIdentity, PersistedGoals, StateStore};
use crate::hub::Text;
use crate::state_writer::StateWriter;

pub(super) struct Persistence {
    store: Arc<Mutex<Box<dyn StateStore>>>,
    writer: StateWriter,
    done: UnboundedSender<Outcome>,
    /// Taken by the task that handles the outcomes. It holds at most one for each job of the writer, which are bounded.
    pub(super) outcomes: RefCell<Option<UnboundedReceiver<Outcome>>>,
    /// What the previous gateway stored; taken with the first app-server.
    pub(super) restored: RefCell<Restored>,
    /// The client identity of the shared connection; `None` until the hub has chosen one.
    pub(super) client_identity: RefCell<Option<Text>>,
    /// The goals that are to be on disk, with the number of their [`Action::PersistGoals`](crate::hub::Action::PersistGoals).
    goals: RefCell<Option<(u64, PersistedGoals)>>,
    /// The last attempt to write the goals failed; a retry is scheduled.
    pub(super) retries_goals: Cell<bool>,
}

/// What the previous gateway stored.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) has_goals: bool,
    pub(super) client_identity: Option<PersistedClientIdentity>,
}

/// The outcome of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Goals { number: u64, stored: io::Result<()> },
    ClientIdentity { generations: Vec<String>, stored: io::Result<()> },
    RolloutChecked { thread: String, exists: bool },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Persistence {
    pub(super) fn new(store: Box<dyn StateStore>, writer: StateWriter) -> Self {
        let (done, outcomes) = unbounded_channel();
        Self {
            store: Arc::new(Mutex::new(store)),
            writer,
            done,
            outcomes: RefCell::new(Some(outcomes)),
            restored: RefCell::default(),
            client_identity: RefCell::default(),
            goals: RefCell::default(),
            retries_goals: Cell::new(false),
        }
    }

    /// Reads what the previous gateway stored, on this thread. Returns the goals.
    pub(super) fn restore(&self) -> PersistedGoals {
        let (goals, client_identity) = {
            let mut store = lock(&self.store);
            (store.goals(), store.client_identity())
        };
        *self.restored.borrow_mut() = Restored { has_goals: !goals.is_empty(), client_identity };
        goals
    }

    /// The goals that are to be on disk.
    pub(super) fn goals(&self) -> PersistedGoals {
        self.goals.borrow().as_ref().map(|(_, goals)| goals.clone()).unwrap_or_default()
    }

    /// Has goals written. [`Outcome::Goals`] follows.
    pub(super) fn persist_goals(&self, number: u64, goals: PersistedGoals) {
        self.goals.replace(Some((number, goals)));
        self.write_goals();
    }

    /// Has the last goals written once more.
    pub(super) fn write_goals(&self) {
        let Some((number, goals)) = self.goals.borrow().clone() else { return };
        let (store, done) = (Arc::clone(&self.store), self.done.clone());
        self.writer.replace("goals", move || {
            let stored = lock(&store).persist_goals(&goals);
            let _ = done.send(Outcome::Goals { number, stored });
        });
    }

    /// Has the client identity written. [`Outcome::ClientIdentity`] follows.
    pub(super) fn write_client_identity(&self, identity: PersistedClientIdentity) {
        let (store, done) = (Arc::clone(&self.store), self.done.clone());
        self.writer.replace("client_identity", move || {
            let stored = lock(&store).persist_client_identity(&identity);
            let _ = done.send(Outcome::ClientIdentity { generations: identity.generations, stored });
        });
    }

    /// Has it checked whether the rollout file of a thread exists. [`Outcome::RolloutChecked`] follows. `false` if too many
    /// jobs wait.
    pub(super) fn check_rollout(&self, thread: String, path: String) -> bool {
        let done = self.done.clone();
        self.writer.run(move || {
            let exists = std::fs::symlink_metadata(path).is_ok();
            let _ = done.send(Outcome::RolloutChecked { thread, exists });
        })
    }
}
