//! Every limit of the gateway. Where a number is upstream's, the comment names the release that showed it.

pub(crate) use codexd_protocol::websocket::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};

// Connections of clients

/// Messages in a client's outbox; with one more, the client is disconnected. App-server 0.169.0 allows 32,512 and disconnects at
/// 33,300.
pub(crate) const OUTBOUND_MESSAGES_MAX: usize = 32_768;
/// Bytes in a client's outbox behind the message that is being written; with more, the client is disconnected. A message that
/// waits alone may be larger, and responses do not count.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes in a client's outbox, including responses.
pub(crate) const OUTBOUND_BYTES_WITH_RESPONSES_MAX: usize = 512 * 1024 * 1024;
/// Bytes in a client's outbox from which on its dedicated connections are not read.
pub(crate) const OUTBOUND_FULL_BYTES: usize = 8 * 1024 * 1024;
/// Entries for which an empty outbox keeps memory: 2 KiB. A new outbox has none.
pub(crate) const OUTBOX_IDLE_CAPACITY: usize = 48;
/// The largest message of a client that is skipped, so that only its request fails. A larger one ends the connection.
pub(crate) const SKIPPED_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Bytes read from a client before other tasks run, at most.
pub(crate) const CLIENT_READ_BYTES: usize = 16 * 1024;
/// The same, at least: a system call for fewer bytes costs more than it reads.
pub(crate) const CLIENT_READ_MIN_BYTES: usize = 512;
/// Bytes read in one round over all clients with more input, unless they are so many that each gets the minimum.
pub(crate) const CLIENT_READ_ROUND_BYTES: usize = 64 * 1024;
/// Time for a client to complete the WebSocket handshake.
pub(crate) const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// The largest head of an HTTP request or response.
pub(crate) const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for a disconnected client to read the close frame and hang up.
pub(crate) const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// Time for all clients together to read their pending output when the gateway exits.
pub(crate) const SHUTDOWN_TIMEOUT_MS: u64 = 1_000;
/// How long no client is accepted after no descriptor was free.
pub(crate) const ACCEPT_PAUSE_MS: u64 = 100;
/// Free memory is returned to the system so long after a client has disconnected, once for all that disconnect meanwhile.
pub(crate) const TRIM_AFTER_MS: u64 = 3_000;

// Clients that have not sent `initialize`

/// The largest message of such a client. Upstream accepts more; no client sends as much.
pub(crate) const UNINITIALIZED_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Messages in the outbox of such a client.
pub(crate) const UNINITIALIZED_OUTBOUND_MESSAGES_MAX: usize = 64;
/// Bytes in the outbox of such a client.
pub(crate) const UNINITIALIZED_OUTBOUND_BYTES_MAX: usize = 512 * 1024;
/// Bytes of requests queued for the response to `initialize`; with more, the client is not read.
pub(crate) const UNINITIALIZED_QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// Such connections on the control socket. For one more, the oldest is closed if it has been silent for
/// [`UNINITIALIZED_SILENT_MS`]: many clients connect at once when a gateway was replaced.
pub(crate) const UNINITIALIZED_MAX: usize = 128;
/// See [`UNINITIALIZED_MAX`].
pub(crate) const UNINITIALIZED_SILENT_MS: u64 = 2_000;
/// Descriptors that no new client gets: they are for the dedicated connections of existing clients, files and app-servers.
pub(crate) const DESCRIPTORS_RESERVED: usize = 64;
/// Descriptors among these that no dedicated connection gets either.
pub(crate) const DESCRIPTORS_RESERVED_FOR_GATEWAY: usize = 24;

// The TCP listener

/// Time for a connection to send the head of its request, with the token.
pub(crate) const TCP_HEAD_MAX_MS: u64 = 3_000;
/// Time for a client from the handshake to `initialize`.
pub(crate) const TCP_INITIALIZE_MAX_MS: u64 = 10_000;
/// Connections that have not sent the token. For one more, the oldest that has sent nothing is closed.
pub(crate) const TCP_UNAUTHENTICATED_MAX: usize = 64;
/// Bytes read of the token file.
pub(crate) const TOKEN_FILE_BYTES_MAX: u64 = 4096;
/// First wait before listening is retried. Doubled up to [`LISTEN_RETRY_LAST_MS`].
pub(crate) const LISTEN_RETRY_FIRST_MS: u64 = 50;
/// See [`LISTEN_RETRY_FIRST_MS`].
pub(crate) const LISTEN_RETRY_LAST_MS: u64 = 5_000;
/// Time without input after which the kernel probes the peer.
pub(crate) const KEEPALIVE_SECONDS: u64 = 60;

// Connections to app-servers

