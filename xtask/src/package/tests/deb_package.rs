//! The .deb, installed by dpkg into a scratch root.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use codexd_testkit::{run, skip};

use super::{Fixture, SOON, gunzipped, text_of};
use crate::package::{Compression, deb, output};

#[test]
fn the_deb_is_installed_into_a_scratch_root_runs_and_is_removed() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip!("dpkg installs as root only");
    }
    let fixture = Fixture::new()?;
    let package = deb::build(&fixture.contents, &fixture.folder("out")?, Compression::Fast)?;
    let control = String::from_utf8(output(Command::new("dpkg-deb").arg("--field").arg(&package))?)?;
    let depends = fixture.contents.linkage.depends();
    for line in ["Package: codexd", &format!("Version: {}-1", fixture.contents.version), depends.trim()] {
        ensure!(control.contains(line), "no {line:?} in {control}");
    }
    ensure!(
        !control.contains('@') || control.matches('@').count() == 1,
        "a word is not filled in: {control}"
    );

    let root = scratch_root(&fixture)?;
    let dpkg = |arguments: &[&str]| {
        // The scratch root has no other package, so nothing that a dynamic build depends on.
        let options = ["--root", text_of(&root), "--force-depends", "--force-script-chrootless"];
        fixture.run("dpkg", &[&options[..], arguments].concat())
    };
    let installed = dpkg(&["--install", text_of(&package)])?;
    ensure!(installed.success(), "{installed}");
    fixture.assert_runs(&root.join("usr/bin/codexd"))?;
    let verified = dpkg(&["--verify", "codexd"])?;
    ensure!(verified.success() && verified.stdout.is_empty(), "files differ from md5sums: {verified}");

    let share = root.join("usr/share");
    ensure!(gunzipped(&share.join("man/man1/codexd.1.gz"))?.contains(".SH NAME"));
    ensure!(gunzipped(&share.join("man/man1/codexd-self-update.1.gz"))?.contains("from"));
    ensure!(gunzipped(&share.join("doc/codexd/changelog.Debian.gz"))?.starts_with("codexd ("));
    ensure!(fs::read_to_string(share.join("doc/codexd/copyright"))?.contains("Permission is hereby granted"));
    for completions in [
        "bash-completion/completions/codexd",
        "zsh/vendor-completions/_codexd",
        "fish/vendor_completions.d/codexd.fish",
    ] {
        ensure!(fs::read_to_string(share.join(completions))?.contains("self-update"), "{completions}");
    }
    self_update_is_left_to_dpkg(&fixture, &root)?;

    let purged = dpkg(&["--purge", "codexd"])?;
    ensure!(purged.success() && !share.join("doc/codexd").exists(), "{purged}");
    ensure!(!root.join("usr/bin/codexd").exists(), "{purged}");
    Ok(())
}

/// A root with an empty database of dpkg.
fn scratch_root(fixture: &Fixture) -> anyhow::Result<std::path::PathBuf> {
    let root = fixture.folder("root")?;
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for file in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
        fs::write(root.join(file), "")?;
    }
    Ok(root)
}

/// Runs `self-update` with the scratch root as `/`, where the path of the binary is the one that dpkg lists.
fn self_update_is_left_to_dpkg(fixture: &Fixture, root: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = r#"for folder in lib lib64 usr/lib proc; do
    [ -e "/$folder" ] || continue
    mkdir -p "$0/$folder" && mount --rbind "/$folder" "$0/$folder" || exit 99
done
HOME=/ exec chroot "$0" /usr/bin/codexd self-update --from /usr/bin/codexd"#;
    let mut command = fixture.home.command("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT]).arg(root);
    let run = run::run(command, SOON)?;
    // What the mounts were made on, so that dpkg can remove its folders.
    for folder in ["lib", "lib64", "usr/lib", "proc"] {
        let _ = fs::remove_dir(root.join(folder));
    }
    if run.code() == Some(99) || run.stderr.contains("unshare") {
        skip!("no mount here: {}", run.stderr.trim());
    }
    let error = &run.json()?["error"];
    ensure!(error["code"] == "package-owned" && error["packageManager"] == "dpkg", "{run}");
    ensure!(error["package"] == "codexd" && run.code() == Some(54), "{run}");
    Ok(())
}
