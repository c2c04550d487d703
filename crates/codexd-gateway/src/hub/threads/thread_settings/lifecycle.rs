//! When the settings of threads are learned, given again, and forgotten.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::hub::event::{Action, ClientId, Connection, ServerId, Text};
use crate::hub::requests::pending::{InternalRequest, RequestKind};
use crate::hub::threads::thread::ThreadId;
use crate::hub::threads::thread_settings::ThreadSettings;
use crate::hub::{Hub, Now, Timer, text};
use crate::limits::{ALL_THREAD_SETTINGS_BYTES_MAX, THREAD_SETTINGS_BYTES_MAX, UNWATCHED_MAX_MS};

const WARNING: &str = "warning";

/// The settings of all threads that are loaded, or will be again.
#[derive(Debug, Default)]
pub struct AllThreadSettings {
    threads: HashMap<ThreadId, ThreadSettings>,
    /// What was stored last, by its length: the host keeps it for a gateway that comes after this one.
    stored: HashMap<ThreadId, (usize, u64)>,
    stored_bytes: usize,
    /// What the gateway before this one had stored is lost. A thread that is resumed until then may have been loaded, and
    /// had settings.
    lost_until: Option<Now>,
}

impl Hub {
    /// The parameters of a `thread/resume` of the gateway's own. All of them come from here.
    pub(in crate::hub) fn resume_params(&self, id: &ThreadId) -> Value {
        let mut params = Map::new();
        params.insert("threadId".to_owned(), (&**id).into());
        params.insert("excludeTurns".to_owned(), true.into());
        if let Some(settings) = self.thread_settings.threads.get(id) {
            settings.add_to_resume(&mut params);
        }
        Value::Object(params)
    }

    /// A client's request was answered well: what it means for the settings of its thread.
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
                let is_told = settings.in_effect.contains_key("environments");
                if !is_told {
                    settings.learn_turn(&sticky_of_turn(params));
                }
                if deferred || !is_told {
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
            // Upstream ignores what a resume of a loaded thread gives.
            let was_parked = known.parked_until.is_some();
            let untold = known.warning.take();
            self.compare_settings(id, server, result, was_parked);
            if let Some(message) = untold {
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

    /// `thread/settings/updated` was told.
    pub(in crate::hub) fn on_settings_updated(&mut self, id: &ThreadId, params: &str) {
        let Some(settings) = self.thread_settings.threads.get_mut(id) else { return };
        let update =
            text::member(params, "threadSettings").and_then(|told| serde_json::from_str(told.get()).ok());
        settings.learn_update(&update.unwrap_or(Value::Null));
        self.store_settings(id);
    }

    /// A `thread/resume` of the gateway's own was answered: what differs is given again, or told. `is_found`: the app-server had
    /// the thread before.
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

    /// What an app-server has made of a thread: what differs from before is given again, or told.
    fn compare_settings(&mut self, id: &ThreadId, server: ServerId, result: &Value, is_loaded_anew: bool) {
        let Some(settings) = self.thread_settings.threads.get_mut(id) else { return };
        settings.loaded_in = Some(server);
        settings.parked_until = None;
        let (lost, environments) = match is_loaded_anew {
            true => settings.compare(result),
            false => Default::default(),
        };
        settings.learn_answer(result);
        if let Some(environments) = environments {
            settings.in_effect.insert("environments".to_owned(), environments.clone());
            let params = json!({"threadId": &**id, "environments": environments});
            let errand = InternalRequest::RestoreEnvironments(id.clone());
            self.send_internal(Connection::Shared(server), errand, "thread/settings/update", &params);
        }
        if !lost.is_empty() {
            let lost: Vec<String> = lost.into_iter().collect();
            self.warn_viewers(id, lost_settings(&lost));
        }
        self.store_settings(id);
    }

    /// A thread that no client of this gateway has started: a sub-agent has the `config` of its parent; of one that was there
    /// before the gateway nothing is known.
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

    /// What a sub-agent that was found by what it told is, and whose: its parent's `config` is its own.
    pub(in crate::hub) fn on_subagent_read(&mut self, id: &ThreadId, server: ServerId, result: Option<&str>) {
        if self.threads.contains_key(id) && !self.thread_settings.threads.contains_key(id) {
            self.on_settings_restored(id, server, true, result.unwrap_or("null"));
        }
    }

    /// The answer to the environments that were given again.
    pub(in crate::hub) fn on_environments_restored(&mut self, id: &ThreadId, is_good: bool) {
        if !is_good {
            self.warn_viewers(id, lost_settings(&["environments".to_owned()]));
        }
    }

    /// Tells the viewers of a thread; the next one, if there is none now.
    fn warn_viewers(&mut self, id: &ThreadId, message: String) {
        if self.threads.get(id).is_some_and(crate::hub::Thread::is_watched) {
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

    /// An unwatched thread is unloaded that would have stayed loaded for a while.
    pub(in crate::hub) fn park_settings(&mut self, id: &ThreadId) {
        let since = self.threads.get(id).and_then(|thread| thread.unwatched_since);
        let until = since.unwrap_or(self.now) + self.unwatched_max_ms();
        if let Some(settings) = self.thread_settings.threads.get_mut(id) {
            settings.parked_until = Some(until);
            settings.loaded_in = None;
            self.set_timer(until.since_ms(self.now), Timer::ParkedSettings);
        }
    }

    /// Forgets what was parked for long enough.
    pub(in crate::hub) fn forget_parked_settings(&mut self) {
        let is_over = |(id, settings): &(&ThreadId, &ThreadSettings)| {
            settings.parked_until.is_some_and(|until| until <= self.now) && !self.threads.contains_key(*id)
        };
        let over = self.thread_settings.threads.iter().filter(is_over);
        let mut over: Vec<ThreadId> = over.map(|(id, _)| id.clone()).collect();
        over.sort_unstable();
        over.iter().for_each(|id| self.forget_settings(id));
    }

    /// A client's `thread/resume` of a thread whose settings are parked, with those settings in place of its own: upstream
    /// would have the thread loaded still, and ignore what the resume gives.
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

    /// What the gateway before this one had stored. The app-server has unloaded what the gateway alone had subscribed to: a
    /// client that comes back and resumes its thread gets it as it was.
    pub(in crate::hub) fn restore_settings(&mut self, thread: &str, settings: &str) {
        if let Ok(mut known) = serde_json::from_str::<ThreadSettings>(settings) {
            let id: ThreadId = thread.into();
            known.parked_until = Some(self.now + UNWATCHED_MAX_MS);
            self.set_timer(UNWATCHED_MAX_MS, Timer::ParkedSettings);
            self.thread_settings.stored_bytes += settings.len();
            self.thread_settings.stored.insert(id.clone(), (settings.len(), fingerprint(settings)));
            self.thread_settings.threads.insert(id, known);
        }
    }

    /// There was a gateway before this one, and what it had stored is lost.
    pub(in crate::hub) fn on_stored_settings_lost(&mut self) {
        self.thread_settings.lost_until = Some(self.now + UNWATCHED_MAX_MS);
    }

    fn stored_settings_are_lost(&self) -> bool {
        self.thread_settings.lost_until.is_some_and(|until| self.now < until)
    }

    /// Has the host store the settings of a thread, if they have changed. Where they are too large the `config` is given
    /// up, and the answer is `false`.
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
        let now = (stored.len(), fingerprint(&stored));
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
    /// Too much to be kept: what is small and concerns security stays.
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

/// The parameters of a turn that outlast it. The input may be large and is not looked at.
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

pub(in crate::hub) fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
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
