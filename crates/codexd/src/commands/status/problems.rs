//! The problems that `status` reports: what is wrong on disk, with the record, the supervisor and the control socket.

use std::io::ErrorKind;

use codexd_core::contract::ErrorCode;
use codexd_core::contract::status::Problem;
use codexd_core::lifecycle::{ListenerSeen, RecordProblem, Recorded};
use codexd_host::ownership::is_writable_by_others;
use codexd_host::{Home, pid_record};

use super::supervisor::Supervisor;
use crate::installed_codex::InstalledFacts;
use crate::{config, context, drive};

/// The sentence of the problem `unresponsive-listener`.
pub(super) const UNRESPONSIVE_LISTENER: &str =
    "the process that listens on the control socket does not answer";

pub(super) type Problems = Vec<Problem>;

pub(super) fn add(problems: &mut Problems, found: &str, message: impl Into<String>) {
    problems.push(Problem { found: found.to_owned(), message: message.into() });
}

/// Problems of the settings, of the installed Codex and of the state folder.
pub(super) fn find_on_disk(home: &Home, found: &config::Found, installed: &InstalledFacts) -> Problems {
    let mut problems = Problems::new();
    for (failure, kind) in &found.unreadable {
        // Without permission the contents of the file are unknown and may be valid.
        let is_closed = *kind == ErrorKind::PermissionDenied;
        let code = if is_closed { failure.code.as_str() } else { "corrupt-settings" };
        add(&mut problems, code, failure.message.clone());
    }
    for problem in &found.problems {
        add(&mut problems, ErrorCode::SettingsInvalid.as_str(), problem.to_string());
    }
    for defect in &found.shared.defects {
        add(&mut problems, "corrupt-settings", format!("{}: {defect}", home.settings().display()));
    }
    if let Some(seconds) = found.shared.grace_beyond_upstream {
        let message =
            context::long_grace(seconds) + "; the next changing command moves the value to stopGraceSeconds";
        add(&mut problems, context::GRACE_BEYOND_UPSTREAM, message);
    }
    if let Some(why) = &installed.unusable {
        add(&mut problems, "codex-broken", format!("the installed Codex cannot run: {why}"));
    }
    if home.state_dir().symlink_metadata().is_ok() && !home.state_dir().is_dir() {
        add(&mut problems, "state-unwritable", format!("{} is not a folder", home.state_dir().display()));
    }
    for folder in [home.state_dir(), home.control_dir()].iter().filter(|path| is_writable_by_others(path)) {
        let message = context::writable_folder(folder) + "; the next changing command sets the mode to 0700";
        add(&mut problems, context::WRITABLE_BY_OTHERS, message);
    }
    problems
}

/// Problems of the control socket. `is_expected`: the server of the home may not answer, because it is starting or stopping.
pub(super) fn find_with_listener(
    problems: &mut Problems,
    home: &Home,
    seen: ListenerSeen,
    is_expected: bool,
) {
    match seen {
        ListenerSeen::Stale => {
            add(problems, "stale-socket", "the control socket is stale: no process listens on it");
        }
        ListenerSeen::NotASocket => {
            add(
                problems,
                "no-socket",
                format!("{} exists but is not a socket", home.control_socket().display()),
            );
        }
        ListenerSeen::OtherUser { uid } => {
            let user = codexd_host::users::named(uid);
            add(problems, "foreign-owner", format!("a process of {user} listens on the control socket"));
        }
        ListenerSeen::Unresponsive { ours: true, .. } if is_expected => {}
        ListenerSeen::Unresponsive { .. } => {
            add(problems, "unresponsive-listener", UNRESPONSIVE_LISTENER);
        }
        _ => {}
    }
}

/// Problems of the supervisor. `server_runs`: the record names a running server.
pub(super) fn find_with_supervisor(problems: &mut Problems, supervisor: &Supervisor, server_runs: bool) {
    if let Some(suspended) = supervisor.state.as_ref().filter(|_| supervisor.is_suspended) {
        let message = format!("the supervisor (pid {}) is suspended", suspended.supervisor.pid);
        add(problems, "unresponsive-supervisor", message);
    }
    if server_runs && !supervisor.is_alive {
        let message = "the app-server runs without a supervisor, so it is not restarted after a crash; `codexd start` starts a \
                       supervisor";
        add(problems, "lost-supervisor", message);
    }
}

/// Problems of the pid record.
pub(super) fn find_with_record(
    problems: &mut Problems,
    record: &pid_record::Observed,
    supervisor: &Supervisor,
) {
    let problem = match &record.recorded {
        Recorded::Unusable(defect) => RecordProblem::Defect(defect.clone()),
        // Its supervisor is about to remove the record.
        Recorded::Gone(_) if supervisor.keeps_a_server() => return,
        Recorded::Gone(gone) => RecordProblem::Gone(*gone),
        Recorded::Alive(_) => return,
        Recorded::Absent => {
            if let Some(server) = &record.process {
                let message = format!("the app-server (pid {}) runs without a pid record", server.pid);
                add(problems, "unrecorded-server", message);
            }
            return;
        }
    };
    let (found, message) = drive::name_problem(&problem);
    add(problems, found, message);
}
