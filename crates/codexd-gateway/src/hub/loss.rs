//! An app-server is gone: what it owed is answered, and its threads are loaded in its successor.
//!
//! A graceful end often loses the last words of a turn on the wire (0.169.0 delivered `turn/completed` in 1 of 12 drains)
//! while the turn is whole on disk. So the truth is read first, then told.

use serde_json::{Value, json};

use super::call::{Asker, Call, Errand, Kind};
use super::event::{Action, Link, Now, Report, ServerId, Text};
use super::pump::SERVER_ERROR;
use super::servers::LinkState;
use super::text;
use super::thread::{Motion, ThreadId, Turn, fingerprint};
use super::{Hub, Timer};
use crate::limits::{AGAIN_AFTER_MS, ARRIVAL_TRIES_MAX, HUSH_MS, RECONNECT_AFTER_MS};

const DELTA: &str = "item/agentMessage/delta";
/// Items that are told after the fact although their beginning was never seen.
const TOLD_LATE: [&str; 4] = ["agentMessage", "commandExecution", "fileChange", "mcpToolCall"];

/// A loss that is being made good.
#[derive(Debug)]
pub struct Loss {
    since: Now,
    recovered: usize,
    completed: usize,
    interrupted: usize,
}

impl Hub {
    pub(super) fn link_lost(&mut self, link: Link) {
        self.forget_asks(link);
        let owed = self.answer_what_is_owed(link);
        match link {
            Link::Shared(server) => self.shared_lost(server, owed),
            Link::Own(id, server) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.old_owns.retain(|old| *old != server);
                    client.placed.retain(|(.., at)| *at != server);
                    if client.own.is_some_and(|own| own.server == server) {
                        client.own = None;
                        client.own_again_at = self.now + RECONNECT_AFTER_MS;
                        client.lost_own = !client.watches.is_empty();
                    }
                }
                self.timer(RECONNECT_AFTER_MS, Timer::Reconnect);
                self.let_go_of_old_owns(id);
            }
        }
        self.see_whether_all_have_left();
        self.pump();
    }

    /// Whoever waits for an answer over a link is told that there will be none: nobody knows how far the request came.
    fn answer_what_is_owed(&mut self, link: Link) -> usize {
        let mut ids: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.link == link).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        let mut owed = 0;
        for id in ids {
            let Some(Call { asker, holds_slot, .. }) = self.calls.remove(&id) else { continue };
            match asker {
                Asker::Gateway(errand) => self.errand_lost(&errand),
                Asker::Client { client, id, kind, thread, .. } => {
                    if holds_slot {
                        self.give_back_slot(client);
                    }
                    if let (Kind::Turn | Kind::Starter, Some(thread)) =
                        (kind, thread.as_ref().and_then(|thread| self.threads.get_mut(thread)))
                    {
                        thread.starters = thread.starters.saturating_sub(1);
                    }
                    if self.clients.contains_key(&client) {
                        owed += 1;
                        let message =
                            "the app-server ended before it answered; whether it acted is not known";
                        let data = json!({"reason": "appServerRestarted"});
                        self.tell(client, text::error(&id, SERVER_ERROR, message, Some(&data)));
                    }
                }
            }
        }
        owed
    }

    fn shared_lost(&mut self, id: ServerId, requests: usize) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let was_up = std::mem::take(&mut server.shared) == LinkState::Up;
        server.draining = false;
        if !was_up {
            // It could not be opened: nothing was lost with it.
            return self.timer(RECONNECT_AFTER_MS, Timer::Reconnect);
        }
        if self.serving == Some(id) {
            self.serving = None;
        }
        self.handover_broke(id);
        let of_it = |thread: &&mut super::Thread| thread.server == id;
        let mut threads = 0;
        let mut lost_children = Vec::new();
        for thread in self.threads.values_mut().filter(of_it) {
            threads += 1;
            thread.motion = Motion::Lost;
            thread.starters = 0;
            thread.releasing = false;
            if !thread.is_watched() && thread.turns.is_empty() {
                lost_children.push(thread.id.clone());
            }
        }
        for thread in lost_children {
            self.tell_closed(&thread);
        }
        self.out.push(Action::Report(Report::ServerLost { server: id, threads, requests }));
        if threads > 0 && self.loss.is_none() {
            self.loss = Some(Loss { since: self.now, recovered: 0, completed: 0, interrupted: 0 });
        }
        // The process may live on: then its link is opened anew.
        self.timer(RECONNECT_AFTER_MS, Timer::Reconnect);
        // Or another one serves already.
        let other =
            self.servers.iter().find(|(_, server)| server.shared == LinkState::Up).map(|(&other, _)| other);
        if self.serving.is_none()
            && let Some(other) = other
        {
            self.serving = Some(other);
        }
        if let Some(serving) = self.serving {
            self.recover(serving);
        }
    }

    /// Opens what broke and is needed.
    pub(super) fn reconnect(&mut self) {
        self.connect_where_needed();
        let lost: Vec<_> =
            self.clients.values().filter(|client| client.lost_own).map(|client| client.id).collect();
        for client in lost {
            self.open_own(client);
        }
    }

    /// Loads what was lost in `server`, if that is the one to load it in.
    pub(super) fn recover(&mut self, server: ServerId) {
        if self.serving != Some(server) || self.current != Some(server) {
            return;
        }
        let lost = self.threads.values_mut().filter(|thread| thread.motion == Motion::Lost);
        let mut lost: Vec<ThreadId> = lost.map(|thread| thread.id.clone()).collect();
        lost.sort_unstable();
        for id in lost {
            self.recover_thread(&id, server);
        }
        self.see_whether_recovered();
    }

    fn recover_thread(&mut self, id: &ThreadId, server: ServerId) {
        let hush_until = self.now + HUSH_MS;
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Recovering;
        thread.server = server;
        thread.joiner = None;
        thread.hush_until = hush_until;
        thread.status_after = None;
        if thread.ephemeral {
            return self.end_as_lost(id);
        }
        let params = json!({"threadId": &**id, "excludeTurns": true});
        self.errand(Link::Shared(server), Errand::Recover(id.clone()), "thread/resume", &params);
    }

    /// The successor has loaded a thread, or says why not.
    pub(super) fn recovered(&mut self, id: &ThreadId, outcome: Result<&str, &str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Recovering)
        else {
            return;
        };
        match outcome {
            Ok(result) => {
                let told = text::member(result, "thread").map(|thread| thread.get().to_owned());
                let before = thread.status.clone();
                if let Some(told) = told {
                    thread.describe(&told);
                }
                // What was told last stands until the truth about the turn is known.
                let now = std::mem::replace(&mut thread.status, before);
                if thread.turns.is_empty() {
                    return self.at_home_again(id, &now, None);
                }
                let link = thread.link();
                let params =
                    json!({"threadId": &**id, "limit": 4, "sortDirection": "desc", "itemsView": "full"});
                self.errand(link, Errand::LastTurn(id.clone()), "thread/turns/list", &params);
                if let Some(thread) = self.threads.get_mut(id) {
                    thread.status_after.get_or_insert(now);
                }
            }
            Err(error) if error.contains("active writer") => {
                // The old process is not quite gone, or another program has the thread.
                let tries = thread.tries + 1;
                thread.tries = tries;
                if tries > ARRIVAL_TRIES_MAX {
                    return self.end_as_lost(id);
                }
                thread.motion = Motion::Lost;
                self.timer(AGAIN_AFTER_MS, Timer::Again(id.clone()));
            }
            Err(_) => self.end_as_lost(id),
        }
    }

    /// How the turns that were running have ended, as it stands on disk.
    pub(super) fn last_turn_told(&mut self, id: &ThreadId, result: Option<&str>) {
        let Some(thread) = self.threads.get_mut(id).filter(|thread| thread.motion == Motion::Recovering)
        else {
            return;
        };
        let status = thread.status_after.take().unwrap_or_else(|| thread.status.clone());
        let listed: Option<Value> = result.and_then(|result| serde_json::from_str(result).ok());
        self.at_home_again(id, &status, listed.as_ref());
    }

    fn at_home_again(&mut self, id: &ThreadId, status: &str, listed: Option<&Value>) {
        self.withdraw_asks(id);
        let Some(thread) = self.threads.get_mut(id) else { return };
        thread.motion = Motion::Still;
        thread.tries = 0;
        let changed = *thread.status != *status;
        thread.status = status.into();
        let turns = std::mem::take(&mut thread.turns);
        let is_alone = !thread.is_watched();
        let mut ends = Vec::new();
        for turn in turns {
            let found = listed
                .and_then(|listed| listed["data"].as_array())
                .and_then(|turns| turns.iter().find(|listed| listed["id"] == *turn.id));
            ends.push(self.end_of(id, &turn, found));
        }
        if changed || !ends.is_empty() {
            let status: Value = serde_json::from_str(status).unwrap_or(Value::Null);
            let params = json!({"threadId": &**id, "status": status});
            let method = "thread/status/changed";
            self.tell_everyone(method, &text::notification(method, &params));
        }
        for end in ends {
            self.tell_viewers(id, "turn/completed", &end);
        }
        if let Some(loss) = &mut self.loss {
            loss.recovered += 1;
        }
        if is_alone {
            self.left_alone(id);
        }
        self.see_whether_recovered();
        self.thread_stirred(id);
        self.pump();
    }

    /// Tells the rest of a turn and gives its `turn/completed`.
    fn end_of(&mut self, id: &ThreadId, turn: &Turn, found: Option<&Value>) -> Text {
        let whole = found.filter(|found| found["status"] != "inProgress" && found["status"] != "interrupted");
        let mut told: Value = serde_json::from_str(&turn.raw).unwrap_or(Value::Null);
        match whole {
            Some(found) => {
                self.tell_rest(id, turn, found);
                told = found.clone();
                let mut answers = found["items"].as_array().into_iter().flatten();
                let last = answers.rfind(|item| item["type"] == "agentMessage");
                told["items"] = Value::from_iter(last.cloned());
                told["itemsView"] = "summary".into();
            }
            None => {
                self.tell_partial(id, turn);
                for member in ["completedAt", "startedAt", "durationMs"] {
                    if let Some(known) = found.and_then(|found| found.get(member)) {
                        told[member] = known.clone();
                    }
                }
                told["status"] = "interrupted".into();
            }
        }
        if let Some(loss) = &mut self.loss {
            match whole {
                Some(_) => loss.completed += 1,
                None => loss.interrupted += 1,
            }
        }
        if let Some(thread) = self.threads.get_mut(id) {
            thread.turn_ended(&turn.id);
        }
        text::notification("turn/completed", &json!({"threadId": &**id, "turn": told}))
    }

    /// A turn ended well, unheard: the missing end of its text, and its items.
    fn tell_rest(&mut self, id: &ThreadId, turn: &Turn, found: &Value) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let open = std::mem::take(&mut thread.items);
        let mut texts: Vec<(&'static str, Text)> = Vec::new();
        let same = |item: &Value, known: &super::thread::OpenItem| {
            // 0.169.0 numbers the items of a turn anew when it reads them from disk: the kind and the text tell.
            item["id"] == *known.id || is_continued(item, known)
        };
        for item in found["items"].as_array().into_iter().flatten() {
            let known = open.iter().find(|known| *known.turn == *turn.id && same(item, known));
            let begins = known.is_none() && TOLD_LATE.iter().any(|kind| item["type"] == **kind);
            if thread.was_told(item) || (known.is_none() && !begins) {
                continue;
            }
            let mut item = item.clone();
            if let Some(known) = known {
                if let (Some(whole), Some(partial)) = (item["text"].as_str(), known.text_so_far())
                    && let Some(rest) = whole.strip_prefix(partial).filter(|rest| !rest.is_empty())
                {
                    let params =
                        json!({"threadId": &**id, "turnId": &*turn.id, "itemId": &*known.id, "delta": rest});
                    texts.push((DELTA, text::notification(DELTA, &params)));
                }
                item["id"] = Value::from(&*known.id);
            }
            let params = json!({"threadId": &**id, "turnId": &*turn.id, "item": item});
            if begins {
                texts.push(("item/started", text::notification("item/started", &params)));
            }
            texts.push(("item/completed", text::notification("item/completed", &params)));
        }
        for (method, text) in texts {
            self.tell_viewers(id, method, &text);
        }
    }

    /// A turn was cut: its open items end with what they had.
    fn tell_partial(&mut self, id: &ThreadId, turn: &Turn) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let open = std::mem::take(&mut thread.items);
        let mut texts = Vec::new();
        for known in open.iter().filter(|known| *known.turn == *turn.id) {
            let started: Value = serde_json::from_str(&known.started).unwrap_or(Value::Null);
            let mut item = started["params"]["item"].clone();
            if let Some(partial) = known.text_so_far() {
                item["text"] = partial.into();
            }
            if item["status"] == "inProgress" {
                item["status"] = "failed".into();
            }
            let params = json!({"threadId": &**id, "turnId": &*turn.id, "item": item});
            texts.push(text::notification("item/completed", &params));
        }
        for text in texts {
            self.tell_viewers(id, "item/completed", &text);
        }
    }

    /// A thread that cannot be loaded again: ephemeral, or never written to disk.
    pub(super) fn end_as_lost(&mut self, id: &ThreadId) {
        self.withdraw_asks(id);
        let turns = self.threads.get(id).map(|thread| thread.turns.clone()).unwrap_or_default();
        for turn in turns {
            let end = self.end_of(id, &turn, None);
            self.tell_viewers(id, "turn/completed", &end);
        }
        self.tell_closed(id);
        self.see_whether_recovered();
        self.pump();
    }

    pub(super) fn tell_closed(&mut self, id: &ThreadId) {
        let status = json!({"threadId": &**id, "status": {"type": "notLoaded"}});
        let method = "thread/status/changed";
        self.tell_everyone(method, &text::notification(method, &status));
        let method = "thread/closed";
        self.tell_everyone(method, &text::notification(method, &json!({"threadId": &**id})));
        self.threads.remove(id);
        self.asks.thread_gone(id);
    }

    fn see_whether_recovered(&mut self) {
        let missing = |thread: &super::Thread| matches!(thread.motion, Motion::Lost | Motion::Recovering);
        let Some(server) = self.serving.filter(|_| !self.threads.values().any(missing)) else { return };
        if let Some(loss) = self.loss.take() {
            self.out.push(Action::Report(Report::Recovered {
                server,
                threads: loss.recovered,
                completed: loss.completed,
                interrupted: loss.interrupted,
                took_ms: self.now.since_ms(loss.since),
            }));
        }
    }
}

/// Whether an item on disk is the one whose text was streamed so far.
fn is_continued(item: &Value, known: &super::thread::OpenItem) -> bool {
    let (Some(whole), Some(partial)) = (item["text"].as_str(), known.text_so_far()) else { return false };
    item["type"] == "agentMessage" && !partial.is_empty() && whole.starts_with(partial)
}

impl super::Thread {
    /// Whether an item on disk was told whole before the loss.
    fn was_told(&self, item: &Value) -> bool {
        let by =
            |member: &str| item[member].as_str().is_some_and(|text| self.told.contains(&fingerprint(text)));
        by("id") || by("text")
    }
}
