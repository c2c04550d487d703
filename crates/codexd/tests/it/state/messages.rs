//! What a failure says: what failed, on what, why, and what to do next.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::ensure;
use codexd_testkit::{Codexd, Home, run, until};

use crate::lifecycle::SOON;

#[test]
fn a_home_that_is_a_dangling_link_is_reported_with_its_target() -> anyhow::Result<()> {
    let home = Home::new()?;
    let link = home.profile().join(".codex");
    symlink("/nowhere/codex", &link)?;
    for command in ["status", "start", "stop"] {
        for named in [None, Some(&link)] {
            let mut codexd = Codexd::new(&home)?.command(&[command]);
            codexd.env_remove("CODEX_HOME");
            codexd.args(named.iter().flat_map(|path| ["--codex-home".as_ref(), path.as_os_str()]));
            let run = run::run(codexd, SOON)?;
            let error = run.json()?["error"].clone();
            ensure!(error["code"] == "home-invalid" && error["retryable"] == false, "{error}");
            let message = error["message"].as_str().unwrap_or_default();
            ensure!(message.contains("link to /nowhere/codex, which does not exist"), "{error}");
            ensure!(message.contains(if named.is_some() { "--codex-home" } else { "HOME" }), "{error}");
            ensure!(
                error["hint"].is_string() && error["path"] == link.to_str().unwrap_or_default(),
                "{error}"
            );
        }
    }
    ensure!(link.is_symlink(), "it is left as it was");
    Ok(())
}

#[test]
fn settings_that_are_a_folder_are_not_to_be_retried() -> anyhow::Result<()> {
    let home = Home::new()?;
    let settings = home.state("settings.json");
    fs::create_dir_all(&settings)?;
    let error = Codexd::new(&home)?.run(&["start", "--embedded"])?.json()?["error"].clone();
    ensure!(error["code"] == "state-unwritable" && error["retryable"] == false, "{error}");
    ensure!(error["path"] == settings.to_str().unwrap_or_default() && error["hint"].is_string(), "{error}");
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_supervisor_that_cannot_listen_reports_where_and_why() -> anyhow::Result<()> {
    let home = Home::new()?;
    // A folder that cannot be removed is where the supervisor's socket is to be.
    fs::create_dir_all(home.state("supervisor.sock/in-the-way"))?;
    let run = Codexd::new(&home)?.run(&["start", "--embedded"])?;
    let error = run.json()?["error"].clone();
    ensure!(error["code"] == "state-unwritable" && error["retryable"] == false, "{run}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("listen for orders")), "{error}");
    ensure!(error["path"] == home.path().join("app-server-daemon").to_str().unwrap_or_default(), "{error}");
    ensure!(error["hint"].is_string(), "{error}");
    // The supervisor exits after its refusal.
    until(SOON, "the exit of the supervisor", || home.processes().is_empty().then_some(()))
}
