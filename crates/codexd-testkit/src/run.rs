//! Running a program to its end, or part of the way.

use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::{limits, process};

/// What a program did.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// From the spawn until it had ended.
    pub wall: Duration,
    /// Whether something kept its output open after it had ended: a child that inherited what it should not.
    pub output_leaked: bool,
}

impl Run {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code, or `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The one JSON object that it printed.
    ///
    /// # Errors
    /// Standard output is anything but exactly one line with one JSON object.
    pub fn json(&self) -> anyhow::Result<Value> {
        let value: Value = serde_json::from_str(&self.stdout)
            .with_context(|| format!("standard output is not one JSON value: {self}"))?;
        ensure!(value.is_object(), "standard output is not a JSON object: {self}");
        ensure!(self.stdout.trim_end_matches('\n').lines().count() == 1, "more than one line: {self}");
        Ok(value)
    }

    /// [`Run::json`] of a program that ended with 0 and leaked nothing.
    ///
    /// # Errors
    /// It did not.
    pub fn success_json(&self) -> anyhow::Result<Value> {
        ensure!(self.success(), "it failed: {self}");
        ensure!(!self.output_leaked, "a process that it left behind holds its output: {self}");
        self.json()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} after {:?}", self.status, self.wall)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(out, "\n{name}: {}", tail(text))?;
            }
        }
        Ok(())
    }
}

fn tail(text: &str) -> &str {
    const SHOWN: usize = 4_000;
    let mut start = text.len().saturating_sub(SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim_end()
}

/// Runs a program to its end, with no standard input.
///
/// # Errors
/// It cannot be started, or still runs at the deadline (it is killed then).
pub fn run(command: Command, timeout: Duration) -> anyhow::Result<Run> {
    Running::spawn(command)?.finish(timeout)
}

/// A program that runs. It is killed if this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    handle: OwnedFd,
    started: Instant,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    ended: bool,
}

impl Running {
    /// Starts a program with no standard input; its output is collected.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(mut command: Command) -> anyhow::Result<Running> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start {}", command.get_program().to_string_lossy()))?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Ok(Running { child, handle, started, stdout, stderr, ended: false })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A descriptor that becomes readable when it ends.
    pub fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Whether it has ended by `timeout` from now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ends_within(&self, timeout: Duration) -> anyhow::Result<bool> {
        process::wait_readable(&self.handle, timeout)
    }

    /// Kills it with SIGKILL. Doing so after its end is harmless.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("failed to kill a child")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs at the deadline; it is killed then.
    pub fn finish(mut self, timeout: Duration) -> anyhow::Result<Run> {
        let in_time = self.ends_within(timeout)?;
        let wall = self.started.elapsed();
        if !in_time {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        self.ended = true;
        let (stdout, leaked_out) = collected(&self.stdout);
        let (stderr, leaked_err) = collected(&self.stderr);
        let run = Run { status, stdout, stderr, wall, output_leaked: leaked_out || leaked_err };
        if !in_time {
            bail!("it still ran after {timeout:?} and was killed: {run}");
        }
        Ok(run)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _gone_already = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                if send.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
    }
    receive
}

/// Everything that came, and whether the pipe was still open a while after the program's end.
fn collected(pipe: &Receiver<Vec<u8>>) -> (String, bool) {
    let deadline = Instant::now() + limits::OUTPUT_CLOSED;
    let mut bytes = Vec::new();
    let leaked = loop {
        match pipe.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(chunk) => bytes.extend(chunk),
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), leaked)
}

/// Runs a program to its end and gives the most memory it ever had resident, in KiB.
///
/// `VmHWM` is read in a tight loop while it runs. The `ru_maxrss` of wait4(2) would not do: a child starts with that of
/// the process that spawned it (exec(2) does not forget it).
///
/// # Errors
/// As [`run`].
pub fn peak_kib(command: Command, timeout: Duration) -> anyhow::Result<u64> {
    let running = Running::spawn(command)?;
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    let deadline = Instant::now() + timeout;
    while !running.ends_within(Duration::ZERO)? && Instant::now() < deadline {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        peak = peak.max(process::kib(&text, "VmHWM:"));
    }
    running.finish(Duration::ZERO)?;
    Ok(peak)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::{peak_kib, run};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_code_are_kept() {
        let run =
            run(shell("echo '{\"a\":1}'; echo b >&2; exit 3"), Duration::from_secs(10)).expect("it runs");
        assert_eq!((run.code(), run.stderr.as_str()), (Some(3), "b\n"));
        assert_eq!(run.json().expect("one object")["a"], 1);
        assert!(run.success_json().is_err());
    }

    #[test]
    fn two_objects_are_not_one() {
        let run = run(shell("echo '{}'; echo '{}'"), Duration::from_secs(10)).expect("it runs");
        assert!(run.json().is_err());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_deadline() {
        let error = run(shell("echo here; exec cat < /dev/zero > /dev/null"), Duration::from_secs(3));
        let error = error.expect_err("it never ends").to_string();
        assert!(error.contains("here"), "{error}");
    }

    #[test]
    fn the_peak_of_a_small_program_is_not_that_of_its_parent() {
        let ours = vec![1_u8; 64 << 20];
        let peak = peak_kib(shell("true"), Duration::from_secs(10)).expect("it runs");
        assert!(peak < 32 << 10, "{peak} KiB while we hold {} bytes", ours.len());
    }
}
