//! A program whose standard output and standard error are a terminal.

use std::fs::File;
use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
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
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
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
