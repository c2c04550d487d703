//! The failures of commands: code, sentence, hint and fields for each cause.

use std::io::{self, ErrorKind};
use std::path::Path;

use codexd_core::contract::status::LastExit;
use codexd_core::contract::{Backend, CodexSource, ErrorCode, Failure};
use codexd_core::foreign_text::{self, quote};
use codexd_core::identity::{Pid, Process};
use codexd_core::lifecycle::Refusal;
use codexd_core::plural::counted;
use codexd_host::elsewhere::{Elsewhere, Place};
use codexd_host::lock::LockError;
use codexd_host::orphans::GENERATION_VARIABLE;
use codexd_host::ownership::ForeignOwner;
use codexd_host::service::backend;
use codexd_host::service::supervisor::ConnectionError;
use codexd_host::service::supervisor::{self, former_names, upgrade::UpgradeError};
use codexd_host::service::systemd::{SystemctlError, UnitNames};
use codexd_host::{Home, process, users};
use codexd_release::{NotFound, VersionError};
use rustix::io::Errno;
use serde_json::{Value, json};

/// The hint for a full disk.
pub const MAKE_ROOM: &str = "free disk space, then run the command again";

/// A state file could not be read or written.
pub fn state(what: &str, path: &Path, error: &io::Error) -> Failure {
    if let Some(found) = ForeignOwner::of(error) {
        return foreign_owner(found);
    }
    let message = format!("failed to {what} {}: {error}", path.display());
    let failure = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Failure::new(ErrorCode::DiskFull, message).hint(MAKE_ROOM)
        }
        // Not a regular file, or too large for a state file.
        ErrorKind::InvalidInput | ErrorKind::IsADirectory | ErrorKind::FileTooLarge => {
            Failure::new(ErrorCode::StateUnwritable, message)
                .hint("move that file or folder away, then run the command again")
        }
        ErrorKind::ReadOnlyFilesystem
        | ErrorKind::PermissionDenied
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists => Failure::new(ErrorCode::StateUnwritable, message).hint(
            "make the folder writable for the user who runs codexd; `status` and `version` work without it",
        ),
        _ => Failure::new(ErrorCode::Internal, message),
    };
    failure.with("path", path.to_string_lossy().into_owned())
}

/// Another user owns a folder or a file of codexd.
pub fn foreign_owner(found: &ForeignOwner) -> Failure {
    foreign(format!("{found}; codexd does not read or write files of another user"), found.uid)
        .hint("move it away, then run the command again")
        .with("path", found.path.to_string_lossy().into_owned())
}

/// Another user owns the home.
pub fn foreign_home(home: &Path, found: &ForeignOwner) -> Failure {
    let me = rustix::process::geteuid().as_raw();
    let home = home.display();
    let message = format!("cannot use Codex home {home}: {found}, and codexd runs as {}", users::named(me));
    let hint = if me == 0 {
        format!(
            "run the command as its owner: `{} codexd …`; in a container, --allow-foreign-owner does this",
            as_user(found.uid)
        )
    } else {
        "use a home of your own with --codex-home or CODEX_HOME, or allow this one with --allow-foreign-owner"
            .to_owned()
    };
    foreign(message, found.uid).hint(hint).with("path", found.path.to_string_lossy().into_owned())
}

fn foreign(message: String, uid: u32) -> Failure {
    let owner = users::find(uid).map(|user| user.name);
    Failure::new(ErrorCode::ForeignOwner, message).with("uid", uid).with("owner", owner)
}

/// A command line that runs the command behind it as a user.
fn as_user(uid: u32) -> String {
    match users::find(uid) {
        Some(user) => format!("runuser -u {} --", user.name),
        None => format!("setpriv --reuid {uid} --regid {uid} --clear-groups --"),
    }
}

