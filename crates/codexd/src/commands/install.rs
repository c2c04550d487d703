//! `codexd install`: brings a release of Codex into the home, proves it, and selects it. A server that runs is not touched.

mod failure;
mod progress;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use codexd_core::config::Config;
use codexd_core::contract::{CodexSource, ErrorCode, EventLevel, Failure, Repair};
use codexd_host::events::Event;
use codexd_host::ownership::{self, ForeignOwner};
use codexd_host::{elsewhere, process_table};
use codexd_release::archive::Bounds;
use codexd_release::install::{self, Installed, Outcome};
use codexd_release::source::{Source, Wanted};
use codexd_release::store::Store;
use codexd_release::store::record::Marker;
use serde::Serialize;

use crate::cli::InstallArgs;
use crate::context::{Context, VERSION};
use crate::output::Answer;
use crate::style::Text;
use crate::{candidate, failures, installed_codex, observe};

use failure::Stop;
pub use failure::install_failed;
use progress::InstallProgress;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// `installed`, `selected` or `alreadyInstalled`.
    status: &'static str,
    /// The version of the release.
    version: String,
    /// The machine that it is for.
    target: &'static str,
    /// Its folder.
    path: PathBuf,
    /// The source.
    source: String,
    /// The digest of the package.
    digest: Option<String>,
    /// The version that was selected before; null if there was none, or if it is the same.
    previous_version: Option<String>,
    /// Versions that were removed.
    removed_versions: Vec<String>,
    codexd_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repairs: Vec<Repair>,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        let word = match self.status {
            "installed" => "installed",
            "selected" => "selected",
            _ => "already installed:",
        };
        let mut text = Text::from(format!("{word} Codex {}", self.version));
        if let Some(previous) = &self.previous_version {
            text = text.then(format!(" in place of {previous}"));
        }
        text.push_line(format!("from {}, in {}", self.source, self.path.display()));
        if let Some(hint) = &self.hint {
            text.push_line(hint);
        }
        text
    }
}

/// Runs the command.
///
/// # Errors
/// Why nothing was installed; what was selected before stays selected.
pub fn run(context: &Context, args: &InstallArgs) -> Result<Reply, Failure> {
    let wanted = args.version.as_deref().map_or(Ok(Wanted::Newest), Wanted::parse);
    let wanted = wanted.map_err(|why| {
        let version = args.version.as_deref().unwrap_or_default();
        Failure::new(ErrorCode::BadArguments, format!("`{version}` is no version: {why}"))
    })?;
    let config = context.config_as_found().usable()?.config;
    let home = &context.home;
    let store = Store::of_home(home.root()).map_err(|error| install_failed(error, None))?;
    home.create_folders()
        .map_err(|error| failures::state("create the state folder in", home.root(), &error))?;
    check_owners(context, &store)?;
    let source = source(args, &config, &store)?;
    let request = install::Request {
        wanted: &wanted,
        source: &source,
        lock_timeout: Duration::from_secs(context.global.lock_timeout),
        bounds: Bounds::default(),
    };
    // Processes of another pid namespace are not visible here, so every release may be in use.
    let is_served_elsewhere = elsewhere::find(home).is_some();
    let mut progress = InstallProgress::to_stderr();
    let installed = install::install::<Stop>(
        &store,
        &request,
        &mut |release| candidate::prove(context, &config, release).map_err(Stop::Proof),
        &|release| is_served_elsewhere || process_table::runs_from(release),
        &mut progress,
    );
    progress.end();
    let installed = installed.map_err(|stop| match stop {
        Stop::Install(error) => install_failed(error, Some(&source)),
        Stop::Proof(failure) => failure.with("source", source.to_string()),
    })?;
    log(context, &installed, &source);
    Ok(reply(context, &config, &store, installed, &source))
}

/// A user who may write to the folders could replace what is installed.
fn check_owners(context: &Context, store: &Store) -> Result<(), Failure> {
    let releases = store.paths().releases();
    match ownership::check_below(context.home.root(), &releases) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && ForeignOwner::of(&error).is_none() => {
            Ok(())
        }
        checked => checked.map_err(|error| failures::state("use", &releases, &error)),
    }
}

