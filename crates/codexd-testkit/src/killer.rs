//! `kill -9` of a program at a chosen point of its work.
//!
//! Three kinds of points: the k-th change of a file in the daemon's folders (inotify(7)), a time after the start, and the
//! n-th call of one system call (strace(1), exact and repeatable). A caller loops over points until the program ends
//! before the next one comes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::run::Running;
use crate::{Home, Run, limits, run};

mod folders;
use folders::Folders;

/// The point at which a program is killed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KillPoint {
    /// After this many changes of files in the daemon's folders of the home, from 1.
    FileChange(usize),
    /// This long after the start.
    Elapsed(Duration),
    /// On entering a system call for the n-th time, from 1. Needs strace.
    Call {
        /// The call's name.
        name: String,
        /// Which one.
        nth: usize,
    },
}

impl KillPoint {
    /// A point of the same kind at three quarters of the count; `None` before the first.
    pub fn earlier(&self) -> Option<KillPoint> {
        let fewer = |count: usize| Some(count * 3 / 4).filter(|&count| count > 0);
        match self {
            KillPoint::FileChange(count) => fewer(*count).map(KillPoint::FileChange),
            KillPoint::Elapsed(time) => Some(KillPoint::Elapsed(*time * 3 / 4)),
            KillPoint::Call { name, nth } => {
                fewer(*nth).map(|nth| KillPoint::Call { name: name.clone(), nth })
            }
        }
    }
}

/// Whether the kill came in time.
#[derive(Debug)]
pub enum Killed {
    /// The program was killed; its output until then.
    InTime(Run),
    /// The program ended before the kill point.
    TooLate(Run),
}

impl Killed {
    /// Whether the program was killed.
    pub fn was_killed(&self) -> bool {
        matches!(self, Killed::InTime(_))
    }
}

/// Runs a command of `home` and kills that process alone at the kill point.
///
/// # Errors
/// The command cannot be started, or neither ends nor reaches the kill point.
pub fn run_and_kill(home: &Home, command: Command, point: &KillPoint) -> anyhow::Result<Killed> {
    match point {
        KillPoint::FileChange(count) => after_file_changes(home, command, *count),
        KillPoint::Elapsed(time) => {
            let mut running = Running::spawn(command)?;
            if !running.ends_within(*time)? {
                running.kill()?;
            }
            finished(running)
        }
        KillPoint::Call { name, nth } => {
            let rule = format!("inject={name}:signal=SIGKILL:when={nth}");
            let traced = under_strace(&command, &["-e", &format!("trace={name}"), "-e", &rule], None);
            finished(Running::spawn(traced)?)
        }
    }
}

fn finished(running: Running) -> anyhow::Result<Killed> {
    const SIGKILL: i32 = 9;
    let run = running.finish(limits::RUN)?;
    Ok(if run.signal() == Some(SIGKILL) { Killed::InTime(run) } else { Killed::TooLate(run) })
}

fn after_file_changes(home: &Home, command: Command, count: usize) -> anyhow::Result<Killed> {
    let mut folders = Folders::watch(home.path())?;
    let mut running = Running::spawn(command)?;
    let deadline = Instant::now() + limits::RUN;
    let mut seen = 0;
    while seen < count && Instant::now() < deadline {
        let (ended, changed) = {
            let mut both = [
                PollFd::new(running.handle(), PollFlags::IN),
                PollFd::new(folders.descriptor(), PollFlags::IN),
            ];
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))
                .context("the deadline is out of range")?;
            match poll(&mut both, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => bail!("failed to wait for changes: {error}"),
            }
            (!both[0].revents().is_empty(), !both[1].revents().is_empty())
        };
        if changed {
            seen += folders.count_changes()?;
        } else if ended {
            break;
        }
    }
    if seen >= count {
        running.kill()?;
    }
    finished(running)
}

/// Whether strace is on this machine and may trace; if not, a reason for [`skip!`](crate::skip!).
///
/// # Errors
/// It is missing or not permitted.
pub fn strace_works() -> Result<(), String> {
    let traced = under_strace(&Command::new("true"), &["-e", "trace=?execve"], None);
    match run::run(traced, limits::RUN) {
        Ok(run) if run.success() => Ok(()),
        Ok(run) => Err(format!("strace cannot trace here: {run}")),
        Err(_) => Err("strace is not installed".to_owned()),
    }
}

