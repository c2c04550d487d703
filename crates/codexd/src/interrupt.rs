//! What SIGINT, SIGTERM and SIGHUP do to a command.

use std::sync::Once;

use codexd_core::contract::{ErrorCode, Failure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::{self, Mode};

/// From now on SIGINT, SIGTERM and SIGHUP end this command with its one JSON object. The supervisor completes the orders that the
/// command has given, and the next command finds the result. A Codex binary that is being asked for its version is killed.
pub fn exit_on_signal(mode: Mode) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let message = format!(
                    "interrupted by signal {signal}; the supervisor completes the orders that were given"
                );
                let failure = Failure::new(ErrorCode::Interrupted, message)
                    .hint("`codexd status` shows the progress; run the command again to continue waiting")
                    .with("signal", signal);
                output::say(&format!("error: {}", failure.message));
                if mode == Mode::Json {
                    output::print_failure_json(&failure);
                }
                codexd_release::version::abandon();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the main thread waits somewhere and cannot be asked to return"
                )]
                std::process::exit(i32::from(ErrorCode::Interrupted.exit_code()));
            }
        });
    });
}
