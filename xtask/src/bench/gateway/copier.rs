//! The least that can stand in the way: a process of its own that copies bytes and looks at none of them.
//!
//! What it adds to a round trip is what the machine takes for two more switches between processes; what the gateway adds
//! beyond that is the gateway's.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::Context;
use codexd_testkit::{Process, limits, until};

/// The copier, running.
#[derive(Debug)]
pub struct Copier {
    process: Child,
}

impl Copier {
    /// Starts one that takes connections at `at` and opens one at `to` for each.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(at: &Path, to: &Path) -> anyhow::Result<Copier> {
        let own = std::env::current_exe()?;
        let process = Command::new(own)
            .args(["bench", "copier"])
            .args([at, to])
            .spawn()
            .context("failed to start the process that copies bytes")?;
        let copier = Copier { process };
        until(limits::SERVER_READY, "the process that copies bytes", || UnixStream::connect(at).ok())?;
        Ok(copier)
    }
}

impl Copier {
    /// Its process.
    ///
    /// # Errors
    /// It is gone.
    pub fn process(&self) -> anyhow::Result<Process> {
        Process::of(self.process.id()).context("the process that copies bytes is gone")
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _reaped_already = self.process.wait();
    }
}

/// Where it takes connections and where it opens them.
#[derive(clap::Args)]
pub struct Ends {
    at: PathBuf,
    to: PathBuf,
}

/// Copies until it is killed. Two threads for a connection, each of which reads and writes and does nothing else.
///
/// # Errors
/// The system's.
pub fn copy(ends: &Ends) -> anyhow::Result<()> {
    for client in UnixListener::bind(&ends.at)?.incoming() {
        let (client, server) = (client?, UnixStream::connect(&ends.to)?);
        for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            std::thread::spawn(move || hand_on(from, to));
        }
    }
    Ok(())
}

fn hand_on(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _gone_already = to.shutdown(std::net::Shutdown::Both);
}
