//! A small app-server that codexd carries in its binary.
//!
//! It is the fallback of `codexd up` on a machine without Codex, and the double of all our tests. It speaks the
//! protocol of app-server 0.169.0 over WebSocket on a Unix socket: threads, turns, approvals, broadcasts, draining,
//! the writer lock of a thread, and history over restarts. Its model is a directives in the prompt, and it never runs a
//! command. A differential test holds it beside the real server.
//!
//! How it is built: `model` is a pure state machine, `store` knows files and locks, `server` is the loop between both
//! and the sockets. One thread, one runtime, one task per connection.
//!
//! Invariants:
//! - nothing in `model` reads a clock, a file or a socket;
//! - no client can make the server wait, or grow without bound: queues are bounded, the slow one is cut;
//! - the socket is removed on the way out only if it is still ours.

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
    /// What `--remote-control` does upstream. Here it changes the status that clients are told from "disabled" to
    /// "errored": there is nothing to be controlled from.
    pub remote_control: bool,
    /// How long an idle thread without subscribers stays loaded; `None` for `thread_unload_delay_secs` in
    /// `config.toml`, or 60 s.
    pub thread_unload_delay: Option<Duration>,
}

impl Options {
    /// The usual ones for a home.
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

/// Why the server left; upstream's exit code is 0 in both cases.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitReason {
    /// A signal came, and nothing ran any more.
    Drained,
    /// A second signal came; turns that ran read back as interrupted.
    Forced,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the home.
    #[error("failed to use {path}: {error}")]
    Home {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Somebody listens there already.
    #[error("app-server control socket is already in use at {0}")]
    SocketInUse(PathBuf),
    /// There is something else.
    #[error("app-server control socket path exists and is not a socket: {0}")]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("failed to listen on {path}: {error}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
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
