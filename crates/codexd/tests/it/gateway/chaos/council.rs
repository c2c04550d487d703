//! Approvals: the subscribers of a thread who all answer the same question at once, while strangers answer it, too.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, ensure};
use codexd_testkit::Wire;
use serde_json::{Value, json};

use super::super::front::PATIENCE;
use super::super::sharing::QUESTION;
use super::arena::{Arena, Dice, Trouble, count};

/// Subscribers of one thread.
pub(super) const MEMBERS: usize = 6;
/// Clients of one council: its members, and a stranger.
pub(super) const CLIENTS: usize = MEMBERS + 1;

/// One subscriber and what it has heard of the thread.
#[derive(Debug)]
struct Member {
    wire: Wire,
    came: usize,
    /// The questions that it was asked.
    questions: BTreeMap<u64, Question>,
    /// How the commands of each turn ended.
    commands: BTreeMap<String, Vec<String>>,
    /// How each turn ended.
    ends: BTreeMap<String, String>,
}

/// A question as one member knows it.
#[derive(Debug)]
struct Question {
    turn: String,
    /// How often it was told that this is resolved.
    resolved: usize,
}

/// The council of one thread.
#[derive(Debug)]
struct Council<'a> {
    arena: &'a Arena,
    number: u64,
    thread: String,
    members: Vec<Member>,
    stranger: Option<(Wire, usize)>,
    round: usize,
    /// What each round agreed on, if nothing got in its way.
    agreed: BTreeMap<String, Option<bool>>,
}

impl Member {
    fn come(arena: &Arena, thread: &str) -> Result<Member, Trouble> {
        let (mut wire, came) = arena.connect()?;
        let about = json!({"threadId": thread, "excludeTurns": true});
        loop {
            let servers = arena.servers.now();
            match wire.call("thread/resume", &about) {
                Ok(_) => break,
                Err(error) if is_restart(&error.to_string()) && arena.servers.since(servers) => {}
                Err(error) => return Err(arena.lost(&error, came)),
            }
        }
        let (questions, commands, ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Member { wire, came, questions, commands, ends })
    }

    /// Reads until something is so.
    fn hear_until(
        &mut self,
        arena: &Arena,
        thread: &str,
        what: &str,
        is_so: impl Fn(&Member) -> bool,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > deadline {
                return Err(Trouble::Wrong(format!("{thread}: waited for {what}: {}", self.heard())));
            }
            self.hear(arena, thread)?;
        }
        Ok(())
    }

    /// Reads one message; gives it if it is an answer.
    fn hear(&mut self, arena: &Arena, thread: &str) -> Result<Option<Value>, Trouble> {
        let message = self.wire.message().map_err(|error| match arena.lost(&error, self.came) {
            Trouble::Wrong(what) => Trouble::Wrong(format!("{thread}: {what}: {}", self.heard())),
            cut => cut,
        })?;
        let message: Value = serde_json::from_slice(&message)
            .map_err(|error| Trouble::Wrong(format!("no JSON came: {error}")))?;
        let params = &message["params"];
        let Some(method) = message["method"].as_str() else { return Ok(Some(message)) };
        if params["threadId"] != *thread {
            return Ok(None);
        }
        let again = match method {
            QUESTION => {
                let question = Question { turn: text(&params["turnId"]), resolved: 0 };
                self.questions.insert(message["id"].as_u64().unwrap_or(u64::MAX), question).is_some()
            }
            "serverRequest/resolved" => {
                let number = params["requestId"].as_u64().unwrap_or(u64::MAX);
                self.questions.get_mut(&number).is_some_and(|question| {
                    question.resolved += 1;
                    question.resolved > 1
                })
            }
            "item/completed" if params["item"]["type"] == "commandExecution" => {
                let ended = self.commands.entry(text(&params["turnId"])).or_default();
                ended.push(text(&params["item"]["status"]));
                false
            }
            "turn/completed" => {
                self.ends.insert(text(&params["turn"]["id"]), text(&params["turn"]["status"])).is_some()
            }
            _ => false,
        };
        if again { Err(Trouble::Wrong(format!("told twice: {message}"))) } else { Ok(None) }
    }

    /// What it has heard, for an error.
    fn heard(&self) -> String {
        format!("questions {:?}, commands {:?}, turns {:?}", self.questions, self.commands, self.ends)
    }

    /// The question that waits for an answer.
    fn is_asked(&self) -> Option<u64> {
        self.questions.iter().find(|(_, question)| question.resolved == 0).map(|(number, _)| *number)
    }

    /// The questions of one turn.
    fn of_turn<'a>(&'a self, turn: &'a str) -> impl Iterator<Item = (u64, &'a Question)> {
        let questions = self.questions.iter().filter(move |(_, question)| question.turn == turn);
        questions.map(|(number, question)| (*number, question))
    }

    fn answer(&mut self, arena: &Arena, question: u64, decision: &str) -> Result<(), Trouble> {
        say(&mut self.wire, self.came, arena, question, decision)
    }

    /// Forgets what is over.
    fn forget(&mut self) {
        self.questions.retain(|_, question| question.resolved == 0);
        self.commands.clear();
        self.ends.clear();
    }
}

