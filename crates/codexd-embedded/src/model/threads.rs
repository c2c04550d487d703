//! Requests about whole threads: start, resume, read, name, archive, unsubscribe.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::ids::ThreadId;
use crate::model::lists::cursor;
use crate::model::shared_state::Origin;
use crate::model::thread::Thread;
use crate::model::transcript::{Meta, Record, Transcript};
use crate::model::views::{ThreadStatus, ThreadView, settings};
use crate::model::{Action, Found, Lookup, State};
use crate::params::{ThreadReadParams, ThreadResumeParams, ThreadSetNameParams, ThreadStartParams};
use crate::refusal::Refusal;
use crate::rollout;

impl State {
    pub(crate) fn thread_start(&mut self, origin: Origin<'_>, params: ThreadStartParams) {
        let shared = &mut self.shared;
        let defaults = &shared.settings;
        let meta = Meta {
            id: shared.id_generator.thread(shared.now),
            created: shared.now,
            cwd: params.cwd.unwrap_or_else(|| defaults.cwd.clone()),
            model: params.model.unwrap_or_else(|| defaults.model.clone()),
            model_provider: params.model_provider.unwrap_or_else(|| defaults.model_provider.clone()),
            approval_policy: params.approval_policy.map_or_else(|| json!("on-request"), |policy| policy.0),
            originator: shared.connections.originator().to_owned(),
            version: defaults.version.clone(),
        };
        let thread = Thread::start(meta, params.ephemeral == Some(true), origin.connection);
        let view = thread.view(false, shared);
        if !thread.is_ephemeral() {
            shared.act(Action::Claim(thread.id()));
        }
        let result = with_settings(view.clone(), &thread.transcript);
        shared.reply(origin, Ok(result));
        shared.broadcast("thread/started", &json!({"thread": view}));
        self.threads.insert(thread.id(), thread);
    }

    pub(crate) fn thread_resume(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: &ThreadResumeParams,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        let found = Found::from(lookup);
        let loaded = threads.get(&id);
        if !loaded.map_or(found.transcript.is_some(), Thread::is_on_disk) {
            return Err(Refusal::no_rollout(id));
        }
        if found.archived {
            return Err(Refusal::archived(id));
        }
        if !params.exclude_turns {
            shared.notify_client(
                origin.connection,
                "deprecationNotice",
                &hydration("use `excludeTurns: true`"),
            );
        }
        if found.other_writer {
            return Err(Refusal::other_writer(id));
        }
        let cold = loaded.is_none();
        let thread = match found.transcript {
            Some(transcript) if cold => {
                threads.entry(id).or_insert_with(|| Thread::load(Arc::unwrap_or_clone(transcript)))
            }
            _ => threads.get_mut(&id).ok_or_else(|| Refusal::no_rollout(id))?,
        };
        thread.subscribe(origin.connection);
        if cold {
            thread.notify_status(shared);
        }
        let result = resumed(thread.view(!params.exclude_turns, shared), &thread.transcript);
        shared.reply(origin, Ok(result));
        if cold || !params.exclude_turns {
            thread.notify_usage_to(&[origin.connection].into(), shared);
        }
        shared.broadcast("thread/goal/cleared", &json!({"threadId": id}));
        thread.resend_approval(origin.connection, shared);
        Ok(())
    }

    pub(crate) fn thread_read(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: &ThreadReadParams,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let shared = &mut self.shared;
        let view = match (self.threads.get(&id), Found::from(lookup)) {
            (Some(thread), _) if params.include_turns && thread.is_ephemeral() => {
                return Err(Refusal::invalid("ephemeral threads do not support includeTurns"));
            }
            (Some(thread), _) if params.include_turns && !thread.is_on_disk() => {
                return Err(Refusal::unsupported("list_turns"));
            }
            (Some(thread), _) => thread.view(params.include_turns, shared),
            (None, Found { transcript: Some(transcript), archived, .. }) => {
                let transcript = Arc::unwrap_or_clone(transcript).abandoned();
                unloaded_view(&transcript, archived, params.include_turns, self)
            }
            (None, _) => return Err(Refusal::not_loaded(id)),
        };
        let shared = &mut self.shared;
        if params.include_turns {
            let advice = "omit `includeTurns` or set it to `false`";
            shared.notify_client(origin.connection, "deprecationNotice", &hydration(advice));
        }
        shared.reply(origin, Ok(json!({"thread": view, "readState": null})));
        Ok(())
    }