/// Bytes in the outbox of a connection from which on no more requests are sent over it.
pub(crate) const UPSTREAM_FULL_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of requests sent in one step of the hub, before a connection can report that it is full.
pub(crate) const SENT_PER_STEP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes in the outbox of a connection; with more, it counts as lost: the app-server does not read.
pub(crate) const UPSTREAM_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Messages in the outbox of a connection; with more, it counts as lost.
pub(crate) const UPSTREAM_MESSAGES_MAX: usize = 1_000_000;
/// The largest message, and frame, of an app-server. The app-server itself has no limit.
pub(crate) const UPSTREAM_MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes read from an app-server at once: all messages in them are passed on before any is written.
pub(crate) const UPSTREAM_READ_BYTES: usize = 64 * 1024;
/// Reads that a burst of notifications may take at once.
pub(crate) const IMMEDIATE_READS: u32 = 64;
/// Time in which a connection regains one immediate read: a steady stream is read about once in one to two of these, unless it
/// fills the buffer.
pub(crate) const COALESCED_READ_MS: u64 = 1;
/// Time for an app-server to answer `initialize`, including the connect.
pub(crate) const INITIALIZE_TIMEOUT_MS: u64 = 10_000;
/// First wait between two readiness probes. Doubled up to [`PROBE_LAST_WAIT_MS`].
pub(crate) const PROBE_FIRST_WAIT_MS: u64 = 1;
/// Time for which an app-server counts as just started.
pub(crate) const PROBE_YOUNG_MS: u64 = 2_000;
/// Longest wait between two probes of an app-server that was just started, if the host reports no change of the sockets: the
/// wait delays the start.
pub(crate) const PROBE_YOUNG_WAIT_MS: u64 = 8;
/// See [`PROBE_FIRST_WAIT_MS`].
pub(crate) const PROBE_LAST_WAIT_MS: u64 = 100;
/// First wait before a lost connection is opened again. Doubled up to [`RECONNECT_LAST_WAIT_MS`].
pub(crate) const RECONNECT_FIRST_WAIT_MS: u64 = 20;
/// See [`RECONNECT_FIRST_WAIT_MS`].
pub(crate) const RECONNECT_LAST_WAIT_MS: u64 = 5_000;
/// After a connection that was open for so long, the wait starts at its first value again.
pub(crate) const RECONNECT_STABLE_MS: u64 = 1_000;
/// First wait before a shared connection whose client information was refused is opened again, with another client's or the
/// same. Doubled up to [`CLIENT_INFO_RETRY_LAST_MS`].
pub(crate) const CLIENT_INFO_RETRY_FIRST_MS: u64 = 100;
/// See [`CLIENT_INFO_RETRY_FIRST_MS`].
pub(crate) const CLIENT_INFO_RETRY_LAST_MS: u64 = 10_000;
/// Time for the supervisor to report, after a connection was lost, that the exit was requested. Otherwise it counts as a
/// crash.
pub(crate) const EXPECTED_EXIT_REPORT_MS: u64 = 500;
/// Time for an app-server that ran before this gateway to list its loaded threads; requests wait meanwhile.
pub(crate) const LOADED_LIST_TIMEOUT_MS: u64 = 5_000;
/// App-servers that have exited and whose pids reports still name.
pub(crate) const EXITED_SERVERS_REMEMBERED_MAX: usize = 64;

// Writing

/// Bytes written with one system call.
pub(crate) const WRITE_BYTES: usize = 128 * 1024;
/// Bytes written to one connection before other connections are written to.
pub(crate) const WRITE_TURN_BYTES: usize = 1024 * 1024;
/// Connections written to before other tasks run.
pub(crate) const WRITE_TURN_CONNECTIONS: usize = 64;

// Host and disk

/// Log entries and reports queued for the host; with more, the oldest is dropped.
pub(crate) const HOST_COMMANDS_WAITING_MAX: usize = 1_024;
/// Jobs queued for the thread that writes to disk.
pub(crate) const STATE_JOBS_WAITING_MAX: usize = 256;
/// Wait before a check for a rollout file is retried while too many jobs are queued.
pub(crate) const ROLLOUT_CHECK_RETRY_MS: u64 = 50;
/// Wait before a failed write of the goals is retried.
pub(crate) const GOALS_PERSIST_RETRY_MS: u64 = 1_000;
/// Longest wait for the disk of a request that changes a goal: a disk that hangs must not block the client.
pub(crate) const GOALS_PERSIST_TIMEOUT_MS: u64 = 2_000;
/// Entries of each list in the snapshot that `codexd debug hub` prints; beyond, it has their number. All lists together stay below
/// [`UNINITIALIZED_OUTBOUND_BYTES_MAX`]: the command does not initialize.
pub(crate) const SNAPSHOT_LIST_MAX: usize = 200;
/// Entries of a list within such an entry.
pub(crate) const SNAPSHOT_INNER_LIST_MAX: usize = 5;

