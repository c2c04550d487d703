//! `codexd embedded-app-server`: the app-server built into codexd. Internal: it accepts options of the real one.

use std::process::ExitCode;
use std::time::Duration;

use codexd_core::contract::ErrorCode;
use codexd_embedded::{Listen, Options};

use crate::cli::{EmbeddedArgs, Global};
use crate::context::{Context, VERSION};
use crate::output;

/// Serves until a signal ends the process.
pub fn run(global: Global, args: &EmbeddedArgs) -> ExitCode {
    let failed = |message: String| {
        output::say(&format!("Error: {message}"));
        ExitCode::from(ErrorCode::Internal.exit_code())
    };
    let context = match Context::new(global) {
        Ok(context) => context,
        Err(failure) => return failed(failure.message),
    };
    let root = context.home.root();
    let listen: Listen = match args.listen.parse() {
        Ok(listen) => listen,
        Err(error) => return failed(format!("{error}")),
    };
    let options = Options {
        version: VERSION.to_owned(),
        remote_control: args.remote_control,
        thread_unload_delay: unload_delay(args).map(Duration::from_secs),
        ..Options::new(root, listen)
    };
    match codexd_embedded::run(options) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(error.to_string()),
    }
}

fn unload_delay(args: &EmbeddedArgs) -> Option<u64> {
    let mut configured =
        args.config.iter().filter_map(|setting| setting.strip_prefix("thread_unload_delay_secs="));
    args.thread_unload_delay_secs.or_else(|| configured.next_back()?.trim().parse().ok())
}
