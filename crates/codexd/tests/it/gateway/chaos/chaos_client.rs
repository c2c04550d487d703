//! Chaos clients: they send requests, flood, send invalid messages and disconnect at random.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use codexd_testkit::{Wire, limits};
use serde_json::{Value, json};

use super::harness::{ClientError, Harness, Rng, SharedThread, count};

/// Requests that a flooder sends before it reads: more than the gateway lets wait.
const FLOOD: u64 = 400;
/// Clients of one worker that send before any of them reads.
const AT_ONCE: u64 = 4;
/// The first bytes of a frame of 256 that never comes.
const HALF_A_FRAME: &[u8] = &[0x81, 0x80 | 126, 1, 0, 0, 0, 0, 0, b'{'];
/// A close frame without a code.
const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

/// What only the right answer contains.
#[derive(Debug)]
enum Proof {
    /// An error that names this.
    Sentence(String),
    /// This thread.
    Thread(String),
    /// This turn.
    Turn(String),
    /// Nothing but its id.
    Id,
}

impl Proof {
    /// Whether an answer has it.
    fn is_in(&self, answer: &Value) -> bool {
        let result = &answer["result"];
        match self {
            Proof::Sentence(named) => {
                answer["error"]["message"].as_str().is_some_and(|sentence| sentence.contains(named))
            }
            Proof::Thread(thread) => result["thread"]["id"] == **thread,
            Proof::Turn(turn) => result["data"][0]["id"] == **turn,
            Proof::Id => result["data"].is_array(),
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
struct Open {
    proof: Proof,
    /// How many app-servers had died when it was asked.
    servers: usize,
}

/// One client and what it waits for.
#[derive(Debug)]
struct ChaosClient {
    name: String,
    wire: Wire,
    asked: u64,
    open: HashMap<String, Open>,
    /// Nonsense that was not answered yet.
    nonsense: usize,
    /// How many gateways had died when it came.
    came: usize,
}

impl ChaosClient {
    fn come(harness: &Harness, name: String) -> Result<ChaosClient, ClientError> {
        let (wire, came) = harness.connect()?;
        Ok(ChaosClient { name, wire, asked: 0, open: HashMap::new(), nonsense: 0, came })
    }

    /// Says something, or a lot.
    fn speak(&mut self, harness: &Harness, rng: &mut Rng) -> Result<(), ClientError> {
        let burst = if rng.one_in(40) { FLOOD } else { 1 + rng.below(5) };
        let said = (0..burst).try_for_each(|_| match rng.below(100) {
            0 => self.talk_nonsense(harness),
            1 => self.answer_what_others_were_asked(harness, rng),
            _ => self.ask(harness, rng),
        });
        said.map_err(|error| harness.lost(&error, self.came))
    }

    fn ask(&mut self, harness: &Harness, rng: &mut Rng) -> anyhow::Result<()> {
        let SharedThread { thread, turn } = &harness.shared_threads[rng.place(harness.shared_threads.len())];
        let unknown_id = format!("01a1f753-6b57-7b12-90c4-{:012x}", rng.below(1 << 31));
        let (method, params, proof) = match rng.below(64) {
            0 => {
                let params = json!({"threadId": thread, "excludeTurns": true});
                ("thread/resume".to_owned(), params, Proof::Thread(thread.clone()))
            }
            // This goes over a connection of its own to the app-server.
            1 | 2 => (format!("no/such/{unknown_id}"), json!({}), Proof::Sentence(unknown_id)),
            3..=15 => ("thread/loaded/list".to_owned(), json!({}), Proof::Id),
            16..=25 => ("thread/read".to_owned(), json!({"threadId": thread}), Proof::Thread(thread.clone())),
            26..=35 => {
                let params = json!({"threadId": thread, "limit": 1});
                ("thread/turns/list".to_owned(), params, Proof::Turn(turn.clone()))
            }
            _ => ("thread/read".to_owned(), json!({"threadId": unknown_id}), Proof::Sentence(unknown_id)),
        };
        self.asked += 1;
        let id = format!("{}/{}", self.name, self.asked);
        // Before it is sent, or the answer would be unexpected if the connection broke here.
        self.open.insert(id.clone(), Open { proof, servers: harness.servers.now() });
        count(&harness.counts.messages);
        self.wire.send(&json!({"id": id, "method": method, "params": params}).to_string())
    }

    fn talk_nonsense(&mut self, harness: &Harness) -> anyhow::Result<()> {
        self.nonsense += 1;
        count(&harness.counts.messages);
        self.wire.send(r#"{"id":1,"method":"#)
    }

    /// This client received no server request, so its responses must not affect any turn.
    fn answer_what_others_were_asked(&mut self, harness: &Harness, rng: &mut Rng) -> anyhow::Result<()> {
        let near = (harness.question.load(Ordering::Relaxed) + rng.below(4)).saturating_sub(1);
        count(&harness.counts.messages);
        self.wire.send(&json!({"id": near, "result": {"decision": "cancel"}}).to_string())
    }

    /// Reads until everything is answered.
    fn settle(&mut self, harness: &Harness) -> Result<(), ClientError> {
        while !self.open.is_empty() || self.nonsense > 0 {
            let message = self.wire.message().map_err(|error| harness.lost(&error, self.came))?;
            self.hear(harness, &message)?;
        }
        Ok(())
    }

    fn hear(&mut self, harness: &Harness, message: &[u8]) -> Result<(), ClientError> {
        let message: Value = serde_json::from_slice(message)
            .map_err(|error| ClientError::BrokenPromise(format!("no JSON came: {error}")))?;
        if let Some(method) = message["method"].as_str() {
            let asked = message.get("id").is_some();
            return if asked { Err(self.wrong("asked", method, &message)) } else { Ok(()) };
        }
        if message["id"].is_null() && message["error"]["code"] == -32700 && self.nonsense > 0 {
            self.nonsense -= 1;
            return Ok(());
        }
        let Some(open) = message["id"].as_str().and_then(|id| self.open.remove(id)) else {
            return Err(self.wrong("answered", "what it did not ask", &message));
        };
        if message["error"]["data"]["reason"] == "appServerRestarted" && harness.servers.since(open.servers) {
            count(&harness.counts.refused);
            return Ok(());
        }
        if !open.proof.is_in(&message) {
            return Err(self.wrong("answered", &format!("without {:?}", open.proof), &message));
        }
        count(&harness.counts.answered);
        Ok(())
    }

    fn wrong(&self, was: &str, what: &str, message: &Value) -> ClientError {
        ClientError::BrokenPromise(format!("{} was {was} {what}: {message}", self.name))
    }

    /// Reads what still comes after an end of its own making; there must be an end.
    fn read_out(mut self, harness: &Harness) -> Result<(), ClientError> {
        loop {
            match self.wire.message() {
                Ok(message) => self.hear(harness, &message)?,
                Err(error) if Wire::is_timeout(&error) => {
                    return Err(ClientError::BrokenPromise(format!("{} left and was not let go", self.name)));
                }
                Err(_end) => return Ok(()),
            }
        }
    }

    /// Goes, in one of many ways.
    fn leave(mut self, harness: &Harness, rng: &mut Rng) -> Result<(), ClientError> {
        count(&harness.counts.left);
        let way = rng.below(6);
        // Who has been cut meanwhile cannot say so; that is seen by reading.
        let _cut_already = match way {
            0 => Ok(()),
            1 | 2 => self.wire.send_bytes(HALF_A_FRAME),
            3 => self.wire.send_bytes(CLOSE),
            _ => Ok(()),
        };
        if way < 2 {
            return Ok(());
        }
        if way != 3 {
            count(&harness.counts.half_closed);
            let _cut_already = self.wire.half_close();
        }
        self.read_out(harness)
    }
}

/// Comes and goes without a word, or with half of one.
fn look_in(harness: &Harness, rng: &mut Rng) -> Result<(), ClientError> {
    let came = harness.gateways.now();
    count(&harness.counts.half_closed);
    if rng.one_in(2) {
        let wire = Wire::dial(&harness.socket).map_err(|error| harness.lost(&error, came))?;
        let _cut_already = wire.half_close();
        let unknown_id =
            ChaosClient { name: "silent".into(), wire, asked: 0, open: HashMap::new(), nonsense: 0, came };
        return unknown_id.read_out(harness);
    }
    let half = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(&harness.socket)?;
        stream.set_read_timeout(Some(limits::MESSAGE))?;
        std::io::Write::write_all(&mut stream, b"GET /rpc HTTP/1.1\r\nhost: local")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        std::io::Read::read(&mut stream, &mut [0; 64])
    };
    match half() {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            Err(ClientError::BrokenPromise("half a handshake was not let go".to_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(ClientError::BrokenPromise("a client was refused".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Runs one worker: its share of the clients, a few at a time.
pub(super) fn work(harness: &Harness, number: u64, share: usize, seed: u64) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed.wrapping_add(number));
    let mut clients: Vec<ChaosClient> = Vec::new();
    let mut visitors = 0;
    while !harness.is_over() {
        while clients.len() < share && !harness.is_over() {
            visitors += 1;
            if rng.one_in(30) {
                survive(look_in(harness, &mut rng))?;
            }
            clients.extend(survive(ChaosClient::come(harness, format!("{number}.{visitors}")))?);
        }
        let mut speakers = Vec::new();
        for _ in 0..=rng.below(AT_ONCE) {
            if !clients.is_empty() {
                let mut client = clients.swap_remove(rng.place(clients.len()));
                if survive(client.speak(harness, &mut rng))?.is_some() {
                    speakers.push(client);
                }
            }
        }
        for mut client in speakers {
            if rng.one_in(8) {
                survive(client.leave(harness, &mut rng))?;
            } else if survive(client.settle(harness))?.is_some() {
                clients.push(client);
            }
        }
    }
    Ok(())
}

/// `None` for a client that lost its gateway; any other error is returned.
fn survive<T>(outcome: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::Disconnected) => Ok(None),
        Err(wrong) => Err(wrong),
    }
}