/// The option, else the setting, else the source of the current release, else npm if it is there, else the official server. A file is
/// installed once.
fn source(args: &InstallArgs, config: &Config, store: &Store) -> Result<Source, Failure> {
    if let Some(text) = &args.source {
        return Source::parse(text).map_err(|why| {
            Failure::new(ErrorCode::BadArguments, format!("`{text}` is no source of releases: {why}"))
        });
    }
    let current = || {
        let release = store.release(&store.current()?)?;
        let marker: Marker = release.marker?;
        Source::parse(&marker.source).ok().filter(|source| !matches!(source, Source::File(_)))
    };
    // The configuration was checked when it was read.
    let set = config.install_source().and_then(|text| Source::parse(text).ok());
    Ok(set.or_else(current).unwrap_or_else(|| default_source(std::env::var_os("PATH").as_deref())))
}

/// npm, if a folder of `PATH` has it.
fn default_source(path: Option<&OsStr>) -> Source {
    let mut folders = path.map(std::env::split_paths).into_iter().flatten();
    if folders.any(|folder| folder.join("npm").is_file()) { Source::Npm } else { Source::Official(None) }
}

fn log(context: &Context, installed: &Installed, source: &Source) {
    if installed.outcome == Outcome::Unchanged {
        return;
    }
    let word = if installed.outcome == Outcome::Installed { "installed" } else { "selected" };
    let message = format!("{word} Codex {} from {source}", installed.version);
    let event = Event::new(EventLevel::Info, "release.selected", message)
        .with("version", installed.version.as_str())
        .with("source", source.to_string())
        .with("previous", installed.previous.clone())
        .with("removed", installed.removed.clone());
    context.log_event(event);
}

fn reply(context: &Context, config: &Config, store: &Store, installed: Installed, source: &Source) -> Reply {
    let version_of = |name: String| {
        let version = name.strip_suffix(store.target()).and_then(|version| version.strip_suffix('-'));
        version.map(str::to_owned).unwrap_or(name)
    };
    Reply {
        status: match installed.outcome {
            Outcome::Installed => "installed",
            Outcome::Selected => "selected",
            Outcome::Unchanged => "alreadyInstalled",
        },
        hint: hint(context, config, &installed),
        version: installed.version,
        target: store.target(),
        path: installed.path,
        source: source.to_string(),
        digest: installed.digest,
        previous_version: installed.previous.map(version_of),
        removed_versions: installed.removed.into_iter().map(version_of).collect(),
        codexd_version: VERSION,
        repairs: context.repairs(),
    }
}

/// What the caller may want to do next.
fn hint(context: &Context, config: &Config, installed: &Installed) -> Option<String> {
    let found = installed_codex::find_installed(context, config).ok()?.found;
    match found.source {
        CodexSource::Managed => {}
        CodexSource::Setting => {
            return Some(
                "the setting codexBin selects another Codex; `codexd config unset codexBin` removes it"
                    .into(),
            );
        }
        _ => return Some(format!("codexd runs {}, which --codex-bin selected", found.path.display())),
    }
    let running = observe::server(&context.home).ok()?.process?;
    let (executable, _) = codexd_host::process::executable(running.pid).ok()?;
    let is_old = !executable.starts_with(&installed.path);
    is_old.then(|| "the app-server still runs another release; `codexd restart` replaces it without interrupting turns".into())
}

#[cfg(test)]
mod tests {
    use super::{Source, default_source};

    #[test]
    fn without_npm_the_official_server_is_the_default() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = std::env::join_paths(["/no/such/folder".as_ref(), folder.path()]).expect("joined");
        assert_eq!(default_source(Some(&path)), Source::Official(None));
        assert_eq!(default_source(None), Source::Official(None));
        std::fs::write(folder.path().join("npm"), "").expect("written");
        assert_eq!(default_source(Some(&path)), Source::Npm);
    }
}
