//! Every command behaves the same on both backends.

use anyhow::{Context, ensure};
use codexd_testkit::{Run, Server, UserManager, limits, run};
use serde_json::Value;

use super::fixture::ServiceHome;
use super::needs_user_manager;

/// The commands, one after the other.
const COMMANDS: &[&[&str]] = &[
    &["version"],
    &["stop"],
    &["start"],
    &["start"],
    &["version"],
    &["status"],
    &["restart"],
    &["reload"],
    &["restart", "--now"],
    &["enable-remote-control"],
    &["enable-remote-control"],
    &["disable-remote-control"],
    &["disable-remote-control"],
    &["config"],
    &["remote-control"],
    &["remote-control", "start"],
    &["remote-control", "pair"],
    &["logs", "--list"],
    &["stop"],
    &["version"],
    &["status"],
    &["up"],
    &["remote-control", "stop"],
    &["start", "--adopt"],
    &["stop"],
];

/// What is compared: the exit code, and of the answer its form and the words of a program.
fn shape(run: &Run) -> anyhow::Result<Value> {
    let answer: Value = serde_json::from_str(&run.stdout).with_context(|| format!("{run}"))?;
    let mut shape = form(&answer, "");
    shape["exit"] = run.code().into();
    Ok(shape)
}

/// Strings and numbers become their types, but for those of these names.
fn form(value: &Value, name: &str) -> Value {
    const WORDS: [&str; 9] = [
        "status",
        "code",
        "state",
        "cliVersion",
        "appServerVersion",
        "remoteControlEnabled",
        "managedCodexSource",
        "retryable",
        "embedded",
    ];
    match value {
        // What has happened by then, and what blocks a handover, depends on the time. `supervisor.log` is the journal under systemd.
        _ if matches!(name, "events" | "handover" | "entries" | "config" | "repairs" | "logs") => Value::Null,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), form(value, name))).collect()
        }
        Value::Array(items) => items.iter().map(|item| form(item, "")).collect(),
        _ if WORDS.contains(&name) => value.clone(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        other => other.clone(),
    }
}

fn shapes(manager: &UserManager, backend: &str) -> anyhow::Result<Vec<Value>> {
    let service = ServiceHome::without_services(manager, Server::Embedded)?;
    service.json(manager, &["bootstrap", "--backend", backend])?;
    service.json(manager, &["stop"])?;
    let mut shapes = Vec::new();
    for arguments in COMMANDS {
        let run = run::run(manager.codexd(&service.home, arguments), limits::RUN)?;
        shapes.push(shape(&run).with_context(|| format!("{backend}: {}", arguments.join(" ")))?);
    }
    service.json(manager, &["uninstall"])?;
    service.assert_nothing_left(manager)?;
    Ok(shapes)
}

#[test]
fn every_command_behaves_the_same_on_both_backends() -> anyhow::Result<()> {
    needs_user_manager!();
    let manager = UserManager::start()?;
    let (pid, systemd) = (shapes(&manager, "pid")?, shapes(&manager, "systemd")?);
    for ((arguments, pid), systemd) in COMMANDS.iter().zip(&pid).zip(&systemd) {
        ensure!(pid == systemd, "{}:\npid {pid:#}\nsystemd {systemd:#}", arguments.join(" "));
    }
    Ok(())
}
