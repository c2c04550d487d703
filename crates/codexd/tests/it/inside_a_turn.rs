//! An agent runs `codexd` as a tool call of its own turn: the command is a part of what it ends or replaces.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{
    Client, Codexd, Home, Layout, MockModel, Place, Process, Version, block_on, codex, codexd, skip, until,
};
use serde_json::{Value, json};

use super::lifecycle::{SOON, recorded, supervisor};

/// What the mock model waits for at the end of the turn, after the tool call.
const HELD: &str = "turn";
/// Where the tool call writes what the command answered.
const ANSWER: &str = "answer";

/// Makes a test of each script on each of these releases.
macro_rules! on_real_servers {
    ($($name:ident: $script:ident on $($release:ident $version:ident),+;)+) => {
        $(mod $name {
            $(#[test]
            fn $release() -> anyhow::Result<()> {
                if let Err(reason) = codexd_testkit::codex::platform() {
                    codexd_testkit::skip!("{reason}");
                }
                super::$script(codexd_testkit::Version::$version)
            })+
        })+
    };
}

on_real_servers! {
    reload_inside_a_turn_returns_at_once_and_is_finished_after_it: reload on
        v0_169_0 V0_169_0, v0_171_0 V0_171_0;
    restart_inside_a_turn_keeps_the_environment_and_the_folder_of_the_server: restart on
        v0_169_0 V0_169_0, v0_171_0 V0_171_0;
    a_drained_restart_inside_a_turn_returns_at_once_and_is_finished_after_it: drained_restart on
        v0_131_0 V0_131_0, v0_171_0 V0_171_0;
    a_reload_without_a_gateway_inside_a_turn_is_finished_after_it: reload_without_gateway on
        v0_131_0 V0_131_0, v0_169_0 V0_169_0, v0_171_0 V0_171_0;
    stop_inside_a_turn_returns_at_once_and_the_turn_ends_whole: stop on
        v0_131_0 V0_131_0, v0_171_0 V0_171_0;
    start_after_stop_inside_a_turn_brings_back_the_server_with_its_own_environment: stop_and_start on
        v0_131_0 V0_131_0, v0_171_0 V0_171_0;
    enable_remote_control_inside_a_turn_is_finished_after_it: remote_control on v0_171_0 V0_171_0;
    a_caller_that_dropped_its_environment_is_known_by_its_ancestors: without_environment on
        v0_171_0 V0_171_0;
    an_orphaned_caller_without_environment_is_known_by_the_supervisor: orphaned on v0_171_0 V0_171_0;
    a_supervisor_that_is_started_inside_a_turn_has_nothing_of_it: supervisor_from_inside on v0_171_0 V0_171_0;
    a_sandboxed_tool_call_changes_nothing_and_is_told_why: sandboxed on v0_171_0 V0_171_0;
    commands_that_change_nothing_work_inside_a_turn: looks on v0_131_0 V0_131_0, v0_171_0 V0_171_0;
}

struct Stage {
    home: Home,
    model: MockModel,
    /// The server before the turn.
    server: Process,
    environment: Vec<String>,
    folder: PathBuf,
}

/// A turn whose tool call has run, and which goes on until the test lets it end.
struct Turn {
    client: Client,
    id: String,
    answer: Value,
}

impl Stage {
    fn set(version: Version, gateway: bool) -> anyhow::Result<Stage> {
        Stage::with(version, gateway, "danger-full-access")
    }

    /// One whose tool calls run in the sandbox of Codex.
    fn in_sandbox(version: Version) -> anyhow::Result<Stage> {
        Stage::with(version, true, "workspace-write")
    }

    fn with(version: Version, gateway: bool, sandbox: &str) -> anyhow::Result<Stage> {
        let model = MockModel::start()?;
        let home = Home::new()?;
        home.configure(&Config {
            approval_policy: "never".to_owned(),
            sandbox_mode: sandbox.to_owned(),
            ..Config::for_model(&model)
        })?;
        home.write("app-server-daemon/settings.json", json!({"gateway": gateway}).to_string())?;
        home.install(Layout::Standalone, &codex::binary(version)?)?;
        Codexd::new(&home)?.json(&["start"])?;
        let server = recorded(&home)?;
        let environment = environment(&server)?;
        let folder = fs::read_link(format!("/proc/{}/cwd", server.pid))?;
        Ok(Stage { home, model, server, environment, folder })
    }

