//! The failures of an install: code, sentence, hint and fields for each cause.

use codexd_core::contract::{ErrorCode, Failure};
use codexd_release::InstallError;
use codexd_release::source::Source;

use crate::failures;

/// Why an install stopped.
#[derive(Debug)]
pub enum Stop {
    /// The install itself.
    Install(InstallError),
    /// The proof of the release.
    Proof(Failure),
}

impl From<InstallError> for Stop {
    fn from(error: InstallError) -> Self {
        Self::Install(error)
    }
}

const UNCHANGED: &str = "nothing has changed";

/// The failure of an install from a source.
pub fn install_failed(error: InstallError, source: Option<&Source>) -> Failure {
    let message = error.to_string();
    let new = |code| Failure::new(code, message.clone());
    let failure = match error {
        InstallError::Unreachable { why, .. } => {
            new(ErrorCode::SourceUnreachable).hint(reach(source)).with("cause", why)
        }
        InstallError::ScriptFailed { why, output } => {
            new(ErrorCode::SourceUnreachable).hint(reach(source)).with("cause", why).with("output", output)
        }
        InstallError::VersionNotFound { version, found, .. } => new(ErrorCode::VersionNotFound)
            .hint(match source {
                Some(Source::Directory(_) | Source::File(_)) => "--source npm installs any published version",
                _ => "`npm view @openai/codex versions` lists the versions of npm",
            })
            .with("version", version)
            .with("found", found),
        InstallError::DigestMismatch { subject, expected, found, digest } => new(ErrorCode::DigestMismatch)
            .hint("the package was changed or damaged on its way, and was not used; try again, or use another source")
            .with("subject", subject)
            .with("digest", digest)
            .with("expected", expected)
            .with("found", found),
        InstallError::ArchiveInvalid { path, why } => new(ErrorCode::ArchiveInvalid)
            .hint(format!("{UNCHANGED}; get the package again, or use another source"))
            .with("cause", why)
            .with("path", path.to_string_lossy().into_owned()),
        InstallError::TooLarge { path, .. } => new(ErrorCode::ArchiveTooLarge)
            .hint(format!("{UNCHANGED}; a release of Codex is far smaller"))
            .with("path", path.to_string_lossy().into_owned()),
        InstallError::Incomplete { why } => new(ErrorCode::ReleaseIncomplete)
            .hint(format!("{UNCHANGED}; use a package of Codex for this machine"))
            .with("cause", why),
        InstallError::OtherVersion { expected, found } => new(ErrorCode::CandidateUnfit)
            .hint(format!("{UNCHANGED}; use another package"))
            .with("expected", expected)
            .with("found", found),
        InstallError::Older { offered, current, .. } => new(ErrorCode::DowngradeRefused)
            .hint(format!("`codexd install {offered}` installs that version all the same"))
            .with("offered", offered)
            .with("current", current),
        InstallError::Locked { path, waited, holder } => new(ErrorCode::InstallLocked)
            .hint("let that installer finish or end it, or wait longer with --lock-timeout SECONDS")
            .with("path", path.to_string_lossy().into_owned())
            .with("waitedSeconds", waited.as_secs())
            .with("holder", holder),
        InstallError::TimedOut { waited, .. } => new(ErrorCode::DownloadTimeout)
            .hint(format!("{UNCHANGED}; run the command again on a faster network, or use directory:PATH or file:PATH"))
            .with("waitedSeconds", waited.as_secs()),
        InstallError::NoTarget => new(ErrorCode::UnsupportedPlatform)
            .hint("build Codex yourself, and select it with --codex-bin or the setting codexBin"),
        InstallError::File { what, path, error } => return failures::state(what, &path, &error),
        InstallError::Stopped(_) => new(ErrorCode::Internal),
    };
    failure.with("source", source.map(ToString::to_string))
}

/// How a source may be reached.
fn reach(source: Option<&Source>) -> &'static str {
    match source {
        Some(Source::Npm) | None => {
            "check that npm is installed and that `npm view @openai/codex version` works, or use --source directory:PATH or \
             file:PATH"
        }
        Some(Source::Official(_)) => {
            "check the network and HTTPS_PROXY, or use --source npm, directory:PATH or file:PATH"
        }
        Some(Source::Script(None)) => {
            "check that https://chatgpt.com/codex/install.sh can be reached, or use --source npm, directory:PATH or file:PATH"
        }
        Some(Source::Script(Some(_))) => {
            "`output` in JSON has what the installer printed; correct the cause, or use another source"
        }
        Some(Source::Directory(_) | Source::File(_)) => {
            "correct the path in --source or the setting install.source"
        }
    }
}
