//! Histories at random: whatever happens in whatever order, no accepted turn is cut by the gateway, every request has
//! exactly one answer, and everybody who watches a turn sees its end exactly once.

use proptest::prelude::*;
use serde_json::json;

use super::world::World;
use crate::hub::ClientId;

#[derive(Clone, Debug)]
enum Step {
    Start(u64),
    Turn(u64, usize),
    Join(u64, usize),
    Unsubscribe(u64, usize),
    Leave(u64),
    Come(u64),
    Show(usize),
    Delta(usize),
    Complete(usize),
    Approve(usize),
    Deliver(usize),
    Wait(u64),
    Replace,
    Kill(bool),
    Own(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (client, thread) = (1..5_u64, 0..6_usize);
    prop_oneof![
        2 => client.clone().prop_map(Step::Start),
        6 => (client.clone(), thread.clone()).prop_map(|(client, thread)| Step::Turn(client, thread)),
        3 => (client.clone(), thread.clone()).prop_map(|(client, thread)| Step::Join(client, thread)),
        1 => (client.clone(), thread.clone()).prop_map(|(client, thread)| Step::Unsubscribe(client, thread)),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.clone().prop_map(Step::Come),
        4 => thread.clone().prop_map(Step::Show),
        4 => thread.clone().prop_map(Step::Delta),
        5 => thread.clone().prop_map(Step::Complete),
        1 => thread.prop_map(Step::Approve),
        20 => (0..8_usize).prop_map(Step::Deliver),
        4 => prop_oneof![Just(1_u64), Just(30), Just(60), Just(400), Just(61_000)].prop_map(Step::Wait),
        1 => Just(Step::Replace),
        1 => any::<bool>().prop_map(Step::Kill),
        1 => client.prop_map(Step::Own),
    ]
}

struct History {
    world: World,
    threads: Vec<String>,
    /// Who sits on each of four chairs.
    chairs: [u64; 5],
    next_client: u64,
}

impl History {
    fn new() -> Self {
        let mut world = World::new();
        for id in 1..5 {
            world.client(id, json!({"experimentalApi": true}));
        }
        world.settle();
        let mut threads = Vec::new();
        for id in 1..3 {
            threads.push(world.thread(ClientId(id)));
        }
        Self { world, threads, chairs: [0, 1, 2, 3, 4], next_client: 5 }
    }

    fn sitting(&self, chair: u64) -> ClientId {
        ClientId(self.chairs[usize::try_from(chair).expect("a chair")])
    }

    fn lives(&self, chair: u64) -> bool {
        self.world.clients.get(&self.sitting(chair)).is_some_and(|seen| !seen.left)
    }

    fn take(&mut self, step: &Step) {
        let thread = |threads: &[String], at: &usize| threads.get(*at).cloned();
        match step {
            Step::Start(id) if self.lives(*id) && self.threads.len() < 6 => {
                let id = self.sitting(*id);
                let number = self.world.ask(id, "thread/start", json!({}));
                self.world.settle();
                let answer = self.world.answer(id, number);
                let named =
                    answer.and_then(|answer| answer["result"]["thread"]["id"].as_str().map(str::to_owned));
                self.threads.extend(named);
            }
            Step::Turn(id, at) | Step::Join(id, at) | Step::Unsubscribe(id, at)
                if self.threads.len() > *at =>
            {
                if !self.lives(*id) {
                    return;
                }
                let (method, params) = (
                    match step {
                        Step::Turn(..) => "turn/start",
                        Step::Join(..) => "thread/resume",
                        _ => "thread/unsubscribe",
                    },
                    json!({"threadId": self.threads[*at], "input": []}),
                );
                let id = self.sitting(*id);
                self.world.ask(id, method, params);
            }
            Step::Own(id) if self.lives(*id) => {
                let id = self.sitting(*id);
                self.world.ask(id, "model/list", json!({}));
            }
            Step::Leave(id) if self.lives(*id) => self.world.leave(self.sitting(*id)),
            Step::Come(id) if !self.lives(*id) => {
                self.chairs[usize::try_from(*id).expect("a chair")] = self.next_client;
                self.world.client(self.next_client, json!({"experimentalApi": true}));
                self.next_client += 1;
            }
            Step::Show(at) => {
                thread(&self.threads, at).into_iter().for_each(|thread| self.world.show(&thread));
            }
            Step::Delta(at) => {
                thread(&self.threads, at).into_iter().for_each(|thread| self.world.delta(&thread, "x"));
            }
            Step::Complete(at) => {
                thread(&self.threads, at).into_iter().for_each(|thread| self.world.complete(&thread));
            }
            Step::Approve(at) => {
                thread(&self.threads, at).into_iter().for_each(|thread| self.world.request_approval(&thread));
            }
            Step::Deliver(at) => {
                let links = self.world.busy_links();
                if let Some(link) = links.get(at % links.len().max(1)) {
                    self.world.deliver(*link);
                }
            }
            Step::Wait(ms) => {
                self.world.now += ms;
                self.world.feed(crate::hub::Event::TimeCame);
            }
            Step::Replace if self.world.current.is_some() && self.world.outgoing.is_empty() => {
                self.world.replace();
            }
            Step::Kill(graceful) => {
                let world = &mut self.world;
                if let Some(current) = world.current {
                    world.kill(current, *graceful);
                    world.bury(current);
                    world.begin_server();
                }
            }
            _ => {}
        }
        let gone: Vec<_> =
            self.world.retired.iter().copied().filter(|id| self.world.outgoing.contains(id)).collect();
        for server in gone {
            self.world.kill(server, true);
            self.world.bury(server);
        }
    }

