//! Whether the successor would load a thread, checked before it is unloaded.
//!
//! An unloading cannot be undone if the configuration on disk is the cause of a refusal: the old app-server reads the
//! same file and refuses the thread as well. So the successor is asked first, while the thread stays in use:
//! `config/read` for the thread's folder shows whether the configuration loads (0.131.0, 0.169.0, 0.171.0). If it
//! does not name the thread's provider, or an MCP server is required, only a load can show it: an ephemeral thread
//! with the same folder and provider is started and unsubscribed.
//!
//! Threads with the same folder and provider share one result. A refusal is checked again with backoff.

use std::rc::Rc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::hub::event::{BlockedOn, Connection, Now, ServerId, ThreadId};
use crate::hub::refusal::{Refusal, is_unknown_method, message_of};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::threads::profile::Profile;
use crate::hub::threads::state::ThreadState;
use crate::hub::threads::thread::Thread;
use crate::hub::{Hub, Timer, text};
use crate::limits::{
    REFUSED_RETRY_MAX_MS, SLOW_RETRY_AFTER_MS, TRIAL_LOAD_VALID_MS, TRIAL_LOADS_REMEMBERED_MAX,
};

/// The result for a profile in the successor.
#[derive(Debug)]
pub struct TrialLoad {
    state: State,
    /// Consecutive refusals.
    refusals: u32,
}

#[derive(Debug)]
enum State {
    /// The response is pending.
    Asked,
    /// It loaded at that time.
    Loads(Now),
    /// It does not load. It is checked again at `retry_at`.
    Refused { message: Box<str>, retry_at: Now },
}

/// Whether a thread may be unloaded to migrate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MayLoad {
    Yes,
    /// The successor is being asked. Its response leads to another check of the thread.
    Pending,
    /// It would be refused: it stays on the old app-server.
    No,
}

impl Hub {
    /// Whether `to` would load a thread, as far as is known; requests it if it is not.
    pub(super) fn may_load(&mut self, id: &ThreadId, to: ServerId) -> MayLoad {
        let now = self.now;
        let (Some(thread), Some(handover)) = (self.threads.get_mut(id), self.migration.handover.as_mut())
        else {
            return MayLoad::Pending;
        };
        if thread.load_refusal.is_some() && now < thread.retry_at {
            return MayLoad::No;
        }
        if !thread.is_watched() && !thread.goal.is_suspended() && !thread.goal.is_active() {
            // It is unloaded and not loaded in the successor.
            return MayLoad::Yes;
        }
        let profile = Rc::new(thread.profile());
        let known = handover.trial_loads.get(&profile);
        let refusals = known.map(|known| known.refusals).unwrap_or_default();
        match known.map(|known| &known.state) {
            Some(State::Asked) => return MayLoad::Pending,
            Some(State::Loads(at)) if now.since_ms(*at) < TRIAL_LOAD_VALID_MS => return MayLoad::Yes,
            Some(State::Refused { message, retry_at }) if now < *retry_at => {
                let message = message.clone();
                self.record_refusal(id, message);
                return MayLoad::No;
            }
            _ => {}
        }
        handover.trial_loads.insert(profile.clone(), TrialLoad { state: State::Asked, refusals });
        let params = profile.cwd.as_ref().map_or_else(|| json!({}), |cwd| json!({"cwd": cwd}));
        self.send_internal(
            Connection::Shared(to),
            InternalRequest::CheckConfig(profile),
            "config/read",
            &params,
        );
        MayLoad::Pending
    }

    /// A thread stays on the old app-server, because the successor would refuse it.
    pub(super) fn stay_on_old_server(&mut self, id: &ThreadId) {
        self.set_blocked_on(id, BlockedOn::Refused);
        self.resume_goal(id);
    }

    /// The response to `config/read` in the successor.
    pub(in crate::hub) fn on_config_read(
        &mut self,
        to: ServerId,
        profile: &Rc<Profile>,
        outcome: Result<&str, &str>,
    ) {
        match outcome {
            Ok(result) if profile.only_a_load_tells(result) => {
                let mut params = json!({"ephemeral": true});
                let members = [("cwd", &profile.cwd), ("modelProvider", &profile.provider)];
                for (name, value) in
                    members.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
                {
                    params[name] = Value::from(&**value);
                }
                self.send_internal(
                    Connection::Shared(to),
                    InternalRequest::TrialLoad(profile.clone()),
                    "thread/start",
                    &params,
                );
            }
            outcome => self.on_trial_done(to, profile, outcome.map(|_| ())),
        }
    }

