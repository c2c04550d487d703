//! Releases from the official server, or from GitHub if that cannot be reached. Each file is verified by the one before it: the metadata of the
//! release states the digest of `codex-package_SHA256SUMS`, and that states the digest of the package.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::archive::Bounds;
use crate::digest::sha256_of_bytes;
use crate::error::InstallError;
use crate::limits::{METADATA_BYTES_MAX, SUMS_BYTES_MAX};
use crate::source::http::{Http, HttpError, Timeouts};
use crate::source::{Wanted, is_version};
use crate::step::{Observer, Phase, Progress};

/// The official server.
pub const BASE: &str = "https://releases.openai.com/codex";
const SUMS: &str = "codex-package_SHA256SUMS";

/// Where the files of a release are.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// `<base>/channels/latest`, `<base>/releases/<version>/…`
    Server(String),
    GitHub,
}

/// A release that a server has.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its version.
    pub version: String,
    place: Place,
    sums: String,
    archive: Option<String>,
    timeouts: Timeouts,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    tag_name: Option<String>,
    #[serde(default)]
    assets: Vec<Asset>,
}

#[derive(Debug, Deserialize)]
struct Asset {
    name: String,
    digest: Option<String>,
}

impl Metadata {
    /// The SHA-256 of a file, in lower case.
    fn digest_of(&self, name: &str) -> Option<String> {
        let asset = self.assets.iter().find(|asset| asset.name == name)?;
        asset.digest.as_deref()?.strip_prefix("sha256:").and_then(hex_digest)
    }
}

fn hex_digest(text: &str) -> Option<String> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| text.to_ascii_lowercase())
}

impl Place {
    fn metadata(&self, wanted: &Wanted) -> String {
        match (self, wanted) {
            (Place::Server(base), Wanted::Newest) => format!("{base}/channels/latest"),
            (Place::Server(base), Wanted::Version(version)) => {
                format!("{base}/releases/{version}/release.json")
            }
            (Place::GitHub, Wanted::Newest) => {
                "https://api.github.com/repos/openai/codex/releases/latest".to_owned()
            }
            (Place::GitHub, Wanted::Version(version)) => {
                format!("https://api.github.com/repos/openai/codex/releases/tags/rust-v{version}")
            }
        }
    }

    fn file(&self, version: &str, name: &str) -> String {
        match self {
            Place::Server(base) => format!("{base}/releases/{version}/{name}"),
            Place::GitHub => {
                format!("https://github.com/openai/codex/releases/download/rust-v{version}/{name}")
            }
        }
    }

    fn base(&self) -> &str {
        match self {
            Place::Server(base) => base,
            Place::GitHub => "https://github.com",
        }
    }
}

fn archive_name(target: &str) -> String {
    format!("codex-package-{target}.tar.gz")
}

fn unreachable(base: &str, why: impl Into<String>) -> InstallError {
    InstallError::Unreachable { source_name: base.to_owned(), why: why.into() }
}

/// Asks the server for a version; if `base` is not set, the official one, and GitHub if that cannot be reached.
///
/// # Errors
/// No answer, no such version, or no digests.
pub fn look_up(
    base: Option<&str>,
    wanted: &Wanted,
    timeouts: Timeouts,
    observer: &mut dyn Observer,
) -> Result<Release, InstallError> {
    let first = Place::Server(base.unwrap_or(BASE).trim_end_matches('/').to_owned());
    match look_up_at(first, wanted, timeouts, observer) {
        Err(InstallError::Unreachable { why, .. }) if base.is_none() => {
            look_up_at(Place::GitHub, wanted, timeouts, observer).map_err(|error| match error {
                InstallError::Unreachable { why: second, .. } => {
                    unreachable("official", format!("{why}; {second}"))
                }
                other => other,
            })
        }
        other => other,
    }
}

