//! What a release consists of, in the two layouts of the official installer, and how a package becomes one.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use codexd_core::foreign_text::quote;
use serde::{Deserialize, Serialize};

use crate::error::InstallError;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::npm;
use crate::store::durable::{create_folder, entries, remove_tree};

/// The manifest of the package layout.
const MANIFEST: &str = "codex-package.json";
/// The programs of the package layout; `codex` is a link to the first one.
const PACKAGE_PROGRAMS: [&str; 3] = ["bin/codex", "bin/codex-code-mode-host", "codex-path/rg"];
/// Those of the layout before it, which 0.131.0 has.
const LEGACY_PROGRAMS: [&str; 2] = ["codex", "codex-resources/rg"];
/// The sandbox, which both layouts have on Linux.
const SANDBOX: &str = "codex-resources/bwrap";

/// The layout of a release.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// `bin/codex` with a manifest.
    Package,
    /// `codex` alone, with its tools in `codex-resources`.
    Legacy,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    version: Option<String>,
    target: Option<String>,
}

/// A release inside a package.
#[derive(Debug)]
pub struct Packaged {
    root: PathBuf,
    /// The version that the package states.
    pub version: Option<String>,
}

/// The native binary of a release.
pub fn executable(release: &Path) -> PathBuf {
    let package = release.join("bin/codex");
    if package.is_file() { package } else { release.join("codex") }
}

/// Checks that nothing is missing in a release.
///
/// # Errors
/// What is missing, or for which other machine it is.
pub fn completeness(release: &Path, target: &str) -> Result<Layout, String> {
    let layout = match release.join(MANIFEST).exists() || release.join("bin").exists() {
        true => Layout::Package,
        false => Layout::Legacy,
    };
    if layout == Layout::Package {
        let manifest: Manifest =
            read_json(&release.join(MANIFEST)).ok_or(format!("{MANIFEST} cannot be read"))?;
        if let Some(other) = manifest.target.filter(|other| other != target) {
            return Err(other_target(&other, target));
        }
    }
    let programs = match layout {
        Layout::Package => PACKAGE_PROGRAMS.as_slice(),
        Layout::Legacy => LEGACY_PROGRAMS.as_slice(),
    };
    let sandbox = target.contains("linux").then_some(SANDBOX);
    for program in programs.iter().copied().chain(["codex"]).chain(sandbox) {
        let found = release.join(program).metadata();
        if !found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0) {
            return Err(format!("`{program}` is missing or not executable"));
        }
    }
    Ok(layout)
}

fn other_target(found: &str, target: &str) -> String {
    format!("it is for {}, and this machine needs {target}", quote(found))
}

/// Finds the release in a package: the package itself, or a folder of an npm package.
///
/// # Errors
/// There is none, or it is for another machine.
pub fn find(package: &Path, target: &str) -> Result<Packaged, InstallError> {
    let platform = npm::platform_package().unwrap_or_default();
    let npm = [
        package.join("package"),
        package.to_owned(),
        package.join("node_modules/@openai").join(platform),
        package.parent().map(|scope| scope.join(platform)).unwrap_or_default(),
    ];
    let plain = ["bin/codex", "codex/codex", "codex"];
    let has_codex = |folder: &Path| plain.iter().any(|path| folder.join(path).is_file());
    if package.join("bin/codex").is_file() || package.join(LEGACY_PROGRAMS[1]).is_file() {
        let manifest: Option<Manifest> = read_json(&package.join(MANIFEST));
        return Ok(Packaged { root: package.to_owned(), version: manifest.and_then(|found| found.version) });
    }
    for folder in &npm {
        let root = folder.join("vendor").join(target);
        if has_codex(&root) {
            let manifest: Option<Manifest> = read_json(&root.join(MANIFEST));
            let stated = manifest.and_then(|found| found.version).or_else(|| npm_version(folder));
            return Ok(Packaged { root, version: stated });
        }
    }
    let others = npm.iter().filter_map(|folder| entries(&folder.join("vendor")).ok()).flatten();
    let why = match others.map(|entry| entry.file_name().to_string_lossy().into_owned()).next() {
        Some(other) => other_target(&other, target),
        None => "it has no Codex".to_owned(),
    };
    Err(InstallError::Incomplete { why })
}

