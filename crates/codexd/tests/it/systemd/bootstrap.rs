//! `bootstrap` and `uninstall`.

use std::fs;

use anyhow::{Context, ensure};
use codexd_testkit::run::Running;
use codexd_testkit::{Layout, Server, UserManager, limits, run};
use serde_json::Value;

use super::fixture::ServiceHome;
use super::needs_user_manager;

/// Fails unless the home is served by systemd, with everything in units.
pub fn assert_is_in_systemd(manager: &UserManager, service: &ServiceHome) -> anyhow::Result<u64> {
    let status = service.status_when(manager, "a server in a unit", |status| {
        status["state"] == "running"
            && status["gateway"]["pid"].is_u64()
            && status["problems"].as_array().is_some_and(Vec::is_empty)
    })?;
    ensure!(status["backend"] == "systemd", "{status:#}");
    service.server_unit(manager)?;
    let gateway = service.main_pid(manager, &service.names.gateway())?;
    ensure!(status["gateway"]["pid"] == gateway, "the gateway runs outside of its unit: {status:#}");
    let supervisor = service.main_pid(manager, &service.names.supervisor())?;
    ensure!(status["supervisorPid"] == supervisor, "{status:#}");
    ensure!(service.installed_files(manager)?.len() == 7, "{:#?}", service.installed_files(manager)?);
    ensure!(manager.property(&service.names.socket(), "ActiveState")? == "active");
    status["pid"].as_u64().context("a pid")
}

/// Fails unless the home is served by a supervisor that a command has started, and nothing of it is in systemd.
pub fn assert_is_in_pid(manager: &UserManager, service: &ServiceHome) -> anyhow::Result<u64> {
    let status = service.status_when(manager, "a server", |status| {
        status["state"] == "running"
            && status["gateway"]["pid"].is_u64()
            && status["problems"].as_array().is_some_and(Vec::is_empty)
    })?;
    ensure!(status["backend"] == "pid", "{status:#}");
    ensure!(service.installed_files(manager)?.is_empty(), "{:#?}", service.installed_files(manager)?);
    let names = &service.names;
    for unit in [names.supervisor(), names.socket(), names.gateway(), names.commands()] {
        let state = manager.property(&unit, "ActiveState")?;
        ensure!(state == "inactive", "{unit} is {state}");
    }
    status["pid"].as_u64().context("a pid")
}

#[test]
fn bootstrap_installs_starts_and_enables_everything_and_again_it_changes_nothing() -> anyhow::Result<()> {
    needs_user_manager!();
    let mut manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    let answer = service.json(&manager, &["bootstrap"])?;
    let names: Vec<&str> = answer.as_object().context("an object")?.keys().map(String::as_str).collect();
    let contract = [
        "status",
        "backend",
        "autoUpdateEnabled",
        "remoteControlEnabled",
        "managedCodexPath",
        "managedCodexVersion",
        "socketPath",
        "cliVersion",
        "appServerVersion",
        "codexdVersion",
    ];
    ensure!(names.starts_with(&contract), "{names:?}");
    ensure!(answer["status"] == "bootstrapped" && answer["backend"] == "systemd", "{answer:#}");
    ensure!(answer["autoUpdateEnabled"] == false && answer["remoteControlEnabled"] == false, "{answer:#}");
    let server = assert_is_in_systemd(&manager, &service)?;
    let again = service.json(&manager, &["bootstrap"])?;
    ensure!(again == answer, "{again:#}");
    ensure!(assert_is_in_systemd(&manager, &service)? == server, "the server was replaced");
    manager.reboot()?;
    ensure!(service.server(&manager)? != server);
    assert_is_in_systemd(&manager, &service)?;
    let answer = service.json(&manager, &["uninstall"])?;
    ensure!(answer["status"] == "uninstalled", "{answer:#}");
    assert_uninstalled(&manager, &service)
}

