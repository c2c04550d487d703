//! codexd makes any machine a dependable host for Codex.
//!
//! `codexd <command>` observes, decides, acts, looks again, and prints one JSON object. See ARCHITECTURE.md for the rooms.

mod caller;
mod cli;
mod commands;
mod context;
mod diagnostics;
mod drive;
mod failures;
mod foreign_home;
mod gateway_program;
mod gateway_settings;
mod home_folder;
mod interrupt;
mod launch;
mod migration;
mod observe;
mod output;
mod progress;
mod prove;
mod ready;
mod recorded_codex;
mod style;

use std::process::ExitCode;

fn main() -> ExitCode {
    // What our caller left open must not be held by the supervisor and the server for weeks.
    codexd_host::cloexec::set_cloexec_above_stderr();
    if let Some(home) = commands::supervisor::home_of(std::env::args_os()) {
        return commands::supervisor::run(home);
    }
    if let Some(arguments) = commands::gateway::arguments(std::env::args_os()) {
        return commands::gateway::run(&arguments);
    }
    let arguments = cli::without_upstream_prefix(std::env::args_os());
    match cli::parse(arguments) {
        Ok(cli) => commands::run(cli),
        Err(stop) => stop.report(),
    }
}
