//! Random histories: clients send any request in any order.

use std::time::Duration;

use serde_json::{Value, json};

use super::rig::Rig;
use crate::ids::{ConnectionId, IdGenerator, ThreadId};
use crate::model::transcript::Transcript;
use crate::model::{Decision, Input};

const HISTORIES: u64 = 400;
const STEPS: usize = 60;
const TEXTS: [&str; 8] = [
    "[[deltas=3]]",
    "[[deltas=40 delay=0.1]]",
    "[[approve=echo hi;;]]",
    "[[shell=false;;]]",
    "[[hang deltas=1]]",
    "[[fail=sse]]",
    "[[fail=500]]",
    "just words",
];

/// A seeded random number generator.
struct Rng(IdGenerator);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0.process().parse::<usize>().expect("a number") % end
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        if choices.is_empty() { None } else { choices.get(self.below(choices.len())) }
    }
}

/// One request of a random client. [`Rig::request`] checks that every request has exactly one response.
fn one_step(rig: &mut Rig, rng: &mut Rng, threads: &mut Vec<String>) {
    let client = ConnectionId(rng.below(4) as u64);
    let thread = rng.pick(threads).cloned().unwrap_or_else(|| "none".to_owned());
    let running = rig.state.threads.values().filter_map(|thread| thread.running.as_ref()).next();
    let turn = running.map_or_else(|| "none".to_owned(), |running| running.turn.to_string());
    let input = json!([{"type": "text", "text": rng.pick(&TEXTS)}]);
    let named =
        json!({"threadId": thread, "name": "n", "turnId": turn, "expectedTurnId": turn, "input": input});
    let reply: Value = match rng.below(16) {
        0 => rig.request(client, "thread/start", json!({"ephemeral": rng.below(4) == 0})),
        1..4 => rig.request(client, "turn/start", named),
        4 => rig.request(client, "turn/steer", named),
        5 => rig.request(client, "turn/interrupt", named),
        6 => rig.request(client, "thread/resume", named),
        7 => rig.request(client, "thread/unsubscribe", named),
        8 => rig.request(client, "thread/archive", named),
        9 => rig.request(client, "thread/unarchive", named),
        10 => rig.request(client, "thread/name/set", named),
        11 => rig.request(client, "thread/read", json!({"threadId": thread, "includeTurns": true})),
        12 => rig.request(client, "thread/list", json!({"archived": rng.below(2) == 0})),
        13 => {
            let decisions = [Decision::Accept, Decision::AcceptAlways, Decision::Decline, Decision::Cancel];
            let decision = rng.pick(&decisions).copied().unwrap_or(Decision::Malformed);
            rig.answer(client, rng.below(6) as i64, decision);
            Value::Null
        }
        14 => {
            rig.pass(Duration::from_secs(rng.below(70) as u64));
            Value::Null
        }
        _ => {
            rig.step(Input::Closed(client));
            rig.client(client.0);
            Value::Null
        }
    };
    if let (Some(id), Some(_)) = (reply["result"]["thread"]["id"].as_str(), reply["result"].get("model")) {
        threads.push(id.to_owned());
    }
}

#[test]
fn every_request_has_one_response_and_every_history_reads_back() {
    for seed in 0..HISTORIES {
        let mut rig = Rig::seeded(seed);
        let mut rng = Rng(IdGenerator::new(seed));
        let mut threads = Vec::new();
        (0..4).for_each(|number| {
            rig.client(number);
        });
        for _ in 0..STEPS {
            one_step(&mut rig, &mut rng, &mut threads);
            for thread in rig.state.threads.values().filter(|thread| thread.is_on_disk()) {
                let mut read = Transcript::replay(rig.disk[&thread.id()].clone()).expect("a thread");
                // Token usage is written when it is sent, so later counts are not on disk yet.
                read.usage = thread.transcript.usage;
                read = if thread.running.is_none() { read.abandoned() } else { read };
                assert_eq!(read, thread.transcript, "seed {seed}");
            }
        }
        let known: Vec<ThreadId> = rig.disk.keys().copied().collect();
        assert!(known.iter().all(|id| threads.contains(&id.to_string())), "seed {seed}");
    }
}