/// Fails if anything but Codex and the user's files is left.
pub fn assert_uninstalled(manager: &UserManager, service: &ServiceHome) -> anyhow::Result<()> {
    service.assert_nothing_left(manager)?;
    ensure!(service.installed_files(manager)?.is_empty(), "{:#?}", service.installed_files(manager)?);
    let listed = manager.systemctl(&["list-units", "--all", "--plain", "--no-legend", "--full"])?;
    ensure!(!listed.contains(service.names.hash()), "units are left: {listed}");
    let left = fs::read_dir(service.home.state("")).into_iter().flatten().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name != "settings.json" && name != "daemon.lock")
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    // The link to a real Codex leads somewhere in the namespaces only.
    let codex = service.home.managed_codex(Layout::Standalone);
    ensure!(codex.symlink_metadata().is_ok(), "Codex is gone");
    Ok(())
}

/// A Codex that prints its version and ends.
const BROKEN: &str = "#!/bin/sh\ncase $1 in --version) echo 'codex-cli 9.9.9'; exit 0 ;; features) exit 0 ;; esac\necho broken >&2; exit 3\n";

#[test]
fn a_bootstrap_that_fails_undoes_what_it_did() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    let codex = service.home.managed_codex(Layout::Standalone);
    let good = fs::read(&codex)?;
    fs::write(&codex, BROKEN)?;
    let failed = run::run(manager.codexd(&service.home, &["bootstrap", "--remote-control"]), limits::RUN)?;
    ensure!(!failed.success(), "{failed}");
    let error: Value = serde_json::from_str(&failed.stdout)?;
    let message = error["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.ends_with("; the changes of this command were undone"), "{error:#}");
    service.assert_nothing_left(&manager)?;
    ensure!(service.installed_files(&manager)?.is_empty(), "{:#?}", service.installed_files(&manager)?);
    ensure!(!service.home.state("backend.json").exists());
    let settings = fs::read_to_string(service.home.state("settings.json")).unwrap_or_default();
    ensure!(!settings.contains("true"), "{settings}");
    // With a server that runs: it is served as before.
    fs::write(&codex, good)?;
    service.json(&manager, &["start"])?;
    let server = assert_is_in_pid(&manager, &service)?;
    fs::write(&codex, BROKEN)?;
    let failed =
        run::run(manager.codexd(&service.home, &["bootstrap", "--backend", "systemd"]), limits::RUN)?;
    ensure!(!failed.success(), "{failed}");
    ensure!(assert_is_in_pid(&manager, &service)? == server, "another server runs");
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

#[test]
fn bootstrap_without_a_user_manager_says_so_and_uses_the_supervisor() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    let without = |arguments: &[&str]| {
        let mut command = manager.codexd(&service.home, arguments);
        command.env("XDG_RUNTIME_DIR", "/nonexistent");
        run::run(command, limits::RUN)
    };
    let refused = without(&["bootstrap", "--backend", "systemd"])?;
    ensure!(refused.stdout.contains("service-manager-failed"), "{refused}");
    let answer = without(&["bootstrap"])?;
    ensure!(answer.stderr.contains("backend: pid, because no systemd user manager runs"), "{answer}");
    assert_is_in_pid(&manager, &service)?;
    let refused = without(&["bootstrap", "--backend", "launchd"])?;
    ensure!(refused.stdout.contains("unsupported-platform"), "{refused}");
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

#[test]
fn two_homes_have_services_side_by_side() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let first = ServiceHome::without_services(&manager, Server::Embedded)?;
    let second = ServiceHome::without_services(&manager, Server::Embedded)?;
    for service in [&first, &second] {
        service.json(&manager, &["bootstrap"])?;
    }
    assert_is_in_systemd(&manager, &first)?;
    let server = assert_is_in_systemd(&manager, &second)?;
    first.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &first)?;
    ensure!(assert_is_in_systemd(&manager, &second)? == server, "the server of the other home was replaced");
    second.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &second)
}

