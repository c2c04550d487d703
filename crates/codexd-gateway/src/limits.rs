//! Every bound of the gateway, in one place. Where a number is upstream's, the comment says how it was seen.

pub(crate) use codexd_protocol::websocket::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};

/// Background terminals of one thread whose end is reported if its app-server is lost. Upstream runs at most 64 at once.
pub(crate) const BACKGROUND_TERMINALS_MAX: usize = 64;
/// Messages that may wait for one client before it is cut. App-server 0.169.0 lets 32,512 wait and cuts at 33,300.
pub(crate) const OUTBOUND_MESSAGES_MAX: usize = 32_768;
/// Bytes that may wait for one client behind the message that is being written before it is cut. A message that waits alone
/// may be larger, and answers do not count.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that may wait for one client, answers to its own requests included.
pub(crate) const OUTBOUND_BYTES_WITH_ANSWERS_MAX: usize = 512 * 1024 * 1024;
/// While so many bytes wait for a client, its dedicated connections are not read.
pub(crate) const OUTBOUND_ROOM_BYTES: usize = 8 * 1024 * 1024;
/// The largest message of a client that is read over, so that only the request fails. A larger one ends the connection.
pub(crate) const SKIPPED_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// While so many bytes wait for an app-server on a connection, no more requests are sent over it.
pub(crate) const UPSTREAM_ROOM_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of requests that are sent at once, before the connections have had a chance to say that they are full.
pub(crate) const SENT_AT_ONCE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes that may wait for an app-server before it counts as lost: it does not read any more.
pub(crate) const UPSTREAM_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Messages that may wait for an app-server before it counts as lost.
pub(crate) const UPSTREAM_MESSAGES_MAX: usize = 1_000_000;
/// The largest message, and the largest frame, that is read from an app-server. It has no limit of its own.
pub(crate) const UPSTREAM_MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much is read from a client before others have their turn, at the most.
pub(crate) const CLIENT_READ_BYTES: usize = 16 * 1024;
/// The same, at the least: a system call for less costs more than it reads.
pub(crate) const CLIENT_READ_MIN_BYTES: usize = 512;
/// How much is read in one round over all clients that have more to read, unless they are so many that each has the least.
pub(crate) const CLIENT_READ_ROUND_BYTES: usize = 64 * 1024;
/// How much is read from an app-server at once: everything in it is passed on before anything is written.
pub(crate) const UPSTREAM_READ_BYTES: usize = 64 * 1024;
/// Reads of a link that a burst may take at once, if they bring nothing that anybody waits for.
pub(crate) const IMMEDIATE_READS: u32 = 64;
/// A link may be read once more so often: one that pours is read about once in one to two of these, unless it fills the buffer.
pub(crate) const COALESCED_READ_MS: u64 = 1;
/// How much is written at once.
pub(crate) const WRITE_BYTES: usize = 128 * 1024;
/// How much is written to one connection before others have their turn.
pub(crate) const WRITE_TURN_BYTES: usize = 1024 * 1024;
/// Connections that are written to before others have their turn.
pub(crate) const WRITE_TURN_CONNECTIONS: usize = 64;
/// The largest message of a client before its `initialize` is accepted. Upstream takes more; no client sends as much.
pub(crate) const FIRST_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Messages and bytes that may wait for such a client.
pub(crate) const FIRST_OUTBOUND_MESSAGES_MAX: usize = 64;
/// See [`FIRST_OUTBOUND_MESSAGES_MAX`].
pub(crate) const FIRST_OUTBOUND_BYTES_MAX: usize = 512 * 1024;
/// Bytes of requests that may wait for the answer to their client's `initialize` before no more is read from it.
pub(crate) const WAITING_BEFORE_READY_BYTES: usize = 1024 * 1024;
/// Connections of the control socket that have not sent `initialize`. For one more, the oldest is closed if it has been silent
/// for [`UNINITIALIZED_SILENT_MS`]: many clients come at once when a gateway was replaced.
pub(crate) const UNINITIALIZED_MAX: usize = 128;
/// See [`UNINITIALIZED_MAX`].
pub(crate) const UNINITIALIZED_SILENT_MS: u64 = 2_000;
/// Entries of each list in the snapshot that `codexd debug hub` prints; of more it has the number. All lists together stay below
/// [`FIRST_OUTBOUND_BYTES_MAX`]: the command does not initialize.
pub(crate) const SNAPSHOT_LIST_MAX: usize = 200;
/// Entries of a list in such an entry.
pub(crate) const SNAPSHOT_INNER_LIST_MAX: usize = 5;
/// Descriptors that no new client gets: they are for the dedicated connections of those that are there, for files, and for
/// app-servers.
pub(crate) const DESCRIPTORS_RESERVED: usize = 64;
/// Those of them that no dedicated connection gets either.
pub(crate) const DESCRIPTORS_OF_THE_GATEWAY: usize = 24;
/// How long a client may take for its handshake.
pub(crate) const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// The largest head of an HTTP request or answer.
pub(crate) const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection over TCP may take to send the head of its request, with the token.
pub(crate) const TCP_HEAD_MAX_MS: u64 = 3_000;
/// How long a client over TCP may take from the handshake to its `initialize`.
pub(crate) const TCP_INITIALIZE_MAX_MS: u64 = 10_000;
/// Connections over TCP that have not shown the token yet. Beyond it the oldest that has sent nothing makes room for the next.
pub(crate) const TCP_UNAUTHENTICATED_MAX: usize = 64;
/// The wait before a door that could not be opened is tried again: doubled from the first to the last.
pub(crate) const LISTEN_RETRY_FIRST_MS: u64 = 50;
/// See [`LISTEN_RETRY_FIRST_MS`].
pub(crate) const LISTEN_RETRY_LAST_MS: u64 = 5_000;
/// How long nothing comes over TCP before the kernel asks whether the other end is still there.
pub(crate) const KEEPALIVE_SECONDS: u64 = 60;
/// How long an app-server may take to answer `initialize`, from the connecting on.
pub(crate) const INITIALIZE_TIMEOUT_MS: u64 = 10_000;
/// The wait between two attempts to greet an app-server: doubled from the first to the last.
pub(crate) const PROBE_FIRST_WAIT_MS: u64 = 1;
/// How long an app-server counts as just started.
pub(crate) const PROBE_YOUNG_MS: u64 = 2_000;
/// The longest wait between two attempts meanwhile, if the host has no news of a socket: a start is as late as the attempt
/// that finds it.
pub(crate) const PROBE_YOUNG_WAIT_MS: u64 = 8;
/// See [`PROBE_FIRST_WAIT_MS`].
pub(crate) const PROBE_LAST_WAIT_MS: u64 = 100;
/// How long a client that is cut has to take the close frame and to hang up.
pub(crate) const CLOSE_TIMEOUT_MS: u64 = 5_000;
/// How long all clients together have to take what waits for them when the gateway leaves.
pub(crate) const LEAVE_TIMEOUT_MS: u64 = 1_000;
/// How long a door is left alone when nobody can be let in for want of descriptors.
pub(crate) const ACCEPT_PAUSE_MS: u64 = 100;
/// Notes and reports that wait for the host; beyond it the oldest is dropped.
pub(crate) const HOST_COMMANDS_WAITING_MAX: usize = 1_024;

