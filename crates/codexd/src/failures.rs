//! From what went wrong underneath to what the caller is told.

use std::io::{self, ErrorKind};
use std::path::Path;

use codexd_core::contract::status::LastExit;
use codexd_core::contract::{CodexSource, ErrorCode, Failure};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::Refusal;
use codexd_host::Home;
use codexd_host::elsewhere::{Elsewhere, Place};
use codexd_host::lock::LockError;
use codexd_host::service::keeper::LinkError;
use codexd_host::strays::MARK;
use codexd_release::{NotFound, VersionError};
use serde_json::{Value, json};

/// A file of the state could not be read or written.
pub fn state(what: &str, path: &Path, error: &io::Error) -> Failure {
    let message = format!("failed to {what} {}: {error}", path.display());
    let failure = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Failure::new(ErrorCode::DiskFull, message).hint("make room on the disk and run the command again")
        }
        ErrorKind::ReadOnlyFilesystem
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => Failure::new(ErrorCode::StateUnwritable, message).hint(
            "the folder must be writable for the user who runs codexd; status and version work without",
        ),
        _ => Failure::new(ErrorCode::Internal, message),
    };
    failure.with("path", path.to_string_lossy().into_owned())
}

/// The operation lock was not taken.
pub fn lock(path: &Path, error: &LockError) -> Failure {
    match error {
        LockError::Timeout { waited_seconds, holder } => {
            let by = holder.clone().unwrap_or_else(|| "an unknown process".to_owned());
            Failure::new(
                ErrorCode::LockTimeout,
                format!("waited {waited_seconds} s for another command on this home: {by}"),
            )
            .hint("let it finish or end it, or wait longer with --lock-timeout SECONDS")
            .with("holder", holder.clone())
            .with("waitedSeconds", *waited_seconds)
        }
        LockError::File(error) => state("lock", path, error),
    }
}

/// The keeper did not play along.
pub fn keeper(error: &LinkError) -> Failure {
    if let LinkError::System(error) = error
        && matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
        )
    {
        return state("start the keeper in", Path::new("the state folder"), error);
    }
    Failure::new(ErrorCode::KeeperFailed, format!("{error}"))
        .hint("run the command again; keeper.log in the state folder has the keeper's last words")
}

/// The keeper lives and says nothing.
pub fn keeper_hangs(keeper: &Process) -> Failure {
    let message = format!("the keeper (pid {}) does not answer any more", keeper.pid);
    Failure::new(ErrorCode::KeeperFailed, message)
        .hint("run the command again: it ends that keeper and goes on with another one")
        .with("pid", keeper.pid.0)
}

/// No Codex to run.
pub fn no_codex(error: &NotFound) -> Failure {
    let looked: Vec<Value> = error
        .looked_at
        .iter()
        .map(|looked| json!({"path": looked.path.to_string_lossy(), "why": looked.why}))
        .collect();
    let last = error.looked_at.last().map(|looked| (looked.path.display().to_string(), looked.why.clone()));
    let failure = match (last, error.unusable, error.named) {
        (Some((path, why)), true, _) => {
            Failure::new(ErrorCode::CodexBroken, format!("the Codex at {path} cannot be run: {why}"))
                .hint("repair that installation, or name another Codex with --codex-bin")
        }
        (Some((path, why)), _, Some(CodexSource::Record)) => Failure::new(
            ErrorCode::CodexNotFound,
            format!("the Codex that --codex-bin named for the running app-server is {why}: {path}"),
        )
        .hint("install it again or name another one with --codex-bin; `codexd stop` forgets it"),
        (Some((path, why)), _, Some(source)) => {
            let by = if source == CodexSource::Named { "--codex-bin" } else { "the setting codexBin" };
            Failure::new(ErrorCode::CodexNotFound, format!("the Codex that was named is {why}: {path}"))
                .hint(format!("check {by}"))
        }
        _ => Failure::new(
            ErrorCode::CodexNotFound,
            format!("no Codex was found in {} places on this machine", error.looked_at.len()),
        )
        .hint(
            "install one with `npm install -g @openai/codex`, or run `codexd up` to try the built-in server",
        ),
    };
    failure.with("lookedAt", looked)
}

