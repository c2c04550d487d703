//! Whether a thread would load in the app-server that it is to move to, asked before it is unloaded.
//!
//! An unloading cannot be undone where the configuration on disk is the cause of a refusal: the app-server that had the
//! thread reads the same file and refuses it as well. So the new app-server is asked first, with the thread loaded and in
//! use all the time: `config/read` for the thread's folder tells whether the configuration loads (0.131.0, 0.169.0,
//! 0.171.0). Where the thread's provider is not named there, or an MCP server is required, only a load can tell: an
//! ephemeral thread with the same folder and provider is started and let go of.
//!
//! Threads with the same folder and provider share one answer. A refusal is asked about again with backoff.

use std::rc::Rc;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::hub::event::{BlockedOn, Connection, Now, ServerId};
use crate::hub::requests::pending::InternalRequest;
use crate::hub::requests::refusal::{Refusal, is_unknown_method, message_of};
use crate::hub::threads::thread::{Thread, ThreadId, ThreadState};
use crate::hub::{Hub, Timer, text};
use crate::limits::{AGAIN_LATE_AFTER_MS, REFUSED_AGAIN_MAX_MS, REHEARSALS_REMEMBERED, REHEARSED_FOR_MS};

/// What of a thread decides whether an app-server loads it.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Profile {
    cwd: Option<Box<str>>,
    provider: Option<Box<str>>,
}

/// What is known of a profile in the app-server that threads move to.
#[derive(Debug)]
pub struct TrialLoad {
    state: State,
    /// How often in a row it was refused.
    refusals: u32,
}

#[derive(Debug)]
enum State {
    /// The answer is on its way.
    Asked,
    /// It loads, or did at that time.
    Loads(Now),
    /// It does not. It is asked for again at that time.
    Refused { message: Box<str>, retry_at: Now },
}

/// Whether a thread may be unloaded to move it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MayLoad {
    Yes,
    /// The new app-server is being asked. The thread is looked at again when it has answered.
    Pending,
    /// It would be refused: it stays where it is.
    No,
}

impl Hub {
    /// Whether `to` would load a thread, as far as is known; asks if it is not.
    pub(super) fn may_load(&mut self, id: &ThreadId, to: ServerId) -> MayLoad {
        let now = self.now;
        let (Some(thread), Some(handover)) = (self.threads.get_mut(id), self.handover.as_mut()) else {
            return MayLoad::Pending;
        };
        if thread.load_refusal.is_some() && now < thread.retry_at {
            return MayLoad::No;
        }
        if !thread.is_watched() && !thread.goal_is_suspended && !thread.goal_is_active {
            // It is unloaded and not loaded again.
            return MayLoad::Yes;
        }
        let profile = Rc::new(thread.profile());
        let known = handover.trial_loads.get(&profile);
        let refusals = known.map(|known| known.refusals).unwrap_or_default();
        match known.map(|known| &known.state) {
            Some(State::Asked) => return MayLoad::Pending,
            Some(State::Loads(at)) if now.since_ms(*at) < REHEARSED_FOR_MS => return MayLoad::Yes,
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

    /// A thread stays loaded where it is, since it would be refused where it is to go.
    pub(super) fn stay_on_old_server(&mut self, id: &ThreadId) {
        self.set_blocked_on(id, BlockedOn::Refused);
        self.resume_goal(id);
    }

    /// The answer to `config/read` in the new app-server.
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

    /// The answer to the start of a thread that is there to be tried only.
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
        let Some(handover) = self.handover.as_mut().filter(|handover| handover.to == to) else { return };
        let Some(rehearsal) = handover.trial_loads.get_mut(profile) else { return };
        // One that drains, or has too much to do, is asked again; one that does not know the question is not.
        let refusal = outcome.err().filter(|error| !is_unknown_method(error));
        rehearsal.refusals = if refusal.is_some() { rehearsal.refusals + 1 } else { 0 };
        rehearsal.state = match refusal {
            None => State::Loads(now),
            Some(error) => {
                let wait = AGAIN_LATE_AFTER_MS << (rehearsal.refusals - 1).min(16);
                let wait = wait.min(REFUSED_AGAIN_MAX_MS);
                let message = message_of(error);
                self.timers.push(std::cmp::Reverse((now + wait, Timer::RetryRefused)));
                State::Refused { message, retry_at: now + wait }
            }
        };
        if refusal.is_some_and(|error| Refusal::of(error) == Refusal::Draining) {
            self.on_draining(to);
        }
        self.re_evaluate_blocked_threads();
    }

    /// The time has come to ask again about what was refused.
    pub(in crate::hub) fn re_evaluate_blocked_threads(&mut self) {
        let Some(to) = self.handover.as_ref().map(|handover| handover.to) else { return };
        let waits = |thread: &&Thread| thread.server != to && thread.state == ThreadState::Attached;
        let mut waiting: Vec<ThreadId> =
            self.threads.values().filter(waits).map(|thread| thread.id.clone()).collect();
        waiting.sort_unstable();
        for id in waiting {
            self.enqueue_migration(&id);
        }
        self.changes.thread_state_changed();
    }

    /// Whether an answer is outstanding without which it is not known what moves.
    pub(super) fn has_pending_trial(&self) -> bool {
        let asked = |rehearsal: &TrialLoad| matches!(rehearsal.state, State::Asked);
        self.handover.as_ref().is_some_and(|handover| handover.trial_loads.values().any(asked))
    }

    /// Whether a thread, or one that is not known, is there to be tried only: its notifications go to no client.
    pub(in crate::hub) fn is_trial_thread(&self, server: ServerId, thread: &str, method: &str) -> bool {
        let starts = |call: &crate::hub::requests::pending::PendingRequest| {
            call.connection == Connection::Shared(server)
                && matches!(
                    &call.origin,
                    crate::hub::requests::pending::Origin::Internal(InternalRequest::TrialLoad(_))
                )
        };
        self.trial_threads.iter().any(|known| **known == *thread)
            || (method.starts_with("mcpServer/")
                && !self.threads.contains_key(thread)
                && self.pending.values().any(starts))
    }

    /// Whether `thread/started` shows a thread that is there to be tried only.
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
        self.trial_threads.push_back(id.into());
        if self.trial_threads.len() > REHEARSALS_REMEMBERED {
            self.trial_threads.pop_front();
        }
        // It told something before its start was answered, and passed for a sub-agent's.
        if let Some(known) = self.threads.get(id).filter(|known| known.state == ThreadState::Attaching) {
            let id = known.id.clone();
            self.attach_queue.retain(|found| *found != id);
            self.forget_thread(&id);
        }
    }
}