/// The version of a platform package of npm, such as `0.131.0-linux-x64`, without the platform.
fn npm_version(package: &Path) -> Option<String> {
    let manifest: Manifest = read_json(&package.join("package.json"))?;
    let platform = npm::platform_package()?.trim_start_matches("codex");
    let version = manifest.version?;
    Some(version.strip_suffix(platform).unwrap_or(&version).to_owned())
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Packaged {
    /// The folder of the release in the package.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Moves the files to `release`, which does not exist yet and is on the same file system, in the layout of the official installer.
    ///
    /// # Errors
    /// Something is missing; the error of the file system.
    pub fn arrange(&self, release: &Path, target: &str) -> Result<Layout, InstallError> {
        let moved = |from: &Path, to: &Path| fs::rename(from, to).map_err(InstallError::file("move", from));
        if self.root.join("codex/codex").is_file() {
            let resources = release.join("codex-resources");
            create_folder(&resources)?;
            moved(&self.root.join("codex/codex"), &release.join("codex"))?;
            for folder in ["path", "codex-resources"] {
                for entry in entries(&self.root.join(folder))? {
                    moved(&entry.path(), &resources.join(entry.file_name()))?;
                }
            }
        } else {
            moved(&self.root, release)?;
        }
        let package = release.join("bin/codex").is_file();
        if package {
            let link = release.join("codex");
            remove_tree(&link)?;
            symlink("bin/codex", &link).map_err(InstallError::file("create", &link))?;
        }
        for program in PACKAGE_PROGRAMS.iter().chain(&LEGACY_PROGRAMS).chain(&[SANDBOX]) {
            let path = release.join(program);
            if path.is_file() && !path.is_symlink() {
                fs::set_permissions(&path, Permissions::from_mode(0o755))
                    .map_err(InstallError::file("change the mode of", &path))?;
            }
        }
        completeness(release, target).map_err(|why| InstallError::Incomplete { why })
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, completeness, executable, find};
    use crate::npm::target;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
    }

    /// The files of 0.171.0 or of 0.131.0, none of them executable.
    fn vendor(root: &Path, legacy: bool, target: &str) {
        let files = match legacy {
            true => ["codex/codex", "path/rg", "codex-resources/bwrap", "codex-resources/notice"],
            false => ["bin/codex", "bin/codex-code-mode-host", "codex-path/rg", "codex-resources/bwrap"],
        };
        files.iter().for_each(|file| write(&root.join(file), file, 0o644));
        if !legacy {
            let manifest = format!(r#"{{"layoutVersion":1,"version":"0.171.0","target":"{target}"}}"#);
            write(&root.join("codex-package.json"), &manifest, 0o644);
        }
    }

    #[test]
    fn both_layouts_of_npm_become_those_of_the_official_installer() {
        let target = target().expect("a known platform");
        for legacy in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let package = folder.path().join("unpacked/package");
            vendor(&package.join("vendor").join(target), legacy, target);
            let npm = format!(
                r#"{{"version":"0.131.0{}"}}"#,
                super::npm::platform_package().expect("known").replace("codex", "")
            );
            write(&package.join("package.json"), &npm, 0o644);
            let found = find(&folder.path().join("unpacked"), target).expect("found");
            assert_eq!(found.version.as_deref(), Some(if legacy { "0.131.0" } else { "0.171.0" }));
            let release = folder.path().join("release");
            let layout = found.arrange(&release, target).expect("complete");
            assert_eq!(layout, if legacy { Layout::Legacy } else { Layout::Package });
            let codex = fs::read_to_string(release.join("codex")).expect("read");
            assert_eq!(codex, if legacy { "codex/codex" } else { "bin/codex" });
            assert_eq!(fs::read_to_string(executable(&release)).expect("read"), codex);
            assert_eq!(completeness(&release, target), Ok(layout));
            // A release is a package, too.
            assert_eq!(find(&release, target).expect("found").root(), release);
            fs::set_permissions(release.join("codex-resources/bwrap"), Permissions::from_mode(0o644))
                .expect("set");
            assert!(completeness(&release, target).expect_err("incomplete").contains("bwrap"));
        }
    }

    #[test]
    fn a_package_for_another_machine_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        vendor(
            &folder.path().join("package/vendor/riscv64-unknown-linux-musl"),
            false,
            "riscv64-unknown-linux-musl",
        );
        let target = target().expect("a known platform");
        let refused = find(folder.path(), target).expect_err("no release").to_string();
        assert!(refused.contains("riscv64-unknown-linux-musl") && refused.contains(target), "{refused}");
        vendor(&folder.path().join("other"), false, "riscv64-unknown-linux-musl");
        let refused = find(&folder.path().join("other"), target)
            .expect("found")
            .arrange(&folder.path().join("r"), target);
        assert!(refused.expect_err("incomplete").to_string().contains("riscv64"));
        assert!(find(&folder.path().join("none"), target).is_err());
    }
}
