//! `codexd self-update`: replaces the codexd binary by that of a file.
//!
//! The file is copied into the folder of the binary and proved there: its SHA-256 if a file beside it has one, its ELF header, and its
//! `--version`. Only then the copy takes the name of the binary, by one rename. So the binary is the old or the new one at any time, and a
//! killed command can be run again.

mod elf;
mod package_manager;
mod replace;
mod update_file;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_core::limits::{VERSION_IDLE_TIMEOUT_MS, VERSION_TIMEOUT_MS};
use codexd_host::process_table::Activity;
use codexd_release::{VersionTimeout, version};
use serde::Serialize;

use crate::cli::SelfUpdateArgs;
use crate::context::VERSION;
use crate::failures::MAKE_ROOM;
use crate::output::Answer;
use crate::own_binary::own_binary;
use crate::style::{self, Color, Text};

use replace::Replacement;

/// The name that `codexd --version` prints.
const NAME: &str = "codexd";

/// The answer of `self-update`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `updated` or `alreadyCurrent`.
    status: &'static str,
    /// The binary.
    path: String,
    previous_version: String,
    version: String,
    /// Of the binary.
    sha256: String,
    /// The file that the SHA-256 of the given file was checked against; null if there is none.
    checksum_file: Option<String>,
    /// The replaced binary; null if nothing was replaced.
    previous_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// Runs the command.
///
/// # Errors
/// The file is not fit, or the binary cannot be replaced. The binary is unchanged then.
pub fn run(args: &SelfUpdateArgs) -> Result<Report, Failure> {
    let binary = present_binary()?;
    if let Some(owner) = package_manager::owner(&binary) {
        return Err(owner.refusal(&binary));
    }
    let replacement = Replacement::begin(&binary)?;
    let from = std::path::absolute(&args.from).unwrap_or_else(|_| args.from.clone());
    let (copied, copy) = replacement.copy(|copy| update_file::copy_binary(&from, copy))?;
    elf::check(&copy, &binary).map_err(|reason| unfit(&from, &reason))?;
    let version = printed_version(&copy, &from)?;
    let is_current = update_file::sha256_of(&binary).is_ok_and(|now| now == copied.sha256);
    let previous = if is_current { None } else { Some(replacement.finish(&copied.sha256)?) };
    Ok(Report {
        status: if is_current { "alreadyCurrent" } else { "updated" },
        path: text_of(&binary),
        previous_version: VERSION.to_owned(),
        version,
        sha256: copied.sha256,
        checksum_file: copied.checksum_file.as_deref().map(text_of),
        hint: previous.is_some().then_some(
            "a supervisor and a gateway that run keep the previous binary; `codexd status` shows which, and how to replace them",
        ),
        previous_path: previous.as_deref().map(text_of),
    })
}

/// The path of the binary of this command, if that file is still there.
fn present_binary() -> Result<PathBuf, Failure> {
    let binary = own_binary()?;
    if binary.is_file() {
        return Ok(binary);
    }
    let message =
        format!("the binary of this command was replaced or removed meanwhile: {}", binary.display());
    Err(Failure::new(ErrorCode::Internal, message).hint("run the command again"))
}

/// Runs the copy: the system must be able to execute it, and it must be a codexd.
fn printed_version(copy: &Path, from: &Path) -> Result<String, Failure> {
    let timeout = VersionTimeout {
        idle: Duration::from_millis(VERSION_IDLE_TIMEOUT_MS),
        total: Duration::from_millis(VERSION_TIMEOUT_MS),
    };
    let mut activity = Activity::default();
    let printed = version::ask_named(copy, timeout, &mut |group| activity.is_seen(group))
        .map_err(|error| unfit(from, &error.to_string()))?;
    if printed.name == NAME {
        return Ok(printed.version);
    }
    let name = codexd_core::foreign_text::quote(&printed.name);
    Err(unfit(from, &format!("it is not codexd: it calls itself `{name}`")))
}

/// The file is not what `self-update` takes.
fn unfit(from: &Path, reason: &str) -> Failure {
    let message = format!("cannot update codexd from {}: {reason}; nothing has changed", from.display());
    Failure::new(ErrorCode::UpdateFileInvalid, message)
        .hint("name a codexd binary for this machine, or the codexd tarball that has one")
        .with("file", text_of(from))
}

/// The folder of the binary cannot be written to.
fn unwritable(what: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("failed to {what} {}: {error}; nothing has changed", path.display());
    let failure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::new(ErrorCode::DiskFull, message).hint(MAKE_ROOM)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Failure::new(ErrorCode::BinaryUnwritable, message)
                .hint("run the command as the user who owns the folder of the codexd binary")
        }
        _ => Failure::new(ErrorCode::Internal, message),
    };
    failure.with("path", text_of(path))
}

/// Makes what was written survive a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Answer for Report {
    fn text(&self) -> Text {
        let first = match self.status {
            "updated" => format!("codexd updated from {} to {}", self.previous_version, self.version),
            _ => format!("codexd {} is already that of the file", self.version),
        };
        let checked = match &self.checksum_file {
            Some(file) => format!("the file matches {file}"),
            None => "no .sha256 file is beside the file, so its SHA-256 was not checked".to_owned(),
        };
        let mut rows = vec![("binary", Text::from(&self.path)), ("sha256", Text::from(&self.sha256))];
        rows.push(("check", Text::from(checked)));
        rows.extend(self.previous_path.iter().map(|path| ("previous", Text::from(path))));
        let mut text = style::paint(first, Color::Green);
        for line in style::table(&rows).as_str().lines() {
            text.push_line(line);
        }
        if let Some(hint) = self.hint {
            text.push_line(format!("note: {hint}"));
        }
        text
    }
}
