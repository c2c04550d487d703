//! Slow operations are waited for up to a limit, and the waiting command reports what it waits for.

use std::fs;

use codexd_testkit::fakes::SERVE;
use codexd_testkit::{Codexd, Fake, Home, Layout, until};

use crate::lifecycle::{SOON, recorded};

#[test]
fn a_busy_binary_gets_more_time_to_print_its_version() -> anyhow::Result<()> {
    let home = Home::new()?;
    // Longer than one that does nothing is waited for.
    Fake::VersionComputes(6).install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let run = codexd.run(&["start"])?;
    assert_eq!(run.success_json()?["status"], "started");
    assert!(
        run.stderr.contains("waiting for") && run.stderr.contains("--version"),
        "what is waited for is said: {}",
        run.stderr
    );
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_slow_start_is_awaited_by_all_commands_and_repeated_by_none() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::ServesWhenTold.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let mut first = codexd.spawn(&["start"])?;
    until(SOON, "the server's process", || recorded(&home).ok())?;
    assert_eq!(codexd.json(&["status"])?["state"], "starting");
    first.kill()?;
    let second = codexd.spawn(&["start"])?;
    until(SOON, "the second to hold the lock", || {
        let holder = fs::read_to_string(home.state("daemon.lock")).ok()?;
        holder.contains(&second.pid().to_string()).then_some(())
    })?;
    home.write(SERVE, "")?;
    let second = second.finish(SOON)?.success_json()?;
    assert_eq!(second["status"], "alreadyRunning", "the first had begun: {second}");
    assert_eq!(home.processes().len(), 3, "a supervisor, a server and a gateway: {:?}", home.processes());
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_held_lock_is_awaited_with_a_limit_and_its_holder_is_reported() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::ServesWhenTold.install(&home, Layout::Standalone)?;
    let codexd = Codexd::new(&home)?;
    let first = codexd.spawn(&["start"])?;
    until(SOON, "the first to hold the lock", || {
        fs::read_to_string(home.state("daemon.lock")).ok().filter(|text| text.contains("(start)"))
    })?;
    let run = codexd.run(&["stop", "--lock-timeout", "0"])?;
    let error = run.json()?["error"].clone();
    assert_eq!((run.code(), &error["code"]), (Some(10), &"lock-timeout".into()), "{error}");
    assert!(run.stderr.contains("(start)"), "stderr says whom it waits for: {}", run.stderr);
    let pid = first.pid();
    assert!(error["holder"].as_str().is_some_and(|holder| holder.contains(&pid.to_string())));
    home.write(SERVE, "")?;
    assert_eq!(first.finish(SOON)?.success_json()?["status"], "started");
    codexd.json(&["stop"])?;
    Ok(())
}
