//! Every timeout and every size that codexd decides by, with its unit in its name.

/// How long `start` waits for `initialize` to be answered.
pub const START_TIMEOUT_MS: u64 = 30_000;
/// How long it has if it is at work: Codex may be read from a slow disk.
pub const BUSY_START_TIMEOUT_MS: u64 = 60_000;
/// How long one question to a listening server may take before the listener counts as unresponsive.
pub const PROBE_TIMEOUT_MS: u64 = 2_000;
/// How long a Codex binary that is to print its version may do nothing before it counts as broken.
pub const VERSION_IDLE_TIMEOUT_MS: u64 = 5_000;
/// How long it may take if it is at work. With [`START_TIMEOUT_MS`] not longer than others wait for
/// the lock.
pub const VERSION_TIMEOUT_MS: u64 = 45_000;
/// How long the same binary has when its version is only to be told, not proven: an answer without it is better than a wait.
pub const VERSION_DISPLAY_TIMEOUT_MS: u64 = 1_000;
/// How long it has then if it is at work.
pub const BUSY_VERSION_DISPLAY_TIMEOUT_MS: u64 = 5_000;
/// How long a command waits for the operation lock unless told otherwise.
pub const LOCK_TIMEOUT_SECONDS: u64 = 75;
/// How long running turns have after the first signal of a stop, unless told otherwise.
pub const SHUTDOWN_GRACE_SECONDS: u64 = 60;
/// The longest grace that the setting accepts: a day.
pub const SHUTDOWN_GRACE_MAX_SECONDS: u64 = 86_400;
/// The longest grace that upstream's daemon takes in `shutdownGraceSeconds`: its commands fail with a longer one.
pub const UPSTREAM_GRACE_MAX_SECONDS: u64 = 300;
/// How long a server has after the second signal (upstream leaves within 0.15 s of it) before it is killed: a stop takes the grace and
/// one second at most.
pub const SECOND_SIGNAL_GRACE_MS: u64 = 700;
/// How long after the first signal a draining server is reminded of it; each further time waits twice as long.
pub const REMINDER_FIRST_MS: u64 = 250;
/// The longest wait between two reminders; after it there are no more.
pub const REMINDER_LAST_MS: u64 = 8_000;
/// How long the processes that a server leaves behind have between SIGTERM and SIGKILL.
pub const ORPHAN_GRACE_MS: u64 = 500;
/// How long a killed process may take to disappear before a stop counts as failed.
pub const KILL_TIMEOUT_MS: u64 = 5_000;
/// How long a gateway has after SIGTERM to close its clients before it is killed.
pub const GATEWAY_STOP_GRACE_MS: u64 = 2_000;
/// So many clients may wait to be let in, also while a killed gateway is replaced.
pub const CONTROL_BACKLOG: i32 = 4_096;
/// How long a successor that never answered has after SIGTERM, and again after the second one, before it is killed.
pub const WITHDRAW_GRACE_MS: u64 = 500;
/// How long the questions may take that prove a new app-server before it takes over; one that does not answer in time is not
/// held up for that.
pub const PROOF_TIMEOUT_MS: u64 = 10_000;
/// So many of the threads that are loaded is a new app-server asked to read; one that it reads is enough.
pub const PROOF_THREADS_MAX: usize = 3;
/// How long `restart` waits to hear from the gateway how the handover goes, once the successor serves.
pub const HANDOVER_REPORT_TIMEOUT_MS: u64 = 30_000;
/// How long a command waits for a new supervisor to answer.
pub const SUPERVISOR_TIMEOUT_MS: u64 = 5_000;
/// How much longer it waits for a supervisor that is at work: it writes to a disk that stalls, or reads itself from it.
pub const BUSY_SUPERVISOR_TIMEOUT_MS: u64 = 25_000;
/// How long a supervisor may take from giving back its locks to its end.
pub const SUPERVISOR_END_TIMEOUT_MS: u64 = 5_000;
/// How long `restart` waits for a gateway that is to move threads to get in touch with its supervisor. One that cannot hand over
/// drains instead.
pub const GATEWAY_TIMEOUT_MS: u64 = 3_000;
/// How long a server whose supervisor was killed may take from its fork until its mark can be read, on a busy machine.
pub const GENERATION_ID_TIMEOUT_MS: u64 = 500;
/// How long if it is seen that there is one.
pub const SEEN_GENERATION_ID_TIMEOUT_MS: u64 = 10_000;
/// How long a process that a command wants to be taken over may show no arguments: it is about to run another program, or to end.
pub const EXITING_TIMEOUT_MS: u64 = 2_000;
/// How long the supervisor waits, without answering anyone, for such a process or for the holder of the control socket to end. Several
/// such waits together are shorter than [`PROBE_TIMEOUT_MS`], after which the supervisor counts as unresponsive.
pub const BLOCKING_WAIT_MS: u64 = 500;

