//! Lists, page by page: threads, loaded threads, turns.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::ids::ThreadId;
use crate::limits::{PAGE_ENTRIES, PAGE_ENTRIES_MAX};
use crate::model::shared_state::Origin;
use crate::model::transcript::{Transcript, Turn};
use crate::model::views::{ThreadStatus, ThreadView, turn_view};
use crate::model::{Found, Lookup, State};
use crate::params::{ItemsView, SortDirection, ThreadListParams, ThreadTurnsListParams};
use crate::refusal::Refusal;
use crate::rollout;
use crate::timestamp::Timestamp;

impl State {
    pub(crate) fn thread_list(&mut self, origin: Origin<'_>, params: &ThreadListParams, lookup: Lookup) {
        let archived = params.archived == Some(true);
        let mut threads = match lookup {
            Lookup::Threads(threads) => threads,
            _ => Vec::new(),
        };
        threads.sort_by_key(|thread| Reverse((thread.meta.created, thread.meta.id)));
        // A thread that has nothing but a name is not shown until something is said in it, or it is archived.
        threads.retain(|thread| archived || !thread.turns.is_empty());
        let from = params.cursor.as_deref();
        threads
            .retain(|thread| from.is_none_or(|from| format_timestamp(thread.meta.created).as_str() < from));
        let size = page_size(params.limit);
        let more = threads.len() > size;
        threads.truncate(size);
        let data: Vec<Value> = threads.iter().map(|thread| self.listed(thread, archived)).collect();
        let edge = |thread: Option<&Arc<Transcript>>| thread.map(|it| format_timestamp(it.meta.created));
        let result = json!({
            "data": data,
            "readStates": {},
            "nextCursor": edge(threads.last()).filter(|_| more),
            "backwardsCursor": edge(threads.first()),
        });
        self.shared.reply(origin, Ok(result));
    }

    pub(crate) fn thread_loaded_list(&mut self, origin: Origin<'_>) {
        let ids: Vec<&ThreadId> = self.threads.keys().collect();
        let result = json!({"data": ids, "nextCursor": null});
        self.shared.reply(origin, Ok(result));
    }

    pub(crate) fn thread_turns_list(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: &ThreadTurnsListParams,
        lookup: Lookup,
    ) -> Result<(), Refusal> {
        let result = match (self.threads.get(&id), Found::from(lookup).transcript) {
            (Some(thread), _) if !thread.is_on_disk() => {
                return Err(Refusal::not_materialized(id, "thread/turns/list"));
            }
            (Some(thread), _) => turns_page(&thread.transcript, params)?,
            (None, Some(transcript)) => turns_page(&Arc::unwrap_or_clone(transcript).abandoned(), params)?,
            (None, None) => return Err(Refusal::not_loaded(id)),
        };
        self.shared.reply(origin, Ok(result));
        Ok(())
    }

    /// A thread of a list. A loaded thread is shown with its current state.
    fn listed(&self, transcript: &Transcript, archived: bool) -> Value {
        let id = transcript.meta.id;
        let loaded = self.threads.get(&id);
        let path = rollout::path(&self.shared.settings.codex_home, id, archived).display().to_string();
        ThreadView {
            transcript: loaded.map_or(transcript, |thread| &thread.transcript),
            status: loaded.map_or(ThreadStatus::NotLoaded, |thread| thread.status()),
            path: Some(&path),
            takes_input: false,
            include_turns: false,
        }
        .view()
    }
}

/// A cursor into a thread's turns or items in upstream's format; null if the list is empty.
pub(crate) fn cursor(thread: ThreadId, kind: &str, ordinal: usize, include: bool) -> Value {
    if ordinal == 0 {
        return Value::Null;
    }
    let place = json!({
        "requestedThreadId": thread,
        "rolloutOrdinal": ordinal,
        "includeAnchor": include,
        "scope": {"kind": kind},
    });
    Value::String(place.to_string())
}

/// One page of turns, newest first unless the client wants it otherwise. Turns are counted from 1.
fn turns_page(transcript: &Transcript, params: &ThreadTurnsListParams) -> Result<Value, Refusal> {
    let mut turns: Vec<(usize, &Turn)> = (1..).zip(&transcript.turns).collect();
    let newest_first = params.sort_direction != Some(SortDirection::Asc);
    if newest_first {
        turns.reverse();
    }
    if let Some(text) = &params.cursor {
        let place: Value = serde_json::from_str(text).unwrap_or_default();
        let (Some(anchor), Some(include)) =
            (place["rolloutOrdinal"].as_u64(), place["includeAnchor"].as_bool())
        else {
            return Err(Refusal::invalid(format!("invalid cursor: {text}")));
        };
        turns.retain(|&(ordinal, _)| {
            let (ordinal, anchor) = (ordinal as u64, anchor);
            let beyond = if newest_first { ordinal < anchor } else { ordinal > anchor };
            beyond || (include && ordinal == anchor)
        });
    }
    let size = page_size(params.limit);
    let more = turns.len() > size;
    turns.truncate(size);
    let items = params.items_view.unwrap_or(ItemsView::Summary);
    let data: Vec<Value> = turns.iter().map(|(_, turn)| turn_view(turn, items)).collect();
    let place = |turn: Option<&(usize, &Turn)>, include| {
        cursor(transcript.meta.id, "turns", turn.map_or(0, |&(ordinal, _)| ordinal), include)
    };
    Ok(json!({
        "data": data,
        "nextCursor": if more { place(turns.last(), false) } else { Value::Null },
        "backwardsCursor": place(turns.first(), true),
    }))
}

fn page_size(limit: Option<u32>) -> usize {
    limit.map_or(PAGE_ENTRIES, |limit| limit as usize).clamp(1, PAGE_ENTRIES_MAX)
}

fn format_timestamp(timestamp: Timestamp) -> String {
    let millis = i64::try_from(timestamp.millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map(|at| format!("{at:.3}")).unwrap_or_default()
}
