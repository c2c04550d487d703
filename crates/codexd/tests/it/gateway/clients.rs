//! The clients that come with Codex, which know nothing of a gateway: whatever they do at an app-server that listens on the
//! control socket itself, they do at one behind the gateway, and it comes to the same.
//!
//! `codex app-server proxy` has its tests in `differential::proxied`, the terminal client in `tui`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use codexd_testkit::transcript::difference;
use codexd_testkit::{Client, Normaliser, Run, Server, Version, codex, run, skip, until};
use regex_lite::Regex;
use serde_json::{Value, json};

use super::fixture::{GatewayFixture, TIMEOUT};
use super::tui::{Terminal, has_tmux};
use crate::differential::transcript;

const REAL: Server = Server::Real(Version::V0_169_0);
/// How often something typed is sent, and how long it takes to arrive if it was.
const SENDS: usize = 10;
const SENT_WITHIN: Duration = Duration::from_secs(3);

/// Runs `codex` with these arguments in the home.
async fn codex(fixture: &GatewayFixture, arguments: &[&str]) -> anyhow::Result<Run> {
    let mut command = fixture.home.command(codex::binary(Version::V0_169_0)?);
    command.args(arguments);
    tokio::task::spawn_blocking(move || run::run(command, TIMEOUT)).await?
}

/// What a run of `codex` came to, in comparable words.
fn outcome(name: &str, run: &Run, normal: &mut Normaliser) -> String {
    format!("{name}: {:?} {:?} {:?}", run.code(), normal.text(&run.stdout), normal.text(&run.stderr))
}

/// Does the same at an app-server alone and at one behind the gateway, and fails with the first line that differs.
async fn comes_to_the_same<F>(script: F) -> anyhow::Result<()>
where
    F: AsyncFn(&GatewayFixture) -> anyhow::Result<Vec<String>>,
{
    let mut outcomes = Vec::new();
    for fixture in [GatewayFixture::without_gateway(REAL).await?, GatewayFixture::open(REAL).await?] {
        outcomes.push(script(&fixture).await?);
        fixture.close().await?;
    }
    match difference(&outcomes[0], &outcomes[1]) {
        None => Ok(()),
        Some(difference) => anyhow::bail!("left is without the gateway, right is with it\n{difference}"),
    }
}

#[tokio::test]
async fn daemon_version_names_the_server_behind_the_gateway() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    comes_to_the_same(async |fixture| {
        let mut normal = Normaliser::for_home(&fixture.home);
        let version = codex(fixture, &["app-server", "daemon", "version"]).await?;
        let said = version.success_json()?;
        ensure!(said["appServerVersion"] == "0.169.0" && said["status"] == "running", "{said}");
        fixture.command(&["stop"]).await?;
        let without = codex(fixture, &["app-server", "daemon", "version"]).await?;
        fixture.command(&["start"]).await?;
        Ok(vec![outcome("running", &version, &mut normal), outcome("stopped", &without, &mut normal)])
    })
    .await
}

/// Queues a message for a thread that alice watches, and waits for the end of the turn that it begins.
async fn queue(fixture: &GatewayFixture, alice: &Client, arguments: &[&str]) -> anyhow::Result<Run> {
    alice.forget();
    let queued = codex(fixture, &[&["queue"], arguments].concat()).await?;
    ensure!(queued.success(), "{queued}");
    let done = alice.wait_method("turn/completed").await?;
    ensure!(done["params"]["turn"]["status"] == "completed", "{done}");
    alice
        .wait("the emptied queue", |told| {
            told["method"] == "thread/status/changed" && told["params"]["status"]["type"] == "idle"
        })
        .await?;
    Ok(queued)
}

#[tokio::test]
async fn queued_messages_become_turns_with_notifications() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    comes_to_the_same(async |fixture| {
        let mut normal = Normaliser::for_home(&fixture.home);
        let mut lines = Vec::new();
        let alice = fixture.client("alice").await?;
        let thread = fixture.thread(&alice).await?;
        alice.call("thread/name/set", json!({"threadId": thread, "name": "named"})).await?;
        let url = format!("unix://{}", fixture.socket().display());
        for (name, arguments) in [
            ("by id", vec!["--thread", &thread, "--message", "first [[deltas=1]]"]),
            ("by name", vec!["--thread", "named", "--message", "second [[deltas=2]]"]),
            ("resumed", vec!["--resume", "--thread", &thread, "--message", "third [[deltas=3]]"]),
            ("remote", vec!["--remote", &url, "--thread", &thread, "--message", "fourth [[deltas=4]]"]),
        ] {
            lines.push(outcome(name, &queue(fixture, &alice, &arguments).await?, &mut normal));
        }
        let unknown = codex(fixture, &["queue", "--thread", "unknown-thread", "--message", "x"]).await?;
        lines.push(outcome("unknown-thread", &unknown, &mut normal));
        for (method, params) in [
            ("thread/queue/list", json!({"threadId": thread})),
            ("thread/turns/list", json!({"threadId": thread, "itemsView": "full"})),
        ] {
            alice.call(method, params).await?;
        }
        lines.extend(transcript::lines("alice", true, &alice.transcript(), &mut normal));
        // The server looks at the queue now and then: when it says that it has changed, and how often, is luck.
        let told = lines.len();
        lines.retain(|line| !line.contains("< thread/queue/changed "));
        ensure!(lines.len() < told, "no client was notified that the queue has changed: {lines:#?}");
        Ok(lines)
    })
    .await
}

