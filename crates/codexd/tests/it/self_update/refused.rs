//! What `self-update` refuses. Each refusal leaves the binary as it is, and no file beside it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use codexd_testkit::{Run, run, skip};
use rustix::fs::FlockOperation;

use super::fixture::{Installed, write_sha256};
use crate::lifecycle::SOON;

/// Checks code, reason, and that nothing has changed.
fn refused(installed: &Installed, run: &Run, code: &str, exit: i32, reason: &str) -> anyhow::Result<()> {
    let error = run.json()?["error"].clone();
    ensure!(error["code"] == code && run.code() == Some(exit), "{run}");
    ensure!(
        error["message"].as_str().is_some_and(|message| message.contains(reason)),
        "no {reason:?}: {run}"
    );
    ensure!(error["hint"].is_string(), "no hint: {run}");
    ensure!(installed.names()? == ["codexd"], "{run}: {:?}", installed.names()?);
    ensure!(installed.codexd().run(&["--version"])?.success());
    Ok(())
}

#[test]
fn a_file_that_is_no_codexd_for_this_machine_is_refused() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let old = fs::read(&installed.binary)?;
    let file = installed.home.root().join("file");
    let mut foreign = old.clone();
    // e_machine: AArch64.
    foreign[18] = 183;
    for (contents, reason) in [
        (b"".to_vec(), "neither an ELF program nor a gzipped tarball"),
        (b"#!/bin/sh\necho codexd 9.9.9\n".to_vec(), "neither an ELF program nor a gzipped tarball"),
        (foreign, "built for another machine"),
        (old[..old.len() / 4].to_vec(), "--version"),
        (fs::read("/bin/true")?, "it is not codexd"),
        (fs::read("/bin/sleep")?, "it is not codexd"),
        (b"\x1f\x8bno gzip".to_vec(), "failed to unpack"),
    ] {
        fs::write(&file, contents)?;
        refused(&installed, &installed.update(&file)?, "update-file-invalid", 52, reason)?;
    }
    let missing = installed.update(Path::new("/no/such/file"))?;
    refused(&installed, &missing, "update-file-invalid", 52, "No such file")?;
    refused(&installed, &installed.update(installed.home.root())?, "update-file-invalid", 52, "not a file")?;
    ensure!(fs::read(&installed.binary)? == old, "the binary changed");
    Ok(())
}

#[test]
fn a_file_whose_sha256_does_not_match_is_refused() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let tarball = installed.tarball(&installed.newer()?)?;
    for from in [tarball, installed.newer()?] {
        let checksum_file = write_sha256(&from)?;
        let right = fs::read_to_string(&checksum_file)?;
        let first = if right.starts_with('0') { "1" } else { "0" };
        fs::write(&checksum_file, format!("{first}{}", &right[1..]))?;
        refused(&installed, &installed.update(&from)?, "update-file-altered", 53, "has the SHA-256")?;
        fs::write(&checksum_file, "<html>not found</html>")?;
        refused(
            &installed,
            &installed.update(&from)?,
            "update-file-altered",
            53,
            "does not begin with a SHA-256",
        )?;
    }
    Ok(())
}

#[test]
fn a_binary_of_npm_is_left_to_npm() -> anyhow::Result<()> {
    let installed = Installed::below("lib/node_modules/codexd/bin")?;
    let run = installed.update(&installed.newer()?)?;
    refused(&installed, &run, "package-owned", 54, "belongs to the npm package codexd")?;
    ensure!(run.json()?["error"]["packageManager"] == "npm", "{run}");
    Ok(())
}

#[test]
fn a_second_self_update_of_a_binary_is_refused() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let folder = File::open(installed.home.root().join("bin"))?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    let run = installed.update(&installed.newer()?)?;
    refused(&installed, &run, "lock-timeout", 10, "another `codexd self-update` works")?;
    drop(folder);
    ensure!(installed.update(&installed.newer()?)?.success());
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() -> anyhow::Result<()> {
    let installed = Installed::new()?;
    let newer: PathBuf = installed.newer()?;
    let mut command = installed.home.command("unshare");
    command.args(["--mount", "sh", "-c"]).arg(
        r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" || exit 99; exec "$0/codexd" self-update --from "$1""#,
    );
    command.arg(installed.home.root().join("bin")).arg(newer);
    let run = run::run(command, SOON)?;
    if run.code().is_none_or(|code| code == 99 || code == 1) {
        skip!("no mount here: {}", run.stderr.trim());
    }
    refused(&installed, &run, "binary-unwritable", 55, "failed to write")
}
