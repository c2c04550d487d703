//! What the services of a home are rendered from: the configuration, the binary and the environment of the caller.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use codexd_core::config::{Config, SETTINGS};
use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::service::launchd::AgentSettings;
use codexd_host::service::systemd::{UnitNames, UnitSettings};

use crate::context::Context;
use crate::own_binary::own_binary;

/// The variables of the caller that a service starts with, beside those of the configuration.
const VARIABLES: [&str; 4] = ["PATH", "HOME", "LANG", "LC_ALL"];

/// What is in the units of systemd.
///
/// # Errors
/// If the path of the binary of codexd is unknown.
pub fn units(context: &Context, config: &Config) -> Result<UnitSettings, Failure> {
    Ok(UnitSettings {
        home: context.home.clone(),
        names: UnitNames::of(&context.home),
        codexd: installed_binary(context)?,
        environment: environment(context),
        gateway: config.gateway().is_on(),
        stop_grace_seconds: config.grace_seconds(),
        app_server_limits: config.service_limits(),
    })
}

/// What is in the agent of launchd.
///
/// # Errors
/// If the path of the binary of codexd is unknown.
pub fn agent(context: &Context, config: &Config) -> Result<AgentSettings, Failure> {
    let default_home = std::env::home_dir().map(|home| home.join(".codex"));
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Ok(AgentSettings {
        home: context.home.clone(),
        is_default_home: default_home.is_some_and(|home| canonical(&home) == context.home.root()),
        codexd: installed_binary(context)?,
        environment: environment(context),
        working_directory: config.folders().repo_root.clone(),
        logs: config.folders().logs_root.clone(),
    })
}

/// The path by which the user has run codexd, if it is absolute or on `PATH`: a link there leads to the next version after an upgrade. Else
/// that of the file.
fn installed_binary(context: &Context) -> Result<PathBuf, Failure> {
    let own = own_binary()?;
    let named = std::env::args_os().next().map(PathBuf::from);
    let path = context.caller().variable("PATH");
    let on_path = path.as_deref().map(std::env::split_paths).into_iter().flatten();
    let candidates = named.into_iter().chain(on_path.map(|folder| folder.join("codexd")));
    let is_own = |path: &PathBuf| path.is_absolute() && path.canonicalize().is_ok_and(|file| file == own);
    Ok(candidates.into_iter().find(is_own).unwrap_or(own))
}

/// The environment of a service.
fn environment(context: &Context) -> Vec<(String, String)> {
    let of_settings = SETTINGS.iter().flat_map(|setting| setting.variables).copied();
    let value = |name: &str| {
        let value = context.caller().variable(name)?;
        // A variable that is not text cannot stand in a unit file, and codexd refuses such a setting anyway.
        value.to_str().filter(|value| !value.is_empty()).map(str::to_owned)
    };
    VARIABLES
        .into_iter()
        .chain(of_settings)
        .filter_map(|name| Some((name.to_owned(), value(name)?)))
        .collect()
}

/// A path or a value that cannot stand in the file of a service.
pub fn unrenderable(error: &impl std::error::Error) -> Failure {
    Failure::new(ErrorCode::ServiceManagerFailed, error.to_string())
        .hint("use paths without control characters, or run codexd without a service manager: `codexd bootstrap --backend pid`")
}

/// Whether codexd can be found at this path after a restart of the machine.
pub fn is_lasting(codexd: &Path) -> bool {
    let name = codexd.file_name().and_then(OsStr::to_str).unwrap_or_default();
    !name.ends_with(" (deleted)") && codexd.is_file()
}
