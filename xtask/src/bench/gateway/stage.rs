//! The two ways to the same app-server: directly, and through the gateway. Each has a home of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{
    AppServer, Codexd, Home, Layout, MockModel, Process, Server, Version, Wire, block_on, codex, limits,
    until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::copier::Copier;

/// The socket of the process that copies.
const COPIES: &str = "copier.sock";
/// The app-server that is measured.
pub const SERVER: Version = Version::V0_171_0;

/// One home with a server that serves.
pub struct Stage {
    home: Home,
    way: Way,
}

enum Way {
    Direct(AppServer),
    Copied { server: AppServer, copier: Copier },
    Through { codexd: PathBuf },
}

impl Stage {
    /// A bare app-server.
    ///
    /// # Errors
    /// It does not start.
    pub fn direct(model: &MockModel) -> anyhow::Result<Stage> {
        let home = home(model)?;
        let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
        Ok(Stage { home, way: Way::Direct(server) })
    }

    /// The same app-server behind a process that only copies bytes.
    ///
    /// # Errors
    /// One of the two does not start.
    pub fn copied(model: &MockModel) -> anyhow::Result<Stage> {
        let home = home(model)?;
        let server = block_on(AppServer::start(&home, Server::Real(SERVER)))?;
        let copier = Copier::start(&home.work().join(COPIES), &home.bare_socket())?;
        Ok(Stage { home, way: Way::Copied { server, copier } })
    }

    /// The same app-server with the gateway in front, brought up by `codexd start`.
    ///
    /// # Errors
    /// It does not start, or there is no gateway.
    pub fn through(model: &MockModel, codexd: &Path) -> anyhow::Result<Stage> {
        let home = home(model)?;
        home.install(Layout::Standalone, &codex::binary(SERVER)?)?;
        let stage = Stage { home, way: Way::Through { codexd: codexd.to_owned() } };
        stage.command("start")?;
        Ok(stage)
    }

    /// Where clients connect.
    pub fn socket(&self) -> PathBuf {
        match self.way {
            Way::Direct(_) => self.home.bare_socket(),
            Way::Copied { .. } => self.home.work().join(COPIES),
            Way::Through { .. } => self.home.control_socket(),
        }
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The process between the clients and the app-server.
    ///
    /// # Errors
    /// There is none.
    pub fn in_the_middle(&self) -> anyhow::Result<Process> {
        match &self.way {
            Way::Direct(_) => anyhow::bail!("nothing is between a bare server and its clients"),
            Way::Copied { copier, .. } => copier.process(),
            Way::Through { .. } => self.gateway(),
        }
    }

    /// Waits until an app-server answers `initialize` on its own socket that is not this one.
    ///
    /// # Errors
    /// There is none.
    pub fn until_another_answers(&self, old: &Process) -> anyhow::Result<()> {
        until(limits::SERVER_READY, "another app-server to answer", || {
            let status = self.codexd().ok()?.json(&["status"]).ok()?;
            let current = status["generations"].as_array()?.iter().find(|one| one["role"] == "current")?;
            let is_new = current["pid"].as_u64()? != u64::from(old.pid);
            let socket = PathBuf::from(current["socket"].as_str()?);
            (is_new && Wire::connect(&socket).is_ok()).then_some(())
        })
    }

    /// A client that has introduced itself.
    ///
    /// # Errors
    /// As [`Wire::connect`].
    pub fn client(&self) -> anyhow::Result<Wire> {
        Wire::connect(&self.socket())
    }

    /// A thread that has had a turn, so that others can join it.
    ///
    /// # Errors
    /// The server's.
    pub fn thread(&self, client: &mut Wire) -> anyhow::Result<String> {
        let started = client.call("thread/start", &json!({"cwd": self.home.work()}))?;
        let thread = started["thread"]["id"].as_str().context("a thread has an id")?.to_owned();
        client.call("turn/start", &turn(&thread, "[[deltas=1]]"))?;
        until_turn_ends(client)?;
        Ok(thread)
    }

    /// Replaces the app-server and waits until the old one has left; gives how long that took.
    ///
    /// # Errors
    /// It fails, or takes longer than `most`.
    pub fn restart(&self, most: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let run = self.codexd()?.spawn(&["restart"])?.finish(most)?;
        ensure!(run.success(), "{run}");
        self.until_alone(most)?;
        Ok(started.elapsed())
    }

    /// Runs a command of codexd that must succeed; gives how long it took.
    ///
    /// # Errors
    /// It fails, or there is no codexd here.
    pub fn command(&self, command: &str) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.codexd()?.json(&[command])?;
        Ok(started.elapsed())
    }

    fn codexd(&self) -> anyhow::Result<Codexd<'_>> {
        match &self.way {
            Way::Direct(_) | Way::Copied { .. } => anyhow::bail!("a bare server has no commands"),
            Way::Through { codexd } => Ok(Codexd::at(&self.home, codexd)),
        }
    }

    /// The app-server.
    ///
    /// # Errors
    /// There is none.
    pub fn server(&self) -> anyhow::Result<Process> {
        match &self.way {
            Way::Direct(server) | Way::Copied { server, .. } => Ok(server.process().clone()),
            Way::Through { .. } => {
                let status = self.codexd()?.json(&["status"])?;
                let pid = status["pid"].as_u64().with_context(|| format!("no pid in {status}"))?;
                Process::of(u32::try_from(pid)?).with_context(|| format!("the server {pid} is gone"))
            }
        }
    }

    /// The gateway.
    ///
    /// # Errors
    /// There is none.
    pub fn gateway(&self) -> anyhow::Result<Process> {
        let is_gateway =
            |process: &Process| process.command.split(' ').nth(1).is_some_and(|mode| mode == "gateway");
        let mut gateways = self.home.processes();
        gateways.retain(is_gateway);
        ensure!(gateways.len() == 1, "not one gateway: {gateways:?} of {:?}", self.home.processes());
        Ok(gateways.remove(0))
    }

    /// Kills the app-server; gives when.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill_server(&self) -> anyhow::Result<Instant> {
        let server = self.server()?;
        let at = Instant::now();
        server.signal(Signal::KILL)?;
        Ok(at)
    }

    /// Waits until no generation of the app-server lives but the current one.
    ///
    /// # Errors
    /// An old one stays.
    fn until_alone(&self, most: Duration) -> anyhow::Result<()> {
        until(most, "the old app-server to leave", || {
            let processes = self.home.processes();
            let serves = |process: &&Process| {
                process.command.contains(" app-server ") && process.command.contains("--listen")
            };
            (processes.iter().filter(serves).count() == 1).then_some(())
        })
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(self) -> anyhow::Result<()> {
        if let Way::Through { .. } = self.way {
            self.command("stop")?;
        }
        Ok(())
    }
}

/// The parameters of a turn.
pub fn turn(thread: &str, text: &str) -> Value {
    json!({"threadId": thread, "input": [{"type": "text", "text": text}]})
}

/// Reads until a turn has ended.
///
/// # Errors
/// The connection is lost.
pub fn until_turn_ends(client: &mut Wire) -> anyhow::Result<()> {
    loop {
        let message: Value = serde_json::from_slice(&client.message()?)?;
        if message["method"] == "turn/completed" {
            let status = &message["params"]["turn"]["status"];
            ensure!(status == "completed", "the turn ended {status}");
            return Ok(());
        }
    }
}

/// A home whose login profile is empty, and whose model is this one.
///
/// # Errors
/// The system's.
pub fn home(model: &MockModel) -> anyhow::Result<Home> {
    let home = Home::new()?;
    home.configure(&Config::for_model(model))?;
    Ok(home)
}
