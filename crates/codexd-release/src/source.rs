//! Where a release comes from.

mod copy;
mod http;
mod npm;
mod official;
mod script;

use std::fmt;
use std::path::{Path, PathBuf};

use codexd_core::config::is_release_url;

use crate::archive::Bounds;
use crate::digest::Expected;
use crate::error::InstallError;
use crate::step::{Observer, Phase, Progress};

/// A source of releases.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The npm client of the user.
    Npm,
    /// The official server, or GitHub; or a server with the same files at a URL.
    Official(Option<String>),
    /// The official installer: that of its site, or a copy at a path.
    Script(Option<PathBuf>),
    /// A folder with an unpacked release, or with an unpacked npm package.
    Directory(PathBuf),
    /// A package: a gzipped tar archive of npm or of the official installer.
    File(PathBuf),
}

/// Which version is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// The newest one that the source has.
    Newest,
    /// This one.
    Version(String),
}

impl Wanted {
    /// Reads a version as people write it, such as `0.171.0`, `v0.171.0`, `rust-v0.171.0` or `latest`.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let version = text.strip_prefix("rust-v").or_else(|| text.strip_prefix('v')).unwrap_or(text);
        match version {
            "latest" => Ok(Self::Newest),
            version if is_version(version) => Ok(Self::Version(version.to_owned())),
            _ => Err("expected a version such as 0.171.0, or latest".to_owned()),
        }
    }
}

/// Whether a text is a version of Codex: it becomes the name of a folder.
pub fn is_version(text: &str) -> bool {
    let is_number =
        |part: &str| !part.is_empty() && part.len() < 10 && part.bytes().all(|byte| byte.is_ascii_digit());
    let (numbers, label) =
        text.split_once('-').map_or((text, None), |(numbers, label)| (numbers, Some(label)));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() < 40
            && label
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    numbers.split('.').count() == 3 && numbers.split('.').all(is_number) && label.is_none_or(is_label)
}

impl Source {
    /// Reads `npm`, `official`, `official:URL`, `script`, `script:PATH`, `directory:PATH` or `file:PATH`.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = |path: &str| match path {
            "" => Err(format!("`{text}` has no path")),
            path => std::path::absolute(path).map_err(|error| error.to_string()),
        };
        match text.split_once(':') {
            None if text == "npm" => Ok(Self::Npm),
            None if text == "official" => Ok(Self::Official(None)),
            Some(("official", url)) if is_release_url(url) => Ok(Self::Official(Some(url.to_owned()))),
            Some(("official", _)) => Err("expected an https:// URL".to_owned()),
            None if text == "script" => Ok(Self::Script(None)),
            Some(("script", script)) => path(script).map(|path| Self::Script(Some(path))),
            Some(("directory", folder)) => path(folder).map(Self::Directory),
            Some(("file", file)) => path(file).map(Self::File),
            _ => {
                Err("expected npm, official, official:URL, script, script:PATH, directory:PATH or file:PATH"
                    .to_owned())
            }
        }
    }
}

impl Source {
    /// Whether another machine decides which version is the newest one. A stale or hostile one could offer an old version again.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Directory(_) | Self::File(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npm => out.write_str("npm"),
            Self::Official(None) => out.write_str("official"),
            Self::Official(Some(url)) => write!(out, "official:{url}"),
            Self::Script(None) => out.write_str("script"),
            Self::Script(Some(path)) => write!(out, "script:{}", path.display()),
            Self::Directory(path) => write!(out, "directory:{}", path.display()),
            Self::File(path) => write!(out, "file:{}", path.display()),
        }
    }
}

/// What a source offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its version, if that is known before the package is there.
    pub version: Option<String>,
    package: Package,
}

#[derive(Clone, Debug)]
enum Package {
    Npm(npm::PlatformPackage),
    Official(official::Release),
    Script(script::Script),
    Directory(PathBuf),
    File(PathBuf),
}

/// A package in the staging folder.
#[derive(Debug)]
pub enum Fetched {
    /// An archive.
    Archive {
        /// The file.
        path: PathBuf,
        /// The digest that the source states; none if it states none.
        expected: Option<Expected>,
    },
    /// An unpacked package.
    Folder(PathBuf),
}

