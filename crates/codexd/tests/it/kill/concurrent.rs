//! Many commands at once.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use codexd_testkit::{Run, limits};

use super::test_home::TestHome;

/// How many commands run at once.
const CROWD: usize = 20;
/// Rounds of mixed commands.
const ROUNDS: usize = 3;

/// Starts all of them, then waits for all of them.
fn at_once(test_home: &TestHome, commands: &[&str]) -> anyhow::Result<Vec<Run>> {
    let codexd = test_home.codexd()?;
    let running =
        commands.iter().map(|command| codexd.spawn(&[command])).collect::<anyhow::Result<Vec<_>>>()?;
    running.into_iter().map(|running| running.finish(limits::RUN)).collect()
}

fn statuses(runs: &[Run]) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut statuses = BTreeMap::new();
    for run in runs {
        let answer = run.success_json()?;
        *statuses.entry(answer["status"].to_string()).or_default() += 1;
    }
    Ok(statuses)
}

#[test]
fn of_twenty_starts_at_once_one_starts_the_server() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    let said = statuses(&at_once(&test_home, &["start"; CROWD])?)?;
    let expected =
        BTreeMap::from([("\"started\"".to_owned(), 1), ("\"alreadyRunning\"".to_owned(), CROWD - 1)]);
    ensure!(said == expected, "{said:?}");
    test_home.assert_served()?;
    test_home.assert_stops()
}

#[test]
fn of_twenty_stops_at_once_one_stops_the_server() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    test_home.run(&["start"])?;
    let said = statuses(&at_once(&test_home, &["stop"; CROWD])?)?;
    let expected = BTreeMap::from([("\"stopped\"".to_owned(), 1), ("\"notRunning\"".to_owned(), CROWD - 1)]);
    ensure!(said == expected, "{said:?}");
    test_home.assert_nothing_left()
}

#[test]
fn commands_of_every_kind_at_once_all_succeed_and_a_last_stop_leaves_nothing() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    let kinds =
        ["start", "stop", "restart", "enable-remote-control", "start", "status", "disable-remote-control"];
    for round in 0..ROUNDS {
        let commands: Vec<&str> = (0..CROWD).map(|nth| kinds[(nth + round) % kinds.len()]).collect();
        for (command, run) in commands.iter().zip(at_once(&test_home, &commands)?) {
            run.success_json().with_context(|| format!("{command} in round {round}"))?;
        }
        test_home.assert_never_two()?;
    }
    test_home.run(&["start"])?;
    test_home.assert_served()?;
    test_home.assert_stops()
}

#[test]
fn commands_of_every_kind_are_killed_at_once_and_the_next_ones_reach_their_goals() -> anyhow::Result<()> {
    let test_home = TestHome::new()?;
    for round in 0..ROUNDS {
        let codexd = test_home.codexd()?;
        let crowd = ["start", "stop", "restart", "enable-remote-control", "start", "stop"];
        let mut running =
            crowd.iter().map(|command| codexd.spawn(&[command])).collect::<anyhow::Result<Vec<_>>>()?;
        // The first one to end is the signal: the others are anywhere.
        running[round].ends_within(limits::RUN)?;
        for running in &mut running {
            running.kill()?;
        }
        drop(running);
        test_home.run(&["start"]).with_context(|| format!("round {round}"))?;
        test_home.assert_served().with_context(|| format!("round {round}"))?;
    }
    test_home.assert_stops()
}
