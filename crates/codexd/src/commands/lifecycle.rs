//! Shared by `start`, `stop`, `restart`, `reload` and `version`: the answer, and the server to run.

use std::path::PathBuf;

use codexd_core::config::Config;
use codexd_core::contract::{Failure, LifecycleReply, LifecycleStatus};
use codexd_core::launch_spec::{DrainSignal, LaunchSpec, StopPolicy};
use codexd_core::lifecycle::{ListenerSeen, Refusal, SupervisorSeen};
use serde::Serialize;

use crate::context::{Context, VERSION};
use crate::drive::Outcome;
use crate::failures;
use crate::installed_codex::{self, InstalledFacts};
use crate::launch_specs::{self, LaunchRequest};
use crate::migration;
use crate::observe::Snapshot;
use crate::output::Answer;
use crate::style::Text;

/// The answer of a lifecycle command.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Reply(pub LifecycleReply);

impl Answer for Reply {
    fn text(&self) -> Text {
        let reply = &self.0;
        let word = match reply.status {
            LifecycleStatus::AlreadyRunning | LifecycleStatus::Running => "running",
            LifecycleStatus::Started => "started",
            LifecycleStatus::Restarted => "restarted",
            LifecycleStatus::Stopped => "stopped",
            LifecycleStatus::Stopping => "will stop when its running turns have finished",
            LifecycleStatus::Restarting => "will restart when its running turns have finished",
            _ => "not running",
        };
        let mut text = Text::from(format!("app-server {word}"));
        if let Some(version) = &reply.app_server_version {
            text = text.then(", version ").then(Text::quoted(version));
        }
        if let Some(pid) = reply.pid {
            text = text.then(format!(", pid {pid}"));
        }
        if let Some(hint) = &reply.hint {
            text.push_line(hint);
        }
        for problem in &reply.problems {
            text.push_line(format!("problem: {}", problem.message));
        }
        for repair in &reply.repairs {
            text.push_line(format!("repaired: {}", repair.message));
        }
        text
    }
}

/// The answer of a command that succeeded.
pub fn reply(context: &Context, config: &Config, outcome: &Outcome) -> Reply {
    let installed = InstalledFacts::gather(context, config);
    let version = outcome.answer.as_ref().and_then(|answer| answer.version()).map(str::to_owned);
    let ours = matches!(outcome.status, LifecycleStatus::Started | LifecycleStatus::Restarted);
    Reply(LifecycleReply {
        status: outcome.status,
        backend: outcome.backend,
        pid: outcome.pid.filter(|_| ours),
        cli_version: installed.cli_version(version.as_deref()),
        managed_codex_path: managed_path(context, config, installed.path),
        managed_codex_version: installed.version,
        managed_codex_source: installed.source,
        socket_path: context.home.control_socket(),
        app_server_version: version,
        codexd_version: VERSION,
        embedded: outcome.embedded,
        handover: outcome.handover.clone(),
        problems: outcome.handover.as_ref().map(migration::refused).unwrap_or_default(),
        hint: hint(config, outcome),
        repairs: context.repairs(),
    })
}

/// What the caller may want to do next. A running server stays with or without a gateway until it is restarted.
fn hint(config: &Config, outcome: &Outcome) -> Option<String> {
    if matches!(outcome.status, LifecycleStatus::Stopping | LifecycleStatus::Restarting) {
        return Some(
            "this command runs inside that app-server: the supervisor continues when the turn ends; `codexd status` shows the progress"
                .into(),
        );
    }
    if outcome.status != LifecycleStatus::AlreadyRunning || outcome.backend.is_none() {
        return None;
    }
    match (config.gateway().is_on(), outcome.behind_gateway) {
        (true, false) => Some(
            "the app-server runs without the gateway that the settings enable; `codexd restart` adds it"
                .into(),
        ),
        (false, true) => Some(
            "the app-server runs behind a gateway that the settings disable; `codexd restart` removes it"
                .into(),
        ),
        _ => None,
    }
}

/// `found`, or the path where a managed Codex would be, as upstream reports it.
pub fn managed_path(context: &Context, config: &Config, found: Option<PathBuf>) -> PathBuf {
    found.unwrap_or_else(|| match installed_codex::find_installed(context, config) {
        Ok(installed) => installed.found.path,
        Err(not_found) => not_found.expected,
    })
}

/// The launch spec of the installed Codex. If none is installed and the embedded server runs, that of the embedded server.
///
/// # Errors
/// No usable Codex.
pub fn program(context: &Context, config: &Config, launch: &LaunchRequest) -> Result<LaunchSpec, Failure> {
    let socket = launch.socket.clone();
    match installed_codex::find_installed(context, config) {
        Ok(installed) => launch_specs::codex(context, config, &installed, socket),
        Err(not_found) if launch.embedded_runs && not_found.named.is_none() && !not_found.unusable => {
            launch_specs::embedded(context, config, socket)
        }
        Err(not_found) => Err(failures::no_codex(&not_found)),
    }
}

/// Whether codexd manages a server. One that is being restarted counts: it starts with new settings.
pub fn is_managed(snapshot: &Snapshot) -> bool {
    snapshot.server.is_some()
        || !matches!(
            snapshot.observation.supervisor,
            SupervisorSeen::Absent | SupervisorSeen::Unresponsive(_) | SupervisorSeen::Idle
        )
}

/// Refuses a home whose control socket belongs to another program, if codexd manages no server.
///
/// # Errors
/// `unmanaged-server`, `socket-occupied`, `foreign-owner`.
pub fn refuse_unmanaged(context: &Context, snapshot: &Snapshot) -> Result<(), Failure> {
    if is_managed(snapshot) {
        return Ok(());
    }
    let refusal = match snapshot.observation.listener {
        ListenerSeen::Answering { pid, ours: false } => Refusal::Unmanaged(pid),
        ListenerSeen::Unresponsive { pid, ours: false } => Refusal::Occupied(pid),
        ListenerSeen::OtherUser { uid } => Refusal::OtherUser(uid),
        _ => return Ok(()),
    };
    Err(failures::refusal(refusal, &context.home.control_socket()))
}

/// SIGTERM, with this grace period for running turns.
pub fn within_grace(config: &Config, grace_seconds: Option<u64>) -> StopPolicy {
    let seconds = grace_seconds.unwrap_or_else(|| config.grace_seconds());
    StopPolicy { signal: DrainSignal::Terminate, grace_ms: Some(seconds * 1_000) }
}
