//! `codexd man-pages`: the man page of codexd and of each command, made of the same definition as `--help`.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use codexd_core::contract::ErrorCode;

use crate::cli::Cli;
use crate::output;

/// Runs the command.
pub fn run(folder: &Path) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("error: failed to write man pages to {}: {error}", folder.display()));
            ExitCode::from(ErrorCode::Internal.exit_code())
        }
    }
}
