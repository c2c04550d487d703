//! The app-server is killed, or hangs: it is back, or gone with everything it started, and `status` tells what happened.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Fake, Layout, Process, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::supervisor::kill;
use super::test_home::{ATTEMPTS, TIMEOUT, TestHome};

/// A second signal after the grace, and SIGKILL this much later.
const SECOND_GRACE: Duration = Duration::from_secs(1);
/// The shortest pauses from start to start before the second restart and the third: a fifth may be taken off.
const PAUSES_MS: [u64; 2] = [80, 160];
/// Less than any pause, in milliseconds.
const AT_ONCE_MS: i64 = 80;
/// What a busy machine may add to a time that is measured here. The usual grace, which must not pass, is a minute.
const SLACK: Duration = Duration::from_secs(20);
/// Less than it takes until the next attempt in a crash loop.
const BEFORE_THE_NEXT_ATTEMPT: Duration = Duration::from_secs(15);

impl TestHome {
    /// Kills the server and waits until the supervisor has put another one in its place.
    fn crash(&self) -> anyhow::Result<Process> {
        let server = self.server()?;
        kill(&server)?;
        until(TIMEOUT, "another server", || self.server().ok().filter(|now| now.pid != server.pid))
    }

    /// From each end of a server until the start of the next, in milliseconds, as the supervisor wrote it down: last of all,
    /// when others see already that the server runs. So many are waited for.
    fn gaps_ms(&self, count: usize) -> anyhow::Result<Vec<i64>> {
        until(TIMEOUT, "the event of each restart", || {
            self.gaps_so_far_ms().ok().filter(|gaps| gaps.len() >= count)
        })
    }

    fn gaps_so_far_ms(&self) -> anyhow::Result<Vec<i64>> {
        let text = std::fs::read_to_string(self.home.state("events.jsonl"))?;
        let events = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let at = |event: &Value| {
            let at = event["createdAt"].as_str().unwrap_or_default().parse::<jiff::Timestamp>();
            at.map(jiff::Timestamp::as_millisecond)
        };
        let mut gaps = Vec::new();
        let mut ended = None;
        for event in &events {
            match event["type"].as_str() {
                Some("child.exited") => ended = Some(at(event)?),
                Some("child.started") => {
                    let started = at(event)?;
                    gaps.extend(ended.take().map(|ended| started - ended));
                }
                _ => {}
            }
        }
        Ok(gaps)
    }
}

/// How long it takes until the first server that is killed in a home is started again, in milliseconds.
fn first_gap_ms() -> anyhow::Result<i64> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    test_home.crash()?;
    test_home.status_when("it answers", |status| status["state"] == "running")?;
    let gaps = test_home.gaps_ms(1)?;
    test_home.assert_stops()?;
    gaps.first().copied().context("a restart")
}

#[test]
fn a_server_that_is_about_to_be_restarted_has_not_failed() -> anyhow::Result<()> {
    // A fifth end within a minute would be a crash loop.
    const ENDS: usize = 4;
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    for _ in 0..ENDS {
        let server = test_home.server()?;
        server.signal(Signal::KILL)?;
        let mut seen = Vec::new();
        test_home.status_when("another one", |status| {
            seen.push((status["state"].clone(), status["problems"].clone()));
            status["state"] == "running" && status["pid"] != server.pid
        })?;
        seen.dedup();
        let healthy = |(state, problems): &(Value, Value)| {
            (state == "running" || state == "starting") && *problems == json!([])
        };
        ensure!(seen.iter().all(healthy), "{seen:?}");
    }
    test_home.assert_stops()
}

#[test]
fn a_command_that_comes_while_a_killed_server_is_still_ending_reaches_its_goal() -> anyhow::Result<()> {
    for round in 0..ATTEMPTS {
        let test_home = TestHome::new()?;
        let settings = serde_json::json!({"gateway": round % 2 == 0});
        test_home.home.write("app-server-daemon/settings.json", settings.to_string())?;
        test_home.run(&["start"])?;
        test_home.server()?.signal(Signal::KILL)?;
        let command = ["start", "restart"][round / 2 % 2];
        test_home.run(&[command]).with_context(|| format!("round {round}: {command} with {settings}"))?;
        test_home.assert_served()?;
        test_home.assert_stops()?;
    }
    Ok(())
}

