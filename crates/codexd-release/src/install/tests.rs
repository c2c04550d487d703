//! Installs of a small stand-in package, whose Codex is a script that prints its version.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Candidate, Installed, Outcome, Request, install};
use crate::archive::Bounds;
use crate::error::InstallError;
use crate::npm::{platform_package, target};
use crate::source::{Source, Wanted};
use crate::step::{Observer, Step};
use crate::store::Store;
use crate::store::layout::Layout;
use crate::version::{VersionTimeout, ask};

const TARGET_KNOWN: &str = "the tests run on a machine that Codex is published for";

struct Home(tempfile::TempDir);

fn target_name() -> &'static str {
    target().expect(TARGET_KNOWN)
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, text).expect("written");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

/// The release of a version, as its package has it.
fn release(folder: &Path, version: &str) -> PathBuf {
    let codex = format!("#!/bin/sh\necho codex-cli {version}\n");
    for program in ["bin/codex", "bin/codex-code-mode-host", "codex-path/rg", "codex-resources/bwrap"] {
        write(&folder.join(program), &codex, 0o755);
    }
    let manifest = format!(r#"{{"layoutVersion":1,"version":"{version}","target":"{}"}}"#, target_name());
    write(&folder.join("codex-package.json"), &manifest, 0o644);
    folder.to_owned()
}

/// The platform package of npm before the package layout.
fn legacy_npm_package(folder: &Path, version: &str) -> PathBuf {
    let codex = format!("#!/bin/sh\necho codex-cli {version}\n");
    for program in ["codex/codex", "path/rg", "codex-resources/bwrap"] {
        write(&folder.join("package/vendor").join(target_name()).join(program), &codex, 0o755);
    }
    let platform = platform_package().expect(TARGET_KNOWN).replace("codex", "");
    write(&folder.join("package/package.json"), &format!(r#"{{"version":"{version}{platform}"}}"#), 0o644);
    folder.to_owned()
}

fn pack(folder: &Path) -> PathBuf {
    let archive = folder.with_extension("tgz");
    let gzip = GzEncoder::new(File::create(&archive).expect("made"), Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    tar.append_dir_all(".", folder).expect("packed");
    tar.into_inner().and_then(GzEncoder::finish).expect("finished");
    archive
}

/// Stops an install after a step.
struct StopAfter(Option<Step>);

impl Observer for StopAfter {
    fn reached(&mut self, step: Step) -> bool {
        self.0 != Some(step)
    }
}

fn prove(candidate: &Candidate<'_>) -> Result<String, InstallError> {
    let timeout = VersionTimeout { idle: Duration::from_secs(20), total: Duration::from_secs(20) };
    ask(candidate.executable, timeout, &mut |_| false)
        .map_err(|error| InstallError::Incomplete { why: error.to_string() })
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn store(&self) -> Store {
        Store::of_home(&self.at("home")).expect(TARGET_KNOWN)
    }

    /// A package of a version, in a folder.
    fn package(&self, version: &str) -> Source {
        Source::Directory(release(&self.at(&format!("package-{version}")), version))
    }

    fn install(
        &self,
        source: &Source,
        wanted: &Wanted,
        stop: Option<Step>,
    ) -> Result<Installed, InstallError> {
        self.install_while(source, wanted, stop, &|_| false)
    }

    fn install_while(
        &self,
        source: &Source,
        wanted: &Wanted,
        stop: Option<Step>,
        is_in_use: &dyn Fn(&Path) -> bool,
    ) -> Result<Installed, InstallError> {
        let request =
            Request { wanted, source, lock_timeout: Duration::from_secs(20), bounds: Bounds::default() };
        install(&self.store(), &request, &mut |candidate| prove(candidate), is_in_use, &mut StopAfter(stop))
    }

    /// The version that `current` leads to, after the checks that hold at any time.
    fn current(&self) -> Option<String> {
        let store = self.store();
        let Some(name) = store.current() else {
            assert!(store.paths().current().symlink_metadata().is_err(), "it leads nowhere");
            return None;
        };
        let release = store.release(&name).expect("it exists");
        assert!(release.layout.is_ok(), "{:?}", release.layout);
        let timeout = VersionTimeout { idle: Duration::from_secs(20), total: Duration::from_secs(20) };
        let printed = ask(&store.paths().current().join("codex"), timeout, &mut |_| false).expect("it runs");
        assert_eq!(printed, release.version);
        Some(printed)
    }

    fn names(&self, path: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(path).expect("listed");
        entries.map(|entry| entry.expect("read").file_name().into_string().expect("UTF-8")).collect()
    }

    fn release_names(&self) -> Vec<String> {
        let names = self.names(&self.store().paths().releases());
        names.into_iter().map(|name| name.replace(&format!("-{}", target_name()), "")).collect()
    }
}

fn version(text: &str) -> Wanted {
    Wanted::Version(text.to_owned())
}

#[test]
fn a_release_is_laid_out_as_the_official_installer_does_it() {
    let home = Home::new();
    let installed = home.install(&home.package("0.171.0"), &Wanted::Newest, None).expect("installed");
    let (store, name) = (home.store(), format!("0.171.0-{}", target_name()));
    assert_eq!(
        (installed.outcome, installed.name.as_str(), installed.previous),
        (Outcome::Installed, name.as_str(), None)
    );
    let paths = store.paths();
    assert_eq!(
        fs::read_link(paths.current()).expect("a link"),
        home.at("home/packages/standalone/releases").join(&name)
    );
    assert_eq!(fs::read_link(paths.current().join("codex")).expect("a link"), Path::new("bin/codex"));
    assert_eq!(fs::read_to_string(paths.newest_marker()).expect("it was the newest"), name);
    assert_eq!(home.current().as_deref(), Some("0.171.0"));
    let again = home.install(&home.package("0.171.0"), &version("0.171.0"), None).expect("installed");
    assert_eq!(again.outcome, Outcome::Unchanged);
    assert!(!paths.newest_marker().exists(), "a certain version was asked for");
    let all = ["codexd-releases.json", "current", "install.lock", "releases"].map(str::to_owned);
    assert_eq!(home.names(paths.root()), BTreeSet::from(all));
    assert_eq!(fs::read(paths.lock()).expect("read"), b"", "no holder any more");
}

#[test]
fn packages_of_npm_in_both_layouts_are_installed_from_a_file() {
    let home = Home::new();
    let legacy = pack(&legacy_npm_package(&home.at("legacy"), "0.131.0"));
    let installed = home.install(&Source::File(legacy), &version("0.131.0"), None).expect("installed");
    assert_eq!(home.store().release(&installed.name).expect("there").layout, Ok(Layout::Legacy));
    assert!(installed.digest.expect("computed").starts_with("sha512-"));
    let vendor = home.at("npm/package/vendor").join(target_name());
    release(&vendor, "0.171.0");
    let installed =
        home.install(&Source::File(pack(&home.at("npm"))), &Wanted::Newest, None).expect("installed");
    assert_eq!(installed.previous, Some(format!("0.131.0-{}", target_name())));
    assert_eq!(home.current().as_deref(), Some("0.171.0"));
    assert_eq!(home.store().previous().expect("kept").version, "0.131.0");
}

#[test]
fn an_install_stopped_at_any_step_can_be_run_again_and_current_is_always_complete() {
    for before in [None, Some("0.169.0")] {
        for step in Step::ALL {
            let home = Home::new();
            if let Some(before) = before {
                home.install(&home.package(before), &Wanted::Newest, None).expect("installed");
            }
            let archive = Source::File(pack(&release(&home.at("new"), "0.171.0")));
            let stopped = home.install(&archive, &Wanted::Newest, Some(step)).expect_err("stopped");
            assert!(matches!(stopped, InstallError::Stopped(at) if at == step), "{stopped:?}");
            let now = home.current();
            let is_switched = Step::ALL.iter().position(|at| *at == step)
                >= Step::ALL.iter().position(|at| *at == Step::Selected);
            assert_eq!(now.as_deref(), if is_switched { Some("0.171.0") } else { before }, "after {step:?}");
            home.install(&archive, &Wanted::Newest, None).expect("installed");
            assert_eq!(home.current().as_deref(), Some("0.171.0"));
            let expected: Vec<&str> = before.into_iter().chain(["0.171.0"]).collect();
            assert_eq!(home.release_names(), expected, "after {step:?}");
            let all = ["auto-update-version", "codexd-releases.json", "current", "install.lock", "releases"];
            assert_eq!(home.names(home.store().paths().root()), BTreeSet::from(all.map(str::to_owned)));
        }
    }
}

#[test]
fn the_last_two_releases_are_kept_and_those_in_use_and_of_other_installers() {
    let home = Home::new();
    let other = home.store().paths().release(&home.store().name_of("0.100.0"));
    release(&other, "0.100.0");
    for number in ["0.1.0", "0.2.0", "0.3.0"] {
        home.install(&home.package(number), &version(number), None).expect("installed");
    }
    assert_eq!(home.release_names(), ["0.100.0", "0.2.0", "0.3.0"]);
    let in_use = home.store().paths().release(&home.store().name_of("0.2.0"));
    let installed =
        home.install_while(&home.package("0.4.0"), &version("0.4.0"), None, &|path| path == in_use);
    assert_eq!(installed.expect("installed").removed, Vec::<String>::new());
    assert_eq!(home.release_names(), ["0.100.0", "0.2.0", "0.3.0", "0.4.0"]);
    // Back to an older one: that and the one before it stay.
    let back = home.install(&home.package("0.2.0"), &version("0.2.0"), None).expect("selected");
    assert_eq!(back.outcome, Outcome::Selected);
    assert_eq!(home.release_names(), ["0.100.0", "0.2.0", "0.4.0"]);
}

#[test]
fn a_refused_package_changes_nothing_and_leaves_nothing() {
    let home = Home::new();
    home.install(&home.package("0.169.0"), &Wanted::Newest, None).expect("installed");
    let broken = home.at("broken");
    release(&broken, "0.171.0");
    write(&broken.join("bin/codex"), "#!/bin/sh\nexit 1\n", 0o755);
    let other_version = home.at("lies");
    release(&other_version, "0.171.0");
    write(&other_version.join("bin/codex"), "#!/bin/sh\necho codex-cli 0.170.0\n", 0o755);
    let incomplete = home.at("incomplete");
    release(&incomplete, "0.171.0");
    fs::remove_file(incomplete.join("bin/codex-code-mode-host")).expect("removed");
    let truncated = pack(&release(&home.at("good"), "0.171.0"));
    let bytes = fs::read(&truncated).expect("read");
    fs::write(&truncated, &bytes[..bytes.len() / 2]).expect("written");
    for (source, wanted) in [
        (Source::Directory(broken), version("0.171.0")),
        (Source::Directory(other_version), version("0.171.0")),
        (Source::Directory(incomplete), version("0.171.0")),
        (Source::File(truncated), version("0.171.0")),
        (home.package("0.170.0"), version("0.171.0")),
        (Source::Directory(home.at("none")), Wanted::Newest),
        (Source::File(home.at("package-0.169.0")), Wanted::Newest),
    ] {
        home.install(&source, &wanted, None).expect_err("refused");
        assert_eq!(home.current().as_deref(), Some("0.169.0"), "{source}");
        assert_eq!(home.release_names(), ["0.169.0"], "{source}");
    }
}

#[test]
fn a_release_that_another_installer_left_incomplete_is_replaced() {
    let home = Home::new();
    let name = home.store().name_of("0.171.0");
    let path = home.store().paths().release(&name);
    release(&path, "0.171.0");
    fs::remove_file(path.join("codex-path/rg")).expect("removed");
    let leftover = home.store().paths().releases().join(".staging.0.170.0.77/bin");
    fs::create_dir_all(&leftover).expect("made");
    std::os::unix::fs::symlink("x", home.store().paths().root().join(".current.77")).expect("linked");
    let installed = home.install(&home.package("0.171.0"), &Wanted::Newest, None).expect("installed");
    assert_eq!(installed.outcome, Outcome::Installed);
    assert_eq!(home.current().as_deref(), Some("0.171.0"));
    assert_eq!(home.release_names(), ["0.171.0"]);
    assert!(home.store().paths().root().join(".current.77").symlink_metadata().is_err());
}

#[test]
fn installs_at_the_same_time_wait_for_each_other() {
    let home = Home::new();
    let versions = ["0.1.0", "0.2.0", "0.3.0", "0.4.0"];
    let packages = versions.map(|version| home.package(version));
    std::thread::scope(|scope| {
        let installs: Vec<_> = packages
            .iter()
            .map(|package| {
                scope.spawn(|| home.install(package, &Wanted::Newest, None).expect("installed").version)
            })
            .collect();
        let done: BTreeSet<String> =
            installs.into_iter().map(|install| install.join().expect("no panic")).collect();
        assert_eq!(done, BTreeSet::from(versions.map(str::to_owned)));
    });
    assert!(home.current().is_some());
    assert_eq!(home.release_names().len(), 2);
}

#[test]
fn a_folder_in_the_place_of_current_is_reported_and_stays() {
    let home = Home::new();
    let current = home.store().paths().current();
    write(&current.join("codex"), "mine", 0o755);
    let refused =
        home.install(&home.package("0.171.0"), &Wanted::Newest, None).expect_err("refused").to_string();
    assert!(refused.contains(&current.display().to_string()), "{refused}");
    assert_eq!(fs::read_to_string(current.join("codex")).expect("read"), "mine");
}
