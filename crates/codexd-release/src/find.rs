//! Finds the Codex to run: that of `--codex-bin`, now or for the running app-server; that of the settings; the managed one of the home;
//! the one on PATH; or else the one that runs.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use codexd_core::contract::CodexSource;

pub use crate::found_codex::FoundCodex;
use crate::npm;

/// The paths in a CODEX_HOME where upstream's installers put Codex, the oldest layout first.
const MANAGED: [&str; 3] = [
    "packages/standalone/current/codex",
    "packages/standalone/current/bin/codex",
    "packages/app-server-daemon/current/bin/codex",
];

const NOT_FOUND: &str = "not found";

/// The places to search, in this order.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    /// The path of `--codex-bin`.
    pub named: Option<&'a Path>,
    /// The path of `--codex-bin` for the running app-server.
    pub recorded: Option<&'a Path>,
    /// The path in the settings.
    pub setting: Option<&'a Path>,
    /// CODEX_HOME.
    pub codex_home: &'a Path,
    /// PATH; relative folders in it are skipped.
    pub path: Option<&'a OsStr>,
    /// The executable of the running app-server.
    pub running: Option<&'a Path>,
}

/// A path that was checked, and why it cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Looked {
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// No usable Codex was found.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("Codex not found")]
pub struct NotFound {
    /// Every path that was checked.
    pub looked_at: Vec<Looked>,
    /// Set if a path was named there, so that no other was checked.
    pub named: Option<CodexSource>,
    /// The last path exists and cannot be run. No other Codex replaces it.
    pub unusable: bool,
    /// The expected path: the named or unusable one, else that of a managed Codex.
    pub expected: PathBuf,
}

/// Finds the Codex to run.
///
/// # Errors
/// [`NotFound`]. A named Codex that is unusable is an error: no other Codex replaces it.
pub fn find(search: &Search<'_>) -> Result<FoundCodex, NotFound> {
    let named = [
        (search.named, CodexSource::Named),
        (search.recorded, CodexSource::Record),
        (search.setting, CodexSource::Setting),
    ];
    if let Some((named, source)) = named.into_iter().find_map(|(path, source)| Some((path?, source))) {
        return examine(named, source).map_err(|why| NotFound {
            unusable: why != NOT_FOUND,
            looked_at: vec![Looked { path: named.to_owned(), why }],
            named: Some(source),
            expected: named.to_owned(),
        });
    }
    let mut looked_at = Vec::new();
    for path in MANAGED.iter().map(|place| search.codex_home.join(place)) {
        match examine(&path, CodexSource::Managed) {
            Ok(found) => return Ok(found),
            Err(why) => {
                let unusable = why != NOT_FOUND;
                looked_at.push(Looked { path: path.clone(), why });
                if unusable {
                    return Err(NotFound { looked_at, named: None, unusable, expected: path });
                }
            }
        }
    }
    // A shell skips unusable files on PATH, too. A relative folder would be another one in every working directory.
    let folders =
        search.path.map(env::split_paths).into_iter().flatten().filter(|folder| folder.is_absolute());
    for path in folders.map(|folder| folder.join("codex")) {
        match examine(&path, CodexSource::Path) {
            Ok(found) => return Ok(found),
            Err(why) => looked_at.push(Looked { path, why }),
        }
    }
    if let Some(Ok(found)) = search.running.map(|path| examine(path, CodexSource::Record)) {
        return Ok(found);
    }
    let expected = search.codex_home.join(MANAGED[0]);
    Err(NotFound { looked_at, named: None, unusable: false, expected })
}

/// Checks a path, and finds the native binary to run for it.
fn examine(path: &Path, source: CodexSource) -> Result<FoundCodex, String> {
    let metadata = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND.to_owned(),
        _ => error.to_string(),
    })?;
    if !metadata.is_file() {
        return Err("not a file".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("not executable".into());
    }
    if is_script(path)
        && let Some(package) = npm::package_root(path)
    {
        return npm::native(path, source, &package)
            .ok_or_else(|| format!("an npm package without its native binary ({})", package.display()));
    }
    let canonical = path.canonicalize().map_err(|error| error.to_string())?;
    let path_folders = npm::path_folder(&canonical).into_iter().collect();
    let (path, executable) = (path.to_owned(), path.to_owned());
    Ok(FoundCodex { path, source, executable, path_folders, variables: Vec::new() })
}

/// Whether a file begins with `#!`.
pub fn is_script(path: &Path) -> bool {
    let mut start = [0u8; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| &start == b"#!")
}