// Requests

/// Requests of all clients in flight to an app-server. App-server 0.169.0 has one queue of 128 for all connections and refuses
/// more.
pub(crate) const IN_FLIGHT_MAX: usize = 96;
/// Requests of one client among them.
pub(crate) const IN_FLIGHT_PER_CLIENT_MAX: usize = 24;
/// Time after which an unanswered request no longer counts as in flight: it has left upstream's queue and is being worked on.
pub(crate) const IN_FLIGHT_PERMIT_MS: u64 = 250;
/// Requests of one client that wait in the gateway; with more, the client is not read.
pub(crate) const QUEUED_MAX: usize = 256;
/// Bytes of these requests.
pub(crate) const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A client is read again when fewer of its requests wait.
pub(crate) const READ_AGAIN_BELOW: usize = 128;
/// Longest wait of a request for an app-server that answers.
pub(crate) const QUEUED_MAX_MS: u64 = 30_000;
/// How long no request is sent after upstream has refused one because its queue was full.
pub(crate) const OVERLOADED_PAUSE_MS: u64 = 20;
/// Requests of one client without a response.
pub(crate) const UNANSWERED_MAX: usize = if cfg!(test) { 512 } else { 4_096 };
/// Bytes that are stored of them; with more, the next requests wait.
pub(crate) const UNANSWERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Interval in which the requests of a client at one of these two limits are counted again.
pub(crate) const UNANSWERED_RECOUNT_INTERVAL_MS: u64 = 50;
/// Of a larger request in flight, only small members stay stored: after [`IN_FLIGHT_PERMIT_MS`], and when its client has
/// disconnected.
pub(crate) const STORED_REQUEST_BYTES_MAX: usize = 4 * 1024;
/// The largest member that stays stored of such a request.
pub(crate) const STORED_MEMBER_BYTES_MAX: usize = 1024;
/// Time for an app-server to answer a lookup, also on a slow disk.
pub(crate) const RESPONSE_TIMEOUT_MS: u64 = 120_000;
/// Time for an app-server to answer a request that loads, starts, searches, copies or uses the network.
pub(crate) const SLOW_RESPONSE_TIMEOUT_MS: u64 = 60 * 60 * 1_000;
/// Interval in which overdue requests are looked for.
pub(crate) const OVERDUE_CHECK_INTERVAL_MS: u64 = 5_000;
/// Time for all clients together to answer a server request without a thread. Upstream itself waits 10 s at most.
pub(crate) const SERVER_REQUEST_MAX_MS: u64 = 30_000;
/// Time for an app-server to confirm the answer to a server request.
pub(crate) const ANSWER_CONFIRM_TIMEOUT_MS: u64 = 5_000;

// State of one client

/// Watches and searches that are started again when the dedicated connection of their client is opened again.
pub(crate) const REPLAYED_MAX: usize = 1_024;
/// Bytes of their parameters and names.
pub(crate) const REPLAYED_BYTES_MAX: usize = 1024 * 1024;
/// Commands, processes and logins on a client's dedicated connections.
pub(crate) const CONNECTION_BOUND_MAX: usize = 4_096;
/// Bytes of their names.
pub(crate) const CONNECTION_BOUND_BYTES_MAX: usize = 1024 * 1024;
/// Event streams.
pub(crate) const EVENT_STREAMS_MAX: usize = 256;
/// Bytes of the parameters of one event stream, and of one setting.
pub(crate) const STORED_PARAMS_BYTES_MAX: usize = 64 * 1024;
/// Settings that are repeated in a successor, because an app-server keeps them only in memory.
pub(crate) const REPLAYED_SETTINGS_MAX: usize = 64;
/// Warnings that are repeated to new clients.
pub(crate) const REPEATED_WARNINGS_MAX: usize = 32;
/// Clients that have resumed a thread with all its turns and may get a notification about it.
pub(crate) const RESUME_REQUESTERS_MAX: usize = 16;

// Threads