    /// Lets everything end that can end.
    fn end(&mut self) {
        for _ in 0..4 {
            self.world.settle_for(40_000);
            for thread in self.world.running() {
                self.world.complete(&thread);
            }
            self.take(&Step::Wait(1));
        }
        self.world.settle_for(40_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_turn_is_ever_cut_and_every_request_has_one_answer(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut history = History::new();
        for step in &steps {
            history.take(step);
        }
        history.end();
        let world = &history.world;
        prop_assert!(world.cut.is_empty(), "cut: {:?}", world.cut);
        for (id, seen) in world.clients.iter().filter(|(_, seen)| !seen.left) {
            prop_assert!(seen.open.is_empty(), "{id:?} waits for {:?}", seen.open);
            let mut ended: Vec<&str> = world
                .notes(*id, "turn/completed")
                .iter()
                .filter_map(|note| note["params"]["turn"]["id"].as_str())
                .collect();
            let all = ended.len();
            ended.sort_unstable();
            ended.dedup();
            prop_assert_eq!(all, ended.len(), "{:?} was told an end twice", id);
        }
        for server in &world.outgoing {
            prop_assert!(world.holds_unwritten(*server), "{server:?} holds nothing and stays: {:#?}", world.hub);
        }
    }
}

/// Found at random: a thread that was asked to unload answers late, when it was given up and its turn went on.
#[test]
fn a_late_unload_does_not_cost_the_turn_that_waited() {
    use Step::{Complete, Deliver, Kill, Replace, Start, Turn, Wait};
    let steps = [
        Replace,
        Turn(1, 1),
        Complete(1),
        Start(1),
        Wait(60),
        Deliver(0),
        Turn(1, 1),
        Deliver(0),
        Deliver(0),
        Wait(61_000),
        Kill(false),
        Start(1),
    ];
    let mut history = History::new();
    for step in &steps {
        history.take(step);
    }
    history.end();
    assert!(history.world.cut.is_empty(), "{:?}", history.world.cut);
}

/// Found at random: one who never watched a thread unsubscribes from it while another one joins and a third begins a turn.
#[test]
fn a_strangers_unsubscribe_does_not_cost_a_joiner_the_turn() {
    use Step::{Complete, Join, Kill, Leave, Start, Turn, Unsubscribe};
    let steps = [
        Turn(1, 1),
        Complete(1),
        Start(1),
        Leave(2),
        Kill(false),
        Join(3, 1),
        Turn(1, 1),
        Turn(1, 0),
        Unsubscribe(1, 1),
    ];
    let mut history = History::new();
    for step in &steps {
        history.take(step);
    }
    history.end();
    assert!(history.world.cut.is_empty(), "{:?}", history.world.cut);
}
