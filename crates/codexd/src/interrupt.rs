//! What SIGINT, SIGTERM and SIGHUP do to a command.

use std::sync::Once;

use codexd_core::contract::{ErrorCode, Failure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::{self, Mode};

/// What a signal interrupts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interrupted {
    /// A command that gives orders to the supervisor, or none.
    Orders,
    /// An install, which has no supervisor.
    Install,
    /// A self-update, which has no supervisor.
    SelfUpdate,
}

impl Interrupted {
    /// What follows from the interruption, and what to do next.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Orders => (
                "the supervisor completes the orders that were given",
                "`codexd status` shows the progress; run the command again to continue waiting",
            ),
            Self::Install => (
                "the install is not complete",
                "run the command again; it removes what is unfinished, and starts from the beginning",
            ),
            Self::SelfUpdate => (
                "the codexd binary is either the old or the new one",
                "run the command again; it removes what is unfinished, and starts from the beginning",
            ),
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end this command with its one JSON object. The supervisor completes the orders that the
/// command has given, and the next command finds the result. Programs that this command runs for itself, such as `codex --version` and npm, are killed.
pub fn exit_on_signal(mode: Mode, interrupted: Interrupted) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let (consequence, hint) = interrupted.words();
                let message = format!("interrupted by signal {signal}; {consequence}");
                let failure = Failure::new(ErrorCode::Interrupted, message).hint(hint).with("signal", signal);
                output::say(&format!("error: {}", failure.message));
                if mode == Mode::Json {
                    output::print_failure_json(&failure);
                }
                codexd_release::process_group::abandon();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the main thread waits somewhere and cannot be asked to return"
                )]
                std::process::exit(i32::from(ErrorCode::Interrupted.exit_code()));
            }
        });
    });
}
