//! The units: they start and stop what they should, and nothing else.

use anyhow::ensure;
use codexd_testkit::{Server, UserManager, Version, block_on, codex, run, skip, until};

use super::fixture::{ServiceHome, TIMEOUT};
use super::needs_user_manager;

#[test]
fn the_units_start_the_server_and_stop_leaves_nothing() -> anyhow::Result<()> {
    needs_user_manager!();
    start_and_stop(Server::Embedded)
}

#[test]
fn the_units_start_the_real_0_171_0_and_stop_leaves_nothing() -> anyhow::Result<()> {
    needs_user_manager!();
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    start_and_stop(Server::Real(Version::V0_171_0))
}

fn start_and_stop(server: Server) -> anyhow::Result<()> {
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, server)?;
    let names = &service.names;
    // It is ready when the server answers.
    manager.systemctl(&["start", &names.supervisor()])?;
    let status = service.json(&manager, &["status"])?;
    ensure!(status["state"] == "running" && status["backend"] == "systemd", "{status:#}");
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status:#}");
    let unit = service.server_unit(&manager)?;
    ensure!(unit == names.app_server(1), "{unit}");
    ensure!(
        status["gateway"]["pid"].as_u64() == Some(service.main_pid(&manager, &names.gateway())?),
        "{status:#}"
    );
    let text = manager.property(&names.supervisor(), "StatusText")?;
    ensure!(text.contains(" runs; gateway (pid "), "{text}");
    until(TIMEOUT, "the unit with the name of the server", || {
        manager.property(&names.commands(), "ActiveState").ok().filter(|state| state == "active")
    })?;
    block_on(async {
        let (client, thread) = service.client_with_thread().await?;
        let done = client.turn(&thread, "[[deltas=3]]").await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        Ok(())
    })?;

    let restarted = service.json(&manager, &["restart"])?;
    ensure!(restarted["status"] == "restarted" && restarted["backend"] == "systemd", "{restarted}");
    let unit = service.server_unit(&manager)?;
    ensure!(unit == names.app_server(2), "{unit}");

    let stopped = service.json(&manager, &["stop"])?;
    ensure!(stopped["status"] == "stopped", "{stopped}");
    service.assert_nothing_left(&manager)?;
    let again = service.json(&manager, &["start"])?;
    ensure!(again["status"] == "started" && again["backend"] == "systemd", "{again}");
    let unit = service.server_unit(&manager)?;
    ensure!(unit == names.app_server(3), "no number is used twice: {unit}");
    service.json(&manager, &["stop"])?;
    service.assert_nothing_left(&manager)
}

#[test]
fn systemd_finds_no_fault_with_the_units() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    let mut verify = manager.command("systemd-analyze");
    verify.args(["--user", "verify"]);
    for file in service.unit_files(&manager)? {
        verify.arg(file);
    }
    let verified = run::run(verify, TIMEOUT)?;
    ensure!(verified.success() && verified.stderr.is_empty() && verified.stdout.is_empty(), "{verified}");
    Ok(())
}

#[test]
fn the_unit_with_the_name_of_the_server_does_what_the_commands_do() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    let commands = service.names.commands();
    manager.systemctl(&["start", &commands])?;
    let first = service.server(&manager)?;
    manager.systemctl(&["reload", &commands])?;
    let second = service.server(&manager)?;
    ensure!(first != second, "it was not replaced");
    manager.systemctl(&["restart", &commands])?;
    ensure!(service.server(&manager)? != second, "it was not replaced");
    manager.systemctl(&["stop", &commands])?;
    service.assert_nothing_left(&manager)
}

#[test]
fn two_homes_of_a_user_have_servers_side_by_side() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let (one, other) = (
        ServiceHome::install(&manager, Server::Embedded)?,
        ServiceHome::install(&manager, Server::Embedded)?,
    );
    manager.systemctl(&["start", &one.names.supervisor(), &other.names.supervisor()])?;
    let survivor = other.server(&manager)?;
    ensure!(one.server(&manager)? != survivor);
    one.json(&manager, &["stop"])?;
    one.assert_nothing_left(&manager)?;
    ensure!(other.server(&manager)? == survivor);
    Ok(())
}

#[test]
fn an_enabled_service_is_back_after_a_reboot() -> anyhow::Result<()> {
    needs_user_manager!();
    let mut manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    manager.systemctl(&["enable", "--now", &service.names.supervisor()])?;
    service.server(&manager)?;
    manager.reboot()?;
    let status = service.status_when(&manager, "a server", |status| status["state"] == "running")?;
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status:#}");
    ensure!(service.server_unit(&manager)? == service.names.app_server(2));
    Ok(())
}

#[test]
fn a_client_that_connects_starts_codexd() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    manager.systemctl(&["start", &service.names.socket()])?;
    ensure!(manager.property(&service.names.supervisor(), "ActiveState")? == "inactive");
    let thread = block_on(async { service.client_with_thread().await.map(|(_, thread)| thread) })?;
    ensure!(!thread.is_empty());
    ensure!(manager.property(&service.names.supervisor(), "ActiveState")? == "active");
    Ok(())
}

#[test]
fn a_unit_that_the_supervisor_did_not_start_runs_nothing() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    manager.systemctl(&["start", &service.names.supervisor()])?;
    let (server, unit) = (service.server(&manager)?, service.names.app_server(77));
    manager.systemctl(&["start", &unit])?;
    until(TIMEOUT, "its end", || {
        manager.property(&unit, "ActiveState").ok().filter(|state| state == "inactive")
    })?;
    ensure!(manager.property(&unit, "Result")? == "success");
    ensure!(service.server(&manager)? == server);
    Ok(())
}