#[test]
fn bootstrap_turns_remote_control_on_with_the_option_and_off_without() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    for (arguments, is_on) in [(&["bootstrap", "--remote-control"][..], true), (&["bootstrap"], false)] {
        let answer = service.json(&manager, arguments)?;
        ensure!(answer["remoteControlEnabled"] == is_on, "{answer:#}");
        let server = assert_is_in_systemd(&manager, &service)?;
        let command = manager.run(&["cat", &format!("/proc/{server}/cmdline")])?;
        ensure!(command.stdout.contains("--remote-control") == is_on, "{command}");
        let status = service.json(&manager, &["status"])?;
        ensure!(status["settings"]["remoteControlEnabled"] == is_on, "{status:#}");
    }
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

#[test]
fn a_codex_of_a_package_manager_is_used_as_it_is_also_after_a_reboot() -> anyhow::Result<()> {
    needs_user_manager!();
    let mut manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    let folder = service.home.root().join("bin");
    let codex = folder.join("codex");
    fs::create_dir(&folder)?;
    fs::rename(service.home.managed_codex(Layout::Standalone), &codex)?;
    manager.own(&service.home)?;
    let mut command = manager.codexd(&service.home, &["bootstrap"]);
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display()));
    let answer = run::run(command, limits::RUN)?.success_json()?;
    ensure!(answer["autoUpdateEnabled"] == false, "{answer:#}");
    ensure!(answer["managedCodexPath"] == codex.display().to_string(), "{answer:#}");
    let server = service.server(&manager)?;
    manager.reboot()?;
    ensure!(service.server(&manager)? != server);
    service.server_unit(&manager)?;
    service.json(&manager, &["uninstall"])?;
    ensure!(codex.exists(), "Codex is gone");
    service.assert_nothing_left(&manager)
}

#[test]
fn another_environment_and_limits_reach_the_services_and_the_server_stays() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    service.json(&manager, &["config", "set", "service.memoryHigh", "500"])?;
    service.json(&manager, &["bootstrap"])?;
    let server = assert_is_in_systemd(&manager, &service)?;
    let unit = service.server_unit(&manager)?;
    ensure!(manager.property(&unit, "MemoryHigh")? == (500 << 20).to_string(), "{unit}");
    let mut command = manager.codexd(&service.home, &["bootstrap"]);
    command.env("CODEXD_NODE_ID", "of the second time");
    run::run(command, limits::RUN)?.success_json()?;
    ensure!(assert_is_in_systemd(&manager, &service)? == server, "the server was replaced");
    let supervisor = service.main_pid(&manager, &service.names.supervisor())?;
    let environment = manager.run(&["cat", &format!("/proc/{supervisor}/environ")])?;
    ensure!(environment.stdout.contains("CODEXD_NODE_ID=of the second time"), "{environment}");
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}

#[test]
fn a_home_that_runs_in_the_foreground_is_refused_and_goes_on() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let service = ServiceHome::without_services(&manager, Server::Embedded)?;
    let foreground = Running::spawn(manager.codexd(&service.home, &["run"]))?;
    let server = service.server(&manager)?;
    for backend in ["systemd", "pid"] {
        let refused =
            run::run(manager.codexd(&service.home, &["bootstrap", "--backend", backend]), limits::RUN)?;
        ensure!(refused.stdout.contains("already-managed"), "{refused}");
        ensure!(service.installed_files(&manager)?.is_empty() && service.server(&manager)? == server);
    }
    service.json(&manager, &["stop"])?;
    let ended = foreground.finish(limits::RUN)?;
    ensure!(ended.success(), "{ended}");
    service.json(&manager, &["bootstrap"])?;
    assert_is_in_systemd(&manager, &service)?;
    service.json(&manager, &["uninstall"])?;
    assert_uninstalled(&manager, &service)
}