    fn codexd(&self) -> anyhow::Result<Codexd<'_>> {
        Codexd::new(&self.home)
    }

    fn answer_file(&self) -> PathBuf {
        self.home.work().join(ANSWER)
    }

    /// The command line of a tool call that runs these commands of codexd, one after the other, and keeps what each answers.
    fn line(&self, commands: &[&str]) -> anyhow::Result<String> {
        let codexd = codexd::binary()?;
        let run = |command: &&str| format!("'{}' {command} >> {ANSWER}.part", codexd.display());
        let lines: Vec<String> = commands.iter().map(run).collect();
        Ok(format!("{}; mv {ANSWER}.part {ANSWER}", lines.join("; ")))
    }

    /// Runs a turn with this tool call until that has ended.
    async fn turn(&self, line: &str) -> anyhow::Result<Turn> {
        let client = Client::connect(&Place::Socket(self.home.control_socket()), "inside").await?;
        let thread = client.start_thread(&self.home.work()).await?;
        let id = client.start_turn(&thread, &format!("[[shell={line};; deltas=3 hold={HELD}]]")).await?;
        client.wait_method("item/agentMessage/delta").await?;
        let said = fs::read_to_string(self.answer_file()).context("the tool call has written its answer")?;
        let last = said.lines().last().with_context(|| format!("an answer: {said}"))?;
        Ok(Turn { client, id, answer: serde_json::from_str(last).with_context(|| said.clone())? })
    }

    /// Lets the turn end, which must end whole.
    async fn finish(&self, turn: &Turn) -> anyhow::Result<()> {
        self.model.release(HELD);
        let done = turn.client.wait_turn(&turn.id).await?;
        ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
        Ok(())
    }

    /// Waits for a server that is not the one before the turn, and that inherited what that one had.
    fn assert_replaced(&self) -> anyhow::Result<Process> {
        self.server.wait_gone(SOON)?;
        let next = until(SOON, "the next server", || {
            let status = self.codexd().ok()?.json(&["status"]).ok()?;
            (status["state"] == "running").then(|| recorded(&self.home).ok()).flatten()
        })?;
        ensure!(next != self.server, "the same server runs");
        self.assert_inherited(&next, &[])?;
        Ok(next)
    }

    fn assert_inherited(&self, next: &Process, without: &[&str]) -> anyhow::Result<()> {
        let mut expected = self.environment.clone();
        expected.retain(|variable| !without.iter().any(|name| variable.starts_with(&format!("{name}="))));
        assert_eq!(environment(next)?, expected);
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", next.pid))?, self.folder);
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        self.codexd()?.json(&["stop", "--grace", "0"])?;
        self.home.assert_no_process_left();
        Ok(())
    }
}

/// The environment of a process in the order of its names, without the generation id, which is each server's own.
fn environment(process: &Process) -> anyhow::Result<Vec<String>> {
    let text = String::from_utf8_lossy(&fs::read(format!("/proc/{}/environ", process.pid))?).into_owned();
    let mut variables: Vec<String> = text.split_terminator('\0').map(str::to_owned).collect();
    variables.retain(|variable| !variable.starts_with("CODEXD_GENERATION="));
    variables.sort();
    Ok(variables)
}

fn reload(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["reload"])?).await?;
        let handover = &turn.answer["handover"];
        ensure!(turn.answer["status"] == "restarted" && handover["state"] == "waiting", "{}", turn.answer);
        ensure!(handover["from"] == stage.server.pid, "{handover}");
        ensure!(stage.server.is_alive(), "it did not wait for the turn");
        // No process holds the operation lock.
        let again = stage.codexd()?.json(&["--lock-timeout", "5", "start"])?;
        ensure!(again["status"] == "alreadyRunning", "{again}");
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn restart(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        // The second one replaces a server in which its caller does not run any more, but which it must not inherit from less.
        let turn = stage.turn(&stage.line(&["restart", "restart"])?).await?;
        ensure!(turn.answer["status"] == "restarted", "{}", turn.answer);
        ensure!(stage.server.is_alive(), "it did not wait for the turn");
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn drained_restart(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["restart --now"])?).await?;
        assert_restarting(&stage, &turn)?;
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn assert_restarting(stage: &Stage, turn: &Turn) -> anyhow::Result<()> {
    let (answer, handover) = (&turn.answer, &turn.answer["handover"]);
    ensure!(answer["status"] == "restarting" && answer.get("pid").is_none(), "{answer}");
    ensure!(handover["state"] == "waiting" && handover["from"] == stage.server.pid, "{answer}");
    ensure!(stage.server.is_alive(), "it did not wait for the turn");
    let status = stage.codexd()?.json(&["status"])?;
    ensure!(status["state"] == "draining", "{status:#}");
    Ok(())
}

fn reload_without_gateway(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, false)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["reload"])?).await?;
        assert_restarting(&stage, &turn)?;
        // 0.131.0 closes the connection of a client some time after the end of the turn, others tell it first.
        stage.model.release(HELD);
        anyhow::Ok(())
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn stop(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["stop"])?).await?;
        ensure!(turn.answer["status"] == "stopping", "{}", turn.answer);
        ensure!(stage.server.is_alive(), "it did not wait for the turn");
        stage.model.release(HELD);
        anyhow::Ok(())
    })?;
    until(SOON, "the end of all processes", || stage.home.processes().is_empty().then_some(()))?;
    let status = stage.codexd()?.json(&["status"])?;
    ensure!(status["state"] == "stopped" && status["problems"] == json!([]), "{status:#}");
    ensure!(status["lastExit"]["code"] == 0 && status["lastExit"]["requested"] == true, "{status:#}");
    Ok(())
}