/// The operation lock could not be taken.
pub fn lock(path: &Path, error: &LockError) -> Failure {
    match error {
        LockError::Timeout { waited_seconds, holder } => {
            let by = holder.clone().unwrap_or_else(|| "an unknown process".to_owned());
            Failure::new(
                ErrorCode::LockTimeout,
                format!("gave up after {waited_seconds} s: the lock of this home is held by {by}"),
            )
            .hint("let that command finish or end it, or wait longer with --lock-timeout SECONDS")
            .with("holder", holder.clone())
            .with("waitedSeconds", *waited_seconds)
        }
        LockError::File(error) => state("lock", path, error),
    }
}

/// A call of the service manager failed.
pub fn service_manager(error: &SystemctlError) -> Failure {
    Failure::new(ErrorCode::ServiceManagerFailed, error.to_string())
        .hint("`systemctl --user status` shows the state of the user manager; `codexd bootstrap --backend pid` works without one")
}

/// The supervisor could not be started, or communication with it failed.
pub fn supervisor(home: &Home, error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::System(error)
            if matches!(
                error.kind(),
                ErrorKind::StorageFull
                    | ErrorKind::QuotaExceeded
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::PermissionDenied
                    | ErrorKind::NotADirectory
                    | ErrorKind::AlreadyExists
                    | ErrorKind::InvalidInput
            ) =>
        {
            return state("start the supervisor in", &home.state_dir(), error);
        }
        ConnectionError::Refused(refused) => {
            return supervisor_refused(home, &refused.message, refused.errno);
        }
        _ => {}
    }
    Failure::new(ErrorCode::SupervisorFailed, format!("{error}"))
        .hint("run the command again; `codexd logs --process supervisor` shows its last messages")
}

/// A supervisor that was just started cannot run in this home.
fn supervisor_refused(home: &Home, message: &str, errno: Option<i32>) -> Failure {
    let folder = home.state_dir();
    let message = format!("the supervisor cannot run in {}: {message}", folder.display());
    let (code, hint) = match errno.map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => (ErrorCode::DiskFull, MAKE_ROOM),
        // The errors of bind(2) on a file system without Unix sockets.
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NAMETOOLONG) => (
            ErrorCode::StateUnwritable,
            "this folder cannot hold Unix sockets: use a home on a local file system, with a shorter path",
        ),
        Some(Errno::ROFS | Errno::ACCESS | Errno::ISDIR | Errno::NOTDIR) => (
            ErrorCode::StateUnwritable,
            "move conflicting files away, and make the folder writable for the user who runs codexd",
        ),
        _ => (
            ErrorCode::SupervisorFailed,
            "run the command again; `codexd logs --process supervisor` shows its last messages",
        ),
    };
    Failure::new(code, message)
        .hint(hint)
        .with("path", folder.to_string_lossy().into_owned())
        .with("errno", errno)
}

/// The supervisor could not start the app-server.
pub fn not_started(message: String, errno: Option<i32>) -> Failure {
    let failure = match errno.map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Failure::new(ErrorCode::DiskFull, message).hint(MAKE_ROOM),
        Some(Errno::ROFS) => Failure::new(ErrorCode::StateUnwritable, message)
            .hint("make the state folder writable for the user who runs codexd"),
        _ => Failure::new(ErrorCode::SpawnFailed, message),
    };
    failure.with("errno", errno)
}

/// The supervisor runs but does not respond.
pub fn supervisor_hangs(supervisor: &Process) -> Failure {
    let message = format!("the supervisor (pid {}) stopped responding", supervisor.pid);
    Failure::new(ErrorCode::SupervisorFailed, message)
        .hint("run the command again; it replaces that supervisor")
        .with("pid", supervisor.pid.0)
}

