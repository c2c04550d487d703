//! The seam between the gateway and whoever runs it: the listeners it is handed, what it is told, what it asks for.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use codexd_core::contract::EventLevel;
use codexd_core::settings::SubagentApprovals;

/// Whether this gateway moves threads from an outgoing generation to the current one. While it does not, nobody may put a
/// second generation beside the first: its clients would be cut.
pub const MOVES: bool = true;

/// A living app-server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Generation {
    /// Its name: the mark in `CODEXD_GENERATION`. No two have the same, also over time.
    pub id: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens, or is about to.
    pub socket: PathBuf,
    /// What it is for.
    pub role: Role,
}

/// What a generation is for. One that was started to succeed the current one is not shown before it is promoted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// New threads go there. There is at most one.
    Current,
    /// It serves what it holds, and leaves when that is nothing any more.
    Outgoing,
}

/// The settings of a thread, as a gateway has them stored.
#[derive(Clone, Eq, PartialEq)]
pub struct ThreadSettings {
    /// The thread's id.
    pub thread: String,
    /// The settings, which may hold credentials; nothing if they are to be forgotten.
    pub settings: Option<String>,
}

impl std::fmt::Debug for ThreadSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ThreadSettings").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// What the gateway is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostEvent {
    /// The generations that live now: the first thing it hears, and again at every change. None is current while a crashed
    /// server is being started again.
    Generations(Vec<Generation>),
    /// What the gateway before this one had stored of threads ([`HostCommand::StoreThreadSettings`]). Comes before the first
    /// list of generations, or not at all.
    ThreadSettings(Vec<ThreadSettings>),
    /// There was a gateway before this one, and what it had stored of threads is lost.
    ThreadSettingsLost,
    /// The current one was asked to leave when its turns have ended: nothing new is to be begun there.
    CurrentDrains,
    /// The settings, as the last command found them. The token file is read again.
    Configure {
        /// The listener for the network, if there is to be one.
        tcp: Option<TcpListenerConfig>,
        /// Which clients decide what a sub-agent asks.
        subagent_approvals: SubagentApprovals,
    },
    /// Something has changed where app-servers make their sockets: one that does not listen yet may do so now.
    SocketsChanged,
    /// Close the clients with 1001 and end.
    Leave,
}

/// What the gateway asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum HostCommand {
    /// The outgoing generation of this mark holds nothing any more and may be ended.
    Retire {
        /// Which.
        generation_id: String,
    },
    /// Store the settings of a thread in store, never on disk, for a gateway that comes after this one. They may hold
    /// credentials.
    StoreThreadSettings(ThreadSettings),
    /// Tell this to every command that listens: how a handover goes.
    Report(serde_json::Value),
    /// Return free memory to the system: clients have left.
    TrimMemory,
    /// Write a line into the event log.
    Note {
        /// How much it matters.
        level: EventLevel,
        /// What kind, such as `handover.completed`.
        kind: String,
        /// A sentence.
        message: String,
        /// The facts: an object, or null.
        detail: serde_json::Value,
    },
}

/// The goals that are at work, by the ids of their threads.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct PersistedGoals {
    /// They are active: somebody who is not there may count on it.
    pub active: Vec<String>,
    /// They are paused until their threads have moved, or may be: nobody wants that but the gateway.
    pub held: Vec<String>,
}

impl PersistedGoals {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.held.is_empty()
    }
}

/// As whom a gateway introduced itself to app-servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistedClientIdentity {
    /// What the hub wanted kept.
    pub initialize_params: String,
    /// The marks of the app-servers.
    pub generations: Vec<String>,
}

/// What outlives the gateway. It is read before the first client is served, and written by the [`StateWriter`].
///
/// [`StateWriter`]: crate::state_writer::StateWriter
pub trait StateStore: Send {
    /// The goals that were at work when the gateway before this one ended.
    fn goals(&mut self) -> PersistedGoals;

    /// Keeps the goals that are at work from now on, in place of those before. Done when it returns, also if the gateway is
    /// killed the next moment.
    ///
    /// # Errors
    /// The system's: they are not kept.
    fn persist_goals(&mut self, goals: &PersistedGoals) -> io::Result<()>;

    /// As whom the gateway before this one introduced itself.
    fn client_identity(&mut self) -> Option<PersistedClientIdentity>;

    /// Keeps as whom app-servers know the gateway, or will when it is linked to them, in place of what was kept before.
    ///
    /// # Errors
    /// The system's: it is not kept.
    fn persist_client_identity(&mut self, client_identity: &PersistedClientIdentity) -> io::Result<()>;
}

/// Where clients come in.
#[derive(Debug)]
pub struct Listeners {
    /// The well-known control socket, listening already.
    pub control: UnixListener,
    /// The door for the network, if the settings ask for one.
    pub tcp: Option<TcpListenerConfig>,
}

/// A door that speaks WebSocket over TCP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpListenerConfig {
    /// The address.
    pub listen: SocketAddr,
    /// The file that holds the token, for its owner alone.
    pub token_file: PathBuf,
}
