//! The commands of codexd that the supervisor runs as its children. They find out what to run, so that the supervisor stays small.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use codexd_core::identity::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::process::PidfdFlags;

use crate::home::Home;

/// Tells a command that this supervisor runs it: it is no tool of a server, although it descends from the supervisor. The value is the
/// number of the supervisor.
pub const RUN_BY_SUPERVISOR: &str = "CODEXD_RUN_BY_SUPERVISOR";

/// Variables that the service manager sets for the supervisor alone.
const OF_THE_SERVICE: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The commands that run.
#[derive(Debug, Default)]
pub struct ChildCommands {
    running: Vec<RunningCommand>,
}

#[derive(Debug)]
struct RunningCommand {
    name: &'static str,
    child: Child,
    handle: OwnedFd,
}

/// A command that has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EndedCommand {
    pub name: &'static str,
    /// Its exit code; 128 and the number of the signal that ended it.
    pub code: u8,
}

/// A command to run.
#[derive(Debug)]
pub struct CommandLine {
    /// The binary of codexd.
    pub codexd: PathBuf,
    pub name: &'static str,
    pub options: Vec<OsString>,
    pub stdout: Stdio,
}

impl ChildCommands {
    /// What to wait on for the ends of commands, from the last to the first.
    pub fn fds(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.running.iter().enumerate().rev().map(|(index, command)| (index, command.handle.as_fd()))
    }

    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.running.iter().map(|command| Pid(command.child.id()))
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.running.iter().any(|command| command.name == name)
    }

    /// Starts a command, in a process group of its own: Ctrl+C on the terminal is for the supervisor.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(&mut self, home: &Home, line: CommandLine) -> io::Result<()> {
        let mut command = Command::new(&line.codexd);
        for variable in OF_THE_SERVICE {
            command.env_remove(variable);
        }
        let mut child = command
            .arg(line.name)
            .args(&line.options)
            .arg("--codex-home")
            .arg(home.root())
            .env(RUN_BY_SUPERVISOR, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(line.stdout)
            .process_group(0)
            .spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => {
                self.running.push(RunningCommand { name: line.name, child, handle });
                Ok(())
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Takes out a command that has ended.
    pub fn take(&mut self, index: usize) -> Option<EndedCommand> {
        if index >= self.running.len() {
            return None;
        }
        let RunningCommand { name, mut child, .. } = self.running.remove(index);
        Some(EndedCommand { name, code: child.wait().ok().map_or(1, exit_code) })
    }

    /// Kills every command but that of this name. Any command may be killed at any point, and run again.
    pub fn kill_all_but(&mut self, excluded: Option<&str>) {
        self.running.retain_mut(|command| {
            let is_excluded = excluded == Some(command.name);
            if !is_excluded {
                let _ = command.child.kill();
                let _ = command.child.wait();
            }
            is_excluded
        });
    }

    /// Waits until the commands of this name have ended; kills them at the deadline. Answers how the last one ended.
    pub fn finish(&mut self, name: &str, deadline: Instant) -> Option<EndedCommand> {
        let mut last = None;
        while let Some(index) = self.running.iter().position(|command| command.name == name) {
            if !has_ended(&self.running[index].handle, deadline) {
                let _ = self.running[index].child.kill();
            }
            last = self.take(index);
        }
        last
    }
}

fn has_ended(handle: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left.max(Duration::ZERO)).ok();
        match rustix::event::poll(&mut [PollFd::new(handle, PollFlags::IN)], timeout.as_ref()) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::{ChildCommands, CommandLine, EndedCommand};
    use crate::home::Home;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    #[test]
    fn a_command_is_waited_for_until_the_deadline_and_then_killed() {
        let (home, mut commands) = (Home::new("/nonexistent"), ChildCommands::default());
        let begin = |commands: &mut ChildCommands, script: &str| {
            let options = ["sh", "-c", script].map(Into::into).to_vec();
            let codexd = "/usr/bin/env".into();
            commands.begin(&home, CommandLine { codexd, name: "-", options, stdout: Stdio::null() })
        };
        begin(&mut commands, "exit 3").expect("started");
        let deadline = Instant::now() + Duration::from_secs(30);
        assert_eq!(commands.finish("-", deadline), Some(EndedCommand { name: "-", code: 3 }));
        begin(&mut commands, "exec sleep 1000").expect("started");
        assert!(commands.is_running("-"));
        assert_eq!(commands.finish("-", Instant::now()), Some(EndedCommand { name: "-", code: 137 }));
        assert_eq!(commands.finish("-", deadline), None);
    }
}