/// The soft limit of open files that the processes of a home get is their hard limit, but at most this: some programs close
/// every number up to the limit before they start a child, and a hard limit may be two billion.
pub const DESCRIPTORS_MAX: u64 = 1 << 20;
/// The soft limit of the stack that they get; more, or none, changes where the kernel maps memory.
pub const STACK_LIMIT_BYTES: u64 = 8 << 20;
/// The most events that the record of codexd may have at hand.
pub const EVENT_CACHE_MAX: u64 = 100_000;
/// The longest life of `codexd run --run-once`: a day.
pub const RUN_LIFETIME_MAX_MS: u64 = 86_400_000;
/// The longest pause between two passes of upstream's updater that the settings accept: a year.
pub const UPDATE_INTERVAL_MAX_MINUTES: u64 = 525_600;
/// The umask of an app-server and of its tools, unless the settings say otherwise.
pub const SERVER_UMASK: u32 = 0o022;

/// The pause from start to start before the second restart in a row; the first is immediate and each further pause twice as
/// long.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// The longest pause from start to start.
pub const BACKOFF_CEILING_MS: u64 = 30_000;
/// The window in which crashes are counted towards a crash loop.
pub const CRASH_WINDOW_MS: u64 = 60_000;
/// How soon the file of a program that is missing is looked for again where no change is reported by the file system.
pub const MISSING_PROGRAM_RETRY_MS: u64 = 5_000;
/// So many crashes within the window are a crash loop.
pub const CRASH_LIMIT: usize = 5;
/// A server that has lived so long has left its earlier crashes behind.
pub const STABLE_AFTER_MS: u64 = 60_000;

