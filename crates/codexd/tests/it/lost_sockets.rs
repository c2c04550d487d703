//! A program that cleans `/tmp`, or the home, takes the socket of a server that lives: new clients reach it all the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use codexd_testkit::{
    Client, Codexd, Home, MockModel, Place, Process, Server, Version, block_on, codex, limits, skip, until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lifecycle::{prepare, recorded, supervisor};

const SERVERS: [Server; 4] = [
    Server::Real(Version::V0_131_0),
    Server::Real(Version::V0_169_0),
    Server::Real(Version::V0_171_0),
    Server::Embedded,
];

struct Stage {
    home: Home,
    start: Vec<&'static str>,
    model: MockModel,
}

impl Stage {
    fn set(server: Server, gateway: bool) -> anyhow::Result<Self> {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let start = prepare(&home, server)?;
        home.write("app-server-daemon/settings.json", json!({"gateway": gateway}).to_string())?;
        let stage = Self { home, start, model };
        stage.codexd()?.json(&stage.start)?;
        Ok(stage)
    }

    fn codexd(&self) -> anyhow::Result<Codexd<'_>> {
        Codexd::new(&self.home)
    }

    /// The path at which the gateway, or clients, look for the server.
    fn path(&self, gateway: bool) -> PathBuf {
        match gateway {
            true => self.home.path().join("app-server-control/app-server-1.sock"),
            false => self.home.control_socket(),
        }
    }

    /// Waits until the supervisor has the second way to the socket.
    fn await_second_way(&self, path: &Path) -> anyhow::Result<()> {
        let name = path.file_name().context("a name")?;
        let name = if path == self.home.control_socket() { "control.sock".as_ref() } else { name };
        let spare = self.home.state("").join(name);
        until(limits::SERVER_READY, "the second name", || spare.exists().then_some(()))
    }

    fn events(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.home.state("events.jsonl"))?;
        let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        Ok(events?.into_iter().filter(|event| event["type"] == kind).collect())
    }

    /// The supervisor has noticed, a new client is served, and `start` has nothing to do.
    fn assert_reachable(&self, path: &Path, times: usize) -> anyhow::Result<()> {
        until(limits::SERVER_READY, "the event", || {
            (self.events("server.socket.restored").ok()?.len() >= times).then_some(())
        })?;
        std::os::unix::net::UnixStream::connect(path).with_context(|| path.display().to_string())?;
        block_on(async {
            let client = Client::connect(&Place::Socket(self.home.control_socket()), "new").await?;
            // This goes over a connection of its own to the server. The embedded one answers that it does not know it.
            let answer = client.request("account/read", json!({})).await?;
            ensure!(answer.as_ref().err().is_none_or(|error| error.code == -32601), "{answer:?}");
            client.start_thread(&self.home.work()).await
        })?;
        let status = self.codexd()?.json(&["status"])?;
        ensure!(status["state"] == "running" && status["problems"] == json!([]), "{status}");
        let again = self.codexd()?.json(&self.start)?;
        ensure!(again["status"] == "alreadyRunning", "{again}");
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        self.codexd()?.json(&["stop"])?;
        self.home.assert_no_process_left();
        let control = self.home.path().join("app-server-control");
        let left: Vec<_> = fs::read_dir(control)?.flatten().map(|entry| entry.file_name()).collect();
        let sockets = left.iter().filter(|name| name.to_string_lossy().ends_with(".sock"));
        ensure!(sockets.count() == 0, "sockets are left: {left:?}");
        Ok(())
    }
}

fn on_every_server(script: fn(Server) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for server in SERVERS {
        if let (Server::Real(_), Err(reason)) = (server, codex::platform()) {
            skip!("{reason}");
        }
        script(server).with_context(|| format!("{server:?}"))?;
    }
    Ok(())
}

fn the_file_and_the_path_go(server: Server, gateway: bool) -> anyhow::Result<()> {
    let stage = Stage::set(server, gateway)?;
    let path = stage.path(gateway);
    let before = recorded(&stage.home)?.pid;
    stage.await_second_way(&path)?;
    fs::remove_file(fs::canonicalize(&path)?)?;
    stage.assert_reachable(&path, 1).context("after the file was removed")?;
    fs::remove_file(&path)?;
    stage.assert_reachable(&path, 2).context("after the path was removed")?;
    // What goes with its folder is back before the folder is empty.
    fs::rename(path.parent().context("a folder")?, stage.home.root().join("moved"))?;
    stage.assert_reachable(&path, 3).context("after its folder was moved")?;
    ensure!(recorded(&stage.home)?.pid == before, "the server was replaced");
    stage.end()
}