/// Requests of all clients that may be on their way to an app-server at once. App-server 0.169.0 has one queue of 128
/// for all connections and refuses what does not fit.
pub(crate) const SLOTS_MAX: usize = 96;
/// The share of one client.
pub(crate) const SLOTS_PER_CLIENT_MAX: usize = 24;
/// After this an unanswered request has long left upstream's queue: it works on it.
pub(crate) const SLOT_MAX_MS: u64 = 250;
/// So many requests of a client may wait in the gateway; then no more are read from it for the time being.
pub(crate) const WAITING_MAX: usize = 256;
/// So many bytes of them.
pub(crate) const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A client that waits is heard again when fewer requests of it than this wait.
pub(crate) const HEARD_AGAIN_BELOW: usize = 128;
/// How long a request may wait for an app-server that answers.
pub(crate) const HELD_MAX_MS: u64 = 30_000;
/// How long a thread counts as busy after what may have begun, or ended, a turn: what follows takes some ms to show.
pub(crate) const QUIET_MS: u64 = 50;
/// How long a thread counts as busy after its queue of messages has changed while no turn runs: 0.171.0 takes a message from the
/// queue 15 to 40 ms before it says that the turn has begun, a loaded machine longer.
pub(crate) const QUEUE_STARTS_MS: u64 = 3_000;
/// How long a thread that nobody watches stays loaded, unless the user's `thread_unload_delay_secs` says otherwise: upstream's
/// own delay.
pub(crate) const UNWATCHED_MAX_MS: u64 = 60_000;
/// The longest such delay: a hundred years.
pub(crate) const UNLOAD_DELAY_MAX_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;
/// After so many losses in a row of an app-server that had loaded a thread for its goal's sake, which may be why, the thread
/// is not loaded again at once.
pub(crate) const GOAL_LOSSES_MAX: u32 = 3;
/// One that lived for so long with the thread was not lost for that.
pub(crate) const GOAL_STABLE_MS: u64 = 10_000;
/// So many jobs may wait for the thread that writes to disk.
pub(crate) const STATE_JOBS_WAITING_MAX: usize = 256;
/// How long a request that changes a goal waits for the disk at most: one that hangs is not to stop everything.
pub(crate) const GOALS_STORED_WITHIN_MS: u64 = 2_000;
/// How soon a file is looked for again if too much waits for the disk.
pub(crate) const LOOK_AGAIN_AFTER_MS: u64 = 50;
/// How soon what could not be written down of goals is tried again.
pub(crate) const GOALS_AGAIN_AFTER_MS: u64 = 1_000;
/// How long a goal rests whose thread cannot be loaded, or was not for that reason.
pub(crate) const GOAL_POSTPONED_MS: u64 = 60_000;
/// How long after a resume of the gateway's own its echoes are expected.
pub(crate) const HUSH_MS: u64 = 2_000;
/// A thread that does not unload within this is subscribed again and tried later.
pub(crate) const MOVE_STUCK_MS: u64 = 5_000;
/// The wait before a thread that is still held elsewhere, or an app-server that had too much to do, is tried again.
pub(crate) const AGAIN_AFTER_MS: u64 = 50;
/// So often is a thread tried that soon; an app-server that takes longer to let go of it is in trouble.
pub(crate) const HASTY_TRIES_MAX: u32 = 10;
/// The wait between two tries after that, and the first wait where the configuration is to be repaired: doubled from there.
pub(crate) const AGAIN_LATE_AFTER_MS: u64 = 500;
/// So often is it tried that soon: somewhat longer than a request may wait ([`HELD_MAX_MS`]).
pub(crate) const LATE_TRIES_MAX: u32 = 75;
/// The longest wait before a thread is tried again that an app-server refuses to load.
pub(crate) const REFUSED_AGAIN_MAX_MS: u64 = codexd_core::limits::THREAD_RETRY_MS_MAX;
/// How long the answer holds that an app-server would load threads of one folder and provider.
pub(crate) const REHEARSED_FOR_MS: u64 = 2_000;
/// So many of the threads are remembered that were started only to see whether they load, until what is told of them has come.
pub(crate) const REHEARSALS_REMEMBERED: usize = 64;
/// A handover that waits is reported again so long after something has changed.
pub(crate) const HANDOVER_REPORT_AFTER_MS: u64 = 100;
/// So many threads that an app-server refuses to load are named for people.
pub(crate) const REFUSALS_NAMED_MAX: usize = 100;
/// How long refusals are gathered before they are told.
pub(crate) const REFUSALS_TOLD_AFTER_MS: u64 = 100;
/// Text of one stream that is kept for those who join; an item with more is told to them when it is whole.
pub(crate) const PARTIAL_TEXT_MAX_BYTES: usize = 16 * 1024 * 1024;
/// So many of the turns that ended last are remembered for each thread.
pub(crate) const TURNS_REMEMBERED: usize = 8;
/// Threads that clients wait for and that are loaded at once: the others wait in turns. Each may cost a login shell.
pub(crate) const DEMANDED_LOADS_MAX: usize = 4;
/// Threads that are loaded at once in the background; one while a client waits for another. Two, so that a load which
/// hangs does not hold up the rest. More are hardly faster together (0.171.0, two cores: 12 a second one by one, 10 two at
/// once, 14 four at once), but a load beside them that a client waits for takes 99, 196 or 319 ms instead of 56.
pub(crate) const BACKGROUND_LOADS_MAX: usize = 2;
/// So long after a client has begun to wait for a thread only one thread is loaded in the background: the client's next request
/// may be about another thread.
pub(crate) const BACKGROUND_LOADS_YIELD_MS: u64 = 1_000;
/// Threads that are subscribed to at once when this gateway finds them loaded: the app-server has one queue for all requests.
pub(crate) const TAKE_OVERS_MAX: usize = 16;
/// Requests of one client that have no answer yet.
pub(crate) const UNANSWERED_MAX: usize = if cfg!(test) { 512 } else { 4_096 };
/// Bytes that are kept of them; the next ones wait.
pub(crate) const UNANSWERED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often it is counted what is answered of a client that has reached one of these bounds.
pub(crate) const UNANSWERED_COUNTED_EVERY_MS: u64 = 50;
/// Of a request that is sent and larger than this, only small members are kept: after [`SLOT_MAX_MS`], and when its client
/// has left.
pub(crate) const KEPT_REQUEST_BYTES: usize = 4 * 1024;
/// The largest member that is kept of such a request.
pub(crate) const KEPT_MEMBER_BYTES: usize = 1024;
/// Watches and searches of one client that are begun again when its dedicated connection is opened anew.
pub(crate) const REPLAYED_MAX: usize = 1_024;
/// Bytes of their parameters and names.
pub(crate) const REPLAYED_BYTES_MAX: usize = 1024 * 1024;
/// Commands, processes and logins of one client on its dedicated connections.
pub(crate) const PLACED_MAX: usize = 4_096;
/// Bytes of their names.
pub(crate) const PLACED_BYTES_MAX: usize = 1024 * 1024;
/// Streams of events of one client.
pub(crate) const EVENT_STREAMS_MAX: usize = 256;
/// The parameters of one stream, and of one setting.
pub(crate) const KEPT_PARAMS_BYTES_MAX: usize = 64 * 1024;
/// Bytes of what is told of one thread while it is loaded again after a crash; the oldest is dropped.
pub(crate) const DEFERRED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Settings kept to be made again in a successor, since app-servers keep them in memory only.
pub(crate) const SETTINGS_MAX: usize = 64;
/// The largest settings of one thread that are kept to be given again, in bytes of JSON: many times what a dozen MCP servers
/// take, and less than a socket buffer holds.
pub(crate) const THREAD_SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// Those of all threads together, in bytes of JSON.
pub(crate) const ALL_THREAD_SETTINGS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Warnings that are repeated to those who come.
pub(crate) const GREETINGS_MAX: usize = 32;
/// How long requests wait for an app-server that was there before this gateway to tell which threads it has.
pub(crate) const FOUND_WITHIN_MS: u64 = 5_000;
/// How long the supervisor has, after the connection to an app-server broke, to report that the end was requested. Else the end
/// is reported as a loss.
pub(crate) const EXPECTED_END_REPORTED_WITHIN_MS: u64 = 500;
/// The wait before a link that broke is opened again: doubled from the first to the last.
pub(crate) const RECONNECT_AFTER_MS: u64 = 20;
/// See [`RECONNECT_AFTER_MS`].
pub(crate) const RECONNECT_LAST_WAIT_MS: u64 = 5_000;
/// The wait is short again after a link that was open for so long.
pub(crate) const RECONNECT_STABLE_MS: u64 = 1_000;
/// How long clients together may take to answer a server request about no thread. Upstream itself waits 10 s at most.
pub(crate) const SERVER_REQUEST_MAX_MS: u64 = 30_000;
/// So many ancestors of a sub-agent's thread are looked for.
pub(crate) const LINEAGE_MAX: usize = 64;
/// The wait before a shared link whose name was refused is opened under another name, or the same: doubled from the first
/// to the last.
pub(crate) const INTRODUCE_FIRST_WAIT_MS: u64 = 100;
/// See [`INTRODUCE_FIRST_WAIT_MS`].
pub(crate) const INTRODUCE_LAST_WAIT_MS: u64 = 10_000;
/// So many of those who resumed threads with all their turns are remembered until they are told something about it.
pub(crate) const RESUMERS_MAX: usize = 16;
/// How long nothing is sent on after upstream has refused a request because too many were waiting there.
pub(crate) const OVERLOADED_PAUSE_MS: u64 = 20;
/// How long an app-server may take to answer what it only has to look up, on a slow disk too.
pub(crate) const ANSWER_WITHIN_MS: u64 = 120_000;
/// How long it may take for what loads, begins, searches, copies or asks the network.
pub(crate) const SLOW_ANSWER_WITHIN_MS: u64 = 60 * 60 * 1_000;
/// How often requests are looked for that were not answered in time.
pub(crate) const OVERDUE_LOOK_MS: u64 = 5_000;
/// How long an app-server may take to say that it took the answer to a server request.
pub(crate) const ANSWER_TAKEN_WITHIN_MS: u64 = 5_000;
/// How long after a client has left free memory is returned to the system, once for all that leave meanwhile.
pub(crate) const TRIM_AFTER_MS: u64 = 3_000;