/// A log file is rotated when it has grown past this.
pub const LOG_MAX_BYTES: u64 = 8 << 20;
/// A log that cannot be rotated (a full disk) is cut without when it is so many times as large as it may be.
pub const LOG_OVERGROWN_FACTOR: u64 = 4;
/// So much of the end of a log, over both of its files, is looked through for its last lines: all that both may hold.
pub const LOG_LINES_MAX_BYTES: u64 = 2 * LOG_MAX_BYTES;
/// How long after a server has made its socket the supervisor connects to it, to learn which process listens. The pause doubles
/// while no process listens.
pub const LISTENER_FIRST_WAIT_MS: u64 = 2;
/// The longest such pause; after it the next change beside the socket, or the next command, begins again.
pub const LISTENER_LAST_WAIT_MS: u64 = 16_384;
/// How long a command waits until the supervisor knows which process of a server with a wrapper listens.
pub const LISTENER_NAMED_TIMEOUT_MS: u64 = 2_000;
/// How long a wrapper script may take to end after the app-server that it has started, before it is sent SIGTERM; and again before it
/// is killed.
pub const WRAPPER_END_TIMEOUT_MS: u64 = 500;
/// How long the supervisor leaves a busy log alone before it looks at its size again.
pub const LOG_CHECK_INTERVAL_MS: u64 = 1_000;
/// The event log is rotated when it has grown past this.
pub const EVENTS_MAX_BYTES: u64 = 1 << 20;
/// Events of one type that a process writes at once. Beyond it they are dropped and counted.
pub const EVENTS_AT_ONCE_PER_TYPE: u32 = 64;
/// Then one more so often: about as many as the bounded log holds in a day.
pub const EVENT_AGAIN_AFTER_MS: u64 = 30_000;
/// Types of events that are counted each for itself.
pub const EVENT_TYPES_MAX: usize = 256;
/// How long an event waits for another writer of the event log before it is given up.
pub const EVENTS_LOCK_TIMEOUT_MS: u64 = 200;
/// A file of the state that is larger is not read.
pub const STATE_FILE_MAX_BYTES: u64 = 16 << 20;
/// How much of the end of the server's stderr is reported with its exit.
pub const STDERR_TAIL_BYTES: u64 = 4_096;
/// How much of the end of it is searched for the line that says what failed: a backtrace may stand behind that line.
pub const STDERR_SEARCHED_BYTES: u64 = 256 << 10;
/// Characters of another program's text that a message, an event or a line of `status` quotes.
pub const QUOTED_CHARS_MAX: usize = 200;
/// Bytes of a version that a Codex binary prints.
pub const VERSION_BYTES_MAX: usize = 64;
/// How long `status` waits for what the server says of its configuration and of remote control.
pub const STATUS_QUESTION_TIMEOUT_MS: u64 = 500;
/// How long `status --wait` waits unless `--timeout` says otherwise.
pub const STATUS_WAIT_TIMEOUT_SECONDS: u64 = 60;
/// How often `status --wait` observes again although no file has changed: an app-server that begins to answer changes none.
pub const STATUS_WAIT_RECHECK_MS: u64 = 1_000;
/// How long the gateway may take to answer `codexd debug hub`.
pub const DEBUG_TIMEOUT_MS: u64 = 5_000;
/// How many of the newest events `status` shows.
pub const STATUS_EVENTS: usize = 5;
/// How many threads that are not loaded `status` names.
pub const STATUS_THREADS_NAMED: usize = 5;
/// The longest wait before a thread is tried again that an app-server refuses to load.
pub const THREAD_RETRY_MS_MAX: u64 = 30_000;
/// A message between a command and the supervisor may be so long: it carries a whole environment, of which Linux allows 6 MiB and
/// of which a byte that is no text takes four.
pub const SUPERVISOR_MESSAGE_MAX_BYTES: usize = 32 << 20;
/// The settings of all threads that a supervisor stores for the gateway, in bytes: twice what a gateway gives it.
pub const THREAD_SETTINGS_STORED_MAX_BYTES: usize = 16 << 20;
/// So many bytes of them are sent at once, unless one alone is larger: less than a socket takes without anybody reading.
pub const THREAD_SETTINGS_SENT_BYTES: usize = 64 << 10;
/// How long after the loss of its lock the supervisor makes its state folder anew: until the removal is complete.
pub const STATE_FOLDER_REMOVED_PAUSE_MS: u64 = 50;
/// An order to the supervisor may be so long unless a longer one was announced.
pub const ORDER_MAX_BYTES: usize = 768 << 10;
/// The orders of all connections that have not come to their end, together. Announced orders and those of the gateway do not count.
pub const ORDERS_UNFINISHED_MAX_BYTES: usize = 1 << 20;
/// How long an announced order may take to arrive; until then no other connection may announce one.
pub const ANNOUNCED_ORDER_TIMEOUT_MS: u64 = 10_000;
/// So much of one connection the supervisor reads before it turns to the others.
pub const ORDERS_READ_AT_ONCE_BYTES: usize = 64 << 10;
/// So many programs may be connected to the supervisor at once, the gateway among them.
pub const SUPERVISOR_CLIENTS_MAX: usize = 128;
/// How often a command looks again before it gives up as undecided.
pub const STEPS_MAX: usize = 16;
/// How long the listening process may take to answer the handshake of `proxy --lines`.
pub const PROXY_HANDSHAKE_SECONDS: u64 = 10;
/// Interval in which a process without arguments is checked: it is about to run another program, or to exit.
pub const ARGUMENTS_POLL_MS: u64 = 1;
/// Interval in which a listening socket is checked whose process has exited: another process has it open.
pub const LISTENER_EXIT_POLL_MS: u64 = 5;
/// Interval in which a supervisor that holds its lock and does not listen is checked.
pub const SUPERVISOR_LOCK_POLL_MS: u64 = 5;
/// Interval in which a supervisor that is exiting is checked: the loss of its memory is no event.
pub const SUPERVISOR_EXIT_POLL_MS: u64 = 1;
/// How much longer a command waits at a time for a supervisor that is at work, within [`BUSY_SUPERVISOR_TIMEOUT_MS`].
pub const BUSY_SUPERVISOR_EXTENSION_MS: u64 = 100;
/// Interval in which a running `codex --version` is checked for activity.
pub const VERSION_POLL_MS: u64 = 500;
/// Time for the processes of a killed `codex --version` to disappear. Their new parent may never reap them.
pub const VERSION_KILL_TIMEOUT_MS: u64 = 1_000;
/// Interval in which they are checked: the end of a process group is no event.
pub const VERSION_KILL_POLL_MS: u64 = 1;
/// Binaries in the version cache; for one more, the cache is emptied.
pub const VERSIONS_CACHED_MAX: usize = 16;
/// Interval in which the lock of the event log is tried again; a writer holds it for far less.
pub const EVENTS_LOCK_POLL_MS: u64 = 1;
/// Bytes at the end of the event log that are searched for the last number; a line is far shorter.
pub const EVENTS_TAIL_BYTES: u64 = 256 << 10;
/// Bytes of a log that are read at once.
pub const LOG_CHUNK_BYTES: usize = 64 << 10;
/// Bytes that a follower of a log remembers to find its place again after a rotation: enough to be unique.
pub const LOG_REMEMBERED_BYTES: usize = 1 << 10;
/// Bytes at the end of a log that a follower searches after a rotation.
pub const LOG_SEARCHED_BYTES: u64 = 1 << 20;
/// Bytes by which the buffer of an incomplete order grows at least.
pub const ORDER_BUFFER_GROWTH_BYTES: usize = 4 << 10;

