//! The diagnostic log of codexd, which `CODEXD_LOG` enables: JSON lines in the log of each process. If the variable is not set,
//! no subscriber is installed, and a log statement costs one load.

use std::fs::File;
use std::io;
use std::sync::Mutex;

use codexd_core::limits::LOG_MAX_BYTES;
use codexd_host::{Home, logs};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::output;

/// A level (`debug`), or levels by target: `info,codexd_gateway=trace`.
pub const VARIABLE: &str = "CODEXD_LOG";

/// Enables the log of a process whose standard error is a log file: the gateway and the supervisor.
pub fn log_to_stderr() {
    if let Some(filter) = filter() {
        install(filter, io::stderr);
    }
}

/// Enables the log of a command, `commands.log`, which the command rotates. Without a state folder there is no log.
pub fn log_command(home: &Home) {
    let Some(filter) = filter() else { return };
    let path = home.commands_log();
    // The log may not exist yet. Other errors occur again when it is opened.
    let _ = logs::rotate_if_larger(&path, LOG_MAX_BYTES);
    match logs::open_for_append(&path) {
        Ok(file) => install(filter, Mutex::<File>::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => output::say(&format!("warning: cannot write {}: {error}", path.display())),
    }
}

fn filter() -> Option<Targets> {
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty())?;
    match wanted.parse() {
        Ok(filter) => Some(filter),
        Err(error) => {
            output::say(&format!("warning: {VARIABLE}={wanted} is ignored: {error}"));
            None
        }
    }
}

fn install(filter: Targets, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
    // A process has one subscriber.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}
