//! The real packages.

use std::time::Instant;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Home, Version, codex, skip};

use super::{assert_selected, await_no_process, code_of, store};

/// The platform package of a release in the cache, as the value of `--source`.
fn cached(version: Version) -> anyhow::Result<String> {
    let binary = codex::binary(version)?;
    let vendor = binary.ancestors().find(|folder| folder.ends_with("vendor")).context("a vendor folder")?;
    Ok(format!("directory:{}", vendor.parent().context("a package")?.display()))
}

#[test]
fn every_reference_release_is_installed_proved_and_serves() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    for version in Version::ALL {
        let home = Home::new()?;
        let codexd = Codexd::new(&home)?;
        let began = Instant::now();
        let answer = codexd.json(&["install", version.as_str(), "--source", &cached(version)?])?;
        eprintln!("{version} from a folder: {} ms", began.elapsed().as_millis());
        ensure!(answer["status"] == "installed", "{answer}");
        assert_selected(&home, version.as_str())?;
        let started = codexd.json(&["start"])?;
        ensure!(started["appServerVersion"] == version.as_str(), "{started}");
        ensure!(started["managedCodexSource"] == "managed", "{started}");
        codexd.json(&["stop"])?;
    }
    Ok(())
}

#[test]
fn a_configuration_that_the_new_release_cannot_load_is_reported_before_the_switch() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    home.write("config.toml", "model = \"x\"\nmcp_servers = 7\n")?;
    let refused = Codexd::new(&home)?.run(&["install", "--source", &cached(Version::NEWEST)?])?;
    ensure!(code_of(&refused)? == "config-invalid", "{refused}");
    ensure!(
        refused.stderr.contains(&home.path().join("config.toml").display().to_string()),
        "{}",
        refused.stderr
    );
    ensure!(
        !refused.stderr.contains(".staging") && !refused.stderr.contains("acktrace"),
        "{}",
        refused.stderr
    );
    ensure!(!store(&home).join("current").exists());
    await_no_process(&home)
}

#[test]
fn the_newest_reference_release_is_installed_by_npm() -> anyhow::Result<()> {
    if let Err(reason) = codex::platform() {
        skip!("{reason}");
    }
    let home = Home::new()?;
    let codexd = Codexd::new(&home)?;
    let began = Instant::now();
    let answer = codexd.json(&["install", Version::NEWEST.as_str(), "--source", "npm"])?;
    eprintln!("{} from npm: {} ms", Version::NEWEST, began.elapsed().as_millis());
    ensure!(answer["status"] == "installed" && answer["source"] == "npm", "{answer}");
    ensure!(answer["digest"].as_str().is_some_and(|digest| digest.starts_with("sha512-")), "{answer}");
    assert_selected(&home, Version::NEWEST.as_str())?;
    ensure!(codexd.json(&["start"])?["appServerVersion"] == Version::NEWEST.as_str());
    codexd.json(&["stop"])?;
    let missing = codexd.run(&["install", "0.0.999", "--source", "npm"])?;
    ensure!(code_of(&missing)? == "version-not-found", "{missing}");
    Ok(())
}