#[cfg(test)]
mod tests {
    use super::{CodexSource, Search, find};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn executable(path: &Path, contents: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, contents).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("marked");
    }

    fn search(home: &Path) -> Search<'_> {
        Search { named: None, recorded: None, setting: None, codex_home: home, path: None, running: None }
    }

    #[test]
    fn the_managed_binary_comes_before_the_one_on_path() {
        let home = tempfile::tempdir().expect("a folder");
        let bin = home.path().join("bin");
        executable(&bin.join("codex"), "\u{7f}ELF");
        let path = bin.as_os_str();
        let on_path = find(&Search { path: Some(path), ..search(home.path()) }).expect("found");
        assert_eq!(on_path.executable, bin.join("codex"));
        let managed = home.path().join("packages/standalone/current/codex");
        executable(&managed, "\u{7f}ELF");
        let found = find(&Search { path: Some(path), ..search(home.path()) }).expect("found");
        assert_eq!(found.path, managed);
    }

    #[test]
    fn relative_folders_on_path_are_skipped() {
        let home = tempfile::tempdir().expect("a folder");
        executable(&home.path().join("codex"), "\u{7f}ELF");
        // The same folder as a relative path.
        let here = std::env::current_dir().expect("a folder");
        let up: std::path::PathBuf = here.components().skip(1).map(|_| "..").collect();
        let down = home.path().strip_prefix("/").expect("absolute");
        let relative = up.join(down);
        assert!(relative.join("codex").is_file(), "it would be found");
        let path = std::env::join_paths([Path::new(""), &relative]).expect("joined");
        let error = find(&Search { path: Some(&path), ..search(home.path()) }).expect_err("passed over");
        assert_eq!(error.looked_at.len(), 3, "{error:?}");
    }

    #[test]
    fn a_named_codex_is_never_replaced_by_another() {
        let home = tempfile::tempdir().expect("a folder");
        executable(&home.path().join("packages/standalone/current/codex"), "\u{7f}ELF");
        let missing = home.path().join("missing");
        let error = find(&Search { named: Some(&missing), ..search(home.path()) }).expect_err("not there");
        assert!(error.named == Some(CodexSource::Named) && error.looked_at[0].why == "not found");
        assert_eq!(error.expected, missing);
    }

    #[test]
    fn the_recorded_codex_precedes_the_setting_and_the_running_one_comes_last() {
        let home = tempfile::tempdir().expect("a folder");
        let [named, recorded, setting, running] =
            ["a", "b", "c", "d"].map(|name| home.path().join(name).join("codex"));
        for path in [&named, &recorded, &setting, &running] {
            executable(path, "\u{7f}ELF");
        }
        let mut all = search(home.path());
        (all.named, all.recorded) = (Some(named.as_path()), Some(recorded.as_path()));
        (all.setting, all.running) = (Some(setting.as_path()), Some(running.as_path()));
        let found =
            |search: &Search<'_>| find(search).map(|found| (found.path, found.source)).expect("found");
        assert_eq!(found(&all), (named.clone(), CodexSource::Named));
        all.named = None;
        assert_eq!(found(&all), (recorded.clone(), CodexSource::Record));
        all.recorded = None;
        assert_eq!(found(&all), (setting.clone(), CodexSource::Setting));
        all.setting = None;
        assert_eq!(found(&all), (running.clone(), CodexSource::Record));
        let managed = home.path().join("packages/standalone/current/codex");
        executable(&managed, "\u{7f}ELF");
        assert_eq!(found(&all), (managed, CodexSource::Managed));
    }

    #[test]
    fn not_found_lists_every_path() {
        let home = tempfile::tempdir().expect("a folder");
        let error = find(&search(home.path())).expect_err("nothing");
        assert_eq!(error.looked_at.len(), 3);
        assert_eq!(error.expected, home.path().join("packages/standalone/current/codex"));
    }

    #[test]
    fn an_unusable_codex_is_the_expected_one() {
        let home = tempfile::tempdir().expect("a folder");
        let broken = home.path().join("packages/app-server-daemon/current/bin/codex");
        fs::create_dir_all(&broken).expect("a folder in its place");
        let error = find(&search(home.path())).expect_err("no file");
        assert!(error.unusable);
        assert_eq!(error.expected, broken);
    }

    #[test]
    fn an_npm_wrapper_is_resolved_to_its_native_binary_in_both_layouts() {
        for (inside, tools) in [("bin/codex", "codex-path"), ("codex/codex", "path")] {
            let root = tempfile::tempdir().expect("a folder");
            let modules = root.path().join("lib/node_modules/@openai");
            let script = modules.join("codex/bin/codex.js");
            executable(&script, "#!/usr/bin/env node\n");
            fs::write(modules.join("codex/package.json"), r#"{"name":"@openai/codex"}"#).expect("written");
            let vendor = modules
                .join("codex/node_modules/@openai")
                .join(crate::npm::platform_package().expect("a known platform"))
                .join("vendor")
                .join(crate::npm::target().expect("a known platform"));
            executable(&vendor.join(inside), "\u{7f}ELF");
            fs::create_dir_all(vendor.join(tools)).expect("made");
            let link = root.path().join("bin/codex");
            fs::create_dir_all(root.path().join("bin")).expect("made");
            symlink(&script, &link).expect("linked");
            let found = find(&Search { named: Some(&link), ..search(root.path()) }).expect("found");
            assert_eq!(
                found.executable.canonicalize().expect("there"),
                vendor.join(inside).canonicalize().expect("there")
            );
            assert_eq!(found.path_folders.len(), 1, "the tools that come with it");
            assert!(found.variables.iter().any(|(name, _)| name == "CODEX_MANAGED_BY_NPM"));
        }
    }
}
