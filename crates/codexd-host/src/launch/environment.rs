//! Which variables the processes of codexd get.

use std::ffi::{OsStr, OsString};

/// The variables of the caller that a supervisor or a gateway gets. All others may hold secrets that neither needs.
pub const OF_SERVICES: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "RUST_LOG",
    "CODEXD_LOG",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// Variables that describe the shell, the terminal or the service of the caller, not the user: an app-server, which outlives the
/// caller, does not get them. The supervisor sets `PWD` itself.
const OF_THE_CALLER: [&str; 27] = [
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "COLUMNS",
    "LINES",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "WINDOWID",
    "GPG_TTY",
    "SSH_TTY",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MANAGERPID",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// Variables that Codex sets for one tool call (observed on 0.131.0, 0.169.0 and 0.171.0), and variables that an installation of
/// Codex sets for itself: no process of codexd inherits them.
const OF_A_TOOL_CALL: [&str; 14] = [
    crate::orphans::GENERATION_VARIABLE,
    crate::service::supervisor::RUN_BY_SUPERVISOR,
    "CODEX_APPLY_PATCH_PRESERVE_LINE_ENDINGS",
    "CODEX_CI",
    "CODEX_SANDBOX",
    "CODEX_SANDBOX_NETWORK_DISABLED",
    "CODEX_SESSION_ID",
    "CODEX_THREAD_ID",
    "CODEX_TOOL_CALL_ID",
    "CODEX_VERSION",
    "CODEX_MANAGED_BY_NPM",
    "CODEX_MANAGED_BY_BUN",
    "CODEX_MANAGED_BY_PNPM",
    "CODEX_MANAGED_PACKAGE_ROOT",
];

/// The variables of `caller` that an app-server inherits.
pub fn for_app_server(caller: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let is_excluded =
        |name: &OsStr| OF_THE_CALLER.iter().chain(&OF_A_TOOL_CALL).any(|excluded| name == *excluded);
    caller.into_iter().filter(|(name, _)| !is_excluded(name)).collect()
}

/// The variables that a supervisor or a gateway gets. `variable` looks one up in the environment of the caller.
pub fn for_service(
    variable: impl Fn(&str) -> Option<OsString>,
) -> impl Iterator<Item = (&'static str, OsString)> {
    OF_SERVICES.iter().filter_map(move |&name| Some((name, variable(name)?)))
}
