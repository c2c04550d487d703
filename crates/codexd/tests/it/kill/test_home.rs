//! A test home whose servers record when two of them live at once, and the checks of a healthy home.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Fake, Home, Layout, Process, Server, Version, codex, codexd, until};
use serde_json::Value;

/// How long something that happens by itself (a restart, an end) may take here before a test fails.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// Rounds of a test whose race window is a few milliseconds.
pub(super) const ATTEMPTS: usize = 16;

/// Records the pid of this server, then looks for earlier servers that still live: of two at the same time, one sees the other. The
/// pid stays the same when the shell becomes the server, and so does the start time, without which the pid could name
/// a later process.
const RECORD_SERVERS: &str = r#"look() {
  read -r _ _ state _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ ticks _ 2> /dev/null < "/proc/$1/stat"
}
look $$
echo "$$ $ticks" >> "$CODEX_HOME/served"
others=
while read -r other since; do
  if [ "$other" != $$ ] && look "$other" && [ "$state" != Z ] && [ "$ticks" = "$since" ]; then
    others="$others $other"
  fi
done < "$CODEX_HOME/served"
if [ -n "$others" ]; then echo "$$ while$others" >> "$CODEX_HOME/two-at-once"; fi
"#;

fn says_its_version(version: &str) -> String {
    format!("if [ \"$1\" = --version ]; then echo 'codex-cli {version}'; exit 0; fi")
}

/// A Codex version whose servers do not share a home: the old server ends before the new one starts.
const ALONE: &str = "0.168.0";
/// A version whose servers share a home: the successor is started beside the old server.
const SHARING: &str = "9.9.9";

/// Whether two servers of this Codex may share a home.
fn shares(server: Server) -> bool {
    matches!(server, Server::Real(Version::V0_169_0 | Version::V0_171_0))
}

/// A home and the servers in it.
#[derive(Debug)]
pub(super) struct TestHome {
    pub(super) home: Home,
    /// Whether a server may live beside its successor until it has handed over what it holds.
    shared: bool,
    /// How many servers may live beside one that starts.
    others_max: usize,
}

impl TestHome {
    /// A home with this Codex. Two of its servers that live at the same time write it down.
    pub(super) fn with(server: Server) -> anyhow::Result<TestHome> {
        TestHome::at(Home::new()?, server)
    }

    /// The same in a home of the caller's.
    pub(super) fn at(home: Home, server: Server) -> anyhow::Result<TestHome> {
        let test_home = TestHome { home, shared: shares(server), others_max: usize::from(shares(server)) };
        test_home.install(server)?;
        Ok(test_home)
    }

    /// A home whose server is handed over to its successor.
    pub(super) fn shared() -> anyhow::Result<TestHome> {
        let test_home = TestHome { home: Home::new()?, shared: true, others_max: 1 };
        test_home.install(Server::Embedded)?;
        Ok(test_home)
    }

    /// A home with a small server that is healthy.
    pub(super) fn new() -> anyhow::Result<TestHome> {
        TestHome::with(Server::Embedded)
    }

    /// A home with a fake Codex, which does not bear witness.
    pub(super) fn with_fake(fake: &Fake) -> anyhow::Result<TestHome> {
        let test_home = TestHome { home: Home::new()?, shared: false, others_max: 0 };
        fake.install(&test_home.home, Layout::Standalone)?;
        Ok(test_home)
    }

    /// Puts a Codex in the place of the one that is there.
    pub(super) fn install(&self, server: Server) -> anyhow::Result<()> {
        let (version, serve) = match server {
            Server::Embedded => {
                let codexd = codexd::binary()?;
                let version = if self.shared { SHARING } else { ALONE };
                (version.to_owned(), format!("shift\nexec '{}' embedded-app-server \"$@\"", codexd.display()))
            }
            Server::Real(version) => {
                let codex = codex::binary(version)?;
                (version.to_string(), format!("exec '{}' \"$@\"", codex.display()))
            }
        };
        // By `features list` codexd proves the configuration: that is no server.
        let proves = "if [ \"$1\" = features ]; then exit 0; fi";
        let script =
            format!("#!/bin/sh\n{}\n{proves}\n{RECORD_SERVERS}{serve}\n", says_its_version(&version));
        let place = self.home.managed_codex(Layout::Standalone);
        let relative = place.strip_prefix(self.home.path())?.to_string_lossy().into_owned();
        self.home.write(&relative, script)?;
        fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    }

