//! Every deadline of the testkit. They only end a test that has already failed, so they are generous.

use std::time::Duration;

/// How long a client waits for one message.
pub const MESSAGE: Duration = Duration::from_secs(30);
/// How long a bare app-server may take until it answers `initialize`.
pub const SERVER_READY: Duration = Duration::from_secs(60);
/// How long a program that was run to its end may take. Longer than the 60 s that upstream's `stop` waits.
pub const RUN: Duration = Duration::from_secs(120);
/// How long after a program's end its output must be closed; if it is not, another process has inherited it.
pub const OUTPUT_CLOSED: Duration = Duration::from_secs(2);
/// How long a killed process may take to be gone.
pub const PROCESS_GONE: Duration = Duration::from_secs(20);
/// How often something that gives no event is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long one `npm install` may take.
pub const INSTALL: Duration = Duration::from_secs(600);