fn look_up_at(
    place: Place,
    wanted: &Wanted,
    timeouts: Timeouts,
    observer: &mut dyn Observer,
) -> Result<Release, InstallError> {
    let url = place.metadata(wanted);
    observer.progress(Progress { phase: Phase::Resolving, subject: &url, done: None, total: None });
    let name = |wanted: &Wanted| match wanted {
        Wanted::Newest => "latest".to_owned(),
        Wanted::Version(version) => version.clone(),
    };
    let not_found = |found: Option<String>| InstallError::VersionNotFound {
        source_name: place.base().to_owned(),
        version: name(wanted),
        found,
    };
    let text =
        Http::new(place.base(), timeouts).read(&url, METADATA_BYTES_MAX).map_err(|error| match error {
            HttpError::NotFound => not_found(None),
            HttpError::Failed(why) => unreachable(place.base(), why),
            HttpError::Install(error) => error,
        })?;
    let unusable = |why: &str| unreachable(place.base(), format!("{url}: {why}"));
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| unusable(&error.to_string()))?;
    let version = metadata.tag_name.as_deref().map(|tag| tag.strip_prefix("rust-v").unwrap_or(tag));
    let version =
        version.filter(|version| is_version(version)).ok_or_else(|| unusable("it names no version"))?;
    if let Wanted::Version(wanted) = wanted
        && wanted != version
    {
        return Err(not_found(Some(version.to_owned())));
    }
    let target = crate::npm::target().ok_or(InstallError::NoTarget)?;
    let sums = metadata.digest_of(SUMS).ok_or_else(|| unusable(&format!("it states no digest of {SUMS}")))?;
    let archive = metadata.digest_of(&archive_name(target));
    Ok(Release { version: version.to_owned(), sums, archive, timeouts, place })
}

/// Downloads the package into `into`, and returns it with the SHA-256 that it must have, in hexadecimal.
///
/// # Errors
/// A digest differs; the server cannot be reached; the package is too large.
pub fn fetch(
    release: &Release,
    into: &Path,
    bounds: Bounds,
    observer: &mut dyn Observer,
) -> Result<(PathBuf, String), InstallError> {
    let target = crate::npm::target().ok_or(InstallError::NoTarget)?;
    let http = Http::new(release.place.base(), release.timeouts);
    let failed = |name: &str, error| match error {
        HttpError::NotFound => unreachable(release.place.base(), format!("{name} is not there")),
        HttpError::Failed(why) => unreachable(release.place.base(), why),
        HttpError::Install(error) => error,
    };
    let sums = http
        .read(&release.place.file(&release.version, SUMS), SUMS_BYTES_MAX)
        .map_err(|error| failed(SUMS, error))?;
    compare(SUMS, &release.sums, &sha256_of_bytes(&sums))?;
    let name = archive_name(target);
    let expected = digest_in(&sums, &name).ok_or_else(|| {
        let why = format!("{SUMS} has no digest of {name}");
        InstallError::Incomplete { why }
    })?;
    if let Some(stated) = &release.archive {
        compare(&name, stated, &expected)?;
    }
    let path = into.join(&name);
    let url = release.place.file(&release.version, &name);
    let downloaded = http.download(&url, &path, bounds.archive_bytes, &mut |done, total| {
        observer.progress(Progress { phase: Phase::Fetching, subject: &url, done: Some(done), total });
    });
    downloaded.map_err(|error| failed(&name, error))?;
    Ok((path, expected))
}

fn compare(subject: &str, expected: &str, found: &str) -> Result<(), InstallError> {
    if expected == found {
        return Ok(());
    }
    Err(InstallError::DigestMismatch {
        subject: subject.to_owned(),
        digest: "sha256",
        expected: expected.to_owned(),
        found: found.to_owned(),
    })
}

/// The digest of a file in the output of sha256sum.
fn digest_in(sums: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(sums);
    text.lines().find_map(|line| {
        let (digest, file) = line.split_once(char::is_whitespace)?;
        (file.trim_start().trim_start_matches('*') == name).then(|| hex_digest(digest))?
    })
}

#[cfg(test)]
mod tests;