#[test]
fn a_server_behind_the_gateway_is_reachable_after_its_socket_is_removed() -> anyhow::Result<()> {
    on_every_server(|server| the_file_and_the_path_go(server, true))
}

#[test]
fn a_server_without_a_gateway_is_reachable_after_its_socket_is_removed() -> anyhow::Result<()> {
    on_every_server(|server| the_file_and_the_path_go(server, false))
}

#[test]
fn a_socket_that_cannot_have_a_second_name_is_held_open_by_the_supervisor() -> anyhow::Result<()> {
    on_every_server(|server| {
        let model = MockModel::start()?;
        let home = Home::with_model(&model)?;
        let start = prepare(&home, server)?;
        // As on another file system, no name can be made here.
        home.write("app-server-daemon/app-server-1.sock/in-the-way", "")?;
        let stage = Stage { home, start, model };
        stage.codexd()?.json(&stage.start)?;
        let path = stage.path(true);
        let supervisor = supervisor(&stage.home)?;
        let real = fs::canonicalize(&path)?;
        until(limits::SERVER_READY, "the handle", || {
            let handles = fs::read_dir(format!("/proc/{}/fd", supervisor.pid)).ok()?;
            handles.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|open| open == real)).then_some(())
        })?;
        fs::remove_file(&real)?;
        stage.assert_reachable(&path, 1)?;
        stage.end()
    })
}

#[test]
fn a_socket_that_is_removed_while_no_supervisor_lives_is_back_with_the_next_one() -> anyhow::Result<()> {
    on_every_server(|server| {
        let stage = Stage::set(server, true)?;
        let path = stage.path(true);
        stage.await_second_way(&path)?;
        let supervisor = supervisor(&stage.home)?;
        supervisor.signal(Signal::KILL)?;
        supervisor.wait_gone(limits::PROCESS_GONE)?;
        fs::remove_file(fs::canonicalize(&path)?)?;
        let before = recorded(&stage.home)?.pid;
        stage.codexd()?.json(&stage.start)?;
        stage.assert_reachable(&path, 1)?;
        ensure!(recorded(&stage.home)?.pid == before, "the server was replaced");
        stage.end()
    })
}

#[test]
fn an_outgoing_server_ends_its_turn_and_exits_after_its_socket_is_removed() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let model = MockModel::start()?;
    let home = Home::with_model(&model)?;
    let start = prepare(&home, Server::Real(Version::V0_171_0))?;
    let stage = Stage { home, start, model };
    stage.codexd()?.json(&stage.start)?;
    let path = stage.path(true);
    stage.await_second_way(&path)?;
    let outgoing = recorded(&stage.home)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (client, turn) = runtime.block_on(async {
        let client = Client::connect(&Place::Socket(stage.home.control_socket()), "turns").await?;
        let thread = client.start_thread(&stage.home.work()).await?;
        let turn = client.start_turn(&thread, "[[deltas=4 hold=turn]]").await?;
        client.wait_method("item/agentMessage/delta").await?;
        anyhow::Ok((client, turn))
    })?;
    stage.codexd()?.json(&["restart"])?;
    ensure!(outgoing.is_alive(), "the turn runs");
    fs::remove_file(fs::canonicalize(&path)?)?;
    stage.assert_reachable(&path, 1)?;
    stage.model.release("turn");
    let end = runtime.block_on(client.wait_turn(&turn))?;
    ensure!(end["params"]["turn"]["status"] == "completed", "{end}");
    outgoing.wait_gone(limits::SERVER_READY)?;
    stage.end()
}

#[test]
fn a_server_that_exits_is_not_reported_as_having_lost_its_socket() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let stage = Stage::set(Server::Real(Version::V0_171_0), true)?;
    stage.await_second_way(&stage.path(true))?;
    let outgoing = recorded(&stage.home)?;
    stage.codexd()?.json(&["restart"])?;
    outgoing.wait_gone(limits::SERVER_READY)?;
    stage.codexd()?.json(&["stop"])?;
    let events = fs::read_to_string(stage.home.state("events.jsonl"))?;
    ensure!(!events.contains("server.socket."), "{events}");
    stage.end()
}

#[test]
fn a_supervisor_is_reachable_after_its_socket_is_removed() -> anyhow::Result<()> {
    let stage = Stage::set(Server::Embedded, true)?;
    let before: Process = supervisor(&stage.home)?;
    fs::remove_file(stage.home.state("supervisor.sock"))?;
    until(limits::SERVER_READY, "the socket", || stage.home.state("supervisor.sock").exists().then_some(()))?;
    let restarted = stage.codexd()?.json(&["restart"])?;
    ensure!(restarted["status"] == "restarted", "{restarted}");
    ensure!(supervisor(&stage.home)?.pid == before.pid, "the supervisor was replaced");
    stage.end()
}
