//! Programs that are run in a process group of their own, by a deadline. None of their processes runs afterwards.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use codexd_core::limits::{VERSION_KILL_POLL_MS, VERSION_KILL_TIMEOUT_MS};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::limits::{OUTPUT_END_TIMEOUT, WAIT_REPORT_INTERVAL};

/// The process groups that run, for [`abandon`].
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every process group. For a program that is about to exit: from now on every caller of [`ProcessGroup::spawn`] blocks until
/// the exit.
pub fn abandon() {
    let groups = running();
    groups.iter().for_each(|group| kill(*group));
    for group in groups.iter() {
        await_end(*group);
    }
    std::mem::forget(groups);
}

fn kill(group: Pid) {
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

/// Waits until the killed processes of a group have disappeared, which takes longer on a busy machine. Their new parent may never
/// reap them, so the wait is limited. The end of a group is no event.
#[expect(clippy::disallowed_methods, reason = "a process group has no descriptor to wait on")]
fn await_end(group: Pid) {
    let until = Instant::now() + Duration::from_millis(VERSION_KILL_TIMEOUT_MS);
    loop {
        // A program whose caller was interrupted is not reaped yet: the caller may be waiting for a lock.
        let _ = rustix::process::waitpid(Some(group), WaitOptions::NOHANG);
        if rustix::process::test_kill_process_group(group).is_err() || Instant::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(VERSION_KILL_POLL_MS));
    }
}

/// A program that runs in a process group of its own.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    leader: Pid,
    ended: bool,
}

impl ProcessGroup {
    /// Starts a program.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut running = running();
        let child = command.process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        running.push(leader);
        Ok(Self { child, leader, ended: false })
    }

    /// The id of the group, which is the pid of the program.
    pub fn id(&self) -> u32 {
        self.leader.as_raw_nonzero().get().unsigned_abs()
    }

    /// The program, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// A descriptor that becomes readable when the program exits.
    ///
    /// # Errors
    /// The system's.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_open(self.leader, PidfdFlags::empty())?)
    }

    /// Sends SIGTERM to the program.
    pub fn request_end(&self) {
        // It may have exited before.
        let _ = rustix::process::kill_process(self.leader, Signal::TERM);
    }

    /// Kills what is left of the group, and returns how the program ended.
    ///
    /// # Errors
    /// The system's.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        self.kill_and_reap()
    }

    fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        self.ended = true;
        let mut running = running();
        running.retain(|leader| *leader != self.leader);
        // Not reaped yet, so the id of the group is not reused.
        kill(self.leader);
        drop(running);
        let status = self.child.wait();
        await_end(self.leader);
        status
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.kill_and_reap();
        }
    }
}

/// Waits for the exit behind a pidfd until `until`. A signal to this program does not end the wait; its handler decides.
///
/// # Errors
/// The system's.
pub fn exits_by(handle: &OwnedFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut waits = [PollFd::new(handle, PollFlags::IN)];
        match rustix::event::poll(&mut waits, left.try_into().ok().as_ref()) {
            Ok(0) if Instant::now() < until => {}
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended; none if it was killed at the deadline.
    pub status: Option<ExitStatus>,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

/// Runs a program to its end and reads at most `bytes_max` of each of its outputs. `while_running` is called several times a second.
///
/// # Errors
/// The program cannot be started or waited for.
pub fn run(
    command: &mut Command,
    timeout: Duration,
    bytes_max: u64,
    while_running: &mut dyn FnMut(),
) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let until = Instant::now() + timeout;
    let mut group = ProcessGroup::spawn(command)?;
    let stdout = group.child().stdout.take().map(|pipe| read_behind(pipe, bytes_max));
    let stderr = group.child().stderr.take().map(|pipe| read_behind(pipe, bytes_max));
    let handle = group.handle()?;
    let mut exited = false;
    while !exited && Instant::now() < until {
        while_running();
        exited = exits_by(&handle, until.min(Instant::now() + WAIT_REPORT_INTERVAL))?;
    }
    let status = group.end()?;
    let read = |output: Option<mpsc::Receiver<Vec<u8>>>| {
        output.and_then(|output| output.recv_timeout(OUTPUT_END_TIMEOUT).ok()).unwrap_or_default()
    };
    Ok(Output { status: exited.then_some(status), stdout: read(stdout), stderr: read(stderr) })
}

/// Reads a pipe to its end in a thread of its own, and keeps its beginning.
fn read_behind(mut pipe: impl Read + Send + 'static, bytes_max: u64) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut read = Vec::new();
        let _ = pipe.by_ref().take(bytes_max).read_to_end(&mut read);
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = sender.send(read);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::{ProcessGroup, run};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn shell(text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn output_is_read_to_a_limit_and_a_program_that_does_not_end_is_killed() {
        let printed =
            run(&mut shell("echo 12345; echo no >&2; exit 3"), Duration::from_secs(20), 3, &mut || {})
                .expect("it runs");
        assert_eq!((printed.stdout.as_slice(), printed.stderr.as_slice()), (&b"123"[..], &b"no\n"[..]));
        assert_eq!(printed.status.and_then(|status| status.code()), Some(3));
        let killed = run(&mut shell("sleep 1000 & sleep 1000"), Duration::from_millis(50), 9, &mut || {})
            .expect("it runs");
        assert!(killed.status.is_none());
    }

    #[test]
    fn a_dropped_group_leaves_no_process() {
        let mut command = shell("sleep 1000 & exec sleep 1000");
        let mut group =
            ProcessGroup::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped())).expect("it runs");
        let stdout = group.child().stdout.take().expect("piped");
        drop(group);
        // It ends when no process has its other end open. The new parent of the orphan may take long to reap it.
        let ended = super::read_behind(stdout, 1).recv_timeout(Duration::from_secs(20));
        assert_eq!(ended.expect("no process runs"), b"");
    }
}
