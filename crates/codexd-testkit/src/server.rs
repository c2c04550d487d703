//! One bare app-server, without any daemon around it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::{Client, Home, Place, Process, Version, codex, codexd, limits};

/// Which app-server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Server {
    /// A real release.
    Real(Version),
    /// The one built into codexd.
    Embedded,
}

impl Server {
    /// The command that runs it in a home, listening at `listen`, with more arguments.
    ///
    /// # Errors
    /// It cannot be installed, or was not built.
    pub fn command(self, home: &Home, listen: &str, more: &[&str]) -> anyhow::Result<Command> {
        let mut command = match self {
            Server::Real(version) => {
                let mut command = home.command(codex::binary(version)?);
                command.arg("app-server");
                command
            }
            Server::Embedded => {
                let mut command = home.command(codexd::binary()?);
                command.arg("embedded-app-server");
                command
            }
        };
        command.args(["--listen", listen]).args(more);
        Ok(command)
    }
}

/// A running app-server. It is killed when this is dropped.
#[derive(Debug)]
pub struct AppServer {
    child: Child,
    process: Process,
    place: Place,
    log: PathBuf,
}

impl AppServer {
    /// Starts one on a socket of its own in `home` and waits until it answers `initialize`.
    ///
    /// # Errors
    /// It ends, or does not answer in time; the sentence has what it said.
    pub async fn start(home: &Home, server: Server) -> anyhow::Result<AppServer> {
        let socket = home.bare_socket();
        let command = server.command(home, &format!("unix://{}", socket.display()), &[])?;
        AppServer::launch(command, &socket, &home.root().join("server.log")).await
    }

    /// Starts one with a command of the caller's that makes it listen at `socket`; its errors go to `log`.
    ///
    /// # Errors
    /// As [`AppServer::start`].
    pub async fn launch(mut command: Command, socket: &Path, log: &Path) -> anyhow::Result<AppServer> {
        let errors = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().context("failed to start the app-server")?;
        let process = Process::of(child.id()).context("the app-server ended at once")?;
        let mut server = AppServer { child, process, place: socket.into(), log: log.to_owned() };
        server.wait_ready().await?;
        Ok(server)
    }

    /// Waits until a new connection gets an answer to `initialize`.
    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + limits::SERVER_READY;
        loop {
            let error = match Client::connect(&self.place, "testkit").await {
                Ok(_client) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                return Err(error).with_context(|| format!("it ended with {status}: {}", self.said()));
            }
            ensure!(Instant::now() < deadline, "the app-server is not ready: {error:#}; {}", self.said());
            tokio::time::sleep(limits::LOOK_EVERY).await;
        }
    }

    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it wrote to its standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A client that has introduced itself.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn client(&self, name: &str) -> anyhow::Result<Client> {
        Client::connect(&self.place, name).await
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Errors
    /// It is gone already, or still there at the deadline.
    pub fn end(self, signal: Signal) -> anyhow::Result<std::process::ExitStatus> {
        self.process.signal(signal)?;
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is still there at the deadline.
    pub fn wait(mut self) -> anyhow::Result<std::process::ExitStatus> {
        self.process.wait_gone(limits::RUN)?;
        Ok(self.child.wait()?)
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
