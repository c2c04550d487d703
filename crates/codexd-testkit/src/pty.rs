//! Programs on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::process;

/// Runs a program on a terminal of its own; answers how it ended and all that it printed there, with `\n` for line breaks.
///
/// # Errors
/// There is no pseudo-terminal, or the program cannot be started or still runs after `timeout` (it is killed then).
pub fn run_on_terminal(mut command: Command, timeout: Duration) -> anyhow::Result<(ExitStatus, String)> {
    let (master, slave) = open()?;
    command.stdin(Stdio::null()).stdout(slave.try_clone()?).stderr(slave);
    let mut child = command.spawn().context("failed to start a program on a terminal")?;
    // The command holds copies of the terminal, which would keep the reader from its end.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut printed = Vec::new();
        // The end of a terminal is EIO.
        let _ = File::from(master).read_to_end(&mut printed);
        printed
    });
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    if !process::wait_readable(&handle, timeout)? {
        child.kill()?;
        child.wait()?;
        bail!("it still ran after {timeout:?} and was killed");
    }
    let status = child.wait()?;
    let printed = reader.join().map_err(|_| anyhow::anyhow!("the reader of the terminal panicked"))?;
    Ok((status, String::from_utf8_lossy(&printed).replace("\r\n", "\n")))
}

fn open() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((master, slave))
}

/// A program in the foreground of a terminal of its own. It is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    /// `None` once the terminal is closed.
    master: Option<File>,
    child: Child,
    printed: Vec<u8>,
}

impl Terminal {
    /// Starts a program that makes its standard input the terminal of its session: `setsid --ctty`.
    ///
    /// # Errors
    /// There is no pseudo-terminal, or the program cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Terminal> {
        let (master, slave) = open()?;
        rustix::io::ioctl_fionbio(&master, true)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = command.spawn().context("failed to start a program on a terminal")?;
        Ok(Terminal { master: Some(File::from(master)), child, printed: Vec::new() })
    }

    /// What was printed so far, with `\n` for line breaks. A program that prints much waits until this is called.
    pub fn text(&mut self) -> String {
        let mut bytes = [0; 4096];
        while let Some(count) = self.master.as_mut().and_then(|master| master.read(&mut bytes).ok()) {
            if count == 0 {
                break;
            }
            self.printed.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&self.printed).replace("\r\n", "\n")
    }

    /// Types on the terminal.
    ///
    /// # Errors
    /// The terminal is closed.
    pub fn press(&mut self, keys: &[u8]) -> anyhow::Result<()> {
        self.master.as_mut().context("the terminal is closed")?.write_all(keys)?;
        Ok(())
    }

    /// Closes the window.
    pub fn close(&mut self) {
        self.master = None;
    }

    /// How the program ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok()?
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