fn stop_and_start(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["stop", "start"])?).await?;
        ensure!(turn.answer["status"] == "restarting", "{}", turn.answer);
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn remote_control(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let turn = stage.turn(&stage.line(&["enable-remote-control"])?).await?;
        let answer = &turn.answer;
        ensure!(answer["status"] == "enabled" && answer["handover"]["state"] == "waiting", "{answer}");
        stage.finish(&turn).await
    })?;
    stage.server.wait_gone(SOON)?;
    let next = until(SOON, "the next server", || recorded(&stage.home).ok())?;
    ensure!(next.command.contains("--remote-control"), "{next:?}");
    stage.assert_inherited(&next, &["CODEX_INTERNAL_APP_SERVER_REMOTE_CONTROL_DISABLED"])?;
    stage.end()
}

/// What is left of an environment when a tool drops it.
const CLEAN: &str = "env -i CODEX_HOME=$CODEX_HOME HOME=$HOME PATH=/usr/bin:/bin LEAKED=1 setsid";

fn without_environment(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let line = format!("{CLEAN} -w sh -c \"{}\"", stage.line(&["restart --now"])?);
        let turn = stage.turn(&line).await?;
        assert_restarting(&stage, &turn)?;
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn orphaned(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        // The shell that starts it ends at once: its parent is the supervisor.
        let line = stage.line(&["restart --now"])?;
        let line = format!("{CLEAN} sh -c \"({line}) &\"; while [ ! -e {ANSWER} ]; do sleep 0.05; done");
        let turn = stage.turn(&line).await?;
        assert_restarting(&stage, &turn)?;
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    stage.end()
}

fn supervisor_from_inside(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    let first = supervisor(&stage.home)?;
    block_on(async {
        let line = format!("kill -9 {}; {}", first.pid, stage.line(&["start", "restart"])?);
        let turn = stage.turn(&line).await?;
        ensure!(turn.answer["status"] == "restarted", "{}", turn.answer);
        stage.finish(&turn).await
    })?;
    stage.assert_replaced()?;
    let second = supervisor(&stage.home)?;
    ensure!(second != first, "the supervisor still lives");
    let text = environment(&second)?.join("\n");
    ensure!(!text.contains("CODEX_THREAD_ID") && !text.contains("CODEX_CI"), "{text}");
    ensure!(fs::read_link(format!("/proc/{}/cwd", second.pid))? == std::path::Path::new("/"), "its folder");
    stage.end()
}

fn looks(version: Version) -> anyhow::Result<()> {
    let stage = Stage::set(version, true)?;
    block_on(async {
        let commands = ["start", "up --json", "version", "logs --json", "proxy < /dev/null", "status --json"];
        let turn = stage.turn(&stage.line(&commands)?).await?;
        let answer = &turn.answer;
        ensure!(answer["state"] == "running" && answer["pid"] == stage.server.pid, "{answer}");
        let said = fs::read_to_string(stage.answer_file())?;
        let statuses: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).map(|answer| answer["status"].clone()))
            .collect::<Result<_, _>>()?;
        assert_eq!(json!(statuses), json!(["alreadyRunning", "alreadyRunning", "running", "ok", "running"]));
        stage.finish(&turn).await
    })?;
    ensure!(stage.server.is_alive(), "it was replaced");
    stage.end()
}

fn sandboxed(version: Version) -> anyhow::Result<()> {
    let stage = Stage::in_sandbox(version)?;
    let own = fs::read_link("/proc/self/ns/pid")?;
    let (answer, error) = block_on(async {
        let codexd = codexd::binary()?;
        let line = format!(
            "readlink /proc/self/ns/pid > namespace; '{0}' status --json > {ANSWER}; '{0}' restart > error",
            codexd.display()
        );
        let turn = stage.turn(&line).await?;
        stage.finish(&turn).await?;
        anyhow::Ok((turn.answer, fs::read_to_string(stage.home.work().join("error"))?))
    })?;
    if fs::read_to_string(stage.home.work().join("namespace"))?.trim() == own.to_string_lossy() {
        skip!("the sandbox of Codex has no pid namespace of its own here");
    }
    ensure!(
        answer["state"] == "running" && answer["problems"][0]["found"] == "running-elsewhere",
        "{answer}"
    );
    let error: Value = serde_json::from_str(&error)?;
    ensure!(error["error"]["code"] == "running-elsewhere", "{error}");
    ensure!(error["error"]["hint"].as_str().is_some_and(|hint| hint.contains("sandbox")), "{error}");
    ensure!(stage.server.is_alive(), "it was replaced");
    stage.end()
}
