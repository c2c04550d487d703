//! `codexd enable-remote-control` and `disable-remote-control`: changes the setting, and restarts a server that runs without
//! it.

pub mod session;

use std::ffi::OsString;

use codexd_core::config::Config;
use codexd_core::contract::{ErrorCode, Failure, LifecycleStatus, RemoteControlReply};
use codexd_core::identity::Pid;
use codexd_core::lifecycle::{Command, SupervisorSeen};
use codexd_host::launch::app_server;
use codexd_host::process;
use serde::Serialize;

use super::{lifecycle, restart};
use crate::cli::GraceArgs;
use crate::context::{Context, VERSION};
use crate::drive::{Handover, Outcome, Request};
use crate::installed_codex::InstalledFacts;
use crate::launch_specs::LaunchRequest;
use crate::output::Answer;
use crate::style::Text;
use crate::{drive, observe};

/// The answer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Reply(RemoteControlReply);

impl Answer for Reply {
    fn text(&self) -> Text {
        let state = if self.0.remote_control_enabled { "enabled" } else { "disabled" };
        let server = if self.0.backend.is_some() {
            "applied to the running app-server"
        } else {
            "takes effect when an app-server starts"
        };
        Text::from(format!("remote control {state}; {server}"))
    }
}

/// Runs the command.
///
/// # Errors
/// Why the setting could not be changed, or why the server did not start with it; the setting is restored then.
pub fn run(context: &Context, enable: bool, args: &GraceArgs) -> Result<Reply, Failure> {
    let command = if enable { "enable-remote-control" } else { "disable-remote-control" };
    let _lock = context.lock(command)?;
    let config = context.config()?;
    let snapshot = observe::take_snapshot(context, Command::Start { adopt: false }, &mut None, None)?;
    let server = snapshot.server.as_ref().map(|process| process.pid);
    let managed = lifecycle::is_managed(&snapshot);
    let socket = context.home.control_socket();
    let (mut answer, mut handover) = (None, None);
    lifecycle::refuse_unmanaged(context, &snapshot)?;
    let changed = config.is_remote_control_enabled() != enable;
    let new = config.with_remote_control(enable);
    if changed {
        context.write_settings(&new)?;
    }
    if managed {
        if server.is_some_and(|pid| follows(pid, enable)) && !changed {
            let is_starting = snapshot.answer.is_none()
                && !matches!(snapshot.observation.supervisor, SupervisorSeen::Stopping(_));
            // A killed command may have started the server; wait for it.
            answer = if is_starting { bring_up(context, &new)?.answer } else { snapshot.answer };
        } else {
            let policy = lifecycle::within_grace(&new, args.grace);
            match restart::replace(context, &new, policy, Handover::Never) {
                Ok(outcome) => {
                    drive::log_outcome(context, command, &outcome);
                    (answer, handover) = (outcome.answer, outcome.handover);
                }
                Err(failure) => return Err(roll_back(context, &config, changed, failure)),
            }
        }
    }
    let installed = InstalledFacts::gather(context, &new);
    let version = answer.as_ref().and_then(|answer| answer.version()).map(str::to_owned);
    Ok(Reply(RemoteControlReply {
        status: status(enable, changed),
        backend: managed.then(|| context.backend()),
        remote_control_enabled: enable,
        handover,
        socket_path: socket,
        cli_version: installed.cli_version(version.as_deref()),
        app_server_version: version,
        codexd_version: VERSION,
        repairs: context.repairs(),
    }))
}

fn bring_up(context: &Context, config: &Config) -> Result<Outcome, Failure> {
    let request = Request {
        command: Command::Start { adopt: false },
        program: &|launch: &LaunchRequest| lifecycle::program(context, config, launch),
        policy: lifecycle::within_grace(config, None),
        gateway: config.gateway(),
        handover: Handover::Never,
    };
    drive::drive(context, &request)
}

fn status(enable: bool, changed: bool) -> LifecycleStatus {
    match (enable, changed) {
        (true, true) => LifecycleStatus::Enabled,
        (true, false) => LifecycleStatus::AlreadyEnabled,
        (false, true) => LifecycleStatus::Disabled,
        (false, false) => LifecycleStatus::AlreadyDisabled,
    }
}

/// Whether a running server follows the setting. `false` for a server that is exiting and shows no arguments.
pub fn follows(pid: Pid, enabled: bool) -> bool {
    let arguments = process::arguments(pid);
    !arguments.is_empty()
        && app_server::has_remote_control(arguments.iter().map(OsString::as_os_str)) == enabled
}

/// Restores the setting, and the server with it if possible.
fn roll_back(context: &Context, old: &Config, changed: bool, failure: Failure) -> Failure {
    if !changed {
        return failure;
    }
    let undone = match context.write_settings(old) {
        Ok(()) => "the setting was restored".to_owned(),
        Err(error) => format!("failed to restore the setting: {error}"),
    };
    let again = match failure.code {
        // The old server was not touched.
        ErrorCode::CodexBroken
        | ErrorCode::CodexSlow
        | ErrorCode::CodexNotFound
        | ErrorCode::ConfigInvalid
        | ErrorCode::UnmanagedServer
        | ErrorCode::SocketOccupied => String::new(),
        _ => match restart::replace(context, old, lifecycle::within_grace(old, Some(0)), Handover::Never) {
            Ok(_) => "; the app-server runs with the old setting".to_owned(),
            Err(second) => {
                format!("; failed to start the app-server with the old setting: {}", second.message)
            }
        },
    };
    let mut rolled_back = Failure::new(
        ErrorCode::SettingRolledBack,
        format!("failed to apply the new setting to the app-server: {}; {undone}{again}", failure.message),
    )
    .with("cause", failure.code.as_str());
    rolled_back.hint = failure.hint;
    rolled_back.context.extend(*failure.context);
    rolled_back
}