#[tokio::test]
async fn a_queued_message_wakes_a_thread_that_is_not_loaded_if_it_is_asked_to() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    comes_to_the_same(async |fixture| {
        let mut normal = Normaliser::for_home(&fixture.home);
        let alice = fixture.client("alice").await?;
        let thread = fixture.thread(&alice).await?;
        for method in ["thread/archive", "thread/unarchive"] {
            alice.call(method, json!({"threadId": thread})).await?;
        }
        alice.wait_method("thread/unarchived").await?;
        alice.forget();
        let queued =
            codex(fixture, &["queue", "--resume", "--thread", &thread, "--message", "[[deltas=2]]"]).await?;
        let mut lines = vec![outcome("queued", &queued, &mut normal)];
        // It is told to everybody that the thread is at work, and that it is not any more.
        let mut was_active = false;
        alice
            .wait("the end of the work", |told| {
                let status = &told["params"]["status"]["type"];
                was_active |= status == "active";
                was_active && status == "idle"
            })
            .await?;
        let turns = json!({"threadId": thread, "itemsView": "full"});
        let turns = alice.call("thread/turns/list", turns).await?;
        lines.push(normal.value(&turns["data"]).to_string());
        Ok(lines)
    })
    .await
}

/// Who joins in mid-turn is told what has begun, which a server alone does not tell.
const BETTER: &str = "• Running ";

/// What stands on a screen, in comparable words: the folder has another name, time goes by.
fn on_screen(screen: &str, work: &Path) -> String {
    let volatile =
        Regex::new(r"\bnow\b|\b\d+[smh] ago\b|Worked for \S+ • [\d:]+(?: [AP]M)?").expect("constant");
    let named = screen.replace(&*work.to_string_lossy(), "<work>");
    let timeless = volatile.replace_all(&named, "<time>");
    let told = |part: &String| !part.is_empty() && !part.starts_with(BETTER);
    let parts = timeless.lines().flat_map(|line| line.split('│'));
    let parts = parts.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut parts: Vec<_> = parts.filter(told).collect();
    // In what order tasks stand that were touched in one second, is luck.
    parts.sort_unstable();
    parts.join("\n")
}

/// The same program in two terminals: beside the server alone, and beside the gateway.
struct Pair<'f> {
    fixtures: [&'f GatewayFixture; 2],
    terminals: [Terminal<'f>; 2],
}

impl Pair<'_> {
    /// Presses these keys in both, and waits until both show the same, these texts among it.
    fn press(&self, keys: &[&str], texts: &[&str]) -> anyhow::Result<()> {
        for terminal in self.terminals.iter().filter(|_| !keys.is_empty()) {
            terminal.keys(keys)?;
        }
        let mut last = [String::new(), String::new()];
        until(TIMEOUT, &format!("{texts:?} on both screens alike"), || {
            for (at, terminal) in self.terminals.iter().enumerate() {
                last[at] = on_screen(&terminal.screen().ok()?, &self.fixtures[at].work());
            }
            (last[0] == last[1] && texts.iter().all(|text| last[0].contains(text))).then_some(())
        })
        .with_context(|| format!("the screens:\n{}\n\nand:\n{}", last[0], last[1]))
    }
}