/// System calls that change what others can see: files, processes, sockets, locks.
const VISIBLE: &str = "?open,?openat,?mkdir,?mkdirat,?rename,?renameat,?renameat2,?link,?linkat,?symlink,?symlinkat,\
    ?unlink,?unlinkat,?ftruncate,?fsync,?fdatasync,?flock,?write,?pwrite64,?clone,?clone3,?vfork,?fork,?socket,?bind,\
    ?connect,?sendto,?sendmsg,?kill,?pidfd_open,?pidfd_send_signal,?wait4,?waitid,?execve";

/// Runs a command to its end and lists every point at which it could have been killed, in order: each visible system
/// call of its first thread. Calls before its own code runs (loading libraries) are among them.
///
/// # Errors
/// strace is missing, or the command fails.
pub fn points(home: &Home, command: &Command) -> anyhow::Result<Vec<KillPoint>> {
    let log = home.root().join("strace.log");
    let traced = under_strace(command, &["-e", &format!("trace={VISIBLE}"), "-e", "signal=none"], Some(&log));
    let done = run::run(traced, limits::RUN)?;
    ensure!(done.success(), "the command fails although it is not killed: {done}");
    let text = std::fs::read_to_string(&log).context("strace wrote nothing")?;
    let names = text.lines().filter_map(|line| Some(line.split_once('(')?.0.to_owned()));
    let mut counts = std::collections::HashMap::<String, usize>::new();
    Ok(names
        .map(|name| {
            let nth = counts.entry(name.clone()).or_default();
            *nth += 1;
            KillPoint::Call { name, nth: *nth }
        })
        .collect())
}

/// The same command below strace, which follows only its first thread.
fn under_strace(command: &Command, options: &[&str], log: Option<&Path>) -> Command {
    let mut traced = Command::new("strace");
    traced.arg("-qq").arg("-o").arg(log.unwrap_or(Path::new("/dev/null"))).args(options).arg("--");
    traced.arg(command.get_program()).args(command.get_args());
    // The environment of a home is complete: it was cleared first, so nothing of ours may come through.
    traced.env_clear();
    if command.get_envs().next().is_none()
        && let Some(path) = std::env::var_os("PATH")
    {
        traced.env("PATH", path);
    }
    traced.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    traced
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{KillPoint, points, run_and_kill, strace_works};
    use crate::Home;

    const SCRIPT: &str = "mkdir -p app-server-daemon; echo 1 > app-server-daemon/a; echo 2 > app-server-daemon/b; \
                          mv app-server-daemon/a app-server-daemon/c; echo done";

    fn script(home: &Home) -> std::process::Command {
        let mut command = home.command("/bin/sh");
        command.args(["-c", SCRIPT]).current_dir(home.path());
        command
    }

    #[test]
    fn every_file_change_is_a_point() {
        const CHANGES: usize = 8;
        for count in 1..=CHANGES {
            let home = Home::new().expect("a home");
            std::fs::create_dir(home.state("")).expect("a folder to watch");
            let mut endless = home.command("/bin/sh");
            endless.args(["-c", &format!("{SCRIPT}; exec sleep 1000000")]).current_dir(home.path());
            let killed = run_and_kill(&home, endless, &KillPoint::FileChange(count)).expect("it runs");
            assert!(killed.was_killed(), "after {count}");
        }
    }

    #[test]
    fn a_file_change_that_never_comes_is_too_late() {
        let home = Home::new().expect("a home");
        let killed = run_and_kill(&home, script(&home), &KillPoint::FileChange(1000)).expect("it runs");
        assert!(!killed.was_killed());
    }

    #[test]
    fn a_time_after_the_end_is_too_late() {
        let home = Home::new().expect("a home");
        let killed = run_and_kill(&home, script(&home), &KillPoint::Elapsed(Duration::from_secs(60)))
            .expect("it runs");
        assert!(!killed.was_killed());
        assert!(home.state("c").exists());
    }

    #[test]
    fn every_system_call_is_an_exact_point() {
        if let Err(reason) = strace_works() {
            crate::skip!("{reason}");
        }
        let home = Home::new().expect("a home");
        let all = points(&home, &script(&home)).expect("it runs");
        let opened = |point: &KillPoint| matches!(point, KillPoint::Call { name, .. } if name == "openat");
        let last = all.iter().rfind(|point| opened(point)).expect("it opens files");
        let home = Home::new().expect("a home");
        assert!(run_and_kill(&home, script(&home), last).expect("it runs").was_killed());
        assert!(home.state("a").exists());
        assert!(!home.state("c").exists());
    }
}
