//! The real terminal client, which knows nothing of a gateway.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::{Server, Version, codex, run, skip, until};
use rustix::process::Signal;

use super::fixture::{GatewayFixture, TIMEOUT, gone};

const REAL: Server = Server::Real(Version::NEWEST);
const COLUMNS: &str = "120";
const LINES: &str = "40";

/// A terminal with a program in it, on a tmux server of its own.
pub(super) struct Terminal<'f> {
    fixture: &'f GatewayFixture,
}

impl Terminal<'_> {
    /// Starts `codex` with these arguments.
    pub(super) fn open<'f>(fixture: &'f GatewayFixture, arguments: &[&str]) -> anyhow::Result<Terminal<'f>> {
        let terminal = Terminal { fixture };
        let binary = codex::binary(Version::NEWEST)?;
        let mut new = terminal.tmux(&["new-session", "-d", "-s", "t", "-x", COLUMNS, "-y", LINES]);
        new.arg(binary).args(arguments);
        let done = run::run(new, TIMEOUT)?;
        ensure!(done.success(), "tmux: {done}");
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = self.fixture.home.command("tmux");
        command.env("TERM", "xterm-256color").arg("-S").arg(self.fixture.home.root().join("tmux"));
        command.args(["-f", "/dev/null"]).args(arguments);
        command
    }

    /// Says something that is answered at once, as the `nth` of such turns, and waits for the end of the turn.
    fn turn(&self, text: &str, nth: usize) -> anyhow::Result<()> {
        self.say(text)?;
        let mut last = String::new();
        until(TIMEOUT, &format!("the end of turn {nth}"), || {
            last = self.screen().ok()?;
            (last.matches("Worked for ").count() == nth).then_some(())
        })
        .with_context(|| format!("the screen:\n{last}"))
    }

    pub(super) fn screen(&self) -> anyhow::Result<String> {
        Ok(run::run(self.tmux(&["capture-pane", "-p", "-t", "t"]), TIMEOUT)?.stdout)
    }

    /// Waits until the screen shows a text.
    pub(super) fn wait(&self, text: &str) -> anyhow::Result<()> {
        let mut last = String::new();
        until(TIMEOUT, &format!("{text:?} on the screen"), || {
            last = self.screen().ok()?;
            last.contains(text).then_some(())
        })
        .with_context(|| format!("the screen:\n{last}"))
    }

    /// Types a line, as a person does: the text, and when it is seen, the end of it.
    fn say(&self, text: &str) -> anyhow::Result<()> {
        self.keys(&["-l", text])?;
        self.wait(text)?;
        self.keys(&["Enter"])
    }

    pub(super) fn keys(&self, keys: &[&str]) -> anyhow::Result<()> {
        let mut command = self.tmux(&["send-keys", "-t", "t"]);
        command.args(keys);
        let done = run::run(command, TIMEOUT)?;
        ensure!(done.success(), "tmux: {done}");
        Ok(())
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let _gone_already = run::run(self.tmux(&["kill-server"]), Duration::from_secs(5));
    }
}

pub(super) fn has_tmux() -> bool {
    Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success())
}

/// Takes turns, while the server is killed and replaced.
async fn lives_through_it(fixture: &GatewayFixture, terminal: &Terminal<'_>) -> anyhow::Result<()> {
    terminal.turn("first [[deltas=3]]", 1)?;
    terminal.wait("d2 xxxxx")?;
    fixture.kill_server().await?;
    // What is said before the gateway has seen the death is refused, as everything that was on its way.
    fixture.client("witness").await?.call("thread/loaded/list", serde_json::json!({})).await?;
    terminal.turn("second [[deltas=7]]", 2)?;
    terminal.wait("d6 xxxxx")?;
    let old = fixture.server().await?;
    fixture.command(&["restart"]).await?;
    terminal.turn("third [[deltas=9]]", 3)?;
    terminal.wait("d8 xxxxx")?;
    gone(&old).await?;
    terminal.say("fourth [[deltas=400 delay=0.02]]")?;
    terminal.wait("d30 xxxx")?;
    let killed = fixture.server().await?;
    killed.signal(Signal::KILL)?;
    terminal.wait("interrupted")?;
    terminal.say("fifth [[deltas=11]]")?;
    terminal.wait("d10 xxxx")?;
    let screen = terminal.screen()?;
    ensure!(!screen.contains("Reconnecting"), "it noticed:\n{screen}");
    Ok(())
}

async fn attached(arguments: impl Fn(&GatewayFixture) -> Vec<String>) -> anyhow::Result<()> {
    let fixture = GatewayFixture::open(REAL).await?;
    let arguments = arguments(&fixture);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let terminal = Terminal::open(&fixture, &arguments)?;
    terminal.wait("mock-model")?;
    let lived = lives_through_it(&fixture, &terminal).await;
    drop(terminal);
    lived?;
    fixture.close().await
}

#[tokio::test]
async fn a_terminal_shows_no_background_command_of_a_killed_server() -> anyhow::Result<()> {
    const RUNS: &str = "background terminal running";
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    if !has_tmux() {
        skip!("no tmux on this machine");
    }
    let fixture = GatewayFixture::open(REAL).await?;
    let terminal = Terminal::open(&fixture, &[])?;
    terminal.wait("mock-model")?;
    terminal.say("run it [[shell=sleep 2000;; deltas=3]]")?;
    terminal.wait("d2 xxxxx")?;
    terminal.wait(RUNS)?;
    fixture.kill_server().await?;
    let mut last = String::new();
    until(TIMEOUT, "the end of the command on the screen", || {
        last = terminal.screen().ok()?;
        (!last.contains(RUNS)).then_some(())
    })
    .with_context(|| format!("the screen:\n{last}"))?;
    drop(terminal);
    fixture.close().await
}

#[tokio::test]
async fn a_terminal_with_an_explicit_socket_survives_a_kill_and_a_restart() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    if !has_tmux() {
        skip!("no tmux on this machine");
    }
    attached(|fixture| vec!["--remote".to_owned(), format!("unix://{}", fixture.socket().display())]).await
}

#[tokio::test]
async fn a_terminal_with_the_default_socket_survives_a_kill_and_a_restart() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    if !has_tmux() {
        skip!("no tmux on this machine");
    }
    attached(|_| Vec::new()).await
}