/// Asks a source for a version.
///
/// # Errors
/// The source cannot be reached, or does not have it.
pub fn look_up(source: &Source, wanted: &Wanted, observer: &mut dyn Observer) -> Result<Offer, InstallError> {
    let unreachable =
        |why: &str| InstallError::Unreachable { source_name: source.to_string(), why: why.to_owned() };
    match source {
        Source::Npm => {
            let package = npm::look_up(wanted, observer)?;
            Ok(Offer { version: Some(package.version.clone()), package: Package::Npm(package) })
        }
        Source::Official(base) => {
            let release = official::look_up(base.as_deref(), wanted, http::Timeouts::default(), observer)?;
            Ok(Offer { version: Some(release.version.clone()), package: Package::Official(release) })
        }
        Source::Script(Some(path)) if !path.is_file() => Err(unreachable("it is not a file")),
        Source::Script(path) => {
            let version = match wanted {
                Wanted::Version(version) => Some(version.clone()),
                Wanted::Newest => None,
            };
            let script = script::Script { path: path.clone(), version: version.clone() };
            Ok(Offer { version, package: Package::Script(script) })
        }
        Source::Directory(path) if path.is_dir() => {
            Ok(Offer { version: None, package: Package::Directory(path.clone()) })
        }
        Source::File(path) if path.is_file() => {
            Ok(Offer { version: None, package: Package::File(path.clone()) })
        }
        Source::Directory(path) if path.exists() => Err(unreachable("it is not a folder")),
        Source::File(path) if path.exists() => Err(unreachable("it is not a file")),
        Source::Directory(_) | Source::File(_) => Err(unreachable("it does not exist")),
    }
}

/// Brings the package into the folder `into`, which exists and is empty.
///
/// # Errors
/// The source cannot be reached any more; the package is too large; the error of the file system.
pub fn fetch(
    offer: &Offer,
    into: &Path,
    bounds: Bounds,
    observer: &mut dyn Observer,
) -> Result<Fetched, InstallError> {
    match &offer.package {
        Package::Npm(package) => {
            let path = npm::fetch(package, into, observer)?;
            Ok(Fetched::Archive { path, expected: Some(Expected::Sha512(package.sha512.clone())) })
        }
        Package::Official(release) => {
            let (path, sha256) = official::fetch(release, into, bounds, observer)?;
            Ok(Fetched::Archive { path, expected: Some(Expected::Sha256(sha256)) })
        }
        Package::Script(script) => script::fetch(script, into, observer).map(Fetched::Folder),
        // It is read where it is.
        Package::File(path) => Ok(Fetched::Archive { path: path.clone(), expected: None }),
        Package::Directory(path) => {
            let copy = into.join("package");
            let subject = path.to_string_lossy();
            copy::copy_tree(path, &copy, bounds, &mut |done| {
                observer.progress(Progress {
                    phase: Phase::Fetching,
                    subject: &subject,
                    done: Some(done),
                    total: None,
                });
            })?;
            Ok(Fetched::Folder(copy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, Wanted, is_version};

    #[test]
    fn versions_are_read_as_people_write_them_and_name_no_other_folder() {
        for text in ["0.171.0", "v0.171.0", "rust-v0.171.0"] {
            assert_eq!(Wanted::parse(text), Ok(Wanted::Version("0.171.0".to_owned())));
        }
        assert_eq!(Wanted::parse("latest"), Ok(Wanted::Newest));
        assert!(is_version("0.171.0-alpha.2"));
        for text in [
            "",
            "0.171",
            "../0.1.0",
            "0.1.0-../x",
            "0.1.0-a/b",
            "0.1.x",
            "0.1.0-",
            "0.1.0 ",
            "~0.1.0",
            "0.1.0-a..b",
        ] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sources_are_read_and_printed() {
        for text in [
            "npm",
            "official",
            "official:https://x/y",
            "official:http://127.0.0.1:1",
            "script",
            "script:/i.sh",
            "directory:/a b",
            "file:/x.tgz",
        ] {
            assert_eq!(Source::parse(text).expect("valid").to_string(), text);
        }
        for text in [
            "",
            "official:http://example.com",
            "official:file:///x",
            "npm:x",
            "script:",
            "directory:",
            "file",
            "https://x",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        assert!(Source::parse("file:x").expect("valid").to_string().starts_with("file:/"));
    }
}
