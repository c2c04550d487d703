//! `codexd bootstrap`: installs the services of a home, starts the server in them, and moves a running one without a loss.

mod backend_choice;
mod installation;
mod placement;
mod procedure;
mod step;

use codexd_core::contract::{Backend, BootstrapReply, EventLevel, Failure, LifecycleStatus};
use codexd_core::lifecycle::Command;
use codexd_host::events::Event;
use serde::Serialize;

use super::lifecycle;
use crate::cli::BootstrapArgs;
use crate::context::{Context, VERSION};
use crate::installed_codex::{self, InstalledFacts};
use crate::output::{self, Answer};
use crate::style::Text;
use crate::{failures, observe, steps};
use backend_choice::Choice;
use installation::Installation;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Reply(pub BootstrapReply);

impl Answer for Reply {
    fn text(&self) -> Text {
        let reply = &self.0;
        let by = match &reply.unit {
            None => "the supervisor of codexd".to_owned(),
            Some(unit) => format!("systemd ({unit})"),
        };
        let mut text = Text::from(format!("app-server runs, managed by {by}"));
        if let Some(version) = &reply.app_server_version {
            text = text.then(", version ").then(Text::quoted(version));
        }
        text.push_line(if reply.remote_control_enabled {
            "remote control enabled"
        } else {
            "remote control disabled"
        });
        text.push_line(match reply.starts_at_boot {
            Some(true) => "starts at boot",
            Some(false) => "does not start at boot",
            None => "starts with the systemd user manager; whether that starts at boot is not known, because this machine has no logind",
        });
        for repair in &reply.repairs {
            text.push_line(format!("repaired: {}", repair.message));
        }
        text
    }
}

/// Runs the command.
///
/// # Errors
/// Why the home cannot be served that way; what the command has changed is undone then.
pub fn run(context: &Context, args: &BootstrapArgs) -> Result<Reply, Failure> {
    let choice = backend_choice::choose(args.backend)?;
    output::say(&format!("backend: {}, because {}", choice.name(), choice.reason));
    let _lock = context.lock("bootstrap")?;
    install(context, args.remote_control, choice)
}

/// The same with the operation lock held.
///
/// # Errors
/// See [`run`].
pub fn install(context: &Context, remote_control: bool, choice: Choice) -> Result<Reply, Failure> {
    let config = context.config()?.with_remote_control(remote_control);
    // All that can be known before the first change.
    let installed =
        installed_codex::find_installed(context, &config).map_err(|error| failures::no_codex(&error))?;
    let snapshot = observe::take_snapshot(context, Command::Start { adopt: false }, &mut None, None)?;
    lifecycle::refuse_unmanaged(context, &snapshot)?;
    if let Some(pid) = placement::foreground_supervisor(context)? {
        return Err(failures::runs_in_foreground(&context.home, pid));
    }
    let mut installation = Installation::new(context, config, choice.backend)?;
    steps::run(&mut installation, step::steps(choice.backend))?;
    let event =
        Event::new(EventLevel::Info, "command.done", "`bootstrap` succeeded: the services are installed")
            .with("command", "bootstrap")
            .with("backend", serde_json::to_value(choice.backend).unwrap_or_default());
    context.log_event(event);
    Ok(reply(context, &installation, choice, installed.found.path))
}

fn reply(
    context: &Context,
    installation: &Installation<'_>,
    choice: Choice,
    path: std::path::PathBuf,
) -> Reply {
    let facts = InstalledFacts::gather(context, &installation.config);
    let version = installation.server_version();
    let starts_at_boot = match choice.backend {
        Backend::Pid => Some(false),
        Backend::Systemd => backend_choice::is_lingering(),
    };
    let hint = (choice.backend == Backend::Systemd && starts_at_boot == Some(false)).then(|| {
        "the services start when you log in and end when you log out; to have them from boot on, run: loginctl enable-linger".to_owned()
    });
    if let Some(hint) = &hint {
        output::say(hint);
    }
    Reply(BootstrapReply {
        status: LifecycleStatus::Bootstrapped,
        backend: choice.backend,
        auto_update_enabled: false,
        remote_control_enabled: installation.config.is_remote_control_enabled(),
        managed_codex_path: facts.path.clone().unwrap_or(path),
        cli_version: facts.cli_version(version.as_deref()),
        managed_codex_version: facts.version,
        socket_path: context.home.control_socket(),
        app_server_version: version,
        codexd_version: VERSION,
        unit: (choice.backend == Backend::Systemd).then(|| installation.names.supervisor()),
        reason: choice.reason,
        starts_at_boot,
        handover: installation.handover(),
        hint,
        repairs: installation.repairs(),
    })
}
