//! The real Codex releases, from npm, in a cache outside the checkout.
//!
//! The cache is `$CODEXD_TEST_CACHE`, else `$XDG_CACHE_HOME/codexd-tests`, else `~/.cache/codexd-tests`. A release lies
//! in `codex-<version>/node_modules/…`. It is installed beside its place and renamed into it under a lock, so parallel
//! tests and a killed install leave nothing half there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::{limits, run};

/// A release that tests run against.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Version {
    /// The first release with `codex app-server daemon`.
    V0_131_0,
    /// The release whose behavior codexd was built on.
    V0_169_0,
    /// The newest reference release.
    V0_171_0,
}

impl Version {
    /// Every release, oldest first.
    pub const ALL: [Version; 3] = [Version::V0_131_0, Version::V0_169_0, Version::V0_171_0];

    /// The newest one: what is tested or measured with one release only.
    pub const NEWEST: Version = Version::V0_171_0;

    /// The version as npm and `codex --version` write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_131_0 => "0.131.0",
            Version::V0_169_0 => "0.169.0",
            Version::V0_171_0 => "0.171.0",
        }
    }

    /// Where the native binary lies below `vendor/<triple>` of its npm package.
    fn vendor_path(self) -> &'static str {
        match self {
            Version::V0_131_0 => "codex/codex",
            Version::V0_169_0 | Version::V0_171_0 => "bin/codex",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The npm platform and the target triple of this machine, or why there is no release for it.
///
/// # Errors
/// A sentence for [`skip!`](crate::skip!) when Codex publishes nothing for this processor.
pub fn platform() -> Result<(&'static str, &'static str), String> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("linux-x64", "x86_64-unknown-linux-musl")),
        "aarch64" => Ok(("linux-arm64", "aarch64-unknown-linux-musl")),
        other => Err(format!("there is no Codex release for {other}")),
    }
}

/// The native binary of `version`, installed with npm if it is not in the cache yet.
///
/// # Errors
/// No release for this machine; no npm; npm's own failure with the end of what it said.
pub fn binary(version: Version) -> anyhow::Result<PathBuf> {
    binary_in(&cache_folder()?, version, OsStr::new("npm"))
}

fn binary_in(cache: &Path, version: Version, npm: &OsStr) -> anyhow::Result<PathBuf> {
    if let Some(found) = find(cache, version)? {
        return Ok(found);
    }
    fs::create_dir_all(cache).with_context(|| format!("failed to create {}", cache.display()))?;
    let lock = File::create(cache.join(format!("codex-{version}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if let Some(found) = find(cache, version)? {
        return Ok(found);
    }
    install(cache, version, npm)?;
    find(cache, version)?.with_context(|| format!("npm installed Codex {version} without a native binary"))
}

/// The native binary of `version` if it is in the cache.
///
/// # Errors
/// No release for this machine, or no cache.
pub fn cached(version: Version) -> anyhow::Result<Option<PathBuf>> {
    find(&cache_folder()?, version)
}

/// The folder that releases are cached in.
///
/// # Errors
/// None of the variables that could name it is set.
pub fn cache_folder() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    if let Some(own) = set("CODEXD_TEST_CACHE") {
        return Ok(own.into());
    }
    if let Some(cache) = set("XDG_CACHE_HOME") {
        return Ok(Path::new(&cache).join("codexd-tests"));
    }
    let home = set("HOME").context("set CODEXD_TEST_CACHE: neither it nor XDG_CACHE_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/codexd-tests"))
}

fn find(cache: &Path, version: Version) -> anyhow::Result<Option<PathBuf>> {
    let (package, triple) = platform().map_err(anyhow::Error::msg)?;
    let modules = cache.join(format!("codex-{version}/node_modules/@openai"));
    let inside = Path::new("vendor").join(triple).join(version.vendor_path());
    let hoisted = modules.join(format!("codex-{package}"));
    let nested = modules.join(format!("codex/node_modules/@openai/codex-{package}"));
    Ok([hoisted, nested].into_iter().map(|base| base.join(&inside)).find(|path| path.is_file()))
}

fn install(cache: &Path, version: Version, npm: &OsStr) -> anyhow::Result<()> {
    let place = cache.join(format!("codex-{version}"));
    let staging = tempfile::Builder::new().prefix(&format!(".codex-{version}-")).tempdir_in(cache)?;
    let mut npm = Command::new(npm);
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(staging.path())
        .arg(format!("@openai/codex@{version}"));
    let done = run::run(npm, limits::INSTALL)
        .context("failed to run npm; install Node.js with npm (Debian: apt-get install nodejs npm)")?;
    if !done.success() {
        bail!("npm failed to install @openai/codex@{version}: {done}");
    }
    if place.exists() {
        fs::remove_dir_all(&place)
            .with_context(|| format!("failed to remove the broken {}", place.display()))?;
    }
    fs::rename(staging.path(), &place)
        .with_context(|| format!("failed to move the release to {}", place.display()))?;
    ensure!(place.is_dir(), "{} is not there after the install", place.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::{Version, binary_in, platform};

    /// An npm that writes down each call, and installs a release unless told to fail.
    fn npm(folder: &Path, fails: bool) -> PathBuf {
        let path = folder.join("npm");
        let (package, triple) = platform().expect("the tests skip elsewhere");
        let end = if fails { "echo 'no such package' >&2; exit 1" } else { "touch \"$to/bin/codex\"" };
        let script = format!(
            "#!/bin/sh\necho called >> {}/calls\nto=$5/node_modules/@openai/codex-{package}/vendor/{triple}\n\
             mkdir -p \"$to/bin\"\n{end}\n",
            folder.display()
        );
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    #[test]
    fn callers_at_once_install_once() {
        if let Err(reason) = platform() {
            crate::skip!("{reason}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (npm, cache) = (npm(folder.path(), false), folder.path().join("cache"));
        std::thread::scope(|scope| {
            let call = || binary_in(&cache, Version::V0_169_0, npm.as_os_str()).expect("installed");
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
            assert!(calls.into_iter().all(|call| call.join().expect("no panic").is_file()));
        });
        assert_eq!(fs::read_to_string(folder.path().join("calls")).expect("calls"), "called\n");
    }

    #[test]
    fn a_failed_install_says_why_and_leaves_nothing_that_looks_like_a_release() {
        if let Err(reason) = platform() {
            crate::skip!("{reason}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (npm, cache) = (npm(folder.path(), true), folder.path().join("cache"));
        let error = binary_in(&cache, Version::V0_169_0, npm.as_os_str()).expect_err("npm failed");
        assert!(error.to_string().contains("no such package"), "{error:#}");
        assert!(!cache.join("codex-0.169.0").exists());
    }
}