    /// codexd in this home.
    pub(super) fn codexd(&self) -> anyhow::Result<Codexd<'_>> {
        Codexd::new(&self.home)
    }

    /// Runs a command that must succeed; gives its answer.
    pub(super) fn run(&self, command: &[&str]) -> anyhow::Result<Value> {
        self.codexd()?.json(command)
    }

    /// `codexd status`.
    pub(super) fn status(&self) -> anyhow::Result<Value> {
        self.run(&["status"])
    }

    /// Polls `status` until `look` accepts it.
    pub(super) fn status_when(
        &self,
        what: &str,
        mut look: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        let found = until(TIMEOUT, what, || {
            last = self.status().ok()?;
            look(&last).then(|| last.clone())
        });
        found.with_context(|| format!("the last status: {last:#}"))
    }

    /// The app-servers that live: processes that were told to be one and that no other one started.
    pub(super) fn servers(&self) -> Vec<Process> {
        let processes = self.home.processes();
        let serving: Vec<&Process> =
            processes.iter().filter(|process| process.command.contains("app-server ")).collect();
        let alone = |process: &&&Process| !serving.iter().any(|other| other.pid == process.parent);
        serving.iter().filter(alone).map(|&process| process.clone()).collect()
    }

    /// The supervisors that live.
    pub(super) fn supervisors(&self) -> Vec<Process> {
        let mut supervisors = self.home.processes();
        supervisors.retain(is_supervisor);
        supervisors
    }

    /// The one supervisor that lives. One that leaves gives its lock back first: so two may be seen briefly.
    pub(super) fn the_only_supervisor(&self) -> anyhow::Result<Process> {
        let mut supervisors = Vec::new();
        let one = until(TIMEOUT, "one supervisor", || {
            supervisors = self.supervisors();
            (supervisors.len() == 1).then(|| supervisors[0].clone())
        });
        one.with_context(|| format!("not one supervisor but {supervisors:#?}"))
    }

    /// The one app-server, which the pid record names.
    pub(super) fn server(&self) -> anyhow::Result<Process> {
        if self.shared {
            // One that a killed command has replaced may still be about to leave.
            until(TIMEOUT, "one app-server", || (self.servers().len() == 1).then_some(())).with_context(
                || {
                    let events = fs::read_to_string(self.home.state("events.jsonl")).unwrap_or_default();
                    format!("{:#?} of\n{events}", self.home.processes())
                },
            )?;
        }
        let servers = self.servers();
        let [server] = &servers[..] else { anyhow::bail!("not one app-server but {servers:#?}") };
        let record = fs::read(self.home.state("server.json")).context("there is no pid record")?;
        let record: Value = serde_json::from_slice(&record)?;
        ensure!(
            record["pid"] == server.pid && record["processIdentity"]["startTicks"] == server.start_ticks,
            "the record {record} does not name {server:?}"
        );
        Ok(server.clone())
    }

    /// The one supervisor, which keeps the one app-server.
    pub(super) fn supervisor(&self) -> anyhow::Result<Process> {
        let supervisor = self.the_only_supervisor()?;
        let state: Value = serde_json::from_slice(&fs::read(self.home.state("supervisor.json"))?)?;
        ensure!(state["supervisor"]["pid"] == supervisor.pid, "{state} is not of {supervisor:?}");
        Ok(supervisor)
    }

    /// The home is healthy: one server answers, the record names it, one supervisor manages it, and there never were two.
    pub(super) fn assert_served(&self) -> anyhow::Result<Process> {
        let (server, supervisor) = (self.server()?, self.supervisor()?);
        let status = self.status()?;
        ensure!(
            status["state"] == "running"
                && status["pid"] == server.pid
                && status["supervisorPid"] == supervisor.pid,
            "status does not see {server:?} kept by {supervisor:?}: {status:#}"
        );
        ensure!(status["problems"] == serde_json::json!([]), "{status:#}");
        // The server may answer before the supervisor has written down that it lives.
        until(TIMEOUT, "the supervisor to keep it", || {
            let state: Value =
                serde_json::from_slice(&fs::read(self.home.state("supervisor.json")).ok()?).ok()?;
            (state["server"]["pid"] == server.pid && state["phase"]["is"] == "running").then_some(())
        })?;
        self.assert_never_two()?;
        Ok(server)
    }

    /// A second restart may come before the first server has left, such as during a turn: that server, its successor and the
    /// next one live together then.
    pub(super) fn expect_a_second_restart(&mut self) {
        self.others_max += usize::from(self.shared);
    }

    /// No server ever started while another lived; where a successor is started beside the old one, none while two lived,
    /// and one alone is current.
    pub(super) fn assert_never_two(&self) -> anyhow::Result<()> {
        let beside = fs::read_to_string(self.home.path().join("two-at-once")).unwrap_or_default();
        let others = |line: &&str| line.split_whitespace().count().saturating_sub(2);
        let too_many: Vec<&str> = beside.lines().filter(|line| others(line) > self.others_max).collect();
        ensure!(too_many.is_empty(), "these started while others lived: {too_many:?}");
        let state = fs::read(self.home.state("supervisor.json")).unwrap_or_default();
        let state: Value = serde_json::from_slice(&state).unwrap_or_default();
        let current = |other: &&Value| other["role"] == "current";
        let second = state["others"].as_array().and_then(|others| others.iter().find(current));
        ensure!(second.is_none(), "there are two current servers: {state:#}");
        Ok(())
    }

    /// `codexd stop` ends everything and leaves a home that is stopped without problems.
    pub(super) fn assert_stops(&self) -> anyhow::Result<()> {
        let stopped = self.run(&["stop"])?;
        ensure!(["stopped", "notRunning"].iter().any(|status| stopped["status"] == *status), "{stopped}");
        self.assert_nothing_left()
    }

    /// Nothing of this home lives.
    pub(super) fn assert_nothing_left(&self) -> anyhow::Result<()> {
        let (supervisors, left): (Vec<_>, Vec<_>) =
            self.home.processes().into_iter().partition(is_supervisor);
        ensure!(left.is_empty(), "processes left behind: {left:#?}");
        // One that leaves gives its lock back first: a command that has not ordered it to leave does not wait for its end.
        supervisors.iter().try_for_each(|supervisor| supervisor.wait_gone(TIMEOUT))?;
        self.assert_never_two()?;
        let status = self.status()?;
        ensure!(status["state"] == "stopped" && status["problems"] == serde_json::json!([]), "{status:#}");
        Ok(())
    }
}

fn is_supervisor(process: &Process) -> bool {
    process.command.contains(" supervisor --codex-home ") && !process.command.starts_with("strace ")
}

/// So many of the points, evenly spread and the first one among them; every one if `CODEXD_KILL_POINTS` says `all`.
pub(crate) fn sample<T: Clone>(points: &[T], size: usize) -> Vec<T> {
    let all = std::env::var("CODEXD_KILL_POINTS").is_ok_and(|points| points == "all");
    let size = if all { points.len() } else { size.min(points.len()) };
    (0..size).map(|nth| points[nth * points.len() / size].clone()).collect()
}
