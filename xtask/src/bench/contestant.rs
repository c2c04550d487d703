//! A daemon under measurement, in a home of its own, always with the same app-server below it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::process::Memory;
use codexd_testkit::{
    Client, Home, Layout, Place, Process, Run, Version, block_on, codex, limits, run, until,
};
use rustix::process::Signal;

/// A process that has just started grows for a while: it is looked at until it no longer does, at most this often.
const SETTLE_LOOKS: usize = 20;
/// The time between two such looks.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// Whose daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Daemon {
    /// Ours.
    Codexd,
    /// `codex app-server daemon` of a release.
    Upstream(Version),
}

/// One daemon in its home.
pub struct Contestant {
    daemon: Daemon,
    binary: PathBuf,
    home: Home,
}

impl Contestant {
    /// Prepares a home: the newest app-server where this daemon looks for it, and everything that only the first start
    /// in a home does already done.
    ///
    /// # Errors
    /// The daemon does not start or stop there.
    pub fn new(daemon: Daemon, codexd: &Path) -> anyhow::Result<Contestant> {
        let server = codex::binary(Version::NEWEST)?;
        let home = Home::new()?;
        let layout = match daemon {
            Daemon::Upstream(Version::V0_169_0 | Version::V0_171_0) => Layout::Dedicated,
            _ => Layout::Standalone,
        };
        home.install(layout, &server)?;
        let binary = match daemon {
            Daemon::Codexd => codexd.to_owned(),
            Daemon::Upstream(version) => codex::binary(version)?,
        };
        let contestant = Contestant { daemon, binary, home };
        contestant.ok("start")?;
        contestant.ok("stop")?;
        Ok(contestant)
    }

    /// What heads its column.
    pub fn name(&self) -> String {
        match self.daemon {
            Daemon::Codexd => "codexd".to_owned(),
            Daemon::Upstream(version) => format!("daemon of {version}"),
        }
    }

    /// Whether it is ours.
    pub fn is_ours(&self) -> bool {
        self.daemon == Daemon::Codexd
    }

    /// Runs a command that must succeed; gives how long it took.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, name: &str) -> anyhow::Result<Duration> {
        let run = self.run(name)?;
        ensure!(run.success(), "{} {name}: {run}", self.name());
        Ok(run.wall)
    }

    /// Runs a command that may fail.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn run(&self, name: &str) -> anyhow::Result<Run> {
        run::run(self.command(name), limits::RUN)
    }

    /// The most memory that a command had resident, in KiB.
    ///
    /// # Errors
    /// As [`Contestant::run`].
    pub fn peak_kib(&self, name: &str) -> anyhow::Result<u64> {
        run::peak_kib(self.command(name), limits::RUN)
    }

    /// Kills the app-server and gives how long it took until another one answered. The daemon's promise, if it makes one.
    ///
    /// # Errors
    /// None answered in time.
    pub fn crash_to_ready(&self) -> anyhow::Result<Duration> {
        let (server, _rest) = self.processes();
        let server = server.with_context(|| format!("{} runs no app-server", self.name()))?;
        let started = Instant::now();
        server.signal(Signal::KILL)?;
        server.wait_gone(limits::PROCESS_GONE)?;
        let place = Place::from(self.home.control_socket());
        until(limits::SERVER_READY, "another app-server", || {
            block_on(Client::connect(&place, "bench")).ok().map(drop)
        })?;
        Ok(started.elapsed())
    }

    /// What stays resident besides the app-server when everything that the daemon can do is on: how many processes, and what
    /// they hold. For 0.131.0 that is after `bootstrap`, for a newer one after it has installed itself, which it does in a home
    /// with nothing in it; both then keep an updater.
    ///
    /// # Errors
    /// The daemon does not start, or one of the processes has just gone.
    pub fn resident(&self) -> anyhow::Result<(usize, Memory)> {
        let alone;
        let (whole, name) = match self.daemon {
            Daemon::Codexd => (self, "start"),
            Daemon::Upstream(Version::V0_131_0) => (self, "bootstrap"),
            Daemon::Upstream(Version::V0_169_0 | Version::V0_171_0) => {
                alone = Contestant { daemon: self.daemon, binary: self.binary.clone(), home: Home::new()? };
                (&alone, "start")
            }
        };
        whole.ok(name)?;
        let (mut before, mut now) = (Memory::default(), whole.resident_now()?);
        for _ in 0..SETTLE_LOOKS {
            if before == now.1 {
                break;
            }
            codexd_testkit::wait::pause(SETTLE_EVERY);
            (before, now) = (now.1, whole.resident_now()?);
        }
        whole.ok("stop")?;
        Ok(now)
    }

    /// How many processes run besides the app-server, and what they hold at this moment.
    fn resident_now(&self) -> anyhow::Result<(usize, Memory)> {
        let (_server, rest) = self.processes();
        let mut sum = Memory::default();
        for process in &rest {
            let one = process.memory()?;
            sum.resident_kib += one.resident_kib;
            sum.private_kib += one.private_kib;
            sum.anonymous_kib += one.anonymous_kib;
        }
        Ok((rest.len(), sum))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = self.home.command(&self.binary);
        if !self.is_ours() {
            command.args(["app-server", "daemon"]);
        }
        command.arg(name);
        command
    }

    /// The app-server of this home, and its other processes.
    fn processes(&self) -> (Option<Process>, Vec<Process>) {
        let serves = |process: &Process| {
            let codex = process.executable().is_some_and(|path| path.ends_with("codex"));
            codex && process.command.contains("--listen")
        };
        let (servers, rest): (Vec<_>, Vec<_>) = self.home.processes().into_iter().partition(serves);
        (servers.into_iter().next(), rest)
    }
}
