//! Moves between backends, and commands that are killed at each of their steps.

use anyhow::{Context, ensure};
use codexd_testkit::{Server, UserManager, Version, block_on, codex, limits, run, skip};

use super::bootstrap::{assert_is_in_pid, assert_is_in_systemd, assert_uninstalled};
use super::fixture::ServiceHome;
use super::needs_user_manager;

/// A turn of about three seconds.
const TURN: &str = "[[deltas=60 delay=0.05]]";

/// A turn is begun, the home moves, and the turn ends as it would have.
fn assert_turn_survives(
    service: &ServiceHome,
    manager: &UserManager,
    arguments: &[&str],
) -> anyhow::Result<()> {
    block_on(async {
        let (client, thread) = service.client_with_thread().await?;
        client.start_turn(&thread, TURN).await?;
        client.wait_method("item/agentMessage/delta").await?;
        let answer = service.json(manager, arguments)?;
        ensure!(answer.get("repairs").is_none(), "a move is no repair: {answer:#}");
        let (status, text) = service.ended_turn(&thread).await?;
        ensure!(status == "completed" && text.len() >= 60, "{status}: {} bytes", text.len());
        Ok(())
    })
    .with_context(|| arguments.join(" "))
}

fn moves(server: Server) -> anyhow::Result<()> {
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, server)?;
    service.json(&manager, &["start"])?;
    assert_is_in_pid(&manager, &service)?;
    assert_turn_survives(&service, &manager, &["bootstrap", "--backend", "systemd"])?;
    assert_is_in_systemd(&manager, &service)?;
    assert_turn_survives(&service, &manager, &["bootstrap", "--backend", "pid"])?;
    assert_is_in_pid(&manager, &service)?;
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

#[test]
fn a_move_between_backends_costs_no_turn() -> anyhow::Result<()> {
    needs_user_manager!();
    moves(Server::Embedded)
}

#[test]
fn a_move_between_backends_costs_no_turn_of_the_real_0_171_0() -> anyhow::Result<()> {
    needs_user_manager!();
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    moves(Server::Real(Version::V0_171_0))
}

#[test]
fn a_server_without_a_gateway_gets_one_when_its_home_moves_to_systemd() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    service.json(&manager, &["config", "set", "gateway.enabled", "false"])?;
    for start in [&["start"][..], &["bootstrap"]] {
        service.json(&manager, start)?;
        let status = service.json(&manager, &["status"])?;
        ensure!(status["state"] == "running" && status["gateway"].is_null(), "{status:#}");
        service.json(&manager, &["config", "set", "gateway.enabled", "true"])?;
        service.json(&manager, &["bootstrap"])?;
        assert_is_in_systemd(&manager, &service)?;
        service.json(&manager, &["stop"])?;
        service.json(&manager, &["config", "set", "gateway.enabled", "false"])?;
    }
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

/// Kills the command at each checkpoint, runs it again, and checks the end.
fn killed_at_every_checkpoint(
    arguments: &[&str],
    before: impl Fn(&UserManager, &ServiceHome) -> anyhow::Result<()>,
    assert_end: impl Fn(&UserManager, &ServiceHome) -> anyhow::Result<()>,
) -> anyhow::Result<u32> {
    let manager = UserManager::start()?;
    for checkpoint in 1.. {
        let service = ServiceHome::without_services(&manager, Server::Embedded)?;
        before(&manager, &service)?;
        let mut command = manager.codexd(&service.home, arguments);
        command.env("CODEXD_KILL_AT_CHECKPOINT", checkpoint.to_string());
        let killed = run::run(command, limits::RUN)?;
        let was_killed = killed.signal().is_some();
        ensure!(was_killed || killed.success(), "{killed}");
        let context = || format!("killed at checkpoint {checkpoint}: {killed}");
        service.json(&manager, arguments).with_context(context)?;
        assert_end(&manager, &service).with_context(context)?;
        service.json(&manager, &["uninstall"]).with_context(context)?;
        assert_uninstalled(&manager, &service).with_context(context)?;
        if !was_killed {
            return Ok(checkpoint - 1);
        }
    }
    anyhow::bail!("there is no end")
}

#[test]
fn bootstrap_killed_at_every_step_and_run_again_has_the_same_end() -> anyhow::Result<()> {
    needs_user_manager!();
    let tried = killed_at_every_checkpoint(
        &["bootstrap"],
        |_, _| Ok(()),
        |manager, service| assert_is_in_systemd(manager, service).map(drop),
    )?;
    ensure!(tried >= 10, "only {tried} checkpoints");
    Ok(())
}

#[test]
fn a_move_to_systemd_killed_at_every_step_and_run_again_has_the_same_end() -> anyhow::Result<()> {
    needs_user_manager!();
    let start = |manager: &UserManager, service: &ServiceHome| service.json(manager, &["start"]).map(drop);
    let tried =
        killed_at_every_checkpoint(&["bootstrap", "--backend", "systemd"], start, |manager, service| {
            assert_is_in_systemd(manager, service).map(drop)
        })?;
    ensure!(tried >= 14, "only {tried} checkpoints");
    Ok(())
}

#[test]
fn a_move_to_pid_killed_at_every_step_and_run_again_has_the_same_end() -> anyhow::Result<()> {
    needs_user_manager!();
    let bootstrap =
        |manager: &UserManager, service: &ServiceHome| service.json(manager, &["bootstrap"]).map(drop);
    let tried =
        killed_at_every_checkpoint(&["bootstrap", "--backend", "pid"], bootstrap, |manager, service| {
            assert_is_in_pid(manager, service).map(drop)
        })?;
    ensure!(tried >= 10, "only {tried} checkpoints");
    Ok(())
}

#[test]
fn uninstall_killed_at_every_step_and_run_again_has_the_same_end() -> anyhow::Result<()> {
    needs_user_manager!();
    let bootstrap =
        |manager: &UserManager, service: &ServiceHome| service.json(manager, &["bootstrap"]).map(drop);
    let tried = killed_at_every_checkpoint(&["uninstall"], bootstrap, assert_uninstalled)?;
    ensure!(tried >= 8, "only {tried} checkpoints");
    Ok(())
}