/// How long a thread counts as busy after an event that may start or end a turn: the notification follows some milliseconds
/// later.
pub(crate) const BUSY_AFTER_EVENT_MS: u64 = 50;
/// How long a thread without a running turn counts as busy after its message queue has changed: 0.171.0 takes a message from the
/// queue 15 to 40 ms before it reports the turn, a loaded machine longer.
pub(crate) const BUSY_AFTER_QUEUE_CHANGE_MS: u64 = 3_000;
/// Age from which the results of the checks before an unloading are out of date: the turn of a message that has left the
/// queue may have begun.
pub(crate) const CHECK_VALID_MS: u64 = BUSY_AFTER_QUEUE_CHANGE_MS;
/// How long a thread without viewers stays loaded, unless the user's `thread_unload_delay_secs` says otherwise: upstream's own
/// delay.
pub(crate) const UNLOAD_DELAY_MS: u64 = 60_000;
/// The longest such delay: a hundred years.
pub(crate) const UNLOAD_DELAY_MAX_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;
/// Time for a thread to unload. Then it is subscribed to again, and unloading is retried later.
pub(crate) const UNLOAD_TIMEOUT_MS: u64 = 5_000;
/// How long the echoes of a resume by the gateway itself are suppressed.
pub(crate) const SUPPRESS_ECHO_MS: u64 = 2_000;
/// Wait before a thread that is still loaded elsewhere, or an overloaded app-server, is retried.
pub(crate) const RETRY_AFTER_MS: u64 = 50;
/// Retries at that interval. An app-server that needs more time to release a thread has a problem.
pub(crate) const FAST_RETRIES_MAX: u32 = 10;
/// Wait between two retries after that, and the first wait while a configuration is to be repaired, doubled from there.
pub(crate) const SLOW_RETRY_AFTER_MS: u64 = 500;
/// Retries at that interval: they last somewhat longer than a request may wait ([`QUEUED_MAX_MS`]).
pub(crate) const SLOW_RETRIES_MAX: u32 = 75;
/// Longest wait before a thread that an app-server refuses to load is retried.
pub(crate) const REFUSED_RETRY_MAX_MS: u64 = codexd_core::limits::THREAD_RETRY_MS_MAX;
/// Refused threads that a report lists.
pub(crate) const REFUSED_THREADS_LISTED_MAX: usize = 100;
/// How long refusals are collected for one report.
pub(crate) const REFUSALS_REPORT_AFTER_MS: u64 = 100;
/// Bytes of one text stream that are kept for late viewers. Of a longer one they get the completed item.
pub(crate) const PARTIAL_TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Completed turns that are remembered per thread.
pub(crate) const TURNS_REMEMBERED_MAX: usize = 8;
/// Background terminals of one thread whose end is reported if its app-server is lost. Upstream runs at most 64 at once.
pub(crate) const BACKGROUND_TERMINALS_MAX: usize = 64;
/// Ancestors of a sub-agent's thread that are looked up.
pub(crate) const LINEAGE_MAX: usize = 64;
/// Bytes of the largest settings of one thread, as JSON, that are kept to be replayed: many times what a dozen MCP servers
/// take, and less than a socket buffer holds.
pub(crate) const THREAD_SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the settings of all threads, as JSON.
pub(crate) const ALL_THREAD_SETTINGS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of messages about one thread that wait while it is loaded again after a crash; the oldest is dropped.
pub(crate) const DEFERRED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Threads that clients wait for and that are loaded at once; the others queue. Each may start a login shell.
pub(crate) const DEMANDED_LOADS_MAX: usize = 4;
/// Threads that are loaded in the background at once; one while a client waits for another. Two, so that a load that hangs
/// does not block the others. More are hardly faster together (0.171.0, two cores: 12 a second one by one, 10 two at once, 14
/// four at once), but a load that a client waits for takes 99, 196 or 319 ms beside them, instead of 56.
pub(crate) const BACKGROUND_LOADS_MAX: usize = 2;
/// How long only one thread is loaded in the background after a client has requested one: its next request may be about
/// another thread.
pub(crate) const BACKGROUND_LOADS_YIELD_MS: u64 = 1_000;
/// Threads that a new gateway finds loaded and subscribes to at once: the app-server has one queue for all requests.
pub(crate) const ATTACHING_MAX: usize = 16;

// Goals

/// After so many consecutive crashes of an app-server that had loaded a thread for its goal, the thread is not loaded at once: it
/// may be the cause.
pub(crate) const GOAL_CRASHES_MAX: u32 = 3;
/// An app-server that ran for so long with the thread did not crash because of it.
pub(crate) const GOAL_STABLE_MS: u64 = 10_000;
/// How long a goal is postponed whose thread cannot be loaded, or crashed the app-server.
pub(crate) const GOAL_POSTPONED_MS: u64 = 60_000;

// Handover

/// How long the result of a trial load holds for one folder and provider.
pub(crate) const TRIAL_LOAD_VALID_MS: u64 = 2_000;
/// Threads of trial loads that are remembered until their notifications have arrived.
pub(crate) const TRIAL_LOADS_REMEMBERED_MAX: usize = 64;
/// Wait between a change of a handover that is blocked and the next report.
pub(crate) const HANDOVER_REPORT_AFTER_MS: u64 = 100;

/// More rounds than the hub needs to settle after any event; a debug build panics beyond.
#[cfg(debug_assertions)]
pub(crate) const SETTLE_ROUNDS_MAX: usize = 1_000;
