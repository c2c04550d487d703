//! The states that a home can be in when a command comes.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::run::Running;
use codexd_testkit::{
    AppServer, Fake, Home, Layout, Process, Server, Version, block_on, codex, limits, until,
};
use rustix::process::Signal;
use serde_json::json;

use super::contestant::Contestant;

/// What a command finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// No Codex is installed.
    NoCodex,
    /// A Codex is installed, nothing runs.
    NothingRuns,
    /// The daemon's own server runs.
    Running,
    /// A server that a user started by hand listens on the control socket.
    Unmanaged,
    /// The server was killed; the record and the socket are left.
    ServerKilled,
    /// The process of the record lives and never listens.
    NotReady,
    /// The record has the pid of a process that is no server.
    ForeignPid,
    /// The record is an empty file.
    EmptyRecord,
    /// A stale socket is left.
    SocketLeftOver,
    /// The settings are not JSON, nothing runs.
    CorruptSettings,
    /// The settings are not JSON, the daemon's own server runs.
    CorruptSettingsRunning,
    /// Remote control is on, nothing runs.
    RemoteControlOn,
    /// The home's name has blanks, quotes and letters beyond ASCII; the daemon's own server runs.
    StrangeName,
    /// The home's name makes the socket's path longer than an address; nothing runs.
    LongName,
}

/// Processes that belong to a state; they end with it (the server by itself, others here).
pub enum Others {
    /// None.
    None,
    /// A server that the daemon does not manage.
    Server(#[expect(dead_code, reason = "held until the state is over")] AppServer),
    /// Something that is no server.
    Bystander(Child),
}

impl Drop for Others {
    fn drop(&mut self) {
        if let Others::Bystander(child) = self {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// A home in which `contestant` finds the Codex of the state.
pub fn home_for(contestant: Contestant, state: State) -> anyhow::Result<Home> {
    let home = match state {
        State::StrangeName => Home::named("it's a \"höme\" $x")?,
        State::LongName => Home::named(&"long".repeat(40))?,
        _ => Home::new()?,
    };
    if matches!(contestant, Contestant::Upstream(version) if version != Version::V0_131_0) {
        // What makes a newer release use the places of the older one, so that a state is the same for all.
        home.write("app-server-daemon/app-server.stderr.log", "")?;
    }
    match state {
        State::NoCodex => {}
        State::NotReady => drop(Fake::NeverListens.install(&home, Layout::Standalone)?),
        _ => drop(home.install(Layout::Standalone, &codex::binary(Version::NEWEST)?)?),
    }
    Ok(home)
}

impl State {
    /// The commands that are worth a comparison in it: in some states the real daemons fail after half a minute each.
    pub fn commands(self) -> &'static [&'static str] {
        match self {
            State::NotReady => &["stop", "version"],
            _ => &["start", "restart", "stop", "version", "enable-remote-control", "disable-remote-control"],
        }
    }

    /// The real daemons that can be in it: to 0.131.0 a long name is an error of the socket's address.
    pub fn upstream(self) -> &'static [Contestant] {
        match self {
            State::LongName => &Contestant::UPSTREAM[1..],
            _ => &Contestant::UPSTREAM,
        }
    }

    /// Makes it.
    pub fn make(self, contestant: Contestant, home: &Home) -> anyhow::Result<Others> {
        const CORRUPT: &str = "{oops";
        match self {
            State::NoCodex | State::NothingRuns | State::LongName => {}
            State::Running | State::StrangeName => start(contestant, home)?,
            State::Unmanaged => return unmanaged(home),
            State::ServerKilled => kill_server(home)?,
            State::NotReady => abandoned_start(home)?,
            State::ForeignPid => return foreign_record(home),
            State::EmptyRecord => drop(home.write("app-server-daemon/app-server.pid", "")?),
            State::SocketLeftOver => left_over_socket(home)?,
            State::CorruptSettings => drop(home.write("app-server-daemon/settings.json", CORRUPT)?),
            State::CorruptSettingsRunning => {
                start(contestant, home)?;
                home.write("app-server-daemon/settings.json", CORRUPT)?;
            }
            State::RemoteControlOn => {
                let settings = json!({"remoteControlEnabled": true});
                home.write("app-server-daemon/settings.json", format!("{settings:#}"))?;
            }
        }
        Ok(Others::None)
    }
}

fn start(contestant: Contestant, home: &Home) -> anyhow::Result<()> {
    contestant.run(home, "start")?.success_json()?;
    Ok(())
}

/// The daemon whose state files every other understands.
const OLDEST: Contestant = Contestant::Upstream(Version::V0_131_0);

fn unmanaged(home: &Home) -> anyhow::Result<Others> {
    std::fs::create_dir_all(home.control_socket().parent().context("the socket has a folder")?)?;
    let command = Server::Real(Version::NEWEST).command(home, "unix://", &[])?;
    let log = home.root().join("server.log");
    Ok(Others::Server(block_on(AppServer::launch(command, &home.control_socket(), &log))?))
}

fn kill_server(home: &Home) -> anyhow::Result<()> {
    let reply = OLDEST.run(home, "start")?.success_json()?;
    let pid = reply["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let server = pid.and_then(Process::of).with_context(|| format!("no server after {reply}"))?;
    server.signal(Signal::KILL)?;
    // 0.131.0 takes the remains of a process for a living one.
    server.wait_reaped(limits::PROCESS_GONE)?;
    ensure!(home.state("app-server.pid").exists(), "the record went with the server");
    Ok(())
}

/// A start that was killed while it waited for its server.
fn abandoned_start(home: &Home) -> anyhow::Result<()> {
    let mut running = Running::spawn(OLDEST.command(home, "start")?)?;
    let record = home.state("app-server.pid");
    until(limits::SERVER_READY, "a whole record", || {
        let text = std::fs::read_to_string(&record).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()
    })?;
    running.kill()
}

fn foreign_record(home: &Home) -> anyhow::Result<Others> {
    let bystander = Command::new("sleep").arg("1000000").stdin(Stdio::null()).spawn()?;
    let record = json!({"pid": bystander.id(), "processStartTime": "Thu Jan  1 00:00:00 1970"});
    home.write("app-server-daemon/app-server.pid", record.to_string())?;
    Ok(Others::Bystander(bystander))
}

fn left_over_socket(home: &Home) -> anyhow::Result<()> {
    let socket = home.control_socket();
    std::fs::create_dir_all(socket.parent().context("the socket has a folder")?)?;
    drop(codexd_protocol::unix::bind(&socket)?);
    ensure!(socket.exists(), "the socket went with its listener");
    Ok(())
}