/// No usable Codex was found.
pub fn no_codex(error: &NotFound) -> Failure {
    let looked: Vec<Value> = error
        .looked_at
        .iter()
        .map(|looked| json!({"path": looked.path.to_string_lossy(), "why": looked.why}))
        .collect();
    let last = error.looked_at.last().map(|looked| (looked.path.display().to_string(), looked.why.clone()));
    let failure = match (last, error.unusable, error.named) {
        (Some((path, why)), true, _) => {
            Failure::new(ErrorCode::CodexBroken, format!("cannot run Codex at {path}: {why}"))
                .hint("repair that installation, or select another Codex with --codex-bin")
        }
        (Some((path, why)), _, Some(CodexSource::Record)) => Failure::new(
            ErrorCode::CodexNotFound,
            format!("Codex binary of the running app-server (from --codex-bin) {why}: {path}"),
        )
        .hint(
            "install it again or select another one with --codex-bin; `codexd stop` discards the selection",
        ),
        (Some((path, why)), _, Some(source)) => {
            let by = if source == CodexSource::Named { "--codex-bin" } else { "the setting codexBin" };
            Failure::new(ErrorCode::CodexNotFound, format!("Codex binary (from {by}) {why}: {path}"))
                .hint(format!("correct the path in {by}"))
        }
        _ => Failure::new(
            ErrorCode::CodexNotFound,
            format!("Codex not found (searched {})", counted(error.looked_at.len(), "location")),
        )
        .hint("install Codex with `codexd install`, or run `codexd up` to try the built-in server"),
    };
    failure.with("lookedAt", looked)
}

/// Codex does not print its version.
pub fn broken_codex(error: &VersionError) -> Failure {
    let (code, hint) = match error {
        VersionError::Slow { .. } => (
            ErrorCode::CodexSlow,
            "the machine is busy or its disk is slow: run the command again; nothing has changed",
        ),
        _ => (
            ErrorCode::CodexBroken,
            "repair the installation, or select another Codex with --codex-bin; nothing has changed",
        ),
    };
    let failure = Failure::new(code, format!("{error}")).hint(hint);
    match error {
        VersionError::Odd { printed, .. } => failure.with("printed", printed.clone()),
        _ => failure,
    }
}

/// The decision is to refuse the command.
pub fn refusal(refusal: Refusal, socket: &Path) -> Failure {
    let socket_text = socket.display();
    let (failure, pid) = match refusal {
        Refusal::OtherUser(uid) => {
            let message = format!("{socket_text} is in use by a process of {}", users::named(uid));
            let hint =
                "codexd sends no data to that process; end it, or use a home that only you can write to";
            (foreign(message, uid).hint(hint), None)
        }
        Refusal::Unmanaged(pid) => (
            Failure::new(
                ErrorCode::UnmanagedServer,
                format!("{socket_text} is in use by an app-server{} that codexd does not manage", by(pid)),
            )
            .hint("`codexd start --adopt` adopts it without stopping it"),
            pid,
        ),
        Refusal::Occupied(pid) => (
            Failure::new(
                ErrorCode::SocketOccupied,
                match pid {
                    Some(pid) => format!("{socket_text} is in use by pid {pid}, which is not an app-server"),
                    None => format!("{socket_text} is in use by a process that is not an app-server"),
                },
            )
            .hint("end that process; codexd never signals a process that it does not manage"),
            pid,
        ),
        Refusal::NotASocket => (
            Failure::new(ErrorCode::SocketOccupied, format!("{socket_text} exists but is not a socket"))
                .hint("move that file away; codexd does not remove files that it did not create"),
            None,
        ),
    };
    failure.with("pid", pid.map(|pid| pid.0)).with("socketPath", socket.to_string_lossy().into_owned())
}

