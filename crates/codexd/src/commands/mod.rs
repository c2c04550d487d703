//! One file per command: its goal and its answer. `drive` has the steps to the goal.

mod bootstrap;
mod completions;
mod config;
mod debug;
mod embedded_app_server;
pub mod gateway;
pub mod guarded;
mod install;
pub mod launch;
mod lifecycle;
mod logs;
mod man_pages;
mod proxy;
mod releases;
mod reload;
mod remote_control;
mod restart;
pub mod run;
mod self_update;
mod service;
mod start;
mod status;
mod stop;
pub mod supervisor;
mod uninstall;
mod up;
mod version;

use std::process::ExitCode;

use codexd_core::contract::{ErrorCode, Failure};

use crate::cli::{Cli, CliCommand, ConfigChange, DebugSubject, Global, ServiceAction};
use crate::context::Context;
use crate::diagnostics;
use crate::interrupt::{self, Interrupted};
use crate::output::{self, Answer, Mode};

/// Runs the command and returns the exit code.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    match &command {
        CliCommand::EmbeddedAppServer(args) => return embedded_app_server::run(global, args),
        CliCommand::Proxy(args) => return proxy::run(global, args),
        CliCommand::Completions(args) => return completions::run(args),
        CliCommand::ErrorTable => {
            print!("{}", codexd_core::contract::error::error_table());
            return ExitCode::SUCCESS;
        }
        CliCommand::ManPages { folder } => return man_pages::run(folder),
        // The binary belongs to no home.
        CliCommand::SelfUpdate(args) => {
            let mode = Mode::of_options(global.json, global.text);
            interrupt::exit_on_signal(mode, Interrupted::SelfUpdate);
            return output::finish(mode, self_update::run(args));
        }
        _ => {}
    }
    in_home(global, command)
}

/// Runs a command that works on a home.
fn in_home(global: Global, command: CliCommand) -> ExitCode {
    let mode = Mode::of_options(global.json, global.text);
    // `logs --follow` ends by a signal.
    if !matches!(&command, CliCommand::Logs(args) if args.follow) {
        let is_install = matches!(&command, CliCommand::Install(_));
        interrupt::exit_on_signal(mode, if is_install { Interrupted::Install } else { Interrupted::Orders });
    }
    let context = match Context::new(global) {
        Ok(context) => context,
        Err(failure) => return output::finish::<lifecycle::Reply>(mode, Err(failure)),
    };
    diagnostics::log_command(&context.home);
    match command {
        CliCommand::Run(args) => {
            changing(&context, mode, "run", || run::become_supervisor(&context, mode, &args))
        }
        CliCommand::Start(args) => changing(&context, mode, "start", || start::run(&context, &args)),
        CliCommand::Stop(args) => changing(&context, mode, "stop", || stop::run(&context, &args)),
        CliCommand::Restart(args) => changing(&context, mode, "restart", || restart::run(&context, &args)),
        CliCommand::Reload => changing(&context, mode, "reload", || reload::run(&context)),
        CliCommand::EnableRemoteControl(args) => {
            changing(&context, mode, "enable-remote-control", || remote_control::run(&context, true, &args))
        }
        CliCommand::DisableRemoteControl(args) => {
            changing(&context, mode, "disable-remote-control", || remote_control::run(&context, false, &args))
        }
        CliCommand::Bootstrap(args) => {
            changing(&context, mode, "bootstrap", || bootstrap::run(&context, &args))
        }
        CliCommand::Uninstall(args) => {
            changing(&context, mode, "uninstall", || uninstall::run(&context, &args))
        }
        CliCommand::RemoteControl(args) => {
            changing(&context, mode, "remote-control", || remote_control::session::run(&context, args.action))
        }
        CliCommand::Service(args) => match args.action {
            ServiceAction::Print(args) => service::run(&context, &args),
        },
        CliCommand::Up => changing(&context, mode, "up", || up::run(&context, mode)),
        CliCommand::Status(args) => output::finish(mode, status::run(&context, &args)),
        CliCommand::Install(args) => changing(&context, mode, "install", || install::run(&context, &args)),
        CliCommand::Releases => output::finish(mode, releases::run(&context)),
        CliCommand::Version => output::finish(mode, version::run(&context)),
        CliCommand::Config(args) => match args.change {
            None => output::finish(mode, config::show(&context, &args.values)),
            Some(ConfigChange::Set { key, value }) => {
                changing(&context, mode, "config set", || config::set(&context, &key, &value))
            }
            Some(ConfigChange::Unset { key }) => {
                changing(&context, mode, "config unset", || config::unset(&context, &key))
            }
        },
        CliCommand::Logs(args) => logs::run(&context, mode, &args),
        CliCommand::Debug { what: DebugSubject::Hub } => output::finish(mode, debug::hub(&context)),
        CliCommand::EmbeddedAppServer(_)
        | CliCommand::Proxy(_)
        | CliCommand::Completions(_)
        | CliCommand::SelfUpdate(_)
        | CliCommand::ManPages { .. }
        | CliCommand::ErrorTable => ExitCode::SUCCESS,
    }
}

/// Checks that processes can be identified on this machine.
fn supported() -> Result<(), Failure> {
    codexd_host::process::myself().map(drop).map_err(|error| {
        Failure::new(ErrorCode::UnsupportedPlatform, format!("cannot identify processes from /proc: {error}"))
            .hint("codexd needs Linux with /proc mounted")
    })?;
    if !codexd_host::pid_namespace::proc_is_ours() {
        let message =
            "/proc belongs to another pid namespace than this command, so its pids identify other processes";
        return Err(Failure::new(ErrorCode::UnsupportedPlatform, message)
            .hint("mount /proc in this pid namespace, as `unshare --pid --fork --mount-proc` does"));
    }
    Ok(())
}

/// Runs a changing command. A failure is logged as an event.
fn changing<A: Answer>(
    context: &Context,
    mode: Mode,
    command: &str,
    run: impl FnOnce() -> Result<A, Failure>,
) -> ExitCode {
    tracing::debug!(command, "command started");
    let outcome = supported().and_then(|()| run()).map_err(|failure| {
        tracing::debug!(command, code = failure.code.as_str(), "command failed");
        context.refused(command, &failure);
        // The failure lists the repairs before it.
        match context.repairs() {
            repairs if repairs.is_empty() => failure,
            repairs => failure.with("repairs", serde_json::to_value(repairs).unwrap_or_default()),
        }
    });
    output::finish(mode, outcome)
}