    pub(crate) fn thread_unsubscribe(&mut self, origin: Origin<'_>, id: ThreadId) {
        let Self { shared, threads } = self;
        let was = threads.get_mut(&id).map(|thread| thread.unsubscribe(origin.connection, shared));
        let status = match was {
            None => "notLoaded",
            Some(true) => "unsubscribed",
            Some(false) => "notSubscribed",
        };
        shared.reply(origin, Ok(json!({"status": status})));
    }

    pub(crate) fn thread_set_name(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: &ThreadSetNameParams,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        if params.name.trim().is_empty() {
            return Err(Refusal::invalid("thread name must not be empty"));
        }
        let record = Record::Named { name: params.name.trim().to_owned() };
        match threads.get_mut(&id) {
            Some(thread) if thread.is_ephemeral() => {
                return Err(Refusal::invalid(format!(
                    "ephemeral thread does not support metadata updates: {id}"
                )));
            }
            Some(thread) => thread.record(record, shared),
            None if Found::from(lookup).transcript.is_some() => {
                shared.act(Action::Append { thread: id, record });
            }
            None => return Err(Refusal::no_rollout(id)),
        }
        shared.reply(origin, Ok(json!({})));
        shared.broadcast("thread/name/updated", &json!({"threadId": id, "threadName": params.name.trim()}));
        Ok(())
    }

    pub(crate) fn thread_archive(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        let found = Found::from(lookup);
        match threads.remove(&id) {
            Some(thread) if thread.is_ephemeral() => {
                threads.insert(id, thread);
                return Err(Refusal::no_rollout(id));
            }
            Some(mut thread) => {
                if thread.running.is_some() {
                    thread.interrupt(shared);
                }
                thread.materialize(shared);
                thread.notify_status_as(ThreadStatus::NotLoaded, shared);
            }
            None if found.transcript.is_none() || found.archived => return Err(Refusal::no_rollout(id)),
            None if found.other_writer => return Err(Refusal::other_writer(id)),
            None => {}
        }
        shared.act(Action::Archive(id));
        shared.reply(origin, Ok(json!({})));
        shared.broadcast("thread/archived", &json!({"threadId": id}));
        Ok(())
    }

    pub(crate) fn thread_unarchive(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let found = Found::from(lookup);
        if found.other_writer {
            return Err(Refusal::other_writer(id));
        }
        let transcript = found.transcript.filter(|_| found.archived);
        let transcript = transcript.ok_or_else(|| Refusal::no_archived_rollout(id))?;
        let view = unloaded_view(&transcript, false, false, self);
        self.shared.act(Action::Unarchive(id));
        self.shared.reply(origin, Ok(json!({"thread": view})));
        self.shared.broadcast("thread/unarchived", &json!({"threadId": id}));
        Ok(())
    }
}

impl From<Lookup> for Found {
    fn from(lookup: Lookup) -> Self {
        match lookup {
            Lookup::Thread(found) => found,
            _ => Self::default(),
        }
    }
}

/// A thread of which this process is not the writer.
fn unloaded_view(transcript: &Transcript, archived: bool, include_turns: bool, state: &State) -> Value {
    let path = rollout::path(&state.shared.settings.codex_home, transcript.meta.id, archived);
    let path = path.display().to_string();
    let status = ThreadStatus::NotLoaded;
    ThreadView { transcript, status, path: Some(&path), takes_input: false, include_turns }.view()
}

fn with_settings(view: Value, transcript: &Transcript) -> Value {
    let mut result = json!({"thread": view});
    if let (Value::Object(result), Value::Object(settings)) = (&mut result, settings(transcript)) {
        result.extend(settings);
    }
    result
}

fn resumed(view: Value, transcript: &Transcript) -> Value {
    let mut result = with_settings(view, transcript);
    let turns = transcript.turns.len();
    let items = transcript.turns.iter().map(|turn| turn.items.len()).sum();
    let id = transcript.meta.id;
    result["collaborationMode"] = json!({
        "mode": "default",
        "settings": {
            "model": transcript.meta.model, "reasoning_effort": null, "developer_instructions": null,
        },
    });
    result["initialTurnsPage"] = Value::Null;
    result["turnsBackwardsCursor"] = cursor(id, "turns", turns, true);
    result["itemsBackwardsCursor"] = cursor(id, "itemsByCreatedAtOrdinal", items, true);
    result
}

fn hydration(advice: &str) -> Value {
    json!({
        "summary": format!(
            "Full-history hydration is deprecated for paginated threads; {advice}, then page with \
             `thread/turns/list` and `thread/items/list`."
        ),
        "details": null,
    })
}
