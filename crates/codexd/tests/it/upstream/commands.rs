//! Each command of upstream's, beside a server with a running turn.

use anyhow::{Context, ensure};
use codexd_testkit::{Client, Codexd, Home, MockModel, Place, Version, block_on, codex, skip};
use serde_json::json;

use super::{Tree, contents, install_tree, servers, upstream};
use crate::lifecycle::{recorded, supervisor};

const START: &[&str] = &["app-server", "daemon", "start"];
const VERSION: &[&str] = &["app-server", "daemon", "version"];
const UPDATE: &[&str] = &["app-server", "daemon", "update"];
const BOOTSTRAP: &[&str] = &["app-server", "daemon", "bootstrap"];
const REMOTE_START: &[&str] = &["remote-control", "start"];
/// Every command of upstream's that concerns a daemon.
const COMMANDS: [&[&str]; 10] = [
    START,
    VERSION,
    &["app-server", "daemon", "stop"],
    &["app-server", "daemon", "restart"],
    UPDATE,
    BOOTSTRAP,
    &["app-server", "daemon", "enable-remote-control"],
    &["app-server", "daemon", "disable-remote-control"],
    REMOTE_START,
    &["remote-control", "stop"],
];

/// What the mock model waits for.
const HELD: &str = "turn";

/// What upstream must say: the exit code, and a part of its output.
fn expected(version: Version, tree: Tree, command: &[&str]) -> (i32, &'static str) {
    let is = |other: &[&str]| command == other;
    match version {
        _ if is(START) => (0, r#""status":"alreadyRunning""#),
        _ if is(VERSION) => (0, r#""status":"running""#),
        Version::V0_131_0 if is(UPDATE) => (2, "unrecognized subcommand"),
        Version::V0_131_0 if tree == Tree::None && (is(BOOTSTRAP) || is(REMOTE_START)) => {
            (1, "managed standalone Codex install not found")
        }
        _ if is(UPDATE) => (0, r#""status":"unsupported""#),
        _ => (1, "not managed"),
    }
}

fn beside_a_running_turn(version: Version, tree: Tree, gateway: bool) -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let model = MockModel::start()?;
    let home = Home::with_model(&model)?;
    if tree == Tree::Standalone {
        install_tree(&home, version)?;
    }
    let settings = json!({"remoteControlEnabled": false});
    home.write("app-server-daemon/settings.json", settings.to_string())?;
    let program = codex::binary(version)?;
    home.write("codexd.toml", format!("codexBin = {program:?}\ngateway.enabled = {gateway}\n"))?;
    let codexd = Codexd::new(&home)?;
    codexd.json(&["start"])?;
    block_on(async {
        let client = Client::connect(&Place::Socket(home.control_socket()), "upstream").await?;
        let thread = client.start_thread(&home.work()).await?;
        client.start_turn(&thread, &format!("[[deltas=4 hold={HELD}]]")).await?;
        client.wait_method("item/agentMessage/delta").await?;
        each_is_refused(&home, version, tree, &settings.to_string())?;
        model.release(HELD);
        let ended = client.wait_method("turn/completed").await?;
        ensure!(ended["params"]["turn"]["status"] == "completed", "{ended}");
        Ok(())
    })?;
    supervisor(&home).context("the supervisor lives")?;
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

fn each_is_refused(home: &Home, version: Version, tree: Tree, settings: &str) -> anyhow::Result<()> {
    let codexd = Codexd::new(home)?;
    let server = recorded(home)?;
    let record = contents(&home.state("server.json"));
    for command in COMMANDS {
        let what = format!("{} of {version}", command.join(" "));
        let done = upstream(home, version, command)?;
        let (code, text) = expected(version, tree, command);
        let said = format!("{}{}", done.stdout, done.stderr);
        ensure!(done.code() == Some(code) && said.contains(text), "{what}: {done}");
        ensure!(server.is_alive() && servers(home) == [server.pid], "{what}: {:?}", home.processes());
        ensure!(contents(&home.state("server.json")) == record, "{what} changed the record");
        ensure!(
            contents(&home.state("settings.json")) == Some(settings.into()),
            "{what} changed the settings"
        );
        let status = codexd.json(&["status"])?;
        ensure!(status["problems"] == json!([]) && status["state"] == "running", "{what}: {status}");
        ensure!(status["restarts"] == 0, "{what}: {status}");
    }
    Ok(())
}

macro_rules! refused {
    ($($version:ident: $value:expr;)+) => {
        $(mod $version {
            use super::*;

            #[test]
            fn upstreams_commands_are_refused_and_interrupt_no_turn() -> anyhow::Result<()> {
                beside_a_running_turn($value, Tree::None, true)
            }

            #[test]
            fn upstreams_commands_are_refused_beside_an_installed_tree() -> anyhow::Result<()> {
                beside_a_running_turn($value, Tree::Standalone, true)
            }

            #[test]
            fn upstreams_commands_are_refused_without_a_gateway() -> anyhow::Result<()> {
                beside_a_running_turn($value, Tree::None, false)
            }

            #[test]
            fn upstreams_commands_are_refused_without_a_gateway_beside_an_installed_tree() -> anyhow::Result<()> {
                beside_a_running_turn($value, Tree::Standalone, false)
            }
        })+
    };
}

refused! {
    v0_131_0: Version::V0_131_0;
    v0_169_0: Version::V0_169_0;
    v0_171_0: Version::V0_171_0;
}
