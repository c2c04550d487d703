//! Every timeout and every size that decisions depend on, with the unit in the name.

/// How long `start` waits for `initialize` to be answered.
pub const START_TIMEOUT_MS: u64 = 30_000;
/// The same for a server that is at work: Codex may be read from a slow disk.
pub const BUSY_START_TIMEOUT_MS: u64 = 60_000;
/// Time for a listener to answer a probe before it counts as unresponsive.
pub const PROBE_TIMEOUT_MS: u64 = 2_000;
/// How long `codex --version` may be idle before it counts as broken.
pub const VERSION_IDLE_TIMEOUT_MS: u64 = 5_000;
/// How long it may take if it is at work. Together with [`START_TIMEOUT_MS`] not longer than other commands wait for the lock.
pub const VERSION_TIMEOUT_MS: u64 = 45_000;
/// The idle limit if the version is only displayed: an answer without the version is better than a wait.
pub const VERSION_DISPLAY_TIMEOUT_MS: u64 = 1_000;
/// The total limit in that case, if it is at work.
pub const BUSY_VERSION_DISPLAY_TIMEOUT_MS: u64 = 5_000;
/// The default time that a command waits for the operation lock.
pub const LOCK_TIMEOUT_SECONDS: u64 = 75;
/// The default grace period: time for running turns after the first signal of a stop.
pub const SHUTDOWN_GRACE_SECONDS: u64 = 60;
/// The longest grace period of the setting: a day.
pub const SHUTDOWN_GRACE_MAX_SECONDS: u64 = 86_400;
/// The longest grace period that upstream's daemon accepts in `shutdownGraceSeconds`: its commands fail with a longer one.
pub const UPSTREAM_GRACE_MAX_SECONDS: u64 = 300;
/// Time after the second signal before SIGKILL (upstream exits within 0.15 s of it): a stop takes at most the grace period and one
/// second.
pub const SECOND_SIGNAL_GRACE_MS: u64 = 700;
/// First interval in which the signal is repeated to a draining server. Doubled up to [`REMINDER_LAST_MS`].
pub const REMINDER_FIRST_MS: u64 = 250;
/// The longest such interval; after it there are no more reminders.
pub const REMINDER_LAST_MS: u64 = 8_000;
/// Time for orphans between SIGTERM and SIGKILL.
pub const ORPHAN_GRACE_MS: u64 = 500;
/// Time for a killed process to disappear before a stop counts as failed.
pub const KILL_TIMEOUT_MS: u64 = 5_000;
/// Time for a gateway to close its clients between SIGTERM and SIGKILL.
pub const GATEWAY_STOP_GRACE_MS: u64 = 2_000;
/// Backlog of the control socket: clients wait there while a killed gateway is replaced.
pub const CONTROL_BACKLOG: i32 = 4_096;
/// Time for a successor that never answered after each of two SIGTERMs, before SIGKILL.
pub const WITHDRAW_GRACE_MS: u64 = 500;
/// Time for the checks of a new app-server before it is promoted. It is also promoted if it does not answer in time.
pub const PROOF_TIMEOUT_MS: u64 = 10_000;
/// Loaded threads that a new app-server is requested to read; one that it reads is enough.
pub const PROOF_THREADS_MAX: usize = 3;
/// How long `restart` waits for the gateway's report about the handover, once the successor is current.
pub const HANDOVER_REPORT_TIMEOUT_MS: u64 = 30_000;
/// How long a command waits for a new supervisor to answer.
pub const SUPERVISOR_TIMEOUT_MS: u64 = 5_000;
/// How much longer it waits for a supervisor that is at work: its disk may be slow.
pub const BUSY_SUPERVISOR_TIMEOUT_MS: u64 = 25_000;
/// Time of a supervisor from the release of its locks to its exit.
pub const SUPERVISOR_END_TIMEOUT_MS: u64 = 5_000;
/// How long `restart` waits until the gateway has connected to its supervisor. Without it, the app-server is drained instead.
pub const GATEWAY_TIMEOUT_MS: u64 = 3_000;
/// Time from the fork of a server whose supervisor was killed until its generation id can be read, on a busy machine.
pub const GENERATION_ID_TIMEOUT_MS: u64 = 500;
/// The same if a child of that supervisor is visible.
pub const SEEN_GENERATION_ID_TIMEOUT_MS: u64 = 10_000;
/// How long a process that is to be adopted may have no arguments: it is about to exec or exit.
pub const EXITING_TIMEOUT_MS: u64 = 2_000;
/// How long the supervisor blocks while such a process, or the holder of the control socket, exits. Several such waits together are
/// shorter than [`PROBE_TIMEOUT_MS`], after which the supervisor counts as unresponsive.
pub const BLOCKING_WAIT_MS: u64 = 500;

