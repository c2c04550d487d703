//! The Codex that a start would run: where it is, its version, and what answers report about it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::config::Config;
use codexd_core::contract::CodexSource;
use codexd_core::identity::FileIdentity;
use codexd_core::launch_spec::NamedCodex;
use codexd_core::limits::{BUSY_VERSION_DISPLAY_TIMEOUT_MS, VERSION_DISPLAY_TIMEOUT_MS};
use codexd_host::atomic::{self, Durability};
use codexd_host::ownership;
use codexd_host::process;
use codexd_host::process_table::Activity;
use codexd_release::version;
use codexd_release::{
    FoundCodex, Looked, NotFound, Search, VersionCache, VersionError, VersionTimeout, find,
};

use crate::context::{Context, VERSION};
use crate::progress::ProgressReporter;
use crate::recorded_codex::RecordedCodex;

/// The Codex that is installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its paths, and the environment that it needs.
    pub found: FoundCodex,
    /// The identity of its file.
    pub identity: Option<FileIdentity>,
    /// What `--codex-bin` selected, in this command or in the one that started the server.
    pub named: Option<NamedCodex>,
}

/// Finds the Codex that a start would run.
///
/// # Errors
/// See [`find`].
pub fn find_installed(context: &Context, config: &Config) -> Result<Installed, NotFound> {
    let path = context.caller().variable("PATH");
    let recorded = RecordedCodex::of(&context.home);
    let setting = config.codex_bin().map(|program| located(program, path.as_deref()));
    let setting = setting.as_deref();
    // A setting that was changed since then has precedence.
    let before = recorded.named.filter(|named| named.setting.as_deref() == setting);
    let named = context.global.codex_bin.as_deref().map(absolute);
    let found = find(&Search {
        named: named.as_deref(),
        recorded: before.as_ref().map(|named| named.path.as_path()),
        setting,
        codex_home: context.home.root(),
        path: path.as_deref(),
        running: recorded.executable.as_deref(),
    })?;
    if found.source == CodexSource::Managed {
        check_owner(context, &found.path)?;
    }
    let identity = process::file_identity(&found.executable).ok();
    let named = named.map(|path| NamedCodex { path, setting: setting.map(Path::to_owned) }).or(before);
    Ok(Installed { found, identity, named })
}

/// A user who may write to the home could have replaced the managed Codex.
fn check_owner(context: &Context, path: &Path) -> Result<(), NotFound> {
    ownership::check_below(context.home.root(), path).map_err(|error| NotFound {
        looked_at: vec![Looked { path: path.to_owned(), why: error.to_string() }],
        named: None,
        unusable: true,
        expected: path.to_owned(),
    })
}

/// The path of a program that is named without a slash: the first one on `PATH`, without relative folders. If no folder has it,
/// the path in the first folder, which does not exist.
fn located(program: &Path, path: Option<&OsStr>) -> PathBuf {
    if program.is_absolute() {
        return program.to_owned();
    }
    let folders = path.map(std::env::split_paths).into_iter().flatten().filter(|folder| folder.is_absolute());
    let places: Vec<PathBuf> = folders.map(|folder| folder.join(program)).collect();
    let found = places.iter().find(|place| place.is_file()).or(places.first()).cloned();
    found.unwrap_or_else(|| Path::new("/").join(program))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl Installed {
    /// Its version, from the cache or from `codex --version`.
    ///
    /// # Errors
    /// See [`VersionError`].
    pub fn version(&self, context: &Context, timeout: VersionTimeout) -> Result<String, VersionError> {
        let path = context.home.binary_cache();
        let mut cache = VersionCache::parse(&atomic::read(&path).ok().flatten().unwrap_or_default());
        let executable = &self.found.executable;
        if let Some(identity) = self.identity
            && let Some(known) = cache.get(executable, identity)
        {
            return Ok(known.to_owned());
        }
        let (mut progress, mut activity) = (ProgressReporter::start(), Activity::default());
        let version = version::ask(executable, timeout, &mut |group| {
            progress.report(|| format!("waiting for {} --version", executable.display()));
            activity.is_seen(group)
        })?;
        if let Some(identity) = self.identity {
            cache.put(executable, identity, &version);
            // If the cache cannot be written, the next command runs `codex --version` again.
            let _ = atomic::replace(&path, cache.to_text().as_bytes(), Durability::Process);
        }
        Ok(version)
    }

    /// Its version, if Codex prints it without delay.
    pub fn version_if_quick(&self, context: &Context) -> Option<String> {
        let timeout = VersionTimeout {
            idle: Duration::from_millis(VERSION_DISPLAY_TIMEOUT_MS),
            total: Duration::from_millis(BUSY_VERSION_DISPLAY_TIMEOUT_MS),
        };
        self.version(context, timeout).ok()
    }
}

/// The facts about the installed Codex in an answer.
#[derive(Clone, Debug, Default)]
pub struct InstalledFacts {
    /// Where it was found.
    pub path: Option<PathBuf>,
    /// Where that path comes from.
    pub source: Option<CodexSource>,
    /// Its version.
    pub version: Option<String>,
    /// The identity of its file.
    pub identity: Option<FileIdentity>,
    /// Why the Codex that was found cannot run.
    pub unusable: Option<String>,
}

impl InstalledFacts {
    /// Gathers the facts. It is no failure if no Codex is found.
    pub fn gather(context: &Context, config: &Config) -> Self {
        match find_installed(context, config) {
            Ok(installed) => {
                let version = installed.version_if_quick(context);
                Self {
                    source: Some(installed.found.source),
                    path: Some(installed.found.path),
                    version,
                    identity: installed.identity,
                    unusable: None,
                }
            }
            Err(not_found) => {
                let last =
                    not_found.looked_at.last().filter(|_| not_found.unusable || not_found.named.is_some());
                let unusable = last.map(|looked| format!("{}: {}", looked.path.display(), looked.why));
                Self { unusable, ..Self::default() }
            }
        }
    }

    /// The `cliVersion` of upstream: the version of the installed Codex, or that of codexd if none is installed. For a Codex
    /// that does not print its version it is the version of the running server, so that clients do not ask the user to update.
    pub fn cli_version(&self, running: Option<&str>) -> String {
        match (&self.version, &self.path, running) {
            (Some(version), ..) => version.clone(),
            (None, Some(_), Some(running)) => running.to_owned(),
            (None, Some(_), None) => "unknown".to_owned(),
            (None, None, _) => VERSION.to_owned(),
        }
    }
}