fn say(wire: &mut Wire, came: usize, arena: &Arena, question: u64, decision: &str) -> Result<(), Trouble> {
    count(&arena.counts.messages);
    let answer = json!({"id": question, "result": {"decision": decision}});
    wire.send(&answer.to_string()).map_err(|error| arena.lost(&error, came))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_restart(sentence: &str) -> bool {
    sentence.contains("appServerRestarted")
}

impl Council<'_> {
    /// One question, from the turn that asks it to its end.
    fn decide(&mut self, dice: &mut Dice) -> Result<(), Trouble> {
        self.round += 1;
        let (arena, servers) = (self.arena, self.arena.servers.now());
        let nonce = format!("{}-{}", self.number, self.round);
        self.agreed.insert(nonce.clone(), None);
        self.members.iter_mut().for_each(Member::forget);
        let Some(turn) = self.begin(&nonce, servers)? else {
            // Nobody knows whether there is a turn; everybody will be told if there is.
            return Err(Trouble::Cut);
        };
        for member in &mut self.members {
            member.hear_until(arena, &self.thread, "the question", |member| {
                member.of_turn(&turn).next().is_some() || member.ends.contains_key(&turn)
            })?;
        }
        let decisions = self.answer_all_at_once(&turn, dice)?;
        for member in &mut self.members {
            member.hear_until(arena, &self.thread, "the end", |member| {
                member.ends.contains_key(&turn) && member.of_turn(&turn).all(|(_, asked)| asked.resolved == 1)
            })?;
        }
        if arena.servers.since(servers) {
            count(&arena.counts.disturbed);
            return Ok(());
        }
        let accepted = self.outcome(&turn, &decisions)?;
        self.agreed.insert(nonce, Some(accepted));
        count(&arena.counts.questions);
        Ok(())
    }

    /// Starts the turn that asks; none if the app-server died of it.
    fn begin(&mut self, nonce: &str, servers: usize) -> Result<Option<String>, Trouble> {
        let (arena, first) = (self.arena, &mut self.members[0]);
        let ran = arena.work.join("ran");
        let text = format!("run [[shell=echo {nonce} >> {};; escalate=1 deltas=2]]", ran.display());
        let params = json!({"threadId": self.thread, "input": [{"type": "text", "text": text}]});
        count(&arena.counts.messages);
        let asked = first.wire.request("turn/start", &params.to_string());
        let id = asked.map_err(|error| arena.lost(&error, first.came))?;
        let answer = loop {
            if let Some(answer) = first.hear(arena, &self.thread)? {
                break answer;
            }
        };
        if answer["id"] != id {
            return Err(Trouble::Wrong(format!("not the answer to {id}: {answer}")));
        }
        match answer["result"]["turn"]["id"].as_str() {
            Some(turn) => Ok(Some(turn.to_owned())),
            None if is_restart(&answer.to_string()) && arena.servers.since(servers) => Ok(None),
            None => Err(Trouble::Wrong(format!("no turn: {answer}"))),
        }
    }

    /// All who were asked answer, in any order and some of them twice; so does one who was not. Gives the answers that count.
    fn answer_all_at_once(&mut self, turn: &str, dice: &mut Dice) -> Result<Vec<&'static str>, Trouble> {
        const DECISIONS: [&str; 2] = ["accept", "decline"];
        let arena = self.arena;
        let mut asked: Vec<(&mut Member, u64)> = Vec::new();
        for member in &mut self.members {
            let question = member.of_turn(turn).map(|(number, _)| number).next();
            asked.extend(question.map(|question| (member, question)));
        }
        if let (Some((_, question)), Some((wire, came))) = (asked.first(), &mut self.stranger) {
            arena.question.store(*question, Ordering::Relaxed);
            say(wire, *came, arena, *question, "cancel")?;
        }
        let mut decisions = Vec::new();
        while !asked.is_empty() {
            let (member, question) = asked.swap_remove(dice.place(asked.len()));
            let first = dice.place(DECISIONS.len());
            member.answer(arena, question, DECISIONS[first])?;
            decisions.push(DECISIONS[first]);
            if dice.one_in(3) {
                member.answer(arena, question, DECISIONS[1 - first])?;
            }
        }
        Ok(decisions)
    }

    /// Whether the command was accepted, which everybody saw in the same way; the turn ended whole.
    fn outcome(&self, turn: &str, decisions: &[&str]) -> Result<bool, Trouble> {
        let commands = |member: &Member| member.commands.get(turn).cloned().unwrap_or_default();
        let command = commands(&self.members[0]).first().cloned();
        let command = command.as_deref();
        for member in &self.members {
            let is_whole = member.ends.get(turn).is_some_and(|status| status == "completed");
            let same = commands(member).len() == 1 && commands(member).first().map(String::as_str) == command;
            if !is_whole || !same || member.of_turn(turn).count() != 1 {
                let heard = member.heard();
                return Err(Trouble::Wrong(format!(
                    "{turn}: not as everybody saw it ({command:?}): {heard}"
                )));
            }
        }
        let accepted = command == Some("completed");
        let of_somebody = if accepted { "accept" } else { "decline" };
        if decisions.contains(&of_somebody) && (accepted || command == Some("declined")) {
            Ok(accepted)
        } else {
            Err(Trouble::Wrong(format!("{command:?} is no answer of theirs: {decisions:?}")))
        }
    }

    /// Comes together, once more if need be, and ends what is still open.
    fn gather(&mut self) -> Result<(), Trouble> {
        let arena = self.arena;
        self.members.clear();
        self.stranger = Some(arena.connect()?);
        while self.members.len() < MEMBERS {
            self.members.push(Member::come(arena, &self.thread)?);
        }
        let read = json!({"threadId": self.thread});
        loop {
            let first = &mut self.members[0];
            let servers = arena.servers.now();
            let id = first.wire.request("thread/read", &read.to_string());
            let id = id.map_err(|error| arena.lost(&error, first.came))?;
            let answer = loop {
                match first.hear(arena, &self.thread)? {
                    Some(answer) if answer["id"] == id => break answer,
                    _ => {}
                }
            };
            if is_restart(&answer.to_string()) && arena.servers.since(servers) {
                continue;
            }
            if answer["result"]["thread"]["status"]["type"] != "active" {
                return Ok(());
            }
            let ended = first.ends.len();
            first.hear_until(arena, &self.thread, "an open question or the end", |first| {
                first.is_asked().is_some() || first.ends.len() > ended
            })?;
            if let Some(question) = first.is_asked() {
                first.answer(arena, question, "accept")?;
                first.hear_until(arena, &self.thread, "the end of what was open", |first| {
                    first.ends.len() > ended
                })?;
            }
        }
    }
}

