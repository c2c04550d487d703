//! Restores what the previous gateway stored, and handles the outcome of each write.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::event_log;
use super::shell_context::ShellContext;
use super::state_store::{Outcome, Restored};
use crate::host::PersistedClientIdentity;
use crate::hub::{Event, Text};
use crate::limits::{GOALS_PERSIST_RETRY_MS, ROLLOUT_CHECK_RETRY_MS};

/// Feeds the goals that were active when the previous gateway ended. It reads from disk, so it runs before the first client
/// is served.
pub(super) fn restore_goals(shell: &Rc<ShellContext>) {
    let goals = shell.persistence.restore();
    if !goals.is_empty() {
        shell.feed(Event::GoalsRestored(goals));
    }
}

/// Feeds the client identity of the previous gateway if one of the `running` generations knows it, or if there are goals to
/// continue before the first client connects.
pub(super) fn restore_client_identity(shell: &Rc<ShellContext>, running: &[String]) {
    let Restored { has_goals, client_identity } = shell.persistence.restored.take();
    let is_running = |generation_id: &String| running.contains(generation_id);
    let identity =
        client_identity.filter(|identity| has_goals || identity.generations.iter().any(is_running));
    if let Some(PersistedClientIdentity { initialize_params, .. }) = identity {
        shell.persistence.client_identity.replace(Some(initialize_params.as_str().into()));
        shell.feed(Event::ClientIdentityRestored(initialize_params.into()));
    }
}

/// Takes the client identity that the hub has chosen for the shared connection.
pub(super) fn set_client_identity(shell: &ShellContext, identity: Text) {
    shell.persistence.client_identity.replace(Some(identity));
    persist_client_identity(shell);
}

/// Has the client identity written, with the generations that run.
pub(super) fn persist_client_identity(shell: &ShellContext) {
    let identity = shell.persistence.client_identity.borrow().as_ref().map(ToString::to_string);
    let Some(initialize_params) = identity else { return };
    let generations = shell.servers.borrow().running();
    // Without an app-server, the identity that the previous gateway stored may still be needed.
    if !generations.is_empty() {
        shell.persistence.write_client_identity(PersistedClientIdentity { initialize_params, generations });
    }
}

/// Checks whether the rollout file of a thread exists. [`Event::RolloutChecked`] follows.
pub(super) fn check_rollout(shell: &Rc<ShellContext>, thread: String, path: String) {
    if !shell.persistence.check_rollout(thread.clone(), path.clone()) {
        let shell = Rc::clone(shell);
        spawn_local(async move {
            sleep(Duration::from_millis(ROLLOUT_CHECK_RETRY_MS)).await;
            check_rollout(&shell, thread, path);
        });
    }
}

/// Handles the outcomes of jobs until the task is aborted.
pub(super) async fn handle_outcomes(shell: &Rc<ShellContext>) {
    let Some(mut outcomes) = shell.persistence.outcomes.take() else { return };
    while let Some(outcome) = outcomes.recv().await {
        match outcome {
            Outcome::Goals { number, stored } => goals_stored(shell, number, stored),
            Outcome::RolloutChecked { thread, exists } => {
                shell.feed(Event::RolloutChecked { thread, exists });
            }
            Outcome::ClientIdentity { generations, stored: Err(error) } => {
                shell.host_commands.log(event_log::client_identity_not_persisted(&generations, &error));
            }
            Outcome::ClientIdentity { stored: Ok(()), .. } => {}
        }
    }
}

fn goals_stored(shell: &Rc<ShellContext>, number: u64, stored: io::Result<()>) {
    match stored {
        Ok(()) => shell.persistence.retries_goals.set(false),
        Err(error) => {
            if !shell.persistence.retries_goals.replace(true) {
                let entry = event_log::goals_not_persisted(&shell.persistence.goals(), &error);
                shell.host_commands.log(entry);
            }
            let shell = Rc::clone(shell);
            spawn_local(async move {
                sleep(Duration::from_millis(GOALS_PERSIST_RETRY_MS)).await;
                // The file is out of date, and the next gateway would read it.
                if shell.persistence.retries_goals.get() {
                    shell.persistence.write_goals();
                }
            });
        }
    }
    // Also after a failure: the request that waits for the file has waited long enough.
    shell.feed(Event::GoalsPersisted(number));
}
