//! Keys of codexd in `settings.json`, which the next changing command moves to `codexd.toml`.

use std::fs;

use anyhow::{Context, ensure};
use codexd_testkit::killer::{self, KillPoint};
use codexd_testkit::{Codexd, Fake, Home, Layout, skip};
use serde_json::{Value, json};

/// The settings before: keys of upstream's, of codexd's and of others.
fn before() -> Value {
    json!({
        "remoteControlEnabled": true, "stopGraceSeconds": 9, "gateway": {"subagentApprovals": "all", "theirs": 1},
        "updater": {"autoUpdateEnabled": false}, "umask": "027", "x": [1],
    })
}

/// What is left of them.
fn after() -> Value {
    json!({
        "remoteControlEnabled": true, "gateway": {"theirs": 1}, "updater": {"autoUpdateEnabled": false}, "x": [1],
    })
}

const MOVED: &str = "stopGraceSeconds = 9\numask = \"027\"\n\n[gateway]\nsubagentApprovals = \"all\"\n";

fn settings(home: &Home) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(home.state("settings.json"))?)?)
}

/// The values in force, as `codexd config` shows them.
fn in_force(codexd: &Codexd<'_>) -> anyhow::Result<[Value; 4]> {
    let answer = codexd.json(&["config"])?;
    let keys = ["stopGraceSeconds", "gateway.subagentApprovals", "umask", "remoteControlEnabled"];
    Ok(keys.map(|key| answer["settings"][key]["value"].clone()))
}

fn expected() -> [Value; 4] {
    [json!(9), json!("all"), json!("027"), json!(true)]
}

#[test]
fn keys_of_codexd_move_once_and_all_others_stay() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let text = before().to_string();
    let path = home.write("app-server-daemon/settings.json", &text)?;
    let codexd = Codexd::new(&home)?;
    ensure!(in_force(&codexd)? == expected(), "they count where they are");
    ensure!(fs::read_to_string(&path)? == text, "a look changes nothing");
    codexd.json(&["start"])?;
    ensure!(settings(&home)? == after(), "{}", settings(&home)?);
    let file = home.path().join("codexd.toml");
    ensure!(fs::read_to_string(&file)? == MOVED, "{}", fs::read_to_string(&file)?);
    ensure!(in_force(&codexd)? == expected());
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    let event = events.lines().find(|line| line.contains("\"config.moved\"")).context("an event")?;
    ensure!(event.contains("stopGraceSeconds") && event.contains("codexd.toml"), "{event}");
    let status = codexd.json(&["status"])?;
    ensure!(status["problems"] == json!([]) && status["settings"]["shutdownGraceSeconds"] == 9, "{status}");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn a_value_of_the_new_file_wins_over_the_old_key() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("app-server-daemon/settings.json", before().to_string())?;
    let file = home.write("codexd.toml", "# mine\numask = \"077\"\n")?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["config", "set", "nodeId", "here"])?;
    let text = fs::read_to_string(&file)?;
    ensure!(text.starts_with("# mine\numask = \"077\"\n") && text.contains("stopGraceSeconds = 9"), "{text}");
    ensure!(settings(&home)? == after(), "{}", settings(&home)?);
    let events = fs::read_to_string(home.state("events.jsonl"))?;
    ensure!(events.contains("\"dropped\":[\"umask\"]"), "{events}");
    Ok(())
}

#[test]
fn a_crash_between_the_two_writes_loses_nothing() -> anyhow::Result<()> {
    let home = Home::new()?;
    home.write("app-server-daemon/settings.json", before().to_string())?;
    let file = home.write("codexd.toml", MOVED)?;
    let codexd = Codexd::new(&home)?;
    ensure!(in_force(&codexd)? == expected());
    codexd.json(&["config", "unset", "nodeId"])?;
    ensure!(settings(&home)? == after() && fs::read_to_string(&file)? == MOVED);
    Ok(())
}

#[test]
fn a_command_killed_at_any_call_of_the_move_can_be_run_again() -> anyhow::Result<()> {
    if let Err(reason) = killer::strace_works() {
        skip!("{reason}");
    }
    let command = ["config", "set", "nodeId", "here"];
    let prepared = || {
        let home = Home::new()?;
        home.write("app-server-daemon/settings.json", before().to_string())?;
        anyhow::Ok(home)
    };
    let home = prepared()?;
    let points = killer::points(&home, &Codexd::new(&home)?.command(&command))?;
    let changes = |point: &&KillPoint| match point {
        KillPoint::Call { name, .. } => name.starts_with("rename") || name.contains("sync"),
        _ => true,
    };
    let tried: Vec<&KillPoint> = points.iter().filter(changes).collect();
    ensure!(tried.len() >= 4, "too few points: {points:?}");
    let mut killed = 0;
    for point in tried {
        let home = prepared()?;
        let codexd = Codexd::new(&home)?;
        killed += usize::from(killer::run_and_kill(&home, codexd.command(&command), point)?.was_killed());
        ensure!(in_force(&codexd)? == expected(), "{point:?}");
        codexd.json(&command)?;
        ensure!(in_force(&codexd)? == expected(), "{point:?}");
        ensure!(settings(&home)? == after(), "{point:?}: {}", settings(&home)?);
        let file = fs::read_to_string(home.path().join("codexd.toml"))?;
        ensure!(file.contains("nodeId = \"here\"") && file.contains("stopGraceSeconds = 9"), "{file}");
    }
    ensure!(killed >= 4, "only {killed} points came");
    Ok(())
}