/// The life of one council.
pub(super) fn sit(arena: &Arena, number: u64, seed: u64) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed.wrapping_add(1_000 + number));
    let thread = own_thread(arena)?;
    let (members, agreed) = (Vec::new(), BTreeMap::new());
    let mut council = Council { arena, number, thread, members, stranger: None, round: 0, agreed };
    while !arena.is_over() {
        let outcome = if council.members.is_empty() { council.gather() } else { council.decide(&mut dice) };
        match outcome {
            Ok(()) => {}
            Err(Trouble::Cut) => {
                count(&arena.counts.disturbed);
                council.members.clear();
            }
            Err(wrong) => return Err(wrong.into()),
        }
    }
    council.every_command_ran_as_was_agreed()
}

/// A thread that has had a turn; another one, if somebody was killed in the middle of that.
fn own_thread(arena: &Arena) -> anyhow::Result<String> {
    loop {
        let (servers, gateways) = (arena.servers.now(), arena.gateways.now());
        match begin_thread(arena) {
            Err(_) if arena.servers.since(servers) || arena.gateways.since(gateways) => {}
            begun => return begun,
        }
    }
}

fn begin_thread(arena: &Arena) -> anyhow::Result<String> {
    let mut wire = Wire::connect(&arena.socket)?;
    let started = wire.call("thread/start", &json!({"cwd": arena.work}))?;
    let thread = started["thread"]["id"].as_str().context("a thread")?.to_owned();
    let input = json!([{"type": "text", "text": "[[deltas=1]]"}]);
    wire.call("turn/start", &json!({"threadId": thread, "input": input}))?;
    loop {
        let message: Value = serde_json::from_slice(&wire.message()?)?;
        if message["method"] == "turn/completed" && message["params"]["threadId"] == *thread {
            return Ok(thread);
        }
    }
}

impl Council<'_> {
    /// What was accepted ran once, and what was declined never; the embedded server runs nothing.
    fn every_command_ran_as_was_agreed(&self) -> anyhow::Result<()> {
        let Ok(ran) = fs::read_to_string(self.arena.work.join("ran")) else { return Ok(()) };
        for (nonce, agreed) in &self.agreed {
            let times = ran.lines().filter(|line| line == nonce).count();
            match agreed {
                Some(accepted) => ensure!(times == usize::from(*accepted), "{nonce} ran {times} times"),
                None => ensure!(times <= 1, "{nonce} ran {times} times"),
            }
        }
        Ok(())
    }
}