fn by(pid: Option<Pid>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The home is served from another pid namespace or host, where processes cannot be identified.
pub fn elsewhere(home: &Home, found: &Elsewhere) -> Failure {
    let place = match found.place {
        Place::PidNamespace => "pid-namespace",
        Place::Host => "host",
        Place::Unidentified => "unknown",
    };
    let message = format!("{}; nothing has changed", elsewhere_sentence(home, found));
    let hint = match std::env::var_os(GENERATION_VARIABLE) {
        Some(_) if found.place == Place::PidNamespace => {
            "this command runs as a tool call in a sandbox: run it outside the sandbox, with the approval of the user"
        }
        _ => "run the command there; only `status` and `version` work here while the home is served there",
    };
    Failure::new(ErrorCode::RunningElsewhere, message)
        .hint(hint)
        .with("where", place)
        .with("hostName", found.host_name.clone())
}

/// A sentence about where the home is served.
pub fn elsewhere_sentence(home: &Home, found: &Elsewhere) -> String {
    let place = match found.place {
        Place::PidNamespace => "in another pid namespace: in a container, or on the host of this container",
        Place::Host => "on another host",
        Place::Unidentified => "by a process that cannot be identified from here",
    };
    let at = found.host_name.as_ref().map(|host| format!(" (host name {})", quote(host))).unwrap_or_default();
    format!("{} is served {place}{at}", home.root().display())
}

/// The server exited before it answered.
pub fn server_exited(exit: &LastExit) -> Failure {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => "ended".to_owned(),
    };
    let error_line = error_line(exit);
    let because = error_line.as_ref().map(|line| format!(": {line}")).unwrap_or_default();
    Failure::new(
        ErrorCode::ServerExited,
        format!("the app-server (pid {}) {how} before it answered{because}", exit.pid),
    )
    .hint("`codexd logs` shows its output; in JSON, stderrTail has the last lines")
    .with("pid", exit.pid.0)
    .with("exitCode", exit.code)
    .with("signal", exit.signal)
    .with("errorLine", error_line)
    .with("stderrTail", exit.stderr_tail.clone())
}

/// The line of its stderr that names the failure. A supervisor of an older codexd does not report it.
pub fn error_line(exit: &LastExit) -> Option<String> {
    exit.error_line.clone().or_else(|| foreign_text::error_line(&exit.stderr_tail))
}

/// Another supervisor manages the home, so that `codexd run` cannot.
pub fn already_managed(home: &Home) -> Failure {
    let supervisor = supervisor::read_state(home).map(|state| state.supervisor);
    let pid = supervisor.filter(process::is_alive).map(|supervisor| supervisor.pid);
    let (who, hint) = match backend::read(home) {
        Backend::Systemd => (
            format!("systemd, as {}", UnitNames::of(home).supervisor()),
            "use `codexd start`, which starts that unit, or another home",
        ),
        Backend::Pid => (
            format!("another supervisor{}", by(pid)),
            "`codexd stop` ends it with its app-server; then run this command again",
        ),
    };
    Failure::new(ErrorCode::AlreadyManaged, format!("{} is managed by {who}", home.root().display()))
        .hint(hint)
        .with("pid", pid.map(|pid| pid.0))
}

/// A `codexd run` manages the home, and would end the app-server with itself.
pub fn runs_in_foreground(home: &Home, pid: Pid) -> Failure {
    let message = format!(
        "{} is managed by `codexd run` (pid {pid}), which ends its app-server when it exits",
        home.root().display()
    );
    Failure::new(ErrorCode::AlreadyManaged, message)
        .hint("end it with Ctrl-C, SIGTERM or `codexd stop`; then run this command again")
        .with("pid", pid.0)
}

/// The supervisor of codexd 0.1.0 cannot be replaced.
pub fn upgrade(home: &Home, error: &UpgradeError) -> Failure {
    match error {
        UpgradeError::Unidentified => {
            elsewhere(home, &Elsewhere { place: Place::Unidentified, host_name: None, has_supervisor: true })
        }
        UpgradeError::DoesNotEnd(pid) => {
            Failure::new(ErrorCode::SupervisorFailed, error.to_string()).with("pid", pid.0)
        }
        UpgradeError::System(error) => {
            state("replace the supervisor that holds", &former_names::lock_file(home), error)
        }
    }
}

#[cfg(test)]
mod tests;