/// Maximum of the soft limit of open files of all processes, which is otherwise the hard limit: some programs close every number up to
/// the limit before they start a child, and a hard limit may be two billion.
pub const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Their soft limit of the stack; a larger one, or none, changes where the kernel maps memory.
pub const STACK_LIMIT_BYTES: u64 = 8 << 20;
/// The most events that the record of codexd may have at hand.
pub const EVENT_CACHE_MAX: u64 = 100_000;
/// The longest life of `codexd run --run-once`: a day.
pub const RUN_LIFETIME_MAX_MS: u64 = 86_400_000;
/// The highest ceiling of the memory of an app-server: 16 TiB.
pub const MEMORY_CEILING_MAX_MIB: u64 = 16 << 20;
/// The highest number of tasks of a service: that of the kernel.
pub const TASKS_MAX: u64 = 4_194_304;
/// How often the memory of an app-server with a ceiling is read.
pub const MEMORY_CHECK_INTERVAL_MS: u64 = 5_000;
/// The pause between two replacements of an app-server because of its memory.
pub const MEMORY_REPLACEMENT_PAUSE_MS: u64 = 300_000;
/// How long `codexd run` waits, before it exits, for its commands that print: less than a `stop` waits for that exit.
pub const RUN_OUTPUT_TIMEOUT_MS: u64 = 4_000;
/// The longest pause between two passes of upstream's updater that the settings accept: a year.
pub const UPDATE_INTERVAL_MAX_MINUTES: u64 = 525_600;
/// The default umask of an app-server and its tools.
pub const SERVER_UMASK: u32 = 0o022;

/// The pause, from start to start, before the second consecutive restart. The first is immediate, and each further pause is doubled.
pub const BACKOFF_FIRST_MS: u64 = 100;
/// The longest pause from start to start.
pub const BACKOFF_CEILING_MS: u64 = 30_000;
/// The window in which crashes are counted towards a crash loop.
pub const CRASH_WINDOW_MS: u64 = 60_000;
/// Interval in which a missing program is looked for while the file system reports no changes.
pub const MISSING_PROGRAM_RETRY_MS: u64 = 5_000;
/// Crashes within the window that make a crash loop.
pub const CRASH_LIMIT: usize = 5;
/// After so long an uptime, earlier crashes of a server do not count.
pub const STABLE_AFTER_MS: u64 = 60_000;

