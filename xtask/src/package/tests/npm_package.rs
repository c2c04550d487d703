//! The npm package, installed by npm into a scratch prefix.

use std::fs;

use anyhow::ensure;
use codexd_testkit::{Codexd, run};

use super::{Fixture, SOON};
use crate::package::npm;

#[test]
fn the_npm_package_is_installed_into_a_scratch_prefix_and_runs() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let package = npm::build(&fixture.contents, &fixture.folder("out")?)?;
    let prefix = fixture.folder("prefix")?;
    let mut install = npm::npm(&fixture.folder("npm")?);
    install.args(["install", "--global", "--prefix"]).arg(&prefix).arg(&package);
    let installed = run::run(install, SOON)?;
    ensure!(installed.success(), "{installed}");

    let command = prefix.join("bin/codexd");
    fixture.assert_runs(&command)?;
    let folder = prefix.join("lib/node_modules/codexd");
    ensure!(
        fs::canonicalize(&command)? == fs::canonicalize(folder.join("bin/codexd"))?,
        "a wrapper stands between"
    );
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("package.json"))?)?;
    ensure!(manifest["version"] == fixture.contents.version, "{manifest}");

    let update =
        [std::ffi::OsStr::new("self-update"), "--from".as_ref(), fixture.contents.codexd.as_os_str()];
    let refused = Codexd::at(&fixture.home, &command).run(&update)?;
    ensure!(refused.json()?["error"]["code"] == "package-owned", "{refused}");
    Ok(())
}
