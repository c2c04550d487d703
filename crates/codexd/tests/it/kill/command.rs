//! The command is killed: at each of its system calls that others can see, and at each change of a file.

use anyhow::{Context, ensure};
use codexd_testkit::killer::{self, KillPoint};
use codexd_testkit::{Process, Server, Version, codex, skip};

use super::test_home::{TestHome, sample};

/// How many points of a command are tried, unless `CODEXD_KILL_POINTS` says `all`.
const CALLS: usize = 20;
/// So often a change that did not come is waited for again.
const TRIES: usize = 3;
/// So many changes of files at most; what a command of itself changes are fewer.
const CHANGES: usize = 16;
/// With a real server, which takes a second to start.
const WITH_A_REAL_SERVER: usize = 6;

/// A command and what there is before it.
#[derive(Clone, Copy, Debug)]
struct Case {
    command: &'static str,
    /// Whether a server runs before.
    runs: bool,
    /// What the command may say when it is run again after it was killed.
    says: &'static [&'static str],
    /// Whether the embedded server is one that lives beside its successor.
    shared: bool,
}

const START: Case =
    Case { command: "start", runs: false, says: &["started", "alreadyRunning"], shared: false };
const START_AGAIN: Case = Case { command: "start", runs: true, says: &["alreadyRunning"], shared: false };
const HAND_OVER: Case = Case { shared: true, ..RESTART };
const STOP: Case = Case { command: "stop", runs: true, says: &["stopped", "notRunning"], shared: false };
const RESTART: Case = Case { command: "restart", runs: true, says: &["restarted"], shared: false };
const ENABLE: Case = Case {
    command: "enable-remote-control",
    runs: true,
    says: &["enabled", "alreadyEnabled"],
    shared: false,
};

impl Case {
    /// A home as it is before the command, and the server in it.
    fn before(self, server: Server) -> anyhow::Result<(TestHome, Option<Process>)> {
        let test_home = if self.shared { TestHome::shared()? } else { TestHome::with(server)? };
        if self.runs {
            test_home.run(&["start"])?;
            let running = test_home.server()?;
            return Ok((test_home, Some(running)));
        }
        Ok((test_home, None))
    }

    /// The command is killed at the point and run again. Answers whether the point came.
    fn survives(self, server: Server, point: &KillPoint) -> anyhow::Result<bool> {
        let (mut test_home, before) = self.before(server)?;
        if self.command == "restart" {
            test_home.expect_a_second_restart();
        }
        let command = test_home.codexd()?.command(&[self.command]);
        let killed = killer::run_and_kill(&test_home.home, command, point)?.was_killed();
        let answer = test_home.run(&[self.command])?;
        ensure!(self.says.iter().any(|says| answer["status"] == *says), "the second run says {answer}");
        if self.command == "stop" {
            test_home.assert_nothing_left()?;
        } else {
            let after = test_home.assert_served()?;
            self.check_the_server(before.as_ref(), &after)?;
        }
        test_home.assert_stops()?;
        Ok(killed)
    }

    fn check_the_server(self, before: Option<&Process>, after: &Process) -> anyhow::Result<()> {
        let same = before.is_some_and(|before| before.pid == after.pid);
        match self.command {
            "start" => ensure!(same == self.runs, "start replaced the server: {after:?}"),
            _ => ensure!(!same, "{} left the old server: {after:?}", self.command),
        }
        let remote = after.command.contains("--remote-control");
        ensure!(remote == (self.command == "enable-remote-control"), "{after:?}");
        Ok(())
    }

    /// Tries so many of the points.
    fn survives_all(self, server: Server, points: &[KillPoint], size: usize) -> anyhow::Result<()> {
        let tried = sample(points, size);
        ensure!(!tried.is_empty(), "{self:?} has no points");
        let mut killed = 0;
        for point in &tried {
            // How often a command asks a server that starts differs from run to run: the point may come the next time.
            let mut came = false;
            for _ in 0..TRIES {
                came =
                    came || self.survives(server, point).with_context(|| format!("killed at {point:?}"))?;
            }
            killed += usize::from(came);
        }
        eprintln!("{}: killed at {killed} of {} points, {} tried", self.command, points.len(), tried.len());
        ensure!(killed * 2 > tried.len(), "only {killed} points came: this tests too little");
        Ok(())
    }

    /// Every system call of the command that others can see. How often it asks a server that starts is luck: only what came
    /// twice will come again.
    fn calls(self, server: Server) -> anyhow::Result<Vec<KillPoint>> {
        let once = || {
            let (test_home, _) = self.before(server)?;
            let points = killer::points(&test_home.home, &test_home.codexd()?.command(&[self.command]))?;
            test_home.run(&["stop"])?;
            anyhow::Ok(points)
        };
        let (mut points, again) = (once()?, once()?);
        points.retain(|point| again.contains(point));
        Ok(points)
    }
}

fn at_its_calls(case: Case, server: Server, size: usize) -> anyhow::Result<()> {
    case.survives_all(server, &case.calls(server)?, size)
}

/// One change after the other, until the command has ended before the next one.
fn at_its_changes(case: Case) -> anyhow::Result<()> {
    let mut killed = 0;
    while killed < CHANGES {
        let point = KillPoint::FileChange(killed + 1);
        // On a busy machine the command may have ended before it can be killed.
        let mut came = false;
        for _ in 0..TRIES {
            came = came
                || case.survives(Server::Embedded, &point).with_context(|| format!("killed at {point:?}"))?;
        }
        if !came {
            break;
        }
        killed += 1;
    }
    eprintln!("{}: killed at {killed} changes", case.command);
    ensure!(killed > 1, "{case:?} was killed at {killed} changes: this tests too little");
    Ok(())
}

macro_rules! killed_commands {
    ($($name:ident: $killed:expr;)+) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                if let Err(reason) = killer::strace_works() {
                    skip!("{reason}");
                }
                $killed
            }
        )+
    };
}

killed_commands! {
    start_killed_at_any_call_can_be_run_again: at_its_calls(START, Server::Embedded, CALLS);
    start_beside_a_server_killed_at_any_call_leaves_the_server: at_its_calls(START_AGAIN, Server::Embedded, CALLS);
    a_handover_killed_at_any_call_can_be_run_again: at_its_calls(HAND_OVER, Server::Embedded, CALLS);
    stop_killed_at_any_call_can_be_run_again: at_its_calls(STOP, Server::Embedded, CALLS);
    restart_killed_at_any_call_can_be_run_again: at_its_calls(RESTART, Server::Embedded, CALLS);
    enable_remote_control_killed_at_any_call_can_be_run_again: at_its_calls(ENABLE, Server::Embedded, CALLS);
}

/// A command that changes next to nothing has ended before it can be killed, so this is not for a start beside a server.
#[test]
fn commands_killed_at_any_change_of_a_file_can_be_run_again() -> anyhow::Result<()> {
    for case in [START, STOP, RESTART, HAND_OVER, ENABLE] {
        at_its_changes(case)?;
    }
    Ok(())
}

#[test]
fn commands_on_real_servers_killed_anywhere_can_be_run_again() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform().map(drop).and_then(|()| killer::strace_works()) {
        skip!("{reason}");
    }
    for version in [Version::V0_131_0, Version::NEWEST] {
        for case in [START, RESTART] {
            at_its_calls(case, Server::Real(version), WITH_A_REAL_SERVER)
                .with_context(|| format!("{case:?} of {version}"))?;
        }
    }
    Ok(())
}