impl Profile {
    /// Whether `config/read`, which succeeded, leaves open whether a thread loads: its provider is not named there, or an MCP
    /// server has to run.
    fn only_a_load_tells(&self, result: &str) -> bool {
        let Some(config) = text::member(result, "config").map(RawValue::get) else { return false };
        let current = text::string(config, "model_provider");
        let current = current.as_deref().unwrap_or(DEFAULT_PROVIDER);
        let is_named = |provider: &str| {
            let providers = text::member(config, "model_providers");
            provider == current || providers.is_some_and(|all| text::member(all.get(), provider).is_some())
        };
        let servers = text::member(config, "mcp_servers").map(RawValue::get).unwrap_or("{}");
        let is_set = |server: &RawValue, name: &str, to: &str| {
            text::member(server.get(), name).is_some_and(|flag| flag.get() == to)
        };
        let is_required =
            |server: &RawValue| is_set(server, "required", "true") && !is_set(server, "enabled", "false");
        self.provider.as_deref().is_some_and(|provider| !is_named(provider))
            || text::members(servers).iter().any(|(_, server)| is_required(server))
    }
}

/// Upstream's provider where the configuration names none. That a configured one exists, `config/read` has found out.
const DEFAULT_PROVIDER: &str = "openai";

impl Thread {
    /// Takes over what an app-server tells of its folder and its provider.
    pub(in crate::hub) fn apply_profile(&mut self, raw: &str) {
        let told = |member: &str| text::string(raw, member).map(Box::from);
        self.cwd = told("cwd").or_else(|| self.cwd.take());
        self.model_provider = told("modelProvider").or_else(|| self.model_provider.take());
    }

    fn profile(&self) -> Profile {
        Profile { cwd: self.cwd.clone(), provider: self.model_provider.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::Profile;
    use serde_json::json;

    #[test]
    fn only_an_unnamed_provider_or_a_required_mcp_server_takes_a_load() {
        let profile = Profile { cwd: None, provider: Some("m".into()) };
        let takes =
            |config: serde_json::Value| profile.only_a_load_tells(&json!({"config": config}).to_string());
        assert!(!takes(json!({"model_provider": "m"})));
        assert!(!takes(json!({"model_provider": "x", "model_providers": {"m": {}}})));
        assert!(takes(json!({"model_provider": "x", "model_providers": {"y": {}}})));
        assert!(takes(json!({"model_provider": null})));
        let server = |required: bool, enabled: bool| json!({"model_provider": "m", "mcp_servers": {"a": {"required": required, "enabled": enabled}}});
        assert!(takes(server(true, true)) && !takes(server(false, true)) && !takes(server(true, false)));
        let openai = Profile { cwd: None, provider: Some("openai".into()) };
        assert!(!openai.only_a_load_tells(r#"{"config":{"model_provider":null,"model_providers":{}}}"#));
    }
}
