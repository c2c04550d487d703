//! The supervisor's socket: programs that send what they should not, and programs of the version before.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use codexd_testkit::{Client, Codexd, Fake, Home, Layout, Place, block_on, limits, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::gateway_lifecycle::gateway;
use crate::lifecycle::{recorded, supervisor};

/// What a supervisor may hold in memory however it is attacked.
const SUPERVISOR_MAX_KIB: u64 = 6 << 10;

struct Connection {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Connection {
    fn open(home: &Home) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(home.state("supervisor.sock"))?;
        stream.set_read_timeout(Some(limits::SERVER_READY))?;
        Ok(Self { lines: BufReader::new(stream.try_clone()?), stream })
    }

    fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        Ok(self.stream.write_all(format!("{message}\n").as_bytes())?)
    }

    /// The next message; `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<Value>> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => Ok(None),
            _ => Ok(Some(serde_json::from_str(&line)?)),
        }
    }

    /// All messages up to the first that is wanted.
    fn until(&mut self, is_wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<Value>> {
        let mut messages = Vec::new();
        while let Some(message) = self.next()? {
            messages.push(message);
            if messages.last().is_some_and(&is_wanted) {
                return Ok(messages);
            }
        }
        bail!("the connection was closed after {messages:?}")
    }

    fn is_closed(&mut self) -> anyhow::Result<bool> {
        self.stream.set_nonblocking(true)?;
        loop {
            match self.lines.fill_buf() {
                Ok([]) => return Ok(true),
                Ok(more) => {
                    let count = more.len();
                    self.lines.consume(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Ok(true),
            }
        }
    }
}

/// A home with a server behind a gateway.
fn started() -> anyhow::Result<(Home, Value)> {
    let home = Home::new()?;
    let start = Codexd::new(&home)?.json(&["start", "--embedded"])?;
    Ok((home, start))
}

#[test]
fn restart_succeeds_while_another_program_sends_unknown_orders() -> anyhow::Result<()> {
    let (home, _) = started()?;
    let codexd = Codexd::new(&home)?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let noise = scope.spawn(|| -> anyhow::Result<usize> {
            let mut refused = 0;
            while !is_over.load(Ordering::Relaxed) {
                let mut connection = Connection::open(&home)?;
                for line in
                    ["{\"order\":\"frobnicate\"}\n", "no order at all\n", "{\"id\":9,\"order\":\"x\"}\n"]
                {
                    connection.stream.write_all(line.as_bytes())?;
                }
                connection.until(|message| message["re"] == 9 && message["status"] == "refused")?;
                refused += 1;
            }
            Ok(refused)
        });
        let restarts = || {
            for arguments in [&["restart"][..], &["restart", "--now"], &["restart"], &["restart", "--now"]] {
                codexd.json(arguments).with_context(|| format!("{arguments:?}"))?;
            }
            anyhow::Ok(())
        };
        let outcome = restarts();
        is_over.store(true, Ordering::Relaxed);
        let refused = noise.join().map_err(|_| anyhow::anyhow!("the noise panicked"))??;
        assert!(refused > 0);
        outcome
    })?;
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn an_unreadable_order_is_refused_to_its_sender_alone() -> anyhow::Result<()> {
    let (home, _) = started()?;
    let (mut sender, mut other) = (Connection::open(&home)?, Connection::open(&home)?);
    other.until(|message| message["report"] == "generations")?;
    sender.send(&json!({"id": 1, "order": "frobnicate"}))?;
    sender.until(|message| message["re"] == 1 && message["status"] == "refused")?;
    sender.send(&json!("x"))?;
    sender.until(|message| message["report"] == "refused")?;
    other.send(&json!({"id": 2, "order": "getLaunchSpec", "field": "of a later version"}))?;
    let heard = other.until(|message| message["re"] == 2 && message["status"] == "ok")?;
    assert!(heard.iter().all(|message| message["report"] != "refused" && message["re"] != 1), "{heard:?}");
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn connections_that_spoke_once_and_unfinished_orders_keep_no_command_out_and_cost_little_memory()
-> anyhow::Result<()> {
    let (home, _) = started()?;
    let codexd = Codexd::new(&home)?;
    let supervisor = supervisor(&home)?;
    let before = supervisor.memory()?;
    let mut attackers = Vec::new();
    for number in 0..140 {
        let mut attacker = Connection::open(&home)?;
        attacker.send(&json!({"order": "getLaunchSpec"}))?;
        attacker.until(|message| message["report"] == "launchSpec").with_context(|| format!("{number}"))?;
        attacker.stream.set_nonblocking(true)?;
        attackers.push(attacker);
    }
    // Each sends a line without an end, as much as is taken.
    let (chunk, last) = ([b'x'; 64 << 10], Instant::now() + Duration::from_secs(3));
    let mut is_taken = true;
    while is_taken && Instant::now() < last {
        is_taken = false;
        for attacker in &mut attackers {
            is_taken |= attacker.stream.write(&chunk).is_ok();
        }
    }
    assert_eq!(codexd.json(&["restart"])?["status"], "restarted");
    assert!(codexd.json(&["status"])?["gateway"]["pid"].is_number());
    let memory = supervisor.memory()?;
    // The program text of a debug build alone is larger than all that.
    let most = SUPERVISOR_MAX_KIB.max(before.peak_kib + 1024);
    assert!(memory.peak_kib < most && memory.anonymous_kib < SUPERVISOR_MAX_KIB / 2, "{memory:?}");
    drop(attackers);
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_gateway_and_a_waiting_command_stay_connected_when_the_connection_limit_is_reached()
-> anyhow::Result<()> {
    let (home, _) = started()?;
    let mut observer = Connection::open(&home)?;
    observer.send(&json!({"id": 1, "order": "getLaunchSpec"}))?;
    observer.until(|message| message["re"] == 1 && message["status"] == "ok")?;
    let silent: Vec<Connection> = (0..300).map(|_| Connection::open(&home)).collect::<anyhow::Result<_>>()?;
    observer.send(&json!({"id": 2, "order": "getLaunchSpec"}))?;
    observer.until(|message| message["re"] == 2 && message["status"] == "ok")?;
    let mut last = Connection::open(&home)?;
    let heard = last.until(|message| message["report"] == "generations")?;
    assert_eq!(heard[0]["protocol"], 1);
    assert_eq!(heard[1]["gatewayMoves"], true, "the gateway is connected still");
    drop(silent);
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_program_that_reads_nothing_is_disconnected() -> anyhow::Result<()> {
    let (home, _) = started()?;
    let mut deaf = Connection::open(&home)?;
    let order = format!("{}\n", json!({"id": 1, "order": "getLaunchSpec"}));
    deaf.stream.set_write_timeout(Some(limits::SERVER_READY))?;
    // Its replies fill the socket.
    let until_closed = Instant::now() + limits::SERVER_READY;
    while deaf.stream.write_all(order.as_bytes()).is_ok() {
        assert!(Instant::now() < until_closed, "it is still connected");
    }
    until(limits::SERVER_READY, "the end", || deaf.is_closed().ok().filter(|closed| *closed))?;
    Codexd::new(&home)?.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn orders_of_the_previous_version_are_carried_out_and_answered_in_its_form() -> anyhow::Result<()> {
    let (home, start) = started()?;
    // The gateway of this version would subscribe again at once, and the supervisor would close the older connection.
    let this_version = gateway(&home)?;
    this_version.signal(Signal::STOP)?;
    let mut gateway = Connection::open(&home)?;
    gateway.send(&json!({"order": "subscribe", "moves": true, "knowsThreadSettings": false}))?;
    gateway.send(&json!({"order": "sendThreadSettings", "after": null}))?;
    gateway.until(|message| message["report"] == "threadSettings" && message["isLast"] == true)?;
    this_version.signal(Signal::CONT)?;
    let mut command = Connection::open(&home)?;
    let heard = command.until(|message| message["report"] == "generations")?;
    assert_eq!((&heard[0]["report"], &heard[0]["pid"]), (&json!("state"), &start["pid"]));
    command.send(&json!({"order": "promote", "generation": "none", "gateway": null}))?;
    let heard = command.until(|message| message["report"] == "state")?;
    assert!(heard.iter().any(|message| message["report"] == "refused"), "{heard:?}");
    let policy = json!({"signal": "terminate", "graceMs": 60_000});
    command.send(&json!({"order": "stop", "policy": policy, "failed": false}))?;
    let heard = command.until(|message| message["report"] == "leaving")?;
    assert!(heard.iter().any(|message| message["phase"]["is"] == "stopping"), "{heard:?}");
    assert!(heard.iter().all(|message| message["re"].is_null()), "{heard:?}");
    until(limits::PROCESS_GONE, "the end", || home.processes().is_empty().then_some(()))?;
    Ok(())
}

#[test]
fn no_requested_end_of_a_server_is_logged_as_a_loss() -> anyhow::Result<()> {
    let (home, _) = started()?;
    let codexd = Codexd::new(&home)?;
    block_on(async {
        // The gateway has a connection to the server once a client has come.
        let client = Client::connect(&Place::from(home.control_socket()), "viewer").await?;
        client.call("thread/start", json!({})).await?;
        for arguments in [&["restart", "--now"][..], &["restart"], &["stop"]] {
            codexd.json(arguments)?;
        }
        anyhow::Ok(())
    })?;
    let events = std::fs::read_to_string(home.state("events.jsonl"))?;
    let bad =
        events.lines().filter(|line| line.contains("server.lost") || line.contains("\"level\":\"error\""));
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(events.contains("server.left"), "{events}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn the_supervisor_answers_while_it_ends_orphans() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::LeavesStubbornGrandchild.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    let mut observer = Connection::open(&home)?;
    observer.until(|message| message["report"] == "generations")?;
    recorded(&home)?.signal(Signal::KILL)?;
    observer.until(|message| message["report"] == "exited")?;
    observer.send(&json!({"id": 5, "order": "getLaunchSpec"}))?;
    let heard = observer.until(|message| message["re"] == 5 && message["status"] == "ok")?;
    assert!(heard.iter().all(|message| message["report"] != "swept"), "{heard:?}");
    let heard = observer.until(|message| message["report"] == "swept")?;
    assert_eq!(heard.last().context("swept")?["left"], json!([]));
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
