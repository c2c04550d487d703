//! Approvals: all subscribers of a thread answer the same approval at once, and an unsubscribed client answers it, too.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, ensure};
use codexd_testkit::Wire;
use serde_json::{Value, json};

use super::super::fixture::TIMEOUT;
use super::super::sharing::QUESTION;
use super::harness::{ClientError, Harness, Rng, count};

/// Subscribers of one thread.
pub(super) const MEMBERS: usize = 6;
/// Clients of one approval group: its members and one unsubscribed client.
pub(super) const CLIENTS: usize = MEMBERS + 1;

/// One subscriber and what it received about the thread.
#[derive(Debug)]
struct Member {
    wire: Wire,
    came: usize,
    /// The approvals that it was asked for.
    questions: BTreeMap<u64, Question>,
    /// How the commands of each turn ended.
    commands: BTreeMap<String, Vec<String>>,
    /// How each turn ended.
    ends: BTreeMap<String, String>,
}

/// An approval as one member sees it.
#[derive(Debug)]
struct Question {
    turn: String,
    /// How many `serverRequest/resolved` it received.
    resolved: usize,
}

/// The approval group of one thread.
#[derive(Debug)]
struct ApprovalGroup<'a> {
    harness: &'a Harness,
    number: u64,
    thread: String,
    members: Vec<Member>,
    unsubscribed: Option<(Wire, usize)>,
    round: usize,
    /// The decision of each round; `None` if a kill disturbed it.
    agreed: BTreeMap<String, Option<bool>>,
}

impl Member {
    fn come(harness: &Harness, thread: &str) -> Result<Member, ClientError> {
        let (mut wire, came) = harness.connect()?;
        let about = json!({"threadId": thread, "excludeTurns": true});
        loop {
            let servers = harness.servers.now();
            match wire.call("thread/resume", &about) {
                Ok(_) => break,
                Err(error) if is_restart(&error.to_string()) && harness.servers.since(servers) => {}
                Err(error) => return Err(harness.lost(&error, came)),
            }
        }
        let (questions, commands, ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Member { wire, came, questions, commands, ends })
    }

    /// Reads until `is_so` holds.
    fn read_until(
        &mut self,
        harness: &Harness,
        thread: &str,
        what: &str,
        is_so: impl Fn(&Member) -> bool,
    ) -> Result<(), ClientError> {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so(self) {
            if Instant::now() > deadline {
                return Err(ClientError::BrokenPromise(format!(
                    "{thread}: waited for {what}: {}",
                    self.heard()
                )));
            }
            self.hear(harness, thread)?;
        }
        Ok(())
    }

