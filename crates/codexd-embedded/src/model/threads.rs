//! Requests about whole threads: start, resume, read, name, archive, unsubscribe.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::ids::ThreadId;
use crate::model::hall::Asker;
use crate::model::lists::cursor;
use crate::model::thread::Thread;
use crate::model::transcript::{Meta, Record, Transcript};
use crate::model::views::{ThreadStatus, ThreadView, settings};
use crate::model::{Action, Found, Shelf, State};
use crate::params::{ThreadReadParams, ThreadResumeParams, ThreadSetNameParams, ThreadStartParams};
use crate::refusal::Refusal;
use crate::rollout;

impl State {
    pub(crate) fn thread_start(&mut self, asker: Asker<'_>, params: ThreadStartParams) {
        let hall = &mut self.hall;
        let defaults = &hall.settings;
        let meta = Meta {
            id: hall.minter.thread(hall.now),
            created: hall.now,
            cwd: params.cwd.unwrap_or_else(|| defaults.cwd.clone()),
            model: params.model.unwrap_or_else(|| defaults.model.clone()),
            model_provider: params.model_provider.unwrap_or_else(|| defaults.model_provider.clone()),
            approval_policy: params.approval_policy.unwrap_or_else(|| json!("on-request")),
            originator: hall.connections.originator().to_owned(),
            version: defaults.version.clone(),
        };
        let thread = Thread::start(meta, params.ephemeral == Some(true), asker.connection);
        let view = thread.view(false, hall);
        if !thread.is_ephemeral() {
            hall.act(Action::Claim(thread.id()));
        }
        let result = with_settings(view.clone(), &thread.transcript);
        hall.reply(asker, Ok(result));
        hall.tell_all("thread/started", &json!({"thread": view}));
        self.threads.insert(thread.id(), thread);
    }

    pub(crate) fn thread_resume(
        &mut self,
        asker: Asker<'_>,
        id: ThreadId,
        params: &ThreadResumeParams,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let Self { hall, threads } = self;
        let found = Found::from(shelf);
        let loaded = threads.get(&id);
        if !loaded.map_or(found.transcript.is_some(), Thread::is_on_disk) {
            return Err(Refusal::no_rollout(id));
        }
        if found.archived {
            return Err(Refusal::archived(id));
        }
        if !params.exclude_turns {
            hall.tell_one(asker.connection, "deprecationNotice", &hydration("use `excludeTurns: true`"));
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
        thread.subscribe(asker.connection);
        if cold {
            thread.tell_status(hall);
        }
        let result = resumed(thread.view(!params.exclude_turns, hall), &thread.transcript);
        hall.reply(asker, Ok(result));
        if cold || !params.exclude_turns {
            thread.tell_usage_to(&[asker.connection].into(), hall);
        }
        hall.tell_all("thread/goal/cleared", &json!({"threadId": id}));
        thread.repeat_question(asker.connection, hall);
        Ok(())
    }

    pub(crate) fn thread_read(
        &mut self,
        asker: Asker<'_>,
        id: ThreadId,
        params: &ThreadReadParams,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let hall = &mut self.hall;
        let view = match (self.threads.get(&id), Found::from(shelf)) {
            (Some(thread), _) if params.include_turns && thread.is_ephemeral() => {
                return Err(Refusal::invalid("ephemeral threads do not support includeTurns"));
            }
            (Some(thread), _) if params.include_turns && !thread.is_on_disk() => {
                return Err(Refusal::unsupported("list_turns"));
            }
            (Some(thread), _) => thread.view(params.include_turns, hall),
            (None, Found { transcript: Some(transcript), archived, .. }) => {
                let transcript = Arc::unwrap_or_clone(transcript).abandoned();
                unloaded_view(&transcript, archived, params.include_turns, self)
            }
            (None, _) => return Err(Refusal::not_loaded(id)),
        };
        let hall = &mut self.hall;
        if params.include_turns {
            let advice = "omit `includeTurns` or set it to `false`";
            hall.tell_one(asker.connection, "deprecationNotice", &hydration(advice));
        }
        hall.reply(asker, Ok(json!({"thread": view, "readState": null})));
        Ok(())
    }

    pub(crate) fn thread_unsubscribe(&mut self, asker: Asker<'_>, id: ThreadId) {
        let Self { hall, threads } = self;
        let was = threads.get_mut(&id).map(|thread| thread.unsubscribe(asker.connection, hall));
        let status = match was {
            None => "notLoaded",
            Some(true) => "unsubscribed",
            Some(false) => "notSubscribed",
        };
        hall.reply(asker, Ok(json!({"status": status})));
    }

    pub(crate) fn thread_set_name(
        &mut self,
        asker: Asker<'_>,
        id: ThreadId,
        params: &ThreadSetNameParams,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let Self { hall, threads } = self;
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
            Some(thread) => thread.remember(record, hall),
            None if Found::from(shelf).transcript.is_some() => {
                hall.act(Action::Append { thread: id, record });
            }
            None => return Err(Refusal::no_rollout(id)),
        }
        hall.reply(asker, Ok(json!({})));
        hall.tell_all("thread/name/updated", &json!({"threadId": id, "threadName": params.name.trim()}));
        Ok(())
    }

    pub(crate) fn thread_archive(
        &mut self,
        asker: Asker<'_>,
        id: ThreadId,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let Self { hall, threads } = self;
        let found = Found::from(shelf);
        match threads.remove(&id) {
            Some(thread) if thread.is_ephemeral() => {
                threads.insert(id, thread);
                return Err(Refusal::no_rollout(id));
            }
            Some(mut thread) => {
                if thread.running.is_some() {
                    thread.interrupt(hall);
                }
                thread.materialize(hall);
                thread.tell_status_as(ThreadStatus::NotLoaded, hall);
            }
            None if found.transcript.is_none() || found.archived => return Err(Refusal::no_rollout(id)),
            None if found.other_writer => return Err(Refusal::other_writer(id)),
            None => {}
        }
        hall.act(Action::Archive(id));
        hall.reply(asker, Ok(json!({})));
        hall.tell_all("thread/archived", &json!({"threadId": id}));
        Ok(())
    }

    pub(crate) fn thread_unarchive(
        &mut self,
        asker: Asker<'_>,
        id: ThreadId,
        shelf: Shelf,
    ) -> Result<(), Refusal> {
        let found = Found::from(shelf);
        if found.other_writer {
            return Err(Refusal::other_writer(id));
        }
        let transcript = found.transcript.filter(|_| found.archived);
        let transcript = transcript.ok_or_else(|| Refusal::no_archived_rollout(id))?;
        let view = unloaded_view(&transcript, false, false, self);
        self.hall.act(Action::Unarchive(id));
        self.hall.reply(asker, Ok(json!({"thread": view})));
        self.hall.tell_all("thread/unarchived", &json!({"threadId": id}));
        Ok(())
    }
}

impl From<Shelf> for Found {
    fn from(shelf: Shelf) -> Self {
        match shelf {
            Shelf::Thread(found) => found,
            _ => Self::default(),
        }
    }
}

/// A thread of which this process is not the writer.
fn unloaded_view(transcript: &Transcript, archived: bool, include_turns: bool, state: &State) -> Value {
    let path = rollout::path(&state.hall.settings.codex_home, transcript.meta.id, archived);
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
