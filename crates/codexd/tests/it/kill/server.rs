//! The app-server is killed, or hangs: it is back, or gone with everything it started, and `status` tells what happened.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use codexd_testkit::{Fake, Layout, Process, Server, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::house::{ATTEMPTS, House, PATIENCE};
use super::supervisor::kill;

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

impl House {
    /// Kills the server and waits until the supervisor has put another one in its place.
    fn crash(&self) -> anyhow::Result<Process> {
        let server = self.server()?;
        kill(&server)?;
        until(PATIENCE, "another server", || self.server().ok().filter(|now| now.pid != server.pid))
    }

    /// From each end of a server until the start of the next, in milliseconds, as the supervisor wrote it down: last of all,
    /// when others see already that the server runs. So many are waited for.
    fn gaps_ms(&self, count: usize) -> anyhow::Result<Vec<i64>> {
        until(PATIENCE, "the event of each restart", || {
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
    let house = House::new()?;
    house.run(&["start"])?;
    house.crash()?;
    house.status_when("it answers", |status| status["state"] == "running")?;
    let gaps = house.gaps_ms(1)?;
    house.assert_stops()?;
    gaps.first().copied().context("a restart")
}

#[test]
fn a_server_that_is_about_to_be_back_has_not_failed() -> anyhow::Result<()> {
    // A fifth end within a minute would be a crash loop.
    const ENDS: usize = 4;
    let house = House::new()?;
    house.run(&["start"])?;
    for _ in 0..ENDS {
        let server = house.server()?;
        server.signal(Signal::KILL)?;
        let mut seen = Vec::new();
        house.status_when("another one", |status| {
            seen.push((status["state"].clone(), status["problems"].clone()));
            status["state"] == "running" && status["pid"] != server.pid
        })?;
        seen.dedup();
        let healthy = |(state, problems): &(Value, Value)| {
            (state == "running" || state == "starting") && *problems == json!([])
        };
        ensure!(seen.iter().all(healthy), "{seen:?}");
    }
    house.assert_stops()
}

#[test]
fn a_command_that_comes_while_a_killed_server_is_still_ending_reaches_its_goal() -> anyhow::Result<()> {
    for round in 0..ATTEMPTS {
        let house = House::new()?;
        let settings = serde_json::json!({"gateway": round % 2 == 0});
        house.home.write("app-server-daemon/settings.json", settings.to_string())?;
        house.run(&["start"])?;
        house.server()?.signal(Signal::KILL)?;
        let command = ["start", "restart"][round / 2 % 2];
        house.run(&[command]).with_context(|| format!("round {round}: {command} with {settings}"))?;
        house.assert_served()?;
        house.assert_stops()?;
    }
    Ok(())
}

#[test]
fn a_killed_server_is_back_at_once_and_the_next_time_a_tenth_of_a_second_after_it_was_started()
-> anyhow::Result<()> {
    let house = House::new()?;
    house.run(&["start"])?;
    let mut starts = Vec::new();
    for restarts in 1..=3 {
        let successor = house.crash()?;
        starts.push(successor.start_ticks);
        let status = house.status_when("it answers", |status| status["state"] == "running")?;
        ensure!(status["pid"] == successor.pid && status["restarts"] == restarts, "{status:#}");
        let exit = &status["lastExit"];
        ensure!(exit["signal"] == 9 && exit["code"].is_null() && exit["requested"] == false, "{exit:#}");
        house.assert_served()?;
    }
    let gaps = house.gaps_ms(3)?;
    let [first, _, _] = gaps[..] else { anyhow::bail!("not three restarts: {gaps:?}") };
    // On a busy machine a process takes its time to start: one that pauses first always would.
    let at_once = first < AT_ONCE_MS || (1..5).any(|_| first_gap_ms().is_ok_and(|gap| gap < AT_ONCE_MS));
    ensure!(at_once, "the waits were {gaps:?} ms");
    let tick_ms = 1_000 / rustix::param::clock_ticks_per_second();
    for (pair, pause_ms) in starts.windows(2).zip(PAUSES_MS) {
        let apart_ms = (pair[1] - pair[0] + 1) * tick_ms;
        ensure!(apart_ms >= pause_ms, "started {apart_ms} ms after the start before, not {pause_ms}");
    }
    house.assert_stops()
}

#[test]
fn a_binary_that_is_missing_for_a_while_is_awaited_and_counts_as_no_crash() -> anyhow::Result<()> {
    let house = House::new()?;
    house.run(&["start"])?;
    let server = house.server()?;
    let binary = house.home.managed_codex(Layout::Standalone);
    let (folder, away) = (binary.parent().context("a folder")?, house.home.root().join("away"));
    // An update replaces the whole folder.
    std::fs::rename(folder, &away)?;
    kill(&server)?;
    let failed = |house: &House| {
        let events = std::fs::read_to_string(house.home.state("events.jsonl")).unwrap_or_default();
        events.matches("child.spawn.failed").count()
    };
    until(PATIENCE, "the first attempt", || (failed(&house) > 0).then_some(()))?;
    // Changes beside it are looked at, and lead to nothing.
    let parent = folder.parent().context("a parent")?;
    for number in 0..20 {
        std::fs::write(parent.join(format!("other-{number}")), "")?;
    }
    let status = house.status_when("it waits", |status| status["nextAttemptAt"].is_string())?;
    ensure!(status["restarts"] == 1 && status["state"] != "crashLooping", "{status:#}");
    std::fs::rename(&away, folder)?;
    let status = house.status_when("it is back", |status| status["state"] == "running")?;
    ensure!(status["restarts"] == 1 && status["nextAttemptAt"].is_null(), "{status:#}");
    ensure!(failed(&house) == 1, "each failed attempt was written down");
    house.assert_served()?;
    house.assert_stops()
}

#[test]
fn a_server_that_keeps_dying_is_named_and_tried_at_the_ceiling_until_stop() -> anyhow::Result<()> {
    let house = House::new()?;
    house.run(&["start"])?;
    Fake::ExitsAtOnce("no such model", 3).install(&house.home, Layout::Standalone)?;
    kill(&house.server()?)?;
    let status = house.status_when("a crash loop", |status| {
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
    house.assert_stops()?;
    ensure!(began.elapsed() < BEFORE_THE_NEXT_ATTEMPT, "stop took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn start_ends_a_crash_loop_once_the_codex_is_mended() -> anyhow::Result<()> {
    for command in ["start", "restart", "enable-remote-control"] {
        let house = House::new()?;
        house.run(&["start"])?;
        Fake::ExitsAtOnce("broken", 3).install(&house.home, Layout::Standalone)?;
        kill(&house.server()?)?;
        house.status_when("a crash loop", |status| status["state"] == "crashLooping")?;
        house.install(Server::Embedded)?;
        house.run(&[command])?;
        let server = house.assert_served().context(command)?;
        // The server that comes back follows the setting, though none ran when it was changed.
        let remote = server.command.contains("--remote-control");
        ensure!(remote == (command == "enable-remote-control"), "{command}: {server:?}");
        house.assert_stops()?;
    }
    Ok(())
}

/// The two processes that a server leaves behind. It may answer before they have become what they are.
fn strays(house: &House) -> anyhow::Result<Vec<Process>> {
    until(PATIENCE, "what the server started", || {
        let mut processes = house.home.processes();
        processes.retain(|process| process.command.starts_with("sleep "));
        (processes.len() == 2).then_some(processes)
    })
}

#[test]
fn what_a_server_started_goes_with_it_also_when_its_supervisor_was_killed_first() -> anyhow::Result<()> {
    for command in ["start", "stop", "restart"] {
        let house = House::with_fake(&Fake::LeavesGrandchildren)?;
        house.run(&["start"])?;
        let old = strays(&house)?;
        kill(&house.supervisor()?)?;
        kill(&house.server()?)?;
        let answer = house.run(&[command])?;
        for stray in &old {
            ensure!(!stray.is_alive(), "{command} left {stray:?}: {answer}");
        }
        if command != "stop" {
            house.assert_served()?;
            strays(&house).context("its own")?;
        }
        house.assert_stops()?;
    }
    Ok(())
}

#[test]
fn a_server_taken_over_from_a_killed_supervisor_takes_what_it_started_with_it() -> anyhow::Result<()> {
    for command in ["stop", "restart"] {
        let house = House::with_fake(&Fake::LeavesGrandchildren)?;
        house.run(&["start"])?;
        let old = strays(&house)?;
        kill(&house.supervisor()?)?;
        house.run(&[command])?;
        if command == "stop" {
            ensure!(!old.iter().any(Process::is_alive), "stop left some of {old:?}");
        }
        // The successor comes first: to end what ignores SIGTERM takes longer than to be there again.
        until(PATIENCE, "the end of what the old server started", || {
            (!old.iter().any(Process::is_alive)).then_some(())
        })?;
        house.assert_stops()?;
    }
    Ok(())
}

/// Stops a server that does not leave when it is asked to.
fn stops_in_bounds(house: &House, grace: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let stopped = house.run(&["stop", "--grace", &grace.to_string()])?;
    let took = began.elapsed();
    ensure!(stopped["status"] == "stopped", "{stopped}");
    let grace = Duration::from_secs(grace);
    ensure!(took >= grace && took < grace + SECOND_GRACE + SLACK, "stop --grace took {took:?}");
    house.assert_nothing_left()
}

#[test]
fn a_stopped_server_ignores_nobody_for_longer_than_the_grace() -> anyhow::Result<()> {
    let house = House::new()?;
    house.run(&["start"])?;
    house.server()?.signal(Signal::STOP)?;
    stops_in_bounds(&house, 1)
}

#[test]
fn a_server_that_ignores_sigterm_and_lost_its_supervisor_is_gone_within_the_grace() -> anyhow::Result<()> {
    let house = House::with_fake(&Fake::IgnoresSigterm)?;
    house.run(&["start"])?;
    kill(&house.supervisor()?)?;
    stops_in_bounds(&house, 1)
}

#[test]
fn a_stopped_server_is_replaced_by_restart() -> anyhow::Result<()> {
    let house = House::new()?;
    house.run(&["start"])?;
    let server = house.server()?;
    server.signal(Signal::STOP)?;
    ensure!(house.run(&["restart", "--grace", "0"])?["status"] == "restarted");
    ensure!(!server.is_alive(), "it is still there");
    house.assert_served()?;
    house.assert_stops()
}
