//! When the settings of threads are learned, restored, stored and dropped.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::hub::event::{Action, ClientId, Connection, ServerId, Text, ThreadId};
use crate::hub::requests::pending::{InternalRequest, RequestKind};
use crate::hub::threads::thread_settings::ThreadSettings;
use crate::hub::{Hub, Now, Timer, text};
use crate::limits::{ALL_THREAD_SETTINGS_BYTES_MAX, THREAD_SETTINGS_BYTES_MAX, UNLOAD_DELAY_MS};

const WARNING: &str = "warning";

/// The settings of all threads that are loaded, or will be again.
#[derive(Debug, Default)]
pub struct AllThreadSettings {
    threads: HashMap<ThreadId, ThreadSettings>,
    /// Length and fingerprint of what the host has stored last.
    stored: HashMap<ThreadId, (usize, u64)>,
    stored_bytes: usize,
    /// Until then, the settings that the previous gateway stored are treated as lost: a thread that is resumed may
    /// have had settings.
    lost_until: Option<Now>,
}

impl Hub {
    /// The parameters of the gateway's own `thread/resume`. Every such request is composed here.
    pub(in crate::hub) fn resume_params(&self, id: &ThreadId) -> Value {
        let mut params = Map::new();
        params.insert("threadId".to_owned(), (&**id).into());
        params.insert("excludeTurns".to_owned(), true.into());
        if let Some(settings) = self.thread_settings.threads.get(id) {
            settings.add_to_resume(&mut params);
        }
        Value::Object(params)
    }

    /// A client's request succeeded: applies it to the settings of its thread.
    pub(in crate::hub) fn on_settings_response(
        &mut self,
        server: ServerId,
        client: ClientId,
        kind: RequestKind,
        request: &str,
        result: &str,
    ) {
        let params = text::member(request, "params").map_or("null", |params| params.get());
        match kind {
            RequestKind::NewThread | RequestKind::Resume => {
                let Ok(result) = serde_json::from_str::<Value>(result) else { return };
                let Some(id) = result.pointer("/thread/id").and_then(Value::as_str) else { return };
                self.thread_loaded_by_client(server, client, kind, &id.into(), params, &result);
            }
            RequestKind::Turn => {
                let names = text::Names::of_text(params);
                let Some(id) = names.thread().map(ThreadId::from) else { return };
                let Some(settings) = self.thread_settings.threads.get_mut(&id) else { return };
                let deferred = settings.turn_began();
                let is_reported = settings.in_effect.contains_key("environments");
                if !is_reported {
                    settings.learn_turn(&sticky_of_turn(params));
                }
                if deferred || !is_reported {
                    self.store_settings(&id);
                }
            }
            _ => {}
        }
    }

    fn thread_loaded_by_client(
        &mut self,
        server: ServerId,
        client: ClientId,
        kind: RequestKind,
        id: &ThreadId,
        params: &str,
        result: &Value,
    ) {
        let known = self.thread_settings.threads.get_mut(id).filter(|_| kind == RequestKind::Resume);
        if let Some(known) = known {
            // Upstream ignores the settings in a resume of a loaded thread.
            let was_parked = known.parked_until.is_some();
            let unsent = known.warning.take();
            self.compare_settings(id, server, result, was_parked);
            if let Some(message) = unsent {
                self.warn_client(client, id, &message);
            }
            return;
        }
        let mut settings = ThreadSettings::of_request(&serde_json::from_str(params).unwrap_or_default());
        settings.learn_answer(result);
        settings.loaded_in = Some(server);
        self.thread_settings.threads.insert(id.clone(), settings);
        if !self.store_settings(id) {
            self.warn_client(client, id, &too_large());
        }
        if kind == RequestKind::Resume && self.stored_settings_are_lost() {
            self.warn_client(client, id, &lost_settings(&["config".to_owned()]));
        }
    }

    /// `thread/settings/updated` arrived.
    pub(in crate::hub) fn on_settings_updated(&mut self, id: &ThreadId, params: &str) {
        let Some(settings) = self.thread_settings.threads.get_mut(id) else { return };
        let update = text::member(params, "threadSettings")
            .and_then(|reported| serde_json::from_str(reported.get()).ok());
        settings.learn_update(&update.unwrap_or(Value::Null));
        self.store_settings(id);
    }

    /// The response to the gateway's own `thread/resume`: restores or reports settings that differ. `is_found`: the
    /// app-server had the thread before.
    pub(in crate::hub) fn on_settings_restored(
        &mut self,
        id: &ThreadId,
        server: ServerId,
        is_found: bool,
        result: &str,
    ) {
        let Ok(result) = serde_json::from_str::<Value>(result) else { return };
        if !self.thread_settings.threads.contains_key(id) {
            let settings = self.settings_of_attached(&result);
            self.thread_settings.threads.insert(id.clone(), settings);
        }
        let before = self.thread_settings.threads.get(id).and_then(|settings| settings.loaded_in);
        self.compare_settings(id, server, &result, before.map_or(!is_found, |before| before != server));
    }