    /// Reads one message; gives it if it is an answer.
    fn hear(&mut self, harness: &Harness, thread: &str) -> Result<Option<Value>, ClientError> {
        let message = self.wire.message().map_err(|error| match harness.lost(&error, self.came) {
            ClientError::BrokenPromise(what) => {
                ClientError::BrokenPromise(format!("{thread}: {what}: {}", self.heard()))
            }
            cut => cut,
        })?;
        let message: Value = serde_json::from_slice(&message)
            .map_err(|error| ClientError::BrokenPromise(format!("no JSON came: {error}")))?;
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
        if again { Err(ClientError::BrokenPromise(format!("told twice: {message}"))) } else { Ok(None) }
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

    fn answer(&mut self, harness: &Harness, question: u64, decision: &str) -> Result<(), ClientError> {
        say(&mut self.wire, self.came, harness, question, decision)
    }

    /// Forgets what is over.
    fn forget(&mut self) {
        self.questions.retain(|_, question| question.resolved == 0);
        self.commands.clear();
        self.ends.clear();
    }
}

fn say(
    wire: &mut Wire,
    came: usize,
    harness: &Harness,
    question: u64,
    decision: &str,
) -> Result<(), ClientError> {
    count(&harness.counts.messages);
    let answer = json!({"id": question, "result": {"decision": decision}});
    wire.send(&answer.to_string()).map_err(|error| harness.lost(&error, came))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_restart(sentence: &str) -> bool {
    sentence.contains("appServerRestarted")
}

impl ApprovalGroup<'_> {
    /// One question, from the turn that asks it to its end.
    fn decide(&mut self, rng: &mut Rng) -> Result<(), ClientError> {
        self.round += 1;
        let (harness, servers) = (self.harness, self.harness.servers.now());
        let nonce = format!("{}-{}", self.number, self.round);
        self.agreed.insert(nonce.clone(), None);
        self.members.iter_mut().for_each(Member::forget);
        let Some(turn) = self.begin(&nonce, servers)? else {
            // It is unknown whether a turn started; if it did, every member is notified.
            return Err(ClientError::Disconnected);
        };
        for member in &mut self.members {
            member.read_until(harness, &self.thread, "the question", |member| {
                member.of_turn(&turn).next().is_some() || member.ends.contains_key(&turn)
            })?;
        }
        let decisions = self.answer_all_at_once(&turn, rng)?;
        for member in &mut self.members {
            member.read_until(harness, &self.thread, "the end", |member| {
                member.ends.contains_key(&turn) && member.of_turn(&turn).all(|(_, asked)| asked.resolved == 1)
            })?;
        }
        if harness.servers.since(servers) {
            count(&harness.counts.disturbed);
            return Ok(());
        }
        let accepted = self.outcome(&turn, &decisions)?;
        self.agreed.insert(nonce, Some(accepted));
        count(&harness.counts.questions);
        Ok(())
    }

    /// Starts the turn that asks; none if the app-server died of it.
    fn begin(&mut self, nonce: &str, servers: usize) -> Result<Option<String>, ClientError> {
        let (harness, first) = (self.harness, &mut self.members[0]);
        let ran = harness.work.join("ran");
        let text = format!("run [[shell=echo {nonce} >> {};; escalate=1 deltas=2]]", ran.display());
        let params = json!({"threadId": self.thread, "input": [{"type": "text", "text": text}]});
        count(&harness.counts.messages);
        let asked = first.wire.request("turn/start", &params.to_string());
        let id = asked.map_err(|error| harness.lost(&error, first.came))?;
        let answer = loop {
            if let Some(answer) = first.hear(harness, &self.thread)? {
                break answer;
            }
        };
        if answer["id"] != id {
            return Err(ClientError::BrokenPromise(format!("not the answer to {id}: {answer}")));
        }
        match answer["result"]["turn"]["id"].as_str() {
            Some(turn) => Ok(Some(turn.to_owned())),
            None if is_restart(&answer.to_string()) && harness.servers.since(servers) => Ok(None),
            None => Err(ClientError::BrokenPromise(format!("no turn: {answer}"))),
        }
    }

    /// All who were asked answer, in any order and some of them twice; so does one who was not. Gives the answers that count.
    fn answer_all_at_once(&mut self, turn: &str, rng: &mut Rng) -> Result<Vec<&'static str>, ClientError> {
        const DECISIONS: [&str; 2] = ["accept", "decline"];
        let harness = self.harness;
        let mut asked: Vec<(&mut Member, u64)> = Vec::new();
        for member in &mut self.members {
            let question = member.of_turn(turn).map(|(number, _)| number).next();
            asked.extend(question.map(|question| (member, question)));
        }
        if let (Some((_, question)), Some((wire, came))) = (asked.first(), &mut self.unsubscribed) {
            harness.question.store(*question, Ordering::Relaxed);
            say(wire, *came, harness, *question, "cancel")?;
        }
        let mut decisions = Vec::new();
        while !asked.is_empty() {
            let (member, question) = asked.swap_remove(rng.place(asked.len()));
            let first = rng.place(DECISIONS.len());
            member.answer(harness, question, DECISIONS[first])?;
            decisions.push(DECISIONS[first]);
            if rng.one_in(3) {
                member.answer(harness, question, DECISIONS[1 - first])?;
            }
        }
        Ok(decisions)
    }

