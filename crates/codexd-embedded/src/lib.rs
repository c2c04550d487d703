//! A small app-server that codexd carries in its binary.
//!
//! It is the fallback of `codexd up` on a machine without Codex, and the test double of this repository. It speaks the
//! protocol of app-server 0.169.0 over WebSocket on a Unix socket: threads, turns, approvals, broadcasts, draining,
//! the writer lock of a thread, and history over restarts. Directives in the prompt replace the model, and the server never runs a
//! command. A differential test compares it with the real server.
//!
//! Structure: `model` is a pure state machine, `store` reads and writes files and locks, `server` is the event loop between both
//! and the sockets. One thread, one runtime, one task per connection.
//!
//! Invariants:
//! - nothing in `model` reads a clock, a file or a socket;
//! - no client can block the server or make it grow without bound: queues are bounded, and a slow client is cut;
//! - at exit the server removes its socket only if the file is still that socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

mod call;
mod ids;
mod limits;
mod listen;
mod methods;
mod model;
mod params;
mod prompt_directives;
mod refusal;
mod regular_file;
mod rollout;
mod server;
mod settings;
mod shell;
mod store;
mod timestamp;
mod wire;

pub use listen::{Listen, ListenError};

/// How to run the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The home: sessions, locks, `config.toml`. It must exist.
    pub codex_home: PathBuf,
    /// Where to listen.
    pub listen: Listen,
    /// The version that clients see in `userAgent`, between the first `/` and the first blank.
    pub version: String,
    /// Upstream's `--remote-control`. Here it only changes the status that clients see from "disabled" to
    /// "errored", because remote control needs an account.
    pub remote_control: bool,
    /// How long an idle thread without subscribers stays loaded; `None` for `thread_unload_delay_secs` in
    /// `config.toml`, or 60 s.
    pub thread_unload_delay: Option<Duration>,
}

impl Options {
    /// The defaults for a home.
    pub fn new(codex_home: impl Into<PathBuf>, listen: Listen) -> Self {
        Self {
            codex_home: codex_home.into(),
            listen,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            remote_control: false,
            thread_unload_delay: None,
        }
    }
}

/// Why the server exited; upstream's exit code is 0 in both cases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitReason {
    /// A signal came, and all turns have ended.
    Drained,
    /// A second signal came; running turns read back as interrupted.
    Forced,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the home cannot be used.
    #[error("failed to use {path}: {error}")]
    Home {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another process listens on the socket.
    #[error("app-server control socket is already in use at {0}")]
    SocketInUse(PathBuf),
    /// The path exists and is not a socket.
    #[error("app-server control socket path exists and is not a socket: {0}")]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("failed to listen on {path}: {error}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The runtime or the signal handlers.
    #[error("failed to start the event loop: {0}")]
    Runtime(io::Error),
}

/// Runs the server until a signal ends it. Builds its own runtime, of one thread.
///
/// # Errors
/// The socket is taken, or something at its path is no socket; the home cannot be used.
pub fn run(options: Options) -> Result<ExitReason, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let reason = runtime.block_on(async {
        let signals = server::signals::process_signals().map_err(Error::Runtime)?;
        server::serve(options, signals).await
    });
    runtime.shutdown_background();
    reason
}