#[test]
fn a_killed_server_is_back_at_once_and_the_next_time_a_tenth_of_a_second_after_it_was_started()
-> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let mut starts = Vec::new();
    for restarts in 1..=3 {
        let successor = test_home.crash()?;
        starts.push(successor.start_ticks);
        let status = test_home.status_when("it answers", |status| status["state"] == "running")?;
        ensure!(status["pid"] == successor.pid && status["restarts"] == restarts, "{status:#}");
        let exit = &status["lastExit"];
        ensure!(exit["signal"] == 9 && exit["code"].is_null() && exit["requested"] == false, "{exit:#}");
        test_home.assert_served()?;
    }
    let gaps = test_home.gaps_ms(3)?;
    let [first, _, _] = gaps[..] else { anyhow::bail!("not three restarts: {gaps:?}") };
    // On a busy machine a process takes its time to start: one that pauses first always would.
    let at_once = first < AT_ONCE_MS || (1..5).any(|_| first_gap_ms().is_ok_and(|gap| gap < AT_ONCE_MS));
    ensure!(at_once, "the waits were {gaps:?} ms");
    let tick_ms = 1_000 / rustix::param::clock_ticks_per_second();
    for (pair, pause_ms) in starts.windows(2).zip(PAUSES_MS) {
        let apart_ms = (pair[1] - pair[0] + 1) * tick_ms;
        ensure!(apart_ms >= pause_ms, "started {apart_ms} ms after the start before, not {pause_ms}");
    }
    test_home.assert_stops()
}

#[test]
fn a_missing_binary_is_awaited_and_is_no_crash() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let server = test_home.server()?;
    let binary = test_home.home.managed_codex(Layout::Standalone);
    let (folder, away) = (binary.parent().context("a folder")?, test_home.home.root().join("away"));
    // An update replaces the whole folder.
    std::fs::rename(folder, &away)?;
    kill(&server)?;
    let failed = |test_home: &TestHome| {
        let events = std::fs::read_to_string(test_home.home.state("events.jsonl")).unwrap_or_default();
        events.matches("child.spawn.failed").count()
    };
    until(TIMEOUT, "the first attempt", || (failed(&test_home) > 0).then_some(()))?;
    // Changes beside it are looked at, and lead to nothing.
    let parent = folder.parent().context("a parent")?;
    for number in 0..20 {
        std::fs::write(parent.join(format!("other-{number}")), "")?;
    }
    let status = test_home.status_when("it waits", |status| status["nextAttemptAt"].is_string())?;
    ensure!(status["restarts"] == 1 && status["state"] != "crashLooping", "{status:#}");
    std::fs::rename(&away, folder)?;
    let status = test_home.status_when("it is back", |status| status["state"] == "running")?;
    ensure!(status["restarts"] == 1 && status["nextAttemptAt"].is_null(), "{status:#}");
    ensure!(failed(&test_home) == 1, "each failed attempt was written down");
    test_home.assert_served()?;
    test_home.assert_stops()
}

#[test]
fn a_server_that_keeps_crashing_is_reported_and_retried_at_the_longest_backoff_until_stop()
-> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    Fake::ExitsAtOnce("no such model", 3).install(&test_home.home, Layout::Standalone)?;
    kill(&test_home.server()?)?;
    let status = test_home.status_when("a crash loop", |status| {
        status["state"] == "crashLooping" && status["nextAttemptAt"].is_string()
    })?;
    let exit = &status["lastExit"];
    ensure!(exit["code"] == 3 && exit["signal"].is_null() && exit["requested"] == false, "{exit:#}");
    ensure!(exit["stderrTail"] == "no such model", "{exit:#}");
    let parse = |at: &Value| at.as_str().unwrap_or_default().parse::<jiff::Timestamp>();
    let wait = parse(&status["nextAttemptAt"])?.duration_since(parse(&exit["at"])?);
    // The pause of at least 24 s is from start to start, and on a busy machine a process takes its time to die.
    ensure!((14..=45).contains(&wait.as_secs()), "the next attempt is {wait:?} after the last end");
    let began = Instant::now();
    test_home.assert_stops()?;
    ensure!(began.elapsed() < BEFORE_THE_NEXT_ATTEMPT, "stop took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn start_ends_a_crash_loop_once_codex_is_repaired() -> anyhow::Result<()> {
    for command in ["start", "restart", "enable-remote-control"] {
        let test_home = TestHome::new()?;
        test_home.run(&["start"])?;
        Fake::ExitsAtOnce("broken", 3).install(&test_home.home, Layout::Standalone)?;
        kill(&test_home.server()?)?;
        test_home.status_when("a crash loop", |status| status["state"] == "crashLooping")?;
        test_home.install(Server::Embedded)?;
        test_home.run(&[command])?;
        let server = test_home.assert_served().context(command)?;
        // The server that comes back follows the setting, though none ran when it was changed.
        let remote = server.command.contains("--remote-control");
        ensure!(remote == (command == "enable-remote-control"), "{command}: {server:?}");
        test_home.assert_stops()?;
    }
    Ok(())
}

