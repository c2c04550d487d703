//! Waiting that a person can watch and interrupt.

use std::sync::Once;
use std::time::{Duration, Instant};

use codexd_core::contract::{ErrorCode, Failure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::{self, Mode};

/// From now on SIGINT, SIGTERM and SIGHUP end this command with its one JSON object. What it has begun goes on: the supervisor
/// does it, and the next command finds it. A binary that is being asked for its version is not left behind.
pub fn answer_interrupts(mode: Mode) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let message = format!("interrupted by signal {signal}; what was begun goes on");
                let failure = Failure::new(ErrorCode::Interrupted, message)
                    .hint("`codexd status` tells where things stand; running the command again goes on from there")
                    .with("signal", signal);
                output::say(&format!("error: {}", failure.message));
                if mode == Mode::Json {
                    output::print_failure_json(&failure);
                }
                codexd_release::version::abandon();
                std::process::exit(i32::from(ErrorCode::Interrupted.exit_code()));
            }
        });
    });
}

const FIRST_WORD_AFTER: Duration = Duration::from_secs(2);
const THEN_EVERY: Duration = Duration::from_secs(10);

/// Says on stderr what is being waited for, once it takes longer than people expect.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    next: Instant,
}

impl Progress {
    /// A wait that begins now.
    pub fn begin() -> Self {
        let began = Instant::now();
        Self { began, next: began + FIRST_WORD_AFTER }
    }

    /// When something is to be said next.
    pub fn due(&self) -> Instant {
        self.next
    }

    /// Says `what` if it is time to.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + THEN_EVERY;
            output::say(&format!("{} ({} s)", what(), now.duration_since(self.began).as_secs()));
        }
    }
}