/// Bytes of the hash of the path of a home in the names of its systemd units.
pub const UNIT_HASH_BYTES: usize = 6;
/// How long the process of a unit may take from the request to start it until it runs its program.
pub const LAUNCH_TIMEOUT_MS: u64 = 10_000;
/// How long a process that has its program may take to run it, once it is no longer wanted.
pub const LAUNCH_CANCEL_TIMEOUT_MS: u64 = 1_000;
/// How long a command waits for one answer of `systemctl`.
pub const SYSTEMCTL_TIMEOUT_MS: u64 = 10_000;
/// How long the supervisor waits, without answering anyone, for one answer of `systemctl`: see [`BLOCKING_WAIT_MS`].
pub const SUPERVISOR_SYSTEMCTL_TIMEOUT_MS: u64 = 1_000;
/// How often the state of a unit is read again whose process has ended and whose end systemd has not recorded yet.
pub const UNIT_POLL_MS: u64 = 5;
/// The pause before systemd starts a supervisor again that was killed, or could not start the app-server.
pub const SERVICE_RESTART_PAUSE_MS: u64 = 1_000;
/// How long a supervisor may take to leave when systemd stops it; its servers go on.
pub const SERVICE_STOP_TIMEOUT_SECONDS: u64 = 10;
/// Without a sign of life for so long a supervisor is killed and started again. It gives one every third of this time.
pub const SERVICE_WATCHDOG_SECONDS: u64 = 90;
/// How much longer than the grace of a stop systemd waits before it kills a unit.
pub const UNIT_STOP_MARGIN_SECONDS: u64 = 10;
/// How long a supervisor that systemd runs waits for a command after `codexd start` has failed, before it leaves and is started again.
pub const SERVICE_FAILED_START_PAUSE_MS: u64 = 10_000;
