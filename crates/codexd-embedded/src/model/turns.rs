//! Requests about turns: start, steer, interrupt. None of them subscribes, and none asks who is subscribed.

use serde_json::{Value, json};

use crate::ids::ThreadId;
use crate::model::State;
use crate::model::shared_state::Origin;
use crate::model::thread::Thread;
use crate::model::transcript::{ItemBody, Turn, TurnStatus};
use crate::model::views::accepted_turn_view;
use crate::params::{TurnInterruptParams, TurnStartParams, TurnSteerParams, UserInput};
use crate::refusal::Refusal;

impl State {
    /// Starts a turn. While one runs, the input goes to that one, and the reply names it.
    pub(crate) fn turn_start(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: TurnStartParams,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        let thread = threads.get_mut(&id).ok_or_else(|| Refusal::not_found(id))?;
        let message = message(params.input, params.client_user_message_id);
        if let Some(turn) = running_turn(thread) {
            shared.reply(origin, Ok(json!({"turn": accepted_turn_view(turn)})));
            if let Some(message) = message {
                thread.steer(message, shared);
            }
            return Ok(());
        }
        let turn = shared.id_generator.turn(shared.now);
        let accepted = Turn {
            id: turn,
            items: Vec::new(),
            status: TurnStatus::InProgress,
            error: None,
            started: shared.now,
            ended: None,
        };
        shared.reply(origin, Ok(json!({"turn": accepted_turn_view(&accepted)})));
        thread.begin(turn, message, shared);
        Ok(())
    }

    pub(crate) fn turn_steer(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: TurnSteerParams,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        let thread = threads.get_mut(&id).ok_or_else(|| Refusal::not_found(id))?;
        let Some(message) = message(params.input, params.client_user_message_id) else {
            return Err(Refusal::invalid("input must not be empty"));
        };
        let turn = running_turn(thread).ok_or_else(|| Refusal::invalid("no active turn to steer"))?.id;
        let expected = params.expected_turn_id;
        if expected != turn.to_string() {
            return Err(Refusal::invalid(format!("expected active turn id `{expected}` but found `{turn}`")));
        }
        shared.reply(origin, Ok(json!({"turnId": turn})));
        thread.steer(message, shared);
        Ok(())
    }

    pub(crate) fn turn_interrupt(
        &mut self,
        origin: Origin<'_>,
        id: ThreadId,
        params: &TurnInterruptParams,
    ) -> Result<(), Refusal> {
        let Self { shared, threads } = self;
        let thread = threads.get_mut(&id).ok_or_else(|| Refusal::not_found(id))?;
        let turn = running_turn(thread).ok_or_else(|| Refusal::invalid("no active turn to interrupt"))?.id;
        let expected = &params.turn_id;
        if *expected != turn.to_string() {
            return Err(Refusal::invalid(format!("expected active turn id {expected} but found {turn}")));
        }
        shared.reply(origin, Ok(json!({})));
        thread.interrupt(shared);
        Ok(())
    }
}

fn running_turn(thread: &Thread) -> Option<&Turn> {
    thread.transcript.turns.last().filter(|_| thread.running.is_some())
}

/// What the user says, as an item will show it; `None` if it is nothing.
fn message(input: Vec<UserInput>, client_id: Option<String>) -> Option<ItemBody> {
    if input.is_empty() {
        return None;
    }
    let content = input.into_iter().map(part).collect();
    Some(ItemBody::UserMessage { client_id, content })
}

fn part(input: UserInput) -> Value {
    let (kind, mut members) = match input {
        UserInput::Text { text, text_elements } => {
            return json!({"type": "text", "text": text, "text_elements": text_elements});
        }
        UserInput::Image(members) => ("image", members),
        UserInput::LocalImage(members) => ("localImage", members),
        UserInput::Audio(members) => ("audio", members),
        UserInput::LocalAudio(members) => ("localAudio", members),
        UserInput::Skill(members) => ("skill", members),
        UserInput::Mention(members) => ("mention", members),
    };
    members.insert("type".to_owned(), kind.into());
    Value::Object(members)
}