    /// Compares the settings that an app-server applied: restores or reports those that differ.
    fn compare_settings(&mut self, id: &ThreadId, server: ServerId, result: &Value, is_cold_load: bool) {
        let Some(settings) = self.thread_settings.threads.get_mut(id) else { return };
        settings.loaded_in = Some(server);
        settings.parked_until = None;
        let (lost, environments) = match is_cold_load {
            true => settings.compare(result),
            false => Default::default(),
        };
        settings.learn_answer(result);
        if let Some(environments) = environments {
            settings.in_effect.insert("environments".to_owned(), environments.clone());
            let params = json!({"threadId": &**id, "environments": environments});
            let request = InternalRequest::RestoreEnvironments(id.clone());
            self.send_internal(Connection::Shared(server), request, "thread/settings/update", &params);
        }
        if !lost.is_empty() {
            let lost: Vec<String> = lost.into_iter().collect();
            self.warn_viewers(id, lost_settings(&lost));
        }
        self.store_settings(id);
    }

    /// The settings of a thread that no client of this gateway has started: a sub-agent has the `config` of its
    /// parent; of an older thread nothing is known.
    fn settings_of_attached(&self, result: &Value) -> ThreadSettings {
        let thread = result.get("thread").unwrap_or(&Value::Null);
        let parent = thread.pointer("/source/subAgent/thread_spawn/parent_thread_id");
        let parent = parent.or_else(|| thread.get("parentThreadId")).and_then(Value::as_str);
        if let Some(parent) = parent.and_then(|parent| self.thread_settings.threads.get(parent)) {
            return ThreadSettings { config: parent.config.clone(), ..ThreadSettings::default() };
        }
        match self.stored_settings_are_lost() {
            true => ThreadSettings::unknown(),
            false => ThreadSettings::default(),
        }
    }

    /// The description of a sub-agent's thread that was found through a notification: its parent's `config` is its
    /// own.
    pub(in crate::hub) fn on_subagent_read(&mut self, id: &ThreadId, server: ServerId, result: Option<&str>) {
        if self.threads.contains_key(id) && !self.thread_settings.threads.contains_key(id) {
            self.on_settings_restored(id, server, true, result.unwrap_or("null"));
        }
    }

    /// The response to the restored environments.
    pub(in crate::hub) fn on_environments_restored(&mut self, id: &ThreadId, is_good: bool) {
        if !is_good {
            self.warn_viewers(id, lost_settings(&["environments".to_owned()]));
        }
    }

    /// Warns the viewers of a thread, or its next viewer if there is none now.
    fn warn_viewers(&mut self, id: &ThreadId, message: String) {
        if self.threads.get(id).is_some_and(crate::hub::threads::thread::Thread::is_watched) {
            return self.send_to_viewers(id, WARNING, &warning(id, &message));
        }
        if let Some(settings) = self.thread_settings.threads.get_mut(id) {
            settings.warning = Some(message);
        }
    }

    fn warn_client(&mut self, client: ClientId, id: &ThreadId, message: &str) {
        if self.wants(client, WARNING) {
            self.send_to_client(client, warning(id, message));
        }
    }

    /// An unwatched thread is unloaded earlier than upstream would: keeps its settings until then.
    pub(in crate::hub) fn park_settings(&mut self, id: &ThreadId) {
        let since = self.threads.get(id).and_then(|thread| thread.unwatched_since);
        let until = since.unwrap_or(self.now) + self.unwatched_max_ms();
        if let Some(settings) = self.thread_settings.threads.get_mut(id) {
            settings.parked_until = Some(until);
            settings.loaded_in = None;
            self.set_timer(until.since_ms(self.now), Timer::ParkedSettings);
        }
    }

    /// Drops expired settings of unloaded threads.
    pub(in crate::hub) fn forget_parked_settings(&mut self) {
        let is_over = |(id, settings): &(&ThreadId, &ThreadSettings)| {
            settings.parked_until.is_some_and(|until| until <= self.now) && !self.threads.contains_key(id)
        };
        let over = self.thread_settings.threads.iter().filter(is_over);
        let mut over: Vec<ThreadId> = over.map(|(id, _)| id.clone()).collect();
        over.sort_unstable();
        over.iter().for_each(|id| self.forget_settings(id));
    }

    /// A client's `thread/resume` of a thread with parked settings, with those in place of its own: upstream would
    /// still have the thread loaded, and ignore the settings in the resume.
    pub(in crate::hub) fn with_parked_settings(&self, id: &str, request: &Text) -> Option<Text> {
        let settings = self.thread_settings.threads.get(id)?;
        settings.parked_until.filter(|until| self.now < *until)?;
        let params = text::member(request, "params")?;
        let mut given: Map<String, Value> = serde_json::from_str(params.get()).ok()?;
        for name in ["config", "permissions", "sandbox"] {
            given.remove(name);
        }
        settings.add_to_resume(&mut given);
        Some(text::splice(request, params.get(), &Value::Object(given).to_string()))
    }

