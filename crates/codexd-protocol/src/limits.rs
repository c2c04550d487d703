//! Every limit of this crate that is a choice. Limits of formats and protocols stand beside the code that obeys them.

/// How long a connect waits for room in the backlog of a listener that does not accept.
pub(crate) const CONNECT_TIMEOUT_MS: u64 = 2_000;
/// Bytes kept of the beginning and of the end of a message that is too large.
pub(crate) const EXCERPT_BYTES: usize = 4 * 1024;
