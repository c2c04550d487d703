//! Every limit of this server. Where a number is upstream's, the comment gives the observation.

/// Messages that may wait for one connection before it is cut. App-server 0.169.0 lets 32,512 wait and cuts at 33,300.
pub(crate) const OUTBOUND_MESSAGES_MAX: usize = 32_768;
/// Bytes that may wait for one connection behind the message that is being sent before it is cut; one message of any size may
/// wait alone. Upstream counts only messages; ours counts both, so that a
/// client that sleeps through a chatty turn cannot make a small server a big one.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests of all connections together that may wait to be handled; one more is answered with "overloaded".
pub(crate) const INGRESS_REQUESTS_MAX: usize = 128;
/// The largest single WebSocket frame that is read. Upstream tells it to clients in a header of the handshake.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest message that is read, in as many frames as the client likes: 60 MiB passes upstream, 70 MiB does not.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The read buffer of one connection. The library's default of 128 KiB would be most of an idle client's memory.
pub(crate) const READ_BUFFER_BYTES: usize = 4 * 1024;
/// How much is gathered before it is written to a socket.
pub(crate) const WRITE_BUFFER_BYTES: usize = 4 * 1024;
/// How long a connection may take for its WebSocket handshake.
pub(crate) const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// After the last turn of a drain: how long the clients have to take what is queued for them.
pub(crate) const FLUSH_TIMEOUT_MS: u64 = 250;
/// How long after its last subscriber left an idle thread stays loaded.
pub(crate) const THREAD_UNLOAD_DELAY_SECS: u64 = 60;
/// Pieces of an answer that are sent before other clients are served.
pub(crate) const DELTAS_PER_BATCH: u32 = 32;
/// Bytes of an answer after which a batch ends, however few pieces that are.
pub(crate) const BATCH_BYTES: usize = 64 * 1024;
/// Pause between two such batches. With [`DELTAS_PER_BATCH`] it makes the fastest turn about as fast as upstream's
/// (24,000 pieces a second), which a client that reads keeps up with.
pub(crate) const BATCH_INTERVAL_US: u64 = 1_000;
/// Pieces of one answer.
pub(crate) const DELTAS_MAX: u32 = 10_000_000;
/// Bytes of one piece.
pub(crate) const DELTA_BYTES_MAX: usize = 1024 * 1024;
/// Threads or turns on a page of a list, unless the client asks for fewer.
pub(crate) const PAGE_ENTRIES: usize = 25;
/// Most entries on a page, whatever the client asks for.
pub(crate) const PAGE_ENTRIES_MAX: usize = 100;
/// Pause before the next accept after an accept has failed, usually for lack of file descriptors.
pub(crate) const ACCEPT_RETRY_MS: u64 = 100;