    /// Whether the command was accepted, which everybody saw in the same way; the turn ended whole.
    fn outcome(&self, turn: &str, decisions: &[&str]) -> Result<bool, ClientError> {
        let commands = |member: &Member| member.commands.get(turn).cloned().unwrap_or_default();
        let command = commands(&self.members[0]).first().cloned();
        let command = command.as_deref();
        for member in &self.members {
            let is_whole = member.ends.get(turn).is_some_and(|status| status == "completed");
            let same = commands(member).len() == 1 && commands(member).first().map(String::as_str) == command;
            if !is_whole || !same || member.of_turn(turn).count() != 1 {
                let heard = member.heard();
                return Err(ClientError::BrokenPromise(format!(
                    "{turn}: not as everybody saw it ({command:?}): {heard}"
                )));
            }
        }
        let accepted = command == Some("completed");
        let of_somebody = if accepted { "accept" } else { "decline" };
        if decisions.contains(&of_somebody) && (accepted || command == Some("declined")) {
            Ok(accepted)
        } else {
            Err(ClientError::BrokenPromise(format!("{command:?} is no answer of theirs: {decisions:?}")))
        }
    }

    /// Comes together, once more if need be, and ends what is still open.
    fn gather(&mut self) -> Result<(), ClientError> {
        let harness = self.harness;
        self.members.clear();
        self.unsubscribed = Some(harness.connect()?);
        while self.members.len() < MEMBERS {
            self.members.push(Member::come(harness, &self.thread)?);
        }
        let read = json!({"threadId": self.thread});
        loop {
            let first = &mut self.members[0];
            let servers = harness.servers.now();
            let id = first.wire.request("thread/read", &read.to_string());
            let id = id.map_err(|error| harness.lost(&error, first.came))?;
            let answer = loop {
                match first.hear(harness, &self.thread)? {
                    Some(answer) if answer["id"] == id => break answer,
                    _ => {}
                }
            };
            if is_restart(&answer.to_string()) && harness.servers.since(servers) {
                continue;
            }
            if answer["result"]["thread"]["status"]["type"] != "active" {
                return Ok(());
            }
            let ended = first.ends.len();
            first.read_until(harness, &self.thread, "an open question or the end", |first| {
                first.is_asked().is_some() || first.ends.len() > ended
            })?;
            if let Some(question) = first.is_asked() {
                first.answer(harness, question, "accept")?;
                first.read_until(harness, &self.thread, "the end of what was open", |first| {
                    first.ends.len() > ended
                })?;
            }
        }
    }
}

/// Runs one approval group to its end.
pub(super) fn sit(harness: &Harness, number: u64, seed: u64) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed.wrapping_add(1_000 + number));
    let thread = own_thread(harness)?;
    let (members, agreed) = (Vec::new(), BTreeMap::new());
    let mut approval_group =
        ApprovalGroup { harness, number, thread, members, unsubscribed: None, round: 0, agreed };
    while !harness.is_over() {
        let outcome = if approval_group.members.is_empty() {
            approval_group.gather()
        } else {
            approval_group.decide(&mut rng)
        };
        match outcome {
            Ok(()) => {}
            Err(ClientError::Disconnected) => {
                count(&harness.counts.disturbed);
                approval_group.members.clear();
            }
            Err(wrong) => return Err(wrong.into()),
        }
    }
    approval_group.every_command_ran_as_was_agreed()
}

/// A thread with one completed turn; a new thread if a kill interrupted that.
fn own_thread(harness: &Harness) -> anyhow::Result<String> {
    loop {
        let (servers, gateways) = (harness.servers.now(), harness.gateways.now());
        match begin_thread(harness) {
            Err(_) if harness.servers.since(servers) || harness.gateways.since(gateways) => {}
            begun => return begun,
        }
    }
}

fn begin_thread(harness: &Harness) -> anyhow::Result<String> {
    let mut wire = Wire::connect(&harness.socket)?;
    let started = wire.call("thread/start", &json!({"cwd": harness.work}))?;
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

impl ApprovalGroup<'_> {
    /// What was accepted ran once, and what was declined never; the embedded server runs nothing.
    fn every_command_ran_as_was_agreed(&self) -> anyhow::Result<()> {
        let Ok(ran) = fs::read_to_string(self.harness.work.join("ran")) else { return Ok(()) };
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
