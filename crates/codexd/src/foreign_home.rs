//! A home that another user owns: refused unless it is allowed. If root is allowed, the command runs again as that user, so
//! that it has no more rights than the user.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::ownership::ForeignOwner;
use codexd_host::{Home, home_ownership, users};

use crate::cli::Global;
use crate::failures;
use crate::own_binary::own_binary;

/// Lists the homes of other users that are allowed, separated like the folders of `PATH`.
const ALLOWED_HOMES: &str = "CODEXD_FOREIGN_HOMES";

/// Variables that describe the session of root, not of the owner.
const OF_THE_SESSION: [&str; 5] =
    ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS", "MAIL"];

/// Checks who owns the home. If root is allowed to use it, this function does not return: the command runs again as the owner.
///
/// # Errors
/// [`ErrorCode::ForeignOwner`]; the error of the file system.
pub fn check(global: &Global, home: &Home) -> Result<(), Failure> {
    let Err(error) = home_ownership::check_home(home) else { return Ok(()) };
    let Some(found) = ForeignOwner::of(&error) else {
        return Err(failures::state("examine", home.root(), &error));
    };
    if found.path != home.root() {
        return Err(failures::foreign_owner(found));
    }
    if !global.allow_foreign_owner && !is_allowed(home) {
        return Err(failures::foreign_home(home.root(), found));
    }
    if rustix::process::geteuid().is_root() {
        return Err(become_owner(home, found.uid));
    }
    // Another user may own the home, but not the folders of codexd in it.
    home_ownership::check_state(home).map_err(|error| failures::state("examine", home.root(), &error))
}

fn is_allowed(home: &Home) -> bool {
    let named = std::env::var_os(ALLOWED_HOMES).unwrap_or_default();
    std::env::split_paths(&named).any(|path| path.canonicalize().is_ok_and(|path| path == home.root()))
}

/// Runs this command again as the owner of the home, without supplementary groups. Returns only if that fails.
fn become_owner(home: &Home, uid: u32) -> Failure {
    let codexd = match own_binary() {
        Ok(codexd) => codexd,
        Err(failure) => return failure,
    };
    let user = users::find(uid);
    let gid = user.as_ref().map(|user| user.gid).or_else(|| Some(home.root().metadata().ok()?.gid()));
    let mut command = Command::new(&codexd);
    command.args(std::env::args_os().skip(1)).uid(uid).gid(gid.unwrap_or(uid));
    for name in OF_THE_SESSION {
        command.env_remove(name);
    }
    command.env("CODEX_HOME", home.root());
    match &user {
        Some(user) => command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name),
        None => command.env("HOME", folder_of(home.root(), uid)).env_remove("USER").env_remove("LOGNAME"),
    };
    let error = command.exec();
    let message = format!("failed to run {} as {}: {error}", codexd.display(), users::named(uid));
    Failure::new(ErrorCode::ForeignOwner, message)
        .hint("install codexd where that user may execute it, such as /usr/local/bin")
        .with("path", codexd.to_string_lossy().into_owned())
        .with("uid", uid)
}

/// The home folder of a user without an entry in `/etc/passwd`: the parent of the Codex home, or the Codex home.
fn folder_of(home: &Path, uid: u32) -> PathBuf {
    let above = home.parent().filter(|above| above.metadata().is_ok_and(|found| found.uid() == uid));
    above.unwrap_or(home).to_owned()
}
