//! The install is killed at its system calls that others can see, and run again: the same end.

use std::fs;

use anyhow::{Context, ensure};
use codexd_testkit::killer::{self, KillPoint};
use codexd_testkit::{Codexd, Fake, Home, skip};

use super::{assert_selected, directory, name, names, store};

/// How many points are tried, unless `CODEXD_KILL_POINTS` says `all`.
const CALLS: usize = 30;

/// A home with a selected release, and the source of the next one.
fn before() -> anyhow::Result<(Home, String)> {
    let home = Home::new()?;
    Codexd::new(&home)?.json(&["install", "--source", &directory(&home, "0.169.0", &Fake::Healthy)?])?;
    let next = directory(&home, "0.171.0", &Fake::Healthy)?;
    Ok((home, next))
}

/// Kills the install at a point and runs it again. Whether the point came.
fn survives(point: &KillPoint) -> anyhow::Result<bool> {
    let (home, source) = before()?;
    let codexd = Codexd::new(&home)?;
    let killed =
        killer::run_and_kill(&home, codexd.command(&["install", "--source", &source]), point)?.was_killed();
    let current = fs::read_link(store(&home).join("current")).context("current is gone")?;
    let selected = [name("0.169.0")?, name("0.171.0")?];
    let is_known = selected.iter().any(|name| current.ends_with(name));
    ensure!(
        is_known && current.join("codex-package.json").is_file(),
        "current leads to {}",
        current.display()
    );
    // The official installer removes files with these names, too.
    for folder in [store(&home), store(&home).join("releases")] {
        let known = ["auto-update-version", "codexd-releases.json", "current", "install.lock", "releases"];
        let is_known = |name: &String| known.contains(&name.as_str()) || selected.contains(name);
        let left: Vec<String> = names(&folder)?.into_iter().filter(|name| !is_known(name)).collect();
        let is_removed = |name: &String| name.starts_with(".staging.") || name.starts_with(".current.");
        ensure!(left.iter().all(is_removed), "{left:?}");
    }
    let again = codexd.json(&["install", "--source", &source])?;
    let status = again["status"].as_str().unwrap_or_default();
    ensure!(["installed", "selected", "alreadyInstalled"].contains(&status), "{again}");
    ensure!(
        names(&store(&home).join("releases"))? == selected,
        "{:?}",
        names(&store(&home).join("releases"))
    );
    assert_selected(&home, "0.171.0")?;
    Ok(killed)
}

#[test]
fn an_install_killed_at_any_call_can_be_run_again() -> anyhow::Result<()> {
    if let Err(reason) = killer::strace_works() {
        skip!("{reason}");
    }
    let (home, source) = before()?;
    let all = killer::points(&home, &Codexd::new(&home)?.command(&["install", "--source", &source]))?;
    let points = crate::kill::sample(&all, CALLS);
    let mut killed = 0;
    for point in &points {
        killed += usize::from(survives(point).with_context(|| format!("killed at {point:?}"))?);
    }
    eprintln!("install: killed at {killed} of {} points, {} tried", all.len(), points.len());
    // How often the app-server of the proof is asked differs from run to run.
    ensure!(killed * 2 > points.len(), "only {killed} points came: this tests too little");
    Ok(())
}
