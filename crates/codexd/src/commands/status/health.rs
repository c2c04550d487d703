//! Problems of a home whose server answers: its configuration, remote control, and processes of other programs or older
//! versions.
//!
//! The server is asked on its own socket, with a short deadline. What it does not answer in time is not reported.

use std::time::Duration;

use codexd_core::foreign_text::quote;
use codexd_core::identity::Pid;
use codexd_core::lifecycle::ListenerSeen;
use codexd_core::limits::STATUS_QUESTION_TIMEOUT_MS;
use codexd_host::service::supervisor::former_names;
use codexd_host::{Home, pid_record, process};
use codexd_protocol::session::Session;
use serde_json::json;

use super::Found;
use super::problems::{Problems, add};
use crate::context::VERSION;
use crate::own_binary::own_binary;
use crate::prove;

/// Adds the problems.
pub(super) fn check(home: &Home, found: &mut Found) {
    let mut problems = Problems::new();
    ask_the_server(home, found, &mut problems);
    find_upstream_updater(home, found, &mut problems);
    find_outdated(home, found, &mut problems);
    found.problems.append(&mut problems);
}

fn ask_the_server(home: &Home, found: &Found, problems: &mut Problems) {
    let Some(record) = found.codexd.as_ref().filter(|record| !record.embedded) else { return };
    if !matches!(found.listening.seen, ListenerSeen::Answering { ours: true, .. }) {
        return;
    }
    let socket = record.socket.clone().unwrap_or_else(|| home.control_socket());
    let timeout = Duration::from_millis(STATUS_QUESTION_TIMEOUT_MS);
    let Ok(mut session) = Session::open(&socket, VERSION, timeout) else { return };
    if let Some(why) = prove::configuration_refused(&mut session) {
        let message = format!(
            "Codex cannot load its configuration, so no thread can be started or resumed: {why}; correct {} (no restart needed)",
            home.root().join("config.toml").display()
        );
        add(problems, "config-invalid", message);
    }
    if let Ok(Ok(answer)) = session.call("remoteControl/status/read", &json!(null))
        && answer["status"] == "errored"
    {
        let message = "remote control is enabled but not connected: check `codex login status`, the network and `codexd logs`, or run \
                       `codexd disable-remote-control`";
        add(problems, "remote-control-errored", message);
    }
}

/// The updater of the daemon of upstream keeps running beside a server that codexd has adopted.
fn find_upstream_updater(home: &Home, found: &Found, problems: &mut Problems) {
    if found.server.is_none() || !found.supervisor.is_alive {
        return;
    }
    if let Some(updater) = pid_record::upstream_updater(home) {
        let pid = updater.pid;
        let message = format!(
            "the updater of `codex app-server daemon` (pid {pid}) still runs: it installs releases in {} but does not restart the \
             app-server of codexd; run `kill {pid}` to end it",
            home.root().join("packages").display()
        );
        add(problems, "upstream-updater", message);
    }
}

/// The supervisor and the gateway run the codexd that started them, also after an upgrade.
fn find_outdated(home: &Home, found: &Found, problems: &mut Problems) {
    let Some(state) = found.supervisor.living() else { return };
    let supervisor = state.supervisor.pid;
    if former_names::is_supervisor(supervisor, home) {
        let message = format!(
            "the supervisor (pid {supervisor}) runs codexd {}, which is older than this command ({VERSION}): `codexd start` replaces it \
             while the app-server keeps running",
            quote(&state.version)
        );
        add(problems, "outdated-supervisor", message);
    } else if is_outdated(supervisor) {
        let message = format!(
            "the supervisor (pid {supervisor}) runs codexd {}, which is older than this command ({VERSION}): run `kill {supervisor}` and then \
             `codexd start` to replace it; the app-server keeps running",
            quote(&state.version)
        );
        add(problems, "outdated-supervisor", message);
    }
    let gateway = state.gateway.as_ref().and_then(|gateway| gateway.process.as_ref());
    if let Some(gateway) = gateway.filter(|gateway| process::is_alive(gateway)).map(|gateway| gateway.pid)
        && is_outdated(gateway)
    {
        let message = format!(
            "the gateway (pid {gateway}) runs an older codexd than this command: run `kill {gateway}`; the supervisor restarts it from the \
             same path, and clients reconnect"
        );
        add(problems, "outdated-gateway", message);
    }
}

/// Whether a process runs another, older binary than this command.
fn is_outdated(pid: Pid) -> bool {
    let mine = own_binary().ok().and_then(|path| process::file_identity(&path).ok());
    let running = process::executable(pid).ok().map(|(_, identity)| identity);
    mine.zip(running).is_some_and(|(mine, running)| mine != running && running.modified_ns < mine.modified_ns)
}
