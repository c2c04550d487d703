//! Releases by the official installer, `install.sh`, which is kept away from everything that is in use: its home, its commands and the home
//! of the user are folders of the staging folder. What it installs there is a package as any other, and is proved before it is selected.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use codexd_core::foreign_text::quote;

use crate::error::InstallError;
use crate::limits::{
    SCRIPT_BYTES_MAX, SCRIPT_DOWNLOAD_TIMEOUT, SCRIPT_OUTPUT_BYTES_MAX, SCRIPT_OUTPUT_KEPT_BYTES,
    SCRIPT_TIMEOUT,
};
use crate::process_group::{self, Output};
use crate::step::{Observer, Phase, Progress};
use crate::store::durable::create_folder;
use crate::store::paths::StorePaths;

const URL: &str = "https://chatgpt.com/codex/install.sh";

/// What the installer is asked for.
#[derive(Clone, Debug)]
pub struct Script {
    /// A copy of it; else it is downloaded.
    pub path: Option<PathBuf>,
    /// The version; else the newest one.
    pub version: Option<String>,
}

/// Runs the installer, and returns the folder of the release that it selected, which is below `into`.
///
/// # Errors
/// It cannot be downloaded, fails, does not end, or selects nothing.
pub fn fetch(script: &Script, into: &Path, observer: &mut dyn Observer) -> Result<PathBuf, InstallError> {
    let began = Instant::now();
    let path = match &script.path {
        Some(path) => path.clone(),
        None => download(into, observer)?,
    };
    let home = into.join("codex");
    let user = into.join("user");
    create_folder(&home)?;
    create_folder(&user)?;
    let mut command = Command::new("/bin/sh");
    command
        .arg(&path)
        .current_dir(into)
        .env("HOME", &user)
        .env("CODEX_HOME", &home)
        .env("CODEX_INSTALL_DIR", user.join("bin"))
        .env("CODEX_NON_INTERACTIVE", "1")
        .env("CODEX_RELEASE", script.version.as_deref().unwrap_or("latest"))
        .env("TMPDIR", &user)
        .env_remove("SHELL");
    let name = path.to_string_lossy();
    let output = run(&mut command, &name, SCRIPT_TIMEOUT, observer)?;
    match output.status {
        None => Err(InstallError::TimedOut { what: name.into_owned(), waited: began.elapsed() }),
        Some(status) if !status.success() => {
            Err(failed(format!("{name} ended ({status}){}", last_line(&output)), &output))
        }
        Some(_) => selected(&home).ok_or_else(|| failed(format!("{name} installed no release"), &output)),
    }
}

fn run(
    command: &mut Command,
    subject: &str,
    timeout: Duration,
    observer: &mut dyn Observer,
) -> Result<Output, InstallError> {
    let progress = Progress { phase: Phase::Fetching, subject, done: None, total: None };
    process_group::run(command, timeout, SCRIPT_OUTPUT_BYTES_MAX, &mut || observer.progress(progress))
        .map_err(|error| unreachable(format!("{} cannot be run: {error}", command.get_program().display())))
}

/// Downloads the installer by curl or wget, one of which it needs itself.
fn download(into: &Path, observer: &mut dyn Observer) -> Result<PathBuf, InstallError> {
    let script = into.join("install.sh");
    let mut curl = Command::new("curl");
    curl.args(["-fsSL", "--proto", "=https", "--max-filesize", &SCRIPT_BYTES_MAX.to_string(), "-o"])
        .arg(&script)
        .arg(URL);
    let mut wget = Command::new("wget");
    wget.args(["-q", "--https-only", "-O"]).arg(&script).arg(URL);
    let mut why = "neither curl nor wget can be run".to_owned();
    for mut command in [curl, wget] {
        let Ok(output) = run(&mut command, URL, SCRIPT_DOWNLOAD_TIMEOUT, observer) else { continue };
        match output.status {
            Some(status) if status.success() => {
                let size = fs::metadata(&script).map_or(0, |found| found.len());
                return match size {
                    0 => Err(unreachable(format!("{URL} is empty"))),
                    size if size > SCRIPT_BYTES_MAX => Err(InstallError::TooLarge {
                        path: script,
                        limit: format!("{SCRIPT_BYTES_MAX} bytes"),
                    }),
                    _ => Ok(script),
                };
            }
            Some(status) => {
                why = format!("{} ended ({status}){}", command.get_program().display(), last_line(&output));
            }
            None => why = format!("{} took too long", command.get_program().display()),
        }
    }
    Err(unreachable(why))
}

/// The release that `current` leads to, if that is in the home of the installer.
fn selected(home: &Path) -> Option<PathBuf> {
    let paths = StorePaths::of_home(home);
    let current = fs::canonicalize(paths.current()).ok()?;
    let is_inside = current.parent()? == fs::canonicalize(paths.releases()).ok()?;
    is_inside.then_some(current)
}

fn unreachable(why: String) -> InstallError {
    InstallError::Unreachable { source_name: "script".to_owned(), why }
}

fn failed(why: String, output: &Output) -> InstallError {
    let all: Vec<u8> = output.stdout.iter().chain(&output.stderr).copied().collect();
    let end = all[all.len().saturating_sub(SCRIPT_OUTPUT_KEPT_BYTES)..].to_owned();
    InstallError::ScriptFailed { why, output: String::from_utf8_lossy(&end).into_owned() }
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.map(|line| format!(": {}", quote(line.trim()))).unwrap_or_default()
}
