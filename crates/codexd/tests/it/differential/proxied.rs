//! Clients behind `codex app-server proxy`, as editors and SSH use it: the same scenes at a server alone and through the
//! gateway, each client behind a real proxy of its own that carries its bytes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, ensure};
use codexd_testkit::{Home, Place, Process, Server, Version, codex, limits, skip};

use super::stage::Stage;
use super::through::differs;
use super::{approvals, play_on, scenes, threads, turns};

const REAL: Server = Server::Real(Version::NEWEST);

/// A socket behind which a proxy is started for everybody who connects.
#[derive(Debug)]
pub(super) struct Tunnel {
    place: Place,
    proxies: Arc<Mutex<Vec<Child>>>,
}

impl Tunnel {
    /// Whom `proxy` is the command of, is told by the caller.
    pub(super) fn open(home: &Home, mut proxy: Command) -> anyhow::Result<Tunnel> {
        let socket = home.root().join("tunnel");
        let listener = UnixListener::bind(&socket)?;
        let proxies: Arc<Mutex<Vec<Child>>> = Arc::default();
        let started = Arc::clone(&proxies);
        // It ends with the test's process.
        thread::spawn(move || -> anyhow::Result<()> {
            loop {
                let input = OwnedFd::from(listener.accept()?.0);
                let output = input.try_clone()?;
                let child = proxy.stdin(input).stdout(output).stderr(Stdio::inherit()).spawn()?;
                // Only the child may hold the connection open.
                proxy.stdin(Stdio::null()).stdout(Stdio::null());
                started.lock().unwrap_or_else(PoisonError::into_inner).push(child);
            }
        });
        Ok(Tunnel { place: socket.into(), proxies })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The clients have left: every proxy ends by itself, well.
    pub(super) fn close(self) -> anyhow::Result<()> {
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!proxies.is_empty(), "no client came through the tunnel");
        for proxy in proxies.iter_mut() {
            if let Some(process) = Process::of(proxy.id()) {
                process.wait_gone(limits::RUN).context("a proxy whose client has left")?;
            }
            let status = proxy.wait()?;
            ensure!(status.success(), "a proxy ended with {status}");
        }
        Ok(())
    }
}

/// Plays a script to clients behind proxies, at the server alone and through the gateway.
async fn unchanged<F>(script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&mut Stage) -> anyhow::Result<()>,
{
    let direct = play_on(Stage::open(REAL).await?.behind_proxies()?, &script).await?;
    let through = play_on(Stage::open_through(REAL).await?.behind_proxies()?, &script).await?;
    differs(&direct, &through)
}

scenes! {
    unchanged;
    uninitialized_clients_and_malformed_requests_are_refused_as_before: threads::refusals;
    a_first_turn_has_notifications_and_history_as_before: turns::first_turn;
    a_second_subscriber_gets_the_same_as_before: turns::second_subscriber;
    a_declined_command_is_left_as_before: approvals::declined;
}