impl Pair<'_> {
    /// Waits until a dialog takes keys, which it does not at the moment when it shows up: until another choice is marked than
    /// the first.
    fn wake_dialog(&self) -> anyhow::Result<()> {
        for terminal in &self.terminals {
            until(TIMEOUT, "the dialog to take keys", || {
                let sleeps = terminal.screen().ok()?.contains("› 1. ");
                if sleeps {
                    terminal.keys(&["Down"]).ok()?;
                }
                (!sleeps).then_some(())
            })?;
        }
        Ok(())
    }

    /// Marks a task, one step of the mark after the other.
    fn choose(&self, task: &str) -> anyhow::Result<()> {
        for terminal in &self.terminals {
            let line_of = |part: &str| {
                let screen = terminal.screen().ok()?;
                screen.lines().position(|line| line.starts_with("  ") && line.contains(part))
            };
            let wanted = until(TIMEOUT, task, || line_of(task))?;
            let mut marked = until(TIMEOUT, "the mark", || line_of("› "))?;
            while marked != wanted {
                terminal.keys(&[if marked < wanted { "Down" } else { "Up" }])?;
                marked = until(TIMEOUT, "the mark to move", || line_of("› ").filter(|now| *now != marked))?;
            }
        }
        Ok(())
    }

    /// Sends what was typed. Right behind it the key passes for a part of something pasted, so that it may take another.
    async fn send(&self, text: &str) -> anyhow::Result<()> {
        for (fixture, terminal) in self.fixtures.iter().zip(&self.terminals) {
            let mut asked = Err(anyhow::anyhow!("no key was pressed"));
            for _ in 0..SENDS {
                terminal.keys(&["Enter"])?;
                asked = fixture.model.wait_request(text, SENT_WITHIN).await;
                if asked.is_ok() {
                    break;
                }
            }
            asked?;
        }
        Ok(())
    }
}

/// A thread that is at rest, and one that waits for an approval.
async fn two_tasks(fixture: &GatewayFixture) -> anyhow::Result<Client> {
    let alice = fixture.client("alice").await?;
    let name = async |thread: &str, name: &str| {
        alice.call("thread/name/set", json!({"threadId": thread, "name": name})).await
    };
    let first = fixture.thread(&alice).await?;
    name(&first, "the-first").await?;
    let second = alice.start_thread(&fixture.work()).await?;
    alice.start_turn(&second, "run [[shell=echo hi;; escalate=1 deltas=3]]").await?;
    alice.wait_method(super::sharing::QUESTION).await?;
    name(&second, "the-second").await?;
    Ok(alice)
}

/// The command center: it lists, opens, answers, begins and archives.
async fn use_the_command_center(pair: &Pair<'_>) -> anyhow::Result<()> {
    pair.press(
        &[],
        &["› ● the-second Needs input", "● the-first Ready", "Waiting for approval.", "Needs you 1"],
    )?;
    pair.press(&["Enter"], &["Would you like to run", "echo hi"])?;
    pair.wake_dialog()?;
    pair.press(&["y"], &["d2 xxxxx", "<time>", "Ask Codex to do anything"])?;
    pair.press(&["Left"], &["› ○ the-second Ready", "Needs you 0"])?;
    pair.press(&["-l", "n"], &["Ask Codex to do anything", "? for shortcuts"])?;
    pair.press(&["-l", "begun here [[deltas=6]]"], &["› begun here [[deltas=6]]"])?;
    pair.send("begun here").await?;
    pair.press(&[], &["d5 xxxxx", "<time>", "Ask Codex to do anything"])?;
    pair.press(&["Left"], &["› ○ begun here [[deltas=6]] Ready", "All 3", "Tokens: 10 in · 6 out"])?;
    pair.choose("○ the-second")?;
    pair.press(&[], &["› ○ the-second Ready"])?;
    pair.press(&["-l", "a"], &["Archive “the-second”?"])?;
    pair.press(&["Down"], &["› 2. Archive task"])?;
    for terminal in &pair.terminals {
        terminal.keys(&["Enter"])?;
        terminal.wait("All 2")?;
    }
    pair.choose("● the-first")?;
    pair.press(&[], &["All 2", "› ● the-first Ready"])
}

#[tokio::test]
async fn the_command_center_shows_and_does_the_same() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    if !has_tmux() {
        skip!("no tmux on this machine");
    }
    let (alone, behind) = (GatewayFixture::without_gateway(REAL).await?, GatewayFixture::open(REAL).await?);
    let clients = [two_tasks(&alone).await?, two_tasks(&behind).await?];
    let terminals = [Terminal::open(&alone, &["agents"])?, Terminal::open(&behind, &["agents"])?];
    let pair = Pair { fixtures: [&alone, &behind], terminals };
    use_the_command_center(&pair).await?;
    // The screen was quicker.
    for (client, name) in clients.iter().zip(["without the gateway", "with the gateway"]) {
        client.wait_method("thread/archived").await.context(name)?;
    }
    drop(pair);
    let mut lists = Vec::new();
    for (client, fixture) in clients.iter().zip([&alone, &behind]) {
        let mut normal = Normaliser::for_home(&fixture.home);
        for archived in [false, true] {
            let list = client.call("thread/list", json!({"archived": archived})).await?;
            let told = |thread: &Value| json!([thread["name"], thread["preview"], thread["status"]]);
            let threads: Vec<_> = list["data"].as_array().context("threads")?.iter().map(told).collect();
            lists.push(normal.value(&json!(threads)).to_string());
        }
    }
    ensure!(lists[..2] == lists[2..], "{lists:#?}");
    alone.close().await?;
    behind.close().await
}
