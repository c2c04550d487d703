//! Which CODEX_HOME a command works on.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::Home;
use codexd_host::ownership::ForeignOwner;

use crate::cli::Global;
use crate::failures;

/// Finds the home. A home that is named must exist, as for upstream; the default one is created when it is needed.
///
/// # Errors
/// [`ErrorCode::HomeInvalid`].
pub fn resolve(global: &Global) -> Result<Home, Failure> {
    let from_env = || std::env::var_os("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    if let Some(named) = &global.codex_home {
        return existing(named, "--codex-home");
    }
    if let Some(named) = from_env() {
        return existing(&named, "CODEX_HOME");
    }
    let user = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let user = user.filter(|home| home.is_absolute()).ok_or_else(|| {
        Failure::new(
            ErrorCode::HomeInvalid,
            "cannot determine the Codex home: neither CODEX_HOME nor HOME is set to a usable path",
        )
        .hint("set CODEX_HOME to an absolute path")
    })?;
    let home = user.join(".codex");
    match home.symlink_metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            utf8(canonical(&home))
        }
        _ => existing(&home, "HOME"),
    }
}

/// The folder of another user that this user must not enter.
fn closed_by(path: &Path) -> Option<ForeignOwner> {
    let (folder, found) = path.ancestors().find_map(|above| Some((above, above.metadata().ok()?)))?;
    let uid = found.uid();
    (uid != rustix::process::geteuid().as_raw()).then(|| ForeignOwner { path: folder.to_owned(), uid })
}

/// The home at a path that exists.
fn existing(path: &Path, source: &str) -> Result<Home, Failure> {
    let invalid = |why: String, hint: &str| {
        let message = format!("cannot use Codex home {} (from {source}): {why}", path.display());
        let shown = path.to_string_lossy().into_owned();
        Err(Failure::new(ErrorCode::HomeInvalid, message).hint(hint).with("path", shown))
    };
    let make = "create the folder, or select another one with --codex-home or CODEX_HOME";
    match path.canonicalize() {
        Ok(found) if found.is_dir() => utf8(found),
        Ok(_) => invalid("not a folder".to_owned(), "select a folder with --codex-home or CODEX_HOME"),
        Err(error) => match path.read_link() {
            Ok(target) if error.kind() == ErrorKind::NotFound => invalid(
                format!("link to {}, which does not exist", target.display()),
                "create the folder that the link points to, or remove the link",
            ),
            _ if error.kind() == ErrorKind::PermissionDenied => match closed_by(path) {
                Some(found) => Err(failures::foreign_home(path, &found)),
                None => invalid(
                    error.to_string(),
                    "grant the user who runs codexd access to the folders above it",
                ),
            },
            _ => invalid(error.to_string(), make),
        },
    }
}

/// The path without links, the same before and after the folder is created. State that is stored by path (such as the hash in a
/// short socket path) must not depend on that.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => canonical(folder).join(name),
        _ => path.to_owned(),
    })
}

/// The path of the home is part of JSON answers.
fn utf8(home: PathBuf) -> Result<Home, Failure> {
    match home.to_str() {
        Some(_) => Ok(Home::new(home)),
        None => {
            let message = format!("the path of the Codex home is not UTF-8: {}", home.display());
            Err(Failure::new(ErrorCode::HomeInvalid, message)
                .hint("use a UTF-8 path: Codex requires one, too"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn a_home_has_one_path_before_and_after_it_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("there");
        std::fs::create_dir(root.join("real")).expect("made");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("linked");
        for home in [".codex", "new user/.codex"] {
            let before = canonical(&root.join("link").join(home));
            assert_eq!(before, root.join("real").join(home));
            std::fs::create_dir_all(&before).expect("made");
            assert_eq!(canonical(&root.join("link").join(home)), before);
        }
    }
}
