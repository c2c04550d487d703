//! The crowd: clients that ask, flood, talk nonsense and leave as they like.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use codexd_testkit::{Wire, limits};
use serde_json::{Value, json};

use super::arena::{Arena, Dice, Room, Trouble, count};

/// Requests that a flooder sends before it reads: more than the gateway lets wait.
const FLOOD: u64 = 400;
/// Clients of one worker that speak before any of them listens.
const AT_ONCE: u64 = 4;
/// The first bytes of a frame of 256 that never comes.
const HALF_A_FRAME: &[u8] = &[0x81, 0x80 | 126, 1, 0, 0, 0, 0, 0, b'{'];
/// A close frame without a code.
const CLOSE: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

/// What only the right answer has.
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
struct Guest {
    name: String,
    wire: Wire,
    asked: u64,
    open: HashMap<String, Open>,
    /// Nonsense that was not answered yet.
    nonsense: usize,
    /// How many gateways had died when it came.
    came: usize,
}

impl Guest {
    fn come(arena: &Arena, name: String) -> Result<Guest, Trouble> {
        let (wire, came) = arena.connect()?;
        Ok(Guest { name, wire, asked: 0, open: HashMap::new(), nonsense: 0, came })
    }

    /// Says something, or a lot.
    fn speak(&mut self, arena: &Arena, dice: &mut Dice) -> Result<(), Trouble> {
        let burst = if dice.one_in(40) { FLOOD } else { 1 + dice.roll(5) };
        let said = (0..burst).try_for_each(|_| match dice.roll(100) {
            0 => self.talk_nonsense(arena),
            1 => self.answer_what_others_were_asked(arena, dice),
            _ => self.ask(arena, dice),
        });
        said.map_err(|error| arena.lost(&error, self.came))
    }

    fn ask(&mut self, arena: &Arena, dice: &mut Dice) -> anyhow::Result<()> {
        let Room { thread, turn } = &arena.rooms[dice.place(arena.rooms.len())];
        let nobody = format!("01a1f753-6b57-7b12-90c4-{:012x}", dice.roll(1 << 31));
        let (method, params, proof) = match dice.roll(64) {
            0 => {
                let params = json!({"threadId": thread, "excludeTurns": true});
                ("thread/resume".to_owned(), params, Proof::Thread(thread.clone()))
            }
            // This goes over a connection of its own to the app-server.
            1 | 2 => (format!("no/such/{nobody}"), json!({}), Proof::Sentence(nobody)),
            3..=15 => ("thread/loaded/list".to_owned(), json!({}), Proof::Id),
            16..=25 => ("thread/read".to_owned(), json!({"threadId": thread}), Proof::Thread(thread.clone())),
            26..=35 => {
                let params = json!({"threadId": thread, "limit": 1});
                ("thread/turns/list".to_owned(), params, Proof::Turn(turn.clone()))
            }
            _ => ("thread/read".to_owned(), json!({"threadId": nobody}), Proof::Sentence(nobody)),
        };
        self.asked += 1;
        let id = format!("{}/{}", self.name, self.asked);
        // Before it is sent, or the answer would be unexpected if the connection broke here.
        self.open.insert(id.clone(), Open { proof, servers: arena.servers.now() });
        count(&arena.counts.messages);
        self.wire.send(&json!({"id": id, "method": method, "params": params}).to_string())
    }

