//! What the tests and benchmarks of codexd stand on. Not shipped.
//!
//! * [`codex`] finds or installs the real Codex releases that we compare ourselves with.
//! * [`Home`] is a throw-away `CODEX_HOME`; when it goes, every process that was started with it goes too.
//! * [`MockModel`] is a Responses API on loopback, so that a real app-server can run turns without an account.
//! * [`AppServer`] runs one bare app-server, real or [embedded](Server::Embedded).
//! * [`Client`] speaks the app-server protocol and keeps everything it saw, [`Wire`] costs little and keeps nothing; [`Normaliser`] makes two such records
//!   comparable.
//! * [`Schema`] judges messages by the JSON schema that a real Codex prints.
//! * [`run`] starts a program to its end and keeps what it said; [`Codexd`] does that with the built `codexd`.
//! * [`UserManager`] is a real systemd user manager, in namespaces of its own.
//! * [`BootedHost`] is a whole host that boots with systemd.
//! * [`package`] has small stand-ins for the packages of Codex, and for npm.
//! * [`Fake`] is a Codex with one thing wrong with it; [`killer`] ends a program at the k-th thing that it did.
//!
//! Invariants: a process is ended by identity (pid and start time, through a pidfd), never by name. Nothing waits by
//! sleeping for a guessed time: every wait is for an event and has a deadline. A test that cannot run here says so with
//! [`skip!`], and is counted. Linux only, as it reads `/proc`.

#![allow(clippy::disallowed_methods)]

pub mod booted_host;
pub mod client;
pub mod codex;
pub mod codexd;
pub mod fakes;
pub mod home;
pub mod killer;
pub mod limits;
pub mod model;
pub mod package;
pub mod process;
pub mod pty;
pub mod run;
pub mod schema;
pub mod server;
pub mod skip;
pub mod systemd;
pub mod transcript;
pub mod wait;
pub mod wire;

pub use booted_host::BootedHost;
pub use client::{Client, Place, RpcError};
pub use codex::Version;
pub use codexd::Codexd;
pub use fakes::Fake;
pub use home::{Home, Layout};
pub use model::MockModel;
pub use process::Process;
pub use run::Run;
pub use schema::Schema;
pub use server::{AppServer, Server};
pub use systemd::UserManager;
pub use transcript::Normaliser;
pub use wait::{block_on, until};
pub use wire::Wire;