/// A Codex that does not tell its version.
pub fn broken_codex(error: &VersionError) -> Failure {
    let (code, hint) = match error {
        VersionError::Slow { .. } => (
            ErrorCode::CodexSlow,
            "the machine is busy or its disk is slow: run the command again; nothing was changed",
        ),
        _ => (
            ErrorCode::CodexBroken,
            "repair the installation, or name another Codex with --codex-bin; nothing was changed",
        ),
    };
    Failure::new(code, format!("{error}")).hint(hint)
}

/// The decision was to go no further.
pub fn refusal(refusal: Refusal, socket: &Path) -> Failure {
    let socket_text = socket.display();
    let (failure, pid) = match refusal {
        Refusal::Unmanaged(pid) => (
            Failure::new(
                ErrorCode::UnmanagedServer,
                format!("an app-server that codexd does not manage{} is on {socket_text}", by(pid)),
            )
            .hint("`codexd start --adopt` takes it under management without stopping it"),
            pid,
        ),
        Refusal::Occupied(pid) => (
            Failure::new(
                ErrorCode::SocketOccupied,
                format!("somebody{} listens on {socket_text} and does not answer as an app-server", by(pid)),
            )
            .hint("end that process; codexd does not touch what it does not manage"),
            pid,
        ),
        Refusal::NoSocket => (
            Failure::new(ErrorCode::SocketOccupied, format!("{socket_text} is there and is not a socket"))
                .hint("move that file away; codexd does not remove what it did not make"),
            None,
        ),
    };
    failure.with("pid", pid.map(|pid| pid.0)).with("socketPath", socket.to_string_lossy().into_owned())
}

fn by(pid: Option<Pid>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The home is served from where nothing can be identified, and so nothing is touched.
pub fn elsewhere(home: &Home, found: &Elsewhere) -> Failure {
    let place = match found.place {
        Place::PidNamespace => "pid-namespace",
        Place::Host => "host",
        Place::Unidentified => "unknown",
    };
    let message = format!("{}; nothing was changed", elsewhere_sentence(home, found));
    let hint = match std::env::var_os(MARK) {
        Some(_) if found.place == Place::PidNamespace => {
            "this is a tool call in a sandbox: run the command outside of the sandbox, with the approval of the user"
        }
        _ => {
            "run the command there; `status` and `version` work here; once nothing serves the home there, `codexd start` works here"
        }
    };
    Failure::new(ErrorCode::RunningElsewhere, message)
        .hint(hint)
        .with("where", place)
        .with("hostName", found.host_name.clone())
}

/// Where a home is served.
pub fn elsewhere_sentence(home: &Home, found: &Elsewhere) -> String {
    let place = match found.place {
        Place::PidNamespace => "in another pid namespace: in a container, or on the host of this one",
        Place::Host => "on another host",
        Place::Unidentified => "by a process that cannot be identified from here",
    };
    let at = found.host_name.as_ref().map(|host| format!(" (host name {host})")).unwrap_or_default();
    format!("{} is served {place}{at}", home.root().display())
}

/// The server ended before it answered.
pub fn server_exited(exit: &LastExit) -> Failure {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    };
    let last = exit.stderr_tail.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
    Failure::new(
        ErrorCode::ServerExited,
        format!("the app-server (pid {}) {how} before it answered{last}", exit.pid),
    )
    .hint("stderrTail has its last words, `codexd logs` everything it wrote")
    .with("pid", exit.pid.0)
    .with("exitCode", exit.code)
    .with("signal", exit.signal)
    .with("stderrTail", exit.stderr_tail.clone())
}
