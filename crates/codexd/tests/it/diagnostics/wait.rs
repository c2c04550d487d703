//! `codexd status --wait`.

use anyhow::ensure;
use codexd_testkit::fakes::SERVE;
use codexd_testkit::{Codexd, Fake, Home, Layout, until};

use crate::lifecycle::{SOON, recorded};

#[test]
fn status_wait_ends_with_the_start_or_the_stop_that_it_waits_for() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::ServesWhenTold.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    ensure!(codexd.json(&["status", "--wait", "stopped"])?["wait"]["condition"] == "stopped");
    let running = codexd.spawn(&["status", "--wait", "running", "--timeout", "60"])?;
    let start = codexd.spawn(&["start"])?;
    until(SOON, "the server's process", || recorded(&home).ok())?;
    ensure!(!running.ends_within(std::time::Duration::ZERO)?, "it waits until the app-server answers");
    home.write(SERVE, "")?;
    let status = running.finish(SOON)?.success_json()?;
    ensure!(status["state"] == "running" && status["wait"]["reached"] == true, "{status}");
    ensure!(status["wait"]["waitedMs"].is_u64(), "{status}");
    start.finish(SOON)?.success_json()?;
    codexd.json(&["status", "--wait", "drained"])?;
    let stopped = codexd.spawn(&["status", "--wait", "stopped", "--timeout", "60"])?;
    codexd.json(&["stop"])?;
    ensure!(stopped.finish(SOON)?.success_json()?["state"] == "stopped");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_state_that_is_not_reached_in_time_is_a_failure_that_names_both_states() -> anyhow::Result<()> {
    let home = Home::new()?;
    let run = Codexd::new(&home)?.run(&["status", "--wait", "running", "--timeout", "0"])?;
    let error = run.json()?["error"].clone();
    ensure!(run.code() == Some(29) && error["code"] == "wait-timeout" && error["retryable"] == true, "{run}");
    ensure!(error["condition"] == "running" && error["state"] == "stopped", "{error}");
    ensure!(error["reached"] == false && error["timeoutSeconds"] == 0, "{error}");
    Ok(())
}

#[test]
fn a_long_wait_prints_its_progress() -> anyhow::Result<()> {
    let home = Home::new()?;
    let run = Codexd::new(&home)?.run(&["status", "--wait", "running", "--timeout", "3"])?;
    ensure!(run.stderr.contains("waiting for an app-server that answers (now: stopped)"), "{run}");
    Ok(())
}