/// A log file is rotated when it has grown past this.
pub const LOG_MAX_BYTES: u64 = 8 << 20;
/// A log that cannot be rotated (full disk) is cut when it is so many times too large.
pub const LOG_OVERGROWN_FACTOR: u64 = 4;
/// Bytes at the end of a log, over both files, that are searched for its last lines: the maximum of both.
pub const LOG_LINES_MAX_BYTES: u64 = 2 * LOG_MAX_BYTES;
/// First wait before the supervisor connects to a new socket, to find the process that listens. Doubled while no process listens.
pub const LISTENER_FIRST_WAIT_MS: u64 = 2;
/// The longest such wait; after it the next change of the folder, or the next command, starts again.
pub const LISTENER_LAST_WAIT_MS: u64 = 16_384;
/// How long a command waits until the supervisor knows which process of a server with a wrapper listens.
pub const LISTENER_NAMED_TIMEOUT_MS: u64 = 2_000;
/// Time for a wrapper script to exit after its app-server before it gets SIGTERM, and again before SIGKILL.
pub const WRAPPER_END_TIMEOUT_MS: u64 = 500;
/// Interval in which the size of a busy log is checked.
pub const LOG_CHECK_INTERVAL_MS: u64 = 1_000;
/// The event log is rotated when it has grown past this.
pub const EVENTS_MAX_BYTES: u64 = 1 << 20;
/// Events of one type that a process writes at once. Beyond it they are dropped and counted.
pub const EVENTS_AT_ONCE_PER_TYPE: u32 = 64;
/// After that, the interval of one more: about as many as the bounded log holds in a day.
pub const EVENT_AGAIN_AFTER_MS: u64 = 30_000;
/// Types of events with a limit of their own.
pub const EVENT_TYPES_MAX: usize = 256;
/// How long an event waits for another writer of the event log before it is dropped.
pub const EVENTS_LOCK_TIMEOUT_MS: u64 = 200;
/// The largest state file that is read.
pub const STATE_FILE_MAX_BYTES: u64 = 16 << 20;
/// Bytes at the end of the server's stderr that are reported with its exit.
pub const STDERR_TAIL_BYTES: u64 = 4_096;
/// Bytes at its end that are searched for the line that names the failure: a backtrace may follow that line.
pub const STDERR_SEARCHED_BYTES: u64 = 256 << 10;
/// Characters of another program's text that a message, an event or a line of `status` quotes.
pub const QUOTED_CHARS_MAX: usize = 200;
/// Bytes of a version that a Codex binary prints.
pub const VERSION_BYTES_MAX: usize = 64;
/// How long `status` waits for the server's report of its configuration and remote control.
pub const STATUS_QUESTION_TIMEOUT_MS: u64 = 500;
/// How long `status --wait` waits unless `--timeout` says otherwise.
pub const STATUS_WAIT_TIMEOUT_SECONDS: u64 = 60;
/// How often `status --wait` observes again although no file has changed: an app-server that begins to answer changes none.
pub const STATUS_WAIT_RECHECK_MS: u64 = 1_000;
/// Time for the gateway to answer `codexd debug hub`.
pub const DEBUG_TIMEOUT_MS: u64 = 5_000;
/// Newest events that `status` shows.
pub const STATUS_EVENTS: usize = 5;
/// Threads that are not loaded and that `status` lists.
pub const STATUS_THREADS_NAMED: usize = 5;
/// The longest wait before loading a refused thread is retried.
pub const THREAD_RETRY_MS_MAX: u64 = 30_000;
/// The longest message between a command and the supervisor: it holds a whole environment, of which Linux allows 6 MiB, and a byte
/// that is not UTF-8 takes four.
pub const SUPERVISOR_MESSAGE_MAX_BYTES: usize = 32 << 20;
/// Bytes of the thread settings that a supervisor stores: twice what a gateway sends.
pub const THREAD_SETTINGS_STORED_MAX_BYTES: usize = 16 << 20;
/// Bytes of them sent at once, unless one alone is larger: less than a socket buffer holds.
pub const THREAD_SETTINGS_SENT_BYTES: usize = 64 << 10;
/// How long the supervisor waits after the loss of its lock before it creates the state folder again: until the removal is complete.
pub const STATE_FOLDER_REMOVED_PAUSE_MS: u64 = 50;
/// The longest order to the supervisor without an announcement.
pub const ORDER_MAX_BYTES: usize = 768 << 10;
/// Bytes of the incomplete orders of all connections. Announced orders and those of the gateway do not count.
pub const ORDERS_UNFINISHED_MAX_BYTES: usize = 1 << 20;
/// Time for an announced order to arrive; until then no other connection may announce one.
pub const ANNOUNCED_ORDER_TIMEOUT_MS: u64 = 10_000;
/// Bytes that the supervisor reads from one connection before it handles others.
pub const ORDERS_READ_AT_ONCE_BYTES: usize = 64 << 10;
/// Connections to the supervisor, including the gateway's.
pub const SUPERVISOR_CLIENTS_MAX: usize = 128;
/// Observations of one command before it gives up.
pub const STEPS_MAX: usize = 16;
/// Time for the listener to answer the handshake of `proxy --lines`.
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
/// The least time between two starts of codexd by launchd.
pub const LAUNCHD_THROTTLE_SECONDS: u64 = 10;
