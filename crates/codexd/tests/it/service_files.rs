//! `service print`: the files of launchd and systemd, read by other programs than ours.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, skip};
use serde_json::Value;

/// Reads a property list with python, which refuses a broken one.
const READ: &str =
    "import json, plistlib, sys; json.dump(plistlib.loads(sys.stdin.buffer.read()), sys.stdout)";

fn read_plist(text: &str) -> anyhow::Result<Value> {
    let mut python = Command::new("python3")
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3")?;
    python.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "python refuses {text}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn the_agent_of_launchd_is_a_property_list_with_the_values_as_they_are() -> anyhow::Result<()> {
    if Command::new("python3").arg("-c").arg("import plistlib").output().is_err() {
        skip!("python3 is missing");
    }
    for name in ["h", "a <b> & \"c\" 'd' ü ]]>"] {
        let home = Home::named(name)?;
        let codexd = Codexd::new(&home)?.env("CODEXD_NODE_ID", "<&>");
        let printed = codexd.run(&["service", "print", "--backend", "launchd"])?;
        ensure!(printed.success(), "{printed}");
        let agent = read_plist(&printed.stdout)?;
        let path = home.path().canonicalize()?.display().to_string();
        let label = agent["Label"].as_str().context("a label")?;
        ensure!(label.starts_with("so.makefile.baa-codexd."), "{agent:#}");
        let arguments = agent["ProgramArguments"].as_array().context("arguments")?;
        ensure!(arguments[1..] == ["run", "--codex-home", &path], "{agent:#}");
        ensure!(agent["RunAtLoad"] == true && agent["KeepAlive"] == true, "{agent:#}");
        ensure!(agent["ThrottleInterval"] == 10 && agent["ProcessType"] == "Background", "{agent:#}");
        ensure!(agent["EnvironmentVariables"]["CODEXD_NODE_ID"] == "<&>", "{agent:#}");
        ensure!(agent["EnvironmentVariables"]["CODEX_HOME"] == path.as_str(), "{agent:#}");
        for (key, stream) in [("StandardOutPath", "out"), ("StandardErrorPath", "err")] {
            let log = agent[key].as_str().unwrap_or_default();
            ensure!(log.ends_with(&format!("logs/launchd/{label}.{stream}.log")), "{agent:#}");
        }
        ensure!(agent["WorkingDirectory"].is_string(), "{agent:#}");
    }
    Ok(())
}

#[test]
fn the_units_of_systemd_are_printed_as_bootstrap_would_write_them() -> anyhow::Result<()> {
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let printed = codexd.run(&["service", "print", "--backend", "systemd"])?;
    ensure!(printed.success(), "{printed}");
    let answer = codexd.json(&["service", "print", "--backend", "systemd", "--json"])?;
    let files = answer["files"].as_array().context("files")?;
    ensure!(files.len() == 5, "{answer:#}");
    for file in files {
        let (name, text) =
            (file["name"].as_str().unwrap_or_default(), file["text"].as_str().unwrap_or_default());
        ensure!(printed.stdout.contains(&format!("# {name}\n{text}")), "{name}");
    }
    ensure!(!home.state("backend.json").exists(), "it installs nothing");
    Ok(())
}
