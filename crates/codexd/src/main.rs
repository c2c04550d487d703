//! codexd keeps the Codex app-server running on this machine.
//!
//! `codexd <command>` observes, decides, acts, observes again, and prints one JSON object. See ARCHITECTURE.md for the map.

mod caller;
mod candidate;
mod cli;
mod commands;
mod config;
mod context;
mod diagnostics;
mod drive;
mod failures;
mod foreign_home;
mod gateway_settings;
mod home_folder;
mod installed_codex;
mod interrupt;
mod launch_specs;
mod limits;
mod migration;
mod observe;
mod output;
mod own_binary;
mod progress;
mod prove;
mod ready;
mod recorded_codex;
mod service_settings;
mod steps;
mod style;

use std::process::ExitCode;

use codexd_core::contract::ErrorCode;

fn main() -> ExitCode {
    // The supervisor and the server run for weeks and must not inherit the open files of the caller.
    codexd_host::cloexec::set_cloexec_above_stderr();
    if caller::has_lost_supervisor() {
        return ExitCode::from(ErrorCode::SupervisorFailed.exit_code());
    }
    if let Some(arguments) = commands::run::Arguments::parse(std::env::args_os()) {
        return commands::run::supervise(arguments);
    }
    if let Some(arguments) = commands::launch::arguments(std::env::args_os()) {
        return commands::launch::run(&arguments);
    }
    if let Some(home) = codexd_host::launch::supervisor::home_of(std::env::args_os()) {
        return commands::supervisor::run(home);
    }
    if let Some(arguments) = codexd_host::launch::gateway::Arguments::parse(std::env::args_os()) {
        return commands::gateway::run(&arguments);
    }
    if let Some(arguments) = commands::guarded::arguments(std::env::args_os()) {
        return commands::guarded::run(arguments);
    }
    let arguments = cli::without_upstream_prefix(std::env::args_os());
    match cli::parse(arguments) {
        Ok(cli) => commands::run(cli),
        Err(stop) => stop.report(),
    }
}
