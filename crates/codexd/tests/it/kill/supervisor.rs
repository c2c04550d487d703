//! The supervisor is killed: while it keeps, while it waits, and at each of its system calls while commands order it about. The
//! server lives on, and each command reaches its goal.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::killer::{self, KillPoint};
use codexd_testkit::run::Running;
use codexd_testkit::{Fake, Layout, Process, Server, codexd, limits, skip, until};
use rustix::process::Signal;
use serde_json::Value;

use super::test_home::{ATTEMPTS, TIMEOUT, TestHome, sample};

/// How many of its system calls are tried, unless `CODEXD_KILL_POINTS` says `all`.
const CALLS: usize = 48;
/// The same for a handover: where the supervisor dies in the middle, its end is waited for long.
const CALLS_OF_A_HANDOVER: usize = 12;
/// Attempts per point: the supervisor may end before the point comes.
const TRIES: usize = 3;
/// The commands that change something.
const COMMANDS: [&str; 4] = ["start", "stop", "restart", "enable-remote-control"];

impl TestHome {
    /// The command reaches its goal from here; `survivor` is the server that runs, if one does.
    fn assert_command_gets_there(&self, command: &str, survivor: Option<&Process>) -> anyhow::Result<()> {
        let answer = self.run(&[command])?;
        let expected = match (command, survivor.is_some()) {
            ("start", true) => "alreadyRunning",
            ("start", false) => "started",
            ("stop", true) => "stopped",
            ("stop", false) => "notRunning",
            ("restart", _) => "restarted",
            _ => "enabled",
        };
        ensure!(answer["status"] == expected, "{answer}");
        match (command, survivor) {
            ("stop", _) => self.assert_nothing_left()?,
            ("enable-remote-control", None) => ensure!(self.servers().is_empty(), "{:?}", self.servers()),
            _ => {
                let server = self.assert_served()?;
                let same = survivor.is_some_and(|survivor| survivor.pid == server.pid);
                ensure!(same == (command == "start" && survivor.is_some()), "{command} leaves {server:?}");
                let remote = server.command.contains("--remote-control");
                ensure!(remote == (command == "enable-remote-control"), "{server:?}");
            }
        }
        self.assert_stops()
    }
}

/// Kills a process and waits until it is gone.
pub(super) fn kill(process: &Process) -> anyhow::Result<()> {
    process.signal(Signal::KILL)?;
    process.wait_gone(limits::PROCESS_GONE)
}

#[test]
fn a_supervisor_killed_while_its_server_runs_leaves_it_to_the_next_command() -> anyhow::Result<()> {
    for command in COMMANDS {
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        let server = test_home.server()?;
        kill(&test_home.supervisor()?)?;
        ensure!(server.is_alive(), "the server died with its supervisor");
        let status = test_home.status()?;
        ensure!(status["problems"][0]["found"] == "lost-supervisor", "{status:#}");
        test_home.assert_command_gets_there(command, Some(&server)).context(command)?;
    }
    Ok(())
}

#[test]
fn a_supervisor_and_its_server_killed_together_do_not_block_the_next_command() -> anyhow::Result<()> {
    for command in COMMANDS {
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        let server = test_home.server()?;
        kill(&test_home.supervisor()?)?;
        kill(&server)?;
        test_home.assert_command_gets_there(command, None).context(command)?;
    }
    Ok(())
}

/// Linux ends a process in steps: its memory goes first, its sockets later, and only then it is seen to be gone.
#[test]
fn a_supervisor_and_its_server_killed_together_are_in_nobodys_way_while_they_are_still_ending()
-> anyhow::Result<()> {
    for round in 0..ATTEMPTS {
        let command = COMMANDS[round % COMMANDS.len()];
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        let everybody = test_home.home.processes();
        for process in &everybody {
            process.signal(Signal::KILL)?;
        }
        test_home.run(&[command]).with_context(|| format!("round {round}: {command}"))?;
        test_home.run(&["start"])?;
        test_home.assert_served()?;
        test_home.assert_stops()?;
    }
    Ok(())
}

#[test]
fn a_supervisor_killed_while_it_waits_to_restart_does_not_block_the_next_command() -> anyhow::Result<()> {
    for command in COMMANDS {
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        Fake::ExitsAtOnce("broken", 3).install(&test_home.home, Layout::Standalone)?;
        kill(&test_home.server()?)?;
        test_home.status_when("a crash loop", |status| {
            status["state"] == "crashLooping" && status["nextAttemptAt"].is_string()
        })?;
        kill(&test_home.the_only_supervisor()?)?;
        let status = test_home.status()?;
        ensure!(status["state"] == "failed", "the server must stay down: {status:#}");
        test_home.install(Server::Embedded)?;
        test_home.assert_command_gets_there(command, None).context(command)?;
    }
    Ok(())
}

