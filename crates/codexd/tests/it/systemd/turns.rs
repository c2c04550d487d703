//! A turn that runs goes on, whatever is restarted or dies.

use anyhow::{Context, ensure};
use codexd_testkit::{Server, UserManager, Version, block_on, codex, skip, until};
use serde_json::json;

use super::fixture::{ServiceHome, TIMEOUT, signal};
use super::needs_user_manager;

/// A turn of about three seconds.
const TURN: &str = "[[deltas=60 delay=0.05]]";

/// A turn is begun, something happens, and the turn ends as it would have.
fn assert_turn_survives(
    service: &ServiceHome,
    what: &str,
    happen: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let whole = block_on(async {
        let (client, thread) = service.client_with_thread().await?;
        client.turn(&thread, TURN).await?;
        anyhow::Ok(service.ended_turn(&thread).await?.1)
    })?;
    block_on(async {
        let (client, thread) = service.client_with_thread().await?;
        client.start_turn(&thread, TURN).await?;
        client.wait_method("item/agentMessage/delta").await?;
        happen()?;
        let (status, text) = service.ended_turn(&thread).await?;
        ensure!(
            status == "completed" && text.len() == whole.len(),
            "{status}: {} of {}",
            text.len(),
            whole.len()
        );
        Ok(())
    })
    .with_context(|| what.to_owned())
}

fn on(server: Server) -> anyhow::Result<()> {
    let manager = UserManager::start()?;
    let service = ServiceHome::install(&manager, server)?;
    let names = &service.names;
    manager.systemctl(&["start", &names.supervisor()])?;
    let instance = service.server_unit(&manager)?;
    for unit in [names.supervisor(), names.gateway(), names.commands(), instance] {
        assert_turn_survives(&service, &format!("restart of {unit}"), || {
            manager.systemctl(&["restart", &unit]).map(drop)
        })?;
    }
    assert_turn_survives(&service, "restart of the socket", || {
        // systemd starts no socket whose service runs.
        manager.run(&["systemctl", "--user", "restart", &names.socket()]).map(drop)
    })?;
    assert_turn_survives(&service, "restart of codexd after that of the socket", || {
        manager.systemctl(&["restart", &names.supervisor()]).map(drop)
    })?;
    assert_turn_survives(&service, "kill -9 of codexd", || {
        signal(&manager, "KILL", service.main_pid(&manager, &names.supervisor())?)
    })?;
    assert_turn_survives(&service, "daemon-reload", || manager.systemctl(&["daemon-reload"]).map(drop))?;
    service.json(&manager, &["stop"])?;
    service.assert_nothing_left(&manager)
}

#[test]
fn a_turn_survives_the_restart_of_each_unit_and_the_death_of_codexd() -> anyhow::Result<()> {
    needs_user_manager!();
    on(Server::Embedded)
}

#[test]
fn a_turn_of_the_real_0_171_0_survives_the_restart_of_each_unit() -> anyhow::Result<()> {
    needs_user_manager!();
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    on(Server::Real(Version::V0_171_0))
}

#[test]
fn a_goal_of_the_real_0_171_0_goes_on_after_a_reboot_without_a_client() -> anyhow::Result<()> {
    needs_user_manager!();
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let mut manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Real(Version::V0_171_0))?;
    service.json(&manager, &["bootstrap"])?;
    let thread = block_on(async {
        let (client, thread) = service.client_with_thread().await?;
        let objective = "go on [[deltas=10 delay=0.05]]";
        let goal = json!({"threadId": thread, "objective": objective, "status": "active"});
        client.call("thread/goal/set", goal).await?;
        client.wait_method("turn/completed").await?;
        anyhow::Ok(thread)
    })?;
    manager.reboot()?;
    let asked = service.model.requests().len();
    // No client connects: turn follows turn.
    until(TIMEOUT, "turns of the goal", || (service.model.requests().len() >= asked + 3).then_some(()))?;
    block_on(async {
        let client = service.client().await?;
        client.call("thread/resume", json!({"threadId": thread})).await?;
        let found = client.call("thread/goal/get", json!({"threadId": thread})).await?;
        ensure!(found["goal"]["status"] == "active", "{found}");
        client.call("thread/goal/set", json!({"threadId": thread, "status": "paused"})).await?;
        Ok(())
    })?;
    service.json(&manager, &["uninstall"])?;
    service.assert_nothing_left(&manager)
}
