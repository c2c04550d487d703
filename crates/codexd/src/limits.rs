//! Every interval and size of the commands that the decisions in `codexd_core::limits` do not depend on.

use std::time::Duration;

/// The first interval of a poll of a socket that exists and does not listen yet; it doubles up to [`SOCKET_POLL_LAST`].
pub const SOCKET_POLL_FIRST: Duration = Duration::from_millis(1);
/// The last interval of such a poll.
pub const SOCKET_POLL_LAST: Duration = Duration::from_millis(50);
/// A starting server is idle if it did not use a CPU or a disk for this long.
pub const SERVER_IDLE_AFTER: Duration = Duration::from_secs(2);
/// How often a starting server is checked for that near its deadline.
pub const SERVER_ACTIVITY_INTERVAL: Duration = Duration::from_millis(100);
/// The number of supervisors that may exit during one command.
pub const SUPERVISORS_LOST_MAX: usize = 3;
/// The maximum number of observations without the operation lock.
pub const OBSERVATIONS_MAX: usize = 4;
/// The first pause before the next observation if the home changed during one; it doubles up to [`OBSERVATION_PAUSE_LAST`].
pub const OBSERVATION_PAUSE: Duration = Duration::from_millis(5);
/// The last such pause.
pub const OBSERVATION_PAUSE_LAST: Duration = Duration::from_millis(100);
/// The delay of the first progress line.
pub const PROGRESS_FIRST_AFTER: Duration = Duration::from_secs(2);
/// The interval of the later ones.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// The maximum size of a codexd binary, and of a tarball with one.
pub const UPDATE_FILE_BYTES_MAX: u64 = 512 << 20;
/// The maximum size of what a codexd tarball unpacks to.
pub const UPDATE_UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// The size of one copy of `self-update`.
pub const UPDATE_BUFFER_BYTES: usize = 1 << 20;
/// The maximum number of entries of a codexd tarball.
pub const UPDATE_ENTRIES_MAX: usize = 1_000;
/// The maximum size of a file with a SHA-256.
pub const CHECKSUM_FILE_BYTES_MAX: u64 = 64 << 10;
/// The size of one copy of `proxy`.
pub const PROXY_BUFFER_BYTES: usize = 64 * 1024;
/// The size of the queues between the gateway and its host, in messages.
pub const GATEWAY_HOST_QUEUE_MAX: usize = 64;
/// The time for pending writes when the gateway exits.
pub const GATEWAY_LAST_WRITES: Duration = Duration::from_millis(500);
/// How long the gateway polls for a supervisor after a change in the state folder.
pub const SUPERVISOR_POLL_FOR: Duration = Duration::from_secs(2);
/// How often the gateway looks for a supervisor without inotify: while the state folder does not exist.
pub const SUPERVISOR_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long `remote-control start` waits for the connection, as upstream does, and `remote-control pair` for its answer.
pub const REMOTE_CONTROL_TIMEOUT: Duration = Duration::from_millis(5_500);
/// How often `remote-control start` asks for the state of the connection.
pub const REMOTE_CONTROL_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The size of a file that is copied as a part of the configuration, for the proof of a release.
pub const CANDIDATE_CONFIG_BYTES_MAX: u64 = 4 << 20;
/// How often the app-server of a release is asked for its first answer: that it listens is no event for this process.
pub const CANDIDATE_POLL: Duration = Duration::from_millis(20);
/// Time for that app-server to exit before it is killed.
pub const CANDIDATE_END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the progress of an install is printed.
pub const INSTALL_PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The time over which the rate of a download is averaged, at least.
pub const INSTALL_RATE_AFTER: Duration = Duration::from_millis(500);