    /// A thread is not loaded any more.
    pub(in crate::hub) fn thread_settings_gone(&mut self, id: &ThreadId) {
        let parked_until = self.thread_settings.threads.get(id).and_then(|settings| settings.parked_until);
        if parked_until.is_none_or(|until| until <= self.now) {
            self.forget_settings(id);
        }
    }

    fn forget_settings(&mut self, id: &ThreadId) {
        self.thread_settings.threads.remove(id);
        if let Some((bytes, _)) = self.thread_settings.stored.remove(id) {
            self.thread_settings.stored_bytes -= bytes;
            self.out.push(Action::StoreThreadSettings { thread: id.to_string(), settings: None });
        }
    }

    /// Settings that the previous gateway stored. The app-server unloads a thread that only the gateway was
    /// subscribed to: a client that resumes the thread gets it with these settings.
    pub(in crate::hub) fn restore_settings(&mut self, thread: &str, settings: &str) {
        if let Ok(mut known) = serde_json::from_str::<ThreadSettings>(settings) {
            let id: ThreadId = thread.into();
            known.parked_until = Some(self.now + UNLOAD_DELAY_MS);
            self.set_timer(UNLOAD_DELAY_MS, Timer::ParkedSettings);
            self.thread_settings.stored_bytes += settings.len();
            self.thread_settings.stored.insert(id.clone(), (settings.len(), text::fingerprint(settings)));
            self.thread_settings.threads.insert(id, known);
        }
    }

    /// The settings that the previous gateway stored are lost.
    pub(in crate::hub) fn on_stored_settings_lost(&mut self) {
        self.thread_settings.lost_until = Some(self.now + UNLOAD_DELAY_MS);
    }

    fn stored_settings_are_lost(&self) -> bool {
        self.thread_settings.lost_until.is_some_and(|until| self.now < until)
    }

    /// Lets the host store the settings of a thread, if they have changed. Returns `false` if they are too large:
    /// then `config` is dropped.
    fn store_settings(&mut self, id: &ThreadId) -> bool {
        let all = &mut self.thread_settings;
        let Some(settings) = all.threads.get_mut(id) else { return true };
        let (before, hash) = all.stored.get(id).copied().unwrap_or_default();
        let fits = |bytes: usize| {
            bytes <= THREAD_SETTINGS_BYTES_MAX
                && all.stored_bytes - before + bytes <= ALL_THREAD_SETTINGS_BYTES_MAX
        };
        let mut stored = serde_json::to_string(settings).unwrap_or_default();
        let is_whole = fits(stored.len());
        if !is_whole {
            settings.drop_large_settings();
            stored = serde_json::to_string(settings).unwrap_or_default();
        }
        let now = (stored.len(), text::fingerprint(&stored));
        if now != (before, hash) && fits(stored.len()) {
            all.stored_bytes = all.stored_bytes - before + stored.len();
            all.stored.insert(id.clone(), now);
            self.out
                .push(Action::StoreThreadSettings { thread: id.to_string(), settings: Some(stored.into()) });
        }
        is_whole
    }
}

impl ThreadSettings {
    /// The settings are too large: keeps the small ones and those that concern security.
    fn drop_large_settings(&mut self) {
        self.config = Map::new();
        self.not_restorable.insert("config".to_owned());
        for name in ["environments", "runtimeWorkspaceRoots"] {
            if self.in_effect.remove(name).is_some() {
                self.not_restorable.insert(name.to_owned());
            }
        }
        let roots = self.in_effect.get_mut("sandbox").and_then(|sandbox| sandbox.get_mut("writableRoots"));
        roots.into_iter().for_each(|roots| *roots = json!([]));
    }
}

/// The parameters of a turn that also apply to later turns. The input, which may be large, is not read.
fn sticky_of_turn(params: &str) -> Value {
    let names = [
        "approvalPolicy",
        "approvalsReviewer",
        "cwd",
        "environments",
        "permissions",
        "runtimeWorkspaceRoots",
        "sandboxPolicy",
        "serviceTier",
    ];
    let members = text::members(params).into_iter().filter(|(name, _)| names.contains(&&**name));
    let values = members
        .filter_map(|(name, value)| Some((name.into_owned(), serde_json::from_str(value.get()).ok()?)));
    Value::Object(values.collect())
}

fn warning(id: &ThreadId, message: &str) -> Text {
    text::notification(WARNING, &json!({"threadId": &**id, "message": message}))
}

fn lost_settings(names: &[String]) -> String {
    format!(
        "The app-server was replaced and this thread may have lost settings that only the old app-server had: {}. Resume or \
         start the thread with these settings again if it needs them.",
        names.join(", ")
    )
}

fn too_large() -> String {
    format!(
        "The settings of this thread are too large to be kept if the app-server is replaced (more than {} KiB for one thread \
         or {} MiB for all threads): its config will be lost then.",
        THREAD_SETTINGS_BYTES_MAX / 1024,
        ALL_THREAD_SETTINGS_BYTES_MAX / (1024 * 1024)
    )
}