    /// The response to the start of a trial thread.
    pub(in crate::hub) fn on_trial_started(
        &mut self,
        to: ServerId,
        profile: &Rc<Profile>,
        outcome: Result<&str, &str>,
    ) {
        let started = outcome.ok().and_then(|result| text::member(result, "thread"));
        if let Some(id) = started.and_then(|thread| text::string(thread.get(), "id")) {
            self.hide_trial_thread(&id);
            let params = json!({"threadId": &*id});
            self.send_internal(
                Connection::Shared(to),
                InternalRequest::IgnoreResponse,
                "thread/unsubscribe",
                &params,
            );
        }
        self.on_trial_done(to, profile, outcome.map(|_| ()));
    }

    fn on_trial_done(&mut self, to: ServerId, profile: &Rc<Profile>, outcome: Result<(), &str>) {
        let now = self.now;
        let Some(handover) = self.migration.handover.as_mut().filter(|handover| handover.to == to) else {
            return;
        };
        let Some(trial) = handover.trial_loads.get_mut(profile) else { return };
        // A draining or overloaded app-server is asked again; one that does not know the method is not.
        let refusal = outcome.err().filter(|error| !is_unknown_method(error));
        trial.refusals = if refusal.is_some() { trial.refusals + 1 } else { 0 };
        trial.state = match refusal {
            None => State::Loads(now),
            Some(error) => {
                let wait = SLOW_RETRY_AFTER_MS << (trial.refusals - 1).min(16);
                let wait = wait.min(REFUSED_RETRY_MAX_MS);
                let message = message_of(error);
                self.timers.set(now + wait, Timer::RetryRefused);
                State::Refused { message, retry_at: now + wait }
            }
        };
        if refusal.is_some_and(|error| Refusal::of(error) == Refusal::Draining) {
            self.on_draining(to);
        }
        self.re_evaluate_blocked_threads();
    }

    /// Checks the blocked threads again.
    pub(in crate::hub) fn re_evaluate_blocked_threads(&mut self) {
        let Some(to) = self.migration.handover.as_ref().map(|handover| handover.to) else { return };
        let waits = |thread: &&Thread| thread.server != to && thread.state == ThreadState::Attached;
        let mut waiting: Vec<ThreadId> =
            self.threads.values().filter(waits).map(|thread| thread.id.clone()).collect();
        waiting.sort_unstable();
        for id in waiting {
            self.enqueue_migration(&id);
        }
        self.changes.thread_state_changed();
    }

    /// Whether the response to a trial load is pending.
    pub(super) fn has_pending_trial(&self) -> bool {
        let asked = |trial: &TrialLoad| matches!(trial.state, State::Asked);
        self.migration.handover.as_ref().is_some_and(|handover| handover.trial_loads.values().any(asked))
    }

    /// Whether a thread is that of a trial load, also before its id is known: its notifications go to no client.
    pub(in crate::hub) fn is_trial_thread(&self, server: ServerId, thread: &str, method: &str) -> bool {
        let starts = |pending: &crate::hub::requests::pending::PendingRequest| {
            pending.connection == Connection::Shared(server)
                && matches!(
                    &pending.origin,
                    crate::hub::requests::pending::Origin::Internal(InternalRequest::TrialLoad(_))
                )
        };
        self.migration.trial_threads.iter().any(|known| **known == *thread)
            || (method.starts_with("mcpServer/")
                && !self.threads.contains_key(thread)
                && self.pending.values().any(starts))
    }

    /// Whether `thread/started` announces the thread of a trial load.
    pub(in crate::hub) fn announces_trial_thread(
        &self,
        server: ServerId,
        method: &str,
        params: &RawValue,
    ) -> bool {
        let shown = text::member(params.get(), "thread").filter(|_| method == "thread/started");
        let id = shown.and_then(|thread| text::string(thread.get(), "id"));
        id.is_some_and(|id| self.is_trial_thread(server, &id, method))
    }

    fn hide_trial_thread(&mut self, id: &str) {
        self.migration.trial_threads.push_back(id.into());
        if self.migration.trial_threads.len() > TRIAL_LOADS_REMEMBERED_MAX {
            self.migration.trial_threads.pop_front();
        }
        // A notification arrived before the response to its start, and it was taken for a sub-agent's thread.
        if let Some(known) = self.threads.get(id).filter(|known| known.state == ThreadState::Attaching) {
            let id = known.id.clone();
            self.threads.unqueue_attach(&id);
            self.forget_thread(&id);
        }
    }
}