/// The two processes that a server leaves behind. It may answer before they have become what they are.
fn orphans(test_home: &TestHome) -> anyhow::Result<Vec<Process>> {
    until(TIMEOUT, "what the server started", || {
        let mut processes = test_home.home.processes();
        processes.retain(|process| process.command.starts_with("sleep "));
        (processes.len() == 2).then_some(processes)
    })
}

#[test]
fn processes_of_a_server_end_with_it_although_its_supervisor_was_killed_first() -> anyhow::Result<()> {
    for command in ["start", "stop", "restart"] {
        let test_home = TestHome::with_fake(&Fake::LeavesGrandchildren)?;
        test_home.run(&["start"])?;
        let old = orphans(&test_home)?;
        kill(&test_home.supervisor()?)?;
        kill(&test_home.server()?)?;
        let answer = test_home.run(&[command])?;
        for orphan in &old {
            ensure!(!orphan.is_alive(), "{command} left {orphan:?}: {answer}");
        }
        if command != "stop" {
            test_home.assert_served()?;
            orphans(&test_home).context("its own")?;
        }
        test_home.assert_stops()?;
    }
    Ok(())
}

#[test]
fn a_server_taken_over_from_a_killed_supervisor_takes_what_it_started_with_it() -> anyhow::Result<()> {
    for command in ["stop", "restart"] {
        let test_home = TestHome::with_fake(&Fake::LeavesGrandchildren)?;
        test_home.run(&["start"])?;
        let old = orphans(&test_home)?;
        kill(&test_home.supervisor()?)?;
        test_home.run(&[command])?;
        if command == "stop" {
            ensure!(!old.iter().any(Process::is_alive), "stop left some of {old:?}");
        }
        // The successor comes first: to end what ignores SIGTERM takes longer than to be there again.
        until(TIMEOUT, "the end of what the old server started", || {
            (!old.iter().any(Process::is_alive)).then_some(())
        })?;
        test_home.assert_stops()?;
    }
    Ok(())
}

/// Stops a server that does not leave when it is asked to.
fn stops_in_bounds(test_home: &TestHome, grace: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let stopped = test_home.run(&["stop", "--grace", &grace.to_string()])?;
    let took = began.elapsed();
    ensure!(stopped["status"] == "stopped", "{stopped}");
    let grace = Duration::from_secs(grace);
    ensure!(took >= grace && took < grace + SECOND_GRACE + SLACK, "stop --grace took {took:?}");
    test_home.assert_nothing_left()
}

#[test]
fn a_suspended_server_is_killed_after_the_grace_period() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    test_home.server()?.signal(Signal::STOP)?;
    stops_in_bounds(&test_home, 1)
}

#[test]
fn a_server_that_ignores_sigterm_and_lost_its_supervisor_is_gone_within_the_grace() -> anyhow::Result<()> {
    let test_home = TestHome::with_fake(&Fake::IgnoresSigterm)?;
    test_home.run(&["start"])?;
    kill(&test_home.supervisor()?)?;
    stops_in_bounds(&test_home, 1)
}

#[test]
fn a_stopped_server_is_replaced_by_restart() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let server = test_home.server()?;
    server.signal(Signal::STOP)?;
    ensure!(test_home.run(&["restart", "--grace", "0"])?["status"] == "restarted");
    ensure!(!server.is_alive(), "it is still there");
    test_home.assert_served()?;
    test_home.assert_stops()
}
