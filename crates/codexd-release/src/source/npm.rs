//! Releases from npm, by the npm client of the user: its registry, mirror, proxy and credentials hold. What it brings is verified here.
//!
//! `@openai/codex` names a platform package for each machine (`npm:@openai/codex@0.171.0-linux-x64`), which has the release.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use codexd_core::foreign_text::quote;
use serde::Deserialize;
use serde_json::Value;

use crate::digest::sha512_of_integrity;
use crate::error::InstallError;
use crate::limits::{NPM_OUTPUT_BYTES_MAX, NPM_PACK_TIMEOUT, NPM_VIEW_TIMEOUT};
use crate::npm::platform_package;
use crate::process_group;
use crate::source::{Wanted, is_version};
use crate::step::{Observer, Phase, Progress};

const PACKAGE: &str = "@openai/codex";
const SOURCE: &str = "npm";

/// The platform package of a version.
#[derive(Clone, Debug)]
pub struct PlatformPackage {
    /// The version of Codex.
    pub version: String,
    /// What npm is asked for.
    spec: String,
    /// The SHA-512 of its tarball in base64.
    pub sha512: String,
}

#[derive(Debug, Deserialize)]
struct View {
    version: Option<String>,
    #[serde(default)]
    dist: Dist,
    #[serde(default, rename = "optionalDependencies")]
    optional: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Dist {
    integrity: Option<String>,
}

fn unreachable(why: impl Into<String>) -> InstallError {
    InstallError::Unreachable { source_name: SOURCE.to_owned(), why: why.into() }
}

/// Asks the registry for a version, and for the package of this machine.
///
/// # Errors
/// No npm, no such version, no answer.
pub fn look_up(wanted: &Wanted, observer: &mut dyn Observer) -> Result<PlatformPackage, InstallError> {
    let wanted = match wanted {
        Wanted::Newest => "latest",
        Wanted::Version(version) => version,
    };
    let main = view(&format!("{PACKAGE}@{wanted}"), wanted, observer)?;
    let version = main.version.filter(|version| is_version(version));
    let version = version.ok_or_else(|| unreachable("its answer has no version"))?;
    let name = format!("@openai/{}", platform_package().ok_or(InstallError::NoTarget)?);
    let Some(spec) = main.optional.get(&name) else {
        let why = format!("{PACKAGE} {version} has no package for this machine ({name})");
        return Err(InstallError::Incomplete { why });
    };
    // An alias, `npm:NAME@VERSION`, or a version of the package of that name.
    let spec = spec.strip_prefix("npm:").map_or_else(|| format!("{name}@{spec}"), str::to_owned);
    let platform = view(&spec, wanted, observer)?;
    let integrity = platform.dist.integrity.unwrap_or_default();
    let sha512 = sha512_of_integrity(&integrity)
        .ok_or_else(|| unreachable(format!("the registry states no sha512 digest for {spec}")))?
        .to_owned();
    Ok(PlatformPackage { version, spec, sha512 })
}

fn view(spec: &str, version: &str, observer: &mut dyn Observer) -> Result<View, InstallError> {
    let progress = Progress { phase: Phase::Resolving, subject: spec, done: None, total: None };
    let fields = ["view", "--json", spec, "version", "dist", "optionalDependencies"];
    let answer = npm(fields, NPM_VIEW_TIMEOUT, None, &mut || observer.progress(progress));
    let answer = answer.map_err(|error| match error {
        Failed::Error(error) => error,
        Failed::Npm { code, .. } if matches!(code.as_deref(), Some("E404" | "ETARGET" | "ENOVERSIONS")) => {
            InstallError::VersionNotFound {
                source_name: SOURCE.to_owned(),
                version: version.to_owned(),
                found: None,
            }
        }
        Failed::Npm { why, .. } => unreachable(why),
    })?;
    // The field `dist` of a package with several names is a list, as is the answer to a range.
    let answer = match answer {
        Value::Array(mut all) => all.pop().unwrap_or_default(),
        answer => answer,
    };
    serde_json::from_value(answer)
        .map_err(|error| unreachable(format!("its answer is not understood: {error}")))
}

/// Downloads the package into `into`.
///
/// # Errors
/// npm fails, or does not end.
pub fn fetch(
    package: &PlatformPackage,
    into: &Path,
    observer: &mut dyn Observer,
) -> Result<PathBuf, InstallError> {
    let progress = Progress { phase: Phase::Fetching, subject: &package.spec, done: None, total: None };
    let words = [
        OsStr::new("pack"),
        OsStr::new("--json"),
        OsStr::new("--ignore-scripts"),
        OsStr::new("--pack-destination"),
        into.as_os_str(),
        OsStr::new(&package.spec),
    ];
    let answer = npm(words, NPM_PACK_TIMEOUT, Some(into), &mut || observer.progress(progress));
    let answer = answer.map_err(|error| match error {
        Failed::Error(error) => error,
        Failed::Npm { why, .. } => unreachable(why),
    })?;
    let name = answer.get(0).and_then(|packed| packed.get("filename")).and_then(Value::as_str);
    let path = name.and_then(|name| Path::new(name).file_name()).map(|name| into.join(name));
    match path.filter(|path| path.symlink_metadata().is_ok_and(|found| found.is_file())) {
        Some(path) => Ok(path),
        None => Err(unreachable("npm reports no file")),
    }
}

enum Failed {
    Error(InstallError),
    Npm { code: Option<String>, why: String },
}

/// Runs npm and reads the JSON that it prints.
fn npm<S: AsRef<OsStr>>(
    words: impl IntoIterator<Item = S>,
    timeout: Duration,
    folder: Option<&Path>,
    while_running: &mut dyn FnMut(),
) -> Result<Value, Failed> {
    let began = Instant::now();
    let mut command = Command::new("npm");
    command.args(words);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = process_group::run(&mut command, timeout, NPM_OUTPUT_BYTES_MAX, while_running);
    let output = output.map_err(|error| Failed::Error(unreachable(format!("npm cannot be run: {error}"))))?;
    let Some(status) = output.status else {
        let what = "npm".to_owned();
        return Err(Failed::Error(InstallError::TimedOut { what, waited: began.elapsed() }));
    };
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if status.success() {
        return answer.ok_or_else(|| Failed::Error(unreachable("npm printed no JSON")));
    }
    let error = answer.as_ref().and_then(|answer| answer.get("error"));
    let text = |field: &str| Some(error?.get(field)?.as_str()?.to_owned());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr
        .lines()
        .find_map(|line| line.strip_prefix("npm error ").filter(|line| !line.starts_with("code ")));
    let why = text("summary")
        .or_else(|| line.map(str::to_owned))
        .unwrap_or_else(|| format!("npm ended with {status}"));
    Err(Failed::Npm { code: text("code"), why: quote(&why) })
}
