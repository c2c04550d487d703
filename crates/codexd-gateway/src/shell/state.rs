//! What is remembered on disk. The state writer's thread waits for it; this one hears of the outcome.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codexd_core::contract::EventLevel;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::driver::Driver;
use crate::host::{KeptGoals, KeptPersona, Memory};
use crate::hub::{Event, Text};
use crate::limits::{GOALS_AGAIN_AFTER_MS, LOOK_AGAIN_AFTER_MS};
use crate::state_writer::StateWriter;

/// Memory, and what is on its way there.
pub(super) struct State {
    memory: Arc<Mutex<Box<dyn Memory>>>,
    writer: StateWriter,
    tell: UnboundedSender<Outcome>,
    /// One for each job of the writer's, which are bounded.
    outcomes: RefCell<Option<UnboundedReceiver<Outcome>>>,
    /// What the gateway before this one left.
    before: RefCell<Before>,
    /// As whom the brain introduces itself, as far as it has said so.
    persona: RefCell<Option<Text>>,
    /// The goals that are to be on disk.
    goals: RefCell<Option<(u64, KeptGoals)>>,
    /// They could not be written, and are tried again.
    is_trying_again: Cell<bool>,
}

#[derive(Debug, Default)]
struct Before {
    goals_wait: bool,
    persona: Option<KeptPersona>,
}

/// What became of a job.
#[derive(Debug)]
enum Outcome {
    Goals { number: u64, stored: io::Result<()> },
    Persona { known_to: Vec<String>, stored: io::Result<()> },
    Looked { thread: String, exists: bool },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(memory: Box<dyn Memory>, writer: StateWriter) -> Self {
        let (tell, outcomes) = unbounded_channel();
        Self {
            memory: Arc::new(Mutex::new(memory)),
            writer,
            tell,
            outcomes: RefCell::new(Some(outcomes)),
            before: RefCell::default(),
            persona: RefCell::default(),
            goals: RefCell::default(),
            is_trying_again: Cell::new(false),
        }
    }

    fn store_goals(&self) {
        let Some((number, goals)) = self.goals.borrow().clone() else { return };
        let (memory, tell) = (Arc::clone(&self.memory), self.tell.clone());
        self.writer.replace("goals", move || {
            let stored = lock(&memory).keep_goals(&goals);
            let _ = tell.send(Outcome::Goals { number, stored });
        });
    }
}

impl Driver {
    /// Tells the brain what the gateway before this one left undone. Reads from disk: before anybody is served.
    pub(super) fn remember(self: &Rc<Self>) {
        let (goals, persona) = {
            let mut memory = lock(&self.state.memory);
            (memory.goals(), memory.persona())
        };
        *self.state.before.borrow_mut() = Before { goals_wait: !goals.is_empty(), persona };
        if !goals.is_empty() {
            self.feed(Event::GoalsRestored(goals));
        }
    }

    /// Tells the brain as whom one of `living` knows the gateway before this one; or as whom it was known last, if there are
    /// goals that are to go on before anybody comes.
    pub(super) fn remember_persona(self: &Rc<Self>, living: &[String]) {
        let Before { goals_wait, persona } = self.state.before.take();
        let is_known = |mark: &String| living.contains(mark);
        let persona = persona.filter(|persona| goals_wait || persona.known_to.iter().any(is_known));
        if let Some(KeptPersona { introduction, .. }) = persona {
            self.state.persona.replace(Some(introduction.as_str().into()));
            self.feed(Event::ClientIdentityRestored(introduction.into()));
        }
    }

    /// The brain has said as whom it introduces itself.
    pub(super) fn introduces_itself(&self, persona: Text) {
        self.state.persona.replace(Some(persona));
        self.keep_persona();
    }

    /// Has remembered as whom the living app-servers know this gateway.
    pub(super) fn keep_persona(&self) {
        let persona = self.state.persona.borrow().as_ref().map(ToString::to_string);
        let Some(introduction) = persona else { return };
        let known_to = self.servers.borrow().living();
        if known_to.is_empty() {
            // Nobody knows it: what the gateway before this one was known as may be needed still.
            return;
        }
        let persona = KeptPersona { introduction, known_to };
        let (memory, tell) = (Arc::clone(&self.state.memory), self.state.tell.clone());
        self.state.writer.replace("persona", move || {
            let stored = lock(&memory).keep_persona(&persona);
            let _ = tell.send(Outcome::Persona { known_to: persona.known_to, stored });
        });
    }

    /// Has goals written; the brain is told when they are.
    pub(super) fn keep_goals(&self, number: u64, goals: KeptGoals) {
        self.state.goals.replace(Some((number, goals)));
        self.state.store_goals();
    }

    /// Looks whether a file exists; the brain is told.
    pub(super) fn look_for(self: &Rc<Self>, thread: String, path: String) {
        let (tell, looked_for) = (self.state.tell.clone(), thread.clone());
        let look = {
            let path = path.clone();
            move || {
                let exists = std::fs::symlink_metadata(path).is_ok();
                let _ = tell.send(Outcome::Looked { thread: looked_for, exists });
            }
        };
        if !self.state.writer.run(look) {
            let driver = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_AFTER_MS)).await;
                driver.look_for(thread, path);
            });
        }
    }

    /// Hears what became of jobs, for as long as it is polled.
    pub(super) async fn take_stored(self: &Rc<Self>) {
        let Some(mut outcomes) = self.state.outcomes.take() else { return };
        while let Some(outcome) = outcomes.recv().await {
            match outcome {
                Outcome::Goals { number, stored } => self.goals_stored(number, stored),
                Outcome::Looked { thread, exists } => self.feed(Event::RolloutChecked { thread, exists }),
                Outcome::Persona { known_to, stored: Err(error) } => self.note_persona(&known_to, &error),
                Outcome::Persona { stored: Ok(()), .. } => {}
            }
        }
    }

    fn goals_stored(self: &Rc<Self>, number: u64, stored: io::Result<()>) {
        match stored {
            Ok(()) => self.state.is_trying_again.set(false),
            Err(error) => {
                if !self.state.is_trying_again.replace(true) {
                    self.note_goals(&error);
                }
                let driver = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(GOALS_AGAIN_AFTER_MS)).await;
                    // What stands on disk is older than what is: the next gateway would go by that.
                    if driver.state.is_trying_again.get() {
                        driver.state.store_goals();
                    }
                });
            }
        }
        // Also if they are not: what waits for it has waited long enough.
        self.feed(Event::GoalsPersisted(number));
    }

    fn note_goals(&self, error: &io::Error) {
        let message = format!(
            "failed to remember which goals are at work: {error}; if the gateway is killed now, those that it has paused for a \
             handover stay paused, and others may rest until somebody opens their threads"
        );
        let goals = self.state.goals.borrow().as_ref().map(|(_, goals)| goals.clone()).unwrap_or_default();
        let detail = json!({"active": goals.active, "held": goals.held});
        self.orders.note(EventLevel::Warn, "goals.forgotten", message, detail);
    }

    fn note_persona(&self, known_to: &[String], error: &io::Error) {
        let message = format!(
            "failed to remember as whom this gateway introduced itself: {error}; if it is killed, the next one waits for a client \
             before it looks after the threads"
        );
        self.orders.note(EventLevel::Warn, "persona.forgotten", message, json!({"generations": known_to}));
    }
}
