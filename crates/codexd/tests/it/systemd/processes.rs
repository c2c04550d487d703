//! Processes that die under systemd.

use anyhow::ensure;
use codexd_testkit::{Server, UserManager};

use super::fixture::{ServiceHome, signal};
use super::needs_user_manager;

#[test]
fn a_server_that_is_killed_is_back_and_status_names_how_it_ended() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    manager.systemctl(&["start", &service.names.supervisor()])?;
    let first = service.server(&manager)?;
    signal(&manager, "KILL", first)?;
    let status = service.running_instead_of(&manager, first)?;
    ensure!(status["lastExit"]["signal"] == 9 && status["lastExit"]["pid"] == first, "{status:#}");
    // As the kernel ends a whole control group that takes too much memory.
    let (second, unit) = (service.server(&manager)?, service.server_unit(&manager)?);
    manager.systemctl(&["kill", "--signal=SIGKILL", &unit])?;
    let status = service.running_instead_of(&manager, second)?;
    ensure!(status["lastExit"]["signal"] == 9 && status["restarts"] == 2, "{status:#}");
    ensure!(service.server_unit(&manager)? == service.names.app_server(3));
    service.json(&manager, &["stop"])?;
    service.assert_nothing_left(&manager)
}

#[test]
fn a_gateway_that_is_killed_is_replaced_by_the_supervisor() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    let gateway = service.names.gateway();
    manager.systemctl(&["start", &service.names.supervisor()])?;
    let server = service.server(&manager)?;
    let first = service.main_pid(&manager, &gateway)?;
    signal(&manager, "KILL", first)?;
    service.status_when(&manager, "another gateway", |status| {
        status["state"] == "running" && status["gateway"]["pid"].as_u64().is_some_and(|pid| pid != first)
    })?;
    ensure!(service.server(&manager)? == server);
    service.json(&manager, &["stop"])?;
    service.assert_nothing_left(&manager)
}

#[test]
fn a_supervisor_that_is_killed_is_started_again_and_knows_the_units() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, Server::Embedded)?;
    let supervisor = service.names.supervisor();
    manager.systemctl(&["start", &supervisor])?;
    let (server, unit) = (service.server(&manager)?, service.server_unit(&manager)?);
    let gateway = service.main_pid(&manager, &service.names.gateway())?;
    let first = service.main_pid(&manager, &supervisor)?;
    signal(&manager, "KILL", first)?;
    service.status_when(&manager, "another supervisor", |status| {
        status["supervisorPid"].as_u64().is_some_and(|pid| pid != first)
            && status["problems"].as_array().is_some_and(Vec::is_empty)
    })?;
    ensure!(service.server(&manager)? == server && service.server_unit(&manager)? == unit);
    ensure!(service.main_pid(&manager, &service.names.gateway())? == gateway);
    // The exit of a process that it did not start is known from its unit.
    signal(&manager, "KILL", server)?;
    let status = service.running_instead_of(&manager, server)?;
    ensure!(status["lastExit"]["signal"] == 9, "{status:#}");
    service.json(&manager, &["stop"])?;
    service.assert_nothing_left(&manager)
}
