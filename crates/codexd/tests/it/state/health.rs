//! What `status` says of a server that answers and is not well, and of processes of other programs or older versions.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use codexd_testkit::home::Config;
use codexd_testkit::{Codexd, Fake, Home, Layout, Process, Version, codex, codexd, limits, run, skip, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lifecycle::{SOON, recorded, supervisor};

/// The message of a problem, if `status` has it.
fn problem(codexd: &Codexd<'_>, found: &str) -> anyhow::Result<Option<String>> {
    let status = codexd.json(&["status"])?;
    let problems = status["problems"].as_array().context("problems")?;
    let message = problems.iter().find(|problem| problem["found"] == found);
    Ok(message.and_then(|problem| problem["message"].as_str()).map(str::to_owned))
}

fn home_with(version: Version) -> anyhow::Result<Home> {
    let home = Home::new()?;
    home.install(Layout::Standalone, &codex::binary(version)?)?;
    Ok(home)
}

#[test]
fn status_reports_a_configuration_that_cannot_be_loaded() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let invalid = [
        ("model = \"unclosed\n", "config.toml:1"),
        ("model = 5\n", "expected a string"),
        ("approval_policy = \"whatever\"\n", "unknown variant"),
        ("model_provider = \"nope\"\n", "nope"),
    ];
    for (version, gateway) in Version::ALL.into_iter().flat_map(|version| [(version, true), (version, false)])
    {
        let home = home_with(version)?;
        home.write("app-server-daemon/settings.json", json!({"gateway": gateway}).to_string())?;
        let codexd = Codexd::new(&home)?;
        codexd.json(&["start"])?;
        ensure!(codexd.json(&["status"])?["problems"] == json!([]), "{version}");
        for (text, said) in invalid {
            home.write("config.toml", text)?;
            let message =
                problem(&codexd, "config-invalid")?.with_context(|| format!("{version}: {text}"))?;
            ensure!(message.contains(said) && message.contains("config.toml"), "{version}: {message}");
        }
        home.configure(&Config::default())?;
        ensure!(codexd.json(&["status"])?["problems"] == json!([]), "{version}: it was corrected");
        codexd.json(&["stop"])?;
    }
    Ok(())
}

#[test]
fn status_reports_errored_remote_control() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in Version::ALL {
        // No account is logged in.
        let home = home_with(version)?;
        let codexd = Codexd::new(&home)?;
        codexd.json(&["start"])?;
        ensure!(problem(&codexd, "remote-control-errored")?.is_none(), "{version}: it is off");
        codexd.json(&["enable-remote-control"])?;
        until(SOON, "the problem", || problem(&codexd, "remote-control-errored").ok().flatten())?;
        codexd.json(&["stop"])?;
    }
    Ok(())
}

#[test]
fn status_reports_the_updater_of_upstreams_daemon_beside_an_adopted_server() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = home_with(Version::V0_131_0)?;
    let mut bootstrap = home.command(codex::binary(Version::V0_131_0)?);
    bootstrap.args(["app-server", "daemon", "bootstrap"]).env("https_proxy", "http://127.0.0.1:9");
    run::run(bootstrap, limits::RUN)?.success_json()?;
    let record: Value = serde_json::from_slice(&fs::read(home.state("app-server-updater.pid"))?)?;
    let pid = record["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("the updater's pid")?;
    let updater = Process::of(pid).context("the updater runs")?;
    let codexd = Codexd::new(&home)?;
    ensure!(codexd.json(&["start"])?["status"] == "alreadyRunning");
    let message = problem(&codexd, "upstream-updater")?.context("no problem")?;
    ensure!(message.contains(&format!("kill {pid}")), "{message}");
    // As the message says.
    updater.signal(Signal::TERM)?;
    updater.wait_gone(SOON)?;
    ensure!(codexd.json(&["status"])?["problems"] == json!([]));
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}

#[test]
fn status_reports_a_supervisor_and_a_gateway_of_an_older_codexd() -> anyhow::Result<()> {
    let home = Home::new()?;
    Fake::Healthy.install(&home, Layout::Standalone)?;
    let older = home.root().join("codexd");
    fs::copy(codexd::binary()?, &older)?;
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&older)?.set_modified(before)?;
    Codexd::at(&home, &older).json(&["start"])?;
    let server = recorded(&home)?;
    let codexd = Codexd::new(&home)?;
    ensure!(
        Codexd::at(&home, &older).json(&["status"])?["problems"] == json!([]),
        "to itself it is not older"
    );
    let old = supervisor(&home)?;
    let message = problem(&codexd, "outdated-supervisor")?.context("no problem")?;
    ensure!(message.contains(&format!("kill {}", old.pid)), "{message}");
    ensure!(problem(&codexd, "outdated-gateway")?.is_some());
    // As the messages say: the newer codexd takes the place of the older one, and neither command ends the server.
    fs::remove_file(&older)?;
    fs::copy(codexd::binary()?, &older)?;
    old.signal(Signal::TERM)?;
    old.wait_gone(SOON)?;
    ensure!(codexd.json(&["start"])?["status"] == "alreadyRunning");
    ensure!(problem(&codexd, "outdated-supervisor")?.is_none());
    let status = codexd.json(&["status"])?;
    let gateway = status["gateway"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let gateway = gateway.and_then(Process::of).with_context(|| format!("a gateway: {status}"))?;
    gateway.signal(Signal::TERM)?;
    gateway.wait_gone(SOON)?;
    until(SOON, "a gateway of this codexd", || {
        let status = codexd.json(&["status"]).ok()?;
        (status["problems"] == json!([]) && status["gateway"]["state"] == "running").then_some(())
    })?;
    ensure!(server.is_alive() && recorded(&home)?.pid == server.pid, "the server was ended");
    codexd.json(&["stop"])?;
    home.assert_no_process_left();
    Ok(())
}
