//! Histories at random: whatever happens in whatever order, no accepted turn is cut by the gateway, every request has
//! exactly one answer, everybody who watches a turn sees its whole text and its end exactly once, and nothing stays behind.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::steps::{Step, step};
use super::summary::summary;
use super::world::World;
use crate::hub::{ClientId, Event};

/// What a client declares: one that may do everything, one that does not want deltas, one that may not do everything.
fn capabilities(kind: u8) -> Value {
    match kind {
        0 => json!({"experimentalApi": true, "optOutNotificationMethods": ["item/agentMessage/delta"]}),
        1 => json!({}),
        _ => json!({"experimentalApi": true}),
    }
}

pub struct History {
    pub world: World,
    pub threads: Vec<String>,
    /// The client in each of the slots.
    slots: [u64; 5],
    next_client: u64,
}

impl History {
    pub fn new() -> Self {
        let mut world = World::new();
        for id in 1..5 {
            world.client(id, json!({"experimentalApi": true}));
        }
        world.settle();
        let mut threads = Vec::new();
        for id in 1..3 {
            threads.push(world.thread(ClientId(id)));
        }
        Self { world, threads, slots: [0, 1, 2, 3, 4], next_client: 5 }
    }

    fn sitting(&self, slot: u64) -> ClientId {
        ClientId(self.slots[usize::try_from(slot).expect("a slot")])
    }