    fn talk_nonsense(&mut self, arena: &Arena) -> anyhow::Result<()> {
        self.nonsense += 1;
        count(&arena.counts.messages);
        self.wire.send(r#"{"id":1,"method":"#)
    }

    /// Nobody asked this client anything: no turn may be cut by what it says.
    fn answer_what_others_were_asked(&mut self, arena: &Arena, dice: &mut Dice) -> anyhow::Result<()> {
        let near = (arena.question.load(Ordering::Relaxed) + dice.roll(4)).saturating_sub(1);
        count(&arena.counts.messages);
        self.wire.send(&json!({"id": near, "result": {"decision": "cancel"}}).to_string())
    }

    /// Reads until everything is answered.
    fn settle(&mut self, arena: &Arena) -> Result<(), Trouble> {
        while !self.open.is_empty() || self.nonsense > 0 {
            let message = self.wire.message().map_err(|error| arena.lost(&error, self.came))?;
            self.hear(arena, &message)?;
        }
        Ok(())
    }

    fn hear(&mut self, arena: &Arena, message: &[u8]) -> Result<(), Trouble> {
        let message: Value = serde_json::from_slice(message)
            .map_err(|error| Trouble::Wrong(format!("no JSON came: {error}")))?;
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
        if message["error"]["data"]["reason"] == "appServerRestarted" && arena.servers.since(open.servers) {
            count(&arena.counts.refused);
            return Ok(());
        }
        if !open.proof.is_in(&message) {
            return Err(self.wrong("answered", &format!("without {:?}", open.proof), &message));
        }
        count(&arena.counts.answered);
        Ok(())
    }

    fn wrong(&self, was: &str, what: &str, message: &Value) -> Trouble {
        Trouble::Wrong(format!("{} was {was} {what}: {message}", self.name))
    }

    /// Reads what still comes after an end of its own making; there must be an end.
    fn read_out(mut self, arena: &Arena) -> Result<(), Trouble> {
        loop {
            match self.wire.message() {
                Ok(message) => self.hear(arena, &message)?,
                Err(error) if Wire::is_timeout(&error) => {
                    return Err(Trouble::Wrong(format!("{} left and was not let go", self.name)));
                }
                Err(_end) => return Ok(()),
            }
        }
    }

    /// Goes, in one of many ways.
    fn leave(mut self, arena: &Arena, dice: &mut Dice) -> Result<(), Trouble> {
        count(&arena.counts.left);
        let way = dice.roll(6);
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
            count(&arena.counts.half_closed);
            let _cut_already = self.wire.half_close();
        }
        self.read_out(arena)
    }
}

/// Comes and goes without a word, or with half of one.
fn look_in(arena: &Arena, dice: &mut Dice) -> Result<(), Trouble> {
    let came = arena.gateways.now();
    count(&arena.counts.half_closed);
    if dice.one_in(2) {
        let wire = Wire::dial(&arena.socket).map_err(|error| arena.lost(&error, came))?;
        let _cut_already = wire.half_close();
        let nobody = Guest { name: "nobody".into(), wire, asked: 0, open: HashMap::new(), nonsense: 0, came };
        return nobody.read_out(arena);
    }
    let half = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(&arena.socket)?;
        stream.set_read_timeout(Some(limits::MESSAGE))?;
        std::io::Write::write_all(&mut stream, b"GET /rpc HTTP/1.1\r\nhost: local")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        std::io::Read::read(&mut stream, &mut [0; 64])
    };
    match half() {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            Err(Trouble::Wrong("half a handshake was not let go".to_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(Trouble::Wrong("a client was refused".to_owned()))
        }
        _ => Ok(()),
    }
}

/// The life of one worker: its share of the crowd, a few of them at a time.
pub(super) fn work(arena: &Arena, number: u64, share: usize, seed: u64) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed.wrapping_add(number));
    let mut guests: Vec<Guest> = Vec::new();
    let mut visitors = 0;
    while !arena.is_over() {
        while guests.len() < share && !arena.is_over() {
            visitors += 1;
            if dice.one_in(30) {
                survive(look_in(arena, &mut dice))?;
            }
            guests.extend(survive(Guest::come(arena, format!("{number}.{visitors}")))?);
        }
        let mut speakers = Vec::new();
        for _ in 0..=dice.roll(AT_ONCE) {
            if !guests.is_empty() {
                let mut guest = guests.swap_remove(dice.place(guests.len()));
                if survive(guest.speak(arena, &mut dice))?.is_some() {
                    speakers.push(guest);
                }
            }
        }
        for mut guest in speakers {
            if dice.one_in(8) {
                survive(guest.leave(arena, &mut dice))?;
            } else if survive(guest.settle(arena))?.is_some() {
                guests.push(guest);
            }
        }
    }
    Ok(())
}

/// Nothing for who lost a gateway; the error of who lost more.
fn survive<T>(outcome: Result<T, Trouble>) -> Result<Option<T>, Trouble> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Trouble::Cut) => Ok(None),
        Err(wrong) => Err(wrong),
    }
}
