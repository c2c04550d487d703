//! The interface between the gateway and its host, the process that runs it: listeners, events, commands, stored state.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use codexd_core::config::SubagentApprovals;
use codexd_core::contract::EventLevel;

/// Whether this gateway migrates threads from an outgoing generation to the current one. If not, a second generation must not
/// be started beside the first: its clients would be disconnected.
pub const MOVES: bool = true;

/// An app-server that runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Generation {
    /// The generation id, as in `CODEXD_GENERATION`; never used twice.
    pub id: String,
    /// Process id.
    pub pid: u32,
    /// The path of its socket, which may not exist yet.
    pub socket: PathBuf,
    /// Its role.
    pub role: Role,
}

/// The role of a generation. A successor is not reported before it is promoted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Gets new threads. At most one.
    Current,
    /// Serves the threads and connections that it holds, and is retired when it holds none.
    Outgoing,
}

/// Stored settings of a thread.
#[derive(Clone, Eq, PartialEq)]
pub struct ThreadSettings {
    /// Thread id.
    pub thread: String,
    /// The settings, which may hold credentials; `None` deletes them.
    pub settings: Option<String>,
}

impl std::fmt::Debug for ThreadSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ThreadSettings").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// An event that the host reports to the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostEvent {
    /// The generations that run now. Sent first, and again at every change. None is current while a crashed server is being
    /// restarted.
    Generations(Vec<Generation>),
    /// The thread settings that the previous gateway stored ([`HostCommand::StoreThreadSettings`]). Comes before the first
    /// list of generations, or not at all.
    ThreadSettings(Vec<ThreadSettings>),
    /// A previous gateway existed, and the thread settings that it stored are lost.
    ThreadSettingsLost,
    /// The current generation drains: nothing new may be started there.
    CurrentDrains,
    /// The settings, as the last command read them. The token file is read again.
    Configure {
        /// The TCP listener, if the settings have one.
        tcp: Option<TcpListenerConfig>,
        /// Which clients answer the approval requests of sub-agents.
        subagent_approvals: SubagentApprovals,
    },
    /// The folder of the sockets has changed: an app-server that was not listening may listen now.
    SocketsChanged,
    /// Close all clients with code 1001 and return.
    Leave,
}

/// A command of the gateway to its host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostCommand {
    /// Stop an outgoing generation, which holds nothing any more.
    Retire {
        /// The generation id.
        generation_id: String,
    },
    /// Keep the settings of a thread in memory for the next gateway, never on disk: they may hold credentials.
    StoreThreadSettings(ThreadSettings),
    /// Send this object to every command that waits for reports, such as the progress of a handover.
    Report(serde_json::Value),
    /// Return free memory to the system: clients have disconnected.
    TrimMemory,
    /// Write an entry into the event log.
    Note {
        /// Its level.
        level: EventLevel,
        /// Its type, such as `handover.completed`.
        kind: String,
        /// A sentence for people.
        message: String,
        /// Details for programs: an object, or null.
        detail: serde_json::Value,
    },
}

/// Active goals, by the ids of their threads.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
pub struct PersistedGoals {
    /// Goals that continue without a client.
    pub active: Vec<String>,
    /// Goals that the gateway has paused, or is about to pause, until their threads have migrated. codexd 0.1.0 wrote `held`.
    #[serde(alias = "held")]
    pub suspended: Vec<String>,
}

impl PersistedGoals {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.suspended.is_empty()
    }
}

/// The client identity of the shared connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistedClientIdentity {
    /// The `initialize` parameters, as the hub wrote them.
    pub initialize_params: String,
    /// Ids of the generations that know this identity.
    pub generations: Vec<String>,
}

/// State on disk that outlives the gateway. It is read before the first client is served, and written by the [`StateWriter`].
///
/// [`StateWriter`]: crate::state_writer::StateWriter
pub trait StateStore: Send {
    /// The goals that were active when the previous gateway ended.
    fn goals(&mut self) -> PersistedGoals;

    /// Replaces the stored goals. They are on disk when it returns.
    ///
    /// # Errors
    /// They could not be written.
    fn persist_goals(&mut self, goals: &PersistedGoals) -> io::Result<()>;

    /// The client identity that the previous gateway stored.
    fn client_identity(&mut self) -> Option<PersistedClientIdentity>;

    /// Replaces the stored client identity.
    ///
    /// # Errors
    /// It could not be written.
    fn persist_client_identity(&mut self, client_identity: &PersistedClientIdentity) -> io::Result<()>;
}

/// The sockets that clients connect to.
#[derive(Debug)]
pub struct Listeners {
    /// The control socket, which already listens.
    pub control: UnixListener,
    /// The TCP listener, if the settings have one.
    pub tcp: Option<TcpListenerConfig>,
}

/// The configuration of the listener for WebSocket over TCP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TcpListenerConfig {
    /// The address.
    pub listen: SocketAddr,
    /// The file that holds the token; only its owner may access it.
    pub token_file: PathBuf,
}