    fn lives(&self, slot: u64) -> bool {
        self.world.clients.get(&self.sitting(slot)).is_some_and(|seen| !seen.left)
    }

    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Start(id, _)
            | Step::Turn(id, _)
            | Step::Join(id, _)
            | Step::Unsubscribe(id, _)
            | Step::Answer(id)
            | Step::Goal(id, ..)
            | Step::Queue(id, _)
            | Step::Leave(id)
            | Step::Own(id, _) => {
                if self.lives(*id) {
                    self.client_does(self.sitting(*id), step);
                }
            }
            Step::Come(id, kind) if !self.lives(*id) => {
                self.slots[usize::try_from(*id).expect("a slot")] = self.next_client;
                self.world.client(self.next_client, capabilities(*kind));
                self.next_client += 1;
            }
            Step::Show(at)
            | Step::Delta(at)
            | Step::Complete(at)
            | Step::Achieve(at)
            | Step::Approve(at)
            | Step::Terminal(at)
            | Step::Spawn(at) => {
                if let Some(thread) = self.threads.get(*at).cloned() {
                    self.happens(&thread, step);
                }
            }
            Step::Deliver(at) => {
                let connections = self.world.busy_connections();
                if let Some(connection) = connections.get(at % connections.len().max(1)) {
                    self.world.deliver(*connection);
                }
            }
            Step::Wait(ms) => {
                self.world.now += ms;
                self.world.feed(Event::DeadlineReached);
            }
            Step::Config(broken) => self.world.config_is_broken = *broken,
            Step::NextClosing(closing) => self.world.closing = *closing,
            Step::WhileOpening(id, meanwhile) => {
                self.begin_to_open(*id);
                self.take(meanwhile);
            }
            Step::Obstruct(obstacle) => self.world.obstacle = *obstacle,
            Step::OwnEnds => self.world.end_what_runs_there(),
            _ => self.servers_do(step),
        }
        self.report_retired_as_gone();
    }

    /// A client's dedicated connection begins to open: that of another client if this one has one already.
    fn begin_to_open(&mut self, slot: u64) {
        if self.lives(slot) && self.world.has_dedicated(self.sitting(slot)) {
            self.take(&Step::Leave(slot));
        }
        self.take(&Step::Come(slot, 2));
        self.take(&Step::Own(slot, 0));
    }

    fn client_does(&mut self, id: ClientId, step: &Step) {
        // Clients request only threads that they know.
        let named = |at: &usize| self.threads.get(*at).filter(|thread| self.world.was_told_of(thread));
        let thread = |at: &usize| named(at).map(|thread| json!({"threadId": thread, "input": []}));
        let asked = match step {
            Step::Start(_, ephemeral) if self.threads.len() < 6 => {
                let number = self.world.ask(id, "thread/start", json!({"ephemeral": ephemeral}));
                self.world.settle();
                let answer = self.world.answer(id, number);
                let named =
                    answer.and_then(|answer| answer["result"]["thread"]["id"].as_str().map(str::to_owned));
                self.threads.extend(named);
                None
            }
            Step::Turn(_, at) => thread(at).map(|params| ("turn/start", params)),
            Step::Join(_, at) => thread(at).map(|params| ("thread/resume", params)),
            Step::Unsubscribe(_, at) => thread(at).map(|params| ("thread/unsubscribe", params)),
            Step::Goal(_, at, on) => thread(at).map(|mut params| {
                params["status"] = json!(if *on { "active" } else { "paused" });
                ("thread/goal/set", params)
            }),
            Step::Queue(_, at) => thread(at).map(|params| ("thread/queue/add", params)),
            Step::Own(_, 0) => Some(("model/list", json!({}))),
            Step::Own(_, 1) => Some(("command/exec", json!({"processId": "p", "command": ["x"]}))),
            Step::Own(_, kind) => {
                let cwd = if *kind == 2 { "/" } else { "/nowhere" };
                let handle = format!("h{}", id.0);
                Some(("process/spawn", json!({"processHandle": handle, "command": ["x"], "cwd": cwd})))
            }
            Step::Answer(_) => {
                let method = "item/commandExecution/requestApproval";
                let asked = self.world.notes(id, method).last().map(|asked| asked["id"].clone());
                if let Some(asked) = asked {
                    let answer = json!({"id": asked, "result": {"decision": "accept"}}).to_string();
                    self.world.feed(Event::ClientMessage(id, answer.into()));
                }
                None
            }
            Step::Leave(_) => {
                self.world.leave(id);
                None
            }
            _ => None,
        };
        if let Some((method, params)) = asked {
            self.world.ask(id, method, params);
        }
    }

    fn happens(&mut self, thread: &str, step: &Step) {
        match step {
            Step::Show(_) => self.world.show(thread),
            Step::Delta(_) => {
                let text = format!("{} ", self.world.said.len() % 7);
                self.world.delta(thread, &text);
            }
            Step::Complete(_) => self.world.complete(thread),
            Step::Achieve(_) => self.world.achieve(thread),
            Step::Approve(_) => self.world.request_approval(thread),
            Step::Terminal(_) => self.world.terminal(thread),
            _ if self.threads.len() < 6 => {
                let child = self.world.spawn(thread);
                self.threads.extend(child);
            }
            _ => {}
        }
    }

    fn servers_do(&mut self, step: &Step) {
        let world = &mut self.world;
        match step {
            Step::Replace if world.current.is_some() && world.outgoing.len() < 2 => {
                world.replace();
            }
            Step::Kill(graceful) => {
                if let Some(current) = world.current {
                    world.kill(current, *graceful);
                    world.report_gone(current);
                    world.begin_server();
                }
            }
            Step::KillOutgoing(graceful) => {
                if let Some(server) = world.outgoing.first().copied() {
                    world.kill(server, *graceful);
                    world.report_gone(server);
                }
            }
            Step::Drain => {
                let current = world.current;
                current.into_iter().for_each(|current| world.drain(current));
            }
            Step::Break(outgoing) => {
                let server = if *outgoing { world.outgoing.first().copied() } else { world.current };
                server.into_iter().for_each(|server| world.break_shared(server));
            }
            Step::Restart(turns_end) => {
                world.lose_gateway();
                if *turns_end {
                    world.running().iter().for_each(|thread| world.complete(thread));
                }
                world.begin_gateway();
            }
            _ => {}
        }
    }

    fn report_retired_as_gone(&mut self) {
        let gone: Vec<_> =
            self.world.retired.iter().copied().filter(|id| self.world.outgoing.contains(id)).collect();
        for server in gone {
            self.world.kill(server, true);
            self.world.report_gone(server);
        }
    }

    /// Lets everything end that can end.
    ///
    /// # Errors
    /// An app-server stays although nothing holds it but goals that go on and on.
    pub fn end(&mut self) -> Result<(), TestCaseError> {
        self.world.config_is_broken = false;
        if self.world.obstacle.is_some() {
            self.end_a_round();
            self.world.outlast_the_obstacle()?;
        }
        // A thread without viewers is checked once in a minute, and its migration may then take a while.
        for _ in 0..12 {
            self.end_a_round();
        }
        // Nothing goes to a new app-server before a client has given an identity.
        if self.world.clients.values().any(|seen| !seen.left) {
            self.check_who_stays()?;
        }
        self.world.goals_are_as_wanted()?;
        for _ in 0..8 {
            self.world.goals.values_mut().for_each(|goal| *goal = "paused");
            self.world.achieved_goals.clear();
            self.end_a_round();
        }
        self.world.settle_for(40_000);
        Ok(())
    }

    fn end_a_round(&mut self) {
        self.world.settle_for(8_000);
        self.world.end_what_runs_there();
        for thread in self.world.running() {
            self.world.complete(&thread);
        }
        for thread in self.threads.clone() {
            self.world.end_terminals(&thread);
        }
        if let Some(current) = self.world.current.filter(|current| self.world.drains(*current)) {
            self.world.kill(current, true);
            self.world.report_gone(current);
            self.world.begin_server();
        }
        for server in self.world.outgoing.clone() {
            if self.world.drains(server) {
                self.world.kill(server, true);
                self.world.report_gone(server);
            }
        }
        self.take(&Step::Wait(1));
    }

    fn check_who_stays(&self) -> Result<(), TestCaseError> {
        for server in &self.world.outgoing {
            prop_assert!(
                self.world.holds_what_stays(*server),
                "{server:?} holds nothing and stays: {}",
                summary(&self.world.hub)
            );
        }
        Ok(())
    }

    /// What is promised, looked at when everything has ended.
    pub fn check(&self) -> Result<(), TestCaseError> {
        let world = &self.world;
        prop_assert!(world.cut.is_empty(), "cut: {:?}", world.cut);
        for (id, seen) in world.clients.iter().filter(|(_, seen)| !seen.left) {
            prop_assert!(seen.open.is_empty(), "{id:?} waits for {:?}", seen.open);
            let mut ended: Vec<&str> = Vec::new();
            for note in world.notes(*id, "turn/completed") {
                let turn = note["params"]["turn"]["id"].as_str().unwrap_or_default();
                prop_assert!(!ended.contains(&turn), "{id:?} was told the end of {turn} twice");
                ended.push(turn);
                if !seen.through.contains_key(turn) || seen.without_deltas {
                    continue;
                }
                let (saw, said) = (world.text(*id, turn), world.said.get(turn).cloned().unwrap_or_default());
                let status = &note["params"]["turn"]["status"];
                let whole = if status == "interrupted" { said.starts_with(&saw) } else { said == saw };
                prop_assert!(whole, "{id:?} saw {saw:?} of {turn} ({status}), said was {said:?}");
            }
            for (turn, thread) in &seen.through {
                prop_assert!(ended.contains(&&**turn), "{id:?} was not told the end of {turn} of {thread}");
            }
        }
        self.check_who_stays()
    }

    /// When all have left and a while has passed, nothing is kept.
    pub fn all_leave(&mut self) -> Result<(), TestCaseError> {
        let clients: Vec<ClientId> = self.world.clients.keys().copied().collect();
        for id in clients {
            if !self.world.clients[&id].left {
                self.world.leave(id);
            }
        }
        for _ in 0..4 {
            self.world.settle_for(70_000);
            for thread in self.world.running() {
                self.world.complete(&thread);
            }
            self.report_retired_as_gone();
        }
        let hub = &self.world.hub;
        // A suspended goal waits for a client: before that, nothing goes to a new app-server.
        prop_assert!(
            hub.threads.values().all(|thread| thread.goal.is_suspended())
                && hub.pending.is_empty()
                && hub.clients.is_empty(),
            "{}",
            summary(hub)
        );
        prop_assert!(
            hub.server_requests.len() == 0 && !hub.threads.has_queued_attaches(),
            "{}",
            summary(hub)
        );
        prop_assert!(
            hub.queue.clients_waiting() == 0 && hub.queue.in_flight() == 0 && hub.timers.len() == 0,
            "{}",
            summary(hub)
        );
        prop_assert!(self.world.outgoing.is_empty(), "{}", summary(hub));
        prop_assert!(self.world.cut.is_empty(), "cut: {:?}", self.world.cut);
        Ok(())
    }
}

pub fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    run_in(History::new(), steps)
}

pub fn run_in(mut history: History, steps: &[Step]) -> Result<(), TestCaseError> {
    for step in steps {
        history.take(step);
    }
    history.end()?;
    history.check()?;
    history.all_leave()
}

/// So many histories, unless more are asked for.
pub fn cases(count: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(count)
}

pub fn config() -> ProptestConfig {
    ProptestConfig {
        max_shrink_iters: 20_000,
        failure_persistence: None,
        // The same histories every time, unless more are asked for.
        rng_seed: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => RngSeed::Random,
            None => RngSeed::Fixed(169),
        },
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), ..config() })]

    #[test]
    fn no_accepted_turn_is_ever_cut_and_every_request_has_one_answer(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        run(&steps)?;
    }
}