/// Reads the lock of the commands until one of them says there that it has begun, then takes a tenth of a second to die.
const DIES_SLOWLY: &str = r#"until grep -q start "$0"; do sleep 0.01; done; sleep 0.1"#;

/// The lock of a supervisor is free, and its sockets are closed, shortly before its end can be seen.
#[test]
fn a_killed_supervisor_whose_end_takes_a_moment_leaves_the_server_to_the_next_command() -> anyhow::Result<()>
{
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let server = test_home.server()?;
    kill(&test_home.supervisor()?)?;
    std::fs::remove_file(test_home.home.state("server.json"))?;
    let commands = test_home.home.state("daemon.lock");
    std::fs::write(&commands, "")?;
    let mut dying = Command::new("/bin/sh").args(["-c", DIES_SLOWLY]).arg(&commands).spawn()?;
    let process = Process::of(dying.id()).context("it lives")?;
    let path = test_home.home.state("supervisor.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    state["supervisor"]["pid"] = process.pid.into();
    state["supervisor"]["startTicks"] = process.start_ticks.into();
    std::fs::write(&path, state.to_string())?;
    let answer = test_home.run(&["start"]);
    dying.kill()?;
    dying.wait()?;
    ensure!(answer.as_ref().is_ok_and(|answer| answer["status"] == "alreadyRunning"), "{answer:?}");
    ensure!(test_home.assert_served()?.pid == server.pid, "another server took the place of {server:?}");
    test_home.assert_stops()
}

/// A supervisor that no command started: it waits for orders until it is killed or stopped.
fn with_a_supervisor<T: Send>(
    test_home: &TestHome,
    keep: impl FnOnce(Command) -> anyhow::Result<T> + Send,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<T> {
    let mut supervisor = test_home.home.command(codexd::binary()?);
    supervisor.arg("supervisor").arg("--codex-home").arg(test_home.home.path());
    std::thread::scope(|scope| {
        let supervisor = scope.spawn(move || keep(supervisor));
        until(TIMEOUT, "the supervisor's socket, or its end", || {
            (supervisor.is_finished() || test_home.home.state("supervisor.sock").exists()).then_some(())
        })?;
        let done = meanwhile();
        if done.is_err() {
            // Or the supervisor would be waited for in vain.
            test_home.home.end_processes()?;
        }
        let kept = supervisor.join().expect("no panic");
        done?;
        kept
    })
}

/// What the supervisor is ordered to do, and what the commands have to say whatever becomes of it.
fn order_about(test_home: &TestHome) -> anyhow::Result<()> {
    // It may be killed before its first order.
    let supervisor = test_home.supervisors().pop();
    let served = || {
        test_home.assert_served().or_else(|error| {
            // It may have been killed when the command had already seen the server answer: then the next command takes over.
            if let Some(supervisor) = &supervisor {
                supervisor.wait_gone(TIMEOUT).context(error)?;
            }
            let answer = test_home.run(&["start"])?;
            ensure!(answer["status"] == "alreadyRunning", "{answer}");
            test_home.assert_served()
        })
    };
    let started = test_home.run(&["start"])?;
    ensure!(started["status"] == "started" || started["status"] == "alreadyRunning", "{started}");
    let first = served().context("after start")?;
    let restarted = test_home.run(&["restart"])?;
    ensure!(restarted["status"] == "restarted", "{restarted}");
    let second = served().context("after restart")?;
    ensure!(first.pid != second.pid && !first.is_alive(), "restart left {first:?}");
    let stopped = test_home.run(&["stop"])?;
    ensure!(stopped["status"] == "stopped", "{stopped}");
    // The one that traces the supervisor sees its end a little later than the command does.
    until(TIMEOUT, "the end of the tracer", || test_home.home.processes().is_empty().then_some(()))?;
    test_home.assert_nothing_left().context("after stop")
}

#[test]
fn a_supervisor_killed_at_any_system_call_is_replaced_during_the_command() -> anyhow::Result<()> {
    killed_at_its_calls(TestHome::new, CALLS)
}

#[test]
fn a_supervisor_killed_at_any_call_of_a_handover_is_replaced_under_the_feet_of_the_command()
-> anyhow::Result<()> {
    killed_at_its_calls(TestHome::shared, CALLS_OF_A_HANDOVER)
}

fn killed_at_its_calls(new: impl Fn() -> anyhow::Result<TestHome>, calls: usize) -> anyhow::Result<()> {
    if let Err(reason) = killer::strace_works() {
        skip!("{reason}");
    }
    let test_home = new()?;
    let all = with_a_supervisor(
        &test_home,
        |supervisor| killer::points(&test_home.home, &supervisor),
        || order_about(&test_home),
    )?;
    let (mut killed, tried) = (0, sample(&all, calls));
    for point in &tried {
        // A busy machine makes fewer calls of one kind: an earlier call of the same kind comes more surely.
        let earlier = std::iter::successors(Some(point.clone()), KillPoint::earlier);
        for point in earlier.take(TRIES) {
            let test_home = new()?;
            let keep = |supervisor| killer::run_and_kill(&test_home.home, supervisor, &point);
            let kept = with_a_supervisor(&test_home, keep, || order_about(&test_home));
            if kept.with_context(|| format!("killed at {point:?}"))?.was_killed() {
                killed += 1;
                break;
            }
        }
    }
    eprintln!("the supervisor was killed at {killed} of {} points, {} tried", all.len(), tried.len());
    ensure!(killed * 2 > tried.len(), "only {killed} points came: this tests too little");
    Ok(())
}

/// The arguments of a script are not those that it was started with: the kernel puts its interpreter in front.
#[test]
fn a_script_whose_supervisor_was_killed_is_started_again_as_it_was() -> anyhow::Result<()> {
    for state_is_lost in [false, true] {
        let test_home = TestHome::with_fake(&Fake::Wrapped)?;
        test_home.run(&["start"])?;
        kill(&test_home.supervisor()?)?;
        if state_is_lost {
            std::fs::remove_file(test_home.home.state("supervisor.json"))?;
        }
        let adopted = test_home.run(&["start"])?;
        ensure!(adopted["status"] == "alreadyRunning", "{adopted}");
        let status = test_home.status()?;
        let script = test_home.home.processes().into_iter().find(|process| status["pid"] == process.pid);
        script.context("the server is gone")?.signal(Signal::KILL)?;
        test_home
            .status_when("another one", |now| now["state"] == "running" && now["pid"] != status["pid"])?;
        test_home.assert_stops()?;
    }
    Ok(())
}

/// The gateway has to find the next supervisor before it can move anything.
#[test]
fn a_restart_right_after_the_death_of_a_supervisor_or_a_gateway_still_hands_over() -> anyhow::Result<()> {
    let test_home = TestHome::shared()?;
    test_home.run(&["start"])?;
    for round in 0..ATTEMPTS {
        let supervisor = test_home.supervisor()?;
        let gateway =
            test_home.home.processes().into_iter().find(|process| process.command.contains(" gateway "));
        let victim = if round % 2 == 0 { supervisor } else { gateway.context("there is no gateway")? };
        victim.signal(Signal::KILL)?;
        let restarted = test_home.run(&["restart"])?;
        ensure!(restarted["handover"].is_object(), "round {round}: it did not hand over: {restarted}");
        test_home.assert_served()?;
    }
    test_home.assert_stops()
}

#[test]
fn a_supervisor_that_hangs_is_replaced() -> anyhow::Result<()> {
    for command in COMMANDS {
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        let (server, supervisor) = (test_home.server()?, test_home.supervisor()?);
        supervisor.signal(Signal::STOP)?;
        test_home.assert_command_gets_there(command, Some(&server)).context(command)?;
        ensure!(!supervisor.is_alive(), "the supervisor that hung is still there");
    }
    Ok(())
}

/// Whether a process holds a lock on a file that it has open.
fn holds_a_lock(process: &Process) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{}/fdinfo", process.pid)) else { return false };
    let mut said = open.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
    said.any(|said| said.contains("FLOCK"))
}

/// As after the death of a supervisor on a busy machine: it has no name any more, and its files are still open.
#[test]
fn a_lock_without_a_visible_holder_is_awaited_longer_than_one_observation() -> anyhow::Result<()> {
    const LONGER_THAN_A_LOOK: Duration = Duration::from_millis(2_500);
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    test_home.assert_stops()?;
    let lock = File::options().append(true).create(true).open(test_home.home.state("supervisor.lock"))?;
    lock.lock()?;
    let start = test_home.codexd()?.spawn(&["start"])?;
    ensure!(!start.ends_within(LONGER_THAN_A_LOOK)?, "it did not wait: {}", start.finish(limits::RUN)?);
    drop(lock);
    let started = start.finish(limits::RUN)?.success_json()?;
    ensure!(started["status"] == "started", "{started}");
    test_home.assert_served()?;
    test_home.assert_stops()
}

/// Stopped right after it took its lock: the supervisor has not written its state yet.
#[test]
fn a_supervisor_that_hangs_before_its_first_report_is_replaced() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    let mut supervisor = test_home.home.command(codexd::binary()?);
    supervisor.arg("supervisor").arg("--codex-home").arg(test_home.home.path());
    let running = Running::spawn(supervisor)?;
    let supervisor = Process::of(running.pid()).context("the supervisor ended at once")?;
    until(TIMEOUT, "the supervisor to lock", || holds_a_lock(&supervisor).then_some(()))?;
    supervisor.signal(Signal::STOP)?;
    let started = test_home.run(&["start"])?;
    ensure!(started["status"] == "started", "{started}");
    test_home.assert_served()?;
    test_home.assert_stops()
}
