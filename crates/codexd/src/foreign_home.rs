//! A home that belongs to another user: refused, unless that was allowed. root then becomes that user, so that no file of the
//! user's is read, written or executed with more rights than the user has.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd_core::contract::{ErrorCode, Failure};
use codexd_host::ownership::{self, ForeignOwner};
use codexd_host::{Home, users};

use crate::cli::Global;
use crate::{failures, launch};

/// Names the homes of other users that may be used, as `PATH` names folders.
const ALLOWED_HOMES: &str = "CODEXD_FOREIGN_HOMES";

/// What describes the session of root and not that of the owner.
const OF_THE_SESSION: [&str; 5] =
    ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS", "MAIL"];

/// Checks to whom the home belongs. Where root may use the home of another user, this does not return: the command starts anew
/// as that user.
///
/// # Errors
/// [`ErrorCode::ForeignOwner`]; what the file system said.
pub fn check(global: &Global, home: &Home) -> Result<(), Failure> {
    let Err(error) = ownership::check_home(home) else { return Ok(()) };
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
    // The folder may be another user's, what codexd keeps in it may not.
    ownership::check_state(home).map_err(|error| failures::state("examine", home.root(), &error))
}

fn is_allowed(home: &Home) -> bool {
    let named = std::env::var_os(ALLOWED_HOMES).unwrap_or_default();
    std::env::split_paths(&named).any(|path| path.canonicalize().is_ok_and(|path| path == home.root()))
}

/// Starts this command anew as the owner of the home, without supplementary groups; returns why that failed.
fn become_owner(home: &Home, uid: u32) -> Failure {
    let codexd = match launch::myself() {
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

/// The home folder of a user whom `/etc/passwd` does not name: where the Codex home lies, or that itself.
fn folder_of(home: &Path, uid: u32) -> PathBuf {
    let above = home.parent().filter(|above| above.metadata().is_ok_and(|found| found.uid() == uid));
    above.unwrap_or(home).to_owned()
}
