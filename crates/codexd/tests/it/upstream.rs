//! Upstream's own commands in a home that codexd manages: they are refused, interrupt no turn, and leave one server.

mod adopted;
mod commands;
mod settings;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;
use codexd_testkit::{Home, Run, Version, codex, limits, run};

/// Whether the home has the tree that upstream's installer makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tree {
    None,
    Standalone,
}

/// Makes the tree of upstream's installer, with links to the release in the cache.
fn install_tree(home: &Home, version: Version) -> anyhow::Result<()> {
    let (_, triple) = codex::platform().map_err(anyhow::Error::msg)?;
    let binary = codex::binary(version)?;
    let root = home.path().join("packages/standalone");
    let release = root.join(format!("releases/{version}-{triple}"));
    fs::create_dir_all(&release)?;
    if version == Version::V0_131_0 {
        symlink(&binary, release.join("codex"))?;
    } else {
        let vendor = binary.ancestors().nth(2).context("the binary lies in bin")?;
        for entry in fs::read_dir(vendor)? {
            let entry = entry?;
            symlink(entry.path(), release.join(entry.file_name()))?;
        }
        symlink("bin/codex", release.join("codex"))?;
        fs::write(root.join("auto-update-version"), format!("{version}-{triple}"))?;
    }
    symlink(&release, root.join("current"))?;
    Ok(())
}

/// Runs a command of upstream's, offline.
fn upstream(home: &Home, version: Version, arguments: &[&str]) -> anyhow::Result<Run> {
    let mut command = home.command(codex::binary(version)?);
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command.args(arguments);
    run::run(command, limits::RUN)
}

/// The app-servers of the home, by pid.
fn servers(home: &Home) -> Vec<u32> {
    let is_server = |command: &str| command.contains(" app-server ") && command.contains("--listen");
    home.processes().iter().filter(|process| is_server(&process.command)).map(|process| process.pid).collect()
}

/// What a file holds now; `None` if there is none.
fn contents(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}
